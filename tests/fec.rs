//! Does damage come back from parity, wherever it lies, byte for byte, and never anything else?

#[path = "support/image.rs"]
mod image;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use ashlarfs::fec::{self, Geometry, Repairer};
use ashlarfs::format::fec::{HEAD_LEN, Head};
use ashlarfs::store::proof;
use ashlarfs::{Digest, Source, store, verify};
use image::{Memory, noise};

/// An image with parity in a directory of its own.
struct Bench {
    directory: tempfile::TempDir,
    digest: Digest,
    whole: Vec<u8>,
}

/// A tree of some megabytes that do not compress, as a tar archive.
fn tree() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in 0..40_u64 {
        let content = noise(file, 40_000 + 4000 * usize::try_from(file).unwrap());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, format!("file{file:02}"), content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn ashlar(args: &[&str], image: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ashlar")).args(args).arg(image).output().unwrap()
}

impl Bench {
    fn new(extra: &[&str]) -> Bench {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (path, digest) = image::build_tar(directory.path(), &tree(), extra);
        let whole = fs::read(path).unwrap();
        Bench { directory, digest, whole }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn geometry(&self) -> Geometry {
        fec::find(&*Memory::new(self.whole.clone())).unwrap().geometry
    }

    /// What comes back of these bytes, if it is found whole.
    fn repaired(&self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let source = Memory::new(bytes);
        let found = fec::search(&*source, 2, &|_, _| {}).unwrap()?;
        let out = tempfile::tempfile().unwrap();
        fec::restore(&*source, &found, &out, 2, &|_, _| {}).ok()?;
        let mut bytes = vec![0; usize::try_from(out.metadata().unwrap().len()).unwrap()];
        out.read_exact_at(&mut bytes, 0).unwrap();
        let found: Arc<dyn Source> = Memory::new(bytes.clone());
        let report = verify::verify(&found, self.digest, &verify::Options::default());
        report.is_clean().then_some(bytes)
    }

    /// Runs `ashlar verify --repair` with the root digest.
    fn repair(&self, args: &[&str], name: &str) -> Output {
        let digest = self.digest.to_string();
        let args = [&["verify", "--repair", "--root-digest", &digest], args].concat();
        ashlar(&args, &self.path(name))
    }

    /// Nothing else is left in the directory.
    fn is_tidy(&self) -> bool {
        fs::read_dir(self.directory.path())
            .unwrap()
            .all(|entry| entry.unwrap().path().extension().is_none_or(|kind| kind != "tmp"))
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), &output.stderr].concat()).unwrap()
}

#[test]
fn parity_changes_nothing_but_what_follows() {
    let bench = Bench::new(&["--fec", "-j", "1"]);
    let without = Bench::new(&[]);
    assert_eq!(bench.digest, without.digest);
    assert!(bench.whole.starts_with(&without.whole));
    assert!(Bench::new(&["--fec=0.8", "-j", "4"]).whole == bench.whole, "it is reproducible");
    let geometry = bench.geometry();
    assert_eq!(geometry.covered_len(), without.whole.len() as u64);
    let section = geometry.end() - geometry.covered_len();
    assert_eq!(bench.whole.len() as u64, geometry.end());
    // Of 4.7 MB the tables and what is rounded up are a larger part than of an image of its usual size.
    assert!(section * 1000 < 15 * geometry.covered_len(), "{section}");
    assert!(Bench::new(&["--fec=5"]).whole.len() > bench.whole.len() + (bench.whole.len() / 25));
    let inspected = ashlar(&["inspect", "--json"], &bench.path("image"));
    let json: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(json["parity"]["bytes"], section);
    assert_eq!(json["parity"]["parity_shards"], geometry.parity_count());
    assert!(text(&ashlar(&["inspect"], &bench.path("image"))).contains("may be lost"));
    assert_eq!(code(&ashlar(&["verify"], &bench.path("image"))), Some(0));
    for bad in ["--fec=0", "--fec=11", "--fec=much", "--fec=-1"] {
        let args = ["mkimage", "--quiet", bad, "/proc/self/attr", "/dev/null"];
        let failed = ashlarfs_mkimage::run(args).unwrap_err();
        assert!(failed.message.contains("percentage"), "{failed:?}");
    }
}

/// Acceptance D4: 0.8 % of the file in one piece, wherever it lies.
#[test]
fn one_hole_of_its_share_comes_back_wherever_it_is() {
    let bench = Bench::new(&["--fec", "--sign-key", key().to_str().unwrap()]);
    let geometry = bench.geometry();
    let len = bench.whole.len();
    let hole = len * 8 / 1000;
    let borders = [
        0,
        4096,
        geometry.covered_len() as usize,
        geometry.section_offset() as usize,
        geometry.parity_offset() as usize,
        geometry.second_table_offset() as usize,
        geometry.second_head_offset() as usize,
        len,
    ];
    let around = borders.iter().flat_map(|border| {
        [
            border.saturating_sub(hole),
            border.saturating_sub(hole / 2),
            border.saturating_sub(1),
            *border,
        ]
    });
    let all = around.chain((0..len).step_by(hole * 3 / 4));
    let mut count = 0;
    for start in all.filter(|start| *start < len) {
        let mut bytes = bench.whole.clone();
        let end = (start + hole).min(len);
        match count % 3 {
            0 => bytes[start..end].fill(0),
            1 => bytes[start..end].copy_from_slice(&noise(start as u64, end - start)),
            _ => bytes[start..end].iter_mut().for_each(|byte| *byte ^= 0xff),
        }
        assert!(bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole), "{start}..{end}");
        count += 1;
    }
    assert!(count > 150, "{count}");
    // What is cut off is a hole at the end, and what follows is no part of it.
    for cut in [1, 100, 4096, hole] {
        let bytes = bench.whole[..len - cut].to_vec();
        assert!(
            bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole),
            "{cut} bytes are cut off"
        );
        let bytes = [bench.whole.as_slice(), &noise(1, cut)].concat();
        assert!(
            bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole),
            "{cut} bytes follow"
        );
    }
}

/// As many shards as there are of parity may be hit, in places that have nothing to do with each other; one more is too much.
#[test]
fn scattered_damage_comes_back_up_to_the_limit() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let most = geometry.parity_count();
    for seed in 0..20_u64 {
        let order = |shard: &u32| {
            blake3::hash(&[seed.to_le_bytes(), u64::from(*shard).to_le_bytes()].concat())
                .to_string()
        };
        let mut shards: Vec<u32> = (0..geometry.count()).collect();
        shards.sort_by_key(order);
        let mut bytes = bench.whole.clone();
        for (nth, shard) in shards.iter().enumerate().take(most as usize + 1) {
            let place = geometry.place(*shard);
            let at = place.start + (nth as u64 * 997) % (place.end - place.start);
            bytes[at as usize] ^= 1 << (nth % 8);
            if nth + 1 == most as usize {
                assert!(bench.repaired(bytes.clone()).is_some_and(|bytes| bytes == bench.whole));
            }
        }
        assert!(bench.repaired(bytes.clone()).is_none());
        let source: Arc<dyn Source> = Memory::new(bytes);
        let repairer = Repairer::open(source).unwrap().unwrap();
        assert!(repairer.repair(0, &mut [0; 4096]).is_err());
    }
}

/// Where both tables of checksums are damaged, each entry still counts where either copy is right; one that is lost twice costs a
/// shard that is whole.
#[test]
fn either_table_says_which_shards_are_lost() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let (first, second) = (geometry.table_offset(), geometry.second_table_offset());
    let mut bytes = bench.whole.clone();
    // All but a few entries of one copy, and of the other one these few.
    bytes[first as usize..][..4 * 600].fill(0);
    bytes[second as usize + 4 * 600..][..4 * (geometry.count() as usize - 600)].fill(0);
    let source = Memory::new(bytes.clone());
    let head = fec::find(&*source).unwrap();
    let damage = fec::scan(&*source, &head, 2, &|_, _| {}).unwrap();
    assert!(damage.data().is_empty() && damage.parity().is_empty());
    bytes[second as usize + 4 * 17] ^= 1;
    bytes[4096 * 20] ^= 1;
    let damage = fec::scan(&*Memory::new(bytes.clone()), &head, 2, &|_, _| {}).unwrap();
    assert!(damage.data() == [17_u32, 20]);
    assert!(bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole));
}

#[test]
fn the_command_repairs_and_exits_as_fsck_does() {
    let bench = Bench::new(&["--fec"]);
    let image = bench.path("image");
    let inode = || fs::metadata(&image).unwrap().ino();
    let before = inode();
    assert_eq!(code(&bench.repair(&[], "image")), Some(0), "nothing to do");
    assert_eq!(inode(), before);

    let mut bytes = bench.whole.clone();
    bytes[..8192].fill(0);
    fs::write(&image, &bytes).unwrap();
    fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    // Into another file first: the image stays as it is.
    let healed = bench.path("healed");
    let output = bench.repair(&["--output", healed.to_str().unwrap()], "image");
    assert_eq!(code(&output), Some(1), "{}", text(&output));
    assert!(fs::read(&image).unwrap() == bytes && fs::read(&healed).unwrap() == bench.whole);
    // By a link, in place.
    std::os::unix::fs::symlink("image", bench.path("link")).unwrap();
    let output = bench.repair(&["--json"], "link");
    assert_eq!(code(&output), Some(1), "{}", text(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["clean"], &json["repair"]["done"]), (&false.into(), &true.into()));
    assert_eq!(json["repair"]["data_shards"], 2);
    assert!(!json["findings"].as_array().unwrap().is_empty());
    assert!(fs::symlink_metadata(bench.path("link")).unwrap().is_symlink());
    assert!(fs::read(&image).unwrap() == bench.whole);
    assert_eq!(fs::metadata(&image).unwrap().mode() & 0o777, 0o640);
    assert_ne!(inode(), before);
    assert_eq!(code(&bench.repair(&[], "image")), Some(0));

    // Without a digest, as `verify` takes it; the first superblock is gone.
    fs::write(&image, &bytes).unwrap();
    let output = ashlar(&["verify", "--repair"], &image);
    assert_eq!(code(&output), Some(1), "{}", text(&output));
    assert!(text(&output).contains("not authenticated") && text(&output).contains("repaired: "));
    assert!(fs::read(&image).unwrap() == bench.whole);

    // Too much: what is lost is named, nothing is written.
    bytes = bench.whole.clone();
    bytes[4096..4096 * 60].fill(0);
    fs::write(&image, &bytes).unwrap();
    let output = bench.repair(&[], "image");
    assert_eq!(code(&output), Some(4), "{}", text(&output));
    let said = text(&output);
    assert!(
        said.contains("hits /file03") && said.contains("shards") && said.contains("hint: copy"),
        "{said}"
    );
    assert!(fs::read(&image).unwrap() == bytes);
    let output = bench.repair(&["--json"], "image");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &json["repair"]["done"]), (Some(4), &false.into()));

    // An image without parity.
    bytes = bench.whole[..bench.geometry().covered_len() as usize].to_vec();
    bytes[5000] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let output = bench.repair(&[], "image");
    assert_eq!(code(&output), Some(4));
    assert!(text(&output).contains("nobody has block"), "{}", text(&output));
    // Another image than the one that is asked for is not made that one.
    fs::write(&image, &bench.whole).unwrap();
    let other = "11".repeat(32);
    let output = ashlar(&["verify", "--repair", "--root-digest", &other], &image);
    assert_eq!(code(&output), Some(16));
    assert!(fs::read(&image).unwrap() == bench.whole);
    assert_eq!(code(&ashlar(&["verify", "--output", "x"], &image)), Some(16));
    assert!(bench.is_tidy());
}

/// Whoever writes parity and checksums as they like gets no byte past the root digest.
#[test]
fn wrong_parity_never_makes_wrong_bytes() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let image = bench.path("image");
    for attack in 0..4 {
        let mut bytes = bench.whole.clone();
        match attack {
            // Other parity, and checksums that say it is right.
            0 => {
                bytes[geometry.parity_offset() as usize..geometry.second_table_offset() as usize]
                    .fill(0xa5);
                bytes[5000] ^= 1;
                seal(&mut bytes, geometry, &[5000 / 4096]);
            }
            // Checksums that say that wrong bytes are right.
            1 => {
                bytes[5000] ^= 1;
                seal(&mut bytes, geometry, &[]);
            }
            // A whole section that is right about another image.
            2 => {
                bytes[5000] ^= 1;
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(&bytes[..geometry.covered_len() as usize], 0).unwrap();
                fec::encode(&file, geometry, 1, &|_, _| {}).unwrap();
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes[4096 * 9] ^= 1;
            }
            // Shards that are right are said to be wrong, as many as can be.
            _ => {
                bytes[geometry.parity_offset() as usize] ^= 1;
                seal(&mut bytes, geometry, &[0, 1, 2, 3, 4]);
            }
        }
        assert!(bench.repaired(bytes.clone()).is_none(), "attack {attack}");
        fs::write(&image, &bytes).unwrap();
        let output = bench.repair(&[], "image");
        let is_sound = attack == 3;
        assert_eq!(
            code(&output),
            Some(if is_sound { 0 } else { 4 }),
            "attack {attack}: {}",
            text(&output)
        );
        assert!(fs::read(&image).unwrap() == bytes, "attack {attack}: nothing was replaced");
        assert!(bench.is_tidy());
    }
}

/// Makes tables and heads those of the bytes that are there, but for shards that shall be called damaged.
fn seal(bytes: &mut [u8], geometry: Geometry, wrong: &[u32]) {
    let mut table = Vec::new();
    for shard in 0..geometry.count() {
        let place = geometry.place(shard);
        let mut hasher = proof::ShardHasher::default();
        hasher.update(&bytes[place.start as usize..place.end as usize]);
        let mut sum = hasher.finish();
        sum[0] ^= u8::from(wrong.contains(&shard));
        table.extend(sum);
    }
    let head = Head { geometry, table_digest: proof::hash_parity_table(&table) };
    let raw = head.encode(proof::hash_parity_head);
    for (at, part) in [
        (geometry.section_offset(), raw.as_slice()),
        (geometry.table_offset(), &table),
        (geometry.second_table_offset(), &table),
        (geometry.second_head_offset(), &raw),
    ] {
        bytes[at as usize..][..part.len()].copy_from_slice(part);
    }
}

/// Heads that say anything, true as far as their checksums go: nothing panics, nothing takes memory that the file does not
/// warrant, and the image is as readable as it was.
#[test]
fn hostile_heads_do_no_harm() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let covered = &bench.whole[..geometry.covered_len() as usize];
    let lens = [
        1,
        4095,
        4096,
        covered.len() as u64 - 1,
        covered.len() as u64,
        covered.len() as u64 + 1,
        1 << 32,
        1 << 47,
        1 << 48,
        u64::MAX,
    ];
    for covered_len in lens {
        for parity_count in [0, 1, 2, 3, 4096, 4097, u32::MAX] {
            for section_len in [HEAD_LEN, 4096, 3 * 4096] {
                let mut bytes = covered.to_vec();
                bytes.resize(geometry.section_offset() as usize + section_len.max(2 * HEAD_LEN), 0);
                let mut head = [0; HEAD_LEN];
                head[..8].copy_from_slice(b"ASHLFECS");
                head[8..16].copy_from_slice(&covered_len.to_le_bytes());
                head[16..20].copy_from_slice(&parity_count.to_le_bytes());
                head[HEAD_LEN - 8..].copy_from_slice(b"ASHLFECE");
                let sum = proof::hash_parity_head(&head);
                head[0x38..0x58].copy_from_slice(&sum.0);
                let len = bytes.len();
                bytes[geometry.section_offset() as usize..][..HEAD_LEN].copy_from_slice(&head);
                bytes[len - HEAD_LEN..].copy_from_slice(&head);
                let source: Arc<dyn Source> = Memory::new(bytes.clone());
                assert!(
                    !verify::verify(&source, bench.digest, &verify::Options::default()).is_clean()
                );
                assert!(image::open(bytes.clone(), bench.digest).is_ok());
                if let Some(repairer) = Repairer::open(source).unwrap() {
                    assert!(repairer.repair(0, &mut [0; 100]).is_err());
                }
                assert!(bench.repaired(bytes).is_none());
            }
        }
    }
}

/// Damage to parity is found, and costs nothing but parity.
#[test]
fn damaged_parity_leaves_the_image_readable() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let section = geometry.covered_len() as usize..bench.whole.len();
    for at in section.clone().step_by(section.len() / 97).chain([section.start, section.end - 1]) {
        let mut bytes = bench.whole.clone();
        bytes[at] ^= 0x10;
        let source: Arc<dyn Source> = Memory::new(bytes.clone());
        let report = verify::verify(&source, bench.digest, &verify::Options::default());
        let found: Vec<_> =
            report.findings.iter().map(|finding| finding.error.to_string()).collect();
        assert!(
            found.len() == 1 && found[0].starts_with("the parity is damaged"),
            "{at}: {found:?}"
        );
        assert_eq!(report.bytes_checked, bytes.len() as u64);
        let tree = image::open(bytes.clone(), bench.digest).unwrap();
        assert!(tree.resolve(b"file39").is_ok());
        assert!(bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole), "{at}");
    }
}

fn key() -> PathBuf {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fec-{}.key", std::process::id()));
    if !path.exists() {
        let draft = path.with_extension(format!("{:?}", std::thread::current().id()));
        let args = ["key", "generate", "--no-password"];
        assert!(ashlar(&args, &draft).status.success());
        fs::rename(
            draft.with_extension(format!("{}.pub", draft.extension().unwrap().to_str().unwrap())),
            path.with_extension("key.pub"),
        )
        .unwrap();
        fs::rename(&draft, &path).unwrap();
    }
    path
}

#[test]
fn to_sign_makes_parity_anew() {
    let bench = Bench::new(&["--fec"]);
    let image = bench.path("image");
    let run = |args: &[&str]| {
        let output = ashlar(args, &image);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    };
    let secret = bench.path("secret");
    assert!(ashlar(&["key", "generate", "--no-password"], &secret).status.success());
    let (secret, public) = (secret.to_str().unwrap().to_owned(), bench.path("secret.pub"));
    let public = public.to_str().unwrap();
    run(&["sign", "--key", &secret]);
    run(&["verify", "--key", public]);
    let signed = fs::read(&image).unwrap();
    let head = fec::find(&*Memory::new(signed.clone())).unwrap();
    assert!(head.geometry.covered_len() > bench.geometry().covered_len());
    assert_eq!(head.geometry.parity_count(), bench.geometry().parity_count());
    // Signature and first superblock are lost, and come back; the key says that it is the right image.
    let mut bytes = signed.clone();
    let trailer = bench.geometry().covered_len() as usize;
    bytes[trailer..trailer + 100].fill(0);
    bytes[..100].fill(0);
    fs::write(&image, &bytes).unwrap();
    let output = ashlar(&["verify", "--repair", "--key", public], &image);
    assert_eq!(code(&output), Some(1), "{}", text(&output));
    assert!(fs::read(&image).unwrap() == signed);
    // A damaged image is not signed: its parity would keep the damage.
    bytes = signed.clone();
    bytes[100_000] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let output = ashlar(&["sign", "--key", &secret], &image);
    assert_eq!(code(&output), Some(1));
    assert!(text(&output).contains("verify --repair"), "{}", text(&output));
    assert!(fs::read(&image).unwrap() == bytes);
    // Without the signature it is what it was.
    fs::write(&image, &signed).unwrap();
    let shown = ashlar(&["key", "show"], Path::new(public));
    let id = text(&shown).lines().next().unwrap().to_owned();
    run(&["sign", "--remove", &id]);
    assert!(fs::read(&image).unwrap() == bench.whole);
    assert!(bench.is_tidy());
}

/// An update makes parity on the machine, of the trailer that the image has there.
#[test]
fn an_update_makes_parity_on_the_machine() {
    let bench = Bench::new(&["--fec"]);
    let data = bench.path("data");
    fs::create_dir_all(data.join("images")).unwrap();
    let digest = bench.digest.to_string();
    let install = |image: &Path| {
        let data = data.to_str().unwrap();
        let args = ["update", "--data", data, "install", "--root-digest", &digest, "--quiet"];
        let output = ashlar(&args, image);
        assert!(output.status.success(), "{}", text(&output));
        fs::read(data_image(Path::new(data), &digest)).unwrap()
    };
    assert!(install(&bench.path("image")) == bench.whole);
    // It is found whole, with parity and with damaged parity.
    assert!(install(&bench.path("image")) == bench.whole);
    let path = data_image(&data, &digest);
    fs::remove_file(&path).unwrap();
    // Of an image without parity none is made.
    let covered = bench.geometry().covered_len() as usize;
    let plain = bench.path("plain");
    fs::write(&plain, &bench.whole[..covered]).unwrap();
    assert!(install(&plain) == bench.whole[..covered]);
    let source = ashlarfs::image::open(&path, ashlarfs::Method::Pread).unwrap();
    assert!(store::last_parity_head(&*source).is_none());
    // No signature covers how much parity there is: more than 10 % is nobody's wish.
    fs::remove_file(&path).unwrap();
    let greedy = bench.path("greedy");
    fs::write(&greedy, &bench.whole[..covered]).unwrap();
    let file = fs::File::options().read(true).write(true).open(&greedy).unwrap();
    let geometry = Geometry::new(covered as u64, 4096).unwrap();
    fec::encode(&file, geometry, 2, &|_, _| {}).unwrap();
    let installed = install(&greedy);
    let made = fec::find(&*Memory::new(installed.clone())).unwrap().geometry.parity_count();
    assert!(made < 140 && installed.len() < covered * 112 / 100, "{made} shards");
}

/// A delta has no parity. Where the image before has, so has the one that is made of both.
#[test]
fn a_delta_makes_parity_where_the_image_before_has_it() {
    for with_parity in [true, false] {
        let old = Bench::new(if with_parity { &["--fec"] } else { &[] });
        let new = Bench::new(&["--image-version", "2", "--fec"]);
        let data = old.path("data");
        fs::create_dir_all(data.join("images")).unwrap();
        let update = |args: &[&str]| {
            let data = data.to_str().unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_ashlar"))
                .args(["update", "--data", data])
                .args(args)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", text(&output));
        };
        let (from, to) = (old.path("image"), new.path("image"));
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        let delta = new.path("delta");
        let delta = delta.to_str().unwrap();
        let digest = |bench: &Bench| bench.digest.to_string();
        update(&["install", "--quiet", "--root-digest", &digest(&old), from]);
        let made = Command::new(env!("CARGO_BIN_EXE_ashlar"))
            .args(["update", "delta", "--output", delta, from, to])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made));
        update(&["install", "--quiet", "--root-digest", &digest(&new), delta]);
        let installed = fs::read(data_image(&data, &digest(&new))).unwrap();
        let covered = new.geometry().covered_len() as usize;
        let expected = if with_parity { &new.whole[..] } else { &new.whole[..covered] };
        assert!(installed == expected, "{} bytes", installed.len());
    }
}

/// Where damage hit both heads, what is behind the image is not taken for nothing.
#[test]
fn to_sign_drops_no_parity_in_silence() {
    let bench = Bench::new(&["--fec"]);
    let image = bench.path("image");
    let secret = bench.path("secret");
    assert!(ashlar(&["key", "generate", "--no-password"], &secret).status.success());
    let mut bytes = bench.whole.clone();
    for head in [bench.geometry().section_offset(), bench.geometry().second_head_offset()] {
        bytes[head as usize + 20] ^= 1;
    }
    fs::write(&image, &bytes).unwrap();
    let sign = || ashlar(&["sign", "--key", secret.to_str().unwrap()], &image);
    let output = sign();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("neither signatures nor parity"), "{said}");
    assert!(fs::read(&image).unwrap() == bytes);
    // As the hint says.
    let len = bench.geometry().covered_len();
    assert!(said.contains(&format!("truncate -s {len}")), "{said}");
    fs::File::options().write(true).open(&image).unwrap().set_len(len).unwrap();
    assert!(sign().status.success());
    assert!(bench.is_tidy());
}

/// `--output` is a file or nothing, told before anything is read; a link to a file is followed.
#[test]
fn what_is_no_file_is_not_replaced() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let bench = Bench::new(&["--fec"]);
    let image = bench.path("image");
    let mut bytes = bench.whole.clone();
    bytes[5000] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let fifo = bench.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    symlink("fifo", bench.path("to-fifo")).unwrap();
    symlink("nothing", bench.path("to-nothing")).unwrap();
    for name in ["fifo", "to-fifo", "to-nothing", "."] {
        let output = bench.path(name);
        let output = bench.repair(&["--output", output.to_str().unwrap()], "image");
        assert_eq!(code(&output), Some(16), "{name}: {}", text(&output));
        assert!(output.stdout.is_empty(), "{name}: {}", text(&output));
    }
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    fs::write(bench.path("file"), "old").unwrap();
    symlink("file", bench.path("to-file")).unwrap();
    let to = bench.path("to-file");
    let output = bench.repair(&["--output", to.to_str().unwrap()], "image");
    assert_eq!(code(&output), Some(1), "{}", text(&output));
    assert!(fs::symlink_metadata(&to).unwrap().is_symlink());
    assert!(fs::read(bench.path("file")).unwrap() == bench.whole);
    assert!(bench.is_tidy());
}

/// The digest of what was repaired is told, not that of what was damaged.
#[test]
fn the_digest_of_the_repaired_image_is_told() {
    let bench = Bench::new(&["--fec"]);
    let mut bytes = bench.whole.clone();
    bytes[0x40] ^= 1;
    let digest = bench.digest.to_string();
    let image = bench.path("image");
    fs::write(&image, &bytes).unwrap();
    let output = ashlar(&["verify", "--repair", "--json"], &image);
    assert_eq!(code(&output), Some(1), "{}", text(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_ne!(json["root_digest"], digest.as_str());
    assert_eq!(json["repair"]["root_digest"], digest.as_str());
    fs::write(&image, &bytes).unwrap();
    let said = text(&ashlar(&["verify", "--repair"], &image));
    assert!(said.contains(&format!("is whole, root digest {digest}")), "{said}");
}

/// Of so small an image each shard counts, and none is too small.
#[test]
fn a_tiny_image_is_repaired_as_well() {
    for (len, extra) in [(0, &["--fec"][..]), (1, &["--fec=10"]), (6000, &["--fec"])] {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(len);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, "file", &noise(1, len as usize)[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let (path, digest) = image::build_tar(directory.path(), &tar, extra);
        let bench = Bench { directory, digest, whole: fs::read(path).unwrap() };
        let geometry = bench.geometry();
        assert!(geometry.data_count() <= 5, "{geometry:?}");
        for at in (0..bench.whole.len()).step_by(1000) {
            let mut bytes = bench.whole.clone();
            let end = bytes.len().min(at + 4096);
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x81);
            fs::write(bench.path("image"), &bytes).unwrap();
            let output = bench.repair(&[], "image");
            assert_eq!(code(&output), Some(1), "{at}: {}", text(&output));
            assert!(fs::read(bench.path("image")).unwrap() == bench.whole, "{at}");
        }
    }
}

/// Where there is no room for a whole image, none of it is taken, and that is what is said; where there is nothing to do, none is
/// needed.
#[test]
fn what_does_not_fit_is_told_before_anything_is_written() {
    let bench = Bench::new(&["--fec"]);
    let (image, small) = (bench.path("image"), bench.path("small"));
    fs::create_dir(&small).unwrap();
    let mut bytes = bench.whole.clone();
    bytes[5000] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let digest = bench.digest.to_string();
    let run = |image: &Path| {
        let script = "mount -t tmpfs -o size=2m,mode=755 none \"$3\" || exit 99
            \"$0\" verify --repair --root-digest \"$1\" --output \"$3/new\" \"$2\" 2>&1; code=$?
            df --output=used \"$3\" | tail -1; exit $code";
        Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c", script])
            .args([env!("CARGO_BIN_EXE_ashlar"), &digest])
            .args([image, &small])
            .output()
            .unwrap()
    };
    let output = run(&image);
    if code(&output) == Some(99) || text(&output).contains("unshare") {
        eprintln!("skipped: no mount here: {}", text(&output));
        return;
    }
    let said = text(&output);
    assert_eq!(code(&output), Some(8), "{said}");
    let need = format!("it needs {} bytes", bench.geometry().end());
    assert!(
        said.contains(&need) && said.contains("--output") && !said.contains("nobody"),
        "{said}"
    );
    assert_eq!(said.trim_end().lines().last().unwrap().trim(), "0", "{said}");
    // Damage of which parity knows nothing: nobody needs room to find that out.
    bytes = bench.whole.clone();
    bytes[5000] ^= 1;
    seal(&mut bytes, bench.geometry(), &[]);
    fs::write(&image, &bytes).unwrap();
    let output = bench.repair(&[], "image");
    assert!(text(&output).contains("no byte of the image is damaged"), "{}", text(&output));
    let output = run(&image);
    assert!(text(&output).contains("no byte of the image is damaged"), "{}", text(&output));
}

fn data_image(data: &Path, digest: &str) -> PathBuf {
    data.join("images").join(format!("{digest}.img"))
}

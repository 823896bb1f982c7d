//! Do the commands repair an image by its parity, keep that through signatures and updates, and touch nothing else?

#[path = "support/parity.rs"]
mod parity;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlarfs::fec::{self, Geometry};
use ashlarfs::format::fec::Head;
use ashlarfs::store::{self, proof};
use parity::image::{self, Memory, noise};
use parity::{Bench, ashlar, code, text};

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

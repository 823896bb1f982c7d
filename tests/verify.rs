//! Does `verify` find what is wrong, say which files it hits, and leave no byte out?

#[path = "support/image.rs"]
mod image;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use ashlarfs::format::index::{BlockIndex, InodeIndex};
use ashlarfs::format::inode::Kind;
use ashlarfs::fs::file::Place;
use ashlarfs::verify::{self, Report};
use ashlarfs::{Digest, Error, Source, Tree};

fn check(source: &Arc<dyn Source>, digest: Digest) -> Report {
    verify::verify(source, digest, &verify::Options::default())
}

fn check_bytes(bytes: Vec<u8>, digest: Digest) -> Report {
    let source: Arc<dyn Source> = image::Memory::new(bytes);
    check(&source, digest)
}

fn every_feature() -> (Vec<u8>, Digest) {
    let directory = tempfile::tempdir().unwrap();
    let (path, digest) = image::build_tar(directory.path(), &image::every_feature_tar(), &[]);
    (fs::read(path).unwrap(), digest)
}

/// Paths of all files that have content in a block, found the slow way.
fn users(tree: &Tree, wanted: BlockIndex) -> BTreeSet<Vec<u8>> {
    let mut users = BTreeSet::new();
    for (path, visit) in tree.walk(InodeIndex::ROOT) {
        let visit = visit.unwrap();
        if visit.inode.kind != Kind::File {
            continue;
        }
        for extent in tree.file(visit.index).unwrap().extents() {
            let hit = match extent.unwrap().place {
                Place::Hole => false,
                Place::Blocks { first, count } => (first.0..first.0 + count).contains(&wanted.0),
                Place::Tail { block, .. } => block == wanted,
            };
            if hit {
                users.insert([b"/", &path[..]].concat());
            }
        }
    }
    users
}

#[test]
fn a_damaged_block_is_named_with_the_files_in_it() {
    let (sound, digest) = every_feature();
    let tree = image::open(sound.clone(), digest).unwrap();
    for block in (0..tree.superblock().block_count).map(BlockIndex) {
        let entry = tree.store().entry(block).unwrap();
        let mut bytes = sound.clone();
        bytes[usize::try_from(entry.offset).unwrap()] ^= 1;
        let report = check_bytes(bytes, digest);
        let [finding] = report.findings.as_slice() else {
            panic!("{block}: {:?}", report.findings)
        };
        assert!(matches!(finding.error, Error::Untrusted(_)), "{finding:?}");
        assert_eq!(finding.block, Some(block));
        assert_eq!(finding.offset, Some(entry.offset));
        assert_eq!(report.bytes_checked, report.file_bytes);
        assert_eq!(report.blocks_good, u64::from(tree.superblock().block_count - 1));
        if block.0 < tree.superblock().data_block_count {
            let files: BTreeSet<_> = finding.files.iter().cloned().collect();
            assert_eq!(files, users(&tree, block), "{block}");
            assert_eq!((finding.part, finding.unnamed.len()), (None, 0));
        } else {
            assert!(finding.part.is_some());
            assert!(!finding.files.is_empty() || !finding.unnamed.is_empty(), "{finding:?}");
        }
    }
}

#[test]
fn a_lost_page_of_the_table_costs_its_blocks_and_no_others() {
    use tar::EntryType::Regular;
    let mut archive = tar::Builder::new(Vec::new());
    for (name, seed, blocks) in [("a", 1, 600), ("b", 2, 600), ("c", 3, 3)] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(Regular);
        header.set_size(blocks * 4096);
        header.set_mode(0o644);
        header.set_path(name).unwrap();
        header.set_cksum();
        archive
            .append(&header, &image::noise(seed, usize::try_from(blocks).unwrap() * 4096)[..])
            .unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, digest) = image::build_tar(directory.path(), &archive.into_inner().unwrap(), &[]);
    let sound = fs::read(path).unwrap();
    let tree = image::open(sound.clone(), digest).unwrap();
    assert!(tree.superblock().page_count() > 1);
    let table = usize::try_from(tree.superblock().table_offset).unwrap();
    let first = 1024 * 48;
    for (at, hit) in [(table + 7, vec![b"/a", b"/b"]), (table + first + 7, vec![b"/b", b"/c"])] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        let report = check_bytes(bytes, digest);
        let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
        assert_eq!(finding.part, Some("digest table"));
        if at < table + first {
            assert_eq!(finding.files, hit);
            let lost = 1024;
            assert_eq!(report.blocks_good, u64::from(tree.superblock().block_count - lost));
        } else {
            // The metadata lie in the lost page, too: nothing is known of the tree.
            assert_eq!(report.blocks_good, 1024);
        }
        assert!(report.bytes_checked < report.file_bytes);
        assert!(!report.is_clean());
    }
}

#[test]
fn every_byte_is_accounted_for() {
    let (sound, digest) = every_feature();
    let len = sound.len() as u64;
    let source: Arc<dyn Source> = image::Memory::new(sound.clone());
    for workers in [1, 2, 7] {
        let workers = NonZeroUsize::new(workers).unwrap();
        let options = verify::Options { workers, ..verify::Options::default() };
        let report = verify::verify(&source, digest, &options);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.bytes_checked, report.file_bytes, report.slack_bytes), (len, len, 0));
    }
    // On a block device, what follows is no part of it; a file may have nothing there.
    let longer = [sound, vec![7; 5000]].concat();
    let device: Arc<dyn Source> = Arc::new(Device(longer.clone()));
    let report = check(&device, digest);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.bytes_checked, report.slack_bytes), (len, 5000));
    assert!(!check_bytes(longer, digest).is_clean());
}

/// On a device anything may follow, but not what is left of a trailer or of parity.
#[test]
fn damaged_ends_are_no_slack() {
    let directory = tempfile::tempdir().unwrap();
    let (key, public) = (directory.path().join("key"), directory.path().join("key.pub"));
    assert!(ashlar(&["key", "generate", "--no-password"], &key).status.success());
    assert!(public.exists());
    for with_parity in [true, false] {
        let mut args = vec!["--sign-key", key.to_str().unwrap()];
        args.extend(with_parity.then_some("--fec"));
        let (path, digest) = image::build_tar(directory.path(), &image::every_feature_tar(), &args);
        let sound = fs::read(path).unwrap();
        let tree = image::open(sound.clone(), digest).unwrap();
        let trailer = usize::try_from(tree.superblock().image_len).unwrap();
        let found = |source: Arc<dyn Source>| {
            let report = check(&source, digest);
            assert!(report.is_clean() == report.findings.is_empty(), "{report:?}");
            report.findings.iter().map(|it| it.error.to_string()).collect::<Vec<_>>().join("; ")
        };
        let device = |at: usize| {
            let mut bytes = [sound.clone(), vec![7; 70_000]].concat();
            bytes[at] ^= 1;
            Arc::new(Device(bytes))
        };
        assert_eq!(found(device(sound.len())), "", "slack");
        let said = found(device(trailer));
        assert!(said.starts_with("the signature trailer is damaged"), "{with_parity}: {said}");
        if !with_parity {
            continue;
        }
        let head = ashlarfs::fec::find(&*image::Memory::new(sound.clone())).unwrap();
        let place = usize::try_from(head.geometry.section_offset()).unwrap();
        // One magic is there, and the rest is not what it was.
        for at in [place, place + 8, place + 0x38, place + 95] {
            let said = found(device(at));
            assert!(said.starts_with("the parity is damaged"), "{at}: {said}");
        }
        let longer = [sound.clone(), vec![7; 70_000]].concat();
        let said = found(Arc::new(Worn { bytes: longer, bad: place as u64 + 50 }));
        assert!(said.starts_with("cannot read"), "{said}");
    }
}

/// Like a device with a bad sector.
#[derive(Debug)]
struct Worn {
    bytes: Vec<u8>,
    bad: u64,
}

impl Source for Worn {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn has_slack(&self) -> bool {
        true
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (sector, end) = (self.bad / 512 * 512, offset + buf.len() as u64);
        if offset < sector + 512 && sector < end {
            return Err(io::Error::from_raw_os_error(5));
        }
        Device(self.bytes.clone()).read_exact_at(buf, offset)
    }
}

/// Like a block device: it is longer than the image.
#[derive(Debug)]
struct Device(Vec<u8>);

impl Source for Device {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn has_slack(&self) -> bool {
        true
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let from = self.0.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}

/// A medium with a bad sector.
#[derive(Debug)]
struct Faulty(Vec<u8>, u64);

impl Source for Faulty {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if (offset..offset + buf.len() as u64).contains(&self.1) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

#[test]
fn what_cannot_be_read_is_told_apart_from_damage() {
    let (sound, digest) = every_feature();
    let len = sound.len() as u64;
    for bad in (0..len).step_by(3001).chain([len - 1]) {
        let source: Arc<dyn Source> = Arc::new(Faulty(sound.clone(), bad));
        let report = check(&source, digest);
        assert!(!report.is_clean());
        assert!(report.bytes_checked < len, "{bad}: {report:?}");
        let [finding] = report.findings.as_slice() else { panic!("{bad}: {:?}", report.findings) };
        assert!(matches!(finding.error, Error::Io { .. }), "{bad}: {finding:?}");
    }
}

fn ashlar(args: &[&str], image: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ashlar")).args(args).arg(image).output().unwrap()
}

#[test]
fn the_command_exits_as_fsck_does() {
    let directory = tempfile::tempdir().unwrap();
    let (path, digest) = image::build_tar(directory.path(), &image::every_feature_tar(), &[]);
    let digest = digest.to_string();
    let status = |args: &[&str], image: &Path| ashlar(args, image).status.code().unwrap();
    assert_eq!(status(&["verify", "--root-digest", &digest], &path), 0);
    assert_eq!(status(&["verify"], &path), 0);
    assert_eq!(status(&["verify", "--root-digest", &"0".repeat(64)], &path), 4);
    assert_eq!(status(&["verify"], &directory.path().join("none")), 8);
    assert_eq!(status(&["verify"], directory.path()), 8);
    assert_eq!(status(&["verify"], &directory.path().join("tree.tar")), 8);
    assert_eq!(status(&["verify", "--key", "none"], &path), 8);
    assert_eq!(status(&["verify", "--nonsense"], &path), 16);
    // As fsck(8) calls it.
    let fsck = directory.path().join("fsck.ashlar");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ashlar"), &fsck).unwrap();
    let run =
        Command::new(&fsck).args(["-a", "-T", "-M", "-V", "-f", "-y", "-C0"]).arg(&path).status();
    assert_eq!(run.unwrap().code(), Some(0));

    let mut bytes = fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = ashlar(&["verify", "--root-digest", &digest, "--json"], &path);
    assert_eq!(output.status.code(), Some(4));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["clean"], false);
    assert_eq!(report["authenticated_by"], "root-digest");
    assert_eq!(report["root_digest"], digest.as_str());
    assert_eq!(report["findings"][0]["class"], "untrusted");
    assert_eq!(report["findings"][0]["rule"], "S-22");
    assert_eq!(report["findings"][0]["name"], "Block");
    assert!(report["findings"][0]["block"].is_u64());
    let file = report["findings"][0]["files"][0].as_str().unwrap();
    let output = ashlar(&["verify", "--root-digest", &digest], &path);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("hits {file}")), "{text}");
    assert!(text.contains("not clean: 1 finding"), "{text}");
}

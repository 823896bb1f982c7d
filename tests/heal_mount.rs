//! Does a mounted image heal itself, say so, and do what is asked of it where it cannot?

#[path = "support/disk.rs"]
mod disk;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/server.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlarfs::format::index::InodeIndex;
use ashlarfs::fuse::mount::Settings;
use ashlarfs::fuse::session::{self, Work};
use ashlarfs::heal::corruption::LastResort;
use ashlarfs::{Anchor, Options};
use mount::{ASHLAR, Mount, ashlar, limited, text, within};
use pair::{Pair, Random};
use rustix::fs::Advice;
use rustix::mount::MountFlags;
use server::Server;

impl Pair {
    fn point(&self) -> PathBuf {
        let point = self.path("mnt");
        fs::create_dir_all(&point).unwrap();
        point
    }

    fn mount(&self, image: &Path, options: &str) -> Mount {
        let point = self.point();
        let options = format!("root_digest={},{options}", self.digest);
        let output = ashlar(&["mount", "-o", &options, text(image), text(&point)]);
        assert!(output.status.success(), "{output:?}");
        Mount::found(point)
    }

    /// The same in the foreground, with its log in a file.
    fn mount_telling(&self, options: &str) -> (Mount, PathBuf) {
        let (point, log) = (self.point(), self.path("log"));
        let options = format!("root_digest={},{options}", self.digest);
        let mut server = Command::new(ASHLAR)
            .args(["mount", "-f", "-o", &options, text(&self.new), text(&point)])
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        // It ends when it is unmounted.
        std::thread::spawn(move || server.wait());
        assert!(within(Duration::from_secs(20), || mount::is_mounted(&point)));
        (Mount::found(point), log)
    }

    /// Data blocks of each file, by the image as it was.
    fn blocks_of_files(&self) -> BTreeMap<String, Vec<usize>> {
        let whole = self.path("whole-for-test");
        fs::write(&whole, &self.whole).unwrap();
        let tree = ashlarfs::open(&whole, &Options::new(Anchor::RootDigest(self.digest))).unwrap();
        fs::remove_file(&whole).unwrap();
        let mut files = BTreeMap::new();
        for (path, visit) in tree.walk(InodeIndex::ROOT) {
            let visit = visit.unwrap();
            if visit.inode.kind != ashlarfs::format::inode::Kind::File {
                continue;
            }
            let file = tree.file(visit.index).unwrap();
            let blocks = file.extents().flat_map(|extent| extent.unwrap().place.blocks());
            let blocks = blocks.map(|block| block as usize).collect();
            files.insert(String::from_utf8(path).unwrap(), blocks);
        }
        files
    }

    /// Damages all of the image that is no content: metadata blocks, the digest table and the page list.
    fn damage_metadata(&self) {
        let data = self.data_blocks();
        let metadata = (0..self.entries.len()).filter(|block| !data.contains(block)).collect();
        self.damage(&self.new, &metadata, &mut Random(1));
        let file = File::options().write(true).open(&self.new).unwrap();
        let table = self.entries.iter().map(ashlarfs::format::entry::Entry::end).max().unwrap();
        let rest = pair::noise(5, usize::try_from(self.whole.len() as u64 - table).unwrap());
        file.write_all_at(&rest, table).unwrap();
    }

    fn data_blocks(&self) -> BTreeSet<usize> {
        self.blocks_of_files().into_values().flatten().collect()
    }

    /// A shared data block and a file that is in it.
    fn shared_file(&self) -> (usize, String) {
        let mut files = self.blocks_of_files().into_iter();
        let found = files.find_map(|(path, blocks)| {
            let all = blocks.iter().all(|block| self.is_shared(*block));
            (all && blocks.len() == 5).then(|| (blocks[1], path))
        });
        found.unwrap()
    }
}

fn healed(mount: &Mount, source: &str) -> u64 {
    mount.status()["blocks_healed"][source].as_u64().unwrap()
}

/// Kills the process that serves, and says which it was.
fn kill_server(mount: &Mount) -> i64 {
    let server = mount.status()["server_pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    server
}

fn lost(mount: &Mount) -> u64 {
    mount.status()["blocks_lost"].as_u64().unwrap()
}

/// D4: with the predecessor there, 1 % of all blocks damaged at random before the mount, and 1 % more under it.
#[test]
fn one_percent_of_damage_before_and_under_the_mount() {
    limited("one_percent_of_damage_before_and_under_the_mount", 240, || {
        for seed in [1, 2] {
            let pair = Pair::new();
            let files = pair.blocks_of_files();
            let data = pair.data_blocks();
            let mut random = Random(seed);
            // Names and attributes that only this image has are another test's: without them hardly a file can be asked for.
            let mut choose = || -> BTreeSet<usize> {
                let chosen = pair.one_percent(&mut random);
                chosen
                    .into_iter()
                    .filter(|block| data.contains(block) || pair.is_shared(*block))
                    .collect()
            };
            let (before, meanwhile) = (choose(), choose());
            let meanwhile: BTreeSet<usize> = meanwhile.difference(&before).copied().collect();
            pair.damage(&pair.new, &before, &mut Random(seed + 100));
            let (mount, log) = pair.mount_telling("log=debug");
            pair.damage(&pair.new, &meanwhile, &mut Random(seed + 200));
            let damaged: BTreeSet<usize> = before.union(&meanwhile).copied().collect();
            let lost_blocks: BTreeSet<usize> =
                damaged.iter().copied().filter(|block| !pair.is_shared(*block)).collect();
            let mut failed = 0;
            for (path, blocks) in &files {
                let is_lost = blocks.iter().any(|block| lost_blocks.contains(block));
                match fs::read(mount.point.join(path)) {
                    Ok(content) => {
                        assert!(!is_lost, "{path} has bytes that nobody has");
                        assert_eq!(content, fs::read(pair.tree.join(path)).unwrap(), "{path}");
                    }
                    Err(err) => {
                        assert_eq!(err.raw_os_error(), Some(5), "{path}: {err}");
                        assert!(is_lost, "{path}: {err}");
                        failed += 1;
                    }
                }
            }
            assert!(failed > 0 && !lost_blocks.is_empty(), "the seed shows nothing");
            let healed_blocks: Vec<usize> = damaged
                .iter()
                .copied()
                .filter(|block| data.contains(block) && pair.is_shared(*block))
                .collect();
            assert!(healed_blocks.len() > 3);
            assert!(healed(&mount, "image") >= healed_blocks.len() as u64);
            assert_eq!(
                healed(&mount, "reread") + healed(&mount, "server") + healed(&mount, "fec"),
                0
            );
            assert_eq!(lost(&mount), lost_blocks.len() as u64);
            // Each of them is in the log once, with a file that it belongs to.
            let told = |block: usize, what: &str| {
                let log = fs::read_to_string(&log).unwrap();
                let number = format!(" block={block} ");
                let lines: Vec<&str> = log
                    .lines()
                    .filter(|line| line.contains(&number) && line.contains(what))
                    .collect();
                let holder = files.iter().find(|(_, blocks)| blocks.contains(&block)).unwrap().0;
                lines.len() == 1
                    && lines[0].contains("files=\"/")
                    && (lines[0].contains(holder) || lines[0].contains("more"))
            };
            for block in healed_blocks {
                assert!(
                    within(Duration::from_secs(10), || told(block, "source=\"image\"")),
                    "{block}"
                );
            }
            for block in lost_blocks {
                assert!(within(Duration::from_secs(10), || told(block, "is lost")), "{block}");
            }
            let words = ashlar(&["status", text(&mount.point)]);
            assert!(String::from_utf8_lossy(&words.stdout).contains("blocks lost"), "{words:?}");
        }
    });
}

#[test]
fn eio_looks_for_no_other_copy() {
    limited("eio_looks_for_no_other_copy", 60, || {
        let pair = Pair::new();
        let (block, path) = pair.shared_file();
        pair.damage(&pair.new, &BTreeSet::from([block]), &mut Random(1));
        let mount = pair.mount(&pair.new, "on_corruption=eio");
        let err = fs::read(mount.point.join(&path)).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(5));
        assert_eq!((healed(&mount, "image"), lost(&mount)), (0, 1));
    });
}

#[test]
fn other_copies_are_where_somebody_says() {
    limited("other_copies_are_where_somebody_says", 120, || {
        let pair = Pair::new();
        let (block, path) = pair.shared_file();
        let want = fs::read(pair.tree.join(&path)).unwrap();
        pair.damage(&pair.new, &BTreeSet::from([block]), &mut Random(1));
        let away = pair.path("away");
        fs::create_dir(&away).unwrap();
        let old = away.join("old.img");
        fs::rename(&pair.old, &old).unwrap();
        let server = Server::good(fs::read(&old).unwrap());
        let url = server.url("/old.img");
        let is_healed = |options: &str, source: &str| {
            let mount = pair.mount(&pair.new, options);
            let read = fs::read(mount.point.join(&path));
            assert!(read.as_ref().map_or(true, |content| *content == want));
            let healed = healed(&mount, source);
            mount.umount();
            assert!(mount.server_ends());
            read.is_ok() && healed == 1
        };
        assert!(!is_healed("", "image"), "nobody knows where");
        assert!(is_healed(&format!("heal_from={}", text(&away)), "image"));
        assert!(is_healed(&format!("heal_from=/usr,heal_from={}", text(&old)), "image"));
        assert!(is_healed(&format!("heal_url={url}"), "server"));
        drop(server);
        assert!(!is_healed(&format!("heal_url={url}"), "server"), "there is no server any more");
    });
}

/// Where no file can be opened now, nothing is known of what is in them: nothing is lost, and later it is healed.
#[test]
fn a_server_without_descriptors_loses_nothing() {
    limited("a_server_without_descriptors_loses_nothing", 60, || {
        use rustix::process::{Pid, Resource, getrlimit, prlimit};
        let pair = Pair::new();
        let (block, path) = pair.shared_file();
        pair.damage(&pair.new, &BTreeSet::from([block]), &mut Random(1));
        let mount = pair.mount(&pair.new, "");
        let server = mount.status()["server_pid"].as_i64().unwrap();
        let server = Pid::from_raw(i32::try_from(server).unwrap());
        let all = getrlimit(Resource::Nofile);
        let none = rustix::process::Rlimit { current: Some(0), ..all };
        prlimit(server, Resource::Nofile, none).unwrap();
        let err = fs::read(mount.point.join(&path)).unwrap_err();
        prlimit(server, Resource::Nofile, all).unwrap();
        assert_eq!((err.raw_os_error(), lost(&mount)), (Some(5), 0));
        let want = fs::read(pair.tree.join(&path)).unwrap();
        assert_eq!(fs::read(mount.point.join(&path)).unwrap(), want);
        assert_eq!((healed(&mount, "image"), lost(&mount)), (1, 0));
    });
}

/// Whoever takes over has the same directories and the same server, though it has no path to any of them.
#[test]
fn a_successor_heals_as_the_first_server_did() {
    limited("a_successor_heals_as_the_first_server_did", 120, || {
        let pair = Pair::new();
        let (block, path) = pair.shared_file();
        let want = fs::read(pair.tree.join(&path)).unwrap();
        let away = pair.path("away");
        fs::create_dir(&away).unwrap();
        let old = away.join("old.img");
        let server = Server::good(fs::read(&pair.old).unwrap());
        let url = server.url("/old.img");
        fs::rename(&pair.old, &old).unwrap();
        for (options, source) in
            [(format!("heal_from={}", text(&away)), "image"), (format!("heal_url={url}"), "server")]
        {
            fs::write(&pair.new, &pair.whole).unwrap();
            let mount = pair.mount(&pair.new, &options);
            let first = kill_server(&mount);
            let is_succeeded = || {
                let output = ashlar(&["status", "--json", text(&mount.point)]);
                let status: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
                status.is_some_and(|status| status["server_pid"] != first)
            };
            assert!(within(Duration::from_secs(20), is_succeeded));
            pair.damage(&pair.new, &BTreeSet::from([block]), &mut Random(1));
            assert_eq!(fs::read(mount.point.join(&path)).unwrap(), want);
            assert_eq!((healed(&mount, source), lost(&mount)), (1, 0));
            mount.umount();
            assert!(mount.server_ends());
        }
    });
}

/// What rots while a server has it in memory is found by the next one, which cannot serve without.
#[test]
fn a_successor_heals_what_it_cannot_serve_without() {
    limited("a_successor_heals_what_it_cannot_serve_without", 120, || {
        let pair = Pair::new();
        fs::write(pair.path("copy.img"), &pair.whole).unwrap();
        let mount = pair.mount(&pair.new, "");
        pair.damage_metadata();
        let first = kill_server(&mount);
        for path in pair.blocks_of_files().keys() {
            let want = fs::read(pair.tree.join(path)).unwrap();
            assert_eq!(fs::read(mount.point.join(path)).unwrap(), want, "{path}");
        }
        assert_ne!(mount.status()["server_pid"], first);
        assert!(healed(&mount, "image") > 2);
        assert_eq!(lost(&mount), 0);
    });
}

/// A server that is reached by a proxy is so by whoever takes over, who gets nothing else from the environment.
#[test]
fn a_successor_knows_the_proxy() {
    limited("a_successor_knows_the_proxy", 60, || {
        let pair = Pair::new();
        let options = format!("root_digest={},heal_url=http://image.invalid/x", pair.digest);
        let output = Command::new(ASHLAR)
            .args(["mount", "-o", &options, text(&pair.new), text(&pair.point())])
            .env("http_proxy", "http://proxy.invalid:1")
            .env("NO_PROXY", "here")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mount = Mount::found(pair.point());
        // Twice, for the second one has it from the holder, and that one from the first server.
        for _ in 0..2 {
            let server = kill_server(&mount);
            let successor = || {
                let output = ashlar(&["status", "--json", text(&mount.point)]);
                let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
                status["server_pid"].as_i64().filter(|pid| *pid != server)
            };
            assert!(within(Duration::from_secs(20), || successor().is_some()));
            let environment = fs::read(format!("/proc/{}/environ", successor().unwrap())).unwrap();
            let environment = String::from_utf8(environment).unwrap();
            assert_eq!(environment, "http_proxy=http://proxy.invalid:1\0NO_PROXY=here\0");
        }
    });
}

/// Of the image alone, with nobody beside it.
#[test]
fn parity_heals_what_is_read() {
    limited("parity_heals_what_is_read", 120, || {
        let pair = Pair::build(&["--fec"]);
        fs::remove_file(&pair.old).unwrap();
        let files = pair.blocks_of_files();
        let data = pair.data_blocks();
        // One place of some blocks in a row, and a single one far away.
        let mut damaged: BTreeSet<usize> =
            data.iter().copied().skip(data.len() / 2).take(2).collect();
        damaged.extend(data.iter().next());
        let mount = pair.mount(&pair.new, "");
        pair.damage(&pair.new, &damaged, &mut Random(1));
        for path in files.keys() {
            let content = fs::read(mount.point.join(path)).unwrap();
            assert_eq!(content, fs::read(pair.tree.join(path)).unwrap(), "{path}");
        }
        assert_eq!((healed(&mount, "fec"), lost(&mount)), (damaged.len() as u64, 0));
        // More than parity can do is lost, and nothing wrong comes of it.
        pair.damage(&pair.new, &data, &mut Random(2));
        let cold = files.keys().filter(|path| {
            let file = File::open(mount.point.join(path)).unwrap();
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            match fs::read(mount.point.join(path)) {
                Ok(content) => {
                    assert_eq!(content, fs::read(pair.tree.join(path)).unwrap(), "{path}");
                    false
                }
                Err(err) => err.raw_os_error() == Some(5),
            }
        });
        assert!(cold.count() > 0);
    });
}

#[test]
fn what_cannot_be_done_is_refused() {
    let pair = Pair::new();
    let point = pair.point();
    let refused = |command: &mut Command, error: &str, hint: &str| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("ashlar: error: ") && stderr.contains(error), "{stderr}");
        assert!(stderr.contains("ashlar: hint: ") && stderr.contains(hint), "{stderr}");
    };
    let mount = |options: &str| {
        let mut command = Command::new(ASHLAR);
        command.args(["mount", "--root-digest", &pair.digest.to_string(), "-o", options]);
        command.args([text(&pair.new), text(&point)]);
        command
    };
    refused(&mut mount("on_corruption=ignore"), "eio, heal, restart, panic", "--help");
    refused(&mut mount("on_corruption=eio,heal_from=/usr"), "heal_from", "leave one");
    refused(&mut mount("heal_from=/no/such"), "/no/such", "directory of images");
    refused(&mut mount("heal_url=ftp://x/y"), "no http", "https");
    if !rustix::process::geteuid().is_root() {
        refused(&mut mount("on_corruption=panic"), "only root", "on_corruption=eio");
        return;
    }
    // As somebody else, where that one can start the program at all.
    let nobody = |options: &str| {
        let mut command = mount(options);
        command.uid(65_534).gid(65_534);
        command
    };
    if let Err(err) = nobody("log=info").output() {
        eprintln!("skipped: only root: {err}");
        return;
    }
    refused(&mut nobody("on_corruption=restart"), "only root", "on_corruption=eio");
    refused(&mut nobody("on_corruption=panic"), "only root", "on_corruption=eio");
}

/// The machine would end here: what is called instead is told why, once somebody asked for bytes that nobody has, and not before.
#[test]
fn the_last_resort_is_taken_when_nobody_has_it() {
    limited("the_last_resort_is_taken_when_nobody_has_it", 60, || {
        let pair = Pair::new();
        let (shared, healed_path) = pair.shared_file();
        let files = pair.blocks_of_files();
        let own = &files["own/noise005"];
        pair.damage(&pair.new, &BTreeSet::from([shared, own[0]]), &mut Random(1));
        let mut options = Options::new(Anchor::RootDigest(pair.digest));
        options.healers = ashlarfs::heal::Ladder::beside(&pair.new).into_healers();
        let tree = ashlarfs::open(&pair.new, &options).unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&taken);
        let settings = Settings {
            source: pair.new.clone(),
            mountpoint: pair.point(),
            root_permissions: 0o755,
            flags: MountFlags::empty(),
            allow_other: true,
        };
        let work = Work {
            workers: 2,
            readahead_kb: None,
            digest_xattr: false,
            image: None,
            proc: None,
            recorder: None,
            anchor: "root-digest".to_owned(),
            first: || {},
            last_resort: Some(LastResort::new(move |why| {
                theirs.lock().unwrap().push(why.to_owned())
            })),
        };
        let mounted = session::start(tree, &settings, work).unwrap();
        let content = fs::read(pair.point().join(&healed_path)).unwrap();
        let absent = fs::read(pair.point().join("no such file"));
        let before = taken.lock().unwrap().len();
        let lost = fs::read(pair.point().join("own/noise005"));
        let after = taken.lock().unwrap().clone();
        mounted.stopper().stop().unwrap();
        mounted.wait().unwrap();
        assert_eq!(content, fs::read(pair.tree.join(&healed_path)).unwrap());
        assert!(absent.is_err());
        assert_eq!(before, 0, "what is healed, or was never there, is no reason");
        assert_eq!(lost.unwrap_err().raw_os_error(), Some(5));
        assert!(!after.is_empty() && after[0].contains(&format!("block {}", own[0])), "{after:?}");
    });
}

/// Only the copy in memory is wrong: on a block device, and in a file.
#[test]
fn what_went_bad_in_the_page_cache_is_read_once_more() {
    limited("what_went_bad_in_the_page_cache_is_read_once_more", 120, || {
        let pair = Pair::new();
        fs::remove_file(&pair.old).unwrap();
        let (block, path) = pair.shared_file();
        let want = fs::read(pair.tree.join(&path)).unwrap();
        let entry = pair.entries[block];
        let good = pair.stored(block).to_vec();
        let bad = pair::noise(77, good.len());
        let is_healed = |image: &Path, seen: &File| {
            let mut now = vec![0; good.len()];
            seen.read_exact_at(&mut now, entry.offset).unwrap();
            assert!(now != good, "the page cache is not wrong: nothing is shown");
            let mount = pair.mount(image, "method=pread");
            assert_eq!(fs::read(mount.point.join(&path)).unwrap(), want);
            assert_eq!((healed(&mount, "reread"), healed(&mount, "image")), (1, 0));
            mount.umount();
            assert!(mount.server_ends());
            seen.read_exact_at(&mut now, entry.offset).unwrap();
            assert_eq!(now, good, "whoever comes next has it, too");
            let mount = pair.mount(image, "method=mmap");
            assert_eq!(fs::read(mount.point.join(&path)).unwrap(), want);
            assert_eq!(healed(&mount, "reread"), 0);
        };
        // A block device.
        let backing = File::options().read(true).write(true).open(&pair.new).unwrap();
        let Some(device) = Loop::new(&pair.new) else {
            eprintln!("skipped: there is no loop device");
            return;
        };
        let seen = File::open(&device.0).unwrap();
        backing.write_all_at(&bad, entry.offset).unwrap();
        backing.sync_all().unwrap();
        let mut now = vec![0; good.len()];
        seen.read_exact_at(&mut now, entry.offset).unwrap();
        backing.write_all_at(&good, entry.offset).unwrap();
        backing.sync_all().unwrap();
        is_healed(Path::new(&device.0), &seen);
        drop((seen, device));
        // A file on a disk.
        let test = "what_went_bad_in_the_page_cache_is_read_once_more";
        let Some(disk) = disk::Disk::new(test, 32 << 20, &["mkfs.ext4", "-q", "-F"]) else {
            return;
        };
        let image = disk.path().join("new.img");
        fs::copy(&pair.new, &image).unwrap();
        let seen = File::open(&image).unwrap();
        seen.sync_all().unwrap();
        let raw = fs::read(disk.backing()).unwrap();
        let at = raw.windows(good.len()).position(|bytes| bytes == good).unwrap() as u64;
        let below = File::options().read(true).write(true).open(disk.backing()).unwrap();
        below.write_all_at(&bad, at).unwrap();
        below.sync_all().unwrap();
        rustix::fs::fadvise(&seen, 0, None, Advice::DontNeed).unwrap();
        seen.read_exact_at(&mut now, entry.offset).unwrap();
        below.write_all_at(&good, at).unwrap();
        below.sync_all().unwrap();
        is_healed(&image, &seen);
    });
}

/// A loop device.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Option<Loop> {
        let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(Loop(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").args(["-d", &self.0]).status().ok();
    }
}

/// The image that is asked for is beside the one that is named: that one is not taken for it.
#[test]
fn no_image_is_taken_for_another_one() {
    let pair = Pair::new();
    let point = pair.point();
    let mut junk = pair.whole.clone();
    junk[..4096].fill(7);
    let end = junk.len() - 4096;
    junk[end..].fill(7);
    fs::write(pair.path("junk.img"), junk).unwrap();
    for image in [&pair.old, &pair.path("junk.img")] {
        let digest = pair.digest.to_string();
        let output = ashlar(&["mount", "--root-digest", &digest, text(image), text(&point)]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

/// Names and attributes that both have are healed as content is; and what nobody has costs only what is in it.
#[test]
fn metadata_is_healed_too() {
    limited("metadata_is_healed_too", 60, || {
        let pair = Pair::new();
        // From a copy, for most of it is this image's own.
        fs::write(pair.path("copy.img"), &pair.whole).unwrap();
        pair.damage_metadata();
        let mount = pair.mount(&pair.new, "");
        for path in pair.blocks_of_files().keys() {
            let want = fs::read(pair.tree.join(path)).unwrap();
            assert_eq!(fs::read(mount.point.join(path)).unwrap(), want, "{path}");
        }
        assert!(healed(&mount, "image") > 2);
        assert_eq!(lost(&mount), 0);
    });
}

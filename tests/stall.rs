//! What if the disk under an image stops to answer? Where a time was set, whoever asks gets an error by then; the rest is served.
//!
//! The disk here is another mount whose server is stopped: reads of the image on it wait, and nothing can interrupt them.

#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mount::{Image, Mount, ashlar, limited, noise, text, within};
use rustix::process::{Signal, kill_process};

/// An image in an image, both mounted: the outer one is the disk.
struct Site {
    _outer: Image,
    inner: Image,
    disk: Mount,
    mount: Mount,
}

impl Site {
    fn new(options: &str) -> Site {
        let inner = Image::build(&[], |tree| {
            for nth in 0..20 {
                fs::write(tree.join(nth.to_string()), noise(nth, 400_000)).unwrap();
            }
        });
        let outer = Image::build(&[], |tree| {
            fs::copy(&inner.path, tree.join("inner.img")).unwrap();
        });
        let disk = outer.mount("notakeover,readahead=128");
        let point = inner.mountpoint("inner");
        let image = disk.point.join("inner.img");
        let options = format!("root_digest={},notakeover,readahead=128,{options}", inner.digest);
        let output = ashlar(&["mount", "-o", &options, text(&image), text(&point)]);
        assert!(output.status.success(), "{output:?}");
        Site { _outer: outer, inner, disk, mount: Mount::found(point) }
    }

    /// Reads a file; `None` when that takes longer than so.
    fn read(&self, nth: u32, patience: Duration) -> Option<std::io::Result<Vec<u8>>> {
        let path: PathBuf = self.mount.point.join(nth.to_string());
        let (done, wait) = mpsc::channel();
        thread::spawn(move || done.send(fs::read(path)).unwrap_or_default());
        wait.recv_timeout(patience).ok()
    }

    fn is_right(&self, nth: u32, content: &[u8]) -> bool {
        fs::read(self.inner.source.join(nth.to_string())).unwrap() == content
    }

    /// Stops the disk. One thread of it is told first, and the others go on until that one has told them.
    fn stop(&self) {
        kill_process(self.disk.server, Signal::STOP).unwrap();
        let tasks = format!("/proc/{}/task", self.disk.server.as_raw_nonzero());
        let is_stopped = |task: fs::DirEntry| {
            fs::read_to_string(task.path().join("stat")).unwrap().contains(") T ")
        };
        let are_stopped = || fs::read_dir(&tasks).unwrap().all(|task| is_stopped(task.unwrap()));
        assert!(within(Duration::from_secs(20), are_stopped));
    }

    fn go_on(&self) {
        kill_process(self.disk.server, Signal::CONT).unwrap();
    }
}

#[test]
fn a_disk_that_does_not_answer_is_an_error_in_time_and_is_read_again_when_it_does() {
    limited("a_disk_that_does_not_answer", 90, || {
        let site = Site::new("io_timeout=1");
        let soon = Duration::from_secs(20);
        assert!(site.is_right(3, &site.read(3, soon).unwrap().unwrap()));
        site.stop();
        let begun = Instant::now();
        let err = site.read(17, soon).expect("an answer").unwrap_err();
        assert_eq!(err.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        // What the kernel has needs no disk, and the server still answers.
        assert!(site.is_right(3, &site.read(3, soon).unwrap().unwrap()));
        assert!(site.mount.status()["failures"].as_u64().unwrap() > 0);
        site.go_on();
        assert!(site.is_right(17, &site.read(17, soon).unwrap().unwrap()));
    });
}

#[test]
fn without_a_time_it_is_waited_for() {
    limited("without_a_time_it_is_waited_for", 90, || {
        let site = Site::new("");
        site.stop();
        let waited = site.read(17, Duration::from_secs(3));
        site.go_on();
        assert!(waited.is_none(), "{waited:?}");
        assert!(site.is_right(17, &site.read(17, Duration::from_secs(20)).unwrap().unwrap()));
    });
}

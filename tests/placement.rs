//! Are the server's threads where they should be while many questions come, and anywhere again afterwards?

#[path = "support/mount.rs"]
mod mount;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mount::{Image, limited, within};

/// On which processors each thread of a process may run, as the kernel writes it.
fn allowed(process: u64) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
        found.extend(line.map(str::to_owned));
    }
    found
}

/// Processor time that a process has taken, in ticks of the kernel's.
fn ticks(process: u64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Asks for names that do not exist, each of them a question that was never asked before.
fn ask(point: &Path, until: &AtomicBool) {
    let mut nth = 0_u64;
    while !until.load(Ordering::Relaxed) {
        nth += 1;
        let name = point.join(format!("no such name {nth}"));
        assert_eq!(fs::symlink_metadata(name).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(nth > 0);
}

#[test]
fn threads_are_put_where_the_client_is_and_let_go() {
    limited("threads_are_put_where_the_client_is_and_let_go", 120, || {
        let image = Image::build(&[], |tree| fs::write(tree.join("file"), "content").unwrap());
        let mount = image.mount("");
        let server = mount.status()["pid"].as_u64().unwrap();
        let everywhere = allowed(server);
        assert_eq!(everywhere.len(), 1);

        // A quota of processor time counts, too.
        let processors = thread::available_parallelism().unwrap().get();
        let allowed_here = rustix::thread::sched_getaffinity(None).unwrap().count();
        let is_of_two = processors == 2 && allowed_here == 2;
        let (point, is_enough) = (mount.point.clone(), AtomicBool::new(false));
        thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&point, &is_enough));
            let begin = Instant::now();
            // Where others need the processors, it may take a while until it is seen.
            let patience = if is_of_two { 60 } else { 1 };
            let mut seen = false;
            while !seen && begin.elapsed() < Duration::from_secs(patience) {
                seen = allowed(server).len() > 1;
            }
            is_enough.store(true, Ordering::Relaxed);
            asking.join().unwrap();
            assert_eq!(seen, is_of_two, "{processors} processors");
        });

        assert!(within(Duration::from_secs(5), || allowed(server) == everywhere));
        let before = ticks(server);
        thread::sleep(Duration::from_secs(1));
        assert!(ticks(server) - before < 10, "the server is at work though nobody asks");
        assert_eq!(fs::read(mount.point.join("file")).unwrap(), b"content");
    });
}

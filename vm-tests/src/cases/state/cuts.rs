//! Is all whole when the power fails while it is made?

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::machine::{Machine, duration};
use crate::bench::Bench;
use crate::disk;
use crate::noise::noise;
use crate::outcome::{Doing, Result, failed, run};
use crate::qemu::{Console, Writes};
use crate::tree::Tree;
use crate::writes::{Fate, Log};

/// How long a machine with a full tree may take.
const LIMIT: Duration = Duration::from_mins(4);
/// When the power fails, in parts of a hundred of the time that it takes.
const MOMENTS: [u32; 5] = [15, 35, 55, 75, 92];
/// So many moments between two writes are looked at, besides those around a flush.
const SOME: usize = 20;

/// Many files below a directory; each seventh is not the same in both images.
fn bulk(tree: &mut Tree, at: &str, name: &str, count: u32) -> Result<()> {
    for directory in 0..count.div_ceil(100) {
        tree.directories(&[&format!("{at}/bulk-{directory}")])?;
    }
    for number in 0..count {
        let of = if number % 7 == 0 { name } else { "all" };
        let mut content = format!("{number} of {of}\n").into_bytes();
        content.extend(noise(number.into(), usize::try_from(number % 40).unwrap_or(0) * 100));
        tree.file(&format!("{at}/bulk-{}/{number}", number / 100), 0o640, &content)?;
    }
    Ok(())
}

fn machine<'a>(bench: &'a Bench<'a>, etc: u32, var: u32) -> Result<Machine<'a>> {
    let mut machine = Machine::new(bench)?;
    machine.scene.limit = LIMIT;
    for (version, name) in [(1, "one"), (2, "two")] {
        machine.image(name, version, |tree| {
            bulk(tree, "etc", name, etc)?;
            bulk(tree, "var", name, var)
        })?;
    }
    Ok(machine)
}

pub(super) fn seed(bench: &Bench<'_>) -> Result<()> {
    let mut machine = machine(bench, 0, 1500)?;
    let words = "ashlar=one ashlar.overlay=tmpfs";
    let script = r"
        same $lower/var /var
        gone $data/.var.seed
        sound
        ";
    cut_and_go_on(&mut machine, words, |machine| machine.boot(words, script).map(drop_sum))
}

/// What is changed in /etc before the new image comes: some of what the image changes, too, and some of what it does not.
const CHANGES: &str = r"
    for n in 0 100 200 300; do for m in 1 5 7 14 21; do echo local >/etc/bulk-$((n / 100))/$((n + m)); done; done
    for n in 2 4 5; do rm -r /etc/bulk-$n; done
    mkdir /etc/own && for n in $(seq 300); do echo own $n >/etc/own/$n; done
    sound
    ";

pub(super) fn merge(bench: &Bench<'_>) -> Result<()> {
    let mut machine = machine(bench, 1500, 0)?;
    machine.boot("ashlar=one ashlar.etc=merge ashlar.var=ro", CHANGES)?;
    let words = "ashlar=two ashlar.etc=merge ashlar.var=ro";
    let script = r#"
        is "0 of two" head -n 1 /etc/bulk-0/0
        is local cat /etc/bulk-0/7
        is local cat /etc/bulk-3/301
        is own\ 300 cat /etc/own/300
        gone /etc/bulk-5
        gone $data/state/etc.*.tmp
        say "sum $(listing /etc | sha256sum)"
        sound
        "#;
    cut_and_go_on(&mut machine, words, |machine| {
        machine.boot(words, script).and_then(|console| sum(&console))
    })?;
    // What the old image had is as it was left.
    machine.boot(
        "ashlar=one ashlar.etc=merge ashlar.var=ro",
        "is local cat /etc/bulk-0/1\ngone /etc/bulk-4\nsound",
    )?;
    Ok(())
}

fn drop_sum(_: Console) -> String {
    String::new()
}

fn sum(console: &Console) -> Result<String> {
    match console.text.lines().find_map(|line| line.split_once("ASHLAR-VM: sum ")) {
        Some((_, sum)) => Ok(sum.trim_end().to_owned()),
        None => console.fail("the guest did not say what its /etc is"),
    }
}

/// Boots to the end, then from the same disk with the power cut at several moments, and each time once more. What `go_on`
/// finds must be the same each time.
fn cut_and_go_on(
    machine: &mut Machine<'_>,
    words: &str,
    go_on: impl Fn(&mut Machine<'_>) -> Result<String>,
) -> Result<()> {
    let disk = machine.scene.disk()?.to_owned();
    let before = machine.bench.place.join("before.img");
    Machine::copy_disk(&disk, &before)?;
    let console = machine.boot(words, "sound")?;
    let took = duration(&console)?;
    let expected = go_on(machine)?;
    let mut hits = 0;
    for moment in MOMENTS {
        Machine::copy_disk(&before, &disk)?;
        hits += usize::from(machine.cut(words, took * moment / 100)?);
        let copy = machine.bench.place.join("copy.img");
        Machine::copy_disk(&disk, &copy)?;
        disk::recover(&copy)?;
        let found = go_on(machine)?;
        if found != expected {
            return failed(format!("after a cut at {moment} % it is {found}, not {expected}"));
        }
    }
    // The clock of a busy machine is not exact; but half of the cuts must have been in time.
    if hits < MOMENTS.len().div_ceil(2) {
        return failed(format!("the power was cut in time only {hits} times of {}", MOMENTS.len()));
    }
    Ok(())
}

pub(super) fn writes(bench: &Bench<'_>) -> Result<()> {
    let mut machine = machine(bench, 600, 300)?;
    let etc = |digest: ashlarfs::Digest| format!("/state/etc.{digest}");
    let one = machine.digest("one")?;
    let two = machine.digest("two")?;
    let words = "ashlar.etc=merge ashlar.overlay=tmpfs";
    let fresh = "same $lower/var /var\nsame $lower/etc /etc\nsound";
    each_write(
        &mut machine,
        &format!("ashlar=one {words}"),
        fresh,
        &["/var".to_owned(), etc(one)],
    )?;
    machine.boot(&format!("ashlar=one {words}"), CHANGES)?;
    let merged = "is local cat /etc/bulk-0/7\ngone /etc/bulk-4\nsound";
    each_write(
        &mut machine,
        &format!("ashlar=two {words}"),
        merged,
        &["/var".to_owned(), etc(one), etc(two)],
    )
}

/// Boots with each write noted, then looks at what the disk may be at many moments: each of `whole` is there as it is in the
/// end, or not at all. From some of these disks it boots again.
fn each_write(
    machine: &mut Machine<'_>,
    words: &str,
    script: &str,
    whole: &[String],
) -> Result<()> {
    let place = machine.bench.place.clone();
    let disk = machine.scene.disk()?.to_owned();
    let (before, after, maybe) =
        (place.join("before.img"), place.join("after.img"), place.join("maybe.img"));
    let path = place.join("writes.log");
    Machine::copy_disk(&disk, &before)?;
    File::create(&path).doing("cannot make a file")?;
    machine.scene.writes = Writes::Logged(path.clone());
    machine.boot(words, script)?;
    machine.scene.writes = Writes::Kept;
    Machine::copy_disk(&disk, &after)?;
    let log = Log::read(&path)?;
    let expected = place.join("expected");
    let mut seen = vec![[0_usize; 2]; whole.len()];
    let moments = log.moments(SOME);
    for (nth, until) in moments.iter().copied().enumerate() {
        Machine::copy_disk(&before, &maybe)?;
        let seed = u64::try_from(nth).unwrap_or(0);
        log.apply(&maybe, &log.after(until, Fate::Some(seed)))?;
        if nth % 16 == 7 {
            Machine::copy_disk(&maybe, &disk)?;
            machine.boot(words, script)?;
        }
        disk::recover(&maybe).map_err(|stop| stop.at(format!("after {until} writes")))?;
        for (what, seen) in whole.iter().zip(&mut seen) {
            let is_there = disk::has(&maybe, what)?;
            if let Some(count) = seen.get_mut(usize::from(is_there)) {
                *count += 1;
            }
            if is_there {
                same(&after, &maybe, what, &expected)
                    .map_err(|stop| stop.at(format!("after {until} writes: {what}")))?;
            }
        }
    }
    Machine::copy_disk(&after, &disk)?;
    // The last of them was made meanwhile: both must have been seen.
    if seen.last().is_none_or(|seen| seen.contains(&0)) {
        return failed(format!(
            "among the moments between {} writes none shows what they are for: {seen:?}",
            moments.len()
        ));
    }
    Ok(())
}

/// Holds that a directory, in which there is something, is the same on two disks.
fn same(one: &Path, other: &Path, what: &str, place: &Path) -> Result<()> {
    let sides = ["left", "right"].map(|side| place.join(side));
    for (disk, side) in [one, other].into_iter().zip(&sides) {
        if side.exists() {
            fs::remove_dir_all(side).doing("cannot remove a directory")?;
        }
        fs::create_dir_all(side).doing("cannot make a directory")?;
        disk::copy_out(disk, what, side)?;
    }
    let [left, right] = &sides;
    let (expected, found) = (listing(left)?, listing(right)?);
    // The directory itself is one, and would be there, too, if no more could be copied.
    if expected.len() < 2 {
        return failed(format!("nothing was copied from {}", one.display()));
    }
    if let Some(line) = expected.symmetric_difference(&found).next() {
        return failed(format!(
            "only one of {} and {} has: {line}",
            left.display(),
            right.display()
        ));
    }
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(left).arg(right)).map(drop)
}

/// What is below a directory: paths, modes, owners, types, and where symlinks lead.
fn listing(directory: &Path) -> Result<BTreeSet<String>> {
    let said = run(Command::new("find").arg(directory).args([
        "-mindepth",
        "1",
        "-printf",
        r"%P %m %U %G %y %l\n",
    ]))?;
    Ok(said.lines().map(str::to_owned).collect())
}

//! Is a Debian updated over a network, found good by itself, and left by itself where it is not? Nobody does anything on it but
//! `ashlar update install` and, at last, `ashlar update rollback`: `guest/debian/update` holds all that on each boot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlarfs::Digest;

use super::machine::{Attempt, By, Debian, DebianMachine, number};
use crate::bench::Bench;
use crate::disk;
use crate::keys;
use crate::outcome::{Doing, Result, Stop, failed, run};
use crate::qemu::SPOKEN;
use crate::scene;
use crate::web::Web;

/// No word about which image.
const MODES: &str = "ashlar ashlar.etc=merge";

/// How many images there are. The third one is not healthy.
const IMAGES: u32 = 4;
const SICK: u32 = 3;

/// What a person sees on the console of a machine that leaves an image.
const LEAVES: &str = "ashlar: this image is on trial and not healthy: rebooting";

/// The images, the first one first, where a server has them.
struct Images {
    digests: Vec<Digest>,
    files: PathBuf,
}

impl Images {
    fn digest(&self, version: u32) -> Result<Digest> {
        let nth = usize::try_from(version).unwrap_or_default().checked_sub(1);
        let digest = nth.and_then(|nth| self.digests.get(nth));
        digest.copied().ok_or_else(|| Stop::Failed(format!("there is no image {version}")))
    }

    fn path(&self, version: u32) -> PathBuf {
        self.files.join(version.to_string()).join("root.img")
    }
}

/// See the head of this file.
pub(super) fn updates(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    let web = Web::start(&bench.place)?;
    let images = images(&debian, &web.files)?;

    let data = bench.place.join("update.data");
    disk::directories(&data, &["images", "state"])?;
    fs::copy(images.path(1), data.join("images/first.img")).doing("cannot copy the image")?;
    let by = By::Initrd("initramfs-tools");
    let mut machine = debian.machine_of(&data, "update", "6.12", by)?;
    machine.network = true;
    // What is damaged would be healed with the bytes of the image before.
    let mut words = format!("ro quiet ashlar.on-corruption=eio vm.web={}", web.address());
    for version in 1..=IMAGES {
        words.push_str(&format!(" vm.v{version}={}", images.digest(version)?));
    }
    let boot = |step: &str, checks: usize, end: &str| {
        let words = format!("{words} vm.run=update:{step} vm.end={end}");
        let console = machine.boot_as(MODES, &words)?.console;
        holds(&console.text, checks).or_else(|why| console.fail(why))?;
        if let Some((_, said)) = console.text.split_once(&format!("{SPOKEN}installed ")) {
            println!("    installed {}", said.lines().next().unwrap_or_default());
        }
        Ok::<_, Stop>(console)
    };

    publish(&debian, &images, 2)?;
    boot("first", 12, "reboot")?;
    publish(&debian, &images, SICK)?;
    boot("second", 13, "reboot")?;
    for left in [2, 1, 0] {
        leaves(&machine, &words, left)?;
    }
    publish(&debian, &images, 4)?;
    boot("third", 12, "reboot")?;
    boot("fourth", 8, "poweroff")?;

    // While it is off, a bit flips.
    let fourth = images.digest(4)?;
    let (_, offset) = scene::first_block(&images.path(4), fourth, "/usr/lib/systemd/systemd")?;
    disk::flip(&machine.disk, &format!("/images/{fourth}.img"), offset)?;
    let console = boot("fifth", 7, "reboot")?;
    console.says(&[&format!("ashlar: images/{fourth}.img is refused: /sbin/init")])?;
    boot("last", 8, "poweroff")?;

    for version in 2..=IMAGES {
        if web.answers(&format!("/{version}/root.img"), 206)? == 0 {
            return failed(format!("nobody asked for ranges of image {version}"));
        }
    }
    Ok(())
}

/// Holds that as many checks held, and that none did not.
fn holds(text: &str, checks: usize) -> Result<(), String> {
    let held = text.lines().filter(|line| line.contains(&format!("{SPOKEN}holds "))).count();
    if held == checks && !text.contains(&format!("{SPOKEN}fail ")) {
        return Ok(());
    }
    Err(format!("{held} checks of {checks} hold"))
}

/// Boots the image that is not healthy: the machine reboots by itself, and nobody asked for that.
fn leaves(machine: &DebianMachine<'_>, words: &str, left: u64) -> Result<()> {
    let console = machine.run(&format!("{MODES} {words}"), &Attempt::BOOT)?;
    console.ended_well()?.says(&[LEAVES])?.says(&["reboot: Restarting system"])?;
    holds(&console.text, 5).or_else(|why| console.fail(why))?;
    let said = number(&console, "tries left: ", "tries left: ")?;
    if said != left {
        return console.fail(format!("{said} tries are left, not {left}"));
    }
    machine.check_disk()?;
    println!("    left by itself, {left} tries left, {:.0} s in all", console.took.as_secs_f64());
    Ok(())
}

/// Makes the images, each from the one before.
fn images(debian: &Debian<'_>, files: &Path) -> Result<Images> {
    let mut images = Images { digests: Vec::new(), files: files.to_owned() };
    let tree = debian.case_tree("update")?;
    let program = tree.join("usr/bin/ashlar");
    fs::copy(debian.bench.programs.whole_ashlar()?, program).doing("cannot copy the program")?;
    disk::directories(
        &tree,
        &["etc/ashlar-vm", "usr/lib/systemd/system/boot-complete.target.requires"],
    )?;
    let wish = "usr/lib/systemd/system/boot-complete.target.requires/ashlar-vm-health.service";
    symlink("../ashlar-vm-health.service", tree.join(wish)).doing("cannot make a link")?;
    for name in ["edited", "removed", "only-first"] {
        write(&tree, &format!("etc/ashlar-vm/{name}"), "the image's\n")?;
    }
    for version in 1..=IMAGES {
        disk::directories(files, &[&version.to_string()])?;
        for path in ["etc/ashlar-vm/version", "usr/lib/ashlar-vm/version"] {
            write(&tree, path, &format!("{version}\n"))?;
        }
        let healthy = "usr/lib/ashlar-vm/healthy";
        if version == SICK {
            fs::remove_file(tree.join(healthy)).doing("cannot remove a file")?;
        } else {
            write(&tree, healthy, "")?;
        }
        if version == 2 {
            fs::remove_file(tree.join("etc/ashlar-vm/only-first")).doing("cannot remove a file")?;
        }
        let before = if version == 1 { debian.image.clone() } else { images.path(version - 1) };
        let digest = image(debian, &tree, version, &before, &images.path(version))?;
        images.digests.push(digest);
    }
    fs::remove_dir_all(&tree).doing(format!("cannot remove {}", tree.display()))?;
    Ok(images)
}

/// A file of its own, also where a link was.
fn write(tree: &Path, path: &str, content: &str) -> Result<()> {
    let path = tree.join(path);
    let doing = format!("cannot write {}", path.display());
    if path.exists() {
        fs::remove_file(&path).doing(&doing)?;
    }
    fs::write(path, content).doing(doing)
}

fn image(
    debian: &Debian<'_>,
    tree: &Path,
    version: u32,
    base: &Path,
    image: &Path,
) -> Result<Digest> {
    let mut words = vec!["mkimage".into(), "--quiet".into(), "--root-image".into()];
    words.extend(["-z", "zstd,3", "--image-version", &version.to_string()].map(Into::into));
    words.extend(["--base".into(), base.into(), "--sign-key".into()]);
    words.extend([&debian.secret_key, tree, image].map(|path| path.as_os_str().to_owned()));
    let summary = ashlarfs_mkimage::run(words)
        .map_err(|failure| Stop::Failed(format!("mkimage: {}", failure.message)))?;
    summary.root_digest.parse().doing("mkimage said no digest")
}

/// Says that an image is the newest; and a stranger says the same of it.
fn publish(debian: &Debian<'_>, images: &Images, version: u32) -> Result<()> {
    let stranger = debian.bench.place.join("stranger");
    if !stranger.exists() {
        keys::generate(&stranger)?;
        disk::directories(&images.files, &["strange"])?;
    }
    for (key, path, url) in [
        (&debian.secret_key, "latest", format!("{version}/root.img")),
        (&stranger, "strange/latest", format!("/{version}/root.img")),
    ] {
        run(Command::new(debian.bench.programs.whole_ashlar()?)
            .args(["update", "manifest", "--name", "vm", "--url", &url, "--key"])
            .arg(key)
            .arg("--output")
            .args([images.files.join(path), images.path(version)]))?;
    }
    Ok(())
}

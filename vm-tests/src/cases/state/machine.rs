//! What is booted again and again? A machine with images of two versions on one data partition.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ashlarfs::{Anchor, Digest, Options};

use crate::bench::Bench;
use crate::outcome::{Doing, Result};
use crate::programs::Programs;
use crate::qemu::{Console, SPOKEN};
use crate::scene::Scene;
use crate::tree::Tree;

/// What the program in the initramfs says before it begins, and the root's first program when that is done.
pub(super) const BEGINS: &str = "sets up";
pub(super) const STARTED: &str = "started";

/// See the head of this file.
pub(super) struct Machine<'a> {
    /// Everything that it consists of.
    pub scene: Scene<'a>,
    /// The case's place of work.
    pub bench: &'a Bench<'a>,
    /// The program in the initramfs that decides over the modes.
    pub hook: Option<&'static [u8]>,
    secret: PathBuf,
}

impl<'a> Machine<'a> {
    /// A machine whose data partition has not even a place for state.
    pub(super) fn new(bench: &'a Bench<'a>) -> Result<Self> {
        let mut scene = Scene::new(bench, "6.12")?;
        for name in ["state", "var"] {
            fs::remove_dir(scene.data.join(name)).doing("cannot remove a directory")?;
        }
        let secret = scene.trust("maker")?;
        Ok(Machine { scene, bench, hook: None, secret })
    }

    /// The machine of most cases: the images `one` and `two`.
    pub(super) fn with_two(bench: &'a Bench<'a>) -> Result<Self> {
        let machine = Machine::new(bench)?;
        machine.image("one", 1, |_| Ok(()))?;
        machine.image("two", 2, |_| Ok(()))?;
        Ok(machine)
    }

    /// Puts an image on the data partition: the tree of all of them, and what is added to it.
    pub(super) fn image(
        &self,
        name: &str,
        version: u64,
        add: impl FnOnce(&mut Tree) -> Result<()>,
    ) -> Result<Digest> {
        let mut tree = root(self.bench, name)?;
        add(&mut tree)?;
        self.scene.image_of_version(version, name, tree, Some(&self.secret))
    }

    /// Puts an image on it that is no root, signed if it is to be trusted.
    pub(super) fn other_image(&self, name: &str, tree: Tree, is_signed: bool) -> Result<Digest> {
        self.scene.image_of_version(9, name, tree, is_signed.then_some(self.secret.as_path()))
    }

    /// The root digest of an image.
    pub(super) fn digest(&self, name: &str) -> Result<Digest> {
        let path = self.scene.image_path(name);
        let tree = ashlarfs::open(&path, &Options::new(Anchor::Unauthenticated));
        Ok(tree.doing(format!("cannot open {}", path.display()))?.root_digest())
    }

    /// Boots it; each line of the script must succeed, and the disk be whole afterwards.
    pub(super) fn boot(&mut self, append: &str, script: &str) -> Result<Console> {
        self.script(script);
        let console = self.scene.boot(append)?;
        let lines = script.lines().map(str::trim_start);
        let count = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        console.ended_well()?.spoke(&format!("ok {count} lines"))?;
        self.scene.check_disk()?;
        Ok(console)
    }

    /// Boots it and takes its power away some time after the root is begun with. Tells whether it was in the middle of that.
    pub(super) fn cut(&mut self, append: &str, after: Duration) -> Result<bool> {
        self.script("true");
        let begins = format!("{SPOKEN}{BEGINS}");
        let console = self.scene.boot_until(append, Some((&begins, after)))?;
        Ok(console.hung().is_ok() && console.spoke(STARTED).is_err())
    }

    fn script(&mut self, script: &str) {
        let lines: Vec<&str> = script.lines().map(str::trim_start).collect();
        let script = ("script".to_owned(), (lines.join("\n") + "\n").into_bytes());
        let hook = self.hook.map(|hook| ("etc/ashlar/mode-hook".to_owned(), hook.to_vec()));
        self.scene.more = [script].into_iter().chain(hook).collect();
    }

    /// Puts the disk aside as it is, or back.
    pub(super) fn copy_disk(from: &Path, to: &Path) -> Result<()> {
        fs::copy(from, to).map(drop).doing(format!("cannot copy {}", from.display()))
    }
}

/// How long the root took, by the kernel's clock in the lines of the console.
pub(super) fn duration(console: &Console) -> Result<Duration> {
    let time = |word: &str| -> Option<f64> {
        let line = console.text.lines().find(|line| line.trim_end().ends_with(word))?;
        line.split_once('[')?.1.split_once(']')?.0.trim().parse().ok()
    };
    match (time(&format!(": {BEGINS}")), time(&format!(": {STARTED}"))) {
        (Some(begin), Some(end)) if end > begin => Ok(Duration::from_secs_f64(end - begin)),
        _ => console.fail("the console does not tell how long the root took"),
    }
}

/// The tree of a root of which only its name is not the same in all of them.
fn root(bench: &Bench<'_>, name: &str) -> Result<Tree> {
    let mut tree = Tree::new()?;
    tree.directories(&[
        "bin",
        "boot",
        "dev",
        "etc",
        "home",
        "media",
        "mnt",
        "opt",
        "opt/tool",
        "proc",
        "root",
        "run",
        "sbin",
        "srv",
        "sys",
        "usr",
        "usr/lib",
        "usr/share",
        "var",
        "var/lib",
        "var/log",
    ])?;
    tree.directory("tmp", 0o1777)?;
    let (busybox, names) = Programs::busybox()?;
    tree.file("bin/busybox", 0o755, &busybox)?;
    for name in names.iter().filter(|name| *name != "busybox") {
        tree.link(&format!("bin/{name}"), "busybox")?;
    }
    let ashlar = fs::read(bench.programs.ashlar()?).doing("cannot read the program")?;
    tree.file("bin/ashlar", 0o755, &ashlar)?;
    tree.file("sbin/init", 0o755, include_bytes!("../../../guest/state.sh"))?;
    tree.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    tree.file("etc/os-release", 0o644, b"ID=ashlar-vm\nVERSION_ID=1\n")?;
    tree.file("etc/machine-id", 0o444, b"")?;
    tree.file("etc/hostname", 0o644, b"image\n")?;
    let line = format!("{name}\n");
    for path in ["etc/version", "usr/version", "var/lib/version", "opt/tool/version"] {
        tree.file(path, 0o644, line.as_bytes())?;
    }
    tree.file("var/lib/secret", 0o600, b"secret\n")?;
    tree.link("var/link", "lib/version")?;
    tree.hard_link("var/lib/hard", "var/lib/secret")?;
    Ok(tree)
}

//! What does a Debian machine consist of? A tree of packages in a signed image, initrds made in that tree, a data partition.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ashlarfs::Digest;
use ashlarfs::format::index::BlockIndex;

use crate::bench::Bench;
use crate::disk;
use crate::kernel::Kernel;
use crate::keys;
use crate::noise::noise;
use crate::outcome::{Doing, Result, Stop, failed, run, run_or_skip, skipped};
use crate::qemu::{Console, Machine, PANIC_ENDS, Writes};
use crate::typist::Answer;

/// When a Debian is ended by force: many times what it takes, as nobody knows how busy this machine is.
const LIMIT: Duration = Duration::from_mins(15);

/// How long a shutdown may take by the machine's own clock: twice what systemd waits for one who does not hear SIGTERM
/// (`guest/debian/ashlar-vm.conf`), and what emulation adds.
pub(super) const SHUTDOWN_LIMIT_MS: u64 = 60_000;

/// What most cases ask for: the image, and an `/etc` that can be written to.
pub(super) const MERGED: &str = "ashlar=root.img ashlar.etc=merge";

/// A file of the image to which nothing else is alike.
pub(super) const VICTIM: &str = "/usr/lib/ashlar-vm/probe/victim";

/// How the kernel comes to a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// An initrd by its name, the part behind the kernel's.
    Initrd(&'static str),
    /// `ashlar` as the first program of all, on the data partition.
    Trampoline,
}

/// All that is made once and shared by the cases.
#[derive(Debug)]
pub(super) struct Debian<'a> {
    /// The case's place of work.
    pub bench: &'a Bench<'a>,
    tree: PathBuf,
    initrds: PathBuf,
    /// Signs what the initrds trust.
    pub secret_key: PathBuf,
    public_key: PathBuf,
    /// The image.
    pub image: PathBuf,
    digest: Digest,
}

impl<'a> Debian<'a> {
    /// Finds it in the cache, or makes it.
    pub(super) fn get(bench: &'a Bench<'a>) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return skipped("a Debian tree can only be made by root");
        }
        let place = bench.cache.join("debian-cases");
        disk::directories(&place, &[""])?;
        let ashlar = bench.programs.ashlar()?;
        let secret_key = place.join("maker");
        let public_key = place.join("maker.pub");
        if !public_key.exists() {
            keys::generate(&secret_key)?;
        }

        let support = support();
        let made = run_or_skip(
            Command::new(support.join("debian_initrds.sh"))
                .env("ASHLAR_TEST_CACHE", bench.cache.parent().unwrap_or(bench.cache))
                .arg(ashlar)
                .arg("--key")
                .arg(&public_key),
        )
        .map_err(|stop| match stop {
            Stop::Skipped(why) => Stop::Skipped(format!("no Debian: {why}")),
            stop => stop,
        })?;
        let initrds = PathBuf::from(made.trim());
        let tree = initrds.with_extension("");
        let image = place.join("root.img");
        let digest = make_image(&support, &tree, &image, &secret_key)?;
        Ok(Debian { bench, tree, initrds, secret_key, public_key, image, digest })
    }

    /// The kernel of that name, with its modules.
    pub(super) fn kernel(&self, name: &str) -> Result<Kernel> {
        let list = self.tree.with_extension("kernels");
        let text = fs::read_to_string(&list).doing(format!("cannot read {}", list.display()))?;
        let found = text.lines().filter_map(|line| line.split_once(' '));
        let Some((_, release)) = found.into_iter().find(|(known, _)| *known == name) else {
            return failed(format!("{} has no kernel {name}", list.display()));
        };
        let modules = self.tree.join("usr/lib/modules").join(release);
        Ok(Kernel { release: release.to_owned(), image: modules.join("vmlinuz"), modules })
    }

    /// Flips a bit in a file of the image before it goes on a disk; returns the number of the block.
    pub(super) fn damage(&self, copy: &Path, file: &str) -> Result<BlockIndex> {
        crate::scene::damage(copy, self.digest, file)
    }

    /// A machine with a fresh data partition.
    pub(super) fn machine(&self, name: &str, kernel: &str, by: By) -> Result<DebianMachine<'_>> {
        let data = self.data(name)?;
        self.machine_of(&data, name, kernel, by)
    }

    /// What will be on a data partition: the image.
    pub(super) fn data(&self, name: &str) -> Result<PathBuf> {
        let data = self.bench.place.join(format!("{name}.data"));
        disk::directories(&data, &["images", "state"])?;
        let image = data.join("images/root.img");
        fs::copy(&self.image, &image).doing("cannot copy the image")?;
        Ok(data)
    }

    /// A machine whose data partition is made of a directory, which is gone then.
    pub(super) fn machine_of(
        &self,
        data: &Path,
        name: &str,
        kernel: &str,
        by: By,
    ) -> Result<DebianMachine<'_>> {
        let kernel_name = kernel;
        let kernel = self.kernel(kernel)?;
        let initrd = match by {
            By::Initrd(kind) => Some(self.initrds.join(format!("{kernel_name}.{kind}"))),
            By::Trampoline => {
                let keys = data.join("etc/ashlar/keys");
                disk::directories(&keys, &[""])?;
                fs::copy(&self.public_key, keys.join("maker.pub")).doing("cannot copy the key")?;
                run(Command::new(self.bench.programs.ashlar()?)
                    .args(["boot", "install", "--trampoline", "--root"])
                    .arg(data)
                    .arg("--modules")
                    .arg(&kernel.modules))?;
                None
            }
        };
        if let Some(initrd) = initrd.as_ref().filter(|initrd| !initrd.is_file()) {
            return failed(format!("there is no {}", initrd.display()));
        }
        let disk = self.bench.place.join(format!("{name}.disk"));
        fs::set_permissions(data, fs::Permissions::from_mode(0o755)).doing("cannot change mode")?;
        disk::make(data, &disk, "3G")?;
        fs::remove_dir_all(data).doing(format!("cannot remove {}", data.display()))?;
        Ok(DebianMachine {
            bench: self.bench,
            kernel,
            initrd,
            disk,
            network: false,
            work: Duration::ZERO,
        })
    }

    /// Makes the tree of the image once more, for images that differ from it; where it lies, links can be made to its files,
    /// so whoever changes one must put another in its place.
    pub(super) fn case_tree(&self, name: &str) -> Result<PathBuf> {
        let copy = self.tree.with_extension(name);
        case_tree(&self.tree, &copy)?;
        Ok(copy)
    }
}

fn support() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("support")
}

/// Makes the tree of which the image is made.
fn case_tree(tree: &Path, copy: &Path) -> Result<()> {
    let script = support().join("debian_case_tree.sh");
    run(Command::new(script).args([tree, copy]).arg("/bin/busybox"))?;
    let victim = copy.join(VICTIM.trim_start_matches('/'));
    fs::write(&victim, noise(4242, 200_000)).doing("cannot write a file")
}

/// Makes the image, unless nothing has changed since it was made.
fn make_image(support: &Path, tree: &Path, image: &Path, secret_key: &Path) -> Result<Digest> {
    let script = support.join("debian_case_tree.sh");
    let guest = support.with_file_name("guest").join("debian");
    // This program is the builder, too.
    let builder = std::env::current_exe().doing("cannot find this program")?;
    let recipe = run(Command::new("sh")
        .args(["-c", r#"cat "$0" "$1" "$2"/* | sha256sum"#])
        .args([&script, &builder, &guest]))?;
    let initrds = tree.with_extension("initrds").join("recipe");
    let initrds = fs::read_to_string(&initrds).doing("cannot read the recipe of the initrds")?;
    let recipe = format!("{} {}", recipe.trim(), initrds.trim());
    let made = image.with_extension("made");
    if let Some((digest, of)) = fs::read_to_string(&made).unwrap_or_default().split_once('\n')
        && of.trim_end() == recipe
        && image.exists()
    {
        return digest.parse().doing("cannot read the digest of the image");
    }
    for old in [&made, image] {
        drop(fs::remove_file(old));
    }

    // Beside the tree, for links are made to its files.
    let copy = tree.with_extension("case");
    case_tree(tree, &copy)?;
    let mut words = vec!["mkimage".into(), "--quiet".into(), "--root-image".into()];
    words.extend(["-z", "zstd,3", "--sign-key"].map(Into::into));
    words.extend([secret_key, &copy, image].map(|path| path.as_os_str().to_owned()));
    let summary = ashlarfs_mkimage::run(words)
        .map_err(|failure| Stop::Failed(format!("mkimage: {}", failure.message)))?;
    fs::remove_dir_all(&copy).doing(format!("cannot remove {}", copy.display()))?;
    fs::write(&made, format!("{}\n{recipe}\n", summary.root_digest))
        .doing("cannot write a file")?;
    summary.root_digest.parse().doing("mkimage said no digest")
}

/// A machine that can be booted again and again.
#[derive(Debug)]
pub(super) struct DebianMachine<'a> {
    bench: &'a Bench<'a>,
    kernel: Kernel,
    initrd: Option<PathBuf>,
    /// Its disk, the data partition.
    pub disk: PathBuf,
    /// Whether it has a network card.
    pub network: bool,
    /// How long it is at work beside what any boot does.
    pub work: Duration,
}

/// What a boot is to come to, and who is at the console: see [`Machine`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub panic: &'static str,
    pub typed: &'static [Answer],
    pub hang: Option<(&'static str, Duration)>,
}

impl Attempt {
    /// To its end, and nobody is there.
    pub(super) const BOOT: Attempt = Attempt { panic: PANIC_ENDS, typed: &[], hang: None };
}

/// How a boot went.
#[derive(Debug)]
pub(super) struct Boot {
    /// What was said.
    pub console: Console,
    /// From the kernel's start to multi-user.target, by the machine's clock.
    pub multi_user_ms: u64,
    /// From systemd's start to multi-user.target.
    pub systemd_ms: u64,
    /// From the wish to stop to the kernel's last word.
    pub shutdown_ms: u64,
}

impl DebianMachine<'_> {
    /// Boots it as [`MERGED`] has it: see [`DebianMachine::boot_as`].
    pub(super) fn boot(&self, words: &str) -> Result<Boot> {
        self.boot_as(MERGED, words)
    }

    /// Boots it to multi-user.target, lets it do what `words` on the kernel's command line ask for, and holds that all went
    /// well: the system runs without a failed unit, stops in time, and leaves the data partition clean.
    pub(super) fn boot_as(&self, image: &str, words: &str) -> Result<Boot> {
        let end = if self.bench.wishes.shell { "vm.end=stay" } else { "" };
        let name = self.bench.name;
        let console = self.run(&format!("{image} vm.case={name} {words} {end}"), &Attempt::BOOT)?;
        let ending =
            if words.contains("vm.end=reboot") { "Restarting system" } else { "Power down" };
        console.ended_well()?.spoke(&format!("ok {name}"))?.spoke("state running")?;
        console.says(&["reboot:", ending])?.never_says("Failed unmounting")?;
        let shutdown_ms = shutdown(&console, ending)?;
        if shutdown_ms > SHUTDOWN_LIMIT_MS {
            return console.fail(format!("the shutdown took {shutdown_ms} ms"));
        }
        self.check_disk()?;
        let boot = Boot {
            multi_user_ms: number(&console, "times ", "multi-user=")?,
            systemd_ms: number(&console, "times ", "systemd=")?,
            shutdown_ms,
            console,
        };
        println!(
            "    {name}: Linux {}, multi-user.target after {:.1} s ({:.1} s of systemd), stopped in {:.1} s, {:.0} s in all",
            self.kernel.release,
            seconds(boot.multi_user_ms),
            seconds(boot.systemd_ms),
            seconds(boot.shutdown_ms),
            boot.console.took.as_secs_f64(),
        );
        Ok(boot)
    }

    /// Runs it to its end, or until it stands still, whatever comes of it.
    pub(super) fn run(&self, words: &str, attempt: &Attempt) -> Result<Console> {
        let init = if self.initrd.is_none() { "init=/ashlar/init rootwait" } else { "" };
        self.bench.boot(&Machine {
            kernel: &self.kernel,
            initramfs: self.initrd.as_deref(),
            disks: vec![&self.disk],
            writes: &Writes::Kept,
            append: format!("root=/dev/nvme0n1 rootfstype=ext4 {init} {words}"),
            panic: attempt.panic,
            typed: attempt.typed,
            memory: 1024,
            network: self.network,
            limit: LIMIT.saturating_add(self.work),
            hang: attempt.hang,
        })
    }

    /// Holds that the data partition was left clean.
    pub(super) fn check_disk(&self) -> Result<()> {
        disk::check(&self.disk)
    }

    /// Makes room: its disk is needed no more.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_file(&self.disk).doing(format!("cannot remove {}", self.disk.display()))
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// Milliseconds between `ending`, which the guest says with its uptime, and the kernel's last word, which bears its own.
fn shutdown(console: &Console, ending: &str) -> Result<u64> {
    let wished = number(console, "ending ", "ending ")?;
    let line = console.text.lines().find(|line| line.contains("reboot:") && line.contains(ending));
    let stamp = line
        .and_then(|line| line.rsplit_once('[')?.1.split_once(']')?.0.trim().parse::<f64>().ok())
        .map(Duration::from_secs_f64);
    match stamp {
        Some(stamp) => {
            Ok(u64::try_from(stamp.as_millis()).unwrap_or(u64::MAX).saturating_sub(wished))
        }
        None => console.fail("the kernel's last word bears no time"),
    }
}

/// The number behind `key` in the line that the guest began with `begin`.
pub(super) fn number(console: &Console, begin: &str, key: &str) -> Result<u64> {
    let begin = format!("{}{begin}", crate::qemu::SPOKEN);
    let line = console.text.lines().find_map(|line| line.find(&begin).map(|at| &line[at..]));
    let number = line
        .and_then(|line| line.split_once(key))
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>())
        .and_then(|digits| digits.parse().ok());
    match number {
        Some(number) => Ok(number),
        None => console.fail(format!("the guest did not say `{begin}…{key}NUMBER`")),
    }
}

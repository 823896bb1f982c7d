//! What does a small machine consist of? A tree of busybox in an image, the image on a data partition, an initramfs.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ashlarfs::format::index::BlockIndex;
use ashlarfs::fs::file::Place;
use ashlarfs::{Anchor, Digest, Options};

use crate::bench::Bench;
use crate::disk::{self, FileSystem};
use crate::initramfs::Initramfs;
use crate::kernel::Kernel;
use crate::keys;
use crate::noise::{FRESH_COUNT, FRESH_LEN, noise};
use crate::outcome::{Doing, Result, Stop, failed, run};
use crate::programs::Programs;
use crate::qemu::{Console, Machine, PANIC_ENDS, Writes};
use crate::tree::Tree;
use crate::typist::Answer;

/// When a machine that only runs busybox is ended: many times what it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// `cap_sys_nice` in the effective and the permitted set, as the kernel keeps it in `security.capability`.
const CAP_SYS_NICE: &[u8] = &[1, 0, 0, 2, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// `user::rw-,user:1000:r--,group::---,mask::r--,other::---`, as the kernel keeps it in `system.posix_acl_access`.
const ACL_USER_1000: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 0, 0, 255, 255,
    255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// What `/sbin/init` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    /// A shell script that checks what a root must be able to do.
    Checks,
    /// `vm-init`, which does what `vm.steps=` says.
    Steps,
}

/// The tree of a small root.
pub(crate) fn small_tree(bench: &Bench<'_>, init: Init) -> Result<Tree> {
    let mut tree = Tree::new()?;
    tree.directories(&[
        "bin", "boot", "content", "dev", "etc", "fresh", "home", "large", "links", "media", "mnt",
        "nodes", "opt", "probe", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr",
        "usr/bin", "var",
    ])?;
    let (busybox, names) = Programs::busybox()?;
    tree.file("bin/busybox", 0o755, &busybox)?;
    for name in names.iter().filter(|name| *name != "busybox") {
        tree.link(&format!("bin/{name}"), "busybox")?;
    }
    tree.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    tree.file("etc/os-release", 0o644, b"ID=ashlar-vm\nVERSION_ID=1\n")?;
    tree.file("etc/machine-id", 0o444, b"")?;

    // Asks the server what it was asked.
    tree.file("bin/ashlar", 0o755, &read(bench.programs.ashlar()?)?)?;
    let probe = read(bench.programs.vm_init()?)?;
    tree.file("bin/probe", 0o755, &probe)?;
    tree.file("probe/setuid", 0o4755, &probe)?;
    tree.file_with("probe/capable", 0o755, &probe, "security.capability", CAP_SYS_NICE)?;
    tree.file_with("probe/noted", 0o644, b"", "user.note", b"a note")?;
    tree.file_with("probe/acl", 0o640, b"secret\n", "system.posix_acl_access", ACL_USER_1000)?;
    tree.device("nodes/null", 0o666, 1, 3)?;
    tree.device("nodes/zero", 0o666, 1, 5)?;
    match init {
        Init::Checks => tree.file("sbin/init", 0o755, include_bytes!("../guest/init.sh"))?,
        Init::Steps => tree.file("sbin/init", 0o755, &probe)?,
    }

    for number in 0..FRESH_COUNT {
        tree.file(&format!("fresh/{number}"), 0o644, &noise(number, FRESH_LEN))?;
    }
    for number in 0..500 {
        tree.file(&format!("large/a file among many {number}"), 0o644, b"")?;
    }
    let mut sums = String::new();
    for number in 0..24 {
        let content = match number % 3 {
            0 => noise(1000 + number, 3000),
            1 => noise(1000 + number, 300_000),
            _ => format!("line of {number}\n").repeat(20_000).into_bytes(),
        };
        let name = format!("content/{number}");
        tree.file(&name, 0o644, &content)?;
        sums.push_str(&format!("{}  /{name}\n", sha256(bench, &content)?));
    }
    tree.file("content/SUMS", 0o644, sums.as_bytes())?;
    tree.file("links/near", 0o644, b"through a link\n")?;
    tree.link("links/far", "../links/./near")?;
    tree.hard_link("links/hard", "links/near")?;
    Ok(tree)
}

/// The digest that busybox's `sha256sum` finds, by the host's own program: somebody else's opinion.
fn sha256(bench: &Bench<'_>, content: &[u8]) -> Result<String> {
    let path = bench.place.join("content");
    fs::write(&path, content).doing("cannot write a file")?;
    let said = run(Command::new("sha256sum").arg(&path))?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).doing(format!("cannot read {}", path.display()))
}

/// Flips a bit in the first block of a file of an image; returns the number of the block.
pub(crate) fn damage(path: &Path, digest: Digest, file: &str) -> Result<BlockIndex> {
    let (block, offset) = first_block(path, digest, file)?;
    let mut bytes = read(path)?;
    let byte = usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at));
    *byte.ok_or(Stop::Failed("the image is too short".to_owned()))? ^= 1;
    fs::write(path, bytes).doing(format!("cannot write {}", path.display()))?;
    Ok(block)
}

/// The block in which a file of an image begins, and where that is in the image.
pub(crate) fn first_block(path: &Path, digest: Digest, file: &str) -> Result<(BlockIndex, u64)> {
    let doing = format!("cannot look into {}", path.display());
    let tree = ashlarfs::open(path, &Options::new(Anchor::RootDigest(digest))).doing(&doing)?;
    let index = tree.resolve(file.as_bytes()).doing(&doing)?;
    let place = match tree.file(index).doing(&doing)?.extents().next() {
        Some(extent) => extent.doing(&doing)?.place,
        None => return failed(format!("{file} is empty")),
    };
    let block = match place {
        Place::Blocks { first, .. } => first,
        Place::Tail { block, .. } => block,
        Place::Hole => return failed(format!("{file} starts with a hole")),
    };
    Ok((block, tree.store().entry(block).doing(&doing)?.offset))
}

/// A machine of which a case changes what it likes before it boots.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    bench: &'a Bench<'a>,
    /// What it runs.
    pub kernel: Kernel,
    /// What will be on the data partition.
    pub data: PathBuf,
    /// The program in the initramfs.
    pub ashlar: PathBuf,
    /// Public keys in the initramfs, by their names.
    pub keys: Vec<(String, Vec<u8>)>,
    /// Further files in the initramfs, which may be programs.
    pub more: Vec<(String, Vec<u8>)>,
    /// The file system of the data partition.
    pub file_system: FileSystem,
    /// Kernel modules in the initramfs, where they are modules, in the order in which they are loaded.
    pub modules: &'static [&'static str],
    /// What becomes of what is written to the disk.
    pub writes: Writes,
    /// How large the disk is, as mkfs takes it.
    pub size: &'static str,
    /// What a panic is: a word of the kernel's command line, or none.
    pub panic: &'static str,
    /// What is typed on its console, and when.
    pub typed: &'static [Answer],
    /// When a machine is ended.
    pub limit: Duration,
    /// Whether there is an initramfs, or the kernel mounts the data partition and starts `/ashlar/init` on it.
    pub has_initramfs: bool,
    disk: OnceCell<PathBuf>,
}

impl<'a> Scene<'a> {
    /// A machine with nothing but an empty data partition.
    pub(crate) fn new(bench: &'a Bench<'a>, kernel: &str) -> Result<Self> {
        let data = bench.place.join("data");
        disk::directories(&data, &["images", "state", "var"])?;
        Ok(Scene {
            bench,
            kernel: bench.kernel(kernel)?,
            data,
            ashlar: bench.programs.ashlar()?.to_owned(),
            keys: Vec::new(),
            more: Vec::new(),
            file_system: FileSystem::Ext4,
            modules: &["fuse", "overlay"],
            writes: Writes::Kept,
            size: "128M",
            panic: PANIC_ENDS,
            typed: &[],
            limit: LIMIT,
            has_initramfs: true,
            disk: OnceCell::new(),
        })
    }

    /// The machine of most cases: `root.img`, signed by a key that the initramfs knows.
    pub(crate) fn with_root(bench: &'a Bench<'a>, kernel: &str, init: Init) -> Result<Self> {
        let mut scene = Scene::new(bench, kernel)?;
        let secret = scene.trust("maker")?;
        scene.image("root", small_tree(bench, init)?, Some(&secret))?;
        Ok(scene)
    }

    /// A new key: the path of the secret one, and of the public one.
    pub(crate) fn key(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let secret = self.bench.place.join(name);
        let public = keys::generate(&secret)?;
        Ok((secret, public))
    }

    /// A new key whose public part the initramfs knows; returns the path of the secret one.
    pub(crate) fn trust(&mut self, name: &str) -> Result<PathBuf> {
        let (secret, public) = self.key(name)?;
        self.keys.push((format!("{name}.pub"), read(&public)?));
        Ok(secret)
    }

    /// Puts an image on the data partition, signed where there is a key.
    pub(crate) fn image(&self, name: &str, tree: Tree, key: Option<&Path>) -> Result<Digest> {
        self.image_of_version(0, name, tree, key)
    }

    /// The same with a version, by which the newest is found.
    pub(crate) fn image_of_version(
        &self,
        version: u64,
        name: &str,
        tree: Tree,
        key: Option<&Path>,
    ) -> Result<Digest> {
        let image = self.image_path(name);
        // Nothing is shared between files: a damaged block hits one.
        let mut options = vec!["--block-size".to_owned(), "16K".to_owned()];
        options.extend(["--image-version".to_owned(), version.to_string()]);
        if let Some(key) = key {
            options.extend(["--sign-key".to_owned(), key.display().to_string()]);
        }
        tree.image(&image, &options)
    }

    /// Where an image lies before the disk is made.
    pub(crate) fn image_path(&self, name: &str) -> PathBuf {
        self.data.join("images").join(format!("{name}.img"))
    }

    /// Flips a bit in the first block of a file of an image; returns the number of the block.
    pub(crate) fn damage(&self, image: &str, digest: Digest, file: &str) -> Result<BlockIndex> {
        damage(&self.image_path(image), digest, file)
    }

    /// Boots it with words on the kernel's command line, to its end.
    pub(crate) fn boot(&self, append: &str) -> Result<Console> {
        self.boot_until(append, None)
    }

    /// The same, where it is to stand still after words on its console.
    pub(crate) fn boot_until(
        &self,
        append: &str,
        hang: Option<(&str, Duration)>,
    ) -> Result<Console> {
        let disk = self.disk()?;
        let shell = if self.bench.wishes.shell { "vm.shell=init" } else { "" };
        let file_system = self.file_system.name();
        let mut append =
            format!("vm.case={} vm.fs={file_system} {shell} {append}", self.bench.name);
        let initramfs = self.bench.place.join("initramfs.cpio");
        if self.has_initramfs {
            self.initramfs()?.write(&initramfs)?;
        } else {
            append =
                format!("root=/dev/nvme0n1 rootfstype=ext4 rootwait rw init=/ashlar/init {append}");
        }
        self.bench.boot(&Machine {
            kernel: &self.kernel,
            initramfs: self.has_initramfs.then_some(&initramfs),
            disks: vec![disk],
            writes: &self.writes,
            append,
            panic: self.panic,
            typed: self.typed,
            memory: 1024,
            network: false,
            limit: self.limit,
            hang,
        })
    }

    /// Holds that the data partition is whole, and was left as it should be.
    pub(crate) fn check_disk(&self) -> Result<()> {
        disk::check_as(self.file_system, self.disk()?)
    }

    /// The disk, made of [`Scene::data`] when it is first needed.
    pub(crate) fn disk(&self) -> Result<&Path> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        if !self.has_initramfs {
            self.add_trampoline()?;
        }
        let disk = self.bench.place.join("disk.img");
        match self.file_system {
            FileSystem::Ext4 => disk::make(&self.data, &disk, self.size)?,
            FileSystem::Btrfs => disk::make_btrfs(&self.data, &disk, self.size)?,
        }
        Ok(self.disk.get_or_init(|| disk))
    }

    /// What the data partition needs where the kernel starts from it.
    fn add_trampoline(&self) -> Result<()> {
        disk::directories(
            &self.data,
            &["ashlar", "dev", "proc", "sys", "run", "newroot", "etc/ashlar/keys"],
        )?;
        let init = self.data.join("ashlar/init");
        fs::copy(&self.ashlar, &init).doing("cannot copy the program")?;
        for (name, key) in &self.keys {
            fs::write(self.data.join("etc/ashlar/keys").join(name), key)
                .doing("cannot write a key")?;
        }
        for module in self.modules {
            if let Some(path) = self.kernel.module_path(module)? {
                let below = path.strip_prefix(&self.kernel.modules).unwrap_or(&path);
                let copy = self.data.join("lib/modules").join(&self.kernel.release).join(below);
                disk::directories(copy.parent().unwrap_or(&copy), &[""])?;
                fs::copy(&path, &copy).doing("cannot copy a module")?;
            }
        }
        Ok(())
    }

    fn initramfs(&self) -> Result<Initramfs> {
        let mut archive = Initramfs::new();
        let (busybox, _) = Programs::busybox()?;
        archive.file("bin/busybox", 0o755, &busybox);
        archive.file("bin/ashlar", 0o755, &read(&self.ashlar)?);
        archive.file("bin/vm-init", 0o755, &read(self.bench.programs.vm_init()?)?);
        archive.file("init", 0o755, include_bytes!("../guest/initramfs.sh"));
        for (name, key) in &self.keys {
            archive.file(&format!("etc/ashlar/keys/{name}"), 0o644, key);
        }
        for (path, content) in &self.more {
            archive.file(path, 0o755, content);
        }
        for (number, module) in self.modules.iter().enumerate() {
            if let Some(bytes) = self.kernel.module(module)? {
                archive.file(&format!("modules/{number}-{module}.ko"), 0o644, &bytes);
            }
        }
        Ok(archive)
    }
}

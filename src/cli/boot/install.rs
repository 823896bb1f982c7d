//! `ashlar boot install`: the files of an initramfs and of the system are written, and taken away again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::cli::{Failure, Outcome, say};
use crate::integration::obstacle::Obstacle;
use crate::integration::work::{self, Action, Step, Wanted, Work};
use crate::integration::{
    DATA_DIRECTORIES, INIT, KEYS, PROGRAM, Part, modules, parts_for, program,
};
use crate::trust;

/// This program.
const OWN_PROGRAM: &str = "/proc/self/exe";
const PROGRAM_MODE: u32 = 0o755;
const KEY_MODE: u32 = 0o644;

/// For what: the same for `install` and `uninstall`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct PartArgs {
    /// Hook and script for initramfs-tools (Debian, Ubuntu)
    #[arg(long)]
    initramfs_tools: bool,
    /// Module for dracut (Fedora, SUSE and others)
    #[arg(long)]
    dracut: bool,
    /// Hooks for mkinitcpio (Arch)
    #[arg(long)]
    mkinitcpio: bool,
    /// Units for an initramfs in which systemd runs, and a generator for the system
    #[arg(long)]
    systemd: bool,
    /// SELinux policy module, to be loaded with semodule
    #[arg(long)]
    selinux: bool,
    /// No initramfs: the program as init on the data partition, which is mounted at --root
    #[arg(long, requires = "root", conflicts_with_all = ["initramfs_tools", "dracut", "mkinitcpio", "systemd", "selinux"])]
    trampoline: bool,
    /// The tree to work in
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Show what was done as JSON
    #[arg(long)]
    json: bool,
}

impl PartArgs {
    fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new("/"))
    }

    fn asked(&self) -> BTreeSet<Part> {
        let asked = [
            (self.initramfs_tools, Part::InitramfsTools),
            (self.dracut, Part::Dracut),
            (self.mkinitcpio, Part::Mkinitcpio),
            (self.systemd, Part::Systemd),
            (self.selinux, Part::Selinux),
            (self.trampoline, Part::Trampoline),
        ];
        asked.into_iter().filter(|(asked, _)| *asked).map(|(_, part)| part).collect()
    }

    /// Shows what was done. Directories and what was as it should be are told of only where they say something.
    fn report(&self, parts: &BTreeSet<Part>, steps: &[Step], next: &[String]) -> Outcome {
        let names: Vec<_> = parts.iter().map(|part| part.name()).collect();
        if self.json {
            let steps: Vec<_> = steps
                .iter()
                .map(|step| serde_json::json!({ "path": format!("/{}", step.path), "action": step.action.name() }))
                .collect();
            let report = serde_json::json!({
                "root": self.root(), "parts": names, "dry_run": self.dry_run, "steps": steps, "next": next,
            });
            say(&format!("{report:#}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = format!("parts: {}\n", names.join(", "));
        for step in steps {
            let shown = self.root().join(&step.path);
            let line = format!("{:9} {}", step.action.name(), shown.display());
            text.push_str(&line);
            text.push_str(if step.action == Action::Keep {
                " (changed since it was written)\n"
            } else {
                "\n"
            });
        }
        if self.dry_run {
            text.push_str("nothing was done: this was to show it\n");
        }
        for next in next {
            text.push_str("next: ");
            text.push_str(next);
            text.push('\n');
        }
        say(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `ashlar boot install`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a part named, the files go to whatever is found in the tree: initramfs-tools, dracut, mkinitcpio, systemd.
Doing it again changes nothing. Who makes an image of a tree installs into the tree first: --root TREE.")]
pub(super) struct InstallArgs {
    #[command(flatten)]
    parts: PartArgs,
    /// The static program that goes into the initramfs [default: this program]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Take a program that needs libraries, too
    #[arg(long)]
    allow_dynamic: bool,
    /// Public key (minisign) by which images must be signed; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "trampoline")]
    key: Vec<PathBuf>,
    /// Kernel modules for the data partition, of a kernel that has not all built in: /usr/lib/modules/VERSION
    #[arg(long, value_name = "DIR", requires = "trampoline")]
    modules: Vec<PathBuf>,
    /// Overwrite files that somebody else wrote
    #[arg(long)]
    force: bool,
}

/// Arguments of `ashlar boot uninstall`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a part named, all of them. Only what was installed and not changed since is removed.")]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    parts: PartArgs,
}

impl From<Obstacle> for Failure {
    fn from(obstacle: Obstacle) -> Self {
        let failure = Failure::new(&obstacle);
        match obstacle.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Runs `install`.
pub(super) fn install(args: &InstallArgs) -> Outcome {
    let is_data = args.parts.trampoline;
    let work = Work::open(args.parts.root(), is_data)?;
    let mut parts = args.parts.asked();
    if parts.is_empty() {
        parts.extend(parts_for(work.place()));
    }
    if parts.is_empty() {
        let found = format!("nothing in {} makes an initramfs", args.parts.root().display());
        return Err(Failure::new(found)
            .hint("name what to install: --initramfs-tools, --dracut, --mkinitcpio, --systemd or --trampoline"));
    }
    let binary = args.binary.as_deref().unwrap_or(Path::new(OWN_PROGRAM));
    let program = program::read(binary, args.allow_dynamic)?;
    let mut wanted = work::carried(&parts);
    let mut directories = Vec::new();
    if is_data {
        wanted.push(Wanted::file(INIT, Part::Trampoline, PROGRAM_MODE, program));
        wanted.extend(data_modules(&args.modules)?);
        directories.extend(DATA_DIRECTORIES);
    } else {
        parts.insert(Part::Program);
        wanted.push(Wanted::file(PROGRAM, Part::Program, PROGRAM_MODE, program));
        wanted.extend(keys(&args.key)?);
    }
    let steps = work.install(&wanted, &directories, args.force, args.parts.dry_run)?;
    args.parts.report(&parts, &steps, &next(&parts))
}

/// What the initramfs shall hold images against.
fn keys(paths: &[PathBuf]) -> Result<Vec<Wanted>, Failure> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for path in paths {
        trust::read_key(path)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("key.pub");
        let name = name.strip_suffix(".pub").unwrap_or(name);
        let content = std::fs::read(path)
            .map_err(|err| Failure::new(format!("cannot read key {}: {err}", path.display())))?;
        let installed = format!("{KEYS}/{name}.pub");
        if wanted.iter().any(|other| other.path == installed) {
            return Err(Failure::new(format!("two keys are called {name}.pub"))
                .hint("one would replace the other: rename one of the files"));
        }
        wanted.push(Wanted::file(installed, Part::Program, KEY_MODE, content));
    }
    Ok(wanted)
}

/// Modules that the program loads itself, where there is no initramfs to do it.
fn data_modules(directories: &[PathBuf]) -> Result<Vec<Wanted>, Failure> {
    let mut wanted = Vec::new();
    for directory in directories {
        let whole = directory
            .canonicalize()
            .map_err(|err| Failure::new(format!("cannot find {}: {err}", directory.display())))?;
        let version = whole.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for (path, content) in modules::needed(&whole)? {
            let path = format!("lib/modules/{version}/{path}");
            wanted.push(Wanted::file(path, Part::Trampoline, KEY_MODE, content));
        }
    }
    Ok(wanted)
}

/// What is left to a person to do.
fn next(parts: &BTreeSet<Part>) -> Vec<String> {
    let of_part = |part: &Part| match part {
        Part::InitramfsTools => "update-initramfs -u -k all",
        Part::Dracut => "dracut --force --regenerate-all",
        Part::Mkinitcpio => {
            "put `ashlar` behind `filesystems` in HOOKS of /etc/mkinitcpio.conf, then mkinitcpio -P"
        }
        Part::Selinux => "semodule --install /usr/share/ashlar/selinux/ashlar.cil",
        Part::Trampoline => {
            "kernel command line: root=PARTUUID=… rootwait ro init=/ashlar/init ashlar=IMAGE (the kernel alone knows no UUID= and no LABEL=)"
        }
        Part::Program | Part::Systemd => "",
    };
    let mut next: Vec<_> = parts.iter().map(of_part).map(str::to_owned).collect();
    if !parts.contains(&Part::Trampoline) {
        next.push("kernel command line: root=UUID=… (the data partition) ashlar=IMAGE".to_owned());
    }
    next.retain(|next| !next.is_empty());
    next
}

/// Runs `uninstall`.
pub(super) fn uninstall(args: &UninstallArgs) -> Outcome {
    let work = Work::open(args.parts.root(), args.parts.trampoline)?;
    let mut parts = args.parts.asked();
    if parts.is_empty() {
        parts.extend(Part::ALL.iter().filter(|part| **part != Part::Trampoline));
    }
    let steps = work.uninstall(&parts, args.parts.dry_run)?;
    args.parts.report(&parts, &steps, &[])
}

//! How does `/` come to be? From the kernel's command line to a mounted root, one step a line.
//!
//! It runs once, in an initramfs or as the first program of all, when the data partition is mounted. Until the last step
//! nothing that was there is changed: where it fails, the initramfs still has what it had.

pub mod choose;
pub mod cmdline;
pub mod config;
pub mod control;
pub mod data;
mod extension;
pub mod handover;
mod hook;
pub mod hygiene;
pub mod kmsg;
pub mod layers;
mod modules;
pub mod mounts;
pub mod needs;
mod overlay;
pub mod patience;
mod places;
pub mod report;
mod resume;
pub mod server;
pub mod slots;
pub mod start;
pub mod trampoline;
pub mod workspace;

use std::fmt;
use std::io;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::format::digest::Digest;
use crate::fuse::mount::MountError;
use crate::state;
use choose::{Candidate, Chosen, Keys};
use cmdline::{BootArgs, Break, Wanted};
use config::Config;
use data::Data;
use patience::Patience;
use report::{Refused, Report};
use slots::Slots;
use workspace::Workspace;

/// Where the initramfs keeps public keys, `*.pub`.
pub const KEYS: &str = "/etc/ashlar/keys";

/// Why the root could not be set up.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failed {
    /// A failure without a hint.
    pub fn new(message: impl fmt::Display) -> Self {
        Failed { message: message.to_string(), hint: None }
    }

    /// What the system said to an attempt.
    #[expect(clippy::needless_pass_by_value, reason = "it takes what `map_err` gives")]
    pub fn io(doing: impl fmt::Display, err: io::Error) -> Self {
        Failed::new(format_args!("{doing}: {err}"))
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

impl From<Error> for Failed {
    fn from(err: Error) -> Self {
        Failed { message: err.to_string(), hint: err.hint().map(str::to_owned) }
    }
}

impl From<MountError> for Failed {
    fn from(err: MountError) -> Self {
        Failed { message: err.to_string(), hint: err.hint().map(str::to_owned) }
    }
}

/// What the machine starts with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the data partition is mounted now, and the root will be.
    pub newroot: PathBuf,
    /// The first program. When nothing is said here, it is what `init=` of the kernel command line names.
    pub init: Option<String>,
}

/// Replaces the data partition by an image, if the kernel command line asks for one. `None` when it does not.
pub fn setup(setup: &Setup) -> Result<Option<Report>, Failed> {
    let text = cmdline::read()
        .map_err(|err| Failed::io("cannot read /proc/cmdline", err).hint("mount proc first"))?;
    let Some(args) = BootArgs::parse(&text).map_err(Failed::new)? else { return Ok(None) };
    let level = if args.debug {
        tracing::level_filters::LevelFilter::DEBUG
    } else {
        tracing::level_filters::LevelFilter::INFO
    };
    kmsg::start(level, true);
    for odd in &args.odd {
        tracing::warn!("kernel command line: {odd}");
    }
    shell_if(&args, Break::Setup);
    let workspace = Workspace::create()?;
    let result = in_workspace(setup, &args, &workspace);
    match &result {
        Ok(report) => {
            report.write();
            shell_if(&args, Break::Switch);
        }
        Err(failed) => {
            tracing::error!("{failed}");
            workspace.remove();
        }
    }
    result.map(Some)
}

/// Everything that a root is made from, but the image.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The first program.
    pub init: &'a str,
    /// The kernel command line.
    pub args: &'a BootArgs,
    /// Where the root is put together.
    pub workspace: &'a Workspace,
    /// The data partition.
    pub data: &'a Data,
    /// The keys by which images must be signed.
    pub keys: &'a Keys,
    /// Why nothing that was kept may be used: it should have been forgotten, and that failed.
    pub unusable: Option<&'a Failed>,
    /// How long images may take to be served, all together.
    pub patience: Patience,
}

/// The same, when there is a place for everything. What is mounted in it is the caller's to take away.
fn in_workspace(setup: &Setup, args: &BootArgs, workspace: &Workspace) -> Result<Report, Failed> {
    let data = Data::take(&setup.newroot, workspace.data())?;
    let was_read_only = data::is_read_only(&data.path);
    let keys = Keys::collect(Path::new(KEYS), &args.keys);
    let unusable = reset_if_asked(args, &data).err();
    let init = setup.init.as_deref().or(args.init.as_deref()).unwrap_or(needs::INIT);
    let site = Site {
        init,
        args,
        workspace,
        data: &data,
        keys: &keys,
        unusable: unusable.as_ref(),
        patience: Patience::begin(),
    };
    let booted = boot_one_of(&site, &setup.newroot);
    // As it was found.
    if booted.is_err()
        && was_read_only
        && !data::is_read_only(&data.path)
        && let Err(failed) = data.make_read_only()
    {
        tracing::warn!("{failed}");
    }
    booted
}

/// Boots the first image that can be.
fn boot_one_of(site: &Site<'_>, newroot: &Path) -> Result<Report, Failed> {
    let Site { args, workspace, data, .. } = *site;
    let mut slots = Slots::begin(data, args);
    let candidates = choose::candidates(&data.path, args, site.keys, &slots)?;
    // What it took to look for them is not taken from what serving them may take.
    let site = &Site { patience: Patience::begin(), ..*site };
    let mut refused = Vec::new();
    let mut tried: Vec<PathBuf> = Vec::new();
    if let Some(missing) = candidates.missing {
        tracing::error!("{missing}");
        refused.push(Refused {
            image: args.wanted.to_string(),
            why: missing.message,
            hint: missing.hint,
        });
    }
    for candidate in candidates.images {
        if let Err(failed) = site.patience.left() {
            tracing::error!("{failed}: no further image is tried");
            let image = choose::shown(&data.path, &candidate.path);
            refused.push(Refused { image, why: failed.message, hint: failed.hint });
            break;
        }
        match boot_from(&candidate, site) {
            Ok(None) => {}
            Ok(Some(mut report)) => {
                // Where no image can be booted, none of them may be at fault: the kernel lacks FUSE, say.
                for path in &tried {
                    slots.refuse(path, data);
                }
                layers::replace(newroot, workspace)?;
                report.slot = slots.slot_of(&report.root_digest, refused.is_empty());
                report.refused = refused;
                return Ok(report);
            }
            Err(failed) => {
                let image = choose::shown(&data.path, &candidate.path);
                tracing::error!("{image} is refused: {failed}");
                tried.push(candidate.path);
                refused.push(Refused { image, why: failed.message, hint: failed.hint });
                workspace.clear();
            }
        }
    }
    Err(match refused.into_iter().next() {
        Some(Refused { image, why, hint }) => {
            Failed { message: format!("no image can be booted; {image}: {why}"), hint }
        }
        None => Failed::new("no image can be booted"),
    })
}

/// Makes the root of one image, with everything that lies over it, in the workspace. `None` for what is no root, and was not
/// asked for.
fn boot_from(candidate: &Candidate, site: &Site<'_>) -> Result<Option<Report>, Failed> {
    let chosen = choose::open(candidate, site.args, site.keys)?;
    if site.args.wanted == Wanted::Any && choose::is_extension(&chosen.tree) {
        tracing::debug!("{} is no root", chosen.path.display());
        return Ok(None);
    }
    let (config, pins) = config(site.args, site.data, &chosen);
    layers::build(&chosen, &config.modes(), &pins, site).map(Some)
}

/// Forgets everything, if somebody asked for it. When that fails, nothing of it must be used, and the next boot tries again.
fn reset_if_asked(args: &BootArgs, data: &Data) -> Result<(), Failed> {
    if !args.reset && !state::reset::is_asked(&data.path) {
        return Ok(());
    }
    tracing::warn!("factory reset: everything is forgotten but images and configuration");
    data.make_writable()?;
    state::reset::factory_reset(&data.path)?;
    Ok(())
}

/// What everybody says about the state: the image, the initramfs, the data partition, somebody's own program, the
/// kernel command line.
///
/// The data partition's word is nobody's word: whoever needs to be sure seals the rest and says `ashlar.config=no`. So a
/// digest there names an extension, and does not vouch for it; those that do are returned, too.
fn config(args: &BootArgs, data: &Data, chosen: &Chosen) -> (Config, Vec<Digest>) {
    let below = chosen.config().overruled_by(data::read_config(Path::new(data::CONFIG_IN_ROOT)));
    let above = hook::ask(chosen).overruled_by(args.config.clone());
    let pins = below.clone().overruled_by(above.clone()).extension_digests();
    let file = if args.use_file { data.config() } else { Config::default() };
    (below.overruled_by(file).overruled_by(above), pins)
}

/// Gives a person a shell, where one was asked for and may be given.
fn shell_if(args: &BootArgs, at: Break) {
    if args.break_at != Some(at) {
        return;
    }
    if args.panic {
        tracing::warn!("no shell, because `panic=` is on the kernel command line");
        return;
    }
    if !io::stdin().is_terminal() {
        tracing::warn!("no shell, because standard input is no terminal");
        return;
    }
    tracing::warn!("a shell, because `ashlar.break` asks for one; `exit` goes on");
    if let Err(err) = Command::new("/bin/sh").status() {
        tracing::warn!("cannot start /bin/sh: {err}");
    }
}

//! `ashlar boot`: an image becomes the root of this machine.

mod install;
mod status;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Failure, Outcome};
use crate::boot::server::ServerArgs;
use crate::boot::{self, Failed, Setup, handover};
use crate::format::digest::Digest;
use crate::heal::corruption::OnCorruption;

/// Arguments of `ashlar boot`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct BootArgs {
    #[command(subcommand)]
    command: BootCommand,
}

const AFTER_HELP: &str = "\
The kernel command line says what is booted:
  ashlar[=[?]NAME|DIGEST]   the image, by its name on the data partition or by its root digest, which it then must have;
                            `ashlar` alone takes root.img, or the newest that authenticates. With `?` an image that nothing
                            vouches for is booted, too
  ashlar.key=BASE64         a minisign public key, besides those in the initramfs (/etc/ashlar/keys/*.pub)
  ashlar.roothash=HEX       the root digest that the image called NAME must have
  ashlar.slot=current|previous|next
  ashlar.fallback=no        do not try other images when this one fails
  ashlar.overlay=no|tmpfs[:size=SIZE]|persistent|persistent-clear|persistent-move
  ashlar.etc=ro|merge|transient|overlay    ashlar.var=bind|transient|ro
  ashlar.state-overlay=/opt,…    ashlar.bind=/etc/hostname,…
  ashlar.extension=NAME,…        ashlar.extension-override=NAME,…
  ashlar.on-corruption=eio|heal|restart|panic    of bytes that are not what was sealed: an error, another copy, or else
                            the end of the machine
  ashlar.config=no          ignore ashlar.toml of the data partition
  ashlar.io-timeout=SECONDS answer with an error when the disk has not answered for so long
  ashlar.takeover=no        no second process keeps the server alive
  ashlar.reset              forget everything but images and configuration
  ashlar.confine=no         let the server keep its capabilities, and all system calls
  ashlar.break[=setup|switch]    ashlar.debug";

#[derive(Debug, Subcommand)]
enum BootCommand {
    /// In an initramfs: replace the mounted data partition by the image that the kernel command line asks for
    Setup(SetupArgs),
    /// Write the files by which an initramfs and the system boot from an image
    Install(install::InstallArgs),
    /// Remove what `install` wrote
    Uninstall(install::UninstallArgs),
    /// Show what this system was booted from
    Status(status::StatusArgs),
    /// Switch the overlay of the root on again, from the next boot on
    Enable,
    /// Switch the overlay of the root off, from the next boot on
    Disable,
    /// Forbid changes to the overlay of the root until the next boot
    Lock,
    /// Allow them again
    Unlock,
    /// Forget everything but images and configuration at the next boot
    Reset,
    /// Serve an image until the machine ends
    #[command(hide = true)]
    Serve(ServeArgs),
}

/// Arguments of `ashlar boot setup`.
#[derive(Debug, Args)]
struct SetupArgs {
    /// Move /dev, /proc, /sys and /run there, too, make it the root, and start its first program
    #[arg(long)]
    switch_root: bool,
    /// The first program of the image [default: what init= names, or /sbin/init]
    #[arg(long, value_name = "PATH")]
    init: Option<String>,
    /// Where the data partition is mounted, and where the root shall be
    newroot: PathBuf,
}

/// Arguments of `ashlar boot serve`.
#[derive(Debug, Args)]
struct ServeArgs {
    #[arg(long)]
    image: PathBuf,
    #[arg(long)]
    root_digest: Digest,
    #[arg(long)]
    voucher: String,
    #[arg(long)]
    mountpoint: PathBuf,
    #[arg(long)]
    source: PathBuf,
    #[arg(long)]
    empty: PathBuf,
    #[arg(long)]
    init: Option<String>,
    #[arg(long)]
    record_trace: Option<PathBuf>,
    #[arg(long)]
    takeover: bool,
    #[arg(long, default_value_t = 0)]
    io_timeout: u64,
    #[arg(long)]
    on_corruption: OnCorruption,
    #[arg(long)]
    unconfined: bool,
    #[arg(long)]
    without: Vec<String>,
}

impl ServeArgs {
    fn into_server_args(self) -> ServerArgs {
        ServerArgs {
            image: self.image,
            root_digest: self.root_digest,
            voucher: self.voucher,
            mountpoint: self.mountpoint,
            source: self.source,
            empty: self.empty,
            init: self.init,
            record_trace: self.record_trace,
            takeover: self.takeover,
            io_timeout_secs: self.io_timeout,
            unconfined: self.unconfined,
            on_corruption: self.on_corruption,
            without: self.without,
        }
    }
}

/// Runs it.
pub fn run(args: BootArgs) -> Outcome {
    match args.command {
        BootCommand::Setup(args) => setup(args),
        BootCommand::Install(args) => install::install(&args),
        BootCommand::Uninstall(args) => install::uninstall(&args),
        BootCommand::Serve(args) => Ok(serve(args)),
        BootCommand::Status(args) => status::run(&args),
        BootCommand::Enable => done(boot::control::switch_overlay(true)),
        BootCommand::Disable => done(boot::control::switch_overlay(false)),
        BootCommand::Lock => done(boot::control::lock(true)),
        BootCommand::Unlock => done(boot::control::lock(false)),
        BootCommand::Reset => done(boot::control::ask_for_reset()),
    }
}

fn done(result: Result<(), Failed>) -> Outcome {
    Ok(result.map(|()| ExitCode::SUCCESS)?)
}

fn setup(args: SetupArgs) -> Outcome {
    let newroot = args.newroot.clone();
    let done = boot::setup(&Setup { newroot: args.newroot, init: args.init })?;
    if args.switch_root {
        let Some(report) = done else {
            return Err(Failure::new("the kernel command line asks for no image")
                .hint("add ashlar=NAME to it; see `ashlar boot --help`"));
        };
        return Err(handover::switch_root(&newroot, &report.init, &[]).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// The one who started the server reads what went wrong from its standard output, and tells it.
fn serve(args: ServeArgs) -> ExitCode {
    let served = boot::server::run(&args.into_server_args());
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let hint = failed.hint.map(|hint| hint + "\n").unwrap_or_default();
            // When nobody listens any more, the status still tells.
            drop(super::say(&format!("{}\n{hint}", failed.message)));
            ExitCode::FAILURE
        }
    }
}

/// Whether the kernel started us as the first program of all, `init=/…/init`.
pub(super) fn is_first_program(args: &[OsString]) -> bool {
    let name = args.first().map(PathBuf::from).unwrap_or_default();
    std::process::id() == 1 && name.file_name().is_some_and(|name| name == "init")
}

/// Becomes the first program of an image. When that fails, a person may have a shell; otherwise it ends, which is a kernel
/// panic, and with `panic=` a reboot.
pub(super) fn first_program(args: &[OsString]) -> ExitCode {
    let failed = boot::trampoline::run(args.get(1..).unwrap_or_default());
    super::tell(&failed.into());
    if boot::trampoline::may_give_shell() {
        let err = std::process::Command::new("/bin/sh").exec();
        super::tell(&Failure::new(format!("cannot start /bin/sh: {err}")));
    }
    ExitCode::FAILURE
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Failure { message: failed.message, hint: failed.hint, status: 1 }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(subcommand)]
        command: BootCommand,
    }

    /// What one process writes, the other one must understand: without that no machine boots.
    #[test]
    fn a_server_understands_what_it_is_started_with() {
        let args = boot::server::ServerArgs {
            image: "/data/root.img".into(),
            root_digest: Digest([7; 32]),
            voucher: "key".to_owned(),
            mountpoint: "/root".into(),
            source: "/dev/vda1".into(),
            empty: "/run/ashlar/empty".into(),
            init: Some("/sbin/init".to_owned()),
            record_trace: Some("/run/ashlar/trace".into()),
            takeover: true,
            io_timeout_secs: 30,
            on_corruption: OnCorruption::Restart,
            unconfined: true,
            without: vec!["ttl".to_owned()],
        };
        for args in [
            args.clone(),
            boot::server::ServerArgs {
                init: None,
                record_trace: None,
                takeover: false,
                io_timeout_secs: 0,
                unconfined: false,
                without: Vec::new(),
                ..args
            },
        ] {
            let words = boot::start::words(&args);
            let BootCommand::Serve(understood) = Words::try_parse_from(words).unwrap().command
            else {
                panic!("it is another command");
            };
            assert_eq!(format!("{:?}", understood.into_server_args()), format!("{args:?}"));
        }
    }
}

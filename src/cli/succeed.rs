//! `ashlar succeed`: what a holder starts when a server has died, and a server when its holder has.

use std::fs::File;
use std::process::ExitCode;

use super::{Failure, Outcome, log, mount};
use crate::takeover::{self, Called, Role};

/// Runs it.
pub(super) fn run() -> Outcome {
    let called = takeover::called().map_err(|err| {
        Failure::new(format!("there is no letter on standard input: {err}"))
            .hint("this command is for `ashlar` itself; `ashlar mount` mounts an image")
    })?;
    // Started from a descriptor, it would bear that one's number as its name.
    let name = if called.letter.role == Role::Server { c"ashlar" } else { c"ashlar-holder" };
    rustix::thread::set_name(name).unwrap_or_default();
    start_logging(&called);
    prepare(&called)?;
    match called.letter.role {
        Role::Holder => {
            takeover::hold(called)
                .map_err(|err| Failure::new(format!("cannot hold the mount: {err}")))?;
            Ok(ExitCode::SUCCESS)
        }
        Role::Server => mount::succeed(called),
    }
}

fn start_logging(called: &Called) {
    let duty = &called.letter.duty;
    let level = duty.log_level.parse().unwrap_or(tracing::level_filters::LevelFilter::INFO);
    if let Some(device) = called.kit.log.as_ref().and_then(|log| log.try_clone().ok()) {
        #[cfg(feature = "boot")]
        crate::boot::kmsg::start_on(Some(File::from(device)), level, false);
        #[cfg(not(feature = "boot"))]
        drop(File::from(device));
    } else if duty.is_foreground {
        log::to_stderr(level);
    } else if !duty.is_root {
        // Without it the mount is served all the same.
        log::to_syslog_again(level).unwrap_or_default();
    }
}

/// Lives as a process must that `/` hangs from.
fn prepare(called: &Called) -> Result<(), Failure> {
    #[cfg(feature = "boot")]
    if called.letter.duty.is_root {
        crate::boot::hygiene::again()?;
        return Ok(());
    }
    #[cfg(not(feature = "boot"))]
    if called.letter.duty.is_root {
        return Err(Failure::new("this program was built without what the server of / needs")
            .hint("build it with the feature `boot`"));
    }
    // Nobody's terminal, so that ^C is for the server only.
    if called.letter.role == Role::Holder || !called.letter.duty.is_foreground {
        rustix::process::setsid().map(drop).unwrap_or_default();
    }
    Ok(())
}

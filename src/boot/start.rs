//! How is a server started, and when is it known to serve?

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::choose::Chosen;
use super::patience::Patience;
use super::server::{NAME, READY, ServerArgs};
use super::{Failed, Site};
use crate::heal::corruption::OnCorruption;

/// How long a process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Starts the server of an image.
pub(super) fn serve(
    chosen: &Chosen,
    mountpoint: &Path,
    init: Option<&str>,
    on_corruption: OnCorruption,
    site: &Site<'_>,
) -> Result<(), Failed> {
    let args = ServerArgs {
        image: chosen.path.clone(),
        root_digest: chosen.tree.root_digest(),
        voucher: chosen.voucher.word().to_owned(),
        mountpoint: mountpoint.to_owned(),
        source: site.data.source.clone(),
        empty: site.workspace.empty(),
        init: init.map(str::to_owned),
        on_corruption,
        // Of the root: what is added to it is small.
        record_trace: init.filter(|_| site.args.trace).map(|_| site.workspace.trace()),
        takeover: site.args.takeover,
        io_timeout_secs: site.args.io_timeout_secs,
        unconfined: site.args.unconfined,
        without: site.args.without.clone(),
    };
    start(&args, site.patience)
}

/// Starts a server; returns when its mount answers. When it fails, a mount that answers nothing may be left.
pub fn start(args: &ServerArgs, patience: Patience) -> Result<(), Failed> {
    let patience = patience.left()?;
    let mut server = Command::new("/proc/self/exe")
        .arg0(NAME)
        .args(words(args))
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|err| Failed::io("cannot start the server", err))?;
    let stdout = server.stdout.take();
    let (tell, heard) = mpsc::channel();
    let listener = thread::Builder::new().name("listen".to_owned()).spawn(move || {
        let lines: Vec<String> = stdout
            .into_iter()
            .flat_map(|out| BufReader::new(out).lines().map_while(Result::ok))
            .collect();
        // Nobody waits for it any more when it took too long.
        tell.send(lines).unwrap_or_default();
    });
    drop(listener.map_err(|err| Failed::io("cannot start a thread", err))?);
    let Ok(mut lines) = heard.recv_timeout(patience) else {
        end(&mut server);
        return Err(Failed::new(format!("the server did not answer for {} s", patience.as_secs())));
    };
    if lines.first().is_some_and(|line| line == READY) {
        return Ok(());
    }
    end(&mut server);
    let mut lines = lines.drain(..);
    let failed =
        Failed::new(lines.next().unwrap_or_else(|| "the server ended without a word".to_owned()));
    Err(match lines.next() {
        Some(hint) => failed.hint(hint),
        None => failed,
    })
}

/// Ends a process. One that waits for a dying device cannot be ended, and nobody waits for that.
pub(super) fn end(process: &mut Child) {
    // It is gone already, mostly.
    process.kill().unwrap_or_default();
    let killed = Instant::now();
    while matches!(process.try_wait(), Ok(None)) && killed.elapsed() < KILL_PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
}

/// The command line of a server: what `ashlar boot serve` takes.
pub(crate) fn words(args: &ServerArgs) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["boot".into(), "serve".into()];
    let mut add = |name: &str, value: OsString| words.extend([name.into(), value]);
    add("--image", args.image.clone().into());
    add("--root-digest", args.root_digest.to_string().into());
    add("--voucher", args.voucher.clone().into());
    add("--mountpoint", args.mountpoint.clone().into());
    add("--source", args.source.clone().into());
    add("--empty", args.empty.clone().into());
    if args.io_timeout_secs > 0 {
        add("--io-timeout", args.io_timeout_secs.to_string().into());
    }
    if let Some(init) = &args.init {
        add("--init", init.into());
    }
    if let Some(path) = &args.record_trace {
        add("--record-trace", path.into());
    }
    add("--on-corruption", args.on_corruption.to_string().into());
    for trap in &args.without {
        add("--without", trap.into());
    }
    if args.takeover {
        words.push("--takeover".into());
    }
    if args.unconfined {
        words.push("--unconfined".into());
    }
    words
}

//! May somebody's own program say where changes go? A switch on the case, a button that is held, a jumper.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::choose::Chosen;
use super::config::{Config, FILE_LEN_MAX};
use super::start::end;
use crate::format::field::u64_from_usize;

/// The program, in the initramfs. The data partition of a machine that has one is not trusted with programs.
pub(super) const HOOK: &str = "/etc/ashlar/mode-hook";
/// How long it may take. A machine must not hang because a button cannot be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it is done.
const TICK: Duration = Duration::from_millis(10);

/// What the program says, in the words of the kernel command line, with or without `ashlar.`; nothing where there is no
/// such program, and nothing of one that failed.
pub(super) fn ask(chosen: &Chosen) -> Config {
    if !Path::new(HOOK).exists() {
        return Config::default();
    }
    match run(chosen) {
        Ok(text) => parse(&text),
        Err(why) => {
            tracing::error!("{HOOK} is ignored: {why}");
            Config::default()
        }
    }
}

fn run(chosen: &Chosen) -> Result<String, String> {
    let mut child = Command::new(HOOK)
        .env("ASHLAR_IMAGE", &chosen.path)
        .env("ASHLAR_ROOT_DIGEST", chosen.tree.root_digest().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|err| err.to_string())?;
    let started = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|err| err.to_string())? {
            Some(status) => break status,
            None if started.elapsed() < PATIENCE => thread::sleep(TICK),
            None => {
                end(&mut child);
                return Err(format!("it was not done after {} s", PATIENCE.as_secs()));
            }
        }
    };
    if !status.success() {
        return Err(status.to_string());
    }
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        // What it left running may hold the pipe open: what is in it now is all that is waited for.
        rustix::io::ioctl_fionbio(&stdout, true).map_err(|err| err.to_string())?;
        let mut piece = vec![0; FILE_LEN_MAX];
        let read = stdout.take(u64_from_usize(FILE_LEN_MAX)).read(&mut piece);
        let len = match read {
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => 0,
            read => read.map_err(|err| err.to_string())?,
        };
        text.push_str(&String::from_utf8_lossy(piece.get(..len).unwrap_or_default()));
    }
    Ok(text)
}

fn parse(text: &str) -> Config {
    let mut config = Config::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let name = name.strip_prefix("ashlar.").unwrap_or(name);
        if let Err(why) = config.set(name, value) {
            tracing::warn!("{HOOK}: `{word}` is ignored: {why}");
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::config::{Etc, Overlay};

    #[test]
    fn its_words_are_those_of_the_command_line() {
        let config = parse("overlay=tmpfs ashlar.etc=merge\ncolour=blue bind=/a,/b var\n");
        assert_eq!(config.overlay, Some(Overlay::Tmpfs { size: None }));
        assert_eq!(config.etc, Some(Etc::Merge));
        assert_eq!(config.bind.unwrap(), ["/a", "/b"]);
        assert_eq!(config.var, None);
    }
}

//! Does the machine do it in time? QEMU, without KVM, its console read until it ends or its time is over.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::kernel::Kernel;
use crate::outcome::{Doing, Result, Stop, failed, run, skipped};
use crate::typist::{Answer, Typist};

const QEMU: &str = "qemu-system-x86_64";

/// QEMU 7.2 breaks these kernels: its TCG is wrong about cmpxchg16b.
const VERSION_MIN: u32 = 8;

/// How many lines of the console a failure shows.
const LINES_SHOWN: usize = 60;

/// What the guest starts its words with.
pub(crate) const SPOKEN: &str = "ASHLAR-VM: ";

/// Whether there is a QEMU that works.
pub(crate) fn check() -> Result<()> {
    let said = run(Command::new(QEMU).arg("--version"))?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "version");
    let version = words.nth(1).unwrap_or_default();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= VERSION_MIN => Ok(()),
        _ => skipped(format!(
            "QEMU {version} is too old, {VERSION_MIN} is needed; on Debian 12: apt-get install -t bookworm-backports qemu-system-x86"
        )),
    }
}

/// A machine before it is switched on.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// What it runs.
    pub kernel: &'a Kernel,
    /// What it starts from; none when the kernel mounts the disk itself.
    pub initramfs: Option<&'a Path>,
    /// Disks; the first is `/dev/nvme0n1`.
    pub disks: Vec<&'a Path>,
    /// What becomes of what is written to them.
    pub writes: &'a Writes,
    /// What is on the kernel's command line besides the console.
    pub append: String,
    /// What a panic is, [`PANIC_ENDS`] mostly: a word of that command line, or none.
    pub panic: &'a str,
    /// What is typed, and when.
    pub typed: &'a [Answer],
    /// MiB of memory.
    pub memory: u32,
    /// Whether there is a network card: behind it somebody speaks DHCP, and this machine's own 127.0.0.1 is 10.0.2.2.
    pub network: bool,
    /// When QEMU is ended by force.
    pub limit: Duration,
    /// Where it is expected to stand still: words on its console, and the time after them that would be ample to go on.
    pub hang: Option<(&'a str, Duration)>,
}

/// With `-no-reboot`, a panic is an end. Where `panic=` is, nobody is given a shell.
pub(crate) const PANIC_ENDS: &str = "panic=-1";

/// What becomes of what a machine writes to its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Writes {
    /// It is written.
    Kept,
    /// It is refused.
    Refused,
    /// It is written, and each write is noted in a file, too, in the order in which they were done.
    Logged(PathBuf),
}

/// How a machine stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself.
    Off,
    /// QEMU itself failed.
    Broken(ExitStatus),
    /// By force, at its limit.
    Limit,
    /// By force: it did not go on after the words of [`Machine::hang`].
    Hung,
}

/// What a machine said and how it ended.
pub(crate) struct Console {
    /// All of it.
    pub text: String,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub took: Duration,
    /// Where the text lies.
    pub log: PathBuf,
}

impl Machine<'_> {
    /// Runs it to its end; `live` shows its console meanwhile.
    pub(crate) fn run(&self, log: &Path, live: bool) -> Result<Console> {
        let mut command = self.command();
        command.args(["-monitor", "none", "-serial", "stdio"]);
        // It complains of each write that is refused, as it was told to.
        let complaints =
            if *self.writes == Writes::Refused { Stdio::null() } else { Stdio::inherit() };
        let keyboard = if self.typed.is_empty() { Stdio::null() } else { Stdio::piped() };
        let start = Instant::now();
        let mut child = command
            .stdin(keyboard)
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .doing(format!("cannot start {QEMU}"))?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let file = File::create(log).doing(format!("cannot write {}", log.display()));
        let listener = match (file, child.stdout.take()) {
            (Ok(file), Some(stdout)) => {
                let said = Arc::clone(&said);
                thread::spawn(move || listen(stdout, file, live, &said))
            }
            (file, _) => {
                end(&mut child)?;
                return Err(file.err().unwrap_or(Stop::Failed("QEMU has no output".into())));
            }
        };
        let keyboard = child.stdin.take();
        let ending = self.wait(&mut child, keyboard, start, &said);
        if ending.is_err() {
            end(&mut child)?;
        }
        let took = start.elapsed();
        if listener.join().is_err() {
            return failed("the console could not be read");
        }
        let bytes = said.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        Ok(Console { text, ending: ending?, took, log: log.to_owned() })
    }

    /// Runs it with its console on this terminal.
    pub(crate) fn shell(&self) -> Result<()> {
        let mut command = self.command();
        command.args(["-serial", "mon:stdio"]);
        let status = command.status().doing(format!("cannot start {QEMU}"))?;
        if status.success() { Ok(()) } else { failed(format!("{QEMU}: {status}")) }
    }

    fn command(&self) -> Command {
        // QEMU must not outlive this process, however it ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", QEMU]);
        // Not KVM, which may be there and not work.
        command.args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "2"]);
        command.arg("-m").arg(self.memory.to_string());
        command.args(["-nodefaults", "-nographic", "-no-reboot"]);
        command.arg("-kernel").arg(&self.kernel.image);
        if let Some(initramfs) = self.initramfs {
            command.arg("-initrd").arg(initramfs);
        }
        let (panic, append) = (self.panic, &self.append);
        // On a busy machine the emulated timer looks broken to a kernel that tries it.
        let append =
            format!("console=ttyS0 no_timer_check {panic} loglevel=5 printk.devkmsg=on {append}");
        command.arg("-append").arg(append);
        if self.network {
            command.args(["-netdev", "user,id=net0"]);
            command.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let id = format!("disk{number}");
            let disk = disk.display();
            match self.writes {
                Writes::Logged(log) => {
                    let log = log.display();
                    command.arg("-blockdev").arg(format!(
                        "driver=blklogwrites,node-name={id},file.driver=file,file.filename={disk},\
                         log.driver=file,log.filename={log}"
                    ));
                }
                writes => {
                    let read_only = if *writes == Writes::Refused { "on" } else { "off" };
                    command.arg("-drive").arg(format!(
                        "file={disk},format=raw,if=none,id={id},cache=unsafe,readonly={read_only}"
                    ));
                }
            }
            command.arg("-device").arg(format!("nvme,drive={id},serial={id}"));
        }
        command
    }

    fn wait(
        &self,
        child: &mut Child,
        keyboard: Option<ChildStdin>,
        start: Instant,
        said: &Mutex<Vec<u8>>,
    ) -> Result<Ending> {
        let mut typist = Typist::new(keyboard, self.typed);
        let mut heard_at: Option<Instant> = None;
        loop {
            if let Some(status) = child.try_wait().doing("cannot wait for QEMU")? {
                return Ok(if status.success() { Ending::Off } else { Ending::Broken(status) });
            }
            if start.elapsed() > self.limit {
                end(child)?;
                return Ok(Ending::Limit);
            }
            {
                let bytes = said.lock().unwrap_or_else(PoisonError::into_inner);
                typist.look(&bytes, Instant::now())?;
                if let Some((words, _)) = self.hang
                    && heard_at.is_none()
                {
                    let heard = String::from_utf8_lossy(&bytes).contains(words);
                    heard_at = heard.then(Instant::now);
                }
            }
            if let (Some(heard_at), Some((_, patience))) = (heard_at, self.hang)
                && heard_at.elapsed() > patience
            {
                end(child)?;
                return Ok(Ending::Hung);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn end(child: &mut Child) -> Result<()> {
    child.kill().doing("cannot end QEMU")?;
    child.wait().doing("cannot wait for QEMU")?;
    Ok(())
}

fn listen(mut stdout: ChildStdout, mut log: File, live: bool, said: &Mutex<Vec<u8>>) {
    let mut buf = [0; 4096];
    while let Ok(len) = stdout.read(&mut buf) {
        let heard = buf.get(..len).unwrap_or_default();
        if heard.is_empty() {
            return;
        }
        said.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(heard);
        // What cannot be written is still heard; the verdict comes from that.
        let written = log.write_all(heard);
        if live || written.is_err() {
            drop(std::io::stderr().write_all(heard));
        }
    }
}

impl Console {
    /// Holds that it stopped by itself, without a panic, and that the guest complained of nothing.
    pub(crate) fn ended_well(&self) -> Result<&Self> {
        self.ended()?.never_says("Kernel panic")?.never_says(&format!("{SPOKEN}fail"))
    }

    /// Holds that it stopped by itself.
    pub(crate) fn ended(&self) -> Result<&Self> {
        if self.ending != Ending::Off {
            let how = match self.ending {
                Ending::Limit => "did not end in time".to_owned(),
                Ending::Hung => "hung".to_owned(),
                Ending::Broken(status) => format!("QEMU failed: {status}"),
                Ending::Off => "ended".to_owned(),
            };
            return self.fail(format!("the machine {how} ({:.1} s)", self.took.as_secs_f64()));
        }
        Ok(self)
    }

    /// Holds that it stood still after the words of [`Machine::hang`].
    pub(crate) fn hung(&self) -> Result<&Self> {
        if self.ending == Ending::Hung {
            Ok(self)
        } else {
            self.fail("the machine did not stand still, as it must")
        }
    }

    /// Holds that the guest said `words`, as a whole line, apart from the kernel's time before it.
    pub(crate) fn spoke(&self, words: &str) -> Result<&Self> {
        let wanted = format!("{SPOKEN}{words}");
        let spoken = |line: &str| line == wanted || line.ends_with(&format!("] {wanted}"));
        if self.text.lines().map(str::trim_end).any(spoken) {
            Ok(self)
        } else {
            self.fail(format!("the guest did not say `{words}`"))
        }
    }

    /// Holds that some line of the console has all these words.
    pub(crate) fn says(&self, words: &[&str]) -> Result<&Self> {
        if self.text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
            Ok(self)
        } else {
            self.fail(format!("no line of the console has `{}`", words.join("` and `")))
        }
    }

    /// Holds that something does not stand on the console.
    pub(crate) fn never_says(&self, words: &str) -> Result<&Self> {
        match self.text.lines().find(|line| line.contains(words)) {
            Some(line) => self.fail(format!("the console has: {line}")),
            None => Ok(self),
        }
    }

    /// A failure, with the end of the console and where the rest is.
    pub(crate) fn fail<T>(&self, why: impl fmt::Display) -> Result<T> {
        let lines: Vec<_> = self.text.lines().collect();
        let skipped = lines.len().saturating_sub(LINES_SHOWN);
        let shown = lines.get(skipped..).unwrap_or_default().join("\n  | ");
        failed(format!("{why}\n  | {shown}\n  whole console: {}", self.log.display()))
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("ending", &self.ending)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &str, ending: Ending) -> Console {
        let (text, log) = (text.to_owned(), PathBuf::from("console.log"));
        Console { text, ending, took: Duration::ZERO, log }
    }

    /// Waits for somebody who sleeps, in place of QEMU; tells how that ended, and whether he is gone then.
    fn wait(limit: Duration, said: &str, hang: Option<(&str, Duration)>) -> (Ending, bool) {
        let nowhere = PathBuf::new();
        let kernel =
            Kernel { release: String::new(), image: nowhere.clone(), modules: nowhere.clone() };
        let machine = Machine {
            kernel: &kernel,
            initramfs: None,
            disks: vec![&nowhere],
            writes: &Writes::Kept,
            append: String::new(),
            panic: PANIC_ENDS,
            typed: &[],
            memory: 0,
            network: false,
            limit,
            hang,
        };
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let said = Mutex::new(said.as_bytes().to_vec());
        let ending = machine.wait(&mut child, None, Instant::now(), &said).unwrap();
        (ending, child.try_wait().unwrap().is_some())
    }

    #[test]
    fn nobody_outlives_a_limit() {
        let (soon, late) = (Duration::from_millis(50), Duration::from_secs(50));
        assert_eq!(wait(soon, "", None), (Ending::Limit, true));
        assert_eq!(wait(soon, "a word", Some(("a word", late))), (Ending::Limit, true));
        assert_eq!(wait(late, "a word", Some(("a word", soon))), (Ending::Hung, true));
        assert_eq!(wait(soon, "a word", Some(("another", soon / 2))), (Ending::Limit, true));
    }

    #[test]
    fn only_whole_words_of_the_guest_count() {
        let spoken = |text: &str| console(text, Ending::Off).spoke("ok boot").is_ok();
        assert!(spoken("[    5.000000] ASHLAR-VM: ok boot\n"));
        assert!(spoken("noise\nASHLAR-VM: ok boot \n"));
        for other in [
            "",
            "Command line: vm.case=ok boot",
            "[ 5.0] ASHLAR-VM: ok boot-6.1",
            "[ 5.0] ASHLAR-VM: fail ASHLAR-VM: ok boot",
            "[ 5.0] ASHLAR-VM: not ok boot",
        ] {
            assert!(!spoken(other), "{other}");
        }
    }

    #[test]
    fn silence_force_panic_and_complaint_are_no_good_endings() {
        assert!(console("all is well", Ending::Off).ended_well().is_ok());
        for ending in [Ending::Limit, Ending::Hung] {
            assert!(console("all is well", ending).ended_well().is_err());
        }
        for text in ["Kernel panic - not syncing", "[ 5.0] ASHLAR-VM: fail reads: no"] {
            assert!(console(text, Ending::Off).ended_well().is_err());
        }
        assert!(console("", Ending::Off).hung().is_err());
        assert!(console("", Ending::Hung).hung().is_ok());
    }

    #[test]
    fn a_failure_shows_the_end_of_the_console_and_where_the_rest_is() {
        let text: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let Err(Stop::Failed(why)) = console(&text, Ending::Limit).ended_well().map(drop) else {
            panic!("that was no failure")
        };
        assert!(why.contains("line 99") && why.contains("line 40") && !why.contains("line 39"));
        assert!(why.contains("console.log"));
    }
}

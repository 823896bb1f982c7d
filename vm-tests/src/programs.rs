//! What runs inside? The program as it is shipped, `vm-init`, and busybox; all of them static.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::{Doing, Result, failed, run, skipped};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC: &str = "target.x86_64-unknown-linux-gnu.rustflags=['-Ctarget-feature=+crt-static']";

/// Longest program for an initramfs, in bytes. Boot loaders read it into memory, from a slow stick perhaps, before anything
/// else; and what is longer nobody reads through.
const LEN_MAX: u64 = 4 << 20;

/// Static programs, each built or found when it is first asked for.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The project.
    top: PathBuf,
    /// Cargo's own.
    target: PathBuf,
    /// Where copies go, since the two kinds of `ashlar` are built in one place.
    place: PathBuf,
    shipped: OnceCell<PathBuf>,
    uncured: OnceCell<PathBuf>,
    vm_init: OnceCell<PathBuf>,
    whole: OnceCell<PathBuf>,
}

impl Programs {
    /// None are built yet.
    pub(crate) fn new(top: &Path, target: &Path, place: PathBuf) -> Self {
        let (top, target) = (top.to_owned(), target.to_owned());
        let (shipped, uncured) = (OnceCell::new(), OnceCell::new());
        let (vm_init, whole) = (OnceCell::new(), OnceCell::new());
        Programs { top, target, place, shipped, uncured, vm_init, whole }
    }

    /// `ashlar` as `cargo boot-binary` makes it.
    pub(crate) fn ashlar(&self) -> Result<&Path> {
        get_or_try(&self.shipped, || {
            let program = self.build("ashlar", "ashlar", &["boot-binary"])?;
            match fs::metadata(&program).doing("cannot look at the program")?.len() {
                ..=LEN_MAX => Ok(program),
                len => failed(format!("the program has {len} bytes, and may have {LEN_MAX}")),
            }
        })
    }

    /// The same, but it does what `ashlar.without=` on the kernel's command line says, to show that a case can fail.
    pub(crate) fn uncured_ashlar(&self) -> Result<&Path> {
        let words = ["boot-binary", "--features", "without-cures"];
        get_or_try(&self.uncured, || self.build("ashlar", "ashlar-without-cures", &words))
    }

    /// `vm-init`.
    pub(crate) fn vm_init(&self) -> Result<&Path> {
        let words = ["build", "-p", "vm-tests", "--bin", "vm-init", "--no-default-features"];
        let how = ["--profile", "boot", "--target", TARGET, "--config", STATIC];
        get_or_try(&self.vm_init, || self.build("vm-init", "vm-init", &[&words[..], &how].concat()))
    }

    /// `ashlar` with all that it can do, a network too. It needs this machine's libraries, or newer ones.
    pub(crate) fn whole_ashlar(&self) -> Result<&Path> {
        get_or_try(&self.whole, || {
            self.cargo(&["build", "--release", "-p", "ashlarfs", "--bin", "ashlar"])?;
            let copied = self.place.join("ashlar-whole");
            fs::create_dir_all(&self.place)
                .doing(format!("cannot make {}", self.place.display()))?;
            let built = self.target.join("release/ashlar");
            run(Command::new("strip").arg("-o").args([&copied, &built]))?;
            Ok(copied)
        })
    }

    /// This machine's busybox, if it can run where there is nothing else, and the names of what it can do.
    pub(crate) fn busybox() -> Result<(Vec<u8>, Vec<String>)> {
        let path = "/bin/busybox";
        let Ok(bytes) = fs::read(path) else {
            return skipped(format!("no {path}: install busybox-static"));
        };
        if !is_static(&bytes) {
            return skipped(format!("{path} needs libraries: install busybox-static"));
        }
        let names = run(Command::new(path).arg("--list"))?;
        Ok((bytes, names.lines().map(str::to_owned).collect()))
    }

    fn cargo(&self, words: &[&str]) -> Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        run(Command::new(cargo)
            .arg(words.first().unwrap_or(&"build"))
            .arg("--quiet")
            .args(words.iter().skip(1))
            .current_dir(&self.top))?;
        Ok(())
    }

    fn build(&self, program: &str, copy: &str, words: &[&str]) -> Result<PathBuf> {
        self.cargo(words)?;
        let built = self.target.join(TARGET).join("boot").join(program);
        let copied = self.place.join(copy);
        fs::create_dir_all(&self.place).doing(format!("cannot make {}", self.place.display()))?;
        fs::copy(&built, &copied).doing(format!("cannot copy {}", built.display()))?;
        if !is_static(&fs::read(&copied).doing("cannot read the program")?) {
            return failed(format!("{} is not static", built.display()));
        }
        Ok(copied)
    }
}

fn get_or_try(cell: &OnceCell<PathBuf>, make: impl FnOnce() -> Result<PathBuf>) -> Result<&Path> {
    if cell.get().is_none() {
        let made = make()?;
        return Ok(cell.get_or_init(|| made));
    }
    Ok(cell.get().map_or(Path::new(""), PathBuf::as_path))
}

/// Whether an ELF file asks for no loader (it has no program header of type `PT_INTERP`).
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let word = |at: usize| elf.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let half = |at: usize| elf.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
    let (Some(table), Some(size), Some(count)) = (word(32), half(54), half(56)) else {
        return false;
    };
    elf.starts_with(b"\x7fELF\x02")
        && (0..usize::from(count)).all(|nth| {
            let at = usize::try_from(table)
                .unwrap_or(usize::MAX)
                .saturating_add(nth * usize::from(size));
            word(at).is_some_and(|kind| kind != PT_INTERP)
        })
}

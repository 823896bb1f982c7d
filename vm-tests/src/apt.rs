//! Where do packages come from? From this machine's own mirror, by an apt with lists and a database of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::{Doing, Result, run, skipped};

/// What vouches for the packages.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that knows one suite and believes that nothing is installed. This system's own sources and packages stay as
/// they are.
#[derive(Debug)]
pub(crate) struct Apt {
    place: PathBuf,
}

impl Apt {
    /// Reads the lists of a suite; `place` is its own.
    pub(crate) fn new(suite: &str, place: &Path) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            return skipped(format!("no {KEYRING}"));
        }
        let mirror = mirror()?;
        for directory in ["lists/partial", "archives/partial", "empty.d", "packages"] {
            fs::create_dir_all(place.join(directory)).doing("cannot make a directory")?;
        }
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(place.join("sources.list"), source).doing("cannot write a file")?;
        fs::write(place.join("status"), "").doing("cannot write a file")?;
        let apt = Apt { place: place.to_owned() };
        run(apt.command("apt-get").args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]))?;
        Ok(apt)
    }

    /// A package and what it needs, directly or through others, as far as `wanted` says yes.
    pub(crate) fn needed_by(
        &self,
        package: &str,
        wanted: fn(&str) -> bool,
    ) -> Result<BTreeSet<String>> {
        let flags = ["--no-recommends", "--no-suggests", "--no-enhances"];
        let mut command = self.command("apt-cache");
        let listed = run(command.args(["depends", "--recurse"]).args(flags).arg(package))?;
        Ok(listed.lines().filter(|line| wanted(line)).map(str::to_owned).collect())
    }

    /// Downloads packages, and nothing that they need.
    pub(crate) fn download(&self, packages: &BTreeSet<String>) -> Result<Vec<PathBuf>> {
        let place = self.place.join("packages");
        run(self.command("apt-get").args(["-qq", "download"]).args(packages).current_dir(&place))?;
        let entries = fs::read_dir(&place).doing("cannot list the packages")?;
        entries
            .map(|entry| entry.map(|entry| entry.path()).doing("cannot list the packages"))
            .collect()
    }

    fn command(&self, program: &str) -> Command {
        let places = [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "empty.d"),
            ("Dir::Etc::PreferencesParts", "empty.d"),
            ("Dir::State", ""),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache", ""),
            ("Dir::Cache::Archives", "archives"),
        ];
        let mut command = Command::new(program);
        for (option, place) in places {
            let mut setting = OsString::from(format!("{option}="));
            setting.push(self.place.join(place));
            command.arg("-o").arg(setting);
        }
        command.args(["-o", "Dir::Etc::Preferences=/dev/null"]);
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true"]);
        command.env("LC_ALL", "C");
        command
    }
}

/// The mirror that this machine's own apt uses for a main suite of Debian.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(SITE) $(SUITE)",
        "Created-By: Packages",
        "Origin: Debian",
    ]);
    let listed = run(&mut command)?;
    let mut lines = listed.lines().filter_map(|line| line.split_once(' '));
    // Others, as stable-security, are on mirrors that have nothing else.
    match lines.find(|(_, suite)| !suite.contains('-')) {
        Some((site, _)) => Ok(site.to_owned()),
        None => skipped("this machine's apt knows no mirror of Debian"),
    }
}

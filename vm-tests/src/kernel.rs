//! Which kernel is booted? Stock ones of Debian, fetched as packages and unpacked, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Apt;
use crate::disk::path;
use crate::outcome::{Doing, Result, Stop, failed, run};

/// What is fetched: the small kernel for virtual machines, which has ext4 and the driver of our disks built in.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Kernels by the names that cases call them, with the suite of Debian that has them.
const SUITES: &[(&str, &str)] = &[("6.1", "bookworm"), ("6.12", "trixie"), ("7", "sid")];

/// A kernel with its modules.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// The file that is booted.
    pub image: PathBuf,
    /// `/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

impl Kernel {
    /// Finds a kernel in the cache, or fetches it; where that cannot be done, a reason to skip.
    pub(crate) fn get(name: &str, cache: &Path) -> Result<Self> {
        let Some((_, suite)) = SUITES.iter().find(|(known, _)| *known == name) else {
            return failed(format!("no kernel is called {name}"));
        };
        let place = cache.join("kernels").join(suite);
        if !place.exists() {
            fetch(suite, &place).map_err(|stop| match stop {
                Stop::Failed(why) | Stop::Skipped(why) => {
                    Stop::Skipped(format!("no kernel {name}: {why}"))
                }
                Stop::ShellEnded => stop,
            })?;
        }
        let kernel = Kernel::find(&place)?;
        if !kernel.release.starts_with(&format!("{name}.")) {
            let (found, place) = (kernel.release, place.display());
            return failed(format!(
                "{suite} has kernel {found}, not {name}; after a release of Debian, remove {place} and see SUITES"
            ));
        }
        Ok(kernel)
    }

    /// The one kernel below `root`.
    fn find(root: &Path) -> Result<Self> {
        let all = root.join("lib/modules");
        let doing = format!("cannot list {}", all.display());
        let entry = fs::read_dir(&all).doing(&doing)?.next();
        let Some(entry) = entry else { return failed(format!("no kernel in {}", all.display())) };
        let entry = entry.doing(&doing)?;
        let release = entry.file_name().to_string_lossy().into_owned();
        let modules = entry.path();
        // From 7.2 on it lies beside its modules.
        let places = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        match places.into_iter().find(|place| place.is_file()) {
            Some(image) => Ok(Kernel { release, image, modules }),
            None => failed(format!("no vmlinuz of {release} in {}", root.display())),
        }
    }

    /// The bytes of a module as a file to load; none when it is built in.
    pub(crate) fn module(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let list = self.modules.join("modules.builtin");
        let builtin = fs::read_to_string(&list).doing(format!("cannot read {}", list.display()))?;
        let file = format!("/{name}.ko");
        if builtin.lines().any(|line| line.ends_with(&file)) {
            return Ok(None);
        }
        match self.module_path(name)? {
            Some(path) => {
                fs::read(&path).doing(format!("cannot read {}", path.display())).map(Some)
            }
            None => failed(format!("kernel {} has no module {name}", self.release)),
        }
    }

    /// Where a module lies, below [`Kernel::modules`].
    pub(crate) fn module_path(&self, name: &str) -> Result<Option<PathBuf>> {
        let dep = self.modules.join("modules.dep");
        let dep = fs::read_to_string(&dep).doing(format!("cannot read {}", dep.display()))?;
        let file = format!("/{name}.ko");
        let found = dep.lines().filter_map(|line| line.split_once(':'));
        Ok(found
            .map(|(path, _)| path)
            .find(|path| path.ends_with(&file))
            .map(|path| self.modules.join(path)))
    }
}

/// Unpacks a suite's kernel into `place`, in one step: what is there is whole.
fn fetch(suite: &str, place: &Path) -> Result<()> {
    let parent = place.parent().unwrap_or(place);
    fs::create_dir_all(parent).doing(format!("cannot make {}", parent.display()))?;
    let draft = tempfile::tempdir_in(parent).doing("cannot make a directory")?;
    let apt = Apt::new(suite, &draft.path().join("apt"))?;
    let packages: BTreeSet<_> = apt.needed_by(METAPACKAGE, is_part_of_kernel)?;
    let root = draft.path().join("root");
    for package in apt.download(&packages)? {
        run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    }
    let lib = root.join("lib");
    if !lib.exists() {
        // Packages of a system whose /lib is a link to /usr/lib.
        std::os::unix::fs::symlink("usr/lib", &lib).doing("cannot make a link")?;
    }
    let kernel = Kernel::find(&root)?;
    expand(&kernel.modules)?;
    run(Command::new("depmod")
        .env("PATH", path())
        .arg("--basedir")
        .arg(&root)
        .arg(&kernel.release))?;
    fs::rename(&root, place).doing(format!("cannot make {}", place.display()))
}

/// Whether a package belongs to a kernel, not to what installs one: `linux-image-6.12.1+deb13-cloud-amd64` and the parts into
/// which it is split from 7.2 on.
fn is_part_of_kernel(package: &str) -> bool {
    ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"]
        .iter()
        .filter_map(|prefix| package.strip_prefix(prefix))
        .any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Expands compressed modules, so that any program can load them.
fn expand(modules: &Path) -> Result<()> {
    let found = run(Command::new("find").arg(modules).args(["-name", "*.ko.xz"]))?;
    if found.is_empty() {
        return Ok(());
    }
    run(Command::new("find")
        .arg(modules)
        .args(["-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"]))?;
    Ok(())
}

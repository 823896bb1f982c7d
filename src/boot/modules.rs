//! How does a kernel get what it has as a module, when there is no initramfs? From the data partition, as depmod(8) has it.

use std::fs;
use std::io;
use std::path::Path;

use crate::image;
use crate::integration::modules::files;

/// `MODULE_INIT_COMPRESSED_FILE` of `finit_module(2)`: the kernel expands it (Linux 5.17).
const COMPRESSED: i32 = 4;

/// Loads the module that brings a file system, and what that module needs, unless the kernel has it: then `sign` is there.
/// What is missing is told later, by what needs it.
pub(super) fn load(name: &str, sign: &str) {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if Path::new(sign).exists()
        && known.lines().any(|line| line.trim_start_matches("nodev").trim() == name)
    {
        return;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let directory = Path::new("/lib/modules").join(release);
    let table = fs::read_to_string(directory.join("modules.dep")).unwrap_or_default();
    for path in files(&table, name) {
        let path = directory.join(path);
        if let Err(err) = insert(&path) {
            tracing::warn!("cannot load {}: {err}", path.display());
        }
    }
}

fn insert(path: &Path) -> io::Result<()> {
    let file = image::open_regular(path)?;
    let is_plain = path.extension().is_some_and(|extension| extension == "ko");
    match rustix::system::finit_module(&file, c"", if is_plain { 0 } else { COMPRESSED }) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

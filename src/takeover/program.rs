//! Which program do successors start from? One that nothing can take away.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::elf::{self, Elf};

/// The program of this process.
const OURS: &str = "/proc/self/exe";
/// How a program starts that has 64 bits, and the byte order of both architectures that we know (elf(5)).
const OURS_START: &[u8] = b"\x7fELF\x02\x01";

/// What cannot be done to a copy any more.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A program.
#[derive(Debug)]
pub struct Program(pub(super) OwnedFd);

impl Program {
    /// This process's own. For the server of `/` it is copied into memory, where no disk is waited for; elsewhere the
    /// file stays open, also when it is replaced meanwhile.
    pub fn ours(is_root: bool) -> io::Result<Program> {
        if is_root { Program::copy(Path::new(OURS)) } else { Ok(Program(File::open(OURS)?.into())) }
    }

    /// A copy in memory that nobody can change.
    pub fn copy(path: &Path) -> io::Result<Program> {
        let mut file = File::open(path)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Where memory may not be executed unless one says so (`vm.memfd_noexec`); kernels before Linux 6.3 do not know the word.
        let memory = rustix::fs::memfd_create(c"ashlar", flags | MemfdFlags::EXEC);
        let memory = memory.or_else(|err| match err {
            rustix::io::Errno::INVAL => rustix::fs::memfd_create(c"ashlar", flags),
            _ => Err(err),
        })?;
        let mut copy = File::from(memory);
        io::copy(&mut file, &mut copy)?;
        copy.seek(SeekFrom::Start(0))?;
        rustix::fs::fcntl_add_seals(&copy, SEALS)?;
        Ok(Program(copy.into()))
    }

    /// A copy that somebody else made; nobody must be able to change it.
    pub(super) fn sealed(memory: OwnedFd) -> io::Result<Program> {
        if rustix::fs::fcntl_get_seals(&memory).is_ok_and(|seals| seals.contains(SEALS)) {
            return Ok(Program(memory));
        }
        Err(io::Error::other("the program is no sealed copy in memory"))
    }

    /// Whether it needs nothing but itself: a program that wants libraries would look for them on the root that it serves.
    pub fn is_static(&self) -> io::Result<bool> {
        Ok(self.interpreter()?.is_none())
    }

    /// The program that loads its libraries, as it is named in it; `None` where it needs none.
    pub fn interpreter(&self) -> io::Result<Option<PathBuf>> {
        let file = File::from(self.0.try_clone()?);
        let read = |offset, len| {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
        };
        let start = read(0, elf::HEADER_LEN);
        let start = start.filter(|it| it.starts_with(OURS_START));
        match start.and_then(|start| elf::interpreter(&start, &read)) {
            Some(Elf::Static) => Ok(None),
            Some(Elf::Dynamic(loader)) => Ok(Some(OsString::from_vec(loader).into())),
            Some(Elf::Wrong(_)) | None => Err(io::Error::other("it is no program of this machine")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_program_wants_libraries_and_a_text_is_none() {
        let ours = Program::ours(true).unwrap();
        assert_eq!(ours.is_static().unwrap(), cfg!(target_feature = "crt-static"));
        let loader = ours.interpreter().unwrap();
        // Who loads others is loaded by nobody.
        assert!(loader.is_none_or(|path| Program::copy(&path).unwrap().is_static().unwrap()));
        assert!(Program::copy(Path::new("/etc/passwd")).unwrap().is_static().is_err());
        let copy = File::from(ours.0);
        assert!(rustix::io::write(&copy, b"x").is_err());
    }
}

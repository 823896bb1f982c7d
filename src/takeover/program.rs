//! Which program do successors start from? One that nothing can take away.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};

/// The program of this process.
const OURS: &str = "/proc/self/exe";
/// `PT_INTERP` of a program header, and what is at the start of a program (elf(5)).
const INTERPRETER: u32 = 3;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

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
        let mut file = File::from(self.0.try_clone()?);
        file.seek(SeekFrom::Start(0))?;
        let mut head = [0; 64];
        file.read_exact(&mut head)?;
        file.seek(SeekFrom::Start(0))?;
        // elf(5): 64 bits, and the byte order of both architectures that we know.
        if !head.starts_with(&ELF_MAGIC) || head.get(4..6) != Some(&[2, 1]) {
            return Err(io::Error::other("it is no program of this machine"));
        }
        let field = |at: usize| -> u64 {
            let bytes = head.get(at..).and_then(|it| it.first_chunk::<8>()).copied();
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let half = |at: usize| -> u64 {
            let bytes = head.get(at..).and_then(|it| it.first_chunk::<2>()).copied();
            u16::from_le_bytes(bytes.unwrap_or_default()).into()
        };
        let (at, size, count) = (field(32), half(54), half(56));
        for nth in 0..count {
            let offset = at.saturating_add(nth.saturating_mul(size));
            let mut kind = [0; 4];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut kind, offset)?;
            if u32::from_le_bytes(kind) == INTERPRETER {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_program_wants_libraries_and_a_text_is_none() {
        let ours = Program::ours(true).unwrap();
        assert_eq!(ours.is_static().unwrap(), cfg!(target_feature = "crt-static"));
        assert!(Program::copy(Path::new("/etc/passwd")).unwrap().is_static().is_err());
        let copy = File::from(ours.0);
        assert!(rustix::io::write(&copy, b"x").is_err());
    }
}

//! What does a process have to know that takes over? All of it fits into one message.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::namespace::Namespace;
use crate::fuse::connection::{Before, Facts};
use crate::fuse::mount::is_connected;
use crate::heal::handed::Plan;

/// What the message looks like. Another program's may look otherwise; then it is not understood, and nothing changes.
const VERSION: u32 = 3;

/// What a process shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It answers the kernel.
    Server,
    /// It watches the server.
    Holder,
}

/// How a mount is to be served.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own")]
pub struct Duty {
    /// The root digest that the image must have, in hex.
    pub root_digest: String,
    /// Threads that answer.
    pub workers: usize,
    /// How far the kernel reads ahead, in KiB.
    pub readahead_kb: Option<u32>,
    /// Whether the root digest is an xattr even in an image without xattrs.
    pub digest_xattr: bool,
    /// Bytes of cache for data and for metadata.
    pub cache_bytes: (usize, usize),
    /// Whether the image is read through a memory map.
    pub is_mapped: bool,
    /// What is logged: `error`, `warn`, `info` or `debug`.
    pub log_level: String,
    /// Whether this is the server of `/` (BOOT.md): it may open nothing, and nobody may end it.
    pub is_root: bool,
    /// The name space of mounts of whoever mounted it: only from there a newer program may be sent.
    pub namespace: Namespace,
    /// Whether it logs to its standard error.
    pub is_foreground: bool,
    /// After so many seconds without an answer of the disk a read fails; 0 for never.
    pub io_timeout_secs: u64,
    /// After so many seconds without an answer a server is replaced; 0 for never.
    pub watchdog_secs: u64,
    /// How other copies are looked for.
    pub healing: Plan,
}

/// All that is to be known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Letter {
    version: u32,
    /// What the receiver shall be.
    pub role: Role,
    /// The process that sends this.
    pub sender: u32,
    /// The mount.
    pub facts: Facts,
    /// How it is served.
    pub duty: Duty,
    /// What became of the server before, for a server.
    pub before: Before,
    /// The server's name.
    pub name: Vec<u8>,
    /// Which of [`Kit::optional`] came with it.
    optional: [bool; 4],
}

/// The descriptors.
#[derive(Debug)]
pub struct Kit {
    /// The device through which the kernel asks.
    pub device: OwnedFd,
    /// The image.
    pub image: OwnedFd,
    /// The program.
    pub program: OwnedFd,
    /// What is being answered (`fuse::journal`).
    pub journal: OwnedFd,
    /// Whose file system's free space is told as ours.
    pub beside: Option<OwnedFd>,
    /// `/proc`, where it is seen on which processor clients run.
    pub proc: Option<OwnedFd>,
    /// The kernel's log.
    pub log: Option<OwnedFd>,
    /// The way to who unmounts.
    pub unmounter: Option<OwnedFd>,
    /// What `Duty::healing` counts.
    pub healing: Vec<OwnedFd>,
}

impl Letter {
    /// A letter; its receiver and what became of the server are filled in when it is sent.
    pub(super) fn new(facts: Facts, duty: Duty, name: &OsStr, kit: &Kit) -> Letter {
        Letter {
            version: VERSION,
            role: Role::Holder,
            sender: std::process::id(),
            facts,
            duty,
            before: Before::Leaving,
            name: name.as_bytes().to_vec(),
            optional: kit.optional().map(Option::is_some),
        }
    }

    /// Whether the receiver is to serve, and there is no other server any more.
    pub(super) fn is_to_serve_alone(&self) -> bool {
        self.role == Role::Server && self.before != Before::Leaving
    }

    /// The same for another receiver.
    pub(super) fn to(&self, role: Role, before: Before) -> Letter {
        Letter { role, before, sender: std::process::id(), ..self.clone() }
    }

    /// The name of the process that gets it.
    pub(super) fn process_name(&self) -> Vec<u8> {
        match self.role {
            Role::Server => self.name.clone(),
            Role::Holder => [&*self.name, b"-holder"].concat(),
        }
    }

    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads a letter, and sorts the descriptors that came with it.
    pub(super) fn decode(bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<(Letter, Kit)> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let version = serde_json::from_slice::<Head>(bytes)?.version;
        if version != VERSION {
            let why = format!("it speaks version {version} of the takeover, and we {VERSION}");
            return Err(io::Error::other(why));
        }
        let letter: Letter = serde_json::from_slice(bytes)?;
        let mut descriptors = descriptors.into_iter();
        let missing = || io::Error::other("a descriptor is missing");
        let mut next = || descriptors.next().ok_or_else(missing);
        let (device, image, program, journal) = (next()?, next()?, next()?, next()?);
        let optional = letter.optional.map(|is_there| is_there.then(&mut next).transpose());
        let [beside, proc, log, unmounter] = optional;
        let kit = Kit {
            device,
            image,
            program,
            journal,
            beside: beside?,
            proc: proc?,
            log: log?,
            unmounter: unmounter?,
            healing: descriptors.collect(),
        };
        Ok((letter, kit))
    }
}

impl Kit {
    /// Whether there is no mount any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(is_connected(self.device.as_fd()), Ok(false))
    }

    /// The descriptors in the order in which they are sent.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let first = [&self.device, &self.image, &self.program, &self.journal];
        let more = self.optional().into_iter().flatten();
        first.into_iter().chain(more).chain(&self.healing).map(AsFd::as_fd).collect()
    }

    /// Those that need not be there, in the order in which they are sent.
    fn optional(&self) -> [&Option<OwnedFd>; 4] {
        [&self.beside, &self.proc, &self.log, &self.unmounter]
    }

    /// The same once more.
    pub(super) fn again(&self) -> io::Result<Kit> {
        self.with_program(self.program.try_clone()?)
    }

    /// The same with another program.
    pub(super) fn with_program(&self, program: OwnedFd) -> io::Result<Kit> {
        let copy = |it: &OwnedFd| it.try_clone();
        let maybe = |it: &Option<OwnedFd>| it.as_ref().map(copy).transpose();
        Ok(Kit {
            device: copy(&self.device)?,
            image: copy(&self.image)?,
            program,
            journal: copy(&self.journal)?,
            beside: maybe(&self.beside)?,
            proc: maybe(&self.proc)?,
            log: maybe(&self.log)?,
            unmounter: maybe(&self.unmounter)?,
            healing: self.healing.iter().map(copy).collect::<io::Result<_>>()?,
        })
    }
}

//! What does a process do that was called to take over? It reads its letter, and becomes what that says.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel;
use super::guard::{self, Guard};
use super::letter::{Kit, Letter};
use super::peer::{HEAL_PATIENCE, Peer};
use crate::fuse::errno;
use crate::fuse::journal::Journal;
use crate::fuse::session::{self, Mounted, Work};
use crate::heal::distant::Distant;
use crate::heal::handed::Handed;
use crate::{Anchor, CacheLimits, Method, Options, image};

/// What came with the call.
#[derive(Debug)]
pub struct Called {
    /// What there is to know.
    pub letter: Letter,
    /// The descriptors.
    pub kit: Kit,
    /// Who called.
    pub(super) starter: Peer,
}

/// Reads the letter from standard input.
pub fn called() -> io::Result<Called> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let (message, descriptors) = channel::receive(socket.as_fd())?;
    let (letter, kit) = Letter::decode(&message, descriptors).inspect_err(|err| {
        let failed = channel::Word::Failed(err.to_string());
        channel::say(socket.as_fd(), &failed).unwrap_or_default();
    })?;
    // At once: later its number may be another process's.
    let starter = Peer::of_sender(socket, letter.sender);
    Ok(Called { letter, kit, starter })
}

/// Serves the mount from here on. `distant` is asked last for what the image does not have any more.
pub fn succeed(called: Called, distant: Option<Distant>) -> io::Result<(Mounted, Arc<Guard>)> {
    let Called { letter, kit, starter } = called;
    let mounted = take_up(&letter, &kit, distant).inspect_err(|err| {
        starter.say(&if err.kind() == io::ErrorKind::NotConnected {
            channel::Word::Over
        } else {
            channel::Word::Failed(err.to_string())
        });
    })?;
    guard::note_panics(&mounted.connection().journal);
    let guard = Guard::join(mounted.connection(), letter.clone(), kit.again()?, starter)?;
    Ok((mounted, guard))
}

fn take_up(letter: &Letter, kit: &Kit, distant: Option<Distant>) -> io::Result<Mounted> {
    let duty = &letter.duty;
    let method = if duty.is_mapped { Method::Map } else { Method::Pread };
    let file = File::from(kit.image.try_clone()?);
    let descriptors = kit.healing.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
    let (mut ladder, last_resort) =
        Handed { plan: duty.healing.clone(), descriptors }.take_up(&file);
    ladder.distant = distant;
    let source = image::from_file(file, method)?;
    let digest = duty.root_digest.parse().map_err(io::Error::other)?;
    let mut options = Options::new(Anchor::RootDigest(digest));
    options.cache =
        CacheLimits { data_bytes_max: duty.cache_bytes.0, metadata_bytes_max: duty.cache_bytes.1 };
    let io_timeout = Duration::from_secs(duty.io_timeout_secs);
    options.io_timeout = Some(io_timeout).filter(|patience| !patience.is_zero());
    options.healers = ladder.into_healers();
    if letter.is_to_serve_alone() {
        options.heal_until = Instant::now().checked_add(HEAL_PATIENCE);
    }
    let tree = crate::open_source(source, &options).map_err(|err| {
        // Without these bytes nobody can serve, and whoever asks would not even get an error.
        let is_the_end = letter.is_to_serve_alone() && errno::is_loss(&err);
        if let Some(last_resort) = last_resort.as_ref().filter(|_| is_the_end) {
            last_resort.take(&err.to_string());
        }
        io::Error::other(err.to_string())
    })?;
    tree.store().end_patience();
    let work = Work {
        workers: duty.workers,
        readahead_kb: duty.readahead_kb,
        digest_xattr: duty.digest_xattr,
        image: kit.beside.as_ref().map(OwnedFd::try_clone).transpose()?,
        proc: kit.proc.as_ref().map(OwnedFd::try_clone).transpose()?,
        recorder: None,
        anchor: letter.facts.anchor.clone(),
        last_resort,
        // This process has had nothing from its start that a thread could give up.
        first: || {},
    };
    let journal = Journal::open(kit.journal.try_clone()?)?;
    let device = kit.device.try_clone()?;
    session::take_up(tree, device, letter.facts.clone(), journal, letter.before, work)
}

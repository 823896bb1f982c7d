//! How do the two talk? Each message is one packet, and may have descriptors with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

/// Longest message in bytes.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Most descriptors in one message: those of a mount, and those it heals with.
const DESCRIPTORS_MAX: usize = 64;

/// What is said after the first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// I do what I was started for.
    Ready,
    /// I cannot, for this reason.
    Failed(String),
    /// It is unmounted, or somebody else watches: you may end.
    Over,
    /// Have a holder of your own.
    Yours,
    /// I have one.
    Held,
    /// Do you still live?
    Ping,
    /// Yes.
    Pong,
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A word.
    Word(Word),
    /// The other one is gone.
    Gone,
    /// Nothing for so long.
    Nothing,
}

/// Both ends of a new channel.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message with descriptors. What is not taken at once is an error: nobody waits for the other one.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags)
    })?;
    Ok(())
}

/// Waits for a message; nothing of it when the other one is gone.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    receive_with(socket, RecvFlags::empty())
}

fn receive_with(socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let mut message = vec![0; MESSAGE_LEN_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let into = &mut [IoSliceMut::new(&mut message)];
        rustix::net::recvmsg(socket, into, &mut control, flags)
    })?;
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::other("a message is too long"));
    }
    message.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = part {
            descriptors.extend(more);
        }
    }
    Ok((message, descriptors))
}

/// Whether the other one is gone, whatever it said before.
pub(super) fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::empty())];
    let polls = rustix::event::poll(&mut polled, Some(&Timespec::default()));
    polls.is_ok() && polled.iter().any(|it| it.revents().contains(PollFlags::HUP))
}

/// Says a word.
pub(super) fn say(socket: BorrowedFd<'_>, word: &Word) -> io::Result<()> {
    send(socket, &serde_json::to_vec(word)?, &[])
}

/// Waits for a word, but no longer than so.
pub(super) fn hear(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<Heard> {
    let limit = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&limit)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Heard::Nothing),
        result => result.map(drop)?,
    }
    // Somebody else may have heard it since.
    let is = |err: &io::Error, kind| err.kind() == kind;
    let hear = || receive_with(socket, RecvFlags::DONTWAIT);
    // Who ends with words unheard resets the connection, which is told before the words that it said last.
    let heard = hear()
        .or_else(|err| if is(&err, io::ErrorKind::ConnectionReset) { hear() } else { Err(err) });
    let (message, _) = match heard {
        Err(err) if is(&err, io::ErrorKind::WouldBlock) => return Ok(Heard::Nothing),
        Err(err) if is(&err, io::ErrorKind::ConnectionReset) => return Ok(Heard::Gone),
        received => received?,
    };
    if message.is_empty() {
        return Ok(Heard::Gone);
    }
    Ok(Heard::Word(serde_json::from_slice(&message)?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn words_descriptors_and_the_end_are_heard() {
        let (ours, theirs) = pair().unwrap();
        assert_eq!(hear(ours.as_fd(), Duration::ZERO).unwrap(), Heard::Nothing);
        say(theirs.as_fd(), &Word::Ping).unwrap();
        send(theirs.as_fd(), b"kit", &[ours.as_fd(), theirs.as_fd()]).unwrap();
        drop(theirs);
        assert_eq!(hear(ours.as_fd(), Duration::from_secs(5)).unwrap(), Heard::Word(Word::Ping));
        let (message, descriptors) = receive(ours.as_fd()).unwrap();
        assert_eq!((&*message, descriptors.len()), (&b"kit"[..], 2));
        drop(descriptors);
        assert_eq!(hear(ours.as_fd(), Duration::from_secs(5)).unwrap(), Heard::Gone);
    }

    #[test]
    fn the_last_words_of_one_that_did_not_listen_are_heard() {
        let (ours, theirs) = pair().unwrap();
        say(ours.as_fd(), &Word::Ping).unwrap();
        say(theirs.as_fd(), &Word::Over).unwrap();
        assert!(!is_hung_up(ours.as_fd()));
        drop(theirs);
        assert!(is_hung_up(ours.as_fd()));
        let heard = || hear(ours.as_fd(), Duration::from_secs(5)).unwrap();
        assert_eq!(heard(), Heard::Word(Word::Over));
        assert_eq!(heard(), Heard::Gone);
    }
}

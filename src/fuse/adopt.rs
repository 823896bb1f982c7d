//! How does a server take up a connection? The kernel introduces itself once; a successor is told what it said then.
//!
//! The library that speaks the protocol wants to be greeted by the kernel. So it is given a socket, with the kernel's greeting in
//! it; what it answers goes to the kernel the first time, and nowhere later. Then the device takes the socket's place.
#![allow(unsafe_code, reason = "one descriptor takes another one's place: see there")]
#![expect(clippy::host_endian_bytes, reason = "the protocol is in the machine's own byte order")]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fuser::{Config, Session, SessionACL};
use rustix::io::DupFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Server;

/// Room for the kernel's greeting; less than this it does not accept (`FUSE_MIN_READ_BUFFER`).
const GREETING_ROOM: usize = 8192;
/// Room for the answer, of which 80 bytes are used.
const ANSWER_ROOM: usize = 4096;
/// `FUSE_NOTIFY_RESEND` (Linux 6.9, `include/uapi/linux/fuse.h`).
const NOTIFY_RESEND: i32 = 7;
/// Length of the head of what goes to the kernel (`struct fuse_out_header`).
const OUT_HEADER_LEN: u32 = 16;

/// Where the upper half of the flags stands in the greeting (`struct fuse_in_header`, then `flags2` of `struct fuse_init_in`), and
/// which of them says that the kernel can ask again (`FUSE_HAS_RESEND`, bit 39 of all flags).
const FLAGS_2_AT: usize = 40 + 16;
const HAS_RESEND: u32 = 1 << (39 - 32);

/// Whether the kernel says that it can ask again.
pub(super) fn can_ask_again(greeting: &[u8]) -> bool {
    let flags = greeting.get(FLAGS_2_AT..).and_then(|rest| rest.first_chunk().copied());
    u32::from_ne_bytes(flags.unwrap_or_default()) & HAS_RESEND != 0
}

/// What a kernel says that cannot ask again, where a test wants one (`ASHLAR_OLD_KERNEL`).
#[cfg(feature = "without-cures")]
pub(super) fn as_of_an_old_kernel(mut greeting: Vec<u8>) -> Vec<u8> {
    if std::env::var_os("ASHLAR_OLD_KERNEL").is_some()
        && let Some(flags) = greeting.get_mut(FLAGS_2_AT..).and_then(<[u8]>::first_chunk_mut)
    {
        *flags = (u32::from_ne_bytes(*flags) & !HAS_RESEND).to_ne_bytes();
    }
    greeting
}

/// What the kernel says first (`FUSE_INIT`).
pub(super) fn hear(device: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut greeting = vec![0; GREETING_ROOM];
    let len = rustix::io::retry_on_intr(|| rustix::io::read(device, &mut *greeting))?;
    greeting.truncate(len);
    Ok(greeting)
}

/// Makes a session of an open device. The kernel is answered only when `is_first`.
pub(super) fn session(
    server: Server,
    device: BorrowedFd<'_>,
    greeting: &[u8],
    is_first: bool,
    config: Config,
) -> io::Result<Session<Server>> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(&ours, greeting, SendFlags::NOSIGNAL)?;
    // Who may look is the kernel's to judge (`allow_other`); the library would turn away everyone but us.
    let session = Session::from_fd(server, theirs, SessionACL::All, config)?;
    let mut answer = [0; ANSWER_ROOM];
    let (len, _) = rustix::net::recv(&ours, &mut answer, RecvFlags::DONTWAIT)?;
    if is_first {
        rustix::io::write(device, answer.get(..len).unwrap_or_default())?;
    }
    take_place(device, session.as_fd())?;
    Ok(session)
}

/// Has `place`, whose owner nobody can ask for it, be another descriptor of what `device` is.
fn take_place(device: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the number is an open descriptor, which stays its owner's: it is never closed through this name. What it
    // refers to changes from a socket to the device, and the owner uses it as the device only.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(place.as_raw_fd()) });
    Ok(rustix::io::dup3(device, &mut place, DupFlags::CLOEXEC)?)
}

/// Has the kernel ask again what a dead server was asked and did not answer. Returns whether this kernel can.
pub(super) fn ask_again(device: BorrowedFd<'_>) -> io::Result<bool> {
    let mut notice = OUT_HEADER_LEN.to_ne_bytes().to_vec();
    notice.extend(NOTIFY_RESEND.to_ne_bytes());
    notice.extend(0_u64.to_ne_bytes());
    match rustix::io::write(device, &notice) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// How many numbers around the latest one that was written down may be those of questions that were not: a server may die between
/// reading one and writing it down, while its other threads go on.
const NEARBY: u64 = 8192;
/// The kernel numbers its questions in steps (`FUSE_REQ_ID_STEP`).
const NUMBER_STEP: usize = 2;

/// Answers all questions with EIO that a dead server may have read: those that it wrote down, and those of near numbers. It cannot be
/// wrong about one that was never read, or is answered: there the kernel knows no such question and says so.
pub(super) fn give_up_all(device: BorrowedFd<'_>, left: &[u64], latest: u64) {
    let nearby = latest.saturating_sub(NEARBY)..=latest.saturating_add(NEARBY);
    for unique in left.iter().copied().chain(nearby.step_by(NUMBER_STEP)) {
        give_up(device, unique);
    }
}

/// Answers a question of which nothing is known but its number with EIO.
fn give_up(device: BorrowedFd<'_>, unique: u64) {
    let mut answer = OUT_HEADER_LEN.to_ne_bytes().to_vec();
    answer.extend(rustix::io::Errno::IO.raw_os_error().wrapping_neg().to_ne_bytes());
    answer.extend(unique.to_ne_bytes());
    // Whoever asked may have been ended since.
    rustix::io::write(device, &answer).map(drop).unwrap_or_default();
}

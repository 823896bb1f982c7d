//! How does the kernel get to know us? A FUSE device is opened and mounted, by ourselves or by `fusermount3`.

use std::ffi::CString;
use std::fmt;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, Timespec};
use rustix::io::{Errno, FdFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::mountinfo::{self, FILE_SYSTEM_TYPE};

/// The device through which the kernel asks.
const DEVICE: &str = "/dev/fuse";
/// The file type "directory" in a mode.
const DIRECTORY_MODE: u32 = 0o040_000;
/// The helper that may mount for everyone.
const HELPER: &str = "fusermount3";

/// How an image is mounted. It is always read-only.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the mount table shows as the source: the image's absolute path.
    pub source: PathBuf,
    /// The directory.
    pub mountpoint: PathBuf,
    /// Permission bits of the tree's root.
    pub root_permissions: u16,
    /// `MS_NOSUID` and the like.
    pub flags: MountFlags,
    /// Whether other users may look. Always so when the superuser mounts.
    pub allow_other: bool,
}

/// Why an image could not be mounted.
#[derive(Debug)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point is missing, or cannot be looked at.
    Mountpoint(PathBuf, io::Error),
    /// The mount point is no directory.
    NotADirectory(PathBuf),
    /// Something is mounted there already.
    Busy(PathBuf),
    /// There is no FUSE device.
    Device(io::Error),
    /// `mount(2)` refused.
    Mount(PathBuf, io::Error),
    /// `fusermount3` could not be run.
    Helper(io::Error),
    /// `fusermount3` refused, and said why.
    Refused(String),
    /// The kernel and the server could not agree, or the server ended before it answered.
    Session(io::Error),
}

impl MountError {
    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            MountError::Mountpoint(_, err) if err.kind() == io::ErrorKind::NotFound => {
                "make the directory first"
            }
            MountError::Mountpoint(_, err) if err.kind() == io::ErrorKind::NotConnected => {
                "an image is mounted there whose server is gone; `umount` it first"
            }
            MountError::NotADirectory(_) => "an image is mounted on a directory",
            MountError::Busy(_) => "`umount` it first, or choose another directory",
            MountError::Device(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                "only the superuser may open it; others need fusermount3"
            }
            MountError::Device(_) => "load the kernel's module (`modprobe fuse`)",
            MountError::Mount(_, err) if err.kind() == io::ErrorKind::PermissionDenied => {
                "mounting needs CAP_SYS_ADMIN, which this process lacks (a container?)"
            }
            MountError::Helper(_) => "install the package `fuse3`, or mount as root",
            MountError::Refused(text) if text.contains("user_allow_other") => {
                "leave out -o allow_other, or set user_allow_other in /etc/fuse.conf"
            }
            MountError::Refused(text) if text.contains("Permission denied") => {
                "/dev/fuse is open to everyone on most systems: `chmod 666 /dev/fuse` as root"
            }
            MountError::Refused(text) if text.contains("device not found") => {
                "load the kernel's module (`modprobe fuse`)"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::Mountpoint(path, err) => write!(f, "mount point {}: {err}", path.display()),
            MountError::NotADirectory(path) => {
                write!(f, "mount point {} is not a directory", path.display())
            }
            MountError::Busy(path) => {
                write!(f, "something is mounted on {} already", path.display())
            }
            MountError::Device(err) => write!(f, "cannot open {DEVICE}: {err}"),
            MountError::Mount(path, err) => write!(f, "cannot mount on {}: {err}", path.display()),
            MountError::Helper(err) => write!(f, "cannot run {HELPER}: {err}"),
            MountError::Refused(text) => write!(f, "{text}"),
            MountError::Session(err) => write!(f, "the file system did not start: {err}"),
        }
    }
}

impl std::error::Error for MountError {}

/// Finds a mount point good: a directory where nothing is mounted. Returns its absolute path.
pub fn check_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    let wrap = |err| MountError::Mountpoint(path.to_owned(), err);
    let absolute = path.canonicalize().map_err(wrap)?;
    let place = mountinfo::place(&absolute).map_err(wrap)?;
    if !place.is_dir {
        return Err(MountError::NotADirectory(absolute));
    }
    if place.is_mount_root {
        return Err(MountError::Busy(absolute));
    }
    Ok(absolute)
}

/// A mount on its way: the kernel asks already, and some of it may have to be answered before it is done.
#[derive(Debug)]
pub struct Mounting(Option<JoinHandle<Result<(), MountError>>>);

impl Mounting {
    /// Waits until it is mounted. Whoever waits must see to it that the kernel is answered.
    pub fn finish(self) -> Result<(), MountError> {
        let Some(thread) = self.0 else { return Ok(()) };
        let died = |_| Err(MountError::Session(io::Error::other("the mounting thread panicked")));
        thread.join().unwrap_or_else(died)
    }
}

/// Begins to mount; returns the device through which the kernel asks.
pub fn begin(settings: &Settings) -> Result<(OwnedFd, Mounting), MountError> {
    if rustix::process::geteuid().is_root() {
        begin_directly(settings)
    } else {
        Ok((mount_by_helper(settings)?, Mounting(None)))
    }
}

/// With `mount(2)`. Set-user-id programs and device nodes work unless the settings say otherwise.
///
/// In a thread of its own: where a policy of `SELinux` has labels of FUSE in extended attributes, the kernel asks for that of
/// the root before `mount(2)` returns (seen on Linux 6.1 and 6.12), and waits for ever for who waits for it.
fn begin_directly(settings: &Settings) -> Result<(OwnedFd, Mounting), MountError> {
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|err| MountError::Device(err.into()))?;
    let data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},allow_other,default_permissions",
        device.as_raw_fd(),
        DIRECTORY_MODE | u32::from(settings.root_permissions),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let mountpoint = settings.mountpoint.clone();
    // cannot fail: digits and commas hold no zero byte
    let data =
        CString::new(data).map_err(|err| MountError::Mount(mountpoint.clone(), err.into()))?;
    // Read-only as a property of the file system: else each read would make the kernel doubt the access time.
    let flags = settings.flags | MountFlags::RDONLY;
    let source = settings.source.clone();
    let thread = thread::Builder::new().name("mount".to_owned()).spawn(move || {
        let mounted = rustix::mount::mount(&source, &mountpoint, FILE_SYSTEM_TYPE, flags, &*data);
        mounted.map_err(|err| match err {
            Errno::NODEV => MountError::Device(err.into()),
            _ => MountError::Mount(mountpoint, err.into()),
        })
    });
    let thread = thread.map_err(MountError::Session)?;
    // A device that belongs to no mount yet cannot be read.
    while !is_connected(device.as_fd()).unwrap_or(false) {
        if thread.is_finished() {
            // It failed, unless it was done since.
            return Mounting(Some(thread)).finish().map(|()| (device, Mounting(None)));
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok((device, Mounting(Some(thread))))
}

/// Whether a device is a mount's: the kernel has taken it, and not let go of it since.
pub fn is_connected(device: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(&device, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default()))?;
    Ok(!polled.iter().any(|polled| polled.revents().contains(PollFlags::ERR)))
}

/// With `fusermount3`, which is set-user-id and sends the device back through a socket.
fn mount_by_helper(settings: &Settings) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Helper)?;
    // It is the helper's to inherit. No other thread starts processes while we mount.
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())
        .map_err(|err| MountError::Helper(err.into()))?;
    let mut helper = Command::new(HELPER)
        .arg("-o")
        .arg(std::ffi::OsString::from_vec(helper_options(settings)))
        .arg("--")
        .arg(&settings.mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::Helper)?;
    drop(theirs);
    let device = receive_descriptor(&ours);
    let mut text = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        stderr.read_to_string(&mut text).map_err(MountError::Helper)?;
    }
    let status = helper.wait().map_err(MountError::Helper)?;
    match device {
        Ok(Some(device)) if status.success() => Ok(device),
        _ => {
            let text = text.trim();
            let text = text.strip_prefix("fusermount3: ").unwrap_or(text);
            Err(MountError::Refused(if text.is_empty() {
                format!("{HELPER} failed without a word ({status})")
            } else {
                text.to_owned()
            }))
        }
    }
}

fn helper_options(settings: &Settings) -> Vec<u8> {
    // It adds nosuid and nodev by itself, always.
    let mut options = b"ro,default_permissions,subtype=ashlar".to_vec();
    let flags = [
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
    ];
    for (flag, word) in flags {
        if settings.flags.contains(flag) {
            options.extend_from_slice(word.as_bytes());
        }
    }
    if settings.allow_other {
        options.extend_from_slice(b",allow_other");
    }
    options.extend_from_slice(b",fsname=");
    for byte in settings.source.as_os_str().as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
    options
}

/// The descriptor that comes through a socket; nothing when the other side closes it without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptor)
}

/// Unmounts. When it is busy it vanishes from the tree now, and is gone when the last user lets go.
pub fn unmount(mountpoint: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        match rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => {
                tracing::warn!("{} is busy; it is detached", mountpoint.display());
                let lazily = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
                Ok(rustix::mount::unmount(mountpoint, lazily)?)
            }
            result => Ok(result?),
        }
    } else {
        let status = Command::new(HELPER)
            .args(["-u", "-q", "-z", "--"])
            .arg(mountpoint)
            .stdin(Stdio::null())
            .status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{HELPER}: {status}"))) }
    }
}

//! How does the kernel ask? Each question is unpacked, put to the tree, and answered.
//!
//! An image cannot change, so the kernel should never ask twice. Every answer holds for ever, and what a read-only file
//! system has nothing to say to (open, close, access) is answered with ENOSYS once, after which the kernel does it alone.

mod adopt;
mod agree;
mod allowance;
pub mod connection;
pub mod convert;
pub mod counters;
pub mod errno;
mod failures;
mod heals;
pub mod journal;
pub mod mount;
pub mod mountinfo;
mod placement;
pub mod recorder;
mod seek;
pub mod session;
pub mod socket;
pub mod status;
mod xattr;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, Filesystem, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use crate::error::{Error, Result};
use crate::format::NAME_MAX;
use crate::format::field::{u32_from_u64, u32_from_usize, u64_from_usize, usize_from_u32};
use crate::format::index::InodeIndex;
use crate::fs::{Attr, Tree};
use crate::heal::corruption::LastResort;
use convert::{file_attr, file_type, inode_index, node};
use counters::{Counters, Upcall};
use failures::Failures;
use journal::Journal;
use placement::Placement;
use recorder::Recorder;
use session::Work;
use xattr::reply_sized;

/// How long an answer holds. The kernel makes it "for ever", which is what an image that cannot change allows. It is
/// more than a matter of speed: at shutdown every process is stopped for a moment, this server too, and whoever would
/// have to ask then would wait without end.
const FOREVER: Duration = Duration::from_secs(u64::MAX);

/// Makes every answer hold for a second only, so that a test sees what becomes of a machine then.
#[cfg(feature = "without-cures")]
pub static BRIEFLY: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// A name that ends whoever is asked for it, so that a test sees what becomes of the others.
#[cfg(feature = "without-cures")]
const POISON: &[u8] = b"ashlar-poison";

/// How long an answer holds.
fn ttl() -> Duration {
    #[cfg(feature = "without-cures")]
    if BRIEFLY.load(std::sync::atomic::Ordering::Relaxed) {
        return Duration::from_secs(1);
    }
    FOREVER
}

/// What the kernel puts in place of a user whom it does not tell (`FUSE_INVALID_UIDGID`).
const UID_WITHHELD: u32 = u32::MAX;

/// The extended attribute on the root directory that holds the root digest in hex. It is not listed, so that a copy of
/// the tree equals the tree.
pub const ROOT_DIGEST_XATTR: &str = "user.ashlar.root_digest";

/// The least that the kernel asks for of a file that it caches: pages of both architectures that we know.
const PAGE_LEN: usize = 4096;

/// Where `SELinux` keeps a file's label.
const SELINUX_XATTR: &str = "security.selinux";

thread_local! {
    /// Content on its way to the kernel: one buffer for each worker, as long as the longest READ it has seen.
    static CONTENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A tree as the kernel's file system driver wants it.
#[derive(Debug)]
pub struct Server {
    tree: Arc<Tree>,
    counters: Arc<Counters>,
    journal: Arc<Journal>,
    failures: Failures,
    recorder: Option<Recorder>,
    /// What is done about bytes that nobody has, besides an error.
    last_resort: Option<LastResort>,
    /// The image file, to tell how much space is left beside it.
    image: Option<OwnedFd>,
    readahead_kb: Option<u32>,
    placement: Arc<Placement>,
    /// Whether xattrs are answered at all. If not, the first question for one is the last.
    xattrs: bool,
    /// Whether any inode may have a label of `SELinux`.
    labels: bool,
}

impl Server {
    /// Serves a tree. What is at work is written down in `journal`.
    pub fn new(
        tree: Arc<Tree>,
        counters: Arc<Counters>,
        journal: Arc<Journal>,
        work: Work,
    ) -> Self {
        let xattrs = work.digest_xattr || tree.has_xattrs();
        let labels = tree.may_have_xattr(SELINUX_XATTR.as_bytes());
        let failures = Failures::default();
        Server {
            tree,
            counters,
            journal,
            failures,
            recorder: work.recorder,
            last_resort: work.last_resort,
            image: work.image,
            readahead_kb: work.readahead_kb,
            placement: Arc::new(Placement::new(work.proc)),
            xattrs,
            labels,
        }
    }

    /// Who runs on which processor, for the thread that expands ahead.
    fn placement(&self) -> Arc<Placement> {
        Arc::clone(&self.placement)
    }

    /// Counts a question, has the threads placed where its client runs, and answers it. A panic costs EIO, which the unanswered
    /// reply says as it is dropped; and so does a question that has ended too many servers.
    fn guard(&self, request: &Request, upcall: Upcall, ino: INodeNo, answer: impl FnOnce()) {
        self.counters.count(upcall);
        let Some(_at_work) = self.journal.enter(request.unique().0) else {
            self.counters.count_failure();
            self.failures.tell_poison(upcall, ino);
            return;
        };
        if self.placement.asked(request.pid()) {
            self.tree.store().wake_prefetch();
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(answer)) {
            self.counters.count_failure();
            self.failures.tell_panic(upcall, ino, &*panic);
        }
    }

    /// The kernel's word for an error. What is not the question's own fault is told to the log.
    fn fail(&self, upcall: Upcall, ino: INodeNo, err: &Error) -> Errno {
        let errno = self.fail_some(upcall, ino, err);
        if let Some(last_resort) = self.last_resort.as_ref().filter(|_| errno::is_loss(err)) {
            last_resort.take(&err.to_string());
        }
        errno
    }

    /// The same where it is not known whether anybody wants just those bytes that are lost.
    fn fail_some(&self, upcall: Upcall, ino: INodeNo, err: &Error) -> Errno {
        if errno::is_failure(err) {
            self.counters.count_failure();
            self.failures.tell(upcall, ino, err, &self.tree);
        }
        errno::from_error(err)
    }

    fn look_up(&self, parent: INodeNo, name: &[u8]) -> Result<Option<FileAttr>> {
        #[cfg(feature = "without-cures")]
        if name == POISON {
            std::process::abort();
        }
        let directory = inode_index(parent)?;
        let found = match name {
            // Asked only for a handle whose inode the kernel has forgotten.
            b"." => Some((directory, self.tree.inode(directory)?)),
            b".." => {
                let parent = self.tree.parent(directory)?;
                Some((parent, self.tree.inode(parent)?))
            }
            _ => self.tree.lookup(directory, name)?,
        };
        let Some((index, inode)) = found else { return Ok(None) };
        self.note_name(parent, name, index);
        Ok(Some(file_attr(&self.tree.attr_of(index, &inode)?)))
    }

    fn note_name(&self, parent: INodeNo, name: &[u8], child: InodeIndex) {
        if let (Some(recorder), Ok(directory)) = (&self.recorder, inode_index(parent)) {
            recorder.name(directory, name, child);
        }
    }

    fn note_read(&self, ino: INodeNo, offset: u64, len: usize) {
        if let (Some(recorder), Ok(index)) = (&self.recorder, inode_index(ino)) {
            recorder.read(index, offset, u64_from_usize(len));
        }
    }

    /// Adds entries of a directory from number `offset` on (0 is ".", 1 is "..") until `add` says that it is full. `add`
    /// takes the number of the next entry, the name and the attributes.
    ///
    /// An error after the first entry is not told now: the next call meets it again, as its first.
    fn list(
        &self,
        ino: INodeNo,
        offset: u64,
        mut add: impl FnMut(u64, &OsStr, &Attr) -> bool,
    ) -> Result<()> {
        let index = inode_index(ino)?;
        let directory = self.tree.directory(index)?;
        let end = u64::from(directory.len()).saturating_add(2);
        for nth in offset..end {
            let next = nth.saturating_add(1);
            let full = match nth {
                0 => self.tree.attr(index).map(|attr| add(next, OsStr::new("."), &attr)),
                1 => {
                    let parent = self.tree.parent(index).and_then(|parent| self.tree.attr(parent));
                    parent.map(|attr| add(next, OsStr::new(".."), &attr))
                }
                _ => {
                    let nth = u32_from_u64(nth.saturating_sub(2));
                    directory.entry(nth).and_then(|entry| {
                        let attr =
                            self.tree.attr_of(entry.inode, &directory.child(nth, &entry)?)?;
                        Ok(add(next, OsStr::from_bytes(&entry.name), &attr))
                    })
                }
            };
            match full {
                Ok(false) => {}
                Err(err) if nth == offset => return Err(err),
                Ok(true) | Err(_) => break,
            }
        }
        Ok(())
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        agree::agree(config, self.readahead_kb, self.tree.has_posix_acls())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guard(request, Upcall::Lookup, parent, || {
            if name.len() > NAME_MAX {
                return reply.error(Errno::ENAMETOOLONG);
            }
            match self.look_up(parent, name.as_bytes()) {
                Ok(Some(attr)) => reply.entry(&ttl(), &attr, Generation(0)),
                // Inode 0 means "there is no such name, and you may remember it"; ENOENT would be asked again.
                Ok(None) => reply.entry(&ttl(), &convert::ABSENT, Generation(0)),
                Err(err) => reply.error(self.fail(Upcall::Lookup, parent, &err)),
            }
        });
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {
        self.counters.count(Upcall::Forget);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.guard(request, Upcall::Getattr, ino, || {
            match inode_index(ino).and_then(|index| self.tree.attr(index)) {
                Ok(attr) => reply.attr(&ttl(), &file_attr(&attr)),
                Err(err) => reply.error(self.fail(Upcall::Getattr, ino, &err)),
            }
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.guard(request, Upcall::Readlink, ino, || {
            match inode_index(ino).and_then(|index| self.tree.read_link(index)) {
                Ok(target) => reply.data(&target),
                Err(err) => reply.error(self.fail(Upcall::Readlink, ino, &err)),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guard(request, Upcall::Read, ino, || {
            CONTENT.with_borrow_mut(|buf| {
                let len = usize_from_u32(size);
                if buf.len() < len {
                    buf.resize(len, 0);
                }
                // All or nothing: the kernel takes a short answer for the end of the file and fills up with zeros.
                let into = buf.get_mut(..len).unwrap_or_default();
                match inode_index(ino).and_then(|index| self.tree.read_at(index, offset, into)) {
                    Ok(read_len) => {
                        self.note_read(ino, offset, read_len);
                        reply.data(into.get(..read_len).unwrap_or_default());
                        if let Some(recorder) = &self.recorder {
                            recorder.flush();
                        }
                    }
                    // The kernel reads ahead. Of what it gets an error for, it asks once more for the page that is wanted.
                    Err(err) if len > PAGE_LEN => {
                        reply.error(self.fail_some(Upcall::Read, ino, &err));
                    }
                    Err(err) => reply.error(self.fail(Upcall::Read, ino, &err)),
                }
            });
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.guard(request, Upcall::Readdir, ino, || {
            let listed = self.list(ino, offset, |next, name, attr| {
                reply.add(node(attr.index), next, file_type(attr.kind), name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(err) => reply.error(self.fail(Upcall::Readdir, ino, &err)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.guard(request, Upcall::Readdirplus, ino, || {
            let listed = self.list(ino, offset, |next, name, attr| {
                self.note_name(ino, name.as_bytes(), attr.index);
                let attr = file_attr(attr);
                reply.add(attr.ino, next, name, &ttl(), &attr, Generation(0))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(err) => reply.error(self.fail(Upcall::Readdirplus, ino, &err)),
            }
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.guard(request, Upcall::Getxattr, ino, || {
            if !self.xattrs {
                return reply.error(Errno::ENOSYS);
            }
            match self.xattr(ino, name) {
                Ok(Some(value)) => reply_sized(reply, &value, size),
                Ok(None) => reply.error(self.no_xattr(name)),
                Err(err) => reply.error(self.fail(Upcall::Getxattr, ino, &err)),
            }
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.guard(request, Upcall::Listxattr, ino, || {
            if !self.xattrs {
                return reply.error(Errno::ENOSYS);
            }
            match self.xattr_list(ino, request.uid()) {
                Ok(list) => reply_sized(reply, &list, size),
                Err(err) => reply.error(self.fail(Upcall::Listxattr, ino, &err)),
            }
        });
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.guard(request, Upcall::Statfs, ino, || {
            let space = convert::space(self.tree.superblock(), self.image.as_ref());
            reply.statfs(
                space.blocks,
                space.blocks_free,
                space.blocks_available,
                space.inodes,
                space.inodes_free,
                convert::SPACE_UNIT,
                u32_from_usize(NAME_MAX),
                convert::SPACE_UNIT,
            );
        });
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.guard(request, Upcall::Lseek, ino, || match self.seek(ino, offset, whence) {
            Ok(Ok(at)) => reply.offset(at),
            Ok(Err(errno)) => reply.error(errno),
            Err(err) => reply.error(self.fail(Upcall::Lseek, ino, &err)),
        });
    }

    // What follows is answered once in the life of a mount: ENOSYS lets the kernel do it alone from then on.

    fn open(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.guard(request, Upcall::Open, ino, || reply.error(Errno::ENOSYS));
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.guard(request, Upcall::Opendir, ino, || reply.error(Errno::ENOSYS));
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.guard(request, Upcall::Flush, ino, || reply.error(Errno::ENOSYS));
    }

    fn access(&self, request: &Request, ino: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        self.guard(request, Upcall::Access, ino, || reply.error(Errno::ENOSYS));
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.guard(request, Upcall::Fsync, ino, || reply.error(Errno::ENOSYS));
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.guard(request, Upcall::Fsync, ino, || reply.error(Errno::ENOSYS));
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.guard(request, Upcall::Ioctl, ino, || reply.error(Errno::ENOTTY));
    }
}

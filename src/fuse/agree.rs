//! What do the kernel and we agree on? It is said once in the life of a mount, and the same by each server of it.

use std::io;

use fuser::{InitFlags, KernelConfig};

/// Background requests (read-ahead) that may be on their way. Above three quarters of it the kernel stops reading ahead.
const BACKGROUND_MAX: u16 = 128;

/// Largest request in bytes, unless the kernel shall read farther ahead; and at most. It bounds READ. The kernel clears memory
/// for the pages of the largest request with each request that has pages, also with an ioctl that needs none (Linux 6.12,
/// `fs/fuse/ioctl.c`), so it is no larger than it has to be.
const REQUEST_LEN: std::ops::RangeInclusive<u32> = 128 << 10..=1 << 20;

/// What the kernel is promised and asked for at the start; what an older kernel does not have is left out.
const CAPABILITIES: [InitFlags; 9] = [
    InitFlags::FUSE_ASYNC_READ,
    // Without AUTO: each listing brings the attributes of what it lists, also from its second piece on.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Nothing changes, so there is nothing to be found out by asking for attributes before a read.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    // Node ids are inode numbers of the image and never change: NFS handles, and handles at all, work.
    InitFlags::FUSE_EXPORT_SUPPORT,
    // Owners are judged by the kernel alone (`default_permissions`), so mapped mounts are no concern of ours.
    InitFlags::FUSE_ALLOW_IDMAP,
];

/// Tells the kernel what it is promised and asked for. READs have up to `readahead_kb` KiB.
pub(super) fn agree(
    config: &mut KernelConfig,
    readahead_kb: Option<u32>,
    has_posix_acls: bool,
) -> io::Result<()> {
    let acl = has_posix_acls.then_some(InitFlags::FUSE_POSIX_ACL);
    for capability in CAPABILITIES.into_iter().chain(acl) {
        if config.add_capabilities(capability).is_err() {
            tracing::debug!("this kernel does not have {capability:?}");
        }
    }
    let request_len_max = readahead_kb
        .map_or(0, |kb| kb.saturating_mul(1024))
        .clamp(*REQUEST_LEN.start(), *REQUEST_LEN.end());
    let unfit = || io::Error::other("fuser does not take these limits");
    config.set_max_write(request_len_max).map_err(|_| unfit())?;
    config.set_max_background(BACKGROUND_MAX).map_err(|_| unfit())?;
    Ok(())
}

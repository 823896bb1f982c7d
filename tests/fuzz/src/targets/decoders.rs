//! Is what a decoder took what its encoder makes? One round for each small structure of the format.

use ashlarfs::Digest;
use ashlarfs::format::defect::Corrupt;
use ashlarfs::format::dirent::{self, Dirent};
use ashlarfs::format::entry::{self, Codec, Entry};
use ashlarfs::format::index::{BlockIndex, InodeIndex, NONE};
use ashlarfs::format::inode::{self, Body, Inode, Kind, Runs, Tail};
use ashlarfs::format::name::{self, NotAName};
use ashlarfs::format::run::{self, Run};
use ashlarfs::format::{prefetch, trailer, xattr};
use ashlarfs::store::proof;

/// The first `N` bytes, with zeros where there are not so many.
pub(crate) fn array<const N: usize>(input: &[u8]) -> [u8; N] {
    let mut raw = [0; N];
    let len = input.len().min(N);
    raw[..len].copy_from_slice(&input[..len]);
    raw
}

pub(crate) fn entry(input: &[u8]) {
    let raw: [u8; entry::LEN] = array(input);
    let content_len_max = 1 << (12 + input.get(entry::LEN).copied().unwrap_or(4) % 9);
    let Ok(entry) = Entry::decode(&raw, BlockIndex(0), content_len_max) else { return };
    assert_eq!(entry.encode(), raw);
    assert!(entry.offset < 1 << 48 && entry.end() >= entry.offset);
    assert!((1..=content_len_max).contains(&entry.content_len));
    assert!((1..=entry.content_len).contains(&entry.stored_len));
}

pub(crate) fn entry_seeds() -> Vec<Vec<u8>> {
    let seed = |codec, stored_len, content_len| {
        let entry = Entry { digest: Digest([7; 32]), offset: 4096, codec, stored_len, content_len };
        entry.encode().to_vec()
    };
    let all = Codec::ALL.into_iter().map(|codec| seed(codec, 100, 4096));
    all.chain([seed(Codec::None, 4096, 4096), seed(Codec::Zstd, 4096, 4096)]).collect()
}

/// All but the last byte is the inode, which says how large blocks are and whether this is the root.
pub(crate) fn inode(input: &[u8]) {
    let raw: [u8; inode::LEN] = array(input);
    let how = input.get(inode::LEN).copied().unwrap_or(0);
    let index = InodeIndex(u32::from(how & 1));
    let block_bits = 12 + (how >> 1) % 9;
    let inode = match Inode::decode(&raw, index, block_bits) {
        Ok(inode) => inode,
        Err(corrupt) => {
            // A rule of the inode alone, and it says something.
            assert!(!corrupt.to_string().is_empty());
            return;
        }
    };
    let Inode { kind, permissions, size, mtime_nsec, .. } = inode;
    assert_eq!(inode.encode(), raw);
    assert_eq!(Inode::decode(&inode.encode(), index, block_bits), Ok(inode));
    assert!(permissions < 0o10000 && mtime_nsec < 1_000_000_000 && i64::try_from(size).is_ok());
    match (kind, inode.body) {
        (Kind::File, Body::File { runs, tail }) => {
            assert_eq!(u64::from(tail.len), size % (1 << block_bits));
            let full = size >> block_bits;
            assert_eq!(runs == Runs::None, full == 0);
            if let Runs::One(run) = runs {
                assert_eq!(u64::from(run.count), full);
            }
        }
        (Kind::Dir, Body::Dir { .. })
        | (Kind::Link, Body::Link { .. })
        | (Kind::Char | Kind::Block, Body::Device { .. })
        | (Kind::Fifo | Kind::Sock, Body::Plain) => {}
        (kind, body) => panic!("a {kind:?} with {body:?}"),
    }
}

pub(crate) fn inode_seeds() -> Vec<Vec<u8>> {
    let hole = Tail { block: None, at: 0, len: 0 };
    let tail = Tail { block: Some(BlockIndex(3)), at: 5, len: 7 };
    let one = Runs::One(Run { file_block: 0, block: Some(BlockIndex(2)), count: 3 });
    let bodies = [
        (Kind::Dir, 20, Body::Dir { at: 0, entries: 1, parent: InodeIndex::ROOT }),
        (Kind::File, 0, Body::File { runs: Runs::None, tail: hole }),
        (Kind::File, 7, Body::File { runs: Runs::None, tail }),
        (Kind::File, 3 << 12, Body::File { runs: one, tail: hole }),
        (Kind::File, (9 << 12) + 7, Body::File { runs: Runs::Many { first: 4, count: 2 }, tail }),
        (Kind::Link, 9, Body::Link { at: 4 }),
        (Kind::Char, 0, Body::Device { major: 8, minor: 1 }),
        (Kind::Block, 0, Body::Device { major: 4095, minor: 1_048_575 }),
        (Kind::Fifo, 0, Body::Plain),
        (Kind::Sock, 0, Body::Plain),
    ];
    let seed = |(kind, size, body)| {
        let inode = Inode {
            kind,
            permissions: 0o644,
            nlink: 2,
            uid: 1,
            gid: 2,
            size,
            mtime_sec: -5,
            mtime_nsec: 999_999_999,
            xattrs: None,
            body,
        };
        [&inode.encode()[..], &[u8::from(kind != Kind::Dir)]].concat()
    };
    bodies.into_iter().map(seed).collect()
}

pub(crate) fn run(input: &[u8]) {
    let raw: [u8; run::LEN] = array(input);
    let next: [u8; run::LEN] = array(input.get(run::LEN..).unwrap_or_default());
    let (this, next) = (Run::decode(&raw), Run::decode(&next));
    assert_eq!(this.encode(), raw);
    assert_eq!(Run::decode(&this.encode()), this);
    let both_holes = this.block.is_none() && next.block.is_none();
    let follows = this.block.zip(next.block).is_some_and(|(this_block, next_block)| {
        u64::from(this_block.0) + u64::from(this.count) == u64::from(next_block.0)
    });
    assert_eq!(this.continues_into(&next), both_holes || follows);
}

pub(crate) fn run_seeds() -> Vec<Vec<u8>> {
    let run = |file_block, block, count| {
        Run { file_block, block: run::block_or_hole(block), count }.encode()
    };
    vec![
        [run(0, 5, 3), run(3, 8, 1)].concat(),
        [run(0, NONE, 3), run(3, NONE, 1)].concat(),
        [run(0, 5, u32::MAX), run(3, 4, 1)].concat(),
    ]
}

pub(crate) fn prefetch(input: &[u8]) {
    let raw: [u8; prefetch::LEN] = array(input);
    assert_eq!(prefetch::encode(prefetch::decode(&raw)), raw);
}

pub(crate) fn prefetch_seeds() -> Vec<Vec<u8>> {
    vec![vec![1, 2, 3, 4]]
}

pub(crate) fn dirent(input: &[u8]) {
    let raw: [u8; dirent::LEN] = array(input);
    let Dirent { inode, name_end, kind, reserved_is_zero } = Dirent::decode(&raw);
    let Some(kind) = kind else { return };
    assert_eq!(dirent::encode(inode, name_end, kind) == raw, reserved_is_zero);
}

pub(crate) fn dirent_seeds() -> Vec<Vec<u8>> {
    let kinds =
        [Kind::Fifo, Kind::Char, Kind::Dir, Kind::Block, Kind::File, Kind::Link, Kind::Sock];
    kinds.into_iter().map(|kind| dirent::encode(3, 9, kind).to_vec()).collect()
}

pub(crate) fn name(input: &[u8]) {
    let expected = if input.is_empty() || input.len() > 255 {
        Err(NotAName::Length)
    } else if input.contains(&b'/') || input.contains(&0) || [&b"."[..], b".."].contains(&input) {
        Err(NotAName::Bytes)
    } else {
        Ok(())
    };
    assert_eq!(name::check(input), expected);
    // What is a name can be made, and is found under it: Linux has the last word.
    if expected.is_ok() {
        assert_eq!(std::path::Path::new(std::ffi::OsStr::from_bytes(input)).iter().count(), 1);
    }
    // A digest is read as it is shown, whatever the case.
    if let Some(digest) = std::str::from_utf8(input).ok().and_then(|it| it.parse::<Digest>().ok()) {
        assert_eq!(digest.to_string().as_bytes(), input.to_ascii_lowercase());
    }
}

use std::os::unix::ffi::OsStrExt;

pub(crate) fn name_seeds() -> Vec<Vec<u8>> {
    vec![
        b"name".to_vec(),
        b"..".to_vec(),
        b"...".to_vec(),
        b"a/b".to_vec(),
        vec![b'n'; 255],
        vec![b'n'; 256],
        b"not\xffutf8\n".to_vec(),
        Digest([0xab; 32]).to_string().into_bytes(),
    ]
}

/// What a set says, read as SPEC 8 has it, and only by `Head` and `check_name`.
fn set(mut raw: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Option<Corrupt>> {
    let mut take = |len: usize| {
        let (taken, rest) = raw.split_at_checked(len).ok_or(None)?;
        raw = rest;
        Ok::<_, Option<Corrupt>>(taken)
    };
    let count = u16::from_le_bytes(array(take(xattr::COUNT_LEN)?));
    let mut set = Vec::new();
    for _ in 0..count {
        let head: [u8; xattr::HEAD_LEN] = array(take(xattr::HEAD_LEN)?);
        let head = xattr::Head::decode(&head, 0).map_err(Some)?;
        let name = take(head.name_len.into())?.to_vec();
        xattr::check_name(&name, 0).map_err(Some)?;
        let value = take(head.value_len as usize)?.to_vec();
        set.push((name, value));
    }
    Ok(set)
}

pub(crate) fn xattr(input: &[u8]) {
    let Ok(found) = set(input) else { return };
    let ascending = found.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let list_len: usize = found.iter().map(|(name, _)| name.len() + 1).sum();
    match xattr::encode(&found) {
        Some(raw) => {
            assert!(input.starts_with(&raw));
            assert_eq!(set(&raw).ok(), Some(found));
        }
        None => assert!(found.is_empty() || !ascending || list_len > 65_536),
    }
}

pub(crate) fn xattr_seeds() -> Vec<Vec<u8>> {
    let sets: [&[(&[u8], &[u8])]; 3] = [
        &[(b"user.a", b"one")],
        &[(b"security.capability", &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0]), (b"user.b", b"")],
        &[(b"system.posix_acl_access", &[2, 0, 0, 0]), (b"trusted.t", b"x"), (b"user.z", b"zz")],
    ];
    let owned = |set: &[(&[u8], &[u8])]| {
        let set: Vec<_> = set.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        xattr::encode(&set).unwrap()
    };
    sets.into_iter().map(owned).collect()
}

/// A trailer as it came, and once more with its checksum made right.
pub(crate) fn trailer(input: &[u8]) {
    let mut sealed = input.to_vec();
    if sealed.len() >= trailer::HEAD_LEN {
        sealed[trailer::CHECKSUM_AT..trailer::HEAD_LEN].fill(0);
        let checksum = proof::hash_trailer(&sealed);
        sealed[trailer::CHECKSUM_AT..trailer::HEAD_LEN].copy_from_slice(&checksum.0);
    }
    for raw in [input, &sealed] {
        if let Some(head) = raw.first_chunk() {
            let len = trailer::decode_len(head);
            assert!(len.is_err() || len <= Ok(trailer::LEN_MAX));
        }
        let Ok(signatures) = trailer::decode(raw, proof::hash_trailer) else { continue };
        assert_eq!(trailer::encode(&signatures, proof::hash_trailer).as_deref(), Some(raw));
        assert_eq!(trailer::len(&signatures), raw.len() as u64);
    }
}

pub(crate) fn trailer_seeds() -> Vec<Vec<u8>> {
    let sets = [vec![b"signature".to_vec()], vec![vec![1; 300], vec![2; 5], vec![3; 1]]];
    sets.iter().map(|set| trailer::encode(set, proof::hash_trailer).unwrap()).collect()
}

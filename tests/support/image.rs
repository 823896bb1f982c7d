//! Images for tests: one that uses every feature of the format, and a source that holds an image in memory.
#![allow(unreachable_pub, dead_code, reason = "shared by test binaries, each of which uses a part")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use ashlarfs::{Anchor, Digest, Options, Source, Tree};

/// An image in memory, which a test may change under a reader.
#[derive(Debug)]
pub struct Memory(pub RwLock<Vec<u8>>);

impl Memory {
    /// A source with these bytes.
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Memory(RwLock::new(bytes)))
    }
}

impl Source for Memory {
    fn len(&self) -> u64 {
        self.0.read().unwrap().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.read().unwrap();
        let start = usize::try_from(offset).unwrap();
        let from = start.checked_add(buf.len()).and_then(|end| bytes.get(start..end));
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Opens an image in memory with its root digest.
pub fn open(bytes: Vec<u8>, digest: Digest) -> ashlarfs::Result<Tree> {
    ashlarfs::open_source(Memory::new(bytes), &Options::new(Anchor::RootDigest(digest)))
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A tar archive with everything that an image can hold: all seven types but sockets, which tar does not know, hard links,
/// sparse and empty files, xattrs with capabilities and ACLs, names that are no UTF-8, a large and a deep directory.
pub fn every_feature_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, size: u64, mode: u32| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_700_000_000);
        header
    };
    let mut add =
        |path: &[u8], kind: tar::EntryType, mode: u32, content: &[u8], pax: &[(&str, &[u8])]| {
            if !pax.is_empty() {
                tar.append_pax_extensions(pax.iter().copied()).unwrap();
            }
            let mut header = header(kind, content.len() as u64, mode);
            header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path);
            header.set_cksum();
            tar.append(&header, content).unwrap();
        };
    use tar::EntryType as T;
    let capability: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0,
        255, 255, 255, 255,
    ];
    add(b"./", T::Directory, 0o755, b"", &[("mtime", b"1700000000.123456789")]);
    add(b"./empty", T::Regular, 0o644, b"", &[]);
    add(b"./small", T::Regular, 0o600, b"a few bytes", &[("mtime", b"-5.5")]);
    add(
        b"./setuid",
        T::Regular,
        0o4755,
        &noise(1, 5000),
        &[("SCHILY.xattr.security.capability", capability)],
    );
    add(
        b"./acl",
        T::Regular,
        0o640,
        &noise(1, 5000),
        &[("SCHILY.xattr.system.posix_acl_access", acl)],
    );
    add(
        b"./attrs",
        T::Regular,
        0o644,
        b"x",
        &[("SCHILY.xattr.user.a", b""), ("SCHILY.xattr.user.b", &[0, 255, 10])],
    );
    add(b"./blocks", T::Regular, 0o644, &noise(2, 9 * 4096 + 77), &[]);
    add(b"./text", T::Regular, 0o644, &b"over and over and over again ".repeat(2000), &[]);
    let mut sparse = vec![0; 40 * 4096];
    sparse[5 * 4096..6 * 4096].copy_from_slice(&noise(3, 4096));
    sparse[6 * 4096..7 * 4096].copy_from_slice(&noise(2, 4096));
    sparse[30 * 4096 + 1] = 1;
    add(b"./sparse", T::Regular, 0o644, &sparse, &[]);
    add(b"./zeros", T::Regular, 0o644, &[0; 3 * 4096 + 5], &[]);
    add(b"./not\xffutf8\n", T::Regular, 0o644, b"name", &[]);
    add(b"./fifo", T::Fifo, 0o644, b"", &[]);
    add(b"./big/", T::Directory, 0o1777, b"", &[]);
    for n in 0..300_u32 {
        add(
            format!("./big/file number {n:03}").as_bytes(),
            T::Regular,
            0o644,
            &noise(u64::from(n) + 100, n as usize),
            &[],
        );
    }
    add(b"./hollow/", T::Directory, 0o700, b"", &[]);
    let mut deep = b"./d/".to_vec();
    for _ in 0..20 {
        add(&deep, T::Directory, 0o755, b"", &[]);
        deep.extend_from_slice(b"d/");
    }
    let mut special = |path: &str, kind: T, link: &str, device: Option<(u32, u32)>| {
        let mut header = header(kind, 0, 0o644);
        header.set_path(path).unwrap();
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        if let Some((major, minor)) = device {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        header.set_cksum();
        tar.append(&header, io::empty()).unwrap();
    };
    special("hard", T::Link, "./blocks", None);
    special("d/link", T::Symlink, "../small", None);
    special("dangling", T::Symlink, "/nowhere/at/all", None);
    special("null", T::Char, "", Some((1, 3)));
    special("disk", T::Block, "", Some((8, 1)));
    tar.into_inner().unwrap()
}

/// A tree with one of everything, as small as it can be.
pub fn small_tar() -> Vec<u8> {
    use tar::EntryType as T;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: T, content: &[u8], link: &str, pax: &[(&str, &[u8])]| {
        if !pax.is_empty() {
            tar.append_pax_extensions(pax.iter().copied()).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == T::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_path(path).unwrap();
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        if matches!(kind, T::Char | T::Block) {
            header.set_device_major(8).unwrap();
            header.set_device_minor(1).unwrap();
        }
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    // Blocks that are all different and compress well.
    let text = |seed: u64, blocks: usize| -> Vec<u8> {
        (0..blocks as u64).flat_map(|n| noise(seed * 100 + n, 16).repeat(256)).collect()
    };
    let sparse = |seed: u64| [text(seed, 1), vec![0; 8192], text(seed + 1, 2)].concat();
    add("./", T::Directory, b"", "", &[]);
    for (directory, child) in [("p", "p/x"), ("q", "q/y"), ("q/sub", "q/sub/deep")] {
        add(&format!("{directory}/"), T::Directory, b"", "", &[]);
        add(child, T::Regular, child.as_bytes(), "", &[]);
    }
    add("empty/", T::Directory, b"", "", &[]);
    add("char", T::Char, b"", "", &[]);
    add("block", T::Block, b"", "", &[]);
    add("fifo", T::Fifo, b"", "", &[]);
    add("link1", T::Symlink, b"", "aaaa", &[]);
    add("link2", T::Symlink, b"", "bbbb", &[]);
    add("small", T::Regular, b"hello", "", &[]);
    add("exact", T::Regular, &text(1, 2), "", &[]);
    add("tail", T::Regular, &[text(2, 1), b"and a tail".to_vec()].concat(), "", &[]);
    add("sparse1", T::Regular, &sparse(3), "", &[]);
    add("sparse2", T::Regular, &sparse(5), "", &[]);
    add("zeros", T::Regular, &[0; 4096 * 3 + 7], "", &[]);
    add("hard1", T::Regular, b"two names", "", &[]);
    add("hard2", T::Link, b"", "hard1", &[]);
    add(
        "xa",
        T::Regular,
        b"",
        "",
        &[("SCHILY.xattr.user.a", b"one"), ("SCHILY.xattr.user.b", b"two")],
    );
    add("xb", T::Regular, b"", "", &[("SCHILY.xattr.system.posix_acl_access", b"an ACL")]);
    tar.into_inner().unwrap()
}

/// Builds the image of a tar archive with blocks of 4 KiB; returns its path and root digest.
pub fn build_tar(directory: &Path, tar: &[u8], extra: &[&str]) -> (PathBuf, Digest) {
    let (archive, image) = (directory.join("tree.tar"), directory.join("image"));
    std::fs::write(&archive, tar).unwrap();
    let mut args =
        vec!["mkimage", "--quiet", "--tar", "-b", "4K", "-z", "zstd,3", "--label", "every feature"];
    args.extend(extra);
    let (archive, image_arg) = (archive.to_str().unwrap(), image.to_str().unwrap());
    args.extend([archive, image_arg]);
    let summary = ashlarfs_mkimage::run(args).unwrap();
    (image, summary.root_digest.parse().unwrap())
}

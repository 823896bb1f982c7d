//! Is every archive refused, or packed into an image without a fault?
//!
//! The input goes through the whole builder. Checksums of headers are made right first: without that a fuzzer would hardly
//! get past one.

use ashlarfs::{Anchor, Digest, Options};

use super::examine;
use crate::image;

const RECORD_LEN: usize = 512;

/// Whether the checksum of a header can be made right: what looks like one, or like an old one that has a name.
fn is_like_a_header(record: &[u8; RECORD_LEN]) -> bool {
    &record[257..262] == b"ustar" || (record[0] != 0 && record[148..156].contains(&b'\0'))
}

fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    archive.resize(archive.len().div_ceil(RECORD_LEN) * RECORD_LEN, 0);
    for record in archive.as_chunks_mut::<RECORD_LEN>().0 {
        if is_like_a_header(record) {
            record[148..156].fill(b' ');
            let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
            record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    // The mark that ends an archive.
    archive.resize(archive.len() + 2 * RECORD_LEN, 0);
    archive
}

pub(crate) fn tar(input: &[u8]) {
    let archive = match input.split_first() {
        // As it came: packed ones, too, which may be a thousand times longer than they look.
        Some((0, raw)) => raw[..raw.len().min(1024)].to_vec(),
        Some((_, raw)) => with_checksums(raw),
        None => Vec::new(),
    };
    let scratch = super::updates::scratch();
    let (source, image) = (scratch.join("a.tar"), scratch.join("a.img"));
    std::fs::write(&source, &archive).unwrap();
    let args = ["mkimage", "--quiet", "--tar", "-b", "4K", "-z", "zstd,1", "-j", "1"];
    let paths = [source.to_str().unwrap(), image.to_str().unwrap()];
    match ashlarfs_mkimage::run(args.into_iter().chain(paths)) {
        Err(failure) => assert!(!failure.message.is_empty()),
        Ok(summary) => {
            let root: Digest = summary.root_digest.parse().unwrap();
            let bytes = std::fs::read(&image).unwrap();
            let found = examine::examine(&bytes, &Options::new(Anchor::RootDigest(root)));
            assert!(found.is_clean, "mkimage made an image that is not whole");
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let features = image::every_feature_tar();
    // Of the whole archive the beginning, where there is one of everything, and the end.
    let (start, end) = (&features[..14 * 1024], &features[features.len() - 12 * 1024..]);
    let mut seeds = vec![[&[1], start].concat(), [&[1], end].concat()];
    let packed = zstd::bulk::compress(&with_checksums(&end[..4096]), 3).unwrap();
    seeds.push([&[0], &packed[..]].concat());
    seeds.extend(pax_seeds());
    seeds
}

/// Archives with extended headers: ACLs, GNU's sparse files in each version, attributes of libarchive, long names.
fn pax_seeds() -> Vec<Vec<u8>> {
    let header = |name: &str, kind: tar::EntryType, size: usize| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_mtime(1);
        header.set_cksum();
        header
    };
    let archive = |pax: &[(&str, &[u8])], content: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_pax_extensions(pax.iter().copied()).unwrap();
        tar.append(&header("file", tar::EntryType::Regular, content.len()), content).unwrap();
        let raw = tar.into_inner().unwrap();
        [&[1], &raw[..raw.len() - 1024]].concat()
    };
    let mut long = tar::Builder::new(Vec::new());
    let mut name = header("././@LongLink", tar::EntryType::GNULongName, 301);
    name.set_cksum();
    long.append(&name, &[&[b'n'; 150][..], b"/", &[b'm'; 149], b"\0"].concat()[..]).unwrap();
    long.append(&header("short", tar::EntryType::Regular, 3), &b"abc"[..]).unwrap();
    let long = long.into_inner().unwrap();
    vec![
        archive(
            &[("SCHILY.acl.access", b"user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---")],
            b"x",
        ),
        archive(
            &[("SCHILY.acl.default", b"user::rwx\ngroup::r--\nother::r--\n"), ("mtime", b"-1.5")],
            b"",
        ),
        archive(
            &[
                ("GNU.sparse.size", b"9000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"1"),
                ("GNU.sparse.offset", b"5000"),
                ("GNU.sparse.numbytes", b"2"),
            ],
            b"abc",
        ),
        archive(
            &[
                ("GNU.sparse.map", b"0,1,8191,1"),
                ("GNU.sparse.size", b"8192"),
                ("GNU.sparse.name", b"s/p"),
            ],
            b"ab",
        ),
        archive(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9999"),
                ("GNU.sparse.name", b"sparse"),
            ],
            &[&b"1\n4096\n2\n"[..], &[0; 503], b"ab"].concat(),
        ),
        archive(
            &[
                ("LIBARCHIVE.xattr.user.a%3Db", b"b25l"),
                ("SCHILY.xattr.security.capability", &[1, 0, 0, 2, 0, 32, 0, 0]),
                ("RHT.security.selinux", b"system_u:object_r:etc_t:s0"),
            ],
            b"content",
        ),
        [&[1], &long[..long.len() - 1024]].concat(),
    ]
}

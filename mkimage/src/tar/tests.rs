//! Archives go in: those that the system's tar makes, and those that nobody should make.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use super::header::RECORD_LEN;
use super::*;
use crate::testing::{Listing, Warnings, list};

mod directory;

/// An archive made by hand.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn header(path: &str, type_flag: u8, size: usize, link: &str) -> [u8; RECORD_LEN] {
        let mut header = [0; RECORD_LEN];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000001\0");
        put(116, b"0000002\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000007\0");
        put(156, &[type_flag]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        header
    }

    fn sealed(mut self, mut header: [u8; RECORD_LEN], content: &[u8]) -> Self {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(RECORD_LEN), 0);
        self
    }

    fn entry(self, path: &str, type_flag: u8, content: &[u8]) -> Self {
        let header = Tar::header(path, type_flag, content.len(), "");
        self.sealed(header, content)
    }

    fn link(self, path: &str, type_flag: u8, target: &str) -> Self {
        self.sealed(Tar::header(path, type_flag, 0, target), b"")
    }

    fn pax(self, type_flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let len = (rest.len()..rest.len() + 9)
                .find(|len| len.to_string().len() + rest.len() == *len)
                .unwrap();
            text.extend(len.to_string().into_bytes());
            text.extend(rest);
        }
        self.entry("pax", type_flag, &text)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * RECORD_LEN, 0);
        self.0
    }
}

fn read_bytes(bytes: &[u8], filter: &Filter, warnings: &Warnings) -> Result<Listing, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    fs::write(&path, bytes).unwrap();
    let options = TarOptions { filter, xattrs: true, tmpdir: dir.path() };
    let (tree, contents) = read(&path, &options, warnings)?;
    Ok(list(&tree, &contents))
}

fn listed(bytes: &[u8]) -> Listing {
    read_bytes(bytes, &Filter::default(), &Warnings::default())
        .unwrap_or_else(|failure| panic!("{}", failure.message))
}

fn refused(bytes: &[u8]) -> String {
    match read_bytes(bytes, &Filter::default(), &Warnings::default()) {
        Ok(listing) => panic!("not refused: {listing:#?}"),
        Err(failure) => failure.message,
    }
}

fn hash(content: &[u8]) -> String {
    blake3::hash(content).to_hex()[..16].to_owned()
}

#[test]
fn later_entries_win_and_links_name_what_was_there() {
    let tar = Tar::default()
        .entry("./", b'5', b"")
        .entry("/a", b'0', b"first")
        .link("b", b'1', "./a")
        .entry("a", b'0', b"second")
        .link("c", b'1', "a")
        .entry("deep//er/./x", b'0', b"x")
        .entry("deep", b'5', b"")
        .link("s", b'2', "nowhere")
        .entry("s", b'6', b"")
        .end();
    let listing = listed(&tar);
    let line = |path: &str| listing[path].clone();
    assert_eq!(line("/b"), format!("File 644 1:2 7.000000000 5 {} /b None", hash(b"first")));
    assert_eq!(line("/a"), format!("File 644 1:2 7.000000000 6 {} /a None", hash(b"second")));
    assert_eq!(line("/c"), line("/a"));
    assert_eq!(
        line("/deep"),
        "Dir 644 1:2 7.000000000  /deep None",
        "described after it was needed"
    );
    assert_eq!(line("/deep/er"), "Dir 755 0:0 0.000000000  /deep/er None", "never described");
    assert_eq!(line("/s"), "Fifo 644 1:2 7.000000000  /s None");
    assert_eq!(line(""), "Dir 644 1:2 7.000000000   None");
}

#[test]
fn extended_headers_of_one_entry_and_of_all() {
    let tar = Tar::default()
        .pax(b'g', &[("uid", b"70000"), ("SCHILY.xattr.user.all", b"yes")])
        .pax(
            b'x',
            &[("path", b"long/\xff\n"), ("mtime", b"-1.5"), ("size", b"3"), ("gid", b"4294967295")],
        )
        .entry("short", b'0', b"abc")
        .pax(
            b'x',
            &[
                ("uid", b"5"),
                ("LIBARCHIVE.xattr.user.%3d", b"YQ"),
                ("RHT.security.selinux", b"label"),
            ],
        )
        .entry("next", b'0', b"")
        .end();
    let listing = listed(&tar);
    assert!(listing["/long/\\xff\\x0a"].starts_with("File 644 70000:4294967295 -2.500000000 3 "));
    let next = &listing["/next"];
    assert!(next.starts_with("File 644 5:2 7.000000000 0 "), "{next}");
    let set: XattrSet = vec![
        (b"security.selinux".to_vec(), b"label\0".to_vec()),
        (b"user.=".to_vec(), b"a".to_vec()),
        (b"user.all".to_vec(), b"yes".to_vec()),
    ];
    assert!(next.ends_with(&format!("{:?}", Some(&set))), "{next}");
}

#[test]
fn gnu_long_names_and_old_prefixes() {
    let long = "d/".repeat(100) + "file";
    let mut prefixed = Tar::header("name", b'0', 0, "");
    prefixed[345..351].copy_from_slice(b"prefix");
    let tar = Tar::default()
        .entry("././@LongLink", b'L', format!("{long}\0").as_bytes())
        .entry("././@LongLink", b'K', format!("{}\0", "t".repeat(300)).as_bytes())
        .link("cut off", b'2', "cut off too")
        .sealed(prefixed, b"")
        .entry("old-directory/", b'\0', b"")
        .end();
    let listing = listed(&tar);
    assert!(listing[&format!("/{long}")].contains(&format!("-> {} ", "t".repeat(300))));
    assert!(listing.contains_key("/prefix/name"));
    assert!(listing["/old-directory"].starts_with("Dir 644"));
}

#[test]
fn sparse_files_of_every_version() {
    let mut whole = vec![0; 20_000];
    whole[1000..1100].fill(b'a');
    whole[15_000..15_050].fill(b'b');
    let stored = [[b'a'; 100].as_slice(), &[b'b'; 50]].concat();
    let mut old = Tar::header("old", b'S', stored.len(), "");
    for (at, number) in
        [(386, 1000), (398, 100), (410, 15_000), (422, 50), (434, 20_000), (446, 0), (483, 20_000)]
    {
        old[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    let mut map = b"3\n1000\n100\n15000\n50\n20000\n0\n".to_vec();
    map.resize(RECORD_LEN, 0);
    let new = [&map[..], &stored].concat();
    let tar = Tar::default()
        .sealed(old, &stored)
        .pax(
            b'x',
            &[
                ("GNU.sparse.size", b"20000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"1000"),
                ("GNU.sparse.numbytes", b"100"),
                ("GNU.sparse.offset", b"15000"),
                ("GNU.sparse.numbytes", b"50"),
            ],
        )
        .entry("0.0", b'0', &stored)
        .pax(
            b'x',
            &[
                ("GNU.sparse.size", b"20000"),
                ("GNU.sparse.name", b"0.1"),
                ("GNU.sparse.map", b"1000,100,15000,50"),
            ],
        )
        .entry("GNUSparseFile/0.1", b'0', &stored)
        .pax(
            b'x',
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"1.0"),
                ("GNU.sparse.realsize", b"20000"),
            ],
        )
        .entry("GNUSparseFile/1.0", b'0', &new)
        .entry("after", b'0', b"still in step")
        .end();
    let listing = listed(&tar);
    for name in ["/old", "/0.0", "/0.1", "/1.0"] {
        assert!(listing[name].contains(&format!(" 20000 {} ", hash(&whole))), "{name}");
    }
    assert!(listing["/after"].contains(&hash(b"still in step")));
}

#[test]
fn impossible_sparse_maps_are_refused() {
    let sparse = |size: &str, map: &str, stored: &[u8]| {
        refused(
            &Tar::default()
                .pax(
                    b'x',
                    &[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())],
                )
                .entry("x", b'0', stored)
                .end(),
        )
    };
    let impossible = "map of a sparse file is impossible";
    assert!(
        sparse("10", "0,5", b"1234").contains(impossible),
        "more in the map than in the archive"
    );
    assert!(sparse("10", "0,5", b"123456").contains(impossible), "less");
    assert!(sparse("10", "5,2,4,2", b"1234").contains(impossible), "pieces overlap");
    assert!(sparse("4", "0,5", b"12345").contains(impossible), "behind the end");
    assert!(sparse("10", "18446744073709551615,5", b"12345").contains(impossible), "wraps");
    let leading = |content: &[u8]| {
        refused(
            &Tar::default()
                .pax(
                    b'x',
                    &[
                        ("GNU.sparse.major", b"1"),
                        ("GNU.sparse.minor", b"0"),
                        ("GNU.sparse.realsize", b"9"),
                    ],
                )
                .entry("x", b'0', content)
                .end(),
        )
    };
    let padded = |text: &[u8]| [text, &[0; 600]].concat();
    assert!(leading(&padded(b"99999999999\n")).contains(impossible));
    assert!(leading(&padded(b"2\n0\n1\nx\n")).contains(impossible));
    assert!(leading(b"2\n0\n1\n").contains("no end"), "the map goes on behind what is stored");
    assert!(leading(&padded(b"200\n0\n")).contains("no end"), "more pairs than bytes for them");
    assert!(leading(&[b'1'; 600]).contains(impossible), "a number without an end");
    assert!(leading(&padded(b"")).contains(impossible), "no number at all");
}

#[test]
fn what_must_be_guessed_is_refused() {
    let one = |tar: Tar| refused(&tar.end());
    assert!(one(Tar::default().entry("../x", b'0', b"")).contains("`..`"));
    assert!(one(Tar::default().entry("a/../../x", b'0', b"")).contains("`..`"));
    assert!(
        one(Tar::default().entry("a", b'0', b"").entry("a/b", b'0', b"")).contains("no directory")
    );
    assert!(
        one(Tar::default().link("a", b'2', "/etc").entry("a/b", b'0', b""))
            .contains("no directory")
    );
    assert!(
        one(Tar::default().link("a", b'1', "b").entry("b", b'0', b"")).contains("hard link to `b`")
    );
    assert!(one(Tar::default().entry("d", b'5', b"").link("a", b'1', "d")).contains("hard link"));
    assert!(one(Tar::default().link("a", b'1', "../b")).contains("hard link"));
    assert!(one(Tar::default().entry("a", b'2', b"content")).contains("has content"));
    assert!(one(Tar::default().entry("", b'0', b"")).contains("is the root"));
    assert!(one(Tar::default().entry("a", b'M', b"")).contains("volume"));
    assert!(one(Tar::default().entry("a", b'Q', b"")).contains("type `Q`"));
    assert!(
        one(Tar::default()
            .entry(&"n".repeat(99), b'0', b"")
            .pax(b'x', &[("path", &[b'n'; 256])])
            .entry("x", b'0', b""))
        .contains("name")
    );
    assert!(
        one(Tar::default().pax(b'x', &[("uid", b"4294967296")]).entry("x", b'0', b""))
            .contains("owner")
    );
    assert!(one(Tar::default().pax(b'x', &[("path", b"a")])).contains("no entry"));
    let deep = "d/".repeat(3000);
    assert!(
        one(Tar::default().pax(b'x', &[("path", deep.as_bytes())]).entry("x", b'5', b""))
            .contains("2048")
    );
}

/// Wherever an archive is cut off, that is told: never a tree that is smaller than the one that was packed.
#[test]
fn an_archive_that_is_cut_off_is_refused() {
    let whole = Tar::default()
        .entry("a", b'0', &[1; 700])
        .pax(b'x', &[("path", b"b")])
        .entry("x", b'0', b"content")
        .end();
    listed(&whole);
    let body = whole.len() - 2 * RECORD_LEN;
    for len in (1..body + RECORD_LEN).filter(|len| len % 64 < 3 || *len > body) {
        refused(&whole[..len]);
    }
    assert!(refused(b"").contains("empty"));
    let mut damaged = whole.clone();
    damaged[3 * RECORD_LEN + 5] ^= 1;
    assert!(refused(&damaged).contains("checksum"));
}

#[test]
fn packed_archives_are_recognised_and_their_damage_found() {
    let tar = Tar::default().entry("a", b'0', &vec![7; 100_000]).end();
    let expected = listed(&tar);
    let gzip = {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(&tar[..50_000]).unwrap();
        let first = writer.finish().unwrap();
        let mut writer = flate2::write::GzEncoder::new(first, flate2::Compression::fast());
        writer.write_all(&tar[50_000..]).unwrap();
        writer.finish().unwrap()
    };
    assert_eq!(listed(&gzip), expected, "two members, as pigz makes many");
    let mut frame = zstd::Encoder::new(Vec::new(), 1).unwrap();
    frame.include_checksum(true).unwrap();
    frame.write_all(&tar).unwrap();
    let zstd = frame.finish().unwrap();
    assert_eq!(listed(&zstd), expected);
    let mut packed = vec![("gzip", gzip), ("zstd", zstd)];
    if let Some(xz) = filtered("xz", &["-c"], &tar) {
        assert_eq!(listed(&xz), expected);
        packed.push(("xz", xz));
    }
    for (name, bytes) in packed {
        for end in [bytes.len() - 1, bytes.len() - 5, bytes.len() / 2] {
            let message = refused(&bytes[..end]);
            assert!(
                message.contains("cut off") || message.contains("cannot read"),
                "{name}: {message}"
            );
        }
        // In the checksum at the end.
        let mut damaged = bytes.clone();
        let at = bytes.len() - if name == "xz" { 40 } else { 6 };
        damaged[if name == "zstd" { bytes.len() - 2 } else { at }] ^= 1;
        refused(&damaged);
    }
    for (magic, hint) in [(&b"BZh91AY"[..], "bzip2"), (b"PK\x03\x04", "bsdtar"), (b"hello", "xz")] {
        let failure = read_bytes(magic, &Filter::default(), &Warnings::default()).unwrap_err();
        assert!(failure.hint.is_some_and(|text| text.contains(hint)));
    }
}

fn filtered(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped in part: there is no `{program}` here");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output.status.success().then_some(output.stdout)
}

#[test]
fn excluded_names_go_and_their_files_stay_under_others() {
    let tar = Tar::default()
        .entry("a/b", b'0', b"kept")
        .entry("a/c.pyc", b'0', b"gone")
        .link("other", b'1', "a/b")
        .end();
    let filter = Filter::new(&[b"a/b".to_vec()], &["pyc$".into()]).unwrap();
    let listing = read_bytes(&tar, &filter, &Warnings::default()).unwrap();
    assert_eq!(listing.keys().map(String::as_str).collect::<Vec<_>>(), ["", "/a", "/other"]);
    assert!(listing["/other"].contains(&hash(b"kept")));
}

#[test]
fn what_is_left_out_is_told() {
    let mut tar = Tar::default()
        .entry("d/x", b'0', b"")
        .entry("d", b'0', b"now a file")
        .pax(b'x', &[("SCHILY.xattr.system.nfs4_acl", b"?")])
        .entry("e", b'0', b"")
        .end();
    tar.extend(Tar::default().entry("second", b'0', b"").end());
    let warnings = Warnings::default();
    let listing = read_bytes(&tar, &Filter::default(), &warnings).unwrap();
    assert_eq!(listing.keys().map(String::as_str).collect::<Vec<_>>(), ["", "/d", "/e"]);
    let warnings = warnings.0.into_inner().join("\n");
    for said in ["replaces a directory", "nfs4_acl", "end mark"] {
        assert!(warnings.contains(said), "{warnings}");
    }
}

#[test]
fn an_archive_that_changes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    fs::write(&path, Tar::default().entry("a", b'0', b"before").end()).unwrap();
    let filter = Filter::default();
    let options = TarOptions { filter: &filter, xattrs: true, tmpdir: dir.path() };
    let (tree, contents) = read(&path, &options, &Warnings::default()).unwrap();
    list(&tree, &contents);
    std::thread::sleep(std::time::Duration::from_millis(20));
    File::options().write(true).open(&path).unwrap().write_all_at(b"after!", 512).unwrap();
    let mut content = crate::tree::Contents::open(&contents, 1).unwrap();
    assert!(content.finish().unwrap_err().contains("x.tar changed while it was read"));
}

#[test]
fn an_archive_that_changes_while_its_headers_are_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    fs::write(&path, Tar::default().entry("a", b'0', b"before").end()).unwrap();
    let mut input = Input::open(&path, dir.path()).unwrap();
    input.record().unwrap().unwrap();
    File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    let kept_at = input.keep(6).unwrap();
    let places = vec![content::Place::Whole { kept_at, size: 6 }];
    let contents = TarContents { kept: input.finish().unwrap(), places };
    let mut content = crate::tree::Contents::open(&contents, 0).unwrap();
    assert!(content.finish().unwrap_err().contains("changed while it was read"));
}

//! Images that break one rule of SPEC each, and good ones beside them: what `tests/evil.rs` tries and what the vectors hold.

#![allow(dead_code, reason = "shared by test binaries, each of which uses a part")]

use std::io::{Read, Seek, Write};

use ashlarfs::format::fec::{self, Geometry};
use ashlarfs::format::index::{BlockIndex, NONE};
use ashlarfs::format::trailer;
use ashlarfs::store::proof;
use ashlarfs::{Anchor, Digest, Options, Tree};
use minisign::KeyPair;

use crate::image::{Memory, build_tar, noise, small_tar};
use crate::seal::{
    Draft, Edits, Stored, compress, edit32, edit64, get32, get64, put16, put32, put64,
};

/// An empty skippable frame.
const SKIPPABLE: &[u8] = &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];

/// One image.
#[derive(Debug)]
pub(crate) struct Case {
    /// The rule and what is done to it, for example `S-63-names-equal`.
    pub(crate) name: String,
    /// `ok`, or the class and the name of the violation, for example `corrupt NameOrder`.
    pub(crate) expect: String,
    pub(crate) comment: &'static str,
    pub(crate) image: Vec<u8>,
    pub(crate) root: Option<Digest>,
    /// A public key in base64, where the image is to be held against one.
    pub(crate) key: Option<String>,
}

impl Case {
    pub(crate) fn rule(&self) -> &str {
        &self.name[..4]
    }
}

/// The sound image and all that is made of it.
struct Maker {
    sound: Vec<u8>,
    root: Digest,
    tree: Tree,
    cases: Vec<Case>,
}

/// A block of little but what the filter for x86-64 looks for, with distances that are far enough and such that are not.
fn x86_code() -> Vec<u8> {
    const BYTES: &[u8; 16] = b"\xe8\xe8\xe9\x89\x8b\x8d\x05\x3d\x0d\x00\x00\xff\xff\x03\xfc\x48";
    let bytes = noise(31, 4090).into_iter().map(|byte| BYTES[usize::from(byte % 16)]);
    // The last one that is whole.
    bytes.chain([0x8b, 0x05, 1, 0, 0, 0]).collect()
}

/// A block of which half are calls.
fn arm64_code() -> Vec<u8> {
    let words = noise(32, 2 * 1024);
    let words = words.as_chunks::<2>().0.iter().map(|[low, high]| {
        [low % 16, 0, high % 4 * 85, [0x94, 0x97, 0x14, 0xd6][usize::from(high / 64)]]
    });
    words.flatten().collect()
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let directory = tempfile::tempdir().unwrap();
    let (path, root) = build_tar(directory.path(), &small_tar(), &["--image-version", "7"]);
    let sound = std::fs::read(path).unwrap();
    let options = Options::new(Anchor::RootDigest(root));
    let tree = ashlarfs::open_source(Memory::new(sound.clone()), &options).unwrap();
    let mut maker = Maker { sound, root, tree, cases: Vec::new() };
    maker.good();
    maker.file();
    maker.trailers();
    maker.parity();
    maker.signatures();
    maker.superblock();
    maker.table();
    maker.blocks();
    maker.inodes();
    maker.links_and_trees();
    maker.content();
    maker.directories();
    maker.names();
    maker.depths();
    maker.xattrs();
    maker.cases
}

impl Maker {
    fn index(&self, path: &str) -> u32 {
        self.tree.resolve(path.as_bytes()).unwrap().0
    }

    fn add(
        &mut self,
        name: &str,
        expect: &str,
        comment: &'static str,
        image: Vec<u8>,
        root: Option<Digest>,
    ) {
        let (name, expect) = (name.to_owned(), expect.to_owned());
        self.cases.push(Case { name, expect, comment, image, root, key: None });
    }

    /// The sound image, damaged after it was sealed.
    fn damaged(
        &mut self,
        name: &str,
        expect: &str,
        comment: &'static str,
        edit: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut image = self.sound.clone();
        edit(&mut image);
        self.add(name, expect, comment, image, Some(self.root));
    }

    /// The sound image, changed in its pieces and sealed again.
    fn sealed(
        &mut self,
        name: &str,
        expect: &str,
        comment: &'static str,
        edit: impl FnOnce(&mut Draft),
    ) {
        self.edited(name, expect, comment, edit, Edits::default());
    }

    fn edited(
        &mut self,
        name: &str,
        expect: &str,
        comment: &'static str,
        edit: impl FnOnce(&mut Draft),
        edits: Edits,
    ) {
        let mut draft = Draft::of(&self.tree);
        edit(&mut draft);
        let (image, root) = draft.seal(edits);
        self.add(name, expect, comment, image, Some(root));
    }

    fn superblock_edit(
        &mut self,
        name: &str,
        expect: &str,
        comment: &'static str,
        edit: impl FnOnce(&mut [u8; 4096]) + 'static,
    ) {
        let edits = Edits { superblock: Some(Box::new(edit)), ..Edits::default() };
        self.edited(name, expect, comment, |_| {}, edits);
    }

    fn entry_edit(
        &mut self,
        name: &str,
        expect: &str,
        comment: &'static str,
        edit: impl FnOnce(&mut Vec<[u8; 48]>) + 'static,
    ) {
        let edits = Edits { entries: Some(Box::new(edit)), ..Edits::default() };
        self.edited(name, expect, comment, |_| {}, edits);
    }

    /// Changes a 32-bit field of the inode at `path`.
    fn inode_edit(
        &mut self,
        name: &str,
        expect: &str,
        comment: &'static str,
        path: &str,
        edit: impl FnOnce(&mut [u8]),
    ) {
        let index = self.index(path);
        self.sealed(name, expect, comment, |draft| edit(draft.inode(index)));
    }

    fn good(&mut self) {
        self.damaged("good-image", "ok", "nothing is wrong", |_| {});
        self.sealed("good-sealed-again", "ok", "nothing is wrong", |_| {});
        self.superblock_edit("good-compat-bit", "ok", "an unknown compat bit is ignored", |raw| {
            raw[0x18] |= 0x80;
        });
        self.sealed("good-label", "ok", "64 bytes of label, no zero after them", |draft| {
            draft.superblock[0xa0..0xe0].fill(b'L');
        });
        self.sealed("good-prefetch-list", "ok", "some blocks are wanted first", |draft| {
            draft.list(&[2, 0, 1]);
        });
        let mut filtered = |name: &str, comment, codec, bytes: fn() -> Vec<u8>| {
            self.sealed(name, "ok", comment, |draft| {
                let full = draft.data.iter_mut().find(|block| block.content_len == 4096).unwrap();
                *full = Stored { bytes: compress(&bytes()), codec, content_len: 4096 };
                // Files that are no code, and a length that is no multiple of four.
                let packed = draft.data.iter_mut().find(|block| block.content_len < 4000).unwrap();
                let mut content = match packed.codec {
                    0 => packed.bytes.clone(),
                    _ => zstd::bulk::decompress(&packed.bytes, 4096).unwrap(),
                };
                content.resize(content.len() / 4 * 4 + 41, 0);
                let content_len = u32::try_from(content.len()).unwrap();
                *packed = Stored { bytes: compress(&content), codec, content_len };
            });
        };
        filtered("good-x86", "x86-64 code, one instruction in another too", 2, x86_code);
        filtered("good-arm64", "arm64 code", 3, arm64_code);
        let image = self.sound.clone();
        self.add(
            "good-no-root",
            "ok",
            "without a root digest, an image agrees with itself",
            image,
            None,
        );
    }

    fn file(&mut self) {
        let len = self.sound.len();
        self.damaged(
            "S-01-flip",
            "untrusted Superblock",
            "both superblocks were changed",
            |image| {
                image[0x28] ^= 1;
                image[len - 4096 + 0x28] ^= 1;
            },
        );
        self.damaged(
            "S-01-backup",
            "untrusted Superblock",
            "the backup has the root digest",
            |image| {
                image[0x28] ^= 1;
            },
        );
        self.damaged("S-02-cut", "untrusted Truncated", "the last byte is missing", |image| {
            image.pop();
        });
        self.damaged(
            "S-02-superblock-only",
            "untrusted Truncated",
            "4096 bytes are left",
            |image| {
                image.truncate(4096);
            },
        );
        self.damaged("S-03-flip", "untrusted Backup", "the backup was changed", |image| {
            image[len - 1] ^= 1;
        });
        self.damaged("S-04-zero", "untrusted Trailing", "a zero byte follows", |image| {
            image.push(0)
        });
        self.damaged("S-04-junk", "untrusted Trailing", "100 bytes follow", |image| {
            image.extend(noise(1, 100));
        });
        self.damaged(
            "S-04-after-trailer",
            "untrusted Trailing",
            "a byte follows the trailer",
            |image| {
                image.extend(trailer(&[b"signature"]));
                image.push(0);
            },
        );
        let (page_list, table) = {
            let superblock = self.tree.superblock();
            (superblock.page_list_offset() as usize, superblock.table_offset as usize)
        };
        self.damaged("S-20-flip", "untrusted PageList", "a bit of the page list", |image| {
            image[page_list] ^= 1
        });
        self.damaged("S-21-flip", "untrusted TablePage", "a bit of the table", |image| {
            image[table + 50] ^= 1
        });
        self.damaged("S-22-data", "untrusted Block", "a bit of a data block", |image| {
            image[4096] ^= 1
        });
        self.damaged("S-22-metadata", "untrusted Block", "a bit of the xattrs", |image| {
            image[table - 1] ^= 1
        });
        let entry = |block| self.tree.store().entry(BlockIndex(block)).unwrap();
        let blocks: Vec<_> = (0..self.tree.superblock().data_block_count).map(entry).collect();
        let (a, b) = blocks
            .iter()
            .zip(blocks.iter().skip(1))
            .find(|(a, b)| a.stored_len == b.stored_len)
            .map(|(a, b)| (a.offset as usize, b.offset as usize))
            .unwrap();
        self.damaged(
            "S-22-swapped",
            "untrusted Block",
            "two true blocks changed places",
            |image| {
                for nth in 0..b - a {
                    image.swap(a + nth, b + nth);
                }
            },
        );
    }

    fn trailers(&mut self) {
        self.damaged("S-80-good", "ok", "two signatures, which nobody asks for", |image| {
            image.extend(trailer(&[b"one", &[b'2'; 4096]]));
        });
        let mut bad = |name: &str, comment, edit: &dyn Fn(&mut Vec<u8>)| {
            let mut raw = trailer(&[b"one", b"two"]);
            edit(&mut raw);
            self.damaged(name, "untrusted Trailer", comment, |image| image.extend(raw));
        };
        // The checksum is made right again, so that nothing else is wrong.
        let checked = |edit: fn(&mut Vec<u8>)| {
            move |raw: &mut Vec<u8>| {
                edit(raw);
                raw[0x10..0x30].fill(0);
                let sum = proof::hash_trailer(raw);
                raw[0x10..0x30].copy_from_slice(&sum.0);
            }
        };
        bad("S-80-head-magic", "the head's magic is damaged", &|raw| raw[0] ^= 1);
        bad(
            "S-80-foot-magic",
            "the foot's magic is damaged",
            &checked(|raw| *raw.last_mut().unwrap() ^= 1),
        );
        bad("S-80-checksum", "the checksum is damaged", &|raw| raw[0x10] ^= 1);
        bad("S-80-signature", "a signature is damaged", &|raw| raw[0x34] ^= 1);
        bad("S-80-cut", "the last byte is missing", &|raw| raw.truncate(raw.len() - 1));
        bad("S-80-head-only", "only the magic is left", &|raw| raw.truncate(8));
        bad(
            "S-80-count-0",
            "no signature",
            &checked(|raw| {
                raw[0xc] = 0;
            }),
        );
        bad("S-80-count-17", "a count of 17", &checked(|raw| raw[0xc] = 17));
        bad("S-80-count-3", "one signature less than the count", &checked(|raw| raw[0xc] = 3));
        bad("S-80-count-1", "one signature more than the count", &checked(|raw| raw[0xc] = 1));
        bad(
            "S-80-foot-reserved",
            "a reserved byte",
            &checked(|raw| {
                let at = raw.len() - 12;
                raw[at] = 1;
            }),
        );
        bad(
            "S-80-foot-length",
            "the lengths differ",
            &checked(|raw| {
                let at = raw.len() - 16;
                raw[at] += 1;
            }),
        );
        bad(
            "S-80-empty-signature",
            "a signature of no bytes",
            &checked(|raw| {
                raw[0x30] = 0;
                raw.drain(0x34..0x37);
                let len = u32::try_from(raw.len()).unwrap();
                let at = raw.len() - 16;
                put32(raw, 8, len);
                put32(raw, at, len);
            }),
        );
    }

    fn parity(&mut self) {
        let signed = |image: &mut Vec<u8>| image.extend(trailer(&[b"one", b"two"]));
        self.damaged("S-82-good", "ok", "parity of an image without a trailer", |image| {
            parity(image, 2);
        });
        self.damaged("S-82-trailer", "ok", "parity of image and trailer, of 3 shards", |image| {
            signed(image);
            parity(image, 3);
        });
        self.damaged(
            "S-01-parity",
            "untrusted Superblock",
            "the backup is in front of trailer and parity",
            |image| {
                signed(image);
                parity(image, 2);
                image[0] ^= 1;
            },
        );
        self.damaged("S-04-after-parity", "untrusted Trailing", "a byte follows parity", |image| {
            parity(image, 2);
            image.push(0);
        });
        self.damaged(
            "S-80-parity",
            "untrusted Trailer",
            "a signature is damaged, and parity is whole",
            |image| {
                let at = image.len() + 0x34;
                signed(image);
                parity(image, 2);
                image[at] ^= 1;
            },
        );
        self.damaged(
            "S-80-parity-magic",
            "untrusted Trailer",
            "a trailer's first byte is damaged, and parity is whole",
            |image| {
                let at = image.len();
                signed(image);
                parity(image, 2);
                image[at] ^= 1;
            },
        );
        let mut bad = |name: &str, comment, edit: &dyn Fn(&mut Vec<u8>, Geometry)| {
            self.damaged(name, "untrusted Parity", comment, |image| {
                let geometry = parity(image, 2);
                edit(image, geometry);
            });
        };
        bad("S-82-first-head", "the first head's magic is damaged", &|image, geometry| {
            image[geometry.section_offset() as usize] ^= 1;
        });
        bad("S-82-second-head", "the second head's checksum is damaged", &|image, geometry| {
            image[geometry.second_head_offset() as usize + 0x38] ^= 1;
        });
        bad("S-82-first-table", "a checksum in the first table is damaged", &|image, geometry| {
            image[geometry.table_offset() as usize] ^= 1;
        });
        bad(
            "S-82-second-table",
            "a checksum in the second table is damaged",
            &|image, geometry| {
                image[geometry.second_table_offset() as usize + 5] ^= 1;
            },
        );
        bad("S-82-shard", "a parity shard is damaged", &|image, geometry| {
            image[geometry.second_table_offset() as usize - 1] ^= 1;
        });
        bad("S-82-zeros", "a byte before the parity shards", &|image, geometry| {
            image[geometry.parity_offset() as usize - 1] = 1;
        });
        bad("S-82-cut", "the last byte is missing", &|image, _| {
            image.pop();
        });
        // Both heads, with the checksum made right again.
        let heads = |image: &mut Vec<u8>, geometry: Geometry, edit: &dyn Fn(&mut [u8])| {
            for at in [geometry.section_offset(), geometry.second_head_offset()] {
                let head = &mut image[at as usize..][..fec::HEAD_LEN];
                edit(head);
                head[0x38..0x58].fill(0);
                let sum = proof::hash_parity_head(head);
                head[0x38..0x58].copy_from_slice(&sum.0);
            }
        };
        bad("S-82-reserved", "a reserved byte of both heads", &|image, geometry| {
            heads(image, geometry, &|head| head[0x14] = 1);
        });
        bad("S-82-count-1", "a parity_count of 1", &|image, geometry| {
            heads(image, geometry, &|head| put32(head, 0x10, 1));
        });
        bad("S-82-count-4097", "a parity_count of 4097", &|image, geometry| {
            heads(image, geometry, &|head| put32(head, 0x10, 4097));
        });
        bad("S-82-count-3", "a parity_count of 3, which is not there", &|image, geometry| {
            heads(image, geometry, &|head| put32(head, 0x10, 3));
        });
        bad("S-82-covers-nothing", "a covered_len of 0", &|image, geometry| {
            heads(image, geometry, &|head| put64(head, 8, 0));
        });
        bad("S-82-covers-less", "a covered_len one less than the image", &|image, geometry| {
            heads(image, geometry, &|head| put64(head, 8, geometry.covered_len() - 1));
        });
        bad("S-82-covers-all", "a covered_len of 2^64 - 1", &|image, geometry| {
            heads(image, geometry, &|head| put64(head, 8, u64::MAX));
        });
        bad("S-82-table-digest", "another digest of the table", &|image, geometry| {
            heads(image, geometry, &|head| head[0x18] ^= 1);
        });
    }

    fn signatures(&mut self) {
        // Keys from fixed seeds would be better; the crate has no such call, so these vectors change when they are made anew.
        let (right, wrong) = (pair(), pair());
        let text = trailer::signed_text(&self.root, self.tree.superblock().image_version);
        let other = trailer::signed_text(&self.root, self.tree.superblock().image_version + 1);
        let mut case = |name: &str, expect: &str, comment, signatures: &[Vec<u8>]| {
            let mut image = self.sound.clone();
            let signatures: Vec<&[u8]> = signatures.iter().map(Vec::as_slice).collect();
            if !signatures.is_empty() {
                image.extend(trailer(&signatures));
            }
            let (name, expect) = (name.to_owned(), expect.to_owned());
            let key = Some(right.pk.to_base64());
            self.cases.push(Case { name, expect, comment, image, root: None, key });
        };
        let by = |pair: &KeyPair, text: &str| {
            let comment = Some("a test");
            let signature = minisign::sign(None, &pair.sk, text.as_bytes(), comment, comment);
            signature.unwrap().into_string().into_bytes()
        };
        case("S-81-good", "ok", "signed by the key", &[by(&right, &text)]);
        case(
            "S-81-second",
            "ok",
            "the second signature is by the key",
            &[by(&wrong, &text), by(&right, &text)],
        );
        case("S-81-none", "untrusted Signature", "not signed", &[]);
        case(
            "S-81-other-key",
            "untrusted Signature",
            "signed by another key",
            &[by(&wrong, &text)],
        );
        case(
            "S-81-other-text",
            "untrusted Signature",
            "another image version was signed",
            &[by(&right, &other)],
        );
        let mut comment = by(&right, &text);
        let at = comment.windows(16).position(|window| window == b"trusted comment:").unwrap();
        // The untrusted comment comes first and is not signed; the second hit is the trusted one.
        let at = comment
            .windows(16)
            .skip(at + 1)
            .position(|window| window == b"trusted comment:")
            .unwrap()
            + at
            + 1;
        comment[at + 17] ^= 1;
        case("S-81-comment", "untrusted Signature", "the trusted comment was changed", &[comment]);
        case(
            "S-81-junk",
            "untrusted Signature",
            "what is there is no signature",
            &[b"no signature".to_vec()],
        );
    }

    fn superblock(&mut self) {
        let mut edit = |name: &str, expect: &str, comment, edit: fn(&mut [u8; 4096])| {
            self.superblock_edit(name, expect, comment, edit);
        };
        edit("S-10-magic", "corrupt NotAnImage", "the magic has another end of line", |raw| {
            raw[7] = b'\r'
        });
        edit("S-11-version", "unsupported Version", "version 2; nothing else is judged", |raw| {
            raw[0x08] = 2;
            raw[0x10] = 1;
            raw[0x38] = 99;
        });
        edit("S-11-version-0", "unsupported Version", "version 0", |raw| raw[0x08] = 0);
        edit(
            "S-12-low",
            "unsupported Features",
            "incompat bit 0; nothing behind it is judged",
            |raw| {
                raw[0x10] = 1;
                raw[0x38] = 99;
            },
        );
        edit("S-12-high", "unsupported Features", "incompat bit 63", |raw| raw[0x17] = 0x80);
        edit("S-13-reserved-0", "corrupt SuperblockReserved", "reserved_0", |raw| raw[0x0c] = 1);
        edit("S-13-reserved-1", "corrupt SuperblockReserved", "reserved_1", |raw| raw[0x3f] = 1);
        edit("S-13-reserved-2", "corrupt SuperblockReserved", "reserved_2", |raw| raw[4095] = 1);
        edit("S-14-data-11", "corrupt BlockSize", "data blocks of 2 KiB", |raw| raw[0x38] = 11);
        edit("S-14-data-21", "corrupt BlockSize", "data blocks of 2 MiB", |raw| raw[0x38] = 21);
        edit("S-14-metadata-11", "corrupt BlockSize", "metadata blocks of 2 KiB", |raw| {
            raw[0x39] = 11
        });
        edit("S-14-metadata-255", "corrupt BlockSize", "metadata blocks of 2^255 bytes", |raw| {
            raw[0x39] = 255
        });
        edit("S-15-longer", "corrupt ImageLayout", "image_len is one too many", |raw| {
            edit64(raw, 0x20, |value| value + 1);
        });
        edit(
            "S-15-table-inside",
            "corrupt ImageLayout",
            "the table starts inside the superblock",
            |raw| {
                let less = get64(raw, 0x48) - 4095;
                put64(raw, 0x48, 4095);
                edit64(raw, 0x20, |value| value - less);
            },
        );
        edit(
            "S-15-wraps",
            "corrupt ImageLayout",
            "table_offset and what follows exceed 64 bits",
            |raw| {
                put64(raw, 0x48, u64::MAX - 8000);
            },
        );
        edit("S-16-data-count", "corrupt SectionLayout", "a data block too many", |raw| {
            edit32(raw, 0x44, |value| value + 1);
        });
        edit(
            "S-16-section",
            "corrupt SectionLayout",
            "a symlink section that has no blocks",
            |raw| {
                put64(raw, 0x88, 1 << 40);
            },
        );
        edit("S-16-wraps", "corrupt SectionLayout", "a symlink section of 2^64 - 1 bytes", |raw| {
            put64(raw, 0x88, u64::MAX);
        });
        edit("S-17-inodes-unit", "corrupt SectionLength", "a piece of an inode", |raw| {
            edit64(raw, 0x70, |value| value - 1);
        });
        edit("S-17-runs-unit", "corrupt SectionLength", "a piece of a run record", |raw| {
            edit64(raw, 0x78, |value| value - 1);
        });
        edit("S-18-control", "corrupt Label", "a delete character", |raw| raw[0xa0] = 0x7f);
        edit("S-18-c1", "corrupt Label", "a control character outside of ASCII", |raw| {
            raw[0xa0..0xa2].copy_from_slice("\u{85}".as_bytes());
        });
        edit("S-18-utf8", "corrupt Label", "half a character", |raw| {
            raw[0xa0..0xe0].fill(0);
            raw[0xa0] = 0xc3;
        });
        edit("S-18-fill", "corrupt Label", "a byte behind the end", |raw| raw[0xdf] = b'x');
    }

    fn table(&mut self) {
        self.sealed("S-17-inodes-none", "corrupt SectionLength", "no inode", |draft| {
            draft.sections[0].clear()
        });
        self.sealed(
            "S-17-prefetch-unit",
            "corrupt SectionLength",
            "a piece of a record",
            |draft| {
                draft.sections[5] = vec![0; 3];
            },
        );
        self.sealed("S-17-prefetch-many", "corrupt SectionLength", "more than blocks", |draft| {
            draft.list(&vec![0; draft.data.len() + 1]);
        });
        let data = self.tree.superblock().data_block_count as usize;
        self.entry_edit("S-23-codec", "corrupt Codec", "codec 4", |entries| entries[0][38] = 4);
        self.entry_edit("S-24-reserved", "corrupt EntryReserved", "a reserved byte", |entries| {
            entries[0][39] = 1
        });
        self.entry_edit("S-25-empty", "corrupt EntryLength", "no content", |entries| {
            put32(&mut entries[0], 44, 0)
        });
        self.entry_edit(
            "S-25-data-long",
            "corrupt EntryLength",
            "4097 bytes of content",
            |entries| {
                put32(&mut entries[0], 44, 4097);
            },
        );
        self.entry_edit(
            "S-25-raw-longer",
            "corrupt EntryLength",
            "a raw block longer than its content",
            |entries| {
                let entry = entries.iter_mut().find(|entry| entry[38] == 0).unwrap();
                edit32(entry, 40, |value| value + 1);
            },
        );
        self.entry_edit(
            "S-25-not-shorter",
            "corrupt EntryLength",
            "compressed to its own length",
            |entries| {
                let entry = entries.iter_mut().find(|entry| entry[38] == 1).unwrap();
                let len = get32(entry, 44);
                put32(entry, 40, len);
            },
        );
        self.entry_edit(
            "S-25-filtered-not-shorter",
            "corrupt EntryLength",
            "filtered, and as long as its content",
            |entries| {
                let entry = entries.iter_mut().find(|entry| entry[38] == 0).unwrap();
                entry[38] = 2;
            },
        );
        self.entry_edit(
            "S-26-first",
            "corrupt EntryOffset",
            "the first block starts late",
            |entries| {
                entries[0][32] += 1;
            },
        );
        self.entry_edit("S-26-gap", "corrupt EntryOffset", "a gap between two blocks", |entries| {
            for entry in &mut entries[3..] {
                let offset = get32(entry, 32) + 1;
                put32(entry, 32, offset);
            }
        });
        self.entry_edit(
            "S-26-overlap",
            "corrupt EntryOffset",
            "two blocks share their bytes",
            |entries| {
                entries[4] = entries[3];
            },
        );
        self.entry_edit("S-26-far", "corrupt EntryOffset", "an offset of 2^48 - 1", |entries| {
            entries[4][32..38].fill(0xff);
        });
        self.entry_edit(
            "S-26-last",
            "corrupt EntryOffset",
            "the last block ends before the table",
            |entries| {
                let entry = entries.last_mut().unwrap();
                edit32(entry, 40, |value| value - 1);
                if entry[38] == 0 {
                    edit32(entry, 44, |len| len - 1);
                }
            },
        );
        // A metadata block that is one byte short, in an image where the sections say otherwise.
        let short = move |blocks: &mut Vec<Stored>, nth: usize| {
            let block = &mut blocks[nth];
            let mut content = if block.codec == 1 {
                zstd::bulk::decompress(&block.bytes, 4096).unwrap()
            } else {
                block.bytes.clone()
            };
            content.pop();
            *block = Stored::new(&content);
        };
        for (name, comment, at_end) in [
            ("S-31-first", "the first block of the inodes is short", false),
            ("S-31-last", "the last block of the xattrs is short", true),
        ] {
            let edit = move |blocks: &mut Vec<Stored>| {
                let nth = if at_end { blocks.len() - 1 } else { data };
                short(blocks, nth);
            };
            let edits = Edits { blocks: Some(Box::new(edit)), ..Edits::default() };
            self.edited(name, "corrupt SectionBlock", comment, |_| {}, edits);
        }
    }

    fn blocks(&mut self) {
        let mut bad = |name: &str, comment, edit: fn(&[u8], Vec<u8>) -> Vec<u8>| {
            self.sealed(name, "corrupt Expansion", comment, |draft| {
                let block = draft.data.iter_mut().find(|block| block.content_len == 4096).unwrap();
                let content = zstd::bulk::decompress(&block.bytes, 4096).unwrap();
                block.bytes = edit(&content, block.bytes.clone());
                block.codec = 1;
            });
        };
        bad("S-30-junk", "no frame at all", |_, _| b"this is no frame".to_vec());
        bad("S-30-trailing", "a byte behind the frame", |_, mut frame| {
            frame.push(0);
            frame
        });
        bad("S-30-cut", "the frame's last byte is missing", |_, mut frame| {
            frame.pop();
            frame
        });
        bad("S-30-skippable-before", "a skippable frame before it", |_, frame| {
            [SKIPPABLE, &frame].concat()
        });
        bad("S-30-skippable-behind", "a skippable frame behind it", |_, frame| {
            [&frame, SKIPPABLE].concat()
        });
        bad("S-30-two-frames", "two frames that make the content together", |content, _| {
            [compress(&content[..2000]), compress(&content[2000..])].concat()
        });
        bad("S-30-empty-frame", "an empty frame behind it", |_, frame| {
            [frame, compress(b"")].concat()
        });
        bad("S-30-short", "a frame of one byte less", |content, _| compress(&content[1..]));
        bad("S-30-long", "a frame of one byte more", |content, _| {
            compress(&[content, b"x"].concat())
        });
        bad("S-30-checksum", "a frame with a checksum", |content, _| {
            let mut compressor = zstd::bulk::Compressor::new(19).unwrap();
            compressor.include_checksum(true).unwrap();
            compressor.compress(content).unwrap()
        });
        bad("S-30-no-size", "a frame that does not tell its content size", |content, _| {
            let mut compressor = zstd::bulk::Compressor::new(19).unwrap();
            compressor.include_contentsize(false).unwrap();
            compressor.compress(content).unwrap()
        });
        bad("S-30-dictionary", "a frame that asks for a dictionary", |_, mut frame| {
            // Frame header descriptor with a one-byte dictionary id of 7.
            frame[4] |= 1;
            frame.insert(5, 7);
            frame
        });
        bad("S-30-bomb", "a frame of 300 blocks of 128 KiB each", |_, _| {
            let block = |last: u32| {
                let header = (128 << 10) << 3 | 1 << 1 | last;
                [&u32::to_le_bytes(header)[..3], b"z"].concat()
            };
            // Single segment, content size 4096 as two bytes less 256.
            let head =
                [&[0x28, 0xb5, 0x2f, 0xfd, 0x60][..], &u16::to_le_bytes(4096 - 256)].concat();
            [head, block(0).repeat(299), block(1)].concat()
        });
        self.sealed("S-30-x86", "corrupt Expansion", "filtered, one byte less", |draft| {
            let block = draft.data.iter_mut().find(|block| block.content_len == 4096).unwrap();
            (block.bytes, block.codec) = (compress(&x86_code()[1..]), 2);
        });
        self.sealed("S-30-arm64", "corrupt Expansion", "filtered, no frame at all", |draft| {
            let block = draft.data.iter_mut().find(|block| block.content_len == 4096).unwrap();
            (block.bytes, block.codec) = (b"this is no frame".to_vec(), 3);
        });
    }

    fn inodes(&mut self) {
        let mut edit = |name: &str, expect: &str, comment, path: &str, edit: fn(&mut [u8])| {
            self.inode_edit(name, expect, comment, path, edit);
        };
        edit("S-40-zero", "corrupt InodeType", "type 0", "fifo", |raw| put16(raw, 0, 0o644));
        edit("S-40-all", "corrupt InodeType", "type 0xf000", "fifo", |raw| put16(raw, 0, 0xf1a4));
        edit("S-41-parent", "corrupt Root", "the root's parent is not the root", "", |raw| {
            put32(raw, 0x34, 1)
        });
        edit("S-41-type", "corrupt Root", "inode 0 is a pipe", "", |raw| {
            raw[0x10..].fill(0);
            put16(raw, 0, 0x11a4);
            put32(raw, 0x24, NONE);
        });
        edit("S-42-reserved-0", "corrupt InodeReserved", "reserved_0", "small", |raw| raw[2] = 1);
        edit("S-42-reserved-1", "corrupt InodeReserved", "reserved_1", "small", |raw| {
            raw[0x3f] = 1
        });
        edit("S-42-directory-c", "corrupt InodeReserved", "c of a directory", "p", |raw| {
            raw[0x38] = 1
        });
        edit("S-42-link-a", "corrupt InodeReserved", "a of a symlink", "link1", |raw| {
            raw[0x30] = 1
        });
        edit("S-42-link-c", "corrupt InodeReserved", "c of a symlink", "link1", |raw| {
            raw[0x38] = 1
        });
        edit("S-42-fifo-size", "corrupt InodeReserved", "size of a pipe", "fifo", |raw| {
            raw[0x10] = 1
        });
        edit("S-42-device-at", "corrupt InodeReserved", "at of a device", "char", |raw| {
            raw[0x28] = 1
        });
        edit("S-43-nanoseconds", "corrupt InodeTime", "a whole second", "small", |raw| {
            put32(raw, 0x20, 1_000_000_000);
        });
        edit("S-44-zero", "corrupt LinkCount", "no link", "small", |raw| put32(raw, 4, 0));
        edit(
            "S-44-directory-one",
            "corrupt LinkCount",
            "a directory with one link",
            "empty",
            |raw| put32(raw, 4, 1),
        );
        edit("S-44-more", "corrupt LinkCount", "one link more than names", "small", |raw| {
            put32(raw, 4, 2)
        });
        edit("S-44-less", "corrupt LinkCount", "one link less than names", "hard1", |raw| {
            put32(raw, 4, 1)
        });
        edit(
            "S-44-directory-more",
            "corrupt LinkCount",
            "one link more than subdirectories",
            "p",
            |raw| {
                put32(raw, 4, 3);
            },
        );
        edit(
            "S-44-directory-less",
            "corrupt LinkCount",
            "one link less than subdirectories",
            "q",
            |raw| {
                put32(raw, 4, 2);
            },
        );
        edit("S-45-directory", "corrupt FileSize", "a directory of 2^63 bytes", "p", |raw| {
            put64(raw, 0x10, 1 << 63)
        });
        edit("S-46-empty", "corrupt SymlinkTarget", "no target", "link1", |raw| {
            put64(raw, 0x10, 0)
        });
        edit("S-46-long", "corrupt SymlinkTarget", "a target of 4096 bytes", "link1", |raw| {
            put64(raw, 0x10, 4096)
        });
        edit("S-46-outside", "corrupt SymlinkTarget", "it leaves the section", "link2", |raw| {
            put64(raw, 0x28, 5)
        });
        edit("S-46-wraps", "corrupt SymlinkTarget", "its end exceeds 64 bits", "link2", |raw| {
            put64(raw, 0x28, u64::MAX - 1);
        });
        edit("S-47-major", "corrupt DeviceNumber", "major 4096", "char", |raw| {
            put32(raw, 0x30, 1 << 12)
        });
        edit("S-47-minor", "corrupt DeviceNumber", "minor 2^20", "block", |raw| {
            put32(raw, 0x34, 1 << 20)
        });
        self.sealed(
            "S-46-zero-byte",
            "corrupt SymlinkTarget",
            "a zero byte in the target",
            |draft| {
                draft.sections[3][1] = 0;
            },
        );
    }

    fn links_and_trees(&mut self) {
        let (link1, link2) = (self.index("link1"), self.index("link2"));
        let (fifo, empty) = (self.index("fifo"), self.index("empty"));
        let count = self.tree.superblock().inode_count();
        self.sealed("S-48-orphan", "corrupt Unreachable", "a pipe that has no name", |draft| {
            let inode = draft.inode(fifo).to_vec();
            draft.sections[0].extend(inode);
        });
        self.sealed("S-48-ring", "corrupt Unreachable", "two directories in each other", |draft| {
            for (parent, child) in [(count + 1, count + 1), (count, count)] {
                let at = draft.sections[2].len() as u64;
                let mut inode = draft.inode(empty).to_vec();
                put32(&mut inode, 0x04, 3);
                put64(&mut inode, 0x10, 13);
                put64(&mut inode, 0x28, at);
                put32(&mut inode, 0x30, 1);
                put32(&mut inode, 0x34, parent);
                draft.sections[0].extend(inode);
                draft.sections[2].extend(dirent(child, 1, 0x4000));
                draft.sections[2].push(b'd');
            }
        });
        self.sealed("S-48-own-parent", "corrupt Unreachable", "a directory in itself", |draft| {
            let at = draft.sections[2].len() as u64;
            let mut inode = draft.inode(empty).to_vec();
            put32(&mut inode, 0x04, 3);
            put64(&mut inode, 0x10, 13);
            put64(&mut inode, 0x28, at);
            put32(&mut inode, 0x30, 1);
            put32(&mut inode, 0x34, count);
            draft.sections[0].extend(inode);
            draft.sections[2].extend(dirent(count, 1, 0x4000));
            draft.sections[2].push(b'd');
        });
        self.sealed("S-49-swapped", "corrupt LinkLayout", "two targets changed places", |draft| {
            let (a, b) = (get64(draft.inode(link1), 0x28), get64(draft.inode(link2), 0x28));
            put64(draft.inode(link1), 0x28, b);
            put64(draft.inode(link2), 0x28, a);
        });
        self.sealed("S-49-shared", "corrupt LinkLayout", "two symlinks share a target", |draft| {
            let at = get64(draft.inode(link1), 0x28);
            put64(draft.inode(link2), 0x28, at);
        });
        self.sealed("S-49-rest", "corrupt LinkLayout", "bytes that are no target", |draft| {
            draft.sections[3].extend(b"rest");
        });
    }

    fn content(&mut self) {
        let data = self.tree.superblock().data_block_count;
        let sparse = self.index("sparse1");
        let (exact, small) = (self.index("exact"), self.index("small"));
        let mut edit = |name: &str, expect: &str, comment, path: &str, edit: fn(&mut [u8])| {
            self.inode_edit(name, expect, comment, path, edit);
        };
        let outside = "corrupt RunsOutside";
        edit("S-50-none", outside, "full blocks without a run", "exact", |raw| {
            put32(raw, 0x30, 0);
            put64(raw, 0x28, 0);
        });
        edit("S-50-one", outside, "a run without a full block", "small", |raw| put32(raw, 0x30, 1));
        edit("S-50-at", outside, "a place for no run", "small", |raw| put64(raw, 0x28, 1));
        edit("S-50-outside", outside, "records behind the section", "sparse2", |raw| {
            put64(raw, 0x28, 999)
        });
        edit("S-50-wraps", outside, "records whose end exceeds 64 bits", "sparse2", |raw| {
            put64(raw, 0x28, u64::MAX)
        });
        edit("S-50-count", outside, "2^32 - 1 records", "sparse2", |raw| put32(raw, 0x30, NONE));
        edit("S-50-size", outside, "a file of 2^32 blocks", "exact", |raw| {
            put64(raw, 0x10, 1 << 44)
        });
        edit("S-53-far", "corrupt RunBlock", "a block that does not exist", "exact", |raw| {
            put64(raw, 0x28, 100_000)
        });
        edit(
            "S-53-wraps",
            "corrupt RunBlock",
            "blocks whose end exceeds 32 bits",
            "exact",
            |raw| {
                put64(raw, 0x28, u64::from(NONE - 1));
            },
        );
        edit("S-55-no-tail", "corrupt Tail", "a tail block, but no tail", "exact", |raw| {
            put32(raw, 0x34, 0)
        });
        edit("S-55-no-tail-at", "corrupt Tail", "a place for no tail", "exact", |raw| {
            put32(raw, 0x38, 1)
        });
        edit("S-55-hole-at", "corrupt Tail", "a place in a hole", "zeros", |raw| {
            put32(raw, 0x38, 1)
        });
        edit("S-55-block", "corrupt Tail", "a block that does not exist", "small", |raw| {
            put32(raw, 0x34, NONE - 1)
        });
        edit("S-55-outside", "corrupt Tail", "it leaves the block", "small", |raw| {
            put32(raw, 0x38, 4095)
        });
        edit("S-55-wraps", "corrupt Tail", "its end exceeds 32 bits", "small", |raw| {
            put32(raw, 0x38, NONE)
        });
        self.sealed("S-55-metadata", "corrupt Tail", "a tail in the inodes", |draft| {
            put32(draft.inode(small), 0x34, data);
            put32(draft.inode(small), 0x38, 0);
        });
        self.sealed(
            "S-53-metadata",
            "corrupt RunBlock",
            "a run that ends in the inodes",
            |draft| {
                put64(draft.inode(exact), 0x28, u64::from(data - 1));
            },
        );
        let mut run = |name: &str, expect: &str, comment, nth: usize, edit: fn(&mut [u8])| {
            self.sealed(name, expect, comment, |draft| edit(draft.run(sparse, nth)));
        };
        run("S-51-first", "corrupt RunOrder", "the first run starts late", 0, |raw| {
            put32(raw, 0, 1)
        });
        run("S-51-gap", "corrupt RunOrder", "a gap between two runs", 1, |raw| put32(raw, 0, 2));
        run("S-51-overlap", "corrupt RunOrder", "two runs overlap", 2, |raw| put32(raw, 0, 2));
        run("S-51-count", "corrupt RunOrder", "a run of no block", 1, |raw| put32(raw, 8, 0));
        run("S-51-end", "corrupt RunOrder", "the last run is too long", 2, |raw| put32(raw, 8, 3));
        run("S-53-record", "corrupt RunBlock", "a block that does not exist", 2, |raw| {
            put32(raw, 4, NONE - 1)
        });
        self.run_lists();
    }

    fn run_lists(&mut self) {
        let (one, two) = (self.index("sparse1"), self.index("sparse2"));
        let (small, exact) = (self.index("small"), self.index("exact"));
        let zeros = self.index("zeros");
        self.sealed("S-52-holes", "corrupt RunSplit", "two holes side by side", |draft| {
            split(draft, zeros, |nth| [[0, NONE, 1], [1, NONE, 2]][nth]);
        });
        self.sealed(
            "S-52-blocks",
            "corrupt RunSplit",
            "a run of two blocks as two runs",
            |draft| {
                let block = u32::try_from(get64(draft.inode(exact), 0x28)).unwrap();
                split(draft, exact, |nth| [[0, block, 1], [1, block + 1, 1]][nth]);
            },
        );
        self.sealed(
            "S-54-short",
            "corrupt RunBlockLength",
            "a block of tails taken for a full one",
            |draft| {
                let tails = get32(draft.inode(small), 0x34);
                // Another use of the blocks that the file gives up, so that nothing but the length is wrong.
                let block = get32(draft.run(one, 0), 4);
                put32(draft.run(one, 0), 4, tails);
                put32(draft.inode(zeros), 0x34, block);
            },
        );
        self.sealed("S-56-unused", "corrupt BlockUnused", "a block of no file", |draft| {
            draft.data.push(Stored::new(b"nobody wants this"));
        });
        self.sealed("S-57-swapped", "corrupt RunLayout", "two lists changed places", |draft| {
            let (a, b) = (get64(draft.inode(one), 0x28), get64(draft.inode(two), 0x28));
            put64(draft.inode(one), 0x28, b);
            put64(draft.inode(two), 0x28, a);
        });
        self.sealed("S-57-shared", "corrupt RunLayout", "two files share a list", |draft| {
            let at = get64(draft.inode(one), 0x28);
            put64(draft.inode(two), 0x28, at);
        });
        self.sealed("S-57-rest", "corrupt RunLayout", "a record of no file", |draft| {
            draft.sections[1].extend([0; 12]);
        });
        self.sealed("S-58-far", "corrupt PrefetchBlock", "a block that does not exist", |draft| {
            draft.list(&[0, NONE]);
        });
        self.sealed("S-58-metadata", "corrupt PrefetchBlock", "a metadata block", |draft| {
            let block = u32::try_from(draft.data.len()).unwrap();
            draft.list(&[block]);
        });
        self.sealed("S-59-twice", "corrupt PrefetchTwice", "a block named twice", |draft| {
            draft.list(&[1, 0, 1]);
        });
    }

    fn directories(&mut self) {
        let (p, q) = (self.index("p"), self.index("q"));
        let sub = self.index("q/sub");
        let mut edit = |name: &str, expect: &str, comment, path: &str, edit: fn(&mut [u8])| {
            self.inode_edit(name, expect, comment, path, edit);
        };
        let record = "corrupt DirectoryRecord";
        edit("S-60-outside", record, "it leaves the section", "p", |raw| put64(raw, 0x28, 100_000));
        edit("S-60-wraps", record, "its end exceeds 64 bits", "p", |raw| {
            put64(raw, 0x28, u64::MAX - 3)
        });
        edit("S-60-count", record, "2^32 - 1 entries", "p", |raw| put32(raw, 0x30, NONE));
        edit("S-60-empty-at", record, "a place for no entries", "empty", |raw| put64(raw, 0x28, 1));
        edit("S-60-empty-size", record, "bytes for no entries", "empty", |raw| put64(raw, 0x10, 1));
        self.sealed("S-60-names", record, "the last name ends before the record", |draft| {
            put32(draft.dirent(p, 0), 4, 0);
        });
        self.sealed("S-64-root", "corrupt EntryInode", "an entry names the root", |draft| {
            put32(draft.dirent(p, 0), 0, 0);
        });
        self.sealed("S-64-far", "corrupt EntryInode", "an entry names no inode", |draft| {
            put32(draft.dirent(p, 0), 0, NONE);
        });
        self.sealed("S-65-other", "corrupt EntryType", "a file called a pipe", |draft| {
            put16(draft.dirent(p, 0), 8, 0x1000);
        });
        self.sealed("S-65-none", "corrupt EntryType", "a type that is none", |draft| {
            put16(draft.dirent(p, 0), 8, 0xf000);
        });
        self.sealed("S-65-permissions", "corrupt EntryType", "a type with permissions", |draft| {
            put16(draft.dirent(p, 0), 8, 0x8001);
        });
        self.inode_edit(
            "S-66-parent",
            "corrupt Parent",
            "the parent is another one",
            "q/sub",
            |raw| {
                put32(raw, 0x34, 0);
            },
        );
        self.sealed("S-66-twice", "corrupt Parent", "a directory with two names", |draft| {
            // `q` has `sub` and `y`; now both are `sub`.
            put32(draft.dirent(q, 1), 0, sub);
            put16(draft.dirent(q, 1), 8, 0x4000);
        });
        self.sealed("S-66-cycle", "corrupt Parent", "a directory in its own child", |draft| {
            put32(draft.dirent(sub, 0), 0, q);
            put16(draft.dirent(sub, 0), 8, 0x4000);
        });
        self.sealed("S-67-reserved", "corrupt DirentReserved", "a reserved byte", |draft| {
            draft.dirent(p, 0)[11] = 1;
        });
        self.sealed(
            "S-69-swapped",
            "corrupt DirectoryLayout",
            "two records changed places",
            |draft| {
                swap_records(draft, p, q);
            },
        );
        self.sealed("S-69-rest", "corrupt DirectoryLayout", "bytes of no record", |draft| {
            draft.sections[2].extend(b"rest");
        });
    }

    fn names(&mut self) {
        let (p, q) = (self.index("p"), self.index("q"));
        self.sealed("S-61-empty", "corrupt NameLength", "a name of no bytes", |draft| {
            put32(draft.dirent(q, 0), 4, 0);
        });
        self.sealed(
            "S-61-backwards",
            "corrupt NameLength",
            "a name that ends before it starts",
            |draft| {
                put32(draft.dirent(q, 0), 4, NONE);
            },
        );
        self.sealed("S-61-long", "corrupt NameLength", "a name of 256 bytes", |draft| {
            rename(draft, p, &[b'n'; 256]);
        });
        self.sealed("S-61-255", "ok", "a name of 255 bytes", |draft| {
            rename(draft, p, &[b'n'; 255])
        });
        self.sealed("S-62-zero", "corrupt NameBytes", "a zero byte", |draft| draft.names(p)[0] = 0);
        self.sealed("S-62-slash", "corrupt NameBytes", "a slash", |draft| draft.names(p)[0] = b'/');
        self.sealed("S-62-dot", "corrupt NameBytes", "a single dot", |draft| {
            draft.names(p)[0] = b'.'
        });
        self.sealed("S-62-dots", "corrupt NameBytes", "two dots", |draft| rename(draft, p, b".."));
        // `q` has `sub` and `y`.
        self.sealed("S-63-descending", "corrupt NameOrder", "z before y", |draft| {
            draft.names(q)[0] = b'z'
        });
        self.sealed("S-63-equal", "corrupt NameOrder", "y and y", |draft| {
            draft.names(q).copy_from_slice(b"yyyy");
            put32(draft.dirent(q, 0), 4, 2);
            put32(draft.dirent(q, 1), 4, 4);
        });
    }

    fn depths(&mut self) {
        for (name, expect, comment, depth) in [
            ("S-68-2048", "ok", "as deep as it may be", 2048_u32),
            ("S-68-2049", "corrupt Depth", "one too deep", 2049),
        ] {
            let fifo = self.index("fifo");
            self.sealed(name, expect, comment, |draft| {
                let mut inode = draft.inode(fifo).to_vec();
                draft.sections = [const { Vec::new() }; 6];
                draft.data.clear();
                draft.superblock[0x39] = 18;
                draft.superblock[0x18] = 0;
                for index in 0..=depth {
                    let is_last = index == depth;
                    put16(&mut inode, 0, 0x41ed);
                    put32(&mut inode, 0x04, if is_last { 2 } else { 3 });
                    put64(&mut inode, 0x10, if is_last { 0 } else { 13 });
                    put64(&mut inode, 0x28, if is_last { 0 } else { u64::from(index) * 13 });
                    put32(&mut inode, 0x30, u32::from(!is_last));
                    put32(&mut inode, 0x34, index.saturating_sub(1));
                    draft.sections[0].extend(&inode);
                    if !is_last {
                        draft.sections[2].extend(dirent(index + 1, 1, 0x4000));
                        draft.sections[2].push(b'd');
                    }
                }
            });
        }
    }

    fn xattrs(&mut self) {
        let (xa, xb) = (self.index("xa"), self.index("xb"));
        let len = u32::try_from(Draft::of(&self.tree).sections[4].len()).unwrap();
        let outside = "corrupt XattrOutside";
        self.inode_edit("S-70-far", outside, "a set behind the section", "xa", |raw| {
            put32(raw, 0x24, NONE - 1)
        });
        self.inode_edit("S-70-end", outside, "half a count", "xa", |raw| put32(raw, 0x24, len - 1));
        self.sealed("S-70-value", outside, "a value that leaves the section", |draft| {
            let set = draft.xattrs(xb);
            put32(set, 6, 60_000);
        });
        self.sealed("S-71-prefix", "corrupt XattrName", "an unknown prefix", |draft| {
            draft.xattrs(xa)[10] = b'U'
        });
        self.sealed("S-71-zero", "corrupt XattrName", "a zero byte", |draft| {
            draft.xattrs(xa)[15] = 0
        });
        let mut set = |name: &str, expect: &str, comment, attributes: &[(&[u8], &[u8])]| {
            self.sealed(name, expect, comment, |draft| append_set(draft, xa, xb, attributes));
        };
        set("S-70-good", "ok", "a set of one, with an empty value", &[(b"user.z", b"")]);
        set("S-71-bare", "corrupt XattrName", "nothing behind the prefix", &[(b"user.", b"")]);
        set("S-71-empty", "corrupt XattrName", "an empty name", &[(b"", b"")]);
        set(
            "S-72-equal",
            "corrupt XattrOrder",
            "a name twice",
            &[(b"user.a", b""), (b"user.a", b"")],
        );
        set(
            "S-72-descending",
            "corrupt XattrOrder",
            "b before a",
            &[(b"user.b", b""), (b"user.a", b"")],
        );
        set("S-73-none", "corrupt XattrSize", "an empty set", &[]);
        set("S-73-value-good", "ok", "a value of 65,536 bytes", &[(b"user.v", &[b'v'; 65_536])]);
        set(
            "S-73-value",
            "corrupt XattrSize",
            "a value of 65,537 bytes",
            &[(b"user.v", &[b'v'; 65_537])],
        );
        let names: Vec<Vec<u8>> = (0..257).map(|n| format!("user.{n:0250}").into_bytes()).collect();
        let list: Vec<(&[u8], &[u8])> = names.iter().map(|name| (&name[..], &b""[..])).collect();
        set("S-73-list-good", "ok", "names of 65,536 bytes together", &list[..256]);
        set("S-73-list", "corrupt XattrSize", "names of 65,792 bytes together", &list);
        self.sealed("S-74-reserved", "corrupt XattrReserved", "a reserved byte", |draft| {
            draft.xattrs(xa)[3] = 1
        });
        self.sealed("S-75-missing", "corrupt AclFlag", "an ACL that the flag denies", |draft| {
            draft.superblock[0x18] = 0;
        });
        self.sealed("S-75-wrong", "corrupt AclFlag", "a flag, but no ACL", |draft| {
            let at = get32(draft.inode(xb), 0x24) as usize + 10;
            draft.sections[4][at..at + 11].copy_from_slice(b"system.wosi");
        });
        self.sealed("S-76-unused", "corrupt XattrLayout", "a set that no inode names", |draft| {
            append_set(draft, xa, xb, &[(b"user.z", b"")]);
            put32(draft.inode(xa), 0x24, NONE);
        });
        self.sealed("S-76-inside", "corrupt XattrLayout", "a set inside another", |draft| {
            // The value of `user.v` is a whole set, and `xa` names it.
            let inner = set_bytes(&[(b"user.i", b"")]);
            append_set(draft, xa, xb, &[(b"user.v", &inner)]);
            let at = get32(draft.inode(xa), 0x24);
            let small = draft.sections[0]
                .chunks(64)
                .position(|raw| get32(raw, 0x24) == NONE && raw[1] & 0xf0 == 0x10);
            put32(draft.inode(u32::try_from(small.unwrap()).unwrap()), 0x24, at + 2 + 8 + 6);
        });
    }
}

fn pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

fn trailer(signatures: &[&[u8]]) -> Vec<u8> {
    let signatures: Vec<Vec<u8>> = signatures.iter().map(|raw| raw.to_vec()).collect();
    trailer::encode(&signatures, proof::hash_trailer).unwrap()
}

/// Gives an image parity.
fn parity(image: &mut Vec<u8>, parity_count: u32) -> Geometry {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    let geometry = Geometry::new(image.len() as u64, parity_count).unwrap();
    ashlarfs::fec::encode(&file, geometry, 1, &|_, _| {}).unwrap();
    file.rewind().unwrap();
    image.clear();
    file.read_to_end(image).unwrap();
    geometry
}

fn dirent(inode: u32, name_end: u32, kind: u16) -> Vec<u8> {
    [&inode.to_le_bytes()[..], &name_end.to_le_bytes(), &kind.to_le_bytes(), &[0, 0]].concat()
}

/// Gives the only entry of a directory another name, and moves what lies behind.
fn rename(draft: &mut Draft, directory: u32, name: &[u8]) {
    let (at, _) = draft.directory(directory);
    let old = get64(draft.inode(directory), 0x10) as usize - 12;
    draft.sections[2].splice(at + 12..at + 12 + old, name.iter().copied());
    put32(draft.dirent(directory, 0), 4, u32::try_from(name.len()).unwrap());
    put64(draft.inode(directory), 0x10, 12 + name.len() as u64);
    for inode in draft.sections[0].chunks_mut(64).filter(|inode| inode[1] & 0xf0 == 0x40) {
        if get64(inode, 0x28) > at as u64 {
            edit64(inode, 0x28, |at| at + name.len() as u64 - old as u64);
        }
    }
}

/// Gives a file two run records in the place where the order of inodes wants them.
fn split(draft: &mut Draft, file: u32, record: impl Fn(usize) -> [u32; 3]) {
    let before = draft.sections[0]
        .chunks(64)
        .take(file as usize)
        .filter(|inode| inode[1] & 0xf0 == 0x80 && get32(inode, 0x30) >= 2)
        .map(|inode| get32(inode, 0x30) as usize)
        .sum::<usize>();
    for inode in draft.sections[0].chunks_mut(64).skip(file as usize) {
        if inode[1] & 0xf0 == 0x80 && get32(inode, 0x30) >= 2 {
            edit64(inode, 0x28, |value| value + 2);
        }
    }
    put32(draft.inode(file), 0x30, 2);
    put64(draft.inode(file), 0x28, before as u64);
    let records = [record(0), record(1)].concat();
    let bytes = records.into_iter().flat_map(u32::to_le_bytes);
    draft.sections[1].splice(before * 12..before * 12, bytes);
}

/// Lets two directories' records change places in the section, the inodes with them.
fn swap_records(draft: &mut Draft, a: u32, b: u32) {
    let mut place = |index: u32| {
        let inode = draft.inode(index);
        (get64(inode, 0x28) as usize, get64(inode, 0x10) as usize)
    };
    let (first, second) = if place(a).0 < place(b).0 { (a, b) } else { (b, a) };
    let ((first_at, first_len), (second_at, second_len)) = (place(first), place(second));
    assert_eq!(first_at + first_len, second_at, "they are neighbours");
    draft.sections[2][first_at..second_at + second_len].rotate_left(first_len);
    put64(draft.inode(second), 0x28, first_at as u64);
    put64(draft.inode(first), 0x28, (first_at + second_len) as u64);
}

fn set_bytes(attributes: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut raw = u16::try_from(attributes.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in attributes {
        raw.extend([u8::try_from(name.len()).unwrap(), 0, 0, 0]);
        raw.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        raw.extend_from_slice(name);
        raw.extend_from_slice(value);
    }
    raw
}

/// Gives `inode` a set at the end of the section, in place of its own, which is taken out.
fn append_set(draft: &mut Draft, inode: u32, other: u32, attributes: &[(&[u8], &[u8])]) {
    let (at, rest) = (get32(draft.inode(inode), 0x24), get32(draft.inode(other), 0x24));
    // Two sets there are: what is left is the other one.
    let len = if at < rest { (rest - at) as usize } else { draft.sections[4].len() - at as usize };
    draft.sections[4].drain(at as usize..at as usize + len);
    put32(draft.inode(other), 0x24, 0);
    let end = u32::try_from(draft.sections[4].len()).unwrap();
    put32(draft.inode(inode), 0x24, end);
    draft.sections[4].extend(set_bytes(attributes));
}

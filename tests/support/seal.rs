//! Images that were sealed by an enemy: a sound one is taken apart, changed anywhere, and sealed again with right digests.

use ashlarfs::format::entry::ENTRIES_PER_PAGE;
use ashlarfs::format::index::BlockIndex;
use ashlarfs::format::superblock::{self, Section};
use ashlarfs::store::proof::{self, BlockKind};
use ashlarfs::{Digest, Tree};

/// A block as it is to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) codec: u8,
    pub(crate) content_len: u32,
}

impl Stored {
    /// Stores content as `mkimage` does: compressed where that is shorter.
    pub(crate) fn new(content: &[u8]) -> Self {
        Stored::at(content, LEVEL)
    }

    /// The same at another level of compression.
    pub(crate) fn at(content: &[u8], level: i32) -> Self {
        let content_len = u32::try_from(content.len()).unwrap();
        let bytes = zstd::bulk::compress(content, level).unwrap();
        if bytes.len() < content.len() {
            Stored { bytes, codec: 1, content_len }
        } else {
            Stored { bytes: content.to_vec(), codec: 0, content_len }
        }
    }
}

/// One Zstandard frame as the format wants it: single segment, with its content size, without checksum.
pub(crate) fn compress(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, LEVEL).unwrap()
}

/// As `mkimage` has it when nobody says.
const LEVEL: i32 = 19;

/// An image in pieces.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// The superblock; lengths, counts and offsets are filled in when it is sealed.
    pub(crate) superblock: [u8; superblock::LEN],
    pub(crate) data: Vec<Stored>,
    /// Content of the six sections, in the order of `Section::ALL`.
    pub(crate) sections: [Vec<u8>; 6],
    /// Level at which the sections are compressed: whoever makes a million images has no time for a high one.
    pub(crate) level: i32,
}

/// Changes on the way from pieces to an image; each sees what was made of the ones before.
#[derive(Default)]
pub(crate) struct Edits {
    /// All blocks, metadata included; the number of data blocks stays.
    pub(crate) blocks: Option<Box<dyn FnOnce(&mut Vec<Stored>)>>,
    /// Entries of the digest table.
    pub(crate) entries: Option<Box<dyn FnOnce(&mut Vec<[u8; 48]>)>>,
    /// The finished superblock.
    pub(crate) superblock: Option<Box<dyn FnOnce(&mut [u8; superblock::LEN])>>,
}

impl Draft {
    /// Takes an image apart.
    pub(crate) fn of(tree: &Tree) -> Self {
        let store = tree.store();
        let superblock = tree.superblock();
        let data = (0..superblock.data_block_count)
            .map(|block| {
                let entry = store.entry(BlockIndex(block)).unwrap();
                let codec = entry.codec.number();
                let bytes = store.stored(BlockIndex(block)).unwrap();
                Stored { bytes, codec, content_len: entry.content_len }
            })
            .collect();
        let sections = Section::ALL.map(|section| {
            let first = superblock.section_first_block(section);
            (first..first + superblock.section_block_count(section))
                .flat_map(|block| store.get(BlockIndex(block)).unwrap().to_vec())
                .collect()
        });
        Draft { superblock: superblock.encode().unwrap(), data, sections, level: LEVEL }
    }

    /// Puts the image together again; returns it with its root digest.
    pub(crate) fn seal(mut self, edits: Edits) -> (Vec<u8>, Digest) {
        let data_count = u32::try_from(self.data.len()).unwrap();
        // Whatever it will say of itself, blocks have a size that the format knows.
        let metadata_block_size = 1 << self.superblock[0x39].clamp(12, 20);
        let mut blocks = self.data;
        for section in &self.sections {
            blocks.extend(section.chunks(metadata_block_size).map(|it| Stored::at(it, self.level)));
        }
        if let Some(edit) = edits.blocks {
            edit(&mut blocks);
        }
        let mut image = vec![0; superblock::LEN];
        let mut entries = Vec::new();
        for (block, number) in blocks.iter().zip(0..) {
            let kind = if number < data_count { BlockKind::Data } else { BlockKind::Metadata };
            let mut entry = [0; 48];
            entry[..32].copy_from_slice(&proof::hash_block(kind, &block.bytes).0);
            entry[32..38].copy_from_slice(&image.len().to_le_bytes()[..6]);
            entry[38] = block.codec;
            entry[40..44].copy_from_slice(&u32::try_from(block.bytes.len()).unwrap().to_le_bytes());
            entry[44..48].copy_from_slice(&block.content_len.to_le_bytes());
            entries.push(entry);
            image.extend_from_slice(&block.bytes);
        }
        if let Some(edit) = edits.entries {
            edit(&mut entries);
        }
        let table_offset = image.len() as u64;
        let mut page_list = Vec::new();
        for page in entries.chunks(ENTRIES_PER_PAGE as usize) {
            page_list.extend_from_slice(&proof::hash_table_page(page.as_flattened()).0);
            image.extend_from_slice(page.as_flattened());
        }
        image.extend_from_slice(&page_list);
        let image_len = image.len() as u64 + superblock::LEN_ON_DISK;
        let block_count = u32::try_from(blocks.len()).unwrap();
        put64(&mut self.superblock, 0x20, image_len);
        put32(&mut self.superblock, 0x40, block_count);
        put32(&mut self.superblock, 0x44, data_count);
        put64(&mut self.superblock, 0x48, table_offset);
        self.superblock[0x50..0x70].copy_from_slice(&proof::hash_page_list(&page_list).0);
        for (section, at) in self.sections.iter().zip((0x70..).step_by(8)) {
            put64(&mut self.superblock, at, section.len() as u64);
        }
        if let Some(edit) = edits.superblock {
            edit(&mut self.superblock);
        }
        image.extend_from_slice(&self.superblock);
        image[..superblock::LEN].copy_from_slice(&self.superblock);
        let digest = proof::hash_superblock(&self.superblock);
        (image, digest)
    }

    /// Makes the prefetch list that of these blocks.
    pub(crate) fn list(&mut self, blocks: &[u32]) {
        self.sections[5] = blocks.iter().flat_map(|block| block.to_le_bytes()).collect();
    }

    /// The record of inode `index`.
    pub(crate) fn inode(&mut self, index: u32) -> &mut [u8] {
        let at = index as usize * 64;
        &mut self.sections[0][at..at + 64]
    }

    /// Where the record of a directory starts in its section, and how many entries it has.
    pub(crate) fn directory(&mut self, index: u32) -> (usize, usize) {
        let inode = self.inode(index);
        (get64(inode, 0x28) as usize, get32(inode, 0x30) as usize)
    }

    /// Entry `nth` of a directory.
    pub(crate) fn dirent(&mut self, index: u32, nth: usize) -> &mut [u8] {
        let at = self.directory(index).0 + nth * 12;
        &mut self.sections[2][at..at + 12]
    }

    /// The names of a directory, all in one.
    pub(crate) fn names(&mut self, index: u32) -> &mut [u8] {
        let (at, entries) = self.directory(index);
        let size = get64(self.inode(index), 0x10) as usize;
        &mut self.sections[2][at + entries * 12..at + size]
    }

    /// Run record `nth` of a file that has two or more.
    pub(crate) fn run(&mut self, index: u32, nth: usize) -> &mut [u8] {
        let at = (get64(self.inode(index), 0x28) as usize + nth) * 12;
        &mut self.sections[1][at..at + 12]
    }

    /// The xattr section from the set of an inode on.
    pub(crate) fn xattrs(&mut self, index: u32) -> &mut [u8] {
        let at = get32(self.inode(index), 0x24) as usize;
        &mut self.sections[4][at..]
    }
}

pub(crate) fn get32(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(raw[at..at + 4].try_into().unwrap())
}

pub(crate) fn get64(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(raw[at..at + 8].try_into().unwrap())
}

pub(crate) fn put16(raw: &mut [u8], at: usize, value: u16) {
    raw[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(raw: &mut [u8], at: usize, value: u32) {
    raw[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put64(raw: &mut [u8], at: usize, value: u64) {
    raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Changes a 32-bit field by what it holds.
pub(crate) fn edit32(raw: &mut [u8], at: usize, edit: impl FnOnce(u32) -> u32) {
    let value = edit(get32(raw, at));
    put32(raw, at, value);
}

/// Changes a 64-bit field by what it holds.
pub(crate) fn edit64(raw: &mut [u8], at: usize, edit: impl FnOnce(u64) -> u64) {
    let value = edit(get64(raw, at));
    put64(raw, at, value);
}

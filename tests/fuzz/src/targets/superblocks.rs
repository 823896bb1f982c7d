//! Is what a superblock says consistent with itself, whatever its bytes are?

use ashlarfs::format::superblock::{self, Section, Superblock};

use super::decoders::array;

/// The input is the beginning of the superblock; all behind it is zero, as the format has it.
pub(crate) fn superblock(input: &[u8]) {
    let mut raw: [u8; superblock::LEN] = array(input);
    let fixed = [&superblock::MAGIC[..], &1_u32.to_le_bytes()].concat();
    // A fuzzer need not find the magic again and again. Where the last byte is not zero, it is not given any.
    if input.last() == Some(&0) || input.len() < superblock::LEN {
        raw[..fixed.len()].copy_from_slice(&fixed);
    }
    let Ok(superblock) = Superblock::decode(&raw) else { return };
    assert_eq!(superblock.encode().ok(), Some(raw));
    let Superblock { image_len, table_offset, block_count, data_block_count, .. } = superblock;
    assert!((12..=20).contains(&superblock.block_bits));
    assert_eq!(superblock.block_size(), 1 << superblock.block_bits);
    assert!(data_block_count <= block_count);
    assert!(table_offset < superblock.page_list_offset() || block_count == 0);
    assert!(superblock.page_list_offset() <= superblock.backup_offset());
    assert_eq!(superblock.backup_offset() + 4096, image_len);
    let mut next = data_block_count;
    for section in Section::ALL {
        assert_eq!(superblock.section_first_block(section), next);
        next += superblock.section_block_count(section);
    }
    assert_eq!(next, block_count);
    assert!(superblock.inode_count() > 0);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let raw = super::images::SMALL.superblock().encode().unwrap();
    // With its fill it is a whole one; without, it is short.
    vec![raw[..0xe0].to_vec()]
}

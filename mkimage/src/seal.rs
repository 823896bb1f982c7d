//! How does everything hang from one digest? Metadata, digest table, page list, superblock.

use std::collections::HashSet;

use ashlarfs::format::COMPAT_POSIX_ACL;
use ashlarfs::format::defect::Defect;
use ashlarfs::format::digest::Digest;
use ashlarfs::format::entry::{self, ENTRIES_PER_PAGE, Entry};
use ashlarfs::format::index::{BlockIndex, InodeIndex};
use ashlarfs::format::inode::{Body as InodeBody, Inode, Kind, Runs, Tail};
use ashlarfs::format::run::Run;
use ashlarfs::format::superblock::{self, Section, SectionLens, Superblock};
use ashlarfs::format::{dirent, prefetch, xattr};
use ashlarfs::store::proof;

use crate::Failure;
use crate::options::Options;
use crate::pack::Layout;
use crate::plan::{Plan, index};
use crate::tree::Body;

/// Content of the six sections, in the order of [`Section::ALL`].
#[derive(Debug, Default)]
pub(crate) struct Sections {
    inodes: Vec<u8>,
    runs: Vec<u8>,
    directories: Vec<u8>,
    links: Vec<u8>,
    xattrs: Vec<u8>,
    prefetch: Vec<u8>,
}

impl Sections {
    /// The content of one section.
    pub(crate) fn get(&self, section: Section) -> &[u8] {
        match section {
            Section::Inodes => &self.inodes,
            Section::Runs => &self.runs,
            Section::Directories => &self.directories,
            Section::Links => &self.links,
            Section::Xattrs => &self.xattrs,
            Section::Prefetch => &self.prefetch,
        }
    }

    /// Lengths of all of them.
    pub(crate) fn lens(&self) -> SectionLens {
        let mut lens = SectionLens::default();
        for section in Section::ALL {
            lens.set(section, self.get(section).len() as u64);
        }
        lens
    }
}

/// Encodes the metadata of a planned and packed tree. `layouts` are those of `plan.content_order`.
pub(crate) fn encode_sections(
    plan: &Plan,
    layouts: Vec<Layout>,
    block_size: u32,
) -> Result<Sections, Failure> {
    let mut layout_of: Vec<Layout> = vec![Layout::default(); plan.nodes.len()];
    for (inode, layout) in plan.content_order.iter().zip(layouts) {
        layout_of[index(*inode)] = layout;
    }
    let mut sections = Sections::default();
    let list = prefetch_list(plan, &layout_of, block_size);
    sections.prefetch.extend(list.into_iter().flat_map(prefetch::encode));
    let mut xattr_at = Vec::new();
    for set in &plan.xattr_sets {
        xattr_at.push(
            u32::try_from(sections.xattrs.len()).map_err(|_| too_large("extended attributes"))?,
        );
        // cannot fail: `plan` has encoded each set
        sections.xattrs.extend(xattr::encode(set).ok_or_else(|| too_large("extended attributes"))?);
    }
    for (number, node) in plan.nodes.iter().enumerate() {
        let source = &plan.tree.nodes[index(*node)];
        let (size, body) = match &source.body {
            Body::File { size } => {
                let tail_len = (size % u64::from(block_size)) as u32;
                (*size, file_body(&layout_of[number], tail_len, &mut sections.runs))
            }
            Body::Dir(children) => {
                directory_body(plan, number, children, &mut sections.directories)?
            }
            Body::Link(target) => {
                let at = sections.links.len() as u64;
                sections.links.extend_from_slice(target);
                (target.len() as u64, InodeBody::Link { at })
            }
            Body::Device(major, minor) => (0, InodeBody::Device { major: *major, minor: *minor }),
            Body::Plain => (0, InodeBody::Plain),
        };
        let inode = Inode {
            kind: source.kind,
            permissions: source.permissions & 0o7777,
            nlink: plan.nlinks[number],
            uid: source.uid,
            gid: source.gid,
            size,
            mtime_sec: source.mtime_sec,
            mtime_nsec: source.mtime_nsec,
            xattrs: plan.xattr_of[number].map(|set| xattr_at[index(set)]),
            body,
        };
        sections.inodes.extend_from_slice(&inode.encode());
    }
    Ok(sections)
}

/// The blocks of what will be wanted first, each once, in that order.
fn prefetch_list(plan: &Plan, layout_of: &[Layout], block_size: u32) -> Vec<BlockIndex> {
    let mut listed = HashSet::new();
    let pieces = plan.wanted.iter();
    let blocks = pieces.flat_map(|(inode, piece)| {
        let blocks = piece.start / u64::from(block_size)..piece.end.div_ceil(block_size.into());
        layout_of[index(*inode)].blocks(blocks)
    });
    blocks.filter(|block| listed.insert(*block)).collect()
}

fn too_large(what: &str) -> Failure {
    Failure::new(format!("the {what} of this tree take more than 4 GiB"))
}

fn file_body(layout: &Layout, tail_len: u32, section: &mut Vec<u8>) -> InodeBody {
    let runs = match layout.runs.as_slice() {
        [] => Runs::None,
        [run] => Runs::One(*run),
        many => {
            let first = (section.len() / ashlarfs::format::run::LEN) as u64;
            section.extend(many.iter().flat_map(Run::encode));
            Runs::Many { first, count: many.len() as u32 }
        }
    };
    let (block, at) = match layout.tail {
        Some((block, at)) => (Some(block), at),
        None => (None, 0),
    };
    InodeBody::File { runs, tail: Tail { block, at, len: tail_len } }
}

fn directory_body(
    plan: &Plan,
    number: usize,
    children: &[(Box<[u8]>, u32)],
    section: &mut Vec<u8>,
) -> Result<(u64, InodeBody), Failure> {
    let parent = InodeIndex(plan.parents[number]);
    if children.is_empty() {
        return Ok((0, InodeBody::Dir { at: 0, entries: 0, parent }));
    }
    let at = section.len() as u64;
    let mut name_end = 0_u32;
    for (name, child) in children {
        name_end = name_end
            .checked_add(name.len() as u32)
            .ok_or_else(|| too_large("names of one directory"))?;
        let kind: Kind = plan.tree.nodes[index(*child)].kind;
        section.extend_from_slice(&dirent::encode(plan.inodes[index(*child)], name_end, kind));
    }
    section.extend(children.iter().flat_map(|(name, _)| name.iter()));
    let size = section.len() as u64 - at;
    Ok((size, InodeBody::Dir { at, entries: children.len() as u32, parent }))
}

/// What follows the blocks, and the superblock that goes before them.
#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) superblock: [u8; superblock::LEN],
    /// Digest table, page list and backup superblock.
    pub(crate) end: Vec<u8>,
    pub(crate) root_digest: Digest,
}

/// Seals the blocks that were written.
pub(crate) fn seal(
    entries: &[Entry],
    data_block_count: u32,
    sections: &Sections,
    plan: &Plan,
    metadata_block_bits: u8,
    options: &Options,
) -> Result<Seal, Failure> {
    let table: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    let list: Vec<u8> = table
        .chunks(ENTRIES_PER_PAGE as usize * entry::LEN)
        .flat_map(|page| proof::hash_table_page(page).0)
        .collect();
    let table_offset = entries.last().map_or(superblock::LEN_ON_DISK, Entry::end);
    if table_offset >= 1 << 48 {
        return Err(Failure::new("the image is longer than 256 TiB"));
    }
    let has_acl =
        plan.xattr_sets.iter().flatten().any(|(name, _)| name.starts_with(xattr::POSIX_ACL_PREFIX));
    let image_len = table_offset + table.len() as u64 + list.len() as u64 + superblock::LEN_ON_DISK;
    let superblock = Superblock {
        incompat: 0,
        compat: if has_acl { COMPAT_POSIX_ACL } else { 0 },
        image_len,
        image_version: options.image_version,
        build_time: options.build_time,
        block_bits: options.block_bits,
        metadata_block_bits,
        block_count: entries.len() as u32,
        data_block_count,
        table_offset,
        page_list_digest: proof::hash_page_list(&list),
        sections: sections.lens(),
        label: options.label.clone(),
    };
    let superblock = superblock.encode().map_err(|defect| match defect {
        Defect::Corrupt(corrupt) => Failure::new(corrupt),
        Defect::Unsupported(unsupported) => Failure::new(unsupported),
    })?;
    let mut end = table;
    end.extend_from_slice(&list);
    end.extend_from_slice(&superblock);
    Ok(Seal { root_digest: proof::hash_superblock(&superblock), superblock, end })
}

//! What does an older image hold already? Its stored blocks are used again for equal content, so that an update
//! downloads only what changed, whatever compressor made the old blocks.

use std::collections::HashMap;
use std::path::Path;

use ashlarfs::format::entry::Codec;
use ashlarfs::format::index::BlockIndex;
use ashlarfs::format::inode::Kind;
use ashlarfs::fs::file::Place;
use ashlarfs::store::proof::BlockKind;
use ashlarfs::{Anchor, Options, Tree};

use crate::Failure;
use crate::content::{ContentHash, hash};
use crate::pipeline::Stored;

/// Where a piece of content lies in the older image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) block: BlockIndex,
    pub(crate) at: u32,
    pub(crate) len: u32,
}

/// An older image, indexed by the hashes of its content.
pub(crate) struct Base {
    tree: Tree,
    full: HashMap<ContentHash, BlockIndex>,
    pieces: HashMap<ContentHash, Piece>,
}

impl Base {
    /// Opens the image at `path` and hashes its content. Nothing vouches for it, and nothing needs to: a block of it is used
    /// only where its content is that of a file which is packed now.
    pub(crate) fn open(path: &Path, block_size: u32) -> Result<Self, Failure> {
        let wrap = |err| Failure::reading(path.display(), &err);
        let tree = ashlarfs::open(path, &Options::new(Anchor::Unauthenticated)).map_err(wrap)?;
        let mut tails = Vec::new();
        for index in 0..tree.superblock().inode_count() {
            let index = ashlarfs::format::index::InodeIndex(index);
            let inode = tree.inode(index).map_err(wrap)?;
            if inode.kind != Kind::File {
                continue;
            }
            let file = tree.file_of(index, &inode).map_err(wrap)?;
            if inode.size > 0
                && let Place::Tail { block, at } =
                    file.extent_at(inode.size - 1).map_err(wrap)?.place
            {
                let len = (inode.size % u64::from(tree.superblock().block_size())) as u32;
                tails.push(Piece { block, at, len });
            }
        }
        tails.sort_unstable_by_key(|piece| (piece.block, piece.at, piece.len));
        tails.dedup();
        let mut base = Base { full: HashMap::new(), pieces: HashMap::new(), tree };
        base.hash_content(&tails, block_size).map_err(wrap)?;
        Ok(base)
    }

    /// Expands each data block once and hashes it, whole if it is a full one, and the tails in it.
    fn hash_content(&mut self, tails: &[Piece], block_size: u32) -> Result<(), ashlarfs::Error> {
        let mut tails = tails.iter().peekable();
        let mut content = Vec::new();
        for block in (0..self.tree.superblock().data_block_count).map(BlockIndex) {
            let entry = self.tree.store().entry(block)?;
            content.resize(entry.content_len as usize, 0);
            self.tree.store().get_into(block, &mut content)?;
            if entry.content_len == block_size {
                self.full.entry(hash(&content)).or_insert(block);
            }
            while let Some(piece) = tails.next_if(|piece| piece.block == block) {
                let range = piece.at as usize..piece.at as usize + piece.len as usize;
                if let Some(bytes) = content.get(range)
                    && piece.len < block_size
                    && entry.content_len <= block_size
                {
                    self.pieces.entry(hash(bytes)).or_insert(*piece);
                }
            }
        }
        Ok(())
    }

    /// The block whose whole content has this hash.
    pub(crate) fn full_block(&self, hash: &ContentHash) -> Option<BlockIndex> {
        self.full.get(hash).copied()
    }

    /// The piece with this hash.
    pub(crate) fn piece(&self, hash: &ContentHash) -> Option<Piece> {
        self.pieces.get(hash).copied()
    }

    /// A block as it is stored, to be copied.
    pub(crate) fn stored(&self, block: BlockIndex) -> Result<Stored, Failure> {
        let wrap = |err| Failure::reading("the base image", &err);
        let entry = self.tree.store().entry(block).map_err(wrap)?;
        let bytes = self.tree.store().stored(block).map_err(wrap)?;
        let codec: Codec = entry.codec;
        Ok(Stored { bytes, codec, content_len: entry.content_len, kind: BlockKind::Data })
    }

    /// How long a block's content is, in bytes.
    pub(crate) fn content_len(&self, block: BlockIndex) -> Result<u32, Failure> {
        let entry = self.tree.store().entry(block);
        Ok(entry.map_err(|err| Failure::reading("the base image", &err))?.content_len)
    }

    /// The bytes of a piece.
    pub(crate) fn content(&self, piece: &Piece) -> Result<Vec<u8>, Failure> {
        let wrap = |err| Failure::reading("the base image", &err);
        let content = self.tree.store().get(piece.block).map_err(wrap)?;
        let range = piece.at as usize..piece.at as usize + piece.len as usize;
        content.get(range).map(<[u8]>::to_vec).ok_or_else(|| Failure::new("the base image changed"))
    }
}

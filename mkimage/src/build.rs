//! From a tree to an image: plan, pack, seal, emit.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;
use std::time::Instant;

use ashlarfs::fec::{self, Geometry};
use ashlarfs::format::digest::Digest;
use ashlarfs::format::inode::Kind;
use ashlarfs::format::superblock::Section;
use ashlarfs::format::trailer::{self, signed_text};
use ashlarfs::store::proof::{BlockKind, hash_trailer};
use ashlarfs::{Method, verify};

use crate::Failure;
use crate::base::Base;
use crate::emit::{Draft, MakeParity};
use crate::options::{Options, Progress};
use crate::pack::pack;
use crate::pipeline::Pipeline;
use crate::plan::{Plan, index, plan};
use crate::seal::{encode_sections, seal};
use crate::sign::sign;
use crate::text::{counted, shown};
use crate::tree::{Body, Contents, SourceTree};

/// What was built. Bytes are bytes, the rest are counts.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    /// The root digest in hexadecimal.
    pub root_digest: String,
    /// Regular files; hard links count once.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Devices, pipes and sockets.
    pub others: u64,
    /// Names beyond the first of files that have several.
    pub hard_links: u64,
    /// Sizes of all regular files together.
    pub content_bytes: u64,
    /// Length of the image file.
    pub image_bytes: u64,
    /// How many of these bytes are parity.
    pub parity_bytes: u64,
    /// Content that was there already and is not stored again.
    pub duplicate_bytes: u64,
    /// Content that is zeros and is not stored.
    pub hole_bytes: u64,
    /// Blocks taken over from the base image.
    pub base_blocks: u64,
    /// Blocks of content.
    pub data_blocks: u64,
    /// Blocks of metadata.
    pub metadata_blocks: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Metadata blocks are smaller than data blocks may be: a cold lookup expands two or three of them.
const METADATA_BLOCK_BITS: u8 = 16;

/// Builds the image of `tree` at `image`.
pub(crate) fn build(
    tree: SourceTree,
    contents: &dyn Contents,
    image: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, Failure> {
    let started = Instant::now();
    let plan = plan(tree, &options.order)?;
    if let Some(first) = plan.missing.first() {
        let count = counted(plan.missing.len() as u64, "path", "paths");
        let first = shown(first);
        progress
            .warn(&format!("--order names {count} that will not be in the image: `{first}` first"));
    }
    let block_size = 1_u32 << options.block_bits;
    let base = options.base.as_deref().map(|path| Base::open(path, block_size)).transpose()?;
    let (draft, file) = Draft::create(image)?;
    let (content_files, content_bytes) = count_content(&plan);
    progress.start(content_files, content_bytes);
    let (file, entries, data_block_count, sections, sums) = thread::scope(|scope| {
        let mut pipeline =
            Pipeline::start(scope, file, options.level, options.workers, 1 << options.block_bits);
        let packed = pack(&plan, contents, &mut pipeline, base.as_ref(), options, progress)
            .and_then(|(layouts, sums)| {
                progress.phase("writing metadata");
                let data_block_count = pipeline.count();
                let sections = encode_sections(&plan, layouts, block_size)?;
                for section in Section::ALL {
                    for content in sections.get(section).chunks(1 << METADATA_BLOCK_BITS) {
                        pipeline.push(content.to_vec(), BlockKind::Metadata, None)?;
                    }
                }
                Ok((data_block_count, sections, sums))
            });
        // What stopped the writer explains more than that it stopped.
        let (file, entries) = pipeline.finish()?;
        let (data_block_count, sections, sums) = packed?;
        Ok::<_, Failure>((file, entries, data_block_count, sections, sums))
    })?;
    let seal = seal(&entries, data_block_count, &sections, &plan, METADATA_BLOCK_BITS, options)?;
    let text = signed_text(&seal.root_digest, options.image_version);
    let trailer = trailer::encode(&sign(&text, &options.sign_keys)?, hash_trailer)
        .ok_or_else(|| Failure::new("the signatures are too large for an image"))?;
    let parity_bytes = Cell::new(0);
    let parity = |file: &File, covered_len| {
        progress.phase("making parity");
        parity_bytes.set(encode_parity(file, covered_len, options)?);
        Ok(())
    };
    let parity = options.parity.map(|_| &parity as &MakeParity<'_>);
    let image_bytes = draft.finish(&file, &seal, &trailer, parity, |file, digest| {
        progress.phase("verifying");
        prove(file, digest, options.workers)
    })?;
    let count = |kind| {
        plan.nodes.iter().filter(|node| plan.tree.nodes[index(**node)].kind == kind).count() as u64
    };
    let (files, directories, symlinks) = (count(Kind::File), count(Kind::Dir), count(Kind::Link));
    Ok(Summary {
        root_digest: seal.root_digest.to_string(),
        files,
        directories,
        symlinks,
        others: plan.nodes.len() as u64 - files - directories - symlinks,
        hard_links: hard_links(&plan),
        content_bytes: sums.content_bytes,
        image_bytes,
        parity_bytes: parity_bytes.get(),
        duplicate_bytes: sums.duplicate_bytes,
        hole_bytes: sums.hole_bytes,
        base_blocks: sums.base_blocks,
        data_blocks: u64::from(data_block_count),
        metadata_blocks: entries.len() as u64 - u64::from(data_block_count),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Regular files with content, and their bytes.
fn count_content(plan: &Plan) -> (u64, u64) {
    plan.content_order.iter().fold((0, 0), |(files, bytes), inode| {
        match plan.tree.nodes[index(plan.nodes[index(*inode)])].body {
            Body::File { size } => (files + 1, bytes + size),
            _ => (files, bytes),
        }
    })
}

/// Names beyond the first of files that have several.
fn hard_links(plan: &Plan) -> u64 {
    plan.nodes
        .iter()
        .zip(&plan.nlinks)
        .filter(|(node, _)| plan.tree.nodes[index(**node)].kind != Kind::Dir)
        .map(|(_, nlink)| u64::from(*nlink) - 1)
        .sum()
}

/// Writes parity behind the first `covered_len` bytes; returns how many bytes it takes.
fn encode_parity(file: &File, covered_len: u64, options: &Options) -> Result<u64, Failure> {
    let geometry = options.parity.and_then(|share| Geometry::of_share(covered_len, share));
    let geometry = geometry.ok_or_else(|| Failure::new("the image is too large for parity"))?;
    fec::encode(file, geometry, options.workers, &|_, _| {})
        .map_err(|err| Failure::reading("cannot make parity", &err))?;
    Ok(geometry.end() - covered_len)
}

/// Reads the finished file with the library that everybody reads it with, and verifies all of it.
fn prove(file: File, digest: Digest, workers: usize) -> Result<(), Failure> {
    let source = ashlarfs::image::from_file(file, Method::Pread)
        .map_err(|err| Failure::io("cannot read the image back", &err))?;
    let workers = NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN);
    let report =
        verify::verify(&source, digest, &verify::Options { workers, ..Default::default() });
    match report.findings.first() {
        Some(finding) => Err(Failure::reading("the image that was just written", &finding.error)),
        None if report.is_clean() => Ok(()),
        None => {
            Err(Failure::new("the image that was just written has bytes that belong to nothing"))
        }
    }
}

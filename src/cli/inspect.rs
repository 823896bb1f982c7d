//! `ashlar inspect`: what is this image?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Outcome, TrustArgs, escape, say};
use crate::error::Result;
use crate::format::FORMAT_VERSION;
use crate::format::entry::{Codec, Entry};
use crate::format::fec::Geometry;
use crate::format::field::usize_from_u64;
use crate::format::index::BlockIndex;
use crate::format::superblock::Section;
use crate::format::trailer::{self, signed_text};
use crate::fs::Tree;
use crate::fs::file::{Extent, Place};
use crate::store;
use crate::trust;

/// Arguments of `ashlar inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
--json writes one object: image, root_digest, format_version, incompat, compat, label, image_version, build_time,
image_len, block_size, metadata_block_size, block_count, data_block_count, inode_count, parts (data and each section:
name, blocks, content_bytes, stored_bytes), codecs (blocks by codec), histogram (blocks by stored length in tenths of
content length), trailer_len, signatures (key_id, trusted_comment), and parity (null, or bytes, shard_len, data_shards, parity_shards).")]
pub struct InspectArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// Write the text to be signed, and nothing else: `minisign -Sm FILE` signs it offline
    #[arg(long, conflicts_with_all = ["json", "extents"])]
    signed_text: bool,
    /// Show where the content of a file lies, block by block
    #[arg(short, long, value_name = "PATH", conflicts_with = "json")]
    extents: Option<OsString>,
    /// The image
    image: PathBuf,
}

/// Blocks of one kind taken together.
#[derive(Debug, Default, Clone, Copy)]
struct Part {
    blocks: u64,
    content_bytes: u64,
    stored_bytes: u64,
}

impl Part {
    fn add(&mut self, entry: &Entry) {
        self.blocks = self.blocks.saturating_add(1);
        self.content_bytes = self.content_bytes.saturating_add(entry.content_len.into());
        self.stored_bytes = self.stored_bytes.saturating_add(entry.stored_len.into());
    }
}

/// What the digest table says of all blocks.
#[derive(Debug)]
struct Table {
    data: Part,
    sections: Vec<(Section, Part)>,
    /// Blocks by codec, in the order of `Codec::ALL`.
    codecs: [(Codec, u64); Codec::ALL.len()],
    /// Blocks by stored length in tenths of their content's length.
    histogram: [u64; 10],
}

/// Runs it.
pub fn run(args: &InspectArgs) -> Outcome {
    let tree = args.trust.open(&args.image)?;
    if args.signed_text {
        say(&signed_text(&tree.root_digest(), tree.superblock().image_version))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.extents {
        say(&extents(&tree, path)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let table = read_table(&tree)?;
    let superblock = tree.superblock();
    let signatures = match trust::read_trailer(tree.store().source(), superblock.image_len) {
        Ok(signatures) => signatures,
        Err(err) => {
            eprintln!("ashlar: warning: {}: {err}", args.image.display());
            Vec::new()
        }
    };
    if args.json {
        say(&format!("{}\n", to_json(args, &tree, &table, &signatures)))?;
    } else {
        say(&to_text(&tree, &table, &signatures))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read_table(tree: &Tree) -> Result<Table> {
    let superblock = tree.superblock();
    let mut table = Table {
        data: Part::default(),
        sections: Section::ALL.map(|section| (section, Part::default())).to_vec(),
        codecs: Codec::ALL.map(|codec| (codec, 0)),
        histogram: [0; 10],
    };
    let mut block = 0_u32;
    for page in 0..superblock.page_count() {
        for entry in tree.store().table_page(page)?.iter() {
            let part = if block < superblock.data_block_count {
                Some(&mut table.data)
            } else {
                let of_block = |section: Section| superblock.section_first_block(section) <= block;
                let found = table.sections.iter_mut().rev();
                let mut found = found.filter(|(section, _)| {
                    of_block(*section) && superblock.section_block_count(*section) > 0
                });
                found.next().map(|(_, part)| part)
            };
            if let Some(part) = part {
                part.add(entry);
            }
            for (codec, count) in &mut table.codecs {
                *count = count.saturating_add((*codec == entry.codec).into());
            }
            let tenth = u64::from(entry.stored_len).saturating_mul(10);
            let tenth = tenth.checked_div(entry.content_len.into()).unwrap_or(0).min(9);
            if let Some(count) = table.histogram.get_mut(usize_from_u64(tenth)) {
                *count = count.saturating_add(1);
            }
            block = block.saturating_add(1);
        }
    }
    Ok(table)
}

/// Key id and trusted comment of a signature; the comment is not checked here.
fn describe(signature: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(signature);
    trust::describe_signature(&text).unwrap_or_else(|why| ("unreadable".to_owned(), why))
}

fn to_text(tree: &Tree, table: &Table, signatures: &[Vec<u8>]) -> String {
    let superblock = tree.superblock();
    let trailer_len = trailer::len(signatures);
    let built = match superblock.build_time {
        0 => "not recorded".to_owned(),
        time => format!("{time} seconds after 1970-01-01 UTC"),
    };
    let metadata_blocks = superblock.block_count.saturating_sub(superblock.data_block_count);
    let codecs = table.codecs.map(|(codec, count)| format!("{} {count}", codec.name()));
    let mut lines = vec![
        format!("root digest    {}", tree.root_digest()),
        format!("format         version {FORMAT_VERSION}, {} compat", bits(superblock.compat)),
        format!("label          {}", superblock.label),
        format!("image version  {}", superblock.image_version),
        format!("built          {built}"),
        format!(
            "length         {} bytes, {trailer_len} of them signatures",
            superblock.image_len.saturating_add(trailer_len)
        ),
        format!(
            "data           {} blocks of up to {} bytes",
            superblock.data_block_count,
            superblock.block_size()
        ),
        format!(
            "metadata       {metadata_blocks} blocks of up to {} bytes",
            superblock.metadata_block_size()
        ),
        format!("codecs         {}", codecs.join(", ")),
        format!("inodes         {}", superblock.inode_count()),
        String::new(),
        format!("{:10} {:>9} {:>15} {:>15} {:>8}", "part", "blocks", "content", "stored", "ratio"),
    ];
    let parts = table.sections.iter().map(|(section, part)| (section.name(), part));
    lines.extend(std::iter::once(("data", &table.data)).chain(parts).map(|(name, part)| {
        let Part { blocks, content_bytes, stored_bytes } = *part;
        let ratio = percent(stored_bytes, content_bytes);
        format!("{name:10} {blocks:>9} {content_bytes:>15} {stored_bytes:>15} {ratio:>8}")
    }));
    lines.push(String::new());
    lines.push("blocks by stored length, in percent of their content's length:".to_owned());
    lines.extend(table.histogram.iter().zip(0_u64..).map(|(count, tenth)| {
        let bar = count.saturating_mul(50).checked_div(superblock.block_count.into()).unwrap_or(0);
        let line = format!("{:>4} {count:>9} ", tenth.saturating_mul(10));
        line + &"#".repeat(usize_from_u64(bar))
    }));
    lines.push(String::new());
    lines.push(match parity(tree, signatures) {
        None => "parity         none".to_owned(),
        Some(geometry) => format!(
            "parity         {} bytes: of {} shards of {} bytes, {} may be lost",
            geometry.end().saturating_sub(geometry.covered_len()),
            geometry.count(),
            geometry.shard_len(),
            geometry.parity_count()
        ),
    });
    lines.push(format!("signatures     {}", signatures.len()));
    lines.extend(signatures.iter().map(|signature| {
        let (id, comment) = describe(signature);
        format!("  key {id}  {}", escape(comment.as_bytes()))
    }));
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// Where parity of image and trailer lies, if there is any.
fn parity(tree: &Tree, signatures: &[Vec<u8>]) -> Option<Geometry> {
    let image_len = tree.superblock().image_len;
    Some(store::parity_of(tree.store().source(), image_len, signatures)?.geometry)
}

fn bits(word: u64) -> String {
    if word == 0 { "no".to_owned() } else { format!("{word:#x}") }
}

/// A share in percent with one digit after the point.
fn percent(part: u64, whole: u64) -> String {
    match part.saturating_mul(1000).checked_div(whole) {
        None => "-".to_owned(),
        Some(permille) => format!("{}.{} %", permille / 10, permille % 10),
    }
}

fn to_json(args: &InspectArgs, tree: &Tree, table: &Table, signatures: &[Vec<u8>]) -> Value {
    let superblock = tree.superblock();
    let part = |name: &str, part: &Part| {
        json!({
            "name": name,
            "blocks": part.blocks,
            "content_bytes": part.content_bytes,
            "stored_bytes": part.stored_bytes,
        })
    };
    let sections = table.sections.iter().map(|(section, of)| part(section.name(), of));
    let parts: Vec<Value> = std::iter::once(part("data", &table.data)).chain(sections).collect();
    let signers: Vec<Value> = signatures
        .iter()
        .map(|signature| describe(signature))
        .map(|(id, comment)| json!({ "key_id": id, "trusted_comment": comment }))
        .collect();
    let codecs = table.codecs.iter().map(|(codec, count)| (codec.name().to_owned(), json!(count)));
    let codecs: serde_json::Map<_, _> = codecs.collect();
    json!({
        "image": args.image.to_string_lossy(),
        "root_digest": tree.root_digest(),
        "format_version": FORMAT_VERSION,
        "incompat": superblock.incompat,
        "compat": superblock.compat,
        "label": superblock.label,
        "image_version": superblock.image_version,
        "build_time": superblock.build_time,
        "image_len": superblock.image_len,
        "block_size": superblock.block_size(),
        "metadata_block_size": superblock.metadata_block_size(),
        "block_count": superblock.block_count,
        "data_block_count": superblock.data_block_count,
        "inode_count": superblock.inode_count(),
        "parts": parts,
        "codecs": codecs,
        "histogram": table.histogram,
        "trailer_len": trailer::len(signatures),
        "signatures": signers,
        "parity": parity(tree, signatures).map(|geometry| json!({
            "bytes": geometry.end().saturating_sub(geometry.covered_len()),
            "shard_len": geometry.shard_len(),
            "data_shards": geometry.data_count(),
            "parity_shards": geometry.parity_count(),
        })),
    })
}

/// One line for each block that a file has content in.
fn extents(tree: &Tree, path: &OsString) -> Result<String, Failure> {
    let about = |err| Failure::about(escape(path.as_bytes()), &err);
    let file = tree.resolve(path.as_bytes()).and_then(|index| tree.file(index)).map_err(about)?;
    let block_size = u64::from(tree.superblock().block_size());
    let mut lines = vec![format!(
        "{:>12} {:>9} {:>9} {:>14} {:>9} {:10} digest",
        "offset", "length", "block", "image offset", "stored", "codec"
    )];
    let line = |offset: u64, len: u64, block: BlockIndex| -> Result<String> {
        let Entry { offset: place, stored_len, codec, digest, .. } = tree.store().entry(block)?;
        let codec = codec.name();
        let line =
            format!("{offset:>12} {len:>9} {block:>9} {place:>14} {stored_len:>9} {codec:10}");
        Ok(format!("{line} {digest}"))
    };
    for extent in file.extents() {
        let Extent { offset, len, place } = extent.map_err(about)?;
        match place {
            Place::Hole => lines.push(format!("{offset:>12} {len:>9} {:>9}", "hole")),
            Place::Tail { block, .. } => lines.push(line(offset, len, block).map_err(about)?),
            Place::Blocks { first, count } => {
                for nth in 0..count {
                    let into = u64::from(nth).saturating_mul(block_size);
                    let block = BlockIndex(first.0.saturating_add(nth));
                    lines
                        .push(line(offset.saturating_add(into), block_size, block).map_err(about)?);
                }
            }
        }
    }
    Ok(lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect())
}

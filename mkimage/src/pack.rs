//! In which blocks does content lie? Full blocks by themselves, tails and small files together; equal ones once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::thread;

use ashlarfs::format::branch::Machine;
use ashlarfs::format::index::{BlockIndex, NONE};
use ashlarfs::format::run::Run;
use ashlarfs::store::proof::BlockKind;

use crate::Failure;
use crate::base::{Base, Piece};
use crate::content::ContentHash;
use crate::elf;
use crate::options::{Options, Progress};
use crate::pipeline::Pipeline;
use crate::plan::{Plan, index};
use crate::read::{Files, Part, Parts};
use crate::tree::Contents;

/// Where a file's content lies. Numbers are final once everything is packed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Layout {
    /// Runs of full blocks; adjacent ones never continue each other.
    pub(crate) runs: Vec<Run>,
    /// Block and offset of the tail.
    pub(crate) tail: Option<(BlockIndex, u32)>,
}

impl Layout {
    /// The blocks that hold a range of the file's blocks; the tail counts as one behind the full ones. Holes have none.
    pub(crate) fn blocks(&self, range: Range<u64>) -> impl Iterator<Item = BlockIndex> + '_ {
        let full =
            self.runs.last().map_or(0, |run| u64::from(run.file_block) + u64::from(run.count));
        let tail = self.tail.map(|(block, _)| block).filter(|_| range.contains(&full));
        let of_run = move |run: &Run| {
            let first = u64::from(run.file_block);
            let wanted = range.start.max(first)..range.end.min(first + u64::from(run.count));
            let block = run.block.filter(|_| !wanted.is_empty());
            block.into_iter().flat_map(move |block| {
                let skip = |at: u64| block.0 + (at - first) as u32;
                (skip(wanted.start)..skip(wanted.end)).map(BlockIndex)
            })
        };
        self.runs.iter().flat_map(of_run).chain(tail)
    }
}

/// Sums over all files, in bytes but for `base_blocks`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) content_bytes: u64,
    pub(crate) duplicate_bytes: u64,
    pub(crate) hole_bytes: u64,
    pub(crate) base_blocks: u64,
}

/// Where a tail went, while packing goes on.
#[derive(Debug, Clone, Copy)]
enum TailPlace {
    /// Into this pack, at this offset.
    Pack(u32, u32),
    /// It is this piece of the base image; whether that block is used again is decided at the end.
    Base(Piece),
}

/// Bytes of content after which progress is told.
const PROGRESS_LEN: u64 = 1 << 20;

struct Packer<'a, 'scope> {
    pipeline: &'a mut Pipeline<'scope>,
    base: Option<&'a Base>,
    block_size: usize,
    full: HashMap<ContentHash, BlockIndex>,
    tails: HashMap<ContentHash, TailPlace>,
    /// Content of the pack that is being filled, and whose code is in it.
    pack: Vec<u8>,
    pack_machine: Option<Machine>,
    /// Block of each pack that was pushed; the one being filled is the next.
    packs: Vec<BlockIndex>,
    sums: Sums,
}

/// Packs the content of all files; returns each file's layout, indexed like `plan.content_order`.
pub(crate) fn pack(
    plan: &Plan,
    contents: &dyn Contents,
    pipeline: &mut Pipeline<'_>,
    base: Option<&Base>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Vec<Layout>, Sums), Failure> {
    let mut packer = Packer {
        pipeline,
        base,
        block_size: 1 << options.block_bits,
        full: HashMap::new(),
        // Most files have one; a table that grows stops everybody meanwhile.
        tails: HashMap::with_capacity(plan.content_order.len()),
        pack: Vec::new(),
        pack_machine: None,
        packs: Vec::new(),
        sums: Sums::default(),
    };
    let mut layouts = Vec::with_capacity(plan.content_order.len());
    let mut places = Vec::with_capacity(plan.content_order.len());
    let files = Files { plan, contents, block_size: 1 << options.block_bits };
    thread::scope(|scope| {
        let mut parts = Parts::start(scope, files, options.workers)?;
        let mut told = 0;
        while layouts.len() < plan.content_order.len() {
            let (runs, place) = packer.file(&mut parts, options.ignore_changed, progress)?;
            layouts.push(Layout { runs, tail: None });
            places.push(place);
            // Not for each small file: it costs more than the file does.
            if packer.sums.content_bytes - told >= PROGRESS_LEN {
                progress.advance(packer.sums.content_bytes - told);
                told = packer.sums.content_bytes;
            }
        }
        progress.advance(packer.sums.content_bytes - told);
        Ok::<_, Failure>(())
    })?;
    packer.settle(&mut places)?;
    packer.flush()?;
    for (layout, place) in layouts.iter_mut().zip(places) {
        if let Some(TailPlace::Pack(pack, at)) = place {
            layout.tail = Some((packer.packs[index(pack)], at));
        }
    }
    Ok((layouts, packer.sums))
}

impl Packer<'_, '_> {
    /// Packs the file whose parts come next.
    fn file(
        &mut self,
        parts: &mut Parts,
        ignore_changed: bool,
        progress: &dyn Progress,
    ) -> Result<(Vec<Run>, Option<TailPlace>), Failure> {
        let mut runs: Vec<Run> = Vec::new();
        let (mut next, mut place) = (0, None);
        let mut is_told = false;
        let mut machine = None;
        loop {
            match parts.next()? {
                Some(Part::Zeros(count)) => {
                    let len = u64::from(count) * self.block_size as u64;
                    self.sums.content_bytes += len;
                    self.sums.hole_bytes += len;
                    push_run(&mut runs, next, None, count);
                    next += count;
                }
                Some(Part::Block(bytes, hash)) => {
                    self.sums.content_bytes += bytes.len() as u64;
                    if next == 0 {
                        machine = elf::machine(&bytes);
                    }
                    push_run(&mut runs, next, Some(self.block(bytes, hash, machine)?), 1);
                    next += 1;
                }
                Some(Part::Tail(bytes, hash)) => {
                    self.sums.content_bytes += bytes.len() as u64;
                    if next == 0 {
                        machine = elf::machine(&bytes);
                    }
                    place = Some(self.tail(&bytes, hash, machine)?);
                }
                Some(Part::ZeroTail(len)) => {
                    self.sums.content_bytes += len;
                    self.sums.hole_bytes += len;
                }
                Some(Part::Changed(changed)) if !ignore_changed => {
                    return Err(Failure::new(changed).hint(
                        "build from a tree that nobody writes to, or give --ignore-changed",
                    ));
                }
                // Each piece of a large file may tell it.
                Some(Part::Changed(changed)) => {
                    if !std::mem::replace(&mut is_told, true) {
                        progress.warn(&changed);
                    }
                }
                Some(Part::End) => return Ok((runs, place)),
                // cannot be: every file has an end
                None => return Err(Failure::new("the reading threads have stopped")),
            }
        }
    }

    /// Finds or makes the block for a full block of content.
    fn block(
        &mut self,
        bytes: Vec<u8>,
        hash: ContentHash,
        machine: Option<Machine>,
    ) -> Result<BlockIndex, Failure> {
        if let Some(block) = self.full.get(&hash) {
            self.sums.duplicate_bytes += bytes.len() as u64;
            return Ok(*block);
        }
        let number =
            match self.base.and_then(|base| base.full_block(&hash).map(|block| (base, block))) {
                Some((base, block)) => {
                    self.sums.base_blocks += 1;
                    self.pipeline.push_stored(base.stored(block)?)?
                }
                None => self.pipeline.push(bytes, BlockKind::Data, machine)?,
            };
        self.full.insert(hash, BlockIndex(number));
        Ok(BlockIndex(number))
    }

    /// Finds or makes a place for a tail.
    fn tail(
        &mut self,
        bytes: &[u8],
        hash: ContentHash,
        machine: Option<Machine>,
    ) -> Result<TailPlace, Failure> {
        if let Some(place) = self.tails.get(&hash) {
            self.sums.duplicate_bytes += bytes.len() as u64;
            return Ok(*place);
        }
        let place = match self.base.and_then(|base| base.piece(&hash)) {
            Some(piece) => TailPlace::Base(piece),
            None => self.add_to_pack(bytes, machine)?,
        };
        self.tails.insert(hash, place);
        Ok(place)
    }

    fn add_to_pack(
        &mut self,
        bytes: &[u8],
        machine: Option<Machine>,
    ) -> Result<TailPlace, Failure> {
        if self.pack.len() + bytes.len() > self.block_size {
            self.flush()?;
        }
        let place = TailPlace::Pack(self.packs.len() as u32, self.pack.len() as u32);
        self.pack.extend_from_slice(bytes);
        self.pack_machine = self.pack_machine.or(machine);
        Ok(place)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if !self.pack.is_empty() {
            let pack = std::mem::take(&mut self.pack);
            let machine = self.pack_machine.take();
            self.packs.push(BlockIndex(self.pipeline.push(pack, BlockKind::Data, machine)?));
        }
        Ok(())
    }

    /// Decides which packs of the base image are used again: those of which at least half is still wanted. Tails in the
    /// others are packed anew.
    fn settle(&mut self, places: &mut [Option<TailPlace>]) -> Result<(), Failure> {
        let Some(base) = self.base else { return Ok(()) };
        let mut wanted: BTreeMap<BlockIndex, BTreeMap<(u32, u32), Piece>> = BTreeMap::new();
        for place in places.iter().flatten() {
            if let TailPlace::Base(piece) = place {
                wanted.entry(piece.block).or_default().insert((piece.at, piece.len), *piece);
            }
        }
        let mut settled: HashMap<(u32, u32, u32), TailPlace> = HashMap::new();
        for (block, pieces) in wanted {
            let live: u64 = pieces.keys().map(|(_, len)| u64::from(*len)).sum();
            let reused = live * 2 >= u64::from(base.content_len(block)?);
            if reused {
                self.flush()?;
                self.packs.push(BlockIndex(self.pipeline.push_stored(base.stored(block)?)?));
                self.sums.base_blocks += 1;
            }
            let reused_pack = self.packs.len() as u32;
            for ((at, len), piece) in pieces {
                let place = if reused {
                    TailPlace::Pack(reused_pack - 1, at)
                } else {
                    let bytes = base.content(&piece)?;
                    // What a larger file ends with tells nothing of the machine.
                    self.add_to_pack(&bytes, elf::machine(&bytes))?
                };
                settled.insert((block.0, at, len), place);
            }
        }
        for place in places.iter_mut().flatten() {
            if let TailPlace::Base(piece) = place
                && let Some(found) = settled.get(&(piece.block.0, piece.at, piece.len))
            {
                *place = *found;
            }
        }
        Ok(())
    }
}

/// Adds blocks to a file's runs, joining what can be one run (the format asks for it, S-52).
fn push_run(runs: &mut Vec<Run>, file_block: u32, block: Option<BlockIndex>, count: u32) {
    let next = Run { file_block, block, count };
    match runs.last_mut() {
        Some(last) if last.continues_into(&next) => last.count += count,
        _ => runs.push(next),
    }
}

const _: () = assert!(NONE == u32::MAX, "block numbers end before NONE");

//! What does a machine say that boots from one of them? The same machine for all: two disks, the first with `/var`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Contestant;
use super::figures::Figures;
use super::images::{Images, data_partition};
use crate::bench::Bench;
use crate::outcome::{Doing, Result, run};
use crate::qemu::{Console, Machine, PANIC_ENDS, Writes};

/// When a machine is ended: many times what it takes.
const LIMIT: Duration = Duration::from_mins(8);

/// One kind of root, and its machine.
#[derive(Debug)]
pub(super) struct Contest<'a> {
    /// Which.
    pub contestant: &'static Contestant,
    bench: &'a Bench<'a>,
    images: &'a Images,
    /// The data partition as the first boot left it; each boot that is measured has a copy.
    data: PathBuf,
}

impl<'a> Contest<'a> {
    /// A machine that was never switched on.
    pub(super) fn new(
        bench: &'a Bench<'a>,
        images: &'a Images,
        contestant: &'static Contestant,
    ) -> Result<Self> {
        let data = data_partition(bench, images, contestant)?;
        Ok(Contest { contestant, bench, images, data })
    }

    /// The first boot, in which systemd makes what it makes once.
    pub(super) fn settle(&self) -> Result<()> {
        self.settle_with("")
    }

    /// A boot whose reads are written down.
    pub(super) fn record(&self, trace: &Path) -> Result<()> {
        self.settle_with("ashlar.trace")?;
        crate::disk::copy_file_out(&self.data, "/var/lib/ashlar-vm/trace", trace)
    }

    fn settle_with(&self, words: &str) -> Result<()> {
        let console = self.boot(&self.data, "settle", words)?;
        console.ended_well()?.spoke("figures end")?;
        crate::disk::check(&self.data)
    }

    /// A boot that is measured, and whose answers are held against the tree.
    pub(super) fn measure(&self) -> Result<Figures> {
        let data = self.data.with_extension("copy");
        run(Command::new("cp").arg("--sparse=always").arg(&self.data).arg(&data))?;
        let (what, before) = (std::env::var("ASHLAR_COMPARE_WHAT"), cpu_ms()?);
        let what = what.as_deref().unwrap_or("measure");
        let words = std::env::var("ASHLAR_COMPARE_WORDS").unwrap_or_default();
        let console = self.boot(&data, what, &words)?;
        let cpu_ms = cpu_ms()?.saturating_sub(before);
        console.ended_well()?.spoke("figures end")?;
        for (name, digest) in &self.images.expected {
            if what == "measure" && !name.starts_with("bytes-") {
                console.spoke(&format!("digest {name} {digest}"))?;
            }
        }
        crate::disk::check(&data)?;
        let mut figures = Figures::read(&console)?;
        figures.set("host-cpu-ms", cpu_ms);
        Ok(figures)
    }

    /// `words` are for the command line of ours.
    fn boot(&self, data: &Path, what: &str, words: &str) -> Result<Console> {
        let name = self.contestant.name;
        let mut append = format!("quiet vm.compare={what} vm.root={}", self.contestant.file_system);
        if let Some(verity) = self.images.verity(name)? {
            append.push_str(&format!(" vm.verity={verity}"));
        }
        let is_ours = self.contestant.is_ours();
        if is_ours {
            append.push_str(&format!(" ashlar=root.img {words}"));
        }
        let image = self.images.image(name);
        // Ours lies on the data partition.
        let others = (!is_ours).then_some(image.as_path());
        self.bench.boot(&Machine {
            kernel: &self.images.kernel,
            initramfs: Some(&self.images.initramfs),
            disks: [data].into_iter().chain(others).collect(),
            writes: &Writes::Kept,
            append,
            panic: PANIC_ENDS,
            typed: &[],
            memory: 1024,
            network: false,
            limit: LIMIT,
            hang: None,
        })
    }
}

/// Time of this machine's processors that the machines took which have ended.
fn cpu_ms() -> Result<u32> {
    let stat = std::fs::read_to_string("/proc/self/stat").doing("cannot read /proc/self/stat")?;
    // proc(5): 16 and 17, in hundredths of a second; the second, which may have spaces, ends with a bracket.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<u32>);
    ticks.sum::<Result<u32, _>>().map(|ticks| ticks * 10).doing("cannot read /proc/self/stat")
}

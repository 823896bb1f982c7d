//! What was measured? Numbers with names, as the guest said them.

use std::collections::{BTreeMap, BTreeSet};

use crate::outcome::{Result, Stop};
use crate::qemu::{Console, SPOKEN};

/// What one boot said.
#[derive(Debug, Default)]
pub(super) struct Figures {
    values: BTreeMap<String, u32>,
    /// What the server counted, as JSON, by when it was asked.
    pub status: BTreeMap<String, String>,
    /// Other things it said, such as `failed UNIT`.
    pub words: Vec<String>,
}

impl Figures {
    /// Reads a console.
    pub(super) fn read(console: &Console) -> Result<Self> {
        let mut figures = Figures::default();
        let mut off_at = None;
        for line in console.text.lines() {
            if let Some(done) = line.trim_end().strip_suffix("reboot: Power down") {
                let off = kernel_time(done).zip(off_at).map(|(end, off)| end.saturating_sub(off));
                figures.values.extend(off.map(|took| ("poweroff-ms".to_owned(), took)));
            }
            let Some((before, said)) = line.trim_end().split_once(SPOKEN) else { continue };
            match said.split_once(' ').unwrap_or((said, "")) {
                ("off", _) => off_at = kernel_time(before),
                ("figure", rest) => {
                    let figure = rest.split_once(' ').and_then(|(name, value)| {
                        Some((name.to_owned(), value.trim().parse().ok()?))
                    });
                    let figure = figure
                        .ok_or_else(|| Stop::Failed(format!("the guest said: figure {rest}")))?;
                    figures.values.extend([figure]);
                }
                ("status", rest) => {
                    let status = rest.split_once(' ').unwrap_or((rest, "{}"));
                    figures.status.insert(status.0.to_owned(), status.1.to_owned());
                }
                _ => figures.words.push(said.to_owned()),
            }
        }
        if let (Some(init), Some(initramfs)) =
            (figures.value("init-ms"), figures.value("initramfs-at-ms"))
        {
            figures.set("initramfs-ms", init.saturating_sub(initramfs));
        }
        let took = u32::try_from(console.took.as_millis()).unwrap_or(u32::MAX);
        figures.set("wall-ms", took);
        Ok(figures)
    }

    /// A figure by its name.
    pub(super) fn value(&self, name: &str) -> Option<u32> {
        self.values.get(name).copied()
    }

    /// Notes a figure.
    pub(super) fn set(&mut self, name: &str, value: u32) {
        self.values.insert(name.to_owned(), value);
    }
}

/// Milliseconds that the kernel writes before a line: `[   12.345678] `.
fn kernel_time(before: &str) -> Option<u32> {
    let (_, time) = before.rsplit_once('[')?;
    let (secs, rest) = time.split_once(']')?.0.trim().split_once('.')?;
    let secs: u32 = secs.parse().ok()?;
    Some(secs * 1000 + rest.get(..3)?.parse::<u32>().ok()?)
}

/// What all boots of one kind of root said.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// In the order of the rounds.
    pub rounds: Vec<Figures>,
}

impl Measured {
    /// Adds a boot.
    pub(super) fn add(&mut self, figures: Figures) {
        self.rounds.push(figures);
    }

    /// The names of all figures.
    pub(super) fn names(&self) -> Vec<&str> {
        let first = self.rounds.first();
        first.map(|figures| figures.values.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// A figure of each round.
    pub(super) fn values(&self, name: &str) -> Vec<u32> {
        self.rounds.iter().filter_map(|figures| figures.value(name)).collect()
    }

    /// In which state systemd was, and which units had failed, in any round.
    pub(super) fn health(&self) -> BTreeSet<&str> {
        let words = self.rounds.iter().flat_map(|figures| &figures.words).map(String::as_str);
        words.filter(|word| word.starts_with("state ") || word.starts_with("unit ")).collect()
    }

    /// The middle of a figure.
    pub(super) fn median(&self, name: &str) -> Option<u32> {
        let mut values = self.values(name);
        values.sort_unstable();
        let upper = *values.get(values.len() / 2)?;
        if values.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = values.get((values.len() / 2).saturating_sub(1))?;
        Some(lower + (upper - lower) / 2)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::qemu::Ending;

    #[test]
    fn a_console_is_read() {
        let text = "[    1.000000] ASHLAR-VM: figure initramfs-at-ms 900\n\
                    [    9.250000] ASHLAR-VM: figure init-ms 2500\n\
                    [    9.250000] ASHLAR-VM: state running\n\
                    [    9.250000] ASHLAR-VM: status boot {\"upcalls\":{}}\n\
                    [   10.250999] ASHLAR-VM: off\n\
                    [   12.500000] reboot: Power down\n";
        let figures = Figures::read(&Console {
            text: text.to_owned(),
            ending: Ending::Off,
            took: Duration::from_secs(15),
            log: PathBuf::new(),
        })
        .unwrap();
        assert_eq!(figures.value("initramfs-ms"), Some(1600));
        assert_eq!(figures.value("poweroff-ms"), Some(2250));
        assert_eq!(figures.value("wall-ms"), Some(15_000));
        assert_eq!(figures.words, ["state running"]);
        assert_eq!(figures.status["boot"], "{\"upcalls\":{}}");
    }

    #[test]
    fn health_is_of_all_rounds() {
        let round = |words: &[&str]| Figures {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Figures::default()
        };
        let mut measured = Measured::default();
        measured.add(round(&["state running", "root ashlar", "figures end"]));
        assert_eq!(measured.health(), BTreeSet::from(["state running"]));
        measured.add(round(&["state degraded", "unit a.service failed"]));
        let all = ["state running", "state degraded", "unit a.service failed"];
        assert_eq!(measured.health(), BTreeSet::from(all));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let mut measured = Measured::default();
        for (value, median) in [(7, 7), (1, 4), (3, 3), (100, 5)] {
            let mut figures = Figures::default();
            figures.set("a", value);
            measured.add(figures);
            assert_eq!(measured.median("a"), Some(median));
        }
        assert_eq!(measured.median("b"), None);
    }
}

//! What does the person who builds see? A bar while it lasts, on a terminal only, and a summary at the end; on standard
//! error both, because standard output is the root digest's alone.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::build::Summary;
use crate::options::Progress;
use crate::text::{bytes, counted, grouped};

/// Tells how far a build is.
#[derive(Debug)]
pub(crate) struct Report {
    bar: ProgressBar,
}

impl Report {
    /// A bar on a terminal, unless `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let is_shown = !quiet && std::io::stderr().is_terminal();
        let target =
            if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.enable_steady_tick(Duration::from_millis(200));
        Report { bar }
    }

    /// Ends the bar, so that what follows stands on a clean line.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// A line for the person who builds, whatever the bar does.
    #[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
    pub(crate) fn line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("mkimage: {text}"));
    }

    fn style(&self, template: &str) {
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        self.bar.set_style(style);
    }
}

impl Progress for Report {
    fn start(&self, files: u64, bytes: u64) {
        self.bar.reset();
        self.bar.set_length(bytes);
        self.bar.set_message(counted(files, "file", "files"));
        self.style("{msg} [{bar:30}] {percent:>3} %  {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left");
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
    }

    fn phase(&self, name: &'static str) {
        self.bar.set_message(name);
        self.style("{spinner} {msg} … {elapsed}");
    }
}

/// The summary for a person.
pub(crate) fn summary(summary: &Summary, image: &Path, block_size: u64) -> String {
    let ratio = match summary.content_bytes {
        0 => String::new(),
        content => {
            let permille = u128::from(summary.image_bytes) * 1000 / u128::from(content);
            format!(", {}.{} % of {} of content", permille / 10, permille % 10, bytes(content))
        }
    };
    let mut lines = vec![format!("{}: {}{ratio}\n", image.display(), bytes(summary.image_bytes))];
    let mut line = |items: Vec<String>| lines.push(format!("  {}\n", items.join(", ")));
    let mut files = vec![
        counted(summary.files, "file", "files"),
        counted(summary.directories, "directory", "directories"),
        counted(summary.symlinks, "symlink", "symlinks"),
    ];
    let mut also = |count: u64, one, many| {
        if count > 0 {
            files.push(counted(count, one, many));
        }
    };
    also(summary.others, "device, pipe or socket", "devices, pipes and sockets");
    also(summary.hard_links, "further hard link", "further hard links");
    line(files);
    line(vec![
        format!("{} of duplicates stored once", bytes(summary.duplicate_bytes)),
        format!("{} of holes", bytes(summary.hole_bytes)),
    ]);
    let mut blocks = vec![
        format!(
            "{} of {} KiB",
            counted(summary.data_blocks, "data block", "data blocks"),
            block_size / 1024
        ),
        counted(summary.metadata_blocks, "metadata block", "metadata blocks"),
    ];
    if summary.base_blocks > 0 {
        blocks.push(format!("{} taken from the base", grouped(summary.base_blocks)));
    }
    line(blocks);
    if summary.parity_bytes > 0 {
        line(vec![format!("{} of parity", bytes(summary.parity_bytes))]);
    }
    line(vec![format!("{:.1} s", summary.seconds)]);
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_was_built() {
        let built = Summary {
            root_digest: "00".repeat(32),
            files: 16_812,
            directories: 1,
            symlinks: 2,
            others: 0,
            hard_links: 3,
            content_bytes: 565_000_000,
            image_bytes: 181_000_000,
            parity_bytes: 0,
            duplicate_bytes: 1_500_000,
            hole_bytes: 0,
            base_blocks: 12,
            data_blocks: 4412,
            metadata_blocks: 13,
            seconds: 17.31,
        };
        assert_eq!(
            summary(&built, Path::new("root.img"), 131_072),
            "root.img: 181.0 MB, 32.0 % of 565.0 MB of content\n\
             \x20 16,812 files, 1 directory, 2 symlinks, 3 further hard links\n\
             \x20 1.5 MB of duplicates stored once, 0 bytes of holes\n\
             \x20 4,412 data blocks of 128 KiB, 13 metadata blocks, 12 taken from the base\n\
             \x20 17.3 s\n"
        );
    }
}

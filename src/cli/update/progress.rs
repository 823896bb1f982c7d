//! How far is it? A bar on a terminal; without one, a line for each step.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::update::wish::Step;

/// A bar, or nothing.
#[derive(Debug)]
pub(in crate::cli) struct Bar {
    bar: ProgressBar,
    step: Mutex<Option<Step>>,
}

impl Bar {
    pub(in crate::cli) fn new(is_quiet: bool) -> Self {
        let bar = if is_quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        let template = "{msg:9} {bar:30} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar, step: Mutex::new(None) }
    }

    /// Shows how far a step is.
    pub(in crate::cli) fn tell(&self, step: Step, done: u64, total: u64) {
        let mut shown = self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *shown != Some(step) {
            *shown = Some(step);
            self.bar.reset();
            self.bar.set_message(match step {
                Step::Looking => "comparing",
                Step::Fetching => "fetching",
                Step::Writing => "writing",
                Step::Verifying => "verifying",
            });
        }
        drop(shown);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! Signs of life on standard error, while that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over the runs of a measurement, with the time that is left.
pub struct Progress {
    bar: ProgressBar,
    by_time: bool,
}

impl Progress {
    /// Over `runs` runs, or over `duration` where that is open.
    pub fn runs(runs: Option<u64>, duration: Duration) -> Self {
        let length = runs.unwrap_or(duration.as_millis() as u64);
        let bar = ProgressBar::with_draw_target(Some(length), target());
        if let Ok(style) = ProgressStyle::with_template("measuring {bar:40} {percent}% {eta}") {
            bar.set_style(style);
        }
        Self { bar, by_time: runs.is_none() }
    }

    /// Notes that `runs` runs took `elapsed` together.
    pub fn ran(&self, runs: u64, elapsed: Duration) {
        self.bar.set_position(if self.by_time { elapsed.as_millis() as u64 } else { runs });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Shows `message` and the time it has taken while `work` goes on.
pub fn spinning<T>(message: &'static str, work: impl FnOnce() -> T) -> T {
    let bar = ProgressBar::with_draw_target(None, target());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(message);
    bar.enable_steady_tick(Duration::from_millis(100));
    let result = work();
    bar.finish_and_clear();
    result
}

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

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

/// A bar over the layers of builds, which shows itself when there is something to time.
#[derive(Clone)]
pub struct BuildProgress(ProgressBar);

impl BuildProgress {
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, target());
        if let Ok(style) =
            ProgressStyle::with_template("building {bar:40} {pos}/{len} layers timed {eta} left")
        {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// What a session calls.
    pub fn hook(&self) -> impl Fn(usize, usize) + Send + Sync + 'static {
        let bar = self.0.clone();
        move |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    /// Takes the bar away after a build; the next one begins anew.
    pub fn clear(&self) {
        self.0.finish_and_clear();
        self.0.reset();
    }
}

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

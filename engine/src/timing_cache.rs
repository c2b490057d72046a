//! What tactics cost, remembered across builds and processes.
//!
//! One JSON document under a checksum line, so that a person can read and compare it. Losing it costs time: a file
//! that is missing, damaged or of another version is an empty one. Processes that share a file lose nothing of each
//! other's: writing merges with what is there, under a lock, and replaces the file at once.

use crate::fingerprint::Fingerprint;
use crate::lock::FileLock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The problems that a file may hold, over all devices; those used longest ago go first.
pub const MAX_PROBLEMS: usize = 32_768;

/// A file longer than this is not read.
const MAX_BYTES: u64 = 256 << 20;
const TITLE: &str = "engraft timing cache 1";

/// Measured times by problem, tactic and tactic version, of one device. All methods may be called from any thread.
#[derive(Debug)]
pub struct TimingCache {
    path: Option<PathBuf>,
    device: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    timings: Timings,
    /// Whether there is something that the file does not have.
    dirty: bool,
}

/// By device, then by problem.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Timings(BTreeMap<String, BTreeMap<String, Problem>>);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Problem {
    /// The day of the last use, counted from 1970.
    day: u32,
    /// Nanoseconds by `tactic@version`.
    ns: BTreeMap<String, Timing>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
struct Timing {
    ns: f64,
    /// Measured by this process: newer than what a file says.
    fresh: bool,
}

impl From<f64> for Timing {
    fn from(ns: f64) -> Timing {
        Timing { ns, fresh: false }
    }
}

impl From<Timing> for f64 {
    fn from(timing: Timing) -> f64 {
        timing.ns
    }
}

impl TimingCache {
    /// A cache that no file backs.
    pub fn in_memory(device: impl Into<String>) -> TimingCache {
        TimingCache { path: None, device: device.into(), state: Mutex::default() }
    }

    /// The timings in `path` of `device`, a text that differs where timings do, for instance the CPU model and the
    /// number of threads. A file that cannot be used is logged and counts as empty.
    pub fn open(path: &Path, device: impl Into<String>) -> TimingCache {
        let timings = read(path).unwrap_or_else(|reason| {
            tracing::warn!(path = %path.display(), %reason, "the timing cache is unusable and starts empty");
            Timings::default()
        });
        let state = Mutex::new(State { timings, dirty: false });
        TimingCache { path: Some(path.to_owned()), device: device.into(), state }
    }

    /// The time of a tactic on a problem, in nanoseconds.
    pub fn get(&self, problem: &str, tactic: &str, version: u32) -> Option<f64> {
        let mut state = self.lock();
        let today = today();
        let State { timings, dirty } = &mut *state;
        let problem = timings.0.get_mut(&self.device)?.get_mut(problem)?;
        let ns = problem.ns.get(&tactic_name(tactic, version))?.ns;
        *dirty |= problem.day != today;
        problem.day = today;
        Some(ns)
    }

    /// Records a measurement; one of the same tactic on the same problem is replaced. Times that are no positive
    /// finite number are ignored.
    pub fn insert(&self, problem: &str, tactic: &str, version: u32, ns: f64) {
        if !(ns.is_finite() && ns > 0.0) {
            return;
        }
        let mut state = self.lock();
        state.dirty = true;
        let problems = state.timings.0.entry(self.device.clone()).or_default();
        let problem = problems.entry(problem.to_owned()).or_default();
        problem.day = today();
        problem.ns.insert(tactic_name(tactic, version), Timing { ns, fresh: true });
    }

    /// The number of timings of this cache's device.
    pub fn len(&self) -> usize {
        self.lock()
            .timings
            .0
            .get(&self.device)
            .map_or(0, |problems| problems.values().map(|p| p.ns.len()).sum())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes what is new to the file, if there is one. Takes in what other processes have written meanwhile.
    pub fn flush(&self) -> io::Result<()> {
        let mut state = self.lock();
        let Some(path) = self.path.as_ref().filter(|_| state.dirty) else { return Ok(()) };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let _lock = FileLock::acquire(&sibling(path, ".lock"))?;
        if let Ok(others) = read(path) {
            state.timings.merge(others);
        }
        state.timings.limit(MAX_PROBLEMS);
        let body = serde_json::to_string(&state.timings)?;
        let mut file = tempfile::Builder::new().prefix(".engraft-timings-").tempfile_in(folder)?;
        file.write_all(format!("{}\n{body}\n", checksum_line(&body)).as_bytes())?;
        file.persist(path).map_err(|e| e.error)?;
        state.dirty = false;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TimingCache {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(path = ?self.path, %error, "the timing cache cannot be written");
        }
    }
}

impl Timings {
    /// Takes in what `others` has and this lacks; of two measurements the fresh one stays, else the other's.
    fn merge(&mut self, others: Timings) {
        for (device, problems) in others.0 {
            let mine = self.0.entry(device).or_default();
            for (problem, theirs) in problems {
                let mine = mine.entry(problem).or_default();
                mine.day = mine.day.max(theirs.day);
                for (tactic, timing) in theirs.ns {
                    let slot = mine.ns.entry(tactic).or_insert(timing);
                    if !slot.fresh {
                        *slot = timing;
                    }
                }
            }
        }
    }

    /// Drops the problems used longest ago until at most `most` are left.
    fn limit(&mut self, most: usize) {
        let count: usize = self.0.values().map(BTreeMap::len).sum();
        let Some(excess) = count.checked_sub(most).filter(|n| *n > 0) else { return };
        let mut days: Vec<u32> =
            self.0.values().flat_map(|problems| problems.values().map(|p| p.day)).collect();
        let (older, last, _) = days.select_nth_unstable(excess - 1);
        let last = *last;
        // All of the days before the last one go, and as many of it as are still too many.
        let mut of_last = excess - older.iter().filter(|day| **day < last).count();
        for problems in self.0.values_mut() {
            problems.retain(|_, problem| {
                let goes = problem.day < last || (problem.day == last && of_last > 0);
                if goes && problem.day == last {
                    of_last -= 1;
                }
                !goes
            });
        }
        self.0.retain(|_, problems| !problems.is_empty());
    }
}

/// Reads a file; one that does not exist is empty.
fn read(path: &Path) -> Result<Timings, String> {
    let text = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Timings::default()),
        Ok(state) if state.len() > MAX_BYTES => return Err(format!("it has {} bytes", state.len())),
        _ => std::fs::read_to_string(path).map_err(|e| e.to_string())?,
    };
    let (line, body) = text.split_once('\n').ok_or("it has no first line")?;
    let body = body.strip_suffix('\n').ok_or("it is truncated")?;
    if !line.starts_with(TITLE) {
        return Err("it is not a timing cache of this version".to_owned());
    }
    if line != checksum_line(body) {
        return Err("it does not match its checksum".to_owned());
    }
    let timings: Timings = serde_json::from_str(body).map_err(|e| e.to_string())?;
    let sound = |timing: &Timing| timing.ns.is_finite() && timing.ns > 0.0;
    match timings.0.values().flat_map(BTreeMap::values).all(|problem| problem.ns.values().all(sound)) {
        true => Ok(timings),
        false => Err("it holds impossible times".to_owned()),
    }
}

fn checksum_line(body: &str) -> String {
    format!("{TITLE} {}", Fingerprint::of(body.as_bytes()))
}

fn tactic_name(tactic: &str, version: u32) -> String {
    format!("{tactic}@{version}")
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn today() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (since.as_secs() / 86_400) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    #[test]
    fn timings_last_and_depend_on_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/timings");
        let cache = TimingCache::open(&path, "cpu a");
        assert_eq!(cache.get("conv", "fast", 1), None);
        cache.insert("conv", "fast", 1, 12.5);
        cache.insert("conv", "bad", 1, f64::NAN);
        cache.insert("conv", "bad", 1, 0.0);
        drop(cache);
        let cache = TimingCache::open(&path, "cpu a");
        assert_eq!(cache.get("conv", "fast", 1), Some(12.5));
        assert_eq!(cache.get("conv", "fast", 2), None);
        assert_eq!(cache.get("conv", "bad", 1), None);
        assert_eq!(cache.get("gemm", "fast", 1), None);
        assert_eq!(cache.len(), 1);
        assert!(TimingCache::open(&path, "cpu b").is_empty());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_wrote_is_kept_and_fresh_measurements_win() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timings");
        let (a, b) = (TimingCache::open(&path, "cpu"), TimingCache::open(&path, "cpu"));
        a.insert("p", "x", 1, 1.0);
        a.insert("p", "both", 1, 1.0);
        b.insert("p", "both", 1, 2.0);
        b.insert("q", "y", 1, 2.0);
        a.flush().unwrap();
        b.flush().unwrap();
        assert_eq!(b.get("p", "x", 1), Some(1.0), "flushing takes in");
        let c = TimingCache::open(&path, "cpu");
        let found = [c.get("p", "x", 1), c.get("p", "both", 1), c.get("q", "y", 1)];
        assert_eq!(found, [Some(1.0), Some(2.0), Some(2.0)]);
    }

    #[test]
    fn damage_is_an_empty_cache_that_works() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timings");
        let cache = TimingCache::open(&path, "cpu");
        (0..20).for_each(|i| cache.insert("p", &format!("t{i}"), 1, 1.0 + f64::from(i)));
        drop(cache);
        let good = fs::read(&path).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            damaged.push(bytes);
        }
        damaged.push(vec![0xff; 100]);
        let forged = r#"{"cpu":{"p":{"day":1,"ns":{"t1@1":-1.0}}}}"#;
        damaged.push(format!("{}\n{forged}\n", checksum_line(forged)).into_bytes());
        for bytes in damaged.into_iter().filter(|b| !b.is_empty()) {
            fs::write(&path, bytes).unwrap();
            assert!(TimingCache::open(&path, "cpu").is_empty());
        }
        let cache = TimingCache::open(&path, "cpu");
        cache.insert("p", "t", 1, 3.0);
        cache.flush().unwrap();
        assert_eq!(TimingCache::open(&path, "cpu").get("p", "t", 1), Some(3.0));
        assert!(TimingCache::open(folder.path(), "cpu").is_empty(), "a folder is no file");
    }

    #[test]
    fn the_oldest_problems_go_first() {
        let mut timings = Timings::default();
        for i in 0..30u32 {
            let problem = Problem { day: i % 3, ns: BTreeMap::new() };
            timings.0.entry(format!("device {}", i % 2)).or_default().insert(format!("p{i}"), problem);
        }
        timings.limit(30);
        let days =
            |t: &Timings| -> Vec<u32> { t.0.values().flat_map(|p| p.values().map(|p| p.day)).collect() };
        assert_eq!(days(&timings).len(), 30);
        timings.limit(14);
        let left = days(&timings);
        assert_eq!((left.len(), left.iter().filter(|d| **d == 1).count()), (14, 4));
        timings.limit(0);
        assert!(timings.0.is_empty());
    }

    const FOLDER: &str = "ENGRAFT_TEST_TIMING_FOLDER";

    #[test]
    #[ignore = "a child of processes_lose_nothing_of_each_other"]
    fn child_measures() {
        let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by another test"));
        let me = std::process::id();
        for i in 0..20 {
            let cache = TimingCache::open(&folder.join("timings"), "cpu");
            cache.insert(&format!("problem {i}"), &format!("tactic {me}"), 1, f64::from(me));
        }
    }

    #[test]
    fn processes_lose_nothing_of_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let children: Vec<_> = (0..8)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["timing_cache::tests::child_measures", "--exact", "--ignored"])
                    .env(FOLDER, folder.path())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let mut pids = Vec::new();
        for child in children {
            pids.push(child.id());
            assert!(child.wait_with_output().unwrap().status.success());
        }
        let cache = TimingCache::open(&folder.path().join("timings"), "cpu");
        assert_eq!(cache.len(), 8 * 20);
        for i in 0..20 {
            for pid in &pids {
                let found = cache.get(&format!("problem {i}"), &format!("tactic {pid}"), 1);
                assert_eq!(found, Some(f64::from(*pid)));
            }
        }
    }
}

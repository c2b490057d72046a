//! The files of a cache folder.
//!
//! ```text
//! plans/NAME.plan    a container; never changed once it has this name
//! plans/NAME.use     a note on the plan: changed at each use, so that its time is that of the last one; says which
//!                    state of the file has been checked in full
//! locks/NAME.lock    exists while somebody builds NAME
//! temp/*             plans being built, each locked by its builder
//! ```

use super::{CacheKey, Difference, checking_threads, differences};
use crate::container::{Container, ContainerError, ContainerWriter, Section, Summary};
use crate::lock::{FileLock, boot_id, is_at};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file changed less than this before it was examined could be changed again without its times telling.
const SETTLED: Duration = Duration::from_millis(100);

/// One cached plan.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What [`PlanCache::remove`](super::PlanCache::remove) takes.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub created: SystemTime,
    pub last_used: SystemTime,
    /// The fields of the plan's key and its sections, or why they cannot be read.
    pub summary: Result<Summary, String>,
}

impl Entry {
    /// The plan's key; empty when it cannot be read.
    pub fn key(&self) -> &[(String, String)] {
        self.summary.as_ref().map_or(&[], |s| &s.key)
    }

    /// The plan's sections; empty when they cannot be read.
    pub fn sections(&self) -> &[Section] {
        self.summary.as_ref().map_or(&[], |s| &s.sections)
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub plans: usize,
    pub bytes: u64,
}

/// The answer of a look into the folder.
pub(super) enum Found {
    Plan(Container),
    Nothing,
    Damaged(String),
}

#[derive(Debug)]
pub(super) struct Store {
    plans: PathBuf,
    locks: PathBuf,
    temp: PathBuf,
    quota: u64,
    /// Nobody but this user can change the plans: they are mapped; otherwise they are copied and checked each time.
    private: bool,
}

impl Store {
    pub fn open(folder: &Path, quota: u64) -> io::Result<Store> {
        let [plans, locks, temp] = ["plans", "locks", "temp"].map(|name| folder.join(name));
        for folder in [folder, &plans, &locks, &temp] {
            create_private(folder)?;
        }
        let private = is_private(&plans)?;
        if !private {
            tracing::warn!(folder = %plans.display(), "others can write to the plan cache: plans are copied and checked");
        }
        Ok(Store { plans, locks, temp, quota, private })
    }

    pub fn lock_path(&self, name: &str) -> PathBuf {
        self.locks.join(format!("{name}.lock"))
    }

    fn plan_path(&self, name: &str) -> PathBuf {
        self.plans.join(format!("{name}.plan"))
    }

    fn note_path(&self, name: &str) -> PathBuf {
        self.plans.join(format!("{name}.use"))
    }

    /// Opens, checks and marks as used the plan of that name, which must be of that key.
    pub fn find(&self, name: &str, key: &CacheKey) -> Found {
        let path = self.plan_path(name);
        match self.open_plan(name, &path) {
            Ok(container) if container.key() == key.fields() => Found::Plan(container),
            Ok(container) => {
                let fields: Vec<_> =
                    differences(key.fields(), container.key()).into_iter().map(|d| d.field).collect();
                Found::Damaged(format!(
                    "it is the plan of another key, which differs in {}",
                    fields.join(", ")
                ))
            }
            Err(ContainerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Found::Nothing
            }
            Err(error) => Found::Damaged(error.to_string()),
        }
    }

    fn open_plan(&self, name: &str, path: &Path) -> Result<Container, ContainerError> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        let state = file.metadata().map_err(io("examine"))?;
        let note = self.note_path(name);
        if !self.private || !is_ours(&state) || !state.is_file() {
            let container = Container::open(path)?;
            mark_used(&note, "");
            return Ok(container);
        }
        let stamp = stamp(&state);
        let checked = stamp.is_some() && fs::read_to_string(&note).ok() == stamp;
        let container = Container::map(&file, path)?;
        if checked {
            touch(&note);
        } else {
            container.verify(checking_threads())?;
            mark_used(&note, stamp.as_deref().unwrap_or(""));
        }
        Ok(container)
    }

    /// Builds the plan and puts it in its place; in memory if the folder refuses. Returns whether it was stored.
    pub fn build<E: From<ContainerError>>(
        &self,
        name: &str,
        key: &CacheKey,
        build: &mut dyn FnMut(&mut ContainerWriter) -> Result<(), E>,
    ) -> Result<(Container, bool), E> {
        let refused = |error: &dyn std::fmt::Display| {
            tracing::warn!(plan = name, %error, "the plan cannot be stored and is kept in memory");
        };
        let (file, temporary) = match self.temporary() {
            Ok(created) => created,
            Err(error) => {
                refused(&error);
                return Ok((ContainerWriter::in_memory(key.fields.clone(), build)?, false));
            }
        };
        let path = self.plan_path(name);
        let mut writer = ContainerWriter::on_file(file, &path, key.fields.clone());
        let built = build(&mut writer);
        if writer.failed() {
            refused(&"writing failed");
            drop((writer, temporary));
            return Ok((ContainerWriter::in_memory(key.fields.clone(), build)?, false));
        }
        built?;
        let file = match writer.finish() {
            Ok(file) => file,
            Err(error) => {
                refused(&error);
                drop(temporary);
                return Ok((ContainerWriter::in_memory(key.fields.clone(), build)?, false));
            }
        };
        // No flush to the medium: it takes seconds for large plans, and a plan whose pages were lost with the power
        // fails its checksums, because notes on what has been checked are bound to the boot.
        let stored = match temporary.persist(&path) {
            Ok(()) => true,
            Err(error) => {
                refused(&error.error);
                false
            }
        };
        // The descriptor keeps a lock that nobody needs any more once the file has its name.
        let _ = file.unlock();
        if stored {
            mark_used(&self.note_path(name), "");
        }
        Ok((Container::map(&file, &path)?, stored))
    }

    /// A new file in the folder for plans in the making, locked to tell it from those of dead processes.
    fn temporary(&self) -> io::Result<(File, tempfile::TempPath)> {
        loop {
            let (file, path) = tempfile::Builder::new().prefix("plan-").tempfile_in(&self.temp)?.into_parts();
            // Somebody who cleans up may see the file before it is locked; file systems without locks keep it.
            let free = !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock));
            if free && is_at(&file, &path) {
                return Ok((file, path));
            }
        }
    }

    /// Removes what is there under that name.
    pub fn discard(&self, name: &str) {
        for path in [self.plan_path(name), self.note_path(name)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a cache file cannot be removed");
                }
                _ => {}
            }
        }
    }

    /// Removes the files that dead processes have left: unfinished plans, locks, notes on plans that are gone.
    pub fn clean(&self) {
        for path in files(&self.temp) {
            let Ok(file) = File::open(&path) else { continue };
            let dead = match file.try_lock() {
                Ok(()) => true,
                Err(fs::TryLockError::WouldBlock) => false,
                // No locks here: only age tells.
                Err(fs::TryLockError::Error(_)) => age(&file) > Duration::from_secs(24 * 3600),
            };
            if dead && fs::remove_file(&path).is_ok() {
                tracing::debug!(path = %path.display(), "removed a plan that was never finished");
            }
        }
        for path in files(&self.locks) {
            // Acquiring a lock and dropping it removes its file.
            drop(FileLock::try_acquire(&path));
        }
        for note in files(&self.plans).filter(|p| p.extension() == Some(OsStr::new("use"))) {
            if !note.with_extension("plan").exists() {
                let _ = fs::remove_file(note);
            }
        }
    }

    /// The fields in which the nearest plan of the same structure differs; `None` when there is no such plan.
    pub fn nearest(&self, key: &CacheKey) -> Option<Vec<Difference>> {
        let structure = key.structure_name();
        files(&self.plans)
            .filter(|path| plan_name(path).is_some_and(|name| name.starts_with(&structure)))
            .filter_map(|path| Summary::read(&path).ok())
            .map(|summary| differences(key.fields(), &summary.key))
            .filter(|d| d.iter().all(|d| d.field != key.fields()[0].0))
            .min_by_key(Vec::len)
    }

    pub fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.uses().into_iter().map(|plan| plan.entry()).collect();
        entries.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.name.cmp(&b.name)));
        entries
    }

    pub fn remove(&self, which: impl Fn(&str) -> bool) -> Pruned {
        let mut pruned = Pruned::default();
        for plan in self.uses().into_iter().filter(|plan| which(&plan.name)) {
            self.discard(&plan.name);
            pruned.plans += 1;
            pruned.bytes += plan.bytes;
        }
        pruned
    }

    /// Keeps the quota after a plan was added, unless another process is about it.
    pub fn enforce_quota(&self, added: &str) {
        if let Ok(Some(_lock)) = FileLock::try_acquire(&self.locks.join("evict.lock")) {
            let pruned = self.prune(self.quota, Some(added));
            if pruned.plans > 0 {
                tracing::info!(
                    plans = pruned.plans,
                    bytes = pruned.bytes,
                    "evicted plans to keep the cache's quota"
                );
            }
        }
    }

    /// Removes the plans used longest ago, except `keep`, until at most `bytes` are left.
    pub fn prune(&self, bytes: u64, keep: Option<&str>) -> Pruned {
        let mut plans = self.uses();
        let mut left: u64 = plans.iter().map(|plan| plan.bytes).sum();
        plans.sort_by_key(|plan| plan.last_used);
        let mut pruned = Pruned::default();
        for plan in plans {
            if left <= bytes {
                break;
            }
            if keep != Some(plan.name.as_str()) {
                self.discard(&plan.name);
                left -= plan.bytes;
                pruned.plans += 1;
                pruned.bytes += plan.bytes;
            }
        }
        pruned
    }

    fn uses(&self) -> Vec<Use> {
        files(&self.plans)
            .filter_map(|path| {
                let name = plan_name(&path)?.to_owned();
                let state = fs::metadata(&path).ok().filter(Metadata::is_file)?;
                let created = state.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let last_used =
                    fs::metadata(self.note_path(&name)).and_then(|m| m.modified()).unwrap_or(created);
                Some(Use { name, path, bytes: state.len(), created, last_used })
            })
            .collect()
    }
}

/// A plan as the folder shows it, unread.
struct Use {
    name: String,
    path: PathBuf,
    bytes: u64,
    created: SystemTime,
    last_used: SystemTime,
}

impl Use {
    fn entry(self) -> Entry {
        let summary = Summary::read(&self.path).map_err(|e| e.to_string());
        let Use { name, path, bytes, created, last_used } = self;
        Entry { name, path, bytes, created, last_used, summary }
    }
}

/// The paths in a folder; none when it cannot be read.
fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The name of the plan whose file this is.
fn plan_name(path: &Path) -> Option<&str> {
    (path.extension()? == "plan").then(|| path.file_stem()?.to_str()).flatten()
}

fn age(file: &File) -> Duration {
    let changed = file.metadata().and_then(|m| m.modified());
    changed.ok().and_then(|t| t.elapsed().ok()).unwrap_or_default()
}

/// Notes the use of a plan, and which state of it has been checked. Failing that costs a check or an early eviction.
fn mark_used(note: &Path, stamp: &str) {
    let _ = fs::write(note, stamp);
    touch(note);
}

fn touch(note: &Path) {
    let _ = File::options().append(true).open(note).and_then(|file| file.set_modified(SystemTime::now()));
}

/// A text that changes whenever the file's content does. `None` when the file was changed so lately that a further
/// change might not show in its times.
#[cfg(unix)]
fn stamp(state: &Metadata) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let changed = SystemTime::UNIX_EPOCH
        + Duration::new(state.ctime().try_into().ok()?, state.ctime_nsec().try_into().ok()?);
    let settled = changed.elapsed().is_ok_and(|age| age >= SETTLED);
    (settled && !boot_id().is_empty()).then(|| {
        let (dev, ino, size) = (state.dev(), state.ino(), state.size());
        let (ctime, mtime) = ((state.ctime(), state.ctime_nsec()), (state.mtime(), state.mtime_nsec()));
        format!(
            "checked 1 {} {dev} {ino} {size} {}.{} {}.{}\n",
            boot_id(),
            ctime.0,
            ctime.1,
            mtime.0,
            mtime.1
        )
    })
}

#[cfg(not(unix))]
fn stamp(_state: &Metadata) -> Option<String> {
    None
}

/// Makes the folder, and those above it, if it does not exist; a new one is for this user alone.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Whether this user owns the folder and nobody else may even look into it.
#[cfg(unix)]
fn is_private(folder: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let state = fs::symlink_metadata(folder)?;
    Ok(state.is_dir() && is_ours(&state) && state.mode() & 0o077 == 0)
}

#[cfg(not(unix))]
fn is_private(_folder: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(unix)]
fn is_ours(state: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    state.uid() == crate::lock::effective_user()
}

#[cfg(not(unix))]
fn is_ours(_state: &Metadata) -> bool {
    false
}

/// See [`PlanCache::default_folder`](super::PlanCache::default_folder); `variable` reads the environment.
pub(super) fn default_folder(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let path = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // The base directory specification has relative paths ignored.
    let absolute = |name: &str| path(name).filter(|p| p.is_absolute());
    if let Some(folder) = path("ENGRAFT_CACHE_DIR") {
        return folder;
    }
    let platform = if cfg!(windows) {
        absolute("LOCALAPPDATA").map(|p| p.join("engraft").join("cache"))
    } else if cfg!(target_os = "macos") {
        absolute("HOME").map(|p| p.join("Library/Caches/engraft"))
    } else {
        let home = || absolute("HOME").map(|p| p.join(".cache"));
        absolute("XDG_CACHE_HOME").or_else(home).map(|p| p.join("engraft"))
    };
    platform.unwrap_or_else(|| std::env::temp_dir().join(format!("engraft-{}", user_name_part())))
}

#[cfg(unix)]
fn user_name_part() -> String {
    crate::lock::effective_user().to_string()
}

#[cfg(not(unix))]
fn user_name_part() -> String {
    "cache".to_owned()
}

//! Locks between processes, as files.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// An exclusive lock on a path, among processes and among threads of one. Dies with its process.
///
/// The file exists only while somebody holds or awaits the lock; it names its holder, for messages and for the case
/// that the holder died but a child process inherited the lock.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

/// How often a waiter looks whether the holder is still alive.
const LIVENESS: Duration = Duration::from_millis(400);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

impl FileLock {
    /// Waits for the lock. Fails only where the file cannot be made or the file system knows no locks.
    pub fn acquire(path: &Path) -> io::Result<FileLock> {
        let mut pause = Duration::from_millis(1);
        let mut last_look = Instant::now();
        let mut suspect = None;
        let mut told = false;
        loop {
            if let Some(lock) = FileLock::try_acquire(path)? {
                return Ok(lock);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if last_look.elapsed() < LIVENESS {
                continue;
            }
            last_look = Instant::now();
            let holder = std::fs::read_to_string(path).unwrap_or_default();
            if !told {
                tracing::info!(lock = %path.display(), holder = holder.trim(), "waiting for another builder");
                told = true;
            }
            let dead = is_dead(&holder);
            if dead && suspect.as_ref() == Some(&holder) {
                tracing::warn!(lock = %path.display(), holder = holder.trim(), "taking over the lock of a dead process");
                let _ = std::fs::remove_file(path);
            }
            suspect = dead.then_some(holder);
        }
    }

    /// The lock if it is free.
    pub fn try_acquire(path: &Path) -> io::Result<Option<FileLock>> {
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The holder before may have removed the file between opening and locking: then this one locks nothing.
            if is_at(&file, path) {
                let mut lock = FileLock { file, path: path.to_owned() };
                // Without its holder's name the lock still locks.
                let _ = lock.file.set_len(0).and_then(|()| lock.file.write_all(holder_line().as_bytes()));
                return Ok(Some(lock));
            }
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
        // Explicitly, because a forked child may hold the same descriptor open.
        let _ = self.file.unlock();
    }
}

/// Whether `path` is still a name of `file`.
#[cfg(unix)]
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}

#[cfg(not(unix))]
pub(crate) fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// The boot of this machine, as a text; empty where the system does not tell.
pub(crate) fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    })
}

/// The user whose rights this process has.
#[cfg(unix)]
pub(crate) fn effective_user() -> u32 {
    // SAFETY: always succeeds and touches no memory.
    unsafe { libc::geteuid() }
}

/// Whether nobody but this user and the superuser may write to the file.
#[cfg(unix)]
pub(crate) fn only_ours_to_write(state: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    [effective_user(), 0].contains(&state.uid()) && state.mode() & 0o022 == 0
}

#[cfg(not(unix))]
pub(crate) fn only_ours_to_write(_state: &std::fs::Metadata) -> bool {
    false
}

/// The namespace in which process numbers mean something: the boot and, for containers, the PID namespace.
fn namespace() -> String {
    let pids = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot_id(), pids.display())
}

fn holder_line() -> String {
    format!("{} {}\n", std::process::id(), namespace())
}

/// Whether this machine can tell that the process of a holder line no longer runs.
fn is_dead(holder: &str) -> bool {
    let Some((pid, home)) = holder.trim_end().split_once(' ') else { return false };
    let Ok(pid) = pid.parse::<u32>() else { return false };
    let procfs = Path::new("/proc/self").exists();
    procfs && !boot_id().is_empty() && home == namespace() && !is_running(pid)
}

fn is_running(pid: u32) -> bool {
    let mut stat = String::new();
    match File::open(format!("/proc/{pid}/stat")).and_then(|mut f| f.read_to_string(&mut stat)) {
        // A zombie has released its locks and will not come back.
        Ok(_) => !matches!(
            stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes().first()),
            Some(Some(b'Z' | b'X'))
        ),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (inside, entries) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let lock = FileLock::acquire(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        entries.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(entries.into_inner(), 160);
        assert!(!path.exists(), "the last holder removes the file");
    }

    #[test]
    fn a_held_lock_is_not_available_and_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = FileLock::try_acquire(&path).unwrap().unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        let holder = std::fs::read_to_string(&path).unwrap();
        assert!(holder.starts_with(&std::process::id().to_string()));
        assert!(!is_dead(&holder));
        drop(lock);
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_lock_inherited_from_a_dead_process_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        // What a forked child that outlives its parent leaves: a held lock under the parent's name.
        let mut held = File::create(&path).unwrap();
        held.lock().unwrap();
        held.write_all(format!("{} {}\n", child.id(), namespace()).as_bytes()).unwrap();
        let since = Instant::now();
        let lock = FileLock::acquire(&path).unwrap();
        assert!(since.elapsed() >= LIVENESS, "it is watched before it is taken");
        assert!(is_at(&lock.file, &path));
    }

    #[test]
    fn an_impossible_path_is_an_error() {
        assert!(FileLock::acquire(Path::new("/nonexistent/engraft/lock")).is_err());
    }
}

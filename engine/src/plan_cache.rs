//! The cache of plans that all processes of a user share.
//!
//! A plan is found under the hash of everything that it depends on ([`CacheKey`]), and counts as found only if the key
//! written inside it is equal, field by field: a wrong hit is impossible, whatever the file is called. Whoever misses
//! first builds while the others wait for the result; plans appear under their name complete or not at all, so that a
//! process may die at any moment. Trouble with the folder (full, read-only, no locks) costs reuse, never a result.

mod store;

pub use store::{Entry, Pruned};

use crate::container::{Container, ContainerError, ContainerWriter, FORMAT_VERSION, Fields};
use crate::fingerprint::{Fingerprint, hashing_threads};
use crate::lock::FileLock;
use std::path::{Path, PathBuf};
use store::{Found, Store};

/// The quota of a cache for which none was given.
pub const DEFAULT_QUOTA: u64 = 16 << 30;

/// Everything that a plan depends on, as named fields in a fixed order. The first is the network's structure, by which
/// the nearest plan is found when a key misses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheKey {
    fields: Fields,
}

impl CacheKey {
    /// A key for a network of this structure: usually a hash that leaves the weights' values out.
    pub fn new(structure: impl ToString) -> CacheKey {
        CacheKey { fields: vec![("structure".to_owned(), structure.to_string())] }
    }

    /// The key with one more field.
    pub fn with(mut self, name: &str, value: impl ToString) -> CacheKey {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// The fields, in order.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// The hash of all names and values and of the plan format.
    pub fn digest(&self) -> Fingerprint {
        let format = FORMAT_VERSION.to_le_bytes();
        let texts = self.fields.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
        Fingerprint::of_parts(std::iter::once(&format[..]).chain(texts), 1)
    }

    /// The name of the plan's file, less its extension: plans of one structure share the first 16 digits.
    pub fn entry_name(&self) -> String {
        format!("{}-{}", self.structure_name(), &self.digest().to_string()[..32])
    }

    fn structure_name(&self) -> String {
        Fingerprint::of(self.fields[0].1.as_bytes()).to_string()[..16].to_owned()
    }
}

/// A plan and where it came from.
#[derive(Debug)]
pub struct Fetched {
    pub container: Container,
    pub origin: Origin,
}

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Loaded: built earlier, or just now by somebody else.
    Hit,
    /// Built by this call.
    Built {
        miss: Miss,
        /// Whether the plan is in the cache now; if not, the log says why.
        stored: bool,
    },
}

/// Why there was no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The cache holds no plan of a network of this structure.
    New,
    /// The nearest plan of the same structure differs in these fields.
    Differs(Vec<Difference>),
    /// There was a file, but it could not be used; it has been replaced.
    Damaged(String),
    /// The cache cannot be used.
    Unavailable(String),
}

/// A field in which two keys differ; a field that one of them lacks is empty there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub field: String,
    pub wanted: String,
    pub found: String,
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Miss::New => f.write_str("no plan of this network is cached"),
            Miss::Differs(fields) => {
                let names: Vec<_> = fields.iter().map(|d| d.field.as_str()).collect();
                write!(f, "the nearest cached plan differs in {}", names.join(", "))
            }
            Miss::Damaged(reason) => write!(f, "the cached plan was unusable: {reason}"),
            Miss::Unavailable(reason) => write!(f, "the cache is unavailable: {reason}"),
        }
    }
}

/// A folder of plans with a quota. Cheap to open; any number of processes and threads may use one folder at once.
#[derive(Debug)]
pub struct PlanCache {
    store: Result<Store, String>,
    folder: PathBuf,
}

impl PlanCache {
    /// The cache in `folder`, which is made with mode 0700 if it does not exist. If that fails the cache is
    /// [unavailable](Miss::Unavailable): it says so in the log, and every request builds.
    ///
    /// `quota` is in bytes; the plans used longest ago go first. A plan that was just built always stays.
    pub fn open(folder: &Path, quota: u64) -> PlanCache {
        let store = Store::open(folder, quota).map_err(|error| {
            tracing::warn!(folder = %folder.display(), %error, "the plan cache cannot be used; plans are not kept");
            error.to_string()
        });
        PlanCache { store, folder: folder.to_owned() }
    }

    /// Where plans are kept when no option says otherwise: `$ENGRAFT_CACHE_DIR`, or the platform's folder for caches.
    pub fn default_folder() -> PathBuf {
        store::default_folder(|name| std::env::var_os(name))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The plan of that key: loaded, or built with `build`. Errors are those of `build`.
    ///
    /// While one caller builds, all others that want the same plan wait for it. `build` runs a second time when the
    /// cache's medium fails during the first, then for a plan that is kept in memory only.
    pub fn get_or_build<E: From<ContainerError>>(
        &self,
        key: &CacheKey,
        build: impl FnMut(&mut ContainerWriter) -> Result<(), E>,
    ) -> Result<Fetched, E> {
        self.fetch(key, build, Ok).map(|(container, origin)| Fetched { container, origin })
    }

    /// Like [`PlanCache::get_or_build`] for what `load` makes of the plan. A cached plan that `load` refuses is
    /// a damaged one: it is replaced, and `load` is called again with what was built.
    pub fn fetch<T, E: From<ContainerError>>(
        &self,
        key: &CacheKey,
        mut build: impl FnMut(&mut ContainerWriter) -> Result<(), E>,
        mut load: impl FnMut(Container) -> Result<T, E>,
    ) -> Result<(T, Origin), E> {
        let store = match &self.store {
            Ok(store) => store,
            Err(reason) => {
                let container = ContainerWriter::in_memory(key.fields.clone(), &mut build)?;
                let miss = Miss::Unavailable(reason.clone());
                return Ok((load(container)?, Origin::Built { miss, stored: false }));
            }
        };
        let name = key.entry_name();
        let mut refused = false;
        let mut look = |refused: &mut bool| match store.find(&name, key) {
            Found::Plan(container) => match load(container) {
                Ok(value) => Ok(value),
                Err(_) => {
                    *refused = true;
                    Err(Some("its content was refused by the loader".to_owned()))
                }
            },
            Found::Nothing => Err(None),
            Found::Damaged(reason) => Err(Some(reason)),
        };
        if let Ok(value) = look(&mut refused) {
            return Ok((value, Origin::Hit));
        }
        // Without the lock two processes may build the same plan: slower, not wrong.
        let lock = FileLock::acquire(&store.lock_path(&name))
            .inspect_err(|error| tracing::warn!(%error, "the plan cache cannot lock; builds may be repeated"))
            .ok();
        let miss = match look(&mut refused) {
            Ok(value) => return Ok((value, Origin::Hit)),
            Err(Some(reason)) => {
                tracing::warn!(plan = %name, %reason, "a cached plan is unusable and is built again");
                store.discard(&name);
                Miss::Damaged(reason)
            }
            Err(None) => store.nearest(key).map_or(Miss::New, Miss::Differs),
        };
        tracing::info!(plan = %name, reason = %miss, "building a plan");
        store.clean();
        let (container, stored) = store.build(&name, key, &mut build)?;
        drop(lock);
        if stored {
            store.enforce_quota(&name);
        }
        Ok((load(container)?, Origin::Built { miss, stored }))
    }

    /// The plan of that key if the cache holds one that can be read.
    pub fn find(&self, key: &CacheKey) -> Option<Container> {
        match self.store.as_ref().ok()?.find(&key.entry_name(), key) {
            Found::Plan(container) => Some(container),
            Found::Nothing | Found::Damaged(_) => None,
        }
    }

    /// All plans, those used last first.
    pub fn entries(&self) -> Vec<Entry> {
        self.store.as_ref().map(Store::entries).unwrap_or_default()
    }

    /// Removes the plans whose names begin with `prefix`; running engines keep theirs.
    pub fn remove(&self, prefix: &str) -> Pruned {
        self.store.as_ref().map(|store| store.remove(|name| name.starts_with(prefix))).unwrap_or_default()
    }

    /// Removes the plans used longest ago until at most `bytes` are left, and what dead processes have left behind.
    pub fn prune(&self, bytes: u64) -> Pruned {
        let Ok(store) = &self.store else { return Pruned::default() };
        store.clean();
        store.prune(bytes, None)
    }
}

/// The keys' fields that differ, of both.
fn differences(wanted: &[(String, String)], found: &[(String, String)]) -> Vec<Difference> {
    let value = |fields: &[(String, String)], name: &str| {
        fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default()
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in wanted.iter().chain(found) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
        .into_iter()
        .map(|name| Difference {
            field: name.to_owned(),
            wanted: value(wanted, name),
            found: value(found, name),
        })
        .filter(|d| d.wanted != d.found)
        .collect()
}

/// The number of threads with which a plan is checked.
fn checking_threads() -> usize {
    hashing_threads()
}

#[cfg(test)]
mod tests;

use super::*;
use crate::container::{SectionKind, SectionSpec};
use std::cell::Cell;
use std::fs;
use std::time::{Duration, SystemTime};

mod processes;

fn key(weights: &str) -> CacheKey {
    CacheKey::new("a network").with("weights", weights).with("options", "level 3")
}

/// What the plan of a key contains: long enough for several blocks, different for each key.
fn content(key: &CacheKey) -> Vec<u8> {
    let seed = u64::from_le_bytes(key.digest().0[..8].try_into().unwrap()) | 1;
    (0..(3 << 20) + 11u64).map(|i| (i.wrapping_mul(seed) >> 40) as u8).collect()
}

fn write_plan(key: &CacheKey, writer: &mut ContainerWriter) -> Result<(), ContainerError> {
    writer.add(SectionSpec::new(SectionKind::Manifest, "network"), key.entry_name().as_bytes())?;
    let content = content(key);
    writer.fill(SectionSpec::new(SectionKind::Weights, "raw"), content.len(), |out| {
        out.copy_from_slice(&content);
        Ok(())
    })
}

fn check_plan(key: &CacheKey, container: &Container) {
    let bytes = |kind, name| container.bytes(container.section(kind, name).unwrap());
    assert_eq!(container.key(), key.fields());
    assert_eq!(&bytes(SectionKind::Manifest, "network")[..], key.entry_name().as_bytes());
    assert!(bytes(SectionKind::Weights, "raw")[..] == content(key), "wrong weights");
}

/// Fetches and checks the plan of a key.
fn fetch(cache: &PlanCache, key: &CacheKey) -> Origin {
    let fetched = cache.get_or_build(key, |writer| write_plan(key, writer)).unwrap();
    check_plan(key, &fetched.container);
    fetched.origin
}

fn built(miss: Miss) -> Origin {
    Origin::Built { miss, stored: true }
}

fn open(folder: &Path) -> PlanCache {
    PlanCache::open(folder, DEFAULT_QUOTA)
}

fn plan_path(cache: &PlanCache, key: &CacheKey) -> PathBuf {
    cache.folder().join("plans").join(format!("{}.plan", key.entry_name()))
}

fn note_of(cache: &PlanCache, key: &CacheKey) -> String {
    fs::read_to_string(plan_path(cache, key).with_extension("use")).unwrap()
}

/// Lets the plan be checked and noted as such.
fn settle(cache: &PlanCache, key: &CacheKey) {
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(fetch(cache, key), Origin::Hit);
    assert!(note_of(cache, key).starts_with("checked"));
}

#[test]
fn a_plan_is_built_once_and_then_found() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder.path().join("deep/cache"));
    assert_eq!(fetch(&cache, &key("w")), built(Miss::New));
    assert_eq!(fetch(&cache, &key("w")), Origin::Hit);
    settle(&cache, &key("w"));
    assert_eq!(fetch(&cache, &key("w")), Origin::Hit);
    assert_eq!(fetch(&open(cache.folder()), &key("w")), Origin::Hit);
    assert_eq!(fs::read_dir(cache.folder().join("temp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(cache.folder().join("locks")).unwrap().count(), 0);
}

#[test]
fn a_miss_names_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    fetch(&cache, &key("w").with("device", "a"));
    let other = CacheKey::new("another network").with("weights", "w");
    assert_eq!(fetch(&cache, &other), built(Miss::New));
    let difference = |field: &str, wanted: &str, found: &str| Difference {
        field: field.into(),
        wanted: wanted.into(),
        found: found.into(),
    };
    let miss = Miss::Differs(vec![difference("weights", "v", "w")]);
    assert_eq!(miss.to_string(), "the nearest cached plan differs in weights");
    assert_eq!(fetch(&cache, &key("v").with("device", "a")), built(miss));
    // The nearer one counts, and a missing field differs too.
    let miss = Miss::Differs(vec![difference("device", "", "a")]);
    assert_eq!(fetch(&cache, &key("v")), built(miss));
}

#[test]
fn names_and_boundaries_of_fields_count() {
    let keys = [
        CacheKey::new("s").with("ab", "c"),
        CacheKey::new("s").with("a", "bc"),
        CacheKey::new("s").with("ab", "").with("c", ""),
        CacheKey::new("s").with("c", "").with("ab", ""),
        CacheKey::new("s"),
        CacheKey::new("sab").with("c", ""),
    ];
    for (i, a) in keys.iter().enumerate() {
        assert!(keys[..i].iter().all(|b| a.digest() != b.digest() && a.entry_name() != b.entry_name()));
    }
}

#[test]
fn a_plan_under_a_foreign_name_is_never_a_hit() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    fetch(&cache, &key("w"));
    fs::copy(plan_path(&cache, &key("w")), plan_path(&cache, &key("v"))).unwrap();
    let Origin::Built { miss: Miss::Damaged(reason), stored: true } = fetch(&cache, &key("v")) else {
        panic!("a wrong hit");
    };
    assert!(reason.contains("differs in weights"), "{reason}");
    assert_eq!(fetch(&cache, &key("v")), Origin::Hit);
}

/// Damages the plan's file with `damage`, before and after it was noted as checked; it must be noticed and replaced.
fn damaged(damage: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    let key = key("w");
    fetch(&cache, &key);
    for settled in [false, true] {
        if settled {
            settle(&cache, &key);
        }
        damage(&plan_path(&cache, &key));
        let origin = fetch(&cache, &key);
        assert!(matches!(origin, Origin::Built { miss: Miss::Damaged(_), stored: true }), "{origin:?}");
        assert_eq!(fetch(&cache, &key), Origin::Hit);
    }
}

#[test]
fn damage_is_noticed() {
    damaged(|path| fs::write(path, b"").unwrap());
    damaged(|path| fs::write(path, [0; 10_000]).unwrap());
    damaged(|path| File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap());
    damaged(|path| {
        let mut bytes = fs::read(path).unwrap();
        bytes.push(0);
        fs::write(path, bytes).unwrap();
    });
    for at in [0, 9, 50, 4096, 4100, 9000, 2 << 20] {
        damaged(|path| flip(path, at));
    }
    // A change that hides its time is noticed as well.
    damaged(|path| {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        flip(path, 1 << 20);
        File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
    });
    // So is another file of the same length and times.
    damaged(|path| {
        let other = path.with_extension("other");
        fs::copy(path, &other).unwrap();
        flip(&other, 1 << 20);
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        File::options().append(true).open(&other).unwrap().set_modified(modified).unwrap();
        fs::rename(other, path).unwrap();
    });
}

use std::fs::File;

fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at as u64).unwrap();
}

#[test]
fn a_plan_that_the_loader_refuses_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    let key = key("w");
    fetch(&cache, &key);
    let refusals = Cell::new(0);
    let load = |container: Container| {
        // Refuses both looks at the cached plan, takes the one that was built.
        refusals.set(refusals.get() + 1);
        match refusals.get() {
            1 | 2 => Err(ContainerError::NotAPlan),
            _ => Ok(container),
        }
    };
    let (container, origin) = cache.fetch(&key, |w| write_plan(&key, w), load).unwrap();
    check_plan(&key, &container);
    assert!(matches!(origin, Origin::Built { miss: Miss::Damaged(_), stored: true }));
}

#[test]
fn a_failed_build_leaves_nothing_and_the_next_one_starts_afresh() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    let key = key("w");
    let failed = cache.get_or_build(&key, |writer| {
        write_plan(&key, writer)?;
        Err(ContainerError::NotAPlan)
    });
    assert!(matches!(failed, Err(ContainerError::NotAPlan)));
    let panicked =
        std::panic::catch_unwind(|| cache.get_or_build::<ContainerError>(&key, |_| panic!("build")));
    assert!(panicked.is_err());
    for name in ["plans", "locks", "temp"] {
        assert_eq!(fs::read_dir(folder.path().join(name)).unwrap().count(), 0, "{name}");
    }
    assert_eq!(fetch(&cache, &key), built(Miss::New));
}

#[test]
fn without_a_usable_folder_plans_are_built_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("file");
    fs::write(&occupied, "").unwrap();
    let cache = open(&occupied);
    for _ in 0..2 {
        let origin = fetch(&cache, &key("w"));
        assert!(matches!(origin, Origin::Built { miss: Miss::Unavailable(_), stored: false }));
    }
    assert!(cache.entries().is_empty());
    assert_eq!(cache.prune(0), Pruned::default());
}

#[test]
fn a_folder_that_vanishes_costs_reuse_only() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder.path().join("cache"));
    fs::remove_dir_all(cache.folder()).unwrap();
    assert_eq!(fetch(&cache, &key("w")), Origin::Built { miss: Miss::New, stored: false });
    // A folder in the place of a plan cannot be replaced; it is not used either.
    let cache = open(&folder.path().join("other"));
    fs::create_dir(plan_path(&cache, &key("w"))).unwrap();
    assert!(matches!(fetch(&cache, &key("w")), Origin::Built { miss: Miss::Damaged(_), stored: false }));
}

#[test]
fn a_failing_medium_costs_reuse_only() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    let key = key("w");
    let builds = Cell::new(0);
    let fetched = cache.get_or_build(&key, |writer| {
        builds.set(builds.get() + 1);
        write_plan(&key, writer)?;
        if builds.get() == 1 {
            // No file is this long: what a full medium does.
            let spec = SectionSpec::new(SectionKind::Device, "huge");
            writer.fill(spec, isize::MAX as usize, |_| Ok::<_, ContainerError>(()))?;
        }
        Ok(())
    });
    let fetched: Fetched = fetched.unwrap_or_else(|e: ContainerError| panic!("{e}"));
    check_plan(&key, &fetched.container);
    assert_eq!(fetched.origin, Origin::Built { miss: Miss::New, stored: false });
    assert_eq!(builds.get(), 2);
    assert_eq!(fs::read_dir(folder.path().join("temp")).unwrap().count(), 0);
}

#[test]
fn the_quota_evicts_what_was_used_longest_ago() {
    let folder = tempfile::tempdir().unwrap();
    let size = {
        let cache = open(folder.path());
        fetch(&cache, &key("0"));
        cache.entries()[0].bytes
    };
    let cache = PlanCache::open(folder.path(), 3 * size + size / 2);
    let used = |key: &CacheKey, ago: u64| {
        let note = plan_path(&cache, key).with_extension("use");
        let time = SystemTime::now() - Duration::from_secs(ago);
        File::options().append(true).open(note).unwrap().set_modified(time).unwrap();
    };
    fetch(&cache, &key("1"));
    fetch(&cache, &key("2"));
    used(&key("0"), 10);
    used(&key("1"), 30);
    used(&key("2"), 20);
    assert_eq!(fetch(&cache, &key("1")), Origin::Hit, "now it is the last used");
    fetch(&cache, &key("3"));
    let kept: Vec<_> = cache.entries().into_iter().map(|e| e.key()[1].1.clone()).collect();
    assert_eq!(kept, ["3", "1", "0"]);
    assert_eq!(cache.prune(size), Pruned { plans: 2, bytes: 2 * size });
    assert_eq!(cache.entries()[0].key()[1].1, "3");
    // A plan beyond the quota is kept until the next one comes.
    let tiny = PlanCache::open(folder.path(), 1);
    assert_eq!(
        fetch(&tiny, &key("4")),
        built(Miss::Differs(differences(key("4").fields(), key("3").fields())))
    );
    assert_eq!(fetch(&tiny, &key("4")), Origin::Hit);
    assert_eq!(tiny.entries().len(), 1);
}

#[test]
fn entries_are_listed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    fetch(&cache, &key("a"));
    fetch(&cache, &key("b"));
    let path = plan_path(&cache, &key("b"));
    let mapped = cache.get_or_build::<ContainerError>(&key("a"), |_| panic!("not cached")).unwrap();
    fs::write(&path, "damaged").unwrap();
    let entries = cache.entries();
    assert_eq!(entries.len(), 2);
    let good = entries.iter().find(|e| e.name == key("a").entry_name()).unwrap();
    assert_eq!((good.key(), good.sections().len()), (key("a").fields(), 2));
    let bad = entries.iter().find(|e| e.name == key("b").entry_name()).unwrap();
    assert!(bad.summary.is_err() && bad.key().is_empty() && bad.path == path);
    assert_eq!(cache.remove("no such plan"), Pruned::default());
    assert_eq!(cache.remove(&key("a").entry_name()).plans, 1);
    check_plan(&key("a"), &mapped.container);
    assert_eq!(cache.remove("").plans, 1);
    assert_eq!(fs::read_dir(folder.path().join("plans")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn new_folders_are_private_and_others_are_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder.path().join("cache"));
    fetch(&cache, &key("w"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for path in [cache.folder().to_owned(), cache.folder().join("plans"), cache.folder().join("locks")] {
        assert_eq!(mode(&path), 0o700);
    }
    assert_eq!(mode(&plan_path(&cache, &key("w"))), 0o600);
    fs::set_permissions(cache.folder().join("plans"), fs::Permissions::from_mode(0o777)).unwrap();
    let shared = open(cache.folder());
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(fetch(&shared, &key("w")), Origin::Hit);
    assert_eq!(note_of(&shared, &key("w")), "", "what others can change is never noted as checked");
    flip(&plan_path(&shared, &key("w")), 1 << 20);
    assert!(matches!(fetch(&shared, &key("w")), Origin::Built { miss: Miss::Damaged(_), .. }));
}

#[cfg(target_os = "linux")]
#[test]
fn the_default_folder_follows_the_environment() {
    let folder = |variables: &[(&str, &str)]| {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        store::default_folder(find)
    };
    assert_eq!(folder(&[("HOME", "/h")]), Path::new("/h/.cache/engraft"));
    assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/engraft"));
    assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]), Path::new("/h/.cache/engraft"));
    assert_eq!(folder(&[("XDG_CACHE_HOME", "/x"), ("ENGRAFT_CACHE_DIR", "own")]), Path::new("own"));
    assert!(folder(&[]).starts_with(std::env::temp_dir()));
}

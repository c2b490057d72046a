//! `engraft cache`: what the plan cache holds.

use std::time::{SystemTime, UNIX_EPOCH};

use engraft::engine::plan_cache::{DEFAULT_QUOTA, Entry, PlanCache};
use serde::Serialize;

use crate::arguments::{Cache, CacheCommand};
use crate::error::CliError;
use crate::output::Output;
use crate::table::{self, Align, Table};

#[derive(Serialize)]
struct Listing {
    folder: String,
    bytes: u64,
    plans: Vec<Plan>,
}

#[derive(Serialize)]
struct Plan {
    name: String,
    bytes: u64,
    /// Seconds since 1970.
    created: u64,
    last_used: u64,
    key: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

#[derive(Serialize)]
struct Removed {
    plans: usize,
    bytes: u64,
}

pub fn run(arguments: &Cache, output: Output) -> Result<(), CliError> {
    let folder = arguments.folder.clone().unwrap_or_else(PlanCache::default_folder);
    if !folder.is_dir() {
        // Opening makes the folder; looking must not.
        return match &arguments.command {
            CacheCommand::Rm { names, all: false } => Err(no_such_plan(&names[0])),
            CacheCommand::Ls => {
                let empty = Listing { folder: folder.display().to_string(), bytes: 0, plans: Vec::new() };
                output.print(&empty, || format!("{} does not exist: no plans", folder.display()))
            }
            _ => removed(0, 0, output),
        };
    }
    let cache = PlanCache::open(&folder, DEFAULT_QUOTA);
    match &arguments.command {
        CacheCommand::Ls => list(&cache, output),
        CacheCommand::Rm { names, all } => remove(&cache, names, *all, output),
        CacheCommand::Prune { keep } => {
            let pruned = cache.prune(*keep);
            removed(pruned.plans, pruned.bytes, output)
        }
    }
}

fn list(cache: &PlanCache, output: Output) -> Result<(), CliError> {
    let entries = cache.entries();
    let listing = Listing {
        folder: cache.folder().display().to_string(),
        bytes: entries.iter().map(|entry| entry.bytes).sum(),
        plans: entries.iter().map(Plan::of).collect(),
    };
    output.print(&listing, || {
        let mut table = Table::new([
            ("plan", Align::Left),
            ("size", Align::Right),
            ("last used", Align::Right),
            ("built for", Align::Left),
        ]);
        for entry in &entries {
            table.row([
                entry.name.clone(),
                table::bytes(entry.bytes),
                age(entry.last_used),
                match &entry.summary {
                    Ok(_) => described(entry),
                    Err(reason) => format!("unreadable: {reason}"),
                },
            ]);
        }
        let (count, size) = (listing.plans.len(), table::bytes(listing.bytes));
        format!("{table}{count} plan{}, {size} in {}", if count == 1 { "" } else { "s" }, listing.folder)
    })
}

fn remove(cache: &PlanCache, names: &[String], all: bool, output: Output) -> Result<(), CliError> {
    if all {
        let pruned = cache.remove("");
        return removed(pruned.plans, pruned.bytes, output);
    }
    let entries = cache.entries();
    if let Some(missing) =
        names.iter().find(|name| !entries.iter().any(|entry| entry.name.starts_with(*name)))
    {
        return Err(no_such_plan(missing));
    }
    let (mut plans, mut bytes) = (0, 0);
    for name in names {
        let pruned = cache.remove(name);
        plans += pruned.plans;
        bytes += pruned.bytes;
    }
    removed(plans, bytes, output)
}

fn no_such_plan(name: &str) -> CliError {
    CliError::Usage(format!("no plan's name begins with `{name}`; `engraft cache ls` lists them"))
}

fn removed(plans: usize, bytes: u64, output: Output) -> Result<(), CliError> {
    let plural = if plans == 1 { "" } else { "s" };
    output
        .print(&Removed { plans, bytes }, || format!("removed {plans} plan{plural}, {}", table::bytes(bytes)))
}

impl Plan {
    fn of(entry: &Entry) -> Self {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self {
            name: entry.name.clone(),
            bytes: entry.bytes,
            created: seconds(entry.created),
            last_used: seconds(entry.last_used),
            key: entry.key().iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
            unreadable: entry.summary.as_ref().err().cloned(),
        }
    }
}

/// The key's fields that tell people something: hashes are left out.
fn described(entry: &Entry) -> String {
    let telling = |value: &str| value.len() < 40 && !value.is_empty();
    let fields = entry.key().iter().filter(|(_, value)| telling(value));
    fields.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

fn age(time: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(time).map_or(0, |d| d.as_secs());
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

//! `cache`: the plans that are kept on disk.

use crate::Ended;
use crate::args::CacheArgs;
use crate::output::{Output, bytes};
use anyhow::Result;
use serde_json::json;
use std::env;
use std::path::PathBuf;
use thalweg::PlanCache;

/// Where plans are kept, if they are to be kept: the folder that `THALWEG_CACHE` names, else one of ours in the folder that the
/// system has for caches.
pub fn folder() -> Option<PathBuf> {
    let path = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match path("THALWEG_CACHE") {
        Some(own) if own.as_os_str() == "off" => None,
        Some(own) => Some(own),
        None => {
            let caches = if cfg!(windows) {
                path("LOCALAPPDATA")
            } else if cfg!(target_os = "macos") {
                path("HOME").map(|home| home.join("Library/Caches"))
            } else {
                path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")))
            };
            // A relative path would mean another folder in every place.
            caches.filter(|caches| caches.is_absolute()).map(|caches| caches.join("thalweg"))
        }
    }
}

pub fn run(args: &CacheArgs, output: &Output) -> Result<Ended> {
    let Some(folder) = folder() else {
        output.line("no plans are kept: THALWEG_CACHE is `off`, or the system names no folder for caches")?;
        output.object(&json!({ "folder": null, "plans": 0, "bytes": 0, "cleared": false }))?;
        return Ok(Ended::Done);
    };
    let cache = PlanCache::open(folder)?;
    let usage = if args.clear { cache.clear()? } else { cache.usage() };
    let (plans, size) = (usage.plans, bytes(usage.bytes as usize));
    let folder = cache.folder().display();
    output.line(match args.clear {
        true => format!("removed {plans} plans, {size}, from {folder}"),
        false => format!("{plans} plans, {size}, in {folder}"),
    })?;
    output.object(&json!({
        "folder": cache.folder(), "plans": plans, "bytes": usage.bytes, "cleared": args.clear,
    }))?;
    Ok(Ended::Done)
}

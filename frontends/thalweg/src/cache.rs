//! Plans kept on disk, so that what was compiled once need not be compiled again.
//!
//! A plan is found by a hash of all that it is made from: the graph with its constants, the sizes, the compiler's options with the
//! description of the device, and the program that compiles, for another build of the compiler may make other code. Files are
//! written under names of their own and renamed, so processes that share a folder never see half of one; a checksum tells a
//! damaged file, which is as good as none. The cache is a convenience: nothing fails because of it.

use crate::error::{Error, Result};
use crate::storage::Checksum;
use serde::{Deserialize, Serialize};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};
use thalweg_base::Bindings;
use thalweg_driver::{CompileError, Options, PassReport, Report};
use thalweg_plan::Plan;
use thalweg_tensor::Graph;

/// What a file begins with.
const MAGIC: &[u8] = b"thalweg plan cache 1\n";

/// Bytes that a folder may hold unless another limit is set.
const BYTES_MAX: u64 = 1 << 30;

/// A folder of compiled plans. Several processes may share one.
///
/// A plan holds machine code, which is run as it is found: the folder must be one that only its owner can write to, as one made by
/// [`PlanCache::open`] is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanCache {
    folder: PathBuf,
    /// What tells this build of the compiler from others.
    build: String,
    bytes_max: u64,
}

/// What a folder holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CacheUsage {
    /// Plans.
    pub plans: usize,
    /// Bytes on disk.
    pub bytes: u64,
}

impl PlanCache {
    /// The cache in a folder, which is made if it is not there. Plans are kept apart by the running program's file, its length and
    /// the time it was written. Fails when the folder cannot be made or that file cannot be found.
    pub fn open(folder: impl Into<PathBuf>) -> Result<PlanCache> {
        let folder = folder.into();
        make_folder(&folder).map_err(Error::io("make", &folder))?;
        let program = std::env::current_exe().map_err(Error::io("find", Path::new("the running program")))?;
        let facts = fs::metadata(&program).map_err(Error::io("read", &program))?;
        let written = facts.modified().map_err(Error::io("read", &program))?;
        let build = format!("{} {} {written:?}", env!("CARGO_PKG_VERSION"), facts.len());
        Ok(PlanCache { folder, build, bytes_max: BYTES_MAX })
    }

    /// The same cache with another limit: after a plan is added, those that were not used for longest go until the folder holds no
    /// more.
    pub fn with_bytes_max(self, bytes_max: u64) -> PlanCache {
        PlanCache { bytes_max, ..self }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How much there is.
    pub fn usage(&self) -> CacheUsage {
        let entries = self.entries();
        CacheUsage { plans: entries.len(), bytes: entries.iter().map(|entry| entry.bytes).sum() }
    }

    /// Removes all plans; returns what there was.
    pub fn clear(&self) -> Result<CacheUsage> {
        let usage = self.usage();
        for entry in self.entries() {
            remove(&entry.path)?;
        }
        Ok(usage)
    }

    /// Where the plan of a graph is kept.
    fn path(&self, graph: &Graph, bindings: &Bindings, options: &Options) -> PathBuf {
        // Two hashes that begin differently make 128 bits. Nobody gains from a plan of their own that is taken for another.
        let digits = [0u8, 1].map(|which| {
            let mut hasher = DefaultHasher::new();
            (which, &self.build, graph, bindings, format!("{options:?}")).hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        });
        self.folder.join(format!("{}{}.plan", digits[0], digits[1]))
    }

    /// A plan, and how many of its kernels the wide emitter made.
    fn find(&self, path: &Path) -> Option<(Plan, usize)> {
        let file = fs::read(path).ok()?;
        let body = file.strip_prefix(MAGIC)?;
        let (sum, body) = body.split_at_checked(16)?;
        let mut found = Checksum::new();
        found.add(body);
        if sum != found.digits().as_bytes() {
            return None;
        }
        let kept: (Plan, usize) = postcard::from_bytes(body).ok()?;
        // So that what is used stays; a file that cannot be marked is used all the same.
        let _ =
            fs::File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(kept)
    }

    fn keep(&self, path: &Path, plan: &Plan, wide_kernels: usize) -> std::io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let body = postcard::to_stdvec(&(plan, wide_kernels)).map_err(std::io::Error::other)?;
        let mut sum = Checksum::new();
        sum.add(&body);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let written = fs::write(&temporary, [MAGIC, sum.digits().as_bytes(), &body].concat())
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // What was written so far is of no use; that it stays is no second error.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        self.shrink(path);
        Ok(())
    }

    /// Removes the plans that were not used for longest, but `newest`, until the rest is within the limit.
    fn shrink(&self, newest: &Path) {
        let mut entries = self.entries();
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if bytes <= self.bytes_max {
                return;
            }
            // Another process may have removed it already.
            if entry.path != newest && fs::remove_file(&entry.path).is_ok() {
                bytes -= entry.bytes;
            }
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let Ok(folder) = fs::read_dir(&self.folder) else { return Vec::new() };
        let plan = |path: &Path| path.extension().is_some_and(|extension| extension == "plan");
        folder
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let facts = entry.metadata().ok()?;
                let used = facts.modified().ok()?;
                plan(&entry.path()).then_some(Entry { path: entry.path(), bytes: facts.len(), used })
            })
            .collect()
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Makes a folder that only its owner may use.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Compiles a graph, or takes the plan that was made of it before.
pub(crate) fn compile(
    graph: &Graph,
    bindings: &Bindings,
    options: &Options,
    cache: Option<&PlanCache>,
) -> std::result::Result<(Plan, Report), CompileError> {
    let start = Instant::now();
    let path = cache.map(|cache| (cache, cache.path(graph, bindings, options)));
    if let Some((cache, path)) = &path
        && let Some((plan, wide_kernels)) = cache.find(path)
    {
        let pass = PassReport {
            name: "cache".into(),
            seconds: start.elapsed().as_secs_f64(),
            nodes_before: graph.nodes().len(),
            nodes_after: plan.kernels.len(),
        };
        let report = Report {
            passes: vec![pass],
            kernels: plan.kernels.len(),
            wide_kernels,
            code_bytes: plan
                .kernels
                .iter()
                .filter_map(|kernel| Some(kernel.code.as_ref()?.bytes.len()))
                .sum(),
            arena_bytes: plan.arena_bytes_max(),
            ..Report::default()
        };
        return Ok((plan, report));
    }
    let compiled = thalweg_driver::compile(graph, bindings, options)?;
    if let Some((cache, path)) = path {
        // A full disk, or a folder that has gone: the next call compiles again.
        let _ = cache.keep(&path, &compiled.plan, compiled.report.wide_kernels);
    }
    Ok((compiled.plan, compiled.report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CompileOptions;
    use thalweg_base::{DType, PointwiseFn};
    use thalweg_tensor::TensorType;

    fn graph(function: PointwiseFn) -> Graph {
        let mut graph = Graph::new("net");
        let x = graph.input("x", TensorType::new(DType::F32, [thalweg_base::Dim::from(64)]));
        let y = graph.pointwise(function, &[x]);
        graph.output("y", y);
        graph
    }

    fn options() -> Options {
        CompileOptions::default().driver()
    }

    fn cache(folder: &Path) -> PlanCache {
        PlanCache::open(folder.join("plans")).unwrap()
    }

    /// Whether the plan came from the cache, and the plan.
    fn compiled(graph: &Graph, options: &Options, cache: &PlanCache) -> (bool, Plan) {
        let (plan, report) = compile(graph, &Bindings::new(), options, Some(cache)).unwrap();
        let fresh = compile(graph, &Bindings::new(), options, None).unwrap().1;
        let told =
            |report: &Report| (report.kernels, report.wide_kernels, report.code_bytes, report.arena_bytes);
        assert_eq!(told(&report), told(&fresh));
        (report.passes[0].name == "cache", plan)
    }

    #[test]
    fn what_was_compiled_is_found_and_all_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, options) = (cache(folder.path()), options());
        let (found, plan) = compiled(&graph(PointwiseFn::Exp), &options, &cache);
        assert!(!found);
        assert_eq!(compiled(&graph(PointwiseFn::Exp), &options, &cache), (true, plan));
        assert!(!compiled(&graph(PointwiseFn::Tanh), &options, &cache).0);
        let plain = Options { rewrite: None, ..options.clone() };
        assert!(!compiled(&graph(PointwiseFn::Exp), &plain, &cache).0);
        let other = PlanCache { build: "another".into(), ..cache.clone() };
        assert!(!compiled(&graph(PointwiseFn::Exp), &options, &other).0);
        assert_eq!(cache.usage().plans, 4);
        assert_eq!(cache.clear().unwrap().plans, 4);
        assert_eq!(cache.usage(), CacheUsage::default());
        assert!(!compiled(&graph(PointwiseFn::Exp), &options, &cache).0);
    }

    #[test]
    fn a_damaged_file_is_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, options) = (cache(folder.path()), options());
        let graph = graph(PointwiseFn::Exp);
        let (_, plan) = compiled(&graph, &options, &cache);
        let path = cache.path(&graph, &Bindings::new(), &options);
        let whole = fs::read(&path).unwrap();
        for length in [0, MAGIC.len() - 1, MAGIC.len() + 5, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(compiled(&graph, &options, &cache), (false, plan.clone()), "cut to {length}");
        }
        for at in [0, MAGIC.len() + 3, MAGIC.len() + 20, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert_eq!(compiled(&graph, &options, &cache), (false, plan.clone()), "byte {at} changed");
            assert_eq!(compiled(&graph, &options, &cache), (true, plan.clone()));
        }
    }

    #[test]
    fn many_may_use_one_folder_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, options) = (cache(folder.path()), options());
        let plan = compile(&graph(PointwiseFn::Exp), &Bindings::new(), &options, None).unwrap().0;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        assert_eq!(compiled(&graph(PointwiseFn::Exp), &options, &cache).1, plan);
                    }
                });
            }
        });
        let files: Vec<_> = fs::read_dir(cache.folder()).unwrap().collect();
        assert_eq!(files.len(), 1, "{files:?}");
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, options) = (cache(folder.path()), options());
        let functions = [PointwiseFn::Exp, PointwiseFn::Tanh, PointwiseFn::Log];
        let path = |function| cache.path(&graph(function), &Bindings::new(), &options);
        for (age, function) in functions.into_iter().enumerate() {
            compiled(&graph(function), &options, &cache);
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + age as u64);
            fs::File::options().write(true).open(path(function)).unwrap().set_modified(used).unwrap();
        }
        let (found, _) = compiled(&graph(PointwiseFn::Exp), &options, &cache);
        assert!(found, "which makes it the last used");
        let small = cache.clone().with_bytes_max(cache.usage().bytes);
        compiled(&graph(PointwiseFn::Sin), &options, &small);
        assert!(!path(PointwiseFn::Tanh).exists());
        assert!(path(PointwiseFn::Exp).exists() && path(PointwiseFn::Sin).exists());
    }
}

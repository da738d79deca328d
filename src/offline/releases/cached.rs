//! Takes packages of a run from caches instead of compiling them.

use super::Run;
use crate::compile::{Origin, Source};
use crate::diag::printable;
use crate::offline::ids::NodeId;
use crate::offline::ledger::PackageRecord;

/// The maximum number of warnings that are printed for a package from a cache.
const MOST_WARNINGS: usize = 20;

impl Run<'_> {
    /// Uses the packages that are in the cache.
    pub(super) fn take_cached(&mut self) {
        let hits: Vec<NodeId> = self.cached.hits().map(|(node, _)| node).collect();
        hits.into_iter().for_each(|node| self.take_hit(node));
        for (node, entry) in self.cached.fetchables() {
            // Save the duration for later runs, even if the package is not fetched.
            let package = self.ledger.package(node);
            self.durations
                .add(package.name(), package.version(), entry.elapsed());
        }
        for (node, reason) in self.cached.misses() {
            self.target.record.set_cache_miss(node, reason);
        }
    }

    /// Uses a package that is in the cache.
    fn take_hit(&mut self, node: NodeId) {
        let Some(hit) = self.cached.hit(node) else {
            return;
        };
        let progress = self.target.progress;
        let package = self.ledger.package(node);
        let (name, version) = (package.name().clone(), package.version().clone());
        progress.success(&hit.line(&name, &version));
        let warnings = hit.entry.warnings.iter().take(MOST_WARNINGS);
        warnings.for_each(|it| progress.warn(&printable(it)));
        self.durations.add(&name, &version, hit.entry.elapsed());
        self.target.record.set_cached(node, hit);
        self.ledger.set_cached(node, &hit.blob);
        self.ledger.record(node).logs.link();
        self.failed_logs(node).remove(&name);
    }

    /// Handles the end of a package's fetch: uses the package, or prepares for its compilation.
    pub(super) fn take_fetched(&mut self, node: NodeId) {
        if self.stop.is_cancelled() || self.take_downloaded(node) {
            return;
        }
        match self.cached.set_arrived(node, self.target.progress) {
            Ok(()) => self.take_hit(node),
            Err(error) => {
                self.ledger.set_failed(node);
                self.failures.push(error);
                self.stop.cancel();
            }
        }
        if let Some(reason) = self.cached.miss(node) {
            self.target.record.set_cache_miss(node, reason);
            self.target.progress.expect_another();
        }
        self.assemble_complete();
    }

    /// Whether at least one release with this package can still be completed: all packages that it lacks can be fetched.
    pub(super) fn can_complete(&self, node: NodeId) -> bool {
        self.ledger.can_complete(node, |it| self.is_fetchable(it))
    }

    /// Whether a cache or a server has a package that this machine does not have yet.
    pub(super) fn is_fetchable(&self, node: NodeId) -> bool {
        self.cached.fetchable(node).is_some() || self.can_download(node)
    }

    /// Whether packages are still fetched after a failure.
    pub(super) fn is_fetching(&self) -> bool {
        let nodes = (0..self.ledger.packages().len()).map(NodeId::from_index);
        let mut fetchable = nodes.filter(|it| self.is_fetchable(*it));
        fetchable.any(|it| self.can_complete(it))
    }

    /// How the schedule obtains a package.
    pub(super) fn origin(&self, node: NodeId, record: &PackageRecord) -> Origin {
        if let Some(origin) = self.origin_elsewhere(node, record) {
            return origin;
        }
        let cached = self.cached.hit(node).map(|hit| &hit.blob.blob);
        let blob = cached.unwrap_or(&record.node.package().blob);
        let (file, digests) = (blob.file.clone(), blob.digests.all().clone());
        if !record.is_compiled_here() {
            return Origin::Compiled {
                blob: file,
                digests,
            };
        }
        let source = self.source(record);
        match self.cached.fetchable(node) {
            None => Origin::Source(source),
            Some(fetchable) => Origin::Fetched {
                fetch: fetchable.fetch(),
                // With `--shell`, there is no result.
                is_result: self.target.only.is_none(),
                source,
            },
        }
    }

    /// The source of a package, and the paths of its results.
    pub(super) fn source(&self, record: &PackageRecord) -> Source {
        let blob = &record.node.package().blob;
        let job = self.ledger.job(record.node.first.release);
        Source {
            source: blob.file.clone(),
            digests: blob.digests.all().clone(),
            log: record.logs.own.clone(),
            blob: job.blob(&record.node),
        }
    }
}

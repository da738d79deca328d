//! Tracks the state of all packages and releases of a run: which packages are compiled, and which releases are complete.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::checked::{CheckedPackage, CheckedRelease};
use super::compiled_release::{CompiledBlob, CompiledRelease};
use super::failed_logs::FailedLogs;
use super::failure::UnfinishedRelease;
use super::graph::PackageNode;
use super::ids::{NodeId, ReleaseId};
use super::logs::PackageLogs;
use crate::release::{Name, Slug};

/// A release to compile, and where its files go.
#[derive(Debug)]
pub(super) struct ReleaseJob {
    pub release: Arc<CheckedRelease>,
    /// The compiled release.
    pub output: PathBuf,
    /// The directory of its compiled blobs.
    pub blobs: PathBuf,
}

impl ReleaseJob {
    /// Where the compiled blob of a package goes, if this is the first release that has it.
    pub(super) fn blob(&self, node: &PackageNode) -> PathBuf {
        self.blobs.join(format!("{}.tgz", node.package().name()))
    }
}

/// A package of the run.
#[derive(Debug)]
pub(super) struct PackageRecord {
    pub node: PackageNode,
    pub logs: PackageLogs,
    /// Whether the package was found in the cache or compiled on another machine, so that it is only installed.
    pub is_cached: bool,
    state: PackageState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackageState {
    Waiting,
    Running,
    Done,
    Stopped,
    Failed,
}

impl PackageRecord {
    /// Whether the package is compiled in this run.
    pub(super) fn is_compiled_here(&self) -> bool {
        self.node.package().is_source() && !self.is_cached
    }

    pub(super) fn state(&self) -> PackageState {
        self.state
    }
}

#[derive(Debug)]
struct ReleaseRecord {
    job: ReleaseJob,
    stage: ReleaseStage,
    /// When the release's first package started.
    started: Option<Instant>,
}

#[derive(Debug)]
enum ReleaseStage {
    /// Packages are missing. Contains the blobs of those that are compiled.
    Compiling(HashMap<Name, Arc<CompiledBlob>>),
    /// All packages are done.
    Complete,
}

impl ReleaseStage {
    /// Whether the compiled blob of a source package exists. A package that was found in a cache may not be installed yet.
    fn has(&self, package: &Name) -> bool {
        match self {
            Self::Compiling(compiled) => compiled.contains_key(package),
            Self::Complete => true,
        }
    }
}

/// A release whose packages are all done, ready to be assembled.
#[derive(Debug)]
pub(super) struct CompleteRelease {
    pub id: ReleaseId,
    pub source: Arc<CheckedRelease>,
    pub compiled: CompiledRelease,
    pub output: PathBuf,
    /// The blobs of compiled packages. Releases that have the same package share its blob.
    pub blobs: Vec<Arc<CompiledBlob>>,
    /// When the release's first package started. `None` if it has no packages.
    pub started: Option<Instant>,
}

/// The packages and releases of a run.
#[derive(Debug)]
pub(super) struct Ledger {
    packages: Vec<PackageRecord>,
    releases: BTreeMap<ReleaseId, ReleaseRecord>,
}

impl Ledger {
    /// A ledger in which nothing is compiled yet. The index of each node must be its id.
    pub(super) fn new(
        releases: BTreeMap<ReleaseId, ReleaseJob>,
        nodes: Vec<(PackageNode, PackageLogs)>,
    ) -> Self {
        let packages = nodes.into_iter().map(|(node, logs)| PackageRecord {
            node,
            logs,
            is_cached: false,
            state: PackageState::Waiting,
        });
        let releases = releases.into_iter().map(|(id, job)| {
            let record = ReleaseRecord {
                job,
                stage: ReleaseStage::Compiling(HashMap::new()),
                started: None,
            };
            (id, record)
        });
        Self {
            packages: packages.collect(),
            releases: releases.collect(),
        }
    }

    /// All packages, in the order of their ids.
    pub(super) fn packages(&self) -> &[PackageRecord] {
        &self.packages
    }

    pub(super) fn record(&self, node: NodeId) -> &PackageRecord {
        &self.packages[node.index()]
    }

    pub(super) fn package(&self, node: NodeId) -> &CheckedPackage {
        self.record(node).node.package()
    }

    /// The releases that have a package, in input order.
    pub(super) fn releases_of(&self, node: NodeId) -> impl Iterator<Item = &CheckedRelease> {
        let uses = self.record(node).node.uses();
        uses.map(|it| self.job(it.release).release.as_ref())
    }

    pub(super) fn job(&self, release: ReleaseId) -> &ReleaseJob {
        &self.releases[&release].job
    }

    /// Where the log of a package is copied to if it fails: next to the first release that has it. `one_of_several` is the stemcell, if the run
    /// has several.
    pub(super) fn failed_logs(&self, node: NodeId, one_of_several: Option<&Slug>) -> FailedLogs {
        let job = self.job(self.record(node).node.first.release);
        FailedLogs::new(&job.output, &job.release, one_of_several)
    }

    pub(super) fn release_count(&self) -> usize {
        self.releases.len()
    }

    /// How many packages have a source.
    pub(super) fn sources(&self) -> usize {
        let packages = self.packages.iter();
        packages.filter(|it| it.node.package().is_source()).count()
    }

    /// The packages that were started and have not ended.
    pub(super) fn running(&self) -> impl Iterator<Item = NodeId> {
        let packages = self.packages.iter().enumerate();
        let running = packages.filter(|(_, package)| package.state == PackageState::Running);
        running.map(|(index, _)| NodeId::from_index(index))
    }

    pub(super) fn set_started(&mut self, node: NodeId) {
        let package = &mut self.packages[node.index()];
        package.state = PackageState::Running;
        for place in package.node.uses() {
            if let Some(release) = self.releases.get_mut(&place.release) {
                release.started.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Records that a package that was compiled before the run is installed for its dependents.
    pub(super) fn set_installed(&mut self, node: NodeId) {
        self.packages[node.index()].state = PackageState::Done;
    }

    /// Records that a package was found in the cache, with its blob.
    pub(super) fn set_cached(&mut self, node: NodeId, blob: &Arc<CompiledBlob>) {
        self.set_started(node);
        self.packages[node.index()].is_cached = true;
        self.set_compiled(node, blob);
    }

    /// Records that this machine does not compile a package, because another one has compiled it.
    pub(super) fn set_taken(&mut self, node: NodeId) {
        self.packages[node.index()].is_cached = true;
    }

    pub(super) fn set_compiled(&mut self, node: NodeId, blob: &Arc<CompiledBlob>) {
        let package = &mut self.packages[node.index()];
        package.state = PackageState::Done;
        for place in package.node.uses() {
            if let Some(ReleaseRecord {
                stage: ReleaseStage::Compiling(compiled),
                ..
            }) = self.releases.get_mut(&place.release)
            {
                compiled.insert(place.package.name().clone(), Arc::clone(blob));
            }
        }
    }

    pub(super) fn set_stopped(&mut self, node: NodeId) {
        self.packages[node.index()].state = PackageState::Stopped;
    }

    pub(super) fn set_failed(&mut self, node: NodeId) {
        self.packages[node.index()].state = PackageState::Failed;
    }

    /// The blobs of the packages that were compiled before the run and that several releases have.
    pub(super) fn shared_blobs(&self) -> HashSet<PathBuf> {
        let packages = self.packages.iter().map(|it| &it.node);
        let shared = packages.filter(|it| !it.package().is_source() && !it.others.is_empty());
        shared.map(|it| it.package().blob.file.clone()).collect()
    }

    /// Whether at least one of the releases that have this package lacks only packages that can be fetched.
    pub(super) fn can_complete(&self, node: NodeId, is_fetchable: impl Fn(NodeId) -> bool) -> bool {
        self.record(node).node.uses().any(|own| {
            let stage = &self.releases[&own.release].stage;
            let mut packages = self.packages.iter().enumerate();
            packages.all(|(index, record)| {
                let mut uses = record.node.uses();
                let Some(place) = uses.find(|it| it.release == own.release) else {
                    return true;
                };
                !record.node.package().is_source()
                    || stage.has(place.package.name())
                    || is_fetchable(NodeId::from_index(index))
            })
        })
    }

    /// The releases that have become complete since this was last called.
    pub(super) fn take_complete(&mut self, stemcell: &Slug) -> Vec<CompleteRelease> {
        let mut complete = Vec::new();
        for (id, record) in &mut self.releases {
            let ReleaseStage::Compiling(compiled) = &mut record.stage else {
                continue;
            };
            let source = &record.job.release;
            let Some(release) = CompiledRelease::new(source, compiled, stemcell) else {
                continue;
            };
            complete.push(CompleteRelease {
                id: *id,
                source: Arc::clone(source),
                compiled: release,
                output: record.job.output.clone(),
                blobs: compiled.drain().map(|(_, blob)| blob).collect(),
                started: record.started,
            });
            record.stage = ReleaseStage::Complete;
        }
        complete
    }

    /// The packages of the releases that are not complete, by their state.
    pub(super) fn unfinished(&self) -> Vec<UnfinishedRelease> {
        self.releases
            .iter()
            .filter(|(_, record)| matches!(record.stage, ReleaseStage::Compiling(_)))
            .map(|(id, record)| self.unfinished_release(*id, &record.job.release))
            .collect()
    }

    fn unfinished_release(&self, id: ReleaseId, release: &CheckedRelease) -> UnfinishedRelease {
        let mut unfinished = UnfinishedRelease {
            release: release.name_and_version(),
            compiled: Vec::new(),
            dependents: Vec::new(),
            stopped: Vec::new(),
            not_begun: Vec::new(),
        };
        for record in &self.packages {
            let Some(place) = record.node.uses().find(|it| it.release == id) else {
                continue;
            };
            let name = place.package.name().clone();
            match record.state {
                PackageState::Failed => {
                    let dependents = release.dependents(&name);
                    unfinished.dependents.push((name, dependents));
                }
                PackageState::Done => unfinished.compiled.push(name),
                PackageState::Running | PackageState::Stopped => unfinished.stopped.push(name),
                PackageState::Waiting => unfinished.not_begun.push(name),
            }
        }
        // A package may fail while it is packed, after it was installed. Then some of its dependents may be compiled.
        for (_, dependents) in &mut unfinished.dependents {
            dependents.retain(|name| !unfinished.compiled.contains(name));
        }
        let lost: Vec<&Name> = unfinished
            .dependents
            .iter()
            .flat_map(|(_, dependents)| dependents)
            .collect();
        unfinished.not_begun.retain(|name| !lost.contains(&name));
        unfinished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::graph::tests::releases;
    use crate::offline::packages::tests::nodes;
    use crate::offline::tarball::Blob;
    use crate::release::digest::BlobHasher;
    use crate::release::{Algorithm, Digests, MultiDigest};

    fn ledger(texts: &[&str]) -> Ledger {
        let releases = releases(texts);
        let nodes = nodes(&releases);
        let jobs = releases.into_iter().map(|(id, release)| {
            let job = ReleaseJob {
                release,
                output: PathBuf::new(),
                blobs: PathBuf::new(),
            };
            (id, job)
        });
        Ledger::new(jobs.collect(), nodes)
    }

    fn blob() -> CompiledBlob {
        let digests = Digests::of(b"", &[Algorithm::Sha1]);
        CompiledBlob {
            digest: MultiDigest::of(&digests, &[Algorithm::Sha1]).unwrap(),
            blob: Blob {
                file: PathBuf::new(),
                size: 0,
                digests: BlobHasher::new(&[]).finish(),
            },
        }
    }

    fn stemcell() -> Slug {
        Slug::new("ubuntu-noble", "1.1").unwrap()
    }

    fn complete(ledger: &mut Ledger) -> Vec<usize> {
        let complete = ledger.take_complete(&stemcell());
        complete.iter().map(|it| it.id.position()).collect()
    }

    fn node(index: usize) -> NodeId {
        NodeId::from_index(index)
    }

    #[test]
    fn release_is_complete_once_all_its_sources_are_compiled() {
        let mut ledger = ledger(&["go@1=g, a@1=a: go", "go@1=g", ""]);
        assert_eq!(complete(&mut ledger), [2]);
        ledger.set_started(node(0));
        assert_eq!(ledger.running().count(), 1);
        ledger.set_compiled(node(0), &Arc::new(blob()));
        let of_second = ledger.take_complete(&stemcell());
        assert_eq!(of_second.len(), 1);
        assert_eq!(of_second[0].id.position(), 1);
        ledger.set_compiled(node(1), &Arc::new(blob()));
        let of_first = ledger.take_complete(&stemcell());
        let names: Vec<String> = of_first[0]
            .compiled
            .packages
            .iter()
            .map(|package| package.name.to_string())
            .collect();
        assert_eq!(names, ["go", "a"]);
        assert!(complete(&mut ledger).is_empty());
        assert!(ledger.unfinished().is_empty());
    }

    #[test]
    fn release_can_be_completed_if_it_lacks_only_fetches() {
        let mut ledger = ledger(&["go@1=g, a@1=a: go", "go@1=g, b@1=b"]);
        let fetchable = |node: NodeId| node.index() != 1;
        // Only the first release has `a`.
        let wants = |ledger: &Ledger| [0, 1, 2].map(|it| ledger.can_complete(node(it), fetchable));
        assert_eq!(wants(&ledger), [true, false, true]);
        ledger.set_compiled(node(1), &Arc::new(blob()));
        assert_eq!(wants(&ledger), [true, true, true]);
        let only_b = |node: NodeId| node.index() == 2;
        ledger.set_failed(node(0));
        assert!(!ledger.can_complete(node(2), only_b));
    }

    #[test]
    fn release_can_be_completed_while_a_cached_package_is_installed() {
        let mut ledger = ledger(&["go@1=g, a@1=a: go"]);
        let only_a = |node: NodeId| node.index() == 1;
        ledger.set_cached(node(0), &Arc::new(blob()));
        ledger.set_started(node(0));
        assert!(ledger.can_complete(node(1), only_a));
        ledger.set_stopped(node(0));
        assert!(ledger.can_complete(node(1), only_a));
        ledger.set_compiled(node(1), &Arc::new(blob()));
        assert_eq!(complete(&mut ledger), [0]);
    }

    #[test]
    fn releases_share_the_blob_of_a_common_package() {
        let mut ledger = ledger(&["go@1=g", "go@1=g"]);
        ledger.set_compiled(node(0), &Arc::new(blob()));
        let mut complete = ledger.take_complete(&stemcell());
        let last = complete.pop().unwrap().blobs.remove(0);
        let first = complete.pop().unwrap().blobs.remove(0);
        assert!(Arc::into_inner(first).is_none());
        assert!(Arc::into_inner(last).is_some());
    }

    #[test]
    fn unfinished_release_lists_its_packages_by_state() {
        let mut ledger = ledger(&["a@1=a, b@1=b: a, c@1=c, d@1=d, e@1=e"]);
        ledger.set_compiled(node(2), &Arc::new(blob()));
        ledger.set_failed(node(0));
        ledger.set_started(node(3));
        ledger.set_stopped(node(3));
        let unfinished = ledger.unfinished().remove(0);
        let name = |text: &str| Name::parse(text).unwrap();
        assert_eq!(unfinished.dependents, [(name("a"), vec![name("b")])]);
        assert_eq!(unfinished.compiled, [name("c")]);
        assert_eq!(unfinished.stopped, [name("d")]);
        assert_eq!(unfinished.not_begun, [name("e")]);
    }
}

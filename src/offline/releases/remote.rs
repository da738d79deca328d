//! Compiles the packages of a run on the machines of a server of the Remote Execution API.

use std::sync::Arc;
use std::time::Duration;

use super::Run;
use crate::cluster::{
    ClusterCaller, ClusterEvent, Fetched, Machine, Plan, PlannedPackage, RemoteFailure, Supply,
};
use crate::compile::{Event, Id, Phase};
use crate::diag::{Bytes, Elapsed, printable};
use crate::offline::compiled_release::CompiledBlob;
use crate::offline::error::OfflineError;
use crate::offline::failure::FailureCause;
use crate::offline::ids::NodeId;
use crate::offline::ledger::{PackageRecord, PackageState};
use crate::offline::progress::Took;
use crate::offline::remote::{self, RemoteCompiler};
use crate::offline::scheduling::expected;
use crate::reapi::Stage;

impl ClusterCaller for Run<'_> {
    fn on_event(&mut self, event: ClusterEvent) {
        match event {
            ClusterEvent::Started(id) => self.start(id.into()),
            ClusterEvent::Entered(id, Stage::Queued) => self.enter(id.into(), Phase::Queued),
            ClusterEvent::Entered(id, Stage::Fetching) => self.enter(id.into(), Phase::Unpacking),
            ClusterEvent::Entered(id, Stage::Running) => self.enter(id.into(), Phase::Packaging),
            ClusterEvent::Entered(..) => {}
            ClusterEvent::Built(id, built) => {
                self.elsewhere.built.insert(id.into(), built);
                self.enter(id.into(), Phase::Downloading);
            }
            ClusterEvent::GivenUp(id, failure) => {
                self.target.progress.end(NodeId::from(id).index());
                self.ledger.set_stopped(id.into());
                self.elsewhere.given_up = Some(failure);
            }
            ClusterEvent::Provided(id) => self.ledger.set_installed(id.into()),
            ClusterEvent::Ended(id, result) => {
                let node: NodeId = id.into();
                let took = self.target.progress.end(node.index());
                self.target.record.set_ended_elsewhere(node, &result);
                self.end_elsewhere(node, result, took);
            }
        }
    }

    fn still_wants(&self, id: Id) -> bool {
        self.can_complete(id.into())
    }
}

impl Run<'_> {
    /// Compiles all packages on the machines of a server.
    pub(super) async fn compile_elsewhere(&mut self, compiler: &RemoteCompiler<'_>) {
        self.elsewhere.server.clone_from(&compiler.server);
        let (plan, _) = self.plan();
        self.assemble_complete();
        let progress = self.target.progress;
        let stop = self.stop.clone();
        let running = plan.run(&compiler.cluster, compiler.limits, &stop, self);
        progress.with_reminders(running).await;
        self.fall_back(compiler).await;
    }

    /// The plan of all packages, and the ids of the packages in it. They have the same order as those of the ledger.
    pub(super) fn plan(&self) -> (Plan, Vec<Id>) {
        let packages = self.ledger.packages();
        let expected = expected(packages.iter().map(|it| &it.node), &self.durations);
        let (mut plan, mut ids) = (Plan::default(), Vec::<Id>::new());
        for (record, expected) in packages.iter().zip(expected) {
            let package = record.node.package();
            let dependencies = record.node.dependencies.iter();
            ids.push(plan.add(PlannedPackage {
                name: package.name().clone(),
                version: package.version().clone(),
                supply: self.supply(record),
                dependencies: dependencies.map(|it| ids[it.index()]).collect(),
                expected: expected.time,
            }));
        }
        (plan, ids)
    }

    fn supply(&self, record: &PackageRecord) -> Supply {
        let package = record.node.package();
        let file = remote::known(&package.blob);
        if !package.is_source() {
            return Supply::Compiled(file);
        }
        let job = self.ledger.job(record.node.first.release);
        Supply::Source {
            source: file,
            blob: job.blob(&record.node),
            log: record.logs.own.clone(),
        }
    }

    /// Whether the server has compiled a package whose download is running or has yet to begin.
    pub(super) fn can_download(&self, node: NodeId) -> bool {
        let is_downloaded = self.elsewhere.built.contains_key(&node)
            && self.ledger.record(node).state() == PackageState::Running;
        is_downloaded || self.elsewhere.on_server.contains_key(&node)
    }

    fn enter(&self, node: NodeId, phase: Phase) {
        let event = Event::Entered {
            job: node.index(),
            package: self.ledger.package(node).name().clone(),
            phase,
        };
        self.target.record.on_event(&event);
        self.target.progress.show(event);
    }

    pub(super) fn end_elsewhere(
        &mut self,
        node: NodeId,
        result: Result<Box<Fetched>, RemoteFailure>,
        took: Option<Took>,
    ) {
        match result {
            Ok(fetched) => {
                let size = fetched.built.package.size;
                match CompiledBlob::of_file(&fetched.blob, size, &fetched.digests) {
                    Some(blob) => {
                        self.report_fetched(node, &fetched, &blob, took);
                        self.elsewhere.built.remove(&node);
                        let downloaded = (fetched.blob.clone(), fetched.digests.clone());
                        self.elsewhere.downloaded.insert(node, downloaded);
                        self.ledger.set_compiled(node, &Arc::new(blob));
                    }
                    None => {
                        let package = self.ledger.package(node).name().clone();
                        self.ledger.set_failed(node);
                        self.failures.push(OfflineError::NoDigest { package });
                        self.stop.cancel();
                    }
                }
            }
            Err(RemoteFailure::Stopped) => self.ledger.set_stopped(node),
            Err(failure) => {
                let failure = failure.of_server(&self.elsewhere.server);
                self.fail_package(node, FailureCause::Remote(failure));
            }
        }
        self.ledger.record(node).logs.link();
        self.assemble_complete();
    }

    fn report_fetched(
        &mut self,
        node: NodeId,
        fetched: &Fetched,
        blob: &CompiledBlob,
        took: Option<Took>,
    ) {
        let (package, built) = (self.ledger.package(node), &fetched.built);
        let (name, version) = (package.name(), package.version());
        let progress = self.target.progress;
        let worked = built.report.times.map_or(0.0, |times| times.work());
        let worked = Duration::try_from_secs_f64(worked).unwrap_or_default();
        let took = took.unwrap_or(Took {
            total: worked,
            waited: Duration::ZERO,
        });
        progress.add_compiled(&match built.is_cached {
            true => format!(
                "Using the result of an earlier run for {name}/{version} BlobstoreID={}{}",
                blob.digest,
                earlier_machine(&built.machine)
            ),
            false => format!(
                "Finished compiling release {name}/{version} BlobstoreID={} after {took}{}",
                blob.digest,
                machine_and_times(&built.machine)
            ),
        });
        if let Some(size) = built.too_long_log() {
            progress.warn(&format!(
                "Warning: the log of package {name} has {} and stays on the server: longer logs than 256 MiB are not downloaded",
                Bytes(size)
            ));
        }
        for warning in &built.report.warnings {
            progress.warn(&printable(warning));
        }
        self.durations.add(name, version, worked);
    }
}

/// Which machine has compiled the package in an earlier run, as far as the server says that.
fn earlier_machine(machine: &Machine) -> String {
    match machine.name.as_str() {
        "" => String::new(),
        name => format!(" (compiled on {name})"),
    }
}

/// The machine that compiled a package and its times, as the server reports them.
fn machine_and_times(machine: &Machine) -> String {
    let on = match machine.name.as_str() {
        "" => String::new(),
        name => format!(" on {name}"),
    };
    let steps = [
        ("queued", machine.queued),
        ("fetching inputs", machine.fetching),
        ("executing", machine.executing),
    ];
    let steps = steps.into_iter();
    let steps = steps.filter_map(|(name, time)| Some(format!("{name} {}", Elapsed(time?))));
    let steps: Vec<String> = steps.collect();
    match steps.is_empty() {
        true => on,
        false => format!("{on} ({})", steps.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_names_the_machine_and_its_times() {
        let mut machine = Machine::default();
        assert_eq!(machine_and_times(&machine), "");
        machine.name = "worker-1".to_owned();
        assert_eq!(machine_and_times(&machine), " on worker-1");
        machine.queued = Some(Duration::from_millis(1500));
        machine.executing = Some(Duration::from_secs(90));
        assert_eq!(
            machine_and_times(&machine),
            " on worker-1 (queued 1.5s, executing 1m30s)"
        );
    }
}

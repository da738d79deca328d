//! Compiles the packages of a plan on other machines, dependencies first, and downloads the
//! results. A *caller* receives events.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::{Built, Cluster};
use super::error::RemoteFailure;
use super::plan::Plan;
use super::tasks::{Fetched, Shared, TaskStage};
use crate::compile::{Id, Queue, Stopping};
use crate::fs;
use crate::reapi::Stage;
use crate::runtime::{TaskFailed, TaskSet};

/// A change of a package's state.
#[derive(Debug)]
pub(crate) enum ClusterEvent {
    /// The compilation starts.
    Started(Id),
    /// The execution entered a stage.
    Entered(Id, Stage),
    /// The package was compiled. Its dependents can start, and its files are downloaded.
    Built(Id, Box<Built>),
    /// The files were downloaded, or the package failed.
    Ended(Id, Result<Box<Fetched>, RemoteFailure>),
    /// The package was not compiled, and the server is given up for this reason. All packages that are
    /// not downloaded end as stopped.
    GivenUp(Id, RemoteFailure),
    /// The package was already compiled. Its dependents can start.
    Provided(Id),
}

/// How a run proceeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How many packages are compiled concurrently, at most.
    pub jobs: NonZeroUsize,
    /// Whether packages that do not depend on a failed one are still compiled.
    pub keep_going: bool,
    /// Whether the run ends with [`ClusterEvent::GivenUp`] if the server is to blame for a failure.
    pub gives_up: bool,
    /// How long all packages may wait in the server's queue.
    pub queue: Option<Duration>,
}

/// Receives the events of a run.
pub(crate) trait ClusterCaller {
    fn hear(&mut self, event: ClusterEvent);

    /// Whether the files of this package are still to be downloaded after another package has failed.
    fn still_wants(&self, id: Id) -> bool;
}

impl Plan {
    /// Compiles all packages. The first failure stops the others, unless the limits say otherwise, but not the
    /// downloads that the caller still wants.
    pub(crate) async fn run(
        self,
        cluster: &Arc<Cluster>,
        limits: Limits,
        stop: &CancellationToken,
        caller: &mut impl ClusterCaller,
    ) {
        let all = stop.child_token();
        let stopping = Stopping::new(&all, limits.keep_going);
        let (graph, shared, stages) = self.into_shared(cluster, (stopping.builds(), &all));
        let run = Run {
            queue: Queue::new(graph),
            building: TaskSet::new("build"),
            fetching: TaskSet::new("fetch"),
            shared,
            limits,
            stopping,
            stages: HashMap::new(),
            queued_since: None,
            queued_too_long: None,
            is_given_up: false,
        };
        run.run(stages, caller).await;
    }
}

struct Run<'a> {
    queue: Queue,
    building: TaskSet<Id, Result<Built, RemoteFailure>>,
    fetching: TaskSet<Id, Result<Box<Fetched>, RemoteFailure>>,
    shared: Arc<Shared>,
    limits: Limits,
    stopping: Stopping<'a>,
    /// For each task that waits for an execution, its stage. A task that downloads files waits for one if the server has lost them.
    stages: HashMap<Id, Stage>,
    /// Since when all executions wait in the server's queue.
    queued_since: Option<Instant>,
    /// The package that was reported because all executions waited for too long. The end of its task is not reported.
    queued_too_long: Option<Id>,
    is_given_up: bool,
}

impl Run<'_> {
    async fn run(
        mut self,
        mut stages: mpsc::UnboundedReceiver<TaskStage>,
        caller: &mut impl ClusterCaller,
    ) {
        loop {
            self.start(caller);
            self.stopping
                .stop_unwanted_fetches(|id| caller.still_wants(id));
            if self.building.is_empty() && self.fetching.is_empty() {
                return;
            }
            let limit = self.queue_limit();
            // Cancel-safe: each branch may be dropped.
            tokio::select! {
                biased;
                Some(stage) = stages.recv() => self.entered(stage, caller),
                Some((id, built)) = self.building.next() => self.built(id, flat(built), caller),
                Some((id, fetched)) = self.fetching.next() => self.fetched(id, flat(fetched), caller),
                () = async { tokio::time::sleep_until(limit.unwrap_or_else(Instant::now)).await }, if limit.is_some() => {
                    self.stop_waiting(caller);
                }
            }
        }
    }

    /// When the run ends if all executions stay in the server's queue. `None` if one is elsewhere.
    fn queue_limit(&mut self) -> Option<Instant> {
        let limit = self.limits.queue?;
        let is_queued = |id| self.stages.get(id) == Some(&Stage::Queued);
        // Other downloads wait for no machine.
        let rebuilding = self.fetching.keys();
        let rebuilding = rebuilding.filter(|id| self.stages.contains_key(id));
        let mut waiting = self.building.keys().chain(rebuilding).peekable();
        let are_queued = waiting.peek().is_some() && waiting.all(is_queued);
        if !are_queued || self.stopping.builds().is_cancelled() {
            self.queued_since = None;
            return None;
        }
        Some(*self.queued_since.get_or_insert_with(Instant::now) + limit)
    }

    /// Reports one of the packages that wait in the server's queue, and stops all executions.
    fn stop_waiting(&mut self, caller: &mut impl ClusterCaller) {
        self.queued_too_long = self.stages.keys().min().copied();
        if let (Some(id), Some(limit)) = (self.queued_too_long, self.limits.queue) {
            self.failed(id, RemoteFailure::NoMachine { limit }, caller);
        }
        self.stopping.stop_builds();
    }

    /// Starts packages whose dependencies are compiled.
    fn start(&mut self, caller: &mut impl ClusterCaller) {
        let stop = self.stopping.builds().clone();
        while self.building.len() < self.limits.jobs.get() && !stop.is_cancelled() {
            let Some(id) = self.queue.next() else { return };
            if self.shared.provide(id) {
                self.queue.done(id);
                caller.hear(ClusterEvent::Provided(id));
                continue;
            }
            caller.hear(ClusterEvent::Started(id));
            let shared = Arc::clone(&self.shared);
            self.building.spawn(id, async move {
                let built = shared.build((id, id), false).await;
                if let Err(failure) = &built {
                    shared.fetch_log(id, failure).await;
                }
                built
            });
        }
    }

    fn entered(&mut self, entered: TaskStage, caller: &mut impl ClusterCaller) {
        let TaskStage {
            task,
            package,
            stage,
        } = entered;
        if stage == Stage::Ended {
            self.stages.remove(&task);
            return;
        }
        self.stages.insert(task, stage);
        if package == task {
            caller.hear(ClusterEvent::Entered(task, stage));
        }
    }

    fn built(
        &mut self,
        id: Id,
        built: Result<Built, RemoteFailure>,
        caller: &mut impl ClusterCaller,
    ) {
        self.stages.remove(&id);
        let is_reported = self.queued_too_long == Some(id);
        match built {
            Ok(built) if !is_reported => {
                self.queue.done(id);
                caller.hear(ClusterEvent::Built(id, Box::new(built.clone())));
                let (shared, stop) = (Arc::clone(&self.shared), self.stopping.fetch_started(id));
                self.fetching
                    .spawn(id, async move { shared.fetch(id, built, &stop).await });
            }
            Ok(_) => {
                self.queue.failed(id);
            }
            Err(failure) => {
                self.queue.failed(id);
                if !is_reported {
                    self.failed(id, failure, caller);
                }
            }
        }
    }

    fn fetched(
        &mut self,
        id: Id,
        fetched: Result<Box<Fetched>, RemoteFailure>,
        caller: &mut impl ClusterCaller,
    ) {
        self.stages.remove(&id);
        self.stopping.fetch_ended(id);
        if self.queued_too_long == Some(id) {
            return;
        }
        match fetched {
            Ok(fetched) => caller.hear(ClusterEvent::Ended(id, Ok(fetched))),
            Err(failure) => {
                // Each of the other downloads would take as long.
                let is_outage = failure.is_outage();
                self.failed(id, failure, caller);
                if is_outage {
                    self.stopping.stop_all();
                }
            }
        }
    }

    fn failed(&mut self, id: Id, failure: RemoteFailure, caller: &mut impl ClusterCaller) {
        // After another failure, no machine compiles the rest.
        let gives_up =
            self.is_given_up || self.limits.gives_up && !self.stopping.builds().is_cancelled();
        // Send the event first, because the caller may count the packages that still run.
        if gives_up && failure.is_of_the_server() {
            caller.hear(match self.is_given_up {
                true => ClusterEvent::Ended(id, Err(RemoteFailure::Stopped)),
                false => ClusterEvent::GivenUp(id, failure),
            });
            self.is_given_up = true;
            self.stopping.stop_all();
            return;
        }
        let is_no_space = fs::is_no_space_behind(&failure);
        let is_outage = failure.is_outage();
        caller.hear(ClusterEvent::Ended(id, Err(failure)));
        self.stopping.handle_failure(is_no_space);
        if is_outage {
            self.stopping.stop_builds();
        }
    }
}

fn flat<T>(result: Result<Result<T, RemoteFailure>, TaskFailed>) -> Result<T, RemoteFailure> {
    result.unwrap_or_else(|error| Err(error.into()))
}

#[cfg(test)]
mod tests;

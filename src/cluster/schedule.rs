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
use super::ramp::Ramp;
use super::tasks::{Fetched, Shared, TaskStage};
use crate::compile::{Id, Queue, Stopping};
use crate::fs;
use crate::reapi::Stage;
use crate::runtime::{TaskFailed, TaskSet};

/// A change of a package's state.
#[derive(Debug)]
pub(crate) enum ClusterEvent {
    /// The compilation of the package starts.
    Started(Id),
    /// The execution of the package's action entered a stage.
    Entered(Id, Stage),
    /// The package was compiled. Its dependents can start, and the download of its files starts.
    Built(Id, Box<Built>),
    /// The files were downloaded, or the package failed.
    Ended(Id, Result<Box<Fetched>, RemoteFailure>),
    /// The package was not compiled, and this run does not use the server any longer. All packages that
    /// are not downloaded yet end with [`RemoteFailure::Stopped`].
    GivenUp(Id, RemoteFailure),
    /// The package was compiled before the run. Its dependents can start.
    Provided(Id),
}

/// The limits of a run, and what it does after a failure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The maximum number of packages that are compiled concurrently.
    pub jobs: NonZeroUsize,
    /// Whether packages that do not depend on a failed one are still compiled.
    pub keep_going: bool,
    /// Whether the run ends with [`ClusterEvent::GivenUp`] if the server is to blame for a failure.
    pub gives_up: bool,
    /// How long all packages that are being compiled may wait in the server's queue at the same time.
    pub queue: Option<Duration>,
}

/// Receives the events of a run.
pub(crate) trait ClusterCaller {
    fn on_event(&mut self, event: ClusterEvent);

    /// Whether the files of this package are still needed after another package has failed.
    fn still_wants(&self, id: Id) -> bool;
}

impl Plan {
    /// Compiles all packages. By default, the first failure stops all compilations, and the downloads that the
    /// caller does not want any longer.
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
            ramp: Ramp::new(limits.jobs),
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
    ramp: Ramp,
    building: TaskSet<Id, Result<Built, RemoteFailure>>,
    fetching: TaskSet<Id, Result<Box<Fetched>, RemoteFailure>>,
    shared: Arc<Shared>,
    limits: Limits,
    stopping: Stopping<'a>,
    /// For each task that waits for an execution, the stage of the execution. A task that downloads files compiles the package again, and
    /// so waits for an execution, if the server has lost the files.
    stages: HashMap<Id, Stage>,
    /// The time since which all executions have been waiting in the server's queue.
    queued_since: Option<Instant>,
    /// The package that was reported as failed because all executions had waited for too long. The end of its task is not reported again.
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
            let next_start = self.start(caller);
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
                () = tokio::time::sleep_until(next_start.unwrap_or_else(Instant::now)), if next_start.is_some() => {}
            }
        }
    }

    /// The time at which the run ends if all executions stay in the server's queue. `None` if there is no limit or no execution, if one has
    /// left the queue, or after a stop.
    fn queue_limit(&mut self) -> Option<Instant> {
        let limit = self.limits.queue?;
        let is_queued = |id| self.stages.get(id) == Some(&Stage::Queued);
        // Only downloads that compile a package again wait for a machine.
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

    /// Starts packages whose dependencies are compiled. Returns the time at which more packages may start, if only the ramp prevents it.
    fn start(&mut self, caller: &mut impl ClusterCaller) -> Option<Instant> {
        let stop = self.stopping.builds().clone();
        while self.building.len() < self.limits.jobs.get() && !stop.is_cancelled() {
            let next_start = self.ramp.next_start(self.building.len());
            if next_start > Instant::now() {
                return Some(next_start);
            }
            let id = self.queue.next()?;
            if self.shared.provide(id) {
                self.queue.done(id);
                caller.on_event(ClusterEvent::Provided(id));
                continue;
            }
            caller.on_event(ClusterEvent::Started(id));
            let shared = Arc::clone(&self.shared);
            self.building.spawn(id, async move {
                let built = shared.build((id, id), false).await;
                if let Err(failure) = &built {
                    shared.fetch_log(id, failure).await;
                }
                built
            });
        }
        None
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
            caller.on_event(ClusterEvent::Entered(task, stage));
        }
    }

    fn built(
        &mut self,
        id: Id,
        built: Result<Built, RemoteFailure>,
        caller: &mut impl ClusterCaller,
    ) {
        self.ramp.ended();
        self.stages.remove(&id);
        let is_reported = self.queued_too_long == Some(id);
        match built {
            Ok(built) if !is_reported => {
                self.queue.done(id);
                caller.on_event(ClusterEvent::Built(id, Box::new(built.clone())));
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
            Ok(fetched) => caller.on_event(ClusterEvent::Ended(id, Ok(fetched))),
            Err(failure) => {
                // Stop the other downloads after an outage, because each of them would be repeated for as long.
                let is_outage = failure.is_outage();
                self.failed(id, failure, caller);
                if is_outage {
                    self.stopping.stop_all();
                }
            }
        }
    }

    fn failed(&mut self, id: Id, failure: RemoteFailure, caller: &mut impl ClusterCaller) {
        // Do not give up after another failure: it has stopped the run, so this machine compiles nothing either.
        let gives_up =
            self.is_given_up || self.limits.gives_up && !self.stopping.builds().is_cancelled();
        // Send the event first, because the caller may count the packages that still run.
        if gives_up && failure.is_of_the_server() {
            caller.on_event(match self.is_given_up {
                true => ClusterEvent::Ended(id, Err(RemoteFailure::Stopped)),
                false => ClusterEvent::GivenUp(id, failure),
            });
            self.is_given_up = true;
            self.stopping.stop_all();
            return;
        }
        let is_no_space = fs::is_no_space_behind(&failure);
        let is_outage = failure.is_outage();
        caller.on_event(ClusterEvent::Ended(id, Err(failure)));
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

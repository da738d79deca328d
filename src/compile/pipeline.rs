//! Runs the tasks of a schedule concurrently. A build compiles and installs a package, packing archives the installed files, and a fetch
//! gets a package from a shared cache.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;

use super::filling;
use super::origin::FetchedBlob;
use super::queue::{Id, Queue};
use crate::cache::TRANSFERS;
use crate::diag::Chain;
use crate::runtime::{TaskFailed, TaskSet};

/// The limits of concurrent tasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Concurrency {
    /// The maximum number of concurrent builds. Also the maximum number of packages that are packed concurrently, and of packages that wait
    /// for packing. The last number is limited because waiting packages occupy disk space.
    pub builds: usize,
    /// How many further packages are prepared while their scripts wait for a turn.
    pub ahead: usize,
}

impl Concurrency {
    /// The concurrency of a schedule with `jobs` jobs.
    pub(super) fn new(jobs: usize, is_shared: bool) -> Self {
        Self {
            builds: jobs,
            // If all packages use the same directories (a shared tree), prepare no package: it would block other packages.
            ahead: usize::from(jobs > 1 && !is_shared),
        }
    }

    /// The next package to build while `building` packages are being built or prepared.
    pub(super) fn next(self, queue: &mut Queue, building: usize) -> Option<Id> {
        match building {
            count if count < self.builds => queue.next(),
            count if count < self.builds + self.ahead => queue.next_ahead(),
            _ => None,
        }
    }
}

/// The tasks of a schedule. `B` is the result of a build, and `P` is the result of packing.
pub(super) struct Pipeline<'a, B, P> {
    queue: Queue,
    concurrency: Concurrency,
    /// No build starts after this token is canceled.
    stop: &'a CancellationToken,
    building: TaskSet<Id, B>,
    /// Built packages that wait to be packed.
    built: VecDeque<(Id, Packing<P>)>,
    packing: TaskSet<Id, P>,
    fetching: TaskSet<Id, Option<FetchedBlob>>,
}

type Packing<P> = Pin<Box<dyn Future<Output = P> + Send>>;

/// An event in a pipeline.
pub(super) enum PipelineStep<B, P> {
    /// A build has ended: [`Pipeline::pack`] or [`Pipeline::fail`] follows.
    Built(Id, Result<B, TaskFailed>),
    /// Packing has ended.
    Packed(Id, Result<P, TaskFailed>),
    /// A fetch has ended: [`Queue::fetched`] or [`Queue::not_fetched`] follows. `None` if the fetch failed.
    Fetched(Id, Option<FetchedBlob>),
    /// It is time to check the build caches that packages fill.
    CheckCaches,
}

impl<'a, B: Send + 'static, P: Send + 'static> Pipeline<'a, B, P> {
    pub(super) fn new(queue: Queue, concurrency: Concurrency, stop: &'a CancellationToken) -> Self {
        Self {
            queue,
            concurrency,
            stop,
            building: TaskSet::new("package"),
            built: VecDeque::new(),
            packing: TaskSet::new("pack"),
            fetching: TaskSet::new("fetch"),
        }
    }

    pub(super) fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// The next package to [`build`](Self::build), if one may start now.
    pub(super) fn next_to_build(&mut self) -> Option<Id> {
        if self.built.len() >= self.concurrency.builds || self.stop.is_cancelled() {
            return None;
        }
        self.concurrency.next(&mut self.queue, self.building.len())
    }

    pub(super) fn build(&mut self, id: Id, build: impl Future<Output = B> + Send + 'static) {
        self.building.spawn(id, build);
    }

    /// The next package to [`fetch`](Self::fetch), among those that `is_wanted` accepts. `None` if no further fetch may start now. Fetches
    /// have a limit of their own.
    pub(super) fn next_to_fetch(&mut self, is_wanted: impl Fn(Id) -> bool) -> Option<Id> {
        if self.fetching.len() >= TRANSFERS {
            return None;
        }
        self.queue.next_fetch(is_wanted)
    }

    pub(super) fn fetch(
        &mut self,
        id: Id,
        fetch: impl Future<Output = Option<FetchedBlob>> + Send + 'static,
    ) {
        self.fetching.spawn(id, fetch);
    }

    /// Records that a package is built, so that its dependents can start. Packs the package when the limit permits.
    pub(super) fn pack(&mut self, id: Id, pack: impl Future<Output = P> + Send + 'static) {
        self.queue.done(id);
        self.built.push_back((id, Box::pin(pack)));
        self.start_packing();
    }

    /// Records a failed build. Returns the packages that cannot be built because they depend on the failed package.
    pub(super) fn fail(&mut self, id: Id) -> Vec<Id> {
        self.queue.failed(id)
    }

    /// Waits for the next event. `None` if no task is running.
    pub(super) async fn next(&mut self) -> Option<PipelineStep<B, P>> {
        // Cancel-safe per docs on `next`.
        tokio::select! {
            Some((id, result)) = self.building.next() => Some(PipelineStep::Built(id, result)),
            Some((id, result)) = self.packing.next() => {
                self.start_packing();
                Some(PipelineStep::Packed(id, result))
            }
            Some((id, result)) = self.fetching.next() => {
                let fetched = result.unwrap_or_else(|error| {
                    tracing::warn!(error = %Chain(&error), "a package is compiled, because it could not be fetched");
                    None
                });
                Some(PipelineStep::Fetched(id, fetched))
            }
            () = tokio::time::sleep(filling::INTERVAL), if !self.queue.filling().is_empty() => {
                Some(PipelineStep::CheckCaches)
            }
            else => None,
        }
    }

    fn start_packing(&mut self) {
        while self.packing.len() < self.concurrency.builds
            && let Some((id, pack)) = self.built.pop_front()
        {
            self.packing.spawn(id, pack);
        }
    }
}

#[cfg(test)]
mod tests;

//! What the server has stored, and what it has counted.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::longrunning::Operation;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;

use super::Model;

/// The calls of a method.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    /// The bytes of blobs that the calls have transferred.
    pub(crate) bytes: u64,
}

/// Where calls wait while a test holds them.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_closed: watch::Sender<bool>,
    waiting: AtomicUsize,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.is_closed.send_replace(true);
    }

    pub(crate) fn open(&self) {
        self.is_closed.send_replace(false);
    }

    /// How many calls have come to the closed gate.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) async fn pass(&self) {
        let mut is_closed = self.is_closed.subscribe();
        if *is_closed.borrow() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        let _ = is_closed.wait_for(|is_closed| !is_closed).await;
    }
}

/// An execution, from its start.
pub(super) struct Execution {
    pub(super) updates: watch::Receiver<Operation>,
    pub(super) task: AbortHandle,
}

pub(crate) struct State {
    pub(super) model: Model,
    pub(super) blobs: Mutex<HashMap<String, Bytes>>,
    pub(super) results: Mutex<HashMap<String, api::ActionResult>>,
    /// Uploads that have not ended, by their resource names.
    pub(super) uploads: Mutex<HashMap<String, Vec<u8>>>,
    pub(super) executions: Mutex<HashMap<String, Execution>>,
    pub(super) machines: Semaphore,
    /// Where downloads of packages wait.
    pub(crate) downloads: Gate,
    /// Where scripts wait that will fail.
    pub(crate) failures: Gate,
    counts: Mutex<BTreeMap<&'static str, Counts>>,
    /// When the network has transferred what was given to it.
    network: Mutex<Instant>,
}

impl State {
    pub(super) fn new(model: Model) -> Self {
        Self {
            machines: Semaphore::new(model.machines),
            model,
            blobs: Mutex::default(),
            results: Mutex::default(),
            uploads: Mutex::default(),
            executions: Mutex::default(),
            downloads: Gate::default(),
            failures: Gate::default(),
            counts: Mutex::default(),
            network: Mutex::new(Instant::now()),
        }
    }

    /// The calls of each method.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, Counts> {
        self.counts.lock().unwrap().clone()
    }

    /// Counts a call, and waits for as long as a message takes.
    pub(super) async fn called(&self, method: &'static str) {
        self.counts.lock().unwrap().entry(method).or_default().calls += 1;
        tokio::time::sleep(self.model.latency).await;
    }

    /// Counts bytes of a blob, and waits until they are transferred.
    pub(super) async fn transfer(&self, method: &'static str, bytes: usize) {
        let bytes = bytes as u64;
        self.counts.lock().unwrap().entry(method).or_default().bytes += bytes;
        if self.model.bandwidth == 0 {
            return;
        }
        let free = {
            let mut free = self.network.lock().unwrap();
            let time = Duration::from_secs_f64(bytes as f64 / self.model.bandwidth as f64);
            *free = (*free).max(Instant::now()) + time;
            *free
        };
        tokio::time::sleep_until(free).await;
    }

    pub(super) fn blob(&self, digest: &api::Digest) -> Option<Bytes> {
        self.blobs.lock().unwrap().get(&digest.hash).cloned()
    }

    pub(super) fn store(&self, hash: String, data: Bytes) {
        self.blobs.lock().unwrap().insert(hash, data);
    }

    /// Stores a blob of a client, if there is space.
    pub(super) fn store_from_client(&self, hash: String, data: Bytes) -> Result<(), Status> {
        let capacity = self.model.capacity;
        let stored: usize = self.blobs.lock().unwrap().values().map(Bytes::len).sum();
        if capacity > 0 && stored + data.len() > capacity {
            return Err(Status::resource_exhausted("the storage is full"));
        }
        self.store(hash, data);
        Ok(())
    }

    /// How many executions have not ended.
    pub(crate) fn running(&self) -> usize {
        let executions = self.executions.lock().unwrap();
        let running = executions.values();
        running.filter(|it| !it.updates.borrow().done).count()
    }
}

/// The services of the server, which share its state.
#[derive(Clone)]
pub(super) struct Services(pub(super) Arc<State>);

impl Deref for Services {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

/// The error for a method that the client does not need.
pub(super) fn unneeded<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the client does not need it"))
}

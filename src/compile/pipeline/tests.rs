//! Builds and packing end when the test opens their gate (notifies them), or when they are stopped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::super::queue::{Graph, Supply};
use super::*;
use crate::runtime;

/// Packages that do nothing. A package is identified by its index.
struct Fake {
    /// The gate of each package's build.
    builds: Vec<Arc<Notify>>,
    /// The gate of each package's packing.
    packs: Vec<Arc<Notify>>,
    started: Arc<Mutex<Vec<usize>>>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    stop: CancellationToken,
    failing_builds: Vec<usize>,
    failing_packs: Vec<usize>,
    /// The packages that have ended, and whether they succeeded.
    ended: Vec<(usize, bool)>,
    skipped: Vec<usize>,
}

impl Fake {
    fn new(count: usize) -> Self {
        Self {
            builds: (0..count).map(|_| Arc::default()).collect(),
            packs: (0..count).map(|_| Arc::default()).collect(),
            started: Arc::default(),
            running: Arc::default(),
            most: Arc::default(),
            stop: CancellationToken::new(),
            failing_builds: Vec::new(),
            failing_packs: Vec::new(),
            ended: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Runs all packages, `jobs` at a time.
    async fn run(&mut self, jobs: usize) {
        let stop = self.stop.clone();
        let concurrency = Concurrency {
            builds: jobs,
            ahead: 0,
        };
        let mut pipeline = Pipeline::new(queue(), concurrency, &stop);
        loop {
            while let Some(id) = pipeline.next_to_build() {
                pipeline.build(id, self.build(id.index()));
            }
            match pipeline.next().await {
                Some(PipelineStep::Built(id, Ok(true))) => pipeline.pack(id, self.pack(id.index())),
                Some(PipelineStep::Built(id, _)) => {
                    self.ended.push((id.index(), false));
                    stop.cancel();
                    let skipped = pipeline.fail(id).into_iter();
                    self.skipped.extend(skipped.map(Id::index));
                }
                Some(PipelineStep::Packed(id, result)) => {
                    let succeeded = result.unwrap();
                    self.ended.push((id.index(), succeeded));
                    if !succeeded {
                        stop.cancel();
                    }
                }
                Some(PipelineStep::Fetched(..)) => panic!("nothing is fetched"),
                Some(PipelineStep::CheckCaches) => panic!("there are no caches"),
                None => return,
            }
        }
    }

    fn build(&self, index: usize) -> impl Future<Output = bool> + Send + 'static {
        let (gate, stop) = (Arc::clone(&self.builds[index]), self.stop.clone());
        let (running, fails) = (
            Arc::clone(&self.running),
            self.failing_builds.contains(&index),
        );
        self.started.lock().unwrap().push(index);
        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        async move {
            let succeeded = was_opened(&gate, &stop).await && !fails;
            running.fetch_sub(1, Ordering::SeqCst);
            succeeded
        }
    }

    fn pack(&self, index: usize) -> impl Future<Output = bool> + Send + 'static {
        let (gate, stop) = (Arc::clone(&self.packs[index]), self.stop.clone());
        let fails = self.failing_packs.contains(&index);
        async move { was_opened(&gate, &stop).await && !fails }
    }
}

/// Waits until the gate is opened (`true`) or the run is stopped (`false`).
async fn was_opened(gate: &Notify, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = gate.notified() => true,
        () = stop.cancelled() => false,
    }
}

async fn until_started(started: &Mutex<Vec<usize>>, is_enough: impl Fn(&[usize]) -> bool) {
    while !is_enough(&started.lock().unwrap()) {
        tokio::task::yield_now().await;
    }
}

/// `2` depends on `0` and `1`, `4` on `3`; `5` stands alone.
fn queue() -> Queue {
    let mut graph = Graph::default();
    let mut add = |dependencies: &[Id]| graph.add(dependencies, Duration::ZERO, Vec::new());
    let (a, b) = (add(&[]), add(&[]));
    add(&[a, b]);
    let c = add(&[]);
    add(&[c]);
    add(&[]);
    Queue::new(graph)
}

#[tokio::test]
async fn all_packages_run_within_the_limit() {
    for jobs in 1..5 {
        let mut fake = Fake::new(6);
        let gates = fake.builds.iter().chain(&fake.packs);
        gates.for_each(|gate| gate.notify_one());
        fake.run(jobs).await;
        assert_eq!(fake.ended.len(), 6);
        assert_eq!(fake.most.load(Ordering::SeqCst), jobs.min(4));
        assert!(!fake.stop.is_cancelled());
        if jobs == 1 {
            assert_eq!(*fake.started.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
        }
    }
}

#[tokio::test]
async fn failed_build_stops_the_others_and_starts_nothing() {
    let mut fake = Fake::new(6);
    fake.failing_builds.push(0);
    // The others end only because they are stopped.
    fake.builds[0].notify_one();
    fake.run(2).await;
    assert_eq!(fake.ended, [(0, false), (1, false)]);
    assert_eq!(fake.skipped, [2]);
    assert_eq!(*fake.started.lock().unwrap(), [0, 1]);
}

#[tokio::test]
async fn dependents_start_before_their_dependencies_are_packed() {
    let mut fake = Fake::new(6);
    fake.builds.iter().for_each(|gate| gate.notify_one());
    let (started, packs) = (Arc::clone(&fake.started), fake.packs.clone());
    let opening = runtime::spawn("opening", async move {
        until_started(&started, |started| started.contains(&2)).await;
        // Two packages wait while two are packed, and then nothing more starts.
        until_started(&started, |started| started.len() >= 5).await;
        packs.iter().for_each(|gate| gate.notify_one());
    });
    fake.run(2).await;
    opening.await.unwrap();
    assert_eq!(fake.ended.len(), 6);
    assert!(fake.ended.iter().all(|(_, succeeded)| *succeeded));
}

#[tokio::test]
async fn failed_packing_stops_what_has_started() {
    let mut fake = Fake::new(6);
    fake.failing_packs.push(0);
    fake.builds[0].notify_one();
    fake.builds[1].notify_one();
    let (started, gate) = (Arc::clone(&fake.started), Arc::clone(&fake.packs[0]));
    let opening = runtime::spawn("opening", async move {
        until_started(&started, |started| started.contains(&2)).await;
        gate.notify_one();
    });
    fake.run(2).await;
    opening.await.unwrap();
    assert!(fake.stop.is_cancelled());
    assert!(fake.ended.contains(&(0, false)) && fake.ended.contains(&(2, false)));
    assert_eq!(fake.started.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn stopped_pipeline_starts_nothing() {
    let mut fake = Fake::new(6);
    fake.stop.cancel();
    fake.run(2).await;
    assert!(fake.ended.is_empty());
}

#[tokio::test]
async fn fetches_have_their_own_limit() {
    let mut graph = Graph::default();
    let count = TRANSFERS + 2;
    for _ in 0..count {
        let id = graph.add(&[], Duration::ZERO, Vec::new());
        graph.set_supply(id, Supply::Remote { is_result: true });
    }
    let built = graph.add(&[], Duration::ZERO, Vec::new());
    let stop = CancellationToken::new();
    let concurrency = Concurrency {
        builds: 1,
        ahead: 0,
    };
    let mut pipeline = Pipeline::<bool, bool>::new(Queue::new(graph), concurrency, &stop);
    let mut fetched = 0;
    while let Some(id) = pipeline.next_to_fetch(|_| true) {
        pipeline.fetch(id, std::future::ready(None));
        fetched += 1;
    }
    assert_eq!(fetched, TRANSFERS);
    assert_eq!(pipeline.next_to_build(), Some(built));
    let Some(PipelineStep::Fetched(id, None)) = pipeline.next().await else {
        panic!("nothing was fetched");
    };
    assert!(pipeline.queue().not_fetched(id).is_empty());
    stop.cancel();
    assert!(pipeline.next_to_fetch(|_| true).is_some());
    assert_eq!(pipeline.next_to_fetch(|_| false), None);
}

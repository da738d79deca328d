//! The time of scheduling 2,000 packages: building the queue, and all calls of `next` and `done`. `cargo bench --bench queue`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::{Duration, Instant};

use bosh_agent::compile::{Claim, Graph, Holds, Id, Queue};

const PACKAGES: usize = 2000;
const ROUNDS: usize = 30;
const JOBS: usize = 8;

fn main() {
    println!("{PACKAGES} packages, {JOBS} at once (ms, medians of {ROUNDS})");
    for (name, is_shared) in [("isolated packages", false), ("in one shared tree", true)] {
        let mut times: Vec<Duration> = (0..ROUNDS).map(|_| once(is_shared)).collect();
        times.sort();
        println!("{name:24} {:7.2}", times[ROUNDS / 2].as_secs_f64() * 1000.0);
    }
}

/// Random graphs, the same in each run: each package has up to eight dependencies among the earlier ones.
fn once(is_shared: bool) -> Duration {
    let start = Instant::now();
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        usize::try_from(chance % below as u64).unwrap_or(0)
    };
    let mut graph = Graph::default();
    let mut ids: Vec<Id> = Vec::new();
    for index in 0..PACKAGES {
        let count = draw(9).min(index);
        let dependencies: Vec<Id> = (0..count).map(|_| ids[draw(index)]).collect();
        let mut claims = Vec::new();
        if is_shared {
            // Ten releases with packages of the same names.
            let mut claim = |resource, holds| claims.push(Claim { resource, holds });
            claim(index % (PACKAGES / 10), Holds::Exclusive);
            let mut needed: Vec<usize> = dependencies.iter().map(|id| id.index()).collect();
            needed.sort_unstable();
            needed.dedup_by_key(|index| *index % (PACKAGES / 10));
            for needed in needed {
                claim(needed % (PACKAGES / 10), Holds::Contents(needed));
            }
        }
        let expected = Duration::from_millis(draw(60_000) as u64);
        ids.push(graph.add(&dependencies, expected, claims));
    }
    let mut queue = Queue::new(graph);
    let mut running = Vec::new();
    let mut done = 0;
    loop {
        while running.len() < JOBS
            && let Some(id) = queue.next()
        {
            running.push(id);
        }
        if running.is_empty() {
            break;
        }
        queue.done(running.swap_remove(draw(running.len())));
        done += 1;
    }
    assert_eq!(done, PACKAGES);
    start.elapsed()
}

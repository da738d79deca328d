//! Predicts in which order and when the packages of a schedule would be compiled, with the same [`Queue`] and [`Concurrency`] as in a run.
//! No I/O.
//!
//! The run itself can differ from the forecast: packages may take longer, wait for memory, or wait until another package has filled a cache.

use std::collections::VecDeque;
use std::time::Duration;

use super::pipeline::Concurrency;
use super::queue::{Id, Queue};

/// A package of a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForecastStep {
    /// The package.
    pub id: Id,
    /// When it is expected to start, after the start of the schedule.
    pub start: Duration,
    /// When it is expected to be done.
    pub end: Duration,
}

/// The packages of a queue in the order of their starts. `times` has the duration of each package, at the index of its id.
pub(super) fn forecast(
    mut queue: Queue,
    concurrency: Concurrency,
    times: &[Duration],
) -> Vec<ForecastStep> {
    let mut steps = Vec::new();
    let mut now = Duration::ZERO;
    let mut running: Vec<ForecastStep> = Vec::new();
    // Packages that are prepared and wait for a turn to run their scripts.
    let mut prepared: VecDeque<Id> = VecDeque::new();
    loop {
        while let Some(id) = concurrency.next(&mut queue, running.len() + prepared.len()) {
            prepared.push_back(id);
        }
        while running.len() < concurrency.builds
            && let Some(id) = prepared.pop_front()
        {
            let time = times.get(id.index()).copied().unwrap_or_default();
            let step = ForecastStep {
                id,
                start: now,
                end: now.saturating_add(time),
            };
            running.push(step);
            steps.push(step);
        }
        // If several packages end at the same time, `min_by_key` chooses the package that started first.
        let next_to_end = (0..running.len()).min_by_key(|&index| running[index].end);
        let Some(next_to_end) = next_to_end else {
            return steps;
        };
        let ended = running.remove(next_to_end);
        now = ended.end;
        queue.done(ended.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::queue::Graph;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Forecasts packages, given as (seconds, dependencies). Returns (package, start, end) in the order of the starts.
    fn forecast_of(jobs: usize, packages: &[(u64, &[usize])]) -> Vec<(usize, u64, u64)> {
        let mut graph = Graph::default();
        let mut ids = Vec::new();
        for (time, dependencies) in packages {
            let dependencies: Vec<Id> = dependencies.iter().map(|&it| ids[it]).collect();
            ids.push(graph.add(&dependencies, seconds(*time), Vec::new()));
        }
        let concurrency = Concurrency {
            builds: jobs,
            ahead: usize::from(jobs > 1),
        };
        let times: Vec<Duration> = packages.iter().map(|(time, _)| seconds(*time)).collect();
        let steps = forecast(Queue::new(graph), concurrency, &times);
        let steps = steps.into_iter();
        steps
            .map(|step| {
                let (start, end) = (step.start.as_secs(), step.end.as_secs());
                (step.id.index(), start, end)
            })
            .collect()
    }

    #[test]
    fn critical_path_starts_first_and_others_fill_the_gaps() {
        let packages: [(u64, &[usize]); 4] = [(2, &[]), (3, &[]), (10, &[1]), (4, &[])];
        assert_eq!(
            forecast_of(2, &packages),
            [(1, 0, 3), (3, 0, 4), (2, 3, 13), (0, 4, 6)]
        );
        assert_eq!(
            forecast_of(1, &packages),
            [(1, 0, 3), (2, 3, 13), (3, 13, 17), (0, 17, 19)]
        );
        assert_eq!(forecast_of(2, &[]), []);
    }

    #[test]
    fn packages_without_times_keep_their_order() {
        let packages: [(u64, &[usize]); 3] = [(0, &[]), (0, &[0]), (0, &[])];
        assert_eq!(forecast_of(1, &packages), [(0, 0, 0), (1, 0, 0), (2, 0, 0)]);
    }
}

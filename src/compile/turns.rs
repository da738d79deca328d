//! Limits how many packaging scripts run concurrently. While memory is low, no further script starts until the running scripts have ended.
//! The permission to run is called a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often the available memory is checked while it is low.
const MEMORY_INTERVAL: Duration = Duration::from_millis(500);

/// The turns of a run's scripts.
pub(super) struct ScriptTurns {
    permits: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
    /// How many turns have begun.
    begun: Arc<AtomicUsize>,
    is_memory_low: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A script's permission to run. Dropping it ends the turn.
pub(super) struct ScriptTurn {
    _permit: OwnedSemaphorePermit,
    running: Arc<AtomicUsize>,
    begun: Arc<AtomicUsize>,
    /// The number of this turn: 1 for the first turn that began, 2 for the second.
    number: usize,
    /// Whether other turns overlapped with this turn. Set at the beginning if other scripts run, and in `drop` if others have begun since.
    overlap: Overlap,
}

/// Whether a turn overlapped with other turns. Outlives the turn.
#[derive(Debug, Clone)]
pub(super) struct Overlap(Arc<AtomicBool>);

impl Overlap {
    /// Whether other scripts ran during the turn. The answer is final after the end of the turn.
    pub(super) fn happened(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl ScriptTurn {
    pub(super) fn overlap(&self) -> Overlap {
        self.overlap.clone()
    }
}

impl Drop for ScriptTurn {
    fn drop(&mut self) {
        if self.begun.load(Ordering::Acquire) > self.number {
            self.overlap.0.store(true, Ordering::Release);
        }
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ScriptTurns {
    /// Allows at most `scripts` turns at the same time. While `is_memory_low` returns `true`, a turn begins only if no other script runs.
    pub(super) fn new(
        scripts: usize,
        is_memory_low: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(scripts)),
            running: Arc::default(),
            begun: Arc::default(),
            is_memory_low: Box::new(is_memory_low),
        }
    }

    /// Begins a turn, if this is possible without waiting.
    pub(super) fn try_acquire(&self) -> Option<ScriptTurn> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        self.begin().then(|| self.turn(permit))
    }

    /// Waits for a turn. Never returns `None`, because the semaphore is never closed.
    ///
    /// Cancel-safe: the caller only loses its position among the waiting scripts.
    pub(super) async fn acquire(&self) -> Option<ScriptTurn> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        while !self.begin() {
            tokio::time::sleep(MEMORY_INTERVAL).await;
        }
        Some(self.turn(permit))
    }

    /// Counts another running script, if a script may start now.
    fn begin(&self) -> bool {
        if !(self.is_memory_low)() {
            self.running.fetch_add(1, Ordering::AcqRel);
            return true;
        }
        let alone = self
            .running
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        alone.is_ok()
    }

    fn turn(&self, permit: OwnedSemaphorePermit) -> ScriptTurn {
        ScriptTurn {
            _permit: permit,
            // `running` includes this turn.
            overlap: Overlap(Arc::new(AtomicBool::new(
                self.running.load(Ordering::Acquire) > 1,
            ))),
            running: Arc::clone(&self.running),
            number: self.begun.fetch_add(1, Ordering::AcqRel) + 1,
            begun: Arc::clone(&self.begun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_limited() {
        let turns = ScriptTurns::new(2, || false);
        let first = turns.try_acquire().unwrap();
        let _second = turns.acquire().await.unwrap();
        assert!(turns.try_acquire().is_none());
        drop(first);
        assert!(turns.try_acquire().is_some());
    }

    #[test]
    fn overlap_of_turns_is_recorded() {
        let turns = ScriptTurns::new(2, || false);
        let overlapped = |turn: ScriptTurn| {
            let overlap = turn.overlap();
            drop(turn);
            overlap.happened()
        };
        assert!(!overlapped(turns.try_acquire().unwrap()));
        let first = turns.try_acquire().unwrap();
        let second = turns.try_acquire().unwrap();
        assert!(overlapped(first) && overlapped(second));
        assert!(!overlapped(turns.try_acquire().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn low_memory_allows_one_turn_until_it_recovers() {
        let memory_is_low = Arc::new(AtomicBool::new(true));
        let is_low = Arc::clone(&memory_is_low);
        let turns = ScriptTurns::new(3, move || is_low.load(Ordering::Acquire));
        let first = turns.acquire().await.unwrap();
        assert!(turns.try_acquire().is_none());
        {
            let second = turns.acquire();
            tokio::pin!(second);
            tokio::select! {
                _ = &mut second => panic!("it began while the first one ran"),
                () = tokio::time::sleep(10 * MEMORY_INTERVAL) => {}
            }
            memory_is_low.store(false, Ordering::Release);
            let _second = second.await.unwrap();
            assert!(turns.try_acquire().is_some());
        }
        memory_is_low.store(true, Ordering::Release);
        drop(first);
        assert!(turns.acquire().await.is_some(), "nothing else runs");
    }
}

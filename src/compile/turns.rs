//! Turns for packaging scripts: so many at once, and only one where memory is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often a lack of memory is looked at again.
const MEMORY_INTERVAL: Duration = Duration::from_millis(500);

/// Gives turns to scripts.
pub(super) struct Turns {
    places: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
    /// How many have begun.
    begun: Arc<AtomicUsize>,
    is_short_of_memory: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A script's turn, until it is dropped.
pub(super) struct Turn {
    _place: OwnedSemaphorePermit,
    running: Arc<AtomicUsize>,
    begun: Arc<AtomicUsize>,
    /// How many had begun with this one.
    begun_with_it: usize,
    /// Whether others ran when it began or, once it is over, at any time.
    company: Company,
}

/// What a turn leaves behind when it is over.
#[derive(Debug, Clone)]
pub(super) struct Company(Arc<AtomicBool>);

impl Company {
    /// Whether the script of a turn that is over ran at the same time as another one.
    pub(super) fn was_there(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Turn {
    /// Tells of the turn when it is over.
    pub(super) fn company(&self) -> Company {
        self.company.clone()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.begun.load(Ordering::Acquire) > self.begun_with_it {
            self.company.0.store(true, Ordering::Release);
        }
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Turns {
    /// Turns for so many scripts at once. While `is_short_of_memory`, none begins but where nothing runs.
    pub(super) fn new(
        scripts: usize,
        is_short_of_memory: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            places: Arc::new(Semaphore::new(scripts)),
            running: Arc::default(),
            begun: Arc::default(),
            is_short_of_memory: Box::new(is_short_of_memory),
        }
    }

    /// A turn, if there is one at once.
    pub(super) fn try_take(&self) -> Option<Turn> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        self.begin().then(|| self.turn(place))
    }

    /// A turn, as soon as there is one. `None` never comes.
    ///
    /// Cancel-safe: who does not wait any longer only loses the place in the row.
    pub(super) async fn take(&self) -> Option<Turn> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        while !self.begin() {
            tokio::time::sleep(MEMORY_INTERVAL).await;
        }
        Some(self.turn(place))
    }

    /// Counts one more, if it may begin.
    fn begin(&self) -> bool {
        if !(self.is_short_of_memory)() {
            self.running.fetch_add(1, Ordering::AcqRel);
            return true;
        }
        let alone = self
            .running
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        alone.is_ok()
    }

    fn turn(&self, place: OwnedSemaphorePermit) -> Turn {
        Turn {
            _place: place,
            // It is counted itself.
            company: Company(Arc::new(AtomicBool::new(
                self.running.load(Ordering::Acquire) > 1,
            ))),
            running: Arc::clone(&self.running),
            begun_with_it: self.begun.fetch_add(1, Ordering::AcqRel) + 1,
            begun: Arc::clone(&self.begun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_run_than_may() {
        let turns = Turns::new(2, || false);
        let first = turns.try_take().unwrap();
        let _second = turns.take().await.unwrap();
        assert!(turns.try_take().is_none());
        drop(first);
        assert!(turns.try_take().is_some());
    }

    #[test]
    fn each_knows_whether_others_ran_meanwhile() {
        let turns = Turns::new(2, || false);
        let company = |turn: Turn| {
            let company = turn.company();
            drop(turn);
            company.was_there()
        };
        assert!(!company(turns.try_take().unwrap()));
        let first = turns.try_take().unwrap();
        let second = turns.try_take().unwrap();
        assert!(company(first) && company(second));
        assert!(!company(turns.try_take().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_memory_only_one_runs_and_with_it_more_do_without_an_end_before() {
        let is_short = Arc::new(AtomicBool::new(true));
        let look = Arc::clone(&is_short);
        let turns = Turns::new(3, move || look.load(Ordering::Acquire));
        let first = turns.take().await.unwrap();
        assert!(turns.try_take().is_none());
        {
            let second = turns.take();
            tokio::pin!(second);
            tokio::select! {
                _ = &mut second => panic!("it began beside the first"),
                () = tokio::time::sleep(10 * MEMORY_INTERVAL) => {}
            }
            is_short.store(false, Ordering::Release);
            let _second = second.await.unwrap();
            assert!(turns.try_take().is_some());
        }
        is_short.store(true, Ordering::Release);
        drop(first);
        assert!(turns.take().await.is_some(), "nothing else runs");
    }
}

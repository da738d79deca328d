//! The output of all scripts on its way to stderr, in a queue of limited size: a slow stderr must not stop the scripts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes the queue holds.
const LIMIT: usize = 4 << 20;

/// How long a slow stderr may delay a script in total. Less than the time that the core waits for the end of the output.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The lines that have not been printed yet.
#[derive(Debug, Default)]
pub(super) struct Stream {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Lines with the names of their packages.
    lines: VecDeque<(String, String)>,
    bytes: usize,
    /// How many lines of each package were left out after those in the queue.
    left_out: BTreeMap<String, usize>,
}

impl Stream {
    /// Adds a line. Waits for room, up to `patience`, which is reduced by the time waited; then the line is left out.
    pub(super) fn push(&self, package: &str, line: String, patience: &mut Duration) {
        let mut queue = self.queue();
        while queue.bytes >= LIMIT {
            if patience.is_zero() {
                *queue.left_out.entry(package.to_owned()).or_default() += 1;
                return;
            }
            let start = Instant::now();
            queue = match self.changed.wait_timeout(queue, *patience) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
            *patience = patience.saturating_sub(start.elapsed());
        }
        queue.bytes += package.len() + line.len() + 1;
        queue.lines.push_back((package.to_owned(), line));
        drop(queue);
        self.changed.notify_all();
    }

    /// Waits until there are lines, for `limit` at most.
    pub(super) fn wait(&self, limit: Duration) {
        let queue = self.queue();
        let is_empty = |queue: &mut Queue| queue.lines.is_empty();
        drop(self.changed.wait_timeout_while(queue, limit, is_empty));
    }

    /// Takes all lines, each with the name of its package.
    pub(super) fn take(&self) -> Vec<(String, String)> {
        let queue = std::mem::take(&mut *self.queue());
        self.changed.notify_all();
        let mut lines = Vec::from(queue.lines);
        for (package, count) in queue.left_out {
            let s = if count == 1 { "" } else { "s" };
            let text =
                format!("... {count} line{s} left out because stderr is too slow; the log has all");
            lines.push((package, text));
        }
        lines
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Consistent after each change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_leaves_lines_out_and_says_so() {
        let stream = Stream::default();
        let mut patience = Duration::ZERO;
        let line = "x".repeat(1024);
        for _ in 0..LIMIT / 1024 + 10 {
            stream.push("app", line.clone(), &mut patience);
        }
        let lines = stream.take();
        assert!(lines.len() <= LIMIT / 1024 + 1);
        let (package, text) = lines.last().unwrap();
        assert_eq!(package, "app");
        assert!(text.ends_with(" lines left out because stderr is too slow; the log has all"));
        assert!(stream.take().is_empty());
        stream.push("app", line, &mut patience);
        assert_eq!(stream.take().len(), 1);
    }

    #[test]
    fn script_waits_for_room_for_a_limited_time() {
        let stream = Stream::default();
        let mut patience = Duration::from_millis(20);
        stream.push("app", "x".repeat(LIMIT), &mut patience);
        assert_eq!(patience, Duration::from_millis(20));
        stream.push("app", String::new(), &mut patience);
        assert!(patience.is_zero());
        let mut long = Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| stream.push("app", "last".to_owned(), &mut long));
            assert!(stream.take().len() >= 2);
        });
        assert!(!long.is_zero());
    }
}

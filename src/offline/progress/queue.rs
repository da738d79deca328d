//! Queues messages and the output of scripts for the thread that writes to stderr (the *printer*). A slow stderr must not stop the run, so
//! messages are added without waiting, and the memory for the output of scripts is limited.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The memory limit for the output of scripts, in bytes.
const LIMIT: usize = 4 << 20;

/// The approximate memory of a line in addition to its text, in bytes.
const OVERHEAD: usize = size_of::<QueuedMessage>() + 32;

/// How long a slow stderr may delay a script in total. This is less than the time that `compile` waits for the end of the output.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Something to print.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueuedMessage {
    /// One or more lines, ready to be printed.
    Message(String),
    /// A line of a package's script.
    Output { package: Arc<str>, line: String },
    /// The printer stops here until [`Queue::resume`].
    Hold,
}

/// What the printer does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Print(Vec<QueuedMessage>),
    /// Clear the bars, then call [`Queue::held`].
    Hold,
    /// Draw the bars, because the time limit has passed.
    Draw,
    /// The queue is closed and empty.
    End,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    /// The number of printed entries.
    printed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct QueueState {
    entries: VecDeque<QueuedMessage>,
    /// The memory of the scripts' output among the entries, in bytes.
    bytes: usize,
    /// When the oldest line of output among the entries was added.
    since: Option<Instant>,
    /// Whether the entries include a message, which is printed at once.
    is_urgent: bool,
    /// For each package, how many lines were left out after its last line in the queue.
    left_out: BTreeMap<Arc<str>, usize>,
    /// Whether a shell uses the terminal or is about to.
    is_hold_wanted: bool,
    /// The number of added entries.
    added: u64,
    is_held: bool,
    is_closed: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            printed: watch::channel(0).0,
        }
    }
}

impl Queue {
    /// Adds a message.
    pub(super) fn push(&self, text: String) {
        let mut state = self.state();
        state.add_left_out();
        state.add(QueuedMessage::Message(text));
        state.is_urgent = true;
        self.changed.notify_all();
    }

    /// Adds a line of a script. If the queue is full, waits for space up to `patience`, from which it subtracts the time, and then leaves
    /// the line out.
    pub(super) fn push_output(&self, package: &Arc<str>, line: String, patience: &mut Duration) {
        let mut state = self.state();
        while state.bytes >= LIMIT {
            if patience.is_zero() {
                *state.left_out.entry(Arc::clone(package)).or_default() += 1;
                return;
            }
            let start = Instant::now();
            state = match self.changed.wait_timeout(state, *patience) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
            *patience = patience.saturating_sub(start.elapsed());
        }
        state.bytes += line.len() + OVERHEAD;
        state.since.get_or_insert_with(Instant::now);
        state.add(QueuedMessage::Output {
            package: Arc::clone(package),
            line,
        });
        self.changed.notify_all();
    }

    /// Waits for something to print, for `limit` at most. Without a message, collects output for `collect`, or until the queue is
    /// half full.
    pub(super) fn next(&self, limit: Duration, collect: Duration) -> Next {
        let end = Instant::now() + limit;
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let due = match state.since {
                Some(since) if !state.is_urgent && state.bytes < LIMIT / 2 => since + collect,
                _ => now,
            };
            if !state.is_held && !state.entries.is_empty() && (due <= now || state.is_closed) {
                let next = state.take();
                self.changed.notify_all();
                return next;
            }
            if state.is_closed {
                return Next::End;
            }
            if end <= now {
                return Next::Draw;
            }
            let until = match state.is_held || state.entries.is_empty() {
                true => end,
                false => end.min(due),
            };
            state = match self.changed.wait_timeout(state, until - now) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Records that the printer has printed `count` more entries.
    pub(super) fn done(&self, count: usize) {
        self.printed.send_modify(|printed| *printed += count as u64);
        // Take the lock, so that a waiting thread cannot miss the notification between its check and its wait.
        drop(self.state());
        self.changed.notify_all();
    }

    /// Waits until everything added so far is printed.
    pub(super) async fn flushed(&self) {
        let added = {
            let mut state = self.state();
            state.add_left_out();
            state.is_urgent = true;
            state.added
        };
        self.changed.notify_all();
        // The sender lives as long as the queue.
        let _ = self.printed.subscribe().wait_for(|it| *it >= added).await;
    }

    /// Blocks the thread until everything added so far is printed, for `limit` at most.
    pub(super) fn flush_within(&self, limit: Duration) {
        let mut state = self.state();
        state.add_left_out();
        state.is_urgent = true;
        self.changed.notify_all();
        let added = state.added;
        let is_missing = |_: &mut QueueState| *self.printed.borrow() < added;
        drop(self.changed.wait_timeout_while(state, limit, is_missing));
    }

    /// Stops the printer until [`resume`](Self::resume), after it has printed everything added so far. Waits until it has stopped, for
    /// `limit` at most.
    pub(super) fn hold(&self, limit: Duration) {
        let mut state = self.state();
        state.add_left_out();
        state.add(QueuedMessage::Hold);
        state.is_hold_wanted = true;
        state.is_urgent = true;
        self.changed.notify_all();
        let is_printing = |state: &mut QueueState| !state.is_held;
        drop(self.changed.wait_timeout_while(state, limit, is_printing));
    }

    /// Records that the printer has cleared the bars and prints nothing.
    pub(super) fn held(&self) {
        let mut state = self.state();
        // The shell may have ended while the bars were cleared.
        state.is_held = state.is_hold_wanted;
        drop(state);
        self.done(1);
    }

    /// Lets the printer continue with the entries that were held back.
    pub(super) fn resume(&self) {
        let mut state = self.state();
        state.is_hold_wanted = false;
        state.is_held = false;
        // The printer may not have reached the hold yet, so remove it from the queue.
        let entries = state.entries.len();
        state.entries.retain(|entry| *entry != QueuedMessage::Hold);
        let removed = entries - state.entries.len();
        drop(state);
        self.done(removed);
    }

    /// Closes the queue, so that the printer ends when the queue is empty.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        // The state is consistent after each change, so it stays usable after a panic in another thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn add(&mut self, entry: QueuedMessage) {
        self.entries.push_back(entry);
        self.added += 1;
    }

    /// Adds a line for each package of which lines were left out.
    fn add_left_out(&mut self) {
        for (package, count) in std::mem::take(&mut self.left_out) {
            let s = if count == 1 { "" } else { "s" };
            let line =
                format!("... {count} line{s} left out because stderr is too slow; the log has all");
            self.add(QueuedMessage::Output { package, line });
        }
    }

    /// Takes all entries until the next [`QueuedMessage::Hold`].
    fn take(&mut self) -> Next {
        self.add_left_out();
        let is_hold = |entry: &QueuedMessage| *entry == QueuedMessage::Hold;
        if self.entries.front().is_some_and(is_hold) {
            self.entries.pop_front();
            return Next::Hold;
        }
        let end = self.entries.iter().position(is_hold);
        let rest = self.entries.split_off(end.unwrap_or(self.entries.len()));
        let taken = std::mem::replace(&mut self.entries, rest);
        // Little output follows a hold, because a shell has just been opened, so its memory is not counted.
        self.bytes = 0;
        self.since = None;
        self.is_urgent = !self.entries.is_empty();
        Next::Print(taken.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn app() -> Arc<str> {
        Arc::from("app")
    }

    fn taken(queue: &Queue) -> Vec<String> {
        match queue.next(NOW, NOW) {
            Next::Print(entries) => entries
                .into_iter()
                .map(|entry| match entry {
                    QueuedMessage::Message(text) => text,
                    QueuedMessage::Output { line, .. } => line,
                    QueuedMessage::Hold => panic!("a hold is not printed"),
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn full_queue_leaves_lines_out_and_says_so() {
        let queue = Queue::default();
        let mut patience = Duration::ZERO;
        let line = "x".repeat(1024);
        for _ in 0..LIMIT / 1024 + 10 {
            queue.push_output(&app(), line.clone(), &mut patience);
        }
        queue.push("Finished".to_owned());
        let lines = taken(&queue);
        assert!(lines.len() <= LIMIT / 1024 + 2);
        let [.., left_out, last] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        assert!(left_out.ends_with(" lines left out because stderr is too slow; the log has all"));
        assert_eq!(last, "Finished");
        assert_eq!(queue.next(NOW, NOW), Next::Draw);
        queue.push_output(&app(), line, &mut patience);
        assert_eq!(taken(&queue).len(), 1);
    }

    #[test]
    fn short_lines_fill_the_queue_too() {
        let queue = Queue::default();
        let mut patience = Duration::ZERO;
        for _ in 0..LIMIT / 32 {
            queue.push_output(&app(), "x".to_owned(), &mut patience);
        }
        let lines = taken(&queue);
        assert!(lines.len() <= LIMIT / OVERHEAD + 1, "{}", lines.len());
        assert!(lines.last().unwrap().contains("left out"));
    }

    #[test]
    fn script_waits_for_room_for_a_limited_time() {
        let queue = Queue::default();
        let mut patience = Duration::from_millis(20);
        queue.push_output(&app(), "x".repeat(LIMIT), &mut patience);
        assert_eq!(patience, Duration::from_millis(20));
        queue.push_output(&app(), String::new(), &mut patience);
        assert!(patience.is_zero());
        let mut long = Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| queue.push_output(&app(), "last".to_owned(), &mut long));
            assert!(taken(&queue).len() >= 2);
        });
        assert!(!long.is_zero());
    }

    #[test]
    fn output_is_collected_until_a_message_or_half_of_the_space() {
        let queue = Queue::default();
        let mut patience = Duration::ZERO;
        let long = Duration::from_secs(60);
        queue.push_output(&app(), "one".to_owned(), &mut patience);
        assert_eq!(queue.next(NOW, long), Next::Draw);
        queue.push("message".to_owned());
        assert!(matches!(queue.next(long, long), Next::Print(entries) if entries.len() == 2));
        queue.push_output(&app(), "x".repeat(LIMIT / 2), &mut patience);
        assert!(matches!(queue.next(long, long), Next::Print(_)));
    }

    #[test]
    fn nothing_is_printed_between_hold_and_resume() {
        let queue = Queue::default();
        queue.push("before".to_owned());
        queue.hold(NOW);
        queue.push("after".to_owned());
        assert_eq!(taken(&queue), ["before"]);
        assert_eq!(queue.next(NOW, NOW), Next::Hold);
        queue.held();
        assert_eq!(queue.next(NOW, NOW), Next::Draw);
        queue.resume();
        assert_eq!(taken(&queue), ["after"]);
        // The printer does not stop if the hold ends before it was reached.
        queue.hold(NOW);
        queue.resume();
        queue.push("last".to_owned());
        assert_eq!(taken(&queue), ["last"]);
    }

    #[tokio::test]
    async fn flush_ends_when_everything_is_printed() {
        let queue = Queue::default();
        queue.push("one".to_owned());
        queue.flush_within(NOW);
        assert_eq!(taken(&queue), ["one"]);
        queue.done(1);
        queue.flushed().await;
        queue.close();
        assert_eq!(queue.next(NOW, NOW), Next::End);
    }
}

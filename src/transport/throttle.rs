//! Suppresses repeated log messages.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a message is suppressed after it was logged.
const INTERVAL: Duration = Duration::from_secs(60);

/// The maximum number of different messages that are remembered. A peer can cause any number of
/// them.
const MAX_MESSAGES: usize = 64;

/// The recently logged messages.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<String, Instant>>);

impl Throttle {
    /// Whether `message` should be logged, that is, was not logged within the last minute. If so,
    /// it is recorded as logged.
    pub(super) fn should_log(&self, message: &str) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| at.elapsed() < INTERVAL);
        if logged.len() >= MAX_MESSAGES || logged.contains_key(message) {
            return false;
        }
        logged.insert(message.to_owned(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_messages_are_suppressed_and_their_number_is_limited() {
        let throttle = Throttle::default();
        assert!(throttle.should_log("a"));
        assert!(!throttle.should_log("a"));
        let news = (0..1000).filter(|n| throttle.should_log(&n.to_string()));
        assert_eq!(news.count(), MAX_MESSAGES - 1);
    }
}

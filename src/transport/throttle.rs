//! Saying the same thing not too often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the same thing is not said again.
const INTERVAL: Duration = Duration::from_secs(60);

/// How many different things are said in that time: a peer can make them differ without end.
const MOST: usize = 64;

/// What was logged lately.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<String, Instant>>);

impl Throttle {
    /// Whether `what` was not said within the last minute. From now on it was.
    pub(super) fn is_news(&self, what: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| at.elapsed() < INTERVAL);
        if said.len() >= MOST || said.contains_key(what) {
            return false;
        }
        said.insert(what.to_owned(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_is_news_once_and_their_number_is_bounded() {
        let throttle = Throttle::default();
        assert!(throttle.is_news("a"));
        assert!(!throttle.is_news("a"));
        let news = (0..1000).filter(|n| throttle.is_news(&n.to_string()));
        assert_eq!(news.count(), MOST - 1);
    }
}

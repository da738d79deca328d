//! Detects duplicate requests. While the message bus is changed, two connections may deliver the
//! same request.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// The number of requests that are remembered. A Director sends about one request per second.
const CAPACITY: usize = 1000;

/// The latest requests, identified by their `reply_to`, which is unique for each request of a
/// Director.
#[derive(Debug, Default)]
pub(super) struct RecentRequests {
    seen: Mutex<RecentIds>,
}

#[derive(Debug, Default)]
struct RecentIds {
    order: VecDeque<String>,
    set: HashSet<String>,
}

impl RecentRequests {
    /// Remembers a request. Returns `false` if it was already remembered.
    pub(super) fn is_new(&self, reply_to: &str) -> bool {
        if reply_to.is_empty() {
            return true;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.set.insert(reply_to.to_owned()) {
            return false;
        }
        seen.order.push_back(reply_to.to_owned());
        if seen.order.len() > CAPACITY
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.set.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_new_once() {
        let recent = RecentRequests::default();
        assert!(recent.is_new("director.1.a.1"));
        assert!(!recent.is_new("director.1.a.1"));
        for number in 0..CAPACITY {
            assert!(recent.is_new(&number.to_string()));
        }
        // Forgotten by now.
        assert!(recent.is_new("director.1.a.1"));
        assert!(recent.is_new("") && recent.is_new(""));
    }
}

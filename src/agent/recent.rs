//! Detects duplicate requests. While the message bus is changed, two connections may deliver the
//! same request.

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};

/// The number of requests that are remembered. A Director sends about one request per second, so a
/// request is remembered for hours.
const CAPACITY: usize = 10_000;

/// The latest requests, identified by their `reply_to`, which is unique for each request of a
/// Director. Only a hash of it is kept, because its length is up to the sender. Two requests in ten
/// thousand have the same hash with a probability of 10^-12.
#[derive(Debug, Default)]
pub(super) struct RecentRequests {
    hasher: RandomState,
    seen: Mutex<RecentIds>,
}

#[derive(Debug, Default)]
struct RecentIds {
    order: VecDeque<u64>,
    set: HashSet<u64>,
}

impl RecentRequests {
    /// Remembers a request. Returns `false` if it was already remembered.
    pub(super) fn is_new(&self, reply_to: &str) -> bool {
        if reply_to.is_empty() {
            return true;
        }
        let id = self.hasher.hash_one(reply_to);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.set.insert(id) {
            return false;
        }
        seen.order.push_back(id);
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

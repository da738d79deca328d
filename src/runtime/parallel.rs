//! Runs blocking work for several items on several threads.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use super::task::{TaskFailed, TaskSet};

/// Runs blocking work for each item, on up to `threads` threads. Returns the results in the order of the items.
///
/// # Errors
/// If the work for an item panicked.
pub async fn map_blocking<T, R>(
    name: &'static str,
    threads: NonZeroUsize,
    items: Vec<T>,
    work: impl Fn(T) -> R + Send + Sync + 'static,
) -> Result<Vec<R>, TaskFailed>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let threads = threads.get().min(items.len());
    let items = Arc::new(Mutex::new(items.into_iter().enumerate()));
    let work = Arc::new(work);
    let mut tasks = TaskSet::new(name);
    for number in 0..threads {
        let (items, work) = (Arc::clone(&items), Arc::clone(&work));
        tasks.spawn_blocking(number, move || {
            // This statement releases the lock, so the work runs without it.
            let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
            let results = std::iter::from_fn(next).map(|(index, item)| (index, work(item)));
            results.collect::<Vec<_>>()
        });
    }
    let mut results = Vec::new();
    while let Some((_, done)) = tasks.next().await {
        results.extend(done?);
    }
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_are_in_the_order_of_the_items() {
        let two = NonZeroUsize::new(2).unwrap();
        let items = (0..100).collect();
        let results = map_blocking("test", two, items, |number| number * 2).await;
        assert_eq!(results.unwrap(), (0..200).step_by(2).collect::<Vec<_>>());
        let none = map_blocking("test", two, Vec::<u32>::new(), |number| number).await;
        assert_eq!(none.unwrap(), Vec::<u32>::new());
    }
}

//! The time limits of a script.

use std::time::Duration;

use super::output::Collected;

/// The time limits of a script; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// How long the script may run.
    pub total: Option<Duration>,
    /// How long the script may run while none of its processes prints anything.
    pub silence: Option<Duration>,
}

/// The limit that a script has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// The script ran longer than this.
    Total(Duration),
    /// The script printed nothing for this time.
    Silence(Duration),
}

impl TimeLimits {
    /// Waits until a limit is exceeded.
    pub(super) async fn exceeded(self, collected: &Collected) -> Exceeded {
        let total = async {
            match self.total {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    Exceeded::Total(limit)
                }
                None => std::future::pending().await,
            }
        };
        let silence = async {
            match self.silence {
                Some(limit) => {
                    wait_for_silence(collected, limit).await;
                    Exceeded::Silence(limit)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            exceeded = total => exceeded,
            exceeded = silence => exceeded,
        }
    }
}

/// Waits until there has been no output for `limit`.
async fn wait_for_silence(collected: &Collected, limit: Duration) {
    loop {
        let left = limit.saturating_sub(collected.silent_for());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn output_of_any_stream_ends_the_silence() {
        let collected = Collected::new(2, 25);
        let limits = TimeLimits {
            total: None,
            silence: Some(LIMIT),
        };
        let start = tokio::time::Instant::now();
        let printing = async {
            for stream in [0, 1, 0] {
                tokio::time::sleep(LIMIT * 3 / 4).await;
                collected.push(stream, b".");
            }
        };
        let (exceeded, ()) = tokio::join!(limits.exceeded(&collected), printing);
        assert_eq!(exceeded, Exceeded::Silence(LIMIT));
        assert!(start.elapsed() >= LIMIT * 13 / 4, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn first_exceeded_limit_is_returned() {
        let collected = Collected::new(1, 25);
        let total = TimeLimits {
            total: Some(LIMIT),
            silence: Some(LIMIT * 2),
        };
        let exceeded = total.exceeded(&collected).await;
        assert_eq!(exceeded, Exceeded::Total(LIMIT));
        let none = TimeLimits::default();
        let waiting = tokio::time::timeout(LIMIT * 100, none.exceeded(&collected));
        waiting.await.unwrap_err();
    }
}

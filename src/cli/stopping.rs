//! Signal handling: the first signal cancels the run, the second kills its processes.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::process;
use crate::runtime::{self, Signals, StopSignal, Task};

/// How long to wait for killed processes to disappear.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// The maximum number of package names in the announcement.
const NAMES: usize = 5;

/// The task that handles signals.
#[derive(Debug)]
pub(super) struct Stopping {
    first: Arc<OnceLock<StopSignal>>,
    second: Arc<OnceLock<StopSignal>>,
    task: Task<()>,
}

impl Stopping {
    /// On the first signal, calls `announce`, then cancels `cancel`. On the second, calls
    /// `killing`, kills all descendants of this process, and exits with the code that `killing`
    /// returned.
    pub(super) fn start(
        mut signals: Signals,
        cancel: &CancellationToken,
        announce: impl Fn(StopSignal) + Send + 'static,
        killing: impl Fn(StopSignal) -> u8 + Send + 'static,
    ) -> Self {
        let (first, second) = (Arc::<OnceLock<_>>::default(), Arc::<OnceLock<_>>::default());
        let task = runtime::spawn("signals", {
            let (first, second) = (Arc::clone(&first), Arc::clone(&second));
            let cancel = cancel.clone();
            async move {
                let signal = signals.next().await;
                announce(signal);
                let _ = first.set(signal);
                cancel.cancel();
                let signal = signals.next_again().await;
                let _ = second.set(signal);
                // A shell may have the terminal.
                process::restore_terminal();
                let code = killing(signal);
                process::kill_all_below(KILL_WITHIN);
                exit(code)
            }
        });
        Self {
            first,
            second,
            task,
        }
    }

    /// The first signal, if there was one. Does not return after a second one: the process exits.
    pub(super) async fn signal(&mut self) -> Option<StopSignal> {
        if self.second.get().is_some() {
            let _ = (&mut self.task).await;
        }
        self.first.get().copied()
    }
}

/// Exits without running destructors, which would remove work directories and may be slow.
#[expect(clippy::exit, reason = "a second signal exits at once")]
fn exit(code: u8) {
    std::process::exit(code.into());
}

/// The line for the first signal: what the run waits for, and for how long.
pub(super) fn announcement(signal: StopSignal, scripts: &[String], grace: Duration) -> String {
    let name = signal.name();
    let again = match signal {
        StopSignal::Interrupt => "interrupt again",
        StopSignal::Terminate | StopSignal::HangUp => "send SIGTERM again",
    };
    if scripts.is_empty() {
        return format!("Stopping on {name}: closing and removing files; {again} to exit at once");
    }
    let shown: Vec<&str> = scripts.iter().take(NAMES).map(String::as_str).collect();
    let more = match scripts.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (plural, them) = match scripts.len() {
        1 => ("", "it"),
        _ => ("s", "them"),
    };
    format!(
        "Stopping on {name}: waiting up to {}s for {} packaging script{plural} ({}{more}); {again} to kill {them}",
        grace.as_secs(),
        scripts.len(),
        shown.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcement_names_the_running_scripts() {
        let grace = Duration::from_secs(10);
        let names =
            |count: usize| -> Vec<String> { (1..=count).map(|n| format!("p{n}")).collect() };
        assert_eq!(
            announcement(StopSignal::Interrupt, &names(2), grace),
            "Stopping on SIGINT: waiting up to 10s for 2 packaging scripts (p1, p2); interrupt again to kill them"
        );
        assert_eq!(
            announcement(StopSignal::Terminate, &names(1), grace),
            "Stopping on SIGTERM: waiting up to 10s for 1 packaging script (p1); send SIGTERM again to kill it"
        );
        assert!(
            announcement(StopSignal::Interrupt, &names(7), grace)
                .contains("7 packaging scripts (p1, p2, p3, p4, p5 and 2 more)")
        );
        assert_eq!(
            announcement(StopSignal::HangUp, &[], grace),
            "Stopping on SIGHUP: closing and removing files; send SIGTERM again to exit at once"
        );
    }
}

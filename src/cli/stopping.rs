//! Signal handling: the first signal cancels the run, the second kills its processes.

use std::path::PathBuf;
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
pub(super) struct SignalHandler {
    first: Arc<OnceLock<StopSignal>>,
    second: Arc<OnceLock<StopSignal>>,
    task: Task<()>,
}

impl SignalHandler {
    /// On the first signal, cancels `cancel`, then calls `announce`. On the second signal, calls
    /// `killing`, kills all descendants of this process, and exits with the code that `exiting`
    /// returns.
    pub(super) fn start(
        mut signals: Signals,
        cancel: &CancellationToken,
        announce: impl Fn(StopSignal) + Send + 'static,
        killing: impl Fn(StopSignal) + Send + 'static,
        exiting: impl Fn(StopSignal) -> u8 + Send + 'static,
    ) -> Self {
        let (first, second) = (Arc::<OnceLock<_>>::default(), Arc::<OnceLock<_>>::default());
        let task = runtime::spawn("signals", {
            let (first, second) = (Arc::clone(&first), Arc::clone(&second));
            let cancel = cancel.clone();
            async move {
                let signal = signals.next().await;
                let _ = first.set(signal);
                cancel.cancel();
                announce(signal);
                let signal = signals.next_again().await;
                let _ = second.set(signal);
                // The terminal is in raw mode while an interactive shell uses it.
                process::restore_terminal();
                killing(signal);
                process::kill_all_below(KILL_WITHIN);
                exit(exiting(signal))
            }
        });
        Self {
            first,
            second,
            task,
        }
    }

    /// The first signal, if there was one. After a second signal, does not return, because the
    /// process exits.
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

/// The message after the first signal: what the run waits for, and for how long.
pub(super) fn announcement(signal: StopSignal, scripts: &[String], grace: Duration) -> String {
    let (on, again) = match signal {
        StopSignal::Interrupt => (String::new(), "Ctrl-C"),
        StopSignal::Terminate | StopSignal::HangUp => (format!(" on {}", signal.name()), "SIGTERM"),
    };
    let shown: Vec<&str> = scripts.iter().take(NAMES).map(String::as_str).collect();
    let names = match (shown.as_slice(), scripts.len() - shown.len()) {
        ([], _) => return format!("Stopping{on}: removing files ({again} again to exit at once)"),
        ([only], _) => format!("{only} has"),
        ([names @ .., last], 0) => format!("{} and {last} have", names.join(", ")),
        (names, more) => format!("{} and {more} more have", names.join(", ")),
    };
    let seconds = grace.as_secs();
    format!("Stopping{on}: {names} {seconds} s to end ({again} again to kill at once)")
}

/// The last line of a run that was stopped. `compiled` is the number of compiled packages and the number of all packages to compile;
/// `None` if the compilation had not begun.
pub(super) fn stopped(
    signal: StopSignal,
    compiled: Option<(usize, usize)>,
    written: &[PathBuf],
) -> String {
    let compiled = match compiled {
        None => String::new(),
        Some((done, 1)) => format!("{done} of 1 package was compiled, "),
        Some((done, total)) => format!("{done} of {total} packages were compiled, "),
    };
    let written = match written {
        [] => "nothing was written".to_owned(),
        [only] => format!("written: {}", only.display()),
        several => format!("{} releases were written", several.len()),
    };
    format!("Stopped by {}: {compiled}{written}", signal.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcement_names_the_running_scripts() {
        let grace = Duration::from_secs(10);
        let names =
            |count: usize| -> Vec<String> { (1..=count).map(|n| format!("p{n}")).collect() };
        for (signal, count, expected) in [
            (
                StopSignal::Interrupt,
                2,
                "Stopping: p1 and p2 have 10 s to end (Ctrl-C again to kill at once)",
            ),
            (
                StopSignal::Terminate,
                1,
                "Stopping on SIGTERM: p1 has 10 s to end (SIGTERM again to kill at once)",
            ),
            (
                StopSignal::Interrupt,
                7,
                "Stopping: p1, p2, p3, p4, p5 and 2 more have 10 s to end (Ctrl-C again to kill at once)",
            ),
            (
                StopSignal::HangUp,
                0,
                "Stopping on SIGHUP: removing files (SIGTERM again to exit at once)",
            ),
        ] {
            assert_eq!(announcement(signal, &names(count), grace), expected);
        }
    }

    #[test]
    fn last_line_says_what_was_written() {
        let of = |compiled, written: &[&str]| {
            let written: Vec<PathBuf> = written.iter().map(PathBuf::from).collect();
            stopped(StopSignal::Interrupt, compiled, &written)
        };
        assert_eq!(of(None, &[]), "Stopped by SIGINT: nothing was written");
        assert_eq!(
            of(Some((3, 11)), &[]),
            "Stopped by SIGINT: 3 of 11 packages were compiled, nothing was written"
        );
        assert_eq!(
            of(Some((3, 11)), &["/out/a.tgz"]),
            "Stopped by SIGINT: 3 of 11 packages were compiled, written: /out/a.tgz"
        );
        assert!(
            of(Some((0, 1)), &["a", "b"])
                .ends_with("0 of 1 package was compiled, 2 releases were written")
        );
    }
}

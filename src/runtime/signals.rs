//! The signals that stop the program.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// Further signals within this time after the first one are treated as repetitions of it. `timeout`
/// signals both the process and its group, and some wrappers forward a signal that the terminal has
/// already sent.
const REPEAT_WITHIN: Duration = Duration::from_millis(50);

/// A signal that stops the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// For example from `kill`, `docker stop`, or an aborted Concourse task.
    Terminate,
    /// The terminal was closed, or the connection to it was lost.
    HangUp,
}

impl StopSignal {
    /// The stop signal that is this signal.
    #[must_use]
    pub(crate) fn of(signal: Signal) -> Option<Self> {
        match signal {
            Signal::SIGINT => Some(Self::Interrupt),
            Signal::SIGTERM => Some(Self::Terminate),
            Signal::SIGHUP => Some(Self::HangUp),
            _ => None,
        }
    }

    /// The signal's name, such as `SIGINT`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }

    /// The exit code with which shells report this signal: 128 plus the signal's number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::HangUp => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Receives stop signals. While a value of this type exists, these signals do not terminate the
/// process. A handler is also needed for PID 1 of a container, to which the kernel does not deliver
/// signals without a handler.
///
/// Signals that were ignored when the process was started, such as SIGHUP under `nohup`, stay
/// ignored.
#[derive(Debug)]
pub struct Signals {
    listeners: Vec<(StopSignal, unix::Signal)>,
}

impl Signals {
    /// Installs the handlers. Needs a running tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let mut listeners = Vec::new();
        for (stop, kind) in [
            (StopSignal::Interrupt, SignalKind::interrupt()),
            (StopSignal::Terminate, SignalKind::terminate()),
            (StopSignal::HangUp, SignalKind::hangup()),
        ] {
            let bit = 1 << (kind.as_raw_value() - 1);
            if ignored & bit == 0 {
                listeners.push((stop, signal(kind)?));
            }
        }
        Ok(Self { listeners })
    }

    /// Waits for the next signal. Cancel-safe, as `Signal::poll_recv` is.
    pub async fn next(&mut self) -> StopSignal {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// After a first signal, waits for a second SIGINT or SIGTERM. The second signal requests an
    /// immediate exit.
    pub async fn next_again(&mut self) -> StopSignal {
        tokio::time::sleep(REPEAT_WITHIN).await;
        std::future::poll_fn(|context| {
            for (_, listener) in &mut self.listeners {
                let _ = listener.poll_recv(context);
            }
            Poll::Ready(())
        })
        .await;
        loop {
            match self.next().await {
                // A closing terminal may send SIGHUP twice.
                StopSignal::HangUp => {}
                signal => return signal,
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<StopSignal> {
        for (stop, listener) in &mut self.listeners {
            if listener.poll_recv(context).is_ready() {
                return Poll::Ready(*stop);
            }
        }
        Poll::Pending
    }
}

/// The signals that this process ignores, as a bit mask (`SigIgn` in proc(5)).
fn ignored() -> u64 {
    let status = crate::fs::read_lossy("/proc/self/status".as_ref()).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

//! The signals that ask the program to stop.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What arrives so soon after the first signal is the same wish to stop: `timeout` sends a signal to the process and to its
/// group, some wrappers pass on what the terminal has sent already.
const SAME_WISH: Duration = Duration::from_millis(50);

/// A signal that asks us to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, `docker stop`, an aborted Concourse task.
    Terminate,
    /// The terminal or the connection is gone.
    HangUp,
}

impl StopSignal {
    /// The name people know it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }

    /// The exit code that tells a shell of this signal: 128 and its number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::HangUp => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Listens for the signals that ask us to stop. From its making on, none of them ends the process by itself. The first
/// process of a container (PID 1) needs that: without a handler the kernel drops the signal there.
///
/// SIGHUP goes on being ignored where it was ignored when the process was started, as by `nohup`.
#[derive(Debug)]
pub struct Signals {
    listeners: Vec<(StopSignal, Signal)>,
}

impl Signals {
    /// Starts to listen. Needs a running tokio runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
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

    /// Waits for the next one. Cancel-safe, as `Signal::poll_recv` is.
    pub async fn next(&mut self) -> StopSignal {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Waits, after a first signal, for a second one of a person who does not want to wait: SIGINT or SIGTERM.
    pub async fn next_again(&mut self) -> StopSignal {
        tokio::time::sleep(SAME_WISH).await;
        std::future::poll_fn(|context| {
            for (_, listener) in &mut self.listeners {
                let _ = listener.poll_recv(context);
            }
            Poll::Ready(())
        })
        .await;
        loop {
            match self.next().await {
                // A terminal that goes away may say so twice.
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

/// The signals that this process was told to ignore, a bit for each (proc(5), `SigIgn`).
fn ignored() -> u64 {
    let status = crate::fs::read_lossy("/proc/self/status".as_ref()).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

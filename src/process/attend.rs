//! Runs a program interactively on the terminal of this process.

use std::convert::Infallible;
use std::io::{self, Write};

use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::output::OutputSummary;
use super::relay::Relay;
use super::supervise::{
    ChildSpec, Connected, OUTPUT_PATIENCE, SuperviseError, Supervised, connect, report_or_kill,
};
use super::terminal::{PseudoTerminal, RawMode, Terminal};
use crate::runtime;

/// Starts a child whose program gets a pseudo-terminal, and supervises it to its end. Until then,
/// this process forwards all keys and all output, and must not print anything else.
///
/// A cancellation hangs up the pseudo-terminal.
///
/// # Errors
/// The pseudo-terminal cannot be created, or the child could not be started.
pub(crate) async fn attend(
    child: ChildSpec,
    terminal: &Terminal,
    cancel: &CancellationToken,
) -> Result<Supervised, SuperviseError> {
    let pseudo = PseudoTerminal::open(terminal).map_err(SuperviseError::Terminal)?;
    let (orders, sender) = io::pipe().map_err(SuperviseError::Channels)?;
    let theirs = [&pseudo.theirs; 2].map(|end| end.try_clone());
    let [stdout, stderr] = theirs;
    let (stdout, stderr) = (
        stdout.map_err(SuperviseError::Terminal)?,
        stderr.map_err(SuperviseError::Terminal)?,
    );
    drop(pseudo.theirs);
    let relay = Relay::new(terminal, pseudo.ours, orders).map_err(SuperviseError::Terminal)?;
    let _raw = RawMode::enter(terminal).map_err(SuperviseError::Terminal)?;
    let Connected {
        number,
        socket,
        unsent,
    } = connect(&child, [stdout, stderr])?;
    let relaying = runtime::spawn_blocking("terminal", move || relay.run());
    let (from_child, mut to_child) = socket.into_split();
    // Ignore the error: it means that the child has ended, which its report (or the missing report)
    // shows.
    let _ = to_child.write_all(&unsent).await;
    let never = std::future::pending();
    let (report, exceeded) = tokio::select! {
        ended = report_or_kill(&child, number, (from_child, to_child), cancel, never) => ended,
        never = direct(sender, cancel) => match never {},
    };
    // Dropping `direct` closed the relay's pipe, which ends the relay. Give the relay time to copy
    // the last output.
    let _ = timeout(OUTPUT_PATIENCE, relaying).await;
    Ok(Supervised {
        report,
        output: OutputSummary::default(),
        exceeded,
    })
}

/// Sends orders to a relay: reports changes of the terminal's size, and ends the relay after a
/// cancellation.
async fn direct(sender: io::PipeWriter, cancel: &CancellationToken) -> Infallible {
    let mut sender = Some(sender);
    // If the signal is not available, the pseudo-terminal keeps its first size.
    let mut changes = signal(SignalKind::window_change()).ok();
    loop {
        let change = async {
            match &mut changes {
                Some(changes) => changes.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = change => {
                if let Some(sender) = &mut sender {
                    let _ = sender.write_all(b".");
                }
            }
            () = cancel.cancelled(), if sender.is_some() => sender = None,
        }
    }
}

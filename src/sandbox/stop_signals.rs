//! SIGINT, SIGTERM and SIGHUP while no task listens to them: a process that has read its settings with one set of threads, and then
//! becomes another program or starts other threads, must not lose a signal in between.
#![expect(unsafe_code, reason = "a signal handler; it says why it is sound")]

use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const STOP_SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The number of the last signal; 0 if there was none.
static LAST: AtomicI32 = AtomicI32::new(0);

/// The exit code with which a signal ends this process; [`NOT_ENDING`] while it does not.
static EXIT_CODE: AtomicI32 = AtomicI32::new(NOT_ENDING);

const NOT_ENDING: i32 = -1;

/// Notes stop signals from now on, and makes them end this process with an exit code, until
/// [`leave_stop_signals_to_tasks`]. Ignored signals stay ignored. Call this before threads are started: handlers that are installed later
/// call this one first.
pub(crate) fn note_stop_signals(code: u8) {
    EXIT_CODE.store(code.into(), Ordering::SeqCst);
    let noting = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in STOP_SIGNALS {
        // SAFETY: the handler only uses atomics, `write` and `_exit`, which are allowed in a handler.
        let replaced = unsafe { sigaction(signal, &noting) };
        if let Ok(old) = replaced
            && matches!(old.handler(), SigHandler::SigIgn)
        {
            // SAFETY: this restores what was there, which runs no handler.
            let _ = unsafe { sigaction(signal, &old) };
        }
    }
}

/// Makes stop signals end this process with an exit code again. Returns the last one that was noted before.
pub(crate) fn end_at_stop_signals(code: u8) -> Option<Signal> {
    // The handler stores the signal before it looks at the exit code, so it ends the process, or the signal is found here.
    EXIT_CODE.store(code.into(), Ordering::SeqCst);
    Signal::try_from(LAST.load(Ordering::SeqCst)).ok()
}

/// Stop signals do not end this process any more: tasks listen to them.
pub(crate) fn leave_stop_signals_to_tasks() {
    EXIT_CODE.store(NOT_ENDING, Ordering::SeqCst);
}

extern "C" fn note(number: libc::c_int) {
    LAST.store(number, Ordering::SeqCst);
    let code = EXIT_CODE.load(Ordering::SeqCst);
    if code == NOT_ENDING {
        return;
    }
    let message = message(number);
    // SAFETY: the pointer and the length are those of a constant.
    unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
    // SAFETY: `_exit` has no conditions.
    unsafe { libc::_exit(code) }
}

/// The daemon's last line in the Go agent's words. A handler may not format it.
fn message(number: libc::c_int) -> &'static [u8] {
    match number {
        libc::SIGINT => b"Agent exited with error: received signal (interrupt): stopping now\n",
        libc::SIGHUP => b"Agent exited with error: received signal (hangup): stopping now\n",
        _ => b"Agent exited with error: received signal (terminated): stopping now\n",
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn signal_before_the_end_of_listening_is_found() {
        note_stop_signals(1);
        // A listener that is installed later does not replace the handler.
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio.block_on(async {
            let kind = tokio::signal::unix::SignalKind::hangup();
            let mut listener = tokio::signal::unix::signal(kind).unwrap();
            leave_stop_signals_to_tasks();
            raise(Signal::SIGHUP).unwrap();
            listener.recv().await.unwrap();
        });
        drop(tokio);
        assert_eq!(end_at_stop_signals(1), Some(Signal::SIGHUP));
        leave_stop_signals_to_tasks();
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(end_at_stop_signals(1), Some(Signal::SIGTERM));
        leave_stop_signals_to_tasks();
    }
}

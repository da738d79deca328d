//! Writes whole lines to stderr: messages, and with `--verbose` the output of scripts.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressDrawTarget};

use super::stream::Stream;
use crate::offline::annotations::Annotations;
use crate::offline::messages::Messages;

/// The interval in which the output of scripts is collected for a CI system that shows it in groups.
const GROUP_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait before looking again whether the terminal is free or the run has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Stderr.
#[derive(Debug)]
pub(super) struct Screen {
    messages: Messages,
    /// The bars, on a terminal.
    bars: Option<MultiProgress>,
    /// The texts to print when the terminal is free again; `None` while it is free.
    held: Mutex<Option<Vec<String>>>,
    stream: Stream,
    /// Held while something is printed, so that the output of scripts comes before the next message.
    turn: Mutex<()>,
}

impl Screen {
    pub(super) fn new(messages: Messages) -> Self {
        let bars = messages
            .is_terminal
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self {
            messages,
            bars,
            held: Mutex::default(),
            stream: Stream::default(),
            turn: Mutex::default(),
        }
    }

    pub(super) fn messages(&self) -> &Messages {
        &self.messages
    }

    pub(super) fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    /// Prints one or more lines above the bars, or holds them back while the terminal is in use.
    pub(super) fn line(&self, text: &str) {
        let text = self.messages.annotations.plain(text);
        if let Some(held) = &mut *lock(&self.held) {
            held.push(text.into_owned());
            return;
        }
        let _turn = lock(&self.turn);
        let mut all = self.streamed();
        all.push_str(&text);
        all.push('\n');
        self.write(&all);
    }

    /// Adds a line of a script's output.
    pub(super) fn stream(&self, package: &str, line: String, patience: &mut Duration) {
        self.stream.push(package, line, patience);
    }

    /// Waits a while for output of scripts and prints it.
    pub(super) fn print_stream(&self) {
        self.stream.wait(LOOK_AGAIN);
        match self.messages.annotations {
            _ if lock(&self.held).is_some() => std::thread::sleep(LOOK_AGAIN),
            Annotations::None => {}
            Annotations::GitHub => std::thread::sleep(GROUP_INTERVAL),
        }
        self.flush();
    }

    /// Prints the output of scripts so far, unless the terminal is in use.
    pub(super) fn flush(&self) {
        if lock(&self.held).is_some() {
            return;
        }
        let _turn = lock(&self.turn);
        let all = self.streamed();
        if !all.is_empty() {
            self.write(&all);
        }
    }

    /// Takes the output of scripts, each line with the name of its package.
    fn streamed(&self) -> String {
        let lines = self.stream.take();
        let mut all = String::new();
        match self.messages.annotations {
            Annotations::None => {
                for (package, line) in &lines {
                    add(&mut all, package, line);
                }
            }
            github @ Annotations::GitHub => {
                // A group cannot contain others, so the lines of a package are printed together.
                let mut packages: Vec<(&str, String)> = Vec::new();
                for (package, line) in &lines {
                    match packages.iter_mut().find(|(name, _)| name == package) {
                        Some((_, text)) => add(text, package, line),
                        None => {
                            let mut text = String::new();
                            add(&mut text, package, line);
                            packages.push((package, text));
                        }
                    }
                }
                for (package, text) in packages {
                    all.push_str(&github.group(&format!("Output of package {package}"), &text));
                }
            }
        }
        all
    }

    fn write(&self, text: &str) {
        let print = || {
            // A closed stderr must not stop the run.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// Prints nothing until [`resume`](Self::resume): a shell uses the terminal.
    pub(super) fn hold(&self) {
        if let Some(bars) = &self.bars {
            // A terminal that is gone shows no bars.
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        *lock(&self.held) = Some(Vec::new());
    }

    /// Prints what was held back.
    pub(super) fn resume(&self) {
        let held = lock(&self.held).take();
        let Some(held) = held else {
            return;
        };
        if let Some(bars) = &self.bars {
            bars.set_draw_target(ProgressDrawTarget::stderr());
        }
        for line in held {
            self.line(&line);
        }
    }
}

fn add(text: &mut String, package: &str, line: &str) {
    text.push_str(package);
    text.push_str(" | ");
    text.push_str(line);
    text.push('\n');
}

/// Locks a mutex; its contents stay usable after a panic in another thread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

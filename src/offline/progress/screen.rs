//! Writes whole lines to stderr: messages and, with `--verbose`, the output of scripts. One thread writes, so that a slow stderr delays
//! nothing else.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::bars;
use super::queue::{Next, Queue, QueuedMessage};
use crate::diag::printable_lines;
use crate::offline::annotations::Annotations;
use crate::offline::messages::Messages;
use crate::offline::paint::{Kind, with_short_digests};

/// The interval in which the output of scripts is collected for a CI system that shows it in groups.
const GROUP_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait for messages if there are no bars to draw.
const IDLE: Duration = Duration::from_secs(3600);

/// The maximum wait until everything that precedes a shell is printed.
const HOLD_WITHIN: Duration = Duration::from_secs(2);

/// The assumed size of a terminal whose size is unknown.
const USUAL_SIZE: (usize, usize) = (24, 80);

/// A function that returns the lines to draw at the bottom of a terminal with a number of rows.
pub(super) type Bars = dyn Fn(usize) -> Vec<String> + Send + Sync;

/// Stderr and the thread that writes to it.
pub(super) struct Screen {
    messages: Messages,
    queue: Arc<Queue>,
    /// Prints without a queue if no thread could be started.
    inline: Option<Mutex<Printer>>,
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl Screen {
    pub(super) fn new(messages: Messages, bars: Arc<Bars>) -> Self {
        let queue = Arc::<Queue>::default();
        let printer = |bars| Printer {
            messages,
            queue: Arc::clone(&queue),
            bars,
            shown: 0,
            is_held: false,
        };
        let mut own = printer(Arc::clone(&bars));
        let builder = std::thread::Builder::new().name("messages".to_owned());
        let inline = match builder.spawn(move || own.print_all(true)) {
            Ok(_) => None,
            Err(_) => Some(Mutex::new(printer(bars))),
        };
        Self {
            messages,
            queue,
            inline,
        }
    }

    pub(super) fn messages(&self) -> &Messages {
        &self.messages
    }

    /// Prints one or more lines above the bars, or holds them back while the terminal is in use.
    pub(super) fn line(&self, kind: Kind, text: &str) {
        if self.messages.is_quiet && kind.is_progress() {
            return;
        }
        let text = self.messages.annotations.plain(text);
        self.push(kind, &text);
    }

    /// Prints a report, which may contain commands to a CI system.
    pub(super) fn report(&self, text: &str) {
        self.push(Kind::Notice, text.trim_end());
    }

    fn push(&self, kind: Kind, text: &str) {
        let text = printable_lines(text);
        let text = match self.messages.is_terminal {
            true => with_short_digests(&text),
            false => text,
        };
        let mut text = self.messages.paint.message(kind, &text).into_owned();
        text.push('\n');
        self.queue.push(text);
        self.print_inline();
    }

    /// Adds a line of a script's output.
    pub(super) fn output(&self, package: &Arc<str>, line: String, patience: &mut Duration) {
        self.queue.push_output(package, line, patience);
        self.print_inline();
    }

    /// Waits until everything is printed and the bars are drawn again.
    pub(super) async fn flushed(&self) {
        self.redraw();
        self.queue.flushed().await;
    }

    /// Blocks the thread until everything is printed, for `limit` at most.
    pub(super) fn flush_within(&self, limit: Duration) {
        self.queue.flush_within(limit);
    }

    /// Draws the bars.
    pub(super) fn redraw(&self) {
        self.queue.push(String::new());
        self.print_inline();
    }

    /// Stops printing until [`resume`](Self::resume), because a shell uses the terminal.
    pub(super) fn hold(&self) {
        match self.inline {
            None => self.queue.hold(HOLD_WITHIN),
            Some(_) => {
                self.queue.hold(Duration::ZERO);
                self.print_inline();
            }
        }
    }

    /// Prints the messages that were held back.
    pub(super) fn resume(&self) {
        self.queue.resume();
        self.redraw();
    }

    fn print_inline(&self) {
        if let Some(printer) = &self.inline {
            let mut printer = printer.lock().unwrap_or_else(PoisonError::into_inner);
            printer.print_all(false);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.queue.close();
    }
}

struct Printer {
    messages: Messages,
    queue: Arc<Queue>,
    bars: Arc<Bars>,
    /// How many lines of bars the terminal shows.
    shown: usize,
    /// Whether a shell uses the terminal.
    is_held: bool,
}

impl Printer {
    /// Prints the contents of the queue. With `waits`, also prints what is added later, until the queue is closed.
    fn print_all(&mut self, waits: bool) {
        let limit = match waits {
            true if self.has_bars() => bars::INTERVAL,
            true => IDLE,
            false => Duration::ZERO,
        };
        let collect = match self.messages.annotations {
            Annotations::GitHub if waits => GROUP_INTERVAL,
            Annotations::GitHub | Annotations::None => Duration::ZERO,
        };
        loop {
            match self.queue.next(limit, collect) {
                Next::Print(entries) => {
                    let count = entries.len();
                    self.is_held = false;
                    self.print(&text_of(entries, self.messages.annotations));
                    self.queue.done(count);
                }
                Next::Hold => {
                    write(&bars::clear(std::mem::take(&mut self.shown)));
                    self.is_held = true;
                    self.queue.held();
                }
                Next::Draw if !waits => return,
                Next::Draw if self.is_held => {}
                Next::Draw => self.print(""),
                Next::End => return,
            }
        }
    }

    fn has_bars(&self) -> bool {
        self.messages.is_terminal && !self.messages.is_quiet
    }

    /// Prints a text above the bars.
    fn print(&mut self, text: &str) {
        if !self.has_bars() {
            write(text);
            return;
        }
        let (rows, columns) = size();
        let lines = (self.bars)(rows);
        let mut all = String::new();
        if !text.is_empty() {
            // Return to the start of the line, to overwrite the `^C` that a terminal shows.
            all.push('\r');
            all.push_str(&bars::clear(std::mem::take(&mut self.shown)));
            all.push_str(text);
        }
        all.push_str(&bars::draw(self.shown, &lines, columns));
        self.shown = lines.len();
        write(&all);
    }
}

/// The rows and columns of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        Ok(_) | Err(_) => USUAL_SIZE,
    }
}

/// The text of messages and of the output of scripts. Each line of output starts with the name of the package.
fn text_of(entries: Vec<QueuedMessage>, annotations: Annotations) -> String {
    let mut all = String::new();
    // A group cannot contain others, so the lines of a package are printed together.
    let mut groups: Vec<(Arc<str>, String)> = Vec::new();
    for entry in entries {
        match (entry, annotations) {
            (QueuedMessage::Message(text), _) => {
                add_groups(&mut all, &mut groups, annotations);
                all.push_str(&text);
            }
            (QueuedMessage::Output { package, line }, Annotations::None) => {
                add(&mut all, &package, &line)
            }
            (QueuedMessage::Output { package, line }, Annotations::GitHub) => {
                match groups.iter_mut().find(|(name, _)| *name == package) {
                    Some((_, text)) => add(text, &package, &line),
                    None => {
                        let mut text = String::new();
                        add(&mut text, &package, &line);
                        groups.push((package, text));
                    }
                }
            }
            (QueuedMessage::Hold, _) => {}
        }
    }
    add_groups(&mut all, &mut groups, annotations);
    all
}

fn add_groups(all: &mut String, groups: &mut Vec<(Arc<str>, String)>, annotations: Annotations) {
    for (package, text) in groups.drain(..) {
        all.push_str(&annotations.group(&format!("Output of package {package}"), &text));
    }
}

fn add(text: &mut String, package: &str, line: &str) {
    text.push_str(package);
    text.push_str(" | ");
    text.push_str(line);
    text.push('\n');
}

/// Writes to stderr without locking it, because this thread may wait long and other threads report panics there. Ignores a closed stderr,
/// which must not stop the run.
fn write(text: &str) {
    let stderr = std::io::stderr();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(&stderr, rest) {
            Ok(length) => rest = &rest[length..],
            Err(rustix::io::Errno::INTR) => {}
            // Another process that shares this open file may have made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                let mut descriptors = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut descriptors, PollTimeout::NONE);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_grouped_between_messages() {
        let output = |package: &str, line: &str| QueuedMessage::Output {
            package: Arc::from(package),
            line: line.to_owned(),
        };
        let entries = || {
            vec![
                output("a", "1"),
                output("b", "2"),
                output("a", "3"),
                QueuedMessage::Message("Finished\n".to_owned()),
                output("b", "4"),
            ]
        };
        assert_eq!(
            text_of(entries(), Annotations::None),
            "a | 1\nb | 2\na | 3\nFinished\nb | 4\n"
        );
        assert_eq!(
            text_of(entries(), Annotations::GitHub),
            "::group::Output of package a\na | 1\na | 3\n::endgroup::\n\
             ::group::Output of package b\nb | 2\n::endgroup::\nFinished\n\
             ::group::Output of package b\nb | 4\n::endgroup::\n"
        );
    }
}

//! Prints log events as warnings for users of `compile`.
//!
//! Modules below `offline` log an event if they can only warn, for example when a temporary file
//! cannot be removed. Each event becomes one line: `Warning: MESSAGE: PATH: ERROR. Hint: HINT`.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::diag::printable_lines;

type Print = Box<dyn Fn(&str) + Send + Sync>;

/// The function that prints a line, once it is set.
static PRINT: OnceLock<Print> = OnceLock::new();

/// Makes `print` print the warnings, line by line, instead of writing them to stderr, where they
/// would break progress bars.
pub fn print_warnings_by(print: impl Fn(&str) + Send + Sync + 'static) {
    // A second call in the same process is ignored.
    let _ = PRINT.set(Box::new(print));
}

/// A writer that passes lines to [`PRINT`], or to stderr before [`PRINT`] is set.
#[derive(Debug)]
pub(super) struct Printer;

impl Write for Printer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match PRINT.get() {
            Some(print) => print(String::from_utf8_lossy(line).trim_end()),
            None => io::stderr().lock().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats an event as one line.
pub(super) struct Warnings;

impl<S, N> FormatEvent<S, N> for Warnings
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let line = parts.line().replace(['\n', '\r'], " ");
        writeln!(writer, "Warning: {}", printable_lines(&line))
    }
}

/// The fields of an event.
#[derive(Default)]
struct Parts {
    message: String,
    path: Option<String>,
    error: Option<String>,
    hint: Option<String>,
    others: Vec<String>,
}

impl Parts {
    fn line(&self) -> String {
        let mut line = self.message.clone();
        if !self.others.is_empty() {
            let _ = write!(line, " ({})", self.others.join(", "));
        }
        for part in [&self.path, &self.error].into_iter().flatten() {
            let _ = write!(line, ": {part}");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(line, ". Hint: {hint}");
        }
        line
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            "path" => self.path = Some(format!("`{text}`")),
            "error" => self.error = Some(text),
            "hint" => self.hint = Some(text),
            name => self.others.push(format!("{name}: {text}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::telemetry::tests::lines_of;

    #[test]
    fn event_is_one_line_without_time_and_module() {
        let text = lines_of(Warnings, || {
            let _span = tracing::info_span!("task", name = "compile").entered();
            tracing::warn!(path = %"/a/m", "unmounted a file system that a packaging script left mounted");
            tracing::warn!(error = %"failed to remove `/a`:\nbusy", hint = "unmount it", attempts = 3, "could not remove it");
            tracing::warn!(hint = None::<&str>, "it is there");
        });
        assert_eq!(
            text,
            "Warning: unmounted a file system that a packaging script left mounted: `/a/m`\n\
             Warning: could not remove it (attempts: 3): failed to remove `/a`: busy. Hint: unmount it\n\
             Warning: it is there\n"
        );
    }
}

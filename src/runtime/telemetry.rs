//! Configures the log on stderr. Of the log, users of `compile` see only warnings
//! (`runtime::warnings`), in addition to the progress (`offline::progress`).

use std::ffi::OsStr;
use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::warnings::{Printer, Warnings};
use crate::diag::printable_lines;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines with times and modules, for debugging.
    Plain,
    /// `Warning: MESSAGE`, for users of `compile`.
    Warnings,
    /// The format of the Go agent, which operators' tools parse: `[tag] 2006/01/02 15:04:05 INFO -
    /// message`, in local time.
    GoAgent,
}

/// Why a value of `BOSH_AGENT_LOG` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "BOSH_AGENT_LOG: `{0}` is not a level: use `error`, `warn`, `info`, `debug`, `trace` or `off`, or MODULE=LEVEL"
)]
pub struct InvalidLevel(String);

/// Checks a value of `BOSH_AGENT_LOG`: levels, or pairs of a module and a level, separated by commas.
///
/// # Errors
/// The first part that names no level. The library would take a misspelled level as a module, and log nothing.
pub fn check_level(level: &OsStr) -> Result<(), InvalidLevel> {
    let shown = level.to_string_lossy();
    for part in parts(&shown) {
        let is_module = part.contains("::") || part == env!("CARGO_CRATE_NAME");
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        let has_level = level.parse::<LevelFilter>().is_ok();
        if !(has_level || is_module && !part.contains('=')) || part.parse::<Targets>().is_err() {
            return Err(InvalidLevel(part.to_owned()));
        }
    }
    Ok(())
}

/// Sends log lines to stderr. `level` is the value of `BOSH_AGENT_LOG`, such as `debug` or
/// `bosh_agent::compile=trace`; without it, or if it is invalid, the level is `default`.
pub fn init(level: Option<&OsStr>, default: &str, format: LogFormat) {
    // `async_nats` logs each refused connection. Turn that off, because `transport` logs refusals
    // once a minute, with the server.
    let filter = level
        .and_then(OsStr::to_str)
        .and_then(targets)
        .or_else(|| targets(default))
        .unwrap_or_default()
        .with_target("async_nats", LevelFilter::OFF);
    let log = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // A second call, which happens in tests, does not replace the log.
    let _ = match format {
        LogFormat::Plain => log.with_writer(|| Printer).finish().with(filter).try_init(),
        LogFormat::Warnings => log
            .with_writer(|| Printer)
            .event_format(Warnings)
            .finish()
            .with(filter)
            .try_init(),
        LogFormat::GoAgent => log.event_format(GoAgent).finish().with(filter).try_init(),
    };
}

/// The parts of a value of `BOSH_AGENT_LOG`.
fn parts(level: &str) -> impl Iterator<Item = &str> {
    level
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// Parses a value of `BOSH_AGENT_LOG`. An empty value selects errors. `None` if the value is invalid.
fn targets(level: &str) -> Option<Targets> {
    // Leave out empty parts, which the library would parse as `error`.
    parts(level).collect::<Vec<_>>().join(",").parse().ok()
}

struct GoAgent;

impl<S, N> FormatEvent<S, N> for GoAgent
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let now = chrono::Local::now().format("%Y/%m/%d %H:%M:%S");
        write!(writer, "[{}] {now} {level} - ", tag(metadata.target()))?;
        let mut line = String::new();
        context
            .field_format()
            .format_fields(Writer::new(&mut line), event)?;
        // Keep each event on one line, even if a peer sent line breaks, and escape characters that
        // could control the reader's terminal.
        writer.write_str(&printable_lines(&line.replace('\n', "\\n")))?;
        // Add the package or request to which the event belongs.
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            if span.name() != "task"
                && span.name() != "blocking"
                && let Some(fields) = extensions.get::<FormattedFields<N>>()
                && !fields.fields.is_empty()
            {
                write!(writer, " {}", fields.fields)?;
            }
        }
        writeln!(writer)
    }
}

/// The tag in the Go agent's format: the last segment of the module path.
fn tag(target: &str) -> &str {
    target.rsplit("::").next().unwrap_or(target)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::Registry;
    use tracing_subscriber::fmt::format::DefaultFields;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines that a format writes for the events of `traced`.
    pub(in crate::runtime) fn lines_of(
        format: impl FormatEvent<Registry, DefaultFields> + Send + Sync + 'static,
        traced: impl FnOnce(),
    ) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(format)
            .finish();
        tracing::subscriber::with_default(subscriber, traced);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn misspelled_level_is_refused() {
        for level in [
            "debug",
            "INFO",
            "off",
            "",
            "warn,bosh_agent::compile=trace",
            "bosh_agent=debug,hyper=off",
            "bosh_agent::compile",
        ] {
            assert_eq!(check_level(level.as_ref()), Ok(()), "{level}");
        }
        for (level, named) in [
            ("loud", "loud"),
            ("info,debgu", "debgu"),
            ("bosh_agent::compile=all", "bosh_agent::compile=all"),
            ("a=b=c", "a=b=c"),
        ] {
            let error = check_level(level.as_ref()).unwrap_err();
            assert_eq!(error, InvalidLevel(named.to_owned()));
        }
    }

    #[test]
    fn level_selects_modules() {
        let module = "bosh_agent::compile::package";
        for (level, in_module, elsewhere) in [
            ("", Level::ERROR, Some(Level::ERROR)),
            ("info", Level::INFO, Some(Level::INFO)),
            (
                "bosh_agent::compile=debug, warn,",
                Level::DEBUG,
                Some(Level::WARN),
            ),
            ("bosh_agent::compile", Level::TRACE, None),
        ] {
            let targets = targets(level).unwrap();
            let at = |target, level: Level| targets.would_enable(target, &level);
            for tried in [
                Level::ERROR,
                Level::WARN,
                Level::INFO,
                Level::DEBUG,
                Level::TRACE,
            ] {
                assert_eq!(at(module, tried), tried <= in_module, "{level} {tried}");
                let expected = elsewhere.is_some_and(|elsewhere| tried <= elsewhere);
                assert_eq!(at("hyper", tried), expected, "{level} {tried}");
            }
        }
    }

    #[test]
    fn lines_have_the_go_agents_format() {
        let text = lines_of(GoAgent, || {
            let _span = tracing::info_span!("compile", package = "redis").entered();
            tracing::warn!(seconds = 3, path = %"/a\u{1b}[2J", "two\nlines");
        });
        let (start, rest) = text.split_once("] ").unwrap();
        assert_eq!(start, "[tests");
        let (time, rest) = rest.split_at("2006/01/02 15:04:05".len());
        assert!(chrono::NaiveDateTime::parse_from_str(time, "%Y/%m/%d %H:%M:%S").is_ok());
        assert_eq!(
            rest,
            " WARN - two\\nlines seconds=3 path=/a\\u{1b}[2J package=\"redis\"\n"
        );
    }
}

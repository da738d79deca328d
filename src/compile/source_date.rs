//! The source date: the upper limit of the times of files in compiled packages. It makes builds reproducible.
//!
//! A file that a script creates has the time of its creation, so each run would pack other bytes. With a source date, each later time is
//! replaced with the source date in the compiled package. Scripts get the source date as `SOURCE_DATE_EPOCH`, which many tools write into
//! their output in place of the current time (<https://reproducible-builds.org/specs/source-date-epoch/>). Scripts also get a fixed locale
//! and time zone, because the order of lists and the form of dates depend on them.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::error::CompileError;
use crate::archive::{Decoder, ReadError, Reader};
use crate::fs;
use crate::release::Name;
use crate::runtime::{self, Cancellable};

/// The variable with the source date. In the agent's environment, it applies to all packages; in the environment of a script, to the
/// script's package.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The locale of scripts: the order of bytes, with UTF-8. Debian's and Ubuntu's C library always has it.
const LOCALE: &str = "C.UTF-8";

/// The time zone of scripts.
const TIME_ZONE: &str = "UTC";

/// The source date of a package, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceDate(u64);

/// A text that is not a source date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the number of seconds since 1970, with digits only")]
pub struct SourceDateError;

impl SourceDate {
    /// Reads the value of `SOURCE_DATE_EPOCH`.
    ///
    /// # Errors
    /// The text is not a decimal number, or the time is after the year 9999.
    pub fn parse(text: &str) -> Result<Self, SourceDateError> {
        /// The last second of the year 9999: later times do not fit into the formats that scripts write.
        const LAST: u64 = 253_402_300_799;
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(seconds) if is_number && seconds <= LAST => Ok(Self(seconds)),
            _ => Err(SourceDateError),
        }
    }

    /// The newest time in a source blob. It is the start of 1970 if the blob has no entries, or only entries with older times.
    ///
    /// # Errors
    /// If the blob cannot be read to its end.
    fn newest_in(source: impl Read) -> Result<Self, ReadError> {
        let newest = newest_time(source)?;
        Ok(Self(
            newest
                .and_then(|it| u64::try_from(it).ok())
                .unwrap_or_default(),
        ))
    }

    /// The source date as a signed number, as archives and file systems use it.
    pub(super) fn seconds(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The source date as a time.
    #[must_use]
    pub fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
    }

    /// The environment variables that a script gets with this source date.
    pub(super) fn variables(self) -> [(&'static str, OsString); 3] {
        [
            (SOURCE_DATE_EPOCH, self.to_string().into()),
            ("LC_ALL", LOCALE.into()),
            ("TZ", TIME_ZONE.into()),
        ]
    }
}

impl fmt::Display for SourceDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The source dates of the packages of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceDates {
    /// No source dates. The times of installed files are packed unchanged.
    #[default]
    None,
    /// The same date for all packages.
    Given(SourceDate),
    /// For each package, the newest time in its source. A package then has the same bytes in every release.
    OfEachSource,
}

impl SourceDates {
    /// Whether packages have source dates. If so, the times in a source affect the compiled package.
    #[must_use]
    pub fn are_used(self) -> bool {
        self != Self::None
    }

    /// The source date of a package with this source blob. Reads the blob only for [`OfEachSource`](Self::OfEachSource).
    ///
    /// # Errors
    /// The source cannot be read, or `cancel` was triggered.
    pub async fn of(
        self,
        package: &Name,
        source: &Path,
        cancel: &CancellationToken,
    ) -> Result<Option<SourceDate>, CompileError> {
        match self {
            Self::None => return Ok(None),
            Self::Given(date) => return Ok(Some(date)),
            Self::OfEachSource => {}
        }
        let reading = {
            let (source, cancel) = (source.to_owned(), cancel.clone());
            runtime::spawn_blocking("source date", move || {
                let file = Cancellable::new(fs::open(&source)?, &cancel);
                Ok(SourceDate::newest_in(file)?)
            })
        };
        let package = package.clone();
        match reading.await {
            _ if cancel.is_cancelled() => Err(CompileError::Stopped { package }),
            Ok(Ok(date)) => Ok(Some(date)),
            Ok(Err(source)) => Err(CompileError::Source { package, source }),
            Err(source) => Err(CompileError::Task { package, source }),
        }
    }
}

/// The newest time of an archive's entries, in seconds since 1970. `None` if the archive has no entries.
fn newest_time(archive: impl Read) -> Result<Option<i64>, ReadError> {
    let input = |source| ReadError::Input { source };
    let mut reader = Reader::new(Decoder::new(archive).map_err(input)?);
    let mut newest = None;
    while let Some(entry) = reader.next_entry()? {
        newest = newest.max(Some(entry.mtime));
    }
    reader.into_inner().finish().map_err(input)?;
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter, Kind};

    #[test]
    fn source_date_is_a_number_of_seconds() {
        assert_eq!(SourceDate::parse("0"), Ok(SourceDate(0)));
        assert_eq!(
            SourceDate::parse("1577836800").map(SourceDate::seconds),
            Ok(1_577_836_800)
        );
        for wrong in [
            "",
            "-1",
            "+1",
            "1.5",
            " 1",
            "2020-01-01",
            "253402300800",
            "99999999999999999999",
        ] {
            assert_eq!(SourceDate::parse(wrong), Err(SourceDateError), "{wrong}");
        }
    }

    fn archive_of(times: &[i64]) -> Vec<u8> {
        let mut archive = EntryWriter::new(Vec::new());
        for (number, time) in times.iter().enumerate() {
            let name = format!("./{number}");
            let mut header = EntryHeader::new(Kind::File, name.as_bytes(), 0o644);
            header.mtime = *time;
            header.size = 3;
            archive.append(&header, b"abc".as_slice()).unwrap();
        }
        archive.finish().unwrap()
    }

    #[test]
    fn newest_time_of_a_source_is_its_date() {
        let newest = |times| SourceDate::newest_in(archive_of(times).as_slice()).unwrap();
        assert_eq!(newest(&[5, 1_600_000_000, 7]), SourceDate(1_600_000_000));
        assert_eq!(newest(&[-5]), SourceDate(0));
        assert_eq!(newest(&[]), SourceDate(0));
    }
}

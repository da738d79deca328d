//! Parsers for the values of flags.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::offline::{DocumentPath, SbomFormat};

/// The accepted forms of a duration.
const DURATIONS: &str =
    "expected a duration such as `90s`, `20m`, `2h` or `1h30m`, or a number of seconds";

/// The accepted forms of a size.
const SIZES: &str = "expected a size such as `512MiB` or `2GiB`, or `0`";

/// Returns a parser of whole numbers in a range.
pub(super) fn number_in<T: FromStr + Display + PartialOrd>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    RangeInclusive<T>: Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!(
                "expected a number from {} to {}",
                range.start(),
                range.end()
            )
        })
    }
}

/// Parses a duration of at least a second and at most a week.
pub(super) fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        limit if limit.is_zero() => Err("must be at least 1s".to_owned()),
        limit if limit > Duration::from_secs(7 * 24 * 3600) => {
            Err("must be at most 168h".to_owned())
        }
        limit => Ok(limit),
    }
}

/// Parses a duration of at most an hour.
pub(super) fn grace(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        grace if grace > Duration::from_secs(3600) => Err("must be at most 1h".to_owned()),
        grace => Ok(grace),
    }
}

/// Parses numbers with the units `h`, `m` and `s`, each at most once and in this order, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || DURATIONS.to_owned();
    if let Some(seconds) = number(text) {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut seconds, mut rest) = (0_u64, text);
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((count, behind)) = rest.split_once(unit) else {
            continue;
        };
        let count = number(count).and_then(|count| count.checked_mul(length));
        seconds = count
            .and_then(|count| seconds.checked_add(count))
            .ok_or_else(wrong)?;
        rest = behind;
    }
    match rest {
        "" if !text.is_empty() => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

/// Parses a number of bytes with a binary unit. Zero needs no unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || SIZES.to_owned();
    if number(text) == Some(0) {
        return Ok(0);
    }
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let exponent = match text[digits.len()..].trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    number(digits)
        .and_then(|count| count.checked_mul(1 << exponent))
        .ok_or_else(wrong)
}

/// A variable that `--env` sets for scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub name: String,
    /// `None` if the value comes from the environment of this process.
    pub value: Option<OsString>,
}

/// Parses `VARIABLE` or `VARIABLE=VALUE`.
pub(super) fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = name.bytes().all(is_allowed) && !name.starts_with(|it: char| it.is_ascii_digit());
    if name.is_empty() || !is_name {
        return Err(
            "expected VARIABLE or VARIABLE=VALUE; a name has only letters, digits and `_`"
                .to_owned(),
        );
    }
    Ok(Variable {
        name: name.to_owned(),
        value: value.map(OsString::from),
    })
}

/// Parses the path of a graph.
pub(super) fn graph_file(text: &str) -> Result<PathBuf, String> {
    file_with_extension(
        text,
        &["dot", "gv"],
        "the name of a graph must end in `.dot` or `.gv`",
    )
}

/// Parses the path of a file that the agent writes.
pub(super) fn written_file(path: OsString) -> Result<PathBuf, String> {
    let bytes = path.as_bytes();
    let last = bytes.rsplit(|byte| *byte == b'/').next();
    match last {
        None | Some(b"" | b"." | b"..") => Err("expected the path of a file".to_owned()),
        Some(_) => Ok(path.into()),
    }
}

/// Parses the path of a report.
pub(super) fn report_file(text: &str) -> Result<PathBuf, String> {
    file_with_extension(text, &["json"], "the name of a report must end in `.json`")
}

/// Parses the path of an HTML page with timings.
pub(super) fn timings_file(text: &str) -> Result<PathBuf, String> {
    file_with_extension(
        text,
        &["html", "htm"],
        "the name of a page of timings must end in `.html`",
    )
}

/// Parses the format and the path of an SBOM.
pub(super) fn sbom(text: &str) -> Result<(SbomFormat, DocumentPath), String> {
    let (format, path) = text.split_once('=').unwrap_or((text, ""));
    let format = match format {
        "cyclonedx" => SbomFormat::CycloneDx,
        "spdx" => SbomFormat::Spdx,
        _ => return Err("expected `cyclonedx=PATH` or `spdx=PATH`".to_owned()),
    };
    Ok((format, document(path)?))
}

/// Parses the path of a document.
pub(super) fn document(text: &str) -> Result<DocumentPath, String> {
    if text.ends_with('/') {
        return Ok(DocumentPath::Directory(text.into()));
    }
    let otherwise = "the path must end in `.json` or, for a directory, in `/`";
    file_with_extension(text, &["json"], otherwise).map(DocumentPath::File)
}

/// Parses a URI: only its scheme is checked.
pub(super) fn uri(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    let is_scheme = scheme.starts_with(|it: char| it.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
    let is_rest = !rest.is_empty() && rest.bytes().all(|it| it.is_ascii_graphic());
    match is_scheme && is_rest {
        true => Ok(text.to_owned()),
        false => Err("expected a URI, such as `https://ci.example.com/team`".to_owned()),
    }
}

/// Parses the path of a file that the agent writes. A name that ends differently is probably a mistake, such as a forgotten value before
/// a tarball, and that file is not to be replaced.
fn file_with_extension(text: &str, extensions: &[&str], error: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_file = !text.ends_with('/');
    let extension = path.extension().filter(|_| is_file);
    match extension.is_some_and(|it| extensions.iter().any(|wanted| it == *wanted)) {
        true => Ok(path),
        false => Err(error.to_owned()),
    }
}

/// A number without a sign.
fn number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_are_seconds() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("20m", 1200),
            ("2h", 7200),
            ("1h30m", 5400),
            ("1h5s", 3605),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "soon",
            "-1",
            "+1",
            "1.5h",
            "30m1h",
            "1h 30m",
            "1h30",
            "5d",
            "5m5m",
            "99999999999999999999",
            "9999999999999999h",
        ] {
            assert_eq!(duration(text), Err(DURATIONS.to_owned()), "{text}");
        }
    }

    #[test]
    fn reports_and_pages_have_their_own_names() {
        assert!(report_file("out/report.json").is_ok());
        assert!(timings_file("timings.html").is_ok() && timings_file("a.htm").is_ok());
        for name in [
            "release.tgz",
            "report",
            "reports/",
            "r.json/",
            "r.html",
            "-",
        ] {
            assert!(report_file(name).is_err(), "{name}");
        }
        assert!(timings_file("r.json").is_err());
    }

    #[test]
    fn documents_have_formats_and_names() {
        let file = |path: &str| DocumentPath::File(path.into());
        let cyclonedx = sbom("cyclonedx=out/a=b.json");
        assert_eq!(cyclonedx, Ok((SbomFormat::CycloneDx, file("out/a=b.json"))));
        let directory = DocumentPath::Directory("out/".into());
        assert_eq!(sbom("spdx=out/"), Ok((SbomFormat::Spdx, directory)));
        for text in [
            "",
            "spdx",
            "a.json",
            "spdx=",
            "spdx=out",
            "cdx=a.json",
            "spdx=a.tgz",
        ] {
            assert!(sbom(text).is_err(), "{text}");
        }
        assert!(document("release.tgz").is_err());
    }

    #[test]
    fn uris_have_schemes() {
        for text in ["https://ci.example.com/team", "urn:x:y", "a+b:c"] {
            assert_eq!(uri(text), Ok(text.to_owned()));
        }
        for text in ["", "ci", "1:a", "ci.example.com/x:", "https://a b", ":a"] {
            assert!(uri(text).is_err(), "{text}");
        }
    }

    #[test]
    fn written_files_have_names() {
        for name in ["a", "dir/a.tgz", "../.a", "/a"] {
            assert_eq!(written_file(name.into()), Ok(PathBuf::from(name)));
        }
        for name in ["", "dir/", "/", ".", "dir/.", "..", "dir/.."] {
            assert!(written_file(name.into()).is_err(), "{name}");
        }
    }

    #[test]
    fn graphs_have_names_of_graphs() {
        for name in ["a.dot", "dir/a.gv", "release.tgz.dot"] {
            assert_eq!(graph_file(name), Ok(PathBuf::from(name)));
        }
        for name in ["release.tgz", ".dot", "dot", "a.dot/b", "a.DOT", ""] {
            assert!(graph_file(name).is_err(), "{name}");
        }
    }

    #[test]
    fn variables_have_names_and_perhaps_values() {
        let parsed = |text| variable(text).map(|it| (it.name, it.value));
        assert_eq!(parsed("A_1"), Ok(("A_1".to_owned(), None)));
        assert_eq!(parsed("A=b=c"), Ok(("A".to_owned(), Some("b=c".into()))));
        assert_eq!(parsed("A="), Ok(("A".to_owned(), Some("".into()))));
        for text in ["", "=a", "1A", "A B=c", "release.tgz"] {
            assert!(variable(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_of_durations_are_named() {
        assert!(limit("0s").unwrap_err().contains("1s"));
        assert!(limit("169h").unwrap_err().contains("168h"));
        assert!(grace("2h").unwrap_err().contains("1h"));
        assert_eq!(grace("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("512MiB", 512 << 20),
            ("2GiB", 2 << 30),
            ("1 TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "512",
            "MiB",
            "1.5GiB",
            "1GB",
            "-1MiB",
            "99999999999GiB",
            "1é",
        ] {
            assert_eq!(size(text), Err(SIZES.to_owned()), "{text}");
        }
    }
}

//! Finds values in a manifest that should be strings but are not quoted, so that a Director's YAML
//! parser (Psych) reads them as numbers, booleans or dates. No I/O.
//!
//! The CLI and the agents read all values of these fields as strings. A Director converts a number
//! back to a string, which may change it: `1.10` becomes `1.1`.

use std::ops::RangeInclusive;

use super::finding::Findings;
use super::rules::{UNQUOTED_COMMIT, UNQUOTED_DATE, UNQUOTED_TEXT};
use crate::release::yaml::{Mapping, Node, Scalar};

/// Reports the values of a manifest that a Director reads differently than the CLI and the agents.
pub(super) fn check(manifest: &Node, findings: &mut Findings) {
    let Node::Mapping(root) = manifest else {
        return;
    };
    check_keys(root, &["name", "version"], "", findings);
    if let Some(Node::Scalar(commit)) = root.get("commit_hash")
        && converted(commit).is_some()
    {
        let text = format!(
            "release.MF line {}: `commit_hash` `{}` is not quoted, and Directors read it as a number",
            commit.line, commit.text
        );
        findings.add(&UNQUOTED_COMMIT, text);
    }
    for (key, kind, names) in [
        ("jobs", "job", "packages"),
        ("packages", "package", "dependencies"),
        ("compiled_packages", "compiled package", "dependencies"),
    ] {
        let Some(Node::Sequence(items)) = root.get(key) else {
            continue;
        };
        for item in &items.items {
            let Node::Mapping(item) = item else {
                continue;
            };
            let prefix = match item.get("name") {
                Some(Node::Scalar(name)) => format!("{kind} `{}`: ", name.text),
                _ => String::new(),
            };
            check_keys(item, &["name", "version", "fingerprint"], &prefix, findings);
            if let Some(Node::Sequence(list)) = item.get(names) {
                for name in &list.items {
                    check_value(name, names, &prefix, findings);
                }
            }
        }
    }
}

fn check_keys(mapping: &Mapping, keys: &[&str], prefix: &str, findings: &mut Findings) {
    for key in keys {
        if let Some(node) = mapping.get(key) {
            check_value(node, key, prefix, findings);
        }
    }
}

/// Checks one value. `prefix` precedes the key in messages: it names the job or package.
fn check_value(node: &Node, key: &str, prefix: &str, findings: &mut Findings) {
    let Node::Scalar(scalar) = node else {
        return;
    };
    if is_date(scalar) {
        let text = format!(
            "release.MF line {}: {prefix}`{key}` `{}` is not quoted: Directors read a date",
            scalar.line, scalar.text
        );
        findings.add(&UNQUOTED_DATE, text);
    } else if let Some(read) = read_by_psych(scalar) {
        let text = format!(
            "release.MF line {}: {prefix}`{key}` `{}` is not quoted: Directors read `{read}`",
            scalar.line, scalar.text
        );
        findings.add(&UNQUOTED_TEXT, text);
    }
}

/// The string that a Director gets for a scalar; `None` if it is the scalar's own text.
fn read_by_psych(scalar: &Scalar) -> Option<String> {
    converted(scalar).filter(|read| *read != scalar.text)
}

/// The string that a Director gets for a scalar that it reads as a number or a boolean; `None` for any
/// other scalar.
fn converted(scalar: &Scalar) -> Option<String> {
    if !is_untyped(scalar) {
        return None;
    }
    let text = &scalar.text;
    word(text).or_else(|| integer(text)).or_else(|| float(text))
}

/// Whether a YAML parser infers the scalar's type from its text.
fn is_untyped(scalar: &Scalar) -> bool {
    scalar.plain && scalar.tag.is_none()
}

/// Whether Psych takes a text for a date, such as `2026-01-31` or the impossible `2026-02-31`. Psych
/// refuses to load dates.
fn is_date(scalar: &Scalar) -> bool {
    let parts: Vec<&str> = scalar.text.split('-').collect();
    let fits = |part: &str, lengths: RangeInclusive<usize>, largest: u32| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number
            && lengths.contains(&part.len())
            && part.parse().is_ok_and(|it: u32| it <= largest)
    };
    let [year, month, day] = parts[..] else {
        return false;
    };
    is_untyped(scalar) && fits(year, 4..=4, 9999) && fits(month, 1..=2, 12) && fits(day, 1..=2, 31)
}

fn word(text: &str) -> Option<String> {
    let word = match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" => "true",
        "no" | "false" | "off" => "false",
        ".inf" | "+.inf" => "Infinity",
        "-.inf" => "-Infinity",
        ".nan" => "NaN",
        _ => return None,
    };
    Some(word.to_owned())
}

/// Converts an integer in base 10, 8, 16 or 2, whose digits may be grouped by `_` or `,`. Ignores an
/// integer that does not fit into a `u128`, because names and versions are not that long.
fn integer(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits) = match digits.strip_prefix('0') {
        None | Some("") => (10, digits),
        Some(rest) => match (rest.strip_prefix('x'), rest.strip_prefix('b')) {
            (Some(hex), _) => (16, hex),
            (_, Some(binary)) => (2, binary),
            (None, None) => (8, rest),
        },
    };
    let is_grouped_oddly = digits.ends_with(['_', ',']) || digits.contains("__");
    if is_grouped_oddly || !digits.starts_with(|first: char| first.is_digit(base)) {
        return None;
    }
    let digits = digits.replace(['_', ','], "");
    let number = u128::from_str_radix(&digits, base).ok()?;
    Some(format!("{sign}{number}"))
}

/// Converts a decimal fraction. An exponent must have a sign.
fn float(text: &str) -> Option<String> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']);
        digits.is_some_and(|digits| !digits.is_empty() && is_number(digits))
    });
    let unsigned = mantissa.strip_prefix(['+', '-']).unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.')?;
    let grouped = |byte: u8| byte.is_ascii_digit() || byte == b'_' || byte == b',';
    let whole_fits = whole.is_empty()
        || whole.starts_with(|it: char| it.is_ascii_digit()) && whole.bytes().all(grouped);
    let has_digit = !whole.is_empty() || !fraction.is_empty();
    if !exponent_fits || !whole_fits || !has_digit || !is_number(fraction) {
        return None;
    }
    let number: f64 = text.replace(['_', ','], "").parse().ok()?;
    Some(format!("{number:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::yaml;

    fn read(text: &str) -> Option<String> {
        match yaml::parse(text).unwrap() {
            Node::Scalar(scalar) => read_by_psych(&scalar),
            other => panic!("{other:?}"),
        }
    }

    /// The expectations are the output of Psych 4.0.3.
    #[test]
    fn numbers_and_words_are_read_as_by_psych() {
        for (text, expected) in [
            ("1.10", "1.1"),
            ("0.10", "0.1"),
            ("01.5", "1.5"),
            ("007.1", "7.1"),
            ("1.", "1.0"),
            (".5", "0.5"),
            ("1_0.5", "10.5"),
            ("0777", "511"),
            ("1_000", "1000"),
            ("0x1f", "31"),
            ("0b101", "5"),
            ("+1", "1"),
            ("yes", "true"),
            ("On", "true"),
            ("off", "false"),
            (".inf", "Infinity"),
            ("1.5e+3", "1500.0"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn dates_are_recognized_as_by_psych() {
        let is = |text| match yaml::parse(text).unwrap() {
            Node::Scalar(scalar) => is_date(&scalar),
            other => panic!("{other:?}"),
        };
        for text in ["2020-01-01", "2020-1-1", "2020-02-31"] {
            assert!(is(text), "{text}");
        }
        for text in [
            "'2020-01-01'",
            "!!str 2020-01-01",
            "2020-13-01",
            "2020-01-32",
            "2020-01",
            "2020-01-01-1",
            "20-01-01",
            "2020-01-+1",
        ] {
            assert!(!is(text), "{text}");
        }
    }

    #[test]
    fn texts_that_a_director_keeps_are_not_reported() {
        for text in [
            "1.5",
            "1.0",
            "45",
            "0",
            "08",
            "1e3",
            "5e1234",
            "12e03",
            "1.5e3",
            "1.2.3",
            "0o17",
            "NaN",
            "y",
            "n",
            "1.10.0",
            "2.0-rc.1",
            "1.0+dev.2",
            "58236d1fa1c9",
            "'1.10'",
            "\"on\"",
            "!!str 1.10",
            ".",
            "+",
            "_1",
            "1_",
            "1__0",
            "0x",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}

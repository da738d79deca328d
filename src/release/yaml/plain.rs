//! Quotes texts so that every YAML reader reads them as strings.
//!
//! The readers of a compiled manifest are yaml.v3 (CLI), Psych (Director) and the parsers of scripts. They disagree about a plain `1:20`,
//! `on` or `0777`, so a text stays plain only if all of them read it as a string. As a result, this module quotes some texts that yaml.v3
//! writes plain, such as `1.2.3`. Readers get the same string.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Words, in lower case, that at least one reader takes for a boolean, null or number.
const WORDS: [&str; 11] = [
    "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf",
];

/// Writes a text as a scalar on one line: plain if that is safe, otherwise in double quotes.
#[must_use]
pub(crate) fn quoted(text: &str) -> Cow<'_, str> {
    if is_safe_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            ' '..='~' => quoted.push(c),
            // Escape all other characters by number, because some readers reject or replace some of them.
            _ => {
                let _ = match u32::from(c) {
                    code @ ..=0xff => write!(quoted, "\\x{code:02X}"),
                    code @ ..=0xffff => write!(quoted, "\\u{code:04X}"),
                    code => write!(quoted, "\\U{code:08X}"),
                };
            }
        }
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

fn is_safe_plain(text: &str) -> bool {
    let Some(first) = text.bytes().next() else {
        return false;
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_+./:".contains(&b);
    if !text.bytes().all(allowed) || text.ends_with(':') {
        return false;
    }
    if first.is_ascii_alphabetic() {
        let lower = text.to_ascii_lowercase();
        return !WORDS.contains(&lower.as_str());
    }
    // The only letters in numbers, base-60 numbers and timestamps are e, t and z, except after a prefix (0x, 0o, 0b). So a digest like
    // 58236d… is a string for all readers, but 5e12… may be a number.
    let has_prefix = text
        .as_bytes()
        .get(1)
        .is_some_and(|b| b"xXoObB".contains(b));
    let in_numbers = |b: u8| b"eEtTzZ".contains(&b);
    first.is_ascii_digit()
        && !(first == b'0' && has_prefix)
        && text
            .bytes()
            .any(|b| b.is_ascii_alphabetic() && !in_numbers(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::yaml::{Node, parse};
    use proptest::prelude::*;

    #[test]
    fn names_digests_and_slugs_are_plain() {
        for text in [
            "demo",
            "log-cache",
            "golang-1.20-linux",
            "a.b+c",
            "a:b",
            "non-git",
            "unknown",
            "8ab1aae",
            "58236d1fa1c9e1b8f47e47a1d0a1b7f1a0c1d2e3",
            "sha256:db17d6aa",
            "ubuntu-jammy/1.406",
            "1.0+dev.12",
            "2.0-rc.1",
            "yesterday",
            "infra",
            "e5",
            "true-north",
        ] {
            assert_eq!(quoted(text), text);
        }
    }

    #[test]
    fn ambiguous_texts_are_quoted() {
        let words = "~ null Null NULL y Y n N yes Yes YES no on On off OFF true True false FALSE = << ? ... .";
        let numbers = "45 -45 +45 1.10 .5 1. 0 0777 08 0x1f 0X1F 0b101 0o17 1_000 1,000 1e5 1e+5 12e03 5e1234 5E1234 \
                       007.1 .inf -.inf +.INF .nan .NaN NaN inf 1234567890123456789012345678901234567890 1.2.3";
        let times = "1:20 190:20:30 1:20.5 2020-01-01 2020-01-01T00:00:00Z 2020-01-01t00:00:00 2020-01-01T00";
        let marks = "- -- --- : a: :a #a &a *a !a !!str | > %a @a `a 'a' [a] {a} a,b _1 +a -a";
        let with_blanks = ["", "a: b", "a #b", "- a", " a", "a ", "2020-01-01 00:00:00"];
        let lists = [words, numbers, times, marks];
        let texts = lists.iter().flat_map(|list| list.split_whitespace());
        for text in texts.chain(with_blanks) {
            assert_eq!(quoted(text), format!("\"{text}\""));
        }
    }

    #[test]
    fn unprintable_characters_are_escaped() {
        for (text, expected) in [
            ("a\"b\\c", r#""a\"b\\c""#),
            ("a\nb\tc\rd", r#""a\nb\tc\x0Dd""#),
            ("\0\u{1b}\u{7f}\u{85}é", r#""\x00\x1B\x7F\x85\xE9""#),
            ("\u{2028}\u{feff}", r#""\u2028\uFEFF""#),
            ("\u{1f600}", r#""\U0001F600""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_a_round_trip(text in any::<String>()) {
            let read = parse(&format!("key: {}\n", quoted(&text))).unwrap();
            let Node::Mapping(mapping) = read else { panic!("{read:?}") };
            let Some(Node::Scalar(value)) = mapping.get("key") else { panic!("{mapping:?}") };
            prop_assert_eq!(&value.text, &text);
        }

        #[test]
        fn possible_numbers_are_never_plain(text in "[-+]?[0-9][0-9_.:eE+tTzZ-]{0,12}") {
            prop_assert!(quoted(&text).starts_with('"'));
        }
    }
}

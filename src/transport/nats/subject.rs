//! Subjects that can be published to.

/// The longest subject. A server ends the connection over a protocol line of more than 4,096 bytes; a Director's reply
/// subject has about 130.
const LONGEST: usize = 1024;

/// What keeps a text from being a subject that one can publish to, if anything does. On the wire such a text would end
/// the connection, or mean something else.
pub(super) fn problem(subject: &str) -> Option<&'static str> {
    if subject.is_empty() {
        Some("it is empty")
    } else if subject.len() > LONGEST {
        Some("it is too long")
    } else if subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("it has white space or control characters in it")
    } else if subject.contains(['*', '>']) {
        Some("it has wildcards in it")
    } else if subject.split('.').any(str::is_empty) {
        Some("it has an empty part")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_directors_subject_can_be_published_to() {
        let id = "3a5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3";
        assert_eq!(problem(&format!("director.{id}.{id}.{id}")), None);
        assert_eq!(problem("x"), None);
    }

    #[test]
    fn what_would_break_the_protocol_is_no_subject() {
        for subject in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "a\r\nPUB x 0\r\n",
            "a\0",
            "a.*",
            "a.>",
            ">",
            "a\u{a0}b",
        ] {
            assert!(problem(subject).is_some(), "{subject:?}");
        }
        assert!(problem(&"a".repeat(LONGEST)).is_none());
        assert!(problem(&"a".repeat(LONGEST + 1)).is_some());
    }

    proptest! {
        #[test]
        fn what_is_taken_is_taken_by_the_client_library_too(subject in ".{0,20}") {
            if problem(&subject).is_none() {
                prop_assert!(async_nats::Subject::from(subject.as_str()).is_valid());
                prop_assert!(!subject.bytes().any(|byte| byte <= b' ' || byte == 0x7f));
            }
        }
    }
}

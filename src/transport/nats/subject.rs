//! Validates NATS subjects, the addresses of messages.

/// The maximum length of a subject in bytes. A server closes the connection after a protocol line
/// of more than 4,096 bytes. The reply subjects of a Director have about 130 bytes.
const MAX_LEN: usize = 1024;

/// Why a text is not a valid subject for publishing; `None` if it is valid. An invalid subject
/// would corrupt the protocol or have another meaning.
pub(super) fn problem(subject: &str) -> Option<&'static str> {
    if subject.is_empty() {
        Some("it is empty")
    } else if subject.len() > MAX_LEN {
        Some("it is too long")
    } else if subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("it contains white space or control characters")
    } else if subject.contains(['*', '>']) {
        Some("it contains wildcards")
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
    fn subject_of_a_director_is_valid() {
        let id = "3a5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3";
        assert_eq!(problem(&format!("director.{id}.{id}.{id}")), None);
        assert_eq!(problem("x"), None);
    }

    #[test]
    fn subject_that_breaks_the_protocol_is_invalid() {
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
        assert!(problem(&"a".repeat(MAX_LEN)).is_none());
        assert!(problem(&"a".repeat(MAX_LEN + 1)).is_some());
    }

    proptest! {
        #[test]
        fn valid_subject_is_valid_for_the_client_library(subject in ".{0,20}") {
            if problem(&subject).is_none() {
                prop_assert!(async_nats::Subject::from(subject.as_str()).is_valid());
                prop_assert!(!subject.bytes().any(|byte| byte <= b' ' || byte == 0x7f));
            }
        }
    }
}

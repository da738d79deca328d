//! Base64 for `!binary`: the only use of it, and too small for a dependency.

/// Decodes the standard alphabet. White space is ignored, padding may be missing but not wrong; `None` for the rest.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut digits = Vec::new();
    let mut padding = 0;
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        digits.push(u32::from(digit));
    }
    let complete = padding == 0 || (padding < 3 && (digits.len() + padding).is_multiple_of(4));
    if !complete || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        // Four digits are three bytes, three are two, two are one.
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_4648_are_decoded() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
            ("Zm9v\n  YmE", "fooba"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(decode("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in [
            "A", "Zg=", "Z===", "Zm9v=", "Zg==Zg==", "====", "Zm_v", "Zm9v!", "é",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_decoded_or_refused(text in r"[A-Za-z0-9+/= \n]{0,20}|\PC*") {
            let digits = text.bytes().filter(|b| b.is_ascii_alphanumeric() || b"+/".contains(b)).count();
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(bytes.len(), digits * 6 / 8);
            }
        }
    }
}

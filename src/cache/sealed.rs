//! Sealed JSON: JSON with its own digest, so that any changed byte is detected. No I/O.
//!
//! The file has two lines: the value, and `{"sha256":"…"}` with the digest of the first line.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::damage::DamageKind;
use crate::release::digest::BlobDigests;

/// Encodes a value as sealed JSON.
pub(super) fn seal<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    let last = last_line(&text);
    text.extend(last.into_bytes());
    Ok(text)
}

/// Decodes sealed JSON, after verifying the digest.
pub(super) fn open<T: DeserializeOwned>(text: &[u8]) -> Result<T, DamageKind> {
    let end = text.iter().position(|byte| *byte == b'\n');
    let (first, last) = text.split_at(end.map_or(text.len(), |end| end + 1));
    if last != last_line(first).as_bytes() {
        return Err(DamageKind::Changed);
    }
    serde_json::from_slice(first).map_err(DamageKind::Foreign)
}

fn last_line(first: &[u8]) -> String {
    format!("{{\"sha256\":\"{}\"}}\n", BlobDigests::of(first).sha256())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_changed_byte_is_accepted() {
        let sealed = seal(&("a value", 1)).unwrap();
        assert_eq!(
            open::<(String, u32)>(&sealed).unwrap(),
            ("a value".to_owned(), 1)
        );
        for position in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[position] ^= 1 << bit;
                assert!(open::<(String, u32)>(&changed).is_err(), "byte {position}");
            }
            assert!(open::<(String, u32)>(&sealed[..position]).is_err());
        }
        let longer = [sealed.as_slice(), b"\n"].concat();
        assert!(open::<(String, u32)>(&longer).is_err());
    }

    #[test]
    fn other_json_is_foreign() {
        let sealed = seal(&"a text").unwrap();
        assert!(matches!(open::<u32>(&sealed), Err(DamageKind::Foreign(_))));
    }
}

//! Reads and writes numbers in header fields: octal text, or base-256 if the number has too many octal digits for the field.
//!
//! Base-256 is an extension of GNU tar: the first bit is set and the rest is a big-endian number in two's complement (GNU tar's manual,
//! "Extensions to the archive format"). star and libarchive read and write the same format.

/// Parses a field; `None` if it is not a number or too large. An empty field is 0.
pub(super) fn parse(field: &[u8]) -> Option<i64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        return parse_base_256(field);
    }
    let mut text = field
        .split(|byte| *byte == 0)
        .map(<[u8]>::trim_ascii)
        .skip_while(|text| text.is_empty());
    let mut value: i64 = 0;
    for byte in text.next().unwrap_or_default() {
        let digit = match byte {
            b'0'..=b'7' => i64::from(byte - b'0'),
            _ => return None,
        };
        value = value.checked_mul(8)?.checked_add(digit)?;
    }
    Some(value)
}

/// Parses a field that must not be negative.
pub(super) fn parse_unsigned(field: &[u8]) -> Option<u64> {
    parse(field).and_then(|value| u64::try_from(value).ok())
}

fn parse_base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // Bit 6 of the first byte is the sign; bit 7 only marks base-256.
    let mut value: i128 = if first & 0x40 == 0 {
        i128::from(first & 0x3f)
    } else {
        i128::from(first & 0x3f) - 0x40
    };
    for byte in rest {
        value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
    }
    i64::try_from(value).ok()
}

/// Writes octal digits and a NUL, or base-256 if there are too many digits.
///
/// Fields have 8 or 12 bytes. In base-256, every `u32` fits into 8 bytes, and every `u64` into 12. A number that is too large for its field
/// loses its highest bits.
pub(super) fn write(field: &mut [u8], value: u64) {
    let Some(digits) = field.len().checked_sub(1) else {
        return;
    };
    let octal = format!("{value:0digits$o}");
    if octal.len() == digits {
        field[..digits].copy_from_slice(octal.as_bytes());
        field[digits] = 0;
        return;
    }
    let mut rest = value;
    for byte in field.iter_mut().rev() {
        *byte = (rest & 0xff) as u8;
        rest >>= 8;
    }
    field[0] |= 0x80;
}

/// Like [`write`](fn@write); negative numbers are written in base-256.
pub(super) fn write_signed(field: &mut [u8], value: i64) {
    match u64::try_from(value) {
        Ok(value) => write(field, value),
        Err(_) => {
            let mut rest = value;
            for byte in field.iter_mut().rev() {
                *byte = rest.to_le_bytes()[0];
                // This is an arithmetic shift, which extends the sign.
                rest >>= 8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_is_parsed_with_any_padding() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"000644 \0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"64 4\0\0\0\0", None),
        ] {
            assert_eq!(parse(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn base_256_holds_large_and_negative_numbers() {
        let mut field = [0; 12];
        for value in [
            0,
            1,
            0o77_777_777_777,
            0o100_000_000_000,
            10 << 30,
            i64::MAX as u64,
        ] {
            write(&mut field, value);
            assert_eq!(parse_unsigned(&field), Some(value));
        }
        assert_eq!(parse(&[0xff; 12]), Some(-1));
        assert_eq!(parse_unsigned(&[0xff; 12]), None);
        let mut huge = [0x7f; 12];
        huge[0] = 0x80 | 0x3f;
        assert_eq!(parse(&huge), None);
    }

    #[test]
    fn negative_numbers_are_written_in_base_256() {
        for value in [-1, -1000, -86_400 * 365 * 50, i64::MIN] {
            let mut field = [0; 12];
            write_signed(&mut field, value);
            assert_eq!(parse(&field), Some(value), "{value}");
        }
        let mut field = [0; 12];
        write_signed(&mut field, -1);
        assert_eq!(field, [0xff; 12]);
        write_signed(&mut field, 8);
        assert_eq!(&field, b"00000000010\0");
    }

    #[test]
    fn user_id_with_more_than_seven_digits_is_base_256() {
        let mut field = [0; 8];
        write(&mut field, 0o7_777_777);
        assert_eq!(&field, b"7777777\0");
        write(&mut field, 0o10_000_000);
        assert_eq!(field, [0x80, 0, 0, 0, 0, 0x20, 0, 0]);
        write(&mut field, u64::from(u32::MAX));
        assert_eq!(parse_unsigned(&field), Some(u64::from(u32::MAX)));
    }
}

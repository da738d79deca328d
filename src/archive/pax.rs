//! Parses PAX records: the contents of an extended header, which apply to the entry after it.
//!
//! A record is `LENGTH KEY=VALUE\n` (POSIX `pax`, "pax Extended Header"). `LENGTH` is the length of the whole record, so the value may
//! contain line ends. An empty value deletes the earlier value of the key.

use crate::archive::sparse::{self, Piece};

/// The records that are used. Other records, such as access times and attributes, are ignored.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) owner: OwnerRecords,
    pub(super) sparse: SparseRecords,
}

/// The records about the entry's owner.
#[derive(Debug, Default)]
pub(super) struct OwnerRecords {
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) user: Option<Vec<u8>>,
    pub(super) group: Option<Vec<u8>>,
}

/// The `GNU.sparse.*` records (GNU tar's manual, "Storing Sparse Files"). Numbers such as 0.1 are versions of the format.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    /// The unpacked size of the file, in bytes: `GNU.sparse.size` (0.0, 0.1) or `GNU.sparse.realsize` (1.0).
    pub(super) size: Option<u64>,
    /// The announced number of pieces (0.0, 0.1).
    count: Option<u64>,
    /// The pieces (0.0, 0.1).
    pub(super) pieces: Vec<Piece>,
    /// The offset of the piece whose length is in the next record (0.0).
    offset: Option<u64>,
    /// Whether there were records of a sparse file in format 0.0 or 0.1.
    is_sparse: bool,
}

/// Where the pieces of a sparse file are listed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PieceList {
    /// Nowhere, because the file is not sparse.
    None,
    /// In the records (0.0 and 0.1).
    Records,
    /// Before the content (1.0).
    Content,
}

impl SparseRecords {
    /// Where the pieces are listed.
    pub(super) fn piece_list(&self) -> Result<PieceList, &'static str> {
        match (self.major, self.minor) {
            (Some(1), Some(0)) => Ok(PieceList::Content),
            (None | Some(0), _) if !self.is_sparse => Ok(PieceList::None),
            (None | Some(0), _) => {
                if self.offset.is_some()
                    || self
                        .count
                        .is_some_and(|count| count != self.pieces.len() as u64)
                {
                    return Err("the list of pieces is not complete");
                }
                Ok(PieceList::Records)
            }
            _ => Err("the version of its format is unknown"),
        }
    }
}

impl Pax {
    /// Reads all records of one extended header.
    pub(super) fn parse(mut records: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        // Some writers pad the records with NULs.
        while records.first().is_some_and(|byte| *byte != 0) {
            let (key, value, rest) = record(records).ok_or("a record is malformed")?;
            pax.set(key, value)?;
            records = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link_path = text(),
            b"uid" => {
                self.owner.uid = optional(value, sparse::decimal, "the owner is not a number")?
            }
            b"gid" => {
                self.owner.gid = optional(value, sparse::decimal, "the group is not a number")?
            }
            b"uname" => self.owner.user = text(),
            b"gname" => self.owner.group = text(),
            b"size" => self.size = optional(value, sparse::decimal, "the size is not a number")?,
            b"mtime" => {
                self.mtime = optional(
                    value,
                    whole_seconds,
                    "the modification time is not a number",
                )?;
            }
            key => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                }
            }
        }
        Ok(())
    }
}

impl SparseRecords {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || sparse::decimal(value).ok_or("a number of a sparse file is malformed");
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"size" | b"realsize" => {
                self.size = Some(number()?);
                self.is_sparse = true;
            }
            b"numblocks" => {
                self.count = Some(number()?);
                self.is_sparse = true;
            }
            b"offset" => {
                let earlier = self.offset.replace(number()?);
                if earlier.is_some() {
                    return Err("a piece of a sparse file has no length");
                }
            }
            b"numbytes" => {
                let offset = self
                    .offset
                    .take()
                    .ok_or("a piece of a sparse file has no offset")?;
                sparse::push(&mut self.pieces, offset, number()?)?;
            }
            b"map" => {
                self.is_sparse = true;
                let mut numbers = value
                    .split(|byte| *byte == b',')
                    .filter(|text| !text.is_empty())
                    .map(|text| {
                        sparse::decimal(text).ok_or("a number of a sparse file is malformed")
                    });
                while let Some(offset) = numbers.next() {
                    let length = numbers
                        .next()
                        .ok_or("a piece of a sparse file has no length")?;
                    sparse::push(&mut self.pieces, offset?, length?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The key and value of the first record, and the remaining records.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(sparse::decimal(&records[..space])?).ok()?;
    if length > records.len() || length < space + 2 {
        return None;
    }
    let (record, rest) = records.split_at(length);
    let text = record[space + 1..].strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}

fn optional<T>(
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Option<T>,
    problem: &'static str,
) -> Result<Option<T>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some).ok_or(problem)
}

/// Parses a decimal number of seconds and rounds it down: -0.5 becomes -1.
fn whole_seconds(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(sparse::decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let has_fraction = fraction.iter().any(|digit| *digit != b'0');
    Some(match (negative, has_fraction) {
        (false, _) => seconds,
        (true, false) => -seconds,
        (true, true) => -seconds - 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn value_may_contain_any_byte() {
        let records = [
            line("path", b"a\nb=\xff"),
            line("size", b"8589934592"),
            line("comment", b""),
        ]
        .concat();
        let pax = Pax::parse(&records).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a\nb=\xff"[..]));
        assert_eq!(pax.size, Some(8_589_934_592));
    }

    #[test]
    fn empty_value_deletes_the_earlier_one() {
        let pax = Pax::parse(&[line("path", b"a"), line("path", b"")].concat()).unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, expected) in [
            ("12", Some(12)),
            ("12.999", Some(12)),
            ("-1", Some(-1)),
            ("-1.000", Some(-1)),
            ("-1.5", Some(-2)),
            ("-0.5", Some(-1)),
            ("1.", Some(1)),
            ("1.x", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(whole_seconds(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn malformed_record_is_an_error() {
        for records in [
            &b"5 path"[..],
            b"99 path=a\n",
            b"9 path=a",
            b"3 a\n",
            b"x path=a\n",
            b"0 path=a\n",
            b"10 path=ab",
            b"99999999999999999999999 a=b\n",
        ] {
            assert!(Pax::parse(records).is_err(), "{}", records.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_cause_no_panic(records in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&records);
        }

        #[test]
        fn each_value_is_parsed(value in proptest::collection::vec(1..=255_u8, 1..200)) {
            prop_assert_eq!(Pax::parse(&line("linkpath", &value)).unwrap().link_path, Some(value));
        }
    }
}

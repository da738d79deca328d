//! Reads from an ELF file where the dynamic linker looks for the file's libraries: `DT_RPATH`, `DT_RUNPATH`, and library names that are
//! absolute paths. Reads only the headers, the dynamic section and these strings.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first bytes of every ELF file.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// The maximum number of program headers. Real files have fewer.
const HEADERS_LIMIT: u64 = 1024;

/// The maximum size of the dynamic section, in bytes. Real sections are smaller.
const DYNAMIC_LIMIT: u64 = 1 << 20;

/// The length after which a string is cut off, in bytes. It may be exceeded by one block that is read.
const PATH_LIMIT: usize = 64 * 1024;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;

const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// The class (32 or 64 bits) and the byte order of a file.
#[derive(Clone, Copy)]
struct Layout {
    is_64: bool,
    is_big: bool,
}

/// The parts of a program header that are used here.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

impl Layout {
    fn number(self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(length)?)?;
        let add = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
        Some(match self.is_big {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        })
    }

    /// The size of an address in bytes.
    fn word(self) -> usize {
        if self.is_64 { 8 } else { 4 }
    }
}

/// The directories in which the dynamic linker looks for libraries, and the libraries with absolute paths. Empty if the file is damaged or
/// is not a dynamically linked ELF file.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn library_paths(file: &File) -> io::Result<Vec<Vec<u8>>> {
    let start = read(file, 0, 64)?;
    let layout = match start.get(..6) {
        Some([0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2)]) => Layout {
            is_64: *class == 2,
            is_big: *order == 2,
        },
        _ => return Ok(Vec::new()),
    };
    Ok(library_paths_of(file, layout, &start)?.unwrap_or_default())
}

/// As [`library_paths`], for a file that begins with `start`. `None` if the file is damaged or not dynamically linked.
fn library_paths_of(file: &File, layout: Layout, start: &[u8]) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some(segments) = segments(file, layout, start)? else {
        return Ok(None);
    };
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Ok(None);
    };
    let section = read(file, dynamic.offset, dynamic.size.min(DYNAMIC_LIMIT))?;
    let word = layout.word();
    let entries: Vec<(u64, u64)> = section
        .chunks_exact(2 * word)
        .filter_map(|entry| {
            let tag = layout.number(entry, 0, word)?;
            Some((tag, layout.number(entry, word, word)?))
        })
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let Some((_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
        return Ok(None);
    };
    let in_file = segments.iter().find_map(|segment| {
        let within = strings.checked_sub(segment.address)?;
        (segment.kind == PT_LOAD && within < segment.size)
            .then(|| segment.offset.checked_add(within))?
    });
    let Some(strings) = in_file else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for (tag, value) in entries {
        if ![DT_NEEDED, DT_RPATH, DT_RUNPATH].contains(&tag) {
            continue;
        }
        let Some(at) = strings.checked_add(value) else {
            return Ok(None);
        };
        let text = string(file, at)?;
        match tag {
            DT_NEEDED if text.starts_with(b"/") => found.push(text),
            DT_NEEDED => {}
            _ => found.extend(text.split(|byte| *byte == b':').map(<[u8]>::to_vec)),
        }
    }
    Ok(Some(found))
}

fn segments(file: &File, layout: Layout, start: &[u8]) -> io::Result<Option<Vec<Segment>>> {
    let word = layout.word();
    // Where the file header contains the offset, the size and the number of the program headers.
    let (offset, size, count) = if layout.is_64 {
        (32, 54, 56)
    } else {
        (28, 42, 44)
    };
    let header = |at, length| layout.number(start, at, length);
    let (Some(offset), Some(size), Some(count)) =
        (header(offset, word), header(size, 2), header(count, 2))
    else {
        return Ok(None);
    };
    // Where a program header contains the segment's offset in the file, its address, and its size in the file.
    let positions: [usize; 3] = if layout.is_64 {
        [8, 16, 32]
    } else {
        [4, 8, 16]
    };
    if size < 32 || count > HEADERS_LIMIT {
        return Ok(None);
    }
    let table = read(file, offset, size * count)?;
    let segments = table.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX));
    let segments = segments.map(|header| {
        let [offset, address, size] = positions.map(|at| layout.number(header, at, word));
        Some(Segment {
            kind: layout.number(header, 0, 4)?,
            offset: offset?,
            address: address?,
            size: size?,
        })
    });
    Ok(segments.collect())
}

/// Reads `length` bytes, or fewer at the end of the file.
fn read(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        let Some(at) = offset
            .checked_add(filled as u64)
            .filter(|at| i64::try_from(*at).is_ok())
        else {
            break;
        };
        match file.read_at(&mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The bytes from `offset` up to the next zero byte.
fn string(file: &File, mut offset: u64) -> io::Result<Vec<u8>> {
    const STEP: u64 = 512;
    let mut text = Vec::new();
    while text.len() < PATH_LIMIT {
        let bytes = read(file, offset, STEP)?;
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&bytes[..end]);
            break;
        }
        if bytes.is_empty() {
            break;
        }
        text.extend_from_slice(&bytes);
        offset = offset.saturating_add(STEP);
    }
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// An ELF file that is loaded as one segment. `entries` are the strings of its dynamic section.
    pub(in crate::compile) fn file_with(
        is_64: bool,
        is_big: bool,
        entries: &[(u64, &str)],
    ) -> Vec<u8> {
        let word = if is_64 { 8 } else { 4 };
        let number = |value: u64, length: usize| -> Vec<u8> {
            match is_big {
                true => value.to_be_bytes()[8 - length..].to_vec(),
                false => value.to_le_bytes()[..length].to_vec(),
            }
        };
        let (header, program) = if is_64 { (64, 56) } else { (52, 32) };
        let dynamic = header + 2 * program;
        let dynamic_size = (entries.len() as u64 + 2) * 2 * word as u64;
        let strings = dynamic + dynamic_size;
        let mut table = vec![0];
        let mut section = [number(DT_STRTAB, word), number(0x1000 + strings, word)].concat();
        for (tag, text) in entries {
            section.extend(number(*tag, word));
            section.extend(number(table.len() as u64, word));
            table.extend_from_slice(text.as_bytes());
            table.push(0);
        }
        section.extend(number(0, 2 * word.min(4)));
        section.resize(usize::try_from(dynamic_size).unwrap(), 0);
        let size = strings + table.len() as u64;

        let mut file = MAGIC.to_vec();
        file.extend([if is_64 { 2 } else { 1 }, if is_big { 2 } else { 1 }, 1]);
        file.resize(16, 0);
        file.extend([number(3, 2), number(62, 2), number(1, 4)].concat());
        file.extend([number(0, word), number(header, word), number(0, word)].concat());
        file.extend(number(0, 4));
        for field in [header, program, 2, 0, 0, 0] {
            file.extend(number(field, 2));
        }
        for (kind, offset, length) in [(PT_LOAD, 0, size), (PT_DYNAMIC, dynamic, dynamic_size)] {
            file.extend(number(kind, 4));
            if is_64 {
                file.extend(number(0, 4));
            }
            for value in [offset, 0x1000 + offset, 0, length, length] {
                file.extend(number(value, word));
            }
            file.resize(file.len() + 8, 0);
        }
        file.extend(section);
        file.extend(table);
        file
    }

    fn library_paths_in(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        library_paths(&file).unwrap()
    }

    #[test]
    fn search_paths_and_absolute_libraries_are_found_in_every_layout() {
        let entries = [
            (DT_NEEDED, "libc.so.6"),
            (DT_NEEDED, "/build/libx.so"),
            (DT_RPATH, "/build/lib:$ORIGIN/../lib"),
            (DT_RUNPATH, "/opt/lib"),
        ];
        for (is_64, is_big) in [(true, false), (true, true), (false, false), (false, true)] {
            let found = library_paths_in(&file_with(is_64, is_big, &entries));
            let found: Vec<&str> = found.iter().map(|it| str::from_utf8(it).unwrap()).collect();
            assert_eq!(
                found,
                ["/build/libx.so", "/build/lib", "$ORIGIN/../lib", "/opt/lib"],
                "{is_64} {is_big}"
            );
        }
        assert!(library_paths_in(b"").is_empty());
        assert!(library_paths_in(b"#!/bin/sh\n").is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn damaged_files_are_read_without_panic(
            is_64: bool,
            cut in 0_usize..400,
            changes in prop::collection::vec((4_usize..400, any::<u8>()), 0..20),
        ) {
            let mut bytes = file_with(is_64, false, &[(DT_RPATH, "/build/lib")]);
            bytes.truncate(bytes.len().saturating_sub(cut % 300));
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            library_paths_in(&bytes);
        }
    }
}

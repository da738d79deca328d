//! The digest of what a source blob unpacks to: two blobs with the same digest give a packaging script the same files.
//!
//! The digest depends on names, kinds, modes, the targets of links and the bytes of files. It does not depend on times, owners, the order
//! of entries, or the compression of the blob. Device nodes are ignored, because sources are unpacked without them.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive::entry::normalize;
use crate::archive::{Decoder, Entry, Kind, ReadError, Reader};
use crate::release::Algorithm;
use crate::release::digest::Hasher;

/// The version of the digest. Increase it when a change gives an archive another digest.
pub const CONTENT_FORM: u32 = 1;

/// The mode of directories that contain entries but are not listed in the archive.
const UNLISTED_MODE: u32 = 0o755;

const BUFFER: usize = 128 * 1024;

/// The digest of what an archive unpacks to, in lower-case hex. `None` if the result depends on the order of several entries for one
/// path, on entries below links, or on names that unpacking rejects.
///
/// # Errors
/// If the archive cannot be read to its end.
pub fn content_digest(archive: impl Read) -> Result<Option<String>, ReadError> {
    let input = |source| ReadError::Input { source };
    let decoder = Decoder::new(archive).map_err(input)?;
    let mut reader = Reader::new(decoder);
    let mut tree = Some(Tree::default());
    while let Some(entry) = reader.next_entry()? {
        tree = match tree {
            Some(tree) => tree.with(&entry, &mut reader)?,
            None => return Ok(None),
        };
    }
    reader.into_inner().finish().map_err(input)?;
    Ok(tree.and_then(Tree::digest))
}

/// The entry at a path.
#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    mode: u32,
    /// The target of a symbolic link, or the digest of a file.
    content: Vec<u8>,
    /// For a file, the first path of the file in the archive. Nodes that are hard links to each other have the same value.
    file: PathBuf,
}

#[derive(Debug, Default)]
struct Tree(BTreeMap<PathBuf, Node>);

impl Tree {
    /// Adds an entry. `None` if the archive has no digest (see [`content_digest`]).
    fn with(
        mut self,
        entry: &Entry,
        reader: &mut Reader<impl Read>,
    ) -> Result<Option<Self>, ReadError> {
        let Ok(path) = normalize(&entry.name) else {
            return Ok(None);
        };
        let mut node = Node {
            kind: entry.kind,
            mode: entry.mode,
            content: Vec::new(),
            file: path.clone(),
        };
        match entry.kind {
            Kind::CharacterDevice | Kind::BlockDevice => return Ok(Some(self)),
            Kind::Directory | Kind::Fifo => {}
            Kind::File => node.content = content_of(entry, reader)?,
            Kind::Symlink => {
                node.content.clone_from(&entry.link);
                // Links have no mode of their own.
                node.mode = 0;
            }
            Kind::HardLink => {
                let target = normalize(&entry.link).ok();
                match target.and_then(|target| self.0.get(&target)) {
                    Some(target) if target.kind == Kind::File => node = target.clone(),
                    _ => return Ok(None),
                }
            }
            Kind::Other(_) => return Ok(None),
        }
        let is_directory = node.kind == Kind::Directory;
        if path.as_os_str().is_empty() && !is_directory {
            return Ok(None);
        }
        if let Some(earlier) = self.0.insert(path, node)
            && !(is_directory && earlier.kind == Kind::Directory)
        {
            return Ok(None);
        }
        Ok(Some(self))
    }

    fn digest(mut self) -> Option<String> {
        let paths: Vec<PathBuf> = self.0.keys().cloned().collect();
        for path in &paths {
            for above in path.ancestors().skip(1) {
                // Do not add the root: if the archive does not list it, its mode does not come from the archive.
                if above.as_os_str().is_empty() {
                    break;
                }
                let node = self.0.entry(above.to_owned()).or_insert_with(|| Node {
                    kind: Kind::Directory,
                    mode: UNLISTED_MODE,
                    content: Vec::new(),
                    file: above.to_owned(),
                });
                if node.kind != Kind::Directory {
                    return None;
                }
            }
        }
        // Identify a file by its smallest path, because the order of its hard links in the archive must not affect the digest.
        let mut smallest_paths: BTreeMap<&Path, &Path> = BTreeMap::new();
        for (path, node) in &self.0 {
            smallest_paths.entry(&node.file).or_insert(path);
        }
        let mut hasher = Hasher::new(&[Algorithm::Sha256]);
        hasher.update(format!("content of a source, {CONTENT_FORM}\0").as_bytes());
        for (path, node) in &self.0 {
            let file = smallest_paths.get(node.file.as_path()).copied();
            let file = file.unwrap_or(path);
            hasher.update(&[node.kind.to_type()]);
            hasher.update(&node.mode.to_be_bytes());
            for part in [
                path.as_os_str().as_bytes(),
                file.as_os_str().as_bytes(),
                &node.content,
            ] {
                hasher.update(&(part.len() as u64).to_be_bytes());
                hasher.update(part);
            }
        }
        hasher.finish().sha256().map(str::to_owned)
    }
}

/// The SHA-256 digest of a file's bytes, in hex.
fn content_of(entry: &Entry, reader: &mut Reader<impl Read>) -> Result<Vec<u8>, ReadError> {
    let mut hasher = Hasher::new(&[Algorithm::Sha256]);
    let mut whole = reader.whole(entry);
    let mut buffer = vec![
        0;
        BUFFER
            .min(usize::try_from(entry.size).unwrap_or(BUFFER))
            .max(1)
    ];
    loop {
        let count = whole
            .read(&mut buffer)
            .map_err(|source| ReadError::Input { source })?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let digests = hasher.finish();
    Ok(digests.sha256().unwrap_or_default().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter};

    /// An archive from a short notation: `d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b p:600:q`.
    fn archive(words: &str) -> Vec<u8> {
        let mut writer = EntryWriter::new(Vec::new());
        for word in words.split_whitespace() {
            let (kind, rest) = word.split_once(':').unwrap();
            let (mode, rest) = rest.split_once(':').unwrap_or(("777", rest));
            let (name, text) = rest.split_once('=').unwrap_or((rest, ""));
            let kind = match kind {
                "d" => Kind::Directory,
                "f" => Kind::File,
                "l" => Kind::Symlink,
                "h" => Kind::HardLink,
                "p" => Kind::Fifo,
                _ => Kind::CharacterDevice,
            };
            let mode = u32::from_str_radix(mode, 8).unwrap();
            let mut header = EntryHeader::new(kind, name.as_bytes(), mode);
            header.link = match kind {
                Kind::Symlink | Kind::HardLink => text.as_bytes(),
                _ => b"",
            };
            let content = if kind == Kind::File { text } else { "" };
            header.size = content.len() as u64;
            writer.append(&header, content.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn digest(words: &str) -> Option<String> {
        content_digest(&archive(words)[..]).unwrap()
    }

    #[test]
    fn archives_of_the_same_files_have_the_same_digest() {
        let whole = "d:755:./ d:755:./a f:644:./a/b=text l:./a/c=b h:./a/d=a/b p:600:./q";
        for same in [
            "d:755:. d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b p:600:q",
            "f:644:a/b=text p:600:q d:755:a l:644:a/c=b h:600:a/d=./a/b d:755:./",
            "d:755:./ f:644:a/d=text h:a/b=a/d l:a/c=b p:600:q",
            "d:700:./ d:755:./ d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b p:600:q c:666:dev",
        ] {
            assert_eq!(digest(same), digest(whole), "{same}");
        }
    }

    #[test]
    fn differences_that_a_script_can_see_change_the_digest() {
        let whole = "d:755:./ d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b p:600:q";
        let mut seen = vec![digest(whole).unwrap()];
        for other in [
            "d:700:./ d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b p:600:q",
            "d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b p:600:q",
            "d:755:./ d:700:a f:644:a/b=text l:a/c=b h:a/d=a/b p:600:q",
            "d:755:./ d:755:a f:755:a/b=text l:a/c=b h:a/d=a/b p:600:q",
            "d:755:./ d:755:a f:644:a/b=Text l:a/c=b h:a/d=a/b p:600:q",
            "d:755:./ d:755:a f:644:a/b=text l:a/c=d h:a/d=a/b p:600:q",
            "d:755:./ d:755:a f:644:a/b=text l:a/c=b f:644:a/d=text p:600:q",
            "d:755:./ d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b p:644:q",
            "d:755:./ d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b f:600:q",
            "d:755:./ d:755:a f:644:a/b=text l:a/c=b h:a/d=a/b",
            "d:755:./ d:755:a f:644:a/b=text f:777:a/c=b h:a/d=a/b p:600:q",
        ] {
            let digest = digest(other).unwrap();
            assert!(!seen.contains(&digest), "{other}");
            seen.push(digest);
        }
    }

    #[test]
    fn archives_that_depend_on_the_order_have_no_digest() {
        for words in [
            "f:644:a=1 f:644:a=2",
            "f:644:a=1 d:755:a",
            "d:755:d l:x=d f:644:x/y=1",
            "f:644:d=1 f:644:d/x=2",
            "h:a=b f:644:b=1",
            "l:a=b h:c=a",
            "f:644:../a=1",
            "f:644:/a=1",
            "f:644:.=1",
        ] {
            assert_eq!(digest(words), None, "{words}");
        }
    }

    #[test]
    fn compression_is_ignored_and_damage_is_an_error() {
        let plain = archive("f:644:a=1");
        let mut gzip = crate::archive::GzipWriter::new(Vec::new(), 6).unwrap();
        std::io::Write::write_all(&mut gzip, &plain).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(
            content_digest(&gzip[..]).unwrap(),
            content_digest(&plain[..]).unwrap()
        );
        assert!(content_digest(&gzip[..gzip.len() - 4]).is_err());
        assert!(content_digest(&b"no archive"[..]).is_err());
    }
}

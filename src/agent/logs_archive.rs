//! Creates the archive of logs for `fetch_logs`, `fetch_logs_with_signed_url` and `bundle_logs`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use tokio_util::sync::CancellationToken;

use super::log_filters::{LogFilters, PatternError};
use crate::archive::{AppendError, EntryHeader, EntryWriter, GzipWriter, Kind};
use crate::config::Vcap;
use crate::diag::Chain;
use crate::fs::{self, Context as _, Mounts, Walk, WalkStep};
use crate::release::Digests;
use crate::release::digest::{Algorithm, Hasher, HashingWriter};
use crate::runtime::Cancellable;

/// The gzip level. It is low because logs are large and an operator waits for them.
const LEVEL: u32 = 3;

/// Why logs could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The kind of logs is unknown.
    #[error("Invalid log type")]
    Kind,
    /// A filter is not a valid pattern.
    #[error("Finding files matching filters: `{filter}` is not a pattern")]
    Filter {
        /// The filter.
        filter: String,
        /// Why the filter is invalid.
        source: PatternError,
    },
    /// A file operation failed.
    #[error("Making logs tarball")]
    Files(#[from] fs::Error),
    /// The archive could not be written.
    #[error("Making logs tarball")]
    Archive(#[from] AppendError),
}

/// Selects log files.
#[derive(Debug, Clone)]
pub struct LogSelection {
    /// The directories of the selected kinds, each with the prefix of its files in the archive.
    directories: Vec<(PathBuf, &'static str)>,
    filters: LogFilters,
}

impl LogSelection {
    /// Selects logs by kinds and filters. `kinds` contains `job`, `agent` or `system`, separated by
    /// commas. A log is selected if its path in its directory matches a filter, or if there are no
    /// filters. `*` matches within one directory, and `**` matches any number of directories.
    ///
    /// # Errors
    /// If a kind is unknown, or a filter is not a valid pattern.
    pub fn new(vcap: &Vcap, kinds: &str, filters: &[String]) -> Result<Self, LogsError> {
        let mut directories = Vec::new();
        for kind in kinds.split(',') {
            directories.push(match kind.trim() {
                "job" => (vcap.base().join("sys/log"), ""),
                "agent" => (vcap.base().join("bosh/log"), ""),
                "system" => (PathBuf::from("/var/log"), "var/log/"),
                _ => return Err(LogsError::Kind),
            });
        }
        let everything = ["**/*".to_owned()];
        let filters = if filters.is_empty() {
            &everything
        } else {
            filters
        };
        let filters = LogFilters::new(filters).map_err(|source| LogsError::Filter {
            filter: source.pattern().to_owned(),
            source,
        })?;
        Ok(Self {
            directories,
            filters,
        })
    }

    /// Packs the logs into `file`, which is empty. Messages contain `to`, the path at which it was created. A log that grows meanwhile is
    /// cut at the length that it had when it was opened. A log that is removed meanwhile is left out.
    ///
    /// # Errors
    /// If `to` cannot be written or would take more than half of the free space, or an open log cannot be read.
    pub(crate) fn pack(
        &self,
        file: &File,
        to: &Path,
        algorithms: &[Algorithm],
        cancel: &CancellationToken,
    ) -> Result<Digests, LogsError> {
        let left = fs::space(to)?.free / 2;
        self.pack_to(Sparing { file, left }, to, algorithms, cancel)
    }

    fn pack_to(
        &self,
        file: Sparing<'_>,
        to: &Path,
        algorithms: &[Algorithm],
        cancel: &CancellationToken,
    ) -> Result<Digests, LogsError> {
        let file = Cancellable::new(BufWriter::new(file), cancel);
        let hashing = HashingWriter::new(file, Hasher::new(algorithms));
        let gzip = GzipWriter::new(hashing, LEVEL).at("write", to)?;
        let mut archive = EntryWriter::new(gzip);
        archive.append(
            &EntryHeader::new(Kind::Directory, b"./", 0o755),
            io::empty(),
        )?;
        for (directory, prefix) in &self.directories {
            // A missing directory has no logs. The directory itself may be a link, as
            // `/var/vcap/sys` is, but links in it are not followed.
            match Walk::to_read(directory, Mounts::Cross) {
                Ok(walk) => self.add(walk, directory, prefix, &mut archive)?,
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "skipping a directory of logs")
                }
            }
        }
        let gzip = archive.finish().at("write", to)?;
        let hashing = gzip.finish().at("write", to)?;
        let (file, digests) = hashing.finish();
        file.into_inner().flush().at("write", to)?;
        Ok(digests)
    }

    /// Adds the selected logs of one directory.
    fn add<W: io::Write>(
        &self,
        mut walk: Walk,
        directory: &Path,
        prefix: &str,
        archive: &mut EntryWriter<W>,
    ) -> Result<(), LogsError> {
        loop {
            let file = match walk.next_step() {
                Ok(None) => return Ok(()),
                Ok(Some(WalkStep::Entry(file, found))) if found.kind() == FileType::RegularFile => {
                    file
                }
                Ok(Some(_)) => continue,
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "skipping a log");
                    continue;
                }
            };
            let path = walk.path_of(&file);
            let Ok(below) = path.strip_prefix(directory) else {
                continue;
            };
            if self.filters.match_path(below) {
                let name = [b"./", prefix.as_bytes(), below.as_os_str().as_bytes()].concat();
                append(&walk, &file, &name, archive)?;
            }
        }
    }
}

/// An archive that must not fill the disk, which may be that of the operating system.
struct Sparing<'a> {
    file: &'a File,
    /// How many bytes may still be written.
    left: u64,
}

impl io::Write for Sparing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let left = self.left.checked_sub(written as u64);
        self.left = left.ok_or_else(|| {
            let reason = "the logs would take more than half of the free space: use filters";
            io::Error::new(io::ErrorKind::StorageFull, reason)
        })?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Adds one log. A log that cannot be opened, for example because it was removed meanwhile, is left
/// out.
fn append<W: io::Write>(
    walk: &Walk,
    file: &OsStr,
    name: &[u8],
    archive: &mut EntryWriter<W>,
) -> Result<(), LogsError> {
    let Ok(log) = walk.open(file) else {
        return Ok(());
    };
    let metadata = log.metadata().at("examine", &walk.path_of(file))?;
    // Another kind of file may have replaced the log.
    if !metadata.is_file() {
        return Ok(());
    }
    let header = EntryHeader {
        size: metadata.len(),
        mtime: metadata.mtime(),
        ..EntryHeader::new(Kind::File, name, metadata.mode() & 0o777)
    };
    // If the log was truncated meanwhile, fill up the length in the header with zeros.
    let content = log.chain(io::repeat(0)).take(header.size);
    Ok(archive.append(&header, content)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{make_deep, scratch_for_deep_trees};

    fn logs() -> (tempfile::TempDir, Vcap) {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        for name in ["a.log", "redis/b.log", "redis/deep/c.txt"] {
            let path = scratch.path().join("data/sys/log").join(name);
            fs::create_dir_all(fs::parent(&path)).unwrap();
            fs::write(&path, name.as_bytes()).unwrap();
        }
        fs::symlink(Path::new("data/sys"), &scratch.path().join("sys")).unwrap();
        fs::symlink(Path::new("a.log"), &scratch.path().join("sys/log/link")).unwrap();
        (scratch, vcap)
    }

    fn packed(vcap: &Vcap, filters: &[&str]) -> Vec<String> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let selection = LogSelection::new(vcap, "job,agent", &filters).unwrap();
        let to = vcap.base().join("logs.tgz");
        let cancel = CancellationToken::new();
        let file = fs::create(&to).unwrap();
        let algorithms = [Algorithm::Sha1];
        let digests = selection.pack(&file, &to, &algorithms, &cancel).unwrap();
        assert_eq!(
            digests,
            Digests::of(&fs::read(&to).unwrap(), &[Algorithm::Sha1])
        );
        let tree = vcap.base().join("unpacked");
        fs::create_dir_all(&tree).unwrap();
        crate::archive::unpack_file(&to, &tree).unwrap();
        let mut names = Vec::new();
        let mut walk = Walk::to_read(&tree, Mounts::Refuse).unwrap();
        while let Some(step) = walk.next_step().unwrap() {
            if let WalkStep::Entry(file, _) = step {
                let path = walk.path_of(&file);
                let name = path.strip_prefix(&tree).unwrap().to_str().unwrap();
                let mut content = String::new();
                let mut log = walk.open(&file).unwrap();
                log.read_to_string(&mut content).unwrap();
                assert!(content.is_empty() || content == name, "{name}");
                names.push(name.to_owned());
            }
        }
        names
    }

    #[test]
    fn logs_with_long_paths_are_packed() {
        const DEPTH: usize = 2100;
        let scratch = scratch_for_deep_trees();
        let vcap = Vcap::new(scratch.path());
        let logs = scratch.path().join("sys/log");
        fs::create_dir_all(&logs).unwrap();
        make_deep(&logs, DEPTH);
        let names = packed(&vcap, &["**/file"]);
        assert_eq!(names, ["d/".repeat(DEPTH) + "file"]);
        fs::remove_tree(scratch.path()).unwrap();
    }

    #[test]
    fn all_logs_are_packed_without_filters() {
        let (_scratch, vcap) = logs();
        let all = ["a.log", "redis/b.log", "redis/deep/c.txt"];
        assert_eq!(packed(&vcap, &[]), all);
    }

    #[test]
    fn archive_does_not_fill_the_disk() {
        let (_scratch, vcap) = logs();
        let to = vcap.base().join("logs.tgz");
        let file = fs::create(&to).unwrap();
        let selection = LogSelection::new(&vcap, "job", &[]).unwrap();
        let packed = |left| {
            let file = Sparing { file: &file, left };
            selection.pack_to(file, &to, &[Algorithm::Sha1], &CancellationToken::new())
        };
        let error = packed(50).unwrap_err();
        let text = Chain(&error).to_string();
        assert!(text.starts_with("Making logs tarball: "), "{text}");
        let end = "the logs would take more than half of the free space: use filters";
        assert!(text.ends_with(end), "{text}");
        packed(10_000).unwrap();
    }

    #[test]
    fn filters_are_path_patterns() {
        for (filter, expected) in [
            ("**/*", &["a.log", "redis/b.log", "redis/deep/c.txt"][..]),
            ("*.log", &["a.log"]),
            ("**/*.log", &["a.log", "redis/b.log"]),
            ("redis/**/*", &["redis/b.log", "redis/deep/c.txt"]),
            ("nothing", &[]),
        ] {
            let (_scratch, vcap) = logs();
            assert_eq!(packed(&vcap, &[filter]), expected, "{filter}");
        }
    }

    #[test]
    fn unknown_kind_is_refused() {
        let (_scratch, vcap) = logs();
        let error = LogSelection::new(&vcap, "job,nothing", &[]).unwrap_err();
        assert_eq!(error.to_string(), "Invalid log type");
        LogSelection::new(&vcap, "job", &["[".to_owned()]).unwrap_err();
    }
}

//! The logs of packaging scripts, which stay on the VM for `bosh logs`.
//!
//! Each package has the logs `NAME.stdout.log` and `NAME.stderr.log`. The logs of the last package
//! also have the names that the Go agent uses, `packaging.stdout.log` and `packaging.stderr.log`;
//! these are hard links.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::Vcap;
use crate::fs;
use crate::release::Name;

/// The maximum size of all logs of earlier packages, in bytes.
const KEPT: u64 = 512 << 20;

/// The logs of one package.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

/// Creates empty logs for a package.
pub(super) fn prepare(vcap: &Vcap, package: &Name) -> fs::Result<Logs> {
    let directory = vcap.compilation_logs();
    fs::create_dir_all(&directory)?;
    fs::set_mode(&directory, 0o750)?;
    prune(&directory)?;
    let make = |stream: &str| {
        let log = directory.join(format!("{package}.{stream}.log"));
        let link = directory.join(format!("packaging.{stream}.log"));
        // Remove the old file instead of truncating it, because a process of an earlier script may
        // still write to it.
        fs::remove_file_if_there(&log)?;
        fs::write(&log, b"")?;
        fs::set_mode(&log, 0o640)?;
        if log != link {
            fs::remove_file_if_there(&link)?;
            fs::hard_link(&log, &link)?;
        }
        Ok(log)
    };
    Ok(Logs {
        stdout: make("stdout")?,
        stderr: make("stderr")?,
    })
}

/// Removes the oldest logs until the total size is at most [`KEPT`].
fn prune(directory: &Path) -> fs::Result<()> {
    let mut logs = Vec::new();
    for entry in fs::list(directory)? {
        if let Some(metadata) = fs::lookup(&entry.path())?
            && metadata.is_file()
        {
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            logs.push((changed, metadata.len(), entry.path()));
        }
    }
    logs.sort();
    let mut bytes: u64 = logs.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in logs {
        if bytes <= KEPT {
            break;
        }
        fs::remove_file_if_there(&path)?;
        bytes -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn logs_of_the_last_package_have_the_names_of_the_go_agent() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        for package in ["one", "two"] {
            let logs = prepare(&vcap, &Name::parse(package).unwrap()).unwrap();
            fs::write(&logs.stdout, package.as_bytes()).unwrap();
        }
        let directory = vcap.compilation_logs();
        let read = |name: &str| fs::read(&directory.join(name)).unwrap();
        assert_eq!(read("packaging.stdout.log"), b"two");
        assert_eq!(read("one.stdout.log"), b"one");
        assert_eq!(read("two.stderr.log"), b"");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&directory), 0o750);
        assert_eq!(mode(&directory.join("two.stdout.log")), 0o640);
        prepare(&vcap, &Name::parse("packaging").unwrap()).unwrap();
    }

    #[test]
    fn oldest_logs_are_removed_beyond_the_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let old = scratch.path().join("old");
        let file = fs::create(&old).unwrap();
        file.set_len(KEPT).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::write(&scratch.path().join("new"), b"x").unwrap();
        prune(scratch.path()).unwrap();
        assert!(!old.exists() && scratch.path().join("new").exists());
    }
}

//! `--isolation=none`: the base directory itself, used by one package after another as the Go agent does.
//!
//! The Go agent's first act is to remove all installed packages, which is deadly on a live VM. This one works only in
//! directories that were empty or that bear its marker, and leaves them as they were.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::SandboxError;
use crate::config::Vcap;
use crate::fs::{self, Context, MadeDirectories};

/// Says, inside the directory of packages, that what lies beside it was put there by us.
const MARKER: &str = ".bosh-agent-compile";

/// Held, inside the data directory, while somebody compiles. It tells who.
const LOCK: &str = ".bosh-agent-compile.lock";

/// The directories below the base directory, taken for one run.
#[derive(Debug)]
pub struct SharedTree {
    vcap: Vcap,
    lock: File,
    made: MadeDirectories,
}

impl SharedTree {
    /// Takes the tree. `who` is what others are told who want it too. With `force`, packages of another agent are removed.
    ///
    /// # Errors
    /// When somebody else compiles here, when there are packages that we did not put there, and when the directories cannot
    /// be made.
    pub fn take(vcap: &Vcap, who: &str, force: bool) -> Result<Self, SandboxError> {
        let mut made = MadeDirectories::default();
        made.make(&vcap.data())?;
        let lock = lock(vcap, who)?;
        for directory in [vcap.packages(), vcap.data_packages(), vcap.compile()] {
            made.make(&directory)?;
        }
        let tree = Self {
            vcap: vcap.clone(),
            lock,
            made,
        };
        let marker = vcap.packages().join(MARKER);
        if !force && fs::lookup(&marker)?.is_none() {
            tree.check_empty()?;
        }
        fs::write(
            &marker,
            b"What is in this directory belongs to a running `bosh-agent compile`.\n",
        )?;
        tree.clear()?;
        Ok(tree)
    }

    /// The base directory.
    #[must_use]
    pub fn base(&self) -> &Path {
        self.vcap.base()
    }

    fn contents(&self) -> [PathBuf; 3] {
        [
            self.vcap.packages(),
            self.vcap.data_packages(),
            self.vcap.compile(),
        ]
    }

    fn check_empty(&self) -> Result<(), SandboxError> {
        for directory in self.contents() {
            if let Some(entry) = fs::list(&directory)?.first() {
                let entry = entry.file_name().to_string_lossy().into_owned();
                self.put_back();
                return Err(SandboxError::Foreign { directory, entry });
            }
        }
        Ok(())
    }

    /// Removes every package, installed or unpacked.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clear(&self) -> fs::Result<()> {
        for directory in self.contents() {
            for entry in fs::list(&directory)? {
                if entry.file_name() != MARKER {
                    fs::remove_tree(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Leaves the tree as it was found, but for packages of another agent.
    ///
    /// # Errors
    /// When something cannot be removed. The marker stays then, and a later run may clear the tree.
    pub fn close(self) -> Result<(), SandboxError> {
        self.clear()?;
        fs::remove_file_if_there(&self.vcap.packages().join(MARKER))?;
        self.put_back();
        Ok(())
    }

    /// Removes the lock and the directories that we made. One that is in use by now stays.
    fn put_back(&self) {
        let lock = self.vcap.data().join(LOCK);
        if let Err(error) = fs::remove_file_if_there(&lock) {
            tracing::warn!(%error, "the lock stays behind, unlocked");
        }
        self.made.remove_empty();
        let _ = self.lock.unlock();
    }
}

fn lock(vcap: &Vcap, who: &str) -> Result<File, SandboxError> {
    let path = vcap.data().join(LOCK);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    loop {
        let mut file = fs::open_with(&options, &path)?;
        if file.try_lock().is_err() {
            let mut holder = String::new();
            // It may be gone, or not have written yet: then its name is missing, no more.
            let _ = file.read_to_string(&mut holder);
            return Err(SandboxError::Busy {
                base: vcap.base().to_owned(),
                holder: match holder.trim() {
                    "" => "unknown".to_owned(),
                    holder => holder.to_owned(),
                },
            });
        }
        let inode = file.metadata().at("examine", &path)?.ino();
        // The holder before us removes the file before it lets go: then we hold a file without a name.
        if fs::lookup(&path)?.is_some_and(|metadata| metadata.ino() == inode) {
            file.seek(SeekFrom::Start(0)).at("write", &path)?;
            file.set_len(0).at("write", &path)?;
            file.write_all(who.as_bytes()).at("write", &path)?;
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vcap() -> (tempfile::TempDir, Vcap) {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        (scratch, vcap)
    }

    #[test]
    fn a_tree_that_was_not_there_is_gone_afterwards() {
        let (scratch, vcap) = vcap();
        let tree = SharedTree::take(&vcap, "pid 1", false).unwrap();
        fs::create_dir_all(&vcap.data_packages().join("a/b")).unwrap();
        fs::symlink(Path::new("nowhere"), &vcap.packages().join("a")).unwrap();
        tree.close().unwrap();
        assert!(fs::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn what_was_there_before_stays() {
        let (_scratch, vcap) = vcap();
        fs::create_dir_all(&vcap.data()).unwrap();
        fs::write(&vcap.data().join("theirs"), b"").unwrap();
        SharedTree::take(&vcap, "pid 1", false)
            .unwrap()
            .close()
            .unwrap();
        assert_eq!(fs::list(&vcap.data()).unwrap().len(), 1);
        assert_eq!(fs::list(vcap.base()).unwrap().len(), 1);
    }

    #[test]
    fn a_second_run_is_told_who_compiles() {
        let (_scratch, vcap) = vcap();
        let first = SharedTree::take(&vcap, "process 42 on ci", false).unwrap();
        let error = SharedTree::take(&vcap, "another", false).unwrap_err();
        assert!(error.to_string().contains("process 42 on ci"), "{error}");
        first.close().unwrap();
        SharedTree::take(&vcap, "another", false).unwrap();
    }

    #[test]
    fn packages_that_are_not_ours_are_refused_and_kept_unless_forced() {
        for directory in ["packages", "data/packages", "data/compile"] {
            let (_scratch, vcap) = vcap();
            let theirs = vcap.base().join(directory).join("theirs");
            fs::create_dir_all(&theirs).unwrap();
            let error = SharedTree::take(&vcap, "us", false).unwrap_err();
            assert!(error.to_string().contains("theirs"), "{error}");
            assert!(error.hint().unwrap().contains("--force"));
            assert!(theirs.exists());
            let tree = SharedTree::take(&vcap, "us", true).unwrap();
            assert!(!theirs.exists());
            tree.close().unwrap();
        }
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_by_the_next() {
        let (_scratch, vcap) = vcap();
        let killed = SharedTree::take(&vcap, "us", false).unwrap();
        fs::create_dir_all(&vcap.data_packages().join("a/b")).unwrap();
        drop(killed);
        let next = SharedTree::take(&vcap, "us", false).unwrap();
        assert!(fs::list(&vcap.data_packages()).unwrap().is_empty());
        next.close().unwrap();
    }
}

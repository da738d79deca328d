//! Creates directories at well-known paths for the duration of a run, and removes them afterwards.
//! Other processes may use the same paths.

use std::path::{Path, PathBuf};

use super::Result;

/// Creates missing directories, and removes them at the end.
#[derive(Debug, Default)]
pub struct MadeDirectories {
    /// The created directories, outermost first.
    made: Vec<PathBuf>,
}

impl MadeDirectories {
    /// Creates a directory and its missing parents, with mode 0755 regardless of the umask.
    ///
    /// # Errors
    /// As `std::fs::create_dir`.
    pub(crate) fn make(&mut self, directory: &Path) -> Result<()> {
        let missing: Vec<&Path> = directory
            .ancestors()
            .take_while(|ancestor| {
                *ancestor != Path::new("")
                    && super::metadata(ancestor).is_err_and(|error| error.is_not_found())
            })
            .collect();
        for directory in missing.into_iter().rev() {
            match super::create_dir(directory) {
                Ok(()) => {
                    super::set_mode(directory, 0o755)?;
                    self.made.push(directory.to_owned());
                }
                // Another process created it meanwhile. A dangling link is a different error.
                Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes the created directories that are empty and not locked.
    pub(crate) fn remove_empty(&self) {
        for directory in self.made.iter().rev() {
            // A process that has locked the directory has mounted a file system on it. Removing the
            // directory would unmount this file system.
            let is_unlocked = super::open(directory).is_ok_and(|file| file.try_lock().is_ok());
            if is_unlocked {
                // A script may have made the directory immutable.
                let _ = super::clear_flags(directory);
                let _ = super::remove_dir(directory);
            }
        }
    }
}

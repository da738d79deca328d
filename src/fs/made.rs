//! Directories that are made for a while.

use std::path::{Path, PathBuf};

use super::Result;

/// Remembers which directories it has made, so that they can go again.
#[derive(Debug, Default)]
pub struct MadeDirectories {
    /// The outermost first.
    made: Vec<PathBuf>,
}

impl MadeDirectories {
    /// Makes a directory and what is missing above it, with mode 0755 whatever the umask is.
    ///
    /// # Errors
    /// As `std::fs::create_dir`.
    pub fn make(&mut self, directory: &Path) -> Result<()> {
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
                // Another process needs it too, and was faster. A link that leads nowhere is another error.
                Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what was made, as far as nobody uses it or has it locked by now.
    pub fn remove_empty(&self) {
        for directory in self.made.iter().rev() {
            // A lock says that somebody has mounted something over it, and would lose that with the directory.
            let is_free = super::open(directory).is_ok_and(|file| file.try_lock().is_ok());
            if is_free {
                let _ = super::remove_dir(directory);
            }
        }
    }
}

//! Keeps the directories of a failed package (`--keep-failed`), and restores them for a later shell (`bosh-agent enter`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::work::Work;
use crate::compile::error::CompileError;
use crate::compile::event::Event;
use crate::compile::kept::{self, Keep, Kept, create_directory};
use crate::config::Environment;
use crate::diag::Chain;
use crate::fs;

impl Work {
    /// Keeps the directories of the package, if the user has requested this and the failure is that of the script.
    pub(super) async fn keep_failed(&self, failure: &CompileError) {
        let keep = match (&self.context.keep, failure) {
            (Some(keep), CompileError::Script(_) | CompileError::InstallTarget { .. }) => {
                keep.clone()
            }
            _ => return,
        };
        let keeping = self.blocking_to_the_end("keep", move |work| {
            // Check first: the script may have replaced a directory with a link to a directory of the host.
            work.check_directories(&[])?;
            work.keep(&keep).map_err(work.file_error())
        });
        match keeping.await {
            Ok(Ok((directory, bytes))) => (self.context.events)(Event::Kept {
                job: self.job.number,
                package: self.job.name.clone(),
                directory,
                bytes,
            }),
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "could not keep the directories of package {}", self.job.name);
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "could not keep directories"),
        }
    }

    /// Copies everything that a later shell needs. Returns the directory and its size on disk.
    fn keep(&self, keep: &Keep) -> fs::Result<(PathBuf, u64)> {
        let (name, version) = (self.job.name.as_str(), self.job.version.as_str());
        let directory = create_directory(&keep.directory, name, version)?;
        let copied = self.copy_to(keep, &directory);
        if let Err(error) = copied {
            // A shell cannot use a partial copy.
            let _ = fs::remove_tree(&directory);
            return Err(error);
        }
        let bytes = fs::disk_usage(&directory);
        Ok((directory, bytes))
    }

    fn copy_to(&self, keep: &Keep, directory: &Path) -> fs::Result<()> {
        self.copy_own_to(directory)?;
        let mut dependencies = Vec::new();
        fs::create_dir(&directory.join("dependencies"))?;
        for dependency in &self.job.dependencies {
            let name = dependency.name.as_str();
            let tree = dependency.installed.tree();
            fs::copy_tree(&tree, &kept::kept_dependency(directory, name))?;
            dependencies.push((name.to_owned(), dependency.version.as_str().to_owned()));
        }
        let kept = Kept::new(
            (self.job.name.as_str(), self.job.version.as_str()),
            dependencies,
            self.context.sandbox.tier(&self.place),
            keep.settings.clone(),
        );
        let environment = without_jobserver(&self.plan.script.environment);
        kept.write(directory, &environment, &keep.program)
    }

    /// Copies the sources and the install directory.
    fn copy_own_to(&self, directory: &Path) -> fs::Result<()> {
        let paths = &self.plan.paths;
        let own = [
            (&paths.compile, kept::sources(directory)),
            (&paths.install, kept::installed(directory)),
        ];
        for (from, to) in own {
            match fs::lookup(from)? {
                // Leave out mounts: a script may have mounted the whole host there.
                Some(metadata) if metadata.is_dir() => fs::copy_tree_without_mounts(from, &to)?,
                // The script has removed or replaced the directory.
                _ => fs::create_dir(&to)?,
            }
        }
        Ok(())
    }

    /// Copies the sources of a kept package to this package's directories.
    pub(super) fn restore_sources(&self, directory: &Path) -> fs::Result<()> {
        kept::complete_update(directory)?;
        fs::copy_tree(&kept::sources(directory), &self.plan.paths.compile)
    }

    /// Copies the installed files of a kept package to this package's install directory.
    pub(super) fn restore_installed(&self) -> fs::Result<()> {
        match &self.job.kept {
            Some(directory) => fs::copy_tree(&kept::installed(directory), &self.plan.paths.install),
            None => Ok(()),
        }
    }

    /// Saves the sources and the installed files in the directory of the kept package, after a shell has ended.
    pub(super) fn update_kept(&self) -> Result<(), CompileError> {
        match &self.job.kept {
            Some(directory) => {
                self.check_directories(&[])?;
                self.update(directory).map_err(self.file_error())
            }
            None => Ok(()),
        }
    }

    /// Replaces both trees. At any time, a complete version of each tree exists at its own path or at [`kept::earlier`].
    fn update(&self, directory: &Path) -> fs::Result<()> {
        let new = directory.join("new");
        if fs::lookup(&new)?.is_some() {
            fs::remove_tree(&new)?;
        }
        fs::create_dir(&new)?;
        self.copy_own_to(&new)?;
        for path in [kept::sources, kept::installed] {
            let (tree, earlier) = (path(directory), kept::earlier(&path(directory)));
            fs::rename(&tree, &earlier)?;
            fs::rename(&path(&new), &tree)?;
            fs::remove_tree(&earlier)?;
        }
        fs::remove_dir(&new)
    }
}

/// Removes the options of make's jobserver from `MAKEFLAGS`, because the jobserver ends with this run.
fn without_jobserver(environment: &Environment) -> Environment {
    let is_jobserver = |flag: &&str| flag.starts_with("--jobserver-");
    match environment.get("MAKEFLAGS").and_then(OsStr::to_str) {
        Some(flags) if flags.split(' ').any(|flag| is_jobserver(&flag)) => {
            let kept: Vec<&str> = flags.split(' ').filter(|it| !is_jobserver(it)).collect();
            environment.with(&[("MAKEFLAGS", kept.join(" ").into())])
        }
        _ => environment.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_environment_names_no_jobserver() {
        let flags = |flags: &str| {
            let environment = Environment::default().with(&[("MAKEFLAGS", flags.into())]);
            let kept = without_jobserver(&environment);
            kept.get("MAKEFLAGS").unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(
            flags("-j --jobserver-fds=3,3 --jobserver-auth=3,3 w"),
            "-j w"
        );
        assert_eq!(flags("-s  -j4"), "-s  -j4");
    }
}

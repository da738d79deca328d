//! Checks the paths of a run of one package: it must not replace or remove an input, or write two files to one path.

use std::path::{Component, Path, PathBuf};

use super::inputs::PackageFiles;
use crate::compile::first_log;
use crate::config::Vcap;
use crate::fs;
use crate::offline::error::OfflineError;
use crate::offline::options::Options;
use crate::package_job::PackageJob;

/// The number of symbolic links that the kernel follows in one path.
const LINKS: usize = 40;

/// The resolved paths of a run.
#[derive(Debug)]
pub(super) struct Places {
    /// The inputs, each with all its names.
    inputs: Vec<(PathBuf, Vec<PathBuf>)>,
    report: Option<Written>,
    /// The other written files.
    others: Vec<Written>,
    /// The directories that `--force` empties.
    emptied: Vec<PathBuf>,
}

/// A file that the run replaces or removes.
#[derive(Debug)]
struct Written {
    given: PathBuf,
    /// The path without links in its directory.
    name: PathBuf,
}

impl Written {
    fn new(path: &Path) -> Self {
        Self {
            given: path.to_owned(),
            name: name_of(path),
        }
    }
}

impl Places {
    /// Resolves the paths. Creates nothing.
    pub(super) fn new(job: &PackageJob, files: &PackageFiles, options: &Options) -> Self {
        let blobs = job.dependencies.iter().map(|it| &it.blob);
        let inputs = std::iter::once(&job.source).chain(blobs).chain(&files.job);
        let inputs = inputs.map(|path| (path.clone(), names(path)));
        let first = first_log(&files.log);
        let others = [&files.output, &files.log, &first].map(|path| Written::new(path));
        Self {
            inputs: inputs.collect(),
            report: files.report.as_deref().map(Written::new),
            others: others.into(),
            emptied: match options.force {
                true => emptied(&options.vcap),
                false => Vec::new(),
            },
        }
    }

    /// Checks the path of the report.
    pub(super) fn check_report(&self) -> Result<(), OfflineError> {
        let Some(report) = &self.report else {
            return Ok(());
        };
        self.check_written(report)?;
        self.others
            .iter()
            .try_for_each(|other| check_two(report, other))
    }

    /// Checks all other paths.
    pub(super) fn check_others(&self) -> Result<(), OfflineError> {
        for (number, file) in self.others.iter().enumerate() {
            self.check_written(file)?;
            let before = &self.others[..number];
            before.iter().try_for_each(|other| check_two(file, other))?;
        }
        let inputs = self.inputs.iter();
        let mut names = inputs.flat_map(|(path, names)| names.iter().map(move |name| (path, name)));
        names.try_for_each(|(path, name)| self.check_kept(path, name))
    }

    fn check_written(&self, file: &Written) -> Result<(), OfflineError> {
        for (path, names) in &self.inputs {
            if names.contains(&file.name) {
                return Err(OfflineError::OverInput { path: path.clone() });
            }
        }
        self.check_kept(&file.given, &file.name)
    }

    /// Refuses a file that `--force` would remove.
    fn check_kept(&self, path: &Path, name: &Path) -> Result<(), OfflineError> {
        match self.emptied.iter().find(|it| name.starts_with(it)) {
            Some(directory) => Err(OfflineError::InEmptied {
                path: path.to_owned(),
                directory: directory.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Refuses two written files with the same path, or of which one would be in a directory with the path of the other.
fn check_two(file: &Written, other: &Written) -> Result<(), OfflineError> {
    match file.name.starts_with(&other.name) || other.name.starts_with(&file.name) {
        true => Err(OfflineError::SamePlace {
            path: file.given.clone(),
            other: other.given.clone(),
        }),
        false => Ok(()),
    }
}

fn emptied(vcap: &Vcap) -> Vec<PathBuf> {
    let data = vcap.data();
    let directories = [
        vcap.base().join("packages"),
        data.join("packages"),
        data.join("compile"),
    ];
    directories.map(|directory| resolved(&directory)).into()
}

/// All paths of a file, without links in their directories: `path` itself, those of the links to which it leads, and that of the file
/// behind them.
fn names(path: &Path) -> Vec<PathBuf> {
    let mut names = vec![name_of(path)];
    for _ in 0..LINKS {
        let Some(last) = names.last() else { break };
        let Ok(target) = fs::read_link(last) else {
            break;
        };
        let next = name_of(&fs::parent(last).join(target));
        names.push(next);
    }
    names.extend(fs::canonicalize(path));
    names
}

/// The path of a file without links in its directory: the name that is replaced or removed.
fn name_of(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(name) => resolved(fs::parent(path)).join(name),
        None => resolved(path),
    }
}

/// The path without links, `.` and `..`. It need not exist: missing directories are those that the run would create.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(found) = fs::canonicalize(path) {
        return found;
    }
    let mut components = path.components();
    let last = components.next_back();
    let parent = components.as_path();
    match last {
        None | Some(Component::RootDir | Component::Prefix(_)) => path.to_owned(),
        Some(Component::CurDir) => resolved(parent),
        Some(Component::ParentDir) => {
            let mut above = resolved(parent);
            above.pop();
            above
        }
        Some(Component::Normal(name)) => resolved(parent).join(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_resolved() {
        let scratch = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(scratch.path()).unwrap();
        fs::create_dir(&real.join("real")).unwrap();
        fs::symlink(Path::new("real"), &real.join("link")).unwrap();
        for (path, expected) in [
            ("link/new/file", "real/new/file"),
            ("link/new/../file", "real/file"),
            ("link/../file", "file"),
            ("new/./file", "new/file"),
        ] {
            assert_eq!(name_of(&real.join(path)), real.join(expected), "{path}");
        }
    }

    #[test]
    fn links_have_all_their_names() {
        let scratch = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(scratch.path()).unwrap();
        fs::symlink(Path::new("two"), &real.join("one")).unwrap();
        fs::symlink(Path::new("three"), &real.join("two")).unwrap();
        fs::write(&real.join("three"), b"").unwrap();
        let found = names(&real.join("one"));
        for name in ["one", "two", "three"] {
            assert!(found.contains(&real.join(name)), "{name}: {found:?}");
        }
        // A link to itself ends the search.
        fs::symlink(Path::new("circle"), &real.join("circle")).unwrap();
        assert!(names(&real.join("circle")).len() <= LINKS + 1);
    }
}

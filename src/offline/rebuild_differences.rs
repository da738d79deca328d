//! The result of comparing the packages of two compilations (`--verify-rebuild`).

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use crate::release::{Name, Version};

/// The maximum number of files of a package in a message.
const FILES_NAMED: usize = 20;

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildDifferences {
    /// How many packages were compared, including those that only one result has.
    pub compared: usize,
    /// How many packages were not compared, because they were compiled before the run.
    pub precompiled: usize,
    /// The packages that differ, each after its dependencies.
    pub packages: Vec<PackageDifference>,
}

/// A package whose two compilations gave different files, or that only one of them gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageDifference {
    /// Name and version of the release.
    pub release: (Name, Version),
    /// The name of the package.
    pub package: Name,
    /// How the files differ. Empty if only the bytes of the archives differ, or if only one result has the package.
    pub files: Vec<FileDifference>,
    /// The result that has the package, if the other one lacks it.
    pub only_in: Option<RebuildResult>,
    /// The file with the output of diffoscope.
    pub details: Option<PathBuf>,
}

/// One of two results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildResult {
    /// The result of the first compilation.
    First,
    /// The result of the second compilation.
    Second,
}

impl fmt::Display for RebuildResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Second => "second",
        })
    }
}

/// A file that two compilations of a package have installed differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDifference {
    /// The path in the package. Empty for the root.
    pub path: PathBuf,
    /// How the file differs, as the end of a sentence.
    pub difference: String,
}

impl RebuildDifferences {
    /// The line for a run in which no package differs.
    pub(super) fn success(&self) -> String {
        let same = match self.compared {
            0 => "No package was compiled again".to_owned(),
            1 => "The package is the same when it is compiled again".to_owned(),
            more => format!("All {more} packages are the same when they are compiled again"),
        };
        match self.precompiled {
            0 => same,
            1 => format!("{same}; one package was compiled before this run and is not compared"),
            more => format!(
                "{same}; {more} packages were compiled before this run and are not compared"
            ),
        }
    }
}

impl PackageDifference {
    /// A line about the package and one for each file, up to a limit.
    pub(super) fn lines(&self) -> String {
        let (name, version) = &self.release;
        if let Some(result) = self.only_in {
            return format!(
                "Package {} of release {name}/{version} is only in the {result} result",
                self.package
            );
        }
        let mut text = format!(
            "Package {} of release {name}/{version} differs when it is compiled again:",
            self.package
        );
        if self.files.is_empty() {
            text.push_str("\n  - its files are the same, but not the bytes of the archive");
        }
        for file in self.files.iter().take(FILES_NAMED) {
            let path = match file.path.as_os_str().is_empty() {
                true => ".".to_owned(),
                false => file.path.display().to_string().escape_debug().to_string(),
            };
            let _ = write!(text, "\n  - {path}: {}", file.difference);
        }
        if let Some(others @ 1..) = self.files.len().checked_sub(FILES_NAMED) {
            let _ = write!(text, "\n  - and {others} more files");
        }
        if let Some(details) = &self.details {
            let _ = write!(text, "\n  Details from diffoscope: {}", details.display());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_up_to_a_limit() {
        let file = |number: usize| FileDifference {
            path: PathBuf::from(format!("bin/{number}")),
            difference: "mode 0644 and 0755".to_owned(),
        };
        let mut package = PackageDifference {
            release: (Name::parse("demo").unwrap(), Version::parse("1").unwrap()),
            package: Name::parse("app").unwrap(),
            files: (0..FILES_NAMED + 2).map(file).collect(),
            only_in: None,
            details: Some(PathBuf::from("/logs/app.txt")),
        };
        let text = package.lines();
        assert!(text.starts_with("Package app of release demo/1 differs"));
        assert!(text.contains("\n  - bin/19: mode 0644 and 0755\n  - and 2 more files\n"));
        assert!(text.ends_with("\n  Details from diffoscope: /logs/app.txt"));
        package.files.clear();
        package.details = None;
        assert_eq!(package.lines().lines().count(), 2);
    }
}

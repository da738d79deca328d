//! Whether a script failed at something only because its dependencies are mounted: hard links and renames do not lead out of a
//! mount, and its root can be neither removed nor renamed. Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::printed::PrintedLine;
use crate::config::PackagePaths;

/// A run within this time is cheap to repeat.
const CHEAP: Duration = Duration::from_secs(30);

/// Where a script has directories that are mounts whatever becomes of its dependencies.
const OTHER_MOUNTS: [&str; 4] = ["/tmp", "/var/tmp", "/dev", "/proc"];

/// Where a script finds its dependencies.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts {
    paths: Vec<PathBuf>,
}

impl Mounts {
    /// The mounts of dependencies, by their paths as the script sees them.
    pub(super) fn of<'a>(dependencies: impl Iterator<Item = &'a PackagePaths>) -> Self {
        let paths = dependencies.flat_map(|paths| [paths.link.clone(), paths.packages.clone()]);
        Self {
            paths: paths.collect(),
        }
    }

    /// The lines that tell of it: those that name a dependency. Where the run was short and failed, also those that may mean
    /// one by a relative path.
    pub(super) fn met(
        &self,
        lines: &[PrintedLine],
        failed_after: Option<Duration>,
    ) -> Vec<PrintedLine> {
        if self.paths.is_empty() {
            return Vec::new();
        }
        let is_cheap = failed_after.is_some_and(|elapsed| elapsed <= CHEAP);
        let is_met = |line: &&PrintedLine| {
            let names = |path: &Path| path.to_str().is_some_and(|path| has_path(&line.text, path));
            self.paths.iter().any(|path| names(path))
                || is_cheap && !OTHER_MOUNTS.iter().any(|path| names(Path::new(path)))
        };
        lines.iter().filter(is_met).cloned().collect()
    }
}

/// Whether a text has a path, or one below it, and not only one that begins alike.
fn has_path(text: &str, path: &str) -> bool {
    let is_in_name = |it: char| it.is_ascii_alphanumeric() || "-_.+".contains(it);
    text.match_indices(path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + path.len()..].chars().next();
        !before.is_some_and(|it| is_in_name(it) || it == '/') && !after.is_some_and(is_in_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Vcap;
    use crate::release::{Name, Version};

    #[test]
    fn lines_that_name_a_dependency_are_met_and_others_where_that_is_cheap() {
        let paths = Vcap::new(Path::new("/var/vcap"))
            .package(&Name::parse("lib").unwrap(), &Version::parse("1").unwrap());
        let mounts = Mounts::of(std::iter::once(&paths));
        let met = |text: &str, failed_after: Option<u64>| {
            let line = PrintedLine {
                number: 1,
                text: text.to_owned(),
            };
            !mounts
                .met(&[line], failed_after.map(Duration::from_secs))
                .is_empty()
        };
        for named in [
            "cp: cannot create hard link '/x' to '/var/vcap/packages/lib/./a': Invalid cross-device link",
            "rm: cannot remove '/var/vcap/data/packages/lib/6b86b2': Device or resource busy",
            "OSError: [Errno 18] Invalid cross-device link: '/var/vcap/packages/lib' -> 'x'",
        ] {
            assert!(met(named, None), "{named}");
        }
        let relative = "ln: failed to create hard link 'a' => 'b': Invalid cross-device link";
        assert!(met(relative, Some(30)));
        assert!(!met(relative, Some(31)) && !met(relative, None));
        for other in [
            "rename /tmp/x /var/vcap/packages/app/x: invalid cross-device link",
            "ln '/var/tmp/a' 'b': Invalid cross-device link",
        ] {
            assert!(!met(other, Some(1)), "{other}");
        }
        let alike = "ln '/var/vcap/packages/lib-2/a' 'b': Invalid cross-device link";
        assert!(!met(alike, None));
    }
}

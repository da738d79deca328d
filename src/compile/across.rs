//! Finds failures that are caused by the mounts of dependencies: hard links and renames cannot cross a mount, and the root of a
//! mount can be neither removed nor renamed. Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::printed::PrintedLine;
use crate::config::PackagePaths;

/// A run that fails within this time is cheap to repeat.
const CHEAP: Duration = Duration::from_secs(30);

/// Paths that are mount points in the view of every script.
const OTHER_MOUNTS: [&str; 4] = ["/tmp", "/var/tmp", "/dev", "/proc"];

/// The mounts of a script's dependencies.
#[derive(Debug, Clone, Default)]
pub(super) struct DependencyMounts {
    paths: Vec<PathBuf>,
}

impl DependencyMounts {
    /// `dependencies` has the paths of each dependency as the script sees them.
    pub(super) fn of<'a>(dependencies: impl Iterator<Item = &'a PackagePaths>) -> Self {
        let paths = dependencies.flat_map(|paths| [paths.link.clone(), paths.packages.clone()]);
        Self {
            paths: paths.collect(),
        }
    }

    /// `lines` report failed links, renames and removals. Selects the lines whose failure the mounts of dependencies may have caused: those
    /// that contain the path of a dependency. If the script failed within [`CHEAP`], lines without the path of a mount are selected as well,
    /// because their relative paths may be in a dependency.
    pub(super) fn lines_caused(
        &self,
        lines: &[PrintedLine],
        failed_after: Option<Duration>,
    ) -> Vec<PrintedLine> {
        if self.paths.is_empty() {
            return Vec::new();
        }
        let is_cheap = failed_after.is_some_and(|elapsed| elapsed <= CHEAP);
        let may_be_caused = |line: &&PrintedLine| {
            let contains =
                |path: &Path| path.to_str().is_some_and(|path| has_path(&line.text, path));
            self.paths.iter().any(|path| contains(path))
                || is_cheap && !OTHER_MOUNTS.iter().any(|path| contains(Path::new(path)))
        };
        lines.iter().filter(may_be_caused).cloned().collect()
    }
}

/// Whether a text contains `path` or a path below it. For `/a`, the texts `/a` and `/a/b` match, and `/ab` does not.
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
    fn relative_paths_count_only_after_a_short_run() {
        let paths = Vcap::new(Path::new("/var/vcap"))
            .package(&Name::parse("lib").unwrap(), &Version::parse("1").unwrap());
        let mounts = DependencyMounts::of(std::iter::once(&paths));
        let is_caused = |text: &str, failed_after: Option<u64>| {
            let line = PrintedLine {
                number: 1,
                text: text.to_owned(),
            };
            !mounts
                .lines_caused(&[line], failed_after.map(Duration::from_secs))
                .is_empty()
        };
        for named in [
            "cp: cannot create hard link '/x' to '/var/vcap/packages/lib/./a': Invalid cross-device link",
            "rm: cannot remove '/var/vcap/data/packages/lib/6b86b2': Device or resource busy",
            "OSError: [Errno 18] Invalid cross-device link: '/var/vcap/packages/lib' -> 'x'",
        ] {
            assert!(is_caused(named, None), "{named}");
        }
        let relative = "ln: failed to create hard link 'a' => 'b': Invalid cross-device link";
        assert!(is_caused(relative, Some(30)));
        assert!(!is_caused(relative, Some(31)) && !is_caused(relative, None));
        for other in [
            "rename /tmp/x /var/vcap/packages/app/x: invalid cross-device link",
            "ln '/var/tmp/a' 'b': Invalid cross-device link",
        ] {
            assert!(!is_caused(other, Some(1)), "{other}");
        }
        let alike = "ln '/var/vcap/packages/lib-2/a' 'b': Invalid cross-device link";
        assert!(!is_caused(alike, None));
    }
}

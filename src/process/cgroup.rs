//! The limits that a container's control groups set, of both versions.

use std::path::{Path, PathBuf};

use crate::fs;

/// Where the groups of this process are told (cgroups(7)).
const OWN: &str = "/proc/self/cgroup";

/// Where the hierarchies are mounted by every system that we know.
const MOUNTED: &str = "/sys/fs/cgroup";

/// What `read` finds in the group of this process and in each group above it. A limit of any of them counts.
pub(super) fn each<T>(controller: &str, read: impl Fn(&Path) -> Option<T>) -> Vec<T> {
    let own = fs::read_lossy(Path::new(OWN)).unwrap_or_default();
    let directories = directories(&own, controller, Path::new(MOUNTED));
    directories.iter().filter_map(|path| read(path)).collect()
}

/// A file of a group without the line end.
pub(super) fn value(group: &Path, file: &str) -> Option<String> {
    let text = fs::read_lossy(&group.join(file)).ok()?;
    Some(text.trim().to_owned())
}

/// The directories of a process's groups that this controller may be in. Not all of them need to exist: inside a container the
/// group itself may be mounted where the hierarchy would be.
fn directories(own: &str, controller: &str, mounted: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let roots: &[&str] = match controllers {
            // Version 2, alone or beside version 1.
            "" => &["", "unified"],
            _ if controllers.split(',').any(|name| name == controller) => &[controller],
            _ => continue,
        };
        for root in roots {
            let root = mounted.join(root);
            let below = Path::new(group.trim_start_matches('/'));
            for group in below.ancestors() {
                found.push(root.join(group));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str) -> Vec<String> {
        directories(own, "cpu", Path::new("/c"))
            .iter()
            .map(|path| path.display().to_string().trim_end_matches('/').to_owned())
            .collect()
    }

    #[test]
    fn a_group_and_all_above_it_are_looked_at() {
        assert_eq!(
            found("0::/ci/job\n"),
            [
                "/c/ci/job",
                "/c/ci",
                "/c",
                "/c/unified/ci/job",
                "/c/unified/ci",
                "/c/unified"
            ]
        );
        assert_eq!(
            found("3:cpuset:/x\n2:cpu,cpuacct:/docker/a:b\nodd\n"),
            ["/c/cpu/docker/a:b", "/c/cpu/docker", "/c/cpu"]
        );
    }
}

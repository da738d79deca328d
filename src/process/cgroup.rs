//! Limits of a container's cgroups, v1 and v2.

use std::path::{Path, PathBuf};

use crate::fs;

/// The file that lists the cgroups of this process (cgroups(7)).
const OWN: &str = "/proc/self/cgroup";

/// Where all known systems mount the hierarchies.
const MOUNTED: &str = "/sys/fs/cgroup";

/// The values that `read` finds in this process's cgroup and in each cgroup above it. The limits of
/// all of them apply.
pub(super) fn each<T>(controller: &str, read: impl Fn(&Path) -> Option<T>) -> Vec<T> {
    let own = fs::read_lossy(Path::new(OWN)).unwrap_or_default();
    let directories = directories(&own, controller, Path::new(MOUNTED));
    directories.iter().filter_map(|path| read(path)).collect()
}

/// The contents of a cgroup's file, trimmed.
pub(super) fn value(group: &Path, file: &str) -> Option<String> {
    let text = fs::read_lossy(&group.join(file)).ok()?;
    Some(text.trim().to_owned())
}

/// The candidate directories of a process's cgroups for a controller. Some may not exist: inside a
/// container, the cgroup itself may be mounted at the root of the hierarchy.
fn directories(own: &str, controller: &str, mounted: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let roots: &[&str] = match controllers {
            // cgroup v2, alone or in a hybrid with v1.
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
    fn cgroup_and_its_ancestors_are_listed() {
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

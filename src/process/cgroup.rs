//! Reads the limits of the cgroups (v1 and v2) that contain this process. A container usually has
//! its own cgroup.

use std::path::{Path, PathBuf};

use crate::fs;

/// The file that lists the cgroups of this process (cgroups(7)).
const OWN: &str = "/proc/self/cgroup";

/// The usual mount point of the cgroup file systems.
const MOUNTED: &str = "/sys/fs/cgroup";

/// Applies `read` to this process's cgroup and to each cgroup above it, and returns the values
/// found. All of these limits apply to the process.
pub(super) fn each<T>(controller: &str, read: impl Fn(&Path) -> Option<T>) -> Vec<T> {
    let own = fs::read_lossy(Path::new(OWN)).unwrap_or_default();
    let directories = directories(&own, controller, Path::new(MOUNTED));
    directories.iter().filter_map(|path| read(path)).collect()
}

/// The trimmed contents of a file in a cgroup's directory.
pub(super) fn value(group: &Path, file: &str) -> Option<String> {
    let text = fs::read_lossy(&group.join(file)).ok()?;
    Some(text.trim().to_owned())
}

/// The directories in which a controller's settings for this process may be, from the contents of
/// [`OWN`]. Some may not exist: in a container, the process's own cgroup may be mounted at the root
/// of the hierarchy.
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

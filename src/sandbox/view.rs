//! A script's view of the file system, as plain data: what is mounted where, and what the script can write to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire;
use crate::fs;

/// The parts of `/proc` and `/sys` that change the kernel for all processes. The rest of `/proc` stays writable: programs write the
/// owner maps of user namespaces there, for example.
pub(super) const KERNEL: [&str; 6] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/sys",
];

/// The file system with the processes. Each of its files belongs to a single process, except those in [`KERNEL`].
const PROC: &str = "/proc";

/// A view of the file system: what is mounted where, in namespaces that end with the script.
///
/// The package's *tree* is a directory in the work directory. The agent prepares it. Before the script starts, a process in the script's
/// namespaces mounts the tree over the *covered directory*, which is usually the base directory. Everything else that the script sees in
/// the covered directory is mounted into the tree before that.
///
/// In each pair of paths, the first is the source of a mount and the second is the mount point, unless the field says otherwise.
///
/// A relative path starts at `work`. Sources in the work directory are relative because later mounts may cover their absolute paths, and
/// because the options of an overlay cannot contain every character that a directory's name can. Sources on the host are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Whether the script's namespaces include a user namespace. Overlays then need another mount option.
    pub in_user_namespace: bool,
    /// Whether the script gets a PID namespace. A PID namespace needs its own `/proc`, and some containers forbid mounting one.
    pub processes: bool,
    /// Whether the mounts are locked, so that the script cannot undo them.
    pub locked: bool,
    /// Whether the script uses the host's network. Otherwise it has only its own loopback interface.
    pub network: bool,
    /// The root file system of the script, if it is not the host's.
    pub root: Option<ImageRoot>,
    /// The work directory. Scripts see an empty directory there. Scripts with a root file system of their own see nothing there.
    #[serde(with = "wire")]
    pub work: PathBuf,
    /// Dependencies, mounted into the package's tree.
    pub dependencies: Vec<Mounted>,
    /// How writes into dependencies are handled.
    pub writes: Writes,
    /// The directory that stores the script's changes to dependencies, if `writes` allows them. It is discarded when the script ends.
    #[serde(with = "wire")]
    pub overlay: PathBuf,
    /// Scratch directories that packages share, mounted into the tree.
    #[serde(with = "wire")]
    pub scratch: Vec<(PathBuf, PathBuf)>,
    /// The directory that contains the scratch directories of all packages, if it must be hidden from the script. The script sees an empty
    /// directory there.
    #[serde(with = "wire")]
    pub hidden: Option<PathBuf>,
    /// Absolute paths of files and directories with secrets. The script sees empty ones there.
    #[serde(with = "wire")]
    pub secrets: Vec<PathBuf>,
    /// Entries of the covered directory that belong to no package. They are mounted into the tree, so that the script still sees them. If
    /// the entry is a directory for temporary files, such as `/tmp`, the source is the script's private one, with a relative path.
    #[serde(with = "wire")]
    pub kept: Vec<(PathBuf, PathBuf)>,
    /// Private directories for temporary files that are file systems in memory: the one for `/dev/shm`.
    #[serde(with = "wire")]
    pub memory: Vec<PathBuf>,
    /// Files and directories of the host that the script's variables name and that the private directories of `temporary` would hide, such
    /// as `HOME=/tmp/home`. They are mounted into the private directories, so that they stay visible.
    #[serde(with = "wire")]
    pub named: Vec<(PathBuf, PathBuf)>,
    /// Symbolic links in the paths to `named`. Each pair is the path of a new link in a private directory, and the link's target.
    #[serde(with = "wire")]
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Private directories for temporary files. They are mounted over the host's, such as `/tmp`.
    #[serde(with = "wire")]
    pub temporary: Vec<(PathBuf, PathBuf)>,
    /// The tree and the covered directory. The covered directory is the base directory or, if that is missing, a directory above it.
    #[serde(with = "wire")]
    pub tree: (PathBuf, PathBuf),
    /// The paths to which the script can write, if `--protect-host` is given.
    pub protection: Option<Protection>,
}

impl View {
    /// Whether something below this directory is hidden from the script.
    pub(super) fn hides_below(&self, directory: &Path) -> bool {
        let hidden = self.hidden.iter().map(|hidden| self.work.join(hidden));
        let mut hidden = hidden.chain([self.work.clone(), self.tree.1.clone()]);
        let is_below = |path: &Path| path.starts_with(directory);
        hidden.any(|path| is_below(&path)) || self.secrets.iter().any(|path| is_below(path))
    }
}

/// A root file system of a script: an overlay over a directory. The script's changes are discarded when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRoot {
    /// The directory with the files, which stay unchanged.
    #[serde(with = "wire")]
    pub lower: PathBuf,
    /// The directory for the overlay's mount point and the script's changes.
    #[serde(with = "wire")]
    pub overlay: PathBuf,
    /// Whether the script's changes are stored in memory: for work directories whose file system cannot store them.
    pub in_memory: bool,
}

/// A dependency in a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// The tree with the dependency's files, which never change. The directory that contains the tree has no other entry.
    #[serde(with = "wire")]
    pub sealed: PathBuf,
    /// The mount point.
    #[serde(with = "wire")]
    pub at: PathBuf,
}

/// How writes into a dependency are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// They succeed, on disk, and are discarded with the script.
    ToDisk,
    /// They succeed, in memory, and are discarded with the script: for work directories whose file system cannot store them.
    ToMemory,
    /// They fail.
    Refused,
}

/// The paths to which a script can write. Everything else is read-only for the script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Directories whose mounts, and all mounts below them, are not made read-only, except those in `read_only`.
    #[serde(with = "wire")]
    pub(super) writable: Vec<PathBuf>,
    /// Read-only paths, also below `writable` directories: the host's entries of the covered directory, and [`KERNEL`].
    #[serde(with = "wire")]
    pub(super) read_only: Vec<PathBuf>,
    /// The script's `HOME`, which is also writable, if `writable` does not include it.
    #[serde(with = "wire")]
    pub(super) home: Option<PathBuf>,
}

impl Protection {
    /// The protection of the host from a script with this view, whose `HOME` is `home`.
    pub(super) fn new(view: &View, home: Option<&Path>) -> Self {
        let (tree, cover) = &view.tree;
        let mut writable = vec![cover.clone(), PathBuf::from(PROC)];
        writable.extend(view.temporary.iter().map(|(_, at)| at.clone()));
        let read_only = view
            .kept
            .iter()
            // A relative source is a private directory for temporary files, to which the script can write.
            .filter(|(source, _)| source.is_absolute())
            .filter_map(|(_, at)| Some(cover.join(at.strip_prefix(tree).ok()?)))
            .chain(KERNEL.map(PathBuf::from))
            .collect();
        let mut protection = Self {
            writable,
            read_only,
            home: None,
        };
        let home = home.and_then(|home| fs::canonicalize(home).ok());
        // If `HOME` contained the covered directory, other files of the host would become writable.
        protection.home = home.filter(|home| {
            home.is_dir() && !cover.starts_with(home) && !protection.leaves_writable(home)
        });
        protection
    }

    /// Whether this protection leaves an absolute path writable for the script.
    #[must_use]
    pub fn leaves_writable(&self, path: &Path) -> bool {
        let longest = |directories: &mut dyn Iterator<Item = &PathBuf>| {
            directories
                .filter(|directory| path.starts_with(directory))
                .map(|directory| directory.as_os_str().len())
                .max()
        };
        let writable = longest(&mut self.writable.iter().chain(&self.home));
        writable > longest(&mut self.read_only.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_directory_decides() {
        let mut protection = Protection {
            writable: ["/var/vcap", "/tmp"].map(PathBuf::from).to_vec(),
            read_only: vec![PathBuf::from("/var/vcap/sys")],
            home: None,
        };
        protection.home = Some(PathBuf::from("/var/vcap/sys/home"));
        for (path, expected) in [
            ("/etc/passwd", false),
            ("/var/vcap/packages/app", true),
            ("/var/vcap/sys", false),
            ("/var/vcap/sys/log", false),
            ("/var/vcap/sys/home/x", true),
            ("/var/vcap/system", true),
            ("/tmp", true),
            ("/tmpx", false),
        ] {
            let found = protection.leaves_writable(Path::new(path));
            assert_eq!(found, expected, "{path}");
        }
    }
}

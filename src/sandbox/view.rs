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

/// Its files belong to single processes, except those in [`KERNEL`].
const PROC: &str = "/proc";

/// A view of the file system: what is mounted where, in namespaces that end with the script.
///
/// Terms: the agent prepares the package's *tree*, a directory in the work directory, and the child mounts it over the *covered directory*
/// (usually the base directory). Mounts that the script sees there are first made inside the tree. A pair of paths is a source and a mount
/// point.
///
/// Relative paths are below `work`. Sources are relative because later mounts may cover their absolute paths, and because
/// overlay options cannot contain every character that a directory's name can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Whether it is made in a user namespace, where overlays need another mount option.
    pub in_user_namespace: bool,
    /// Whether the script gets a PID namespace. It needs its own `/proc`, which some containers do not allow to mount.
    pub processes: bool,
    /// Whether the mounts are locked, so that the script cannot undo them.
    pub locked: bool,
    /// Whether the script uses the host's network. Otherwise it has only its own loopback interface.
    pub network: bool,
    /// The root file system of the script, if it is not the host's.
    pub root: Option<ImageRoot>,
    /// The work directory. Scripts see an empty directory there, or nothing with a root file system of their own.
    #[serde(with = "wire")]
    pub work: PathBuf,
    /// Dependencies, mounted into the package's tree.
    pub dependencies: Vec<Mounted>,
    /// What happens to writes into dependencies.
    pub writes: Writes,
    /// The directory that stores the writes into dependencies, if these succeed. It is discarded with the script.
    #[serde(with = "wire")]
    pub overlay: PathBuf,
    /// Scratch directories that packages share, mounted into the tree.
    #[serde(with = "wire")]
    pub scratch: Vec<(PathBuf, PathBuf)>,
    /// The directory that contains the scratch directories of all packages, if the script would see it outside the tree. The script sees
    /// an empty directory there.
    pub hidden: Option<PathBuf>,
    /// Absolute paths of files and directories with secrets. The script sees empty ones there.
    #[serde(with = "wire")]
    pub secrets: Vec<PathBuf>,
    /// The host's entries of the covered directory that belong to no package, mounted into the tree, so that the script still sees them.
    #[serde(with = "wire")]
    pub kept: Vec<(PathBuf, PathBuf)>,
    /// Those sources of `temporary` that are file systems in memory, as `/dev/shm` is.
    #[serde(with = "wire")]
    pub memory: Vec<PathBuf>,
    /// What the script's environment names below the mount points of `temporary`: the host's path, mounted into the private directory so
    /// that it stays visible.
    #[serde(with = "wire")]
    pub named: Vec<(PathBuf, PathBuf)>,
    /// Symbolic links on the way to `named`: the path in the private directory, the link's target.
    #[serde(with = "wire")]
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Private directories for temporary files, mounted over those of the host, such as `/tmp`.
    #[serde(with = "wire")]
    pub temporary: Vec<(PathBuf, PathBuf)>,
    /// The tree and the covered directory: the base directory or, if that is missing, a directory above it.
    #[serde(with = "wire")]
    pub tree: (PathBuf, PathBuf),
    /// With `--protect-host`, what the script can write to.
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

/// A root file system of a script: an overlay over a directory. What the script writes is discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRoot {
    /// The directory with the files, which stay unchanged.
    #[serde(with = "wire")]
    pub lower: PathBuf,
    /// The directory for the overlay and what the script writes.
    #[serde(with = "wire")]
    pub overlay: PathBuf,
    /// Whether the script writes to memory: for work directories whose file system cannot store the changes.
    pub in_memory: bool,
}

/// A dependency in a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Its sealed tree. The directory that contains the tree has no other entry.
    #[serde(with = "wire")]
    pub sealed: PathBuf,
    /// The mount point.
    #[serde(with = "wire")]
    pub at: PathBuf,
}

/// What happens to writes into a dependency.
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

/// What a script can write to. Everything else is read-only for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Directories that stay as they are mounted, with everything below them.
    #[serde(with = "wire")]
    pub(super) writable: Vec<PathBuf>,
    /// Entries of `writable` directories that belong to the host and are read-only.
    #[serde(with = "wire")]
    pub(super) read_only: Vec<PathBuf>,
    /// `HOME`, if no `writable` directory contains it.
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
            // A relative source lies in the work directory and belongs to the script.
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
        // A directory above the script's tree would make the host writable.
        protection.home = home.filter(|home| {
            home.is_dir()
                && home.to_str().is_some()
                && !cover.starts_with(home)
                && !protection.leaves_writable(home)
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

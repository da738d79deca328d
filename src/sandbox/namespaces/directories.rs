//! Creates the directories of a place, and the mount points in them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{NamespacePlace, Namespaces, SCRATCH, TEMPORARY};
use crate::config::{Vcap, Visibility};
use crate::fs;
use crate::release::Name;
use crate::sandbox::error::SandboxError;
use crate::sandbox::scratch;

/// The entries of the base directory that a package has to itself. The other entries are the host's.
pub(super) const OWN: [&str; 2] = ["packages", "data"];

impl Namespaces {
    /// Creates a place with these scratch directories.
    pub(super) fn make_place(
        &self,
        copies: bool,
        scratch: &[Name],
    ) -> Result<NamespacePlace, SandboxError> {
        let mut place = NamespacePlace {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            copies,
            set_aside: AtomicBool::new(false),
            kept: Vec::new(),
            scratch: Vec::new(),
        };
        let (tree, root) = (self.tree(&place), self.root(&place));
        let mut directories = vec![self.path(&place)];
        let between = root.ancestors().take_while(|path| path.starts_with(&tree));
        let mut between: Vec<PathBuf> = between.map(Path::to_owned).collect();
        between.reverse();
        directories.extend(between);
        directories.extend([
            root.join("packages"),
            root.join("data"),
            root.join("data/packages"),
            root.join("data/compile"),
        ]);
        for directory in directories {
            fs::create_dir(&directory)?;
            fs::set_mode(&directory, 0o755)?;
        }
        for (name, _) in TEMPORARY {
            let directory = self.path(&place).join(name);
            fs::create_dir(&directory)?;
            fs::set_mode(&directory, 0o1777)?;
        }
        self.keep_host_entries(&mut place)?;
        self.make_scratch(&mut place, scratch)?;
        self.make_base_below_temporary(&place)?;
        Ok(place)
    }

    /// The path of the covered directory for the agent, which is inside the image if there is one. `None` if the image does not contain it.
    pub(super) fn covered(&self) -> fs::Result<Option<PathBuf>> {
        match self.image() {
            Some(image) => fs::path_in_root(image, &self.cover),
            None => Ok(Some(self.cover.clone())),
        }
    }

    /// Creates the mount points of the host's other entries of the covered directory.
    fn keep_host_entries(&self, place: &mut NamespacePlace) -> Result<(), SandboxError> {
        let tree = self.tree(place);
        // If the image has no base directory, there are no entries to keep.
        let entries = self
            .covered()?
            .map_or(Ok(Vec::new()), |cover| fs::list(&cover))?;
        for entry in entries {
            let name = entry.file_name();
            let target = tree.join(&name);
            // Skip the package's own entries, and the directories above them.
            if self.is_base_covered() && OWN.iter().any(|own| name == *own)
                || fs::lookup(&target)?.is_some()
            {
                continue;
            }
            self.keep_host_entry(place, (entry.path(), self.cover.join(name)), target)?;
        }
        Ok(())
    }

    /// Creates the mount point `target` of an entry. `here` is the path of the entry for the agent, `source` its path for the script: they
    /// differ if the script has its own root file system.
    fn keep_host_entry(
        &self,
        place: &mut NamespacePlace,
        (here, mut source): (PathBuf, PathBuf),
        target: PathBuf,
    ) -> Result<(), SandboxError> {
        let visibility = self.vcap.visibility(&source);
        let Some(metadata) = fs::lookup(&here)?.filter(|_| visibility != Visibility::Hidden) else {
            return Ok(());
        };
        if metadata.is_symlink() {
            return Ok(fs::symlink(&fs::read_link(&here)?, &target)?);
        } else if metadata.is_dir() {
            fs::create_dir(&target)?;
        } else if metadata.is_file() {
            fs::write(&target, b"")?;
        } else {
            return Ok(());
        }
        if metadata.is_dir() && visibility == Visibility::Partial {
            // Create a separate directory, and keep each entry: entries that are created later in the host's directory must not appear.
            for entry in list_if_allowed(&here)? {
                let name = entry.file_name();
                let seen = source.join(&name);
                self.keep_host_entry(place, (entry.path(), seen), target.join(name))?;
            }
            fs::set_owner_if_allowed(&target, metadata.uid(), metadata.gid())?;
            return Ok(fs::set_mode(&target, metadata.mode() & 0o7777)?);
        }
        if let Some((temporary, _)) = TEMPORARY.iter().find(|(_, at)| source == Path::new(at)) {
            source = Self::relative(place).join(temporary);
        }
        place.kept.push((source, self.below_work(&target)));
        Ok(())
    }

    /// Creates shared scratch directories and their mount points. With `--no-shared-scratch`, scripts create their own.
    fn make_scratch(&self, place: &mut NamespacePlace, names: &[Name]) -> Result<(), SandboxError> {
        if !self.scratch.is_shared() {
            return Ok(());
        }
        let root = self.root(place);
        for name in names {
            let Some(at) = Vcap::new(&root).scratch(name) else {
                continue;
            };
            scratch::make(&at)?;
            let source = self.scratch_root.join(name.as_str());
            if self.scratch.make_kept(name)?.is_none() {
                fs::create_dir_all(&self.work.join(SCRATCH))?;
                scratch::make(&self.work.join(&source))?;
            }
            place.scratch.push((source, self.below_work(&at)));
        }
        Ok(())
    }

    /// If the base directory is below a directory for temporary files: creates it in the private directory that covers that one.
    fn make_base_below_temporary(&self, place: &NamespacePlace) -> Result<(), SandboxError> {
        for (name, at) in TEMPORARY {
            if let Ok(below) = self.vcap.base().strip_prefix(at) {
                fs::create_dir_all(&self.path(place).join(name).join(below))?;
            }
        }
        Ok(())
    }
}

/// The entries of a directory. Empty if this user may not list the directory.
fn list_if_allowed(directory: &Path) -> fs::Result<Vec<std::fs::DirEntry>> {
    match fs::list(directory) {
        Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => Ok(Vec::new()),
        other => other,
    }
}

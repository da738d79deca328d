//! Recognizes an archive without `release.MF` by the paths in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Lookalike;
use crate::offline::clutter::is_clutter;

/// The maximum number of names in the message about an unrecognized archive.
const LISTED: usize = 6;

impl Lookalike {
    /// Recognizes an archive without `release.MF` at its top by the paths in it.
    pub(crate) fn of_paths<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        Paths::new(paths).recognize()
    }
}

/// The paths of an archive, without clutter.
struct Paths<'a> {
    all: Vec<&'a Path>,
    /// The names at the top.
    top: BTreeSet<&'a str>,
}

impl<'a> Paths<'a> {
    fn new(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let all: Vec<&Path> = paths.into_iter().filter(|path| !is_clutter(path)).collect();
        let top = all.iter().filter_map(|path| first(path)).collect();
        Self { all, top }
    }

    /// Whether there is a file or directory with this path.
    fn has(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        self.all.iter().any(|it| it.starts_with(path))
    }

    /// Recognizes the archive. The order of the checks matters, because some archives match several kinds.
    fn recognize(&self) -> Lookalike {
        if let Some(found) = self.by_names_at_the_top() {
            return found;
        }
        if let Some(directory) = self.source_repository() {
            return Lookalike::SourceRepository { directory };
        }
        if let Some(directory) = self.nested_release() {
            return Lookalike::Nested { directory };
        }
        if self.has_parts_of_a_release() {
            return Lookalike::WithoutManifest;
        }
        if let Some(first) = self.all.iter().find(|path| is_tarball(path)) {
            let first = first.to_path_buf();
            return Lookalike::Tarballs { first };
        }
        let is_legal = |name: &&str| name.starts_with("LICENSE") || name.starts_with("NOTICE");
        if self.top.iter().all(is_legal) {
            return Lookalike::License;
        }
        if ["etc", "usr", "var"].iter().all(|it| self.has(it)) {
            return Lookalike::RootFileSystem;
        }
        Lookalike::Archive {
            top: self.top.iter().take(LISTED).map(|it| shown(it)).collect(),
        }
    }

    fn by_names_at_the_top(&self) -> Option<Lookalike> {
        let top = &self.top;
        if top.is_empty() {
            return Some(Lookalike::EmptyArchive);
        }
        if top.contains("stemcell.MF") {
            return Some(Lookalike::Stemcell);
        }
        let has_layers =
            || top.contains("repositories") || self.all.iter().any(|path| is_tarball(path));
        if top.contains("oci-layout") || (top.contains("manifest.json") && has_layers()) {
            return Some(Lookalike::ContainerImage);
        }
        if let Some(name) = top.iter().find(|it| it.eq_ignore_ascii_case("release.MF")) {
            let name = (*name).to_owned();
            return Some(Lookalike::OtherCase { name });
        }
        if top.contains("job.MF") {
            return Some(Lookalike::Job);
        }
        top.contains("packaging").then_some(Lookalike::Package)
    }

    /// The directory that is a release's source repository: the top, or the only directory at the top.
    fn source_repository(&self) -> Option<PathBuf> {
        let only = match self.top.iter().collect::<Vec<_>>()[..] {
            [only] => Some(PathBuf::from(only)),
            _ => None,
        };
        let mut directories = std::iter::once(PathBuf::new()).chain(only);
        directories.find(|directory| {
            let has = |path: &str| self.has(directory.join(path));
            has("config/final.yml")
                || (has("packages") && has("jobs") && (has("src") || has("config")))
        })
    }

    /// The directory nearest to the top that contains `release.MF`.
    fn nested_release(&self) -> Option<PathBuf> {
        let manifests = self.all.iter();
        let nearest = manifests
            .filter(|path| path.file_name().is_some_and(|it| it == "release.MF"))
            .min_by_key(|path| path.components().count())?;
        Some(nearest.parent()?.to_owned())
    }

    fn has_parts_of_a_release(&self) -> bool {
        let directories = ["packages", "compiled_packages", "jobs"];
        self.all.iter().any(|path| {
            is_tarball(path)
                && directories
                    .iter()
                    .any(|directory| path.starts_with(directory))
        })
    }
}

/// Whether a path has the name of a tarball.
fn is_tarball(path: &Path) -> bool {
    let name = path.to_string_lossy();
    [".tgz", ".tar.gz", ".tar"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

/// The first part of a path, if it is text.
fn first(path: &Path) -> Option<&str> {
    path.iter().next()?.to_str()
}

/// A name for a message.
fn shown(name: &str) -> String {
    format!("`{}`", name.escape_debug())
}

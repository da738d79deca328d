//! Takes compiled packages from the results of earlier runs (`--reuse`). A package is not compiled again if an earlier result has it for the
//! same stemcell, and if the names, versions and fingerprints of the package and of all its dependencies are the same there. A Director
//! decides in the same way which compiled packages of its database it can use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checked::{CheckedPackage, CheckedRelease, Listed};
use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::inspect;
use super::select::{Input, Task, problems_of_open};
use super::tarball::{Opened, Role};
use crate::fs;
use crate::release::{Algorithm, Digests, Name, Slug};

/// The compiled packages of earlier results.
#[derive(Debug, Default)]
pub(super) struct EarlierPackages {
    /// The packages by identity (see [`identities`]). If several results have a package, it is taken from the first of them.
    packages: HashMap<String, Arc<CheckedPackage>>,
}

/// What happens to the source blobs of packages that are not compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sources {
    /// They are removed, which saves disk space.
    Removed,
    /// They are kept: their licenses are part of SBOMs.
    Kept,
}

/// The packages that were taken for a release.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reused {
    /// Each package, with the tarball that it comes from.
    packages: Vec<(Name, PathBuf)>,
}

impl EarlierPackages {
    /// Collects the packages of earlier results that were compiled for `stemcell`, or for any stemcell if it is `None`. Also returns a note
    /// about each result whose packages are all for other stemcells.
    ///
    /// # Errors
    /// A tarball cannot be read, or is not a compiled release.
    pub(super) fn of(
        inputs: Vec<Input<Opened>>,
        stemcell: Option<&Slug>,
    ) -> Result<(Self, Vec<String>), OfflineError> {
        let (mut earlier, mut notes, mut problems) =
            (Self::default(), Vec::new(), Vec::<InputProblem>::new());
        for Input {
            tarball, content, ..
        } in inputs
        {
            let checked = match content {
                Err(error) => Err(problems_of_open(error).collect()),
                Ok(opened) => inspect::check(opened, None).map_err(|found| {
                    let found = found.into_iter().map(InputProblemKind::Release);
                    found.collect::<Vec<_>>()
                }),
            };
            let added = checked.and_then(|release| {
                let has_compiled = release.packages.iter().any(|it| !it.is_source());
                match has_compiled {
                    true => Ok(earlier.add(&release, stemcell)),
                    false => Err(vec![InputProblemKind::NothingToReuse]),
                }
            });
            match added {
                Ok(None) => {}
                Ok(Some(other)) => notes.push(note_of_other(&tarball, &other)),
                Err(kinds) => problems.extend(kinds.into_iter().map(|kind| InputProblem {
                    path: tarball.clone(),
                    kind,
                })),
            }
        }
        match problems.is_empty() {
            true => Ok((earlier, notes)),
            false => Err(OfflineError::Input(problems)),
        }
    }

    /// Adds the compiled packages of a result, except those for other stemcells. If all are for other stemcells, returns one of these
    /// stemcells.
    fn add(&mut self, release: &CheckedRelease, stemcell: Option<&Slug>) -> Option<Slug> {
        let (mut has_any, mut other) = (false, None);
        for (identity, package) in identities(release) {
            let Listed::Compiled(compiled) = &package.listed else {
                continue;
            };
            if stemcell.is_some_and(|it| *it != compiled.stemcell) {
                other = Some(compiled.stemcell.clone());
                continue;
            }
            has_any = true;
            if let Some(identity) = identity {
                self.packages.entry(identity).or_insert_with(|| {
                    Arc::new(CheckedPackage {
                        reused_from: Some(release.tarball.clone()),
                        ..package.as_ref().clone()
                    })
                });
            }
        }
        other.filter(|_| !has_any)
    }

    /// In each release that is to be compiled, replaces source packages by compiled packages of earlier results, and removes their source
    /// blobs unless they are kept for their licenses. Returns lines that name the replaced packages.
    ///
    /// # Errors
    /// A source blob cannot be removed.
    pub(super) fn take_over(
        &self,
        tasks: &mut [Task],
        sources: Sources,
    ) -> fs::Result<Vec<String>> {
        let mut notes = Vec::new();
        for task in tasks {
            if let Task::Compile { release, .. } = task
                && let Some(release) = Arc::get_mut(release)
            {
                let reused = self.apply(release, sources)?;
                notes.extend(reused.notes(release));
            }
        }
        Ok(notes)
    }

    /// Like [`take_over`](Self::take_over), for one release.
    ///
    /// # Errors
    /// A source blob cannot be removed.
    fn apply(&self, release: &mut CheckedRelease, sources: Sources) -> fs::Result<Reused> {
        let mut reused = Reused::default();
        if self.packages.is_empty() {
            return Ok(reused);
        }
        let found: Vec<Option<Arc<CheckedPackage>>> = identities(release)
            .map(|(identity, package)| {
                let identity = identity.filter(|_| package.is_source())?;
                self.packages.get(&identity).map(Arc::clone)
            })
            .collect();
        for (package, found) in release.packages.iter_mut().zip(found) {
            let Some(found) = found else { continue };
            let found = CheckedPackage {
                replaced: Some(package.blob.clone()),
                ..found.as_ref().clone()
            };
            let source = std::mem::replace(package, Arc::new(found));
            if sources == Sources::Removed {
                fs::remove_file_if_there(&source.blob.file)?;
            }
            if let Some(tarball) = &package.reused_from {
                reused
                    .packages
                    .push((package.name().clone(), tarball.clone()));
            }
        }
        let is_reused = |name: &str| reused.packages.iter().any(|(it, _)| it.as_str() == name);
        for carried in &mut release.carried {
            if matches!(&carried.role, Role::Package(name) if is_reused(name)) {
                carried.blob = None;
            }
        }
        let manifest = &mut release.manifest;
        manifest.packages.retain(|it| !is_reused(it.name.as_str()));
        Ok(reused)
    }
}

impl Reused {
    /// A line for each tarball from which packages were taken.
    fn notes(&self, release: &CheckedRelease) -> Vec<String> {
        let mut tarballs: Vec<(&Path, Vec<&str>)> = Vec::new();
        for (name, tarball) in &self.packages {
            match tarballs.iter_mut().find(|(it, _)| it == tarball) {
                Some((_, names)) => names.push(name.as_str()),
                None => tarballs.push((tarball, vec![name.as_str()])),
            }
        }
        let of_each = tarballs.into_iter().map(|(tarball, names)| {
            format!(
                "Reusing {} of {} packages of {} from {}: {}",
                names.len(),
                release.packages.len(),
                release.label(),
                tarball.display(),
                names.join(", ")
            )
        });
        of_each.collect()
    }
}

/// The packages of a release in compile order, each with its identity: a digest of its name, version and fingerprint, and of those of all
/// its dependencies. `None` if a fingerprint is missing.
fn identities(
    release: &CheckedRelease,
) -> impl Iterator<Item = (Option<String>, &Arc<CheckedPackage>)> {
    let mut known: HashMap<&Name, Option<String>> = HashMap::new();
    release.packages.iter().map(move |package| {
        let identity = identity(package, &known);
        known.insert(package.name(), identity.clone());
        (identity, package)
    })
}

fn identity(package: &CheckedPackage, known: &HashMap<&Name, Option<String>>) -> Option<String> {
    let fingerprint = match &package.listed {
        Listed::Source(source) => &source.fingerprint,
        Listed::Compiled(compiled) => &compiled.fingerprint,
    };
    if fingerprint.is_empty() {
        return None;
    }
    let dependencies = package.dependencies().iter();
    let dependencies: Option<Vec<&str>> = dependencies
        .map(|name| known.get(name)?.as_deref())
        .collect();
    let mut dependencies = dependencies?;
    dependencies.sort_unstable();
    dependencies.dedup();
    // None of these values contains a space or a line break, so the text is unambiguous.
    let text = format!(
        "{} {} {fingerprint}\n{}",
        package.name(),
        package.version(),
        dependencies.join("\n")
    );
    let digests = Digests::of(text.as_bytes(), &[Algorithm::Sha256]);
    digests.sha256().map(str::to_owned)
}

fn note_of_other(tarball: &Path, stemcell: &Slug) -> String {
    format!(
        "Nothing of {} is reused: its packages were compiled for {stemcell}",
        tarball.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::graph::tests::release;

    // In these tests, `NAME@VERSION=FINGERPRINT: DEPENDENCIES` is a source package. A compiled one has `~` in place of `=`.

    /// The packages of several earlier results, each given as a text.
    fn earlier(texts: &[&str]) -> EarlierPackages {
        let mut earlier = EarlierPackages::default();
        for text in texts {
            let mut release = Arc::into_inner(release(text)).unwrap();
            release.tarball = PathBuf::from(format!("{}.tgz", texts.len()));
            let slug = Slug::new("ubuntu-noble", "1.1").unwrap();
            assert_eq!(earlier.add(&release, Some(&slug)), None);
        }
        earlier
    }

    /// The names of the packages of the release `text` that are taken from the earlier results `texts`, in compile order.
    fn reused(text: &str, texts: &[&str]) -> Vec<String> {
        let mut release = Arc::into_inner(release(text)).unwrap();
        let reused = earlier(texts).apply(&mut release, Sources::Kept).unwrap();
        let compiled = release.packages.iter().filter(|it| !it.is_source());
        let names: Vec<String> = compiled.map(|it| it.name().to_string()).collect();
        let reported = reused.packages.iter().map(|(name, _)| name.to_string());
        assert_eq!(reported.collect::<Vec<_>>(), names);
        names
    }

    #[test]
    fn package_is_reused_if_it_and_all_dependencies_agree() {
        let old = "base@1~1, lib@1~2: base, app@1~3: lib base, tool@1~4";
        let all = "base@1=1, lib@1=2: base, app@1=3: base lib, tool@1=4";
        assert_eq!(reused(all, &[old]), ["base", "lib", "app", "tool"]);
        let other_base = "base@2=1, lib@1=2: base, app@1=3: base lib, tool@1=4";
        assert_eq!(reused(other_base, &[old]), ["tool"]);
        let other_lib = "base@1=1, lib@2=2: base, app@1=3: base lib, tool@1=4";
        assert_eq!(reused(other_lib, &[old]), ["base", "tool"]);
        let fewer = "base@1=1, lib@1=2, app@1=3: base lib";
        assert_eq!(reused(fewer, &[old]), ["base"]);
        assert_eq!(reused(all, &["tool@1~4", "base@1~1"]), ["base", "tool"]);
        assert!(reused(all, &[]).is_empty());
    }

    #[test]
    fn packages_for_another_stemcell_are_not_reused() {
        let compiled = release("base@1~1");
        let mut earlier = EarlierPackages::default();
        let slug = Slug::new("ubuntu-noble", "1.2").unwrap();
        let other = earlier.add(&compiled, Some(&slug)).unwrap();
        assert_eq!(other.to_string(), "ubuntu-noble/1.1");
        assert!(earlier.packages.is_empty());
    }
}

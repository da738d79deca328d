//! Decides which jobs and packages of a release are compiled (`--only-needed`, `--job`, `--package`). No I/O.
//!
//! A Director exports a release in the same way (`bosh export-release`): the packages that the exported jobs name, and their dependencies,
//! direct and indirect.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::checked::CheckedRelease;
use super::problem::Problem;
use super::tarball::{JobPackages, Role};
use crate::diag::most_similar;
use crate::release::{Algorithm, Digests, Manifest, Name, graph};

/// The maximum number of packages that are named as left out.
const PACKAGES_NAMED: usize = 10;

/// How many hexadecimal digits of a digest replace a selection that is too long for a file name.
const DIGEST_LENGTH: usize = 16;

/// The longest name of a file on Linux, in bytes.
pub(super) const NAME_LIMIT: usize = 255;

/// Which jobs and packages of the releases of a run are compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// All jobs, and the packages that they need.
    OnlyNeeded,
    /// The jobs and packages that the user named, and the packages that they need.
    Named {
        /// The names of jobs.
        jobs: BTreeSet<Name>,
        /// The names of packages.
        packages: BTreeSet<Name>,
    },
}

/// What a selection leaves out of a release.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub jobs: Vec<Name>,
    pub packages: Vec<Name>,
}

/// A job or package that the user named and that no release has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName {
    /// `job` or `package`, which is also the name of the flag.
    pub kind: &'static str,
    /// The name.
    pub name: Name,
    /// What the releases have instead, sorted.
    pub known: Vec<Name>,
}

impl UnknownName {
    /// What the user may have meant.
    pub(super) fn hint(&self) -> String {
        let known = self.known.iter().map(Name::as_str);
        match most_similar(self.name.as_str(), known.clone()) {
            Some(similar) => format!("did you mean {} `{similar}`?", self.kind),
            None if self.known.is_empty() => format!("the releases have no {}s", self.kind),
            None => format!(
                "the {}s are {}",
                self.kind,
                known.collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

impl Selection {
    /// Whether a result contains only a part of its release. Does not depend on the release, so the names of results can be determined from
    /// manifests alone.
    pub(super) fn is_partial(&self) -> bool {
        *self != Self::All
    }

    /// Whether the selection contains something of a release.
    pub(super) fn selects_any_of(&self, manifest: &Manifest) -> bool {
        match self {
            Self::All => true,
            Self::OnlyNeeded => !manifest.jobs.is_empty(),
            Self::Named { .. } => {
                let (jobs, packages) = self.named_in(manifest);
                !jobs.is_empty() || !packages.is_empty()
            }
        }
    }

    /// The names that the user gave and that a release has, sorted: jobs, then packages.
    fn named_in(&self, manifest: &Manifest) -> (Vec<&Name>, Vec<&Name>) {
        let Self::Named { jobs, packages } = self else {
            return (Vec::new(), Vec::new());
        };
        let has_job: HashSet<&Name> = jobs_of(manifest).collect();
        let has_package: HashSet<&Name> = packages_of(manifest).collect();
        (
            jobs.iter().filter(|it| has_job.contains(it)).collect(),
            packages
                .iter()
                .filter(|it| has_package.contains(it))
                .collect(),
        )
    }

    /// The name of a result. `full` is the name of the whole compiled release, `NAME.tgz`; the selection comes before the suffix.
    pub(super) fn name_of_result(&self, full: &str, manifest: &Manifest) -> String {
        let stem = full.strip_suffix(SUFFIX).unwrap_or(full);
        let list = |names: &[&Name]| {
            let names: Vec<&str> = names.iter().map(|it| it.as_str()).collect();
            names.join(",")
        };
        let mut part = String::new();
        match self {
            Self::All => {}
            Self::OnlyNeeded => part.push_str(ONLY_NEEDED),
            Self::Named { .. } => {
                let (jobs, packages) = self.named_in(manifest);
                for (key, names) in [(JOB, jobs), (PACKAGE, packages)] {
                    if !names.is_empty() {
                        part.push_str(key);
                        part.push_str(&list(&names));
                    }
                }
            }
        }
        if stem.len() + part.len() + SUFFIX.len() > NAME_LIMIT && self.is_partial() {
            let digests = Digests::of(part.as_bytes(), &[Algorithm::Sha256]);
            let digest = digests.sha256().unwrap_or_default();
            part = format!("{DIGEST}{}", &digest[..DIGEST_LENGTH.min(digest.len())]);
        }
        format!("{stem}{part}{SUFFIX}")
    }

    /// The names that the user gave and that no release of the run has.
    pub(super) fn unknown(&self, manifests: &[&Manifest]) -> Vec<UnknownName> {
        let Self::Named { jobs, packages } = self else {
            return Vec::new();
        };
        let all_jobs: BTreeSet<&Name> = manifests.iter().flat_map(|it| jobs_of(it)).collect();
        let all_packages: BTreeSet<&Name> =
            manifests.iter().flat_map(|it| packages_of(it)).collect();
        let unknown = |kind, named: &BTreeSet<Name>, known: &BTreeSet<&Name>| {
            let missing = named.iter().filter(|it| !known.contains(it));
            let missing = missing.map(|name| UnknownName {
                kind,
                name: name.clone(),
                known: known.iter().map(|it| (*it).clone()).collect(),
            });
            missing.collect::<Vec<_>>()
        };
        let mut found = unknown("job", jobs, &all_jobs);
        found.extend(unknown("package", packages, &all_packages));
        found
    }
}

/// The suffix of every result.
const SUFFIX: &str = ".tgz";

// The separators in the name of a partial result, before its suffix. Names and versions contain no `=`.
const JOB: &str = ".job=";
const PACKAGE: &str = ".package=";
const ONLY_NEEDED: &str = ".only-needed";
const DIGEST: &str = ".selection=";

/// Whether `name` is the name of a partial result of the release whose whole result is named `full`, with any selection.
pub(super) fn is_name_of_part(name: &str, full: &str) -> bool {
    let stem = full.strip_suffix(SUFFIX).unwrap_or(full);
    let part = name
        .strip_suffix(SUFFIX)
        .and_then(|name| name.strip_prefix(stem));
    part.is_some_and(|part| {
        part == ONLY_NEEDED
            || [JOB, PACKAGE, DIGEST]
                .iter()
                .any(|key| part.starts_with(key))
    })
}

fn jobs_of(manifest: &Manifest) -> impl Iterator<Item = &Name> {
    manifest.jobs.iter().map(|job| &job.name)
}

fn packages_of(manifest: &Manifest) -> impl Iterator<Item = &Name> {
    let compiled = manifest.compiled_packages.iter().flatten();
    let sources = manifest.packages.iter().map(|package| &package.name);
    sources.chain(compiled.map(|package| &package.name))
}

/// The selected part of a release, with what is left out.
///
/// # Errors
/// A job's packages are unknown, or are not in the release.
pub(super) fn apply(
    mut release: CheckedRelease,
    job_packages: &JobPackages,
    selection: &Selection,
) -> Result<(CheckedRelease, LeftOut), Vec<Problem>> {
    if !selection.is_partial() {
        return Ok((release, LeftOut::default()));
    }
    let needs = needs_of_jobs(&release, job_packages)?;
    let (jobs, packages) = selected(&release, &needs, selection);
    let left_out = LeftOut {
        jobs: jobs_of(&release.manifest)
            .filter(|job| !jobs.contains(*job))
            .cloned()
            .collect(),
        packages: release
            .packages
            .iter()
            .map(|package| package.name())
            .filter(|name| !packages.contains(*name))
            .cloned()
            .collect(),
    };
    let manifest = &mut release.manifest;
    manifest.jobs.retain(|job| jobs.contains(&job.name));
    manifest.packages.retain(|it| packages.contains(&it.name));
    if let Some(compiled) = &mut manifest.compiled_packages {
        compiled.retain(|it| packages.contains(&it.name));
    }
    release
        .packages
        .retain(|package| packages.contains(package.name()));
    release.carried.retain(|carried| match &carried.role {
        Role::Job(name) => left_out.jobs.iter().all(|job| job.as_str() != name),
        Role::Package(name) | Role::CompiledPackage(name) => left_out
            .packages
            .iter()
            .all(|package| package.as_str() != name),
        Role::Manifest | Role::PackagesDirectory | Role::License | Role::Stray | Role::Other => {
            true
        }
    });
    Ok((release, left_out))
}

/// The packages that each job names, by the job.
///
/// A Director reads the names in `job.MF`, and the CLI in `release.MF`. The two can differ in releases of other tools. A result must
/// contain the packages of both lists: the CLI refuses a release without a package that `release.MF` names, and a Director one without a
/// package that `job.MF` names.
fn needs_of_jobs(
    release: &CheckedRelease,
    job_packages: &JobPackages,
) -> Result<HashMap<Name, BTreeSet<Name>>, Vec<Problem>> {
    let known: HashMap<&str, &Name> = release
        .packages
        .iter()
        .map(|package| (package.name().as_str(), package.name()))
        .collect();
    let (mut needs, mut problems) = (HashMap::new(), Vec::new());
    for job in &release.manifest.jobs {
        let in_job = job_packages.get(job.name.as_str());
        if in_job.is_none() && job.packages.is_none() {
            problems.push(Problem::UnknownJobPackages {
                job: job.name.clone(),
            });
        }
        let in_manifest = job.packages.iter().flatten().map(Name::as_str);
        let in_job = in_job.into_iter().flatten().map(String::as_str);
        let mut named = BTreeSet::new();
        for package in in_manifest.chain(in_job) {
            match known.get(package) {
                Some(name) => {
                    named.insert((*name).clone());
                }
                None => problems.push(Problem::JobPackage {
                    job: job.name.clone(),
                    package: package.escape_debug().to_string(),
                }),
            }
        }
        needs.insert(job.name.clone(), named);
    }
    if problems.is_empty() {
        Ok(needs)
    } else {
        Err(problems)
    }
}

/// The names of the selected jobs and packages.
fn selected(
    release: &CheckedRelease,
    needs: &HashMap<Name, BTreeSet<Name>>,
    selection: &Selection,
) -> (HashSet<Name>, HashSet<Name>) {
    let all_jobs = || jobs_of(&release.manifest).cloned();
    // Keep only the jobs and packages that this release has, as in the name of the result.
    let (named_jobs, named_packages) = match selection {
        Selection::All | Selection::OnlyNeeded => {
            (jobs_of(&release.manifest).collect(), Vec::new())
        }
        Selection::Named { .. } => selection.named_in(&release.manifest),
    };
    let of_jobs = named_jobs
        .iter()
        .filter_map(|job| needs.get(*job))
        .flatten();
    let wanted: HashSet<&Name> = of_jobs.chain(named_packages).collect();
    let packages: HashSet<Name> = graph::closure(&release.graph(), &wanted)
        .into_iter()
        .cloned()
        .collect();
    // If only packages are selected, no job is named. Keep the jobs whose packages are all in the result.
    let jobs = match named_jobs.is_empty() {
        true => all_jobs()
            .filter(|job| needs[job].iter().all(|package| packages.contains(package)))
            .collect(),
        false => all_jobs().filter(|job| named_jobs.contains(&job)).collect(),
    };
    (jobs, packages)
}

/// The line that describes the selected part of a release.
pub(super) fn describe(release: &CheckedRelease, left_out: &LeftOut) -> String {
    let count = |selected: usize, left_out: usize, what: &str| {
        let all = selected + left_out;
        let plural = if all == 1 { "" } else { "s" };
        format!("{selected} of {all} {what}{plural}")
    };
    let mut text = format!(
        "Selected {} and {} of release {}",
        count(release.packages.len(), left_out.packages.len(), "package"),
        count(release.manifest.jobs.len(), left_out.jobs.len(), "job"),
        release.label(),
    );
    let mut lists = Vec::new();
    for (what, names, limit) in [
        ("package", &left_out.packages, PACKAGES_NAMED),
        ("job", &left_out.jobs, usize::MAX),
    ] {
        let named: Vec<&str> = names.iter().take(limit).map(Name::as_str).collect();
        let more = match names.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        match names.len() {
            0 => {}
            1 => lists.push(format!("{what} {}", named.join(", "))),
            _ => lists.push(format!("{what}s {}{more}", named.join(", "))),
        }
    }
    if !lists.is_empty() {
        text.push_str(". Left out: ");
        text.push_str(&lists.join("; "));
    }
    text
}

#[cfg(test)]
mod tests;

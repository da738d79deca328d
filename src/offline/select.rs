//! Decides what to do with each input, and where its result goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checked::CheckedRelease;
use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::ids::ReleaseId;
use super::inspect;
use super::open_error::OpenError;
use super::stemcell::CallStemcell;
use super::tarball::Opened;
use crate::fs;
use crate::release::Manifest;

/// The longest name of a file on Linux, in bytes.
const NAME_LIMIT: usize = 255;

/// An input that was read, or could not be read.
#[derive(Debug)]
pub(super) struct Input {
    pub tarball: PathBuf,
    /// The directory that its result goes to.
    pub output_directory: PathBuf,
    pub opened: Result<Opened, OpenError>,
}

/// An input of which only the manifest was read.
#[derive(Debug)]
pub(super) struct ManifestInput {
    pub tarball: PathBuf,
    /// The directory that its result goes to.
    pub output_directory: PathBuf,
    pub manifest: Result<Manifest, OpenError>,
}

/// What to do with an input.
#[derive(Debug)]
pub(super) enum Task {
    /// Its packages are compiled.
    Compile {
        id: ReleaseId,
        release: Arc<CheckedRelease>,
        output: PathBuf,
    },
    /// It is compiled already and is copied.
    PassOn {
        id: ReleaseId,
        release: Arc<CheckedRelease>,
        output: PathBuf,
    },
    /// It is compiled already and is where its result belongs.
    InPlace {
        id: ReleaseId,
        release: Arc<CheckedRelease>,
    },
    /// It is the result of an earlier run of another input.
    Replaced { tarball: PathBuf, of: PathBuf },
}

/// What an input means for the others.
struct Facts {
    tarball: PathBuf,
    /// The path of its result; `None` if it could not be read.
    output: Option<PathBuf>,
    /// Whether it has packages to compile, or has no packages at all and was never compiled.
    is_source: bool,
    /// A release without packages looks the same before and after.
    is_without_packages: bool,
    /// The input whose earlier result this is.
    replaced_by: Option<PathBuf>,
}

impl Facts {
    fn of(
        tarball: &Path,
        output_directory: &Path,
        manifest: Option<&Manifest>,
        stemcell: &CallStemcell,
    ) -> Self {
        let has_packages = |manifest: &Manifest| !manifest.packages.is_empty();
        let is_compiled = |manifest: &Manifest| manifest.compiled_packages.is_some();
        Self {
            tarball: tarball.to_owned(),
            output: manifest.map(|it| {
                let name = stemcell.output_name(&it.name, &it.version);
                output_directory.join(name)
            }),
            is_source: manifest.is_some_and(|it| has_packages(it) || !is_compiled(it)),
            is_without_packages: manifest.is_some_and(|it| !has_packages(it) && !is_compiled(it)),
            replaced_by: None,
        }
    }
}

/// Decides what to do with each input of a call, or returns every problem.
pub(super) fn select(
    inputs: Vec<Input>,
    stemcell: &CallStemcell,
) -> fs::Result<Result<Vec<Task>, Vec<InputProblem>>> {
    let facts = facts(inputs.iter().map(|input| {
        let manifest = input.opened.as_ref().ok().map(|opened| &opened.manifest);
        Facts::of(&input.tarball, &input.output_directory, manifest, stemcell)
    }))?;
    let (mut tasks, mut problems, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for (index, input) in inputs.into_iter().enumerate() {
        let tarball = input.tarball;
        if let Some(of) = facts[index].replaced_by.clone() {
            tasks.push(Task::Replaced { tarball, of });
            continue;
        }
        let opened = match input.opened {
            Ok(opened) => opened,
            Err(error) => {
                unreadable.extend(problems_of_open(error).map(|kind| (tarball.clone(), kind)));
                continue;
            }
        };
        let is_file = opened.is_file;
        let mut found = Vec::new();
        let checked = inspect::check(opened, stemcell.known())
            .map_err(|errors| found.extend(errors.into_iter().map(InputProblemKind::Release)));
        if !facts[index].is_source && !is_file {
            found.push(InputProblemKind::NotAFile);
        }
        found.extend(collisions(index, &facts)?);
        problems.extend(found.into_iter().map(|kind| (tarball.clone(), kind)));
        if let (Ok(release), Some(output)) = (checked, &facts[index].output) {
            let id = ReleaseId::from_position(index);
            tasks.push(task(id, release, output.clone(), facts[index].is_source)?);
        }
    }
    problems.extend(unreadable);
    Ok(unless(problems, tasks))
}

/// The paths of the results that [`select`] would give the same inputs, or the problems that the manifests show.
pub(super) fn result_paths(
    inputs: Vec<ManifestInput>,
    stemcell: &CallStemcell,
) -> Result<Vec<(ReleaseId, PathBuf)>, OfflineError> {
    let facts = facts(inputs.iter().map(|input| {
        let manifest = input.manifest.as_ref().ok();
        Facts::of(&input.tarball, &input.output_directory, manifest, stemcell)
    }))?;
    let (mut paths, mut problems, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for (index, input) in inputs.into_iter().enumerate() {
        if facts[index].replaced_by.is_some() {
            continue;
        }
        let tarball = input.tarball;
        if let Err(error) = input.manifest {
            unreadable.extend(problems_of_open(error).map(|kind| (tarball.clone(), kind)));
            continue;
        }
        let found = collisions(index, &facts)?;
        problems.extend(found.into_iter().map(|kind| (tarball.clone(), kind)));
        if let Some(output) = &facts[index].output {
            let is_in_place = !facts[index].is_source && fs::same_file(&tarball, output)?;
            let path = if is_in_place { tarball } else { output.clone() };
            paths.push((ReleaseId::from_position(index), path));
        }
    }
    problems.extend(unreadable);
    unless(problems, paths).map_err(OfflineError::Input)
}

/// The problems, or `value` if there are none.
fn unless<T>(problems: Vec<(PathBuf, InputProblemKind)>, value: T) -> Result<T, Vec<InputProblem>> {
    if problems.is_empty() {
        return Ok(value);
    }
    let problems = problems.into_iter();
    Err(problems
        .map(|(path, kind)| InputProblem { path, kind })
        .collect())
}

/// The facts of all inputs, with the inputs that are earlier results of others.
fn facts(of_each: impl Iterator<Item = Facts>) -> fs::Result<Vec<Facts>> {
    let mut facts: Vec<Facts> = of_each.collect();
    for index in 0..facts.len() {
        facts[index].replaced_by = replaced_by(index, &facts)?;
    }
    Ok(facts)
}

fn task(
    id: ReleaseId,
    release: CheckedRelease,
    output: PathBuf,
    is_source: bool,
) -> fs::Result<Task> {
    let is_in_place = !is_source && fs::same_file(&release.tarball, &output)?;
    let release = Arc::new(release);
    if is_in_place {
        return Ok(Task::InPlace { id, release });
    }
    Ok(match is_source {
        true => Task::Compile {
            id,
            release,
            output,
        },
        false => Task::PassOn {
            id,
            release,
            output,
        },
    })
}

/// The tarball of the input whose earlier result this input is.
fn replaced_by(index: usize, facts: &[Facts]) -> fs::Result<Option<PathBuf>> {
    let input = &facts[index];
    for (other, source) in facts.iter().enumerate() {
        if let Some(output) = &source.output
            && other != index
            && source.is_source
            && fs::same_file(&input.tarball, output)?
        {
            let is_result = !input.is_source || input.is_without_packages;
            return Ok(is_result.then(|| source.tarball.clone()));
        }
    }
    Ok(None)
}

/// Everything in the way of an input: the same input before, another input's output, another input, a directory.
fn collisions(index: usize, facts: &[Facts]) -> fs::Result<Vec<InputProblemKind>> {
    let Some(output) = &facts[index].output else {
        return Ok(Vec::new());
    };
    if let Some(earlier) = given_before(index, facts)? {
        return Ok(vec![InputProblemKind::GivenTwice { earlier }]);
    }
    let name = fs::file_name(output).to_string_lossy();
    if name.len() > NAME_LIMIT {
        // The system rejects even a lookup of it.
        let name = name.into_owned();
        let limit = NAME_LIMIT;
        return Ok(vec![InputProblemKind::LongName { name, limit }]);
    }
    let mut found = Vec::new();
    let output_path = || output.clone();
    for (other, input) in facts.iter().enumerate() {
        if input.replaced_by.is_some() {
            continue;
        }
        if other < index && input.output.as_ref() == Some(output) {
            found.push(InputProblemKind::SameOutput {
                output: output_path(),
                other: input.tarball.clone(),
            });
        }
        let is_in_place = other == index && !input.is_source;
        if !is_in_place && fs::same_file(&input.tarball, output)? {
            found.push(InputProblemKind::OverInput {
                output: output_path(),
            });
        }
    }
    if fs::metadata(output).is_ok_and(|metadata| metadata.is_dir()) {
        found.push(InputProblemKind::OverDirectory {
            output: output_path(),
        });
    }
    Ok(found)
}

/// The path by which the same file was given before.
fn given_before(index: usize, facts: &[Facts]) -> fs::Result<Option<PathBuf>> {
    for earlier in &facts[..index] {
        if fs::same_file(&earlier.tarball, &facts[index].tarball)? {
            return Ok(Some(earlier.tarball.clone()));
        }
    }
    Ok(None)
}

fn problems_of_open(error: OpenError) -> impl Iterator<Item = InputProblemKind> {
    let (manifest, other) = match error {
        OpenError::Manifest(problems) => (problems, None),
        other => (Vec::new(), Some(InputProblemKind::Open(other))),
    };
    let manifest = manifest.into_iter().map(InputProblemKind::Manifest);
    manifest.chain(other)
}

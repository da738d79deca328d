//! Decides what to do with each input, and where its result goes. An input may be a source release, a compiled release, or the result of an
//! earlier run of another input.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checked::CheckedRelease;
use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::ids::ReleaseId;
use super::inspect;
use super::open_error::OpenError;
use super::problem::Problem;
use super::selection::{self, NAME_LIMIT, Selection, is_name_of_part};
use super::stemcell::CallStemcell;
use super::tarball::Opened;
use crate::fs;
use crate::release::Manifest;

/// An input with its content, if it could be read. `T` is the whole content or only the manifest.
#[derive(Debug)]
pub(super) struct Input<T> {
    pub tarball: PathBuf,
    /// The output directory of the result.
    pub output_directory: PathBuf,
    pub content: Result<T, OpenError>,
}

/// What to do with an input.
#[derive(Debug)]
pub(super) enum Task {
    /// The packages of the input are compiled.
    Compile {
        id: ReleaseId,
        release: Arc<CheckedRelease>,
        output: PathBuf,
    },
    /// The input is compiled already and is copied.
    PassOn {
        id: ReleaseId,
        release: Arc<CheckedRelease>,
        output: PathBuf,
    },
    /// The input is compiled already and has the path of its result.
    InPlace {
        id: ReleaseId,
        release: Arc<CheckedRelease>,
    },
    /// The input is the result of an earlier run of another input.
    Replaced { tarball: PathBuf, by: Replacement },
    /// Nothing of the input is selected.
    Unselected { tarball: PathBuf },
}

/// The input of which another input is an earlier result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replacement {
    pub of: PathBuf,
    /// Whether the run writes the same result again. Otherwise the earlier one has another selection.
    pub is_rebuilt: bool,
}

/// The tasks of a run.
#[derive(Debug)]
pub(super) struct Selected {
    pub tasks: Vec<Task>,
    /// Lines for the user about the selected part of each release.
    pub notes: Vec<String>,
}

/// The facts about an input that matter for other inputs.
struct Facts {
    tarball: PathBuf,
    output_directory: PathBuf,
    /// The file name of the whole compiled release. `None` if the input could not be read.
    full_name: Option<String>,
    /// The path of the result. `None` if the input could not be read, or if nothing of it is selected.
    output: Option<PathBuf>,
    /// Whether the input has packages to compile, or has no packages at all and was never compiled.
    is_source: bool,
    /// Whether the release has no packages, so that it is the same before and after compilation.
    is_without_packages: bool,
    /// Whether the selection contains something of the input.
    is_selected: bool,
    /// The input of which this one is an earlier result.
    replaced_by: Option<Replacement>,
}

/// The stemcell and the selection, which apply to all inputs of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub stemcell: &'a CallStemcell,
    pub selection: &'a Selection,
}

impl Facts {
    fn of(
        tarball: &Path,
        output_directory: &Path,
        manifest: Option<&Manifest>,
        wanted: Wanted<'_>,
    ) -> Self {
        let has_packages = |manifest: &Manifest| !manifest.packages.is_empty();
        let is_compiled = |manifest: &Manifest| manifest.compiled_packages.is_some();
        let full_name = manifest.map(|it| wanted.stemcell.output_name(&it.name, &it.version));
        let is_without_packages = manifest.is_some_and(|it| !has_packages(it) && !is_compiled(it));
        let own = fs::file_name(tarball).to_string_lossy();
        // This is a result without packages. Only its name distinguishes it from a source release.
        let is_part = is_without_packages
            && full_name
                .as_ref()
                .is_some_and(|full| is_name_of_part(&own, full));
        let is_source = !is_part && manifest.is_some_and(|it| has_packages(it) || !is_compiled(it));
        // A compiled release contains all packages that its jobs need.
        let is_whole = !is_source && *wanted.selection == Selection::OnlyNeeded;
        let mut facts = Self {
            tarball: tarball.to_owned(),
            output_directory: output_directory.to_owned(),
            full_name,
            output: None,
            is_source,
            is_without_packages,
            is_selected: manifest.is_none_or(|it| is_whole || wanted.selection.selects_any_of(it)),
            replaced_by: None,
        };
        if let Some(manifest) = manifest.filter(|_| facts.is_selected) {
            facts.output = facts.output(manifest, wanted.selection);
        }
        facts
    }

    /// The path of the result.
    fn output(&self, manifest: &Manifest, selection: &Selection) -> Option<PathBuf> {
        let full = self.full_name.as_ref()?;
        let own = fs::file_name(&self.tarball).to_string_lossy();
        let name = if self.is_source {
            selection.name_of_result(full, manifest)
        } else if is_name_of_part(&own, full) {
            // Keep its own name. With the name of the whole release, it would look like the result of the whole release.
            own.into_owned()
        } else {
            full.clone()
        };
        Some(self.output_directory.join(name))
    }

    /// Whether this input is a result of `source`, with the same or another selection, by its content and name.
    fn is_other_part_of(&self, source: &Self) -> bool {
        let name = fs::file_name(&self.tarball).to_string_lossy();
        let is_result = |full: &String| *full == name || is_name_of_part(&name, full);
        self.is_result()
            && self.full_name == source.full_name
            && self.full_name.as_ref().is_some_and(is_result)
    }

    /// Whether this input may be the result of an earlier run.
    fn is_result(&self) -> bool {
        !self.is_source || self.is_without_packages
    }
}

/// Decides what to do with each input of a run, or returns every problem.
pub(super) fn select(
    inputs: Vec<Input<Opened>>,
    wanted: Wanted<'_>,
) -> Result<Selected, OfflineError> {
    let facts = facts(&inputs, |opened| &opened.manifest, wanted)?;
    let (mut tasks, mut notes) = (Vec::new(), Vec::new());
    let (mut problems, mut unreadable) = (Vec::new(), Vec::new());
    for (index, input) in inputs.into_iter().enumerate() {
        let tarball = input.tarball;
        if let Some(by) = facts[index].replaced_by.clone() {
            tasks.push(Task::Replaced { tarball, by });
            continue;
        }
        let mut opened = match input.content {
            Ok(opened) => opened,
            Err(error) => {
                unreadable.extend(problems_of_open(error).map(|kind| (tarball.clone(), kind)));
                continue;
            }
        };
        let is_file = opened.is_file;
        let is_source = facts[index].is_source;
        let mut found = Vec::new();
        let job_packages = std::mem::take(&mut opened.jobs.packages);
        let mut add = |errors: Vec<Problem>| {
            found.extend(errors.into_iter().map(InputProblemKind::Release));
        };
        let mut checked = inspect::check(opened, wanted.stemcell.known())
            .map_err(&mut add)
            .ok();
        if is_source && facts[index].is_selected {
            let selected = checked
                .take()
                .map(|it| selection::apply(it, &job_packages, wanted.selection));
            if let Some((release, left_out)) = selected.and_then(|it| it.map_err(&mut add).ok()) {
                if wanted.selection.is_partial() {
                    notes.push(selection::describe(&release, &left_out));
                }
                checked = Some(release);
            }
        }
        if !is_source && !is_file {
            found.push(InputProblemKind::NotAFile);
        }
        found.extend(others_in_the_way(index, &facts, wanted.selection)?);
        problems.extend(found.into_iter().map(|kind| (tarball.clone(), kind)));
        let Some(release) = checked else { continue };
        let id = ReleaseId::from_position(index);
        tasks.push(match &facts[index].output {
            Some(output) => task(id, release, output.clone(), is_source)?,
            None => Task::Unselected { tarball },
        });
    }
    problems.extend(unreadable);
    unless(problems, Selected { tasks, notes })
}

/// The paths of the results that [`select`] would give the same inputs, or the problems that the manifests show.
pub(super) fn result_paths(
    inputs: Vec<Input<Manifest>>,
    wanted: Wanted<'_>,
) -> Result<Vec<(ReleaseId, PathBuf)>, OfflineError> {
    let facts = facts(&inputs, |manifest| manifest, wanted)?;
    let (mut paths, mut problems, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for (index, input) in inputs.into_iter().enumerate() {
        if facts[index].replaced_by.is_some() {
            continue;
        }
        let tarball = input.tarball;
        if let Err(error) = input.content {
            unreadable.extend(problems_of_open(error).map(|kind| (tarball.clone(), kind)));
            continue;
        }
        let found = others_in_the_way(index, &facts, wanted.selection)?;
        problems.extend(found.into_iter().map(|kind| (tarball.clone(), kind)));
        if let Some(output) = &facts[index].output {
            let is_in_place = !facts[index].is_source && fs::same_file(&tarball, output)?;
            let path = if is_in_place { tarball } else { output.clone() };
            paths.push((ReleaseId::from_position(index), path));
        }
    }
    problems.extend(unreadable);
    unless(problems, paths)
}

/// Checks that each name in the selection is that of a job or package of an input. Inputs that could not be read may have it.
fn check_names(manifests: &[Option<&Manifest>], selection: &Selection) -> Result<(), OfflineError> {
    let all: Option<Vec<&Manifest>> = manifests.iter().copied().collect();
    let unknown = all.map_or_else(Vec::new, |manifests| selection.unknown(&manifests));
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(OfflineError::Unknown(unknown)),
    }
}

/// The problems of an input that concern other inputs, its result or the selection.
fn others_in_the_way(
    index: usize,
    facts: &[Facts],
    selection: &Selection,
) -> fs::Result<Vec<InputProblemKind>> {
    let input = &facts[index];
    let mut found = collisions(index, facts)?;
    // An input that could not be read may contain something that is selected.
    let is_all_known = facts.iter().all(|other| other.full_name.is_some());
    if !input.is_selected && is_all_known && facts.iter().all(|other| other.output.is_none()) {
        found.push(InputProblemKind::NothingSelected);
    }
    let is_named = matches!(selection, Selection::Named { .. });
    if is_named && input.is_selected && !input.is_source && input.full_name.is_some() {
        found.push(InputProblemKind::SelectionOfCompiled);
    }
    Ok(found)
}

/// Fails with the problems, or returns `value` if there are none.
fn unless<T>(problems: Vec<(PathBuf, InputProblemKind)>, value: T) -> Result<T, OfflineError> {
    if problems.is_empty() {
        return Ok(value);
    }
    let problems = problems.into_iter();
    let problems = problems.map(|(path, kind)| InputProblem { path, kind });
    Err(OfflineError::Input(problems.collect()))
}

/// The facts of all inputs, with the inputs that are earlier results of others. Checks the names in the selection.
fn facts<T>(
    inputs: &[Input<T>],
    manifest_of: impl Fn(&T) -> &Manifest,
    wanted: Wanted<'_>,
) -> Result<Vec<Facts>, OfflineError> {
    let contents = inputs.iter().map(|input| input.content.as_ref().ok());
    let manifests: Vec<_> = contents.map(|it| it.map(&manifest_of)).collect();
    check_names(&manifests, wanted.selection)?;
    let mut facts: Vec<Facts> = (inputs.iter().zip(manifests))
        .map(|(input, manifest)| {
            Facts::of(&input.tarball, &input.output_directory, manifest, wanted)
        })
        .collect();
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

/// The input of which this input is an earlier result.
fn replaced_by(index: usize, facts: &[Facts]) -> fs::Result<Option<Replacement>> {
    let input = &facts[index];
    let others = facts
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != index);
    for (_, source) in others.filter(|(_, other)| other.is_source) {
        let Some(output) = &source.output else {
            continue;
        };
        let replaced = |is_rebuilt| Replacement {
            of: source.tarball.clone(),
            is_rebuilt,
        };
        if fs::same_file(&input.tarball, output)? {
            return Ok(input.is_result().then(|| replaced(true)));
        }
        let directory = fs::parent(&input.tarball);
        if input.is_other_part_of(source) && fs::same_file(directory, &source.output_directory)? {
            return Ok(Some(replaced(false)));
        }
    }
    Ok(None)
}

/// The conflicts of an input or its output: the same file as an earlier input, the same output as another input, an output that would
/// replace an input or a directory.
fn collisions(index: usize, facts: &[Facts]) -> fs::Result<Vec<InputProblemKind>> {
    let Some(output) = &facts[index].output else {
        return Ok(Vec::new());
    };
    if let Some(earlier) = given_before(index, facts)? {
        return Ok(vec![InputProblemKind::GivenTwice { earlier }]);
    }
    let name = fs::file_name(output).to_string_lossy();
    if name.len() > NAME_LIMIT {
        // The name is too long, so the system rejects even a lookup.
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

pub(super) fn problems_of_open(error: OpenError) -> impl Iterator<Item = InputProblemKind> {
    let (manifest, other) = match error {
        OpenError::Manifest(problems) => (problems, None),
        other => (Vec::new(), Some(InputProblemKind::Open(other))),
    };
    let manifest = manifest.into_iter().map(InputProblemKind::Manifest);
    manifest.chain(other)
}

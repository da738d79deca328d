//! What is to be done with each input, and where its result goes.

use std::path::{Path, PathBuf};

use super::error::{InputProblem, InputProblemKind};
use super::inspect;
use super::open::{OpenError, Opened};
use crate::fs;
use crate::release::{Slug, output_name};

/// How long a file's name may be on Linux, in bytes.
const NAME_LIMIT: usize = 255;

/// An input that has been read, or could not be.
#[derive(Debug)]
pub(super) struct Input {
    pub tarball: PathBuf,
    /// The directory that its result goes to.
    pub output_directory: PathBuf,
    pub opened: Result<Opened, OpenError>,
}

/// What is to be done with an input.
#[derive(Debug)]
pub(super) enum Task {
    /// Its packages are compiled.
    Compile {
        /// Its place among the inputs.
        input: usize,
        opened: Box<Opened>,
        output: PathBuf,
    },
    /// It is compiled already and is copied.
    PassOn {
        opened: Box<Opened>,
        output: PathBuf,
    },
    /// It is compiled already and lies where its result belongs.
    InPlace { tarball: PathBuf },
    /// It is the result of an earlier run of another input.
    Replaced { tarball: PathBuf, of: PathBuf },
}

impl Input {
    fn output(&self, stemcell: &Slug) -> Option<PathBuf> {
        let manifest = &self.opened.as_ref().ok()?.manifest;
        let name = output_name(&manifest.name, &manifest.version, stemcell);
        Some(self.output_directory.join(name))
    }

    /// A release without packages looks the same before and after.
    fn is_without_packages(&self) -> bool {
        self.opened.as_ref().is_ok_and(|opened| {
            opened.manifest.packages.is_empty() && opened.manifest.compiled_packages.is_none()
        })
    }

    /// A release of which something is to be compiled, or that has no packages at all and was never compiled.
    fn is_source(&self) -> bool {
        self.opened.as_ref().is_ok_and(|opened| {
            !opened.manifest.packages.is_empty() || opened.manifest.compiled_packages.is_none()
        })
    }
}

/// Decides for all inputs of a call, or says everything that is in the way.
pub(super) fn select(
    inputs: Vec<Input>,
    stemcell: &Slug,
) -> fs::Result<Result<Vec<Task>, Vec<InputProblem>>> {
    let outputs: Vec<Option<PathBuf>> = inputs.iter().map(|input| input.output(stemcell)).collect();
    let mut problems = Vec::new();
    let mut replaced = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let of = inputs
            .iter()
            .zip(&outputs)
            .enumerate()
            .filter(|(other, (source, _))| *other != index && source.is_source())
            .find_map(|(_, (source, output))| {
                let output = output.as_ref()?;
                match fs::same_file(&input.tarball, output) {
                    Ok(true) => Some(Ok(source.tarball.clone())),
                    Ok(false) => None,
                    Err(error) => Some(Err(error)),
                }
            })
            .transpose()?;
        replaced.push(of.filter(|_| !input.is_source() || input.is_without_packages()));
    }
    for (index, input) in inputs.iter().enumerate() {
        if replaced[index].is_some() {
            continue;
        }
        let mut add = |kind| {
            problems.push(InputProblem {
                path: input.tarball.clone(),
                kind,
            });
        };
        let opened = match &input.opened {
            Ok(opened) => opened,
            // Told in full when the inputs are taken apart below.
            Err(_) => continue,
        };
        for problem in inspect::problems(opened, stemcell) {
            add(InputProblemKind::Release(problem));
        }
        if !input.is_source() && !opened.is_file {
            add(InputProblemKind::NotAFile);
        }
        if let Some(earlier) = given_before(index, &inputs)? {
            add(InputProblemKind::GivenTwice { earlier });
            continue;
        }
        let Some(output) = &outputs[index] else {
            continue;
        };
        for kind in collisions(index, output, &inputs, &outputs, &replaced)? {
            add(kind);
        }
    }
    let mut tasks = Vec::new();
    for (index, ((input, output), replaced)) in
        inputs.into_iter().zip(outputs).zip(replaced).enumerate()
    {
        let is_source = input.is_source();
        let tarball = input.tarball;
        match (input.opened, output, replaced) {
            (_, _, Some(of)) => tasks.push(Task::Replaced { tarball, of }),
            (Ok(opened), Some(output), None) if is_source => tasks.push(Task::Compile {
                input: index,
                opened: Box::new(opened),
                output,
            }),
            (Ok(opened), Some(output), None) => tasks.push(if fs::same_file(&tarball, &output)? {
                Task::InPlace { tarball }
            } else {
                Task::PassOn {
                    opened: Box::new(opened),
                    output,
                }
            }),
            (Err(error), ..) => problems.extend(unreadable(&tarball, error)),
            (Ok(_), None, None) => {}
        }
    }
    Ok(if problems.is_empty() {
        Ok(tasks)
    } else {
        Err(problems)
    })
}

fn unreadable(tarball: &Path, error: OpenError) -> Vec<InputProblem> {
    let problem = |kind| InputProblem {
        path: tarball.to_owned(),
        kind,
    };
    match error {
        OpenError::Manifest(problems) => problems
            .into_iter()
            .map(|found| problem(InputProblemKind::Manifest(found)))
            .collect(),
        other => vec![problem(InputProblemKind::Open(other))],
    }
}

/// The way in which the same file was given before.
fn given_before(index: usize, inputs: &[Input]) -> fs::Result<Option<PathBuf>> {
    for earlier in &inputs[..index] {
        if fs::same_file(&earlier.tarball, &inputs[index].tarball)? {
            return Ok(Some(earlier.tarball.clone()));
        }
    }
    Ok(None)
}

/// What is in the way of one output: another input's output, another input, itself, a directory.
fn collisions(
    index: usize,
    output: &Path,
    inputs: &[Input],
    outputs: &[Option<PathBuf>],
    replaced: &[Option<PathBuf>],
) -> fs::Result<Vec<InputProblemKind>> {
    let mut found = Vec::new();
    let output_path = || output.to_owned();
    let name = fs::file_name(output).to_string_lossy();
    if name.len() > NAME_LIMIT {
        // The system would not even look for it.
        let name = name.into_owned();
        let limit = NAME_LIMIT;
        return Ok(vec![InputProblemKind::LongName { name, limit }]);
    }
    for (other, input) in inputs.iter().enumerate() {
        if replaced[other].is_some() {
            continue;
        }
        if other < index && outputs[other].as_deref() == Some(output) {
            found.push(InputProblemKind::SameOutput {
                output: output_path(),
                other: input.tarball.clone(),
            });
        }
        let is_in_place = other == index && !input.is_source();
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

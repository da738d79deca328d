//! Checks the free disk space before a run starts, and reports it after a failure. The check refuses only runs that would certainly fail: it
//! compares a lower bound of the needed space with the free space.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::options::Options;
use super::progress::Progress;
use super::select::Task;
use super::tarball::Role;
use crate::archive;
use crate::compile::WorkDirectory;
use crate::fs;
use crate::sandbox::Isolation;

/// Space that is needed in a directory.
#[derive(Debug, Clone)]
struct Need {
    directory: PathBuf,
    bytes: u64,
}

/// Refuses a run whose tarballs are larger than the free space at `work`, where their blobs are written.
pub(super) fn check_for_tarballs<'a>(
    tarballs: impl Iterator<Item = &'a Path>,
    work: &Path,
) -> Result<(), OfflineError> {
    let mut bytes = 0;
    for tarball in tarballs {
        // A missing tarball is reported when it is opened.
        let size = fs::metadata(tarball).map_or(0, |metadata| metadata.len());
        bytes += lower_bound(size);
    }
    let need = Need {
        directory: work.to_owned(),
        bytes,
    };
    refuse(check(&[need], "to extract the tarballs")?)
}

/// Refuses a run whose largest source does not fit into any of `places` when it is unpacked, or whose outputs do not fit into their
/// directories.
pub(super) fn check_for_tasks(tasks: &[Task], places: &[PathBuf]) -> Result<(), OfflineError> {
    let mut needs = Vec::new();
    let mut sources = Vec::new();
    for task in tasks {
        let Task::Compile {
            release, output, ..
        } = task
        else {
            continue;
        };
        let mut carried_over = 0;
        for carried in &release.carried {
            let Some(blob) = &carried.blob else { continue };
            match carried.role {
                Role::Package(_) => {
                    sources.push((archive::least_unpacked(&blob.file)?, &blob.file));
                }
                // An uncompressed blob may take less in the output.
                Role::CompiledPackage(_) | Role::Job(_) => carried_over += lower_bound(blob.size),
                _ => {}
            }
        }
        needs.push(Need {
            directory: fs::parent(output).to_owned(),
            bytes: carried_over,
        });
    }
    if let Some((free, place)) = roomiest(places)? {
        needs.push(Need {
            directory: place.to_owned(),
            bytes: largest(sources, free),
        });
    }
    let purpose = "to unpack the largest source and to copy unchanged parts into the results";
    refuse(check(&needs, purpose)?)
}

/// Refuses a package whose source does not fit into any of `places`, or whose dependencies do not fit into `work`, when they are unpacked.
/// `files` are the source and the dependencies.
pub(super) fn check_for_package(
    files: &[PathBuf],
    places: &[PathBuf],
    work: &Path,
) -> Result<(), OfflineError> {
    let free = fs::space(work)?.free;
    let mut needs = Vec::new();
    let mut bytes = 0_u64;
    for dependency in files.iter().skip(1) {
        let size = archive::least_unpacked(dependency)?;
        bytes = bytes.saturating_add(largest(vec![(size, dependency)], free));
    }
    needs.push(Need {
        directory: work.to_owned(),
        bytes,
    });
    if let (Some(source), Some((free, place))) = (files.first(), roomiest(places)?) {
        needs.push(Need {
            directory: place.to_owned(),
            bytes: largest(vec![(archive::least_unpacked(source)?, source)], free),
        });
    }
    refuse(check(&needs, "to unpack the source and the dependencies")?)
}

/// The directory with the most free space, and its free space in bytes.
fn roomiest(places: &[PathBuf]) -> fs::Result<Option<(u64, &Path)>> {
    let mut roomiest: Option<(u64, &Path)> = None;
    for place in places {
        let free = fs::space(place)?.free;
        if roomiest.is_none_or(|(most, _)| free > most) {
            roomiest = Some((free, place));
        }
    }
    Ok(roomiest)
}

/// The size of the largest source. Skips damaged sources that are larger than `free`, because their stated size may be wrong; they are
/// reported when they are unpacked.
fn largest(mut sources: Vec<(u64, &PathBuf)>, free: u64) -> u64 {
    sources.sort();
    let is_credible = |(bytes, file): &(u64, &PathBuf)| *bytes <= free || archive::is_whole(file);
    sources
        .into_iter()
        .rev()
        .find(is_credible)
        .map_or(0, |(bytes, _)| bytes)
}

/// A lower bound of the size of a blob after it was decompressed or compressed again, in bytes: 98 % of it.
fn lower_bound(size: u64) -> u64 {
    size - size / 50
}

/// The directories in which packages may be unpacked.
pub(super) fn places(options: &Options, work_directory: &WorkDirectory) -> Vec<PathBuf> {
    let work = fs::parent(work_directory.path()).to_owned();
    let data = options.vcap.data();
    match options.isolation {
        Isolation::Auto => vec![work, data],
        Isolation::Namespace | Isolation::Userns => vec![work],
        Isolation::Landlock | Isolation::None => vec![data],
    }
}

/// Prints facts that may explain a failure: the free space of the run's directories, and whether the work directory is missing.
pub(super) fn report_disks(
    error: &OfflineError,
    work_directory: &WorkDirectory,
    output: &Path,
    (options, progress): (&Options, &Progress),
) {
    let (work, data) = (work_directory.path(), options.vcap.data());
    let mut directories = vec![work, &data, output];
    directories.extend(options.logs_directory.as_deref());
    report_free(progress, error, &directories);
    if !work_directory.is_there() {
        progress.warn(&format!(
            "Warning: the work directory `{}` was removed by another program during this run",
            work.display()
        ));
    }
}

/// Prints the free space of directories if a full disk caused the error.
pub(super) fn report_free(progress: &Progress, error: &OfflineError, directories: &[&Path]) {
    // The failure of a package already reports the free space at that time.
    let is_unreported = |failure: &OfflineError| {
        failure.is_no_space() && !matches!(failure, OfflineError::Package(_))
    };
    if !error.failures().iter().any(is_unreported) {
        return;
    }
    for directory in directories {
        if let Ok(space) = fs::space(directory) {
            progress.warn(&format!("{space} at {}", directory.display()));
        }
    }
}

fn refuse(problems: Vec<InputProblem>) -> Result<(), OfflineError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(OfflineError::Input(problems))
    }
}

/// Compares needs with the free space of each file system.
fn check(needs: &[Need], purpose: &'static str) -> fs::Result<Vec<InputProblem>> {
    let mut devices: BTreeMap<u64, (PathBuf, u64, u64)> = BTreeMap::new();
    for need in needs {
        let space = fs::space(&need.directory)?;
        let (_, _, needed) = devices
            .entry(space.device)
            .or_insert_with(|| (need.directory.clone(), space.free, 0));
        *needed = needed.saturating_add(need.bytes);
    }
    let short = devices
        .into_values()
        .filter(|(_, free, needed)| needed > free)
        .map(|(path, free, needed)| InputProblem {
            path,
            kind: InputProblemKind::NoSpace {
                purpose,
                needed,
                free,
            },
        });
    Ok(short.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Bytes;

    #[test]
    fn too_little_space_is_reported_with_sizes() {
        let scratch = tempfile::tempdir().unwrap();
        let free = fs::space(scratch.path()).unwrap().free;
        let need = |bytes| Need {
            directory: scratch.path().join("not/there/yet"),
            bytes,
        };
        assert!(check(&[need(1), need(2)], "for a test").unwrap().is_empty());
        let problems = check(&[need(free), need(1 << 40)], "for a test").unwrap();
        let text = problems[0].kind.to_string();
        assert!(
            text.contains(&Bytes(free + (1 << 40)).to_string()) && text.contains("for a test"),
            "{text}"
        );
    }
}

//! Whether there is room for a call, as far as that can be known before. Only what is sure to fail is refused: the least that is
//! needed is compared with what is free.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::open::Role;
use super::select::Task;
use crate::archive;
use crate::fs;

/// Room that is needed somewhere.
#[derive(Debug, Clone)]
struct Need {
    directory: PathBuf,
    bytes: u64,
}

/// Refuses a call whose tarballs are larger than what is free at `work`: their blobs come there as they are.
pub(super) fn check_for_tarballs(tarballs: &[PathBuf], work: &Path) -> Result<(), OfflineError> {
    let mut bytes = 0;
    for tarball in tarballs {
        // One that is not there is told of when it is opened.
        let size = fs::metadata(tarball).map_or(0, |metadata| metadata.len());
        bytes += surely(size);
    }
    let need = Need {
        directory: work.to_owned(),
        bytes,
    };
    refuse(check(&[need], "to extract the tarballs")?)
}

/// Refuses a call whose largest source does not fit unpacked into any of `places`, or that takes more over into its outputs
/// than fits there.
pub(super) fn check_for_tasks(tasks: &[Task], places: &[&Path]) -> Result<(), OfflineError> {
    let mut needs = Vec::new();
    let mut sources = Vec::new();
    for task in tasks {
        let Task::Compile { opened, output, .. } = task else {
            continue;
        };
        let mut carried_over = 0;
        for carried in &opened.carried {
            let Some(blob) = &carried.blob else { continue };
            match carried.role {
                Role::Package(_) => {
                    sources.push((archive::least_unpacked(&blob.file)?, &blob.file));
                }
                // What is not compressed yet may take less in the output.
                Role::CompiledPackage(_) | Role::Job(_) => carried_over += surely(blob.size),
                _ => {}
            }
        }
        needs.push(Need {
            directory: fs::parent(output).to_owned(),
            bytes: carried_over,
        });
    }
    let mut roomiest: Option<(u64, &Path)> = None;
    for place in places {
        let free = fs::space(place)?.free;
        if roomiest.is_none_or(|(most, _)| free > most) {
            roomiest = Some((free, place));
        }
    }
    if let Some((free, place)) = roomiest {
        needs.push(Need {
            directory: place.to_owned(),
            bytes: largest(sources, free),
        });
    }
    let purpose = "to unpack the largest source and to copy unchanged parts into the results";
    refuse(check(&needs, purpose)?)
}

/// The size of the largest source. One that is damaged says anything of its size: what is wrong with it is told when it is
/// unpacked.
fn largest(mut sources: Vec<(u64, &PathBuf)>, free: u64) -> u64 {
    sources.sort();
    let is_one = |(bytes, file): &(u64, &PathBuf)| *bytes <= free || archive::is_whole(file);
    sources
        .into_iter()
        .rev()
        .find(is_one)
        .map_or(0, |(bytes, _)| bytes)
}

/// What remains of a size at the least when something is decompressed or compressed once more.
fn surely(size: u64) -> u64 {
    size - size / 50
}

fn refuse(problems: Vec<InputProblem>) -> Result<(), OfflineError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(OfflineError::Input(problems))
    }
}

/// Compares needs with what is free, file system by file system.
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
    fn too_little_space_is_told_with_figures() {
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

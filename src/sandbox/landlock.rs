//! What one script may reach of the tree that all share, where nothing can be mounted: a filter of the kernel, set by the
//! script's process for itself and all that it starts.
//!
//! A rule allows something for everything below a directory, and nothing takes a part of that away again. So what leads to a
//! guarded directory is free in its entries only: a script cannot make anything in `/` or in `/var/vcap/data` itself.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr,
};
use nix::errno::Errno;

use super::child::StepResult;
use super::spec::{Rules, Step, StepError};
use crate::fs;

/// The least that is of use: before it, no file could be linked from one directory into another.
const NEEDED: ABI = ABI::V2;

/// What is asked for where it is there: a file can no longer be cut by its path alone.
const WANTED: ABI = ABI::V3;

/// Makes the rules, to be applied by [`restrict`].
pub(super) fn prepare(rules: &Rules) -> Result<RulesetCreated, StepError> {
    let step = |error: &(dyn Error + 'static)| StepError {
        step: Step::Restrict,
        errno: errno(error),
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))
        .and_then(|ruleset| {
            ruleset
                .set_compatibility(CompatLevel::BestEffort)
                .handle_access(AccessFs::Truncate)
        })
        .and_then(Ruleset::create)
        .map_err(|error| step(&error))?;
    let all = AccessFs::from_all(WANTED);
    let read = AccessFs::from_read(WANTED);
    let mut granted: Vec<(PathBuf, BitFlags<AccessFs>)> = free(&rules.guarded)?
        .into_iter()
        .map(|path| (path, all))
        .collect();
    // Names can be read everywhere: many a script lists directories on its way.
    granted.push((PathBuf::from("/"), AccessFs::ReadDir.into()));
    granted.extend(rules.whole.iter().map(|path| (path.clone(), all)));
    granted.extend(rules.readable.iter().map(|path| (path.clone(), read)));
    for (path, access) in granted {
        let is_directory = match fs::metadata(&path) {
            Ok(metadata) => metadata.is_dir(),
            // It is gone by now, or nobody may know what it is.
            Err(_) => continue,
        };
        let access = if is_directory {
            access
        } else {
            access & AccessFs::from_file(WANTED)
        };
        let Ok(opened) = PathFd::new(&path) else {
            continue;
        };
        ruleset = ruleset
            .add_rule(PathBeneath::new(opened, access))
            .map_err(|error| step(&error))?;
    }
    Ok(ruleset)
}

/// Applies rules to this process, for ever.
pub(super) fn restrict(rules: RulesetCreated) -> io::Result<()> {
    match rules.restrict_self() {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::from_raw_os_error(errno(&error))),
    }
}

/// The entries beside the way to what is guarded.
fn free(guarded: &[PathBuf]) -> Result<Vec<PathBuf>, StepError> {
    let on_the_way: BTreeSet<&Path> = guarded.iter().flat_map(|path| path.ancestors()).collect();
    let mut free = Vec::new();
    for directory in &on_the_way {
        if guarded.iter().any(|path| path == directory) {
            continue;
        }
        for entry in fs::list(directory).step(Step::Restrict)? {
            let path = entry.path();
            // What a link leads to is free, or not, by its own path.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if !is_link && !on_the_way.contains(path.as_path()) {
                free.push(path);
            }
        }
    }
    Ok(free)
}

/// What the system said, however deep. Without a word of it the kernel has no such thing.
fn errno(error: &(dyn Error + 'static)) -> i32 {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return code;
        }
        next = error.source();
    }
    Errno::ENOSYS as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_the_way_is_free_and_the_way_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        for directory in [
            "vcap/data/compile/a",
            "vcap/data/other",
            "vcap/bosh",
            "home",
        ] {
            fs::create_dir_all(&root.join(directory)).unwrap();
        }
        fs::write(&root.join("vcap/file"), b"").unwrap();
        fs::symlink(Path::new("vcap"), &root.join("link")).unwrap();
        let found = free(&[root.join("vcap/data/compile"), root.join("vcap/packages")]).unwrap();
        let below: Vec<&Path> = found
            .iter()
            .filter_map(|path| path.strip_prefix(&root).ok())
            .collect();
        let expected = ["home", "vcap/bosh", "vcap/file", "vcap/data/other"].map(Path::new);
        assert_eq!(below, expected);
        let parent = fs::parent(&root);
        assert!(
            !found.iter().any(|path| parent.starts_with(path)),
            "{found:?}"
        );
    }
}

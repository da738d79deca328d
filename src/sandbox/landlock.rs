//! Sets Landlock rules: the script's process restricts itself and everything that it starts.
//!
//! A rule grants access to everything below a directory, and no other rule can take a part of that back. So the directories above
//! guarded ones are opened entry by entry, and a script cannot create entries in `/` or in `/var/vcap/data` itself.
//! `docs/adr/0011-the-second-run.md` lists the common operations of scripts that this denies.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated,
    Scope,
};
use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};

use super::progress::StartProgress;
use super::rules::Rules;
use super::step::{Step, StepError, StepResult};
use super::sys;
use crate::fs;

/// The minimum version: version 1 cannot allow hard links and renames between directories.
const NEEDED: ABI = ABI::V2;

/// The version whose rights are set if the kernel knows them. It adds the right to truncate files. Scopes (ABI 6, Linux 6.12) are set,
/// too, if possible.
const WANTED: ABI = ABI::V3;

/// Creates the ruleset, to be applied by [`restrict`]. Only the paths of rules are opened, because an unrelated mount may not respond.
/// To open a path for a rule (`O_PATH`), local and FUSE file systems are not asked, but NFS may ask its server: so each path is
/// reported to `progress`.
pub(super) fn prepare(
    rules: &Rules,
    progress: &StartProgress,
) -> Result<RulesetCreated, StepError> {
    let ruleset = create_ruleset()?;
    // Rules are added by the system call itself: the crate asks each file system for the type of the opened file.
    let descriptor: Option<OwnedFd> = ruleset
        .try_clone()
        .map_err(|source| source.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        .step(Step::Restrict)?
        .into();
    let descriptor = descriptor.ok_or(Errno::ENOSYS).step(Step::Restrict)?;
    // A kernel refuses rules with rights that it does not know.
    let known = match sys::landlock_version() {
        version if version >= WANTED as i32 => AccessFs::from_all(WANTED),
        _ => AccessFs::from_all(NEEDED),
    };
    for (path, access) in granted(rules)? {
        progress.enter(&Step::OpenForRule(path.clone()));
        // It was removed after it was listed, or this user may not access it.
        let Ok((opened, is_directory)) = open(&path) else {
            continue;
        };
        let access = match is_directory {
            true => access & known,
            false => access & known & AccessFs::from_file(WANTED),
        };
        sys::landlock_allow(descriptor.as_fd(), opened.as_fd(), access.bits())
            .step(Step::Restrict)?;
    }
    Ok(ruleset)
}

/// Creates a ruleset that denies all access to files.
fn create_ruleset() -> Result<RulesetCreated, StepError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))
        .and_then(|ruleset| {
            ruleset
                .set_compatibility(CompatLevel::BestEffort)
                .handle_access(AccessFs::Truncate)
        })
        // Signals and connections to abstract sockets reach only processes under the same rules: the script's own.
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(|error| StepError {
            step: Step::Restrict,
            errno: errno(&error),
        })
}

/// The paths of the rules and the rights that they grant.
fn granted(rules: &Rules) -> Result<Vec<(PathBuf, BitFlags<AccessFs>)>, StepError> {
    let all = AccessFs::from_all(WANTED);
    let read = AccessFs::from_read(WANTED);
    let mut granted: Vec<(PathBuf, BitFlags<AccessFs>)> = free(&rules.guarded, &rules.listed)?
        .into_iter()
        .map(|path| (path, all))
        .collect();
    // All directories can be listed: many scripts list the directories above their own.
    granted.push((PathBuf::from("/"), AccessFs::ReadDir.into()));
    granted.extend(rules.whole.iter().map(|path| (path.clone(), all)));
    granted.extend(rules.readable.iter().map(|path| (path.clone(), read)));
    Ok(granted)
}

/// Opens a path for a rule and returns whether it is a directory, as cached by the kernel, without asking the file system's server.
fn open(path: &Path) -> rustix::io::Result<(OwnedFd, bool)> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let mode = match rustix::fs::statx(&opened, "", flags, StatxFlags::TYPE) {
        Ok(found) => u32::from(found.stx_mode),
        // A system call filter does not know the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            rustix::fs::fstat(&opened)?.st_mode
        }
        Err(error) => return Err(error),
    };
    Ok((opened, FileType::from_raw_mode(mode).is_dir()))
}

/// Applies rules to this process. They cannot be removed again.
pub(super) fn restrict(rules: RulesetCreated) -> io::Result<()> {
    match rules.restrict_self() {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::from_raw_os_error(errno(&error))),
    }
}

/// The entries of the directories above guarded ones, except those that are above a guarded one themselves, and except the entries of
/// `listed` directories.
fn free(guarded: &[PathBuf], listed: &[PathBuf]) -> Result<Vec<PathBuf>, StepError> {
    let above: BTreeSet<&Path> = guarded.iter().flat_map(|path| path.ancestors()).collect();
    let mut free = Vec::new();
    for directory in &above {
        if guarded.iter().chain(listed).any(|path| path == directory) {
            continue;
        }
        for entry in fs::list(directory).step(Step::Restrict)? {
            let path = entry.path();
            // Access through a link depends on the path of its target.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if !is_link && !above.contains(path.as_path()) {
                free.push(path);
            }
        }
    }
    Ok(free)
}

/// The system's error number in a chain of errors. Without one, the kernel lacks Landlock.
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
    fn entries_next_to_the_guarded_directories_are_free() {
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
        let found = free(
            &[root.join("vcap/data/compile"), root.join("vcap/packages")],
            &[],
        )
        .unwrap();
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

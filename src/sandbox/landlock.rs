//! What one script may reach of the tree that all share, where nothing can be mounted: a filter of the kernel, set by the
//! script's process for itself and all that it starts.
//!
//! A rule allows something for everything below a directory, and nothing takes a part of that away again. So what leads to a
//! guarded directory is free in its entries only: a script cannot make anything in `/` or in `/var/vcap/data` itself.
//! `docs/adr/0011-the-second-run.md` lists what this denies to common habits of scripts.

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
use nix::unistd::{AccessFlags, access};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};

use super::child::StepResult;
use super::spec::{Rules, Step, StepError};
use super::start::Progress;
use super::sys;
use crate::fs;

/// The least that is of use: before it, no file could be linked from one directory into another.
const NEEDED: ABI = ABI::V2;

/// What is asked for where it is there: a file can no longer be cut by its path alone. Scopes (ABI 6, Linux 6.12) are asked for, too.
const WANTED: ABI = ABI::V3;

/// Makes the rules, to be applied by [`restrict`]. Asks no file system about what it does not have to: a mount beside the way may not
/// answer. An open for a rule (`O_PATH`) asks local and FUSE file systems for nothing; NFS may ask its server, so `progress` hears of
/// each path.
pub(super) fn prepare(rules: &Rules, progress: &Progress) -> Result<RulesetCreated, StepError> {
    let step = |error: &(dyn Error + 'static)| StepError {
        step: Step::Restrict,
        errno: errno(error),
    };
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))
        .and_then(|ruleset| {
            ruleset
                .set_compatibility(CompatLevel::BestEffort)
                .handle_access(AccessFs::Truncate)
        })
        // Signals and abstract sockets reach only what runs under the same rules: the script's own processes.
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(|error| step(&error))?;
    let all = AccessFs::from_all(WANTED);
    let read = AccessFs::from_read(WANTED);
    let mut granted: Vec<(PathBuf, BitFlags<AccessFs>)> = free(&rules.guarded, &rules.listed)?
        .into_iter()
        .map(|path| (path, all))
        .collect();
    // Names can be read everywhere: many a script lists directories on its way.
    granted.push((PathBuf::from("/"), AccessFs::ReadDir.into()));
    granted.extend(rules.whole.iter().map(|path| (path.clone(), all)));
    granted.extend(rules.readable.iter().map(|path| (path.clone(), read)));
    // Rules are added by the system call itself: the crate asks each file system for the type of what it opened.
    let same: Option<OwnedFd> = ruleset
        .try_clone()
        .map_err(|source| source.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        .step(Step::Restrict)?
        .into();
    let same = same.ok_or(Errno::ENOSYS).step(Step::Restrict)?;
    // Kernels without a right do not know it in a rule either.
    let known = match sys::landlock_version() {
        version if version >= WANTED as i32 => all,
        _ => AccessFs::from_all(NEEDED),
    };
    for (path, access) in granted {
        progress.enter(&Step::OpenForRule(path.clone()));
        // It is gone by now, or nobody may know what it is.
        let Ok((opened, is_directory)) = open(&path) else {
            continue;
        };
        let access = match is_directory {
            true => access & known,
            false => access & known & AccessFs::from_file(WANTED),
        };
        sys::landlock_allow(same.as_fd(), opened.as_fd(), access.bits()).step(Step::Restrict)?;
    }
    Ok(ruleset)
}

/// Opens a path for a rule and says whether it is a directory, from what the kernel knows without asking the file system's server.
fn open(path: &Path) -> rustix::io::Result<(OwnedFd, bool)> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let mode = match rustix::fs::statx(&opened, "", flags, StatxFlags::TYPE) {
        Ok(found) => u32::from(found.stx_mode),
        // A filter of system calls.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            rustix::fs::fstat(&opened)?.st_mode
        }
        Err(error) => return Err(error),
    };
    Ok((opened, FileType::from_raw_mode(mode).is_dir()))
}

/// Applies rules to this process, for ever.
pub(super) fn restrict(rules: RulesetCreated) -> io::Result<()> {
    match rules.restrict_self() {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::from_raw_os_error(errno(&error))),
    }
}

/// The entries beside the way to what is guarded, but for those of directories that are listed in another way.
fn free(guarded: &[PathBuf], listed: &[PathBuf]) -> Result<Vec<PathBuf>, StepError> {
    let on_the_way: BTreeSet<&Path> = guarded.iter().flat_map(|path| path.ancestors()).collect();
    let mut free = Vec::new();
    for directory in &on_the_way {
        if guarded.iter().chain(listed).any(|path| path == directory) {
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

/// How rules close a path to a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It is an entry of a directory in which nothing can be made, replaced or removed.
    Entry,
    /// It belongs to a dependency, which can be read only.
    ReadOnly,
    /// It belongs to another package or to the agent.
    Guarded,
}

/// How rules close an absolute path, if they do. Links in it are followed as they are now.
pub fn closed(rules: &Rules, path: &Path) -> Option<Closed> {
    let below = |path: &Path, directories: &[PathBuf]| {
        directories
            .iter()
            .any(|directory| path.starts_with(directory))
    };
    let whole = resolved(path);
    let is_own = below(&whole, &rules.whole);
    let is_dependency = below(&whole, &rules.readable);
    let parent = resolved(path.parent()?);
    let leads_to_guarded = |path: &Path| {
        rules
            .guarded
            .iter()
            .any(|directory| directory.starts_with(path))
    };
    if leads_to_guarded(&parent) {
        // What this user cannot even read without rules was not denied by them.
        let is_readable = access(path, AccessFlags::R_OK) != Err(Errno::EACCES);
        let is_others = below(&parent, &rules.guarded) && !is_own;
        return match is_dependency {
            true => Some(Closed::ReadOnly),
            false if is_others => Some(Closed::Guarded),
            false => is_readable.then_some(Closed::Entry),
        };
    }
    if is_own {
        None
    } else if is_dependency {
        Some(Closed::ReadOnly)
    } else if below(&whole, &rules.guarded)
        || below(&whole, &rules.listed) && !leads_to_guarded(&fs::nearest_existing(&whole))
    {
        Some(Closed::Guarded)
    } else {
        // Either leads to what is guarded, or it is to be made below a directory that cannot be made.
        let there = fs::nearest_existing(&whole);
        let is_new_entry = there != whole && there != parent && leads_to_guarded(&there);
        (is_new_entry || leads_to_guarded(&whole)).then_some(Closed::Entry)
    }
}

/// A path without links, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let there = fs::nearest_existing(path);
    let rest = path.strip_prefix(&there).unwrap_or(Path::new(""));
    fs::canonicalize(&there).map_or_else(|_| path.to_owned(), |there| there.join(rest))
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
    fn closed_paths_are_told_from_open_ones_through_links() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let vcap = root.join("real");
        for directory in ["app", "dep", "other"] {
            let installed = vcap.join("data/packages").join(directory);
            fs::create_dir_all(&installed).unwrap();
            fs::create_dir_all(&vcap.join("packages")).unwrap();
            fs::symlink(&installed, &vcap.join("packages").join(directory)).unwrap();
        }
        fs::create_dir_all(&vcap.join("data/compile/app")).unwrap();
        fs::create_dir_all(&vcap.join("bosh/etc")).unwrap();
        for scratch in ["app", "other"] {
            fs::create_dir(&vcap.join("data").join(scratch)).unwrap();
        }
        fs::symlink(Path::new("real"), &root.join("vcap")).unwrap();
        let rules = Rules {
            guarded: ["packages", "data/packages", "data/compile"]
                .map(|it| vcap.join(it))
                .to_vec(),
            listed: vec![vcap.join("data")],
            whole: vec![
                vcap.join("data/packages/app"),
                vcap.join("data/compile/app"),
                vcap.join("data/app"),
            ],
            readable: vec![vcap.join("data/packages/dep")],
        };
        let cases = [
            ("packages/app/file", None),
            ("data/compile/app/a/b", None),
            ("bosh/etc/file", None),
            ("packages/dep/new", Some(Closed::ReadOnly)),
            ("packages/dep", Some(Closed::ReadOnly)),
            ("packages/other/file", Some(Closed::Guarded)),
            ("packages/unknown", Some(Closed::Guarded)),
            ("data/compile/other/packaging", Some(Closed::Guarded)),
            ("packages/app", Some(Closed::Entry)),
            ("data/compile/app", Some(Closed::Entry)),
            ("data/app/file", None),
            ("data/other/file", Some(Closed::Guarded)),
            ("data/other", Some(Closed::Entry)),
            ("data/new/a", Some(Closed::Entry)),
            ("data", Some(Closed::Entry)),
            ("new", Some(Closed::Entry)),
        ];
        for (path, expected) in cases {
            assert_eq!(
                closed(&rules, &root.join("vcap").join(path)),
                expected,
                "{path}"
            );
        }
        assert_eq!(closed(&rules, Path::new("/new")), Some(Closed::Entry));
        assert_eq!(closed(&rules, Path::new("/usr/new")), None);
    }

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

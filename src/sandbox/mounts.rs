//! A view of the file system, made by the first process of a namespace, or by the script's parent where there is no process
//! namespace, for itself and the script.
//!
//! Only `mount(2)` is used: the newer calls for mounts would bring nothing but a need for newer kernels, and `pivot_root` is
//! refused by Docker's filter even where everything else is allowed.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::child::StepResult;
use super::spec::{Mounted, Step, StepError, View, Writes};
use super::{locked, sys};
use crate::fs;

/// Mounts everything. Afterwards the working directory is meaningless: the caller enters the script's.
pub(super) fn make(view: &View) -> Result<(), StepError> {
    if !view.network {
        unshare(CloneFlags::CLONE_NEWNET).step(Step::SeparateNetwork)?;
        sys::start_loopback().step(Step::StartLoopback)?;
    }
    separate()?;
    std::env::set_current_dir(&view.work).step(Step::EnterWork(view.work.clone()))?;
    for place in &view.memory {
        mount_to(
            Some(Path::new("tmpfs")),
            place,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(OsStr::new("mode=1777")),
        )
        .step(Step::MountMemory(place.clone()))?;
    }
    // While the host's directories for temporary files can be seen.
    mount_named(view)?;
    if view.writes == Writes::ToMemory && !view.dependencies.is_empty() {
        fs::create_dir_all(&view.scratch).step(Step::MountScratch(view.scratch.clone()))?;
        mount_to(
            Some(Path::new("tmpfs")),
            &view.scratch,
            Some("tmpfs"),
            MsFlags::empty(),
            None,
        )
        .step(Step::MountScratch(view.scratch.clone()))?;
    }
    match view.writes {
        Writes::ToDisk | Writes::ToMemory => {
            for (number, dependencies) in view.dependencies.chunks(LAYERS).enumerate() {
                let scratch = view.scratch.join(number.to_string());
                overlay(dependencies, &scratch, view.in_user_namespace)?;
            }
        }
        Writes::Refused => {
            for dependency in &view.dependencies {
                read_only(dependency)?;
            }
        }
    }
    for (from, to) in &view.shared {
        bind(from, to)?;
    }
    // Before the directories above it are mounted in other places, and before anything covers it.
    if let Some(hidden) = &view.hidden {
        hide(hidden)?;
    }
    for secret in &view.secrets {
        cover(secret)?;
    }
    for (from, to) in &view.kept {
        bind(from, to)?;
    }
    // Relative paths lead past it, through the directory that we are in. It is gone where what has just been hidden holds it.
    if view.hidden.is_none() || view.work.is_dir() {
        hide(&view.work)?;
    }
    if let Ok(below) = view.work.strip_prefix(&view.tree.1) {
        // What is kept of the base directory has been mounted with the work directory in it.
        let again = view.tree.0.join(below);
        if again.is_dir() {
            hide(&again)?;
        }
    }
    for (from, to) in &view.temporary {
        bind(from, to)?;
    }
    // After all that lies in it, so that one recursive mount carries the rest, and so that one mount holds both the sources
    // and what is installed: `mv` and `ln` work between them.
    bind(&view.tree.0, &view.tree.1)?;
    if view.processes {
        mount_proc()?;
    }
    // Before its flags are locked.
    if let Some(protection) = &view.protection {
        protection.apply()?;
    }
    if view.locked {
        locked::lock(view)?;
    }
    // The directory that we are in would be another way to the work directory, through /proc.
    std::env::set_current_dir("/").step(Step::EnterWork("/".into()))
}

/// Puts what the environment names into the private directories, which are mounted later.
fn mount_named(view: &View) -> Result<(), StepError> {
    for (source, at) in &view.temporary {
        // The covered directory may lie in a private one, where it is made to be mounted over.
        if let Ok(below) = view.tree.1.strip_prefix(at)
            && view.memory.contains(source)
        {
            let place = source.join(below);
            fs::create_dir_all(&place).step(Step::MakePlace(place.clone()))?;
        }
    }
    for (link, says) in &view.links {
        make_link(link, says).step(Step::MakePlace(link.clone()))?;
    }
    for (from, to) in &view.named {
        make_place(from, to).step(Step::MakePlace(to.clone()))?;
        match bind(from, to) {
            // Somebody has removed it since it was found.
            Err(error) if error.errno == Errno::ENOENT as i32 => continue,
            other => other?,
        }
        if let Ok(below) = view.work.strip_prefix(from) {
            hide(&to.join(below))?;
        }
    }
    Ok(())
}

fn make_link(link: &Path, says: &Path) -> fs::Result<()> {
    fs::create_dir_all(fs::parent(link))?;
    if fs::lookup(link)?.is_none() {
        fs::symlink(says, link)?;
    }
    Ok(())
}

/// Makes a directory or a file to mount `from` over.
fn make_place(from: &Path, to: &Path) -> fs::Result<()> {
    if fs::metadata(from).is_ok_and(|metadata| metadata.is_file()) {
        fs::create_dir_all(fs::parent(to))?;
        return fs::write(to, b"");
    }
    fs::create_dir_all(to)
}

/// Mounts the `/proc` of this process's namespace.
pub(super) fn mount_proc() -> Result<(), StepError> {
    mount_to(
        Some(Path::new("proc")),
        Path::new("/proc"),
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None,
    )
    .step(Step::MountProc)
}

/// A mount namespace that tells nobody of its mounts.
pub(super) fn separate() -> Result<(), StepError> {
    unshare(CloneFlags::CLONE_NEWNS).step(Step::SeparateMounts)?;
    mount_to(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None,
    )
    .step(Step::KeepMountsPrivate)
}

/// Tries, in a process that is thrown away, whether mounts are allowed: a filter or a security module may refuse them where
/// namespaces are allowed.
pub(super) fn try_any() -> Result<(), StepError> {
    separate()?;
    let place = Path::new("/tmp");
    mount_to(
        Some(Path::new("tmpfs")),
        place,
        Some("tmpfs"),
        MsFlags::empty(),
        None,
    )
    .step(Step::TryMount)?;
    let (from, to) = (place.join("from"), place.join("to"));
    for directory in [&from, &to] {
        fs::create_dir(directory).step(Step::TryMount)?;
    }
    bind(&from, &to)
}

fn hide(directory: &Path) -> Result<(), StepError> {
    mount_to(
        Some(Path::new("tmpfs")),
        directory,
        Some("tmpfs"),
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(OsStr::new("size=4k,mode=755")),
    )
    .step(Step::HideWork(directory.to_owned()))
}

/// Makes a directory or a file appear empty.
fn cover(path: &Path) -> Result<(), StepError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => hide(path),
        Ok(_) => bind(Path::new("/dev/null"), path),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error).step(Step::HideWork(path.to_owned())),
    }
}

fn mount_to(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&OsStr>,
) -> nix::Result<()> {
    mount(source, target, kind, flags, data)
}

pub(super) fn bind(from: &Path, to: &Path) -> Result<(), StepError> {
    mount_to(
        Some(from),
        to,
        None,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None,
    )
    .step(Step::Bind(from.to_owned(), to.to_owned()))
}

/// Nothing that is written into an overlay is kept. Without this its end, with every script, has the kernel write everything to the
/// disk that is on the same file system. Linux before 5.10 does not know it.
const VOLATILE: &str = ",volatile";

/// How many dependencies one overlay has as layers: their paths must fit into the page that holds its options.
const LAYERS: usize = 64;

/// Dependencies whose changes go to `scratch`. The sealed trees below stay as they are.
///
/// One overlay has them all, mounted over `scratch` itself, and each is mounted from there to its place: a mount costs a
/// fraction of an overlay with its directories. Each tree is alone in its directory, and that directory is the layer.
fn overlay(
    dependencies: &[Mounted],
    scratch: &Path,
    in_user_namespace: bool,
) -> Result<(), StepError> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for directory in [&upper, &work] {
        fs::create_dir_all(directory).step(Step::PrepareOverlay(scratch.to_owned()))?;
    }
    let mut options = OsString::from("lowerdir=");
    for (number, dependency) in dependencies.iter().enumerate() {
        if number > 0 {
            options.push(":");
        }
        options.push(fs::parent(&dependency.sealed));
    }
    for (key, path) in [(",upperdir=", &upper), (",workdir=", &work)] {
        options.push(key);
        options.push(path);
    }
    if in_user_namespace {
        // An overlay's notes on removed and replaced directories are in attributes that only the real root may set.
        options.push(",userxattr");
    }
    let mounted = |options: &OsStr| {
        mount_to(
            Some(Path::new("overlay")),
            scratch,
            Some("overlay"),
            MsFlags::empty(),
            Some(options),
        )
    };
    let mut volatile = options.clone();
    volatile.push(VOLATILE);
    match mounted(&volatile) {
        Err(Errno::EINVAL) => mounted(&options),
        other => other,
    }
    .step(Step::MountOverlay(scratch.to_owned()))?;
    for dependency in dependencies {
        let name = dependency.sealed.file_name().unwrap_or_default();
        bind(&scratch.join(name), &dependency.at)?;
    }
    Ok(())
}

fn read_only(dependency: &Mounted) -> Result<(), StepError> {
    let step = || Step::MountReadOnly(dependency.at.clone());
    mount_to(
        Some(&dependency.sealed),
        &dependency.at,
        None,
        MsFlags::MS_BIND,
        None,
    )
    .step(step())?;
    // A bind mount takes flags only when it is mounted once more. In a user namespace it must keep those that it has.
    let has = statvfs(&dependency.at).step(step())?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for (flag, kept) in KEPT {
        if has.contains(flag) {
            flags |= kept;
        }
    }
    mount_to(None, &dependency.at, None, flags, None).step(step())
}

/// What a mount may have been given by somebody who has more rights.
const KEPT: [(FsFlags, MsFlags); 6] = [
    (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
    (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
    (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
    (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
];

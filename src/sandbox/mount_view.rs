//! Mounts a script's view of the file system. The first process of the PID namespace does this; without a PID namespace, the script's
//! parent does it, for itself and the script.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};

use super::mount::{self, bind, hide, hide_directory};
use super::step::{Step, StepError, StepResult};
use super::view::{Mounted, View, Writes};
use super::{image_root, locked, protect, sys};
use crate::fs;

/// The maximum number of layers (dependencies) of one overlay: the paths of the layers must fit into the memory page that holds the
/// options of the mount.
const LAYERS: usize = 64;

/// Mounts the view. Afterwards, the working directory is `/`; the caller enters that of the script.
pub(super) fn mount_view(view: &View) -> Result<(), StepError> {
    if !view.network {
        unshare(CloneFlags::CLONE_NEWNET).step(Step::SeparateNetwork)?;
        sys::start_loopback().step(Step::StartLoopback)?;
    }
    mount::separate()?;
    let host = match &view.root {
        Some(root) => Some(image_root::enter(root, view)?),
        None => None,
    };
    let below_host = |path: &Path| match &host {
        Some(host) => host.path(path),
        None => path.to_owned(),
    };
    let work = below_host(&view.work);
    std::env::set_current_dir(&work).step(Step::EnterWork(work.clone()))?;
    mount_memory(view)?;
    // The host's directories for temporary files are still visible here.
    mount_named(view)?;
    mount_dependencies(view)?;
    for (from, to) in &view.scratch {
        bind(&below_host(from), to)?;
    }
    // Hide these before the directories above them are bind-mounted elsewhere, and before another mount covers them.
    if let Some(hidden) = &view.hidden {
        hide_directory(hidden)?;
    }
    for secret in &view.secrets {
        hide(secret)?;
    }
    for (from, to) in &view.kept {
        bind(from, to)?;
    }
    if host.is_none() {
        hide_work(view)?;
    }
    for (from, to) in &view.temporary {
        bind(from, to)?;
    }
    // Mount the tree after everything in it: one recursive mount then includes these mounts. The sources and the install target are in
    // one mount, so that `mv` and `ln` work between them.
    bind(&view.tree.0, &view.tree.1)?;
    if view.processes {
        mount::mount_proc()?;
    }
    if let Some(host) = host {
        host.leave(view)?;
    }
    separate_queues()?;
    // Protect the host before the flags of mounts are locked.
    if let Some(protection) = &view.protection {
        protect::make_read_only(protection)?;
    }
    if view.locked {
        locked::lock(view)?;
    }
    // Otherwise, the work directory would stay accessible through /proc/PID/cwd.
    std::env::set_current_dir("/").step(Step::EnterWork("/".into()))
}

/// Gives the script POSIX message queues of its own: those in the host's directory belong to the host's IPC namespace.
fn separate_queues() -> Result<(), StepError> {
    let queues = Path::new("/dev/mqueue");
    if !queues.is_dir() {
        return Ok(());
    }
    // Unmount the host's directory: mounts below `/dev` are not locked (`locked`), so a script could undo a mount over it. In a user
    // namespace, this fails, but there these mounts are locked.
    let _ = umount2(queues, MntFlags::MNT_DETACH);
    let (kind, flags) = (
        Some("mqueue"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    );
    match nix::mount::mount(kind, queues, kind, flags, None::<&str>) {
        Ok(()) => Ok(()),
        // The kernel has no queues, or a system call filter refuses the mount.
        Err(_) => hide_directory(queues),
    }
}

/// Mounts the private directories that are in memory.
fn mount_memory(view: &View) -> Result<(), StepError> {
    for directory in &view.memory {
        mount::tmpfs(
            directory,
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(OsStr::new("mode=1777")),
        )
        .step(Step::MountMemory(directory.clone()))?;
    }
    Ok(())
}

/// Mounts the files and directories that environment variables name into the private directories, which are mounted later.
fn mount_named(view: &View) -> Result<(), StepError> {
    for (source, at) in &view.temporary {
        // The covered directory may be below a private directory in memory. Create its mount point there.
        if let Ok(below) = view.tree.1.strip_prefix(at)
            && view.memory.contains(source)
        {
            let place = source.join(below);
            fs::create_dir_all(&place).step(Step::MakePlace(place.clone()))?;
        }
    }
    for (link, target) in &view.links {
        make_link(link, target).step(Step::MakePlace(link.clone()))?;
    }
    for (from, to) in &view.named {
        make_mount_point(from, to).step(Step::MakePlace(to.clone()))?;
        match bind(from, to) {
            // Another process has removed `from` since it was found.
            Err(error) if error.errno == Errno::ENOENT as i32 => continue,
            other => other?,
        }
        if let Ok(below) = view.work.strip_prefix(from) {
            hide_directory(&to.join(below))?;
        }
    }
    Ok(())
}

fn make_link(link: &Path, target: &Path) -> fs::Result<()> {
    fs::create_dir_all(fs::parent(link))?;
    if fs::lookup(link)?.is_none() {
        fs::symlink(target, link)?;
    }
    Ok(())
}

/// Makes a directory, or a file if `from` is one.
fn make_mount_point(from: &Path, to: &Path) -> fs::Result<()> {
    if fs::metadata(from).is_ok_and(|metadata| metadata.is_file()) {
        fs::create_dir_all(fs::parent(to))?;
        return fs::write(to, b"");
    }
    fs::create_dir_all(to)
}

fn mount_dependencies(view: &View) -> Result<(), StepError> {
    if view.writes == Writes::Refused {
        let mut dependencies = view.dependencies.iter();
        return dependencies.try_for_each(|it| mount::bind_read_only(&it.sealed, &it.at));
    }
    if view.writes == Writes::ToMemory && !view.dependencies.is_empty() {
        let step = || Step::MountScratch(view.overlay.clone());
        fs::create_dir_all(&view.overlay).step(step())?;
        mount::tmpfs(&view.overlay, MsFlags::empty(), None).step(step())?;
    }
    for (number, dependencies) in view.dependencies.chunks(LAYERS).enumerate() {
        let directory = view.overlay.join(number.to_string());
        mount_overlay(dependencies, &directory, view.in_user_namespace)?;
    }
    Ok(())
}

/// Mounts dependencies so that writes go to `directory`. The sealed trees stay unchanged.
///
/// One overlay has all of them as layers. It is mounted over `directory` itself, and each dependency is bind-mounted from there: a
/// bind mount costs a fraction of an overlay with its directories. A layer is the directory of a sealed tree, which has no other
/// entries.
fn mount_overlay(
    dependencies: &[Mounted],
    directory: &Path,
    in_user_namespace: bool,
) -> Result<(), StepError> {
    let (upper, work) = (directory.join("upper"), directory.join("work"));
    if work.exists() {
        // A shell after a failed script sees what the script changed. The kernel refuses the work directory of an earlier mount that
        // did not wait for the disk, because after a crash its files would be incomplete.
        fs::remove_tree(&work).step(Step::PrepareOverlay(directory.to_owned()))?;
    }
    for directory_of_overlay in [&upper, &work] {
        fs::create_dir_all(directory_of_overlay)
            .step(Step::PrepareOverlay(directory.to_owned()))?;
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
        // By default, an overlay records removed and replaced directories in attributes that only the initial root user may set.
        options.push(",userxattr");
    }
    mount::overlay(directory, &options).step(Step::MountOverlay(directory.to_owned()))?;
    for dependency in dependencies {
        let name = dependency.sealed.file_name().unwrap_or_default();
        bind(&directory.join(name), &dependency.at)?;
    }
    Ok(())
}

/// Hides the work directory at all its paths.
fn hide_work(view: &View) -> Result<(), StepError> {
    // If the work directory is below the hidden scratch directory, its path no longer exists. Relative paths still lead to it.
    if view.hidden.is_none() || view.work.is_dir() {
        hide_directory(&view.work)?;
    }
    if let Ok(below) = view.work.strip_prefix(&view.tree.1) {
        // The work directory is also in the host's entries that were mounted into the tree.
        let again = view.tree.0.join(below);
        if again.is_dir() {
            hide_directory(&again)?;
        }
    }
    Ok(())
}

//! Gives a script the root file system of an image.
//!
//! An overlay over the image becomes the root of this process, and the host's root is mounted in it until the view is complete. From then
//! on, absolute paths are those of the image: no link in the image leads to a file of the host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chroot, pivot_root};

use super::mount::{self, bind};
use super::step::{Step, StepError, StepResult};
use super::view::{ImageRoot, View};
use crate::fs;

/// Where the host's root is mounted while the view is made. The directory is created for it, also if the image has a file of this name.
const HOST: &str = ".bosh-agent-host";

/// Directories of the host that every script needs, as in a container.
const DEVICES: [&str; 2] = ["/dev", "/sys"];

/// Files of the host that every script needs to find other machines. Changes of the script do not change the host's.
const NETWORK: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// The host's root, as long as the view is being made.
pub(super) struct Host(PathBuf);

impl Host {
    /// The path of a file of the host. Relative paths stay as they are.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(below) => self.0.join(below),
            Err(_) => path.to_owned(),
        }
    }

    /// Removes the host's root from the view.
    pub(super) fn leave(self) -> Result<(), StepError> {
        std::env::set_current_dir("/").step(Step::EnterWork("/".into()))?;
        umount2(&self.0, MntFlags::MNT_DETACH).step(Step::LeaveHost)?;
        fs::remove_dir(&self.0).step(Step::LeaveHost)
    }
}

/// Makes an image the root of this process.
pub(super) fn enter(root: &ImageRoot, view: &View) -> Result<Host, StepError> {
    // A link of the host may have an absolute target.
    let network = NETWORK.map(|file| (file, fs::read(Path::new(file)).ok()));
    std::env::set_current_dir(&view.work).step(Step::EnterWork(view.work.clone()))?;
    let merged = mount_overlay(root, view.in_user_namespace)?;
    let changed = || Step::ChangeRoot(root.lower.clone());
    std::env::set_current_dir(&merged).step(Step::EnterWork(merged.clone()))?;
    change_root().step(changed())?;
    std::env::set_current_dir("/").step(changed())?;
    let host = Host(Path::new("/").join(HOST));
    let places = ["/proc", "/tmp", "/var/tmp", "/etc"].map(Path::new);
    let places = places.into_iter().chain([view.tree.1.as_path()]);
    for place in places.chain(DEVICES.map(Path::new)) {
        fs::create_dir_all(place).step(Step::MakePlace(place.to_owned()))?;
    }
    for directory in DEVICES {
        bind(&host.path(directory.as_ref()), directory.as_ref())?;
    }
    if !view.processes {
        bind(&host.path("/proc".as_ref()), "/proc".as_ref())?;
    }
    for (file, content) in network {
        if let Some(content) = content {
            let spare = host.path(&view.work).join(&root.overlay);
            provide(Path::new(file), &content, &spare)?;
        }
    }
    Ok(host)
}

/// Gives a file this content. In an image, it is often a link to a file of a service. `spare` is a directory for a file to mount over it, if
/// this user may not change the image's directory.
fn provide(file: &Path, content: &[u8], spare: &Path) -> Result<(), StepError> {
    let written = fs::remove_file_if_there(file).and_then(|()| fs::write(file, content));
    if written.is_ok() {
        return Ok(());
    }
    let spare = spare.join(fs::file_name(file));
    fs::write(&spare, content).step(Step::MakePlace(spare.clone()))?;
    bind(&spare, file)
}

/// Mounts the overlay. Returns its path, relative to the work directory.
fn mount_overlay(root: &ImageRoot, in_user_namespace: bool) -> Result<PathBuf, StepError> {
    let prepare = || Step::PrepareRoot(root.overlay.clone());
    fs::create_dir_all(&root.overlay).step(prepare())?;
    if root.in_memory {
        mount::tmpfs(&root.overlay, MsFlags::empty(), None).step(prepare())?;
    }
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| root.overlay.join(name));
    if work.exists() {
        // Of an earlier script in the same place. The kernel refuses the work directory of an overlay that did not wait for the disk.
        fs::remove_tree(&work).step(prepare())?;
    }
    for directory in [&lower, &upper, &work, &merged] {
        fs::create_dir_all(directory).step(prepare())?;
    }
    // As root of the script, the directory has the mode of the upper one.
    fs::set_mode(&upper, 0o755).step(prepare())?;
    fs::create_dir_all(&upper.join(HOST)).step(prepare())?;
    // Options of an overlay cannot contain every character of a path.
    bind(&root.lower, &lower)?;
    let mut options = OsString::new();
    for (key, path) in [
        ("lowerdir=", &lower),
        (",upperdir=", &upper),
        (",workdir=", &work),
    ] {
        options.push(key);
        options.push(path);
    }
    if in_user_namespace {
        options.push(",userxattr");
    }
    mount::overlay(&merged, &options).step(Step::MountRoot(root.lower.clone()))?;
    Ok(merged)
}

/// Makes the mount in the working directory the root of this process, with the old root in `HOST`.
fn change_root() -> nix::Result<()> {
    match pivot_root(".", HOST) {
        // Docker's filter of system calls refuses it, and the kernel does if the root is an initial RAM disk.
        Err(Errno::EPERM | Errno::EINVAL) => {
            let none = None::<&str>;
            let (host, root) = (Path::new(HOST), Path::new("/"));
            mount(
                Some(root),
                host,
                none,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                none,
            )?;
            mount(Some("."), root, none, MsFlags::MS_MOVE, none)?;
            chroot(".")
        }
        other => other,
    }
}

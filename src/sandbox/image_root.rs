//! Gives a script the root file system of an image.
//!
//! An overlay over the image becomes the root of this process. Until the view is complete, the host's root is mounted in it, below a name
//! that no link in the image can contain, because it is random. Everything that is created or written in the image, where its links count,
//! is made before directories of the host are mounted there. The agent mounts the host's `/proc`, whose links lead to the host's root, last.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chroot, pivot_root};

use super::mount::{self, bind};
use super::step::{Step, StepError, StepResult};
use super::view::{ImageRoot, View};
use crate::fs::{self, Context as _};

/// The beginning of the name of the directory at which the host's root is mounted while the view is made.
const HOST: &str = ".bosh-agent-host-";

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

    /// Removes the host's root from the view, after mounting the host's `/proc` if the script has none of its own.
    pub(super) fn leave(self, view: &View) -> Result<(), StepError> {
        if !view.processes {
            bind(&self.path("/proc".as_ref()), "/proc".as_ref())?;
        }
        std::env::set_current_dir("/").step(Step::EnterWork("/".into()))?;
        umount2(&self.0, MntFlags::MNT_DETACH).step(Step::LeaveHost)?;
        fs::remove_dir(&self.0).step(Step::LeaveHost)
    }
}

/// Makes an image the root of this process.
pub(super) fn enter(root: &ImageRoot, view: &View) -> Result<Host, StepError> {
    // A link of the host may have an absolute target.
    let network = NETWORK.map(|file| (file, fs::read(Path::new(file)).ok()));
    let name = random_name().step(Step::PrepareRoot(root.overlay.clone()))?;
    std::env::set_current_dir(&view.work).step(Step::EnterWork(view.work.clone()))?;
    let merged = mount_overlay(root, &name, view.in_user_namespace)?;
    let changed = || Step::ChangeRoot(root.lower.clone());
    std::env::set_current_dir(&merged).step(Step::EnterWork(merged.clone()))?;
    change_root(&name).step(changed())?;
    std::env::set_current_dir("/").step(changed())?;
    let host = Host(Path::new("/").join(name));
    let places = ["/proc", "/tmp", "/var/tmp", "/etc"].map(Path::new);
    let places = places.into_iter().chain([view.tree.1.as_path()]);
    for place in places.chain(DEVICES.map(Path::new)) {
        make_place(place).step(Step::MakePlace(place.to_owned()))?;
    }
    for (file, content) in network {
        if let Some(content) = content {
            let spare = host.path(&view.work).join(&root.overlay);
            provide(Path::new(file), &content, &spare)?;
        }
    }
    // Nothing may be created below links of the image any more: the host's `/dev/shm` is writable, for example.
    for directory in DEVICES {
        bind(&host.path(directory.as_ref()), directory.as_ref())?;
    }
    Ok(host)
}

/// Makes a directory of the image. A link that leads nowhere is replaced: debootstrap makes `proc` a link to itself if it may not mount, as in
/// a container.
fn make_place(place: &Path) -> fs::Result<()> {
    match fs::create_dir_all(place) {
        Err(_) if leads_nowhere(place) => {
            fs::remove_file_if_there(place)?;
            fs::create_dir_all(place)
        }
        other => other,
    }
}

fn leads_nowhere(place: &Path) -> bool {
    let is_link = fs::lookup(place).is_ok_and(|it| it.is_some_and(|it| it.is_symlink()));
    is_link && fs::metadata(place).is_err()
}

/// A name that neither an image nor an earlier script can know.
fn random_name() -> fs::Result<PathBuf> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    fs::open(path)?.read_exact(&mut bytes).at("read", path)?;
    Ok(format!("{HOST}{:032x}", u128::from_ne_bytes(bytes)).into())
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

/// Mounts the overlay, with a directory `host` in it. Returns its path, relative to the work directory.
fn mount_overlay(
    root: &ImageRoot,
    host: &Path,
    in_user_namespace: bool,
) -> Result<PathBuf, StepError> {
    let prepare = || Step::PrepareRoot(root.overlay.clone());
    fs::create_dir_all(&root.overlay).step(prepare())?;
    if root.in_memory {
        mount::tmpfs(&root.overlay, MsFlags::empty(), None).step(prepare())?;
    }
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| root.overlay.join(name));
    if work.exists() {
        // An earlier script in the same place has left it. The kernel refuses to reuse the work directory of a volatile overlay.
        fs::remove_tree(&work).step(prepare())?;
    }
    for directory in [&lower, &upper, &work, &merged] {
        fs::create_dir_all(directory).step(prepare())?;
    }
    // The root directory of the script gets the mode of the upper directory.
    fs::set_mode(&upper, 0o755).step(prepare())?;
    fs::create_dir_all(&upper.join(host)).step(prepare())?;
    // Mount the image at a path without special characters: the options of an overlay cannot contain every character of a path.
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

/// Makes the mount in the working directory the root of this process, with the old root in its directory `host`.
fn change_root(host: &Path) -> nix::Result<()> {
    match pivot_root(".", host) {
        // Docker's filter of system calls refuses it, and the kernel does if the root is an initial RAM disk.
        Err(Errno::EPERM | Errno::EINVAL) => {
            let (none, root) = (None::<&str>, Path::new("/"));
            let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(root), host, none, recursive, none)?;
            mount(Some("."), root, none, MsFlags::MS_MOVE, none)?;
            chroot(".")
        }
        other => other,
    }
}

//! The directories that a stemcell does not bring, and the remains of an agent that was killed.
//!
//! This is the part of the Go agent's start that compiling needs. Disks, users, networks and the firewall are left as the
//! machine's maker made them. Everything may be done again and again: what is there already, also as a link or a mount, stays.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Group, geteuid};

use crate::config::{Environment, Vcap};
use crate::diag::Chain;
use crate::fs;

/// The group of jobs where the system does not know one called `vcap`, as on every stemcell.
const VCAP_GROUP: u32 = 1000;

/// Begins every temporary name of ours.
const TEMPORARY: &str = ".bosh-agent-";

/// What `-P` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// A stemcell.
    Linux,
    /// A test: nothing outside the base directory is touched, and everything stays with its owner.
    Dummy,
}

/// A directory that was needed and could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// Something else is in its place.
    #[error("`{}` is there but is no directory", path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
}

/// A directory below the base directory.
struct Directory {
    path: &'static str,
    mode: u32,
    /// Nobody but root may look into it, whoever made it.
    private: bool,
}

const fn directory(path: &'static str, mode: u32) -> Directory {
    Directory {
        path,
        mode,
        private: mode & 0o077 == 0,
    }
}

/// As the Go agent makes them, parents first.
const DIRECTORIES: [Directory; 12] = [
    directory("data", 0o750),
    directory("data/sys", 0o750),
    directory("data/sys/log", 0o750),
    directory("data/sys/run", 0o750),
    directory("data/jobs", 0o750),
    directory("data/packages", 0o755),
    directory("data/tmp", 0o755),
    directory("data/dynamic_disks", 0o700),
    directory("data/sensitive_blobs", 0o700),
    directory("data/sensitive_blobs/tmp", 0o750),
    directory("data/blobs", 0o700),
    directory("data/blobs/tmp", 0o750),
];

/// What the dummy platform of the Go agent does without.
const NOT_FOR_DUMMY: [&str; 3] = ["data/packages", "data/sys/run", "data/dynamic_disks"];

/// Makes the directories and removes what a killed agent has left. Gives the environment for scripts: theirs is this one's,
/// with `TMPDIR` on the data disk.
///
/// Installed packages and blobs are never touched: what of them is whose, only those know who put them there.
///
/// # Errors
/// When a directory cannot be made that compiling needs. Owners, `/tmp` and remains are warned of.
pub fn bootstrap(
    vcap: &Vcap,
    platform: Platform,
    environment: &Environment,
) -> Result<Environment, BootstrapError> {
    let owners = owners(platform);
    fs::create_dir_all(vcap.base())?;
    for directory in &DIRECTORIES {
        if platform == Platform::Linux || !NOT_FOR_DUMMY.contains(&directory.path) {
            make(vcap, directory, owners)?;
        }
    }
    link_sys(vcap, owners)?;
    remove_remains(vcap);
    if platform == Platform::Dummy {
        return Ok(environment.clone());
    }
    if vcap.base() == Path::new(Vcap::BASE) && geteuid().is_root() {
        for shared in ["/tmp", "/var/tmp"] {
            warn(open_to_all(Path::new(shared), owners));
        }
    }
    Ok(environment.with(&[("TMPDIR", vcap.temporary().into_os_string())]))
}

/// The group that root's directories are given, `None` where they keep their owner.
fn owners(platform: Platform) -> Option<u32> {
    if platform == Platform::Dummy {
        return None;
    }
    if !geteuid().is_root() {
        tracing::warn!("not running as root: the directories keep their owner");
        return None;
    }
    let group = Group::from_name("vcap").ok().flatten();
    Some(group.map_or(VCAP_GROUP, |group| group.gid.as_raw()))
}

fn make(vcap: &Vcap, directory: &Directory, group: Option<u32>) -> Result<(), BootstrapError> {
    make_at(
        &vcap.base().join(directory.path),
        directory.mode,
        directory.private,
        group,
    )
}

fn make_at(
    path: &Path,
    mode: u32,
    private: bool,
    group: Option<u32>,
) -> Result<(), BootstrapError> {
    match fs::lookup(path)? {
        None => {
            fs::create_dir(path)?;
            fs::set_mode(path, mode)?;
        }
        Some(there) if there.is_dir() => {
            if private && there.permissions().mode() & 0o777 & !mode != 0 {
                fs::set_mode(path, mode)?;
            }
        }
        // A link is somebody's decision; it only must lead to a directory.
        Some(_) if path.is_dir() => return Ok(()),
        // The error names what the link leads to: the disk may not be mounted yet.
        Some(there) if there.is_symlink() && fs::metadata(path).is_err() => fs::create_dir(path)?,
        Some(_) => {
            return Err(BootstrapError::NoDirectory {
                path: path.to_owned(),
            });
        }
    }
    warn(give(path, group));
    Ok(())
}

/// Gives a file to root and a group.
fn give(path: &Path, group: Option<u32>) -> fs::Result<()> {
    let Some(group) = group else { return Ok(()) };
    let metadata = fs::metadata(path)?;
    if (metadata.uid(), metadata.gid()) == (0, group) {
        return Ok(());
    }
    fs::set_owner_if_allowed(path, 0, group)
}

/// `/var/vcap/sys` leads to the data disk. Where it is a directory of its own, that one is used.
fn link_sys(vcap: &Vcap, group: Option<u32>) -> Result<(), BootstrapError> {
    let link = vcap.sys();
    let target = vcap.data().join("sys");
    match fs::lookup(&link)? {
        None => fs::symlink(&target, &link)?,
        Some(there) if there.is_symlink() && !link.is_dir() => {
            let old = fs::read_link(&link)?;
            tracing::warn!(old = %old.display(), new = %target.display(), "a link that leads nowhere is replaced");
            fs::remove_file(&link)?;
            fs::symlink(&target, &link)?;
        }
        Some(_) => {}
    }
    make_at(&vcap.sys_log(), 0o750, false, group)
}

fn open_to_all(path: &Path, group: Option<u32>) -> fs::Result<()> {
    const MODE: u32 = 0o1777;
    give(path, group)?;
    if fs::metadata(path)?.permissions().mode() & 0o7777 == MODE {
        return Ok(());
    }
    fs::set_mode(path, MODE)
}

/// Removes what a killed agent has left: temporary files, unpacked sources, files that were being written.
fn remove_remains(vcap: &Vcap) {
    for directory in [
        vcap.temporary(),
        vcap.blobs().join("tmp"),
        vcap.sensitive_blobs().join("tmp"),
    ] {
        warn(empty(&directory));
    }
    if is_unused(vcap) {
        warn(empty(&vcap.compile()));
    }
    for directory in [
        vcap.bosh(),
        vcap.etc(),
        fs::parent(&vcap.settings_in_memory()).to_owned(),
        vcap.instance(),
        vcap.blobs(),
        vcap.sensitive_blobs(),
    ] {
        warn(fs::remove_abandoned(&directory, TEMPORARY, None));
    }
}

/// Whether sources in the tree are nobody's. What a run of ours has left there under its marker, the next run removes, which
/// knows how to wait for its processes.
fn is_unused(vcap: &Vcap) -> bool {
    let now = Duration::ZERO;
    !vcap.compile_marker().exists()
        && fs::wait_until_free(&vcap.compile_lock(), now, &|| true).unwrap_or(false)
}

/// Removes what is in a directory, but for mounts and for what somebody holds.
fn empty(directory: &Path) -> fs::Result<()> {
    fs::remove_abandoned(directory, TEMPORARY, None)?;
    let entries = fs::list(directory)?;
    if entries.is_empty() {
        return Ok(());
    }
    let device = fs::metadata(directory)?.dev();
    for entry in entries {
        let path = entry.path();
        let held = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMPORARY.as_bytes());
        let mounted = fs::lookup(&path)?.is_some_and(|metadata| metadata.dev() != device);
        if !held && !mounted {
            fs::remove_tree(&path)?;
        }
    }
    Ok(())
}

/// What is not done but not needed either.
fn warn<T>(done: fs::Result<T>) {
    if let Err(error) = done {
        tracing::warn!(error = %Chain(&error), "a step of the start was left out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn start(vcap: &Vcap) -> Environment {
        let inherited = [("PATH".into(), "/bin".into())].into_iter().collect();
        bootstrap(vcap, Platform::Linux, &inherited).unwrap()
    }

    #[test]
    fn the_directories_are_those_of_the_go_agent_and_tmpdir_is_on_the_data_disk() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        for _ in 0..2 {
            let environment = start(&vcap);
            assert_eq!(
                environment.get("TMPDIR"),
                Some(vcap.temporary().as_os_str())
            );
            assert_eq!(environment.get("PATH"), Some("/bin".as_ref()));
            for directory in &DIRECTORIES {
                let path = vcap.base().join(directory.path);
                assert_eq!(mode(&path), directory.mode, "{}", directory.path);
                if geteuid().is_root() {
                    let metadata = fs::metadata(&path).unwrap();
                    assert_eq!(
                        (metadata.uid(), metadata.gid()),
                        (0, owners(Platform::Linux).unwrap())
                    );
                }
            }
            assert_eq!(fs::read_link(&vcap.sys()).unwrap(), vcap.data().join("sys"));
            assert!(vcap.sys_log().is_dir());
        }
    }

    #[test]
    fn what_somebody_made_otherwise_stays_but_private_directories_are_closed() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let disk = scratch.path().join("disk");
        fs::create_dir_all(&disk.join("blobs")).unwrap();
        fs::set_mode(&disk, 0o711).unwrap();
        fs::set_mode(&disk.join("blobs"), 0o755).unwrap();
        fs::create_dir_all(&vcap.sys()).unwrap();
        fs::symlink(&disk, &vcap.data()).unwrap();
        start(&vcap);
        assert_eq!(fs::read_link(&vcap.data()).unwrap(), disk);
        assert_eq!((mode(&disk), mode(&disk.join("blobs"))), (0o711, 0o700));
        assert!(!fs::lookup(&vcap.sys()).unwrap().unwrap().is_symlink());
        assert_eq!(mode(&vcap.sys_log()), 0o750);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_replaced_and_a_file_in_the_way_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        fs::symlink(Path::new("/none/at/all"), &vcap.sys()).unwrap();
        start(&vcap);
        assert_eq!(fs::read_link(&vcap.sys()).unwrap(), vcap.data().join("sys"));

        fs::remove_tree(&vcap.temporary()).unwrap();
        fs::write(&vcap.temporary(), b"").unwrap();
        let error = bootstrap(&vcap, Platform::Linux, &Environment::default()).unwrap_err();
        let path = vcap.temporary().display().to_string();
        assert_eq!(
            error.to_string(),
            format!("`{path}` is there but is no directory")
        );
    }

    #[test]
    fn remains_go_and_blobs_packages_and_what_is_held_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        start(&vcap);
        let held = fs::LeasedDirectory::create(&vcap.temporary(), ".bosh-agent-work-").unwrap();
        let write = |path: PathBuf| {
            fs::create_dir_all(fs::parent(&path)).unwrap();
            fs::write(&path, b"x").unwrap();
            path
        };
        let remains = [
            vcap.temporary().join("blob"),
            vcap.temporary().join(".bosh-agent-work-dead/file"),
            vcap.compile().join("redis/src/file"),
            vcap.blobs().join("tmp/half"),
            vcap.sensitive_blobs().join("tmp/half"),
            vcap.blobs().join(".bosh-agent-upload-1"),
            vcap.bosh().join(".bosh-agent-write-1"),
        ]
        .map(write);
        let wanted = [
            vcap.blobs().join("0f7c6f2e"),
            vcap.data_packages().join("redis/1/file"),
            vcap.settings(),
        ]
        .map(write);
        start(&vcap);
        for path in &remains {
            assert!(!path.exists(), "{}", path.display());
        }
        for path in &wanted {
            assert!(path.exists(), "{}", path.display());
        }
        assert!(held.path().exists());
    }

    #[test]
    fn sources_stay_as_long_as_somebody_compiles() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        start(&vcap);
        let source = vcap.compile().join("redis");
        fs::create_dir_all(&source).unwrap();
        let lock = fs::create(&vcap.compile_lock()).unwrap();
        lock.try_lock().unwrap();
        start(&vcap);
        assert!(source.exists());
        drop(lock);
        fs::create_dir_all(&vcap.packages()).unwrap();
        fs::write(&vcap.compile_marker(), b"redis\n").unwrap();
        start(&vcap);
        assert!(source.exists());
        fs::remove_file(&vcap.compile_marker()).unwrap();
        start(&vcap);
        assert!(!source.exists());
    }

    #[test]
    fn the_dummy_platform_leaves_owners_and_environment_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        let environment = bootstrap(&vcap, Platform::Dummy, &Environment::default()).unwrap();
        assert_eq!(environment.iter().count(), 0);
        assert!(vcap.blobs().is_dir() && vcap.sys_log().is_dir());
        assert!(!vcap.data_packages().exists());
        let own = fs::metadata(scratch.path()).unwrap();
        let made = fs::metadata(&vcap.blobs()).unwrap();
        assert_eq!((own.uid(), own.gid()), (made.uid(), made.gid()));
    }
}

//! Creates the directories that a stemcell lacks and removes the leftovers of a killed agent.
//!
//! These are the steps of the Go agent's bootstrap that compiling needs; the others are left out. Disks, users, networks and the
//! firewall are not changed. Each step can be repeated: existing directories, links and mounts stay.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Group, geteuid};

use crate::config::{Environment, Vcap};
use crate::diag::Chain;
use crate::fs;

/// The id of the group `vcap` if the system does not know the name. All stemcells use this id.
const VCAP_GROUP: u32 = 1000;

/// The prefix of the agent's temporary files and directories.
pub(crate) const TEMPORARY: &str = ".bosh-agent-";

/// The prefix of archives of logs. The agent locks each archive until it has renamed it to a bundle, or uploaded and removed it.
pub(crate) const LOGS_ARCHIVE: &str = ".bosh-agent-logs-";

/// The prefix of bundles of logs: archives that a client copies and then removes. The agent removes the others at its next start.
pub(crate) const LOGS_BUNDLE: &str = ".bosh-agent-logs-bundle-";

/// The kind of machine, the value of `-P`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// A stemcell.
    Linux,
    /// A machine for tests: the agent changes nothing outside the base directory, and no file owners.
    Dummy,
}

/// Why the machine could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The path exists but is not a directory.
    #[error("`{}` exists but is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
}

/// A directory below the base directory.
struct AgentDirectory {
    path: &'static str,
    mode: u32,
    /// Whether access by group and others is removed from an existing directory.
    private: bool,
}

const fn directory(path: &'static str, mode: u32) -> AgentDirectory {
    AgentDirectory {
        path,
        mode,
        private: mode & 0o077 == 0,
    }
}

/// The directories that the Go agent creates, parents first.
const DIRECTORIES: [AgentDirectory; 12] = [
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

/// The directories for the temporary files of all users.
const TEMPORARY_OF_ALL: [&str; 2] = ["/tmp", "/var/tmp"];

/// The directories that the Go agent does not create on the dummy platform.
const NOT_FOR_DUMMY: [&str; 3] = ["data/packages", "data/sys/run", "data/dynamic_disks"];

/// The directories in the base directory that [`bootstrap`] and the daemon use. File systems that are mounted over them must respond: a
/// thread that waits for a silent file system keeps the agent from exiting.
#[must_use]
pub(crate) fn directories(vcap: &Vcap) -> Vec<PathBuf> {
    let own = [
        vcap.base().to_owned(),
        vcap.bosh(),
        vcap.etc(),
        fs::parent(&vcap.settings_in_memory()).to_owned(),
        vcap.instance(),
        vcap.packages(),
        vcap.compile(),
        vcap.sys(),
        vcap.sys_log(),
    ];
    let made = DIRECTORIES.iter().map(|it| vcap.base().join(it.path));
    let shared = TEMPORARY_OF_ALL.iter().map(PathBuf::from);
    let shared = shared.filter(|_| prepares_temporary_of_all(vcap));
    own.into_iter().chain(made).chain(shared).collect()
}

/// Creates the directories and removes the leftovers of a killed agent.
///
/// Installed packages and blobs stay, as other programs may have created them.
///
/// # Errors
/// If a directory that compiling needs cannot be created. Other failures (owners, `/tmp`, leftovers) are logged.
pub fn bootstrap(vcap: &Vcap, platform: Platform) -> Result<(), BootstrapError> {
    let group = directory_group(platform);
    fs::create_dir_all(vcap.base())?;
    for directory in &DIRECTORIES {
        if platform == Platform::Linux || !NOT_FOR_DUMMY.contains(&directory.path) {
            create(vcap, directory, group)?;
        }
    }
    create_sys_link(vcap, group)?;
    remove_leftovers(vcap);
    if platform == Platform::Linux && prepares_temporary_of_all(vcap) {
        for shared in TEMPORARY_OF_ALL {
            log_failure(make_writable_for_all(Path::new(shared), group));
        }
    }
    Ok(())
}

/// The environment of scripts: on a stemcell, `environment` with `TMPDIR` on the data disk.
#[must_use]
pub(crate) fn script_environment(
    vcap: &Vcap,
    platform: Platform,
    environment: &Environment,
) -> Environment {
    match platform {
        Platform::Linux => environment.with(&[("TMPDIR", vcap.temporary().into_os_string())]),
        Platform::Dummy => environment.clone(),
    }
}

/// Whether this process may change the directories for temporary files of all users. Tests use another base directory, and must not
/// change them.
fn prepares_temporary_of_all(vcap: &Vcap) -> bool {
    vcap.base() == Path::new(Vcap::BASE) && geteuid().is_root()
}

/// The group of the directories; `None` if owner and group are not changed.
fn directory_group(platform: Platform) -> Option<u32> {
    if platform == Platform::Dummy {
        return None;
    }
    if !geteuid().is_root() {
        tracing::warn!("not running as root: the owners of directories are not changed");
        return None;
    }
    let group = Group::from_name("vcap").ok().flatten();
    Some(group.map_or(VCAP_GROUP, |group| group.gid.as_raw()))
}

fn create(
    vcap: &Vcap,
    directory: &AgentDirectory,
    group: Option<u32>,
) -> Result<(), BootstrapError> {
    create_at(
        &vcap.base().join(directory.path),
        directory.mode,
        directory.private,
        group,
    )
}

fn create_at(
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
        // A link that an operator created is kept, even if its target has another mode.
        Some(_) if path.is_dir() => return Ok(()),
        // A link whose target does not exist, perhaps because its disk is not mounted yet: `create_dir` fails, with an error that names
        // the link.
        Some(there) if there.is_symlink() && fs::metadata(path).is_err() => fs::create_dir(path)?,
        Some(_) => {
            return Err(BootstrapError::NotADirectory {
                path: path.to_owned(),
            });
        }
    }
    log_failure(set_group(path, group));
    Ok(())
}

/// Changes the owner to root and the group to `group`.
fn set_group(path: &Path, group: Option<u32>) -> fs::Result<()> {
    let Some(group) = group else { return Ok(()) };
    let metadata = fs::metadata(path)?;
    if (metadata.uid(), metadata.gid()) == (0, group) {
        return Ok(());
    }
    fs::set_owner_if_allowed(path, 0, group)
}

/// Makes `/var/vcap/sys` a link to a directory on the data disk. An existing directory stays, and so does a link to an existing directory.
fn create_sys_link(vcap: &Vcap, group: Option<u32>) -> Result<(), BootstrapError> {
    let link = vcap.sys();
    let target = vcap.data().join("sys");
    match fs::lookup(&link)? {
        None => fs::symlink(&target, &link)?,
        Some(there) if there.is_symlink() && !link.is_dir() => {
            let old = fs::read_link(&link)?;
            tracing::warn!(old = %old.display(), new = %target.display(), "replacing a dangling link");
            fs::remove_file(&link)?;
            fs::symlink(&target, &link)?;
        }
        Some(_) => {}
    }
    create_at(&vcap.sys_log(), 0o750, false, group)
}

fn make_writable_for_all(path: &Path, group: Option<u32>) -> fs::Result<()> {
    const MODE: u32 = 0o1777;
    set_group(path, group)?;
    if fs::metadata(path)?.permissions().mode() & 0o7777 == MODE {
        return Ok(());
    }
    fs::set_mode(path, MODE)
}

/// Removes temporary files, extracted sources and partial downloads of a killed agent.
fn remove_leftovers(vcap: &Vcap) {
    for directory in [
        vcap.temporary(),
        vcap.blobs().join("tmp"),
        vcap.sensitive_blobs().join("tmp"),
    ] {
        log_failure(empty(&directory, &vcap.data()));
    }
    if is_compile_tree_unused(vcap) {
        log_failure(empty(&vcap.compile(), &vcap.data()));
    }
    for directory in [vcap.blobs(), vcap.sensitive_blobs()] {
        if is_replaced(&directory, &vcap.data()).is_ok_and(|is_replaced| !is_replaced) {
            fs::remove_abandoned(&directory, TEMPORARY, None);
        }
    }
    remove_leftovers_outside_data(vcap);
}

/// Removes the temporary files of a killed agent that are not in the data directory.
pub(crate) fn remove_leftovers_outside_data(vcap: &Vcap) {
    for directory in [
        vcap.bosh(),
        vcap.etc(),
        fs::parent(&vcap.settings_in_memory()).to_owned(),
        vcap.instance(),
    ] {
        fs::remove_abandoned(&directory, TEMPORARY, None);
    }
}

/// Whether no run uses the sources in `data/compile`. If the marker file exists, a run was killed: the next compile removes the sources of
/// that run after its processes have ended.
fn is_compile_tree_unused(vcap: &Vcap) -> bool {
    let at_once = Duration::ZERO;
    !vcap.compile_marker().exists()
        && fs::wait_until_free(&vcap.compile_lock(), at_once, &|| true).unwrap_or(false)
}

/// Removes the contents of a directory below `data`, except mounts and temporary files in use. If the directory is a mount or behind a
/// link, removes only abandoned archives of logs, which no other program creates.
fn empty(directory: &Path, data: &Path) -> fs::Result<()> {
    if is_replaced(directory, data)? {
        fs::remove_abandoned_files(directory, LOGS_ARCHIVE);
        tracing::info!(path = %directory.display(), "keeping the files in a directory behind a link or a mount: others may use it");
        return Ok(());
    }
    fs::remove_abandoned(directory, TEMPORARY, None);
    let entries = fs::list(directory)?;
    if entries.is_empty() {
        return Ok(());
    }
    for entry in entries {
        let path = entry.path();
        let is_temporary = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMPORARY.as_bytes());
        // Do not detect mounts by device numbers: Btrfs subvolumes and files of an overlay have other numbers than their parent without
        // being mounts, and a bind mount may have the number of its parent.
        if !is_temporary && !fs::is_mount_point(&path)? {
            fs::remove_tree(&path)?;
        }
    }
    Ok(())
}

/// Whether a directory below `data` is a mount point, or is reached through a link below `data`. An unrestricted script may have left the
/// mount or the link, so the files in it may not be the agent's. Mounts at parents are accepted, because `data/sensitive_blobs` may be one.
fn is_replaced(directory: &Path, data: &Path) -> fs::Result<bool> {
    // Check this first: if the file system does not respond, `lookup` would block.
    if fs::is_mount_point(directory)? {
        return Ok(true);
    }
    for path in directory.ancestors().take_while(|path| *path != data) {
        if fs::lookup(path)?.is_some_and(|found| found.is_symlink()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Logs the failure of a step that compiling does not need.
fn log_failure<T>(done: fs::Result<T>) {
    if let Err(error) = done {
        tracing::warn!(error = %Chain(&error), "a step of the machine's preparation failed; continuing without it");
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
        bootstrap(vcap, Platform::Linux).unwrap();
        script_environment(vcap, Platform::Linux, &inherited)
    }

    #[test]
    fn directories_and_tmpdir_are_those_of_the_go_agent() {
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
                        (0, directory_group(Platform::Linux).unwrap())
                    );
                }
            }
            assert_eq!(fs::read_link(&vcap.sys()).unwrap(), vcap.data().join("sys"));
            assert!(vcap.sys_log().is_dir());
        }
    }

    #[test]
    fn existing_directories_stay_and_private_ones_are_closed() {
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
    fn dangling_link_is_replaced_and_file_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        fs::symlink(Path::new("/none/at/all"), &vcap.sys()).unwrap();
        start(&vcap);
        assert_eq!(fs::read_link(&vcap.sys()).unwrap(), vcap.data().join("sys"));

        fs::remove_tree(&vcap.temporary()).unwrap();
        fs::write(&vcap.temporary(), b"").unwrap();
        let error = bootstrap(&vcap, Platform::Linux).unwrap_err();
        let path = vcap.temporary().display().to_string();
        assert_eq!(
            error.to_string(),
            format!("`{path}` exists but is not a directory")
        );
    }

    #[test]
    fn leftovers_are_removed_and_files_in_use_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        start(&vcap);
        let held = fs::LeasedDirectory::create(&vcap.temporary(), ".bosh-agent-work-").unwrap();
        let write = |path: PathBuf| {
            fs::create_dir_all(fs::parent(&path)).unwrap();
            fs::write(&path, b"x").unwrap();
            path
        };
        let leftovers = [
            vcap.temporary().join("blob"),
            vcap.temporary().join(".bosh-agent-work-dead/file"),
            vcap.compile().join("redis/src/file"),
            vcap.blobs().join("tmp/partial"),
            vcap.sensitive_blobs().join("tmp/partial"),
            vcap.blobs().join(".bosh-agent-upload-1"),
            vcap.bosh().join(".bosh-agent-write-1"),
        ]
        .map(write);
        let kept = [
            vcap.blobs().join("0f7c6f2e"),
            vcap.data_packages().join("redis/1/file"),
            vcap.settings(),
        ]
        .map(write);
        start(&vcap);
        for path in &leftovers {
            assert!(!path.exists(), "{}", path.display());
        }
        for path in &kept {
            assert!(path.exists(), "{}", path.display());
        }
        assert!(held.path().exists());
    }

    #[test]
    fn leftovers_behind_links_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        start(&vcap);
        let host = scratch.path().join("host");
        fs::create_dir_all(&host.join("tmp")).unwrap();
        let theirs = ["file", "tmp/file", ".bosh-agent-work-1", "logs-1"];
        // An archive that was not uploaded, and a bundle that no client has removed.
        let logs = [
            ".bosh-agent-logs-1.tgz",
            "tmp/.bosh-agent-logs-1.tgz",
            ".bosh-agent-logs-bundle-1.tgz",
            "tmp/.bosh-agent-logs-bundle-1.tgz",
        ];
        for file in theirs {
            fs::write(&host.join(file), b"").unwrap();
        }
        for directory in [
            vcap.temporary(),
            vcap.blobs().join("tmp"),
            vcap.sensitive_blobs(),
            vcap.compile(),
        ] {
            for file in logs {
                fs::write(&host.join(file), b"").unwrap();
            }
            fs::remove_tree(&directory).unwrap();
            fs::symlink(&host, &directory).unwrap();
            start(&vcap);
            for file in theirs {
                assert!(host.join(file).exists(), "{}", directory.display());
            }
            let is_left = |file: &&&str| host.join(file).exists();
            let left = logs.iter().filter(is_left).count();
            // Those in one of the two directories are removed.
            assert_eq!(left, 2, "{}", directory.display());
            fs::remove_file(&directory).unwrap();
            fs::create_dir(&directory).unwrap();
        }
    }

    #[test]
    fn sources_stay_while_another_process_compiles() {
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
    fn dummy_platform_keeps_owners_and_environment() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        bootstrap(&vcap, Platform::Dummy).unwrap();
        let environment = script_environment(&vcap, Platform::Dummy, &Environment::default());
        assert_eq!(environment.iter().count(), 0);
        assert!(vcap.blobs().is_dir() && vcap.sys_log().is_dir());
        assert!(!vcap.data_packages().exists());
        let own = fs::metadata(scratch.path()).unwrap();
        let made = fs::metadata(&vcap.blobs()).unwrap();
        assert_eq!((own.uid(), own.gid()), (made.uid(), made.gid()));
    }
}

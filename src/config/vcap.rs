//! The paths below the base directory, which is `/var/vcap` on a BOSH VM.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use crate::release::{Name, Version};

/// The names in `BASE/data` that have another purpose, so they cannot be names of scratch
/// directories; see [`Vcap::scratch`].
const RESERVED: [&str; 14] = [
    "blobs",
    "bosh",
    "bosh-agent-logs",
    "compile",
    "dynamic_disks",
    "jobs",
    "lost+found",
    "packages",
    "root_log",
    "root_tmp",
    "sensitive_blobs",
    "store",
    "sys",
    "tmp",
];

/// Whether scripts can see a path below the base directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// The path is visible, and so is everything below it, except what is in the agent's own directory (`bosh`).
    Full,
    /// The path is a directory, and each entry has its own visibility.
    Partial,
    /// The path is hidden: it contains keys or passwords, or belongs to the agent.
    Hidden,
}

/// The paths below a base directory. Compiled programs contain these paths, so programs that will
/// run on a BOSH VM must be compiled in the base directory `/var/vcap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcap {
    base: PathBuf,
}

impl Default for Vcap {
    fn default() -> Self {
        Self::new(Path::new(Self::BASE))
    }
}

impl Vcap {
    /// The base directory of every BOSH VM.
    pub const BASE: &'static str = "/var/vcap";

    /// The paths below `base`, which must be an absolute path.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
        }
    }

    /// The base directory.
    #[must_use]
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The directory of links to installed packages.
    #[must_use]
    pub fn packages(&self) -> PathBuf {
        self.base.join("packages")
    }

    /// The directory for large data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    /// The directory of installed packages, to which the links in [`packages`](Self::packages)
    /// lead.
    #[must_use]
    pub(crate) fn data_packages(&self) -> PathBuf {
        self.base.join("data/packages")
    }

    /// The directory for the sources of packages, in which scripts run.
    #[must_use]
    pub fn compile(&self) -> PathBuf {
        self.base.join("data/compile")
    }

    /// The scratch directory of a package, which its script and the scripts of its dependents
    /// share. `None` if the name is reserved in the data directory.
    #[must_use]
    pub fn scratch(&self, name: &Name) -> Option<PathBuf> {
        let name = name.as_str();
        let is_free = !name.starts_with('.') && !RESERVED.contains(&name);
        is_free.then(|| self.data().join(name))
    }

    /// The lock file of a process that compiles in the base directory.
    #[must_use]
    pub(crate) fn compile_lock(&self) -> PathBuf {
        self.base.join("data/.bosh-agent-compile.lock")
    }

    /// A file that lists the packages that the agent installed in the base directory. Its name is
    /// not a valid package name.
    #[must_use]
    pub(crate) fn compile_marker(&self) -> PathBuf {
        self.base.join("packages/.bosh-agent:compile")
    }

    /// The directory for logs of packaging scripts, where `bosh logs` finds them.
    #[must_use]
    pub(crate) fn compilation_logs(&self) -> PathBuf {
        self.base.join("sys/log/compilation")
    }

    /// The directory for scratch directories that the daemon keeps for later compilations.
    #[must_use]
    pub(crate) fn kept_scratch(&self) -> PathBuf {
        self.base.join("data/.bosh-agent-scratch")
    }

    /// The directory for the directories of the package that failed last, if they are kept.
    #[must_use]
    pub(crate) fn kept_failed(&self) -> PathBuf {
        self.base.join("data/.bosh-agent-failed")
    }

    /// The file with the version of the stemcell.
    #[must_use]
    pub(crate) fn stemcell_version(&self) -> PathBuf {
        self.base.join("bosh/etc/stemcell_version")
    }

    /// The agent's own directory, with programs, configuration and state.
    #[must_use]
    pub fn bosh(&self) -> PathBuf {
        self.base.join("bosh")
    }

    /// Whether scripts can see a path. In the agent's directory, scripts see the agent's programs
    /// and the metadata of the stemcell. The rest is hidden, because it may contain secrets:
    /// settings with the key of the message bus, updates of settings, tasks, and passwords of
    /// blobstores.
    #[must_use]
    pub(crate) fn visibility(&self, path: &Path) -> Visibility {
        let Ok(below) = path.strip_prefix(self.bosh()) else {
            return Visibility::Full;
        };
        let mut names = below.iter().map(OsStr::as_encoded_bytes);
        match (names.next(), names.next()) {
            (None, _) | (Some(b"etc"), None) => Visibility::Partial,
            (Some(b"etc"), Some(name)) if name.starts_with(b"blobstore-") => Visibility::Hidden,
            (Some(b"bin" | b"etc"), _) => Visibility::Full,
            _ => Visibility::Hidden,
        }
    }

    /// The directory for the metadata of the stemcell and the options of blobstores.
    #[must_use]
    pub(crate) fn etc(&self) -> PathBuf {
        self.base.join("bosh/etc")
    }

    /// The lock file of the agent that uses this base directory.
    #[must_use]
    pub(crate) fn agent_lock(&self) -> PathBuf {
        self.base.join("bosh/agent.lock")
    }

    /// The file with the settings that were loaded last.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.base.join("bosh/settings.json")
    }

    /// The file with the settings that were loaded last, if they must not be on a disk. Its
    /// directory is a tmpfs.
    #[must_use]
    pub(crate) fn settings_in_memory(&self) -> PathBuf {
        self.base.join("bosh/settings/settings.json")
    }

    /// The file with the Director's updates of the settings.
    #[must_use]
    pub fn update_settings(&self) -> PathBuf {
        self.base.join("bosh/update_settings.json")
    }

    /// The file with the spec that was applied last.
    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.base.join("bosh/spec.json")
    }

    /// The file with the tasks, which survive a restart of the agent.
    #[must_use]
    pub(crate) fn tasks(&self) -> PathBuf {
        self.base.join("bosh/tasks.json")
    }

    /// The configuration file of a blobstore program (`bosh-blobstore-PROVIDER`).
    #[must_use]
    pub(crate) fn blobstore_options(&self, provider: &str) -> PathBuf {
        self.etc().join(format!("blobstore-{provider}.json"))
    }

    /// The directory in which jobs find data about their machine.
    #[must_use]
    pub fn instance(&self) -> PathBuf {
        self.base.join("instance")
    }

    /// The file with the health of the machine, in the format of heartbeats.
    #[must_use]
    pub(crate) fn health(&self) -> PathBuf {
        self.base.join("instance/health.json")
    }

    /// The DNS records that BOSH DNS reads.
    #[must_use]
    pub(crate) fn dns_records(&self) -> PathBuf {
        self.instance().join("dns/records.json")
    }

    /// The home directories of users of `bosh ssh`.
    #[must_use]
    pub(crate) fn ssh_homes(&self) -> PathBuf {
        self.base.join("bosh_ssh")
    }

    /// The `TMPDIR` of the agent's child processes.
    #[must_use]
    pub(crate) fn temporary(&self) -> PathBuf {
        self.base.join("data/tmp")
    }

    /// The directory for blobs that were uploaded over HTTPS.
    #[must_use]
    pub(crate) fn blobs(&self) -> PathBuf {
        self.base.join("data/blobs")
    }

    /// The directory for blobs that were sent in requests (`upload_blob`).
    #[must_use]
    pub(crate) fn sensitive_blobs(&self) -> PathBuf {
        self.base.join("data/sensitive_blobs")
    }

    /// The link to the directory for logs and PID files of jobs.
    #[must_use]
    pub(crate) fn sys(&self) -> PathBuf {
        self.base.join("sys")
    }

    /// The directory for the logs of jobs.
    #[must_use]
    pub(crate) fn sys_log(&self) -> PathBuf {
        self.base.join("sys/log")
    }

    /// The mount point of the persistent disk.
    #[must_use]
    pub(crate) fn store(&self) -> PathBuf {
        self.base.join("store")
    }

    /// The paths of one package.
    #[must_use]
    pub fn package(&self, name: &Name, version: &Version) -> PackagePaths {
        let packages = self.data_packages().join(name.as_ref());
        PackagePaths {
            compile: self.compile().join(name.as_ref()),
            install: packages.join(version_directory(version)),
            packages,
            link: self.packages().join(name.as_ref()),
        }
    }
}

/// The paths of a package while the package or one of its dependents is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagePaths {
    /// The working directory of the script, with the sources.
    pub compile: PathBuf,
    /// The directory that contains all installed versions of the package.
    pub packages: PathBuf,
    /// The installation directory, whose contents become the compiled package.
    pub install: PathBuf,
    /// The link to [`install`](Self::install). Scripts use this link.
    pub link: PathBuf,
}

/// The directory name of a version. It is the version's SHA-1, as in the Go agent, because the
/// version may not be valid in a path.
fn version_directory(version: &Version) -> String {
    let hash = Sha1::digest(version.as_ref().as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_paths_are_the_go_agents() {
        let vcap = Vcap::new(Path::new(Vcap::BASE));
        let paths = vcap.package(
            &Name::parse("redis").unwrap(),
            &Version::parse("1.10").unwrap(),
        );
        assert_eq!(paths.compile, Path::new("/var/vcap/data/compile/redis"));
        assert_eq!(paths.link, Path::new("/var/vcap/packages/redis"));
        // printf 1.10 | sha1sum
        assert_eq!(
            paths.install,
            Path::new("/var/vcap/data/packages/redis/22a585885b5cb7cc58d60445ecf0d8ad6f76ef24")
        );
    }

    #[test]
    fn scripts_see_programs_and_stemcell_but_no_secrets() {
        let vcap = Vcap::new(Path::new(Vcap::BASE));
        for (path, visibility) in [
            ("/var/vcap", Visibility::Full),
            ("/var/vcap/bosh", Visibility::Partial),
            ("/var/vcap/bosh/bin", Visibility::Full),
            ("/var/vcap/bosh/bin/bosh-agent", Visibility::Full),
            ("/var/vcap/bosh/etc", Visibility::Partial),
            ("/var/vcap/bosh/etc/stemcell_version", Visibility::Full),
            ("/var/vcap/bosh/etc/blobstore-dav.json", Visibility::Hidden),
            ("/var/vcap/bosh/settings.json", Visibility::Hidden),
            ("/var/vcap/bosh/settings/settings.json", Visibility::Hidden),
            ("/var/vcap/bosh/agent.json", Visibility::Hidden),
            ("/var/vcap/jobs", Visibility::Full),
        ] {
            assert_eq!(vcap.visibility(Path::new(path)), visibility, "{path}");
        }
    }

    #[test]
    fn reserved_names_have_no_scratch_directory() {
        let vcap = Vcap::new(Path::new(Vcap::BASE));
        let scratch = |name| vcap.scratch(&Name::parse(name).unwrap());
        assert_eq!(
            scratch("golang-1-linux"),
            Some(PathBuf::from("/var/vcap/data/golang-1-linux"))
        );
        for name in ["packages", "compile", ".bosh-agent-tmp", "sys", "tmp"] {
            assert_eq!(scratch(name), None, "{name}");
        }
    }
}

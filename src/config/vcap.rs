//! The paths below the base directory, which is `/var/vcap` on a BOSH VM.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use crate::release::{Name, Version};

/// Directories of `BASE/data` with another purpose, here or on a VM.
const NOT_SCRATCH: [&str; 14] = [
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

/// How much of a path below the base directory scripts see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// All of it.
    Whole,
    /// It is a directory, and each entry has its own answer.
    InPart,
    /// Nothing: it holds keys or passwords, or is the agent's own.
    Nothing,
}

/// The paths below a base directory. Compiled programs carry these paths inside, so the base is
/// `/var/vcap` for anything that is to run on a BOSH VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcap {
    base: PathBuf,
}

impl Vcap {
    /// The base directory of every BOSH VM.
    pub const BASE: &'static str = "/var/vcap";

    /// The tree below `base`, which is absolute.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
        }
    }

    /// The base directory itself.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Where packages are found by name: a directory of links.
    #[must_use]
    pub fn packages(&self) -> PathBuf {
        self.base.join("packages")
    }

    /// Everything big.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    /// Where the links in [`packages`](Self::packages) lead.
    #[must_use]
    pub fn data_packages(&self) -> PathBuf {
        self.base.join("data/packages")
    }

    /// Where sources are unpacked and scripts run.
    #[must_use]
    pub fn compile(&self) -> PathBuf {
        self.base.join("data/compile")
    }

    /// The scratch directory of a package, which the scripts of the package and of its dependents
    /// share. `None` for a name that stands for something else in the data directory.
    #[must_use]
    pub fn scratch(&self, name: &Name) -> Option<PathBuf> {
        let name = name.as_str();
        let is_free = !name.starts_with('.') && !NOT_SCRATCH.contains(&name);
        is_free.then(|| self.data().join(name))
    }

    /// Held while somebody compiles in the tree itself.
    #[must_use]
    pub fn compile_lock(&self) -> PathBuf {
        self.base.join("data/.bosh-agent-compile.lock")
    }

    /// Says that the packages in the tree are ours, and which they are. No package can be called
    /// so.
    #[must_use]
    pub fn compile_marker(&self) -> PathBuf {
        self.base.join("packages/.bosh-agent:compile")
    }

    /// Where `bosh logs` looks for the logs of packaging scripts.
    #[must_use]
    pub fn compilation_logs(&self) -> PathBuf {
        self.base.join("sys/log/compilation")
    }

    /// Where the daemon keeps scratch directories for later orders.
    #[must_use]
    pub fn kept_scratch(&self) -> PathBuf {
        self.base.join("data/.bosh-agent-scratch")
    }

    /// The configuration that `bosh-blobstore-PROVIDER` is given.
    #[must_use]
    pub fn blobstore_configuration(&self, provider: &str) -> PathBuf {
        self.base
            .join(format!("bosh/etc/blobstore-{provider}.json"))
    }

    /// The file in which a stemcell says its version.
    #[must_use]
    pub fn stemcell_version(&self) -> PathBuf {
        self.base.join("bosh/etc/stemcell_version")
    }

    /// The agent's own directory: programs, configuration, state.
    #[must_use]
    pub fn bosh(&self) -> PathBuf {
        self.base.join("bosh")
    }

    /// How much of a path scripts see. Of the agent's own directory they see its programs and what
    /// a stemcell says of itself. All else may hold secrets: settings with the key of the bus,
    /// changes of settings, tasks, passwords of blobstores.
    #[must_use]
    pub fn seen(&self, path: &Path) -> Seen {
        let Ok(below) = path.strip_prefix(self.bosh()) else {
            return Seen::Whole;
        };
        let mut names = below.iter().map(OsStr::as_encoded_bytes);
        match (names.next(), names.next()) {
            (None, _) | (Some(b"etc"), None) => Seen::InPart,
            (Some(b"etc"), Some(name)) if name.starts_with(b"blobstore-") => Seen::Nothing,
            (Some(b"bin" | b"etc"), _) => Seen::Whole,
            _ => Seen::Nothing,
        }
    }

    /// What a stemcell says of itself, and the options of blobstores.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.base.join("bosh/etc")
    }

    /// Where the service keeps the agent's own log; `bosh logs --agent` is this directory.
    #[must_use]
    pub fn agent_log(&self) -> PathBuf {
        self.base.join("bosh/log")
    }

    /// Held by the agent that serves this base directory.
    #[must_use]
    pub fn agent_lock(&self) -> PathBuf {
        self.base.join("bosh/agent.lock")
    }

    /// The settings as they were last loaded.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.base.join("bosh/settings.json")
    }

    /// The same where settings must not be on a disk: the directory is one in memory.
    #[must_use]
    pub fn settings_in_memory(&self) -> PathBuf {
        self.base.join("bosh/settings/settings.json")
    }

    /// What a Director changed in the settings.
    #[must_use]
    pub fn update_settings(&self) -> PathBuf {
        self.base.join("bosh/update_settings.json")
    }

    /// What was last applied.
    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.base.join("bosh/spec.json")
    }

    /// The tasks that a restart must not lose.
    #[must_use]
    pub fn tasks(&self) -> PathBuf {
        self.base.join("bosh/tasks.json")
    }

    /// What a blobstore's program is told, for providers that have one.
    #[must_use]
    pub fn blobstore_options(&self, provider: &str) -> PathBuf {
        self.etc().join(format!("blobstore-{provider}.json"))
    }

    /// What jobs may ask about the machine they are on.
    #[must_use]
    pub fn instance(&self) -> PathBuf {
        self.base.join("instance")
    }

    /// Whether the machine is well, in the words of heartbeats.
    #[must_use]
    pub fn health(&self) -> PathBuf {
        self.base.join("instance/health.json")
    }

    /// What `TMPDIR` is for the agent's children.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.base.join("data/tmp")
    }

    /// Blobs that were brought here over HTTPS.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.base.join("data/blobs")
    }

    /// Blobs that were sent in messages.
    #[must_use]
    pub fn sensitive_blobs(&self) -> PathBuf {
        self.base.join("data/sensitive_blobs")
    }

    /// The link that jobs use for their logs and process numbers.
    #[must_use]
    pub fn sys(&self) -> PathBuf {
        self.base.join("sys")
    }

    /// The logs of jobs.
    #[must_use]
    pub fn sys_log(&self) -> PathBuf {
        self.base.join("sys/log")
    }

    /// The persistent disk.
    #[must_use]
    pub fn store(&self) -> PathBuf {
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

/// Where one package is while it compiles, and while another is compiled against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagePaths {
    /// The script's working directory, which holds the source.
    pub compile: PathBuf,
    /// The directory that holds one directory for each version.
    pub packages: PathBuf,
    /// What is installed here becomes the compiled package.
    pub install: PathBuf,
    /// The link to [`install`](Self::install), the only path that scripts are told.
    pub link: PathBuf,
}

/// The Go agent calls the directory of a version by its SHA-1, since a version may hold what a path
/// may not.
fn version_directory(version: &Version) -> String {
    let hash = Sha1::digest(version.as_ref().as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_a_package_are_those_of_the_go_agent() {
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
    fn scripts_see_programs_and_the_stemcell_but_no_secrets() {
        let vcap = Vcap::new(Path::new(Vcap::BASE));
        for (path, seen) in [
            ("/var/vcap", Seen::Whole),
            ("/var/vcap/bosh", Seen::InPart),
            ("/var/vcap/bosh/bin", Seen::Whole),
            ("/var/vcap/bosh/bin/bosh-agent", Seen::Whole),
            ("/var/vcap/bosh/etc", Seen::InPart),
            ("/var/vcap/bosh/etc/stemcell_version", Seen::Whole),
            ("/var/vcap/bosh/etc/blobstore-dav.json", Seen::Nothing),
            ("/var/vcap/bosh/settings.json", Seen::Nothing),
            ("/var/vcap/bosh/settings/settings.json", Seen::Nothing),
            ("/var/vcap/bosh/agent.json", Seen::Nothing),
            ("/var/vcap/jobs", Seen::Whole),
        ] {
            assert_eq!(vcap.seen(Path::new(path)), seen, "{path}");
        }
    }

    #[test]
    fn directories_with_another_use_are_no_scratch() {
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

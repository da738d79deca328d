//! A directory for one test: a base directory, an output directory, and the test's own files.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::agent::{Agent, Ran};
use super::release::ReleaseBuilder;

/// The stemcell that tests compile for.
pub(crate) const STEMCELL: &str = "ubuntu-noble/1.406";

/// The default isolation tier, from `BOSH_AGENT_TEST_ISOLATION`.
fn isolation() -> String {
    std::env::var("BOSH_AGENT_TEST_ISOLATION").unwrap_or_else(|_| "none".to_owned())
}

/// The directories of one test. They are removed with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct World {
    root: Arc<Root>,
}

/// A directory that is removed with `rm`, because the recursion of `TempDir` overflows the stack if a failed test leaves a deep tree.
#[derive(Debug)]
struct Root(tempfile::TempDir);

impl Drop for Root {
    fn drop(&mut self) {
        self.0.disable_cleanup(true);
        let mut command = std::process::Command::new("rm");
        let _ = command.arg("-rf").arg(self.0.path()).status();
    }
}

impl World {
    pub(crate) fn new() -> Self {
        match isolation().as_str() {
            "none" => Self::new_in(&std::env::temp_dir()),
            // Scripts have their own /tmp, or cannot write to a /tmp that contains the base directory.
            _ => Self::outside_tmp(),
        }
    }

    /// Directories outside /tmp and /var/tmp, which scripts in namespaces do not share with the host.
    pub(crate) fn outside_tmp() -> Self {
        Self::new_in(&directory_outside_tmp())
    }

    /// Directories outside /tmp that every user can reach.
    pub(crate) fn for_everybody() -> Self {
        let directory = ["/opt", "/var/lib", "/srv"].map(Path::new);
        let directory = directory.into_iter().find(|directory| directory.is_dir());
        let world = Self::new_in(directory.expect("a directory outside /tmp"));
        std::fs::set_permissions(world.root.0.path(), Permissions::from_mode(0o755)).unwrap();
        world
    }

    /// Makes `root` the root directory of a machine, with the files and programs for accounts, and `store` a blobstore.
    pub(crate) fn with_accounts(self) -> Self {
        for (name, text) in [
            ("passwd", "root:x:0:0:root:/root:/bin/bash\n"),
            (
                "group",
                "root:x:0:\nvcap:x:1000:\nbosh_sudoers:x:1001:\nbosh_sshers:x:1002:\n",
            ),
            ("shadow", "root:*:1::::::\n"),
            (
                "gshadow",
                "root:*::\nvcap:!::\nbosh_sudoers:!::\nbosh_sshers:!::\n",
            ),
            (
                "login.defs",
                "USERGROUPS_ENAB yes\nUID_MIN 1000\nGID_MIN 1000\n",
            ),
            ("ssh/ssh_host_rsa_key.pub", "ssh-rsa AAAA host\n"),
        ] {
            self.write(&format!("root/etc/{name}"), text);
        }
        let programs = self.path("root/usr/sbin");
        std::fs::create_dir_all(&programs).unwrap();
        for program in ["useradd", "userdel"] {
            let file = Path::new("/usr/sbin").join(program);
            std::os::unix::fs::symlink(file, programs.join(program)).unwrap();
        }
        std::fs::create_dir(self.path("store")).unwrap();
        self
    }

    fn new_in(directory: &Path) -> Self {
        let root = tempfile::Builder::new()
            .prefix("bosh-agent-test-")
            .tempdir_in(directory)
            .unwrap();
        std::fs::create_dir(root.path().join("printed")).unwrap();
        Self {
            root: Arc::new(Root(root)),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.0.path().join(name)
    }

    /// The base directory. It does not exist before the first run.
    pub(crate) fn base(&self) -> PathBuf {
        self.path("vcap")
    }

    /// The output directory. It does not exist before the first run.
    pub(crate) fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// The path of the result for `NAME-VERSION`.
    pub(crate) fn result(&self, release: &str) -> PathBuf {
        self.out()
            .join(format!("{release}-{}.tgz", STEMCELL.replace('/', "-")))
    }

    /// The log of a package's script.
    pub(crate) fn log(&self, release: &str, package: &str) -> PathBuf {
        self.base()
            .join("sys/log/compilation")
            .join(release)
            .join(format!("{package}.log"))
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Writes a release in the CLI's format.
    pub(crate) fn release(&self, name: &str, release: &ReleaseBuilder) -> PathBuf {
        let path = self.path(name);
        release.write(&path);
        path
    }

    /// `bosh-agent compile` with the directories of this world.
    pub(crate) fn agent(&self) -> Agent {
        self.flags(Agent::bare(&self.path("printed")))
            .arg("--output-directory")
            .arg(self.out())
    }

    /// The same with another isolation tier and output directory.
    pub(crate) fn agent_at(&self, isolation: &str, out: &str) -> Agent {
        self.flags_with(Agent::bare(&self.path("printed")), isolation)
            .arg("--output-directory")
            .arg(self.path(out))
    }

    /// The same without an output directory.
    pub(crate) fn flags(&self, agent: Agent) -> Agent {
        self.flags_with(agent, &isolation())
    }

    pub(crate) fn flags_with(&self, agent: Agent, isolation: &str) -> Agent {
        agent
            .args(&["compile", "--isolation", isolation, "--stemcell", STEMCELL])
            .arg("--base-directory")
            .arg(self.base())
    }

    pub(crate) fn compile(&self, tarballs: &[&Path]) -> Ran {
        self.agent().args(tarballs).run()
    }

    /// Compiles one release and returns the path of its result.
    pub(crate) fn compiled(&self, release: &ReleaseBuilder) -> PathBuf {
        let tarball = self.release("release.tgz", release);
        let ran = self.compile(&[&tarball]).succeeds();
        let last = ran.stderr.lines().last().unwrap_or_default();
        let path = last
            .strip_prefix("Finished archiving compiled tarball ")
            .unwrap_or_else(|| panic!("the last line names no result:\n{}", ran.stderr));
        PathBuf::from(path)
    }

    /// All files of this world, to compare before and after.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, String> {
        snapshot(self.root.0.path())
    }
}

/// A directory outside /tmp and /var/tmp, which scripts in namespaces do not share with the host.
pub(crate) fn directory_outside_tmp() -> PathBuf {
    let home = std::env::var("HOME").unwrap_or_default();
    let directory = [env!("CARGO_TARGET_TMPDIR"), &home, "/var/lib", "/opt"]
        .into_iter()
        .map(Path::new)
        .find(|directory| {
            directory.is_dir()
                && !directory.starts_with("/tmp")
                && !directory.starts_with("/var/tmp")
        });
    directory.expect("a directory outside /tmp").to_owned()
}

/// All paths below a directory with type, mode and contents.
pub(crate) fn snapshot(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut next = vec![directory.to_owned()];
    while let Some(path) = next.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let mode = metadata.mode();
        let content = if metadata.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                next.push(entry.unwrap().path());
            }
            String::new()
        } else if metadata.is_symlink() {
            std::fs::read_link(&path).unwrap().display().to_string()
        } else if metadata.is_file() {
            let content = std::fs::read(&path).unwrap();
            match String::from_utf8(content) {
                Ok(text) if text.len() < 2000 => text,
                Ok(text) => format!("{} bytes, {}", text.len(), sum(text.as_bytes())),
                Err(error) => {
                    let bytes = error.into_bytes();
                    format!("{} bytes, {}", bytes.len(), sum(&bytes))
                }
            }
        } else {
            String::new()
        };
        let below = path.strip_prefix(directory).unwrap();
        found.insert(below.display().to_string(), format!("{mode:o} {content}"));
    }
    found
}

/// A short hash of contents.
fn sum(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

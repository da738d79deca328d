//! The isolation tiers of a machine with the privileges of root and of ordinary users, so that a test can run in each of them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bosh_agent::compile::Job;
use bosh_agent::release::{Digests, Name, Version};

use super::agent::{Agent, Ran, Running, copied_agent};
use super::outcome::{Listed, extract, list, unpacked};
use super::release::ReleaseBuilder;
use super::tools::{require, require_landlock, require_root, require_tools, run_tool, wait_for};
use super::world::{STEMCELL, World};

const LIMIT: Duration = Duration::from_secs(60);

/// The user who compiles, and its privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    /// Root without the privilege to mount.
    RootWithoutMounts,
    /// The same, without the privilege to create user namespaces, as in most containers.
    RootWithoutNamespaces,
    /// A user with a range in /etc/subuid.
    User,
    /// A user without a range.
    UserWithoutRange,
}

/// An isolation tier, the user, and the name of the tier on the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tier {
    pub(crate) who: Who,
    pub(crate) flag: &'static str,
    /// The name of the tier in messages.
    pub(crate) name: &'static str,
}

pub(crate) const NAMESPACE: Tier = Tier {
    who: Who::Root,
    flag: "auto",
    name: "namespace",
};
pub(crate) const USERNS_OF_ROOT: Tier = Tier {
    who: Who::RootWithoutMounts,
    flag: "auto",
    name: "userns",
};
pub(crate) const USERNS_OF_A_USER: Tier = Tier {
    who: Who::User,
    flag: "auto",
    name: "userns",
};
pub(crate) const LANDLOCK_OF_A_USER: Tier = Tier {
    who: Who::User,
    flag: "landlock",
    name: "landlock",
};
pub(crate) const NONE_OF_A_USER: Tier = Tier {
    who: Who::User,
    flag: "none",
    name: "none",
};
pub(crate) const LANDLOCK: Tier = Tier {
    who: Who::RootWithoutNamespaces,
    flag: "auto",
    name: "landlock",
};
/// Root with the privilege to mount; only the first run of a script is restricted by rules.
pub(crate) const LANDLOCK_OF_ROOT: Tier = Tier {
    who: Who::Root,
    flag: "landlock",
    name: "landlock",
};
pub(crate) const NONE: Tier = Tier {
    who: Who::Root,
    flag: "none",
    name: "none",
};

impl Tier {
    pub(crate) fn has_mounts(self) -> bool {
        matches!(self.name, "namespace" | "userns")
    }

    /// Whether this machine has what the tier and its tests need; see [`require`].
    pub(crate) fn is_possible(self) -> bool {
        let works = |arguments: &[&str]| {
            let mut command = std::process::Command::new("unshare");
            command
                .args(arguments)
                .arg("true")
                .stderr(std::process::Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        require(works(&["--mount"]), "the right to mount")
            && require(
                self.name != "userns" || works(&["--user", "--mount"]),
                "user namespaces",
            )
            && (self.name != "landlock" || require_landlock())
    }
}

/// Makes a test of `$test` for each of the tiers.
macro_rules! in_tiers {
    ($test:ident: $($tier:ident)*) => {
        #[expect(non_snake_case, reason = "the tests are called as the tiers are")]
        mod $test {
            $(#[test]
            fn $tier() {
                super::bodies::$test(super::$tier);
            })*
        }
    };
}

/// The user of these tests, without an account.
pub(crate) const USER: u32 = 12_345;

/// Directories for one test, writable for the user who compiles.
pub(crate) struct Place {
    pub(crate) tier: Tier,
    pub(crate) world: World,
    is_at_var_vcap: bool,
}

impl Place {
    /// `None` if the tier is not available. Then the reason was printed.
    pub(crate) fn new(tier: Tier) -> Option<Self> {
        if !require_root() || !require_tools(&["setpriv", "unshare", "newuidmap", "perl"]) {
            return None;
        }
        if !tier.is_possible() {
            return None;
        }
        let world = World::for_everybody();
        let place = Self {
            tier,
            world,
            is_at_var_vcap: false,
        };
        for directory in ["facts", "printed", "logs", "accounts"] {
            let _ = std::fs::create_dir(place.world.path(directory));
        }
        // The program may be in a directory that only root can reach.
        copied_agent(&place.world.path(""));
        place.give_accounts();
        if matches!(tier.who, Who::User | Who::UserWithoutRange) {
            for directory in ["", "facts", "printed", "logs"] {
                std::os::unix::fs::chown(place.world.path(directory), Some(USER), Some(USER))
                    .unwrap();
            }
        }
        Some(place)
    }

    /// The agent finds the base directory at /var/vcap, for releases whose scripts use this path.
    pub(crate) fn at_var_vcap(mut self) -> Self {
        self.is_at_var_vcap = true;
        for directory in ["var", "vcap"] {
            std::fs::create_dir(self.world.path(directory)).unwrap();
        }
        if matches!(self.tier.who, Who::User | Who::UserWithoutRange) {
            std::os::unix::fs::chown(self.world.base(), Some(USER), Some(USER)).unwrap();
        }
        self
    }

    /// Files that are mounted over the system's, as tests do not change accounts.
    pub(crate) fn give_accounts(&self) {
        let mut passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        passwd.extend([format!("bosh-agent-test:x:{USER}:{USER}::/:/bin/sh\n")]);
        self.world.write("accounts/passwd", passwd);
        let range = match self.tier.who {
            Who::UserWithoutRange => String::new(),
            _ => "bosh-agent-test:1000000:65536\n".to_owned(),
        };
        for file in ["subuid", "subgid"] {
            self.world.write(&format!("accounts/{file}"), &range);
        }
    }

    pub(crate) fn agent(&self) -> Agent {
        let base = match self.is_at_var_vcap {
            true => PathBuf::from("/var/vcap"),
            false => self.world.base(),
        };
        self.agent_as(self.tier.flag, &base)
    }

    pub(crate) fn agent_as(&self, isolation: &str, base: &Path) -> Agent {
        self.flags(self.bare(), isolation, base)
    }

    /// `bosh-agent compile`, started by another program.
    pub(crate) fn agent_through(&self, program: &str) -> Agent {
        self.flags(
            self.bare_through(program),
            self.tier.flag,
            &self.world.base(),
        )
    }

    /// The same arguments for another program.
    pub(crate) fn with_flags(&self, agent: Agent) -> Agent {
        self.flags(agent, self.tier.flag, &self.world.base())
    }

    fn flags(&self, agent: Agent, isolation: &str, base: &Path) -> Agent {
        agent
            .args(&["compile", "--isolation", isolation])
            .args(&["--stemcell", STEMCELL])
            .arg("--base-directory")
            .arg(base)
            .arg("--logs-dir")
            .arg(self.world.path("logs"))
            .arg("--output-directory")
            .arg(self.world.out())
            .env("FACTS", self.world.path("facts").to_str().unwrap())
    }

    /// The program with the privileges of the tier.
    pub(crate) fn bare(&self) -> Agent {
        self.bare_through("")
    }

    /// The same, started by another program.
    pub(crate) fn bare_through(&self, program: &str) -> Agent {
        let own = format!("{program} {}", self.world.path("bosh-agent").display());
        let before = match self.tier.who {
            Who::Root => format!("shift; exec {own} \"$@\""),
            Who::RootWithoutMounts => format!(
                "shift; exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin {own} \"$@\""
            ),
            // In a changed root no user namespace can be created.
            Who::RootWithoutNamespaces => format!(
                "shift; mount --rbind / /mnt && \
                 exec chroot /mnt setpriv --bounding-set -sys_admin --inh-caps -sys_admin {own} \"$@\""
            ),
            Who::User | Who::UserWithoutRange => {
                let accounts = self.world.path("accounts").display().to_string();
                format!(
                    "shift; for file in passwd subuid subgid; do \
                       mount --bind {accounts}/$file /etc/$file || exit 9; done; \
                     exec setpriv --reuid={USER} --regid={USER} --clear-groups {own} \"$@\""
                )
            }
        };
        let before = match self.is_at_var_vcap {
            true => mount_at_var_vcap(&self.world.path("var"), &self.world.base()) + &before,
            false => before,
        };
        let mut words = vec!["sh", "-c", &before, "sh"];
        if self.is_at_var_vcap || !matches!(self.tier.who, Who::Root | Who::RootWithoutMounts) {
            words.splice(0..0, ["unshare", "--mount"]);
        }
        Agent::wrapped(&self.world.path("printed"), &words)
    }

    pub(crate) fn release(&self, release: &ReleaseBuilder) -> PathBuf {
        let path = self.world.release("release.tgz", release);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    pub(crate) fn run(&self, release: &ReleaseBuilder) -> Ran {
        self.agent().arg(self.release(release)).run()
    }

    /// A run whose script has created `facts/started`.
    pub(crate) fn start(&self, script: &str) -> Running {
        self.start_of(self.agent().args(&["--grace", "1"]), script)
    }

    /// The same of a command that has all arguments except the release.
    pub(crate) fn start_of(&self, agent: Agent, script: &str) -> Running {
        let tarball = self.release(&ReleaseBuilder::of_script(script));
        let mut running = agent.arg(tarball).start();
        let started = self.world.path("facts/started");
        wait_for("the script's start", LIMIT, || {
            if started.exists() {
                return Ok(());
            }
            assert!(!running.has_ended(), "{}", running.stderr());
            Err(running.stderr())
        });
        running
    }

    /// The job of a package without dependencies, for tests of the core. `sources` exists.
    pub(crate) fn job(&self, name: &str, script: &str) -> Job {
        let source = self.world.path(&format!("sources/{name}"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("packaging"), script).unwrap();
        let blob = source.with_extension("tgz");
        let arguments = [
            "-czf".as_ref(),
            blob.as_os_str(),
            "-C".as_ref(),
            source.as_os_str(),
            ".".as_ref(),
        ];
        run_tool("tar", &arguments);
        Job {
            number: 0,
            name: Name::parse(name).unwrap(),
            version: Version::parse("1").unwrap(),
            source: blob,
            kept: None,
            source_digests: Digests::default(),
            source_date: None,
            dependencies: Vec::new(),
            log: source.with_extension("log"),
            stdout_log: None,
            blob: source.with_extension("compiled.tgz"),
            is_dependency: false,
            algorithms: Vec::new(),
        }
    }

    pub(crate) fn file(&self, package: &str, name: &str) -> String {
        let (_scratch, contents) = unpacked(&self.world.result("demo-1.10"), package);
        contents[name].clone()
    }

    /// The entries of a compiled package, as in its archive.
    pub(crate) fn entries(&self, package: &str) -> Vec<Listed> {
        let scratch = tempfile::tempdir().unwrap();
        extract(&self.world.result("demo-1.10"), scratch.path());
        list(
            &scratch
                .path()
                .join(format!("compiled_packages/{package}.tgz")),
        )
    }
}

/// Lines of a shell script that make a directory appear as /var/vcap, in its own mount namespace. Creates nothing in the machine's /var:
/// `scratch`, an empty directory, becomes a /var with all entries of the real one.
pub(crate) fn mount_at_var_vcap(scratch: &Path, base: &Path) -> String {
    let (scratch, base) = (scratch.display(), base.display());
    format!(
        "set -e; mount -t tmpfs -o mode=755 tmpfs {scratch}; \
         for entry in /var/*; do copy={scratch}/${{entry##*/}}; \
           if [ -L $entry ]; then cp -P $entry $copy; \
           elif [ -d $entry ]; then mkdir $copy; mount --rbind $entry $copy; fi; done; \
         mkdir -p {scratch}/vcap; mount --bind {base} {scratch}/vcap; mount --rbind {scratch} /var; set +e; "
    )
}

pub(crate) use in_tiers;

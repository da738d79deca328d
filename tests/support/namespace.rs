//! Directories for tests of `--isolation=namespace`.

use std::path::PathBuf;
use std::time::Duration;

use super::{Agent, ReleaseBuilder, Running, World, require_root, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Directories outside /tmp, which scripts in namespaces do not share with the host. Scripts write their findings to `$FACTS`.
pub(crate) struct NamespaceWorld {
    pub(crate) world: World,
}

impl NamespaceWorld {
    /// `None` if namespaces are not available. Then the reason was printed.
    pub(crate) fn new() -> Option<Self> {
        if !require_root() {
            return None;
        }
        let world = World::outside_tmp();
        std::fs::create_dir(world.path("facts")).unwrap();
        Some(Self { world })
    }

    pub(crate) fn agent(&self) -> Agent {
        self.agent_at("namespace", "out")
    }

    /// The same with another isolation tier and output directory.
    pub(crate) fn agent_at(&self, isolation: &str, out: &str) -> Agent {
        self.world
            .agent_at(isolation, out)
            .env("FACTS", self.world.path("facts").to_str().unwrap())
            .arg("--logs-dir")
            .arg(self.world.path("logs"))
    }

    pub(crate) fn release(&self, name: &str, release: &ReleaseBuilder) -> PathBuf {
        self.world.release(name, release)
    }

    pub(crate) fn fact(&self, name: &str) -> PathBuf {
        self.world.path("facts").join(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fact(name).exists()
    }

    /// Waits until scripts have written these facts.
    pub(crate) fn wait_for_facts(&self, running: &mut Running, names: &[&str]) {
        wait_for("the start of scripts", LIMIT, || {
            if names.iter().all(|name| self.has(name)) {
                return Ok(());
            }
            assert!(!running.has_ended(), "{}", running.stderr());
            Err(running.stderr())
        });
    }
}

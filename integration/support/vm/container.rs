//! Containers of a stemcell image as VMs.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{LIMIT, Machine, SETTINGS, agent_config, finish};
use crate::support::docker::{Container, docker};

/// The first process of a container of a stemcell with runit, which starts the agent and keeps its log in [`LOG_OF_RUNIT`].
pub(crate) const BOOT_WITH_RUNIT: [&str; 6] = [
    "env",
    "-i",
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "runsvdir",
    "-P",
    "/etc/service",
];

/// The agent's log in a stemcell with runit.
const LOG_OF_RUNIT: &str = "/var/vcap/bosh/log/current";

/// A container as a VM. Its supervisor restarts the agent when it ends, as runit does in a stemcell.
pub(crate) struct ContainerVm {
    container: Container,
    machine: Machine,
    /// Whether runit of the image started the agent.
    has_runit: bool,
    /// Mounted into the container.
    _mounted: TempDir,
}

impl ContainerVm {
    /// Starts a container of an image and copies the program into it. As with the Docker CPI, the settings come after the start. Without
    /// a `--network` in the options, the container is in this machine's network.
    #[track_caller]
    pub(crate) fn create(
        label: &str,
        (image, program): (&str, &Path),
        options: &[&str],
        machine: Machine,
    ) -> Self {
        const SUPERVISE: &str = r#"
            cd /var/vcap/bosh
            PATH=/var/vcap/bosh/bin:$PATH
            while true; do
                nice -n -15 bosh-agent -P "$(cat etc/operating_system)" -C agent.json
                echo "the supervisor: the agent has ended with $?" >&2
                sleep 1
            done
        "#;
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("agent.json");
        let text = agent_config(&format!("/var/vcap/{SETTINGS}")).to_string();
        fs::write(&config, text).unwrap();
        let config = format!("{}:/var/vcap/bosh/agent.json:ro", config.display());
        let program = format!("{}:/var/vcap/bosh/bin/bosh-agent:ro", program.display());
        let options = [&["-v", &config, "-v", &program], options].concat();
        let vm = Self {
            container: Container::new(label),
            machine,
            has_runit: false,
            _mounted: directory,
        };
        vm.start(image, &options, &["bash", "-c", SUPERVISE]);
        vm
    }

    /// Starts a container of an image that contains the agent, by the image's own supervisor.
    #[track_caller]
    pub(crate) fn boot(label: &str, image: &str, command: &[&str], machine: Machine) -> Self {
        let vm = Self {
            container: Container::new(label),
            machine,
            has_runit: true,
            _mounted: tempfile::tempdir().unwrap(),
        };
        vm.start(image, &[], command);
        vm
    }

    #[track_caller]
    fn start(&self, image: &str, options: &[&str], command: &[&str]) {
        let name = self.container.name();
        let mut fixed = vec!["run", "--detach", "--name", name];
        if !options.contains(&"--network") {
            fixed.extend(["--network", "host"]);
        }
        docker(&[&fixed, options, &[image], command].concat(), LIMIT).expect_code(0, "docker run");
        let directory = tempfile::tempdir().unwrap();
        let settings = directory.path().join("settings.json");
        fs::write(&settings, self.machine.settings().to_string()).unwrap();
        let target = format!("{name}:/var/vcap/{SETTINGS}");
        docker(&["cp", settings.to_str().unwrap(), &target], LIMIT).expect_code(0, "docker cp");
    }

    /// The container.
    pub(crate) fn container(&self) -> &str {
        self.container.name()
    }

    /// The log of the agent.
    pub(crate) fn log(&self) -> String {
        let arguments = match self.has_runit {
            true => vec!["exec", self.container.name(), "cat", LOG_OF_RUNIT],
            false => vec!["logs", self.container.name()],
        };
        let outcome = docker(&arguments, LIMIT);
        outcome.stdout + &outcome.stderr
    }

    /// Runs a shell command in the container and returns its output.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        let arguments = ["exec", self.container.name(), "bash", "-c", script];
        let outcome = docker(&arguments, LIMIT);
        outcome.expect_code(0, script);
        outcome.stdout
    }
}

impl Drop for ContainerVm {
    fn drop(&mut self) {
        finish(&self.log(), &self.machine.secrets());
    }
}

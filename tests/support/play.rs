//! An agent to which tests send requests: in this process, without a socket; in a user namespace as a process of its own.

use std::path::PathBuf;
use std::time::Duration;

use bosh_agent::agent::{self, AgentOptions, CompilerOptions};
use bosh_agent::config::{
    AgentConfig, CompilationConfig, Environment, Settings, Source, UpdateSettings, Vcap,
};
use bosh_agent::machine::bootstrap::{self, Platform};
use bosh_agent::machine::data::DataDirectory;
use bosh_agent::machine::settings::SettingsStore;
use bosh_agent::sandbox::{Isolation, UserNamespace};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::agent::Running;
use super::daemon::Daemon;
use super::outcome::sha1_of;
use super::shared::for_this_form;
use super::tiers::{NAMESPACE, Place, USERNS_OF_ROOT};
use super::tools::{require_landlock, require_root, require_tools, run_tool};
use super::ustar::{Member, archive};
use super::world::World;

/// Makes a test of `$test` for each of the ways in which an agent isolates packages.
macro_rules! in_isolations {
    ($test:ident: $($isolation:ident)*) => {
        #[expect(non_snake_case, reason = "the tests are called as the tiers are")]
        mod $test {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $isolation() {
                if let Some(play) = crate::support::Play::isolated(super::Isolation::$isolation) {
                    super::bodies::$test(play).await;
                }
            })*
        }
    };
}

const LIMIT: Duration = Duration::from_secs(60);

/// An agent with a local blobstore.
pub(crate) struct Play {
    pub(crate) world: World,
    host: Host,
}

/// Where the agent runs.
enum Host {
    Here(agent::Agent, Isolation),
    /// Entering a user namespace needs a process with a single thread.
    Process(Box<Place>, Running),
}

impl Play {
    pub(crate) fn start() -> Self {
        Self::start_with(Isolation::Auto)
    }

    /// An agent that isolates packages in this way.
    pub(crate) fn start_with(isolation: Isolation) -> Self {
        let world = World::outside_tmp();
        std::fs::create_dir(world.path("store")).unwrap();
        Self::start_in(world, isolation)
    }

    /// The same; `None` if this isolation is not available. Then the reason was printed.
    pub(crate) fn isolated(isolation: Isolation) -> Option<Self> {
        let (play, ()) = Self::isolated_after(isolation, |_| Some(()))?;
        Some(play)
    }

    /// The same after a preparation of the world; `None` also without its result.
    pub(crate) fn isolated_after<T>(
        isolation: Isolation,
        prepare: impl FnOnce(&World) -> Option<T>,
    ) -> Option<(Self, T)> {
        let is_possible = match isolation {
            Isolation::Namespace => require_root() && NAMESPACE.is_possible(),
            Isolation::Userns => {
                let place = require_tools(&["openssl", "curl"])
                    .then(|| Place::new(USERNS_OF_ROOT))
                    .flatten()?;
                let prepared = prepare(&place.world)?;
                return Some((Self::in_process(place), prepared));
            }
            Isolation::Landlock => require_landlock(),
            _ => true,
        };
        let world = is_possible.then(World::outside_tmp)?;
        for directory in ["store", "facts"] {
            std::fs::create_dir(world.path(directory)).unwrap();
        }
        let prepared = prepare(&world)?;
        Some((Self::start_in(world, isolation), prepared))
    }

    /// A daemon with the privileges of a place's tier, which chooses its isolation itself.
    pub(crate) fn in_process(place: Place) -> Self {
        let daemon = Daemon::start_in(&place);
        Self {
            world: place.world.clone(),
            host: Host::Process(Box::new(place), daemon),
        }
    }

    /// How an agent in this process isolates packages.
    pub(crate) fn isolation(&self) -> Option<Isolation> {
        match &self.host {
            Host::Here(_, isolation) => Some(*isolation),
            Host::Process(..) => None,
        }
    }

    /// The log of an agent in another process.
    pub(crate) fn log(&self) -> String {
        match &self.host {
            Host::Here(..) => String::new(),
            Host::Process(_, daemon) => daemon.stderr(),
        }
    }

    /// The agent in this process.
    pub(crate) fn here(&self) -> &agent::Agent {
        match &self.host {
            Host::Here(agent, _) => agent,
            Host::Process(..) => panic!("the agent is another process"),
        }
    }

    /// Stops the agent. Returns whether it has ended within a limit.
    pub(crate) async fn stop(self) -> bool {
        match self.host {
            Host::Here(agent, _) => agent.stop(LIMIT).await,
            Host::Process(_, daemon) => ends(daemon),
        }
    }

    /// Stops the agent and starts another one with the same directories.
    pub(crate) async fn restart(self) -> Self {
        let host = match self.host {
            Host::Here(agent, isolation) => {
                assert!(agent.stop(LIMIT).await);
                return Self::start_in(self.world, isolation);
            }
            Host::Process(place, daemon) => {
                assert!(ends(daemon));
                let daemon = Daemon::start_in(&place);
                Host::Process(place, daemon)
            }
        };
        Self { host, ..self }
    }

    /// Kills the process of the agent and starts another one with the same directories.
    pub(crate) fn killed(self) -> Self {
        let Host::Process(place, daemon) = self.host else {
            panic!("the agent is in this process");
        };
        daemon.signal(Signal::SIGKILL);
        assert_eq!(daemon.end().code, None);
        Self::in_process(*place)
    }

    /// An agent on a stemcell whose root directory is `root` in the world. It must not be asked to change settings: it would change
    /// this machine's certificates.
    pub(crate) fn on_a_stemcell(world: World) -> Self {
        Self::start_on(world, Isolation::None, Platform::Linux)
    }

    fn start_in(world: World, isolation: Isolation) -> Self {
        Self::start_on(world, isolation, Platform::Dummy)
    }

    fn start_on(world: World, isolation: Isolation, platform: Platform) -> Self {
        let vcap = Vcap::new(&world.base());
        let environment = Environment::of_this_process();
        std::fs::create_dir_all(vcap.bosh()).unwrap();
        bootstrap::bootstrap(&vcap, Platform::Dummy).unwrap();
        let settings = json!({
            "agent_id": "agent-1",
            "networks": {"default": {"ip": "10.0.0.9"}},
            "blobstore": {"provider": "local", "options": {"blobstore_path": world.path("store")}},
        });
        let sources = vec![Source::File {
            path: vcap.settings(),
        }];
        let config = AgentConfig {
            sources,
            ..AgentConfig::default()
        };
        let agent = agent::Agent::start(AgentOptions {
            compiler: CompilerOptions {
                vcap: vcap.clone(),
                environment: environment.clone(),
                fork_server: env!("CARGO_BIN_EXE_bosh-agent").into(),
                who: "a test".to_owned(),
                removes_foreign: true,
                grace: Duration::from_millis(100),
                secrets: vec![world.path("agent.json"), world.path("keys")],
                isolation,
                user_namespace: UserNamespace::Outside,
                config: CompilationConfig::default(),
                data: DataDirectory::prepared(&vcap),
                program: env!("CARGO_BIN_EXE_bosh-agent").into(),
            },
            check_urls: |_| Ok(()),
            store: SettingsStore::new(&vcap, &config, &environment).unwrap(),
            environment,
            platform,
            root: world.path("root"),
            settings: Settings::from_json(settings).unwrap(),
            update: UpdateSettings::default(),
        });
        Self {
            world,
            host: Host::Here(agent.unwrap(), isolation),
        }
    }

    pub(crate) async fn ask(&self, method: &str, arguments: Value) -> Value {
        self.ask_as(3, method, arguments).await
    }

    /// Sends a request as a Director with this version of the protocol.
    pub(crate) async fn ask_as(&self, protocol: i64, method: &str, arguments: Value) -> Value {
        let agent = match &self.host {
            Host::Here(agent, _) => agent,
            Host::Process(..) => {
                let reply = Daemon::post(&self.world, method, &arguments);
                return serde_json::from_str(&reply).unwrap();
            }
        };
        let request = json!({"protocol": protocol, "method": method, "arguments": arguments});
        let request = request.to_string();
        let answered = agent.handle(request.as_bytes(), None, false).await.unwrap();
        serde_json::from_slice(&answered.body).unwrap()
    }

    /// Stores a source with this packaging script, and returns the arguments of the request to compile it.
    pub(crate) fn source(&self, name: &str, script: &str, dependencies: Value) -> Value {
        let packaging = Member::file("packaging", script.as_bytes());
        self.source_of(name, &[packaging], dependencies)
    }

    /// The same for a source with these members.
    pub(crate) fn source_of(&self, name: &str, members: &[Member], dependencies: Value) -> Value {
        let id = format!("source-of-{name}");
        let path = self.world.path("store").join(&id);
        std::fs::write(&path, archive(members)).unwrap();
        json!([id, sha1_of(&path), name, "1.1", dependencies])
    }

    pub(crate) async fn order(&self, arguments: &Value) -> String {
        let reply = self.ask("compile_package", arguments.clone()).await;
        reply["value"]["agent_task_id"].as_str().unwrap().to_owned()
    }

    /// Polls a task until `is_it` returns true.
    pub(crate) async fn until(&self, task: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let reply = self.ask("get_task", json!([task])).await;
                if is_it(&reply) {
                    return reply;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = for_this_form(LIMIT);
        tokio::time::timeout(limit, asking).await.unwrap()
    }

    pub(crate) async fn phase(&self, task: &str, phase: &str) {
        self.until(task, |reply| reply["value"]["progress"]["phase"] == phase)
            .await;
    }

    pub(crate) async fn end(&self, task: &str) -> Value {
        self.until(task, |reply| reply["value"]["state"] != "running")
            .await
    }

    pub(crate) async fn failure(&self, task: &str) -> String {
        let end = self.end(task).await;
        let message = end["exception"]["message"].as_str();
        message.unwrap_or_else(|| panic!("{end}")).to_owned()
    }

    /// The files and directories of requests on disk: blobs, installed packages, sandboxes of scripts.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for work in std::fs::read_dir(self.world.base().join("data"))
            .unwrap()
            .flatten()
        {
            if !work
                .file_name()
                .to_str()
                .unwrap()
                .starts_with(".bosh-agent-work-")
            {
                continue;
            }
            left.extend(
                work.path()
                    .join("result.tgz")
                    .exists()
                    .then(|| "result.tgz".into()),
            );
            for place in ["fetched", "store/*", "places"] {
                let pattern = work.path().join(place);
                let directories = match pattern.ends_with("*") {
                    true => listed(pattern.parent().unwrap().to_owned()),
                    false => vec![pattern],
                };
                left.extend(directories.into_iter().flat_map(listed));
            }
        }
        left
    }
}

/// Whether a daemon ends after SIGTERM, without a panic.
fn ends(daemon: Running) -> bool {
    daemon.signal(Signal::SIGTERM);
    let ran = daemon.end();
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    ran.code == Some(1)
}

pub(crate) fn listed(directory: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

pub(crate) use in_isolations;

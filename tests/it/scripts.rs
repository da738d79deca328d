//! The environment of a packaging script, and the end of the script and its processes.

mod dependencies;
mod environment;
mod failures;
mod limits;
mod neighbors;
mod processes;
mod stops;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Agent, Ran, ReleaseBuilder, Running, World, copied_agent, processes_below, require_root,
    require_tools, run_tool_with, unpacked, wait_for,
};
use nix::sys::signal::Signal;

/// Much longer than needed on any machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A world in which scripts write their findings to `$FACTS`.
struct Facts {
    world: World,
}

impl Facts {
    fn new() -> Self {
        let world = World::new();
        std::fs::create_dir(world.path("facts")).unwrap();
        Self { world }
    }

    fn agent(&self) -> Agent {
        self.with_facts(self.world.agent())
    }

    fn with_facts(&self, agent: Agent) -> Agent {
        agent
            .env("FACTS", self.world.path("facts").to_str().unwrap())
            .arg("--logs-dir")
            .arg(self.world.path("logs"))
    }

    /// Compiles a release.
    fn run(&self, release: &ReleaseBuilder) -> Ran {
        let tarball = self.world.release("release.tgz", release);
        self.agent().arg(tarball).run()
    }

    /// Compiles with a grace time of one second. Returns when a script has written `started`.
    fn start(&self, release: &ReleaseBuilder) -> Running {
        let tarball = self.world.release("release.tgz", release);
        let mut running = self.agent().args(&["--grace", "1"]).arg(tarball).start();
        wait_for("the script's start", LIMIT, || match self.has("started") {
            true => Ok(()),
            false if running.has_ended() => panic!("the agent ended:\n{}", running.stderr()),
            false => Err(running.stderr()),
        });
        running
    }

    fn has(&self, name: &str) -> bool {
        self.world.path("facts").join(name).exists()
    }

    /// The content of a script's file, trimmed.
    fn read(&self, name: &str) -> String {
        self.world.read(&format!("facts/{name}")).trim().to_owned()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_owned).collect()
    }

    fn log(&self, package: &str) -> PathBuf {
        self.world
            .path("logs")
            .join(format!("demo-1.10/{package}.log"))
    }

    #[track_caller]
    fn assert_no_process(&self) {
        let left = processes_below(&self.world.base());
        assert!(left.is_empty(), "processes are left: {left:#?}");
    }

    /// Asserts that only logs and results remain of a run.
    #[track_caller]
    fn assert_clean(&self) {
        self.assert_no_process();
        assert!(
            !self.world.base().exists(),
            "left in the base directory: {:#?}",
            crate::support::snapshot(&self.world.base())
        );
        let out = self.world.out();
        let left = out.exists().then(|| crate::support::snapshot(&out));
        let partial = left
            .iter()
            .flat_map(BTreeMap::keys)
            .find(|path| path.contains(".bosh-agent"));
        assert_eq!(partial, None);
    }
}

fn script(text: &str) -> ReleaseBuilder {
    ReleaseBuilder::of_script(text)
}

/// The digest of a text from `sha1sum`.
fn sha1(text: &str) -> String {
    let printed = run_tool_with("sha1sum", &[] as &[&str], text.as_bytes());
    String::from_utf8(printed).unwrap()[..40].to_owned()
}

/// Starts processes that resist each way of stopping them, and writes `started` when all of them run.
const STUBBORN: &str = r#"
    sleep 1000 &
    nohup sleep 1001 &
    setsid sleep 1002 &
    (setsid bash -c "trap '' TERM HUP INT; echo up > $FACTS/ignores; sleep 1003; sleep 1003" > /dev/null 2>&1 < /dev/null &)
    ( (sleep 1004 &) & )
    bash -c 'kill -STOP $$; sleep 1005' &
    while [ ! -e $FACTS/ignores ]; do sleep 0.01; done
    touch $FACTS/started
"#;

/// A process is recorded with its start time, as its id may be reused.
const NOTES_ITSELF: &str =
    r#"echo $$ $(cut "-d " -f 22 /proc/$$/stat) > $FACTS/noted; mv $FACTS/noted $FACTS/process"#;

/// Whether the recorded process runs.
const NOTED_IS_ALIVE: &str =
    r#"read number start < $FACTS/process; [ "$(cut "-d " -f 22 /proc/$number/stat)" = $start ]"#;

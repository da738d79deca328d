//! The second run of a script that failed under Landlock: its conditions, its waits, its output and logs.

mod decision;
mod habits;
mod program;
mod waiting;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bosh_agent::compile::{
    self, Cause, CompileError, Compiled, Context, Dependency, Event, FirstRun, Phase, SecondRun,
    SourceDates, Store,
};
use bosh_agent::config::{Environment, Vcap};
use bosh_agent::process::Status;
use bosh_agent::process::{ForkServer, TimeLimits};
use bosh_agent::release::{Name, Version};
use bosh_agent::sandbox::{Landlocked, SharedTree};
use tokio_util::sync::CancellationToken;

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, Ran, ReleaseBuilder, Tier, USERNS_OF_ROOT, in_tiers, require,
    wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// With this limit, no failure is repeated only because it was quick.
const ONLY_DENIALS: SecondRun = SecondRun::Auto(Duration::ZERO);

/// Records each run, and sets `$run` to its number.
const COUNT: &str = "echo run >> $FACTS/$BOSH_PACKAGE_NAME.runs; run=$(grep -c . $FACTS/$BOSH_PACKAGE_NAME.runs); \
                     base=${BOSH_INSTALL_TARGET%/packages/*}\n";

/// The core with Landlock, without the command line.
struct Core {
    place: Place,
    context: Arc<Context>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Core {
    async fn new(second_run: SecondRun) -> Option<Self> {
        Self::with_limit(second_run, None).await
    }

    async fn with_limit(second_run: SecondRun, limit: Option<Duration>) -> Option<Self> {
        let place = Place::new(LANDLOCK)?;
        let work = place.world.path("work");
        for directory in ["work", "work/store", "sources"] {
            std::fs::create_dir(place.world.path(directory)).unwrap();
        }
        let fork_server = ForkServer::from(env!("CARGO_BIN_EXE_bosh-agent"));
        let vcap = Vcap::new(&place.world.base());
        let tree = SharedTree::take(&vcap, "a test", false, &|| false).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let facts = ("FACTS", place.world.path("facts").into());
        let context = Arc::new(Context {
            vcap,
            sandbox: Landlocked::new(tree, &work, None).unwrap().into(),
            store: Store::new(&work.join("store")),
            environment: Environment::of_this_process().with(&[facts]),
            fork_server,
            grace: Duration::from_secs(1),
            source_dates: SourceDates::None,
            nice: 0,
            limits: TimeLimits {
                total: limit,
                silence: None,
            },
            second_run,
            keep: None,
            shells: None,
            jobserver: None,
            log_lines: 25,
            script_lines: None,
            compression_level: 1,
            events: Arc::new(move |event| heard.lock().unwrap().push(event)),
        });
        Some(Self {
            place,
            context,
            events,
        })
    }

    async fn compile(&self, name: &str, script: &str) -> Result<Compiled, CompileError> {
        self.compile_until(name, script, &CancellationToken::new())
            .await
    }

    async fn compile_until(
        &self,
        name: &str,
        script: &str,
        cancel: &CancellationToken,
    ) -> Result<Compiled, CompileError> {
        let job = self.place.job(name, &format!("{COUNT}{script}"));
        compile::compile(&self.context, job, cancel).await
    }

    /// The same for a script that succeeds.
    async fn compiled(&self, name: &str, script: &str) -> Compiled {
        let result = self.compile(name, script).await;
        result.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The packages that were compiled a second time.
    fn retried(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let retried = events.iter().filter_map(|event| match event {
            Event::FirstRunFailed { package, .. } => Some(package.to_string()),
            _ => None,
        });
        retried.collect()
    }

    fn fact(&self, name: &str) -> PathBuf {
        self.place.world.path(&format!("facts/{name}"))
    }

    async fn wait_for_fact(&self, name: &str) {
        let path = self.fact(name);
        tokio::time::timeout(LIMIT, async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }

    async fn wait_for_event(&self, wanted: impl Fn(&Event) -> bool) {
        tokio::time::timeout(LIMIT, async {
            while !self.events.lock().unwrap().iter().any(&wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }

    fn open(&self, name: &str) {
        std::fs::write(self.fact(name), "").unwrap();
    }

    fn runs(&self, package: &str) -> usize {
        let runs = std::fs::read_to_string(self.fact(&format!("{package}.runs"))).unwrap();
        runs.lines().count()
    }

    fn log(&self, name: &str) -> String {
        self.place.world.read(&format!("sources/{name}"))
    }

    /// The first runs that were announced as failed.
    fn first_runs(&self) -> Vec<Arc<FirstRun>> {
        let events = self.events.lock().unwrap();
        let first = events.iter().filter_map(|event| match event {
            Event::FirstRunFailed { first, .. } => Some(Arc::clone(first)),
            _ => None,
        });
        first.collect()
    }
}

fn status(result: &Result<Compiled, CompileError>) -> Status {
    match result {
        Err(CompileError::Script(failure)) => failure.status,
        other => panic!("{other:?}"),
    }
}

fn run(script: &str, flags: &[&str]) -> Option<(Place, Ran)> {
    let place = Place::new(LANDLOCK)?;
    let tarball = place.release(&release_of(script));
    let ran = place.agent().args(flags).arg(tarball).run();
    Some((place, ran))
}

mod bodies {
    use super::*;

    pub(super) fn undeclared_packages_count_in_errors_only(tier: Tier) {
        for (script, is_missed) in [
            ("cat @packages@/lib/file @packages@/other/file", true),
            ("cd @packages@/other/src", true),
            (
                "echo \"gcc -o x -L@packages@/other/lib -Wl,-rpath,@packages@/other/lib x.o\"; false",
                false,
            ),
            (
                "echo \"PATH=@packages@/other/bin: not found\"; false",
                false,
            ),
            (": @packages@/other/bin not found; false", false),
            (
                "printf 'all:\\n\\techo -I@packages@/other/include && false\\n' > Makefile; make",
                false,
            ),
        ] {
            let Some(place) = Place::new(tier) else {
                return;
            };
            let ran = place.run(&release_of(&format!("set -e; {script}"))).fails();
            let text =
                "Its output mentions package other, which app does not declare as a dependency";
            assert_eq!(
                ran.stderr.contains(text),
                is_missed,
                "{script}:\n{}",
                ran.stderr
            );
            ran.does_not_say("Its output mentions package lib");
        }
    }
}

/// A library, and a package with this script.
fn release_of(script: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("other", &[], "echo other > $BOSH_INSTALL_TARGET/file")
        .package("app", &["lib"], &format!("{COUNT}{script}"))
}

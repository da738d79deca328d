//! The second run of a script that failed under Landlock: when there is one, what it waits for, what is printed and kept.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bosh_agent::compile::{
    self, Cause, CompileError, Compiled, Context, Event, FirstRun, Phase, SecondRun, Store,
};
use bosh_agent::config::{Environment, Vcap};
use bosh_agent::process::ForkServer;
use bosh_agent::process::Status;
use bosh_agent::sandbox::{Landlocked, Sandbox, SharedTree};
use tokio_util::sync::CancellationToken;

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, Ran, ReleaseBuilder, Tier, USERNS_OF_ROOT, in_tiers, require,
    wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// No failure is quick enough to be repeated for its quickness alone.
const ONLY_DENIALS: SecondRun = SecondRun::Auto(Duration::ZERO);

/// Notes each run, and makes `$run` its number.
const COUNT: &str = "echo run >> $FACTS/$BOSH_PACKAGE_NAME.runs; run=$(grep -c . $FACTS/$BOSH_PACKAGE_NAME.runs); \
                     base=${BOSH_INSTALL_TARGET%/packages/*}\n";

/// The core with Landlock, without the command line around it.
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
        let agent = ForkServer::from(env!("CARGO_BIN_EXE_bosh-agent"));
        let vcap = Vcap::new(&place.world.base());
        let tree = SharedTree::take(&vcap, "a test", false, &|| false).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let facts = ("FACTS", place.world.path("facts").into());
        let context = Arc::new(Context {
            vcap,
            sandbox: Sandbox::Landlocked(Landlocked::new(tree, &work, None).unwrap()),
            store: Store::new(&work.join("store")),
            environment: Environment::of_this_process().with(&[facts]),
            agent,
            grace: Duration::from_secs(1),
            nice: 0,
            limit,
            second_run,
            jobserver: None,
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

    /// The same of a script that succeeds.
    async fn compiled(&self, name: &str, script: &str) -> Compiled {
        let result = self.compile(name, script).await;
        result.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The packages that are compiled a second time.
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

    /// The first runs of packages that were announced as failed.
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

#[tokio::test]
async fn plausible_denials_get_a_second_run() {
    let Some(core) = Core::new(ONLY_DENIALS).await else {
        return;
    };
    for (number, script) in [
        "set -e; mkdir $base/new; rmdir $base/new",
        "echo 'mkdir /x: permission denied' >&2; [ $run = 2 ]",
        "echo 'chown: x: Operation not permitted' >&2; [ $run = 2 ]",
        "echo 'ln: x: Invalid cross-device link' >&2; [ $run = 2 ]",
        "echo 'touch: x: Read-only file system' >&2; [ $run = 2 ]",
        "[ $run = 2 ] || exit 126",
        // These succeed, so the output alone shows it.
        "touch $base/new; rm $base/new; true",
        "cd $base/packages; touch new; rm -f new; true",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("p{number}");
        let compiled = core.compile(&name, script).await.unwrap();
        assert!(compiled.unrestricted, "{script}");
        assert_eq!(core.runs(&name), 2, "{script}");
    }
}

#[tokio::test]
async fn implausible_denials_get_no_second_run() {
    let Some(core) = Core::new(ONLY_DENIALS).await else {
        return;
    };
    for (number, script) in [
        "echo 'undefined reference to main' >&2; exit 1",
        "echo 'mkdir: /x: Permission denied' >&2; kill -KILL $$",
        "echo 'mkdir: /x: Permission denied' >&2; sh -c 'kill -KILL $$'; exit $?",
        "echo 'mkdir: /x: Permission denied' >&2; echo 'cp: No space left on device' >&2; exit 1",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("failed{number}");
        let failed = core.compile(&name, script).await;
        assert!(!status(&failed).is_success(), "{script}");
        assert_eq!(core.runs(&name), 1, "{script}");
    }
    for (number, script) in [
        // Rules leave these paths open.
        "echo 'find: /root/x: Permission denied' >&2; true",
        "echo 'mknod: /dev/x: Operation not permitted' >&2; true",
        "echo \"cat: $BOSH_COMPILE_TARGET/x: Permission denied\" >&2; true",
        // Rules are not answered like this.
        "echo 'checking chown... Operation not permitted' >&2; true",
        "echo 'touch: x: Read-only file system' >&2; true",
        // The trace shows what the script says.
        ": 'Permission denied'",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("good{number}");
        let compiled = core.compile(&name, script).await.unwrap();
        assert!(!compiled.unrestricted, "{script}");
        assert_eq!(core.runs(&name), 1, "{script}");
    }
    assert_eq!(core.first_runs(), []);
}

#[tokio::test]
async fn quick_failures_are_repeated_without_any_denial() {
    let Some(core) = Core::new(SecondRun::Auto(Duration::from_secs(3600))).await else {
        return;
    };
    let compiled = core.compile("app", "[ $run = 2 ]").await.unwrap();
    assert!(compiled.unrestricted);
    let first = core.first_runs();
    assert_eq!(first.len(), 1);
    assert_eq!(
        first[0].failure,
        "the packaging script of `app` exited with 1"
    );
    assert_eq!(first[0].denials, []);
    assert!(!first[0].succeeded);
}

#[tokio::test]
async fn always_repeats_failures_and_not_signals() {
    let Some(core) = Core::new(SecondRun::Always).await else {
        return;
    };
    core.compile("app", "[ $run = 2 ]").await.unwrap();
    let killed = core.compile("killed", "kill -KILL $$").await;
    assert_eq!(status(&killed), Status::Signaled(9));
    assert_eq!((core.runs("app"), core.runs("killed")), (2, 1));
}

#[tokio::test]
async fn never_keeps_the_first_result_and_reports_denials() {
    let Some(core) = Core::new(SecondRun::Never).await else {
        return;
    };
    let failed = core.compile("failed", "set -e; mkdir $base/new").await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    let denials = failure.denials.unwrap();
    let expected = core.place.world.base().join("new");
    assert_eq!(denials[0].closed[0].0, expected);
    let compiled = core.compile("app", "mkdir $base/new; true").await.unwrap();
    assert!(!compiled.unrestricted);
    assert_eq!((core.runs("failed"), core.runs("app")), (1, 1));
    let events = core.events.lock().unwrap();
    let denied = events.iter().find_map(|event| match event {
        Event::Denied {
            package, denials, ..
        } => Some((package.as_str(), denials[0].closed[0].0.clone())),
        _ => None,
    });
    assert_eq!(denied, Some(("app", expected)));
}

#[tokio::test]
async fn timed_out_script_runs_once() {
    // Long enough for the script to note its run on a busy machine.
    let limit = Duration::from_secs(3);
    let Some(core) = Core::with_limit(SecondRun::Always, Some(limit)).await else {
        return;
    };
    let failed = core
        .compile("app", "mkdir $base/new; while :; do sleep 0.05; done")
        .await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(failure.cause, Some(Cause::TimeLimit { limit }));
    assert_eq!(core.runs("app"), 1);
}

/// A control group with a limit of memory, until it is dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("bosh-agent-test-{}", std::process::id());
        let (root, file, swap) = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            true => ("/sys/fs/cgroup", "memory.max", ("memory.swap.max", 0)),
            false => (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                ("memory.memsw.limit_in_bytes", limit),
            ),
        };
        let path = Path::new(root).join(name);
        std::fs::create_dir(&path).ok()?;
        let group = Self(path);
        std::fs::write(group.0.join(file), limit.to_string()).ok()?;
        // Not every kernel counts swap.
        let _ = std::fs::write(group.0.join(swap.0), swap.1.to_string());
        Some(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn script_that_is_out_of_memory_runs_once() {
    let Some(core) = Core::new(SecondRun::Always).await else {
        return;
    };
    let group = MemoryGroup::new(64 << 20);
    if !require(group.is_some(), "a control group with a limit of memory") {
        return;
    }
    let group = group.unwrap();
    let script = format!(
        "set -e; echo $$ > {}/cgroup.procs; echo 'mkdir /x: permission denied' >&2; \
         perl -e '$x = \"x\" x (300 << 20)' || exit 1",
        group.0.display()
    );
    let failed = core.compile("app", &script).await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    let is_out_of_memory =
        matches!(failure.cause, Some(Cause::OutOfMemory { killed }) if killed > 0);
    assert!(is_out_of_memory, "{failure:?}");
    assert_eq!(failure.status, Status::Exited(1));
    assert_eq!(core.runs("app"), 1);
}

#[tokio::test]
async fn stopped_script_runs_once() {
    let Some(core) = Core::new(SecondRun::Always).await else {
        return;
    };
    let cancel = CancellationToken::new();
    let (stopped, ()) = tokio::join!(
        core.compile_until(
            "app",
            "mkdir $base/new; touch $FACTS/started; while :; do sleep 0.05; done",
            &cancel
        ),
        async {
            core.wait_for_fact("started").await;
            cancel.cancel();
        }
    );
    assert!(
        matches!(stopped, Err(CompileError::Stopped { .. })),
        "{stopped:?}"
    );
    assert_eq!(core.runs("app"), 1);
    assert_eq!(core.first_runs(), []);
}

#[tokio::test]
async fn failure_is_announced_at_once_and_waits_for_running_scripts() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let wait = |gate: &str| {
        format!("touch $FACTS/started-{gate}; until [ -e $FACTS/{gate} ]; do sleep 0.01; done")
    };
    let later = async {
        core.wait_for_event(|event| matches!(event, Event::FirstRunFailed { .. }))
            .await;
        core.compile("later", "[ -e $FACTS/second ]").await
    };
    let check = async {
        let is_waiting_for = |wanted: usize| move |event: &Event| matches!(event, Event::Entered { phase: Phase::SecondRun { running }, .. } if *running == wanted);
        // Both gates are closed: it is announced while the others run.
        core.wait_for_event(is_waiting_for(2)).await;
        core.open("a");
        core.wait_for_event(is_waiting_for(1)).await;
        let is_second = |event: &Event| matches!(event, Event::SecondRunStarted { .. });
        assert!(!core.events.lock().unwrap().iter().any(is_second));
        core.open("b");
    };
    let app = async {
        core.wait_for_fact("started-a").await;
        core.wait_for_fact("started-b").await;
        core.compile(
            "app",
            "[ $run = 1 ] && { echo broken; exit 1; }; touch $FACTS/second",
        )
        .await
    };
    let (wait_a, wait_b) = (wait("a"), wait("b"));
    let (app, a, b, later, ()) = tokio::join!(
        app,
        core.compile("a", &wait_a),
        core.compile("b", &wait_b),
        later,
        check
    );
    assert!(app.unwrap().unrestricted);
    for other in [a, b, later] {
        assert!(!other.unwrap().unrestricted);
    }
    let events = core.events.lock().unwrap();
    let of_app: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Entered { package, phase, .. } if package.as_str() == "app" => {
                Some(format!("{phase:?}"))
            }
            Event::FirstRunFailed { first, running, .. } => {
                Some(format!("{:?} beside {running}", first.tail.last().unwrap()))
            }
            Event::SecondRunStarted { .. } => Some("started".to_owned()),
            Event::SecondRunSucceeded { .. } => Some("succeeded".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(
        of_app,
        [
            "Unpacking",
            "Installing",
            "Packaging",
            "\"+ exit 1\" beside 2",
            "SecondRun { running: 2 }",
            "SecondRun { running: 1 }",
            "started",
            "Unpacking",
            "Installing",
            "Packaging",
            "Packing",
            "succeeded",
        ]
    );
    let waits = events.iter().any(|event| {
        matches!(event, Event::Entered { package, phase: Phase::Waiting, .. } if package.as_str() == "later")
    });
    assert!(
        waits,
        "a package that comes later waits behind the second run"
    );
}

#[tokio::test]
async fn scripts_that_run_at_once_reach_nothing_of_each_other() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let script = |own: &str, other: &str| {
        format!(
            "set -e; await() {{ while [ ! -e $FACTS/$1 ]; do sleep 0.01; done; }}; \
             touch $FACTS/{own}; await {other}; other=$BOSH_COMPILE_TARGET/../{other}; \
             if cat $other/packaging 2> /dev/null || touch $other/new 2> /dev/null; then false; fi; \
             if touch ${{BOSH_INSTALL_TARGET%/*}}/{other}/new 2> /dev/null; then false; fi; touch $FACTS/{own}-done; await {other}-done"
        )
    };
    let (a, b) = (script("a", "b"), script("b", "a"));
    tokio::join!(core.compiled("a", &a), core.compiled("b", &b));
    assert_eq!(core.retried(), [""; 0]);
}

#[tokio::test]
async fn while_a_script_is_tried_unrestricted_no_other_runs() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let packages = core.place.world.base().join("packages");
    // Beyond its rules; then nobody else may be there.
    let wilful = format!(
        "set -e; if ! touch {0}/new; then touch $FACTS/failed; exit 1; fi; rm {0}/new; touch $FACTS/alone; \
         for n in $(seq 30); do [ ! -e $FACTS/other ]; [ ! -e $FACTS/later ]; sleep 0.01; done; rm $FACTS/alone",
        packages.display()
    );
    let other = "set -e; touch $FACTS/other; while [ ! -e $FACTS/failed ]; do sleep 0.01; done; \
                 for n in $(seq 30); do [ ! -e $FACTS/alone ]; sleep 0.01; done; rm $FACTS/other";
    let later = "set -e; touch $FACTS/later; for n in $(seq 30); do [ ! -e $FACTS/alone ]; sleep 0.01; done; rm $FACTS/later";
    let wait_and_compile = async {
        let failed = core.place.world.path("facts/failed");
        while !failed.exists() {
            tokio::task::yield_now().await;
        }
        core.compiled("later", later).await
    };
    let (wilful, other, later) = tokio::join!(
        core.compiled("wilful", &wilful),
        core.compiled("other", other),
        wait_and_compile
    );
    assert_eq!(core.retried(), ["wilful"]);
    assert!(wilful.unrestricted && !other.unrestricted && !later.unrestricted);
}

#[tokio::test]
async fn stop_while_waiting_returns_the_first_failure() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let cancel = CancellationToken::new();
    let app = async {
        core.wait_for_fact("started").await;
        core.compile_until("app", "echo broken; exit 3", &cancel)
            .await
    };
    let check = async {
        core.wait_for_event(|event| matches!(event, Event::FirstRunFailed { .. }))
            .await;
        cancel.cancel();
    };
    let other = core.compile(
        "other",
        "touch $FACTS/started; until [ -e $FACTS/gate ]; do sleep 0.01; done",
    );
    let app = async {
        let (app, ()) = tokio::join!(app, check);
        core.open("gate");
        app
    };
    let (app, other) = tokio::join!(app, other);
    assert_eq!(status(&app), Status::Exited(3));
    other.unwrap();
    assert_eq!(core.runs("app"), 1);
    assert!(core.log("app.log").contains("broken"));
}

#[tokio::test]
async fn both_logs_are_kept() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let script = "echo this is run $run; exit 4";
    let failed = core.compile("app", script).await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    let directory = core.place.world.path("sources");
    assert_eq!(failure.log, directory.join("app.log"));
    assert_eq!(failure.first_log, Some(directory.join("app@first.log")));
    assert_eq!(failure.denials, None);
    assert!(core.log("app.log").contains("\nthis is run 2\n"));
    assert!(core.log("app@first.log").contains("\nthis is run 1\n"));
    core.compile("good", "echo fine").await.unwrap();
    assert!(!directory.join("good@first.log").exists());
}

/// What scripts do in the directories around them. The commands of `docs/adr/0011-the-second-run.md`.
const ALLOWED: &[&str] = &[
    "ls / $base $base/packages $base/data",
    "mkdir ~/.habit && rmdir ~/.habit",
    "mkdir $base/monit/new && rmdir $base/monit/new",
    "touch /etc/habit && mv /etc/habit /var/lib/habit && rm /var/lib/habit",
    "mkdir d && mv d $BOSH_INSTALL_TARGET/d",
    "touch f && ln f $BOSH_INSTALL_TARGET/f",
    "file=$(mktemp) && mv $file $BOSH_INSTALL_TARGET/temporary",
    "touch /dev/shm/habit && rm /dev/shm/habit",
    "cat <(echo fine) /dev/stdin <<< fine",
    "mkfifo fifo && mknod null c 1 3",
    "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => q(socket), Listen => 1) or die $!'",
    "cat /proc/self/status /proc/self/maps /proc/$PPID/environ",
    "chroot / true",
    "ldconfig -N -C $TMPDIR/cache $BOSH_INSTALL_TARGET",
    "sh -c 'kill -0 $PPID'",
    "tar -cf a.tar packaging && tar -xpf a.tar",
];

/// What they cannot do, each with the word that hints at it.
const DENIED: &[(&str, &str)] = &[
    ("mkdir /habit", "/habit"),
    ("touch /habit", "/habit"),
    ("ln -s /etc /habit", "/habit"),
    ("HOME=/; mkdir -p $HOME/.cache-habit", "/.cache-habit"),
    ("mkdir -p $base/store/habit", "/store"),
    ("mkdir $base/packages/new", "/packages/new"),
    ("mkdir $base/data/compile/new", "/data/compile/new"),
    ("rm $BOSH_INSTALL_TARGET", "/packages/app"),
    (
        "mv $BOSH_COMPILE_TARGET $BOSH_COMPILE_TARGET.old",
        "/data/compile/app",
    ),
];

#[tokio::test]
async fn habits_are_allowed_or_denied_as_documented() {
    let Some(core) = Core::new(SecondRun::Never).await else {
        return;
    };
    std::fs::create_dir_all(core.place.world.base().join("monit")).unwrap();
    let mut script = String::from(
        "set +x; try() { if ( eval \"$2\" ) > /dev/null; then echo \"$1 yes\"; else echo \"$1 no\"; fi >> $FACTS/habits; }\n",
    );
    let commands = ALLOWED
        .iter()
        .chain(DENIED.iter().map(|(command, _)| command));
    for (number, command) in commands.enumerate() {
        let quoted = command.replace('\'', "'\\''");
        writeln!(script, "try {number} '{quoted}'").unwrap();
    }
    script.push_str("true\n");
    core.compile("app", &script).await.unwrap();
    let habits = core.place.world.read("facts/habits");
    let expected: String = (0..ALLOWED.len() + DENIED.len())
        .map(|number| {
            let answer = if number < ALLOWED.len() { "yes" } else { "no" };
            format!("{number} {answer}\n")
        })
        .collect();
    assert_eq!(habits, expected, "{}", core.log("app.log"));
    let events = core.events.lock().unwrap();
    let denials = events.iter().find_map(|event| match event {
        Event::Denied { denials, .. } => Some(denials.clone()),
        _ => None,
    });
    let denials = denials.unwrap();
    let closed: Vec<String> = denials
        .iter()
        .flat_map(|denial| &denial.closed)
        .map(|(path, _)| path.display().to_string())
        .collect();
    for (command, path) in DENIED {
        assert!(
            closed.iter().any(|it| it.ends_with(path)),
            "{command}: {closed:?}"
        );
    }
}

/// A library, and a package whose script this is.
fn release_of(script: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("other", &[], "echo other > $BOSH_INSTALL_TARGET/file")
        .package("app", &["lib"], &format!("{COUNT}{script}"))
}

fn run(script: &str, flags: &[&str]) -> Option<(Place, Ran)> {
    let place = Place::new(LANDLOCK)?;
    let tarball = place.release(&release_of(script));
    let ran = place.agent().args(flags).arg(tarball).run();
    Some((place, ran))
}

/// Asserts that texts follow one another.
#[track_caller]
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("`{part}` is not there, or too early, in:\n{text}");
        };
        rest = after;
    }
}

#[test]
fn first_failure_is_printed_before_the_script_beside_it_ends() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "app",
            &[],
            &format!(
                "{COUNT}[ $run = 2 ] && touch $FACTS/second; until [ -e $FACTS/slow ]; do sleep 0.01; done; \
                 echo it is broken; exit 8"
            ),
        )
        .package(
            "slow",
            &[],
            "touch $FACTS/slow; until [ -e $FACTS/gate ]; do sleep 0.01; done",
        )
        .package("next", &["slow"], "[ -e $FACTS/second ]");
    let tarball = place.release(&release);
    let running = place.agent().args(&["--jobs", "2"]).arg(tarball).start();
    let announced = "app will be compiled again, alone and without restrictions after the running packaging script has ended; \
                     no other starts before\n";
    wait_for("the first failure", LIMIT, || {
        let stderr = running.stderr();
        stderr.contains(announced).then_some(()).ok_or(stderr)
    });
    place.world.write("facts/gate", "");
    let ran = running.end().fails();
    let log = |name: &str| {
        place
            .world
            .path("logs/demo-1.10")
            .join(name)
            .display()
            .to_string()
    };
    in_order(
        &ran.stderr,
        &[
            "Warning: the packaging script of `app` exited with 8 (after ",
            ", restricted by Landlock)\nThe last lines that the packaging script of app printed:\n",
            "  | it is broken\n",
            &format!("Everything that it printed: {}\n", log("app@first.log")),
            announced,
            "Compiling package app again, alone and without restrictions\n",
            "The last lines that the packaging script of app printed:\n",
            "  | it is broken\n",
            &format!("Everything that it printed: {}\n", log("app.log")),
            &format!(
                "Everything that the first run printed, restricted by Landlock: {}\n",
                log("app@first.log")
            ),
            "Error: failed to compile package app/",
            "the packaging script exited with 8 after ",
        ],
    );
}

#[test]
fn successful_second_run_shows_denials_and_hints() {
    let Some((place, ran)) = run(
        "set -e; mkdir $base/new; rmdir $base/new; echo fine > $BOSH_INSTALL_TARGET/file",
        &[],
    ) else {
        return;
    };
    let new = place.world.base().join("new").display().to_string();
    in_order(
        &ran.succeeds().stderr,
        &[
            "Warning: the packaging script of `app` exited with 1 (after ",
            &format!("It was denied: `{new}`\n"),
            "app will be compiled again, alone and without restrictions",
            "Compiling package app again, alone and without restrictions\n",
            "Warning: app was compiled only by its second run, without restrictions\n",
            "What the first run was denied:\n",
            "  | mkdir: cannot create directory ",
            &new,
            "app@first.log\n",
            &format!("Hint: Landlock lets no script make, replace or remove `{new}`"),
            "Finished compiling release app/",
        ],
    );
    assert_eq!(place.file("app", "file"), "100644 fine\n");
}

#[test]
fn changed_dependency_is_hinted_at() {
    for script in [
        "set -e; echo more >> $base/packages/lib/file",
        "set -e; ln $base/packages/lib/file $BOSH_INSTALL_TARGET/file",
        // This one goes on.
        "rm $base/packages/lib/file; true",
    ] {
        let Some((place, ran)) = run(script, &[]) else {
            return;
        };
        let lib = place.world.base().join("packages/lib/file");
        ran.succeeds().says(&format!(
            "Hint: Landlock lets no script change or hard-link a dependency (`{}`)",
            lib.display()
        ));
    }
}

#[test]
fn second_run_can_be_switched_off() {
    let script = "set -e; mkdir $base/new; rmdir $base/new";
    let Some((place, ran)) = run(script, &["--second-run=never"]) else {
        return;
    };
    let new = place.world.base().join("new").display().to_string();
    ran.fails()
        .says(&format!("It was denied: `{new}`\n"))
        .says("Hint: Landlock restricted it: --second-run=always compiles it again without restrictions\n")
        .does_not_say("compiled again, alone");
    let script = "mkdir $base/new; true";
    let Some((_place, ran)) = run(script, &["--second-run", "never"]) else {
        return;
    };
    ran.succeeds()
        .says("Warning: the packaging script of app succeeded, but was denied something. Because of --second-run=never")
        .says("  | mkdir: cannot create directory ")
        .says("Hint: Landlock lets no script make, replace or remove `");
}

#[test]
fn first_log_is_in_each_release_and_goes_with_the_next_call() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    let script = format!("{COUNT}echo this is run $run; [ $run != 1 ]");
    let tarballs = ["one", "two"].map(|name| {
        let release = ReleaseBuilder::new(name, "1").package("app", &[], &script);
        place.world.release(&format!("{name}.tgz"), &release)
    });
    let log = |release: &str, name: &str| place.world.path(&format!("logs/{release}-1/{name}"));
    place.agent().args(&tarballs).run().succeeds();
    for release in ["one", "two"] {
        for (name, text) in [
            ("app@first.log", "this is run 1"),
            ("app.log", "this is run 2"),
        ] {
            let found = std::fs::read_to_string(log(release, name)).unwrap();
            assert!(
                found.lines().any(|line| line == text),
                "{release} {name}: {found}"
            );
        }
    }
    place.agent().args(&tarballs).run().succeeds();
    for release in ["one", "two"] {
        assert!(!log(release, "app@first.log").exists());
        assert!(log(release, "app.log").exists());
    }
}

in_tiers!(undeclared_packages_count_in_errors_only: NAMESPACE USERNS_OF_ROOT LANDLOCK NONE);

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
            let text = "It speaks of package other, which is no declared dependency of app";
            assert_eq!(
                ran.stderr.contains(text),
                is_missed,
                "{script}:\n{}",
                ran.stderr
            );
            ran.does_not_say("It speaks of package lib");
        }
    }
}

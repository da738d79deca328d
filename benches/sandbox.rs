//! The overhead of a sandbox: from the start of the child to the first instruction of the script, and from there to the end of the last
//! process and mount, with 0, 5 and 30 dependencies. `cargo bench --bench sandbox`, as root; with `-- userns` in a user namespace.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bosh_agent::compile::Store;
use bosh_agent::config::{Environment, Vcap};
use bosh_agent::fs;
use bosh_agent::process::{ForkServer, Output};
use bosh_agent::release::{Name, Version};
use bosh_agent::sandbox::{
    Landlocked, NamespaceOptions, Namespaces, Sandbox, Script, SharedTree, Spec, UserNamespace,
    Users, enter_user_namespace, run,
};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 30;
const AGENT: &str = env!("CARGO_BIN_EXE_bosh-agent");

type Sealed = (Name, Version, PathBuf);

#[derive(Default)]
struct Times {
    prepare: Vec<Duration>,
    to_exec: Vec<Duration>,
    to_end: Vec<Duration>,
    remove: Vec<Duration>,
}

fn main() {
    // Must be called before a second thread exists.
    let entry = match std::env::args().any(|argument| argument == "userns") {
        true => enter_user_namespace(),
        false => UserNamespace::Outside,
    };
    let (names, users): (&[&str], _) = match entry {
        UserNamespace::Inside(users) => (&["userns"], Some(users)),
        _ => (&["namespace", "landlock", "none"], None),
    };
    let tokio = tokio::runtime::Runtime::new().unwrap();
    println!(
        "isolation   deps   prepare   spawn to exec   exec to end   remove   (ms, medians of {ROUNDS})"
    );
    for dependencies in [0, 5, 30] {
        for isolation in names {
            tokio.block_on(measure(isolation, users, dependencies));
        }
    }
}

async fn measure(isolation: &str, users: Option<Users>, dependencies: usize) {
    // Not in /tmp, which may be in memory.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (work, vcap) = (scratch.path().join("work"), scratch.path().join("vcap"));
    fs::create_dir(&work).unwrap();
    let vcap = Vcap::new(&vcap);
    let tree = || SharedTree::take(&vcap, "a benchmark", false, &|| false).unwrap();
    let fork_server = ForkServer::from(AGENT);
    let options = NamespaceOptions {
        users,
        ..NamespaceOptions::default()
    };
    let sandbox = match isolation {
        "none" => Ok(Sandbox::from(tree())),
        "landlock" => match Landlocked::probe(&work, &fork_server, &CancellationToken::new()).await
        {
            Ok(()) => Landlocked::new(tree(), &work, None).map(Sandbox::from),
            Err(error) => Err(error),
        },
        _ => Namespaces::probe(&work, &vcap, &fork_server, options)
            .await
            .map(Sandbox::from),
    };
    let sandbox = match sandbox {
        Ok(sandbox) => sandbox,
        Err(error) => {
            println!("{isolation}: {}", bosh_agent::diag::Chain(&error));
            return;
        }
    };
    let sealed = sealed_packages(&work, dependencies);
    let mut times = Times::default();
    for round in 0..ROUNDS {
        let log = work.join(format!("log-{round}"));
        one(&sandbox, &vcap, &sealed, (&log, &fork_server), &mut times).await;
    }
    sandbox.close().unwrap();
    println!(
        "{isolation:10}  {dependencies:4}   {:7.1}   {:13.1}   {:11.1}   {:6.1}",
        median(&mut times.prepare),
        median(&mut times.to_exec),
        median(&mut times.to_end),
        median(&mut times.remove),
    );
}

/// Seals small trees, because copying is not measured.
fn sealed_packages(work: &Path, count: usize) -> Vec<Sealed> {
    let directory = work.join("store");
    fs::create_dir(&directory).unwrap();
    let store = Store::new(&directory);
    let mut sealed = Vec::new();
    for number in 0..count {
        let name = Name::parse(&format!("p{number}")).unwrap();
        let version = Version::parse("1").unwrap();
        let tree = work.join(format!("tree-{number}"));
        fs::create_dir_all(&tree.join("bin")).unwrap();
        fs::write(&tree.join("bin/tool"), b"#!/bin/sh\n").unwrap();
        let installed = store.seal(&name, &tree).unwrap();
        sealed.push((name, version, installed.tree()));
    }
    sealed
}

async fn one(
    sandbox: &Sandbox,
    vcap: &Vcap,
    sealed: &[Sealed],
    (log, fork_server): (&Path, &ForkServer),
    times: &mut Times,
) {
    let start = Instant::now();
    let own = Name::parse("own").unwrap();
    let names: Vec<(Name, PathBuf)> = sealed
        .iter()
        .map(|(name, _, tree)| (name.clone(), tree.clone()))
        .collect();
    let place = sandbox
        .enter(&own, &names, &[], &|| {}, &CancellationToken::new())
        .await
        .unwrap();
    let mut mounted = Vec::new();
    for (name, version, tree) in sealed {
        let paths = place.vcap().package(name, version);
        if !place.has(name) {
            fs::create_dir_all(&paths.packages).unwrap();
            let provided = sandbox.provide(&place, tree, &paths.install, &|| false);
            provided.unwrap();
        }
        mounted.push((tree.as_path(), paths));
    }
    sandbox.record_dependencies(&place).unwrap();
    let mut script = Script {
        spec: Spec {
            program: "date".to_owned(),
            arguments: vec!["+%s%N".into()],
            directory: vcap.compile(),
            umask: 0o022,
            nice: 0,
            process_lock: sandbox.process_lock(),
            grace: Duration::from_secs(1),
            view: None,
            rules: None,
            terminal: false,
        },
        environment: Environment::of_this_process(),
        fork_server: fork_server.clone(),
    };
    let own = place.vcap().package(&own, &Version::parse("1").unwrap());
    let mounted: Vec<_> = mounted.iter().map(|(tree, paths)| (*tree, paths)).collect();
    sandbox.confine(&place, &mut script, &own, &mounted);
    times.prepare.push(start.elapsed());
    let spawned = now();
    let output = Output::to_log(log, |_| {}).unwrap();
    let end = run(script, output, &CancellationToken::new())
        .await
        .unwrap();
    let ended = now();
    assert!(end.status.is_success(), "{:?}", end.output.tail);
    let executed = Duration::from_nanos(end.output.tail.lines[0].parse().unwrap());
    times.to_exec.push(executed.saturating_sub(spawned));
    times.to_end.push(ended.saturating_sub(executed));
    let start = Instant::now();
    sandbox.leave(&place).unwrap();
    times.remove.push(start.elapsed());
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

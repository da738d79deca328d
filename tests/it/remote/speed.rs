//! Packages that wait, on the real server: the order of the packages and the cost of the client. With `BOSH_AGENT_SOAK` in full size,
//! otherwise a tenth of it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

use crate::scale::scaled;
use crate::support::{Agent, ReleaseBuilder, World, is_soak, require};

use super::server::Server;

/// The packages of each run, and how long each script sleeps, in seconds.
const PACKAGES: usize = 60;
const SECONDS: u32 = 2;

/// The layers of packages in full size. Each package depends on one of the layer before.
const LAYERS: usize = 6;

#[test]
fn packages_wait_for_nothing_but_their_dependencies() {
    let packages = scaled(PACKAGES);
    // A tenth of the packages has a third of the layers.
    let layers = if is_soak() { LAYERS } else { LAYERS / 3 };
    let Some(server) = Server::in_memory(16) else {
        return;
    };
    let (world, width) = (World::for_everybody(), packages / layers);
    let mut release = ReleaseBuilder::new("demo", "1");
    for number in 0..packages {
        let dependency = number.checked_sub(width).map(|it| format!("package-{it}"));
        let dependencies: Vec<&str> = dependency.iter().map(String::as_str).collect();
        let script = format!("sleep {SECONDS}\ntouch $BOSH_INSTALL_TARGET/file");
        let name = format!("package-{number}");
        release = release.package(&name, &dependencies, &script);
    }
    let tarball = world.release("release.tgz", &release);
    let program = program();
    if !require(
        program.is_file(),
        "the portable binary; `make dist` builds it",
    ) {
        return;
    }
    let agent = Agent::through(&world.path("printed"), [program.as_os_str()]);
    let agent = world.flags_with(agent, "auto").arg("--output-directory");
    let agent = agent.arg(world.path("elsewhere"));
    let agent = agent.args(&["--remote", &server.url(), "--remote-jobs", "16"]);
    let before = cpu_of_children();
    let start = Instant::now();
    agent.arg(&tarball).run().succeeds();
    let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_of_children() - before);
    let path = f64::from(SECONDS) * layers as f64;
    let cpu = cpu * 1000.0 / packages as f64;
    println!(
        "{packages} packages: {took:.2} s, the critical path is {path} s; {cpu:.2} ms of CPU time for each package"
    );
    // In the ordinary tests, other tests use the CPUs, and the program is not optimized.
    let factor = if is_soak() { 1.15 } else { 3.0 };
    assert!(
        took < path * factor,
        "{took:.2} s, the critical path is {path} s"
    );
    if is_soak() {
        assert!(cpu < 5.0, "{cpu:.2} ms for each package");
    }
}

/// The program that users run; in the ordinary tests, the one that belongs to the test.
fn program() -> PathBuf {
    if is_soak() {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/bosh-agent")
    } else {
        PathBuf::from(env!("CARGO_BIN_EXE_bosh-agent"))
    }
}

/// The CPU time of ended child processes, in seconds. The server and its machines run on.
fn cpu_of_children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let times = [usage.user_time(), usage.system_time()];
    let seconds = times.map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    seconds.iter().sum()
}

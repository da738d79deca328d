//! The cost of compiling many packages on other machines: `bosh-agent compile --remote` with a server in this process whose machines only
//! wait. `cargo bench --bench cluster`; `-- 16 64` measures with these numbers of machines.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has no result")]
#![expect(
    clippy::disallowed_methods,
    reason = "the helpers of the tests start the agent from outside"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod packages;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use support::build_server::{BuildServer, Model};
use support::{Agent, World};

use packages::time_of;

/// The numbers of machines, and of packages that the client compiles concurrently.
const MACHINES: [usize; 6] = [16, 32, 64, 128, 256, 512];

/// The time before each response of the server.
const LATENCY: Duration = Duration::from_millis(5);

/// Bytes per second between client and server.
const BANDWIDTH: u64 = 125_000_000;

/// The size of a compiled package in bytes.
const COMPILED: usize = 60_000;

/// The longest time of a run.
const LIMIT: Duration = Duration::from_mins(10);

fn main() {
    let chosen = std::env::args().filter_map(|argument| argument.parse().ok());
    let chosen: Vec<usize> = chosen.collect();
    let machines = match chosen.is_empty() {
        true => MACHINES.to_vec(),
        false => chosen,
    };
    let world = World::outside_tmp();
    let releases = packages::write(&world);
    let packages = packages::count();
    println!(
        "{} releases, {packages} packages; latency {} ms, {} MB/s",
        releases.len(),
        LATENCY.as_millis(),
        BANDWIDTH / 1_000_000
    );
    println!(
        "machines   bound, s   makespan, s   ratio   client CPU, ms/package   peak, MB   calls/package   KB/package"
    );
    for machines in machines {
        let server = server(machines);
        measure(&world, &server, &releases, machines, false);
        measure(&world, &server, &releases, machines, true);
    }
}

fn server(machines: usize) -> BuildServer {
    BuildServer::start(Model {
        latency: LATENCY,
        bandwidth: BANDWIDTH,
        machines,
        time: Box::new(time_of),
        package: COMPILED,
        ..Model::default()
    })
}

/// Compiles all releases, and prints a row. `is_again` marks a run that only downloads results.
fn measure(
    world: &World,
    server: &BuildServer,
    releases: &[PathBuf],
    machines: usize,
    is_again: bool,
) {
    let before = (totals(server), children());
    let out = format!("out-{machines}-{is_again}");
    let agent = world
        .agent_at("auto", &out)
        .args(&[
            "--remote",
            &server.url(),
            "--remote-jobs",
            &machines.to_string(),
        ])
        .args(releases)
        .within(LIMIT);
    let start = Instant::now();
    let peak = run(agent);
    let makespan = start.elapsed().as_secs_f64();
    std::fs::remove_dir_all(world.path(&out)).unwrap();
    let (calls, bytes) = totals(server);
    let packages = packages::count() as f64;
    let cpu = (children() - before.1) * 1000.0 / packages;
    let calls = (calls - before.0.0) as f64 / packages;
    let bytes = (bytes - before.0.1) as f64 / packages / 1000.0;
    let bound = packages::bound(machines);
    let (name, bound) = match is_again {
        true => ("again".to_owned(), ["-".to_owned(), "-".to_owned()]),
        false => {
            let ratio = format!("{:.2}", makespan / bound);
            (machines.to_string(), [format!("{bound:.1}"), ratio])
        }
    };
    let peak = peak as f64 / 1024.0;
    println!(
        "{name:>8} {:>10} {makespan:>13.1} {:>7} {cpu:>24.2} {peak:>10.0} {calls:>15.1} {bytes:>12.1}",
        bound[0], bound[1]
    );
}

/// Runs a command that must succeed; returns its peak memory in KiB.
fn run(agent: Agent) -> u64 {
    let mut running = agent.start();
    let status = format!("/proc/{}/status", running.pid());
    let mut peak = 0;
    while !running.has_ended() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let size = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = size.unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(20));
    }
    running.end().succeeds();
    peak
}

/// All calls of the server, and the bytes of blobs that it has sent and received.
fn totals(server: &BuildServer) -> (u64, u64) {
    let counts = server.state().counts();
    let sum = |of: fn(&support::build_server::Counts) -> u64| counts.values().map(of).sum();
    (sum(|it| it.calls), sum(|it| it.bytes))
}

/// The CPU time of all ended children, in seconds.
fn children() -> f64 {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let times = [usage.user_time(), usage.system_time()];
    let seconds = times.map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    seconds.iter().sum()
}

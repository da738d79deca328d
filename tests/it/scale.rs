//! Large releases, large packages, much output. With `BOSH_AGENT_SOAK` in full size, otherwise a tenth of it.

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::support::{
    Agent, Outcome, Ran, ReleaseBuilder, Running, World, compiled_packages, list, manifest_of,
    require, require_root, require_tools, unpacked, wait_for,
};

/// The maximum memory of the agent, in KiB.
const MEMORY: u64 = 100 << 10;

/// The number of megabytes or packages for this run.
pub(crate) fn scaled(full: usize) -> usize {
    match std::env::var_os("BOSH_AGENT_SOAK") {
        Some(_) => full,
        None => full / 10,
    }
}

/// Runs successfully, and checks the agent's peak memory.
#[track_caller]
pub(crate) fn run_in_little_memory(agent: Agent) -> Ran {
    run_in_little_memory_and_count(agent).0
}

/// The same. Also returns how many bytes the agent has written to files and pipes.
#[track_caller]
pub(crate) fn run_in_little_memory_and_count(agent: Agent) -> (Ran, u64) {
    let running = agent.start();
    let mut most = None;
    let limit = std::time::Duration::from_secs(600);
    // It remains readable in /proc.
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    wait_for("the end", limit, || {
        most = peak(&running).or(most);
        match waitid(Id::Pid(Pid::from_raw(running.pid())), ended).unwrap() {
            WaitStatus::StillAlive => Err(running.stderr()),
            _ => Ok(()),
        }
    });
    let written = number_in(&running, "io", "wchar:").expect("the agent has written");
    let ran = running.end().succeeds();
    let most = most.expect("the agent's memory was seen");
    assert!(
        most < MEMORY,
        "the agent used {most} KiB, {MEMORY} are allowed"
    );
    (ran, written)
}

/// A process's peak memory, in KiB.
fn peak(running: &Running) -> Option<u64> {
    number_in(running, "status", "VmHWM:")
}

/// The number after a word in a file of a process in /proc.
fn number_in(running: &Running, file: &str, word: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", running.pid())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn hundred_packages_are_compiled_in_the_go_agents_order() {
    let world = World::new();
    let mut release = ReleaseBuilder::new("big.release", "1.0+dev.12");
    // Each depends on the next, so the last one is compiled first.
    let name = |number: usize| format!("pkg-{number:03}.a+b_c");
    for number in 0..100 {
        let next = name(number + 1);
        let dependencies = if number < 99 {
            &[next.as_str()][..]
        } else {
            &[]
        };
        release = release
            .package(
                &name(number),
                dependencies,
                "cat @packages@/*/count > all 2>/dev/null\n\
                 echo $(($(cat all) + 1)) > $BOSH_INSTALL_TARGET/count",
            )
            .of_version(&format!("{number}.0+dev.12"));
    }
    let tarball = world.release("release.tgz", &release);
    world
        .compile(&[&tarball])
        .succeeds()
        .says("Release big.release/1.0+dev.12 has 100 packages")
        .says("(100 of 100)");
    let result = world
        .out()
        .join("big.release-1.0+dev.12-ubuntu-noble-1.406.tgz");
    let manifest = manifest_of(&result);
    assert!(manifest.contains("\nversion: 1.0+dev.12\n"), "{manifest}");
    let compiled: Vec<String> = compiled_packages(&manifest)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let expected: Vec<String> = (0..100).rev().map(name).collect();
    assert_eq!(compiled, expected);
    let outcome = Outcome::of(&result);
    assert_eq!(outcome.packages[&name(99)]["count"], "100644 1\n");
    assert_eq!(outcome.packages[&name(0)]["count"], "100644 100\n");
    let files = list(&result)
        .into_iter()
        .filter(|entry| entry.name.ends_with(".tgz"))
        .count();
    assert_eq!(files, 100);
}

#[test]
fn dependency_is_available_to_many_dependents() {
    let world = World::new();
    let mut release = ReleaseBuilder::new("demo", "1.10").package(
        "lib",
        &[],
        "for i in $(seq 100); do echo $i > $BOSH_INSTALL_TARGET/$i; done",
    );
    for number in 0..scaled(300) {
        release = release.package(
            &format!("p{number}"),
            &["lib"],
            "ls @packages@/lib | wc -l > $BOSH_INSTALL_TARGET/count\nrm -rf @packages@/lib/1*",
        );
    }
    let outcome = Outcome::of(&world.compiled(&release));
    assert_eq!(outcome.packages.len(), scaled(300) + 1);
    for (name, contents) in &outcome.packages {
        if name != "lib" {
            assert_eq!(contents["count"], "100644 100\n", "{name}");
        }
    }
}

#[test]
fn long_output_is_logged_in_little_memory() {
    let world = World::new();
    let megabytes = scaled(200);
    let script = format!(
        "{{ set +x; }} 2>/dev/null\nyes 'a line of some length that is printed again and again' | head -c {megabytes}M"
    );
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script(&script));
    run_in_little_memory(world.agent().arg(tarball));
    let log = std::fs::metadata(world.log("demo-1.10", "app"))
        .unwrap()
        .len();
    assert_eq!(log, (megabytes << 20) as u64);
}

#[test]
fn long_line_is_logged_in_little_memory() {
    let world = World::new();
    let megabytes = scaled(200);
    let script = format!("{{ set +x; }} 2>/dev/null\nhead -c {megabytes}M /dev/zero\nexit 1");
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script(&script));
    let ran = world.agent().arg(tarball).run().fails();
    assert!(
        ran.stderr.len() < 10_000,
        "{} bytes on stderr",
        ran.stderr.len()
    );
    let log = std::fs::metadata(world.log("demo-1.10", "app"))
        .unwrap()
        .len();
    assert_eq!(log, (megabytes << 20) as u64);
}

#[test]
fn large_package_is_compiled_in_little_memory() {
    let world = World::new();
    let megabytes = scaled(400);
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "large",
            &[],
            &format!("head -c {megabytes}M /dev/urandom > $BOSH_INSTALL_TARGET/data"),
        )
        .package(
            "user",
            &["large"],
            "stat -c %s @packages@/large/data > $BOSH_INSTALL_TARGET/size",
        );
    let tarball = world.release("release.tgz", &release);
    run_in_little_memory(world.agent().arg(tarball));
    let (scratch, _) = {
        let scratch = world.path("unpacked");
        crate::support::extract(&world.result("demo-1.10"), &scratch);
        (scratch, ())
    };
    let blob = scratch.join("compiled_packages/large.tgz");
    let listed = list(&blob);
    assert_eq!(listed[1].size, (megabytes << 20) as u64);
    let (_scratch, user) = unpacked(&world.result("demo-1.10"), "user");
    assert_eq!(user["size"], format!("100644 {}\n", megabytes << 20));
}

#[test]
fn large_source_is_read_in_little_memory() {
    let world = World::new();
    let megabytes = scaled(400);
    let data = noise(megabytes << 20);
    let release = ReleaseBuilder::of_script("sha1sum < data > $BOSH_INSTALL_TARGET/sum")
        .file("data", 0o644, &data)
        .other("docs/data", &data);
    let tarball = world.release("release.tgz", &release);
    run_in_little_memory(world.agent().arg(tarball));
    let file = world.write("data", &data);
    let (_scratch, app) = unpacked(&world.result("demo-1.10"), "app");
    assert_eq!(
        app["sum"],
        format!("100644 {}  -\n", crate::support::sha1_of(&file))
    );
    let scratch = world.path("unpacked");
    crate::support::extract(&world.result("demo-1.10"), &scratch);
    assert!(std::fs::read(scratch.join("docs/data")).unwrap() == data);
}

/// Runs a command and writes to a file how many bytes its processes wrote to disks.
const COUNTING: &str = "import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], 'w').write(str(512 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock))
sys.exit(code)";

/// How many bytes a run in namespaces writes. In other tiers, a dependency is copied to a path that the script can reach.
fn written(world: &World, flags: &[&str], tarball: &std::path::Path) -> usize {
    let count = world.path("count");
    let counting = ["python3", "-c", COUNTING, count.to_str().unwrap()];
    let agent = Agent::wrapped(&world.path("printed"), &counting);
    let agent = world
        .flags_with(agent, "namespace")
        .arg("--output-directory")
        .arg(world.out());
    agent.args(flags).arg(tarball).run().succeeds();
    std::fs::read_to_string(count).unwrap().parse().unwrap()
}

#[test]
fn each_file_is_written_once_per_step() {
    if !require_root() || !require_tools(&["python3"]) {
        return;
    }
    let world = World::new();
    let bytes = scaled(200) << 20;
    let data = noise(bytes);
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("large", &[], "cp data $BOSH_INSTALL_TARGET/")
        .file("data", 0o644, &data)
        .package(
            "user",
            &["large"],
            "ls @packages@/large > $BOSH_INSTALL_TARGET/list",
        );
    let tarball = world.release("release.tgz", &release);
    let cache = world.path("cache");
    let cached = ["--cache-dir", cache.to_str().unwrap()];
    // The blob from the tarball, the source, the installed files, the compiled blob, the result. The cache has a link to the compiled
    // blob, and a package from the cache needs only the first and the last of these.
    for (flags, files) in [(&[][..], 5), (&cached, 5), (&cached, 2)] {
        let written = written(&world, flags, &tarball);
        if !require(written > bytes, "a disk whose writes the kernel counts") {
            return;
        }
        // 5 % for the rest.
        let needed = files * bytes;
        assert!(
            written < needed + bytes / 4,
            "{written} bytes were written with {flags:?}, and {needed} are needed"
        );
    }
}

#[test]
fn large_package_is_cached_in_little_memory() {
    let world = World::new();
    let megabytes = scaled(1000);
    let release = |user: &str| {
        let large = format!("head -c {megabytes}M /dev/urandom > $BOSH_INSTALL_TARGET/data");
        let user = format!("stat -c %s @packages@/large/data > $BOSH_INSTALL_TARGET/{user}");
        ReleaseBuilder::new("demo", "1.10")
            .package("large", &[], &large)
            .package("user", &["large"], &user)
    };
    let agent = || world.agent().arg("--cache-dir").arg(world.path("cache"));
    for (user, cached) in [
        ("one", "Finished"),
        ("one", "All 2 packages are in the cache"),
        ("two", "One of 2 packages is in the cache"),
    ] {
        let tarball = world.release("release.tgz", &release(user));
        run_in_little_memory(agent().arg(tarball)).says(cached);
        let (_scratch, files) = unpacked(&world.result("demo-1.10"), "user");
        assert_eq!(files[user], format!("100644 {}\n", megabytes << 20));
    }
    // With another level, the package is compressed again.
    let tarball = world.release("release.tgz", &release("two"));
    let agent = agent().arg("--compression-level=1").arg(tarball);
    run_in_little_memory(agent).says("All 2 packages are in the cache");
}

/// Incompressible bytes (xorshift).
fn noise(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for chunk in data.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    data
}

#[test]
fn package_with_many_files_is_complete() {
    let world = World::new();
    let count = scaled(50_000);
    let script = format!(
        "{{ set +x; }} 2>/dev/null\ncd $BOSH_INSTALL_TARGET\n\
         for d in $(seq {}); do mkdir $d; (cd $d && seq 1000 | xargs touch); done",
        count / 1000
    );
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script(&script));
    run_in_little_memory(world.agent().arg(tarball));
    let (_scratch, app) = unpacked(&world.result("demo-1.10"), "app");
    assert_eq!(app.len(), count + count / 1000 + 1);
}

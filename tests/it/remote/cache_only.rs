//! `--remote-cache-only`: this machine compiles, and shares results with runs on the machines of the server.

use super::*;

/// Flags of a machine that may claim what its action says: it is the stemcell, and scripts are isolated by `landlock`.
fn agent(world: &World, server: &Server, out: &str) -> Agent {
    std::fs::create_dir_all(world.base().join("bosh/etc")).unwrap();
    let version = world.base().join("bosh/etc/stemcell_version");
    std::fs::write(version, "1.406\n").unwrap();
    Agent::bare(&world.path("printed"))
        .args(&["compile", "--isolation", "landlock"])
        .arg("--base-directory")
        .arg(world.base())
        .arg("--output-directory")
        .arg(world.path(out))
        .arg("--remote")
        .arg(format!("grpc://127.0.0.1:{}", server.port))
}

/// Packages in three layers.
fn sources() -> ReleaseBuilder {
    let uses = |of: &str, name: &str| {
        format!(
            "cat @packages@/{of}/{of} source > $BOSH_INSTALL_TARGET/{name}\nchmod 0751 $BOSH_INSTALL_TARGET"
        )
    };
    ReleaseBuilder::new("demo", "1")
        .package("lib", &[], "cp source $BOSH_INSTALL_TARGET/lib")
        .file("source", 0o644, b"lib\n")
        .package("mid", &["lib"], &uses("lib", "mid"))
        .file("source", 0o644, b"mid\n")
        .package("app", &["mid"], &uses("mid", "app"))
        .file("source", 0o644, b"app\n")
}

/// The only result in an output directory.
fn only(world: &World, out: &str) -> PathBuf {
    let mut files = std::fs::read_dir(world.path(out)).unwrap();
    files.next().unwrap().unwrap().path()
}

fn can_compile() -> bool {
    require_root() && require_landlock()
}

#[test]
fn results_of_machines_are_found_without_an_execution() {
    let Some(server) = Server::start().filter(|_| can_compile()) else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &sources());
    agent(&world, &server, "one").arg(&tarball).run().succeeds();
    let ran = agent(&world, &server, "two").arg("--remote-cache-only");
    ran.arg(&tarball)
        .run()
        .succeeds()
        .says("has the results of 3 of 3 packages")
        .says("Using the result of an earlier run for app/")
        .does_not_say("Compiling package");
    let [one, two] = ["one", "two"].map(|out| std::fs::read(only(&world, out)).unwrap());
    assert!(one == two);
}

#[test]
fn results_of_this_machine_are_used_by_executions() {
    let Some(server) = Server::start().filter(|_| can_compile()) else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &sources());
    let caching = |out| agent(&world, &server, out).arg("--remote-cache-only");
    // Nothing is stored without the flag.
    caching("none").arg(&tarball).run().succeeds();
    let ran = caching("one")
        .args(&["--remote-store", "--jobs", "1"])
        .arg(&tarball)
        .run();
    ran.succeeds()
        .says("has the results of 0 of 3 packages")
        .says("Stored the results of 3 packages on the server")
        .does_not_say("Warning");
    let ran = agent(&world, &server, "two").arg(&tarball).run();
    ran.succeeds()
        .says("Using the result of an earlier run for lib/")
        .says("Using the result of an earlier run for mid/")
        .says("Using the result of an earlier run for app/")
        .does_not_say("Finished compiling release");
    let [one, two] = ["one", "two"].map(|out| std::fs::read(only(&world, out)).unwrap());
    assert!(one == two);
    let log = world.path("vcap/sys/log/compilation/demo-1/mid.log");
    assert!(std::fs::read_to_string(log).unwrap().contains("chmod 0751"));
}

#[test]
fn changed_package_and_its_dependents_are_compiled_here() {
    let Some(server) = Server::start().filter(|_| can_compile()) else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &sources());
    agent(&world, &server, "one").arg(&tarball).run().succeeds();
    let changed = sources()
        .package("mid2", &["lib"], "cp source $BOSH_INSTALL_TARGET/mid2")
        .file("source", 0o644, b"mid2\n")
        .package(
            "top",
            &["mid2", "app"],
            "cp @packages@/app/app $BOSH_INSTALL_TARGET/top",
        );
    let tarball = world.release("changed.tgz", &changed);
    let ran = agent(&world, &server, "two")
        .args(&["--remote-cache-only", "--remote-store", "--jobs", "1"])
        .arg(&tarball)
        .run();
    ran.succeeds()
        .says("has the results of 3 of 5 packages")
        .says("Compiling package mid2/")
        .says("Compiling package top/")
        .does_not_say("Compiling package lib/")
        .says("Stored the results of 2 packages on the server");
    let ran = agent(&world, &server, "three").arg(&tarball).run();
    ran.succeeds().does_not_say("Finished compiling release");
}

#[test]
fn machine_that_is_not_the_stemcell_stores_nothing() {
    let Some(server) = Server::start().filter(|_| can_compile()) else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &sources());
    let agent = |flags: &[&str]| {
        agent(&world, &server, "one")
            .args(&["--remote-cache-only", "--remote-store", "--jobs", "1"])
            .args(flags)
            .arg(&tarball)
            .run()
            .blames_the_machine()
            .does_not_say("Compiling package")
    };
    agent(&["--stemcell", "ubuntu-noble/1.1"])
        .says("packages of this machine cannot be stored on")
        .says("not the stemcell ubuntu-noble/1.1");
    agent(&["--isolation", "none"]).says("the isolation tier is `none`");
    agent(&["--jobs", "2"]).says("several scripts run at a time in the tier `landlock`");
    agent(&["--remote-script-user", "ordinary"]).says("scripts run as root here");
    agent(&["--remote-agent", "/bin/true"]).says("is not the one of --remote-agent");
}

#[test]
fn server_that_is_not_reachable_is_only_a_warning() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let flags = ["--remote", "grpc://127.0.0.1:1", "--remote-cache-only"];
    world
        .agent()
        .args(&flags)
        .arg(&tarball)
        .run()
        .succeeds()
        .says("Warning: the action cache of grpc://127.0.0.1:1 is not used: ")
        .says("Finished compiling release app/");
}

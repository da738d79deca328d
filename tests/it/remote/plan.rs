//! `--dry-run`, reports and time limits of packages that other machines compile.

use super::*;

#[test]
fn plan_names_what_the_server_has_and_what_it_would_execute() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &release());
    let ran = server.agent(&world).arg("--dry-run").arg(&tarball).run();
    ran.succeeds()
        .says("Expected order with --remote-jobs 64:")
        .says("has no result of it")
        .says("its dependencies would be compiled");
    server.agent(&world).arg(&tarball).run().succeeds();
    let ran = server.agent(&world).arg("--dry-run").arg(&tarball).run();
    ran.succeeds()
        .says("No package would be compiled")
        .says("All 3 packages are in the cache")
        .says(&format!(
            "would be fetched from grpc://127.0.0.1:{}",
            server.port
        ));
}

#[test]
fn plan_needs_the_server() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let agent = || {
        world
            .agent()
            .args(&["--dry-run", "--remote", "grpc://127.0.0.1:1"])
    };
    agent()
        .arg(&tarball)
        .run()
        .blames_the_machine()
        .says("cannot compile packages on the machines of `grpc://127.0.0.1:1`");
    let ran = agent().arg("--remote-fallback=local").arg(&tarball).run();
    ran.succeeds()
        .says("the server grpc://127.0.0.1:1 is not used");
}

#[test]
fn report_has_the_machines_of_packages_and_their_times() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let release = ReleaseBuilder::new("demo", "1").package(
        "app",
        &[],
        "sleep 1; touch $BOSH_INSTALL_TARGET/app",
    );
    let tarball = world.release("release.tgz", &release);
    for is_cached in [false, true] {
        let agent = server
            .agent(&world)
            .arg("--report")
            .arg(world.path("report.json"));
        agent.arg(&tarball).run().succeeds();
        let report: serde_json::Value = serde_json::from_str(&world.read("report.json")).unwrap();
        let machine = &report["packages"][0]["machine"];
        assert_eq!(machine["cached"], is_cached, "{machine}");
        assert!(machine["executing"].as_f64().unwrap() >= 1.0, "{machine}");
        if !is_cached {
            let phases = report["packages"][0]["phases"].as_array().unwrap();
            let script = phases.iter().find(|it| it["name"] == "script").unwrap();
            assert!(script["seconds"].as_f64().unwrap() >= 1.0, "{phases:?}");
        }
    }
}

#[test]
fn script_on_another_machine_has_time_limits() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let release = ReleaseBuilder::new("demo", "1").package("slow", &[], "sleep 300");
    let tarball = world.release("release.tgz", &release);
    for flag in ["--timeout", "--silence-timeout"] {
        let agent = server.agent(&world).args(&[flag, "2s"]);
        let ran = agent.arg(&tarball).run();
        ran.fails().says("failed to compile package slow/");
    }
}

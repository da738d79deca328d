//! The report of a run for other programs (`--report`).

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Agent, LANDLOCK, Place, ReleaseBuilder, World, report, require_root, require_tools, wait_until,
};

/// The packages of a report with this name.
#[track_caller]
fn package<'a>(report: &'a Value, name: &str) -> &'a Value {
    let packages = report["packages"].as_array().unwrap();
    packages.iter().find(|it| it["name"] == name).unwrap()
}

#[test]
fn report_lists_what_was_compiled_failed_and_skipped() {
    let world = World::new();
    let demo = ReleaseBuilder::new("demo", "1")
        .package("bad", &[], "echo the reason; exit 7")
        .package("good", &[], "true")
        .package("over-bad", &["bad"], "true");
    let other = ReleaseBuilder::new("other", "1").package("fine", &[], "true");
    let tarballs = [
        world.release("demo.tgz", &demo),
        world.release("other.tgz", &other),
    ];
    let path = world.path("reports/report.json");
    let agent = world.agent().arg("--keep-going").arg("--report").arg(&path);
    let ran = agent.args(&tarballs).run().fails();
    let report = report::checked(&path, &world.out(), 1, Some(&ran.stdout));
    assert_eq!(report["failure_kind"], "script");
    let status = |name| package(&report, name)["status"].as_str().unwrap();
    assert_eq!(
        ["bad", "good", "over-bad", "fine"].map(status),
        ["failed", "compiled", "skipped", "compiled"]
    );
    let bad = package(&report, "bad");
    assert_eq!(bad["failure"]["exit_code"], 7);
    assert!(bad["script"]["max_memory"].as_u64().unwrap() > 0);
    assert_eq!(report["releases"][0]["status"], "unfinished");
    assert_eq!(report["releases"][1]["status"], "written");
    let input = report["inputs"][0]["sha256"].as_str().unwrap();
    assert_eq!(input, report::sha256_of(&tarballs[0]));
}

#[test]
fn invalid_input_is_reported() {
    let world = World::new();
    let tarball = world.write("release.tgz", "not a release");
    let path = world.path("report.json");
    let agent = world.agent().arg("--report").arg(&path).arg(&tarball);
    let ran = agent.run().refuses_the_input();
    let report = report::checked(&path, &world.out(), 3, Some(&ran.stdout));
    assert_eq!(report["failure_kind"], "input");
    assert_eq!(report["errors"].as_array().unwrap().len(), 1);
}

#[test]
fn copied_and_unchanged_releases_are_outputs() {
    let world = World::new();
    let demo = ReleaseBuilder::demo();
    let source = world.release("demo.tgz", &demo);
    world.compile(&[&source]).succeeds();
    let compiled = world.result("demo-1.10");
    let path = world.path("report.json");
    let status = |directory: &Path| {
        let agent = world.flags(Agent::bare(&world.path("printed")));
        let agent = agent.arg("--output-directory").arg(directory);
        let ran = agent.arg("--report").arg(&path).arg(&compiled).run();
        let stdout = ran.succeeds().stdout;
        let report = report::checked(&path, &world.out(), 0, Some(&stdout));
        assert_eq!(report["packages"], serde_json::json!([]));
        assert_eq!(report["isolation"], Value::Null);
        assert_eq!(
            report["outputs"][0]["sha256"],
            report["inputs"][0]["sha256"]
        );
        report["releases"][0]["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status(&world.path("copies")), "copied");
    assert_eq!(status(&world.out()), "unchanged");
}

#[test]
fn stopped_call_is_reported() {
    let world = World::new();
    let demo = ReleaseBuilder::new("demo", "1")
        .package("done", &[], "true")
        .package("hang", &["done"], "touch $MARK; exec sleep 1000")
        .package("later", &["hang"], "true");
    let (mark, path) = (world.path("mark"), world.path("report.json"));
    let agent = world.agent().arg("--report").arg(&path);
    let agent = agent.arg(world.release("demo.tgz", &demo));
    let running = agent.env("MARK", mark.to_str().unwrap()).start();
    wait_until("the start of the script", || mark.exists());
    running.signal(Signal::SIGTERM);
    let ran = running.end().ends_with(143);
    let report = report::checked(&path, &world.out(), 143, Some(&ran.stdout));
    assert_eq!(report["result"], "stopped");
    assert_eq!(report["failure_kind"], Value::Null);
    let status = |name| package(&report, name)["status"].clone();
    assert_eq!(
        ["done", "hang", "later"].map(status),
        ["compiled", "stopped", "not_started"]
    );
}

#[test]
fn second_run_is_reported_with_its_reason() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    // The second run finds the file of the first one.
    let script =
        "[ -e $FACTS/ran ] || { touch $FACTS/ran; echo 'mkdir: /x: Permission denied'; exit 1; }";
    let release = ReleaseBuilder::new("demo", "1.10").package("app", &[], script);
    let path = place.world.path("report.json");
    let agent = place.agent().arg("--report").arg(&path);
    let ran = agent.arg(place.release(&release)).run().succeeds();
    let report = report::checked(&path, &place.world.out(), 0, Some(&ran.stdout));
    assert_eq!(report["isolation"], "landlock");
    let package = package(&report, "app");
    assert_eq!(package["second_run"]["with"], "no_restrictions");
    let reason = package["second_run"]["reason"].as_str().unwrap();
    assert!(reason.contains("exited with 1"), "{reason}");
    assert!(package["first_log"].as_str().is_some());
}

#[test]
fn report_that_cannot_be_written_is_refused_before_compiling() {
    let world = World::new();
    let tarball = world.release("demo.tgz", &ReleaseBuilder::demo());
    let directory = world.path("directory.json");
    std::fs::create_dir(&directory).unwrap();
    // In the place of a device, which a report must not replace.
    let fifo = world.path("fifo.json");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [&directory, &fifo, Path::new("/proc/none/report.json")] {
        let agent = world.agent().arg("--report").arg(path);
        let ran = agent.arg(&tarball).run().blames_the_machine();
        assert_eq!(ran.stderr.matches("Error: ").count(), 1, "{}", ran.stderr);
        ran.says(&path.parent().unwrap().to_string_lossy())
            .does_not_say("Compiling package");
    }
    assert!(fifo.symlink_metadata().unwrap().file_type().is_fifo());
    assert!(!world.result("demo-1.10").exists());
}

#[test]
fn forgotten_path_of_a_report_costs_no_tarball() {
    let world = World::new();
    let tarball = world.release("demo.tgz", &ReleaseBuilder::demo());
    let before = std::fs::read(&tarball).unwrap();
    for flag in ["--report", "--timings"] {
        let agent = world.agent().without_report().arg(flag).arg(&tarball);
        let ran = agent.arg(&tarball).run().ends_with(2);
        ran.says("must end in `.");
    }
    assert_eq!(std::fs::read(&tarball).unwrap(), before);
}

#[test]
fn mounted_file_is_refused_as_a_report() {
    if !require_root() || !require_tools(&["unshare"]) {
        return;
    }
    let world = World::new();
    let tarball = world.release("demo.tgz", &ReleaseBuilder::demo());
    let path = world.write("report.json", "theirs");
    let script = "mount --bind \"$0\" \"$0\" && exec \"$@\"";
    let words = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        path.to_str().unwrap(),
    ];
    let agent = world.flags(Agent::wrapped(&world.path("printed"), &words));
    let agent = agent.arg("--report").arg(&path).arg(&tarball);
    agent
        .run()
        .blames_the_machine()
        .says("it is a mount, and cannot be replaced")
        .does_not_say("Compiling package");
    assert_eq!(world.read("report.json"), "theirs");
}

#[test]
fn keep_going_compiles_the_other_four_packages_and_the_other_release() {
    let world = World::new();
    let mut demo = ReleaseBuilder::new("demo", "1").package("bad", &[], "exit 7");
    for name in ["one", "two", "three", "four"] {
        demo = demo.package(name, &[], "true");
    }
    let other = ReleaseBuilder::new("other", "1").package("fine", &[], "true");
    let tarballs = [
        world.release("demo.tgz", &demo),
        world.release("other.tgz", &other),
    ];
    let path = world.path("report.json");
    let agent = world.agent().arg("--keep-going").arg("--report").arg(&path);
    let ran = agent.args(&tarballs).run().fails();
    let result = world.result("other-1");
    assert_eq!(ran.stdout, format!("{}\n", result.display()));
    let report = report::checked(&path, &world.out(), 1, Some(&ran.stdout));
    let packages = report["packages"].as_array().unwrap();
    let count = |status: &str| packages.iter().filter(|it| it["status"] == status).count();
    assert_eq!([count("compiled"), count("failed")], [5, 1]);
    assert_eq!(package(&report, "bad")["status"], "failed");
    assert_eq!(report["summary"]["compiled"], 5);
    assert_eq!(report["summary"]["to_compile"], 6);
}

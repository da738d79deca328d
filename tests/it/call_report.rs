//! The report of a call for other programs (`--report`).

use crate::support::{ReleaseBuilder, World, report};

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
    let report = report::checked(&path, 1, &ran.stdout);
    assert_eq!(report["failure_kind"], "script");
    let packages = report["packages"].as_array().unwrap();
    let status = |name: &str| {
        let package = packages.iter().find(|it| it["name"] == name);
        package.unwrap()["status"].as_str().unwrap()
    };
    assert_eq!(
        ["bad", "good", "over-bad", "fine"].map(status),
        ["failed", "compiled", "skipped", "compiled"]
    );
    let bad = packages.iter().find(|it| it["name"] == "bad").unwrap();
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
    let report = report::checked(&path, 3, &ran.stdout);
    assert_eq!(report["failure_kind"], "input");
    assert_eq!(report["errors"].as_array().unwrap().len(), 1);
}

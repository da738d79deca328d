//! The page with the times of packages (`--timings`) and the summary at the end of a run.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{ReleaseBuilder, STEMCELL, World, report, wait_until};

/// A script that prints what a page could take for its own.
const HOSTILE: &str = r#"set +x
printf '\033[1;31mred\033[0m </script><script>document.title = "x"</script> \377&amp;\n'
touch $BOSH_INSTALL_TARGET/done"#;

/// The values of a row's cells.
fn row(page: &str, package: &Value) -> Vec<String> {
    let start = format!("<tr role=\"row\" id=\"package-{}\">", package["id"]);
    let (_, row) = page.split_once(&start).unwrap();
    let (row, _) = row.split_once("</tr>").unwrap();
    let values = row.split("data-value=\"").skip(1);
    let values = values.map(|it| it.split_once('"').unwrap().0.to_owned());
    values.collect()
}

/// A number as the page writes it.
fn number(value: &Value) -> String {
    let number = value.as_f64().map(|it| it.to_string());
    number.unwrap_or_default()
}

/// The row that the report of a package requires.
fn expected(package: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (seconds, script) = (&package["seconds"], &package["script"]);
    let cpu = script["user_seconds"].as_f64().map(|user| {
        let cpu = user + script["system_seconds"].as_f64().unwrap();
        ((cpu * 1000.0).round() / 1000.0).to_string()
    });
    let names = ["total", "wait", "unpack", "script", "pack"];
    let mut row = vec![
        text(&package["name"]),
        text(&package["version"]),
        text(&package["releases"][0]),
        text(&package["status"]).replace('_', " "),
        number(&package["started"]),
    ];
    row.extend(names.map(|name| number(&seconds[name])));
    row.extend([cpu.unwrap_or_default(), number(&script["max_memory"])]);
    row
}

#[test]
fn page_has_the_numbers_of_the_report() {
    let world = World::new();
    let release = ReleaseBuilder::demo().package("hostile", &["lib"], HOSTILE);
    let tarball = world.release("release.tgz", &release);
    let (json, page) = (world.path("pages/report.json"), world.path("pages/a.html"));
    let agent = world.agent().arg("--report").arg(&json);
    let ran = agent.arg("--timings").arg(&page).arg(&tarball).run();
    let ran = ran
        .succeeds()
        .says("\nCompiled 3 packages with --jobs 1 in ");
    let report = report::checked(&json, &world.out(), 0, Some(&ran.stdout));
    let page = std::fs::read_to_string(&page).unwrap();
    let packages = report["packages"].as_array().unwrap();
    for package in packages {
        assert_eq!(row(&page, package), expected(package));
    }
    assert_eq!(page.matches("<tr role=\"row\" id=").count(), packages.len());
    let (_, embedded) = page.split_once("id=\"report\">").unwrap();
    let (embedded, _) = embedded.split_once("</script>").unwrap();
    assert_eq!(serde_json::from_str::<Value>(embedded).unwrap(), report);
    let hostile = packages.iter().find(|it| it["name"] == "hostile").unwrap();
    assert_eq!(
        hostile["last_lines"][0],
        "red </script><script>document.title = \"x\"</script> \u{fffd}&amp;"
    );
    assert!(page.contains("red &lt;/script&gt;&lt;script&gt;"), "{page}");
    assert!(page.contains("\u{fffd}&amp;amp;"));
    assert_eq!(page.matches("<script").count(), 2);
}

#[test]
fn report_has_the_critical_path_and_the_sums() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let path = world.path("report.json");
    let agent = world.agent().arg("--report").arg(&path).arg(&tarball);
    let report = report::checked(&path, &world.out(), 0, Some(&agent.run().succeeds().stdout));
    let packages = report["packages"].as_array().unwrap();
    let names: Vec<&Value> = report["critical_path"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| &packages[usize::try_from(id.as_u64().unwrap()).unwrap()]["name"])
        .collect();
    assert_eq!(names.last().unwrap().as_str(), Some("app"), "{names:?}");
    let summary = &report["summary"];
    assert_eq!(
        (&summary["compiled"], &summary["to_compile"]),
        (&2.into(), &2.into())
    );
    let totals = packages.iter().map(|it| it["seconds"]["total"].as_f64());
    let total: f64 = totals.map(Option::unwrap).sum();
    let difference = summary["seconds"]["total"].as_f64().unwrap() - total;
    assert!(difference.abs() < 0.01, "{summary}");
}

#[test]
fn installation_of_a_compiled_package_is_not_a_wait() {
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1")
        .compiled("lib", &[], STEMCELL, ("lib.txt", b"lib"))
        .package("app", &["lib"], "true");
    let tarball = world.release("release.tgz", &release);
    let path = world.path("report.json");
    let agent = world.agent().arg("--report").arg(&path).arg(&tarball);
    let report = report::checked(&path, &world.out(), 0, Some(&agent.run().succeeds().stdout));
    let lib = &report["packages"][0];
    assert_eq!(lib["status"], "installed");
    assert_eq!(lib["seconds"]["unpack"], lib["seconds"]["total"]);
    let summary = &report["summary"];
    assert_eq!(
        (&summary["compiled"], &summary["to_compile"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn page_is_written_after_a_failure() {
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1")
        .package("bad", &[], "echo '<b>the reason</b>'; exit 7")
        .package("over-bad", &["bad"], "true");
    let tarball = world.release("release.tgz", &release);
    let page = world.path("timings.html");
    let agent = world.agent().arg("--timings").arg(&page).arg(&tarball);
    agent.run().fails();
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("<span class=\"badge bad\">Failed</span>"));
    assert!(page.contains("<details class=\"failed\" open><summary>bad "));
    assert!(
        page.contains("&lt;b&gt;the reason&lt;/b&gt;</pre>"),
        "{page}"
    );
    assert!(page.contains("<span class=\"badge odd\">skipped</span>"));
}

#[test]
fn unusable_path_of_the_page_is_reported_before_scripts_run() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let with = |timings: &str| {
        let agent = world.agent().arg("--report").arg(world.path("a.json"));
        let agent = agent.arg("--timings").arg(world.path(timings));
        agent.arg(&tarball).run().does_not_say("Compiling package")
    };
    std::fs::create_dir(world.path("directory.html")).unwrap();
    let ran = with("directory.html").blames_the_machine();
    ran.says("it is not a file");
    let ran = with("a.json").ends_with(2);
    ran.says("the name of a page of timings must end in `.html`");
}

#[test]
fn stopped_call_has_a_page_and_no_summary() {
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1")
        .package("first", &[], "true")
        .package("second", &["first"], "true")
        .package("third", &["second"], "sleep 1000");
    let tarball = world.release("release.tgz", &release);
    let page = world.path("timings.html");
    let agent = world.agent().arg("--timings").arg(&page).arg(&tarball);
    let running = agent.start();
    wait_until("the third script", || {
        running.stderr().contains("Compiling package third")
    });
    running.signal(Signal::SIGTERM);
    running.end().ends_with(143).does_not_say("Compiled 2");
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("<span class=\"badge odd\">Stopped</span>"));
}

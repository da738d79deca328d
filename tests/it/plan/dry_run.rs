//! The expected order and times of packages (`--dry-run`), and their graph (`--graph`).

use super::*;
use crate::support::{require_tools, run_tool};

/// A chain of three packages, and two packages without dependencies.
fn chains() -> ReleaseBuilder {
    let script = "true";
    ReleaseBuilder::new("demo", "1.10")
        .package("a-leaf", &[], script)
        .package("base", &[], script)
        .package("middle", &["base"], script)
        .package("top", &["middle"], script)
        .package("z-leaf", &[], script)
}

/// Writes the durations of an earlier run, in seconds.
fn remember(logs: &Path, seconds: &[(&str, u32)]) {
    std::fs::create_dir_all(logs).unwrap();
    let packages: Vec<String> = seconds
        .iter()
        .map(|(name, seconds)| format!(r#""{name}": [{{"version": "1", "seconds": {seconds}}}]"#))
        .collect();
    let text = format!("{{\"packages\": {{{}}}}}", packages.join(", "));
    std::fs::write(logs.join("durations.json"), text).unwrap();
}

fn dry_run(world: &World, flags: &[&str], logs: &Path, tarballs: &[&Path]) -> Ran {
    let agent = world.agent().arg("--dry-run").args(flags);
    planned(world, agent.arg("--logs-dir").arg(logs), tarballs)
}

/// The start, the time and the name of each package of a plan.
fn steps(ran: &Ran) -> Vec<[String; 3]> {
    ran.stderr
        .lines()
        .skip_while(|line| !line.starts_with("Expected order with "))
        .skip(2)
        .take_while(|line| line.starts_with(' '))
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let [start, time, title] = std::array::from_fn(|_| words.next().unwrap());
            let (name, _) = title.split_once('/').unwrap();
            [start, time, name.to_owned()]
        })
        .collect()
}

fn names(steps: &[[String; 3]]) -> Vec<&str> {
    steps.iter().map(|[_, _, name]| name.as_str()).collect()
}

#[test]
fn dry_run_prints_order_times_and_critical_path() {
    let world = World::new();
    let tarball = world.release("release.tgz", &chains());
    let logs = world.path("logs");
    let measured = [
        ("a-leaf", 6),
        ("base", 2),
        ("middle", 3),
        ("top", 10),
        ("z-leaf", 1),
    ];
    remember(&logs, &measured);
    let ran = dry_run(&world, &["--jobs=2"], &logs, &[&tarball])
        .succeeds()
        .says("Expected order with --jobs 2:\n")
        .says(&format!(
            "Expected time: 15.6s, from earlier runs ({}/durations.json)\n\
             Critical path, 15.6s: base -> middle -> top\n\
             No problems found; nothing was compiled\n",
            logs.display()
        ));
    assert_eq!(ran.stdout, "");
    let found = steps(&ran);
    let expected = [
        ["0.0s", "2.2s", "base"],
        ["0.0s", "6.2s", "a-leaf"],
        ["2.2s", "3.2s", "middle"],
        ["5.4s", "10.2s", "top"],
        ["6.2s", "1.2s", "z-leaf"],
    ];
    assert_eq!(found, expected.map(|step| step.map(str::to_owned)));
}

#[test]
fn order_of_a_dry_run_is_that_of_the_run() {
    let world = World::new();
    let tarball = world.release("release.tgz", &chains());
    let logs = world.path("logs");
    remember(&logs, &[("top", 30), ("z-leaf", 20), ("a-leaf", 10)]);
    for jobs in ["1", "3"] {
        let flags = ["--jobs", jobs, "--isolation=none"];
        let found = steps(&dry_run(&world, &flags, &logs, &[&tarball]).succeeds());
        let kept = std::fs::read(logs.join("durations.json")).unwrap();
        let ran = world
            .agent()
            .args(&flags)
            .arg("--logs-dir")
            .arg(&logs)
            .arg(&tarball)
            .run()
            .succeeds();
        let started = ran.stderr.lines().filter_map(|line| {
            let package = line.strip_prefix("Compiling package ")?;
            Some(package.split_once('/').unwrap().0)
        });
        let started: Vec<&str> = started.collect();
        match jobs {
            // The order of the manifest's graph, although the durations differ.
            "1" => assert_eq!(started, names(&found)),
            // Later packages start when an earlier one is done, and these take no time here.
            _ => assert_eq!(started[..3], names(&found)[..3]),
        }
        std::fs::write(logs.join("durations.json"), kept).unwrap();
    }
}

#[test]
fn times_without_an_earlier_run_are_estimates() {
    let world = World::new();
    let demo = world.release("release.tgz", &ReleaseBuilder::demo());
    let logs = world.path("logs");
    let ran = dry_run(&world, &["--jobs=1"], &logs, &[&demo])
        .succeeds()
        .says("Expected order with --jobs 1:\n")
        .says("estimated by the sizes of the sources (~): no earlier run has measured a package");
    assert_eq!(names(&steps(&ran)), ["lib", "app"]);
    assert!(steps(&ran).iter().all(|[_, time, _]| time == "~0.2s"));
    remember(&logs, &[("lib", 4)]);
    dry_run(&world, &["--jobs=1"], &logs, &[&demo])
        .succeeds()
        .says("1 of 2 packages from earlier runs (");
    std::fs::write(logs.join("durations.json"), "{").unwrap();
    dry_run(&world, &[], &logs, &[&demo])
        .succeeds()
        .says("Warning: could not read how long packages took");
}

#[test]
fn dry_run_has_the_selected_packages_of_all_releases() {
    let world = World::new();
    let demo = ReleaseBuilder::demo().package("unused", &[], "false");
    let demo = world.release("release.tgz", &demo);
    let other = ReleaseBuilder::new("other", "2")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib.txt")
        .package("own", &["lib"], "true")
        .compiled("old", &[], STEMCELL, ("old", b""))
        .job("run", &["own"]);
    let other = world.release("other.tgz", &other);
    let ran = dry_run(
        &world,
        &["--only-needed"],
        &world.path("logs"),
        &[&demo, &other],
    )
    .succeeds()
    .says(" of demo/1.10, other/2\n")
    .says(" of other/2\n");
    assert_eq!(steps(&ran).len(), 3, "{}", ran.stderr);
}

#[test]
fn dry_run_has_nothing_to_compile_in_compiled_releases() {
    let world = World::new();
    let compiled = ReleaseBuilder::new("old", "3").compiled("a", &[], STEMCELL, ("a", b""));
    let compiled = world.release("compiled.tgz", &compiled);
    dry_run(&world, &[], &world.path("logs"), &[&compiled])
        .succeeds()
        .says("No package would be compiled\n");
}

#[test]
fn dry_run_works_without_a_stemcell_and_reports_problems() {
    let world = World::new();
    let bare = || {
        Agent::bare(&world.path("printed"))
            .args(&["compile", "--dry-run", "--output-directory"])
            .arg(world.out())
            .arg("--base-directory")
            .arg(world.base())
    };
    let demo = world.release("release.tgz", &ReleaseBuilder::demo());
    planned(&world, bare(), &[&demo])
        .succeeds()
        .says("Checking without a stemcell")
        .says("Critical path, ");
    let damaged = marking().without("packages/app.tgz");
    let damaged = world.release("damaged.tgz", &damaged);
    planned(&world, bare(), &[&damaged]).refuses_the_input();
}

/// A mixed release and another one that shares a package.
fn graph_of_two(world: &World, flags: &[&str], file: &str) -> Ran {
    let demo = ReleaseBuilder::new("demo", "1.10")
        .compiled("base", &[], STEMCELL, ("base", b""))
        .compiled("lib", &["base"], STEMCELL, ("lib", b""))
        .package("app", &["lib"], "true")
        .package("shared", &[], "true");
    let other = ReleaseBuilder::new("other", "2").package("shared", &[], "true");
    let tarballs = [
        world.release("demo.tgz", &demo),
        world.release("other.tgz", &other),
    ];
    let agent = world.agent().args(flags).arg("--graph");
    agent.arg(world.path(file)).args(&tarballs).run()
}

#[test]
fn graph_has_all_packages_of_all_releases() {
    for (flags, file) in [
        (&["--dry-run"][..], "graph.dot"),
        (&["--check"], "new/graph.gv"),
        (&[], "graph.dot"),
    ] {
        let world = World::new();
        graph_of_two(&world, flags, file)
            .succeeds()
            .says("Wrote the dependency graph of 4 packages to ");
        let text = world.read(file);
        for part in [
            "label=\"demo/1.10\";",
            "label=\"base/5a5a5a5a5a5a\\ncompiled\"",
            "label=\"app/5a5a5a5a5a5a\\n~0.2s\"",
            "label=\"shared/5a5a5a5a5a5a\\n~0.2s\\ndemo/1.10, other/2\"",
            "n1 -> n0;",
            "n2 -> n1;",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let results = std::fs::read_dir(world.out());
        assert_eq!(results.is_ok(), flags.is_empty());
    }
}

#[test]
fn graphviz_draws_the_graph() {
    if !require_tools(&["dot"]) {
        return;
    }
    let world = World::new();
    graph_of_two(&world, &["--dry-run"], "graph.dot").succeeds();
    let svg = world.path("graph.svg");
    let arguments = [
        Path::new("-Tsvg"),
        &world.path("graph.dot"),
        Path::new("-o"),
        &svg,
    ];
    run_tool("dot", &arguments);
    let svg = std::fs::read_to_string(svg).unwrap();
    for text in [
        ">app/5a5a5a5a5a5a<",
        ">compiled<",
        ">demo/1.10<",
        "<title>n2&#45;&gt;n1</title>",
    ] {
        assert!(svg.contains(text), "{text} is not in\n{svg}");
    }
}

#[test]
fn graph_never_replaces_a_release_or_a_device() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let agent = || world.agent().arg("--check").arg("--graph");
    let ran = planned(&world, agent().arg(&tarball), &[&tarball]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    ran.says("the name of a graph must end in `.dot` or `.gv`");
    let link = world.path("link.dot");
    std::os::unix::fs::symlink(&tarball, &link).unwrap();
    planned(&world, agent().arg(&link), &[&tarball])
        .blames_the_machine()
        .says("link.dot`: it is not a file");
}

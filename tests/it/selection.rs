//! Compiling a part of a release: `--only-needed`, `--job`, `--package`.

use std::path::{Path, PathBuf};

use crate::support::{
    Agent, Outcome, Ran, ReleaseBuilder, STEMCELL, World, compiled_packages, extract, list,
    manifest_of, report,
};

/// Two jobs with a common package, and a package that no job needs and that always fails.
fn demo() -> ReleaseBuilder {
    let script = "echo $BOSH_PACKAGE_NAME > $BOSH_INSTALL_TARGET/name";
    ReleaseBuilder::new("demo", "1.10")
        .package("base", &[], script)
        .package("app", &["base"], script)
        .package("store", &["base"], script)
        .package("windows", &["base"], "exit 1")
        .job("web", &["app"])
        .job("db", &["store"])
        .license()
}

/// The result of a selection.
fn result(world: &World, selection: &str) -> PathBuf {
    let name = format!("demo-1.10-{}.{selection}.tgz", STEMCELL.replace('/', "-"));
    world.out().join(name)
}

/// Compiles with flags, and checks that the names printed before are those of the results.
#[track_caller]
fn select(world: &World, flags: &[&str], tarballs: &[&Path]) -> Ran {
    let named = world.agent().args(flags).arg("--print-output-names");
    let named = named.args(tarballs).run();
    let ran = world.agent().args(flags).args(tarballs).run();
    if ran.code == Some(0) {
        assert_eq!(named.stdout, ran.stdout);
    }
    ran
}

/// The names of the jobs and of the compiled packages in a result, the former from its entries.
#[track_caller]
fn contents(result: &Path) -> (Vec<String>, Vec<String>) {
    let manifest = manifest_of(result);
    let packages = compiled_packages(&manifest);
    let packages: Vec<String> = packages.into_iter().map(|(name, _)| name).collect();
    let entries = |directory: &str| {
        let names = list(result).into_iter().map(|entry| entry.name);
        let names = names.filter_map(|name| {
            let name = name.strip_prefix(directory)?.strip_suffix(".tgz")?;
            Some(name.to_owned())
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(entries("./compiled_packages/"), packages);
    let jobs = entries("./jobs/");
    let listed = manifest
        .lines()
        .skip_while(|line| *line != "jobs:")
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .filter_map(|line| line.strip_prefix("    - name: "));
    assert_eq!(listed.collect::<Vec<_>>(), jobs);
    (jobs, packages)
}

#[track_caller]
fn assert_contents(result: &Path, jobs: &[&str], packages: &[&str]) {
    let (found_jobs, found_packages) = contents(result);
    assert_eq!(found_jobs, jobs);
    assert_eq!(found_packages, packages);
}

#[test]
fn unneeded_package_that_fails_is_not_compiled() {
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    world.compile(&[&tarball]).fails();
    select(&world, &["--only-needed"], &[&tarball])
        .succeeds()
        .says("Selected 3 of 4 packages and 2 of 2 jobs of release demo/1.10. Left out: package windows");
    let result = result(&world, "only-needed");
    assert_contents(&result, &["web", "db"], &["base", "app", "store"]);
    assert!(manifest_of(&result).contains("license:"));
    let entries: Vec<String> = list(&result).into_iter().map(|it| it.name).collect();
    assert!(entries.contains(&"./LICENSE".to_owned()), "{entries:?}");
}

#[test]
fn result_of_a_job_has_its_packages_only() {
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    select(&world, &["--job=web"], &[&tarball])
        .succeeds()
        .says("Left out: packages store, windows; job db");
    assert_contents(&result(&world, "job=web"), &["web"], &["base", "app"]);
    select(&world, &["--job=web", "--job", "db"], &[&tarball]).succeeds();
    assert_contents(
        &result(&world, "job=db,web"),
        &["web", "db"],
        &["base", "app", "store"],
    );
}

#[test]
fn result_of_a_package_has_the_jobs_that_need_no_other() {
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    select(&world, &["--package=store"], &[&tarball]).succeeds();
    assert_contents(
        &result(&world, "package=store"),
        &["db"],
        &["base", "store"],
    );
    select(&world, &["--package=base"], &[&tarball]).succeeds();
    assert_contents(&result(&world, "package=base"), &[], &["base"]);
    select(&world, &["--package=store", "--job=web"], &[&tarball]).succeeds();
    assert_contents(
        &result(&world, "job=web.package=store"),
        &["web"],
        &["base", "app", "store"],
    );
}

#[test]
fn packages_are_the_same_as_in_the_whole_result() {
    let world = World::new();
    let release = ReleaseBuilder::demo().package("other", &[], "true");
    let tarball = world.release("release.tgz", &release);
    world.compile(&[&tarball]).succeeds();
    select(&world, &["--only-needed"], &[&tarball]).succeeds();
    let whole = Outcome::of(&world.result("demo-1.10"));
    let mut part = Outcome::of(&result(&world, "only-needed"));
    let other = whole.packages["other"].clone();
    part.packages.insert("other".to_owned(), other);
    assert_eq!(part.packages, whole.packages);
    assert_eq!(part.files, whole.files);
}

#[test]
fn compiled_packages_of_a_mixed_release_are_selected() {
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .compiled("lib", &[], STEMCELL, ("lib", b"lib"))
        .compiled("unused", &[], STEMCELL, ("unused", b""))
        .package("app", &["lib"], "cat @packages@/lib/lib")
        .job("web", &["app"]);
    let tarball = world.release("release.tgz", &release);
    select(&world, &["--only-needed"], &[&tarball]).succeeds();
    let result = result(&world, "only-needed");
    assert_contents(&result, &["web"], &["lib", "app"]);
    let scratch = world.path("unpacked");
    extract(&result, &scratch);
    let files = release.files();
    let lib = files
        .iter()
        .find(|(path, _)| path == "compiled_packages/lib.tgz");
    let copied = std::fs::read(scratch.join("compiled_packages/lib.tgz")).unwrap();
    assert!(copied == lib.unwrap().1);
}

#[test]
fn unknown_names_are_reported_with_similar_ones() {
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    let before = world.snapshot();
    for names in [&[][..], &["--print-output-names"], &["--check"]] {
        let agent = world.agent().args(&["--job=wbe", "--package=apps"]);
        agent
            .args(names)
            .arg(&tarball)
            .run()
            .refuses_the_input()
            .says("no release of this run has job `wbe` or package `apps`")
            .says("Hint: did you mean job `web`?")
            .says("Hint: did you mean package `app`?");
    }
    assert_eq!(world.snapshot(), before);
}

#[test]
fn releases_without_a_selected_job_are_left_out() {
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    let other = ReleaseBuilder::new("other", "2")
        .package("tool", &[], "true")
        .job("run", &["tool"]);
    let other = world.release("other.tgz", &other);
    let without = ReleaseBuilder::new("without", "3").package("tool", &[], "exit 1");
    let without = world.release("without.tgz", &without);
    let tarballs: [&Path; 3] = [&tarball, &other, &without];
    let ran = select(&world, &["--job=web"], &tarballs)
        .succeeds()
        .says(&format!(
            "Nothing is selected of {}: it is left out",
            other.display()
        ));
    assert_eq!(ran.stdout.lines().count(), 1);
    let ran = select(&world, &["--job=web", "--job=run"], &tarballs).succeeds();
    assert!(ran.stdout.contains(".job=run.tgz"), "{}", ran.stdout);
    let ran = select(&world, &["--only-needed"], &tarballs).succeeds();
    assert_eq!(ran.stdout.lines().count(), 2);
    select(&world, &["--only-needed"], &[&without])
        .refuses_the_input()
        .says("it has no jobs, so no package is needed");
}

#[test]
fn compiled_release_is_not_a_source_of_a_selection() {
    let world = World::new();
    let compiled = ReleaseBuilder::new("demo", "1.10")
        .compiled("app", &[], STEMCELL, ("app", b""))
        .job("web", &["app"]);
    let tarball = world.release("compiled.tgz", &compiled);
    for flag in ["--job=web", "--package=app"] {
        select(&world, &[flag], &[&tarball])
            .refuses_the_input()
            .says("--job and --package need the source release, and this one is compiled");
    }
    select(&world, &["--only-needed"], &[&tarball])
        .succeeds()
        .says("already compiled for this stemcell and is copied unchanged");
    assert!(world.result("demo-1.10").exists());
}

#[test]
fn earlier_results_with_other_selections_are_left_out() {
    let world = World::new();
    std::fs::create_dir(world.out()).unwrap();
    let release = ReleaseBuilder::demo().package("other", &[], "true");
    world.release("out/release.tgz", &release);
    let pattern = world.out().join("*.tgz");
    let compile = |flags: &[&str]| {
        let ran = select(&world, flags, &[&pattern]).succeeds();
        assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stderr);
        ran
    };
    for flags in [
        &[][..],
        &["--only-needed"],
        &["--job=web"],
        &[],
        &["--only-needed"],
    ] {
        compile(flags);
    }
    compile(&["--job=web"])
        .says("demo-1.10-ubuntu-noble-1.406.job=web.tgz is an earlier result of ")
        .says("release.tgz and is rebuilt")
        .says("demo-1.10-ubuntu-noble-1.406.only-needed.tgz is an earlier result of ")
        .says("release.tgz with another selection and is left out");
}

#[test]
fn copied_part_keeps_its_name() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    select(&world, &["--job=web"], &[&tarball]).succeeds();
    let part = result(&world, "job=web");
    select(&world, &[], &[&part])
        .succeeds()
        .says("is already compiled for this stemcell and stays unchanged");
    let ran = world
        .flags(Agent::bare(&world.path("printed")))
        .arg("--output-directory")
        .arg(world.path("copies"))
        .arg(&part)
        .run()
        .succeeds();
    assert!(
        ran.stdout
            .ends_with("/copies/demo-1.10-ubuntu-noble-1.406.job=web.tgz\n")
    );
}

#[test]
fn damage_in_an_unselected_package_is_an_error() {
    let world = World::new();
    let damaged = demo().without("packages/windows.tgz");
    let tarball = world.release("release.tgz", &damaged);
    select(&world, &["--only-needed"], &[&tarball])
        .refuses_the_input()
        .says("package `windows`: `packages/windows.tgz` is missing from the tarball");
}

#[test]
fn check_and_report_have_the_selected_packages() {
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    let agent = world.agent().args(&["--check", "--job=web"]).arg(&tarball);
    agent
        .run()
        .succeeds()
        .says("Selected 2 of 4 packages")
        .says(".job=web.tgz: 2 packages to compile");
    let path = world.path("report.json");
    let agent = world.agent().arg("--job=web").arg("--report").arg(&path);
    let ran = agent.arg(&tarball).run().succeeds();
    let report = report::checked(&path, &world.out(), 0, Some(&ran.stdout));
    assert_eq!(report["packages"].as_array().unwrap().len(), 2);
    assert_eq!(
        report["releases"][0]["packages"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn job_manifest_is_read_if_the_release_manifest_lists_no_packages() {
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("app", &[], "true")
        .package("other", &[], "exit 1")
        .job("web", &["app"])
        .edit("  packages:\n  - app\n", "");
    let tarball = world.release("release.tgz", &release);
    select(&world, &["--only-needed"], &[&tarball]).succeeds();
    assert_contents(&result(&world, "only-needed"), &["web"], &["app"]);
}

/// A job without packages gives a result that looks like a source release.
#[test]
fn part_without_packages_never_replaces_the_whole_result() {
    let world = World::new();
    let release = ReleaseBuilder::demo().job("errand", &[]);
    let tarball = world.release("release.tgz", &release);
    select(&world, &[], &[&tarball]).succeeds();
    select(&world, &["--job=errand"], &[&tarball]).succeeds();
    let (whole, part) = (world.result("demo-1.10"), result(&world, "job=errand"));
    let before = std::fs::read(&whole).unwrap();
    select(&world, &[], &[&part]).succeeds();
    select(&world, &[], &[&whole, &part]).succeeds();
    assert_eq!(std::fs::read(&whole).unwrap(), before);
    assert_contents(&part, &["errand"], &[]);
}

#[test]
fn job_of_another_release_does_not_change_a_result() {
    let world = World::new();
    let other = ReleaseBuilder::new("other", "1")
        .package("page", &[], "true")
        .job("page", &["page"]);
    let tarballs = [
        world.release("demo.tgz", &demo()),
        world.release("other.tgz", &other),
    ];
    let both = ["--package=app", "--job=page"];
    select(&world, &both, &[&tarballs[0], &tarballs[1]]).succeeds();
    assert_contents(&result(&world, "package=app"), &["web"], &["base", "app"]);
}

#[test]
fn only_needed_passes_on_a_compiled_release_without_jobs() {
    let world = World::new();
    let compiled = ReleaseBuilder::new("demo", "1.10").compiled("app", &[], STEMCELL, ("app", b""));
    let tarball = world.release("compiled.tgz", &compiled);
    select(&world, &["--only-needed"], &[&tarball])
        .succeeds()
        .says("already compiled for this stemcell and is copied unchanged");
    assert!(world.result("demo-1.10").exists());
}

#[test]
fn unreadable_input_hides_no_other_reason() {
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    let broken = world.write("broken.tgz", "not a release");
    select(&world, &["--job=missing"], &[&broken, &tarball])
        .refuses_the_input()
        .says("broken.tgz:")
        .does_not_say("--only-needed");
}

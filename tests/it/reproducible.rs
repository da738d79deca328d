//! `--reproducible` and `SOURCE_DATE_EPOCH`: the same input gives the same bytes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Agent, LANDLOCK, LANDLOCK_OF_A_USER, NAMESPACE, NONE, NONE_OF_A_USER, Place, ReleaseBuilder,
    Tier, USERNS_OF_A_USER, USERNS_OF_ROOT, World, compiled_packages, in_tiers, is_soak, listed,
    manifest_of, run_tool, sha1_of, unpacked,
};

in_tiers!(same_input_gives_the_same_bytes: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(times_after_the_variable_are_packed_as_it: NAMESPACE USERNS_OF_A_USER LANDLOCK NONE);

/// The time limit of the example release on a busy machine.
const LONG: Duration = Duration::from_secs(900);

/// `touch` gives files the time in `facts/time`, which is different in each run.
const SCRIPT: &str = "set -e; cd $BOSH_INSTALL_TARGET; mkdir -p bin empty; echo tool > bin/tool; ln bin/tool bin/same; \
                      ln -s tool bin/link; date -d @$SOURCE_DATE_EPOCH > date; locale -k LC_TIME | head -1 > locale; \
                      echo $LC_ALL $TZ $(umask) $SOURCE_DATE_EPOCH > variables; \
                      find . -exec touch -h -d @$(cat $FACTS/time) {} +; touch -d @5 old";

/// What a dependent sees of these files.
const DEPENDENT: &str =
    "cd @packages@/lib; stat -c '%n %Y' bin bin/* date old > $BOSH_INSTALL_TARGET/seen";

fn release() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], SCRIPT)
        .package("app", &["lib"], DEPENDENT)
        .package("own", &[], SCRIPT)
}

/// Compiles at this time, and returns the digest of the result.
fn compiled(place: &Place, change: impl Fn(Agent) -> Agent, time: &str) -> String {
    place.world.write("facts/time", time);
    let tarball = place.release(&release());
    change(place.agent()).arg(tarball).run().succeeds();
    sha1_of(&place.world.result("demo-1.10"))
}

/// The times of the entries of a package.
fn times(place: &Place, package: &str) -> BTreeSet<String> {
    let entries = place.entries(package).into_iter();
    entries.map(|entry| entry.time).collect()
}

mod bodies {
    use super::*;

    pub(super) fn same_input_gives_the_same_bytes(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let reproducible = |jobs: &'static str| {
            move |agent: Agent| {
                let (locale, zone) = match jobs {
                    "1" => ("POSIX", "Asia/Tokyo"),
                    _ => ("de_DE.UTF-8", "UTC"),
                };
                let agent = agent.args(&["--reproducible", "--jobs", jobs]);
                agent.env("LC_ALL", locale).env("TZ", zone)
            }
        };
        let first = compiled(&place, reproducible("1"), "1700000000");
        let second = compiled(&place, reproducible("2"), "1800000000.5");
        assert_eq!(first, second);
        assert_eq!(
            place.file("own", "variables"),
            "100644 C.UTF-8 UTC 0022 1600000000\n"
        );
        let without = compiled(&place, |agent| agent.env("SOURCE_DATE_EPOCH", "9"), "10");
        assert_ne!(first, without);
        assert_eq!(
            place.file("own", "variables"),
            "100644 C.UTF-8 UTC 0022 9\n"
        );
    }

    pub(super) fn times_after_the_variable_are_packed_as_it(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let date = |agent: Agent| agent.env("SOURCE_DATE_EPOCH", "1000000000");
        compiled(&place, date, "1700000000");
        for package in ["lib", "own"] {
            assert_eq!(
                times(&place, package),
                ["1970-01-01 00:00:05", "2001-09-09 01:46:40"]
                    .map(String::from)
                    .into(),
                "{package}"
            );
            assert_eq!(
                place.file(package, "date"),
                "100644 Sun Sep  9 01:46:40 UTC 2001\n"
            );
        }
        let added = |agent: Agent| agent.args(&["--env", "SOURCE_DATE_EPOCH=1000000000"]);
        let by_flag = compiled(&place, added, "1700000000");
        assert_eq!(by_flag, compiled(&place, date, "1600000000"));
        // `bin/same` is the same file as `bin/tool`.
        assert_eq!(
            place.file("app", "seen"),
            "100644 bin 1000000000\nbin/link 1000000000\nbin/same 1000000000\nbin/tool 1000000000\n\
             date 1000000000\nold 5\n"
        );
    }
}

#[test]
fn wrong_source_date_is_refused_before_compiling() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let agent = world.agent();
    agent
        .without_report()
        .env("SOURCE_DATE_EPOCH", "yesterday")
        .arg(tarball)
        .run()
        .ends_with(2)
        .says(
            "Error: invalid value of the variable `SOURCE_DATE_EPOCH`: expected the number of seconds since 1970, with digits only",
        );
    assert!(!world.out().exists());
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let agent = world.agent().without_report();
    agent
        .args(&["--env", "SOURCE_DATE_EPOCH=today"])
        .arg(tarball)
        .run()
        .ends_with(2)
        .says("Error: invalid value of the variable `SOURCE_DATE_EPOCH`");
}

/// Compiles a release that was created in a clone from this time. Returns the digest of the result and the blobs of its packages.
fn compiled_clone(
    world: &World,
    release: &ReleaseBuilder,
    time: u64,
    agent: Agent,
) -> (String, Vec<(String, String)>) {
    let release = release.clone().cloned_at(time);
    agent
        .arg(world.release("release.tgz", &release))
        .run()
        .succeeds();
    let result = world.result("demo-1.10");
    let packages = compiled_packages(&manifest_of(&result));
    (sha1_of(&result), packages)
}

#[test]
fn clones_with_other_times_give_the_same_bytes_with_a_date() {
    let world = World::new();
    let script =
        "cp -p * $BOSH_INSTALL_TARGET; echo $SOURCE_DATE_EPOCH > $BOSH_INSTALL_TARGET/date";
    let packages = ReleaseBuilder::of_script(script).file("source", 0o644, b"source");
    let whole = packages.clone().job("web", &["app"]).license();
    let dated = |release, time| {
        let agent = world.agent().env("SOURCE_DATE_EPOCH", "1400000000");
        compiled_clone(&world, release, time, agent)
    };
    assert_eq!(
        dated(&packages, 1_500_000_000),
        dated(&packages, 1_700_000_000)
    );
    // The archives of jobs and of the license are copied with the times of the clone.
    let (first, packages_of_first) = dated(&whole, 1_500_000_000);
    let (second, packages_of_second) = dated(&whole, 1_700_000_000);
    assert_eq!(packages_of_first, packages_of_second);
    assert_ne!(first, second);
}

#[test]
fn each_clone_has_its_own_date_without_the_variable() {
    let world = World::new();
    let release = ReleaseBuilder::of_script("echo $SOURCE_DATE_EPOCH > $BOSH_INSTALL_TARGET/date");
    for time in [1_500_000_000, 1_700_000_000] {
        let agent = world.agent().arg("--reproducible");
        compiled_clone(&world, &release, time, agent);
        let (_scratch, files) = unpacked(&world.result("demo-1.10"), "app");
        assert_eq!(files["date"], format!("100644 {time}\n"));
    }
}

/// With `BOSH_AGENT_SOAK` the example release, assembled alternately in two clones of its directory; otherwise a small release.
#[test]
fn all_tiers_and_any_number_of_jobs_give_the_same_bytes() {
    let mut tiers = vec![NAMESPACE, USERNS_OF_ROOT, USERNS_OF_A_USER, LANDLOCK];
    if !is_soak() {
        // Owners in the result are not those of the files, which belong to the user.
        tiers.extend([NONE, LANDLOCK_OF_A_USER, NONE_OF_A_USER]);
    }
    let clones = is_soak().then(|| [1_500_000_000, 1_700_000_000].map(Clone::of_example));
    let mut found = BTreeSet::new();
    let runs = tiers
        .into_iter()
        .flat_map(|tier| [(tier, "1"), (tier, "2")]);
    for (index, (tier, jobs)) in runs.enumerate() {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let result = if let Some(clones) = &clones {
            // Both clones are compiled with both numbers of jobs.
            let clone = &clones[(index + index / 2) % 2];
            compiled_example(place.at_var_vcap(), &clone.tarball(), jobs)
        } else {
            let time = format!("{}", 1_700_000_000 + index);
            let change = |agent: Agent| agent.args(&["--reproducible", "--jobs", jobs]);
            compiled(&place, change, &time)
        };
        found.insert(result);
    }
    assert_eq!(found.len(), 1, "{found:?}");
}

/// A clone of the example release's directory.
struct Clone(tempfile::TempDir);

impl Clone {
    /// Copies and assembles it. All files have this time, in seconds since 1970.
    fn of_example(time: u64) -> Self {
        let clone = Self(tempfile::tempdir().unwrap());
        const SCRIPT: &str = r#"
            set -e
            cp -R "$1" "$2/scripts"
            find "$2/scripts" -exec touch -h -d "@$3" {} +
            "$2/scripts/example-release/assemble" "$2/release.tgz"
        "#;
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging-scripts");
        let directory = clone.0.path().to_str().unwrap();
        let arguments = ["-c", SCRIPT, "bash", scripts, directory, &time.to_string()];
        run_tool("bash", &arguments);
        clone
    }

    fn tarball(&self) -> PathBuf {
        self.0.path().join("release.tgz")
    }
}

/// The digest of the compiled example release.
fn compiled_example(place: Place, tarball: &Path, jobs: &str) -> String {
    let agent = place.agent().args(&["--reproducible", "--jobs", jobs]);
    agent.within(LONG).arg(tarball).run().succeeds();
    let results = listed(place.world.out());
    let result = results
        .iter()
        .find(|path| path.extension() == Some("tgz".as_ref()));
    sha1_of(result.unwrap())
}

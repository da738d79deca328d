//! The cache in each isolation tier.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::shared::sha256_of;
use crate::support::{
    Agent, LANDLOCK, NAMESPACE, NONE, Place, Ran, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, example_release, extract, in_tiers, is_soak, pack, require, require_tools,
};

in_tiers!(packages_are_found_again: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(scripts_can_neither_read_nor_write_the_cache: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(scripts_can_neither_read_nor_write_shared_directories: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(example_release_is_compiled_once: NAMESPACE);
in_tiers!(unrestricted_results_are_stored_only_on_request: LANDLOCK);
in_tiers!(result_in_spite_of_a_denial_is_stored_only_on_request: LANDLOCK);
in_tiers!(cache_that_scripts_can_write_to_is_not_used: LANDLOCK);
in_tiers!(cache_in_the_data_directory_is_hidden: LANDLOCK NAMESPACE);

/// The time limit for the example release.
const LONG: Duration = Duration::from_secs(900);

fn cache(place: &Place) -> PathBuf {
    place.world.path("cache")
}

fn agent(place: &Place) -> Agent {
    let agent = place.agent().arg("--cache-dir").arg(cache(place));
    agent
        .arg("--env")
        .arg(format!("FACTS={}", place.world.path("facts").display()))
}

fn compile(agent: Agent, place: &Place, release: &ReleaseBuilder) -> Ran {
    agent.arg(place.release(release)).run().succeeds()
}

/// A copy of the example release whose package `zlib` has another script.
fn with_changed_zlib(place: &Place, release: &Path) -> PathBuf {
    let [members, source] = ["members", "source"].map(|name| place.world.path(name));
    extract(release, &members);
    let blob = members.join("packages/zlib.tgz");
    let digest = || sha256_of(&std::fs::read(&blob).unwrap());
    let before = digest();
    extract(&blob, &source);
    let script = source.join("packaging");
    let mut text = std::fs::read_to_string(&script).unwrap();
    text.push_str("\n# Changed.\n");
    std::fs::write(&script, text).unwrap();
    pack(&source, &blob);
    let manifest = members.join("release.MF");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let changed = text.replace(&before, &digest());
    assert_ne!(text, changed);
    std::fs::write(&manifest, changed).unwrap();
    let release = place.world.path("changed.tgz");
    pack(&members, &release);
    release
}

mod bodies {
    use super::*;

    pub(super) fn packages_are_found_again(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::demo();
        compile(agent(&place), &place, &release).does_not_say("file of the cache");
        let result = std::fs::read(place.world.result("demo-1.10")).unwrap();
        compile(agent(&place), &place, &release)
            .says("All 2 packages are in the cache\n")
            .does_not_say("Warning");
        assert_eq!(
            std::fs::read(place.world.result("demo-1.10")).unwrap(),
            result
        );
    }

    pub(super) fn scripts_can_neither_read_nor_write_the_cache(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let cache = cache(&place);
        let script = format!(
            "cat {0}/* {0}/v1/*/*/* > $FACTS/read; touch {0}/new; rm -rf {0}/v1; true",
            cache.display()
        );
        let release = ReleaseBuilder::of_script(&script);
        compile(agent(&place).arg("--second-run=never"), &place, &release);
        assert_eq!(
            std::fs::read_to_string(place.world.path("facts/read")).unwrap(),
            ""
        );
        assert!(!cache.join("new").exists());
        assert!(cache.join("v1/entries").is_dir());
    }

    pub(super) fn scripts_can_neither_read_nor_write_shared_directories(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (from, to) = (place.world.path("from"), place.world.path("to"));
        let agent = |flag, directory: &PathBuf| {
            let facts = format!("FACTS={}", place.world.path("facts").display());
            let agent = place.agent().arg("--env").arg(facts);
            agent.arg("--second-run=never").arg(flag).arg(directory)
        };
        let filled = ReleaseBuilder::of_script("touch $BOSH_INSTALL_TARGET/x");
        compile(agent("--cache-to", &from), &place, &filled);
        let missing = place.world.path("missing");
        let script = format!(
            "cat {0}/* {0}/v1/*/*/* {1}/* > $FACTS/read; touch {0}/new {1}/new; rm -rf {0}/v1 {1}/v1; mkdir -p {2}/new; true",
            from.display(),
            to.display(),
            missing.display()
        );
        let release = ReleaseBuilder::of_script(&script);
        let agent = agent("--cache-from", &from).arg("--cache-to").arg(&to);
        let agent = agent.arg("--cache-from").arg(&missing);
        compile(agent, &place, &release).does_not_say("Warning: the shared");
        let read = place.world.path("facts/read");
        assert_eq!(std::fs::read_to_string(read).unwrap(), "");
        assert!(!missing.join("new").exists());
        for directory in [from, to] {
            assert!(!directory.join("new").exists());
            assert!(directory.join("v1/entries").is_dir());
        }
    }

    pub(super) fn example_release_is_compiled_once(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // Compiling the release takes minutes.
        if !is_soak() {
            return;
        }
        let tarball = example_release();
        if !require(tarball.is_file(), "the example release (`make example`)")
            || !require_tools(&["gcc", "g++", "make"])
        {
            return;
        }
        let place = place.at_var_vcap();
        let run = || {
            let start = Instant::now();
            let agent = agent(&place).within(LONG);
            let ran = agent.arg(&tarball).run().succeeds();
            let result = std::fs::read(place.world.result("example-1.0.0")).unwrap();
            (start.elapsed(), ran, result)
        };
        let (first, _, result) = run();
        let (second, ran, same) = run();
        ran.says("All 11 packages are in the cache\n");
        assert!(result == same, "the results differ");
        assert!(second * 20 < first, "{second:?} after {first:?}");

        let changed = with_changed_zlib(&place, &tarball);
        let ran = agent(&place).within(LONG).arg(changed).run().succeeds();
        let lines = ran.stderr.lines();
        let names =
            lines.filter_map(|line| line.strip_prefix("Compiling package ")?.split_once('/'));
        let mut names: Vec<&str> = names.map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, ["libpng", "lua-png", "report", "zlib"]);
        ran.says("7 of 11 packages are in the cache\n");
    }

    pub(super) fn unrestricted_results_are_stored_only_on_request(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let denied = "touch $(dirname $(dirname $BOSH_INSTALL_TARGET))/entry || exit 1; \
                      rm -f $(dirname $(dirname $BOSH_INSTALL_TARGET))/entry; echo x > $BOSH_INSTALL_TARGET/x";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], denied)
            .package("app", &["lib"], "cp @packages@/lib/x $BOSH_INSTALL_TARGET/")
            .package("other", &[], "touch $BOSH_INSTALL_TARGET/x");
        compile(agent(&place), &place, &release).says("without restrictions");
        // The dependent was compiled against it.
        compile(agent(&place), &place, &release).says("One of 3 packages is in the cache\n");

        let on_request = || agent(&place).arg("--cache-unrestricted");
        compile(on_request(), &place, &release).says("One of 3 packages is in the cache\n");
        compile(on_request(), &place, &release).says("All 3 packages are in the cache\n");
        let dry = agent(&place).arg("--dry-run");
        compile(dry, &place, &release).says(
            "is not in the cache: it was compiled without restrictions or in spite of a denied access, which needs --cache-unrestricted\n",
        );
    }
    pub(super) fn result_in_spite_of_a_denial_is_stored_only_on_request(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let denied = "touch $(dirname $(dirname $BOSH_INSTALL_TARGET))/entry; true";
        let release = ReleaseBuilder::of_script(denied);
        let never = || agent(&place).arg("--second-run=never");
        compile(never(), &place, &release).says("succeeded in spite of a denied access");
        compile(never(), &place, &release).does_not_say("in the cache\n");
        let on_request = || never().arg("--cache-unrestricted");
        compile(on_request(), &place, &release).does_not_say("in the cache\n");
        compile(on_request(), &place, &release).says("The package is in the cache\n");
    }

    pub(super) fn cache_that_scripts_can_write_to_is_not_used(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let home = place.world.path("home");
        std::fs::create_dir(&home).unwrap();
        let release = ReleaseBuilder::of_script("touch $BOSH_INSTALL_TARGET/x");
        for flag in ["--cache-dir", "--cache-from", "--cache-to"] {
            let cache = home.join("cache");
            let agent = || {
                let agent = place.agent().env("HOME", home.to_str().unwrap());
                agent.arg(flag).arg(&cache)
            };
            for _ in 0..2 {
                let ran = compile(agent(), &place, &release);
                ran.says(&format!("can write to `{}`", cache.display()))
                    .does_not_say("in the cache\n");
            }
            assert!(!cache.join("v1/entries/app").exists(), "{flag}");
        }
        let agent = || {
            let agent = place.agent().env("HOME", home.to_str().unwrap());
            let agent = agent.arg("--cache-dir").arg(home.join("cache"));
            agent.arg("--cache-unrestricted")
        };
        compile(agent(), &place, &release).does_not_say("Warning: the cache");
        compile(agent(), &place, &release).says("The package is in the cache\n");
    }

    pub(super) fn cache_in_the_data_directory_is_hidden(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let cache = place.world.base().join("data/cache");
        let script = format!(
            "touch {0}/new; rm -rf {0}/v1; touch $BOSH_INSTALL_TARGET/x",
            cache.display()
        );
        let release = ReleaseBuilder::of_script(&script);
        let agent = || place.agent().arg("--cache-dir").arg(&cache);
        compile(agent().arg("--second-run=never"), &place, &release);
        assert!(!cache.join("new").exists());
        assert!(cache.join("v1/entries").is_dir());
    }
}

//! Scripts that change the modes of other packages, which are compiled concurrently or were compiled before: the row `touch-undeclared` of
//! SECURITY.md, and its footnotes about `--jobs`.

use bosh_agent::sandbox::Isolation;
use serde_json::json;

use crate::promises::{CONCURRENT, whole_column};
use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, Play, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    in_isolations, list, run_tool, wait_until,
};

in_isolations!(requests_cannot_change_each_others_modes: Namespace Userns Landlock None);

/// Fails once: under Landlock, only the second run is unrestricted.
const FAIL_ONCE: &str = "[ -e $FACTS/first ] || { touch $FACTS/first; exit 1; }; ";

/// A part of a script that waits for a fact.
fn wait(fact: &str) -> String {
    format!("until [ -e $FACTS/{fact} ]; do sleep 0.01; done")
}

fn is_protected(column: &str) -> bool {
    whole_column(column)[CONCURRENT]
}

/// Compiles with the directory of facts as `HOME`, which `--protect-host` leaves writable.
fn compile(place: &Place, flags: &[&str], release: &ReleaseBuilder) {
    let tarball = place.release(release);
    let home = place.world.path("facts").display().to_string();
    let agent = place.agent().args(flags).env("HOME", &home);
    let ran = agent.arg(tarball).run();
    let tier = place.tier.name;
    ran.succeeds().says(&format!("Isolation: {tier}"));
}

fn mode_of_victim(place: &Place) -> u32 {
    let file = place.file("victim", "file");
    let mode = file.split(' ').next().unwrap();
    u32::from_str_radix(mode, 8).unwrap() & 0o7777
}

/// Compiles two packages concurrently. The script of one changes the mode of a file of the other.
#[track_caller]
fn assert_concurrent(tier: Tier, flags: &[&str], is_protected: bool) {
    let Some(place) = Place::new(tier) else {
        return;
    };
    let victim = format!(
        "set -e; touch $BOSH_INSTALL_TARGET/file $FACTS/file; {}; umask > $BOSH_INSTALL_TARGET/end",
        wait("touched")
    );
    let attacker = format!(
        "{}; chmod 4777 @base@/packages/victim/file; touch $FACTS/touched",
        wait("file")
    );
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("attacker", &[], &attacker)
        .package("victim", &[], &victim);
    let flags = [flags, &["--jobs", "2"]].concat();
    compile(&place, &flags, &release);
    let mode = mode_of_victim(&place);
    let expected = if is_protected { 0o644 } else { 0o4777 };
    assert_eq!(mode, expected, "{mode:o}");
}

/// Compiles a package whose script changes the mode of a file of an installed package that it does not depend on.
#[track_caller]
fn assert_installed_is_protected(tier: Tier, flags: &[&str], before: &str) {
    let Some(place) = Place::new(tier) else {
        return;
    };
    let attack = format!("{before}chmod 4777 @base@/packages/victim/file; touch $FACTS/touched");
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("victim", &[], "echo > $BOSH_INSTALL_TARGET/file")
        .package("early", &["victim"], "true")
        .package("attacker", &["early"], &attack)
        .package(
            "late",
            &["attacker", "victim"],
            "stat -c %a @packages@/victim/file > $BOSH_INSTALL_TARGET/mode",
        );
    compile(&place, flags, &release);
    assert!(place.world.path("facts/touched").exists());
    assert_eq!(mode_of_victim(&place), 0o644);
    assert_eq!(place.file("late", "mode"), "100644 644\n");
}

#[test]
fn namespaces_protect_modes() {
    assert_concurrent(NAMESPACE, &[], is_protected("`namespace`"));
    let flags = ["--protect-host"];
    let column = "`namespace --protect-host`";
    assert_concurrent(NAMESPACE, &flags, is_protected(column));
}

#[test]
fn user_namespaces_protect_modes() {
    for tier in [USERNS_OF_ROOT, USERNS_OF_A_USER] {
        for flags in [&[][..], &["--protect-host"]] {
            assert_concurrent(tier, flags, is_protected("`userns`"));
        }
    }
}

#[test]
fn landlock_protects_modes_only_with_one_job() {
    let never = ["--second-run", "never"];
    assert_concurrent(LANDLOCK, &never, is_protected("`landlock`"));
    let one = ["--second-run", "never", "--jobs", "1"];
    assert_installed_is_protected(LANDLOCK, &one, "");
}

#[test]
fn modes_are_protected_without_isolation_only_with_one_job() {
    assert_concurrent(NONE, &[], false);
    assert!(is_protected("`none`"));
    assert_installed_is_protected(NONE, &[], "");
}

#[test]
fn second_run_cannot_change_modes() {
    assert!(is_protected("second run of `landlock`"));
    let flags = ["--second-run", "always"];
    assert_installed_is_protected(LANDLOCK, &flags, FAIL_ONCE);
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    // The first run fails while the other script is running.
    let attacker = format!(
        "[ -e $FACTS/first ] || {{ {}; touch $FACTS/first; exit 1; }}; \
         chmod 4777 @base@/packages/victim/file; ls $FACTS > $BOSH_INSTALL_TARGET/facts",
        wait("running")
    );
    let victim = format!(
        "set -e; touch $BOSH_INSTALL_TARGET/file $FACTS/running; {}; umask > $BOSH_INSTALL_TARGET/end; rm $FACTS/running",
        wait("first")
    );
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("attacker", &[], &attacker)
        .package("victim", &[], &victim);
    let flags = ["--second-run", "always", "--jobs", "2"];
    compile(&place, &flags, &release);
    assert_eq!(place.file("attacker", "facts"), "100644 first\n");
    assert_eq!(mode_of_victim(&place), 0o644);
}

mod bodies {
    use super::*;

    pub(super) async fn requests_cannot_change_each_others_modes(play: Play) {
        let facts = play.world.path("facts").display().to_string();
        let own = |script: &str| format!("FACTS={facts}; {script}");
        let victim = own(&format!(
            "set -e; echo > $BOSH_INSTALL_TARGET/file; touch $FACTS/started; {}",
            wait("go")
        ));
        let before = match play.isolation() {
            Some(Isolation::Landlock) => FAIL_ONCE,
            _ => "",
        };
        let base = play.world.base().display().to_string();
        let attacker = own(&format!(
            "{before}chmod 4777 {base}/packages/victim/file {base}/data/packages/victim/*/file; ls $FACTS > $BOSH_INSTALL_TARGET/found"
        ));
        let victim = play.order(&play.source("victim", &victim, json!({}))).await;
        wait_until("the script's start", || {
            play.world.path("facts/started").exists()
        });
        let attacker = play.source("attacker", &attacker, json!({}));
        let attacker = play.order(&attacker).await;
        play.phase(&attacker, "queued").await;
        play.world.write("facts/go", "");
        let victim = play.end(&victim).await["value"]["result"].clone();
        let blob = |result: &serde_json::Value| {
            let id = result["blobstore_id"].as_str();
            let id = id.unwrap_or_else(|| panic!("{result}"));
            play.world.path("store").join(id)
        };
        let end = play.end(&attacker).await;
        assert!(blob(&end["value"]["result"]).exists());
        let listed = list(&blob(&victim));
        let file = listed.iter().find(|entry| entry.name == "./file");
        assert_eq!(file.unwrap().mode, "-rw-r--r--");
        let dependency = json!({"k": {
            "name": "victim", "version": "1.1", "blobstore_id": victim["blobstore_id"], "sha1": victim["sha1"],
        }});
        let look = "stat -c %a ${BOSH_INSTALL_TARGET%/*}/victim/file > $BOSH_INSTALL_TARGET/mode";
        let late = play.order(&play.source("late", look, dependency)).await;
        let late = play.end(&late).await;
        let late = blob(&late["value"]["result"]);
        let words = ["-xOf".as_ref(), late.as_os_str(), "./mode".as_ref()];
        assert_eq!(run_tool("tar", &words), "644\n");
        assert!(play.stop().await);
    }
}

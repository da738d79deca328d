//! Tiers of ordinary users, and fallbacks.

use super::*;

#[test]
fn user_needs_no_base_directory() {
    let Some(place) = Place::new(USERNS_OF_A_USER) else {
        return;
    };
    // Only root may create files here, as in /var.
    place.world.write("var/lib/file", "of the host\n");
    place.world.write("var/other", "other\n");
    std::os::unix::fs::symlink("lib/file", place.world.path("var/link")).unwrap();
    let before = snapshot(&place.world.path("var"));
    let base = place.world.path("var/above/vcap");
    let tarball = place.release(
        &ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
            .package(
                "app",
                &["lib"],
                "set -e; cd $BOSH_INSTALL_TARGET; cp @base@/../../lib/file .; cat @base@/../../other > other; \
                 cat @base@/../../link > link; cat @packages@/lib/file > dependency; echo $BOSH_INSTALL_TARGET > target",
            ),
    );
    place
        .agent_as("auto", &base)
        .arg(tarball)
        .run()
        .succeeds()
        .says("Isolation: userns\n");
    assert_eq!(place.file("app", "file"), "100644 of the host\n");
    assert_eq!(place.file("app", "other"), "100644 other\n");
    assert_eq!(place.file("app", "link"), "100644 of the host\n");
    assert_eq!(place.file("app", "dependency"), "100644 lib\n");
    assert_eq!(
        place.file("app", "target"),
        format!("100644 {}\n", base.join("packages/app").display())
    );
    assert_eq!(snapshot(&place.world.path("var")), before);
}

#[test]
fn single_owner_is_used_only_on_request() {
    let tier = Tier {
        who: Who::UserWithoutRange,
        ..USERNS_OF_A_USER
    };
    let Some(place) = Place::new(tier) else {
        return;
    };
    let tarball = place.release(&ReleaseBuilder::of_script(
        "id -u > $BOSH_INSTALL_TARGET/id; if chown 1234 $BOSH_INSTALL_TARGET/id; then exit 1; fi",
    ));
    let run = |isolation: &str| {
        place
            .agent_as(isolation, &place.world.base())
            .arg(&tarball)
            .run()
    };
    run("userns")
        .succeeds()
        .says("Isolation: userns, with a single user");
    assert_eq!(place.file("app", "id"), "100644 0\n");
    run("namespace")
        .blames_the_machine()
        .says("failed to create a PID namespace");
    // The debug log has the reasons.
    place
        .agent_as("auto", &place.world.base())
        .env("BOSH_AGENT_LOG", "debug")
        .arg(&tarball)
        .run()
        .says("`/etc/subuid` has no range for this user")
        .does_not_say("Isolation: userns");
}

#[test]
fn root_can_ask_for_a_user_namespace() {
    let tier = Tier {
        flag: "userns",
        ..NAMESPACE
    };
    let Some(place) = Place::new(tier) else {
        return;
    };
    place
        .run(&ReleaseBuilder::demo())
        .succeeds()
        .says("Isolation: userns\n");
}

#[test]
fn script_without_own_proc_leaves_no_processes() {
    let Some(place) = Place::new(USERNS_OF_ROOT) else {
        return;
    };
    // As in a container, in which parts of /proc are covered.
    let own = place.world.path("bosh-agent").display().to_string();
    let before = format!(
        "shift; mount -t tmpfs tmpfs /proc/scsi || mount -t tmpfs tmpfs /proc/fs; \
         exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin {own} \"$@\""
    );
    let tarball = place.release(&ReleaseBuilder::of_script(
        "for n in 1 2 3; do setsid bash -c \"trap '' TERM HUP; while :; do echo > $FACTS/alive-$n; sleep 0.01; done\" & done; \
         while [ $(ls $FACTS | grep -c alive) -lt 3 ]; do sleep 0.01; done; cat <(echo fine) > $BOSH_INSTALL_TARGET/file",
    ));
    let words = ["unshare", "--mount", "sh", "-c", &before, "sh"];
    let agent = Agent::wrapped(&place.world.path("printed"), &words);
    place
        .world
        .flags_with(agent, "auto")
        .arg("--output-directory")
        .arg(place.world.out())
        .env("FACTS", place.world.path("facts").to_str().unwrap())
        .arg(tarball)
        .run()
        .succeeds()
        .says("Isolation: userns, without a process namespace")
        .says("left ");
    assert_eq!(processes_below(&place.world.path("")), [""; 0]);
    assert_eq!(place.file("app", "file"), "100644 fine\n");
}

#[test]
fn script_that_rules_block_runs_again_and_is_reported() {
    for script in [
        // This script does not detect it.
        "rm $BOSH_INSTALL_TARGET; mkdir $BOSH_INSTALL_TARGET; touch @base@/new; rm -r @packages@; rm @base@/new; mkdir -p $BOSH_INSTALL_TARGET; \
         echo changed > $BOSH_INSTALL_TARGET/file",
        "set -e; echo changed > @packages@/lib/file; cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
        "set -e; rm $BOSH_INSTALL_TARGET; mkdir $BOSH_INSTALL_TARGET; echo changed > $BOSH_INSTALL_TARGET/file",
        "set -e; touch @base@/new; rm @base@/new; echo changed > $BOSH_INSTALL_TARGET/file",
    ] {
        let Some(place) = Place::new(LANDLOCK) else {
            return;
        };
        place
            .run(&release_of(script))
            .succeeds()
            .says("Warning: the packaging script of `app` ")
            .says("app is compiled again, alone and without restrictions")
            .does_not_say("lib is compiled again");
        assert_eq!(place.file("app", "file"), "100644 changed\n");
        assert!(!place.world.base().exists());
    }
}

#[test]
fn undeclared_package_in_the_output_is_reported() {
    for tier in [NAMESPACE, LANDLOCK] {
        let Some(place) = Place::new(tier) else {
            return;
        };
        place
            .run(&release_of(
                "set -e; cat @packages@/lib/file @packages@/other/file",
            ))
            .fails()
            .says("Its output mentions package other, which app does not declare as a dependency")
            .does_not_say("Its output mentions package lib")
            .does_not_say("Its output mentions package app");
    }
}

#[test]
fn rules_make_only_temporary_files_private() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    place.world.write("vcap/bosh/etc/file", "kept\n");
    let before = snapshot(&place.world.base());
    place
        .run(&ReleaseBuilder::of_script(
            "set -e; file=$(mktemp); case $file in @base@/data/*) ;; *) exit 1;; esac; \
             file=$(mktemp -p /tmp); rm $file; touch $FACTS/new; ls / /var > /dev/null; cat @base@/bosh/etc/file; \
             cat <(echo fine) > $BOSH_INSTALL_TARGET/file; su -s /bin/sh nobody -c 'mktemp > /dev/null'; \
             if cat @base@/data/.bosh-agent-work-*/processes 2> /dev/null; then exit 1; fi",
        ))
        .succeeds()
        .does_not_say("Warning");
    assert_eq!(place.file("app", "file"), "100644 fine\n");
    assert_eq!(snapshot(&place.world.base()), before);
}

#[test]
fn user_in_a_container_compiles_under_rules() {
    let Some(place) = Place::new(Tier {
        who: Who::UserWithoutRange,
        flag: "landlock",
        name: "landlock",
    }) else {
        return;
    };
    place
        .run(&release_of("id -u > $BOSH_INSTALL_TARGET/id"))
        .succeeds()
        .says("Isolation: landlock\n")
        .does_not_say("Warning");
    assert_eq!(place.file("app", "id"), format!("100644 {USER}\n"));
}

//! Scripts that leave mounts on the machine, outside of their own directories, or change how the machine's mounts propagate. Each run has a
//! mount namespace that takes the place of the machine's.

use crate::promises::{MOUNTS, whole_column};
use crate::support::{
    Agent, LANDLOCK_OF_ROOT, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_ROOT,
};

/// What is left in the mount namespace of a run.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    is_mounted: bool,
    is_shared: bool,
}

/// Compiles in a tier, and checks whether the script has changed the mounts as the column of SECURITY.md says.
#[track_caller]
fn assert_as_promised(tier: Tier, flags: &[&str], column: &str) {
    let Some(place) = Place::new(tier) else {
        return;
    };
    let path = |name: &str| place.world.path(name).display().to_string();
    let without = match tier.who == USERNS_OF_ROOT.who {
        true => "setpriv --bounding-set -sys_admin --inh-caps -sys_admin",
        false => "",
    };
    let (own, mounts) = (path("bosh-agent"), path("mounts"));
    let run = format!(
        "shift; {without} {own} \"$@\"; code=$?; cat /proc/self/mountinfo > {mounts}; exit $code"
    );
    let words = ["unshare", "--mount", "sh", "-c", &run, "sh"];
    let agent = place.with_flags(Agent::wrapped(&place.world.path("printed"), &words));
    let before = match flags {
        ["--second-run", "always"] => "[ -e $FACTS/first ] || { touch $FACTS/first; exit 1; }",
        _ => "",
    };
    std::fs::create_dir(place.world.path("left")).unwrap();
    let script = format!(
        "{before}\nmount -t tmpfs left {}; mount --make-rshared /; echo done > $BOSH_INSTALL_TARGET/file",
        path("left")
    );
    let tarball = place.release(&ReleaseBuilder::of_script(&script));
    agent
        .args(flags)
        .arg(tarball)
        .run()
        .succeeds()
        .says(&format!("Isolation: {}", tier.name));
    let mounts = place.world.read("mounts");
    let at = |point: &str| {
        let mut lines = mounts.lines();
        let line = lines.find(|line| line.split(' ').nth(4) == Some(point));
        line.map(str::to_owned)
    };
    let found = Left {
        is_mounted: at(&path("left")).is_some(),
        is_shared: at("/").unwrap().contains(" shared:"),
    };
    let succeeds = !whole_column(column)[MOUNTS];
    let expected = Left {
        is_mounted: succeeds,
        is_shared: succeeds,
    };
    assert_eq!(found, expected, "{mounts}");
}

#[test]
fn mounts_in_namespaces_end_with_the_script() {
    assert_as_promised(NAMESPACE, &[], "`namespace`");
    assert_as_promised(NAMESPACE, &["--protect-host"], "`namespace --protect-host`");
    assert_as_promised(USERNS_OF_ROOT, &[], "`userns`");
}

#[test]
fn landlock_prevents_mounts() {
    assert_as_promised(LANDLOCK_OF_ROOT, &["--second-run", "never"], "`landlock`");
}

#[test]
fn unrestricted_scripts_leave_mounts() {
    assert_as_promised(NONE, &[], "`none`");
    let flags = ["--second-run", "always"];
    assert_as_promised(LANDLOCK_OF_ROOT, &flags, "second run of `landlock`");
}

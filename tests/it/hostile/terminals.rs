//! Scripts that type into a terminal of the machine (`TIOCSTI`): the user's shell would execute the text after the run.

use std::os::fd::AsRawFd;

use nix::pty::openpty;

use crate::promises::{TERMINALS, whole_column};
use crate::support::{
    LANDLOCK_OF_ROOT, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT,
};

/// Compiles in a tier, and checks whether the script can type into a terminal as the column of SECURITY.md says.
#[track_caller]
fn assert_as_promised(tier: Tier, flags: &[&str], column: &str) {
    let Some(place) = Place::new(tier) else {
        return;
    };
    let terminal = openpty(None, None).unwrap();
    let path = std::fs::read_link(format!("/proc/self/fd/{}", terminal.slave.as_raw_fd())).unwrap();
    let before = match flags {
        ["--second-run", "always"] => "[ -e $FACTS/first ] || { touch $FACTS/first; exit 1; }",
        _ => "",
    };
    let script = format!(
        "{before}\nif perl -e 'open(my $tty, q(+<), q({})) or exit 1; my $key = q(x); ioctl($tty, 0x5412, $key) or exit 1'; \
         then echo succeeds; else echo fails; fi > $BOSH_INSTALL_TARGET/end",
        path.display()
    );
    let tarball = place.release(&ReleaseBuilder::of_script(&script));
    let agent = place.agent().args(flags).arg(tarball);
    agent
        .run()
        .succeeds()
        .says(&format!("Isolation: {}", tier.name));
    let expected = match whole_column(column)[TERMINALS] {
        true => "100644 fails\n",
        false => "100644 succeeds\n",
    };
    assert_eq!(place.file("app", "end"), expected);
}

#[test]
fn root_in_namespaces_can_type_into_terminals() {
    assert_as_promised(NAMESPACE, &[], "`namespace`");
}

#[test]
fn protected_host_and_user_namespaces_prevent_typing() {
    let flags = ["--protect-host"];
    assert_as_promised(NAMESPACE, &flags, "`namespace --protect-host`");
    assert_as_promised(USERNS_OF_ROOT, &[], "`userns`");
    assert_as_promised(USERNS_OF_A_USER, &[], "`userns`");
}

#[test]
fn root_without_namespaces_can_type_into_terminals() {
    assert_as_promised(LANDLOCK_OF_ROOT, &["--second-run", "never"], "`landlock`");
    let flags = ["--second-run", "always"];
    assert_as_promised(LANDLOCK_OF_ROOT, &flags, "second run of `landlock`");
    assert_as_promised(NONE, &[], "`none`");
}

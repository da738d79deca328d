//! Names that a script has chosen, in messages: they do not control the terminal of the reader, and contain no command to a CI system.

use crate::support::{
    Daemon, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, in_tiers, require_tools,
};

in_tiers!(names_in_errors_are_printable: NAMESPACE USERNS_OF_A_USER NONE);
in_tiers!(names_in_warnings_are_printable: NONE);
in_tiers!(names_in_the_log_of_a_daemon_are_printable: NAMESPACE);

/// Sets `$name`: it sets the title of a terminal, and is a command to GitHub's runner.
const NAME: &str = r"name=$(printf 'a\033]0;owned\007\n::error::owned\r##[error]x\342\200\256')";

/// What is shown instead.
const SHOWN: &str = r"a\u{1b}]0;owned\u{7}";

#[track_caller]
fn assert_printable(text: &str) {
    let is_control = |it: char| it.is_control() && it != '\n' || it == '\u{202e}';
    assert!(!text.contains(is_control), "{text:?}");
    assert!(text.contains(SHOWN), "{text:?}");
}

#[track_caller]
fn assert_no_command(text: &str) {
    let owned = text
        .lines()
        .find(|line| line.trim_start().starts_with("::error::owned"));
    assert_eq!(owned, None);
    // The message of a command is not searched for others.
    let mut others = text
        .lines()
        .filter(|line| !line.starts_with("::error title="));
    assert!(!others.any(|line| line.contains("##[")), "{text:?}");
}

mod bodies {
    use super::*;

    pub(super) fn names_in_errors_are_printable(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = format!(
            "set -e; {NAME}; cd $BOSH_INSTALL_TARGET; mkdir \"$name\"; mount -t tmpfs none \"$name\""
        );
        let tarball = place.release(&ReleaseBuilder::of_script(&script));
        let ran = place.agent().arg(&tarball).run().fails();
        assert_printable(&ran.stderr);
        let agent = place.agent().env("GITHUB_ACTIONS", "true");
        assert_no_command(&agent.arg(&tarball).run().fails().stderr);
    }

    pub(super) fn names_in_warnings_are_printable(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = format!(
            "set -e; {NAME}; mkdir \"$name\"; mount -t tmpfs none \"$name\"; echo > $BOSH_INSTALL_TARGET/file"
        );
        let tarball = place.release(&ReleaseBuilder::of_script(&script));
        let ran = place.agent().arg(&tarball).run().succeeds();
        assert_printable(&ran.says("Warning: unmounted").stderr);
        let agent = place.agent().env("GITHUB_ACTIONS", "true");
        assert_no_command(&agent.arg(&tarball).run().succeeds().stderr);
    }

    pub(super) fn names_in_the_log_of_a_daemon_are_printable(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let daemon = Daemon::start_in(&place);
        let script = format!(
            "set -e; {NAME}; cd $BOSH_INSTALL_TARGET; mkdir \"$name\"; mount -t tmpfs none \"$name\""
        );
        Daemon::order(&place.world, &script, &serde_json::json!({}));
        Daemon::wait_for_message(&daemon, "left a mount at");
        assert_printable(&daemon.stderr());
    }
}

//! Missing descriptors and threads in each tier, with concurrent packages: the run succeeds or reports an error.

use std::time::Duration;

use crate::support::{
    LANDLOCK, LANDLOCK_OF_A_USER, NAMESPACE, NONE_OF_A_USER, Place, ReleaseBuilder, Tier,
    USERNS_OF_A_USER, USERNS_OF_ROOT, in_tiers, is_soak, processes_below, require_tools,
};

in_tiers!(missing_descriptors_are_an_error_not_a_panic: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE_OF_A_USER);
// The limit does not apply to root.
in_tiers!(missing_threads_are_an_error_not_a_panic: USERNS_OF_A_USER LANDLOCK_OF_A_USER NONE_OF_A_USER);

/// A run with too few of something ends long before this.
const LIMIT: Duration = Duration::from_secs(60);

/// Compiles under limits of prlimit. Some of the runs must fail, and the last one must succeed.
fn assert_errors(tier: Tier, limit: &str, numbers: impl Iterator<Item = u32>) {
    if !require_tools(&["prlimit"]) {
        return;
    }
    let Some(place) = Place::new(tier) else {
        return;
    };
    let script = "echo > $BOSH_INSTALL_TARGET/file";
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("a", &[], script)
        .package("b", &[], script)
        .package("c", &["a", "b"], script);
    let release = place.release(&release);
    let mut codes = Vec::new();
    for number in numbers {
        let ran = place
            .agent_through(&format!("prlimit --{limit}={number}:{number}"))
            .without_report()
            .within(LIMIT)
            .args(&["--jobs", "2", "--grace", "1"])
            .arg(&release)
            .run();
        for word in ["panicked", "RUST_BACKTRACE"] {
            assert!(!ran.stderr.contains(word), "{number}: {}", ran.stderr);
        }
        assert!(
            ran.code == Some(0) || ran.stderr.contains("Error: "),
            "{number}: {ran:?}"
        );
        assert!(matches!(ran.code, Some(0 | 1 | 4)), "{number}: {ran:?}");
        codes.push(ran.code);
    }
    assert_ne!(codes.first(), Some(&Some(0)), "{codes:?}");
    assert_eq!(codes.last(), Some(&Some(0)), "{codes:?}");
    assert_eq!(processes_below(&place.world.base()), [""; 0]);
}

mod bodies {
    use super::*;

    pub(super) fn missing_descriptors_are_an_error_not_a_panic(tier: Tier) {
        let numbers = (8..64).step_by(if is_soak() { 1 } else { 7 });
        assert_errors(tier, "nofile", numbers.chain([256]));
    }

    pub(super) fn missing_threads_are_an_error_not_a_panic(tier: Tier) {
        let numbers = (2..40).step_by(if is_soak() { 1 } else { 5 });
        assert_errors(tier, "nproc", numbers.chain([1000]));
    }
}

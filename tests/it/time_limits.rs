//! Processes of scripts that reach a time limit, in each isolation tier.

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    in_tiers,
};

in_tiers!(processes_at_the_limit_are_listed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

mod bodies {
    use super::*;

    pub(super) fn processes_at_the_limit_are_listed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "echo begins\n(exec -a 'quiet' sleep 1000) | cat";
        place
            .agent()
            .args(&["--timeout", "1s", "--grace", "1s"])
            .arg(place.release(&ReleaseBuilder::of_script(script)))
            .run()
            .fails()
            .says(" bash -x packaging (state S, runs for ")
            .says(" quiet 1000 (state S, runs for ");
    }
}

//! Signals of a script to the agent and to a concurrent script.

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    in_tiers, processes_below, require_landlock_scopes, wait_until,
};

in_tiers!(signals_to_the_agent_and_to_another_script: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

/// Waits for process numbers, and lists those that it can signal.
const ATTACK: &str = "until [ -e $FACTS/pids ]; do sleep 0.01; done; touch $BOSH_INSTALL_TARGET/reached; \
                      while read -r name pid; do if kill -0 $pid; then echo $name >> $BOSH_INSTALL_TARGET/reached; fi; done < $FACTS/pids; \
                      touch $FACTS/tried";

mod bodies {
    use super::*;

    pub(super) fn signals_to_the_agent_and_to_another_script(tier: Tier) {
        if tier.name == "landlock" && !require_landlock_scopes() {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("attack", &[], ATTACK)
            .package(
                "victim",
                &[],
                "sleep 4321 & until [ -e $FACTS/tried ]; do sleep 0.01; done; kill $!",
            );
        let running = place
            .agent()
            .args(&["--jobs", "2", "--second-run", "never"])
            .arg(place.release(&release))
            .start();
        let mut victim = String::new();
        wait_until("the other script", || {
            let found = processes_below(&place.world.path("facts"));
            let found = found
                .iter()
                .find(|process| process.ends_with(": sleep 4321 "));
            victim = found.map_or_else(String::new, |process| {
                process.split(':').next().unwrap().to_owned()
            });
            !victim.is_empty()
        });
        let pids = format!("agent {}\nvictim {victim}\n", running.pid());
        place.world.write("facts/new", pids);
        std::fs::rename(
            place.world.path("facts/new"),
            place.world.path("facts/pids"),
        )
        .unwrap();
        running
            .end()
            .succeeds()
            .says(&format!("Isolation: {}", tier.name));
        let reached = match tier.name {
            "none" => "100644 agent\nvictim\n",
            _ => "100644 ",
        };
        assert_eq!(place.file("attack", "reached"), reached);
    }
}

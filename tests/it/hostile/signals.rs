//! Signals of a script to the agent and to a concurrent script, and other ways to end the agent, as in footnotes of SECURITY.md.

use std::path::PathBuf;

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    in_tiers, processes_below, require, require_landlock_scopes, require_tools, wait_until,
};

in_tiers!(control_groups_end_the_agent_without_a_protected_host: NAMESPACE USERNS_OF_ROOT LANDLOCK NONE);
in_tiers!(limits_end_the_agent_where_its_processes_are_visible: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(signals_to_the_agent_and_to_another_script: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

/// Waits for process numbers, and lists those that it can signal.
const ATTACK: &str = "until [ -e $FACTS/pids ]; do sleep 0.01; done; touch $BOSH_INSTALL_TARGET/reached; \
                      while read -r name pid; do if kill -0 $pid; then echo $name >> $BOSH_INSTALL_TARGET/reached; fi; done < $FACTS/pids; \
                      touch $FACTS/tried";

/// A control group of a test.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// `None` if control groups of version 2 cannot be created here.
    fn new() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let mut points = mounts.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
        });
        let name = format!("bosh-agent-test-{}", std::process::id());
        let group = points.next().map(|root| root.join(name));
        let made = group.filter(|group| {
            std::fs::create_dir(group).is_ok() && group.join("cgroup.kill").exists()
        });
        require(made.is_some(), "control groups of version 2").then(|| Self(made.unwrap()))
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        wait_until("the end of the group", || {
            std::fs::remove_dir(&self.0).is_ok() || !self.0.exists()
        });
    }
}

mod bodies {
    use super::*;

    pub(super) fn control_groups_end_the_agent_without_a_protected_host(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(group) = ControlGroup::new() else {
            return;
        };
        let directory = group.0.display();
        let release = ReleaseBuilder::of_script(&format!(
            "echo 1 > {directory}/cgroup.kill; echo > $BOSH_INSTALL_TARGET/file"
        ));
        let tarball = place.release(&release);
        let program = format!("sh -c 'echo $$ > {directory}/cgroup.procs; exec \"$@\"' sh");
        let flags: &[&[&str]] = match tier.has_mounts() {
            true => &[&[], &["--protect-host"]],
            false => &[&[]],
        };
        for flags in flags {
            let agent = place.agent_through(&program).args(flags);
            let ran = agent.arg(&tarball).run();
            match flags.is_empty() {
                true => assert_eq!(ran.code, None, "{}", ran.stderr),
                false => drop(ran.succeeds()),
            }
        }
    }

    pub(super) fn limits_end_the_agent_where_its_processes_are_visible(tier: Tier) {
        if !require_tools(&["prlimit"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "until [ -e $FACTS/pid ]; do sleep 0.01; done; prlimit --pid $(cat $FACTS/pid) --fsize=0; \
                      head -c 100000 /dev/urandom > $BOSH_INSTALL_TARGET/file";
        let tarball = place.release(&ReleaseBuilder::of_script(script));
        let agent = place.agent().args(&["--second-run", "never"]);
        let running = agent.arg(tarball).start();
        place.world.write("facts/new", running.pid().to_string());
        let facts = place.world.path("facts");
        std::fs::rename(facts.join("new"), facts.join("pid")).unwrap();
        let ran = running.end();
        match tier.has_mounts() {
            true => drop(ran.succeeds()),
            false => assert_eq!(ran.code, None, "{}", ran.stderr),
        }
    }

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

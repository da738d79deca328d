//! The row `delete-host` of SECURITY.md after a kill, and after the restart of a daemon: neither the next run nor the next daemon deletes
//! files of the host through links, mounts and notes that a script has left.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bosh_agent::sandbox::Isolation;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::json;

use super::daemon::assert_compiles;
use crate::promises::whole_column;
use crate::support::{
    Daemon, LANDLOCK, LANDLOCK_OF_A_USER, LANDLOCK_OF_ROOT, NAMESPACE, NONE, NONE_OF_A_USER, Place,
    Play, ReleaseBuilder, Tier, USER, USERNS_OF_A_USER, USERNS_OF_ROOT, Who, World, in_isolations,
    in_tiers, require_tools, run_tool, snapshot, wait_until,
};

in_tiers!(run_after_a_killed_one_deletes_nothing_of_the_host: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK LANDLOCK_OF_ROOT LANDLOCK_OF_A_USER NONE NONE_OF_A_USER);
// A daemon has no flag for the tier `none`. In `landlock`, the second run of a script has no rules either, in the same directories.
in_tiers!(daemon_after_a_killed_one_deletes_nothing_of_the_host: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(daemon_does_not_use_data_that_a_killed_one_lost: LANDLOCK);
in_isolations!(restarted_daemon_deletes_nothing_of_the_host: Namespace Userns Landlock None);

/// Leaves links and mounts in all directories of the agent, and in their places, and names files of the host in the agent's notes.
const ATTACK: &str = "set +e; base=@base@; host=@host@; \
    for directory in $BOSH_COMPILE_TARGET $BOSH_INSTALL_TARGET $base/packages $base/data $base/data/packages $base/data/compile; do \
      mkdir $directory/m $directory/.bosh-agent-work-1-0; mount --bind $host/dir $directory/m; mount --bind $host/dir $directory/.bosh-agent-work-1-0; \
      ln -s $host/dir $directory/link; ln $host/dir/file $directory/hard; ln -s $host/dir $directory/.bosh-agent-left-1-0; done; \
    for name in tmp blobs/tmp sensitive_blobs; do mv $base/data/$name $base/data/.old-${name%%/*}; ln -s $host/dir $base/data/$name; done; \
    mkdir -p $base/data/root_tmp; mount --bind $host/dir $base/data/root_tmp; \
    for notes in $base/packages/.bosh-agent:compile $base/data/.bosh-agent-compile.lock; do \
      for path in data/jobs jobs m link ../host/dir $host/dir data/link; do echo $path; done >> $notes; done";

/// The same, and replaces the directory of sources by a link, and removes the notes of the run.
const REPLACE: &str = "; mv $base/data/compile $base/data/.old-compile; ln -s $host/dir $base/data/compile; \
    rm $base/packages/.bosh-agent:compile; : > $base/data/.bosh-agent-compile.lock";

/// Directories with files that must stay.
struct Site {
    world: World,
    before: BTreeMap<String, String>,
}

impl Site {
    fn new(world: &World, who: Who) -> Self {
        for file in ["host/dir/file", "host/dir/tmp/file", "vcap/data/jobs/file"] {
            world.write(file, "of the host");
        }
        if matches!(who, Who::User | Who::UserWithoutRange) {
            let owner = format!("{USER}:{USER}");
            let words = ["-R".as_ref(), owner.as_ref()];
            let paths = [world.path("host"), world.base()];
            let words = words
                .into_iter()
                .chain(paths.iter().map(|it| it.as_os_str()));
            run_tool("chown", &words.collect::<Vec<_>>());
        }
        let mut site = Self {
            world: world.clone(),
            before: BTreeMap::new(),
        };
        site.before = site.files();
        site
    }

    /// The files that are the host's.
    fn files(&self) -> BTreeMap<String, String> {
        let mut files = snapshot(&self.world.path("host"));
        let jobs = std::fs::read_to_string(self.world.path("vcap/data/jobs/file"));
        files.insert("jobs".to_owned(), format!("{jobs:?}"));
        files
    }

    fn filled(&self, script: &str) -> String {
        let path = |path: PathBuf| path.display().to_string();
        script
            .replace("@base@", &path(self.world.base()))
            .replace("@host@", &path(self.world.path("host")))
            .replace("$FACTS", &path(self.world.path("facts")))
    }

    #[track_caller]
    fn assert_untouched(&self, when: &str) {
        assert_eq!(self.files(), self.before, "{when}");
    }
}

impl Drop for Site {
    /// Unmounts what is left in the test's directories.
    fn drop(&mut self) {
        let own = self.world.path("").display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in mounts.lines().rev() {
            let at = line.split(' ').nth(4).unwrap();
            if at.starts_with(&own) {
                let _ = umount2(at, MntFlags::MNT_DETACH);
            }
        }
    }
}

/// Commands that fail once: under Landlock, only the second run is unrestricted.
const FAIL_ONCE: &str = "[ -e $FACTS/first ] || { touch $FACTS/first; exit 1; }; ";

/// The cell of each column, which all say `yes`.
fn assert_promised() {
    for column in [
        "`namespace`",
        "`namespace --protect-host`",
        "`userns`",
        "`landlock`",
        "second run of `landlock`",
        "`none`",
    ] {
        assert!(whole_column(column)["delete-host"], "{column}");
    }
}

mod bodies {
    use super::*;

    pub(super) fn run_after_a_killed_one_deletes_nothing_of_the_host(tier: Tier) {
        assert_promised();
        let befores = match tier.name {
            "landlock" => &["", FAIL_ONCE][..],
            _ => &[""],
        };
        for (before, attack) in befores.iter().flat_map(|before| {
            [
                (before, ATTACK.to_owned()),
                (before, format!("{ATTACK}{REPLACE}")),
            ]
        }) {
            let Some(place) = Place::new(tier) else {
                return;
            };
            let site = Site::new(&place.world, tier.who);
            let script = format!("{before}{attack}; touch $FACTS/started; sleep 1000");
            let running = place.start(&site.filled(&script));
            running.signal(Signal::SIGKILL);
            running.end();
            let plain = ReleaseBuilder::of_script("echo > $BOSH_INSTALL_TARGET/file");
            for round in 0..2 {
                let agent = place.agent().args(&["--grace", "1"]);
                let ran = agent.arg(place.release(&plain)).run();
                assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
                site.assert_untouched(&format!("{round}, {before}, {}", ran.stderr));
            }
        }
    }

    pub(super) fn daemon_after_a_killed_one_deletes_nothing_of_the_host(tier: Tier) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(kill_daemons(tier));
    }

    pub(super) fn daemon_does_not_use_data_that_a_killed_one_lost(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let site = Site::new(&place.world, tier.who);
        let before = snapshot(&place.world.path("host"));
        let daemon = Daemon::start_in(&place);
        let script = format!(
            "{FAIL_ONCE}mv @base@/data @base@/moved; ln -s @host@/dir @base@/data; touch $FACTS/started; sleep 1000"
        );
        Daemon::order(&place.world, &site.filled(&script), &json!({}));
        wait_until("the script", || site.world.path("facts/started").exists());
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        let daemon = Daemon::start_in(&place);
        let data = place.world.base().join("data");
        let said = format!(
            "compile requests will fail: `{}` is a link to ",
            data.display()
        );
        wait_until("the error", || daemon.stderr().contains(&said));
        Daemon::order(&place.world, "echo >$BOSH_INSTALL_TARGET/file", &json!({}));
        daemon.signal(Signal::SIGTERM);
        daemon.end();
        assert_eq!(snapshot(&place.world.path("host")), before);
    }

    pub(super) async fn restarted_daemon_deletes_nothing_of_the_host(play: Play) {
        let site = Site::new(&play.world, Who::Root);
        let before = match play.isolation() {
            Some(Isolation::Landlock) => FAIL_ONCE,
            _ => "",
        };
        let script = site.filled(&format!(
            "{before}{ATTACK}; echo > $BOSH_INSTALL_TARGET/file"
        ));
        let task = play.order(&play.source("app", &script, json!({}))).await;
        play.end(&task).await;
        site.assert_untouched("at the end of the request");
        let play = play.restart().await;
        site.assert_untouched("after the restart");
        assert_compiles(&play, "app").await;
        site.assert_untouched("after the next request");
        assert!(play.stop().await);
        site.assert_untouched("at the end");
    }
}

async fn kill_daemons(tier: Tier) {
    for attack in [ATTACK.to_owned(), format!("{ATTACK}{REPLACE}")] {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let site = Site::new(&place.world, tier.who);
        let play = Play::in_process(place);
        let before = match tier.name {
            "landlock" => FAIL_ONCE,
            _ => "",
        };
        let script = format!("{before}{attack}; touch $FACTS/started; sleep 1000");
        let source = play.source("app", &site.filled(&script), json!({}));
        play.order(&source).await;
        wait_until("the script", || site.world.path("facts/started").exists());
        let play = play.killed();
        site.assert_untouched("after the restart");
        // Without its notes, the agent refuses to use a directory that holds unknown files.
        let script = "echo >$BOSH_INSTALL_TARGET/file";
        let task = play.order(&play.source("plain", script, json!({}))).await;
        play.end(&task).await;
        site.assert_untouched("after the next request");
        assert!(play.stop().await);
    }
}

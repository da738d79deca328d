//! What hostile sources and scripts leave to a daemon: links in the place of its directories, deep trees, sources without a script; and
//! machines with few descriptors, few threads, or mounts that do not respond.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bosh_agent::sandbox::Isolation;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Hanging, Kind, LANDLOCK, Member, NAMESPACE, NONE, Place, Play, Running, Tier,
    USERNS_OF_A_USER, USERNS_OF_ROOT, archive, for_this_form, in_isolations, in_tiers, is_soak,
    require_tools, run_tool, sha1_of, snapshot, wait_for,
};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

in_isolations!(links_in_place_of_directories_fail_only_one_request: Landlock None);
in_isolations!(deep_trees_are_removed_after_a_request: Namespace Userns Landlock None);
in_isolations!(packaging_without_a_script_fails_only_one_request: Namespace Userns Landlock None);
in_tiers!(few_descriptors_cause_no_panic_and_no_hang: NAMESPACE USERNS_OF_ROOT LANDLOCK);
// The limit does not apply to root.
in_tiers!(few_threads_cause_no_panic_and_no_hang: USERNS_OF_A_USER);
in_tiers!(dead_mounts_at_the_start_are_no_hang: NAMESPACE USERNS_OF_ROOT LANDLOCK);
in_tiers!(silent_mount_in_the_base_directory_fails_requests: NAMESPACE USERNS_OF_ROOT LANDLOCK);
in_tiers!(sigterm_ends_the_wait_for_a_silent_mount: NAMESPACE USERNS_OF_ROOT);
in_tiers!(cancel_ends_the_wait_for_a_silent_mount: NAMESPACE USERNS_OF_ROOT);
in_tiers!(replaced_data_directory_fails_only_compile_requests: NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// The wait for a mount at the start, and again in the request.
const TWO_WAITS: Duration = Duration::from_secs(120);

/// The time in which a daemon exits that waits for nothing but a mount.
const SOON: Duration = Duration::from_secs(20);

/// The time in which a canceled request ends that waits for nothing but a mount.
const AT_ONCE: Duration = Duration::from_secs(6);

/// Commands that make and enter directories below the current one.
fn deep(levels: usize) -> String {
    format!(
        "perl -e 'for (1..{levels}) {{ mkdir \"d\" or die; chdir \"d\" or die }} open F, \">file\"'"
    )
}

/// The agent's own names in the data directory, sorted, without the numbers at the end of temporary ones. The others are scratch
/// directories, which stay, and those of the machine.
pub(super) fn kinds_of_data(play: &Play) -> Vec<String> {
    let entries = std::fs::read_dir(play.world.base().join("data")).unwrap();
    let mut kinds: Vec<String> = entries
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // Without the process and the random digits in the name of a work directory.
            let (kind, _) = name.split_once("-work-").unwrap_or((&name, ""));
            let number = |c: char| c.is_ascii_digit() || c == '-';
            kind.trim_end_matches(number).to_owned()
        })
        .filter(|name| name.starts_with('.') || name.contains("-old"))
        .collect();
    kinds.sort();
    kinds
}

/// Waits until the agent has no more of its own names in the data directory than before. There may be fewer, because the removal of an earlier
/// request's files may have been pending then.
pub(super) fn wait_for_data(play: &Play, before: &[String]) {
    wait_for("the removal", for_this_form(LIMIT), || {
        let (kinds, mut more) = (kinds_of_data(play), Vec::new());
        let mut expected = before.to_vec();
        for kind in kinds {
            match expected.iter().position(|it| *it == kind) {
                Some(at) => drop(expected.remove(at)),
                None => more.push(kind),
            }
        }
        more.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{more:?}"))
    });
}

pub(super) async fn assert_compiles(play: &Play, name: &str) {
    let script = "echo fine >$BOSH_INSTALL_TARGET/file";
    let task = play.order(&play.source(name, script, json!({}))).await;
    let end = play.end(&task).await;
    assert!(end["value"]["result"].is_object(), "{end}");
}

mod bodies {
    use super::*;

    pub(super) async fn links_in_place_of_directories_fail_only_one_request(play: Play) {
        assert_compiles(&play, "other").await;
        let host = play.world.path("host");
        // The agent would move, rename or remove these files by path.
        for directory in ["app", "compile/app", "packages/app"] {
            std::fs::create_dir_all(host.join(directory)).unwrap();
            std::fs::write(host.join(directory).join("file"), "host").unwrap();
        }
        let (before, data) = (snapshot(&host), kinds_of_data(&play));
        for below in ["packages", "data/compile", "data/packages", "data"] {
            let (path, host) = (play.world.base().join(below), host.display().to_string());
            let path = path.display();
            let script = format!(
                "set -e; echo > $BOSH_INSTALL_TARGET/file; cd /; mv {path} {path}-old; ln -s {host} {path}"
            );
            let task = play.order(&play.source("app", &script, json!({}))).await;
            let message = play.failure(&task).await;
            let said =
                format!("the packaging script replaced `{path}`, which leads to `{host}` now");
            assert!(message.contains(&said), "{below}: {message}");
            assert_compiles(&play, "app").await;
            assert_eq!(
                snapshot(play.world.path("host").as_path()),
                before,
                "{below}"
            );
            wait_for_data(&play, &data);
        }
        assert!(play.stop().await);
    }

    pub(super) async fn deep_trees_are_removed_after_a_request(play: Play) {
        assert_compiles(&play, "other").await;
        let before = kinds_of_data(&play);
        let levels = match play.isolation() {
            // For a new directory, the kernel checks the rules of all directories above it.
            Some(Isolation::Landlock) if !is_soak() => 4000,
            _ => 15_000,
        };
        let script = format!(
            "set -e; cd $BOSH_COMPILE_TARGET; {}; cd $BOSH_INSTALL_TARGET; {}",
            deep(levels),
            deep(500)
        );
        let task = play.order(&play.source("app", &script, json!({}))).await;
        let end = play.end(&task).await;
        assert!(end["value"]["result"].is_object(), "{end}");
        wait_for_data(&play, &before);
        assert_compiles(&play, "app").await;
        assert!(play.stop().await);
    }

    pub(super) async fn packaging_without_a_script_fails_only_one_request(play: Play) {
        let scratch = tempfile::tempdir().unwrap();
        let packaging = scratch.path().join("packaging");
        run_tool("mkfifo", &[&packaging]);
        let blob = play.world.path("store/fifo");
        let directory = scratch.path().as_os_str();
        let words = [
            "-czf".as_ref(),
            blob.as_os_str(),
            "-C".as_ref(),
            directory,
            ".".as_ref(),
        ];
        run_tool("tar", &words);
        let fifo = json!(["fifo", sha1_of(&blob), "app", "1.1", {}]);
        let link = Member::link(Kind::Symlink, "packaging", "/dev/zero");
        let directory = Member::directory("packaging");
        for (order, said) in [
            (fifo, "is a FIFO, not a file"),
            (
                play.source_of("device", &[link], json!({})),
                "is a device, not a file",
            ),
            (
                play.source_of("directory", &[directory], json!({})),
                "is a directory, not a file",
            ),
        ] {
            let task = play.order(&order).await;
            let message = play.failure(&task).await;
            assert!(message.contains(said), "{message}");
            assert_compiles(&play, "app").await;
        }
        assert!(play.stop().await);
    }

    pub(super) fn few_descriptors_cause_no_panic_and_no_hang(tier: Tier) {
        assert_no_hang(tier, "nofile", &[14, 20, 28, 64]);
    }

    pub(super) fn few_threads_cause_no_panic_and_no_hang(tier: Tier) {
        assert_no_hang(tier, "nproc", &[2, 5, 7, 9, 12, 16, 22, 30, 1000]);
    }

    pub(super) fn dead_mounts_at_the_start_are_no_hang(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        for at in ["hanging", "vcap/other", "vcap/data/compile", "vcap/data"] {
            let Some(place) = Place::new(tier) else {
                return;
            };
            let Some(mut hanging) = Hanging::mount_silent_at(&place.world, at) else {
                return;
            };
            hanging.end_server();
            let mut daemon = Daemon::in_place(&place, "").start();
            if is_listening(&mut daemon) {
                let source = source(&place, "echo > $BOSH_INSTALL_TARGET/file");
                let reply = Daemon::post(&place.world, "compile_package", &source);
                let end = end_of_task(&place, &reply, LIMIT).unwrap();
                let names_it = end.to_string().contains(at);
                assert!(
                    end["value"]["result"].is_object() || names_it,
                    "{at}: {end}"
                );
                daemon.signal(Signal::SIGTERM);
            }
            let ran = daemon.end();
            assert_eq!(ran.code, Some(1), "{at}: {}", ran.stderr);
            assert!(!ran.stderr.contains("panicked"), "{at}: {}", ran.stderr);
        }
    }

    pub(super) fn silent_mount_in_the_base_directory_fails_requests(tier: Tier) {
        let Some((place, _hanging, daemon)) = start_with_silent_mount(tier, "3") else {
            return;
        };
        let source = source(&place, "echo > $BOSH_INSTALL_TARGET/file");
        let reply = Daemon::post(&place.world, "compile_package", &source);
        let pong = Daemon::post(&place.world, "ping", &json!([]));
        assert!(pong.contains("pong"), "{pong}");
        let end = end_of_task(&place, &reply, TWO_WAITS).unwrap();
        let at = place.world.base().join("other");
        let said = format!(
            "the file system that is mounted at `{}` does not respond: no result after ",
            at.display()
        );
        // A file system that is late does not decide about the isolation: no other tier is tried.
        assert!(end.to_string().contains(&said), "{end}");
        daemon.signal(Signal::SIGTERM);
        daemon.end_within(SOON);
    }

    pub(super) fn sigterm_ends_the_wait_for_a_silent_mount(tier: Tier) {
        let Some((place, _hanging, daemon)) = start_with_silent_mount(tier, "30") else {
            return;
        };
        let at = place.world.base().join("other");
        Daemon::wait_for_message(
            &daemon,
            &format!(
                "waiting for the file system that is mounted at `{}`",
                at.display()
            ),
        );
        daemon.signal(Signal::SIGTERM);
        let ran = daemon.end_within(SOON);
        assert!(!ran.stderr.contains("does not respond"), "{}", ran.stderr);
    }

    pub(super) fn cancel_ends_the_wait_for_a_silent_mount(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let daemon = Daemon::start_in(&place);
        let source = source(&place, "echo > $BOSH_INSTALL_TARGET/file");
        let post = || Daemon::post(&place.world, "compile_package", &source);
        let end = end_of_task(&place, &post(), LIMIT).unwrap();
        assert!(end["value"]["result"].is_object(), "{end}");
        let Some(_hanging) = Hanging::mount_silent_at(&place.world, "vcap/other") else {
            return;
        };
        let reply = post();
        wait_for("the question", LIMIT, || {
            let is_asked = place.world.path("facts/hung").exists();
            is_asked.then_some(()).ok_or_else(|| daemon.stderr())
        });
        let start = Instant::now();
        let parsed: Value = serde_json::from_str(&reply).unwrap();
        let task = json!([parsed["value"]["agent_task_id"]]);
        Daemon::post(&place.world, "cancel_task", &task);
        let end = end_of_task(&place, &reply, LIMIT).unwrap();
        assert!(start.elapsed() < AT_ONCE, "{:?}: {end}", start.elapsed());
        assert!(end.to_string().contains("cancel"), "{end}");
        daemon.signal(Signal::SIGTERM);
        daemon.end_within(SOON);
    }

    pub(super) fn replaced_data_directory_fails_only_compile_requests(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        for (replace, said) in [
            (
                "mount --bind $theirs $base/data",
                "a file system is mounted over `",
            ),
            (
                "mv $base/data $base/data-old; ln -s $theirs $base/data",
                "` is a link to `",
            ),
        ] {
            let Some(place) = Place::new(tier) else {
                return;
            };
            let theirs = place.world.path("theirs");
            // Directories to which the agent writes in its own data directory.
            for directory in ["tmp", "blobs/tmp", "sensitive_blobs/tmp", "sys/log"] {
                place
                    .world
                    .write(&format!("theirs/{directory}/file"), "theirs");
            }
            let script = format!(
                "theirs={}; base=${{BOSH_INSTALL_TARGET%/packages/*}}; {replace}; touch $FACTS/started; sleep 1000",
                theirs.display()
            );
            let before = snapshot(&theirs);
            // It makes the link `sys` to a directory in the data directory.
            let first = Daemon::start_in(&place);
            first.signal(Signal::SIGKILL);
            first.end();
            let running = place.start(&script);
            running.signal(Signal::SIGKILL);
            running.end();
            let daemon = Daemon::start_in(&place);
            let undo = Undo(place.world.base().join("data"));
            Daemon::wait_for_message(&daemon, "compile requests will fail: ");
            let source = source(&place, "echo > $BOSH_INSTALL_TARGET/file");
            let compile = || {
                let reply = Daemon::post(&place.world, "compile_package", &source);
                end_of_task(&place, &reply, LIMIT).unwrap()
            };
            let end = compile();
            assert!(end.to_string().contains(said), "{end}");
            let pong = Daemon::post(&place.world, "ping", &json!([]));
            assert!(pong.contains("pong"), "{pong}");
            let reply = Daemon::post(&place.world, "fetch_logs", &json!(["agent", null]));
            let end = end_of_task(&place, &reply, LIMIT).unwrap();
            assert!(end["value"]["blobstore_id"].is_string(), "{end}");
            let bundle = json!([{"owning_user": "", "log_type": "agent", "filters": []}]);
            let bundle = || Daemon::post(&place.world, "bundle_logs", &bundle);
            let upload = || Daemon::put(&place.world, "blob", "content");
            let (status, refused) = upload();
            assert_eq!(status, "500");
            for refused in [refused, bundle()] {
                let base = place.world.base();
                let said = format!("has replaced `{}/data`", base.display());
                assert!(refused.contains(&said), "{refused}");
            }
            assert_eq!(snapshot(&theirs), before);
            drop(undo);
            // Clients over HTTPS upload the source before they send a request to compile it.
            assert_eq!(upload().0, "201");
            let end = compile();
            assert!(end["value"]["result"].is_object(), "{end}");
            let bundled = bundle();
            assert!(bundled.contains("logs_tar_path"), "{bundled}");
            assert!(place.world.base().join("sys/log").is_dir());
            assert_eq!(snapshot(&theirs), before);
            daemon.signal(Signal::SIGTERM);
            daemon.end_within(SOON);
        }
    }
}

/// A link or a mount that is removed on drop.
struct Undo(PathBuf);

impl Drop for Undo {
    fn drop(&mut self) {
        if std::fs::remove_file(&self.0).is_err() {
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        }
    }
}

/// A daemon in whose base directory, at `other`, a file system is mounted that does not respond. It waits so many seconds for it.
fn start_with_silent_mount(tier: Tier, limit: &str) -> Option<(Place, Hanging, Running)> {
    if !require_tools(&["openssl", "curl"]) {
        return None;
    }
    let place = Place::new(tier)?;
    let hanging = Hanging::mount_silent_at(&place.world, "vcap/other")?;
    let agent = Daemon::in_place(&place, "").env("BOSH_AGENT_TEST_MOUNT_LIMIT", limit);
    let daemon = Daemon::listening(agent);
    Some((place, hanging, daemon))
}

/// Whether a daemon has started. Otherwise it has ended.
fn is_listening(daemon: &mut Running) -> bool {
    wait_for("the start or its failure", LIMIT, || {
        let log = daemon.stderr();
        match log.contains("listening for HTTPS requests") {
            true => Ok(true),
            false if daemon.has_ended() => Ok(false),
            false => Err(log),
        }
    })
}

/// Sends requests to daemons with limits of prlimit. Some must be answered.
fn assert_no_hang(tier: Tier, limit: &str, numbers: &[u32]) {
    if !require_tools(&["openssl", "curl", "prlimit"]) {
        return;
    }
    let Some(place) = Place::new(tier) else {
        return;
    };
    let mut compiled = 0;
    for number in numbers {
        let program = format!("prlimit --{limit}={number}:{number}");
        let mut daemon = Daemon::in_place(&place, &program).start();
        if is_listening(&mut daemon) {
            let source = source(&place, "echo > $BOSH_INSTALL_TARGET/file");
            for _ in 0..2 {
                // Without descriptors or threads, the daemon may not answer.
                let reply = Daemon::try_post(&place.world, "compile_package", &source);
                let result = reply.and_then(|reply| end_of_task(&place, &reply, LIMIT));
                compiled +=
                    usize::from(result.is_some_and(|end| end["value"]["result"].is_object()));
            }
            daemon.signal(Signal::SIGTERM);
        }
        let ran = daemon.end();
        assert!(matches!(ran.code, Some(1 | 4)), "{number}: {ran:?}");
        assert!(!ran.stderr.contains("panicked"), "{number}: {}", ran.stderr);
    }
    assert!(compiled > 0);
}

/// Stores a source, and returns the arguments of the request to compile it.
fn source(place: &Place, script: &str) -> Value {
    let blob = place.world.path("store/source");
    std::fs::write(
        &blob,
        archive(&[Member::file("packaging", script.as_bytes())]),
    )
    .unwrap();
    json!(["source", sha1_of(&blob), "app", "1.1", {}])
}

/// Waits for the end of the task in a reply; `None` if there is no task, or no answer.
fn end_of_task(place: &Place, reply: &str, limit: Duration) -> Option<Value> {
    let reply: Value = serde_json::from_str(reply).unwrap();
    let task = reply["value"]["agent_task_id"].as_str()?;
    wait_for("the end of a request", limit, || {
        let Some(reply) = Daemon::try_post(&place.world, "get_task", &json!([task])) else {
            return Ok(None);
        };
        let parsed: Value = serde_json::from_str(&reply).unwrap();
        match parsed["value"]["state"] == "running" {
            true => Err(reply),
            false => Ok(Some(parsed)),
        }
    })
}

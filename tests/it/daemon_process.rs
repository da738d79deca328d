//! The daemon as a single process: start, stop and restart. `integration` tests it in a deployment.
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Daemon, LANDLOCK, NAMESPACE, Place, Running, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT, World,
    in_tiers, limit_of_open_files, listed, processes_below, require_root, require_tools, run_tool,
    wait_for,
};
use nix::sys::signal::Signal;

in_tiers!(daemon_compiles_in_the_tier_of_its_privileges: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(denials_of_a_first_run_are_logged: LANDLOCK);
in_tiers!(late_output_is_kept_and_remaining_processes_are_logged: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);

const LIMIT: Duration = Duration::from_secs(60);

/// The time in which a daemon without a running script ends, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn write(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "x").unwrap();
}

#[test]
fn second_daemon_is_refused_and_changes_no_file() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    let first = Daemon::of(&world).start();
    Daemon::wait_for_message(&first, "listening for HTTPS requests");
    let own = world.base().join("data/tmp/file-of-a-script");
    write(&own);
    let second = Daemon::of(&world).run();
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("another agent is running"),
        "{}",
        second.stderr
    );
    assert!(own.exists());

    // A killed process holds no lock.
    first.signal(Signal::SIGKILL);
    assert_eq!(first.end().code, None);
    let third = Daemon::of(&world).start();
    Daemon::wait_for_message(&third, "listening for HTTPS requests");
    assert!(!own.exists());
    third.signal(Signal::SIGTERM);
    let third = third.end();
    assert_eq!(third.code, Some(1));
    assert!(
        third
            .stderr
            .contains("received signal (terminated): stopping now"),
        "{}",
        third.stderr
    );
    assert!(!third.stderr.contains("hunter2") && !third.stderr.contains("PRIVATE KEY"));
}

#[test]
fn daemon_with_a_hanging_disk_stops() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    // Opening a FIFO blocks until another process opens it for writing.
    let spec = world.base().join("bosh/spec.json");
    std::fs::create_dir_all(spec.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&spec, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let daemon = Daemon::of(&world).start();
    Daemon::wait_for_message(&daemon, "listening for HTTPS requests");
    Daemon::wait_for_message(&daemon, "isolation: ");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().code, Some(1));
}

#[test]
fn invalid_settings_are_reported_without_secrets() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    let settings = world.path("settings.json");
    let whole = std::fs::read_to_string(&settings).unwrap();
    for (from, to, reason) in [
        (
            "https://mbus",
            "tls://mbus",
            "Getting mbus handler: Message Bus Handler with scheme tls could not be found",
        ),
        ("BEGIN PRIVATE KEY", "BEGIN KEY", "private key"),
    ] {
        std::fs::write(&settings, whole.replace(from, to)).unwrap();
        let ended = Daemon::of(&world).run();
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        assert_eq!(
            ended.stderr.matches("Getting mbus handler").count(),
            1,
            "{}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    std::fs::write(&settings, &whole).unwrap();
    let update = world.base().join("bosh/update_settings.json");
    std::fs::write(
        &update,
        "{\"mbus\": {\"cert\": {\"private_key\": \"hunter2\"",
    )
    .unwrap();
    let ended = Daemon::of(&world).run();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stderr
            .contains("update_settings.json` cannot be used"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[test]
fn daemon_with_inherited_ignored_signals_can_be_stopped() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    let inherited = ["env", "--ignore-signal", "--block-signal"];
    let daemon = Daemon::started_by(&world, &inherited).start();
    Daemon::wait_for_message(&daemon, "listening for HTTPS requests");
    Daemon::wait_for_message(&daemon, "isolation: ");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end_within(SOON).code, Some(1));
}

#[test]
fn idle_connection_does_not_delay_the_end() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    let daemon = Daemon::of(&world).start();
    Daemon::wait_for_message(&daemon, "listening for HTTPS requests");
    Daemon::wait_for_message(&daemon, "isolation: ");
    let settings: serde_json::Value = serde_json::from_str(&world.read("settings.json")).unwrap();
    let (_, address) = settings["mbus"].as_str().unwrap().split_once('@').unwrap();
    let idle = std::net::TcpStream::connect(address).unwrap();
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.end_within(SOON);
    drop(idle);
    assert_eq!(ended.code, Some(1));
    let waited = "stopped before every request had a reply";
    assert!(!ended.stderr.contains(waited), "{}", ended.stderr);
}

#[test]
fn scripts_keep_the_limit_of_open_files() {
    if !require_root() || !require_tools(&["openssl", "curl", "prlimit"]) {
        return;
    }
    let world = Daemon::machine();
    let daemon = Daemon::started_by(&world, &["prlimit", "--nofile=500:2000"]).start();
    Daemon::wait_for_message(&daemon, "listening for HTTPS requests");
    assert_eq!(limit_of_open_files(daemon.pid()), ["2000", "2000"]);
    let script = "echo $(ulimit -Sn) $(ulimit -Hn) > $BOSH_INSTALL_TARGET/limits";
    let found = compiled(&world, &daemon, script);
    assert_eq!(found("limits"), "500 2000");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().code, Some(1));
}

#[test]
fn blobstore_program_that_cannot_start_is_named() {
    if !require_root() || !require_tools(&["openssl", "curl"]) {
        return;
    }
    let world = Daemon::machine();
    let settings = world.read("settings.json");
    world.write("settings.json", settings.replace("\"local\"", "\"s3\""));
    let program = world.write("bin/bosh-blobstore-s3", "#!/no/interpreter\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let path = format!(
        "{}:{}",
        world.path("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let daemon = Daemon::of(&world).env("PATH", &path).start();
    Daemon::wait_for_message(&daemon, "listening for HTTPS requests");
    Daemon::order(&world, "true", &serde_json::json!({}));
    let failed = format!(
        "failed to start `{}` (bosh-blobstore-s3, blob source, 1 attempt): No such file or directory (os error 2): the interpreter in its \
         first line, or its dynamic linker, is missing",
        program.display()
    );
    Daemon::wait_for_message(&daemon, &failed);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().code, Some(1));
}

#[test]
fn umask_of_zero_opens_nothing_to_others() {
    if !require_root() || !require_tools(&["openssl", "curl"]) {
        return;
    }
    let world = Daemon::machine();
    let program = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];
    let daemon = Daemon::started_by(&world, &program).start();
    Daemon::wait_for_message(&daemon, "listening for HTTPS requests");
    let found = compiled(&world, &daemon, "umask > $BOSH_INSTALL_TARGET/umask");
    assert_eq!(found("umask"), "0022");
    let open = "-perm /022 -not -type l -not -perm -1000".split(' ');
    let base = world.base();
    let arguments: Vec<&std::ffi::OsStr> = std::iter::once(base.as_os_str())
        .chain(open.map(AsRef::as_ref))
        .collect();
    assert_eq!(run_tool("find", &arguments), "");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().code, Some(1));
}

#[test]
fn dangling_link_as_data_directory_is_reported() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    let (link, target) = (world.base().join("data"), world.path("not-mounted"));
    std::fs::create_dir_all(world.base()).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let ended = Daemon::of(&world).within(SOON).run();
    assert_eq!(ended.code, Some(1));
    let (link, target) = (link.display(), target.display());
    let said = format!("`{link}` is a link to `{target}`, which does not exist");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}

#[test]
fn second_sigterm_kills_scripts_and_ends_the_daemon() {
    if !require_root() || !require_tools(&["openssl", "curl"]) {
        return;
    }
    let world = Daemon::machine();
    let mut daemon = Daemon::of(&world).start();
    Daemon::wait_for_message(&daemon, "listening for HTTPS requests");
    Daemon::order(
        &world,
        "trap '' TERM\nsleep 1000\nsleep 1000",
        &serde_json::json!({}),
    );
    wait_for("the script", LIMIT, || {
        let found = processes_below(&world.base());
        let is_there = found.iter().any(|process| process.contains("sleep 1000"));
        is_there
            .then_some(())
            .ok_or_else(|| format!("{found:?}\n{}", daemon.stderr()))
    });
    daemon.signal(Signal::SIGTERM);
    Daemon::wait_for_message(&daemon, "a second SIGTERM kills them at once");
    wait_for("the end", SOON, || {
        if daemon.has_ended() {
            return Ok(());
        }
        daemon.signal(Signal::SIGTERM);
        Err(daemon.stderr())
    });
    let ended = daemon.end();
    assert_eq!(ended.code, Some(1));
    let said = "Agent exited with error: received a second signal (SIGTERM): killing all processes";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert_eq!(processes_below(&world.base()), [""; 0]);
}

mod bodies {
    use super::*;

    pub(super) fn daemon_compiles_in_the_tier_of_its_privileges(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let daemon = Daemon::start_in(&place);
        Daemon::wait_for_message(&daemon, &format!("isolation: {}", tier.name));
        // In namespaces, a tree of the script's own is mounted over the base directory.
        let script = "base=${BOSH_INSTALL_TARGET%/packages/*}; cd $BOSH_INSTALL_TARGET; grep -c \" $base \" /proc/self/mountinfo >mounts; \
                      readlink /proc/self/ns/user >users";
        let found = compiled(&place.world, &daemon, script);
        let mounts: usize = found("mounts").parse().unwrap();
        assert_eq!(mounts > 0, tier.has_mounts());
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        assert_eq!(
            found("users") != own.to_str().unwrap(),
            tier.name == "userns"
        );
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.end().code, Some(1));
        assert_eq!(processes_below(&place.world.base()), [""; 0]);
        let left = ["packages", "data/packages", "data/compile"]
            .iter()
            .flat_map(|directory| listed(place.world.base().join(directory)));
        assert_eq!(left.collect::<Vec<_>>(), [""; 0].map(PathBuf::from));
        let data = listed(place.world.base().join("data"));
        let is_work = |path: &PathBuf| path.to_str().unwrap().contains(".bosh-agent-work-");
        assert!(!data.iter().any(is_work), "{data:?}");
    }

    pub(super) fn denials_of_a_first_run_are_logged(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let daemon = Daemon::start_in(&place);
        let script = "set -e; new=${BOSH_INSTALL_TARGET%/packages/*}/new; touch $new; rm $new; cd $BOSH_INSTALL_TARGET; echo x >file";
        let found = compiled(&place.world, &daemon, script);
        assert_eq!(found("file"), "x");
        let log = daemon.stderr();
        let denied = place.world.base().join("new");
        let line = log
            .lines()
            .find(|line| line.contains("a restricted script was denied access"))
            .unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("Permission denied"), "{line}");
        assert!(
            line.contains(&format!("paths={:?}", denied.to_str().unwrap())),
            "{line}"
        );
        assert!(log.contains("compiled only in its second run"), "{log}");
        let again = log
            .lines()
            .find(|line| line.contains("running the script again without restrictions"))
            .unwrap_or_else(|| panic!("{log}"));
        assert!(again.contains("@first.log"), "{again}");
        assert!(
            log.contains("one of the last lines of the restricted run"),
            "{log}"
        );
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.end().code, Some(1));
    }

    pub(super) fn late_output_is_kept_and_remaining_processes_are_logged(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let daemon = Daemon::start_in(&place);
        let script = "setsid sleep 1000 >/dev/null 2>&1 & exec > >(sleep 0.1; tee $BOSH_INSTALL_TARGET/file) 2>&1; echo late";
        let found = compiled(&place.world, &daemon, script);
        assert_eq!(found("file"), "+ echo late\nlate");
        let log = daemon.stderr();
        let line = log
            .lines()
            .find(|line| line.contains("the packaging script left processes running"))
            .unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("processes=1"), "{line}");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.end().code, Some(1));
        assert_eq!(processes_below(&place.world.base()), [""; 0]);
    }
}

/// Has a daemon compile a package without dependencies. Returns a function that reads a file of the result, without the line end.
fn compiled(world: &World, daemon: &Running, script: &str) -> impl Fn(&str) -> String + use<> {
    Daemon::compiled(world, daemon, script, &serde_json::json!({}))
}

//! The start of the daemon: its configuration, the sources of its settings, and the VMs that it leaves to the Go agent.
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{
    Agent, Daemon, Running, World, listed, require, require_root, require_tools, run_tool,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A program in place of the Go agent, which prints what it got.
const GO_AGENT: &str = r#"#!/bin/sh
# Only with builtins so far: waiting for a program changes the mask of the shell.
while read -r line; do
  case $line in Sig[BI][lg]*) masks="$masks$line
" ;; esac
done </proc/$$/status
echo "program $0"
for argument in "$@"; do echo "argument $argument"; done
echo "umask $(umask)"
echo "files $(ulimit -Sn) $(ulimit -Hn)"
echo "$masks"
echo "certificates <$SSL_CERT_FILE> <${SSL_CERT_DIR-unset}>"
ls -l /proc/$$/fd | sed -n 's/.* \([0-9]*\) -> /open \1 /p'
ps -o stat= -o args= --ppid $$ | sed 's/^/child /'
"#;

const LIMIT: Duration = Duration::from_secs(60);

fn change(world: &World, file: &str, change: impl FnOnce(&mut Value)) {
    let mut document: Value = serde_json::from_str(&world.read(file)).unwrap();
    change(&mut document);
    world.write(file, document.to_string());
}

fn set_groups(world: &World, groups: &[&str]) {
    change(world, "settings.json", |settings| {
        settings["env"]["bosh"]["groups"] = json!(groups);
    });
}

fn executable(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

fn install_go_agent(world: &World) -> PathBuf {
    let program = world.base().join("bosh/bin/bosh-agent-go");
    executable(&program, GO_AGENT);
    program
}

/// Stops a daemon that serves.
fn stop(daemon: Running) -> String {
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    ended.stderr
}

#[test]
fn go_agent_serves_a_vm_that_compiles_nothing() {
    if !require_tools(&["openssl", "prlimit", "ps"]) {
        return;
    }
    let world = Daemon::machine();
    set_groups(&world, &["director", "dep", "web"]);
    let program = install_go_agent(&world);
    // A shell cannot use the descriptors of files that it opens itself.
    let start = "umask 027; exec 7</dev/zero; exec \"$@\"";
    let words = [
        "prlimit",
        "--nofile=500:2000",
        "env",
        "--ignore-signal=USR1",
        "--ignore-signal=PIPE",
        "--block-signal=USR2",
    ];
    let words = [&words[..], &["sh", "-c", start, "sh"]].concat();
    let ran = Daemon::started_by(&world, &words)
        .args(&["-x=1"])
        .env("SSL_CERT_FILE", "/certificates")
        .env("SSL_CERT_DIR", "")
        .run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lines = |start: &str| -> Vec<&str> {
        let lines = ran.stdout.lines();
        lines.filter_map(|line| line.strip_prefix(start)).collect()
    };
    assert_eq!(lines("program "), [program.to_str().unwrap()]);
    let (config, base) = (world.path("agent.json"), world.base());
    let [config, base] = [&config, &base].map(|path| path.to_str().unwrap());
    let arguments = ["-P", "dummy", "-C", config, "-b", base, "-x=1"];
    assert_eq!(lines("argument "), arguments);
    assert_eq!(lines("umask "), ["0027"]);
    assert_eq!(lines("files "), ["500 2000"]);
    assert_eq!(lines("certificates "), ["</certificates> <>"]);
    let mask = |name: &str| {
        let found = lines(name);
        let [mask] = found[..] else {
            panic!("{name} {found:?}")
        };
        u64::from_str_radix(mask.trim(), 16).unwrap()
    };
    // The test itself may have inherited ignored signals.
    for (name, signals) in [
        ("SigBlk:", &[Signal::SIGUSR2][..]),
        ("SigIgn:", &[Signal::SIGUSR1, Signal::SIGPIPE]),
    ] {
        let status = ["grep", name, "/proc/self/status"];
        let own = run_tool(words[0], &[&words[1..], &status].concat());
        let own = u64::from_str_radix(own.trim_start_matches(name).trim(), 16).unwrap();
        for signal in signals {
            assert_ne!(own & 1 << (*signal as u64 - 1), 0, "{name} {signal}");
        }
        assert_eq!(mask(name), own, "{name}");
    }
    let open = lines("open ");
    assert!(open.contains(&"7 /dev/zero"), "{open:?}");
    for open in open {
        let (_, file) = open.split_once(' ').unwrap();
        assert!(
            !file.starts_with("socket:") && !file.starts_with("anon_inode:"),
            "{open}"
        );
    }
    let child = lines("child ");
    assert!(
        child.iter().all(|child| !child.starts_with('Z')),
        "{child:?}"
    );
    assert!(
        ran.stderr.contains("becoming the Go agent"),
        "{}",
        ran.stderr
    );
    // Nothing else was created.
    assert_eq!(listed(world.base()), [world.base().join("bosh")]);
    assert_eq!(
        listed(world.base().join("bosh")),
        [world.base().join("bosh/bin")]
    );
}

#[test]
fn compilation_vm_and_disabled_option_keep_this_agent() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    install_go_agent(&world);
    set_groups(
        &world,
        &[
            "director",
            "dep",
            "compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4",
        ],
    );
    let log = stop(Daemon::listening(Daemon::of(&world)));
    assert!(!log.contains("serving compilation only"), "{log}");

    set_groups(&world, &["web"]);
    change(&world, "agent.json", |config| {
        config["Compilation"]["StandAside"] = json!(false);
    });
    stop(Daemon::listening(Daemon::of(&world)));
}

#[test]
fn missing_go_agent_is_logged() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    set_groups(&world, &["web"]);
    let log = stop(Daemon::listening(Daemon::of(&world)));
    let message = "the Go agent is not installed as `bosh-agent-go`: serving compilation only";
    assert!(log.contains(message), "{log}");
}

#[test]
fn broken_go_agent_is_an_error() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    set_groups(&world, &["web"]);
    let program = install_go_agent(&world);
    executable(&program, "#!/no/interpreter\n");
    let ran = Daemon::of(&world).run();
    assert_eq!(ran.code, Some(1));
    let message = format!("failed to execute `{}`: No such file", program.display());
    assert!(ran.stderr.contains(&message), "{}", ran.stderr);
}

#[test]
fn daemon_that_waits_for_settings_can_be_stopped() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    install_go_agent(&world);
    std::fs::remove_file(world.path("settings.json")).unwrap();
    let daemon = Daemon::of(&world).start();
    Daemon::wait_for_message(&daemon, "waiting for settings");
    let log = stop(daemon);
    assert!(log.contains("received signal (terminated)"), "{log}");
    assert!(!world.base().join("data").exists());
}

/// At whatever time the signal arrives, also around the change of the program.
#[test]
fn sigterm_is_not_lost_while_the_go_agent_takes_over() {
    /// The rounds over the time that a start takes, and the number of repetitions on a machine that becomes slower.
    const ROUNDS: u32 = 30;
    const REPETITIONS: u32 = 4;
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    set_groups(&world, &["web"]);
    let program = install_go_agent(&world);
    executable(&program, "#!/bin/sh\necho the Go agent\nexec sleep 1000\n");
    let start = Instant::now();
    let daemon = Daemon::of(&world).start();
    let message = "becoming the Go agent";
    Daemon::wait_for_message(&daemon, message);
    let usual = start.elapsed();
    daemon.signal(Signal::SIGTERM);
    daemon.end_within(LIMIT);
    // Whether signals came before this agent became the Go agent, and after that.
    let (mut before, mut after) = (false, false);
    for round in 0..ROUNDS * REPETITIONS {
        if round % ROUNDS == 0 && before && after {
            break;
        }
        let daemon = Daemon::of(&world).start();
        let span = usual * 2 * (1 + round / ROUNDS);
        std::thread::sleep(span * (round % ROUNDS) / ROUNDS);
        daemon.signal(Signal::SIGTERM);
        // The Go agent does not handle it.
        let ended = daemon.end_within(LIMIT);
        assert!(matches!(ended.code, None | Some(1)), "{}", ended.stderr);
        let is_go_agent = ended.stderr.contains(message);
        (before, after) = (before || !is_go_agent, after || is_go_agent);
    }
    assert!(before && after, "before {before}, after {after}");
}

#[test]
fn other_program_of_the_go_agent_is_passed_on() {
    let world = World::new();
    let own = Path::new(env!("CARGO_BIN_EXE_bosh-agent"));
    let name = world.path("bin/bosh-enable-monit-access");
    std::fs::create_dir(world.path("bin")).unwrap();
    // The Go agent is next to the program, and a link has another directory.
    symlink(own, &name).unwrap();
    let words = [name.as_os_str(), "a".as_ref(), "b".as_ref()];
    let run = |words: &[&std::ffi::OsStr]| {
        Agent::through(&world.path("printed"), words.iter().copied()).without_report()
    };
    let ran = run(&words).run();
    assert_eq!(ran.code, Some(1));
    let message = "Error: `bosh-enable-monit-access` needs the Go agent, which is not installed as `bosh-agent-go`\n";
    assert_eq!(ran.stderr, message);

    std::fs::remove_file(&name).unwrap();
    if std::fs::hard_link(own, &name).is_err() {
        std::fs::copy(own, &name).unwrap();
    }
    executable(
        &world.path("bin/bosh-agent-go"),
        "#!/bin/bash\nread -rd '' program </proc/$$/cmdline\necho \"$program $*\"\n",
    );
    let ran = run(&words).run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.ends_with(" a b\n"), "{}", ran.stdout);
}

#[test]
fn missing_configuration_is_a_usage_error() {
    let world = World::new();
    let base = world.base();
    let ran = Agent::bare(&world.path("printed"))
        .args(&["-P", "ubuntu", "-b"])
        .arg(&base)
        .run();
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("the flag -C is missing"),
        "{}",
        ran.stderr
    );
    assert!(!base.exists());
}

#[test]
fn misspelled_log_level_is_a_usage_error() {
    let world = World::new();
    let run = |arguments: &[&str]| {
        Agent::bare(&world.path("printed"))
            .args(arguments)
            .without_report()
            .env("BOSH_AGENT_LOG", "debgu")
            .run()
    };
    for arguments in [
        &["compile", "a.tgz"][..],
        &["-P", "dummy", "-C", "agent.json"],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(2));
        let message = "Error: BOSH_AGENT_LOG: `debgu` is not a level: use `error`, `warn`, `info`, `debug`, `trace` or `off`, or MODULE=LEVEL\n";
        assert!(ran.stderr.ends_with(message), "{}", ran.stderr);
    }
    assert_eq!(run(&["-v"]).code, Some(0));
}

#[test]
fn misspelled_log_level_still_leaves_a_vm_to_the_go_agent() {
    if !require_tools(&["openssl", "ps"]) {
        return;
    }
    let world = Daemon::machine();
    set_groups(&world, &["director", "dep", "web"]);
    let program = install_go_agent(&world);
    let ran = Daemon::of(&world).env("BOSH_AGENT_LOG", "debgu").run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let line = format!("program {}\n", program.display());
    assert!(ran.stdout.starts_with(&line), "{}", ran.stdout);
}

#[test]
fn missing_parts_of_the_settings_are_named() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    let whole = world.read("settings.json");
    for (change_settings, message) in [
        (
            (|settings| settings["mbus"] = json!("")) as fn(&mut Value),
            "Getting mbus handler: the settings have no mbus: neither `mbus` nor `env.bosh.mbus.urls`",
        ),
        (
            |settings| settings["env"]["bosh"]["mbus"]["cert"]["certificate"] = json!(null),
            "Getting mbus handler: `env.bosh.mbus.cert.certificate` is empty in the settings",
        ),
        (
            |settings| settings["env"] = json!({}),
            "Getting mbus handler: `env.bosh.mbus.cert.certificate` is empty in the settings",
        ),
    ] {
        world.write("settings.json", &whole);
        change(&world, "settings.json", change_settings);
        let ran = Daemon::of(&world).run();
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
        assert!(!world.base().join("data").exists());
    }
}

#[test]
fn unsupported_source_is_refused_by_name() {
    if !require_tools(&["openssl"]) {
        return;
    }
    let world = Daemon::machine();
    let sources = |sources: Value| {
        change(&world, "agent.json", |config| {
            config["Infrastructure"]["Settings"]["Sources"] = sources;
        });
    };
    sources(json!([{"Type": "VsphereGuestInfo"}]));
    let ran = Daemon::of(&world).run();
    assert_eq!(ran.code, Some(1));
    let message = "this agent cannot read settings from a source of type `VsphereGuestInfo`";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);

    // Another source is used, and a disk that another program has mounted is read in place.
    let drive = world.path("drive/ec2/latest");
    std::fs::create_dir_all(&drive).unwrap();
    std::fs::rename(world.path("settings.json"), drive.join("user-data")).unwrap();
    symlink(drive.join("user-data"), world.path("settings.json")).unwrap();
    let (missing, there) = (world.path("missing"), world.path("drive"));
    sources(json!([
        {"Type": "VsphereGuestInfo"},
        {"Type": "File", "SettingsPath": missing},
        {"Type": "ConfigDrive", "DiskPaths": [missing, there], "UserDataPath": "/ec2/latest/user-data"},
    ]));
    let log = stop(Daemon::listening(Daemon::of(&world)));
    assert!(log.contains("drive:/ec2/latest/user-data"), "{log}");
}

/// A machine whose settings are in the file `env` of a disk.
fn machine_with_a_disk() -> Option<World> {
    if !require_root() || !require_tools(&["openssl", "mkfs.ext4", "losetup", "mount", "umount"]) {
        return None;
    }
    let loops = std::process::Command::new("losetup").arg("-f").output();
    if !require(
        Path::new("/dev/loop-control").exists() && loops.is_ok_and(|it| it.status.success()),
        "loop devices",
    ) {
        return None;
    }
    let world = Daemon::machine();
    std::fs::create_dir(world.path("contents")).unwrap();
    std::fs::copy(world.path("settings.json"), world.path("contents/env")).unwrap();
    let (disk, contents) = (world.path("disk"), world.path("contents"));
    let arguments = ["-q", "-d", contents.to_str().unwrap()];
    let size = [disk.to_str().unwrap(), "4M"];
    run_tool("mkfs.ext4", &[&arguments[..], &size].concat());
    change(&world, "agent.json", |config| {
        config["Infrastructure"]["Settings"]["Sources"] =
            json!([{"Type": "CDROM", "FileName": "env", "DiskPaths": [disk]}]);
    });
    Some(world)
}

/// The loop device of the disk; empty if it is not mounted.
fn loop_device(world: &World) -> String {
    let disk = world.path("disk");
    run_tool("losetup", &["-j", disk.to_str().unwrap()])
}

#[track_caller]
fn assert_is_unmounted(world: &World, log: &str) {
    assert!(!log.contains("failed to unmount"), "{log}");
    assert!(!log.contains("failed to remove the mount point"), "{log}");
    assert_eq!(loop_device(world), "");
}

#[test]
fn settings_are_read_from_a_disk_which_is_unmounted_again() {
    let Some(world) = machine_with_a_disk() else {
        return;
    };
    let log = stop(Daemon::listening(Daemon::of(&world)));
    assert!(log.contains("disk:env"), "{log}");
    assert_is_unmounted(&world, &log);
}

/// A `mount` that hangs after it has mounted the disk, such as one that waits for a helper.
#[test]
fn disk_that_a_stopped_mount_has_mounted_is_unmounted() {
    let Some(world) = machine_with_a_disk() else {
        return;
    };
    let mount = run_tool("which", &["mount"]);
    let text = format!(
        "#!/bin/sh\n{} \"$@\" && touch {}\nexec sleep 1000\n",
        mount.trim(),
        world.path("mounted").display()
    );
    executable(&world.path("bin/mount"), &text);
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", world.path("bin").display());
    let daemon = Daemon::of(&world).env("PATH", &path).start();
    crate::support::wait_for("the mount", LIMIT, || {
        let is_mounted = world.path("mounted").exists();
        is_mounted.then_some(()).ok_or_else(|| daemon.stderr())
    });
    assert_ne!(loop_device(&world), "");
    let log = stop(daemon);
    assert!(log.contains("received signal (terminated)"), "{log}");
    assert_is_unmounted(&world, &log);
}

#[test]
fn heartbeat_updates_the_health_file() {
    if !require_tools(&["openssl", "curl"]) {
        return;
    }
    let world = Daemon::machine();
    let instance = world.base().join("instance");
    std::fs::create_dir_all(&instance).unwrap();
    let daemon = Daemon::listening(Daemon::of(&world));
    crate::support::wait_for("the file", LIMIT, || {
        std::fs::read_to_string(instance.join("health.json")).map_err(|error| error.to_string())
    });
    let health = std::fs::read_to_string(instance.join("health.json")).unwrap();
    assert_eq!(health, "{\"state\":\"running\"}");
    let mode = std::fs::metadata(instance.join("health.json")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o644);
    stop(daemon);
}

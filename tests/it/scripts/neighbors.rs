//! Work directories, terminals and other agents on the same machine.

use super::*;

#[test]
fn work_directory_of_a_running_agent_is_kept() {
    let world = World::new();
    let partial = world.write("out/.bosh-agent-partial-12345-0", "half");
    let lock = world.write("out/.bosh-agent-work-12345-0/.lock", "");
    let held = [&partial, &lock].map(|path| {
        let file = std::fs::File::open(path).unwrap();
        file.try_lock().unwrap();
        file
    });
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let call = || {
        let agent = world.agent().arg("--work-dir").arg(world.out());
        agent.arg(&tarball).run().succeeds()
    };
    call();
    assert!(partial.exists() && lock.exists());
    // Closing them is not enough: a process that another test is starting may have inherited them.
    for file in &held {
        file.unlock().unwrap();
    }
    call();
    assert!(!partial.exists() && !lock.exists());
}

#[test]
fn work_directory_may_be_on_another_file_system() {
    let shared_memory = Path::new("/dev/shm");
    let elsewhere = tempfile::tempdir_in(shared_memory);
    if !crate::support::require(elsewhere.is_ok(), "a file system at /dev/shm") {
        return;
    }
    let elsewhere = elsewhere.unwrap();
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let agent = world.agent().arg("--work-dir").arg(elsewhere.path());
    agent.arg(tarball).run().succeeds();
    let (_scratch, app) = unpacked(&world.result("demo-1.10"), "app");
    assert_eq!(app["bin/app"], "100644 lib\nsource of app\n");
    assert_eq!(crate::support::snapshot(elsewhere.path()).len(), 1);
}

#[test]
fn closed_stderr_does_not_stop_the_run() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let script = "\"$@\" 2>&1 | true; exit ${PIPESTATUS[0]}";
    let wrapped = Agent::wrapped(&world.path("printed"), &["bash", "-c", script, "bash"]);
    let agent = world.flags(wrapped.without_report());
    let agent = agent.arg("--output-directory");
    agent.args(&[world.out(), tarball]).run().ends_with(0);
    assert!(world.result("demo-1.10").exists());
}

/// Runs the agent on its own terminal, and prints its output and exit code. With `FACTS`, Ctrl-C is sent when a script has started.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys, time
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
if 'INTERRUPT' in os.environ:
    while not os.path.exists(os.environ['FACTS'] + '/started'):
        time.sleep(0.01)
    os.write(terminal, b'\x03')
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    os.write(2, data)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

#[test]
fn output_on_a_terminal_is_the_same() {
    if !require_tools(&["python3"]) {
        return;
    }
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let wrapped = Agent::wrapped(&world.path("printed"), &["python3", "-c", ON_A_TERMINAL]);
    let agent = world.flags(wrapped).arg("--output-directory");
    agent
        .env("NO_COLOR", "1")
        .args(&[world.out(), tarball])
        .run()
        .succeeds()
        .says("Compiling with stemcell ubuntu-noble/1.406\r\n")
        .says(&format!(
            "Finished archiving compiled tarball {}\r\n",
            world.result("demo-1.10").display()
        ));
}

#[test]
fn ctrl_c_reaches_the_script_through_the_agent() {
    if !require_tools(&["python3"]) {
        return;
    }
    let facts = Facts::new();
    // `wait`, as a process that bash has just forked may lose the signal.
    let text = "trap 'touch $FACTS/interrupted' INT\ntrap 'touch $FACTS/asked; exit' TERM\n\
                sleep 1000 & touch $FACTS/started; wait";
    let tarball = facts.world.release("release.tgz", &script(text));
    let wrapped = Agent::wrapped(
        &facts.world.path("printed"),
        &["python3", "-c", ON_A_TERMINAL],
    );
    facts
        .with_facts(facts.world.flags(wrapped))
        .env("INTERRUPT", "yes")
        .arg("--output-directory")
        .args(&[facts.world.out(), tarball])
        .run()
        .ends_with(130)
        .says("Stopped by SIGINT");
    assert!(facts.has("asked") && !facts.has("interrupted"));
    facts.assert_clean();
}

#[test]
fn script_may_remove_its_own_directories() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "a",
            &[],
            "echo a > $BOSH_INSTALL_TARGET/file\nrm -rf $BOSH_COMPILE_TARGET $(dirname $BOSH_INSTALL_TARGET)",
        )
        .package("b", &["a"], "cp @packages@/a/file $BOSH_INSTALL_TARGET/");
    facts.run(&release).succeeds();
    let (_scratch, b) = unpacked(&facts.world.result("demo-1.10"), "b");
    assert_eq!(b["file"], "100644 a\n");
    facts.assert_clean();
}

#[test]
fn second_agent_is_refused_with_the_name_of_the_first() {
    let facts = Facts::new();
    let text = "touch $FACTS/started\n\
                while [ ! -e $FACTS/go ]; do sleep 0.01; done\n\
                echo good > $BOSH_INSTALL_TARGET/file";
    let first = facts.start(&script(text));
    let other = ReleaseBuilder::new("other", "1").package("p", &[], "touch $FACTS/other");
    let other = facts.world.release("other.tgz", &other);
    for force in [&[][..], &["--force"]] {
        facts
            .agent()
            .args(force)
            .arg(&other)
            .run()
            .blames_the_machine()
            .says(&format!(
                "another bosh-agent is compiling in `{}`: process {} on ",
                facts.world.base().display(),
                first.pid()
            ))
            .says("Hint: wait for it to exit");
    }
    assert!(!facts.has("other"));
    facts.world.write("facts/go", "");
    first.end().succeeds();
    let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(app["file"], "100644 good\n");
    assert!(!facts.world.result("other-1").exists());
    facts.assert_clean();
}

#[test]
fn agents_with_different_base_directories_are_independent() {
    let facts = Facts::new();
    let text = "touch $FACTS/started\n\
                while [ ! -e $FACTS/go ]; do sleep 0.01; done";
    let first = facts.start(&script(text));
    let second = Facts::new();
    second.run(&ReleaseBuilder::demo()).succeeds();
    facts.world.write("facts/go", "");
    first.end().succeeds();
}

#[test]
fn foreign_packages_are_refused_and_kept() {
    for place in [
        "packages/redis",
        "data/packages/redis/1",
        "data/compile/redis",
    ] {
        let facts = Facts::new();
        facts
            .world
            .write(&format!("vcap/{place}/bin/redis"), "theirs");
        let tarball = facts
            .world
            .release("release.tgz", &script("touch $FACTS/ran"));
        let before = crate::support::snapshot(&facts.world.base());
        let directory = facts
            .world
            .base()
            .join(place.split("/redis").next().unwrap());
        facts
            .agent()
            .arg(&tarball)
            .run()
            .blames_the_machine()
            .says(&format!(
                "`{}` holds `redis`, which bosh-agent compile did not put there",
                directory.display()
            ))
            .says("--force");
        assert!(!facts.has("ran"));
        assert_eq!(crate::support::snapshot(&facts.world.base()), before);

        facts.agent().arg("--force").arg(&tarball).run().succeeds();
        assert!(facts.has("ran"));
        let left = crate::support::snapshot(&facts.world.base());
        assert!(left.keys().all(|path| !path.contains("redis")), "{left:?}");
    }
}

#[test]
fn foreign_packages_do_not_matter_without_a_compile() {
    let facts = Facts::new();
    facts.world.write("vcap/packages/redis/bin/redis", "theirs");
    let before = crate::support::snapshot(&facts.world.base());
    let release = ReleaseBuilder::new("demo", "1.10").job("web", &[]);
    facts.run(&release).succeeds();
    assert_eq!(crate::support::snapshot(&facts.world.base()), before);
}

#[test]
fn forced_run_follows_no_link_out_of_the_base_directory() {
    let facts = Facts::new();
    let theirs = facts.world.write("theirs/file", "precious");
    std::fs::create_dir_all(facts.world.base().join("packages")).unwrap();
    std::fs::create_dir_all(facts.world.base().join("data/packages/p")).unwrap();
    for link in ["packages/p", "data/packages/p/1"] {
        let link = facts.world.base().join(link);
        std::os::unix::fs::symlink(theirs.parent().unwrap(), link).unwrap();
    }
    let tarball = facts.world.release("release.tgz", &script("true"));
    facts.agent().arg("--force").arg(tarball).run().succeeds();
    assert_eq!(facts.world.read("theirs/file"), "precious");
}

#[test]
fn unreadable_files_of_a_script_are_removed() {
    let facts = Facts::new();
    let text = "mkdir -p deep/er\ntouch deep/er/file\nchmod 0 deep/er deep\n\
                mkdir $BOSH_INSTALL_TARGET/locked\nchmod 500 $BOSH_INSTALL_TARGET/locked";
    facts.run(&script(text)).succeeds();
    facts.assert_clean();
}

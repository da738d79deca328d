//! What a packaging script may rely on, and what becomes of it and of its processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Agent, Ran, ReleaseBuilder, Running, World, copied_agent, processes_below, require_root,
    require_tools, run_tool_with, unpacked, wait_for,
};
use nix::sys::signal::Signal;

/// Far longer than it takes, on any machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A place where scripts write down what they find, in `$FACTS`.
struct Facts {
    world: World,
}

impl Facts {
    fn new() -> Self {
        let world = World::new();
        std::fs::create_dir(world.path("facts")).unwrap();
        Self { world }
    }

    fn agent(&self) -> Agent {
        self.with_facts(self.world.agent())
    }

    fn with_facts(&self, agent: Agent) -> Agent {
        agent
            .env("FACTS", self.world.path("facts").to_str().unwrap())
            .arg("--logs-dir")
            .arg(self.world.path("logs"))
    }

    /// Compiles a release.
    fn run(&self, release: &ReleaseBuilder) -> Ran {
        let tarball = self.world.release("release.tgz", release);
        self.agent().arg(tarball).run()
    }

    /// Compiles with a grace of a second, and comes back when a script has written `started`.
    fn start(&self, release: &ReleaseBuilder) -> Running {
        let tarball = self.world.release("release.tgz", release);
        let mut running = self.agent().args(&["--grace", "1"]).arg(tarball).start();
        wait_for("the script's start", LIMIT, || match self.has("started") {
            true => Ok(()),
            false if running.has_ended() => panic!("the agent ended:\n{}", running.stderr()),
            false => Err(running.stderr()),
        });
        running
    }

    fn has(&self, name: &str) -> bool {
        self.world.path("facts").join(name).exists()
    }

    /// What a script wrote, without the blanks around it.
    fn read(&self, name: &str) -> String {
        self.world.read(&format!("facts/{name}")).trim().to_owned()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_owned).collect()
    }

    fn log(&self, package: &str) -> PathBuf {
        self.world
            .path("logs")
            .join(format!("demo-1.10/{package}.log"))
    }

    #[track_caller]
    fn assert_no_process(&self) {
        let left = processes_below(&self.world.base());
        assert!(left.is_empty(), "processes are left: {left:#?}");
    }

    /// Nothing of a run is left but logs and results.
    #[track_caller]
    fn assert_clean(&self) {
        self.assert_no_process();
        assert!(
            !self.world.base().exists(),
            "left in the base directory: {:#?}",
            crate::support::snapshot(&self.world.base())
        );
        let out = self.world.out();
        let left = out.exists().then(|| crate::support::snapshot(&out));
        let partial = left
            .iter()
            .flat_map(BTreeMap::keys)
            .find(|path| path.contains(".bosh-agent"));
        assert_eq!(partial, None);
    }
}

fn script(text: &str) -> ReleaseBuilder {
    ReleaseBuilder::of_script(text)
}

/// What `sha1sum` says of a text.
fn sha1(text: &str) -> String {
    let printed = run_tool_with("sha1sum", &[] as &[&str], text.as_bytes());
    String::from_utf8(printed).unwrap()[..40].to_owned()
}

#[test]
fn a_script_runs_in_its_source_directory() {
    let facts = Facts::new();
    let release = script("pwd > $FACTS/pwd\nls -A > $FACTS/ls\necho $0 > $FACTS/name").file(
        "src/main.c",
        0o644,
        b"int main;\n",
    );
    facts.run(&release).succeeds();
    let source = facts.world.base().join("data/compile/app");
    assert_eq!(facts.read("pwd"), source.to_str().unwrap());
    assert_eq!(facts.lines("ls"), ["packaging", "src"]);
    assert_eq!(facts.read("name"), "packaging");
}

#[test]
fn a_script_is_told_its_package_in_four_variables_and_inherits_all_others() {
    let facts = Facts::new();
    let tarball = facts.world.release(
        "release.tgz",
        &script("env -0 > $FACTS/env").of_version("7.1+x"),
    );
    let facts_variable = format!("FACTS={}", facts.world.path("facts").display());
    let variables = [
        "PATH=/usr/bin:/bin",
        "MINE=two\nlines = é",
        "BOSH_PACKAGE_NAME=theirs",
        &facts_variable,
    ];
    let wrapped = Agent::wrapped(
        &facts.world.path("printed"),
        &[&["env", "-i"], &variables[..]].concat(),
    );
    facts
        .with_facts(facts.world.flags(wrapped))
        .arg("--output-directory")
        .args(&[facts.world.out(), tarball])
        .run()
        .succeeds();
    let text = facts.world.read("facts/env");
    let mut found: BTreeMap<&str, &str> = text
        .split_terminator('\0')
        .map(|variable| variable.split_once('=').unwrap())
        .collect();
    // What bash sets by itself.
    for name in ["PWD", "SHLVL", "_", "OLDPWD"] {
        found.remove(name);
    }
    let base = facts.world.base();
    let fact_directory = facts.world.path("facts");
    let expected = BTreeMap::from([
        ("PATH", "/usr/bin:/bin"),
        ("MINE", "two\nlines = é"),
        ("FACTS", fact_directory.to_str().unwrap()),
        ("BOSH_PACKAGE_NAME", "app"),
        ("BOSH_PACKAGE_VERSION", "7.1+x"),
    ]);
    let compile = base.join("data/compile/app");
    let install = base.join("packages/app");
    let mut expected = expected;
    expected.insert("BOSH_COMPILE_TARGET", compile.to_str().unwrap());
    expected.insert("BOSH_INSTALL_TARGET", install.to_str().unwrap());
    assert_eq!(found, expected);
}

#[test]
fn a_script_has_an_empty_input_and_no_other_file_open() {
    let facts = Facts::new();
    let text = "readlink /proc/$$/fd/0 > $FACTS/stdin\n\
                ls /proc/$$/fd > $FACTS/open\n\
                if read line; then echo $line > $FACTS/line; fi";
    facts.run(&script(text)).succeeds();
    assert_eq!(facts.read("stdin"), "/dev/null");
    assert!(!facts.has("line"));
    // Bash has the script itself at the last one. Whoever started the tests may have left files open in the agent.
    assert_eq!(facts.lines("open"), ["0", "1", "2", "255"]);
}

#[test]
fn a_script_has_the_usual_umask_and_signals() {
    let facts = Facts::new();
    let text = "umask > $FACTS/umask\n\
                grep -E '^Sig(Blk|Ign)' /proc/self/status > $FACTS/signals\n\
                { set +x; } 2>/dev/null\n\
                yes | head -n 1\n\
                echo ${PIPESTATUS[0]} > $FACTS/yes\n\
                touch $BOSH_INSTALL_TARGET/file\n\
                mkdir $BOSH_INSTALL_TARGET/directory";
    let tarball = facts.world.release("release.tgz", &script(text));
    let wrapped = Agent::wrapped(
        &facts.world.path("printed"),
        &["sh", "-c", "umask 077; exec \"$@\"", "sh"],
    );
    facts
        .with_facts(facts.world.flags(wrapped))
        .arg("--output-directory")
        .args(&[facts.world.out(), tarball])
        .run()
        .succeeds();
    assert_eq!(facts.read("umask"), "0022");
    let none = "0000000000000000";
    let expected = [format!("SigBlk:\t{none}"), format!("SigIgn:\t{none}")];
    assert_eq!(facts.lines("signals"), expected);
    assert_eq!(facts.read("yes"), "141", "a broken pipe ends a command");
    let (_scratch, contents) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(contents["file"], "100644 ");
    assert_eq!(contents["directory"], "40755 ");
}

#[test]
fn a_script_has_a_process_group_of_its_own_and_the_agents_priority() {
    let facts = Facts::new();
    let text = "echo $$ $(cut -d ' ' -f 5 /proc/$$/stat) > $FACTS/group\nnice > $FACTS/nice";
    let tarball = facts.world.release("release.tgz", &script(text));
    let wrapped = Agent::wrapped(&facts.world.path("printed"), &["nice", "-n", "3"]);
    let usual: i32 = crate::support::run_tool("nice", &[] as &[&str])
        .trim()
        .parse()
        .unwrap();
    facts
        .with_facts(facts.world.flags(wrapped))
        .arg("--output-directory")
        .args(&[facts.world.out(), tarball])
        .run()
        .succeeds();
    let group = facts.read("group");
    let (process, group) = group.split_once(' ').unwrap();
    assert_eq!(process, group);
    assert_eq!(facts.read("nice"), (usual + 3).min(19).to_string());
}

#[test]
fn commands_are_traced_and_one_that_fails_ends_nothing() {
    let facts = Facts::new();
    let text = "echo $- > $FACTS/options\nfalse\necho on > $BOSH_INSTALL_TARGET/on";
    facts.run(&script(text)).succeeds();
    let options = facts.read("options");
    assert!(options.contains('x') && !options.contains('e'), "{options}");
    let (_scratch, contents) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(contents["on"], "100644 on\n");
    let log = std::fs::read_to_string(facts.log("app")).unwrap();
    assert!(log.contains("\n+ false\n+ echo on\n"), "{log}");
}

#[test]
fn the_install_target_is_a_link_to_the_directory_of_the_version() {
    let facts = Facts::new();
    let text = "readlink $BOSH_INSTALL_TARGET > $FACTS/link\n\
                stat -c '%a %u' $BOSH_INSTALL_TARGET/. > $FACTS/directory";
    facts.run(&script(text).of_version("1.2.3")).succeeds();
    let directory = format!("data/packages/app/{}", sha1("1.2.3"));
    let expected = facts.world.base().join(directory);
    assert_eq!(facts.read("link"), expected.to_str().unwrap());
    let user = nix::unistd::geteuid();
    assert_eq!(facts.read("directory"), format!("755 {user}"));
}

#[test]
fn only_direct_dependencies_are_there() {
    let facts = Facts::new();
    let look = "cd $(dirname $BOSH_INSTALL_TARGET)\n\
                ls > $FACTS/$BOSH_PACKAGE_NAME\n\
                ls ../data/packages > $FACTS/$BOSH_PACKAGE_NAME.data\n\
                ls ../data/compile > $FACTS/$BOSH_PACKAGE_NAME.compile\n\
                echo $BOSH_PACKAGE_NAME > $BOSH_INSTALL_TARGET/name\n";
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("base", &[], look)
        .package("lib", &["base"], look)
        .package(
            "app",
            &["lib", "tool"],
            &format!("{look}\ncat */name > $FACTS/names"),
        )
        .package("tool", &[], look);
    facts.run(&release).succeeds();
    for (package, seen) in [
        ("base", &["base"][..]),
        ("lib", &["base", "lib"]),
        ("tool", &["tool"]),
        ("app", &["app", "lib", "tool"]),
    ] {
        assert_eq!(facts.lines(package), seen, "{package} sees other packages");
        assert_eq!(facts.lines(&format!("{package}.data")), seen, "{package}");
        assert_eq!(facts.lines(&format!("{package}.compile")), [package]);
    }
    assert_eq!(facts.lines("names"), ["app", "lib", "tool"]);
}

#[test]
fn a_dependency_is_a_link_to_the_directory_of_its_version() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "pwd > $BOSH_INSTALL_TARGET/built-in")
        .of_version("4.5")
        .package("app", &["lib"], "readlink @packages@/lib > $FACTS/link");
    facts.run(&release).succeeds();
    let link = facts.read("link");
    let parent = facts.world.base().join("data/packages/lib");
    assert_eq!(Path::new(&link).parent(), Some(parent.as_path()), "{link}");
}

#[test]
fn what_a_script_does_to_a_dependency_is_not_seen_by_others() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "echo good > $BOSH_INSTALL_TARGET/file\nmkdir $BOSH_INSTALL_TARGET/directory",
        )
        .package(
            "b-spoils",
            &["lib"],
            "cd @packages@/lib\necho bad > file\ntouch directory/more\nrm -f directory\nchmod 0 .\ncp file $FACTS/b",
        )
        .package("c-deletes", &["lib"], "cp -r @packages@/lib/. $FACTS/c\nrm -rf @packages@/lib/*")
        .package("d-looks", &["lib"], "cp -r @packages@/lib/. $FACTS/d");
    facts.run(&release).succeeds();
    assert_eq!(facts.read("b"), "bad");
    for directory in ["c", "d"] {
        let seen = crate::support::snapshot(&facts.world.path("facts").join(directory));
        assert_eq!(seen["file"], "100644 good\n");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["", "directory", "file"]);
    }
    let (_scratch, lib) = unpacked(&facts.world.result("demo-1.10"), "lib");
    assert_eq!(lib["file"], "100644 good\n");
}

#[test]
fn a_dependency_has_everything_that_its_package_installed() {
    let facts = Facts::new();
    let install = "cd $BOSH_INSTALL_TARGET\n\
                   mkdir -p bin empty\n\
                   printf x > bin/tool\n\
                   chmod 4755 bin/tool\n\
                   ln bin/tool bin/hard\n\
                   ln -s tool bin/soft\n\
                   ln -s /nowhere dangling\n\
                   mkfifo pipe\n\
                   chmod 2775 empty\n\
                   touch -d '2001-02-03 04:05:06 UTC' bin/tool\n\
                   truncate -s 3M sparse";
    let look = "cd @packages@/lib\n\
                stat -c '%n %a %h %F %s' bin bin/* empty dangling pipe sparse > $FACTS/stat\n\
                readlink bin/soft dangling > $FACTS/links\n\
                stat -c %Y bin/tool > $FACTS/time\n\
                [ bin/tool -ef bin/hard ] && touch $FACTS/same";
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], install)
        .package("app", &["lib"], look);
    facts.run(&release).succeeds();
    assert_eq!(
        facts.lines("stat"),
        [
            "bin 755 2 directory 4096",
            "bin/hard 4755 2 regular file 1",
            "bin/soft 777 1 symbolic link 4",
            "bin/tool 4755 2 regular file 1",
            "empty 2775 2 directory 4096",
            "dangling 777 1 symbolic link 8",
            "pipe 644 1 fifo 0",
            "sparse 644 1 regular file 3145728",
        ]
    );
    assert_eq!(facts.lines("links"), ["tool", "/nowhere"]);
    assert_eq!(facts.read("time"), "981173106");
    assert!(facts.has("same"));
}

#[test]
fn a_package_without_a_script_is_empty() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("nothing", &[], "")
        .file("left-alone.txt", 0o644, b"text")
        .without_script()
        .package("app", &["nothing"], "ls -A @packages@/nothing > $FACTS/ls");
    facts.run(&release).succeeds();
    assert_eq!(facts.read("ls"), "");
    let (_scratch, contents) = unpacked(&facts.world.result("demo-1.10"), "nothing");
    assert_eq!(contents.keys().collect::<Vec<_>>(), [""]);
}

#[test]
fn a_script_may_put_a_directory_in_the_place_of_its_install_target() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "rm $BOSH_INSTALL_TARGET\nmkdir -m 750 $BOSH_INSTALL_TARGET\necho mine > $BOSH_INSTALL_TARGET/file",
        )
        .package("app", &["lib"], "cat @packages@/lib/file > $BOSH_INSTALL_TARGET/copy");
    facts.run(&release).succeeds();
    let (_scratch, lib) = unpacked(&facts.world.result("demo-1.10"), "lib");
    assert_eq!(lib["file"], "100644 mine\n");
    assert_eq!(lib[""], "40750 ");
    let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(app["copy"], "100644 mine\n");
    facts.assert_clean();
}

#[test]
fn a_script_may_lead_its_install_target_elsewhere_and_that_place_stays() {
    let facts = Facts::new();
    let text = "mkdir $FACTS/real\necho real > $FACTS/real/file\n\
                rm $BOSH_INSTALL_TARGET\nln -s $FACTS/real $BOSH_INSTALL_TARGET";
    facts.run(&script(text)).succeeds();
    let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(app["file"], "100644 real\n");
    assert_eq!(facts.read("real/file"), "real");
    facts.assert_clean();
}

#[test]
fn a_script_that_installs_a_file_or_nothing_is_told_so() {
    for (text, told) in [
        (
            "rm $BOSH_INSTALL_TARGET; echo x > $BOSH_INSTALL_TARGET",
            "there is a file",
        ),
        (
            "rm -rf $(readlink $BOSH_INSTALL_TARGET)",
            "there is a link that leads nowhere",
        ),
        (
            "rm -rf $(readlink $BOSH_INSTALL_TARGET) $BOSH_INSTALL_TARGET",
            "there is nothing",
        ),
    ] {
        let facts = Facts::new();
        facts.run(&script(text)).fails().says("app").says(told);
        facts.assert_clean();
    }
}

#[test]
fn the_files_of_a_source_have_their_modes_and_belong_to_who_compiles() {
    let facts = Facts::new();
    let release = script("stat -c '%a %u %n' packaging plain tool suid locked > $FACTS/stat")
        .file("plain", 0o644, b"")
        .file("tool", 0o755, b"")
        .file("suid", 0o6755, b"")
        .file("locked", 0o400, b"");
    facts.run(&release).succeeds();
    let user = nix::unistd::geteuid();
    let expected = [
        "644 packaging",
        "644 plain",
        "755 tool",
        "6755 suid",
        "400 locked",
    ]
    .map(|line| {
        let (mode, name) = line.split_once(' ').unwrap();
        format!("{mode} {user} {name}")
    });
    assert_eq!(facts.lines("stat"), expected);
}

#[test]
fn a_script_need_not_be_executable_and_may_be_a_link() {
    let facts = Facts::new();
    let blob = crate::support::archive(&[
        crate::support::Member::file("./real", b"touch $FACTS/ran"),
        crate::support::Member::link(crate::support::Kind::Symlink, "./packaging", "real"),
    ]);
    facts.run(&script("").blob(&blob)).succeeds();
    assert!(facts.has("ran"));
}

/// Starts processes that do not want to end, one for each way out, and writes `started` when all of them run.
const STUBBORN: &str = r#"
    sleep 1000 &
    nohup sleep 1001 &
    setsid sleep 1002 &
    (setsid bash -c "trap '' TERM HUP INT; echo up > $FACTS/ignores; sleep 1003; sleep 1003" > /dev/null 2>&1 < /dev/null &)
    ( (sleep 1004 &) & )
    bash -c 'kill -STOP $$; sleep 1005' &
    while [ ! -e $FACTS/ignores ]; do sleep 0.01; done
    touch $FACTS/started
"#;

/// A process notes itself with its start, as its number alone may soon be another's.
const NOTES_ITSELF: &str =
    r#"echo $$ $(cut "-d " -f 22 /proc/$$/stat) > $FACTS/noted; mv $FACTS/noted $FACTS/process"#;

/// Whether the process that noted itself runs.
const NOTED_IS_ALIVE: &str =
    r#"read number start < $FACTS/process; [ "$(cut "-d " -f 22 /proc/$number/stat)" = $start ]"#;

#[test]
fn processes_that_a_script_leaves_behind_are_gone_when_the_agent_ends() {
    let facts = Facts::new();
    facts
        .run(&script(STUBBORN))
        .succeeds()
        .says("Warning: the packaging script of app left ");
    facts.assert_clean();
}

#[test]
fn processes_of_a_failed_script_are_gone_too() {
    let facts = Facts::new();
    facts.run(&script(&format!("{STUBBORN}\nexit 1"))).fails();
    facts.assert_clean();
}

#[test]
fn processes_of_one_script_are_gone_before_the_next_begins() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "a",
            &[],
            &format!(
                "setsid bash -c 'trap \"\" TERM; {NOTES_ITSELF}; sleep 1000; sleep 1000' &\n\
                 while [ ! -s $FACTS/process ]; do sleep 0.01; done"
            ),
        )
        .package(
            "b",
            &[],
            &format!("if {NOTED_IS_ALIVE}; then touch $FACTS/alive; fi"),
        );
    facts.run(&release).succeeds();
    assert!(!facts.has("alive"));
}

#[test]
fn a_script_that_leaves_nothing_behind_is_not_warned_of() {
    let facts = Facts::new();
    facts
        .run(&script("true | cat\nsleep 0 & wait"))
        .succeeds()
        .does_not_say("Warning");
}

#[test]
fn a_failing_script_is_told_of_with_everything_that_helps() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("a-early", &[], "true")
        .package(
            "lib",
            &[],
            "{ set +x; } 2>/dev/null\nfor i in $(seq 1 60); do echo line $i; done\necho to stderr >&2\nexit 7",
        )
        .of_version("3.1")
        .package("app", &["lib"], "touch $FACTS/app")
        .package("top", &["app"], "touch $FACTS/top")
        .package("zoo", &[], "touch $FACTS/zoo");
    let ran = facts
        .run(&release)
        .fails()
        .says("The last lines that the packaging script of lib printed:\n  | line 37\n  | line 38\n")
        .says("  | line 60\n  | to stderr\n")
        .says(&format!("Everything that it printed: {}\n", facts.log("lib").display()))
        .says("Compiled before it, and dropped with it: a-early\n")
        .says("Not compiled because they depend on lib: app, top\n")
        .says("Not begun: zoo\n")
        .says("Error: failed to compile package lib/3.1 of release demo/1.10: the packaging script exited with 7 after ")
        .does_not_say("line 36\n")
        .does_not_say("Hint");
    let last = ran.stderr.lines().last().unwrap();
    assert!(
        last.starts_with("Error: "),
        "the last line says what failed: {last}"
    );
    let log = std::fs::read_to_string(facts.log("lib")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 61);
    assert_eq!(
        (lines[0], lines[59], lines[60]),
        ("line 1", "line 60", "to stderr")
    );
    for package in ["app", "top", "zoo"] {
        assert!(!facts.has(package), "{package} was compiled");
    }
    assert!(!facts.world.out().exists());
    facts.assert_clean();
}

#[test]
fn a_script_that_printed_nothing_is_told_of_as_that() {
    let facts = Facts::new();
    let text = "{ set +x; } 2> /dev/null; exit 1";
    // The trace of the first command itself goes nowhere.
    facts
        .run(&script(text))
        .fails()
        .says("The packaging script of app printed nothing\n");
}

#[test]
fn a_script_that_is_killed_is_told_of_by_the_signals_name() {
    for (signal, name) in [
        ("KILL", "SIGKILL"),
        ("SEGV", "SIGSEGV"),
        ("TERM", "SIGTERM"),
    ] {
        let facts = Facts::new();
        facts
            .run(&script(&format!(
                "ulimit -c 0\nkill -{signal} $$\nsleep 1000"
            )))
            .fails()
            .says(&format!("the packaging script was killed by {name} after "));
        facts.assert_clean();
    }
}

#[test]
fn a_command_that_was_killed_in_a_script_is_told_of() {
    let facts = Facts::new();
    facts
        .run(&script("bash -c 'kill -KILL $$'\nexit $?"))
        .fails()
        .says(
            "the packaging script exited with 137 (a command in it was killed by SIGKILL) after ",
        );
}

#[test]
fn a_missing_bash_is_told_of() {
    let facts = Facts::new();
    let tarball = facts.world.release("release.tgz", &script("true"));
    let nowhere = facts.world.path("facts");
    facts
        .agent()
        .env("PATH", nowhere.to_str().unwrap())
        .arg(tarball)
        .run()
        .fails()
        .says("failed to start `bash`: No such file or directory");
    facts.assert_clean();
}

#[test]
fn the_log_has_every_byte_in_the_order_of_writing() {
    let facts = Facts::new();
    let text = "{ set +x; } 2>/dev/null\n\
                for i in $(seq 1 500); do echo out $i; echo err $i >&2; done\n\
                printf 'no\\0text\\377\\r\\033[31m and no end'";
    facts.run(&script(text)).succeeds();
    let log = std::fs::read(facts.log("app")).unwrap();
    let mut expected = Vec::new();
    for number in 1..=500 {
        expected.extend(format!("out {number}\nerr {number}\n").bytes());
    }
    expected.extend(b"no\0text\xff\r\x1b[31m and no end");
    assert!(log == expected, "{}", String::from_utf8_lossy(&log));
}

#[test]
fn logs_lie_where_bosh_looks_for_them_and_stay() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let logs = world.base().join("sys/log/compilation");
    world.compile(&[&tarball]).succeeds().says(&format!(
        "Logs of packaging scripts are kept in {}\n",
        logs.display()
    ));
    for package in ["lib", "app"] {
        let log = std::fs::read_to_string(world.log("demo-1.10", package)).unwrap();
        assert!(log.starts_with("+ "), "{log}");
    }
    let left = crate::support::snapshot(&world.base());
    let left: Vec<&String> = left
        .keys()
        .filter(|path| !path.starts_with("sys"))
        .collect();
    assert_eq!(left, [""]);
}

/// Stops the agent in the middle of a script that will not end by itself.
#[track_caller]
fn stop(text: &str, signal: Signal, code: i32) -> (Facts, Ran) {
    let facts = Facts::new();
    let running = facts.start(&script(&format!(
        "{text}\ntouch $FACTS/started\nsleep 1000"
    )));
    running.signal(signal);
    let ran = running.end().ends_with(code);
    facts.assert_clean();
    assert!(!facts.world.out().exists());
    (facts, ran)
}

#[test]
fn a_stop_ends_the_script_and_leaves_nothing() {
    let (_facts, ran) = stop("", Signal::SIGTERM, 143);
    ran.says("Stopping on SIGTERM").does_not_say("Error");
    let (_facts, ran) = stop("", Signal::SIGINT, 130);
    ran.says("Stopping on SIGINT").does_not_say("Error");
}

#[test]
fn a_stop_asks_a_script_to_end_before_it_is_killed() {
    // A trap of bash runs between commands and during `wait`. What bash has just forked may lose the signal: then it would run
    // no trap before a command in the foreground has ended.
    let text = "trap ': > $FACTS/asked; exit' TERM; sleep 1000 & touch $FACTS/started; wait";
    let (facts, _) = stop(text, Signal::SIGTERM, 143);
    assert!(facts.has("asked"));
}

#[test]
fn a_stop_ends_processes_that_do_not_want_to() {
    let text = format!("trap '' TERM INT\n{STUBBORN}");
    let (_facts, _) = stop(&text, Signal::SIGTERM, 143);
    let (_facts, _) = stop(&text, Signal::SIGINT, 130);
}

#[test]
fn a_stop_keeps_what_was_complete_before_and_begins_nothing_new() {
    let facts = Facts::new();
    let first = facts.world.release("first.tgz", &ReleaseBuilder::demo());
    let second = ReleaseBuilder::new("second", "1")
        .package("a", &[], "touch $FACTS/started\nsleep 1000")
        .package("b", &[], "touch $FACTS/b");
    let second = facts.world.release("second.tgz", &second);
    let running = facts.agent().args(&[first, second]).start();
    let result = facts.world.result("demo-1.10");
    let told = format!("Finished archiving compiled tarball {}\n", result.display());
    // The first release is written while the second one compiles.
    wait_for("the first release and the second's script", LIMIT, || {
        let are_there = facts.has("started") && result.exists();
        are_there.then_some(()).ok_or(running.stderr())
    });
    running.signal(Signal::SIGTERM);
    running.end().ends_with(143).says(&told);
    assert!(result.exists());
    assert!(!facts.has("b"));
    facts.assert_clean();
}

#[test]
fn a_stop_while_a_tarball_is_read_leaves_nothing() {
    let facts = Facts::new();
    let pipe = facts.world.path("pipe.tgz");
    crate::support::run_tool("mkfifo", &[&pipe]);
    let running = facts.agent().arg(&pipe).start();
    // The reader is at work when the pipe can be opened, and waits for the rest of the tarball.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let half = crate::support::Compression::Gzip
        .apply(&crate::support::archive(&ReleaseBuilder::demo().members()));
    std::io::Write::write_all(&mut writer, &half[..half.len() / 2]).unwrap();
    wait_for("the reader", LIMIT, || {
        let said = running.stderr();
        said.contains("Reading BOSH Release")
            .then_some(())
            .ok_or(said)
    });
    running.signal(Signal::SIGTERM);
    wait_for("the signal to be heard", LIMIT, || {
        let said = running.stderr();
        said.contains("Stopping on SIGTERM")
            .then_some(())
            .ok_or(said)
    });
    // A read that waits for data cannot be called back; the next one is not begun.
    drop(writer);
    running.end().ends_with(143);
    facts.assert_clean();
}

#[test]
fn when_the_agent_is_killed_its_script_ends_and_the_next_run_cleans_up() {
    let facts = Facts::new();
    let running = facts.start(&script(&format!("{STUBBORN}\nsleep 1000")));
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().code, None);
    wait_for("the script's processes to end", LIMIT, || {
        let left = processes_below(&facts.world.base());
        left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
    });
    let left = crate::support::snapshot(&facts.world.base());
    assert!(left.contains_key("packages/app"), "{:?}", left.keys());

    facts.run(&ReleaseBuilder::demo()).succeeds();
    let left = crate::support::snapshot(&facts.world.base());
    let left: Vec<&String> = left.keys().collect();
    assert_eq!(
        left,
        ["", "data", "data/compile", "data/packages", "packages"],
        "what the killed run left is not gone"
    );
    let results: Vec<_> = crate::support::snapshot(&facts.world.out())
        .into_keys()
        .collect();
    assert_eq!(results, ["", "demo-1.10-ubuntu-noble-1.406.tgz"]);
}

#[test]
fn a_run_that_follows_a_killed_one_at_once_never_meets_its_script() {
    let facts = Facts::new();
    // It prints nothing, or the broken pipe would end it at once.
    let text = format!(
        "{{ set +x; }} 2>/dev/null\n\
         trap '' TERM\n{NOTES_ITSELF}\ntouch $FACTS/started\n\
         while true; do touch $BOSH_INSTALL_TARGET/old 2>/dev/null; sleep 0.01; done"
    );
    let running = facts.start(&script(&text));
    running.signal(Signal::SIGKILL);
    running.end();
    let next = format!("if {NOTED_IS_ALIVE}; then touch $FACTS/met; fi");
    let ran = facts.run(&script(&next));
    assert!(
        !facts.has("met"),
        "both scripts ran at once:\n{}",
        ran.stderr
    );
    match ran.code {
        Some(0) => {
            let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
            assert!(!app.contains_key("old"), "{app:?}");
        }
        _ => drop(ran.fails().says("another bosh-agent is compiling")),
    }
    wait_for("the old script's end", LIMIT, || {
        let left = processes_below(&facts.world.base());
        left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
    });
}

#[test]
fn a_partial_result_of_a_killed_run_is_removed_by_the_next() {
    let world = World::new();
    let partial = world.write("out/.bosh-agent-partial-12345-0", "half");
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    world.compile(&[&tarball]).succeeds();
    assert!(!partial.exists());
}

#[test]
fn what_another_agent_is_at_work_on_is_not_taken_for_abandoned() {
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
    // Closing them would not do: a process that another test is about to start may still have them open.
    for file in &held {
        file.unlock().unwrap();
    }
    call();
    assert!(!partial.exists() && !lock.exists());
}

#[test]
fn a_work_directory_on_another_file_system_is_used() {
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
fn a_reader_of_the_progress_that_goes_away_stops_nothing() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let script = "\"$@\" 2>&1 | true; exit ${PIPESTATUS[0]}";
    let wrapped = Agent::wrapped(&world.path("printed"), &["bash", "-c", script, "bash"]);
    let agent = world.flags(wrapped).arg("--output-directory");
    agent.args(&[world.out(), tarball]).run().ends_with(0);
    assert!(world.result("demo-1.10").exists());
}

/// Runs the agent on a terminal of its own, and prints what it prints there and how it ends. With `FACTS` it is sent
/// Ctrl-C when a script has begun.
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
fn on_a_terminal_the_lines_are_the_same() {
    if !require_tools(&["python3"]) {
        return;
    }
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let wrapped = Agent::wrapped(&world.path("printed"), &["python3", "-c", ON_A_TERMINAL]);
    let agent = world.flags(wrapped).arg("--output-directory");
    agent
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
fn an_interrupt_from_the_keyboard_reaches_the_script_through_the_agent() {
    if !require_tools(&["python3"]) {
        return;
    }
    let facts = Facts::new();
    // `wait`, for what bash has just forked may lose the signal.
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
        .says("Stopping on SIGINT");
    assert!(facts.has("asked") && !facts.has("interrupted"));
    facts.assert_clean();
}

#[test]
fn a_script_may_remove_its_own_directories() {
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
fn a_second_agent_is_told_who_compiles_and_disturbs_nothing() {
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
            .fails()
            .says(&format!(
                "another bosh-agent is compiling in `{}`: process {} on ",
                facts.world.base().display(),
                first.pid()
            ))
            .says("Hint: wait for it to end");
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
fn agents_with_different_base_directories_do_not_meet() {
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
fn packages_of_somebody_else_are_refused_and_kept() {
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
            .fails()
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
fn packages_of_somebody_else_are_no_matter_when_nothing_is_compiled() {
    let facts = Facts::new();
    facts.world.write("vcap/packages/redis/bin/redis", "theirs");
    let before = crate::support::snapshot(&facts.world.base());
    let release = ReleaseBuilder::new("demo", "1.10").job("web", &[]);
    facts.run(&release).succeeds();
    assert_eq!(crate::support::snapshot(&facts.world.base()), before);
}

#[test]
fn a_forced_run_follows_no_link_out_of_the_base_directory() {
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
fn what_a_script_makes_unreadable_is_removed_all_the_same() {
    let facts = Facts::new();
    let text = "mkdir -p deep/er\ntouch deep/er/file\nchmod 0 deep/er deep\n\
                mkdir $BOSH_INSTALL_TARGET/locked\nchmod 500 $BOSH_INSTALL_TARGET/locked";
    facts.run(&script(text)).succeeds();
    facts.assert_clean();
}

#[test]
fn a_user_who_is_not_root_can_compile() {
    if !require_root() || !require_tools(&["setpriv", "chown"]) {
        return;
    }
    let facts = Facts::new();
    let release = script("id -u > $BOSH_INSTALL_TARGET/user\nmkdir -m 0 locked");
    let tarball = facts.world.release("release.tgz", &release);
    let home = facts.world.path("printed");
    let home = home.parent().unwrap();
    run_tool_with(
        "chown",
        &["-R".as_ref(), "12345:12345".as_ref(), home.as_os_str()],
        b"",
    );
    // The program itself may lie where only root can go.
    let own = copied_agent(home);
    let script = format!("shift; exec {} \"$@\"", own.display());
    let wrapped = Agent::wrapped(
        &facts.world.path("printed"),
        &[
            "setpriv",
            "--reuid=12345",
            "--regid=12345",
            "--clear-groups",
            "sh",
            "-c",
            &script,
            "sh",
        ],
    );
    facts
        .with_facts(facts.world.flags(wrapped))
        .arg("--output-directory")
        .args(&[facts.world.out(), tarball])
        .run()
        .succeeds();
    let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(app["user"], "100644 12345\n");
    facts.assert_clean();
}

#[test]
fn processes_that_are_left_behind_are_asked_to_end_before_they_are_killed() {
    let facts = Facts::new();
    facts
        .run(&script(
            "bash -c 'trap \": > $FACTS/asked; exit\" TERM; touch $FACTS/ready; while :; do sleep 0.01; done' &\n\
             while [ ! -e $FACTS/ready ]; do sleep 0.01; done",
        ))
        .succeeds();
    assert!(facts.has("asked"));
}

#[test]
fn a_script_that_kills_its_parent_does_not_outlive_it() {
    let facts = Facts::new();
    facts
        .run(&script(
            "trap '' TERM\nkill -9 $PPID\nwhile :; do sleep 0.01; done",
        ))
        .fails();
    facts.assert_clean();
}

#[test]
fn the_directories_of_packages_can_be_read_by_everybody() {
    let facts = Facts::new();
    facts
        .run(&script(
            "umask 077; for path in . .. ../.. $BOSH_INSTALL_TARGET/ @packages@ @packages@/../data/packages; do \
             stat -L -c %a $path; done > $FACTS/modes",
        ))
        .succeeds();
    assert_eq!(facts.lines("modes"), ["755"; 6]);
}

#[test]
fn a_script_that_runs_too_long_is_ended_and_told_so() {
    let facts = Facts::new();
    let tarball = facts
        .world
        .release("release.tgz", &script(&format!("{STUBBORN}\nsleep 1000")));
    facts
        .agent()
        .args(&["--timeout", "1", "--grace", "1"])
        .arg(tarball)
        .run()
        .fails()
        .says("(it ran longer than the 1.0s that it may)")
        .says("Hint: give it more by --timeout");
    facts.assert_clean();
}

#[test]
fn a_script_has_no_terminal_to_ask_on() {
    if !require_tools(&["script"]) {
        return;
    }
    let facts = Facts::new();
    let tarball = facts.world.release(
        "release.tgz",
        &script("if read answer < /dev/tty; then exit 1; fi; touch $FACTS/went-on"),
    );
    let call = format!(
        "{} compile --isolation none --stemcell ubuntu-noble/1.406 --base-directory {} --output-directory {} {}",
        env!("CARGO_BIN_EXE_bosh-agent"),
        facts.world.base().display(),
        facts.world.out().display(),
        tarball.display()
    );
    let status = std::process::Command::new("timeout")
        .args(["60", "script", "-qefc", &call, "/dev/null"])
        .env("FACTS", facts.world.path("facts"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(facts.has("went-on"));
}

#[test]
fn what_a_script_made_beside_its_package_is_gone_after_a_kill_too() {
    let facts = Facts::new();
    let running = facts.start(&script(
        "mkdir @packages@/extra @base@/data/compile/extra; touch $FACTS/started; sleep 1000",
    ));
    running.signal(Signal::SIGKILL);
    running.end();
    facts.run(&ReleaseBuilder::demo()).succeeds();
    assert!(!facts.world.base().join("packages/extra").exists());
}

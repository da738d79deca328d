//! The environment of a script: variables, input, signals, priority.

use super::*;

#[test]
fn script_runs_in_its_source_directory() {
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
fn script_has_four_variables_and_inherits_all_others() {
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
    // Variables that bash sets.
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
fn script_has_an_empty_input_and_no_other_open_file() {
    let facts = Facts::new();
    let text = "readlink /proc/$$/fd/0 > $FACTS/stdin\n\
                ls /proc/$$/fd > $FACTS/open\n\
                if read line; then echo $line > $FACTS/line; fi";
    facts.run(&script(text)).succeeds();
    assert_eq!(facts.read("stdin"), "/dev/null");
    assert!(!facts.has("line"));
    // Bash has the script itself open as the last one. Files that the tests inherited may be open in the agent.
    assert_eq!(facts.lines("open"), ["0", "1", "2", "255"]);
}

#[test]
fn script_has_the_default_umask_and_signals() {
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
fn script_has_its_own_process_group_and_the_agents_priority() {
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
fn commands_are_traced_and_failures_do_not_end_the_script() {
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

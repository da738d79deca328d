//! The error in the output of real build tools, which is reported even if no last lines are printed.

use std::process::Command;

use crate::support::{ReleaseBuilder, World, require_tools};

/// A package for each tool: the tool, a script that makes it fail, and the start of the reported error.
const FAILURES: [(&str, &str, &str); 9] = [
    (
        "gcc",
        "echo 'int main() { return x; }' >a.c; gcc a.c",
        "a.c:1:21: error: ",
    ),
    (
        "ld",
        "echo 'int f(); int main() { return f(); }' >a.c; gcc a.c",
        "a.c:(.text+",
    ),
    (
        "make",
        "printf 'all:\\n\\t./none\\n' >Makefile; make",
        // A make that another one started has a number in its name.
        ": ./none: No such file or directory",
    ),
    (
        "tar",
        "tar xf none.tgz",
        "tar: none.tgz: Cannot open: No such file or directory",
    ),
    (
        "gzip",
        "echo text >a.tgz; tar xzf a.tgz",
        "gzip: stdin: not in gzip format",
    ),
    (
        "bash",
        "bash -c 'cd /none'; cd none/at-all",
        "packaging: line ",
    ),
    (
        "go",
        "printf 'module x\\n' >go.mod; printf 'package main\\nfunc main() { y() }\\n' >m.go; go build",
        "./m.go:2:15: undefined: y",
    ),
    (
        "cargo",
        "cargo build --offline",
        "error: could not find `Cargo.toml` in ",
    ),
    (
        "python3",
        "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-index none-at-all",
        "ERROR: Could not find a version that satisfies the requirement none-at-all",
    ),
];

#[test]
fn errors_of_real_tools_are_reported_without_last_lines() {
    if !require_tools(&["gcc", "make", "tar", "python3"]) {
        return;
    }
    // The project's tests do without Go.
    let there: Vec<_> = FAILURES
        .into_iter()
        .filter(|(tool, _, _)| *tool != "go" || Command::new("go").arg("version").output().is_ok())
        .collect();
    let world = World::new();
    let mut release = ReleaseBuilder::new("demo", "1");
    for (tool, script, _) in &there {
        let script =
            format!("{script} || {{ code=$?; for i in $(seq 50); do echo $i; done; exit $code; }}");
        release = release.package(tool, &[], &script);
    }
    let tarball = world.release("demo.tgz", &release);
    let mut ran = world
        .agent()
        .args(&["--keep-going", "--log-lines", "0"])
        .arg(tarball)
        .run()
        .fails()
        .does_not_say("Last lines of the packaging script")
        .does_not_say("printed nothing");
    for (tool, _, error) in there {
        let headline = format!("Error in the output of the packaging script of {tool}, line ");
        ran = ran.says(&headline);
        let (_, rest) = ran.stderr.split_once(&headline).unwrap();
        let line = rest.lines().nth(1).unwrap();
        assert!(line.contains(error), "{tool}: {line}");
    }
}

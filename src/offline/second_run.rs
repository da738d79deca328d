//! Messages about a script that ran under Landlock rules, which restrict its access to files, and is run again without them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use crate::compile::{Denial, FirstRun, PrintedLine};
use crate::diag::Elapsed;
use crate::process::LastLines;
use crate::release::Name;
use crate::sandbox::Closed;

/// The maximum number of denied lines or paths to print.
const SHOWN: usize = 5;

/// The warning after a failed first run. The second run starts when `running` other scripts have ended.
pub(super) fn failed(package: &Name, first: &FirstRun, running: usize) -> String {
    let mut text = format!(
        "Warning: {} (after {}, restricted by Landlock)\n",
        first.failure,
        Elapsed(first.elapsed)
    );
    if first.succeeded {
        lines(&mut text, &first.denials);
    } else {
        tail(&mut text, package, &first.tail);
        denied_paths(&mut text, &first.denials);
    }
    undeclared(&mut text, package, &first.undeclared);
    log(&mut text, &first.log);
    let when = match running {
        0 => String::new(),
        1 => " once the running packaging script has ended; no other script starts before that"
            .to_owned(),
        more => {
            format!(
                " once {more} running packaging scripts have ended; no other script starts before that"
            )
        }
    };
    let _ = write!(
        text,
        "{package} is compiled again, alone and without restrictions{when}"
    );
    text
}

/// The warning after a second run that succeeded.
pub(super) fn succeeded(package: &Name, first: &FirstRun) -> String {
    let mut text =
        format!("Warning: {package} compiled only in its second run, without restrictions\n");
    if first.denials.is_empty() {
        text.push_str("The output of the first run shows no denied access\n");
    } else {
        text.push_str("Denied in the first run:\n");
        lines(&mut text, &first.denials);
    }
    log(&mut text, &first.log);
    if first.denials.is_empty()
        && let Some(finding) = first.findings.iter().find(|it| it.is_a_collision())
    {
        let _ = write!(text, "Hint: package {package}: {finding}");
        return text;
    }
    hints(&mut text, package, &first.denials, &first.undeclared);
    text.trim_end().to_owned()
}

/// The warning about a script that tried to link or move files across the mounts of its dependencies,
/// and is run again with copies. `shown` are the lines that show this.
pub(super) fn with_copies(package: &Name, shown: &[PrintedLine], log: &Path) -> String {
    if shown.is_empty() {
        return format!(
            "Warning: the packaging script of {package} replaces its install target with a link to a dependency, whose directory \
             is a mount: {package} is compiled again with copies of its dependencies"
        );
    }
    let mut text = format!(
        "Warning: the packaging script of {package} tried to hard-link or move files of a dependency, or to remove its directory, \
         but this directory is a mount:\n"
    );
    for line in shown {
        let _ = writeln!(text, "  line {}: {}", line.number, line.text);
    }
    let _ = write!(
        text,
        "  in {}\n{package} is compiled again with copies of its dependencies",
        log.display()
    );
    text
}

/// The warning about a script that succeeded in spite of a denied access, and that
/// `--second-run=never` does not let run again.
pub(super) fn ignored(package: &Name, denials: &[Denial]) -> String {
    let mut text = format!(
        "Warning: the packaging script of {package} succeeded in spite of a denied access. With --second-run=never its \
         result is kept:\n"
    );
    lines(&mut text, denials);
    hints(&mut text, package, denials, &[]);
    text.trim_end().to_owned()
}

/// Adds the last lines of a script.
pub(super) fn tail(text: &mut String, package: &Name, tail: &LastLines) {
    if !tail.is_printed {
        let _ = writeln!(text, "The packaging script of {package} printed nothing");
    } else if !tail.lines.is_empty() {
        let _ = writeln!(text, "Last lines of the packaging script of {package}:");
    }
    for line in &tail.lines {
        let _ = writeln!(text, "  | {line}");
    }
    if let Some(command) = &tail.command {
        let _ = writeln!(text, "The last command was: {command}");
    }
}

/// Adds the paths that Landlock rules denied to a script.
pub(super) fn denied_paths(text: &mut String, denials: &[Denial]) {
    let closed = denials.iter().flat_map(|denial| &denial.closed);
    let mut paths: Vec<&Path> = Vec::new();
    for (path, _) in closed {
        if !paths.contains(&path.as_path()) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return;
    }
    let shown: Vec<String> = paths
        .iter()
        .take(SHOWN)
        .map(|path| format!("`{}`", path.display()))
        .collect();
    let more = match paths.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let _ = writeln!(text, "Denied access to: {}{more}", shown.join(", "));
}

/// Adds undeclared packages that a script failed to access.
pub(super) fn undeclared(text: &mut String, package: &Name, undeclared: &[Name]) {
    for name in undeclared {
        let _ = writeln!(
            text,
            "Its output mentions package {name}, which {package} does not declare as a dependency"
        );
    }
}

/// The hint about an undeclared dependency.
pub(super) fn declare(name: &Name, package: &Name) -> String {
    format!("add {name} to the dependencies in the spec of package {package}, or do not use it")
}

fn log(text: &mut String, log: &Path) {
    let _ = writeln!(text, "Full log: {}", log.display());
}

fn lines(text: &mut String, denials: &[Denial]) {
    let is_for_rules = denials.iter().any(Denial::may_be_caused_by_rules);
    let shown: Vec<&Denial> = denials
        .iter()
        .filter(|denial| !is_for_rules || denial.may_be_caused_by_rules())
        .collect();
    for denial in shown.iter().take(SHOWN) {
        let _ = writeln!(text, "  | {}", denial.line);
    }
    if shown.len() > SHOWN {
        let _ = writeln!(text, "  | ... and {} more", shown.len() - SHOWN);
    }
}

fn hints(text: &mut String, package: &Name, denials: &[Denial], undeclared: &[Name]) {
    let mut kinds = BTreeSet::new();
    for (path, closed) in denials.iter().flat_map(|denial| &denial.closed) {
        let path = path.display();
        // One hint of each kind is enough.
        let (kind, hint) = match closed {
            Closed::Entry => (
                0,
                format!(
                    "Landlock does not let scripts create, replace or remove `{path}`: use $BOSH_COMPILE_TARGET, $BOSH_INSTALL_TARGET \
                     or $TMPDIR instead"
                ),
            ),
            Closed::ReadOnly => (
                1,
                format!(
                    "Landlock does not let scripts change or hard-link a dependency (`{path}`): copy the files to \
                     $BOSH_COMPILE_TARGET first"
                ),
            ),
            Closed::Guarded if undeclared.is_empty() => (
                2,
                format!("`{path}` does not belong to a declared dependency of {package}"),
            ),
            Closed::Guarded => continue,
        };
        if kinds.insert(kind) {
            let _ = writeln!(text, "Hint: {hint}");
        }
    }
    for name in undeclared {
        let _ = writeln!(text, "Hint: {}", declare(name, package));
    }
    if kinds.is_empty() && undeclared.is_empty() {
        let _ = writeln!(
            text,
            "Hint: --isolation=namespace and --isolation=userns, where available, do not deny scripts any access"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::compile::Finding;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn denial(line: &str, closed: &[(&str, Closed)]) -> Denial {
        Denial {
            line: line.to_owned(),
            closed: closed
                .iter()
                .map(|(path, closed)| (PathBuf::from(path), *closed))
                .collect(),
            is_unclear: false,
        }
    }

    fn first(denials: Vec<Denial>, undeclared: &[&str]) -> FirstRun {
        FirstRun {
            failure: "the packaging script of `app` exited with 1".to_owned(),
            succeeded: false,
            elapsed: Duration::from_secs(8),
            tail: LastLines {
                lines: vec!["make: ***".to_owned()],
                is_printed: true,
                command: None,
            },
            denials,
            undeclared: undeclared.iter().map(|it| name(it)).collect(),
            findings: Vec::new(),
            log: PathBuf::from("/logs/app@first.log"),
        }
    }

    #[test]
    fn first_failure_is_printed_with_its_output_and_what_follows() {
        let denials = vec![
            denial(
                "mkdir: /data/a: permission denied",
                &[("/data/a", Closed::Entry)],
            ),
            denial("cat: /etc/x: Permission denied", &[]),
        ];
        let shown = |running| failed(&name("app"), &first(denials.clone(), &["zlib"]), running);
        let expected = "Warning: the packaging script of `app` exited with 1 (after 8.0s, restricted by Landlock)\n\
             Last lines of the packaging script of app:\n\
             \x20 | make: ***\n\
             Denied access to: `/data/a`\n\
             Its output mentions package zlib, which app does not declare as a dependency\n\
             Full log: /logs/app@first.log\n\
             app is compiled again, alone and without restrictions";
        assert_eq!(shown(0), expected);
        assert_eq!(
            shown(1),
            format!(
                "{expected} once the running packaging script has ended; no other script starts before that"
            )
        );
        assert_eq!(
            shown(2),
            format!(
                "{expected} once 2 running packaging scripts have ended; no other script starts before that"
            )
        );
    }

    #[test]
    fn success_shows_some_denials_and_one_hint_of_each_kind() {
        let mut denials: Vec<Denial> = (0..7)
            .map(|number| {
                let path = format!("/data/{number}");
                denial(
                    &format!("mkdir {path}: permission denied"),
                    &[(&path, Closed::Entry)],
                )
            })
            .collect();
        denials.push(denial("ln", &[("/packages/lib/x", Closed::ReadOnly)]));
        denials.push(denial("cat: /etc/x: Permission denied", &[]));
        assert_eq!(
            succeeded(&name("app"), &first(denials, &[])),
            "Warning: app compiled only in its second run, without restrictions\n\
             Denied in the first run:\n\
             \x20 | mkdir /data/0: permission denied\n\
             \x20 | mkdir /data/1: permission denied\n\
             \x20 | mkdir /data/2: permission denied\n\
             \x20 | mkdir /data/3: permission denied\n\
             \x20 | mkdir /data/4: permission denied\n\
             \x20 | ... and 3 more\n\
             Full log: /logs/app@first.log\n\
             Hint: Landlock does not let scripts create, replace or remove `/data/0`: use $BOSH_COMPILE_TARGET, $BOSH_INSTALL_TARGET or \
             $TMPDIR instead\n\
             Hint: Landlock does not let scripts change or hard-link a dependency (`/packages/lib/x`): copy the files to \
             $BOSH_COMPILE_TARGET first"
        );
    }

    #[test]
    fn success_after_a_collision_hints_at_fewer_jobs() {
        let collision = |text: &str| FirstRun {
            findings: vec![Finding::RanConcurrently {
                line: Some(PrintedLine {
                    number: 3,
                    text: text.to_owned(),
                }),
            }],
            ..first(Vec::new(), &[])
        };
        let text = succeeded(&name("app"), &collision("bind: Address already in use"));
        assert!(
            text.ends_with(
                "\nHint: package app: `bind: Address already in use`, while other packaging scripts ran, which share the network, \
                 abstract sockets and HOME. Try `--jobs 1`"
            ),
            "{text}"
        );
    }

    #[test]
    fn success_without_a_known_denial_says_so() {
        assert_eq!(
            succeeded(&name("app"), &first(Vec::new(), &[])),
            "Warning: app compiled only in its second run, without restrictions\n\
             The output of the first run shows no denied access\n\
             Full log: /logs/app@first.log\n\
             Hint: --isolation=namespace and --isolation=userns, where available, do not deny scripts any access"
        );
        let guarded = denial(
            "cat: /packages/other: Permission denied",
            &[("/packages/other", Closed::Guarded)],
        );
        assert!(
            succeeded(&name("app"), &first(vec![guarded], &["other"])).ends_with(
                "\nHint: add other to the dependencies in the spec of package app, or do not use it"
            )
        );
    }
}

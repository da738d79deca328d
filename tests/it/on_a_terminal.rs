//! What a terminal shows, and how messages get to a stderr that is slow or is not read at all.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{NONE, Place, ReleaseBuilder, World, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the test has seen the bars.
const UNTIL_SEEN: &str = "until [ -e $FACTS/seen ]; do sleep 0.01; done";

fn see(place: &Place) {
    std::fs::write(place.world.path("facts/seen"), "").unwrap();
}

/// The lines of a screen at its end. Knows only the sequences that bars consist of.
fn last_screen(shown: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let (mut row, mut column) = (0, 0);
    let mut characters = shown.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                // The line discipline adds a carriage return.
                column = 0;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\u{1b}' => {
                assert_eq!(characters.next(), Some('['));
                let mut number = String::new();
                let command = loop {
                    match characters.next().unwrap() {
                        digit @ ('0'..='9' | '?' | ';') => number.push(digit),
                        command => break command,
                    }
                };
                let count = number.parse().unwrap_or(1);
                match command {
                    'A' => row -= count,
                    'J' => {
                        lines.truncate(row + 1);
                        lines[row] = lines[row].chars().take(column).collect();
                    }
                    'K' => lines[row] = lines[row].chars().take(column).collect(),
                    'h' | 'l' | 'm' => {}
                    other => panic!("{other}"),
                }
            }
            visible => {
                let mut line: Vec<char> = lines[row].chars().collect();
                line.resize(line.len().max(column + 1), ' ');
                line[column] = visible;
                lines[row] = line.into_iter().collect();
                column += 1;
            }
        }
    }
    lines
}

#[test]
fn terminal_shows_bars_colors_and_short_fingerprints() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let script = format!("set +x\necho working\n{UNTIL_SEEN}");
    let release = ReleaseBuilder::of_script(&script);
    let mut shown = place
        .agent()
        .env("TERM", "xterm")
        .arg(place.release(&release))
        .start_on_terminal();
    shown.shows("app 0:00 working");
    shown.shows("0 of 1 · 1 running · 0:0");
    see(&place);
    let (code, screen) = shown.end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("\u{1b}[32mFinished\u{1b}[0m compiling release app/"));
    let lines = last_screen(&screen);
    assert!(
        !lines.iter().any(|line| line.contains("running")),
        "{lines:#?}"
    );
    let finished = lines.iter().find(|line| line.contains("BlobstoreID="));
    let (_, blob) = finished.unwrap().split_once("BlobstoreID=").unwrap();
    assert_eq!(blob.split(' ').next().unwrap().len(), 8, "{blob}");
    let [.., last, end] = lines.as_slice() else {
        panic!("{lines:#?}");
    };
    assert!(
        last.starts_with("Finished archiving compiled tarball "),
        "{lines:#?}"
    );
    assert_eq!(end, "");
}

#[test]
fn dumb_terminal_shows_neither_bars_nor_colors() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    for (variable, value) in [("TERM", "dumb"), ("NO_COLOR", "1")] {
        let shown = place
            .agent()
            .env("TERM", "xterm")
            .env(variable, value)
            .arg(place.release(&ReleaseBuilder::of_script("true")))
            .start_on_terminal();
        let (code, screen) = shown.end();
        assert_eq!(code, Some(0), "{screen}");
        assert!(!screen.contains("\u{1b}[32m"), "{screen}");
        assert_eq!(
            screen.contains('\u{1b}'),
            variable == "NO_COLOR",
            "{screen}"
        );
    }
}

#[test]
fn colors_on_a_pipe_only_on_request() {
    let world = World::new();
    let tarball = world.write("none.tgz", "no release");
    let run = |arguments: &[&str]| world.agent().args(arguments).arg(&tarball).run();
    run(&[]).does_not_say("\u{1b}");
    run(&["--color=always"]).says("\u{1b}[31mError:\u{1b}[0m");
    run(&["--color=always", "--nonsense"])
        .ends_with(2)
        .says("\u{1b}[31mError:\u{1b}[0m");
}

#[test]
fn interrupt_removes_the_bars_and_says_what_was_written() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1")
        .package("first", &[], "true")
        .package(
            "hang",
            &["first"],
            "set +x; trap '' TERM INT; echo hanging; sleep 1000; sleep 1000",
        );
    let mut shown = place
        .agent()
        .env("TERM", "xterm")
        .args(&["--grace", "1"])
        .arg(place.release(&release))
        .start_on_terminal();
    shown.shows("1 of 2 · 1 running");
    shown.shows("hang 0:00 hanging");
    kill(Pid::from_raw(shown.pid()), Signal::SIGINT).unwrap();
    let (code, screen) = shown.end();
    assert_eq!(code, Some(130), "{screen}");
    let lines = last_screen(&screen);
    let [.., stopping, stopped, end] = lines.as_slice() else {
        panic!("{lines:#?}");
    };
    assert_eq!(
        stopping,
        "Stopping: hang has 1 s to end (Ctrl-C again to kill at once)"
    );
    assert_eq!(
        stopped,
        "Stopped by SIGINT: 1 of 2 packages were compiled, nothing was written"
    );
    assert_eq!(end, "");
}

#[test]
fn quiet_prints_only_warnings_and_failures() {
    let world = World::new();
    let good = world.release("good.tgz", &ReleaseBuilder::demo());
    let ran = world.agent().arg("--quiet").arg(good).run();
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.stderr, "");
    assert_eq!(
        ran.stdout,
        format!("{}\n", world.result("demo-1.10").display())
    );
    let bad = ReleaseBuilder::new("bad", "1").package("app", &[], "echo why; exit 3");
    let bad = world.release("bad.tgz", &bad);
    let ran = world.agent().arg("--quiet").arg(&bad).run().fails();
    ran.says("  | why\n")
        .says("Error: failed to compile package app/")
        .does_not_say("Compiling")
        .does_not_say("Isolation");
    world
        .agent()
        .args(&["--quiet", "--verbose"])
        .arg(bad)
        .run()
        .ends_with(2)
        .says("--verbose");
}

#[test]
fn debug_log_has_the_steps_of_each_package_with_durations() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib")
        .package("app", &["lib"], "true");
    let ran = place
        .agent()
        .env("BOSH_AGENT_LOG", "debug")
        .env("PASSWORD", "confidential")
        .arg(place.release(&release))
        .run()
        .succeeds()
        .says("read the tarball and computed its digests")
        .says("assembled and verified the release")
        .does_not_say("confidential");
    for (package, moved) in [
        ("lib", "sealed the installed files"),
        ("app", "moved the installed files"),
    ] {
        for step in [
            "entered a place in the sandbox",
            "unpacked the source",
            "provided the dependencies",
            "the packaging script exited with 0",
            moved,
            "packed",
        ] {
            let start = format!("{step} package={package} ms=");
            let duration = ran.stderr.lines().find_map(|it| it.split_once(&start));
            let (_, ms) = duration.unwrap_or_else(|| panic!("no `{start}`:\n{}", ran.stderr));
            assert!(ms.starts_with(|it: char| it.is_ascii_digit()), "{ms}");
        }
    }
}

/// Starts the agent with a pipe as stderr that is full and is not read.
fn start_unread(place: &Place, arguments: &[&str], script: &str) -> (Child, std::io::PipeReader) {
    let tarball = place.release(&ReleaseBuilder::of_script(script));
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    std::io::Write::write_all(&mut writer, &[b'x'; 4096]).unwrap();
    let mut agent = place.agent().args(arguments).arg(tarball);
    let child = agent
        .command()
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    (child, reader)
}

const PRINTS_MUCH: &str = "set +x; touch $FACTS/started; while true; do echo 0123456789012345678901234567890123456789; done";

#[test]
fn signal_ends_a_run_whose_stderr_is_not_read() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let (mut child, reader) = start_unread(&place, &["--verbose", "--grace", "1"], PRINTS_MUCH);
    wait_for("the script", LIMIT, || {
        let has_started = place.world.path("facts/started").exists();
        has_started
            .then_some(())
            .ok_or_else(|| "not yet".to_owned())
    });
    let start = Instant::now();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = wait_for("the end", LIMIT, || {
        child
            .try_wait()
            .unwrap()
            .ok_or_else(|| "it runs".to_owned())
    });
    assert_eq!(status.code(), Some(143));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    drop(reader);
}

#[test]
fn time_limit_ends_a_script_whose_output_is_not_read() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let arguments = ["--verbose", "--timeout", "1s", "--grace", "1"];
    let report = place.world.path("report.json");
    let arguments = [&arguments[..], &["--report", report.to_str().unwrap()]].concat();
    let script = format!("echo $$ > $FACTS/pid; {PRINTS_MUCH}");
    let (mut child, mut reader) = start_unread(&place, &arguments, &script);
    let pid = place.world.path("facts/pid");
    wait_for("the end of the script", LIMIT, || {
        let pid = std::fs::read_to_string(&pid).unwrap_or_default();
        let has_ended = !pid.is_empty() && !std::path::Path::new("/proc").join(pid.trim()).exists();
        has_ended.then_some(()).ok_or(pid)
    });
    let mut printed = String::new();
    reader.read_to_string(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(printed.contains("app | 0123456789"));
    assert!(
        printed
            .trim_end()
            .ends_with("raise the limit with --timeout"),
        "the report is missing"
    );
}

//! `--verbose` and `--annotations`: the output of scripts while they run, and commands to a CI system.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{NONE, Place, ReleaseBuilder, World, wait_for};

fn two_packages() -> ReleaseBuilder {
    let script =
        |name: &str| format!("for i in $(seq 200); do echo {name} $i; done; printf 'no end'");
    ReleaseBuilder::new("demo", "1")
        .package("app", &[], &script("one"))
        .package("web", &[], &script("two"))
}

#[test]
fn verbose_prints_whole_lines_with_the_package() {
    let world = World::new();
    let tarball = world.release("demo.tgz", &two_packages());
    let ran = world
        .agent()
        .arg("--verbose")
        .arg(&tarball)
        .run()
        .succeeds();
    let of = |package: &str| -> Vec<&str> {
        let prefix = format!("{package} | ");
        let lines = ran.stderr.lines();
        lines
            .filter_map(|it| it.strip_prefix(prefix.as_str()))
            .collect()
    };
    for (package, word) in [("app", "one"), ("web", "two")] {
        let lines = of(package);
        let printed: Vec<&str> = lines
            .iter()
            .copied()
            .filter(|it| !it.starts_with('+'))
            .collect();
        let mut expected: Vec<String> = (1..=200).map(|i| format!("{word} {i}")).collect();
        expected.push("no end".to_owned());
        assert_eq!(printed, expected);
        assert!(lines.contains(&"+ printf 'no end'"), "{lines:?}");
        let at = |text: &str| ran.stderr.find(text).unwrap();
        assert!(
            at(&format!("{package} | no end"))
                < at(&format!("Finished compiling release {package}/"))
        );
    }
    world
        .agent()
        .arg(&tarball)
        .run()
        .succeeds()
        .does_not_say(" | ");
}

#[test]
fn verbose_prints_lines_while_the_script_runs() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let script = "echo begun; until [ -e $FACTS/seen ]; do sleep 0.01; done";
    let running = place
        .agent()
        .arg("--verbose")
        .arg(place.release(&ReleaseBuilder::of_script(script)))
        .start();
    wait_for("the line", Duration::from_secs(60), || {
        let stderr = running.stderr();
        match stderr.contains("app | begun\n") {
            true => Ok(()),
            false => Err(stderr),
        }
    });
    std::fs::write(place.world.path("facts/seen"), "").unwrap();
    running.end().succeeds();
}

#[test]
fn unread_stderr_does_not_stop_a_verbose_script() {
    let world = World::new();
    let mark = world.path("mark");
    let script =
        "set +x; line=$(printf %01000d 0); for i in $(seq 8000); do echo $line; done; touch $MARK";
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], script);
    let tarball = world.release("demo.tgz", &release);
    let mut agent = world.agent().arg("--verbose").arg(tarball);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = agent
        .command()
        .env("MARK", &mark)
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    drop(agent);
    wait_for("the end of the script", Duration::from_secs(60), || {
        mark.exists()
            .then_some(())
            .ok_or_else(|| "it runs".to_owned())
    });
    let mut shown = String::new();
    reader.read_to_string(&mut shown).unwrap();
    assert!(child.wait().unwrap().success(), "{shown}");
    let left_out = " left out because stderr is too slow; the log has all\n";
    assert!(shown.contains(left_out));
    assert!(shown.contains("Finished archiving compiled tarball "));
}

#[test]
fn scripts_cannot_give_commands_to_github() {
    let script = "set +x\necho '::stop-commands::x'\necho '  ::error::injected'\necho '##[add-mask]e'\n\
                  printf 'a\\r::error::injected\\n'\necho 'error: 100%::'\nexit 3";
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], script);
    let tarball = world.release("demo.tgz", &release);
    let ran = world
        .agent()
        .env("GITHUB_ACTIONS", "true")
        .arg("--verbose")
        .arg(&tarball)
        .run()
        .fails()
        .says("::group::Output of package app\n")
        .says("app | ::stop-commands::x\n")
        .says("app | ## [add-mask]e\n")
        .says("  | ## [add-mask]e\n");
    let commands: Vec<&str> = ran
        .stderr
        .split(['\n', '\r'])
        .filter(|line| line.trim_start().starts_with("::") || line.contains("##["))
        .filter(|line| {
            !line.starts_with("::group::Output of package app") && *line != "::endgroup::"
        })
        .collect();
    let [error] = commands.as_slice() else {
        panic!("{commands:#?}");
    };
    assert!(
        error.starts_with("::error title=failed to compile package app/"),
        "{error}"
    );
    assert!(
        error.contains(" of release demo/1::the packaging script exited with 3 after "),
        "{error}"
    );
    assert!(error.ends_with("%0Aerror: 100%25::"), "{error}");
    world
        .agent()
        .env("GITHUB_ACTIONS", "true")
        .args(&["--annotations", "none"])
        .arg(&tarball)
        .run()
        .fails()
        .does_not_say("::group::")
        .does_not_say("::error title");
}

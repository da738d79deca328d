//! Arguments.

use super::*;

#[test]
fn usage_errors_exit_with_two_and_change_no_file() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let tarball = tarball.to_str().unwrap();
    let before = world.snapshot();
    for (arguments, told) in [
        (&[][..], "no command is given"),
        (&["compiel"], "unknown command `compiel`"),
        (&["compile"], "TARBALL"),
        (&["compile", ""], "TARBALL"),
        (&["compile", "--no-such-flag", tarball], "--no-such-flag"),
        (&["compile", "--output-directory"], "--output-directory"),
        (
            &["compile", "--output-directory=", tarball],
            "--output-directory",
        ),
        (&["compile", "--stemcell", "noble", tarball], "noble"),
        (&["compile", "--stemcell", "a/b/c", tarball], "a/b/c"),
        (&["compile", "--isolation=some", tarball], "some"),
        (&["compile", "--base-directory", "vcap", tarball], "vcap"),
        (&["compile", "--compression-level", "0", tarball], "0"),
        (&["compile", "--grace", "soon", tarball], "soon"),
        (&["compile", tarball, "--force"], "--force"),
    ] {
        let ran = Agent::bare(&world.path("printed")).args(arguments).run();
        let ran = ran.ends_with(2).says(told);
        assert!(ran.stderr.starts_with("Error: "), "{}", ran.stderr);
    }
    assert_eq!(world.snapshot(), before);
}

#[test]
fn help_and_version_succeed() {
    let world = World::new();
    for flag in ["-h", "-help", "--help"] {
        let agent = || Agent::bare(&world.path("printed"));
        let ran = agent().args(&["compile", flag]).run();
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("--output-directory"));
        let ran = agent().arg(flag).run();
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.starts_with("Usage:"));
    }
    let version = env!("CARGO_PKG_VERSION");
    let print = |flag: &str| {
        let ran = Agent::bare(&world.path("printed")).arg(flag).run();
        assert_eq!(ran.code, Some(0));
        ran.stdout
    };
    assert_eq!(print("-v"), format!("{version}\n"));
    let (program, built) = (format!("bosh-agent {version} ("), print("--version"));
    assert!(
        built.starts_with(&program) && built.ends_with("-linux-gnu\n"),
        "{built}"
    );
}

#[test]
fn flags_may_have_one_dash_and_end_at_two() {
    let world = World::new();
    world.release("-odd.tgz", &ReleaseBuilder::demo());
    world
        .flags(Agent::bare(&world.path("printed")))
        .arg("-output-directory")
        .arg(world.out())
        .args(&["--", "-odd.tgz"])
        .directory(world.path("printed").parent().unwrap())
        .run()
        .succeeds();
    assert!(world.result("demo-1.10").exists());
}

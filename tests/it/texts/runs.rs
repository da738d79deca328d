//! The output of runs: progress, warnings, failed scripts.

use super::page::Page;
use crate::support::{Compression, Member, ReleaseBuilder, STEMCELL, World, archive};

fn of(script: &str) -> ReleaseBuilder {
    ReleaseBuilder::of_script(script)
}

#[test]
fn progress() {
    let mut page = Page::with_milestones();
    page.compile("a release", &ReleaseBuilder::of_script("true"));
    page.compile(
        "a release without packages",
        &ReleaseBuilder::new("demo", "1"),
    );
    page.compile(
        "a mixed release",
        &ReleaseBuilder::new("demo", "1")
            .compiled("lib", &[], STEMCELL, ("f", b""))
            .package("app", &["lib"], "true"),
    );
    page.is("progress");
}

/// A package is packed while the next script runs, so the order of milestones differs between runs.
#[test]
fn several_releases() {
    let mut page = Page::default();
    let world = World::new();
    let script = "echo x > $BOSH_INSTALL_TARGET/x";
    let tarballs: Vec<_> = ["one", "two"]
        .iter()
        .map(|name| {
            let release = ReleaseBuilder::new(name, "1")
                .package("shared", &[], script)
                .package(&format!("own-{name}"), &["shared"], "true");
            world.release(&format!("{name}.tgz"), &release)
        })
        .collect();
    page.add(
        "two releases with a common package",
        &world,
        &world.agent().args(&tarballs).run(),
    );
    let world = World::new();
    let tarballs: Vec<_> = ["one", "two"]
        .iter()
        .map(|name| {
            let release =
                ReleaseBuilder::new(name, "1").package("shared", &[], &format!("echo {name}"));
            world.release(&format!("{name}.tgz"), &release)
        })
        .collect();
    page.add(
        "two releases with different contents under one fingerprint",
        &world,
        &world.agent().args(&tarballs).run(),
    );
    page.is("several_releases");
}

#[test]
fn failed_scripts() {
    let mut page = Page::default();
    page.compile("a script that exits with 3", &of("echo before\nexit 3"));
    page.compile(
        "a script that prints nothing",
        &of("set +x; exec 2>/dev/null; exit 1"),
    );
    page.compile("a script that is killed", &of("kill -KILL $$"));
    page.compile(
        "a command that is killed",
        &of("set -e\nbash -c 'kill -SEGV $$'"),
    );
    page.compile("a missing command", &of("no-such-command-here"));
    page.compile(
        "a package with dependents",
        &ReleaseBuilder::new("demo", "1")
            .package("lib", &[], "true")
            .package("app", &["lib"], "exit 1")
            .package("web", &["app"], "true")
            .package("top", &["web"], "true")
            .package("other", &[], "true"),
    );
    page.compile(
        "an undeclared dependency",
        &ReleaseBuilder::new("demo", "1")
            .package("zlib", &[], "true")
            .package("app", &[], "ls /var/vcap/packages/zlib/none\nexit 1"),
    );
    let world = World::new();
    let slow = world.release("slow.tgz", &of("exec sleep 1000"));
    let agent = world.agent().args(&["--timeout=1", "--grace=0"]).arg(&slow);
    page.add("a script that runs too long", &world, &agent.run());
    page.is("failed_scripts");
}

#[test]
fn unusable_packages() {
    let mut page = Page::default();
    page.compile("no install target", &of("rm -rf $BOSH_INSTALL_TARGET"));
    page.compile(
        "a file as install target",
        &of("rm -rf $BOSH_INSTALL_TARGET; echo x > $BOSH_INSTALL_TARGET"),
    );
    for (title, blob) in [
        ("a source that is not an archive", b"no archive".to_vec()),
        (
            "a source that is not tar",
            Compression::Gzip.apply(b"no archive either"),
        ),
        (
            "a source that leads out",
            archive(&[Member::file("../out", b"")]),
        ),
        (
            "a script that is a link to nothing",
            archive(&[Member::link(
                crate::support::Kind::Symlink,
                "packaging",
                "gone",
            )]),
        ),
        (
            "a script that is a directory",
            archive(&[Member::directory("packaging/")]),
        ),
    ] {
        page.compile(title, &of("true").blob(&blob));
    }
    page.is("unusable_packages");
}

#[test]
fn warnings() {
    let mut page = Page::default();
    page.compile(
        "processes left behind",
        &of("nohup sleep 1000 >/dev/null 2>&1 &"),
    );
    page.compile("no packaging script", &of("").without_script());
    page.compile("nothing installed", &of("true"));
    let flags = [
        ("--jobs without isolation", &["--jobs=2"][..]),
        ("--readonly-deps without isolation", &["--readonly-deps"]),
        ("--protect-host without isolation", &["--protect-host"]),
        ("--network=none without isolation", &["--network=none"]),
        (
            "--nice and --make-jobserver",
            &["--nice=5", "--make-jobserver"],
        ),
        ("--second-run without Landlock", &["--second-run=always"]),
    ];
    for (title, flags) in flags {
        let world = World::new();
        let tarball = world.release("release.tgz", &of("true"));
        page.add(
            title,
            &world,
            &world.agent().args(flags).arg(&tarball).run(),
        );
    }
    page.is("warnings");
}

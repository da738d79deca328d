//! The portable binary itself.

use super::*;

#[test]
fn published_binary_is_portable_and_has_a_checksum() {
    let Some(inputs) = inputs::require_parts() else {
        return;
    };
    let dist = inputs.dist.parent().unwrap();
    let target = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "aarch64-unknown-linux-gnu"),
        _ => ("amd64", "x86_64-unknown-linux-gnu"),
    };
    let name = format!(
        "bosh-agent-{}-linux-{}",
        env!("CARGO_PKG_VERSION"),
        target.0
    );
    if !dist.join(&name).exists() {
        skip("the portable binary was not built by `make dist`");
        return;
    }
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", &format!("{name}.sha256")]);
    run(check.current_dir(dist), SHORT).expect_code(0, "sha256sum --check");
    let mut check = Command::new(inputs::repository().join("integration/portable-binary"));
    check.arg(dist.join(&name)).arg(target.1);
    run(&mut check, SHORT).expect_code(0, "portable-binary");
}

/// The releases of `integration/debian-roots`: their libraries are older than, as old as and newer than those of the builder.
const RELEASES: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// Runs a script in containers of all these releases, with a host name that is known, a small release, and no network. The results by
/// release.
fn in_each_release(inputs: &Inputs, script: &str) -> Vec<(&'static str, Outcome)> {
    let directory = TempDir::new().unwrap();
    let fact = "printf '%s as %s' $BOSH_COMPILE_TARGET $(id -un) >$BOSH_INSTALL_TARGET/fact";
    let tarball = release::write(directory.path(), "small", "fact", fact);
    let release = format!("{}:/small.tgz:ro", tarball.display());
    let binary = format!("{}:/usr/bin/bosh-agent:ro", inputs.dist.display());
    let options = [
        "--rm",
        "--network=none",
        "--add-host=known.test:127.0.0.1",
        "-v",
        &release,
        "-v",
        &binary,
    ];
    let outcome_in = |release| {
        let image = format!("bosh-agent-test/debian:{release}");
        let container = Container::new(release);
        (
            release,
            container.run(&options, &image, &["bash", "-ec", script], SHORT),
        )
    };
    RELEASES.into_iter().map(outcome_in).collect()
}

/// The inputs, if the images of all releases are there.
#[track_caller]
fn require_releases() -> Option<&'static Inputs> {
    let inputs = inputs::require_parts()?;
    for release in RELEASES {
        let image = format!("bosh-agent-test/debian:{release}");
        if docker(&["image", "inspect", &image], SHORT).code != Some(0) {
            skip(&format!(
                "{image} is missing: call integration/debian-roots"
            ));
            return None;
        }
    }
    Some(inputs)
}

/// The image of `integration/debian-roots` with a compiler.
const WITH_COMPILER: &str = "bosh-agent-test/debian:bullseye-gcc";

#[test]
fn packages_get_the_compiler_and_library_of_an_older_stemcell() {
    if inputs::require_parts().is_none() {
        return;
    }
    let is_there = docker(&["image", "inspect", WITH_COMPILER], SHORT).code == Some(0);
    if !is_there || !nix::unistd::geteuid().is_root() {
        skip(&format!(
            "this needs root and {WITH_COMPILER}: call integration/debian-roots"
        ));
        return;
    }
    let place = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| place.path().join(name);
    let image = path("saved.tar");
    let saved = docker(
        &["save", "-o", image.to_str().unwrap(), WITH_COMPILER],
        LONG,
    );
    saved.expect_code(0, "docker save");
    let script = "set -eu\n\
        echo '#include <gnu/libc-version.h>\n#include <stdio.h>\n\
        int main(void) { puts(gnu_get_libc_version()); return 0; }' >library.c\n\
        gcc -o $BOSH_INSTALL_TARGET/library library.c\n\
        $BOSH_INSTALL_TARGET/library >$BOSH_INSTALL_TARGET/version\n\
        gcc -dumpversion >$BOSH_INSTALL_TARGET/compiler\n";
    let release = release::write(place.path(), "old", "library", script);
    let mut compile = Command::new(env!("CARGO_BIN_EXE_bosh-agent"));
    compile.args(["compile", "--stemcell", "debian-bullseye/1"]);
    for (flag, name) in [
        ("--stemcell-image", "saved.tar"),
        ("--image-dir", "images"),
        ("--output-directory", "out"),
        ("--work-dir", "work"),
        ("--logs-dir", "logs"),
    ] {
        compile.arg(flag).arg(path(name));
    }
    let outcome = run(compile.arg(&release), SHORT);
    outcome.expect_code(0, "compile in an image of bullseye");
    let mut unpack = Command::new("bash");
    let commands = "set -eu\n\
        tar -xf out/old-1-debian-bullseye-1.tgz\n\
        tar -xf compiled_packages/library.tgz ./version ./compiler\n\
        cat version compiler";
    let unpacked = run(
        unpack.args(["-c", commands]).current_dir(place.path()),
        SHORT,
    );
    unpacked.expect_code(0, "tar");
    // The versions of Debian 11.
    assert_eq!(unpacked.stdout, "2.31\n10\n", "{outcome}");
}

#[test]
fn published_binary_compiles_in_three_debian_releases() {
    let Some(inputs) = require_releases() else {
        return;
    };
    let script = "bosh-agent --version\n\
        bosh-agent compile --stemcell ubuntu-noble/1.406 --output-directory /tmp/out /small.tgz\n\
        bosh-agent inspect /tmp/out/*.tgz";
    for (release, outcome) in in_each_release(inputs, script) {
        outcome.expect_code(0, release);
        assert!(outcome.stdout.contains("fact"), "{release}: {outcome}");
    }
}

#[test]
fn published_binary_resolves_host_names_in_debian_releases() {
    let Some(inputs) = require_releases() else {
        return;
    };
    let script = "for host in known.test unknown.test; do\n\
        bosh-agent compile --stemcell ubuntu-noble/1.406 --cache-from http://$host:9/ --output-directory /tmp/$host /small.tgz\n\
        done";
    for (release, outcome) in in_each_release(inputs, script) {
        outcome.expect_code(0, release);
        let (known, unknown) = outcome.stderr.split_once("unknown.test").unwrap();
        assert!(known.contains("onnection refused"), "{release}: {outcome}");
        assert!(
            !unknown.contains("onnection refused"),
            "{release}: {outcome}"
        );
    }
}

#[test]
fn debian_package_is_installed_and_removed_in_a_stemcell() {
    let Some(inputs) = inputs::require_parts() else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let mut build = Command::new(inputs::repository().join("packaging-scripts/deb"));
    build.arg(&inputs.dist).arg(directory.path());
    run(&mut build, SHORT).expect_code(0, "packaging-scripts/deb");
    let mount = format!("{}:/packages:ro", directory.path().display());
    let script = "set -e\n\
        dpkg --install /packages/*.deb\n\
        bosh-agent --version\n\
        dpkg --verify bosh-agent\n\
        gzip -t /usr/share/man/man1/bosh-agent*.1.gz\n\
        . /usr/share/bash-completion/completions/bosh-agent\n\
        complete -p bosh-agent\n\
        dpkg --remove bosh-agent\n\
        ! test -e /usr/bin/bosh-agent";
    let outcome = Container::new("deb").run(
        &["--rm", "-v", &mount],
        STEMCELL_IMAGE,
        &["bash", "-c", script],
        SHORT,
    );
    outcome.expect_code(0, "the Debian package");
    assert!(outcome.stdout.contains("bashdefault"), "{outcome}");
}

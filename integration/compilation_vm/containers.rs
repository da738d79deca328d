//! Compilation VMs as container CPIs create them, of a stemcell image: their results equal those of `bosh-agent compile`.

mod cluster;
mod repacked;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use super::scene::{director, https_machine, is_possible, nats_machine, small_release, spec};
use crate::common::{extract, once};
use crate::containers::{a_release, in_a_default_container};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::AGENT;
use crate::support::director::Director;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::docker::Container;
use crate::support::inputs::{self, Inputs, STEMCELL_IMAGE, require_parts};
use crate::support::nats::NatsServer;
use crate::support::source_release::SourceRelease;
use crate::support::vm::ContainerVm;

/// The time limit of a whole release on a busy machine.
const LONG: Duration = Duration::from_secs(900);

/// Options for a container that may mount, like those of CPIs: privileged, or if the machine of the tests lacks some capabilities itself,
/// with those that are needed.
fn privileged_options() -> &'static [&'static str] {
    const ALL: [&str; 1] = ["--privileged"];
    const MOUNT: [&str; 4] = [
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "apparmor=unconfined",
    ];
    static OPTIONS: OnceLock<&[&str]> = OnceLock::new();
    OPTIONS.get_or_init(|| {
        let probe = Container::new("privileged");
        let outcome = probe.run(&["--rm", "--privileged"], STEMCELL_IMAGE, &["true"], LONG);
        if outcome.code == Some(0) {
            return &ALL;
        }
        eprintln!(
            "no container can have all rights here, so it gets SYS_ADMIN: {}",
            outcome.stderr.trim()
        );
        &MOUNT
    })
}

fn volume(path: &Path, inside: &str) -> String {
    format!("{}:{inside}", path.display())
}

/// The directory of the packages that `bosh-agent compile` makes of a release in the same image.
fn compiled_offline(inputs: &Inputs) -> PathBuf {
    let compiled = in_a_default_container(inputs);
    let made = once(&format!("offline-{}", inputs.compiled_name), |directory| {
        extract(&compiled, directory)
    });
    made.join("compiled_packages")
}

/// A Director compiles a release. Compares every package with that of the offline compile: names, types, modes, owners, link targets and
/// contents, but not times.
async fn compile_and_compare(director: &Director, blobs: &Blobstore, inputs: &Inputs) {
    let release = SourceRelease::read(&inputs.release);
    assert_eq!(release.packages.len(), inputs.packages);
    let compiled = director.compile_release(&release, blobs).await.unwrap();
    equal_offline(&compiled, blobs, inputs);
}

/// Compares compiled packages with those of the offline compile.
#[track_caller]
fn equal_offline(compiled: &CompiledPackages, blobs: &Blobstore, inputs: &Inputs) {
    let kept = TempDir::new().unwrap();
    for (package, result) in compiled {
        let name = format!("{package}.tgz");
        fs::copy(blobs.path(&result.blob), kept.path().join(name)).unwrap();
    }
    same_packages(&compiled_offline(inputs), kept.path(), inputs.packages);
}

/// Compares two directories of packages, as root in a container, so that owners are those of the archives.
#[track_caller]
fn same_packages(first: &Path, second: &Path, count: usize) {
    const SCRIPT: &str = r#"
        set -euo pipefail
        for side in first second; do
            for blob in "/kept/$side"/*.tgz; do
                package=/tmp/$side/$(basename "$blob" .tgz)
                mkdir -p "$package"
                tar -C "$package" --same-owner --numeric-owner -xpf "$blob"
            done
            cd "/tmp/$side"
            find . -mindepth 1 -printf '%y %m %U:%G %n links %p -> %l\n' | sort >"/tmp/$side.tree"
            find . -type f -print0 | sort -z | xargs -0r sha256sum >"/tmp/$side.sums"
            ls | wc -l
        done
        diff /tmp/first.tree /tmp/second.tree
        diff /tmp/first.sums /tmp/second.sums
    "#;
    let outcome = Container::new("compare-vm").run(
        &[
            "--rm",
            "-v",
            &volume(first, "/kept/first:ro"),
            "-v",
            &volume(second, "/kept/second:ro"),
        ],
        STEMCELL_IMAGE,
        &["bash", "-c", SCRIPT],
        LONG,
    );
    outcome.expect_code(0, "the packages differ");
    assert_eq!(outcome.stdout, format!("{count}\n{count}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_over_nats_gives_the_offline_result() {
    let Some(inputs) = inputs::require().filter(|_| is_possible()) else {
        return;
    };
    let blobs = Blobstore::local();
    let directory = blobs.directory().unwrap();
    let shared = volume(directory, directory.to_str().unwrap());
    let server = NatsServer::start("server", &[AGENT]);
    let vm = ContainerVm::create(
        "nats-vm",
        (STEMCELL_IMAGE, &inputs.dist),
        &[
            privileged_options(),
            &["-v", &shared, "-v", "/var/vcap/data"],
        ]
        .concat(),
        nats_machine(&server, "agent", &blobs),
    );
    let director = director(&server).await;
    director.prepare(&spec()).await.unwrap();
    compile_and_compare(&director, &blobs, inputs).await;
    assert!(vm.log().contains("isolation: namespace"), "{}", vm.log());
    assert_clean(&vm);
    let files = vm.shell("cat /var/vcap/instance/id /var/vcap/instance/deployment");
    assert!(files.ends_with("compiling"), "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unprivileged_container_over_https_gives_the_offline_result() {
    let Some(inputs) = a_release().filter(|_| is_possible()) else {
        return;
    };
    let Some(blobs) = Blobstore::dav() else {
        return;
    };
    let (machine, bus) = https_machine(&blobs);
    let vm = ContainerVm::create("https-vm", (STEMCELL_IMAGE, &inputs.dist), &[], machine);
    let director = Director::new(bus, AGENT).hurried();
    director.prepare(&spec()).await.unwrap();
    compile_and_compare(&director, &blobs, &inputs).await;
    assert_clean(&vm);
}

#[tokio::test(flavor = "multi_thread")]
async fn unprivileged_container_compiles_with_signed_urls() {
    let Some(inputs) = require_parts().filter(|_| is_possible()) else {
        return;
    };
    let Some(blobs) = Blobstore::signed_urls() else {
        return;
    };
    let server = NatsServer::start("server", &[AGENT]);
    let machine = nats_machine(&server, "agent", &blobs);
    let vm = ContainerVm::create("signed-vm", (STEMCELL_IMAGE, &inputs.dist), &[], machine);
    let director = director(&server).await;
    director.prepare(&spec()).await.unwrap();
    let compiled = director
        .compile_release(&small_release(), &blobs)
        .await
        .unwrap();
    assert_eq!(compiled.len(), 3);
    assert_clean(&vm);
}

/// The agent has not ended, and no package is left installed.
#[track_caller]
fn assert_clean(vm: &ContainerVm) {
    let log = vm.log();
    assert!(!log.contains("the supervisor:"), "{log}");
    let left = vm.shell(
        "ls -A /var/vcap/packages /var/vcap/data/packages /var/vcap/data/compile 2>/dev/null; true",
    );
    let left: Vec<_> = left
        .lines()
        // The marker of an agent that compiles in place is not a package.
        .filter(|line| !line.is_empty() && !line.ends_with(':') && *line != ".bosh-agent:compile")
        .collect();
    assert_eq!(left, [""; 0], "something is still installed");
}

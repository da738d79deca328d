//! A stemcell that `packaging-scripts/stemcell/repack` has made: its files, and a VM that its own supervisor of services boots.

use std::process::Command;

use serde_json::Value;

use super::*;
use crate::common::{require_root, require_tools};
use crate::support::docker::{Outcome, docker, run};
use crate::support::vm::BOOT_WITH_RUNIT;

const VERSION: &str = "1.406.1";
const IMAGE: &str = "bosh-agent-test/repacked:latest";

/// The directory with the old stemcell, the new one, and the new one's files in `stemcell` and `root`; `None` if a program is missing.
fn repacked(inputs: &Inputs) -> Option<PathBuf> {
    let tools = ["zstd", "ruby", "runsvdir", "systemd-analyze"];
    if !require_root() || !require_tools(&tools) {
        return None;
    }
    Some(once("repacked-stemcell", |directory| {
        let path = |name: &str| directory.join(name);
        let make = inputs::repository().join("integration/stemcell-like");
        run(Command::new(make).arg(path("old.tgz")), LONG).expect_code(0, "stemcell-like");
        repack(inputs, &path("old.tgz"), &path("new.tgz"), VERSION).expect_code(0, "repack");
        const UNPACK: &str = "set -euo pipefail; cd \"$1\"; mkdir stemcell root; tar -C stemcell -xf new.tgz; \
            tar -C root --numeric-owner --same-owner -xf stemcell/image; docker import stemcell/image \"$2\"";
        let mut unpack = Command::new("bash");
        unpack
            .args(["-c", UNPACK, "bash"])
            .arg(directory)
            .arg(IMAGE);
        run(&mut unpack, LONG).expect_code(0, "unpacking the new stemcell");
    }))
}

#[track_caller]
fn repack(inputs: &Inputs, old: &Path, new: &Path, version: &str) -> Outcome {
    let mut command = Command::new(inputs::repository().join("packaging-scripts/stemcell/repack"));
    command.arg(old).arg(new).args(["--version", version]);
    run(command.arg("--agent").arg(&inputs.dist), LONG)
}

#[test]
fn manifest_has_the_new_version_and_the_image_s_digest() {
    const TO_JSON: &str =
        "require 'yaml'; require 'json'; puts JSON.generate(YAML.load_file(ARGV.fetch(0)))";
    let Some(inputs) = require_parts() else {
        return;
    };
    let Some(place) = repacked(inputs) else {
        return;
    };
    let mut ruby = Command::new("ruby");
    ruby.args(["-e", TO_JSON])
        .arg(place.join("stemcell/stemcell.MF"));
    let manifest: Value = serde_json::from_str(&run(&mut ruby, LONG).stdout).unwrap();
    let sum = run(
        Command::new("sha1sum").arg(place.join("stemcell/image")),
        LONG,
    );
    assert_eq!(manifest["sha1"], sum.stdout.split(' ').next().unwrap());
    assert_eq!(manifest["version"], VERSION);
    assert_eq!(manifest["cloud_properties"]["version"], VERSION);
    assert_eq!(manifest["name"], "bosh-warden-boshlite-ubuntu-noble");
    assert_eq!(manifest["bosh_protocol"], "1");
    assert!(place.join("stemcell/packages.txt").exists());
    // The agent itself verifies the image when it compiles in a stemcell.
    let release = crate::support::release::write(&place, "empty", "app", "true\n");
    let mut compile = Command::new(&inputs.dist);
    compile
        .args(["compile", "--print-output-names", "--stemcell-image"])
        .arg(place.join("new.tgz"))
        .arg("--image-dir")
        .arg(place.join("images"))
        .arg(release);
    let outcome = run(&mut compile, LONG);
    outcome.expect_code(0, "compile --stemcell-image");
    let expected = format!("empty-1-ubuntu-noble-{VERSION}.tgz");
    assert!(outcome.stdout.contains(&expected), "{outcome}");
}

#[test]
fn go_agent_is_kept_and_services_are_installed() {
    let Some(inputs) = require_parts() else {
        return;
    };
    let Some(place) = repacked(inputs) else {
        return;
    };
    let read = |path: &str| fs::read_to_string(place.join("root").join(path)).unwrap();
    assert_eq!(
        fs::read(place.join("root/var/vcap/bosh/bin/bosh-agent")).unwrap(),
        fs::read(&inputs.dist).unwrap()
    );
    assert!(read("var/vcap/bosh/bin/bosh-agent-go").contains("the Go agent"));
    let link = fs::read_link(place.join("root/var/vcap/bosh/bin/bosh-enable-monit-access"));
    assert_eq!(link.unwrap(), Path::new("bosh-agent-go"));
    assert_eq!(read("var/vcap/bosh/etc/stemcell_version"), VERSION);
    assert!(read("var/vcap/bosh/agent.json").contains("warden-cpi-agent-env.json"));
    assert!(read("etc/sv/agent/run").contains("-C /var/vcap/bosh/agent.json"));

    let mut find = Command::new("find");
    find.arg(place.join("root"))
        .args(["-name", "bosh-agent.service"]);
    let unit = run(&mut find, LONG).stdout;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    let outcome = run(verify.arg(unit.lines().next().unwrap()), LONG);
    outcome.expect_code(0, "systemd-analyze verify");

    // A second installation does not take this agent for the Go agent.
    let mut again = Command::new(inputs::repository().join("packaging-scripts/stemcell/install"));
    again
        .arg(place.join("root"))
        .arg("--agent")
        .arg(&inputs.dist);
    run(&mut again, LONG).expect_code(0, "install");
    let kept = fs::read_to_string(place.join("root/var/vcap/bosh/bin/bosh-agent-go"));
    assert!(kept.unwrap().contains("the Go agent"));
}

#[test]
fn same_version_is_refused() {
    let Some(inputs) = require_parts() else {
        return;
    };
    let Some(place) = repacked(inputs) else {
        return;
    };
    let same = repack(
        inputs,
        &place.join("new.tgz"),
        &place.join("x.tgz"),
        VERSION,
    );
    same.expect_code(1, "the same version");
    assert!(
        same.stderr.contains("has the version 1.406.1 already"),
        "{same}"
    );
    assert!(!place.join("x.tgz").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn runit_boots_the_agent_and_a_director_compiles_with_it() {
    let Some(inputs) = require_parts().filter(|_| is_possible()) else {
        return;
    };
    if repacked(inputs).is_none() {
        return;
    }
    let Some(blobs) = Blobstore::signed_urls() else {
        return;
    };
    let server = NatsServer::start("server", &[AGENT]);
    let machine = nats_machine(&server, "agent", &blobs);
    let vm = ContainerVm::boot("repacked-vm", IMAGE, &BOOT_WITH_RUNIT, machine);
    let director = director(&server).await;
    director.prepare(&spec()).await.unwrap();
    let compiled = director
        .compile_release(&small_release(), &blobs)
        .await
        .unwrap();
    assert_eq!(compiled.len(), 3);
    let log = vm.log();
    assert!(log.contains("isolation: "), "{log}");
    docker(&["image", "rm", "--force", IMAGE], LONG);
}

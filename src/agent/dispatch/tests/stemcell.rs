//! Requests that change a machine. Its root directory, with its programs, is another one than this machine's.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::fs::require_root;
use crate::release::Digests;
use crate::release::digest::Algorithm;

/// A machine in a temporary directory.
struct Stemcell {
    scratch: tempfile::TempDir,
    vcap: Vcap,
    agent: Agent,
}

fn stemcell() -> Stemcell {
    let scratch = tempfile::tempdir().unwrap();
    let vcap = Vcap::new(scratch.path());
    for directory in [
        vcap.temporary(),
        vcap.blobs().join("tmp"),
        vcap.sensitive_blobs(),
    ] {
        fs::create_dir_all(&directory).unwrap();
    }
    let agent = agent_on(scratch.path(), Platform::Linux);
    Stemcell {
        scratch,
        vcap,
        agent,
    }
}

impl Stemcell {
    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.scratch.path().join(file);
        fs::create_dir_all(fs::parent(&path)).unwrap();
        fs::write(&path, text.as_bytes()).unwrap();
        path
    }

    /// Installs a program that records its arguments, one call a line, and then executes `end`.
    fn install(&self, program: &str, end: &str) -> PathBuf {
        let calls = self.scratch.path().join(format!("calls-of-{program}"));
        let text = format!("#!/bin/sh\necho \"$@\" >>{}\n{end}\n", calls.display());
        let file = self.write(&format!("root/usr/sbin/{program}"), &text);
        fs::set_mode(&file, 0o755).unwrap();
        calls
    }

    async fn ask(&self, method: &str, arguments: Value) -> Value {
        ask(&self.agent, method, arguments).await
    }
}

#[tokio::test]
async fn shutdown_runs_the_program_of_the_machine() {
    let machine = stemcell();
    let missing = machine.ask("shutdown", json!([])).await;
    let message = "Action Failed shutdown: could not shut down this machine: there is no program `shutdown` on this machine";
    assert_eq!(exception(&missing), message);
    let calls = machine.install("shutdown", "");
    let done = machine.ask("shutdown", json!([])).await;
    assert_eq!(done, json!({"value": ""}));
    assert_eq!(fs::read_lossy(&calls).unwrap(), "-P 0\n");
    machine.install("shutdown", "echo no power >&2; exit 3");
    let failed = machine.ask("shutdown", json!([])).await;
    let message = "Action Failed shutdown: could not shut down this machine: `shutdown` exited with 3: no power";
    assert_eq!(exception(&failed), message);
}

#[tokio::test]
async fn arp_entries_of_each_address_are_deleted() {
    let machine = stemcell();
    let addresses = json!([{"ips": ["10.0.0.9", "-all", "fd00::9", "10.0.0.9", "10.0.0.8"]}]);
    let without_program = machine.ask("delete_arp_entries", addresses.clone()).await;
    assert_eq!(without_program, json!({"value": {}}));
    // A failure for one address does not prevent the others.
    let calls = machine.install("ip", "exit 1");
    let deleted = machine.ask("delete_arp_entries", addresses).await;
    assert_eq!(deleted, json!({"value": {}}));
    let calls = fs::read_lossy(&calls).unwrap();
    let expected = ["10.0.0.8", "10.0.0.9", "fd00::9"].map(|it| format!("neigh flush to {it}"));
    assert_eq!(calls.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn dns_records_are_added_to_the_hosts_file() {
    let machine = stemcell();
    let hosts = machine.write("root/etc/hosts", "127.0.0.1 localhost\n");
    for (version, address) in [(1_u64, "10.0.0.1"), (2, "10.0.0.2")] {
        let records = json!({"version": version, "records": [[address, "a.bosh"]]}).to_string();
        machine.write("data/blobs/dns", &records);
        let digest = Digests::of(records.as_bytes(), &[Algorithm::Sha1]);
        let arguments = json!(["dns", digest.sha1(), version]);
        let synced = machine.ask("sync_dns", arguments).await;
        assert_eq!(synced, json!({"value": "synced"}));
        let text = fs::read_lossy(&hosts).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["127.0.0.1 localhost", &format!("{address} a.bosh")]);
        let saved = crate::machine::dns::saved_version(&machine.vcap);
        assert_eq!(saved, Some(version));
    }
    assert!(
        fs::list(&machine.vcap.blobs().join("tmp"))
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn bundle_of_logs_belongs_to_its_owner_alone() {
    if !require_root() {
        return;
    }
    let machine = stemcell();
    let owner = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    let request = json!([{"owning_user": "daemon", "log_type": "job", "filters": []}]);
    let bundled = machine.ask("bundle_logs", request).await;
    let path = bundled["value"]["logs_tar_path"].as_str().unwrap();
    let found = fs::metadata(Path::new(path)).unwrap();
    assert_eq!(
        (found.uid(), found.mode() & 0o7777),
        (owner.uid.as_raw(), 0o600)
    );
    assert_eq!(fs::parent(Path::new(path)), machine.vcap.temporary());
}

#[tokio::test]
async fn bundle_of_logs_reaches_a_disk_of_the_operator() {
    let machine = stemcell();
    let disk = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::remove_dir(&machine.vcap.temporary()).unwrap();
    fs::symlink(disk.path(), &machine.vcap.temporary()).unwrap();
    machine.write("sys/log/app/log", "a log");
    let request = json!([{"owning_user": "", "log_type": "job", "filters": []}]);
    let bundled = machine.ask("bundle_logs", request).await;
    let path = bundled["value"]["logs_tar_path"].as_str().unwrap();
    let found = fs::metadata(Path::new(path)).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o600);
    let unpacked = machine.scratch.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    crate::archive::unpack_file(Path::new(path), &unpacked).unwrap();
    assert_eq!(fs::read_lossy(&unpacked.join("app/log")).unwrap(), "a log");
    assert_eq!(fs::list(disk.path()).unwrap().len(), 1);
    assert!(
        fs::list(&machine.vcap.blobs().join("tmp"))
            .unwrap()
            .is_empty()
    );
}

/// Scripts that run without isolation can make such links.
#[tokio::test]
async fn planted_links_lead_no_request_to_other_files() {
    let machine = stemcell();
    let theirs = machine.write("theirs/file", "theirs");
    let blob = machine.vcap.sensitive_blobs().join("id-1");
    let file = machine.vcap.temporary().join("file");
    for link in [&blob, &file] {
        fs::symlink(&theirs, link).unwrap();
    }
    // printf hunter2 | sha1sum
    let upload = json!([{
        "blob_id": "id-1",
        "checksum": "f3bbbd66a63d4bf1747940578ec3d0103530e21d",
        "payload": "aHVudGVyMg==",
    }]);
    let (_, stored) = task(&machine.agent, "upload_blob", upload).await;
    assert_eq!(stored, json!({"value": "id-1"}));
    assert!(fs::lookup(&blob).unwrap().unwrap().is_file());
    let removed = machine.ask("remove_file", json!([file])).await;
    assert_eq!(removed, json!({ "value": file }));
    assert!(fs::lookup(&file).unwrap().is_none());

    // A dangling link in place of the directory for archives, and a link to a secret among the logs.
    let archives = machine.vcap.blobs().join("tmp");
    fs::remove_dir(&archives).unwrap();
    fs::symlink(&machine.scratch.path().join("none"), &archives).unwrap();
    machine.write("sys/log/app/log", "a log");
    fs::symlink(&theirs, &machine.scratch.path().join("sys/log/app/link")).unwrap();
    let request = json!([{"owning_user": "", "log_type": "job", "filters": null}]);
    let bundled = machine.ask("bundle_logs", request).await;
    let path = bundled["value"]["logs_tar_path"].as_str().unwrap();
    let unpacked = machine.scratch.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    crate::archive::unpack_file(Path::new(path), &unpacked).unwrap();
    let logs = fs::list(&unpacked.join("app")).unwrap();
    let names: Vec<_> = logs.iter().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["log"]);
    assert_eq!(fs::read_lossy(&theirs).unwrap(), "theirs");
    assert_eq!(
        fs::list(&machine.scratch.path().join("theirs"))
            .unwrap()
            .len(),
        1
    );
}

/// The Go agent reads them again for `update_settings`, though only disks can change there.
#[tokio::test]
async fn settings_of_the_cpi_are_read_at_the_start_only() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let changed = json!({"agent_id": "a-2", "vm": {"name": "c-2"}});
    let file = Vcap::new(scratch.path()).settings();
    fs::write(&file, changed.to_string().as_bytes()).unwrap();
    let update = json!([{"trusted_certs": "", "disk_associations": []}]);
    let (_, updated) = task(&agent, "update_settings", update).await;
    assert_eq!(updated, json!({"value": "ok"}));
    let state = ask(&agent, "get_state", json!([])).await;
    assert_eq!(state["value"]["agent_id"], "a-1");
    assert_eq!(state["value"]["vm"], json!({"name": "c-1"}));
}

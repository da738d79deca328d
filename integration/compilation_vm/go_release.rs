//! The Go release on a compilation VM: all its compiles share the build cache.

use super::scene::{director, is_possible, nats_machine, spec};
use crate::common::{go_release, require, require_root};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::AGENT;
use crate::support::nats::NatsServer;
use crate::support::source_release::SourceRelease;
use crate::support::vm::HostVm;

#[tokio::test(flavor = "multi_thread")]
async fn go_packages_share_a_build_cache_on_a_vm() {
    let tarball = go_release::tarball();
    if !is_possible()
        || !require_root()
        || !require(tarball.is_file(), "the Go release (`make example`)")
    {
        return;
    }
    let blobs = Blobstore::local();
    let server = NatsServer::start("server", &[AGENT]);
    let vm = HostVm::create_at_var_vcap(nats_machine(&server, "agent", &blobs));
    let director = director(&server).await;
    director.prepare(&spec()).await.unwrap();
    let release = SourceRelease::read(&tarball);
    let compiled = director.compile_release(&release, &blobs).await.unwrap();
    assert_eq!(compiled.len(), go_release::PROGRAMS.len() + 2);
    // `BASE/sys` is a link to `/var/vcap/data/sys`, which is another directory outside the agent's mount namespace.
    let logs = vm.base().join("data/sys/log/compilation");
    let counts = go_release::compiled(&logs, "stderr.log");
    go_release::assert_shared(&counts);
    let log = vm.log();
    for program in go_release::PROGRAMS {
        let is_its = |line: &&str| {
            line.contains("phase=\"packaging\"") && line.contains(&format!("package={program} "))
        };
        let line = log.lines().find(is_its);
        let (_, facts) = line
            .and_then(|it| it.split_once("seconds="))
            .expect(program);
        eprintln!("packaging: {facts}");
    }
    // One after another, so no package is compiled twice.
    let more_than_once: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(more_than_once.is_empty(), "{more_than_once:?}");
}

//! The setup of most tests: servers, a VM, and a Director that talks to it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{ReleaseBuilder, free_port, require_tools, wait_for};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::{AGENT, pairs};
use crate::support::director::bus::{Bus, Https, Nats};
use crate::support::director::{Director, compilation_spec, manual_network};
use crate::support::nats::{NatsServer, connect};
use crate::support::source_release::SourceRelease;
use crate::support::vm::{HostVm, LIMIT, Machine};

/// Whether this machine has the requirements of all tests.
pub(super) fn is_possible() -> bool {
    require_tools(&["nats-server", "ruby"])
}

/// An agent on a VM, and a Director that reaches it over NATS. Fields are dropped in this order.
pub(super) struct Scene {
    pub(super) director: Director,
    pub(super) vm: HostVm,
    pub(super) blobs: Blobstore,
    pub(super) server: NatsServer,
}

/// The certificate with this name, in the format of the settings.
pub(super) fn certificate(name: &str) -> Value {
    let pair = &pairs()[name];
    json!({ "ca": pairs()["ca"].certificate, "certificate": pair.certificate, "private_key": pair.key })
}

/// The CPI's parameters of a VM on NATS.
pub(super) fn nats_machine(
    server: &NatsServer,
    certificate_name: &str,
    blobs: &Blobstore,
) -> Machine {
    Machine {
        agent: AGENT.to_owned(),
        mbus: server.url(),
        certificate: certificate(certificate_name),
        blobstore: blobs.settings(),
        secrets: blobs.secrets(),
    }
}

/// The CPI's parameters of a VM with HTTPS, and the Director's connection to it.
pub(super) fn https_machine(blobs: &Blobstore) -> (Machine, Bus) {
    let port = free_port();
    let machine = Machine {
        agent: AGENT.to_owned(),
        mbus: format!("https://mbus:very-secret-word@127.0.0.1:{port}"),
        certificate: certificate("server"),
        blobstore: blobs.settings(),
        secrets: blobs.secrets(),
    };
    let url = format!("https://127.0.0.1:{port}");
    let ca = &pairs()["ca"].certificate;
    let bus = Https::new(&url, "mbus", "very-secret-word", ca);
    (machine, Bus::Https(bus))
}

/// A Director on NATS.
pub(super) async fn director(server: &NatsServer) -> Director {
    let client = connect(server, "director").await;
    Director::new(Bus::Nats(Nats::new(client).await), AGENT).hurried()
}

impl Scene {
    /// A new VM with a directory as its blobstore. The Director has sent no request.
    pub(super) async fn new() -> Self {
        Self::with(Blobstore::local()).await
    }

    /// The same with another blobstore.
    pub(super) async fn with(blobs: Blobstore) -> Self {
        let server = NatsServer::start("server", &[AGENT]);
        let vm = HostVm::create(nats_machine(&server, "agent", &blobs));
        let director = director(&server).await;
        Self {
            director,
            vm,
            blobs,
            server,
        }
    }

    /// A VM that is ready to compile.
    pub(super) async fn ready() -> Self {
        Self::new().await.prepared().await
    }

    /// The Director prepares the VM.
    pub(super) async fn prepared(self) -> Self {
        self.director.prepare(&spec()).await.unwrap();
        self
    }

    /// Lines of a script that wait until the test opens the gate, and count the runs.
    pub(super) fn gate(&self, name: &str) -> Gate {
        let directory = self.vm.path(name);
        fs::create_dir(&directory).unwrap();
        Gate { directory }
    }
}

/// The spec of the VMs of these tests.
pub(super) fn spec() -> Value {
    compilation_spec(&manual_network())
}

/// A point at which a script waits for the test. The script gives up when the gate's directory is removed.
pub(super) struct Gate {
    directory: std::path::PathBuf,
}

impl Gate {
    /// The lines of the script.
    pub(super) fn script(&self) -> String {
        let directory = self.directory.display();
        format!(
            "echo run >> {directory}/runs\n\
             while [ ! -e {directory}/open ]; do [ -d {directory} ]; sleep 0.02; done\n"
        )
    }

    /// Lets the script continue.
    pub(super) fn open(&self) {
        fs::write(self.directory.join("open"), "").unwrap();
    }

    /// The number of times that the script was started.
    pub(super) fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.directory.join("runs"));
        runs.unwrap_or_default().lines().count()
    }

    /// Waits until the script has reached the gate.
    #[track_caller]
    pub(super) fn reached(&self) {
        self.reached_within(LIMIT);
    }

    #[track_caller]
    pub(super) fn reached_within(&self, limit: Duration) {
        wait_for("the script", limit, || match self.runs() {
            0 => Err("it was not started".to_owned()),
            _ => Ok(()),
        });
    }
}

/// A release as in a Director, made from a tarball.
pub(super) fn source(release: &ReleaseBuilder) -> SourceRelease {
    let directory = TempDir::new().unwrap();
    let tarball = directory.path().join("release.tgz");
    release.write(&tarball);
    SourceRelease::read(&tarball)
}

/// A release of one package, `app`, with this script.
pub(super) fn source_of_script(script: &str) -> SourceRelease {
    source(&ReleaseBuilder::of_script(&format!("set -e\n{script}")))
}

/// A generated release: three packages that depend on each other in a chain; links, modes, an empty directory.
pub(super) fn small_release() -> SourceRelease {
    let release = ReleaseBuilder::new("small", "1")
        .package(
            "base",
            &[],
            "set -e\nmkdir -p $BOSH_INSTALL_TARGET/bin $BOSH_INSTALL_TARGET/empty\n\
             cp tool $BOSH_INSTALL_TARGET/bin/tool\nln -s tool $BOSH_INSTALL_TARGET/bin/alias\n\
             ln $BOSH_INSTALL_TARGET/bin/tool $BOSH_INSTALL_TARGET/bin/same\n\
             chmod 0750 $BOSH_INSTALL_TARGET/empty\n",
        )
        .file("tool", 0o755, b"#!/bin/sh\necho tool\n")
        .package(
            "middle",
            &["base"],
            "set -e\n@packages@/base/bin/alias > $BOSH_INSTALL_TARGET/said\n",
        )
        .package(
            "top",
            &["middle"],
            "set -e\n[ ! -e @packages@/base ]\ncat @packages@/middle/said > $BOSH_INSTALL_TARGET/said\n\
             echo $BOSH_PACKAGE_NAME $BOSH_PACKAGE_VERSION >> $BOSH_INSTALL_TARGET/said\n",
        );
    source(&release)
}

/// Unpacks a blob and returns the content of one file.
#[track_caller]
pub(super) fn file_in(blob: &Path, path: &str) -> String {
    let directory = TempDir::new().unwrap();
    crate::common::extract(blob, directory.path());
    fs::read_to_string(directory.path().join(path)).unwrap()
}

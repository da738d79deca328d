//! Snapshots of the texts of errors, warnings and hints that are hard to provoke through the built program.
//!
//! One page per area in `tests/snapshots`, one line per variant. `tests/texts` has the texts that the program prints.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::archive::compression::DecodeError;
use crate::archive::entry::EntryPathError;
use crate::archive::unpack::LinkProblem;
use crate::archive::{AppendError, Compression, PackError, ReadError, UnpackError};
use crate::compile::{
    Cause, CompileError, Finding, PrintedLine, Reference, ReferenceKind, RestoreError,
    ScriptFailure,
};
use crate::diag::Chain;
use crate::process::{self, LastLines, Status};
use crate::release::{Algorithm, DigestMismatch, Name};
use crate::sandbox::{SandboxError, Step, StepError};
use crate::{agent, blobs, config, daemon, fs, http, machine, tls, transport};

/// Compares a page with its snapshot.
#[track_caller]
pub(crate) fn assert_page(name: &str, lines: &[String]) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../tests/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, lines.join("\n")));
}

/// Errors with their causes, one per line.
pub(crate) fn chains(errors: &[&dyn Error]) -> Vec<String> {
    errors
        .iter()
        .map(|error| Chain(*error).to_string())
        .collect()
}

pub(crate) fn missing() -> io::Error {
    io::Error::from_raw_os_error(2)
}

pub(crate) fn file() -> fs::Error {
    fs::Error::new("open", Path::new("/dir/file"), missing())
}

pub(crate) fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn mismatch() -> DigestMismatch {
    DigestMismatch {
        algorithm: Algorithm::Sha256,
        expected: "aa".to_owned(),
        actual: Some("bb".to_owned()),
    }
}

fn line(text: &str) -> PrintedLine {
    PrintedLine {
        number: 7,
        text: text.to_owned(),
    }
}

fn step() -> StepError {
    StepError {
        step: Step::SeparateMounts,
        errno: 1,
    }
}

#[test]
fn archive() {
    let gzip = Compression::Gzip;
    let entry = || path("dir/entry");
    let link = |problem| UnpackError::ThroughSymlink {
        entry: entry(),
        link: path("dir"),
        problem,
    };
    let absolute = || EntryPathError::Absolute {
        name: path("/etc/passwd"),
    };
    assert_page(
        "errors_of_archive",
        &chains(&[
            &DecodeError::Empty,
            &DecodeError::Unknown,
            &DecodeError::EndsEarly { compression: gzip },
            &DecodeError::Checksum { compression: gzip },
            &DecodeError::Damaged {
                compression: gzip,
                source: io::Error::other("what the decoder said"),
            },
            &DecodeError::Memory {
                compression: Compression::Xz,
                limit: 64,
            },
            &DecodeError::TrailingBytes { compression: gzip },
            &DecodeError::Failed { compression: gzip },
            &EntryPathError::Empty,
            &absolute(),
            &EntryPathError::Parent { name: path("../x") },
            &EntryPathError::Nul {
                name: b"a\0b".to_vec(),
            },
            &ReadError::NotTar,
            &ReadError::Truncated { entry: entry() },
            &ReadError::TruncatedHeader { offset: 512 },
            &ReadError::Checksum { offset: 512 },
            &ReadError::Number {
                offset: 512,
                field: "size",
            },
            &ReadError::TooLong {
                offset: 512,
                size: 2000,
                limit: 1000,
            },
            &ReadError::Pax {
                offset: 512,
                problem: "no number",
            },
            &ReadError::Sparse {
                entry: entry(),
                problem: "no map",
            },
            &ReadError::Input { source: missing() },
            &UnpackError::Decode { source: missing() },
            &UnpackError::File(file()),
            &UnpackError::Outside { source: absolute() },
            &link(LinkProblem::Outside),
            &link(LinkProblem::Missing),
            &link(LinkProblem::NotDirectory),
            &link(LinkProblem::Circle),
            &link(LinkProblem::New),
            &UnpackError::ParentNotDirectory {
                entry: entry(),
                parent: path("dir"),
            },
            &UnpackError::HardLinkOutside {
                entry: entry(),
                source: absolute(),
            },
            &UnpackError::HardLinkMissing {
                entry: entry(),
                target: path("gone"),
            },
            &UnpackError::NoTarget { entry: entry() },
            &UnpackError::DirectoryInTheWay { entry: entry() },
            &UnpackError::RootNotDirectory,
            &UnpackError::Unsupported {
                entry: entry(),
                kind: b'V',
            },
            &PackError::File(file()),
            &PackError::Changed { path: path("/a/b") },
            &PackError::NotADirectory { path: path("/a/b") },
            &PackError::Output { source: missing() },
            &AppendError::Output { source: missing() },
            &AppendError::Content {
                entry: entry(),
                source: missing(),
            },
            &AppendError::Size {
                entry: entry(),
                size: 12,
            },
        ]),
    );
}

#[test]
fn compile() {
    let app = || name("app");
    let mut lines = chains(&[
        &CompileError::Source {
            package: app(),
            source: UnpackError::RootNotDirectory,
        },
        &CompileError::Compiled {
            package: app(),
            source: UnpackError::RootNotDirectory,
        },
        &CompileError::BlobChanged {
            package: app(),
            path: path("/work/blob"),
            source: mismatch(),
        },
        &CompileError::DanglingScript {
            package: app(),
            target: path("gone"),
        },
        &CompileError::ScriptIsNotAFile {
            package: app(),
            found: "a directory",
        },
        &CompileError::InstallTarget {
            package: app(),
            path: path("/var/vcap/packages/app"),
            found: "there is a file".into(),
        },
        &CompileError::Mounted {
            package: app(),
            mount: path("/var/vcap/packages/app/m"),
        },
        &CompileError::Unkillable {
            package: app(),
            processes: vec![process::Unkillable {
                process: 12,
                name: "sandbox-child".to_owned(),
                state: "D".to_owned(),
                waits_in: Some("nfs_wait".to_owned()),
                frozen_by: None,
                step: Some("start `/x/bash`".to_owned()),
            }],
            status: Status::Exited(0),
            left: None,
        },
        &CompileError::NoResponse {
            package: app(),
            processes: vec![process::Unkillable {
                process: 12,
                name: "sandbox-child".to_owned(),
                state: "D".to_owned(),
                waits_in: None,
                frozen_by: None,
                step: Some("look up `/mnt/x`".to_owned()),
            }],
        },
        &CompileError::TimedOut {
            package: app(),
            step: "look up `/mnt/x`".to_owned(),
        },
        &CompileError::Pack {
            package: app(),
            source: PackError::Changed { path: path("/a/b") },
        },
        &CompileError::Files {
            package: app(),
            source: file(),
        },
        &CompileError::Sandbox {
            package: app(),
            source: SandboxError::NoServer,
        },
        &CompileError::NoSpace {
            directory: path("/work"),
            space: space(),
            source: Box::new(CompileError::Files {
                package: app(),
                source: fs::Error::new(
                    "write",
                    Path::new("/work/file"),
                    io::Error::from_raw_os_error(28),
                ),
            }),
        },
        &CompileError::Denied { package: app() },
        &CompileError::ReplacedByShell { package: app() },
        &CompileError::AcrossMounts {
            package: app(),
            lines: vec![line("ln: Invalid cross-device link")],
        },
        &CompileError::Stopped { package: app() },
        &RestoreError::NoBlob,
        &RestoreError::Blob {
            path: path("/work/blob"),
            source: mismatch(),
        },
        &RestoreError::Unpack(UnpackError::RootNotDirectory),
        &RestoreError::ChangedAgain,
        &ScriptFailure {
            package: app(),
            status: Status::Signaled(9),
            elapsed: Duration::from_secs(1),
            cause: None,
            processes: Vec::new(),
            tail: LastLines::default(),
            undeclared: Vec::new(),
            findings: Vec::new(),
            denials: None,
            endings: Vec::new(),
            log: path("/logs/app.log"),
            first_log: None,
            log_failure: None,
        },
    ]);
    for cause in [
        Cause::OutOfMemory { killed: 1 },
        Cause::OutOfMemory { killed: 2 },
        Cause::TimeLimit {
            limit: Duration::from_secs(60),
        },
        Cause::Silence {
            limit: Duration::from_secs(1200),
        },
        Cause::Scratch {
            directory: path("/var/vcap/data/app"),
        },
        Cause::NoSpace { full: None },
        Cause::NoSpace {
            full: Some((path("/work"), space())),
        },
    ] {
        lines.push(format!("cause: {cause}"));
    }
    assert_page("errors_of_compile", &lines);
}

fn space() -> fs::Space {
    fs::Space {
        free: 0,
        total: 1 << 30,
        inodes: Some((5, 100)),
        device: 1,
    }
}

#[test]
fn findings() {
    let shown = |findings: &[Finding]| -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    };
    let reference = |kind| Reference {
        path: path("bin/app"),
        kind,
        target: "/var/vcap/data/compile/app/x".to_owned(),
    };
    let texts = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
    assert_page(
        "findings",
        &shown(&[
            Finding::NoScript {
                similar: texts(&["packaging.sh"]),
                entries: texts(&["packaging.sh", "src"]),
                others: 0,
            },
            Finding::NoScript {
                similar: Vec::new(),
                entries: texts(&["a", "b"]),
                others: 3,
            },
            Finding::NoScript {
                similar: Vec::new(),
                entries: Vec::new(),
                others: 0,
            },
            Finding::CarriageReturns { first: 2, lines: 1 },
            Finding::CarriageReturns { first: 2, lines: 9 },
            Finding::ByteOrderMark,
            Finding::NothingInstalled {
                lines: vec![line("make: not found")],
                log: path("/logs/app.log"),
            },
            Finding::CompileDirectory {
                directory: path("/var/vcap/data/compile"),
                references: vec![reference(ReferenceKind::Interpreter)],
                others: 2,
            },
            Finding::NoSuchOwner {
                line: line("chown: invalid user"),
                highest: 65_535,
            },
            Finding::RanConcurrently { line: None },
            Finding::RanConcurrently {
                line: Some(line("Address already in use")),
            },
            Finding::ProtectedHost {
                line: line("touch: /etc/x: Read-only file system"),
                path: Some(path("/etc/x")),
            },
            Finding::ProtectedHost {
                line: line("Read-only file system"),
                path: None,
            },
            Finding::NoMounts {
                line: line("mount: permission denied"),
            },
            Finding::NoExecution {
                directory: path("/var/vcap/data"),
            },
        ]),
    );
}

#[test]
fn sandbox() {
    let errors = [
        SandboxError::Files(file()),
        SandboxError::Busy {
            base: path("/var/vcap"),
            holder: "process 12 on host `build-1`".to_owned(),
        },
        SandboxError::Foreign {
            directory: path("/var/vcap/packages"),
            entry: "redis".to_owned(),
        },
        SandboxError::ForeignMount {
            directory: path("/var/vcap/packages"),
        },
        SandboxError::Replaced {
            directories: vec![
                (path("/var/vcap/data"), path("/elsewhere")),
                (path("/var/vcap/packages"), path("/etc")),
            ],
        },
        SandboxError::UnknownLinks {
            links: vec![
                (path("/var/vcap/data"), path("/elsewhere")),
                (path("/var/vcap/packages"), path("/etc")),
            ],
        },
        SandboxError::LeftLink {
            directory: path("/var/vcap/data"),
            target: path("/mnt/other"),
        },
        SandboxError::LeftMount {
            directory: path("/var/vcap/data"),
            marker: path("/var/vcap/packages/.bosh-agent:compile"),
        },
        SandboxError::SilentMount {
            directory: path("/var/vcap/data"),
            limit: Some(Duration::from_secs(30)),
        },
        SandboxError::SilentMount {
            directory: path("/var/vcap/data"),
            limit: None,
        },
        SandboxError::Stopped,
        SandboxError::Scratch {
            directory: path("/scratch"),
            source: file(),
        },
        SandboxError::Supervise(process::SuperviseError::Channels(missing())),
        SandboxError::Supervise(process::SuperviseError::Terminal(missing())),
        SandboxError::Supervise(process::SuperviseError::Start {
            program: path("/proc/self/exe"),
            source: missing(),
        }),
        SandboxError::Step(step()),
        SandboxError::LookupStep(step()),
        SandboxError::NoUserNamespace(step()),
        SandboxError::Network { source: None },
        SandboxError::ProtectHost { source: None },
        SandboxError::ProtectHost {
            source: Some(Box::new(SandboxError::Step(step()))),
        },
        SandboxError::ProbeFailed(Status::Exited(1)),
        SandboxError::NoReport {
            status: Status::Signaled(9),
        },
        SandboxError::NoAnswer {
            status: Status::Signaled(9),
        },
        SandboxError::NoServer,
    ];
    let mut lines = Vec::new();
    for error in &errors {
        lines.push(Chain(error).to_string());
        lines.extend(error.hint().map(|hint| format!("  Hint: {hint}")));
    }
    let at = || path("/var/vcap/x");
    for step in [
        Step::ReadOrders,
        Step::LockProcesses(at()),
        Step::AdoptOrphans,
        Step::ListenForSignals,
        Step::SeparateUsers,
        Step::MapUsers("with newuidmap and newgidmap".to_owned()),
        Step::BecomeRoot,
        Step::TryMount,
        Step::SeparateProcesses,
        Step::Fork,
        Step::FollowParent,
        Step::SeparateIpc,
        Step::TakeTerminal,
        Step::SeparateMounts,
        Step::SeparateNetwork,
        Step::StartLoopback,
        Step::KeepMountsPrivate,
        Step::EnterWork(at()),
        Step::MountMemory(at()),
        Step::MakePlace(at()),
        Step::MountScratch(at()),
    ] {
        lines.push(format!("step: {}", StepError { step, errno: 13 }));
    }
    assert_page("errors_of_sandbox", &lines);
}

#[test]
fn files() {
    let mut lines = Vec::new();
    for action in [
        "open",
        "unmount",
        "clear the immutable or append-only flag of",
    ] {
        let error = fs::Error::new(action, Path::new("/a/b"), missing());
        lines.push(Chain(&error).to_string());
        lines.extend(error.hint().map(|hint| format!("  Hint: {hint}")));
    }
    assert_page("errors_of_fs", &lines);
}

#[test]
fn process() {
    let program = || path("/bin/x");
    let mut lines = chains(&[
        &process::RunError::Pipe {
            program: program(),
            source: missing(),
        },
        &process::RunError::Start {
            program: program(),
            source: missing(),
        },
        &process::RunError::Wait {
            program: program(),
            source: missing(),
        },
        &process::RunError::Stopped,
    ]);
    for status in [
        Status::Exited(0),
        Status::Exited(3),
        Status::Exited(137),
        Status::Signaled(15),
        Status::Signaled(200),
    ] {
        lines.push(format!("a script that {status}"));
    }
    assert_page("errors_of_process", &lines);
}

#[test]
fn http_and_tls() {
    let server = || "blobs.example:443".to_owned();
    assert_page(
        "errors_of_http",
        &chains(&[
            &http::Error::Connect {
                server: server(),
                source: Box::new(missing()),
            },
            &http::Error::Proxy {
                proxy: "proxy:8080".to_owned(),
                server: server(),
                source: Box::new(missing()),
            },
            &http::Error::Timeout {
                step: "the connection to",
                server: server(),
                limit: Duration::from_secs(30),
            },
            &http::Error::TlsUnavailable(Arc::new(tls::TlsError::SystemRoots(
                "none found".to_owned(),
            ))),
            &http::Error::Handshake {
                server: server(),
                source: missing(),
            },
            &http::Error::TooLong { limit: 1000 },
            &http::Error::Redirect("no Location header"),
            &http::InvalidUrl::Malformed(url::ParseError::EmptyHost),
            &http::InvalidUrl::Scheme,
            &http::InvalidHeaders::NotAnObject,
            &http::InvalidHeaders::Name("a b".to_owned()),
            &http::InvalidHeaders::Value("X-A".to_owned()),
            &tls::TlsError::NoCertificate {
                what: "the certificate",
            },
            &tls::TlsError::Unusable {
                what: "the certificate",
                source: rustls::Error::DecryptError,
            },
            &tls::TlsError::SystemRoots("none found".to_owned()),
        ]),
    );
}

#[test]
fn blobstores() {
    let failure = |cause| blobs::Failure {
        place: "https://blobs.example".to_owned(),
        attempts: 3,
        cause,
    };
    let program = |lines: &[&str]| blobs::AttemptError::Program {
        program: "bosh-blobstore-s3".to_owned(),
        status: Status::Exited(1),
        is_upload: false,
        source: blobs::ProgramOutput {
            lines: lines.iter().map(|it| (*it).to_owned()).collect(),
        },
    };
    let status = http::StatusCode::NOT_FOUND;
    let blob = || "id".to_owned();
    let unusable = |problem| blobs::AttemptError::Unusable(Arc::new(problem));
    let causes = [
        unusable(blobs::StoreProblem::NoSettings),
        unusable(blobs::StoreProblem::Dummy),
        unusable(blobs::StoreProblem::Provider("a/b".to_owned())),
        unusable(blobs::StoreProblem::Missing {
            provider: "dav",
            option: "endpoint",
        }),
        unusable(blobs::StoreProblem::Endpoint(http::InvalidUrl::Scheme)),
        unusable(blobs::StoreProblem::NoProgram(
            "bosh-blobstore-s3".to_owned(),
        )),
        unusable(blobs::StoreProblem::Configuration {
            program: "bosh-blobstore-s3".to_owned(),
            source: file(),
        }),
        blobs::AttemptError::File(file()),
        blobs::AttemptError::Http(http::Error::TooLong { limit: 1000 }),
        blobs::AttemptError::DownloadRefused { status },
        blobs::AttemptError::UploadRefused {
            file: path("/work/blob"),
            status,
        },
        blobs::AttemptError::GetRefused {
            blob: blob(),
            status,
        },
        blobs::AttemptError::PutRefused {
            blob: blob(),
            status,
        },
        blobs::AttemptError::Digest {
            blob: blob(),
            expected: "aa".to_owned(),
            actual: "bb".to_owned(),
        },
        program(&["denied"]),
        program(&[]),
        blobs::AttemptError::Run(process::RunError::Stopped),
        blobs::AttemptError::Stopped,
    ];
    let mut lines: Vec<String> = causes
        .into_iter()
        .map(|cause| Chain(&blobs::BlobError::Get(failure(cause))).to_string())
        .collect();
    let refused = || failure(blobs::AttemptError::DownloadRefused { status });
    lines.extend(chains(&[
        &blobs::BlobError::Create(refused()),
        &blobs::BlobError::Download(refused()),
        &blobs::BlobError::Upload(refused()),
        &blobs::BlobError::Stopped,
    ]));
    assert_page("errors_of_blobs", &lines);
}

#[test]
fn settings() {
    use config::json::JsonError;
    use machine::settings::{LoadError, SourceErrors};
    use machine::sources::{DiskError, NoSource, SourceError};
    let syntax = || JsonError::Syntax {
        kind: "syntax error",
        line: 3,
        column: 7,
    };
    assert_page(
        "errors_of_settings",
        &chains(&[
            &syntax(),
            &JsonError::WrongType {
                place: "env.bosh".to_owned(),
                expected: "an object",
                found: "a number",
            },
            &config::AgentIdError::Missing,
            &config::AgentIdError::TooLong { length: 1000 },
            &config::AgentIdError::Character { character: '*' },
            &config::AgentIdError::Dots,
            &config::SettingsError::Json(syntax()),
            &config::SettingsError::AgentId(config::AgentIdError::Missing),
            &config::AgentConfigError::Json(syntax()),
            &config::AgentConfigError::MissingSourceType,
            &config::AgentConfigError::UnknownSourceType {
                kind: "Floppy".to_owned(),
            },
            &NoSource::None,
            &NoSource::Path,
            &NoSource::Disk {
                kind: "CDROM",
                option: "FileName",
            },
            &NoSource::Unsupported {
                kinds: "VsphereGuestInfo".to_owned(),
            },
            &config::MissingSetting::Bus,
            &config::MissingSetting::Empty("env.bosh.mbus.cert.certificate"),
            &config::MissingSetting::EmptyUpdate("mbus.cert.private_key"),
            &DiskError::Missing {
                disks: vec![path("/dev/vdb"), path("/dev/vdc")],
            },
            &DiskError::Mount {
                disk: path("/dev/vdb"),
                status: Status::Exited(32),
                tail: vec!["mount: wrong fs type".to_owned()],
            },
            &DiskError::NoProgram("mount"),
            &DiskError::Slow("mount"),
            &DiskError::TooLong {
                path: path("/run/disk/env"),
                size: 5_000_000,
            },
            &SourceError::Missing {
                path: path("/settings.json"),
            },
            &SourceError::Unreadable(file()),
            &SourceError::Invalid {
                place: "/settings.json".to_owned(),
                source: config::SettingsError::Json(syntax()),
            },
            &SourceError::Unsupported {
                kind: "VsphereGuestInfo".to_owned(),
            },
            &LoadError::Update {
                path: path("/update_settings.json"),
                source: syntax(),
            },
            &LoadError::Failed(SourceErrors(vec![
                SourceError::Missing {
                    path: path("/settings.json"),
                },
                SourceError::Unreadable(file()),
            ])),
            &LoadError::Unsupported(SourceErrors(vec![
                SourceError::Unsupported {
                    kind: "VsphereGuestInfo".to_owned(),
                },
                SourceError::Missing {
                    path: path("/settings.json"),
                },
            ])),
            &LoadError::Stopped,
            &machine::data::ReplacedData {
                path: path("/var/vcap/data"),
            },
            &machine::bootstrap::BootstrapError::NotADirectory {
                path: path("/var/vcap/data"),
            },
            &machine::instance::InstanceError::Contents {
                path: path("/spec.json"),
                source: syntax(),
            },
            &machine::trusted_certs::TrustError::UpdateProgram(file()),
            &daemon::DaemonError::ReadConfig(file()),
            &daemon::DaemonError::Config {
                path: path("/agent.json"),
                source: config::AgentConfigError::MissingSourceType,
            },
            &daemon::DaemonError::NoSource(NoSource::None),
            &daemon::DaemonError::Settings(LoadError::Stopped),
            &daemon::DaemonError::Machine(machine::bootstrap::BootstrapError::File(file())),
            &daemon::DaemonError::Running {
                path: path("/var/vcap/bosh/lock"),
            },
            &daemon::DaemonError::Bus(transport::TransportError::ListenerEnded),
            &transport::TransportError::Scheme {
                scheme: "ftp".to_owned(),
            },
            &transport::TransportError::Url {
                position: 2,
                problem: "no host",
            },
            &transport::TransportError::AgentId {
                problem: "it contains wildcards",
            },
            &transport::TransportError::Tls(tls::TlsError::SystemRoots("none".to_owned())),
            &transport::TransportError::Listen {
                address: "0.0.0.0:6868".to_owned(),
                source: missing(),
            },
            &transport::TransportError::Blobs(Box::new(file())),
        ]),
    );
}

#[test]
fn agent_requests() {
    use agent::arguments::ArgumentError;
    use agent::logs_archive::LogsError;
    use agent::protocol::InvalidRequest;
    use agent::tasks::TaskError;
    assert_page(
        "errors_of_agent",
        &chains(&[
            &ArgumentError::Missing {
                expected: 5,
                got: 2,
            },
            &ArgumentError::Type {
                what: "blob id",
                found: "a number",
            },
            &ArgumentError::Invalid {
                what: "name",
                reason: "is empty".to_owned(),
            },
            &InvalidRequest::Json {
                line: 1,
                column: 12,
            },
            &InvalidRequest::NotObject { found: "a list" },
            &InvalidRequest::Duplicate,
            &InvalidRequest::Type {
                key: "method",
                found: "a number",
            },
            &TaskError::Unknown {
                id: "12".to_owned(),
            },
            &TaskError::Failed {
                id: "12".to_owned(),
                failure: "it failed".to_owned().into(),
            },
            &TaskError::NotCancelable,
            &TaskError::TooMany,
            &TaskError::Stopping,
            &LogsError::Kind,
            &LogsError::Files(file()),
        ]),
    );
}

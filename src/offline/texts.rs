//! Snapshots of the texts of `bosh-agent compile` that are hard to provoke through the built program.

use super::assemble::AssembleError;
use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::open_error::OpenError;
use super::problem::Problem;
use super::verify::VerifyError;
use crate::archive::AppendError;
use crate::compile::CompileError;
use crate::offline::{Annotations, Command, FailureCause, PackageFailure, report};
use crate::package_job::ScriptUser;
use crate::process::Unkillable;
use crate::release::{Slug, Version};
use crate::texts::{assert_page, chains, file, missing, name, path};
use crate::{fs, process};

#[test]
fn errors() {
    assert_page(
        "errors_of_offline",
        &chains(&[
            &OfflineError::Spool {
                tarball: path("a.tgz"),
                source: file(),
            },
            &OfflineError::Files(file()),
            &OfflineError::PackageInput {
                package: name("app"),
                source: file(),
            },
            &OfflineError::OverInput {
                path: path("a.tgz"),
            },
            &OfflineError::OneDocument {
                path: path("sbom.json"),
                results: 2,
            },
            &OfflineError::SameDocument {
                path: path("sboms/a.spdx.json"),
                results: [path("one/a.tgz"), path("two/a.tgz")],
            },
            &OfflineError::SamePlace {
                path: path("/out/a.json"),
                other: path("/link/a.json"),
            },
            &OfflineError::InEmptied {
                path: path("/var/vcap/packages/a.tgz"),
                directory: path("/var/vcap/packages"),
            },
            &OfflineError::ScriptUser {
                wanted: ScriptUser::Ordinary,
            },
            &OfflineError::Place {
                output: path("out.tgz"),
                source: AssembleError::Verify(VerifyError::Copy),
            },
            &OfflineError::Stopped,
            &InputProblemKind::NotAFile,
            &InputProblemKind::NothingToReuse,
            &InputProblemKind::NotReadTwice,
            &InputProblemKind::GivenTwice {
                earlier: path("a.tgz"),
            },
            &InputProblemKind::OutputDirectory(file()),
            &InputProblemKind::NothingSelected,
            &InputProblemKind::SelectionOfCompiled,
            &InputProblemKind::NoSpace {
                purpose: "to extract the tarballs",
                needed: 3 << 20,
                free: 1 << 20,
            },
            &AssembleError::Files(file()),
            &AssembleError::Append(AppendError::Output { source: missing() }),
            &AssembleError::Verify(VerifyError::Files(file())),
            &AssembleError::NoSpace {
                size: 60 << 20,
                source: AssembleError::Files(file()).into(),
            },
            &VerifyError::Decode(missing()),
            &VerifyError::Entry {
                number: 3,
                expected: "./a".to_owned(),
                found: "./b".to_owned(),
            },
            &VerifyError::Content("./a".to_owned()),
            &VerifyError::Copy,
            &OpenError::Files(file()),
            &OpenError::Decode(missing()),
            &OpenError::OddManifest("too long".to_owned()),
            &OpenError::Manifest(Vec::new()),
            &Problem::UnknownJobPackages { job: name("web") },
            &Problem::OtherStemcell {
                package: name("app"),
                theirs: Slug::parse("ubuntu-jammy/1").unwrap(),
                ours: Slug::parse("ubuntu-noble/1").unwrap(),
            },
        ]),
    );
}

#[test]
fn reports() {
    let of = |source| {
        OfflineError::Package(Box::new(PackageFailure {
            releases: vec![(name("demo"), Version::parse("1").unwrap())],
            package: (name("app"), Version::parse("abc").unwrap()),
            blob: (path("packages/app.tgz"), 1),
            log: None,
            error_line: None,
            source: FailureCause::Local(source),
        }))
    };
    let no_space = || {
        fs::Error::new(
            "write",
            &path("/out/a"),
            std::io::Error::from_raw_os_error(28),
        )
    };
    let read_only = || {
        fs::Error::new(
            "write",
            &path("/out/a"),
            std::io::Error::from_raw_os_error(30),
        )
    };
    let app = || name("app");
    let errors = [
        OfflineError::Input(vec![InputProblem {
            path: path("/out"),
            kind: InputProblemKind::NoSpace {
                purpose: "for the results",
                needed: 3 << 20,
                free: 1 << 20,
            },
        }]),
        OfflineError::Files(no_space()),
        OfflineError::Files(read_only()),
        OfflineError::Assemble {
            output: path("/out/a.tgz"),
            source: AssembleError::Verify(VerifyError::Copy),
        },
        of(CompileError::Files {
            package: app(),
            source: no_space(),
        }),
        of(CompileError::Mounted {
            package: app(),
            mount: path("/var/vcap/packages/app/m"),
        }),
        of(CompileError::Unkillable {
            package: app(),
            processes: vec![Unkillable {
                process: 12,
                name: "cp".to_owned(),
                state: "D".to_owned(),
                waits_in: None,
                frozen_by: None,
                step: None,
            }],
            status: process::Status::Exited(0),
            left: Some(path("/work/places/1")),
        }),
        of(CompileError::Unkillable {
            package: app(),
            processes: vec![Unkillable {
                process: 12,
                name: "cp".to_owned(),
                state: "D".to_owned(),
                waits_in: None,
                frozen_by: Some(vec!["/sys/fs/cgroup/freezer/ci".to_owned()]),
                step: None,
            }],
            status: process::Status::Exited(0),
            left: None,
        }),
        of(CompileError::Stopped { package: app() }),
    ];
    let pages: Vec<String> = errors
        .iter()
        .map(|error| report(error, Annotations::None, Command::Compile))
        .collect();
    assert_page("reports", &pages);
}

//! Builds the messages that describe a package's action, and their digests. No I/O.
//!
//! A server finds the results of earlier runs by these digests, so equal packages must produce
//! equal bytes. The messages contain everything that affects the result: the program, the job with
//! its settings, the source, the dependencies and the platform. They contain nothing that concerns
//! only this machine.

use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::protobuf::Duration;
use prost::Message as _;

use super::common::Common;
use crate::package_job::{JobDependency, PackageJob};
use crate::reapi::{Blob, Digest};
use crate::release::{Name, Version};

/// The path of the compiled package in the result of an action. Paths are relative to the root of
/// the action's inputs.
pub(super) const PACKAGE: &str = "out/package";

/// The path of the packaging script's log.
pub(super) const LOG: &str = "out/log";

/// The path of the report.
pub(super) const REPORT: &str = "out/report.json";

const PROGRAM: &str = "bosh-agent";
const JOB: &str = "job.json";
const SOURCE: &str = "source";
const DEPENDENCIES: &str = "dependencies";

/// The version of the actions' messages. It changes with their meaning, so that the results of earlier versions are not used.
const FORMAT: u8 = 1;

/// The inputs of one package's action.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    pub name: Name,
    pub version: Version,
    pub source: Digest,
    /// The direct dependencies, in any order.
    pub dependencies: Vec<(Name, Version, Digest)>,
    /// Whether a dependency, or one of its own, was compiled without restrictions.
    pub is_unrestricted: bool,
}

/// The messages of a package's action.
#[derive(Debug)]
pub(super) struct PackageAction {
    pub digest: Digest,
    /// The blobs that only this action has: its messages and its job.
    pub blobs: Vec<Blob>,
}

/// Builds the action of a package.
///
/// # Errors
/// If the job cannot be written as JSON.
pub(super) fn action(common: &Common, inputs: &Inputs) -> Result<PackageAction, serde_json::Error> {
    let mut dependencies = inputs.dependencies.clone();
    dependencies.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let job = Blob::new(job(common, inputs, &dependencies).to_json()?);
    let mut root = api::Directory {
        files: vec![
            file(PROGRAM, &common.program.digest, true),
            file(JOB, &job.digest, false),
            file(SOURCE, &inputs.source, false),
        ],
        ..Default::default()
    };
    let mut blobs = vec![job];
    if !dependencies.is_empty() {
        let files = dependencies.iter();
        let directory = api::Directory {
            files: files
                .map(|(name, _, digest)| file(name.as_str(), digest, false))
                .collect(),
            ..Default::default()
        };
        let directory = Blob::new(directory.encode_to_vec());
        root.directories.push(api::DirectoryNode {
            name: DEPENDENCIES.to_owned(),
            digest: Some(directory.digest.message()),
        });
        blobs.push(directory);
    }
    let root = Blob::new(root.encode_to_vec());
    let platform = platform(&common.platform);
    let command = Blob::new(command(platform.clone()).encode_to_vec());
    let action = api::Action {
        command_digest: Some(command.digest.message()),
        input_root_digest: Some(root.digest.message()),
        timeout: common.timeout.map(|seconds| Duration {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        salt: vec![FORMAT],
        platform,
        ..Default::default()
    };
    let action = Blob::new(action.encode_to_vec());
    let digest = action.digest.clone();
    blobs.extend([root, command, action]);
    Ok(PackageAction { digest, blobs })
}

fn job(common: &Common, inputs: &Inputs, sorted: &[(Name, Version, Digest)]) -> PackageJob {
    let dependencies = sorted.iter().map(|(name, version, _)| JobDependency {
        name: name.clone(),
        version: version.clone(),
        blob: PathBuf::from(format!("{DEPENDENCIES}/{name}")),
    });
    PackageJob {
        name: inputs.name.clone(),
        version: inputs.version.clone(),
        source: PathBuf::from(SOURCE),
        dependencies: dependencies.collect(),
        stemcell: common.stemcell.clone(),
        script_user: common.script_user,
        settings: common.settings.clone(),
    }
}

fn file(name: &str, digest: &Digest, is_executable: bool) -> api::FileNode {
    api::FileNode {
        name: name.to_owned(),
        digest: Some(digest.message()),
        is_executable,
        node_properties: None,
    }
}

/// The platform message. The API requires that the properties are sorted.
fn platform(properties: &[(String, String)]) -> Option<api::Platform> {
    let mut sorted = properties.to_vec();
    sorted.sort();
    let properties = sorted.into_iter();
    let properties = properties.map(|(name, value)| api::platform::Property { name, value });
    let properties: Vec<_> = properties.collect();
    (!properties.is_empty()).then_some(api::Platform { properties })
}

fn command(platform: Option<api::Platform>) -> api::Command {
    let program = format!("./{PROGRAM}");
    let arguments = [
        program.as_str(),
        "compile-package",
        "--job",
        JOB,
        "--output",
        PACKAGE,
        "--log",
        LOG,
        "--report",
        REPORT,
    ];
    let outputs = [LOG, PACKAGE, REPORT].map(str::to_owned);
    #[expect(
        deprecated,
        reason = "servers before version 2.1 read only these fields"
    )]
    api::Command {
        arguments: arguments.map(str::to_owned).into(),
        output_files: outputs.clone().into(),
        output_paths: outputs.into(),
        platform,
        ..Default::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::KnownFile;
    use crate::config::Environment;
    use crate::http::{Client, Headers, Timeouts, Url};
    use crate::package_job::{JobSettings, ScriptUser};
    use crate::reapi::Server;
    use crate::release::Slug;
    use crate::tls::{self, Profile};

    pub(in crate::cluster) fn common() -> Common {
        let client = Client::new(
            tls::client(None, Profile::External),
            &Environment::default(),
        );
        let url = Url::parse("http://127.0.0.1:1").unwrap();
        let timeouts = [Timeouts::default(); 2];
        Common {
            server: Arc::new(Server::new(&url, Headers::new(), &client, timeouts)),
            program: KnownFile {
                path: PathBuf::from("/bosh-agent"),
                digest: Digest::of(b"program"),
            },
            platform: Vec::new(),
            timeout: None,
            stemcell: Some(Slug::parse("ubuntu-noble/1.1").unwrap()),
            script_user: None,
            settings: JobSettings::default(),
            accepts_unrestricted: false,
            log_lines: 2,
        }
    }

    pub(in crate::cluster) fn inputs(dependencies: &[&str]) -> Inputs {
        let parse = |text: &&str| {
            let name = Name::parse(text).unwrap();
            (
                name,
                Version::parse("1").unwrap(),
                Digest::of(text.as_bytes()),
            )
        };
        Inputs {
            name: Name::parse("app").unwrap(),
            version: Version::parse("abc").unwrap(),
            source: Digest::of(b"source"),
            dependencies: dependencies.iter().map(parse).collect(),
            is_unrestricted: false,
        }
    }

    fn sha256(common: &Common, inputs: &Inputs) -> String {
        action(common, inputs).unwrap().digest.sha256
    }

    #[test]
    fn digest_of_a_known_action_never_changes() {
        assert_eq!(
            sha256(&common(), &inputs(&["zlib", "go"])),
            "7198be75ceaa27aae82e1f021a934f4fa4246b1946558aaede3541169ef1e1f8"
        );
    }

    #[test]
    fn digest_does_not_depend_on_the_order_of_dependencies_and_properties() {
        let mut one = common();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        one.platform = vec![pair("OSFamily", "linux"), pair("image", "docker://x")];
        let mut other = common();
        other.platform = one.platform.iter().rev().cloned().collect();
        assert_eq!(
            sha256(&one, &inputs(&["zlib", "go"])),
            sha256(&other, &inputs(&["go", "zlib"]))
        );
    }

    #[test]
    fn everything_that_affects_a_package_is_in_the_digest() {
        let usual = sha256(&common(), &inputs(&[]));
        let changed = |change: fn(&mut Common, &mut Inputs)| {
            let (mut common, mut inputs) = (common(), inputs(&[]));
            change(&mut common, &mut inputs);
            sha256(&common, &inputs)
        };
        let changes: [fn(&mut Common, &mut Inputs); 10] = [
            |_, inputs| inputs.name = Name::parse("b").unwrap(),
            |_, inputs| inputs.version = Version::parse("2").unwrap(),
            |_, inputs| inputs.source = Digest::of(b"other"),
            |_, inputs| *inputs = self::inputs(&["go"]),
            |common, _| common.program.digest = Digest::of(b"other"),
            |common, _| common.platform.push(("a".to_owned(), "b".to_owned())),
            |common, _| common.timeout = Some(60),
            |common, _| common.stemcell = None,
            |common, _| common.script_user = Some(ScriptUser::Root),
            |common, _| common.settings.compression_level = 1,
        ];
        let mut all: Vec<String> = changes.into_iter().map(changed).collect();
        all.push(usual);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), changes.len() + 1);
        // The path of the program on this machine does not affect the digest.
        let moved = changed(|common, _| common.program.path = PathBuf::from("/elsewhere"));
        assert!(all.contains(&moved));
    }

    #[test]
    fn action_has_all_its_blobs() {
        let common = common();
        let inputs = inputs(&["go"]);
        let action = action(&common, &inputs).unwrap();
        let blob = |digest: &api::Digest| {
            let mut blobs = action.blobs.iter();
            let found = blobs.find(|it| it.digest.sha256 == digest.hash);
            found.unwrap().data.as_slice()
        };
        let message = api::Action::decode(blob(&action.digest.message())).unwrap();
        let command = api::Command::decode(blob(message.command_digest.as_ref().unwrap())).unwrap();
        assert_eq!(command.arguments[0], "./bosh-agent");
        let root = api::Directory::decode(blob(message.input_root_digest.as_ref().unwrap()));
        let root = root.unwrap();
        let names = root.files.iter().map(|it| it.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), [PROGRAM, JOB, SOURCE]);
        let job = PackageJob::parse(blob(root.files[1].digest.as_ref().unwrap())).unwrap();
        assert_eq!(job.dependencies[0].blob, PathBuf::from("dependencies/go"));
        let directory = blob(root.directories[0].digest.as_ref().unwrap());
        let directory = api::Directory::decode(directory).unwrap();
        assert_eq!(directory.files[0].name, "go");
    }
}

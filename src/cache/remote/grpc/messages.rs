//! The messages that describe a package on a server of the Remote Execution API. No I/O.
//!
//! The API finds a result by the digest of an *action*. A package's action has no inputs, and its
//! command, `bosh-agent package NAME KEY`, is never run, so the digest depends only on name and
//! key. The standard output in the action's result is the package's entry, in the format of a local
//! cache. The files of the package are output files, so servers keep them as long as the result.

use prost::Message as _;

use crate::cache::entry::{Content, Entry};
use crate::cache::key::Key;
use crate::reapi::{Blob, Digest, messages as api};

/// The action of a package and the action's command.
pub(super) fn action(name: &str, key: &Key) -> [Blob; 2] {
    let command = api::Command {
        arguments: ["bosh-agent", "package", name, key.as_str()]
            .map(str::to_owned)
            .into(),
        ..Default::default()
    };
    let command = Blob::new(command.encode_to_vec());
    let action = api::Action {
        command_digest: Some(command.digest.message()),
        input_root_digest: Some(Digest::of(&[]).message()),
        ..Default::default()
    };
    [Blob::new(action.encode_to_vec()), command]
}

/// The result of a package's action. `text` is the package's entry.
pub(super) fn result(entry: &Entry, text: &Blob) -> api::ActionResult {
    let file = |path: &str, content| api::OutputFile {
        path: path.to_owned(),
        digest: Some(digest(content).message()),
        ..Default::default()
    };
    let log = entry.log.as_ref().map(|log| file("log", log));
    let files = std::iter::once(file("package", &entry.blob)).chain(log);
    api::ActionResult {
        output_files: files.collect(),
        stdout_raw: text.data.clone(),
        stdout_digest: Some(text.digest.message()),
        ..Default::default()
    }
}

pub(super) fn digest(content: &Content) -> Digest {
    Digest {
        sha256: content.sha256.clone(),
        size: content.size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_a_known_action_never_changes() {
        // The digest of an action does not depend on the format of keys.
        let key = "bda7793394ba3ef18e6a14003471799a4f6fd789b0f941fabdd235dba85bb056";
        let [action, command] = action("app", &Key::parse(key).unwrap());
        assert_eq!(
            (
                action.digest.sha256.as_str(),
                command.digest.sha256.as_str()
            ),
            (
                "bcee838d0343b27cbba5bb1c17eae3e2ef1a6cf14880ad9af80c4dfd6c434047",
                "1030efc556a09b0ca2c25e013e9d93410fbb60f098bd206d99047afb761702ab"
            )
        );
    }
}

//! Blobs in a blobstore that is accessed through a program of the stemcell,
//! `bosh-blobstore-PROVIDER`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::error::ProgramOutput;
use super::receive::Download;
use super::{AttemptError, BlobId, BlobstoreSettings, StoreProblem};
use crate::config::{Environment, Secret, Vcap};
use crate::fs;
use crate::process::{self, Program};

#[derive(Debug)]
pub(super) struct External {
    name: String,
    file: PathBuf,
    configuration: PathBuf,
    environment: Environment,
    /// Strings that are removed from the program's output.
    secrets: Vec<Secret>,
}

impl External {
    /// Finds the program, and writes the options to the program's configuration file.
    pub(super) fn new(
        settings: &BlobstoreSettings,
        vcap: &Vcap,
        environment: &Environment,
    ) -> Result<Self, StoreProblem> {
        let provider = &settings.provider;
        // Restrict the characters, because the name becomes part of two paths.
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !provider.bytes().all(is_name) {
            return Err(StoreProblem::Provider(provider.clone()));
        }
        let name = format!("bosh-blobstore-{provider}");
        let Some(file) = process::find_program(&name, environment) else {
            return Err(StoreProblem::NoProgram(name));
        };
        let configuration = vcap.blobstore_options(provider);
        let written = fs::create_dir_all(fs::parent(&configuration)).and_then(|()| {
            let options = settings.options.to_string();
            fs::write_atomic(&configuration, options.as_bytes(), 0o600)
        });
        if let Err(source) = written {
            return Err(StoreProblem::Configuration {
                program: name,
                source,
            });
        }
        let mut secrets = Vec::new();
        collect_secrets(&settings.options, false, &mut secrets);
        Ok(Self {
            name,
            file,
            configuration,
            environment: environment.clone(),
            secrets,
        })
    }

    pub(super) async fn get(
        &self,
        id: &BlobId,
        download: &Download<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let temporary = download.temporary().await?;
        let to = temporary.to_path_buf().into();
        self.run(["get".into(), id.as_str().into(), to], false, cancel)
            .await?;
        download.check(temporary, cancel).await
    }

    pub(super) async fn put(
        &self,
        from: &Path,
        id: &BlobId,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let call = ["put".into(), from.into(), id.as_str().into()];
        self.run(call, true, cancel).await
    }

    async fn run(
        &self,
        call: [OsString; 3],
        is_upload: bool,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let configuration = ["-c".into(), self.configuration.clone().into()];
        let program = Program {
            file: self.file.clone(),
            arguments: configuration.into_iter().chain(call).collect(),
            environment: self.environment.clone(),
        };
        let ended = process::run_to_end(&program, cancel).await?;
        if ended.status.is_success() {
            return Ok(());
        }
        Err(AttemptError::Program {
            program: self.name.clone(),
            status: ended.status,
            is_upload,
            source: ProgramOutput {
                lines: ended.tail.iter().map(|line| self.redacted(line)).collect(),
            },
        })
    }

    fn redacted(&self, line: &str) -> String {
        self.secrets.iter().fold(line.to_owned(), |line, secret| {
            line.replace(secret.expose(), "[redacted]")
        })
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Collects the strings below keys that name secrets. A string with several lines (a private key) is
/// collected line by line. Short strings are left out, because redacting them would make messages
/// unreadable.
fn collect_secrets(value: &Value, is_secret: bool, into: &mut Vec<Secret>) {
    const SECRET_WORDS: [&str; 5] = ["key", "secret", "password", "token", "credential"];
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = key.to_lowercase();
                let named = SECRET_WORDS.iter().any(|word| key.contains(word));
                collect_secrets(value, is_secret || named, into);
            }
        }
        Value::Array(values) => {
            for value in values {
                collect_secrets(value, is_secret, into);
            }
        }
        Value::String(text) if is_secret => {
            // A private key in JSON has escaped newlines.
            let lines = text.lines().flat_map(|line| line.split("\\n"));
            into.extend(
                lines
                    .map(str::trim)
                    .filter(|line| line.len() >= 6)
                    .map(Secret::new),
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_found_by_their_keys_and_line_by_line() {
        let options = json!({
            "bucket_name": "compiled-packages",
            "access_key_id": "AKIAHUNTER2",
            "json_key": r#"{"private_key": "-----BEGIN-----\nhunter2A\nhunter2B\n"}"#,
            "credentials": {"user": "hunter2", "pin": "1234", "number": 1234567},
            "password": null,
        });
        let mut secrets = Vec::new();
        collect_secrets(&options, false, &mut secrets);
        let mut texts: Vec<&str> = secrets.iter().map(Secret::expose).collect();
        texts.sort_unstable();
        assert_eq!(
            texts,
            [
                "AKIAHUNTER2",
                "hunter2",
                "hunter2A",
                "hunter2B",
                r#"{"private_key": "-----BEGIN-----"#,
            ]
        );
    }
}

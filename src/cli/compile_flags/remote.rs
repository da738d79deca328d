//! Flags of `compile`: packages that other machines compile.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::compilation::ScriptFlags;
use crate::cache::{CERTIFICATE, CERTIFICATE_KEY, Credentials, Location};
use crate::cli::values;
use crate::config::Environment;
use crate::offline::RemoteOptions;

#[derive(Debug, Args)]
#[command(next_help_heading = "Other machines")]
pub(in crate::cli) struct RemoteFlags {
    /// Compile the packages on the machines of a cluster with Bazel's Remote Execution API. The URL of its
    /// server begins with grpc:// or grpcs://. docs/cluster.md says what the machines need
    #[arg(long, value_name = "URL", conflicts_with_all = [
        "jobs", "memory_per_job", "force", "nice", "timeout", "silence_timeout", "scratch_dir",
        "keep_failed", "shell", "shell_on_failure", "verify_rebuild",
        "stemcell_image", "cache_dir", "cache_from", "cache_to", "cache_max_size",
    ])]
    pub remote: Option<String>,

    /// Name of the instance on the server [default: the path of the URL]
    #[arg(long, value_name = "NAME", requires = "remote")]
    pub remote_instance: Option<String>,

    /// Property that the other machines must have, such as
    /// `container-image=docker://IMAGE@sha256:DIGEST` (can be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = property, requires = "remote")]
    pub remote_property: Vec<(String, String)>,

    /// Maximum number of packages to compile concurrently on other machines
    #[arg(long, value_name = "N", default_value = "32", value_parser = jobs)]
    pub remote_jobs: NonZeroUsize,

    /// Let the server stop a package that takes longer than this [default: the server's own limit]
    #[arg(long, value_name = "DURATION", value_parser = values::limit, requires = "remote")]
    pub remote_timeout: Option<Duration>,

    /// Program that the other machines run: a bosh-agent of the same version, built for these machines
    /// [default: this program]
    #[arg(long, value_name = "FILE", requires = "remote")]
    pub remote_agent: Option<PathBuf>,
}

impl RemoteFlags {
    /// The machines that the flags ask for.
    ///
    /// # Errors
    /// If the URL or a variable cannot be used; the lines of the message.
    pub(in crate::cli) fn options(
        &self,
        (scripts, takes_unrestricted): (&ScriptFlags, bool),
        environment: &Environment,
    ) -> Result<Option<RemoteOptions>, String> {
        let Some(url) = &self.remote else {
            return Ok(None);
        };
        let location = Location::parse(url).map_err(|error| {
            format!(
                "Error: invalid value of --remote: {error}\nHint: {}",
                error.hint()
            )
        })?;
        let Location::Grpc(url) = &location else {
            return Err(format!(
                "Error: invalid value of --remote: `{location}` is not a server of the Remote Execution API\n\
                 Hint: pass a URL that begins with grpc:// or grpcs://"
            ));
        };
        Ok(Some(RemoteOptions {
            url: url.clone(),
            instance: self.remote_instance.clone(),
            platform: self.remote_property.clone(),
            jobs: self.remote_jobs,
            timeout: self.remote_timeout,
            agent: self.remote_agent.clone(),
            variables: variables(scripts, environment)?,
            credentials: Credentials::for_execution(environment),
            takes_unrestricted,
            certificate: certificate(url.is_https(), environment)?,
            location,
        }))
    }
}

/// The files of the client certificate and its key.
fn certificate(
    is_tls: bool,
    environment: &Environment,
) -> Result<Option<(PathBuf, PathBuf)>, String> {
    let file = |name| {
        let path = environment.get(name).filter(|it| !it.is_empty());
        path.map(PathBuf::from)
    };
    let alone = |set, unset| {
        Err(format!(
            "Error: the variable `{set}` is set without `{unset}`\nHint: set both, or none"
        ))
    };
    match (file(CERTIFICATE), file(CERTIFICATE_KEY)) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) if is_tls => Ok(Some((certificate, key))),
        (Some(_), Some(_)) => Err(format!(
            "Error: the variable `{CERTIFICATE}` needs a server with grpcs://\n\
             Hint: pass a URL that begins with grpcs://, or unset the variable"
        )),
        (Some(_), None) => alone(CERTIFICATE, CERTIFICATE_KEY),
        (None, Some(_)) => alone(CERTIFICATE_KEY, CERTIFICATE),
    }
}

/// The variables of `--env`. Those of this machine say nothing about the others.
fn variables(
    scripts: &ScriptFlags,
    environment: &Environment,
) -> Result<BTreeMap<String, String>, String> {
    let named = scripts.named(environment).map(|(name, value)| {
        let value = value.into_string().map_err(|_| {
            format!("Error: the value of the variable `{name}` of --env is not valid UTF-8")
        })?;
        Ok((name.to_owned(), value))
    });
    named.collect()
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse();
    number.map_err(|_| "expected a number of at least 1".to_owned())
}

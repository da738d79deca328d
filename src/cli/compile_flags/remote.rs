//! Flags of `compile`: packages that other machines compile.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::compilation::ScriptFlags;
use crate::cache::{CERTIFICATE, CERTIFICATE_KEY, Credentials, Location};
use crate::cli::values;
use crate::config::Environment;
use crate::offline::RemoteOptions;
use crate::package_job::ScriptUser;

/// Flags about the compilation on this machine, and why `--remote` refuses them if this machine compiles nothing.
const OF_THIS_MACHINE: &[(&str, &str)] = &[
    (
        "jobs",
        "this machine compiles no packages. --remote-jobs limits how many the other machines compile",
    ),
    ("memory_per_job", "this machine compiles no packages"),
    ("force", "this machine compiles no packages"),
    (
        "nice",
        "the operator of the other machines decides which niceness packages have there",
    ),
    (
        "keep_failed",
        "the files of failed packages stay on the other machines",
    ),
];

/// Flags that `--remote` always refuses, and why.
const NEVER: &[(&str, &str)] = &[
    (
        "scratch_dir",
        "scripts on other machines cannot use a directory of this machine",
    ),
    ("shell", "scripts run on other machines"),
    ("shell_on_failure", "scripts run on other machines"),
    (
        "verify_rebuild",
        "the second compilation would get the results of the first one from the server",
    ),
    (
        "stemcell_image",
        "--remote-property says which root file system the other machines have",
    ),
    ("cache_dir", CACHES),
    ("cache_from", CACHES),
    ("cache_to", CACHES),
    ("cache_max_size", CACHES),
];

/// Why the flags of caches are refused.
const CACHES: &str =
    "the server has a cache of its own, which names packages in another way (docs/cluster.md)";

#[derive(Debug, Args)]
#[command(next_help_heading = "Other machines")]
pub(in crate::cli) struct RemoteFlags {
    /// Compile the packages on the machines of a cluster with Bazel's Remote Execution API. The URL of its
    /// server begins with grpc:// or grpcs://. docs/cluster.md says what the machines need, and which other
    /// flags cannot be used
    #[arg(long, value_name = "URL")]
    pub remote: Option<String>,

    /// Instance name of the Remote Execution API [default: the path of the URL]
    #[arg(long, value_name = "NAME", requires = "remote")]
    pub remote_instance: Option<String>,

    /// Property that the other machines must have, such as
    /// `container-image=docker://IMAGE@sha256:DIGEST` (can be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = property, requires = "remote")]
    pub remote_property: Vec<(String, String)>,

    /// Maximum number of packages to compile concurrently on other machines
    #[arg(long, value_name = "N", default_value = "64", value_parser = jobs)]
    pub remote_jobs: NonZeroUsize,

    /// Let the server stop a package that takes longer than this [default: the server's own limit]
    #[arg(long, value_name = "DURATION", value_parser = values::limit, requires = "remote")]
    pub remote_timeout: Option<Duration>,

    /// Compile on this machine, and use the server only as a cache: do not compile a package if the server has
    /// it from an earlier run, on any machine
    #[arg(long, requires = "remote", conflicts_with_all = [
        "remote_fallback", "remote_jobs", "remote_queue_timeout",
    ])]
    pub remote_cache_only: bool,

    /// With --remote-cache-only, also store the packages of this machine on the server. Later runs
    /// take them as if a machine of the cluster had compiled them. So pass this flag only if this machine has
    /// the same compilers and libraries as those machines (docs/cluster.md)
    #[arg(long, requires = "remote_cache_only")]
    pub remote_store: bool,

    /// The user that must run the scripts on the other machines: `root`, or `ordinary` for any other user. A
    /// package that gets a machine with a different user fails after three attempts. The owners of installed
    /// files depend on the user [default: any user; with --remote-store, root]
    #[arg(long, value_name = "USER", value_enum, requires = "remote")]
    pub remote_script_user: Option<UserFlag>,

    /// What to do if the server is not reachable, refuses packages or has no machine for them: `none` fails
    /// the run, `local` compiles the remaining packages on this machine
    #[arg(
        long,
        value_name = "WHERE",
        value_enum,
        default_value = "none",
        requires = "remote"
    )]
    pub remote_fallback: FallbackFlag,

    /// Stop using the server if all packages wait in its queue for this long
    /// [default: no limit; 10m with --remote-fallback=local]
    #[arg(long, value_name = "DURATION", value_parser = values::limit, requires = "remote")]
    pub remote_queue_timeout: Option<Duration>,

    /// Program that the other machines run: a bosh-agent of the same version, built for these machines
    /// [default: this program]
    #[arg(long, value_name = "FILE", requires = "remote")]
    pub remote_agent: Option<PathBuf>,
}

/// `--remote-script-user`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum UserFlag {
    Root,
    Ordinary,
}

/// `--remote-fallback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum FallbackFlag {
    Local,
    None,
}

/// How long packages may wait in the server's queue if this machine can compile them.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(600);

impl RemoteFlags {
    /// Whether this machine compiles no package.
    fn is_only_elsewhere(&self) -> bool {
        self.remote.is_some()
            && self.remote_fallback == FallbackFlag::None
            && !self.remote_cache_only
    }

    /// Checks that no flag was given that has no effect with other machines. `is_given` says whether
    /// the flag with an id was given.
    ///
    /// # Errors
    /// If there is such a flag; the text for the user.
    pub(in crate::cli) fn check_others(
        &self,
        is_given: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        if self.remote.is_none() {
            return Ok(());
        }
        let of_this_machine = OF_THIS_MACHINE.iter().filter(|_| self.is_only_elsewhere());
        let mut refused = of_this_machine.chain(NEVER);
        match refused.find(|(id, _)| is_given(id)) {
            None => Ok(()),
            Some((id, reason)) => Err(format!(
                "Error: --{} cannot be used with --remote: {reason}",
                id.replace('_', "-")
            )),
        }
    }

    /// The machines that the flags ask for.
    ///
    /// # Errors
    /// If the URL or a variable cannot be used. The error is the text of the message.
    pub(in crate::cli) fn options(
        &self,
        (scripts, accepts_unrestricted): (&ScriptFlags, bool),
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
            accepts_unrestricted,
            cache_only: self.remote_cache_only,
            stores: self.remote_store,
            script_user: self.remote_script_user.map(|user| match user {
                UserFlag::Root => ScriptUser::Root,
                UserFlag::Ordinary => ScriptUser::Ordinary,
            }),
            falls_back: self.remote_fallback == FallbackFlag::Local,
            queue_timeout: match self.remote_fallback {
                FallbackFlag::Local => self.remote_queue_timeout.or(Some(QUEUE_TIMEOUT)),
                FallbackFlag::None => self.remote_queue_timeout,
            },
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

/// The variables of `--env`. Other variables of this machine are not passed on: their values may be wrong on the other machines.
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

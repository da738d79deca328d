//! Sets up the compilation of packages on the machines of a server of the Remote Execution API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::OfflineError;
use super::options::{Options, RemoteOptions};
use super::tarball::Blob;
use super::this_machine::ThisMachine;
use super::work_directory;
use crate::cluster::{Cluster, Common, KnownFile, Limits, RemoteFailure};
use crate::compile::{SOURCE_DATE_EPOCH, SecondRun, SourceDates};
use crate::config::Secret;
use crate::fs::{self, Context as _};
use crate::http::{Client, Timeouts};
use crate::package_job::{JobIsolation, JobNetwork, JobSecondRun, JobSettings};
use crate::reapi::{CallError, Capabilities, Digest, Server};
use crate::release::{Algorithm, Digests, Slug};
use crate::runtime;
use crate::sandbox::{Isolation, Sharing};
use crate::tls::{self, Profile};

/// The isolation tier in the report: the other machines choose the actual one.
const ELSEWHERE: &str = "remote";

/// How long a server may take to say what it can do.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The settings for compiling packages on other machines.
#[derive(Debug)]
pub(super) struct RemoteCompiler<'a> {
    pub cluster: Arc<Cluster>,
    /// Where the server is, for messages.
    pub server: String,
    /// The machine that compiles the rest if the server is given up.
    pub local: Option<ThisMachine<'a>>,
    pub limits: Limits,
    /// The directory of the logs of packaging scripts.
    pub logs: PathBuf,
    /// Whether the logs of failed packages are copied to the output directory.
    pub copies_failed_logs: bool,
    pub source_dates: SourceDates,
}

/// Sets up the compiler of a run. Requests the capabilities of the server.
pub(super) async fn compiler<'a>(
    here: ThisMachine<'a>,
    remote: &RemoteOptions,
) -> Result<RemoteCompiler<'a>, OfflineError> {
    let ThisMachine {
        options,
        stemcell,
        work_directory,
        progress,
        record,
        ..
    } = here;
    let (cluster, capabilities) = cluster((options, stemcell), remote).await?;
    if !capabilities.executes {
        return Err(failed(remote, RemoteFailure::NoExecution));
    }
    let wanted = options.logs_directory.as_deref();
    let logs = work_directory::logs(work_directory, wanted, &options.vcap)?;
    progress.line(&format!(
        "Compiling up to {} packages concurrently on the machines of {}",
        remote.jobs, remote.location
    ));
    progress.line(&format!(
        "Logs of packaging scripts are kept in {}",
        logs.display()
    ));
    record.set_compiler(ELSEWHERE, remote.jobs.get());
    Ok(RemoteCompiler {
        cluster,
        server: remote.location.to_string(),
        local: remote.falls_back.then_some(here),
        limits: Limits {
            jobs: remote.jobs,
            keep_going: options.keep_going,
            gives_up: remote.falls_back,
            queue: remote.queue_timeout,
        },
        logs,
        copies_failed_logs: options.logs_directory.is_none(),
        source_dates: options.source_dates,
    })
}

/// The settings that all packages of a run share on a server, and the capabilities of the server, which are requested.
pub(super) async fn cluster(
    (options, stemcell): (&Options, &Slug),
    remote: &RemoteOptions,
) -> Result<(Arc<Cluster>, Capabilities), OfflineError> {
    let server = Arc::new(server(options, remote)?);
    let limit = ANSWER_LIMIT;
    let asked = tokio::time::timeout(limit, server.capabilities()).await;
    let asked = asked.unwrap_or(Err(CallError::Silent { limit }));
    let capabilities = *asked.map_err(|error| failed(remote, error.into()))?;
    let path = remote.agent.clone();
    let program = hashed(path.unwrap_or_else(|| options.program.clone())).await?;
    let common = Common {
        server,
        program,
        platform: remote.platform.clone(),
        timeout: remote.timeout.map(|it| it.as_secs()),
        stemcell: Some(stemcell.clone()),
        script_user: remote.script_user,
        settings: settings(options, remote),
        accepts_unrestricted: remote.accepts_unrestricted,
        log_lines: options.log_lines,
    };
    Ok((Arc::new(Cluster::new(common)), capabilities))
}

pub(super) fn failed(remote: &RemoteOptions, source: RemoteFailure) -> OfflineError {
    OfflineError::Remote {
        server: remote.location.to_string(),
        source: Box::new(source),
    }
}

/// The file of a blob of a release, with its digest.
pub(super) fn known(blob: &Blob) -> KnownFile {
    KnownFile {
        path: blob.file.clone(),
        digest: Digest {
            sha256: blob.digests.sha256().to_owned(),
            size: blob.size,
        },
    }
}

/// Hashes a program on a blocking thread.
pub(super) async fn hashed(path: PathBuf) -> Result<KnownFile, OfflineError> {
    let reading = runtime::spawn_blocking("hash program", move || known_file(path));
    Ok(reading.await??)
}

/// The server. Reads the files of credentials, but does not connect.
fn server(options: &Options, remote: &RemoteOptions) -> fs::Result<Server> {
    let certificate = match &remote.certificate {
        None => None,
        Some((certificate, key)) => {
            let certificate = fs::read_lossy(certificate)?;
            Some((certificate, Secret::new(fs::read_lossy(key)?)))
        }
    };
    let tls = match &certificate {
        None => tls::client(None, Profile::External),
        Some((certificate, key)) => {
            tls::client_with_certificate((certificate, key), Profile::External)
        }
    };
    let tls = tls.map(|mut tls| {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        tls
    });
    let client = Client::new(tls, &options.environment);
    let headers = remote.credentials.headers(&remote.url);
    let timeouts = [Timeouts::default(); 2];
    let server = Server::new(&remote.url, headers, &client, timeouts);
    Ok(match &remote.instance {
        None => server,
        Some(instance) => server.with_instance(instance.clone()),
    })
}

/// Hashes a file.
fn known_file(path: PathBuf) -> fs::Result<KnownFile> {
    let file = fs::open_file(&path)?;
    let (digests, size) = Digests::of_reader(file, &[Algorithm::Sha256]).at("read", &path)?;
    let sha256 = digests.sha256().unwrap_or_default().to_owned();
    Ok(KnownFile {
        path,
        digest: Digest { sha256, size },
    })
}

/// The settings of a job: the options that affect a package.
fn settings(options: &Options, remote: &RemoteOptions) -> JobSettings {
    JobSettings {
        base_directory: options.vcap.base().to_string_lossy().into_owned(),
        isolation: match options.isolation {
            Isolation::Auto => JobIsolation::Auto,
            Isolation::Namespace => JobIsolation::Namespace,
            Isolation::Userns => JobIsolation::Userns,
            Isolation::Landlock => JobIsolation::Landlock,
            Isolation::None => JobIsolation::None,
        },
        second_run: match options.second_run {
            SecondRun::Auto(_) => JobSecondRun::Auto,
            SecondRun::Always => JobSecondRun::Always,
            SecondRun::Never => JobSecondRun::Never,
        },
        readonly_dependencies: options.readonly_dependencies,
        protect_host: options.protect_host,
        network: match options.network {
            true => JobNetwork::Host,
            false => JobNetwork::None,
        },
        shared_scratch: options.scratch != Sharing::Off,
        make_jobserver: options.make_jobserver,
        reproducible: options.source_dates == SourceDates::OfEachSource,
        compression_level: options.compression_level,
        timeout_seconds: options.limits.total.map(|it| it.as_secs()),
        silence_timeout_seconds: options.limits.silence.map(|it| it.as_secs()),
        variables: variables(options, remote),
    }
}

/// The variables of scripts, including `SOURCE_DATE_EPOCH` if it is set in this process.
fn variables(options: &Options, remote: &RemoteOptions) -> BTreeMap<String, String> {
    let mut variables = remote.variables.clone();
    let date = options.environment.get(SOURCE_DATE_EPOCH);
    if let Some(date) = date.and_then(|it| it.to_str()) {
        variables.insert(SOURCE_DATE_EPOCH.to_owned(), date.to_owned());
    }
    variables
}

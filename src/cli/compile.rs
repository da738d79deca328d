//! `bosh-agent compile`: options, signals, and the run.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::colors;
use super::compile_flags::{AnnotationsFor, Compile, OutputFlags};
use super::options::{options, source_dates, tier};
use super::stopping::{SignalHandler, announcement, stopped};
use super::{DONE, FAILED, MACHINE, USAGE, on_threads, print_error};
use crate::compile::SOURCE_DATE_EPOCH;
use crate::config::Environment;
use crate::diag::Chain;
use crate::offline::{
    self, Annotations, Command, FailureKind, Messages, OfflineError, Outcome, Progress, Purpose,
    RemoteOptions, ReportFile, SharedCaches,
};
use crate::process::{self, Terminal};
use crate::runtime::{self, Signals, StopSignal};
use crate::sandbox::{self, UserNamespace};
use crate::tls::SystemCertificates;

/// One worker thread: with two threads, each event would also wake the other thread, which then looks for work.
const WORKERS: usize = 1;

/// How long the process waits, after a signal, until its last messages are printed. After the first signal, it waits for the grace time
/// if that is longer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The error if `/proc` is missing.
pub(super) const NO_PROC: &str =
    "`/proc` is not mounted, and bosh-agent needs it to start and stop packaging scripts";

/// The error if there is no terminal for a shell.
pub(super) const NO_TERMINAL: &str =
    "a shell needs a terminal, and stdin or stderr is not a terminal";

/// The hint to [`NO_TERMINAL`].
pub(super) const NO_TERMINAL_HINT: &str = "in a container, use `docker run -it`";

/// The hint to [`NO_PROC`].
pub(super) const NO_PROC_HINT: &str = "run `mount -t proc proc /proc` as root first";

/// Mounts `/proc` for this process if it is missing. If that fails, prints an error and returns `false`.
pub(super) fn has_proc() -> bool {
    if sandbox::has_proc() {
        return true;
    }
    if let Err(error) = sandbox::mount_proc_before_threads() {
        print_error(&format!(
            "Error: {NO_PROC}; mounting it for this run failed: {error}\nHint: {NO_PROC_HINT}"
        ));
        return false;
    }
    print_error(&format!(
        "Warning: {NO_PROC}; it is mounted for this run, in a private mount namespace"
    ));
    true
}

pub(super) fn main(arguments: Compile, environment: Environment) -> u8 {
    sandbox::shorten_slices_before_threads();
    if !has_proc() {
        return MACHINE;
    }
    // The source date may be a variable of `--env`. Scripts inherit it with and without a cache.
    let variables = arguments.compilation.script.variables(&environment, false);
    let source_dates = match source_dates(arguments.results.is_reproducible(), &variables) {
        Ok(dates) => dates,
        Err(error) => {
            print_error(&format!(
                "Error: invalid value of the variable `{SOURCE_DATE_EPOCH}`: {error}"
            ));
            return USAGE;
        }
    };
    let terminal = Terminal::of_this_process();
    if terminal.is_none() && arguments.inspection.shell.is_some() {
        print_error(&format!("Error: {NO_TERMINAL}\nHint: {NO_TERMINAL_HINT}"));
        return USAGE;
    }
    if terminal.is_none() && arguments.inspection.shell_on_failure {
        print_error(&format!("Warning: {NO_TERMINAL}: no shell will be opened"));
    }
    let (shared, remote) = match servers(&arguments, &environment) {
        Ok(servers) => servers,
        Err(error) => {
            print_error(&error);
            return USAGE;
        }
    };
    let user_namespace = user_namespace(&arguments, remote.as_ref());
    let messages = messages(&arguments.output, &environment, Command::Compile);
    let options = options(
        arguments,
        (shared, remote),
        environment,
        source_dates,
        user_namespace,
        terminal,
    );
    let grace = options.grace;
    on_threads(
        WORKERS,
        supervised(grace, messages, move |progress, cancel| async move {
            offline::run(options, progress, &cancel).await
        }),
    )
}

/// Enters a user namespace if this machine runs scripts and the isolation tier needs one. This process must have one thread.
fn user_namespace(arguments: &Compile, remote: Option<&RemoteOptions>) -> UserNamespace {
    let is_elsewhere = remote.is_some_and(|it| !it.falls_back && !it.cache_only);
    let unpacks = !arguments.compilation.stemcell_image.is_empty();
    let is_here = arguments.plan.purpose() == Purpose::Compile || unpacks;
    match is_here && !is_elsewhere {
        true => tier(arguments.isolation.isolation).enter_user_namespace(),
        false => UserNamespace::Outside,
    }
}

/// The shared caches and the other machines of a run. Also checks the variables of `--env`, and flags that several stemcell images exclude.
fn servers(
    arguments: &Compile,
    environment: &Environment,
) -> Result<(SharedCaches, Option<RemoteOptions>), String> {
    if let Some(name) = arguments.compilation.script.unset(environment) {
        return Err(format!(
            "Error: the variable `{name}` of --env is not set\nHint: pass --env {name}=VALUE"
        ));
    }
    let has_several = arguments.compilation.stemcell_image.len() > 1;
    if let Some(flag) = arguments.flag_for_one_stemcell().filter(|_| has_several) {
        return Err(format!(
            "Error: {flag} cannot be used with several stemcell images"
        ));
    }
    let shared = arguments.cache.shared(environment);
    let shared = shared.map_err(|(flag, error)| {
        format!(
            "Error: invalid value of {flag}: {error}\nHint: {}",
            error.hint()
        )
    })?;
    let scripts = &arguments.compilation.script;
    let remote = arguments
        .remote
        .options((scripts, arguments.cache.cache_unrestricted), environment)?;
    if shared.is_used() || remote.is_some() {
        SystemCertificates::of(environment).use_for_process();
    }
    Ok((shared, remote))
}

/// Runs `work`, which a signal cancels, to its end. Prints the results, and returns the exit code. `grace` is the time between SIGTERM and
/// SIGKILL for scripts.
pub(super) async fn supervised<F>(
    grace: Duration,
    messages: Messages,
    work: impl FnOnce(Arc<Progress>, CancellationToken) -> F,
) -> u8
where
    F: Future<Output = Outcome>,
{
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            print_error(&format!("Error: failed to listen for signals: {error}"));
            return MACHINE;
        }
    };
    if let Err(error) = process::adopt_orphans() {
        print_error(&format!("Error: failed to start: {error}"));
        return MACHINE;
    }
    let progress = Arc::new(Progress::to_stderr(messages));
    let printer = Arc::clone(&progress);
    runtime::print_warnings_by(move |line| printer.warn(line));
    let cancel = CancellationToken::new();
    let mut stopping = {
        let (announced, killed) = (Arc::clone(&progress), Arc::clone(&progress));
        let exiting = Arc::clone(&progress);
        SignalHandler::start(
            signals,
            &cancel,
            move |signal| {
                announced.hide_bars();
                announced.warn(&announcement(signal, &announced.scripts(), grace));
            },
            move |signal| {
                killed.resume();
                killed.warn(&format!(
                    "Killing all processes after a second {}; the next run removes leftover files",
                    signal.name()
                ));
            },
            move |signal| {
                exiting.flush_within(LAST_WORDS);
                signal.exit_code()
            },
        )
    };
    let outcome = work(Arc::clone(&progress), cancel.clone()).await;
    let signal = stopping.signal().await;
    let end = End {
        progress: &progress,
        cancel: &cancel,
        grace,
        deadline: OnceLock::new(),
        messages,
    };
    // Keep `stopping` until the report is written, so that a second signal ends the process.
    let code = end.finish(outcome, signal).await;
    drop(stopping);
    code
}

/// What is needed to print the results of a run and to write its report.
struct End<'a> {
    progress: &'a Progress,
    cancel: &'a CancellationToken,
    grace: Duration,
    /// After a signal, the time at which the wait for the last messages ends.
    deadline: OnceLock<Instant>,
    messages: Messages,
}

impl End<'_> {
    /// Prints the results of a run and writes its report. Returns the exit code.
    async fn finish(&self, outcome: Outcome, signal: Option<StopSignal>) -> u8 {
        let Outcome {
            written,
            result,
            report,
        } = outcome;
        // Print all messages first: a terminal then shows the paths below them.
        self.flush().await;
        let printed = self.print_paths(&written);
        let code = match (&result, signal) {
            (Ok(()), _) => printed,
            (Err(error), signal) => {
                if !matches!(error, OfflineError::Stopped) {
                    let Messages {
                        annotations,
                        command,
                        ..
                    } = &self.messages;
                    self.progress
                        .report(&offline::report(error, *annotations, *command));
                }
                match signal {
                    Some(signal) if error.is_stopped() => {
                        let compiled = self.progress.compiled();
                        self.progress.warn(&stopped(signal, compiled, &written));
                        signal.exit_code()
                    }
                    _ => FailureKind::of(error).map_or(FAILED, FailureKind::exit_code),
                }
            }
        };
        let code = match report {
            Some(report) => self.write_report(report, &result, code).await,
            None => code,
        };
        self.flush().await;
        code
    }

    /// Prints the path of each result to stdout, one per line, for other programs. Returns the exit code.
    fn print_paths(&self, paths: &[PathBuf]) -> u8 {
        let mut stdout = io::stdout().lock();
        let printed = paths.iter().try_for_each(|path| {
            stdout.write_all(path.as_os_str().as_bytes())?;
            stdout.write_all(b"\n")
        });
        match printed.and_then(|()| stdout.flush()) {
            Ok(()) => DONE,
            // The reader has closed its end: it does not need the paths.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
            Err(error) => {
                let what = self.messages.command.paths();
                self.progress.report(&format!(
                    "Error: failed to print the {what} to stdout: {error}"
                ));
                MACHINE
            }
        }
    }

    /// Waits until all messages are printed. After a signal, the wait has a limit, because a write to stderr may block forever.
    async fn flush(&self) {
        let limit = async {
            self.cancel.cancelled().await;
            let limit = || Instant::now() + self.grace.max(LAST_WORDS);
            tokio::time::sleep_until(*self.deadline.get_or_init(limit)).await;
        };
        tokio::select! {
            () = self.progress.flushed() => {}
            () = limit => {}
        }
    }

    /// Writes the report of a run that ends with `code`. Returns the exit code.
    async fn write_report(
        &self,
        report: ReportFile,
        result: &Result<(), OfflineError>,
        code: u8,
    ) -> u8 {
        match report.write(result, code, self.cancel.clone()).await {
            Ok(()) => code,
            Err(error) => {
                self.progress.report(&format!(
                    "Error: failed to write the report: {}",
                    Chain(&error)
                ));
                if code == DONE { MACHINE } else { code }
            }
        }
    }
}

/// How messages are printed, from flags and environment.
pub(super) fn messages(
    flags: &OutputFlags,
    environment: &Environment,
    command: Command,
) -> Messages {
    let is_github = || {
        environment
            .get("GITHUB_ACTIONS")
            .is_some_and(|it| it == "true")
    };
    Messages {
        is_terminal: colors::is_terminal(environment),
        is_quiet: flags.quiet,
        is_verbose: flags.verbose,
        paint: colors::paint(flags.color, environment),
        annotations: match flags.annotations {
            AnnotationsFor::Github => Annotations::GitHub,
            AnnotationsFor::Auto if is_github() => Annotations::GitHub,
            AnnotationsFor::Auto | AnnotationsFor::None => Annotations::None,
        },
        command,
    }
}

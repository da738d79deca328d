//! Installs the CA certificates that a Director wants the whole machine to trust.

use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use crate::{fs, runtime};

/// The directory of local CA certificates on Debian and Ubuntu.
pub const DIRECTORY: &str = "/usr/local/share/ca-certificates";

/// The prefix of the files with a Director's certificates.
const PREFIX: &str = "bosh-trusted-cert-";

/// The program that adds the certificates in [`DIRECTORY`] to the system's.
pub(crate) const UPDATE_PROGRAM: UpdateProgram = UpdateProgram {
    program: "/usr/sbin/update-ca-certificates",
    argument: "-f",
    limit: Duration::from_secs(60),
};

/// The maximum number of attempts to run the program.
const ATTEMPTS: u32 = 3;

/// A program that updates the system's certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpdateProgram {
    /// The path of the program.
    pub program: &'static str,
    /// The argument of the program.
    pub argument: &'static str,
    /// The time limit of one run.
    pub limit: Duration,
}

/// Why the certificates could not be installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError<E: std::error::Error + 'static> {
    /// The certificates cannot be written.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A task panicked.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// The program failed in all attempts.
    #[error("failed to update the system's CA certificates after {ATTEMPTS} attempts")]
    UpdateProgram(#[source] E),
}

/// Replaces the Director's certificates by those in `bundle`, which may be empty. `run` runs
/// [`UPDATE_PROGRAM`]. If the system lacks that program, logs a warning and installs nothing.
///
/// # Errors
/// If the certificates cannot be written, or the program fails three times.
pub(crate) async fn install<E, F>(
    directory: &Path,
    bundle: &str,
    run: impl Fn(UpdateProgram) -> F,
) -> Result<(), TrustError<E>>
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<(), E>>,
{
    if !Path::new(UPDATE_PROGRAM.program).exists() {
        tracing::warn!(
            program = UPDATE_PROGRAM.program,
            "the system does not have this program; its trusted certificates stay unchanged"
        );
        return Ok(());
    }
    // Write on another thread, because each file is flushed to the disk.
    let (to, all) = (directory.to_owned(), bundle.to_owned());
    runtime::spawn_blocking("certificates", move || write(&to, &all)).await??;
    with_retries(|| run(UPDATE_PROGRAM))
        .await
        .map_err(TrustError::UpdateProgram)
}

/// Repeats `work` until it succeeds, up to [`ATTEMPTS`] times.
async fn with_retries<E, F>(work: impl Fn() -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut attempts = 1;
    loop {
        match work().await {
            Err(_) if attempts < ATTEMPTS => attempts += 1,
            other => return other,
        }
    }
}

/// Writes the Director's certificates, one per file, and removes the previous files.
fn write(directory: &Path, bundle: &str) -> fs::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::list(directory)? {
        if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            fs::remove_file_if_there(&entry.path())?;
        }
    }
    for (index, certificate) in certificates(bundle).into_iter().enumerate() {
        let path = directory.join(format!("{PREFIX}{}.crt", index + 1));
        fs::write_atomic(&path, certificate.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The certificates in a PEM bundle, without any text between them.
fn certificates(bundle: &str) -> Vec<&str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = bundle;
    while let Some(begin) = rest.find(BEGIN) {
        let Some(length) = rest[begin..].find(END) else {
            break;
        };
        let end = begin + length + END.len();
        found.push(&rest[begin..end]);
        rest = &rest[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const A: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
    const B: &str = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----";

    fn names(directory: &Path) -> Vec<String> {
        fs::list(directory)
            .unwrap()
            .iter()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn new_certificates_replace_the_old_ones() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("certs");
        write(&directory, &format!("# one\n{A}\n\n{B}\ntrailing")).unwrap();
        fs::write(&directory.join("own.crt"), b"").unwrap();
        assert_eq!(
            names(&directory),
            [
                "bosh-trusted-cert-1.crt",
                "bosh-trusted-cert-2.crt",
                "own.crt"
            ]
        );
        let read = |name: &str| fs::read_lossy(&directory.join(name)).unwrap();
        assert_eq!(read("bosh-trusted-cert-2.crt"), B);

        write(&directory, B).unwrap();
        assert_eq!(names(&directory), ["bosh-trusted-cert-1.crt", "own.crt"]);
        assert_eq!(read("bosh-trusted-cert-1.crt"), B);
        write(&directory, "").unwrap();
        assert_eq!(names(&directory), ["own.crt"]);
    }

    #[test]
    fn incomplete_certificate_is_ignored() {
        assert!(certificates("-----BEGIN CERTIFICATE-----\nAAAA").is_empty());
        assert!(certificates("-----END CERTIFICATE-----").is_empty());
    }

    #[tokio::test]
    async fn failing_program_runs_three_times() {
        let attempts = Cell::new(0);
        let fail_until = |success: u32| {
            attempts.set(0);
            let attempts = &attempts;
            with_retries(move || async move {
                attempts.set(attempts.get() + 1);
                if attempts.get() < success {
                    Err(std::fmt::Error)
                } else {
                    Ok(())
                }
            })
        };
        assert!(fail_until(3).await.is_ok());
        assert_eq!(attempts.get(), 3);
        assert!(fail_until(4).await.is_err());
        assert_eq!(attempts.get(), 3);
    }

    #[tokio::test]
    async fn certificates_are_installed_if_the_program_exists() {
        let scratch = tempfile::tempdir().unwrap();
        let runs = Cell::new(0);
        let installed = install(scratch.path(), A, |run| {
            runs.set(runs.get() + 1);
            assert_eq!(run, UPDATE_PROGRAM);
            std::future::ready(Ok::<(), std::fmt::Error>(()))
        });
        installed.await.unwrap();
        let there = Path::new(UPDATE_PROGRAM.program).exists();
        assert_eq!(runs.get(), u32::from(there));
        assert_eq!(names(scratch.path()).len(), usize::from(there));
    }
}

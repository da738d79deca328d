//! Authorities that a Director wants the whole machine to trust.

use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use crate::{fs, runtime};

/// Where Debian and Ubuntu look for certificates of the machine's own.
pub const DIRECTORY: &str = "/usr/local/share/ca-certificates";

/// Begins the names of the certificates that came from a Director.
const PREFIX: &str = "bosh-trusted-cert-";

/// The program that makes the machine trust what is in [`DIRECTORY`], and how long it may take.
pub const REFRESH: Refresh = Refresh {
    program: "/usr/sbin/update-ca-certificates",
    argument: "-f",
    limit: Duration::from_secs(60),
};

/// How often it is tried.
const TRIES: u32 = 3;

/// A program with its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refresh {
    /// The program.
    pub program: &'static str,
    /// Its argument.
    pub argument: &'static str,
    /// How long it may take.
    pub limit: Duration,
}

/// Why the machine does not trust what it should.
#[derive(Debug, thiserror::Error)]
pub enum TrustError<E: std::error::Error + 'static> {
    /// The certificates cannot be written.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A part of this program broke.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// The program failed again and again.
    #[error("{TRIES} tries to make the system trust the certificates failed")]
    Refresh(#[source] E),
}

/// Makes the machine trust the certificates in `bundle` and no others that came this way before: also none, when it is empty.
/// `refresh` runs [`REFRESH`]; it is left out, with a warning, where the system has no such program.
///
/// # Errors
/// When the certificates cannot be written, or when the program fails three times.
pub async fn install<E, F>(
    directory: &Path,
    bundle: &str,
    refresh: impl Fn(Refresh) -> F,
) -> Result<(), TrustError<E>>
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<(), E>>,
{
    if !Path::new(REFRESH.program).exists() {
        tracing::warn!(
            program = REFRESH.program,
            "the system has no such program: what it trusts stays as it is"
        );
        return Ok(());
    }
    // Each is on the disk before the next one is written, which takes its time.
    let (to, all) = (directory.to_owned(), bundle.to_owned());
    runtime::spawn_blocking("certificates", move || write(&to, &all)).await??;
    again(|| refresh(REFRESH))
        .await
        .map_err(TrustError::Refresh)
}

/// Tries until it works, [`TRIES`] times at most.
async fn again<E, F>(work: impl Fn() -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut tries = 1;
    loop {
        match work().await {
            Err(_) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Replaces the certificates of the last time, one file for each.
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

/// The certificates in a PEM text. What stands between them is left out.
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
    fn each_certificate_gets_its_file_and_those_of_the_last_time_go() {
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
    fn half_a_certificate_is_none() {
        assert!(certificates("-----BEGIN CERTIFICATE-----\nAAAA").is_empty());
        assert!(certificates("-----END CERTIFICATE-----").is_empty());
    }

    #[tokio::test]
    async fn the_program_is_tried_three_times() {
        let tries = Cell::new(0);
        let fail_until = |success: u32| {
            tries.set(0);
            let tries = &tries;
            again(move || async move {
                tries.set(tries.get() + 1);
                if tries.get() < success {
                    Err(std::fmt::Error)
                } else {
                    Ok(())
                }
            })
        };
        assert!(fail_until(3).await.is_ok());
        assert_eq!(tries.get(), 3);
        assert!(fail_until(4).await.is_err());
        assert_eq!(tries.get(), 3);
    }

    #[tokio::test]
    async fn certificates_are_installed_where_the_system_has_the_program() {
        let scratch = tempfile::tempdir().unwrap();
        let asked = Cell::new(0);
        let installed = install(scratch.path(), A, |refresh| {
            asked.set(asked.get() + 1);
            assert_eq!(refresh, REFRESH);
            std::future::ready(Ok::<(), std::fmt::Error>(()))
        });
        installed.await.unwrap();
        let there = Path::new(REFRESH.program).exists();
        assert_eq!(asked.get(), u32::from(there));
        assert_eq!(names(scratch.path()).len(), usize::from(there));
    }
}

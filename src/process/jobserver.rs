//! One pool of jobs for every GNU make of a run.
//!
//! A make that finds a jobserver in `MAKEFLAGS` takes a token from it for each recipe beyond its first, and puts it back. The
//! pool is a FIFO: each script opens it before anything else, so that no descriptor has to be handed down to it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::fs::{self, Context};

/// The descriptor that scripts find the pool at, for reading and writing. Scripts use small numbers themselves.
const DESCRIPTOR: u8 = 242;

/// The FIFO's name in a directory that a script starts in, for as long as it takes to open it. No package has such a file.
const NAME: &str = ".bosh-agent:jobserver";

/// A pool of jobs.
#[derive(Debug)]
pub struct Jobserver {
    fifo: PathBuf,
    /// Without it the tokens would be gone whenever no script has the FIFO open.
    _open: File,
}

impl Jobserver {
    /// Makes a pool with so many tokens. Each make has one job beside them.
    ///
    /// # Errors
    /// What the system answered.
    pub fn make(fifo: &Path, tokens: usize) -> fs::Result<Self> {
        fs::make_fifo(fifo)?;
        let mut options = OpenOptions::new();
        // Who has it open for reading and writing need not wait for anybody.
        options.read(true).write(true);
        options.custom_flags(nix::libc::O_NONBLOCK);
        let mut open = fs::open_with(&options, fifo)?;
        open.write_all(&vec![b'+'; tokens]).at("write", fifo)?;
        Ok(Self {
            fifo: fifo.to_owned(),
            _open: open,
        })
    }

    /// The environment variable that tells make of the pool. Versions before 4.2 know another name for it; each ignores what
    /// it does not know.
    #[must_use]
    pub fn variable() -> (&'static str, String) {
        let flags = format!(
            "-j --jobserver-fds={DESCRIPTOR},{DESCRIPTOR} --jobserver-auth={DESCRIPTOR},{DESCRIPTOR}"
        );
        ("MAKEFLAGS", flags)
    }

    /// Makes the pool reachable for a script that starts in `directory`: there itself, for more than that the script may not
    /// see, or, where that is on another file system, where it is.
    ///
    /// # Errors
    /// What the system answered.
    pub fn offer(&self, directory: &Path) -> fs::Result<Offered> {
        match fs::hard_link(&self.fifo, &directory.join(NAME)) {
            Ok(()) => Ok(Offered(None)),
            Err(error) if error.source.kind() == std::io::ErrorKind::CrossesDevices => {
                Ok(Offered(Some(self.fifo.clone())))
            }
            Err(error) => Err(error),
        }
    }
}

/// A pool that a script can reach.
#[derive(Debug)]
pub struct Offered(Option<PathBuf>);

impl Offered {
    /// The arguments of a bash that opens the pool and becomes `program`. Nothing of it is left in the directory then.
    #[must_use]
    pub fn through_bash(self, program: &str, arguments: &[OsString]) -> Vec<OsString> {
        let (open, fifo) = match self.0 {
            None => (
                "exec FD<>\"$0\" && rm -- \"$0\"",
                format!("./{NAME}").into(),
            ),
            Some(fifo) => ("exec FD<>\"$0\"", fifo.into_os_string()),
        };
        let open = open.replace("FD", &DESCRIPTOR.to_string());
        let script = format!("{open} && exec \"$@\"");
        let mut all = vec!["-c".into(), script.into(), fifo, program.into()];
        all.extend_from_slice(arguments);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn every_link_of_a_pool_leads_to_its_tokens() {
        let scratch = tempfile::tempdir().unwrap();
        let pool = Jobserver::make(&scratch.path().join("pool"), 3).unwrap();
        let directory = scratch.path().join("source");
        fs::create_dir(&directory).unwrap();
        let offered = pool.offer(&directory).unwrap();
        let arguments = offered.through_bash("bash", &["-x".into(), "packaging".into()]);
        assert_eq!(arguments[2], "./.bosh-agent:jobserver");
        assert_eq!(arguments[3..], ["bash", "-x", "packaging"]);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK);
        let mut theirs = fs::open_with(&options, &directory.join(NAME)).unwrap();
        let mut tokens = [0; 8];
        assert_eq!(theirs.read(&mut tokens).unwrap(), 3);
        assert!(theirs.read(&mut tokens).is_err(), "more tokens");
    }
}

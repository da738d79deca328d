//! A GNU make jobserver that all scripts of a run share.
//!
//! A make that finds a jobserver in `MAKEFLAGS` runs one recipe without a token, takes a token from
//! the jobserver for each further concurrent recipe, and returns the token afterwards. The tokens
//! are bytes in a FIFO. Each script opens the FIFO first, so no descriptor has to be passed to the
//! script.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::Environment;
use crate::fs::{self, Context};

/// The descriptor of the FIFO in scripts, for reading and writing. It is high because scripts use
/// low numbers themselves.
const DESCRIPTOR: u8 = 242;

/// The FIFO's name in a script's working directory until the script has opened it. Packages have no
/// files with this name.
const NAME: &str = ".bosh-agent:jobserver";

/// A pool of GNU make jobs.
#[derive(Debug)]
pub struct Jobserver {
    fifo: PathBuf,
    /// Keeps the FIFO open. The kernel discards the tokens when no process has it open.
    _open: File,
}

impl Jobserver {
    /// Creates a pool with this many tokens. Each make runs one recipe in addition to its tokens.
    ///
    /// # Errors
    /// The error of the system.
    pub fn make(fifo: &Path, tokens: usize) -> fs::Result<Self> {
        fs::make_fifo(fifo)?;
        let mut options = OpenOptions::new();
        // Opening a FIFO only for reading or only for writing would block.
        options.read(true).write(true);
        options.custom_flags(nix::libc::O_NONBLOCK);
        let mut open = fs::open_with(&options, fifo)?;
        open.write_all(&vec![b'+'; tokens]).at("write", fifo)?;
        Ok(Self {
            fifo: fifo.to_owned(),
            _open: open,
        })
    }

    /// The environment variable that announces the pool to make. It contains two flags: make before
    /// 4.2 reads `--jobserver-fds`, later versions read the other flag.
    #[must_use]
    pub fn variable() -> (&'static str, String) {
        let flags = format!(
            "-j --jobserver-fds={DESCRIPTOR},{DESCRIPTOR} --jobserver-auth={DESCRIPTOR},{DESCRIPTOR}"
        );
        ("MAKEFLAGS", flags)
    }

    /// Makes the pool accessible to a script that starts in `directory`. The FIFO gets a hard link
    /// in that directory, which the script can see in every isolation tier. If the directory is on
    /// another file system, the script uses the FIFO's own path.
    ///
    /// # Errors
    /// The error of the system.
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

/// The descriptors of the jobserver of a make that started this program. Scripts inherit these
/// descriptors.
#[must_use]
pub(crate) fn inherited(environment: &Environment) -> Vec<i32> {
    let flags = environment.get("MAKEFLAGS").unwrap_or_default();
    let flags = flags.to_string_lossy();
    let pairs = flags.split_ascii_whitespace().filter_map(|flag| {
        let named = flag.strip_prefix("--jobserver-auth=");
        named.or_else(|| flag.strip_prefix("--jobserver-fds="))
    });
    // If the jobserver is a FIFO, `MAKEFLAGS` has its path instead of descriptors. Negative numbers
    // mean that make does not share its jobserver.
    pairs
        .filter_map(|pair| pair.split_once(','))
        .filter_map(|(read, write)| Some([read.parse().ok()?, write.parse().ok()?]))
        .flatten()
        .filter(|number| *number > 2)
        .collect()
}

/// A pool that was made accessible to one script. Contains the path of the FIFO if the FIFO has no
/// link in the script's directory.
#[derive(Debug)]
pub struct Offered(Option<PathBuf>);

impl Offered {
    /// The arguments for a bash that opens the pool, removes the pool's link and then executes
    /// `program`.
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
    fn descriptors_of_a_parent_make_are_found() {
        let of =
            |flags: &str| inherited(&Environment::default().with(&[("MAKEFLAGS", flags.into())]));
        assert_eq!(of("w -j4 --jobserver-auth=3,4"), [3, 4]);
        assert_eq!(of("--jobserver-fds=5,6 -j"), [5, 6]);
        for none in [
            "",
            "--jobserver-auth=fifo:/tmp/3,4",
            "-j --jobserver-auth=-2,-2",
            "--jobserver-auth=0,1 3,4",
        ] {
            assert!(of(none).is_empty(), "{none}");
        }
        assert!(inherited(&Environment::default()).is_empty());
    }

    #[test]
    fn script_reaches_the_tokens_through_its_link() {
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

//! The directories of a failed package that `--keep-failed` keeps. Later, a shell can be opened in the package's sandbox.
//!
//! ```text
//! DIR/NAME-VERSION/enter            a script that opens the shell
//!                  compile          the sources as the packaging script left them, including the packaging script
//!                  install          the files that the packaging script installed
//!                  dependencies/X   the files of each dependency
//!                  environment      the variables of the script, each with a zero byte at its end
//!                  kept.json        how the package was compiled
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Environment;
use crate::fs;

/// The version of the layout.
const FORMAT: u32 = 1;

/// The file that describes how the package was compiled.
const DESCRIPTION: &str = "kept.json";

/// The file with the script's variables.
const ENVIRONMENT: &str = "environment";

/// The maximum number of characters of the version in a directory's name.
const VERSION_LIMIT: usize = 100;

/// How the directories of failed packages are kept.
#[derive(Debug, Clone)]
pub struct Keep {
    /// The directory that contains the directories of packages. It exists.
    pub directory: PathBuf,
    /// The settings of the run.
    pub settings: KeptSettings,
    /// The path of this program.
    pub program: PathBuf,
}

/// Settings of a run that a later shell needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSettings {
    /// The base directory.
    pub base: String,
    /// Whether dependencies were read-only.
    pub readonly_dependencies: bool,
    /// Whether the host was read-only.
    pub protect_host: bool,
    /// Whether the script had access to the host's network.
    pub network: bool,
    /// By how much the script's niceness was raised.
    pub nice: i32,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
}

/// How a kept package was compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    format: u32,
    /// The package's name.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The names and versions of the package's dependencies.
    pub dependencies: Vec<(String, String)>,
    /// The isolation tier, as on the command line.
    pub isolation: String,
    /// The settings of the run.
    pub settings: KeptSettings,
}

/// Why a directory does not contain a kept package.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The directory cannot be read.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// The description (`kept.json`) is invalid.
    #[error("`{}` does not describe a package of `--keep-failed`", path.display())]
    Invalid {
        /// The path of the description.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another version of this program wrote the description.
    #[error("`{}` has format {format}, and this program knows format {FORMAT}", path.display())]
    Format {
        /// The path of the description.
        path: PathBuf,
        /// The description's format.
        format: u32,
    },
}

impl Kept {
    pub(super) fn new(
        (package, version): (&str, &str),
        dependencies: Vec<(String, String)>,
        isolation: &str,
        settings: KeptSettings,
    ) -> Self {
        Self {
            format: FORMAT,
            package: package.to_owned(),
            version: version.to_owned(),
            dependencies,
            isolation: isolation.to_owned(),
            settings,
        }
    }

    /// Reads the description of a kept package and its variables.
    ///
    /// # Errors
    /// The description cannot be read, or is not valid.
    pub fn read(directory: &Path) -> Result<(Self, Environment), KeptError> {
        let path = directory.join(DESCRIPTION);
        let kept: Self = match serde_json::from_slice(&fs::read(&path)?) {
            Ok(kept) => kept,
            Err(source) => return Err(KeptError::Invalid { path, source }),
        };
        if kept.format != FORMAT {
            let format = kept.format;
            return Err(KeptError::Format { path, format });
        }
        let variables = fs::read(&directory.join(ENVIRONMENT))?;
        Ok((kept, decode(&variables)))
    }

    /// Locks a kept directory until the returned file is dropped. `None` if another process has locked it.
    ///
    /// # Errors
    /// The error of the system.
    pub fn lock(directory: &Path) -> fs::Result<Option<File>> {
        fs::try_lock_file(&directory.join(DESCRIPTION))
    }

    /// Writes everything except the trees.
    pub(super) fn write(
        &self,
        directory: &Path,
        environment: &Environment,
        program: &Path,
    ) -> fs::Result<()> {
        fs::write(&directory.join(ENVIRONMENT), &encode(environment))?;
        let enter = directory.join("enter");
        fs::write(&enter, &self.script(program))?;
        fs::set_mode(&enter, 0o755)?;
        let mut description = serde_json::to_vec_pretty(self).unwrap_or_default();
        description.push(b'\n');
        fs::write(&directory.join(DESCRIPTION), &description)
    }

    /// The script that opens the shell.
    fn script(&self, program: &Path) -> Vec<u8> {
        let program = program.as_os_str().as_bytes();
        let quoted = program.split(|byte| *byte == b'\'').collect::<Vec<_>>();
        let quoted = quoted.join(&b"'\\''"[..]);
        let start = format!(
            "#!/bin/sh\n\
             # Opens a shell in the sandbox of package {}/{}, as its packaging script left it.\n\
             # Changes of the sources and of the install target are kept.\n\
             agent=${{BOSH_AGENT:-'",
            self.package, self.version
        );
        let end = "'}\n\
             if [ ! -x \"$agent\" ]; then\n  \
               echo \"$agent does not exist: set BOSH_AGENT to the path of bosh-agent\" >&2\n  \
               exit 1\n\
             fi\n\
             exec \"$agent\" enter \"$(dirname \"$0\")\"\n";
        [start.as_bytes(), &quoted, end.as_bytes()].concat()
    }
}

/// Creates a new directory for a package. Adds a number to its name if the name exists.
pub(super) fn create_directory(parent: &Path, name: &str, version: &str) -> fs::Result<PathBuf> {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "._-+".contains(character);
    let version: String = version
        .chars()
        .map(|character| if is_plain(character) { character } else { '_' })
        .take(VERSION_LIMIT)
        .collect();
    let mut number = 1;
    loop {
        let path = parent.join(match number {
            1 => format!("{name}-{version}"),
            number => format!("{name}-{version}.{number}"),
        });
        // The environment may contain passwords.
        match fs::create_dir_with_mode(&path, 0o700) {
            Ok(()) => return Ok(path),
            Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn sources(directory: &Path) -> PathBuf {
    directory.join("compile")
}

pub(super) fn installed(directory: &Path) -> PathBuf {
    directory.join("install")
}

/// The temporary name of an old tree while a new one replaces it.
pub(super) fn earlier(tree: &Path) -> PathBuf {
    tree.with_extension("earlier")
}

/// Completes or undoes the replacement of trees if a process was killed during it.
pub(super) fn complete_update(directory: &Path) -> fs::Result<()> {
    for tree in [sources(directory), installed(directory)] {
        let earlier = earlier(&tree);
        match (fs::lookup(&earlier)?, fs::lookup(&tree)?) {
            (Some(_), None) => fs::rename(&earlier, &tree)?,
            (Some(_), Some(_)) => fs::remove_tree(&earlier)?,
            (None, _) => {}
        }
    }
    Ok(())
}

/// The files of a dependency in a kept package.
#[must_use]
pub fn kept_dependency(directory: &Path, name: &str) -> PathBuf {
    directory.join("dependencies").join(name)
}

fn encode(environment: &Environment) -> Vec<u8> {
    let variables = environment.iter().map(|(name, value)| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        [name, b"=", value, b"\0"].concat()
    });
    variables.collect::<Vec<_>>().concat()
}

fn decode(variables: &[u8]) -> Environment {
    let variables = variables.split(|byte| *byte == 0).filter_map(|variable| {
        // A variable's name may begin with `=`.
        let end = variable.iter().skip(1).position(|byte| *byte == b'=')? + 1;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((text(&variable[..end]), text(&variable[end + 1..])))
    });
    variables.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let settings = KeptSettings {
            base: "/var/vcap".to_owned(),
            readonly_dependencies: false,
            protect_host: true,
            network: true,
            nice: 5,
            grace: Duration::from_secs(5),
        };
        let dependencies = vec![("lib".to_owned(), "1".to_owned())];
        Kept::new(("app", "1.2"), dependencies, "userns", settings)
    }

    #[test]
    fn description_and_environment_survive_a_round_trip() {
        let scratch = tempfile::tempdir().unwrap();
        let odd = OsString::from_vec(vec![0xff, b'\n', b'=']);
        let environment: Environment = [("A", "1".into()), ("EMPTY", "".into()), ("=odd", odd)]
            .map(|(name, value): (&str, OsString)| (name.into(), value))
            .into_iter()
            .collect();
        let path = scratch.path();
        kept()
            .write(path, &environment, "/it's/agent".as_ref())
            .unwrap();
        let (read, variables) = Kept::read(path).unwrap();
        assert_eq!(read, kept());
        assert!(variables.iter().eq(environment.iter()));
        let script = fs::read_lossy(&path.join("enter")).unwrap();
        assert!(
            script.contains(r"{BOSH_AGENT:-'/it'\''s/agent'}"),
            "{script}"
        );
        let other = fs::read_lossy(&path.join(DESCRIPTION)).unwrap();
        let other = other.replace("\"format\": 1", "\"format\": 2");
        fs::write(&path.join(DESCRIPTION), other.as_bytes()).unwrap();
        let error = Kept::read(path).unwrap_err();
        assert!(matches!(error, KeptError::Format { format: 2, .. }));
    }

    #[test]
    fn each_directory_has_a_new_name() {
        let scratch = tempfile::tempdir().unwrap();
        let name = |version| {
            let path = create_directory(scratch.path(), "app", version).unwrap();
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name("1.2"), "app-1.2");
        assert_eq!(name("1.2"), "app-1.2.2");
        assert_eq!(name("../x"), "app-.._x");
    }
}

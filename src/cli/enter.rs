//! `bosh-agent enter DIR`: a shell in the sandbox of a package that `compile --keep-failed` has kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::colors;
use super::compile::{NO_TERMINAL, NO_TERMINAL_HINT, has_proc, supervised};
use super::this_process::who;
use super::{MACHINE, USAGE, on_threads, print_error};
use crate::compile::{Kept, Shell, ShellWhen};
use crate::config::{Environment, Vcap};
use crate::diag::Chain;
use crate::fs;
use crate::offline::{self, FailureKind, KeptPackage, Messages, Options};
use crate::process::Terminal;
use crate::sandbox::{self, Isolation};

pub(super) const HELP: &str = "\
Opens a shell in the sandbox of a package that `compile --keep-failed` has kept

Usage: bosh-agent enter DIR

Arguments:
  DIR  Directory with the files of the package. The message about the failed package names it

Options:
  -h, --help  Print help
";

/// Parses the arguments after `enter`.
pub(super) fn parse(arguments: &[OsString]) -> Result<PathBuf, String> {
    match arguments {
        [directory] if !directory.is_empty() => Ok(directory.into()),
        _ => Err("Error: expected one directory: bosh-agent enter DIR".to_owned()),
    }
}

pub(super) fn main(directory: &Path) -> u8 {
    sandbox::shorten_slices_before_threads();
    if !has_proc() {
        return MACHINE;
    }
    let Some(terminal) = Terminal::of_this_process() else {
        print_error(&format!("Error: {NO_TERMINAL}\nHint: {NO_TERMINAL_HINT}"));
        return USAGE;
    };
    let (package, kept, environment) = match read(directory) {
        Ok(read) => read,
        Err(error) => {
            print_error(&format!("Error: {error}"));
            return FailureKind::Input.exit_code();
        }
    };
    let Some(isolation) = tier(&kept.isolation) else {
        print_error(&format!(
            "Error: unknown isolation tier `{}`",
            kept.isolation
        ));
        return FailureKind::Input.exit_code();
    };
    let messages = Messages {
        is_terminal: colors::is_terminal(&environment),
        paint: colors::for_errors(),
        ..Messages::default()
    };
    let options = options(&package, &kept, (isolation, environment), terminal);
    let grace = options.grace;
    on_threads(
        1,
        supervised(grace, messages, move |progress, cancel| async move {
            offline::enter(package, options, progress, &cancel).await
        }),
    )
}

fn read(directory: &Path) -> Result<(KeptPackage, Kept, Environment), String> {
    let directory = fs::canonicalize(directory).map_err(|error| Chain(&error).to_string())?;
    let (kept, environment) = Kept::read(&directory).map_err(|error| Chain(&error).to_string())?;
    let package = KeptPackage::new(&directory, &kept);
    let package = package.ok_or_else(|| format!("`{}` names no package", directory.display()))?;
    Ok((package, kept, environment))
}

fn tier(name: &str) -> Option<Isolation> {
    Some(match name {
        "namespace" => Isolation::Namespace,
        "userns" => Isolation::Userns,
        "landlock" => Isolation::Landlock,
        "none" => Isolation::None,
        _ => return None,
    })
}

fn options(
    package: &KeptPackage,
    kept: &Kept,
    (isolation, environment): (Isolation, Environment),
    terminal: Terminal,
) -> Options {
    let settings = &kept.settings;
    Options {
        vcap: Vcap::new(Path::new(&settings.base)),
        isolation,
        // Only a single-threaded process can enter a user namespace.
        user_namespace: isolation.enter_user_namespace(),
        readonly_dependencies: settings.readonly_dependencies,
        protect_host: settings.protect_host,
        network: settings.network,
        nice: settings.nice,
        grace: settings.grace,
        shell: Some(Shell {
            when: ShellWhen::Instead(package.name().clone()),
            terminal: Arc::new(terminal),
        }),
        environment,
        who: who(),
        ..Options::default()
    }
}

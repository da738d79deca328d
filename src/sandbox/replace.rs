//! Replaces this process by another program, which then starts as if the caller of this process had started it.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::unistd::execve;

use super::sys;
use crate::config::Environment;
use crate::{fs, process};

/// Executes a program in place of this process, with these arguments, of which the first is the name of the program. The program gets the
/// umask, the soft limit of open files, the ignored and blocked signals and the descriptors that this process inherited. Returns only if
/// that failed, with the error.
pub(crate) fn replace_this_process(
    program: &Path,
    arguments: &[OsString],
    environment: &Environment,
) -> io::Error {
    let text = |text: &OsStr| CString::new(text.as_bytes());
    let texts = || -> Result<_, std::ffi::NulError> {
        let arguments = arguments.iter().map(|it| text(it));
        let variables = environment.iter().map(|(name, value)| {
            let variable = [name.as_bytes(), b"=", value.as_bytes()].concat();
            CString::new(variable)
        });
        Ok((
            text(program.as_os_str())?,
            arguments.collect::<Result<Vec<_>, _>>()?,
            variables.collect::<Result<Vec<_>, _>>()?,
        ))
    };
    let (program, arguments, variables) = match texts() {
        Ok(texts) => texts,
        Err(error) => return error.into(),
    };
    fs::restore_umask();
    process::restore_inherited_limit_of_open_files();
    sys::inherit_no_descriptors(&[]);
    sys::restore_descriptors();
    sys::restore_signals();
    let Err(error) = execve(&program, &arguments, &variables);
    error.into()
}

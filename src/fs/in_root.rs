//! Finds files in a directory that is treated as the root of the file system: neither links nor
//! `..` lead out of it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{Context, Result};

/// Opens a regular file for reading. `path` is absolute and interpreted inside `root`. Returns
/// `None` if the file is missing or not a regular file.
///
/// # Errors
/// The error of the system.
pub(crate) fn open_in_root(root: &Path, path: &Path) -> Result<Option<File>> {
    // `NONBLOCK` prevents the open of a FIFO from blocking.
    let file = find(root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let Some(file) = file else { return Ok(None) };
    let metadata = file.metadata().at("examine", path)?;
    Ok(metadata.is_file().then_some(file))
}

/// Translates a path inside `root` to the path that this process sees, without links. `None` if the
/// file is missing.
///
/// # Errors
/// The error of the system.
pub(crate) fn path_in_root(root: &Path, path: &Path) -> Result<Option<PathBuf>> {
    let Some(file) = find(root, path, OFlags::PATH)? else {
        return Ok(None);
    };
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    super::read_link(&link).map(Some)
}

fn find(root: &Path, path: &Path, flags: OFlags) -> Result<Option<File>> {
    let full = root.join(path.strip_prefix("/").unwrap_or(path));
    let directory = openat2(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::empty(),
    );
    let directory = directory.map_err(std::io::Error::from).at("open", root)?;
    let flags = flags | OFlags::CLOEXEC;
    match openat2(directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(file) => Ok(Some(file.into())),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(std::io::Error::from(error)).at("open", &full),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::fs;

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(&root.join("etc/inner")).unwrap();
        fs::write(&scratch.path().join("secret"), b"outside").unwrap();
        fs::write(&root.join("secret"), b"inside").unwrap();
        for (number, target) in ["/secret", "../../../secret", "../secret"]
            .iter()
            .enumerate()
        {
            let link = format!("etc/{number}");
            fs::symlink(Path::new(target), &root.join(&link)).unwrap();
            let mut text = String::new();
            let mut file = open_in_root(&root, &Path::new("/").join(&link))
                .unwrap()
                .unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside");
        }
        let found = path_in_root(&root, Path::new("/etc/../../etc/inner")).unwrap();
        assert_eq!(
            found,
            Some(fs::canonicalize(&root.join("etc/inner")).unwrap())
        );
    }

    #[test]
    fn only_regular_files_are_opened() {
        let scratch = tempfile::tempdir().unwrap();
        fs::make_fifo(&scratch.path().join("fifo")).unwrap();
        for path in ["/fifo", "/none", "/fifo/x", "/"] {
            assert!(
                open_in_root(scratch.path(), Path::new(path))
                    .unwrap()
                    .is_none()
            );
        }
        assert_eq!(
            path_in_root(scratch.path(), Path::new("/none")).unwrap(),
            None
        );
    }
}

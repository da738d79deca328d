//! The identity of the root file system, which is a part of cache keys. Two machines for the same
//! stemcell have different identities if, for example, their compilers differ.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::difference::DPKG;
use crate::fs::{self, Context as _};
use crate::release::{Algorithm, Digests};

/// The files that describe the operating system and its installed packages.
const FILES: [&str; 4] = [
    "/etc/os-release",
    DPKG,
    "/lib/apk/db/installed",
    "/var/lib/rpm/rpmdb.sqlite",
];

/// The files in the stemcell's `bosh/etc` that identify the stemcell.
const STEMCELL: [&str; 3] = ["operating_system", "stemcell_git_sha1", "stemcell_version"];

/// The programs that affect what scripts build. They are searched in `PATH` and hashed, because
/// they may not belong to an installed package. Hashing a program is faster than asking the program
/// for its version.
const PROGRAMS: [&str; 20] = [
    "ar",
    "as",
    "bash",
    "c++",
    "cc",
    "clang",
    "clang++",
    "cmake",
    "g++",
    "gcc",
    "go",
    "javac",
    "ld",
    "make",
    "perl",
    "pkg-config",
    "python3",
    "ruby",
    "rustc",
    "tar",
];

/// The digests of the files that describe the root file system, and of the compilers that are found
/// in `search`, the value of `PATH`. `etc` is the stemcell's `bosh/etc`. Missing files are left
/// out.
///
/// # Errors
/// If a file that this user may read cannot be read. A file that this user may not read is
/// identified by its size and modification time.
pub fn root_identity(etc: &Path, search: Option<&OsStr>) -> fs::Result<BTreeMap<String, String>> {
    let mut identity = BTreeMap::new();
    for file in FILES {
        if let Some(digest) = digest(Path::new(file))? {
            identity.insert(file.to_owned(), digest);
        }
    }
    for name in STEMCELL {
        if let Some(digest) = digest(&etc.join(name))? {
            identity.insert(format!("stemcell's {name}"), digest);
        }
    }
    for name in PROGRAMS {
        if let Some(digest) = program(name, search)? {
            identity.insert(name.to_owned(), digest);
        }
    }
    Ok(identity)
}

/// The digest of the first program of this name in the search path.
fn program(name: &str, search: Option<&OsStr>) -> fs::Result<Option<String>> {
    let Some(search) = search else {
        return Ok(None);
    };
    for directory in std::env::split_paths(search) {
        let file: PathBuf = directory.join(name);
        if is_executable(&file)
            && let Some(digest) = digest(&file)?
        {
            return Ok(Some(digest));
        }
    }
    Ok(None)
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// The SHA-256 of a file; `None` if it is missing.
fn digest(file: &Path) -> fs::Result<Option<String>> {
    let opened = match fs::open(file) {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() || is_not_a_directory(&error) => return Ok(None),
        // The user may not read the file, for example a compiler that only a group may read.
        Err(error) => return unreadable(file, error).map(Some),
    };
    let (digests, _) = Digests::of_reader(opened, &[Algorithm::Sha256]).at("read", file)?;
    Ok(digests.sha256().map(str::to_owned))
}

/// The size and modification time of a file that this user may not read.
fn unreadable(file: &Path, error: fs::Error) -> fs::Result<String> {
    use std::os::unix::fs::MetadataExt;
    if error.source.kind() != io::ErrorKind::PermissionDenied {
        return Err(error);
    }
    let metadata = fs::metadata(file)?;
    let (size, time) = (metadata.len(), metadata.mtime());
    Ok(format!("unreadable, {size} bytes of {time}"))
}

fn is_not_a_directory(error: &fs::Error) -> bool {
    error.source.kind() == io::ErrorKind::NotADirectory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_executable_in_the_search_path_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| scratch.path().join(name));
        for (directory, mode) in [(&one, 0o644), (&two, 0o755)] {
            fs::create_dir(directory).unwrap();
            let file = directory.join("gcc");
            fs::write(&file, directory.as_os_str().as_encoded_bytes()).unwrap();
            fs::set_mode(&file, mode).unwrap();
        }
        let search = std::env::join_paths([&one, &two]).unwrap();
        let etc = scratch.path().join("etc");
        let before = root_identity(&etc, Some(&search)).unwrap();
        assert!(before.contains_key("gcc"));

        fs::set_mode(&one.join("gcc"), 0o755).unwrap();
        let after = root_identity(&etc, Some(&search)).unwrap();
        assert_ne!(before["gcc"], after["gcc"]);
    }

    #[test]
    fn stemcell_is_part_of_the_identity() {
        let scratch = tempfile::tempdir().unwrap();
        let without = root_identity(scratch.path(), None).unwrap();
        fs::write(&scratch.path().join("stemcell_version"), b"1.1").unwrap();
        let with = root_identity(scratch.path(), None).unwrap();
        assert_ne!(without, with);
    }

    #[test]
    fn file_that_only_others_may_read_is_identified_by_its_attributes() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("gcc");
        fs::write(&file, b"a compiler").unwrap();
        let denied = |kind: io::ErrorKind| {
            let error = Err::<(), _>(io::Error::from(kind)).at("open", &file);
            unreadable(&file, error.unwrap_err())
        };
        let identity = denied(io::ErrorKind::PermissionDenied).unwrap();
        assert!(
            identity.starts_with("unreadable, 10 bytes of "),
            "{identity}"
        );
        denied(io::ErrorKind::Other).unwrap_err();
    }
}

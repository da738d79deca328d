//! Makes an installed tree what its unpacked blob would be, so that a package which has just been compiled and one that was
//! compiled before are the same to those compiled against them.
//!
//! The measure is `tar --no-same-owner` as root: everything belongs to root, times are whole seconds, extended attributes
//! and sockets are not there.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use walkdir::WalkDir;

use crate::fs::{self, Context};

/// Seals a tree. Its own root directory keeps its owner, which no archive changes either.
///
/// # Errors
/// What the system answered, with the path of the entry.
pub(super) fn seal(tree: &Path) -> fs::Result<()> {
    // Contents first: removing a socket changes the time of its directory.
    for entry in WalkDir::new(tree).contents_first(true) {
        let entry = entry.map_err(|error| fs::Error {
            action: "read the tree",
            path: error.path().unwrap_or(tree).to_owned(),
            source: error.into(),
        })?;
        let path = entry.path();
        let metadata = entry
            .metadata()
            .map_err(io::Error::from)
            .at("examine", path)?;
        if metadata.file_type().is_socket() {
            let parent = path.parent().unwrap_or(tree);
            let before = fs::metadata(parent)?;
            fs::remove_file(path)?;
            set_whole_seconds(parent, before.mtime())?;
            continue;
        }
        remove_attributes(path)?;
        if path != tree && (metadata.uid(), metadata.gid()) != (0, 0) {
            give_to_root(path, &metadata)?;
        }
        set_whole_seconds(path, metadata.mtime())?;
    }
    Ok(())
}

fn give_to_root(path: &Path, metadata: &std::fs::Metadata) -> fs::Result<()> {
    match lchown(path, Some(0), Some(0)) {
        // Whoever is not root unpacks to files of their own, too.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        other => other.at("set the owner of", path)?,
    }
    // A change of owner takes the setuid and setgid bits away.
    if !metadata.file_type().is_symlink() {
        fs::set_mode(path, metadata.permissions().mode() & 0o7777)?;
    }
    Ok(())
}

fn set_whole_seconds(path: &Path, seconds: i64) -> fs::Result<()> {
    // What an archive cannot hold is stored as the nearest that it can.
    let time = TimeSpec::new(seconds.max(0), 0);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .at("set the times of", path)
}

/// Removes the extended attributes, capabilities and ACLs among them. Where there can be none, there is nothing to do.
fn remove_attributes(path: &Path) -> fs::Result<()> {
    let mut names = Vec::with_capacity(1024);
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(io::Error::from(error)).at("list the attributes of", path),
    }
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // A security label that the system sets by itself can neither be removed nor packed.
        let _ = rustix::fs::lremovexattr(path, name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_sealed_tree_is_what_its_archive_would_give() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path();
        fs::create_dir(&tree.join("bin")).unwrap();
        let tool = tree.join("bin/tool");
        fs::write(&tool, b"tool").unwrap();
        symlink("tool", tree.join("bin/link")).unwrap();
        let _ = UnixListener::bind(tree.join("bin/socket")).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            lchown(&tool, Some(1234), Some(5678)).unwrap();
        }
        fs::set_mode(&tool, 0o6755).unwrap();
        let _ = rustix::fs::setxattr(
            &tool,
            "user.test",
            b"value",
            rustix::fs::XattrFlags::empty(),
        );
        let before = fs::metadata(&tree.join("bin")).unwrap().mtime();

        seal(tree).unwrap();

        assert!(fs::lookup(&tree.join("bin/socket")).unwrap().is_none());
        let sealed = fs::metadata(&tool).unwrap();
        assert_eq!(sealed.mode() & 0o7777, 0o6755);
        assert_eq!(sealed.mtime_nsec(), 0);
        if is_root {
            assert_eq!((sealed.uid(), sealed.gid()), (0, 0));
        }
        let mut names = Vec::with_capacity(1024);
        rustix::fs::llistxattr(&tool, rustix::buffer::spare_capacity(&mut names)).unwrap();
        assert!(!names.windows(9).any(|name| name == b"user.test"));
        let directory = fs::metadata(&tree.join("bin")).unwrap();
        assert_eq!((directory.mtime(), directory.mtime_nsec()), (before, 0));
    }
}

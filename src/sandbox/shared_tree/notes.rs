//! The lines of the marker and of the lock file.

/// The prefix of the line with the inodes. It is not a valid package name.
pub(super) const DIRECTORIES: &str = "#directories";

/// The number of the tree's directories, whose inodes come first in that line.
const CONTENTS: usize = 3;

/// The prefix of lines that name other directories in the data directory. It is not part of a valid package name.
pub(super) const DATA: &str = "data/";

/// The inode of the data directory, as noted in a text.
pub(super) fn noted_data(text: &str) -> Option<&str> {
    noted_inode(text, CONTENTS)
}

/// The inode with this number in the line with the inodes.
pub(super) fn noted_inode(text: &str, number: usize) -> Option<&str> {
    let inodes = text
        .lines()
        .find_map(|line| line.strip_prefix(DIRECTORIES))?;
    inodes.split_whitespace().nth(number)
}

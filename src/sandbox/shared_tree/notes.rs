//! Lines of the marker file and of the lock file. Both files name what a run puts into the tree, so that the next run can remove it if
//! this run is killed. The lock file repeats the lines in case a script removes the marker file.

/// The prefix of the line that identifies the tree's directories and the data directory. It is not a valid package name.
const DIRECTORIES: &str = "#directories";

/// How many directories that line identifies: first those of the tree, then the data directory.
const COUNT: usize = 4;

/// The prefix of a line that names a directory `data/NAME` that the run created in the data directory. Other lines without a prefix name
/// packages; a package name cannot contain the slash of this prefix.
pub(super) const DATA: &str = "data/";

/// The number of a device, and the inode number of a directory on it.
pub(super) type Id = (u64, u64);

/// A directory as the marker file or the lock file identifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotedDirectory<'a> {
    inode: &'a str,
    /// The number of the device. `None` if it is unknown: a device may get another number when the machine restarts, and files of older
    /// versions do not have it.
    device: Option<&'a str>,
}

impl NotedDirectory<'_> {
    /// Whether a directory with this ID is the noted one.
    pub(super) fn is(&self, (device, inode): Id) -> bool {
        let is_device = |noted: &str| noted == device.to_string();
        self.inode == inode.to_string() && self.device.is_none_or(is_device)
    }
}

/// The line that identifies the tree's directories and the data directory. If the present boot ID, [`fs::boot`](crate::fs::boot), is
/// known, the line also contains it and the numbers of the devices.
pub(super) fn directories_line(directories: [Id; COUNT], boot: Option<&str>) -> String {
    let mut words = vec![DIRECTORIES.to_owned()];
    words.extend(directories.iter().map(|(_, inode)| inode.to_string()));
    if let Some(boot) = boot {
        words.push(boot.to_owned());
        words.extend(directories.iter().map(|(device, _)| device.to_string()));
    }
    words.join(" ")
}

/// The tree's directories and the data directory, from the text of a marker file or lock file. `boot` is the present
/// [`fs::boot`](crate::fs::boot).
pub(super) fn noted_directories<'a>(
    text: &'a str,
    boot: Option<&str>,
) -> Option<[NotedDirectory<'a>; COUNT]> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(DIRECTORIES))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let inodes = words.get(..COUNT)?;
    let is_same_boot = words.get(COUNT).is_some_and(|noted| Some(*noted) == boot);
    let devices = words.get(COUNT + 1..).filter(|_| is_same_boot);
    let noted = inodes.iter().enumerate().map(|(number, inode)| {
        let device = devices.and_then(|devices| devices.get(number));
        NotedDirectory {
            inode,
            device: device.copied(),
        }
    });
    noted.collect::<Vec<_>>().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_count_only_while_the_machine_runs() {
        let directories = [(7, 11), (7, 12), (8, 13), (9, 14)];
        let line = directories_line(directories, Some("boot-1"));
        assert_eq!(line, "#directories 11 12 13 14 boot-1 7 7 8 9");
        let is_on = |text: &str, boot, device| {
            let noted = noted_directories(text, boot).unwrap();
            assert!(!noted[2].is((device, 14)));
            noted[2].is((device, 13))
        };
        assert!(is_on(&line, Some("boot-1"), 8));
        assert!(!is_on(&line, Some("boot-1"), 7));
        for (text, boot) in [
            (line.as_str(), Some("boot-2")),
            (line.as_str(), None),
            ("#directories 11 12 13 14\n", Some("boot-1")),
            (&directories_line(directories, None) as &str, Some("boot-1")),
        ] {
            assert!(is_on(text, boot, 8) && is_on(text, boot, 7), "{text}");
        }
        for text in ["", "#directories", "#directories 1 2 3", "app\n"] {
            assert_eq!(noted_directories(text, Some("boot-1")), None, "{text}");
        }
    }
}

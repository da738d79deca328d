//! The notes: lines in the marker file and in the lock file. They name the packages and directories that a run puts into the tree, so that
//! the next run can remove them if this run is killed. The lock file repeats the lines in case a script removes the marker file.

use rustix::fs::major;

use crate::fs::Glimpse;

/// The prefix of the line that identifies the tree's directories and the data directory. It is not a valid package name.
const DIRECTORIES: &str = "#directories";

/// How many directories that line identifies: first those of the tree, then the data directory.
const COUNT: usize = 4;

/// The prefix of a line that names a directory `data/NAME` that the run created in the data directory. Other lines without a prefix name
/// packages; a package name cannot contain the slash of this prefix.
pub(super) const DATA: &str = "data/";

/// The number of a device, and the inode number of a directory on it.
pub(super) type Id = (u64, u64);

/// The word for an unknown volume.
const NO_VOLUME: &str = "-";

/// A directory as the marker file or the lock file identifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotedDirectory<'a> {
    inode: &'a str,
    /// The number of the device. `None` if it is unknown: a device may get another number when the machine restarts, and files of older
    /// versions do not have it.
    device: Option<&'a str>,
    /// The file system that was mounted, as [`Glimpse::volume`] describes it.
    volume: Option<&'a str>,
}

impl NotedDirectory<'_> {
    /// Whether a directory with this ID is the noted one.
    pub(super) fn has(&self, id: Id) -> bool {
        self.is(id, || None)
    }

    /// Whether this is the noted directory.
    pub(super) fn is_at(&self, found: &Glimpse) -> bool {
        self.is(found.id, || found.volume())
    }

    fn is(&self, (device, inode): Id, volume: impl FnOnce() -> Option<String>) -> bool {
        let is_device = |noted: &str| {
            if noted == device.to_string() {
                return true;
            }
            // The number of a disk stays. File systems without a disk of their own, such as NFS, Btrfs, overlays and FUSE, get a new number
            // each time that they are mounted.
            let is_without_disk = |number: u64| major(number) == 0;
            is_without_disk(device)
                && noted.parse().is_ok_and(is_without_disk)
                && self.volume.is_some()
                && self.volume == volume().as_deref()
        };
        self.inode == inode.to_string() && self.device.is_none_or(is_device)
    }
}

/// The line that identifies the tree's directories and the data directory. If the present boot ID, [`fs::boot`](crate::fs::boot), is
/// known, the line also contains it, the numbers of the devices and what is mounted.
pub(super) fn directories_line(
    directories: &[(Id, Option<String>); COUNT],
    boot: Option<&str>,
) -> String {
    let mut words = vec![DIRECTORIES.to_owned()];
    words.extend(directories.iter().map(|((_, inode), _)| inode.to_string()));
    if let Some(boot) = boot {
        words.push(boot.to_owned());
        words.extend(
            directories
                .iter()
                .map(|((device, _), _)| device.to_string()),
        );
        let volumes = directories.iter().map(|(_, volume)| volume.as_deref());
        // The words must not contain spaces, which the kernel escapes.
        let known = volumes.map(|it| it.filter(|it| !it.contains(char::is_whitespace)));
        words.extend(known.map(|it| it.unwrap_or(NO_VOLUME).to_owned()));
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
    let details = words.get(COUNT + 1..).filter(|_| is_same_boot);
    let detail = |number: usize| details.and_then(|details| details.get(number)).copied();
    let noted = inodes
        .iter()
        .enumerate()
        .map(|(number, inode)| NotedDirectory {
            inode,
            device: detail(number),
            volume: detail(COUNT + number).filter(|it| *it != NO_VOLUME),
        });
    noted.collect::<Vec<_>>().try_into().ok()
}

#[cfg(test)]
mod tests {
    use rustix::fs::makedev;

    use super::*;

    fn on(directories: [Id; COUNT]) -> [(Id, Option<String>); COUNT] {
        directories.map(|id| (id, None))
    }

    #[test]
    fn devices_count_only_while_the_machine_runs() {
        let directories = on([(7, 11), (7, 12), (8, 13), (9, 14)]);
        let line = directories_line(&directories, Some("boot-1"));
        assert_eq!(line, "#directories 11 12 13 14 boot-1 7 7 8 9 - - - -");
        let is_on = |text: &str, boot, device| {
            let noted = noted_directories(text, boot).unwrap();
            assert!(!noted[2].has((device, 14)));
            noted[2].has((device, 13))
        };
        assert!(is_on(&line, Some("boot-1"), 8));
        assert!(!is_on(&line, Some("boot-1"), 7));
        for (text, boot) in [
            (line.as_str(), Some("boot-2")),
            (line.as_str(), None),
            ("#directories 11 12 13 14\n", Some("boot-1")),
            (
                &directories_line(&directories, None) as &str,
                Some("boot-1"),
            ),
        ] {
            assert!(is_on(text, boot, 8) && is_on(text, boot, 7), "{text}");
        }
        for text in ["", "#directories", "#directories 1 2 3", "app\n"] {
            assert_eq!(noted_directories(text, Some("boot-1")), None, "{text}");
        }
    }

    #[test]
    fn volume_without_a_disk_is_known_by_its_source() {
        let (first, second, disk) = (makedev(0, 40), makedev(0, 41), makedev(254, 0));
        let nfs = || Some("nfs4:host:/x:/".to_owned());
        let directories = [first, first, disk, first].map(|device| ((device, 5), nfs()));
        let line = directories_line(&directories, Some("boot"));
        let noted = noted_directories(&line, Some("boot")).unwrap();
        assert!(noted[0].is((second, 5), nfs));
        for (noted, id, volume) in [
            (noted[0], (second, 6), nfs()),
            (noted[0], (second, 5), Some("nfs4:host:/y:/".to_owned())),
            (noted[0], (second, 5), None),
            (noted[0], (disk, 5), nfs()),
            (noted[2], (second, 5), nfs()),
        ] {
            assert!(!noted.is(id, || volume.clone()), "{id:?} {volume:?}");
        }
        // Notes of an older version, and of a directory whose volume was unknown.
        let old = format!("#directories 5 5 5 5 boot {first} {first} {first} {first}");
        for line in [old.clone(), format!("{old} - - - -")] {
            let noted = noted_directories(&line, Some("boot")).unwrap();
            assert!(noted[0].is((first, 5), || None) && !noted[0].is((second, 5), nfs));
            assert!(!noted[0].is((second, 5), || None));
        }
    }
}

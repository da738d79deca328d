//! Decides which user and group each file has in a compiled package's archive.

use std::sync::LazyLock;

use super::built::InstalledTree;
use crate::archive::{self, SystemOwners};
use crate::compile::seal::Unsealed;

/// The group of the directories that the agent creates for packages, and its number on every stemcell.
const VCAP: (&str, u32) = ("vcap", 1000);

/// The number of the group `vcap` on this machine, if it exists. It is looked up once, because a lookup without a result is slow and each
/// package has about seven directories.
static VCAP_HERE: LazyLock<Option<u32>> = LazyLock::new(|| {
    let group = nix::unistd::Group::from_name(VCAP.0).ok().flatten();
    group.map(|group| group.gid.as_raw())
});

/// The number of the group `vcap` on this machine, or else its number on every stemcell. The first call blocks.
pub(super) fn vcap_group() -> u32 {
    VCAP_HERE.unwrap_or(VCAP.1)
}

/// The owners of packed files, as the script set them. The group `vcap` gets its name even if it does not exist on this machine.
pub(super) struct PackageOwners {
    system: SystemOwners,
    has_vcap: bool,
    unsealed: Unsealed,
    user: Option<OrdinaryUser>,
}

/// The user of this process, if it is not root. This user does not exist on the VM. Therefore, the archive names root as the owner of this
/// user's files, as if the script had run as root. Files of other users keep their owners.
struct OrdinaryUser {
    uid: u32,
    groups: Vec<u32>,
    /// The group of the package's root directory.
    root_group: u32,
}

impl PackageOwners {
    pub(super) fn new(tree: InstalledTree) -> Self {
        let root_group = if tree.agent_made_root {
            vcap_group()
        } else {
            0
        };
        Self {
            system: SystemOwners::new(),
            has_vcap: VCAP_HERE.is_some(),
            unsealed: tree.unsealed,
            user: OrdinaryUser::of_this_process(root_group),
        }
    }
}

impl OrdinaryUser {
    /// `None` if this process runs as root.
    fn of_this_process(root_group: u32) -> Option<Self> {
        let uid = nix::unistd::geteuid();
        if uid.is_root() {
            return None;
        }
        let groups = nix::unistd::getgroups().unwrap_or_default();
        let own = [nix::unistd::getegid(), nix::unistd::getgid()];
        Some(Self {
            uid: uid.as_raw(),
            groups: groups
                .into_iter()
                .chain(own)
                .map(nix::unistd::Gid::as_raw)
                .collect(),
            root_group,
        })
    }

    /// The user and the group that an entry would have if the script had run as root.
    fn as_root(&self, name: &[u8], uid: u32, gid: u32) -> (u32, u32) {
        let is_own = uid == self.uid;
        let gid = match self.groups.contains(&gid) {
            true if is_own && name == b"." => self.root_group,
            true => 0,
            false => gid,
        };
        (if is_own { 0 } else { uid }, gid)
    }
}

impl archive::Owners for PackageOwners {
    fn user(&mut self, uid: u32) -> String {
        self.system.user(uid)
    }

    fn group(&mut self, gid: u32) -> String {
        if !self.has_vcap && gid == VCAP.1 {
            return VCAP.0.to_owned();
        }
        self.system.group(gid)
    }

    fn numbers(&mut self, name: &[u8], uid: u32, gid: u32) -> (u32, u32) {
        let (uid, gid) = self.unsealed.owners(name).unwrap_or((uid, gid));
        match &self.user {
            Some(user) => user.as_root(name, uid, gid),
            None => (uid, gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_an_ordinary_user_are_packed_as_files_of_root() {
        let user = OrdinaryUser {
            uid: 1003,
            groups: vec![1003, 27],
            root_group: 1000,
        };
        assert_eq!(user.as_root(b".", 1003, 1003), (0, 1000));
        assert_eq!(user.as_root(b"./file", 1003, 1003), (0, 0));
        assert_eq!(user.as_root(b"./of-another-group", 1003, 27), (0, 0));
        assert_eq!(user.as_root(b"./given-away", 33, 33), (33, 33));
        assert_eq!(user.as_root(b"./of-root", 0, 0), (0, 0));
    }
}

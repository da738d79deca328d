//! The owners of what is packed.

use std::sync::LazyLock;

use super::built::Tree;
use crate::archive::{self, SystemOwners};
use crate::compile::seal::Unsealed;

/// The group that packages belong to, and its number on every stemcell.
const VCAP: (&str, u32) = ("vcap", 1000);

/// The number of packages' group on this machine, where it has one by that name. It is looked up once: a database that does not
/// have it is asked in a dozen places, for each of some seven directories of a package.
static VCAP_HERE: LazyLock<Option<u32>> = LazyLock::new(|| {
    let group = nix::unistd::Group::from_name(VCAP.0).ok().flatten();
    group.map(|group| group.gid.as_raw())
});

/// The group of packages: by name, else by the number that it has on every stemcell.
pub(super) fn vcap_group() -> u32 {
    VCAP_HERE.unwrap_or(VCAP.1)
}

/// The owners of what is packed: those that the script gave it. On a machine without packages' group, its number is written
/// with its name all the same.
pub(super) struct Owners {
    system: SystemOwners,
    has_vcap: bool,
    unsealed: Unsealed,
    user: Option<OrdinaryUser>,
}

/// An ordinary user outside a user namespace, who can own files only as itself. Its account and its groups are this machine's,
/// not the VM's, so what is its own is root's in the archive, as where the script is root. Files of other owners were given away
/// with privileges, on purpose, and keep them.
struct OrdinaryUser {
    uid: u32,
    groups: Vec<u32>,
    /// The group of the package's root directory.
    root_group: u32,
}

impl Owners {
    pub(super) fn new(tree: Tree) -> Self {
        let root_group = if tree.is_ours { vcap_group() } else { 0 };
        Self {
            system: SystemOwners::new(),
            has_vcap: VCAP_HERE.is_some(),
            unsealed: tree.unsealed,
            user: OrdinaryUser::this(root_group),
        }
    }
}

impl OrdinaryUser {
    /// `None` for root.
    fn this(root_group: u32) -> Option<Self> {
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

    /// The owners of an entry as they would be if the script had been root.
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

impl archive::Owners for Owners {
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
    fn files_of_an_ordinary_user_are_packed_as_roots() {
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

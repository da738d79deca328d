//! Chooses the owners of packed entries.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User};

/// Chooses the owner of an entry in the archive, and the names of users and groups.
///
/// The names of this system may be wrong on the machine that unpacks the archive. A caller can provide other names.
pub trait Owners {
    /// The name of a user. Empty if the user has none.
    fn user(&mut self, uid: u32) -> String;

    /// The name of a group. Empty if the group has none.
    fn group(&mut self, gid: u32) -> String;

    /// The user and group numbers of an entry in the archive, from its name and its numbers on the disk.
    fn numbers(&mut self, name: &[u8], uid: u32, gid: u32) -> (u32, u32) {
        let _ = name;
        (uid, gid)
    }
}

/// The names in this system's user and group databases. Each number is looked up once.
#[derive(Debug, Default)]
pub struct SystemOwners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl SystemOwners {
    /// Creates owners that look up each name when it is needed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Owners for SystemOwners {
    fn user(&mut self, uid: u32) -> String {
        self.users
            .entry(uid)
            .or_insert_with(|| {
                // The name is empty if the database cannot be read, as in GNU tar.
                let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
                user.map(|user| user.name).unwrap_or_default()
            })
            .clone()
    }

    fn group(&mut self, gid: u32) -> String {
        self.groups
            .entry(gid)
            .or_insert_with(|| {
                let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
                group.map(|group| group.name).unwrap_or_default()
            })
            .clone()
    }
}

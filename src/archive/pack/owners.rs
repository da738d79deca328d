//! Owners as archives have them.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User};

/// Says who owns an entry of the archive, and what owners are called.
///
/// The numbers on disk and the names that a reader looks up belong together only on the machine that will unpack the
/// archive: hence a caller may put names of its own before the system's.
pub trait Owners {
    /// The user's name; empty when it has none.
    fn user(&mut self, uid: u32) -> String;

    /// The group's name; empty when it has none.
    fn group(&mut self, gid: u32) -> String;

    /// The numbers of an entry's user and group in the archive, by its name there and the numbers that it has on disk.
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
    /// Nothing looked up yet.
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
                // A database that cannot be asked is one without the name: GNU tar too leaves the field empty.
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

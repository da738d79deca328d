//! User namespaces: how a process without the right to mount anything gets it, for itself and what it starts.
//!
//! The whole agent enters, at its start, and not each script by itself: then what scripts leave behind belongs, for everything
//! that unpacks, seals, packs and removes it, to the owners that the script saw. The rest is as in `--isolation=namespace`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, User, getegid, geteuid, pipe2, setresgid, setresuid};

use super::mount::try_mounts;
use super::step::{Step, StepError, StepResult};
use super::sys;
use crate::fs;

/// The owners that there are in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// Those that there are outside, as they are: for root.
    Same,
    /// The user as root, and the others from the ranges that `/etc/subuid` and `/etc/subgid` give the user.
    Ranges,
    /// The user as root, and nobody else: changes of owner fail.
    Single,
}

/// What came of the wish for a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It was not tried, or not needed.
    Outside,
    /// This process is in one.
    Inside(Users),
    /// It cannot be had here.
    Refused(StepError),
}

/// Enters a user namespace where mounts are not allowed without one, and are with one. Both is tried before, in processes that
/// are thrown away.
///
/// This process must have one thread.
#[must_use]
pub fn enter_if_needed() -> Entry {
    match try_in_a_copy(try_mounts) {
        Ok(()) => Entry::Outside,
        Err(_) => enter_one_of(usual()),
    }
}

/// Enters a user namespace; one with a single owner where there is no better one.
///
/// This process must have one thread.
#[must_use]
pub fn enter() -> Entry {
    match enter_one_of(usual()) {
        Entry::Refused(first) => match enter_one_of(Users::Single) {
            // What would give the better one is what a person should hear of.
            Entry::Refused(_) => Entry::Refused(first),
            entered => entered,
        },
        entered => entered,
    }
}

fn usual() -> Users {
    if geteuid().is_root() {
        Users::Same
    } else {
        Users::Ranges
    }
}

fn enter_one_of(users: Users) -> Entry {
    let entered = Map::of(users).and_then(|map| {
        try_in_a_copy(|| {
            map.enter(CloneFlags::empty())?;
            try_mounts()
        })?;
        map.enter(CloneFlags::empty())
    });
    match entered {
        Ok(()) => Entry::Inside(users),
        Err(error) => Entry::Refused(error),
    }
}

/// Enters a user namespace below this one, with the same owners and a mount namespace of its own, whose mounts are locked.
pub(super) fn enter_nested() -> Result<(), StepError> {
    Map::of(Users::Same)?.enter(CloneFlags::CLONE_NEWNS)
}

/// Does something in a copy of this process, and tells what came of it.
fn try_in_a_copy(attempt: impl FnOnce() -> Result<(), StepError>) -> Result<(), StepError> {
    let (mut reader, mut writer) = pipe()?;
    match sys::fork().step(Step::Fork)? {
        ForkResult::Child => {
            drop(reader);
            let line = serde_json::to_vec(&attempt().err()).unwrap_or_default();
            // Without a word it counts as failed.
            let _ = writer.write_all(&line);
            sys::exit(0)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut line = Vec::new();
            let heard = reader.read_to_end(&mut line);
            wait_for(child);
            heard.step(Step::Fork)?;
            match serde_json::from_slice::<Option<StepError>>(&line) {
                Ok(None) => Ok(()),
                Ok(Some(error)) => Err(error),
                Err(_) => Err(Errno::ECHILD).step(Step::Fork),
            }
        }
    }
}

/// Both ends of a pipe that is not inherited.
pub(super) fn pipe() -> Result<(File, File), StepError> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).step(Step::Fork)?;
    Ok((File::from(reader), File::from(writer)))
}

/// How a child ended.
pub(super) fn wait_for(child: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            Ok(status) => return Some(status),
            Err(_) => return None,
        }
    }
}

/// Numbers in a user namespace, the same outside it, and how many.
type Extent = (u32, u32, u32);

/// The owners of a user namespace in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Map {
    users: Users,
    uids: Vec<Extent>,
    gids: Vec<Extent>,
}

impl Map {
    fn of(users: Users) -> Result<Self, StepError> {
        let (uid, gid) = (geteuid(), getegid());
        let (uids, gids) = match users {
            // One line for each of the parent's: none may reach over two of them.
            Users::Same => (
                same(&read("/proc/self/uid_map")?),
                same(&read("/proc/self/gid_map")?),
            ),
            Users::Ranges => {
                let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
                (
                    ranges(uid.as_raw(), "/etc/subuid", uid, name.as_deref())?,
                    ranges(gid.as_raw(), "/etc/subgid", uid, name.as_deref())?,
                )
            }
            Users::Single => (vec![(0, uid.as_raw(), 1)], vec![(0, gid.as_raw(), 1)]),
        };
        Ok(Self { users, uids, gids })
    }

    /// Makes a user namespace for this process, and becomes root in it. A process that stays outside sets its owners: only
    /// there are the rights to do that. Other namespaces that are wanted belong to it.
    fn enter(&self, others: CloneFlags) -> Result<(), StepError> {
        let (mut reader, mut writer) = pipe()?;
        let us = Pid::this();
        match sys::fork().step(Step::Fork)? {
            ForkResult::Child => {
                drop(writer);
                // Its end without a byte says that there is nothing to do.
                let code = match reader.read(&mut [0]) {
                    Ok(1) => self.set(us).err().unwrap_or(0),
                    _ => 0,
                };
                sys::exit(code)
            }
            ForkResult::Parent { child } => {
                drop(reader);
                let separated =
                    unshare(CloneFlags::CLONE_NEWUSER | others).step(Step::SeparateUsers);
                if separated.is_ok() {
                    // A helper that is gone is seen by its status.
                    let _ = writer.write_all(b".");
                }
                drop(writer);
                let set = match wait_for(child) {
                    Some(WaitStatus::Exited(_, 0)) => Ok(()),
                    Some(WaitStatus::Exited(_, code)) => Err(Errno::from_raw(code)),
                    _ => Err(Errno::ECHILD),
                };
                separated?;
                set.step(Step::MapUsers(self.how().to_owned()))?;
                let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
                setresgid(gid, gid, gid).step(Step::BecomeRoot)?;
                setresuid(uid, uid, uid).step(Step::BecomeRoot)
            }
        }
    }

    fn how(&self) -> &'static str {
        match self.users {
            Users::Same => "to those that there are",
            Users::Ranges => "by newuidmap and newgidmap",
            Users::Single => "to a single one",
        }
    }

    /// Sets the owners of the namespace of `process`. The error is what the system said.
    fn set(&self, process: Pid) -> Result<(), i32> {
        if self.users == Users::Ranges {
            by_tool("newuidmap", process, &self.uids)?;
            return by_tool("newgidmap", process, &self.gids);
        }
        if self.users == Users::Single {
            // Without this an ordinary user may set no group: groups can also take rights away.
            write(process, "setgroups", "deny")?;
        }
        write(process, "uid_map", &text(&self.uids))?;
        write(process, "gid_map", &text(&self.gids))
    }
}

fn write(process: Pid, file: &str, text: &str) -> Result<(), i32> {
    // All lines in one write: a second one is refused.
    fs::write(format!("/proc/{process}/{file}").as_ref(), text.as_bytes())
        .map_err(|error| error.source.raw_os_error().unwrap_or(Errno::EIO as i32))
}

/// The programs of Debian's `uidmap`, setuid root, which know what `/etc/subuid` allows.
#[expect(
    clippy::disallowed_methods,
    reason = "the sandbox starts processes; this one ends before any script is started"
)]
fn by_tool(tool: &str, process: Pid, extents: &[Extent]) -> Result<(), i32> {
    let mut command = Command::new(tool);
    command.arg(process.to_string());
    for (inside, outside, count) in extents {
        command.args([inside, outside, count].map(ToString::to_string));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Errno::EPERM as i32),
        Err(error) => Err(error.raw_os_error().unwrap_or(Errno::EIO as i32)),
    }
}

fn read(path: &str) -> Result<String, StepError> {
    fs::read_lossy(path.as_ref()).step(Step::MapUsers(format!("by `{path}`")))
}

fn text(extents: &[Extent]) -> String {
    let mut text = String::new();
    for (inside, outside, count) in extents {
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

/// The numbers that there are outside, by the map of the namespace outside.
fn same(map: &str) -> Vec<Extent> {
    map.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let (inside, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            let inside = inside.ok()?;
            let count = count.ok().filter(|count| *count > 0)?;
            Some((inside, inside, count))
        })
        .collect()
}

/// The highest owner that this process can give files; `None` where every owner exists, or where that is not known.
#[must_use]
pub fn highest_owner() -> Option<u32> {
    let map = fs::read_lossy("/proc/self/uid_map".as_ref()).ok()?;
    highest(&same(&map))
}

fn highest(extents: &[Extent]) -> Option<u32> {
    let ends = extents
        .iter()
        .map(|(first, _, count)| first.saturating_add(count - 1));
    // The last number means "no owner".
    ends.max().filter(|highest| *highest < u32::MAX - 1)
}

/// `own` as 0, and behind it what the file gives the user.
fn ranges(own: u32, path: &str, uid: Uid, name: Option<&str>) -> Result<Vec<Extent>, StepError> {
    let mut extents = vec![(0, own, 1)];
    let mut next = 1_u32;
    for (start, count) in given(&read(path)?, uid, name) {
        let Some(after) = next.checked_add(count) else {
            break;
        };
        extents.push((next, start, count));
        next = after;
    }
    if extents.len() == 1 {
        return Err(Errno::ENOENT).step(Step::MapUsers(format!(
            "for there is no range for this user in `{path}`"
        )));
    }
    Ok(extents)
}

/// The ranges of a user: `NAME:START:COUNT`, or the user's number in the place of the name.
fn given(file: &str, uid: Uid, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    file.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let user = fields.next()?;
            let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (user == number || Some(user) == name).then_some(range)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extent_of_the_outer_map_has_a_line_of_its_own() {
        let outer = "         0          0 4294967295\n";
        assert_eq!(text(&same(outer)), "0 0 4294967295\n");
        // As Concourse sets it.
        let outer = "         0 4294967294          1\n         1          1 4294967293\n";
        assert_eq!(text(&same(outer)), "0 0 1\n1 1 4294967293\n");
    }

    #[test]
    fn the_highest_owner_is_known_where_there_is_one() {
        assert_eq!(highest(&same("0 0 4294967295\n")), None);
        assert_eq!(highest(&same("0 12345 1\n1 1000000 65536\n")), Some(65_536));
        assert_eq!(highest(&same("0 12345 1\n")), Some(0));
        assert_eq!(highest(&same("")), None);
    }

    #[test]
    fn a_users_ranges_are_found_by_name_and_by_number() {
        let file =
            "other:100000:65536\nbuilder:200000:65536\n1001:300000:10\n\nbroken\nbuilder:1:0\n";
        assert_eq!(
            given(file, Uid::from_raw(1001), Some("builder")),
            [(200_000, 65_536), (300_000, 10)]
        );
        assert!(given(file, Uid::from_raw(7), None).is_empty());
    }
}

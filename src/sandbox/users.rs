//! User namespaces: a process that is not allowed to mount enters one to be allowed to, with the processes that it starts.
//!
//! The whole agent enters at its start, not each script: so when the agent unpacks, seals, packs and removes files, their owners are
//! those that scripts saw. Otherwise this works like `--isolation=namespace`.

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

/// The users and groups that exist in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// The same as outside: for root.
    Same,
    /// The user as root, and the ranges that `/etc/subuid` and `/etc/subgid` assign to the user.
    Ranges,
    /// Only the user, as root. Changes of owners fail.
    Single,
}

/// Whether this process has entered a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UserNamespace {
    /// It has not tried, or did not need to.
    #[default]
    Outside,
    /// It has entered one.
    Inside(Users),
    /// It could not enter one.
    Refused(StepError),
}

/// Enters a user namespace if mounts are allowed only there. Both are tried first, in processes that exit afterwards.
///
/// This process must have one thread.
#[must_use]
pub(crate) fn enter_if_needed() -> UserNamespace {
    match try_in_a_copy(try_mounts) {
        Ok(()) => UserNamespace::Outside,
        Err(_) => enter_one_of(usual()),
    }
}

/// Enters a user namespace. If only one with a single user is possible, enters that.
///
/// This process must have one thread.
#[must_use]
pub fn enter() -> UserNamespace {
    match enter_one_of(usual()) {
        UserNamespace::Refused(first) => match enter_one_of(Users::Single) {
            // The first error says what is missing for more users.
            UserNamespace::Refused(_) => UserNamespace::Refused(first),
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

fn enter_one_of(users: Users) -> UserNamespace {
    let entered = Map::of(users).and_then(|map| {
        try_in_a_copy(|| {
            map.enter(CloneFlags::empty())?;
            try_mounts()
        })?;
        map.enter(CloneFlags::empty())
    });
    match entered {
        Ok(()) => UserNamespace::Inside(users),
        Err(error) => UserNamespace::Refused(error),
    }
}

/// Enters a nested user namespace with the same users, and a new mount namespace, whose mounts are locked.
pub(super) fn enter_nested() -> Result<(), StepError> {
    Map::of(Users::Same)?.enter(CloneFlags::CLONE_NEWNS)
}

/// Runs `attempt` in a fork of this process. Returns its result.
fn try_in_a_copy(attempt: impl FnOnce() -> Result<(), StepError>) -> Result<(), StepError> {
    let (mut reader, mut writer) = pipe()?;
    match sys::fork().step(Step::Fork)? {
        ForkResult::Child => {
            drop(reader);
            let line = serde_json::to_vec(&attempt().err()).unwrap_or_default();
            // If the report cannot be written, the parent counts this as a failure.
            let _ = writer.write_all(&line);
            sys::exit(0)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut line = Vec::new();
            let read = reader.read_to_end(&mut line);
            wait_for(child);
            read.step(Step::Fork)?;
            match serde_json::from_slice::<Option<StepError>>(&line) {
                Ok(None) => Ok(()),
                Ok(Some(error)) => Err(error),
                Err(_) => Err(Errno::ECHILD).step(Step::Fork),
            }
        }
    }
}

/// A pipe that executed programs do not inherit: the reading and the writing end.
pub(super) fn pipe() -> Result<(File, File), StepError> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).step(Step::Fork)?;
    Ok((File::from(reader), File::from(writer)))
}

/// Waits for a child's exit.
pub(super) fn wait_for(child: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            Ok(status) => return Some(status),
            Err(_) => return None,
        }
    }
}

/// The first ID in a user namespace, the first ID outside, and their number.
type Extent = (u32, u32, u32);

/// The owner maps of a user namespace.
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
            // One line for each line of the parent: a line must not span two of them.
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

    /// Creates a user namespace for this process, and `others` that belong to it, and becomes root in it. A process that stays outside
    /// writes the maps, because only it has the privileges.
    fn enter(&self, others: CloneFlags) -> Result<(), StepError> {
        let (mut reader, mut writer) = pipe()?;
        let us = Pid::this();
        match sys::fork().step(Step::Fork)? {
            ForkResult::Child => {
                drop(writer);
                // The end of the pipe without a byte means that there is nothing to do.
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
                    // If the helper has died, `wait_for` returns its status.
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
            Users::Same => "to the same owners",
            Users::Ranges => "with newuidmap and newgidmap (package `uidmap`)",
            Users::Single => "to a single owner",
        }
    }

    /// Writes the maps of the namespace of `process`. The error is an error number.
    fn set(&self, process: Pid) -> Result<(), i32> {
        if self.users == Users::Ranges {
            by_tool("newuidmap", process, &self.uids)?;
            return by_tool("newgidmap", process, &self.gids);
        }
        if self.users == Users::Single {
            // Without this, an ordinary user may not map groups: a process that drops a group could gain access.
            write(process, "setgroups", "deny")?;
        }
        write(process, "uid_map", &text(&self.uids))?;
        write(process, "gid_map", &text(&self.gids))
    }
}

fn write(process: Pid, file: &str, text: &str) -> Result<(), i32> {
    // All lines in one write: the kernel refuses a second one.
    fs::write(format!("/proc/{process}/{file}").as_ref(), text.as_bytes())
        .map_err(|error| error.source.raw_os_error().unwrap_or(Errno::EIO as i32))
}

/// Runs a program of Debian's `uidmap`: they are setuid root and apply `/etc/subuid` and `/etc/subgid`.
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
    fs::read_lossy(path.as_ref()).step(Step::MapUsers(format!("from `{path}`")))
}

fn text(extents: &[Extent]) -> String {
    let mut text = String::new();
    for (inside, outside, count) in extents {
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

/// A map to the same IDs, for all IDs in the map of the outer namespace.
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

/// The highest user ID that this process can give to files; `None` if there is no limit, or if it is unknown.
#[must_use]
pub(crate) fn highest_owner() -> Option<u32> {
    let map = fs::read_lossy("/proc/self/uid_map".as_ref()).ok()?;
    highest(&same(&map))
}

fn highest(extents: &[Extent]) -> Option<u32> {
    let ends = extents
        .iter()
        .map(|(first, _, count)| first.saturating_add(count - 1));
    // The last ID means "no owner".
    ends.max().filter(|highest| *highest < u32::MAX - 1)
}

/// A map of 0 to `own`, followed by the ranges that the file assigns to the user.
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
            "because `{path}` has no range for this user"
        )));
    }
    Ok(extents)
}

/// The ranges of a user: `NAME:START:COUNT`, or the user's ID instead of the name.
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
    fn each_extent_of_the_outer_map_has_its_own_line() {
        let outer = "         0          0 4294967295\n";
        assert_eq!(text(&same(outer)), "0 0 4294967295\n");
        // The map that Concourse sets.
        let outer = "         0 4294967294          1\n         1          1 4294967293\n";
        assert_eq!(text(&same(outer)), "0 0 1\n1 1 4294967293\n");
    }

    #[test]
    fn highest_owner_is_found() {
        assert_eq!(highest(&same("0 0 4294967295\n")), None);
        assert_eq!(highest(&same("0 12345 1\n1 1000000 65536\n")), Some(65_536));
        assert_eq!(highest(&same("0 12345 1\n")), Some(0));
        assert_eq!(highest(&same("")), None);
    }

    #[test]
    fn ranges_of_a_user_are_found_by_name_and_by_id() {
        let file =
            "other:100000:65536\nbuilder:200000:65536\n1001:300000:10\n\nbroken\nbuilder:1:0\n";
        assert_eq!(
            given(file, Uid::from_raw(1001), Some("builder")),
            [(200_000, 65_536), (300_000, 10)]
        );
        assert!(given(file, Uid::from_raw(7), None).is_empty());
    }
}

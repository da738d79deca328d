//! Lists, verifies and prunes a local cache. A cached package is an *entry* in JSON, which names the SHA-256 of its files, the *contents*;
//! several entries can name the same content. *Pruning* removes contents that no entry names and, with a size limit, also the least
//! recently used packages.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::damage::{Damage, DamageKind};
use super::entry::{Content, Entry};
use super::key::{Key, is_sha256};
use super::local::{ABANDONED, JSON, LocalCache, REMOVING};
use crate::fs::{self, Context as _, LeasedDirectory};
use crate::release::{Algorithm, Digests};
use crate::runtime::Cancellable;

/// How long the recorded digest of a source archive is kept after its last use, and a damaged file after it was set aside.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The maximum time for searching a shared directory for contents that no package names.
const LONGEST_WALK: Duration = Duration::from_secs(3);

/// A cached package and the time of its last use.
#[derive(Debug)]
pub struct Listed {
    /// The package's entry.
    pub entry: Entry,
    /// The path of the entry.
    pub file: PathBuf,
    /// When the package was last stored or used.
    pub used: SystemTime,
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Verified {
    /// The number of packages without damaged files.
    pub intact: usize,
    /// The total size of the undamaged files, in bytes.
    pub bytes: u64,
    /// The damaged files, which were set aside, and the files that could not be read.
    pub damaged: Vec<Damage>,
}

/// The state of a content. The greatest state of a package's contents decides what happens to the package. A package with an unreadable
/// content stays, because the content may be readable for another user or at another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Intact,
    Damaged,
    Unreadable,
}

/// The contents that were checked. Several packages can have the same content.
#[derive(Debug, Default)]
struct Checked(HashMap<Content, State>);

impl Checked {
    fn intact_bytes(&self) -> u64 {
        let intact = self.0.iter().filter(|(_, state)| **state == State::Intact);
        intact.map(|(content, _)| content.size).sum()
    }
}

/// The result of pruning.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The number of removed packages.
    pub packages: usize,
    /// The number of removed bytes, including files that no package used.
    pub bytes: u64,
    /// The number of remaining packages.
    pub left: usize,
    /// The number of remaining bytes.
    pub left_bytes: u64,
}

impl LocalCache {
    /// All packages, sorted by name and then by last use, and the damaged entries.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn list(&self) -> fs::Result<(Vec<Listed>, Vec<Damage>)> {
        self.list_until(&CancellationToken::new())
    }

    fn list_until(&self, cancel: &CancellationToken) -> fs::Result<(Vec<Listed>, Vec<Damage>)> {
        let (mut listed, mut damaged) = (Vec::new(), Vec::new());
        for directory in paths_in(&self.entries())? {
            check(cancel, &directory)?;
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            let (more_listed, more_damaged) = self.list_package(&name)?;
            listed.extend(more_listed);
            damaged.extend(more_damaged);
        }
        listed.sort_by(|one, other| {
            let key = |it: &Listed| (it.entry.parts.name.clone(), it.used);
            key(one).cmp(&key(other))
        });
        Ok((listed, damaged))
    }

    /// The cached packages with one name, and the damaged entries.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list_package(&self, name: &str) -> fs::Result<(Vec<Listed>, Vec<Damage>)> {
        let (mut listed, mut damaged) = (Vec::new(), Vec::new());
        for file in paths_in(&self.entries().join(name))? {
            let text = file.file_name().unwrap_or_default().to_string_lossy();
            let key = text.strip_suffix(&format!(".{JSON}"));
            let Some(key) = key.and_then(Key::parse) else {
                let kind = DamageKind::OtherKey;
                damaged.push(Damage { file, kind });
                continue;
            };
            // Another process may have removed the entry meanwhile.
            let Some(metadata) = fs::lookup(&file)? else {
                continue;
            };
            match self.find(name, &key) {
                Ok(None) => {}
                Ok(Some(entry)) => listed.push(Listed {
                    entry,
                    file,
                    used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                }),
                Err(damage) => damaged.push(damage),
            }
        }
        Ok((listed, damaged))
    }

    /// Reads and verifies all files, and sets damaged ones aside.
    ///
    /// # Errors
    /// If a directory cannot be read, or after a cancellation.
    pub fn verify(&self, cancel: &CancellationToken) -> fs::Result<Verified> {
        let (listed, mut damaged) = self.list()?;
        let mut checked = Checked::default();
        let mut verified = Verified::default();
        for Listed { entry, file, .. } in listed {
            let mut found = Vec::new();
            let mut worst = State::Intact;
            for content in entry.contents() {
                let state = match checked.0.get(content) {
                    Some(state) => *state,
                    None => self.check_content(content, cancel, &mut checked, &mut found)?,
                };
                worst = worst.max(state);
            }
            if worst == State::Intact {
                verified.intact += 1;
            } else if fs::lookup(&file)?.is_none() {
                // Another process has removed the package meanwhile, and may have removed its contents.
                found.retain(|it| !matches!(it.kind, DamageKind::Missing));
            } else if worst == State::Damaged {
                self.set_aside(&file)?;
            }
            // Several packages can lack the same content.
            found.retain(|it| damaged.iter().all(|other| other.file != it.file));
            damaged.extend(found);
        }
        for damage in damaged.iter().filter(|it| it.kind.is_lasting()) {
            self.set_aside(&damage.file)?;
        }
        verified.bytes = checked.intact_bytes();
        verified.damaged = damaged;
        Ok(verified)
    }

    /// Checks a content that was not checked before. Adds its damage, if there is any, to `found`.
    fn check_content(
        &self,
        content: &Content,
        cancel: &CancellationToken,
        checked: &mut Checked,
        found: &mut Vec<Damage>,
    ) -> fs::Result<State> {
        let Some(kind) = self.verify_content(content, cancel)? else {
            checked.0.insert(content.clone(), State::Intact);
            return Ok(State::Intact);
        };
        let state = match kind.is_lasting() {
            true => State::Damaged,
            false => State::Unreadable,
        };
        // A missing content of a removed package may be stored again before the next package is checked.
        if !matches!(kind, DamageKind::Missing) {
            checked.0.insert(content.clone(), state);
        }
        let file = self.content(&content.sha256);
        found.push(Damage { file, kind });
        Ok(state)
    }

    /// Reads a content and returns the damage, if there is any.
    fn verify_content(
        &self,
        content: &Content,
        cancel: &CancellationToken,
    ) -> fs::Result<Option<DamageKind>> {
        let file = self.content(&content.sha256);
        let opened = match fs::open(&file) {
            Ok(opened) => opened,
            Err(error) if error.is_not_found() => return Ok(Some(DamageKind::Missing)),
            Err(error) => return Ok(Some(DamageKind::Unreadable(error))),
        };
        let reader = Cancellable::new(opened, cancel);
        match Digests::of_reader(reader, &[Algorithm::Sha256]).at("read", &file) {
            Ok((digests, size)) => {
                let is_intact = Content::new(&digests, size).as_ref() == Some(content);
                Ok((!is_intact).then_some(DamageKind::Changed))
            }
            Err(error) if cancel.is_cancelled() => Err(error),
            Err(error) => Ok(Some(DamageKind::Unreadable(error))),
        }
    }

    /// Removes contents that no package has named for `grace`, and files that killed processes left.
    /// With `limit`, also removes the least recently used packages until the cache has at most
    /// `limit` bytes.
    ///
    /// A process that uses a package while it is removed has its own link or copy.
    ///
    /// # Errors
    /// The error of the system, or a cancellation.
    pub fn prune(
        &self,
        limit: Option<u64>,
        grace: Duration,
        cancel: &CancellationToken,
    ) -> fs::Result<Pruned> {
        if !self.is_there() {
            return Ok(Pruned::default());
        }
        self.remove_abandoned();
        let (listed, damaged) = self.list_until(cancel)?;
        if !self.set_damaged_aside(damaged)? {
            return Ok(Pruned::default());
        }
        self.remove_unused_files(if limit.is_some() { grace } else { UNUSED })?;
        let all = self.all_contents(cancel)?;
        let (kept, dropped) = split(listed, limit);
        for listed in &dropped {
            check(cancel, &listed.file)?;
            fs::remove_file_if_there(&listed.file)?;
        }
        let (in_use, freed) = (digests_of(&kept), digests_of(&dropped));
        let removed = all.iter().filter(|(content, used)| {
            let sha256 = content.sha256.as_str();
            let is_old = || used.elapsed().unwrap_or_default() >= grace;
            !in_use.contains(sha256) && (freed.contains(sha256) || is_old())
        });
        let removed: HashSet<Content> = removed.map(|(content, _)| content.clone()).collect();
        let total: u64 = all.iter().map(|(content, _)| content.size).sum();
        let bytes = self.remove_contents(&removed, cancel)?;
        Ok(Pruned {
            packages: dropped.len(),
            bytes,
            left: kept.len(),
            left_bytes: total.saturating_sub(bytes),
        })
    }

    /// Sets damaged entries aside. Returns whether the remaining entries name all contents in use.
    /// This is false if a newer agent may have written entries into a shared directory: the
    /// contents that they name look unused to this agent.
    fn set_damaged_aside(&self, damaged: Vec<Damage>) -> fs::Result<bool> {
        let mut are_known = true;
        for Damage { file, kind } in damaged {
            match kind {
                // An entry that cannot be read at the moment may name contents that look unused.
                DamageKind::Unreadable(error) if !DamageKind::is_lasting_error(&error) => {
                    return Err(error);
                }
                kind if self.is_shared && kind.may_be_newer() => {
                    tracing::debug!(file = %file.display(), "not removing unused files: this entry, perhaps of a newer agent, may name some of them");
                    are_known = false;
                }
                _ => self.set_aside(&file)?,
            }
        }
        Ok(are_known)
    }

    /// Removes contents that no package has named for a day, at most once a day. For a directory
    /// that several machines share.
    ///
    /// # Errors
    /// The error of the system, or a cancellation.
    pub(super) fn tidy(&self, cancel: &CancellationToken) -> fs::Result<()> {
        let last = self.tidied();
        let time = fs::lookup(&last)?.and_then(|it| it.modified().ok());
        if time.is_some_and(|time| time.elapsed().unwrap_or_default() < ABANDONED) {
            return Ok(());
        }
        // Set the time first, so that only one run per day does this work, even if it is canceled.
        self.write(&last, Ok(Vec::new()))?;
        self.prune(None, ABANDONED, cancel).map(drop)
    }

    /// All contents, with the times of their last use. In a shared directory, the search ends after
    /// [`LONGEST_WALK`]. It starts at a random subdirectory, so that several runs together find all
    /// contents.
    fn all_contents(&self, cancel: &CancellationToken) -> fs::Result<Vec<(Content, SystemTime)>> {
        let mut found = Vec::new();
        let mut directories = paths_in(&self.contents())?;
        if self.is_shared && !directories.is_empty() {
            let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let start = since_1970.subsec_micros() as usize % directories.len();
            directories.rotate_left(start);
        }
        let start = Instant::now();
        for directory in directories {
            check(cancel, &directory)?;
            if self.is_shared && start.elapsed() > LONGEST_WALK {
                break;
            }
            for file in paths_in(&directory)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let Some(metadata) = fs::lookup(&file)?.filter(|_| is_sha256(&name)) else {
                    continue;
                };
                let content = Content {
                    sha256: name.into_owned(),
                    size: metadata.len(),
                };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((content, used));
            }
        }
        Ok(found)
    }

    /// Removes contents that no package names. Returns their total size.
    ///
    /// First moves the contents away, then reads all entries again, and moves back the contents
    /// that an entry names. This is safe if another process stores a package at the same time,
    /// because that process writes the entry first and then checks the contents: either this
    /// process finds the entry and moves the contents back, or the other process finds the contents
    /// missing and writes them. After an error, all contents are moved back.
    pub(super) fn remove_contents(
        &self,
        contents: &HashSet<Content>,
        cancel: &CancellationToken,
    ) -> fs::Result<u64> {
        if contents.is_empty() {
            return Ok(0);
        }
        let moved = LeasedDirectory::create(&self.temporary(), REMOVING)?;
        let listed = self.move_away(contents, moved.path(), cancel);
        let in_use = listed.as_ref().map(|listed| digests_of(listed));
        let mut bytes = 0;
        for content in contents {
            let is_unused = |in_use: &HashSet<&str>| !in_use.contains(content.sha256.as_str());
            if in_use.as_ref().is_ok_and(is_unused) {
                bytes += content.size;
                continue;
            }
            let away = moved.path().join(&content.sha256);
            let back = fs::if_there(fs::hard_link(&away, &self.content(&content.sha256)));
            if let Err(error) = back {
                tracing::debug!(%error, "could not move a content back; probably another process has stored it again");
            }
        }
        moved.remove()?;
        listed.map(|_| bytes)
    }

    /// Moves contents into a directory, and then lists the packages again, because an entry may
    /// name some of the contents.
    fn move_away(
        &self,
        contents: &HashSet<Content>,
        directory: &Path,
        cancel: &CancellationToken,
    ) -> fs::Result<Vec<Listed>> {
        for content in contents {
            let file = self.content(&content.sha256);
            check(cancel, &file)?;
            fs::if_there(fs::rename(&file, &directory.join(&content.sha256)))?;
        }
        let (listed, damaged) = self.list_until(cancel)?;
        match damaged.into_iter().next() {
            // Stop, because the damaged entry may name some of the contents.
            Some(damage) => Err(io::Error::other(damage.to_string())).at("prune", &damage.file),
            None => Ok(listed),
        }
    }

    /// Removes digests of sources that were not used for a long time, and damaged files that were
    /// set aside longer than `aside_limit` ago.
    fn remove_unused_files(&self, aside_limit: Duration) -> fs::Result<()> {
        let sources = paths_in(&self.sources())?;
        let sources = sources.into_iter().map(|directory| (directory, UNUSED));
        for (directory, limit) in sources.chain([(self.aside(), aside_limit)]) {
            for file in paths_in(&directory)? {
                let used = fs::lookup(&file)?.and_then(|metadata| metadata.modified().ok());
                if used.is_some_and(|used| used.elapsed().unwrap_or_default() > limit) {
                    fs::remove_file_if_there(&file)?;
                }
            }
        }
        Ok(())
    }
}

/// Splits packages into the most recently used ones that fit into `limit` bytes, and the others.
/// Without `limit`, all packages fit.
fn split(mut listed: Vec<Listed>, limit: Option<u64>) -> (Vec<Listed>, Vec<Listed>) {
    let Some(limit) = limit else {
        return (listed, Vec::new());
    };
    listed.sort_by_key(|it| Reverse(it.used));
    let mut counted: HashSet<&Content> = HashSet::new();
    let mut size = 0;
    let fits = listed.iter().take_while(|it| {
        let new = it
            .entry
            .contents()
            .filter(|content| counted.insert(content));
        size += new.map(|content| content.size).sum::<u64>();
        size <= limit
    });
    let count = fits.count();
    let dropped = listed.split_off(count);
    (listed, dropped)
}

/// Fails after a cancellation. `file` is for the error.
fn check(cancel: &CancellationToken, file: &Path) -> fs::Result<()> {
    match cancel.is_cancelled() {
        true => Err(io::Error::other("stopped")).at("prune", file),
        false => Ok(()),
    }
}

/// The SHA-256 of all contents of these packages.
fn digests_of(listed: &[Listed]) -> HashSet<&str> {
    let contents = listed.iter().flat_map(|it| it.entry.contents());
    contents.map(|content| content.sha256.as_str()).collect()
}

/// The paths in a directory; none if it is missing.
fn paths_in(directory: &Path) -> fs::Result<Vec<PathBuf>> {
    let entries = fs::list(directory)?;
    Ok(entries.iter().map(|entry| entry.path()).collect())
}

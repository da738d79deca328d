use std::collections::HashSet;

use proptest::prelude::*;

use nix::libc;

use super::super::entry::tests::entry;
use super::*;

const NO_GRACE: Duration = Duration::ZERO;

type BlobAndLog = (Vec<u8>, Vec<u8>);

struct World {
    scratch: tempfile::TempDir,
    cache: LocalCache,
}

impl World {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let cache = LocalCache::new(&scratch.path().join("cache"));
        cache.prepare().unwrap();
        Self { scratch, cache }
    }

    /// Stores a package with this blob and log, and returns its entry without the log.
    fn store(&self, source: &str, blob: &[u8], log: &[u8]) -> Entry {
        let digests = Digests::of(blob, &[Algorithm::Sha1, Algorithm::Sha256]);
        let mut entry = entry(&digests, blob.len() as u64);
        entry.parts.source = source.to_owned();
        let [blob_file, log_file] = ["blob", "log"].map(|name| self.scratch.path().join(name));
        for (file, text) in [(&blob_file, blob), (&log_file, log)] {
            fs::remove_file_if_there(file).unwrap();
            fs::write(file, text).unwrap();
        }
        let cancel = CancellationToken::new();
        self.cache
            .store(entry.clone(), &blob_file, Some(&log_file), &cancel)
            .unwrap();
        entry
    }

    /// What a run gets: the bytes of the blob and the log; `None` for a miss. Damaged files are set aside.
    fn get(&self, key: &Key) -> Result<Option<BlobAndLog>, String> {
        let entry = match self.cache.find("app", key) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(None),
            Err(damage) => {
                self.cache.set_aside(&damage.file).unwrap();
                return Err(damage.to_string());
            }
        };
        let [blob, log] = ["out-blob", "out-log"].map(|name| self.scratch.path().join(name));
        for file in [&blob, &log] {
            fs::remove_file_if_there(file).unwrap();
        }
        let cancel = CancellationToken::new();
        match self.cache.fetch(&entry, &blob, &log, &cancel) {
            Ok(Some(_)) => Ok(Some((fs::read(&blob).unwrap(), fs::read(&log).unwrap()))),
            Ok(None) => Ok(None),
            Err(error) => {
                assert!(fs::lookup(&blob).unwrap().is_none(), "no copy is left");
                Err(error.to_string())
            }
        }
    }

    /// All files of the cache but its tag.
    fn files(&self) -> Vec<PathBuf> {
        let all = walkdir::WalkDir::new(self.cache.root().join(VERSION));
        let files = all.into_iter().map(Result::unwrap);
        let files = files.filter(|it| it.file_type().is_file());
        files.map(|it| it.path().to_owned()).collect()
    }
}

/// Changes a file through a new inode, so that hard links keep the old bytes.
fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::remove_file(file).unwrap();
    fs::write(file, &bytes).unwrap();
}

#[test]
fn stored_package_is_found_and_its_bytes_are_linked() {
    let world = World::new();
    let entry = world.store("s", b"blob", b"log");
    let found = world.get(&entry.key()).unwrap();
    assert_eq!(found, Some((b"blob".to_vec(), b"log".to_vec())));
    let stored = world.cache.content(&entry.blob.sha256);
    assert_eq!(fs::list(&world.cache.temporary()).unwrap().len(), 0);
    let original = world.scratch.path().join("blob");
    assert!(
        fs::same_file(&stored, &original).unwrap(),
        "bytes are written once"
    );
    let mut other = entry;
    other.parts.source.push('x');
    assert_eq!(world.get(&other.key()), Ok(None));
}

#[test]
fn no_changed_byte_of_an_entry_is_accepted() {
    let world = World::new();
    let entry = world.store("s", b"a small blob", b"a log");
    let files = world.files();
    assert_eq!(files.len(), 3);
    for file in files {
        let good = fs::read(&file).unwrap();
        for position in 0..good.len() {
            change(&file, |bytes| bytes[position] ^= 1 << (position % 8));
            assert!(
                world.get(&entry.key()).is_err(),
                "{} at {position}",
                file.display()
            );
            fs::create_dir_all(fs::parent(&file)).unwrap();
            fs::remove_file_if_there(&file).unwrap();
            fs::write(&file, &good).unwrap();
        }
        change(&file, |bytes| bytes.truncate(good.len() / 2));
        assert!(world.get(&entry.key()).is_err());
        fs::remove_file_if_there(&file).unwrap();
        fs::write(&file, &good).unwrap();
        assert!(world.get(&entry.key()).unwrap().is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_changed_byte_of_a_large_blob_is_accepted(position in 0..300_000_usize, bit in 0..8_u8) {
        let world = World::new();
        let entry = world.store("s", &vec![7; 300_000], b"a log");
        change(&world.cache.content(&entry.blob.sha256), |bytes| bytes[position] ^= 1 << bit);
        prop_assert!(world.get(&entry.key()).is_err());
    }
}

#[test]
fn damaged_blob_is_replaced_by_the_next_result() {
    let world = World::new();
    let entry = world.store("s", b"blob", b"log");
    let file = world.cache.content(&entry.blob.sha256);
    change(&file, |bytes| bytes[0] ^= 1);
    let error = world.get(&entry.key()).unwrap_err();
    assert!(error.contains(&file.display().to_string()), "{error}");
    world.cache.set_aside(&file).unwrap();
    world.store("s", b"blob", b"log");
    assert!(world.get(&entry.key()).unwrap().is_some());
}

#[test]
fn missing_blob_is_damage_and_missing_package_is_not() {
    let world = World::new();
    let entry = world.store("s", b"blob", b"log");
    fs::remove_file(&world.cache.content(&entry.blob.sha256)).unwrap();
    assert!(world.get(&entry.key()).unwrap_err().contains("is missing"));
    let found = world.cache.find("app", &entry.key()).unwrap().unwrap();
    fs::remove_file(&world.cache.entry("app", &entry.key())).unwrap();
    let to = world.scratch.path().join("to");
    let cancel = CancellationToken::new();
    let fetched = world
        .cache
        .fetch(&found, &to, &to.with_extension("log"), &cancel);
    assert!(matches!(fetched, Ok(None)), "another process removed it");
}

#[test]
fn known_source_is_not_read_again() {
    let world = World::new();
    let archive = "a".repeat(64);
    assert_eq!(world.cache.source(&archive, 1).unwrap(), None);
    world.cache.remember_source(&archive, 1, "content").unwrap();
    assert_eq!(
        world.cache.source(&archive, 1).unwrap().as_deref(),
        Some("content")
    );
    let other = "b".repeat(64);
    fs::create_dir_all(fs::parent(&world.cache.source_file(&other))).unwrap();
    let [from, to] = [&archive, &other].map(|it| world.cache.source_file(it));
    fs::hard_link(&from, &to).unwrap();
    world.cache.source(&other, 1).unwrap_err();
}

#[test]
fn least_recently_used_packages_are_pruned() {
    let world = World::new();
    let entries = ["one", "two", "three"].map(|source| {
        let entry = world.store(source, source.repeat(100).as_bytes(), b"");
        (source, entry)
    });
    let ages = [30, 20, 10];
    for ((_, entry), age) in entries.iter().zip(ages) {
        let file = world.cache.entry("app", &entry.key());
        let used = SystemTime::now() - Duration::from_secs(age);
        fs::open(&file).unwrap().set_modified(used).unwrap();
    }
    // This makes the first package the most recently used one.
    assert!(world.get(&entries[0].1.key()).unwrap().is_some());
    let pruned = world
        .cache
        .prune(Some(800), NO_GRACE, &CancellationToken::new())
        .unwrap();
    assert_eq!(
        (pruned.packages, pruned.left, pruned.left_bytes),
        (1, 2, 800)
    );
    assert_eq!(world.get(&entries[1].1.key()), Ok(None));
    for (_, entry) in [&entries[0], &entries[2]] {
        assert!(world.get(&entry.key()).unwrap().is_some());
    }
    let pruned = world
        .cache
        .prune(Some(0), NO_GRACE, &CancellationToken::new())
        .unwrap();
    assert_eq!((pruned.left, pruned.left_bytes), (0, 0));
    assert_eq!(world.files(), Vec::<PathBuf>::new());
}

#[test]
fn what_killed_processes_left_is_pruned() {
    let world = World::new();
    let entry = world.store("s", b"blob", b"log");
    let unnamed = world.cache.content(&"c".repeat(64));
    fs::create_dir_all(fs::parent(&unnamed)).unwrap();
    fs::write(&unnamed, b"unnamed").unwrap();
    fs::write(&world.cache.temporary().join("writing-1-0"), b"partial").unwrap();
    let removing = world.cache.temporary().join("removing-1-0");
    fs::create_dir(&removing).unwrap();
    fs::write(&removing.join("x"), b"moved away").unwrap();

    let hour = Duration::from_secs(3600);
    assert_eq!(
        world
            .cache
            .prune(None, hour, &CancellationToken::new())
            .unwrap()
            .bytes,
        0
    );
    assert!(unnamed.exists(), "its entry may still be written");
    assert_eq!(
        world
            .cache
            .prune(None, NO_GRACE, &CancellationToken::new())
            .unwrap()
            .bytes,
        7
    );
    assert_eq!(world.files().len(), 3);
    assert!(world.get(&entry.key()).unwrap().is_some());
}

#[test]
fn verification_finds_what_is_damaged() {
    let world = World::new();
    let good = world.store("good", b"good", b"log");
    let bad = world.store("bad", b"bad", b"log");
    change(&world.cache.content(&bad.blob.sha256), |bytes| {
        bytes[0] ^= 1
    });
    let verified = world.cache.verify(&CancellationToken::new()).unwrap();
    assert_eq!((verified.intact, verified.bytes), (1, 7));
    assert_eq!(verified.damaged.len(), 1);
    assert!(world.get(&good.key()).unwrap().is_some());
    assert_eq!(world.get(&bad.key()), Ok(None));
    let again = world.cache.verify(&CancellationToken::new()).unwrap();
    assert!(again.damaged.is_empty());
}

#[test]
fn content_of_two_packages_is_reported_once() {
    for is_removed in [false, true] {
        let world = World::new();
        let both = ["one", "two"].map(|source| world.store(source, b"blob", b"log"));
        let file = world.cache.content(&both[0].blob.sha256);
        match is_removed {
            true => fs::remove_file(&file).unwrap(),
            false => change(&file, |bytes| bytes[0] ^= 1),
        }
        let verified = world.cache.verify(&CancellationToken::new()).unwrap();
        assert_eq!((verified.intact, verified.bytes), (0, 3));
        let damaged = verified.damaged.iter().map(|it| &it.file);
        assert_eq!(damaged.collect::<Vec<_>>(), [&file]);
        for entry in both {
            assert_eq!(world.get(&entry.key()), Ok(None));
        }
    }
}

#[test]
fn damaged_content_without_an_entry_is_replaced() {
    let world = World::new();
    let digests = Digests::of(b"blob", &[Algorithm::Sha1, Algorithm::Sha256]);
    let mut described = entry(&digests, 4);
    let file = world.cache.content(&described.blob.sha256);
    fs::create_dir_all(fs::parent(&file)).unwrap();
    fs::write(&file, b"bolb").unwrap();
    assert!(
        !world.cache.has_content(&described.blob).unwrap(),
        "it must be fetched"
    );

    fs::write(&file, b"bolb").unwrap();
    let mut incoming = world.cache.incoming(&described.blob).unwrap();
    assert!(incoming.write(b"blob").unwrap());
    assert!(incoming.finish().unwrap());
    assert_eq!(fs::read(&file).unwrap(), b"blob");

    change(&file, |bytes| bytes[0] ^= 1);
    described = world.store("s", b"blob", b"log");
    assert!(world.get(&described.key()).unwrap().is_some());
}

#[test]
fn content_that_a_pruning_process_has_moved_away_is_found() {
    let world = World::new();
    let entry = world.store("s", b"blob", b"log");
    let removing = world.cache.temporary().join("removing-1-0");
    fs::create_dir(&removing).unwrap();
    for content in world
        .cache
        .find("app", &entry.key())
        .unwrap()
        .unwrap()
        .contents()
    {
        let file = world.cache.content(&content.sha256);
        fs::rename(&file, &removing.join(&content.sha256)).unwrap();
    }
    assert!(world.get(&entry.key()).unwrap().is_some());
}

#[test]
fn temporary_files_of_other_machines_are_removed_by_age() {
    let world = World::new();
    let shared = LocalCache::shared(world.cache.root());
    let file = world.cache.temporary().join("writing-1-0");
    fs::write(&file, b"partial").unwrap();
    shared.prepare().unwrap();
    assert!(
        file.exists(),
        "a process on another machine may be writing it"
    );
    let long_ago = SystemTime::now() - 2 * ABANDONED;
    fs::open(&file).unwrap().set_modified(long_ago).unwrap();
    shared.prepare().unwrap();
    assert!(!file.exists());
}

#[test]
fn passing_errors_are_no_damage() {
    let world = World::new();
    let entry = world.store("s", b"blob", b"log");
    let file = world.cache.entry("app", &entry.key());
    let lasts = |error: io::Error| {
        let error = Err::<(), _>(error).at("read", &file).unwrap_err();
        DamageKind::Unreadable(error).is_lasting()
    };
    for errno in [libc::EMFILE, libc::EACCES, libc::EIO, libc::ENOMEM] {
        assert!(!lasts(io::Error::from_raw_os_error(errno)), "{errno}");
    }
    assert!(lasts(io::Error::other("it is not a regular file")));
    assert!(lasts(io::Error::from_raw_os_error(libc::EISDIR)));
}

#[test]
fn unused_contents_of_a_shared_directory_are_removed_once_a_day() {
    let world = World::new();
    let cancel = CancellationToken::new();
    let shared = LocalCache::shared(world.cache.root());
    let named = world.store("a", b"blob", b"log").blob;
    let long_ago = SystemTime::now() - 2 * ABANDONED;
    let make_old = |file: &Path| fs::open(file).unwrap().set_modified(long_ago).unwrap();
    let unused = |digit: &str| {
        let file = shared.content(&digit.repeat(64));
        fs::create_dir_all(fs::parent(&file)).unwrap();
        fs::write(&file, b"unused").unwrap();
        file
    };
    let is_there = |file: &Path| fs::lookup(file).unwrap().is_some();
    let (old, young) = (unused("1"), unused("2"));
    make_old(&old);
    make_old(&shared.content(&named.sha256));
    shared.tidy(&cancel).unwrap();
    assert!(!is_there(&old) && is_there(&young));
    assert!(is_there(&shared.content(&named.sha256)));

    make_old(&unused("1"));
    shared.tidy(&cancel).unwrap();
    assert!(is_there(&old));
    make_old(&shared.tidied());
    shared.tidy(&cancel).unwrap();
    assert!(!is_there(&old) && is_there(&young));
}

#[test]
fn tidying_keeps_what_a_newer_agent_stored() {
    let world = World::new();
    let cancel = CancellationToken::new();
    let shared = LocalCache::shared(world.cache.root());
    let stored = world.store("a", b"blob", b"log");
    let content = shared.content(&stored.blob.sha256);
    let long_ago = SystemTime::now() - 2 * ABANDONED;
    fs::open(&content).unwrap().set_modified(long_ago).unwrap();
    let newer = shared.entry("app", &stored.key());
    let text = crate::cache::sealed::seal(&"of a newer agent").unwrap();
    change(&newer, |bytes| *bytes = text.clone());
    let damaged = shared
        .entries()
        .join("app")
        .join(format!("{}.{JSON}", "a".repeat(64)));
    fs::write(&damaged, b"{").unwrap();

    shared.tidy(&cancel).unwrap();
    assert_eq!(fs::read(&newer).unwrap(), text);
    assert!(fs::lookup(&content).unwrap().is_some());
    assert!(fs::lookup(&damaged).unwrap().is_none());
}

#[test]
fn failed_removal_moves_all_contents_back() {
    let world = World::new();
    let unused = world.cache.content(&"1".repeat(64));
    fs::create_dir_all(fs::parent(&unused)).unwrap();
    fs::write(&unused, b"unused").unwrap();
    let contents = HashSet::from([Content {
        sha256: "1".repeat(64),
        size: 6,
    }]);
    // A file instead of a directory of descriptions: they cannot be listed after the contents were moved away.
    let entries = world.cache.entries();
    fs::create_dir_all(&entries).unwrap();
    let blocker = entries.join("blocker");
    fs::write(&blocker, b"").unwrap();
    let cancel = CancellationToken::new();
    assert!(world.cache.remove_contents(&contents, &cancel).is_err());
    assert_eq!(fs::read(&unused).unwrap(), b"unused");

    fs::remove_file(&blocker).unwrap();
    assert_eq!(world.cache.remove_contents(&contents, &cancel).unwrap(), 6);
    assert!(fs::lookup(&unused).unwrap().is_none());
}

mod grpc_server;

use std::path::PathBuf;

use tempfile::TempDir;

use self::grpc_server::Answers;
use super::*;
use crate::cache::entry::tests::entry;
use crate::fs;
use crate::http::Timeouts;
use crate::http::testing::{ReceivedRequest, Reply, Server};
use crate::release::{Algorithm, Digests};

const BLOB: &[u8] = b"a compiled package";

/// Time limits that are much shorter than the usual ones, and much longer than a local server
/// needs.
const LIMITS: Limits = {
    let timeouts = Timeouts {
        connect: Duration::from_secs(20),
        handshake: Duration::from_secs(20),
        stall: Duration::from_millis(600),
        expect: Duration::from_millis(100),
    };
    Limits {
        base: Duration::from_secs(2),
        lookups: Duration::from_secs(4),
        patience: Duration::from_secs(60),
        fetching: timeouts,
        storing: timeouts,
    }
};

/// The time limit of a test with a failing server. It is long enough for a busy machine.
const LATEST: Duration = Duration::from_secs(20);

struct Scene {
    scratch: TempDir,
    cache: Arc<LocalCache>,
    entry: Entry,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let cache = Arc::new(LocalCache::new(&scratch.path().join("cache")));
        cache.prepare().unwrap();
        let digests = Digests::of(BLOB, &[Algorithm::Sha1, Algorithm::Sha256]);
        Self {
            scratch,
            cache,
            entry: entry(&digests, BLOB.len() as u64),
        }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn wanted(&self) -> (String, Key) {
        (self.entry.parts.name.clone(), self.entry.key())
    }

    /// The package's entry in the local cache.
    fn arrived(&self) -> Option<Entry> {
        let (name, key) = self.wanted();
        self.cache.find(&name, &key).unwrap()
    }

    async fn find(&self, remote: &Remote) -> Option<Entry> {
        remote.find_all(&[self.wanted()]).await.remove(0)
    }

    async fn fetch(&self, remote: &Remote) -> bool {
        let entries = vec![self.entry.clone()];
        remote.has_room(entries, &self.cache).await && remote.fetch(&self.entry, &self.cache).await
    }

    /// A shared cache in a directory, with the package.
    async fn shared_directory(&self) -> (LocalCache, Remote) {
        let directory = self.scratch.path().join("shared");
        let remote = remote(directory.to_str().unwrap());
        let blob = self.file("blob", BLOB);
        assert!(remote.store(&self.entry, &blob, None, 1).await);
        (LocalCache::new(&directory), remote)
    }

    /// The number of files that are being written.
    fn temporary(&self) -> usize {
        fs::list(&self.cache.temporary()).unwrap().len()
    }
}

fn remote(location: &str) -> Remote {
    remote_with(location, &Credentials::default())
}

fn remote_with(location: &str, credentials: &Credentials) -> Remote {
    let location = Location::parse(location).unwrap();
    let with = (credentials, &Environment::default());
    Remote::new(&location, with, LIMITS, Arc::default())
}

fn server(script: &[Reply]) -> (Server, Remote) {
    let server = Server::start(script);
    let remote = remote(&server.url("/base").to_string());
    (server, remote)
}

fn lines(requests: &[ReceivedRequest]) -> Vec<&str> {
    let lines = requests.iter().filter_map(|it| it.head.lines().next());
    lines
        .filter_map(|it| it.strip_suffix(" HTTP/1.1"))
        .collect()
}

#[tokio::test]
async fn package_of_a_server_arrives_in_the_local_cache() {
    let scene = Scene::new();
    let entry = Reply::Answer(200, scene.entry.encode().unwrap());
    let (server, remote) = server(&[entry, Reply::Answer(200, BLOB.to_vec())]);
    assert_eq!(scene.find(&remote).await.as_ref(), Some(&scene.entry));
    assert!(scene.fetch(&remote).await);
    assert_eq!(scene.arrived().as_ref(), Some(&scene.entry));
    let sha256 = &scene.entry.blob.sha256;
    assert_eq!(fs::read(&scene.cache.content(sha256)).unwrap(), BLOB);
    let (name, key) = scene.wanted();
    assert_eq!(
        lines(&server.requests()),
        [
            format!("GET /base/v1/entries/{name}/{key}.json"),
            format!("GET /base/v1/content/{}/{sha256}", &sha256[..2])
        ]
    );
    // Contents in the local cache are not fetched again.
    assert!(scene.fetch(&remote).await);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn header_is_sent_only_to_its_server() {
    let scene = Scene::new();
    let variable = ("BOSH_AGENT_CACHE_HEADER", "x-api-key: hunter2");
    let environment: Environment = [(variable.0.into(), variable.1.into())]
        .into_iter()
        .collect();
    let credentials = Credentials::for_caches(&environment);
    let other = Server::start(&[Reply::Answer(200, scene.entry.encode().unwrap())]);
    let redirect = Reply::Redirect(other.url("/elsewhere").to_string());
    let server = Server::start(&[redirect]);
    let remote = remote_with(&server.url("/base").to_string(), &credentials);
    assert!(scene.find(&remote).await.is_some());
    let has_key = |server: &Server| server.requests()[0].head.contains("x-api-key: hunter2");
    assert!(has_key(&server) && !has_key(&other));

    let server = grpc_server::GrpcServer::start(Answers {
        committed: -1,
        update: "0",
        description: scene.entry.encode().unwrap(),
    });
    let server = server.await;
    let remote = remote_with(&server.url, &credentials);
    assert!(scene.find(&remote).await.is_some());
    let headers = server.headers.lock().unwrap();
    assert_eq!(headers.get("x-api-key").unwrap(), "hunter2");
}

#[tokio::test]
async fn missing_entry_is_no_failure() {
    let scene = Scene::new();
    for status in [404, 410] {
        let (_server, remote) = server(&[Reply::Answer(status, b"no".to_vec())]);
        assert_eq!(scene.find(&remote).await, None);
        assert!(!scene.fetch(&remote).await);
        assert!(!remote.is_broken());
    }
}

#[tokio::test]
async fn refusing_server_is_not_asked_again() {
    let scene = Scene::new();
    for reply in [
        Reply::Answer(401, Vec::new()),
        Reply::Answer(403, Vec::new()),
        Reply::Answer(500, Vec::new()),
        Reply::Redirect("ftp://host/".to_owned()),
    ] {
        let (server, remote) = server(std::slice::from_ref(&reply));
        assert!(!scene.fetch(&remote).await, "{reply:?}");
        assert!(remote.is_broken(), "{reply:?}");
        assert_eq!(scene.find(&remote).await, None);
        assert!(!scene.fetch(&remote).await);
        assert_eq!(server.requests().len(), 1, "{reply:?}");
    }
    assert_eq!(scene.arrived(), None);
}

#[tokio::test]
async fn failing_server_is_not_asked_after_three_failures() {
    let scene = Scene::new();
    let partial = b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\na com".to_vec();
    // In the last case, the time limits of the first download and of all downloads end nearly at once, and the second has no time left.
    for (reply, requests) in [
        (Reply::Answer(429, Vec::new()), 3),
        (Reply::Answer(503, Vec::new()), 3),
        (Reply::Cut(BLOB.to_vec()), 3),
        (Reply::Close, 0),
        (Reply::Silence, 1),
        (Reply::Stuck(partial), 1),
        (Reply::Trickle(BLOB.to_vec(), Duration::from_millis(400)), 1),
    ] {
        let (server, remote) = server(std::slice::from_ref(&reply));
        let start = Instant::now();
        let mut failures = 0;
        while !remote.is_broken() && failures < 4 {
            assert!(!scene.fetch(&remote).await, "{reply:?}");
            failures += 1;
        }
        let expected = if matches!(reply, Reply::Trickle(..)) {
            1..=2
        } else {
            3..=3
        };
        assert!(expected.contains(&failures), "{reply:?}: {failures}");
        assert_eq!(server.requests().len(), failures * requests, "{reply:?}");
        assert_eq!(scene.find(&remote).await, None);
        assert!(!scene.fetch(&remote).await);
        assert_eq!(server.requests().len(), failures * requests, "{reply:?}");
        assert!(start.elapsed() < LATEST, "{reply:?}: {:?}", start.elapsed());
        assert!(remote.damaged().is_empty(), "{reply:?}");
    }
    assert_eq!(scene.arrived(), None);
}

#[tokio::test]
async fn single_time_limit_is_only_a_miss() {
    let scene = Scene::new();
    let entry = Reply::Answer(200, scene.entry.encode().unwrap());
    let silence = Reply::Silence;
    let script = [silence.clone(), silence, entry];
    let (_server, remote) = server(&script);
    for _ in 0..2 {
        assert_eq!(scene.find(&remote).await, None);
        assert!(!remote.is_broken());
    }
    assert_eq!(scene.find(&remote).await.as_ref(), Some(&scene.entry));
}

#[tokio::test]
async fn searches_of_a_run_share_a_time_limit() {
    let scene = Scene::new();
    let entry = scene.entry.encode().unwrap();
    let slow = Reply::Trickle(entry, Duration::from_micros(500));
    let server = Server::start(&[slow]);
    let location = Location::parse(&server.url("").to_string()).unwrap();
    let limits = Limits {
        base: Duration::from_secs(20),
        ..LIMITS
    };
    let with = (&Credentials::default(), &Environment::default());
    let remote = || Remote::new(&location, with, limits, Arc::default());
    // Each search takes a part of the time limit.
    let late = remote();
    let mut found = 0;
    while scene.find(&late).await.is_some() {
        found += 1;
        assert!(found < 100, "the searches have no common limit");
    }
    assert!(found > 1, "each search has the whole limit");
    assert!(!late.is_broken(), "the last search had no time left");

    let slow = remote();
    slow.find_all(&vec![scene.wanted(); 1000]).await;
    assert!(slow.is_broken());
}

#[tokio::test]
async fn dead_server_is_a_failure() {
    let scene = Scene::new();
    let remote = remote(&format!("http://127.0.0.1:{}", Server::unused_port()));
    for _ in 0..3 {
        assert!(!remote.is_broken());
        assert_eq!(scene.find(&remote).await, None);
    }
    assert!(remote.is_broken());
}

#[tokio::test]
async fn descriptions_take_limited_memory() {
    let mut scene = Scene::new();
    scene.entry.warnings = vec!["a warning".to_owned(); 100];
    let entry = Reply::Answer(200, scene.entry.encode().unwrap());
    let (_server, remote) = server(&[entry]);
    let twice = 2 * scene.entry.memory();
    remote.memory_left.store(twice, Ordering::Relaxed);
    let wanted = vec![scene.wanted(); 4];
    let found = remote.find_all(&wanted).await;
    assert_eq!(found.iter().flatten().count(), 2);
    assert!(!remote.is_broken());
}

#[tokio::test]
async fn busy_server_is_asked_again() {
    let scene = Scene::new();
    let busy = Reply::Answer(503, Vec::new());
    let entry = Reply::Answer(200, scene.entry.encode().unwrap());
    let (server, remote) = server(&[busy.clone(), busy, entry]);
    assert_eq!(scene.find(&remote).await.as_ref(), Some(&scene.entry));
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn wrong_bytes_are_misses_and_leave_nothing() {
    let scene = Scene::new();
    let mut changed = BLOB.to_vec();
    changed[3] ^= 1;
    let sha256 = &scene.entry.blob.sha256;
    for reply in [
        Reply::Answer(200, changed),
        Reply::Answer(200, BLOB[1..].to_vec()),
        Reply::Answer(200, [BLOB, b"x"].concat()),
        Reply::Answer(200, b"<html>Please log in</html>".to_vec()),
        Reply::Endless,
    ] {
        let (_server, remote) = server(std::slice::from_ref(&reply));
        let start = Instant::now();
        assert_eq!(scene.find(&remote).await, None, "{reply:?}");
        assert!(!scene.fetch(&remote).await, "{reply:?}");
        assert!(!remote.is_broken(), "{reply:?}");
        assert!(remote.damaged().contains(sha256), "{reply:?}");
        assert!(start.elapsed() < LATEST, "{reply:?}: {:?}", start.elapsed());
    }
    assert_eq!(scene.arrived(), None);
    let content = fs::lookup(&scene.cache.content(sha256)).unwrap();
    assert!(content.is_none());
}

#[tokio::test]
async fn contents_are_stored_before_the_entry_unless_they_are_there() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let log = scene.file("log", b"the log");
    let mut entry = scene.entry.clone();
    let digests = Digests::of(b"the log", &[Algorithm::Sha256]);
    entry.log = Content::new(&digests, 7);
    let is_there = Reply::Answer(200, b"the log".to_vec());
    let missing = Reply::Answer(404, Vec::new());
    let created = Reply::Answer(201, Vec::new());
    let script = [missing.clone(), missing, created.clone(), is_there, created];
    let (server, remote) = server(&script);
    assert!(remote.store(&entry, &blob, Some(&log), 1).await);
    let requests = server.requests();
    let (name, key) = (&entry.parts.name, entry.key());
    let path = |content: &Content| {
        let sha256 = &content.sha256;
        format!("/base/v1/content/{}/{sha256}", &sha256[..2])
    };
    assert_eq!(
        lines(&requests),
        [
            format!("GET /base/v1/entries/{name}/{key}.json"),
            format!("HEAD {}", path(&entry.blob)),
            format!("PUT {}", path(&entry.blob)),
            format!("HEAD {}", path(entry.log.as_ref().unwrap())),
            format!("PUT /base/v1/entries/{name}/{key}.json"),
        ]
    );
    assert_eq!(requests[2].body, BLOB);
    assert_eq!(requests[4].body, entry.encode().unwrap());
}

#[tokio::test]
async fn package_that_a_server_has_is_not_sent() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let mut other = scene.entry.clone();
    other.stored += 1;
    let entry = Reply::Answer(200, other.encode().unwrap());
    let (server, remote) = server(&[entry, Reply::Answer(200, BLOB.to_vec())]);
    assert!(remote.store(&scene.entry, &blob, None, 1).await);
    let requests = server.requests();
    let methods = lines(&requests).into_iter().map(|it| &it[..4]);
    assert_eq!(methods.collect::<Vec<_>>(), ["GET ", "HEAD"]);
}

#[tokio::test]
async fn entry_that_other_runs_cannot_use_is_replaced() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let mut unrestricted = scene.entry.clone();
    unrestricted.unrestricted = true;
    let unusable = Reply::Answer(200, unrestricted.encode().unwrap());
    let good = Reply::Answer(200, scene.entry.encode().unwrap());
    let damaged = Reply::Answer(200, b"{}".to_vec());
    let is_there = Reply::Answer(200, BLOB.to_vec());
    let missing = Reply::Answer(404, Vec::new());
    let created = Reply::Answer(201, Vec::new());
    for script in [
        vec![unusable, is_there.clone(), created.clone()],
        vec![damaged, is_there, created.clone()],
        // The package's blob is missing.
        vec![good, missing.clone(), missing, created.clone(), created],
    ] {
        let (server, remote) = server(&script);
        assert!(remote.store(&scene.entry, &blob, None, 1).await);
        let requests = server.requests();
        assert_eq!(requests.len(), script.len());
        assert!(requests.last().unwrap().head.contains("/v1/entries/"));
    }
}

#[tokio::test]
async fn refused_overwrite_of_a_stored_package_is_no_failure() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let entry = Reply::Answer(200, scene.entry.encode().unwrap());
    let is_there = Reply::Answer(200, BLOB.to_vec());
    let missing = Reply::Answer(404, Vec::new());
    for status in [400, 403, 405, 409, 412, 423] {
        // Another run stores both files after this one has looked for them.
        let script = [
            missing.clone(),
            missing.clone(),
            Reply::Answer(status, Vec::new()),
            is_there.clone(),
            Reply::Answer(status, Vec::new()),
            entry.clone(),
            is_there.clone(),
            entry.clone(),
        ];
        let (server, remote) = server(&script);
        assert!(remote.store(&scene.entry, &blob, None, 1).await, "{status}");
        assert!(!remote.is_broken());
        assert_eq!(server.requests().len(), script.len(), "{status}");
    }
}

#[tokio::test]
async fn server_that_refuses_head_is_asked_by_get() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    for status in [403, 405, 501] {
        let script = [404, status, 200, 201].map(|status| Reply::Answer(status, BLOB.to_vec()));
        let (server, remote) = server(&script);
        assert!(remote.store(&scene.entry, &blob, None, 1).await, "{status}");
        let requests = server.requests();
        let methods = lines(&requests).into_iter().map(|it| &it[..4]);
        assert_eq!(
            methods.collect::<Vec<_>>(),
            ["GET ", "HEAD", "GET ", "PUT "]
        );
        assert!(requests[3].head.contains("/v1/entries/"));
    }
}

#[tokio::test]
async fn damaged_content_that_cannot_be_replaced_is_no_failure() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let mut changed = BLOB.to_vec();
    changed[3] ^= 1;
    let wrong = Reply::Answer(200, changed);
    let (_server, remote) = server(&[wrong.clone(), Reply::Answer(403, Vec::new()), wrong]);
    assert!(!scene.fetch(&remote).await);
    assert!(!remote.store(&scene.entry, &blob, None, 1).await);
    assert!(!remote.is_broken());
}

#[tokio::test]
async fn incomplete_write_of_a_blob_is_a_failure() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let all = BLOB.len() as i64;
    for (committed, is_stored) in [
        (all, true),
        // The server already had the blob.
        (-1, true),
        (all - 1, false),
        (all + 1, false),
        (0, false),
        (-2, false),
    ] {
        let server = grpc_server::GrpcServer::start(Answers {
            committed,
            update: "0",
            description: Vec::new(),
        });
        let server = server.await;
        let remote = remote(&server.url);
        let stored = remote.store(&scene.entry, &blob, None, 1).await;
        assert_eq!(stored, is_stored, "{committed}");
        assert_eq!(remote.is_broken(), !is_stored, "{committed}");
        let calls = server.calls.lock().unwrap().clone();
        let has_updated = calls.iter().any(|it| it == "UpdateActionResult");
        assert_eq!(has_updated, is_stored, "{committed}: {calls:?}");
    }
}

#[tokio::test]
async fn refused_update_of_a_stored_result_is_no_failure() {
    const PERMISSION_DENIED: &str = "7";
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    for (description, is_stored) in [
        (scene.entry.encode().unwrap(), true),
        (b"{}".to_vec(), false),
    ] {
        let server = grpc_server::GrpcServer::start(Answers {
            committed: -1,
            update: PERMISSION_DENIED,
            description,
        });
        let server = server.await;
        let remote = remote(&server.url);
        let stored = remote.store(&scene.entry, &blob, None, 1).await;
        assert_eq!(stored, is_stored);
        assert_eq!(remote.is_broken(), !is_stored);
    }
}

#[tokio::test]
async fn damaged_content_is_replaced_without_a_question() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let wrong = Reply::Answer(200, b"wrong".to_vec());
    let (server, remote) = server(&[wrong, Reply::Answer(204, Vec::new())]);
    assert!(!scene.fetch(&remote).await);
    assert!(remote.store(&scene.entry, &blob, None, 1).await);
    let requests = server.requests();
    let methods = lines(&requests).into_iter().map(|it| &it[..3]);
    assert_eq!(methods.collect::<Vec<_>>(), ["GET", "PUT", "PUT"]);
}

#[tokio::test]
async fn refused_upload_is_a_failure() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    for status in [403, 405, 413, 507] {
        let missing = Reply::Answer(404, Vec::new());
        let (_server, remote) = server(&[missing, Reply::Refuse(status)]);
        assert!(!remote.store(&scene.entry, &blob, None, 1).await);
        assert!(remote.is_broken());
    }
}

#[tokio::test]
async fn package_goes_through_a_shared_directory() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let log = scene.file("log", b"the log");
    let directory = scene.scratch.path().join("shared");
    let remote = remote(directory.to_str().unwrap());
    assert_eq!(scene.find(&remote).await, None);
    assert!(remote.store(&scene.entry, &blob, Some(&log), 1).await);
    let found = scene.find(&remote).await.unwrap();
    assert_eq!(found.log.as_ref().map(|it| it.size), Some(7));
    assert!(remote.fetch(&found, &scene.cache).await);
    assert_eq!(scene.arrived(), Some(found));
    assert_eq!(scene.temporary(), 0);
}

#[tokio::test]
async fn damaged_content_of_a_shared_directory_is_replaced() {
    let scene = Scene::new();
    let (shared, remote) = scene.shared_directory().await;
    let stored = shared.content(&scene.entry.blob.sha256);
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, &[b'x'; BLOB.len()]).unwrap();
    assert!(!scene.fetch(&remote).await);
    assert!(!remote.is_broken());
    // Storing replaces the damaged file, although it has the right size.
    let blob = scene.file("again", BLOB);
    assert!(remote.store(&scene.entry, &blob, None, 1).await);
    assert!(scene.fetch(&remote).await);
}

#[tokio::test]
async fn directory_that_cannot_be_written_to_is_read() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let directory = scene.scratch.path().join("shared");
    let location = Location::Directory(directory.clone());
    let new = || remote(&location.to_string());
    assert!(new().store(&scene.entry, &blob, None, 1).await);
    // Even root cannot create a file in a directory whose path is a file.
    let temporary = LocalCache::new(&directory).temporary();
    fs::remove_tree(&temporary).unwrap();
    fs::write(&temporary, b"").unwrap();
    let to = new();
    to.prepare(true).await;
    assert!(!to.takes_packages() && !to.is_broken());
    assert!(scene.find(&to).await.is_some());
    assert!(scene.fetch(&to).await);
}

#[tokio::test]
async fn special_file_in_a_shared_directory_does_not_block() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let directory = scene.scratch.path().join("shared");
    let shared = LocalCache::new(&directory);
    let (name, key) = scene.wanted();
    for file in [
        shared.content(&scene.entry.blob.sha256),
        shared.entry(&name, &key),
    ] {
        let remote = remote(directory.to_str().unwrap());
        assert!(remote.store(&scene.entry, &blob, None, 1).await);
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let start = Instant::now();
        let is_there = scene.find(&remote).await.is_some() && scene.fetch(&remote).await;
        assert!(!is_there && remote.is_broken());
        assert!(start.elapsed() < LIMITS.base, "{:?}", start.elapsed());
        fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn longer_content_of_a_shared_directory_is_not_copied() {
    let scene = Scene::new();
    let (shared, remote) = scene.shared_directory().await;
    let stored = shared.content(&scene.entry.blob.sha256);
    fs::remove_file(&stored).unwrap();
    // The file is too long to be copied.
    let file = fs::create(&stored).unwrap();
    file.set_len(1 << 50)
        .or_else(|_| file.set_len(1 << 42))
        .unwrap();
    assert!(!scene.fetch(&remote).await);
    assert!(!remote.is_broken());
    assert_eq!(scene.temporary(), 0);
}

#[tokio::test]
async fn package_without_space_is_not_requested() {
    let mut scene = Scene::new();
    scene.entry.blob.size = u64::MAX;
    let (server, remote) = server(&[Reply::Answer(200, BLOB.to_vec())]);
    assert!(!scene.fetch(&remote).await);
    assert!(!remote.is_broken());
    assert!(server.requests().is_empty());
    assert!(remote.damaged().is_empty());
}

#[tokio::test]
async fn shared_cache_is_not_blamed_for_the_local_one() {
    let scene = Scene::new();
    let temporary = scene.cache.temporary();
    fs::remove_tree(&temporary).unwrap();
    fs::write(&temporary, b"").unwrap();
    let (server, remote) = server(&[Reply::Answer(200, BLOB.to_vec())]);
    assert!(!scene.fetch(&remote).await);
    assert!(!scene.fetch(&remote).await);
    assert!(!remote.is_broken());
    assert!(remote.damaged().is_empty());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn fetched_package_is_pruned_after_others() {
    let scene = Scene::new();
    let (shared, remote) = scene.shared_directory().await;
    let (name, key) = scene.wanted();
    let file = shared.entry(&name, &key);
    let old = std::time::SystemTime::UNIX_EPOCH;
    fs::open(&file).unwrap().set_modified(old).unwrap();
    assert!(scene.fetch(&remote).await);
    assert!(fs::metadata(&file).unwrap().modified().unwrap() > old);
}

#[tokio::test]
async fn unusable_directory_is_a_failure() {
    let scene = Scene::new();
    let blob = scene.file("blob", BLOB);
    let remote = remote(blob.to_str().unwrap());
    assert!(!remote.store(&scene.entry, &blob, None, 1).await);
    assert!(remote.is_broken());
}

#[test]
fn time_limit_grows_with_the_size() {
    assert_eq!(time_limit(0), Duration::from_secs(15));
    assert_eq!(time_limit(60 << 20), Duration::from_secs(75));
}

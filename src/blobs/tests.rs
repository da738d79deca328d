//! Transfers with failing servers, directories and a blobstore program.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::diag::Chain;
use crate::http::testing::{Reply, Server};
use crate::release::{Algorithm, Digests};

const CONTENTS: &[u8] = b"the contents of a blob";

/// A base directory with a directory for downloads.
struct Base {
    directory: TempDir,
    /// The timeout for a silent server.
    stall: Duration,
}

impl Base {
    fn new() -> Self {
        let base = Self {
            directory: tempfile::tempdir().unwrap(),
            stall: Duration::from_secs(600),
        };
        fs::create_dir(base.target().parent().unwrap()).unwrap();
        fs::create_dir_all(&base.vcap().blobs()).unwrap();
        fs::create_dir_all(&base.vcap().sensitive_blobs()).unwrap();
        fs::write(&base.source(), CONTENTS).unwrap();
        base
    }

    fn vcap(&self) -> Vcap {
        Vcap::new(self.directory.path())
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("downloads/blob")
    }

    /// A file to upload.
    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn downloads(&self) -> Vec<String> {
        names(&self.directory.path().join("downloads"))
    }

    fn blobs(&self, provider: &str, options: Value) -> Blobs {
        self.blobs_in(provider, options, &Environment::default())
    }

    fn blobs_in(&self, provider: &str, options: Value, environment: &Environment) -> Blobs {
        let settings = BlobstoreSettings {
            provider: provider.to_owned(),
            options,
        };
        let timeouts = Timeouts {
            stall: self.stall,
            ..Timeouts::default()
        };
        Blobs::with_timeouts(
            Some(&settings),
            &self.vcap(),
            environment,
            timeouts,
            Pace::hurried(),
        )
        .unwrap()
    }

    fn dav(&self, server: &Server) -> Blobs {
        let endpoint = format!("http://127.0.0.1:{}", server.port());
        let options = json!({"endpoint": endpoint, "user": "agent", "password": "hunter2"});
        self.blobs("dav", options)
    }

    /// Without a blobstore, for signed URLs.
    fn signed(&self) -> Blobs {
        self.blobs("dummy", Value::Null)
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::list(directory).unwrap();
    entries
        .iter()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn digest() -> MultiDigest {
    let algorithms = [Algorithm::Sha1, Algorithm::Sha512];
    MultiDigest::of(&Digests::of(CONTENTS, &Algorithm::ALL), &algorithms).unwrap()
}

fn id() -> BlobId {
    BlobId::parse("7ab1").unwrap()
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

fn good() -> Reply {
    Reply::Answer(200, CONTENTS.to_vec())
}

#[track_caller]
fn assert_no_secret(error: &BlobError) {
    let text = format!("{error} {error:?} {error:#?} {}", Chain(error));
    assert!(!text.contains("hunter2"), "{text}");
}

/// Fetches by id and by signed URL from a server with this script. Both must end the same way, after this number of attempts.
async fn fetch(script: &[Reply], attempts: usize) -> Result<(), [String; 2]> {
    let mut errors = Vec::new();
    for signed in [false, true] {
        let (mut base, server) = (Base::new(), Server::start(script));
        if matches!(script, [Reply::Silence]) {
            base.stall = Duration::from_millis(300);
        }
        let url = server.url("/bucket/7ab1?signature=hunter2");
        let result = if signed {
            let (blobs, headers) = (base.signed(), Headers::new());
            blobs
                .get_signed(
                    &url,
                    &headers,
                    &digest(),
                    &base.target(),
                    Persistence::Brief,
                    &never(),
                )
                .await
        } else {
            let blobs = base.dav(&server);
            blobs
                .get(
                    &id(),
                    &digest(),
                    &base.target(),
                    Persistence::Brief,
                    &never(),
                )
                .await
        };
        assert!(
            server.requests().len() <= attempts,
            "signed: {signed}, {:?}",
            server.requests()
        );
        match result {
            Ok(()) => {
                assert_eq!(fs::read(&base.target()).unwrap(), CONTENTS);
                let mode = fs::metadata(&base.target()).unwrap().permissions().mode();
                assert_eq!(mode & 0o7777, 0o600);
                assert_eq!(base.downloads(), ["blob"]);
            }
            Err(error) => {
                assert_no_secret(&error);
                assert_eq!(base.downloads(), [""; 0]);
                let text = Chain(&error).to_string();
                let s = if attempts == 1 { "" } else { "s" };
                assert!(text.contains(&format!("{attempts} attempt{s})")), "{text}");
                let port = server.port().to_string();
                errors.push(text.replace(&port, "PORT"));
            }
        }
    }
    match <[String; 2]>::try_from(errors) {
        Ok(errors) => Err(errors),
        Err(errors) => {
            assert_eq!(errors, [""; 0]);
            Ok(())
        }
    }
}

#[tokio::test]
async fn download_succeeds_after_temporary_failures() {
    let script = [
        Reply::Answer(500, b"oops".to_vec()),
        Reply::Answer(503, Vec::new()),
        good(),
    ];
    fetch(&script, 3).await.unwrap();
    fetch(&[Reply::Close, Reply::Cut(CONTENTS.to_vec()), good()], 3)
        .await
        .unwrap();
    fetch(&[Reply::Answer(404, Vec::new()), good()], 2)
        .await
        .unwrap();
    let wrong = Reply::Answer(200, b"something else".to_vec());
    fetch(&[wrong, Reply::Close, good()], 3).await.unwrap();
}

#[tokio::test]
async fn refused_download_is_not_retried() {
    let [stored, signed] = fetch(&[Reply::Answer(403, b"hunter2".to_vec())], 1)
        .await
        .unwrap_err();
    assert_eq!(
        stored,
        "Getting blob from inner blobstore: Getting blob from inner blobstore: \
         Getting dav blob 7ab1: Wrong response code: 403 \
         (dav blobstore http://127.0.0.1:PORT/, blob 7ab1, 1 attempt)"
    );
    assert_eq!(
        signed,
        "Failed to download blob: Error executing GET, response was 403 \
         (http://127.0.0.1:PORT/bucket/7ab1, 1 attempt)"
    );
}

#[tokio::test]
async fn wrong_digest_is_reported_and_leaves_no_file() {
    let wrong = b"something else";
    let [stored, signed] = fetch(&[Reply::Answer(200, wrong.to_vec())], 3)
        .await
        .unwrap_err();
    let sha1 = |bytes| {
        Digests::of(bytes, &[Algorithm::Sha1])
            .sha1()
            .unwrap()
            .to_owned()
    };
    let mismatch = format!(
        "Checking downloaded blob '7ab1': Expected stream to have digest '{}' but was '{}'",
        sha1(CONTENTS),
        sha1(wrong)
    );
    for text in [stored, signed] {
        assert!(text.contains(&mismatch), "{text}");
    }
}

#[tokio::test]
async fn all_digests_must_match() {
    let (base, server) = (Base::new(), Server::start(&[good()]));
    let sha1 = Digests::of(CONTENTS, &[Algorithm::Sha1]);
    let digest = MultiDigest::parse(&format!("{};sha256:00", sha1.sha1().unwrap())).unwrap();
    let error = base
        .dav(&server)
        .get(&id(), &digest, &base.target(), Persistence::Brief, &never())
        .await
        .unwrap_err();
    let text = Chain(&error).to_string();
    assert!(
        text.contains("digest 'sha256:00' but was 'sha256:"),
        "{text}"
    );
}

#[tokio::test]
async fn unreachable_or_silent_server_fails_after_three_attempts() {
    for script in [Reply::Cut(CONTENTS.to_vec()), Reply::Silence, Reply::Close] {
        fetch(&[script], 3).await.unwrap_err();
    }
    let base = Base::new();
    let url = format!("http://127.0.0.1:{}/x?hunter2", Server::unused_port());
    let url = SignedUrl::parse(&url).unwrap();
    let blobs = base.signed();
    let got = blobs
        .get_signed(
            &url,
            &Headers::new(),
            &digest(),
            &base.target(),
            Persistence::Brief,
            &never(),
        )
        .await
        .unwrap_err();
    let put = blobs
        .put_signed(
            &url,
            &Headers::new(),
            &base.source(),
            Persistence::Brief,
            &never(),
        )
        .await
        .unwrap_err();
    for error in [got, put] {
        assert_no_secret(&error);
        let text = Chain(&error).to_string();
        assert!(text.contains("3 attempts"), "{text}");
        assert!(text.contains("Connection refused"), "{text}");
    }
}

#[tokio::test]
async fn cancellation_ends_a_download_and_leaves_no_file() {
    let mut half = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 20).into_bytes();
    half.extend([0; 1000]);
    for reply in [Reply::Silence, Reply::Stuck(half)] {
        let (base, server) = (Base::new(), Server::start(&[reply]));
        let (blobs, cancel) = (base.dav(&server), CancellationToken::new());
        let start = Instant::now();
        let (id, digest, target) = (id(), digest(), base.target());
        let (result, ()) = tokio::join!(
            blobs.get(&id, &digest, &target, Persistence::Brief, &cancel),
            async {
                while server.requests().is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                cancel.cancel();
            }
        );
        assert!(matches!(result, Err(BlobError::Stopped)), "{result:?}");
        assert!(start.elapsed() < Duration::from_secs(200));
        // The thread that writes the file removes it.
        while !base.downloads().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(200), "it is left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn unwritable_destination_is_not_retried() {
    let (base, server) = (Base::new(), Server::start(&[good()]));
    let target = base.directory.path().join("not-there/blob");
    let error = base
        .dav(&server)
        .get(&id(), &digest(), &target, Persistence::Brief, &never())
        .await
        .unwrap_err();
    let text = Chain(&error).to_string();
    assert!(text.contains("1 attempt)"), "{text}");
    assert!(text.contains("No such file or directory"), "{text}");
}

#[tokio::test]
async fn each_upload_attempt_has_a_new_id() {
    let script = [
        Reply::Answer(500, Vec::new()),
        Reply::Close,
        Reply::Answer(204, Vec::new()),
    ];
    let (base, server) = (Base::new(), Server::start(&script));
    let id = base
        .dav(&server)
        .create(&base.source(), Persistence::Brief, &never())
        .await
        .unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!(request.body, CONTENTS);
        assert!(
            request.head.contains("authorization: Basic "),
            "{}",
            request.head
        );
        assert!(
            request.head.contains("expect: 100-continue"),
            "{}",
            request.head
        );
    }
    assert!(!requests[0].head.contains(id.as_str()));
    let path = format!("/{id} HTTP/1.1\r\n");
    assert!(requests[1].head.contains(&path), "{}", requests[1].head);
}

#[tokio::test]
async fn refused_upload_is_not_retried() {
    let (base, server) = (Base::new(), Server::start(&[Reply::Refuse(403)]));
    let error = base
        .dav(&server)
        .create(&base.source(), Persistence::Brief, &never())
        .await;
    let error = error.unwrap_err();
    assert_no_secret(&error);
    let text = Chain(&error).to_string();
    let start = "Creating blob in inner blobstore: Putting dav blob ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains(": Wrong response code: 403 (dav"), "{text}");

    let url = server.url("/key?hunter2");
    let headers = Headers::from_json(&json!({"x-ms-blob-type": "hunter2"})).unwrap();
    let error = base
        .signed()
        .put_signed(&url, &headers, &base.source(), Persistence::Brief, &never())
        .await
        .unwrap_err();
    assert_no_secret(&error);
    let text = Chain(&error).to_string();
    let expected = format!(
        "Failed to upload blob: Error executing PUT for {}, response was 403 ({url}, 1 attempt)",
        base.source().display()
    );
    assert_eq!(text, expected);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.body.is_empty()));
}

#[tokio::test]
async fn upload_to_a_signed_url_is_retried() {
    let script = [
        Reply::Answer(503, Vec::new()),
        Reply::Close,
        Reply::Answer(200, Vec::new()),
    ];
    let (base, server) = (Base::new(), Server::start(&script));
    let headers = Headers::from_json(&json!({"x-ms-blob-type": "blockblob"})).unwrap();
    base.signed()
        .put_signed(
            &server.url("/key?sig=1"),
            &headers,
            &base.source(),
            Persistence::Brief,
            &never(),
        )
        .await
        .unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert!(request.head.starts_with("PUT /key?sig=1 HTTP/1.1\r\n"));
        assert!(request.head.contains("x-ms-blob-type: blockblob\r\n"));
        assert!(request.head.contains("accept: */*\r\n"));
        assert_eq!(request.body, CONTENTS);
    }
}

#[tokio::test]
async fn persistent_upload_outlasts_a_store_that_is_away() {
    let mut script = vec![Reply::Answer(503, Vec::new()); 8];
    script.push(Reply::Answer(201, Vec::new()));
    let reports = std::sync::Mutex::new(Vec::new());
    let report = |text: &str| reports.lock().unwrap().push(text.to_owned());
    let persistence = Persistence::Minutes(&report);
    for signed in [false, true] {
        let (base, server) = (Base::new(), Server::start(&script));
        let source = base.source();
        if signed {
            let (url, headers) = (server.url("/key?hunter2"), Headers::new());
            base.signed()
                .put_signed(&url, &headers, &source, persistence, &never())
                .await
                .unwrap();
        } else {
            base.dav(&server)
                .create(&source, persistence, &never())
                .await
                .unwrap();
        }
        let reports = std::mem::take(&mut *reports.lock().unwrap());
        assert_eq!(reports.len(), 8);
        assert!(
            reports[7].starts_with("attempt 8 failed, the next one is in ")
                && reports[7].contains("503"),
            "{reports:?}"
        );
        assert!(!reports.concat().contains("hunter2"), "{reports:?}");
    }
}

#[tokio::test]
async fn persistent_download_outlasts_a_store_that_is_away() {
    let mut script = vec![Reply::Close; 4];
    script.extend([
        Reply::Answer(503, Vec::new()),
        Reply::Cut(CONTENTS.to_vec()),
        good(),
    ]);
    let reports = std::sync::Mutex::new(Vec::new());
    let report = |text: &str| reports.lock().unwrap().push(text.to_owned());
    let persistence = Persistence::Minutes(&report);
    for signed in [false, true] {
        let (base, server) = (Base::new(), Server::start(&script));
        let target = base.target();
        if signed {
            let (url, headers) = (server.url("/key?hunter2"), Headers::new());
            base.signed()
                .get_signed(&url, &headers, &digest(), &target, persistence, &never())
                .await
                .unwrap();
        } else {
            base.dav(&server)
                .get(&id(), &digest(), &target, persistence, &never())
                .await
                .unwrap();
        }
        assert_eq!(fs::read(&target).unwrap(), CONTENTS);
        assert_eq!(base.downloads(), ["blob"]);
        let reports = std::mem::take(&mut *reports.lock().unwrap());
        assert_eq!(reports.len(), 6);
        assert!(reports[4].contains("503"), "{reports:?}");
        assert!(!reports.concat().contains("hunter2"), "{reports:?}");
    }
}

#[tokio::test]
async fn persistent_download_of_a_wrong_or_missing_blob_soon_fails() {
    let report = |_: &str| ();
    for reply in [
        Reply::Answer(404, Vec::new()),
        Reply::Answer(200, b"something else".to_vec()),
    ] {
        let (base, server) = (Base::new(), Server::start(&[reply]));
        let got = base
            .dav(&server)
            .get(
                &id(),
                &digest(),
                &base.target(),
                Persistence::Minutes(&report),
                &never(),
            )
            .await;
        assert!(got.is_err());
        assert_eq!(server.requests().len(), 3);
        assert_eq!(base.downloads(), [""; 0]);
    }
}

#[tokio::test]
async fn missing_file_is_not_uploaded() {
    let (base, server) = (Base::new(), Server::start(&[good()]));
    let error = base
        .dav(&server)
        .create(Path::new("/not/there"), Persistence::Brief, &never())
        .await
        .unwrap_err();
    let text = Chain(&error).to_string();
    assert!(text.contains("failed to open `/not/there`"), "{text}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn valid_local_blobs_are_preferred_to_the_store() {
    let base = Base::new();
    let directories = [base.vcap().sensitive_blobs(), base.vcap().blobs()];
    for directory in &directories {
        let server = Server::start(&[Reply::Close]);
        let blobs = base.dav(&server);
        let local = directory.join("7ab1");
        fs::write(&local, CONTENTS).unwrap();
        blobs
            .get(
                &id(),
                &digest(),
                &base.target(),
                Persistence::Brief,
                &never(),
            )
            .await
            .unwrap();
        assert_eq!(server.requests().len(), 0);
        assert_eq!(base.downloads(), ["blob"]);
        fs::write(&local, b"corrupt").unwrap();
        fs::remove_file(&base.target()).unwrap();
    }
    let server = Server::start(&[good()]);
    base.dav(&server)
        .get(
            &id(),
            &digest(),
            &base.target(),
            Persistence::Brief,
            &never(),
        )
        .await
        .unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn local_store_has_blobs_in_its_directory() {
    let base = Base::new();
    let directory = base.directory.path().join("a/store");
    let blobs = base.blobs("local", json!({"Blobstore_Path": directory, "else": null}));
    let id = blobs
        .create(&base.source(), Persistence::Brief, &never())
        .await
        .unwrap();
    assert_eq!(names(&directory), [id.as_str()]);
    assert_eq!(fs::read(&directory.join(id.as_str())).unwrap(), CONTENTS);
    blobs
        .get(&id, &digest(), &base.target(), Persistence::Brief, &never())
        .await
        .unwrap();
    assert_eq!(fs::read(&base.target()).unwrap(), CONTENTS);

    let missing = BlobId::parse("missing").unwrap();
    let error = blobs
        .get(
            &missing,
            &digest(),
            &base.target(),
            Persistence::Brief,
            &never(),
        )
        .await
        .unwrap_err();
    let text = Chain(&error).to_string();
    let path = directory.join("missing");
    assert!(
        text.contains(&format!("failed to open `{}`", path.display())),
        "{text}"
    );
}

#[tokio::test]
async fn cache_of_micro_bosh_is_the_agents_blob_directory() {
    let base = Base::new();
    let options = json!({"blobstore_path": "/var/vcap/micro_bosh/data/cache"});
    let blobs = base.blobs("local", options);
    let id = blobs
        .create(&base.source(), Persistence::Brief, &never())
        .await
        .unwrap();
    assert_eq!(names(&base.vcap().blobs()), [id.as_str()]);
}

#[tokio::test]
async fn cancellation_ends_a_copy_and_leaves_no_file() {
    let base = Base::new();
    let store = base.directory.path().join("store");
    let blobs = base.blobs("local", json!({"blobstore_path": store}));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let created = blobs
        .create(&base.source(), Persistence::Brief, &cancel)
        .await;
    assert!(matches!(created, Err(BlobError::Stopped)));
    assert!(fs::list(&store).unwrap().is_empty());
    fs::write(&base.vcap().blobs().join("7ab1"), CONTENTS).unwrap();
    let got = blobs
        .get(
            &id(),
            &digest(),
            &base.target(),
            Persistence::Brief,
            &cancel,
        )
        .await;
    assert!(matches!(got, Err(BlobError::Stopped)));
    assert_eq!(base.downloads(), [""; 0]);
}

#[tokio::test]
async fn unusable_store_is_reported_at_its_first_use() {
    let base = Base::new();
    let none = Blobs::new(None, &base.vcap(), &Environment::default()).unwrap();
    for (blobs, message) in [
        (
            none,
            "the settings contain no blobstore: neither `env.bosh.blobstores` nor `blobstore`",
        ),
        (
            base.signed(),
            "the blobstore provider `dummy` stores no blobs",
        ),
        (
            base.blobs("s3", json!({})),
            "Getting blobstore: Validating blobstore: executable bosh-blobstore-s3 not found in PATH",
        ),
        (
            base.blobs("../s3", json!({})),
            r#""../s3" cannot be the name of a blobstore provider"#,
        ),
        (
            base.blobs("local", json!({"blobstore_path": null})),
            "the local blobstore lacks the option `blobstore_path`",
        ),
    ] {
        let got = blobs
            .get(
                &id(),
                &digest(),
                &base.target(),
                Persistence::Brief,
                &never(),
            )
            .await;
        let created = blobs
            .create(&base.source(), Persistence::Brief, &never())
            .await;
        for error in [got.unwrap_err(), created.unwrap_err()] {
            let text = Chain(&error).to_string();
            assert!(text.contains(message), "{text}");
        }
        let server = Server::start(&[good()]);
        blobs
            .get_signed(
                &server.url("/x"),
                &Headers::new(),
                &digest(),
                &base.target(),
                Persistence::Brief,
                &never(),
            )
            .await
            .unwrap();
    }
}

#[test]
fn invalid_ca_certificates_are_reported_at_the_start() {
    let base = Base::new();
    for (ca, message) in [
        (
            json!("nonsense"),
            "the blobstore's CA certificates cannot be used: expected the CA certificate in PEM, but the text contains no certificate",
        ),
        (
            json!(["x"]),
            "the blobstore's CA certificates cannot be read: the option `ca` is not a string",
        ),
    ] {
        let settings = BlobstoreSettings {
            provider: "dav".to_owned(),
            options: json!({"endpoint": "https://host", "tls": {"cert": {"ca": ca}}}),
        };
        let error = Blobs::new(Some(&settings), &base.vcap(), &Environment::default()).unwrap_err();
        assert_eq!(Chain(&error).to_string(), message);
    }
}

/// A blobstore program with a directory as its store. It fails the number of times that is in a file.
const PROGRAM: &str = r#"#!/bin/bash
set -eu
[ "$1" = -c ]; [ "$(stat -c %a "$2")" = 600 ]
store=$(sed -n 's/.*"bucket_name":"\([^"]*\)".*/\1/p' "$2")
echo "$3 $(basename "$4")" >>"$store/calls"
if [ -e "$store/hang" ]; then echo $$ >"$store/pid"; sleep 1000 & wait; fi
failures=$(cat "$store/failures" 2>/dev/null || echo 0)
if [ "$failures" -gt 0 ]; then
  echo $((failures - 1)) >"$store/failures"
  echo "half" >"$store/half"; [ "$3" = put ] || cp "$store/half" "$5"
  [ ! -e "$store/reason" ] || cat "$store/reason" >&2
  echo "cannot sign with hunter2hunter2" >&2
  exit 7
fi
case $3 in
  get) cp "$store/blob-$4" "$5" ;;
  put) cp "$4" "$store/blob-$5" ;;
esac
"#;

struct Bucket {
    base: Base,
    store: PathBuf,
    blobs: Blobs,
}

impl Bucket {
    fn new() -> Self {
        Self::of("s3")
    }

    fn of(provider: &str) -> Self {
        let base = Base::new();
        let store = base.directory.path().join("bucket");
        fs::create_dir(&store).unwrap();
        let bin = base.directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let program = bin.join(format!("bosh-blobstore-{provider}"));
        fs::write(&program, PROGRAM.as_bytes()).unwrap();
        fs::set_mode(&program, 0o755).unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
        let environment = Environment::default().with(&[("PATH", path.into())]);
        let options = json!({"bucket_name": store, "secret_access_key": "hunter2hunter2"});
        let blobs = base.blobs_in(provider, options, &environment);
        Self { base, store, blobs }
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_lossy(&self.store.join("calls")).unwrap();
        calls.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn other_stores_are_used_by_their_program() {
    let bucket = Bucket::new();
    let configuration = bucket.base.vcap().blobstore_options("s3");
    let written: Value = serde_json::from_slice(&fs::read(&configuration).unwrap()).unwrap();
    assert_eq!(written["secret_access_key"], "hunter2hunter2");
    let id = bucket
        .blobs
        .create(&bucket.base.source(), Persistence::Brief, &never())
        .await
        .unwrap();
    bucket
        .blobs
        .get(
            &id,
            &digest(),
            &bucket.base.target(),
            Persistence::Brief,
            &never(),
        )
        .await
        .unwrap();
    let target = bucket.base.target();
    assert_eq!(fs::read(&target).unwrap(), CONTENTS);
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(bucket.base.downloads(), ["blob"]);
    assert_eq!(
        bucket.calls(),
        ["put source".to_owned(), format!("get {id}")]
    );
}

#[tokio::test]
async fn failing_program_is_retried_and_reported_without_secrets() {
    let bucket = Bucket::new();
    fs::write(&bucket.store.join("blob-7ab1"), CONTENTS).unwrap();
    fs::write(&bucket.store.join("failures"), b"2").unwrap();
    let (id, digest, target) = (id(), digest(), bucket.base.target());
    bucket
        .blobs
        .get(&id, &digest, &target, Persistence::Brief, &never())
        .await
        .unwrap();
    assert_eq!(bucket.calls().len(), 3);

    fs::remove_file(&target).unwrap();
    fs::write(&bucket.store.join("failures"), b"9").unwrap();
    let error = bucket
        .blobs
        .get(&id, &digest, &target, Persistence::Brief, &never())
        .await
        .unwrap_err();
    assert_no_secret(&error);
    assert_eq!(
        Chain(&error).to_string(),
        "Getting blob from inner blobstore: Getting blob from inner blobstore: `bosh-blobstore-s3` exited with 7 \
         (bosh-blobstore-s3, blob 7ab1, 3 attempts): cannot sign with [redacted]"
    );
    assert_eq!(bucket.calls().len(), 6);
    assert_eq!(bucket.base.downloads(), [""; 0]);
}

#[tokio::test]
async fn refusal_of_an_upload_by_a_program_is_not_retried() {
    let bucket = Bucket::new();
    fs::write(&bucket.store.join("failures"), b"9").unwrap();
    let refusal = b"api error AccessDenied: Access Denied";
    fs::write(&bucket.store.join("reason"), refusal).unwrap();
    let report = |_: &str| ();
    let source = bucket.base.source();
    let error = bucket
        .blobs
        .create(&source, Persistence::Minutes(&report), &never())
        .await
        .unwrap_err();
    let text = Chain(&error).to_string();
    assert!(
        text.contains("1 attempt)") && text.contains("Access Denied"),
        "{text}"
    );
    assert_eq!(bucket.calls().len(), 1);
}

#[tokio::test]
async fn denied_download_and_expired_token_are_retried() {
    let bucket = Bucket::new();
    fs::write(&bucket.store.join("blob-7ab1"), CONTENTS).unwrap();
    let fail_once = |reason: &str| {
        fs::write(&bucket.store.join("failures"), b"1").unwrap();
        fs::write(&bucket.store.join("reason"), reason.as_bytes()).unwrap();
    };
    // An object that is not yet visible.
    fail_once("api error AccessDenied: Access Denied");
    let (id, digest, target, cancel) = (id(), digest(), bucket.base.target(), never());
    let getting = bucket
        .blobs
        .get(&id, &digest, &target, Persistence::Brief, &cancel);
    getting.await.unwrap();
    assert_eq!(bucket.calls().len(), 2);

    fail_once("api error ExpiredToken: The provided token has expired");
    let source = bucket.base.source();
    let creating = bucket.blobs.create(&source, Persistence::Brief, &cancel);
    creating.await.unwrap();
    assert_eq!(bucket.calls().len(), 4);
}

#[tokio::test]
async fn each_provider_has_its_program_and_its_configuration() {
    for provider in ["s3", "gcs", "azure-storage"] {
        let bucket = Bucket::of(provider);
        let file = format!("bosh/etc/blobstore-{provider}.json");
        let configuration = bucket.base.directory.path().join(file);
        let mode = fs::metadata(&configuration).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let source = bucket.base.source();
        let cancel = never();
        let created = bucket.blobs.create(&source, Persistence::Brief, &cancel);
        let (id, target) = (created.await.unwrap(), bucket.base.target());
        let digest = digest();
        let got = bucket
            .blobs
            .get(&id, &digest, &target, Persistence::Brief, &cancel);
        got.await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), CONTENTS);
    }
}

#[tokio::test]
async fn wrong_blob_from_a_program_is_rejected() {
    let bucket = Bucket::new();
    fs::write(&bucket.store.join("blob-7ab1"), b"something else").unwrap();
    let error = bucket
        .blobs
        .get(
            &id(),
            &digest(),
            &bucket.base.target(),
            Persistence::Brief,
            &never(),
        )
        .await
        .unwrap_err();
    let text = Chain(&error).to_string();
    assert!(text.contains("Checking downloaded blob '7ab1'"), "{text}");
    assert_eq!(bucket.base.downloads(), [""; 0]);
}

#[tokio::test]
async fn cancellation_kills_the_program() {
    let bucket = Bucket::new();
    fs::write(&bucket.store.join("hang"), b"").unwrap();
    let pid_file = bucket.store.join("pid");
    let cancel = CancellationToken::new();
    let (id, digest, target) = (id(), digest(), bucket.base.target());
    let pid = || {
        let text = fs::read_lossy(&pid_file).unwrap_or_default();
        text.trim().parse::<u32>().ok()
    };
    let (result, ()) = tokio::join!(
        bucket
            .blobs
            .get(&id, &digest, &target, Persistence::Brief, &cancel),
        async {
            while pid().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            cancel.cancel();
        }
    );
    assert!(matches!(result, Err(BlobError::Stopped)), "{result:?}");
    assert_eq!(bucket.base.downloads(), [""; 0]);
    let stat = PathBuf::from(format!("/proc/{}/stat", pid().unwrap()));
    while fs::read_lossy(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The futures must be `Send`.
#[test]
fn transfers_can_run_in_any_task() {
    fn is_send<T: Send>(_: T) {}
    let base = Base::new();
    let (blobs, id, digest, cancel) = (base.signed(), id(), digest(), never());
    let (url, headers) = (SignedUrl::parse("http://host/").unwrap(), Headers::new());
    let path = base.target();
    is_send(blobs.get(&id, &digest, &path, Persistence::Brief, &cancel));
    is_send(blobs.create(&path, Persistence::Brief, &cancel));
    is_send(blobs.get_signed(&url, &headers, &digest, &path, Persistence::Brief, &cancel));
    is_send(blobs.put_signed(&url, &headers, &path, Persistence::Brief, &cancel));
}

/// A FIFO without a writer blocks its reader, like a broken disk.
#[tokio::test]
async fn hanging_file_does_not_block_other_tasks() {
    for provider in ["dav", "local"] {
        let (base, server) = (Base::new(), Server::start(&[good()]));
        let blobs = match provider {
            "dav" => base.dav(&server),
            _ => base.blobs(
                "local",
                json!({"blobstore_path": base.directory.path().join("store")}),
            ),
        };
        let source = base.source();
        fs::remove_file(&source).unwrap();
        nix::unistd::mkfifo(&source, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let cancel = CancellationToken::new();
        let (created, ()) =
            tokio::join!(blobs.create(&source, Persistence::Brief, &cancel), async {
                tokio::task::yield_now().await;
                cancel.cancel();
            });
        assert!(matches!(created, Err(BlobError::Stopped)), "{created:?}");
        // Ends the reader.
        let mut options = std::fs::OpenOptions::new();
        let writer = fs::open_with(options.read(true).write(true), &source).unwrap();
        fs::remove_file(&source).unwrap();
        drop(writer);
    }
}

//! Blobs in a real nginx that is configured like the Director's blobstore, directly and through proxies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::nginx::{MAX_MIB, NAME, Nginx, READER, WRITER};
use crate::support::proxy::Proxy;
use bosh_agent::blobs::{
    BlobError, BlobId, Blobs, BlobstoreSettings, Headers, Persistence, SignedUrl,
};
use bosh_agent::config::{Environment, Vcap};
use bosh_agent::diag::Chain;
use bosh_agent::release::{Algorithm, Digests, MultiDigest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

/// A machine with a blobstore.
struct Machine {
    scratch: TempDir,
    blobs: Blobs,
}

impl Machine {
    fn new(options: Value) -> Self {
        Self::in_environment(options, &[])
    }

    fn in_environment(options: Value, variables: &[(&str, String)]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let settings = BlobstoreSettings {
            provider: "dav".to_owned(),
            options,
        };
        let environment: Environment = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let vcap = Vcap::new(scratch.path());
        let blobs = Blobs::new(Some(&settings), &vcap, &environment).unwrap();
        Self { scratch, blobs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A file of this size, and its digest.
    fn file(&self, length: u64) -> (PathBuf, MultiDigest) {
        let path = self.path("source");
        let file = fs::File::create(&path).unwrap();
        file.set_len(length).unwrap();
        let digest = digest_of(&path);
        (path, digest)
    }

    async fn get(&self, id: &BlobId, digest: &MultiDigest) -> Result<(), BlobError> {
        let to = self.path("target");
        self.blobs
            .get(
                id,
                digest,
                &to,
                Persistence::Brief,
                &CancellationToken::new(),
            )
            .await
    }

    async fn create(&self, from: &Path) -> Result<BlobId, BlobError> {
        self.blobs
            .create(from, Persistence::Brief, &CancellationToken::new())
            .await
    }
}

fn digest_of(path: &Path) -> MultiDigest {
    let algorithms = [Algorithm::Sha1, Algorithm::Sha256];
    let (digests, _) = Digests::of_reader(fs::File::open(path).unwrap(), &algorithms).unwrap();
    MultiDigest::of(&digests, &algorithms).unwrap()
}

fn options(endpoint: &str, (user, password): (&str, &str), ca: Option<&str>) -> Value {
    json!({"endpoint": endpoint, "user": user, "password": password, "tls": {"cert": {"ca": ca}}})
}

/// The error's text in the log.
#[track_caller]
fn text_of(error: &BlobError) -> String {
    let text = Chain(error).to_string();
    let everything = format!("{text} {error:?} {error:#?}");
    assert!(!everything.contains("hunter2"), "{everything}");
    text
}

#[tokio::test]
async fn blob_is_stored_and_fetched_with_and_without_tls() {
    let Some(nginx) = Nginx::start() else { return };
    for endpoint in [
        nginx.endpoint(),
        nginx.endpoint_tls_1_2(),
        nginx.plain_endpoint(),
    ] {
        let machine = Machine::new(options(&endpoint, WRITER, Some(&nginx.ca())));
        for length in [0, 1, 5 * MIB + 3] {
            let (source, digest) = machine.file(length);
            let id = machine.create(&source).await.unwrap();
            machine.get(&id, &digest).await.unwrap();
            let target = machine.path("target");
            assert_eq!(digest_of(&target), digest, "{endpoint} {length}");
            let mode = fs::metadata(&target).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            let requests = nginx.requests(id.as_str(), 2);
            let stored = nginx.stored_by(&requests[0]);
            assert_eq!(fs::metadata(stored).unwrap().len(), length);
        }
    }
}

#[tokio::test]
async fn unauthorized_upload_is_refused_before_the_blob_is_sent() {
    let Some(nginx) = Nginx::start() else { return };
    let writer = Machine::new(options(&nginx.endpoint(), WRITER, Some(&nginx.ca())));
    let (source, digest) = writer.file(50 * MIB);
    let id = writer.create(&source).await.unwrap();
    let reader = Machine::new(options(&nginx.endpoint(), READER, Some(&nginx.ca())));
    reader.get(&id, &digest).await.unwrap();

    let text = text_of(&reader.create(&source).await.unwrap_err());
    let start = "Creating blob in inner blobstore: Putting dav blob ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("Wrong response code: 401 ("), "{text}");
    assert!(text.contains("1 attempt)"), "{text}");
    let refused = &nginx.requests(" 401 ", 1)[0];
    assert!(refused.length < 2000, "{refused:?}");
}

#[tokio::test]
async fn too_large_upload_is_refused_before_the_blob_is_sent() {
    let Some(nginx) = Nginx::start() else { return };
    let machine = Machine::new(options(&nginx.endpoint(), WRITER, Some(&nginx.ca())));
    let path = machine.path("big");
    let file = fs::File::create(&path).unwrap();
    file.set_len((MAX_MIB + 1) * MIB).unwrap();
    let text = text_of(&machine.create(&path).await.unwrap_err());
    assert!(text.contains("Wrong response code: 413 ("), "{text}");
    let refused = &nginx.requests(" 413 ", 1)[0];
    assert!(refused.length < 2000, "{refused:?}");
}

#[tokio::test]
async fn missing_and_corrupt_blobs_are_retried_and_reported() {
    let Some(nginx) = Nginx::start() else { return };
    let machine = Machine::new(options(&nginx.endpoint(), WRITER, Some(&nginx.ca())));
    let (source, digest) = machine.file(1000);
    let missing = BlobId::random();
    let text = text_of(&machine.get(&missing, &digest).await.unwrap_err());
    let expected = format!(
        "Getting blob from inner blobstore: Getting blob from inner blobstore: \
         Getting dav blob {missing}: Wrong response code: 404 (dav blobstore {}/, blob {missing}, 3 attempts)",
        nginx.endpoint()
    );
    assert_eq!(text, expected);

    let id = machine.create(&source).await.unwrap();
    let stored = nginx.stored_by(&nginx.requests(id.as_str(), 1)[0]);
    fs::write(stored, "corrupt").unwrap();
    let text = text_of(&machine.get(&id, &digest).await.unwrap_err());
    let expected = format!("Checking downloaded blob '{id}': Expected stream to have digest '");
    assert!(text.contains(&expected), "{text}");
    assert!(!machine.path("target").exists());
}

#[tokio::test]
async fn unknown_ca_is_not_trusted_and_not_retried() {
    let (Some(nginx), Some(other)) = (Nginx::start(), Nginx::start()) else {
        return;
    };
    let machine = Machine::new(options(&nginx.endpoint(), WRITER, Some(&other.ca())));
    let (source, digest) = machine.file(10);
    let created = machine.create(&source).await.unwrap_err();
    let got = machine.get(&BlobId::random(), &digest).await.unwrap_err();
    for error in [created, got] {
        let text = text_of(&error);
        assert!(text.contains("the TLS handshake with 127.0.0.1:"), "{text}");
        assert!(text.contains("1 attempt)"), "{text}");
        assert!(text.contains("invalid peer certificate"), "{text}");
    }
}

#[tokio::test]
async fn signed_urls_use_the_ca_of_the_options() {
    let Some(nginx) = Nginx::start() else { return };
    let redacted = json!({"tls": {"cert": {"ca": nginx.ca()}}});
    let machine = Machine::new(redacted);
    let (source, digest) = machine.file(3 * MIB);
    let url = |key| SignedUrl::parse(&nginx.signed_url(&nginx.endpoint(), key)).unwrap();
    let (cancel, target) = (CancellationToken::new(), machine.path("target"));
    let headers = Headers::from_json(&json!({"x-ms-blob-type": "blockblob"})).unwrap();
    // The second upload overwrites the first one.
    for _ in 0..2 {
        machine
            .blobs
            .put_signed(
                &url("a/key"),
                &headers,
                &source,
                Persistence::Brief,
                &cancel,
            )
            .await
            .unwrap();
        assert_eq!(digest_of(&nginx.signed().join("a/key")), digest);
    }
    machine
        .blobs
        .get_signed(
            &url("a/key"),
            &headers,
            &digest,
            &target,
            Persistence::Brief,
            &cancel,
        )
        .await
        .unwrap();
    assert_eq!(digest_of(&target), digest);

    let forged = format!("{}/signed/a/key?st=forged-hunter2", nginx.endpoint());
    let forged = SignedUrl::parse(&forged).unwrap();
    let error = machine
        .blobs
        .get_signed(
            &forged,
            &headers,
            &digest,
            &target,
            Persistence::Brief,
            &cancel,
        )
        .await
        .unwrap_err();
    let text = text_of(&error);
    let expected = format!(
        "Failed to download blob: Error executing GET, response was 403 ({}/signed/a/key, 1 attempt)",
        nginx.endpoint()
    );
    assert_eq!(text, expected);
    let error = machine
        .blobs
        .put_signed(&forged, &headers, &source, Persistence::Brief, &cancel)
        .await
        .unwrap_err();
    let text = text_of(&error);
    let expected = format!(
        "Error executing PUT for {}, response was 403",
        source.display()
    );
    assert!(text.contains(&expected), "{text}");
}

#[tokio::test]
async fn store_is_reached_through_each_kind_of_proxy() {
    let Some(nginx) = Nginx::start() else { return };
    let (secure, plain) = (
        nginx.named(&nginx.endpoint()),
        nginx.named(&nginx.plain_endpoint()),
    );
    let server = |endpoint: &str| endpoint.split("://").nth(1).unwrap().to_owned();
    for (variable, scheme, endpoint, expected) in [
        (
            "HTTPS_PROXY",
            "http",
            &secure,
            format!("CONNECT {}", server(&secure)),
        ),
        ("http_proxy", "http", &plain, format!("PUT {plain}/")),
        (
            "https_proxy",
            "socks5",
            &secure,
            format!("SOCKS {}", server(&secure)),
        ),
        (
            "BOSH_ALL_PROXY",
            "socks5",
            &secure,
            format!("SOCKS {}", server(&secure)),
        ),
        (
            "BOSH_ALL_PROXY",
            "socks5",
            &plain,
            format!("SOCKS {}", server(&plain)),
        ),
    ] {
        let proxy = Proxy::start();
        let value = format!("{scheme}://{}", proxy.address());
        let machine = Machine::in_environment(
            options(endpoint, WRITER, Some(&nginx.ca())),
            &[(variable, value)],
        );
        let (source, digest) = machine.file(MIB + 1);
        let id = machine.create(&source).await.unwrap();
        machine.get(&id, &digest).await.unwrap();
        let asked = proxy.asked();
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(asked[0].starts_with(&expected), "{expected}: {asked:?}");
    }
}

#[tokio::test]
async fn https_proxy_is_reached_through_bosh_all_proxy() {
    let Some(nginx) = Nginx::start() else { return };
    let (http, socks) = (Proxy::start(), Proxy::start());
    let endpoint = nginx.named(&nginx.endpoint());
    let machine = Machine::in_environment(
        options(&endpoint, WRITER, Some(&nginx.ca())),
        &[
            ("HTTPS_PROXY", format!("http://{}", http.address())),
            ("BOSH_ALL_PROXY", format!("socks5://{}", socks.address())),
        ],
    );
    let (source, digest) = machine.file(1000);
    let id = machine.create(&source).await.unwrap();
    machine.get(&id, &digest).await.unwrap();
    assert_eq!(socks.asked()[0], format!("SOCKS {}", http.address()));
    assert!(http.asked()[0].starts_with(&format!("CONNECT {NAME}:")));
}

#[tokio::test]
async fn memory_usage_does_not_depend_on_the_blobs_size() {
    let Some(nginx) = Nginx::start() else { return };
    let machine = Machine::new(options(&nginx.endpoint(), WRITER, Some(&nginx.ca())));
    let (source, digest) = machine.file(300 * MIB);
    // Resets the peak to the current usage.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_kib();
    let id = machine.create(&source).await.unwrap();
    machine.get(&id, &digest).await.unwrap();
    let grown = peak_kib() - before;
    assert!(grown < 32 * 1024, "{grown} KiB more");
    assert_eq!(digest_of(&machine.path("target")), digest);
}

/// The peak memory usage of this process.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse().unwrap()
}

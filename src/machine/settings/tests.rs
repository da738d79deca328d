use std::os::unix::fs::PermissionsExt as _;

use futures_util::FutureExt as _;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::config::{HttpSource, Secret, Source};

const SETTINGS: &str = r#"{"agent_id":"a","mbus":"nats://10.0.0.6:4222","unknown":{"k":1}}"#;

struct Machine {
    scratch: TempDir,
    vcap: Vcap,
    file: PathBuf,
}

fn machine() -> Machine {
    let scratch = tempfile::tempdir().unwrap();
    Machine {
        vcap: Vcap::new(&scratch.path().join("vcap")),
        file: scratch.path().join("warden-cpi-agent-env.json"),
        scratch,
    }
}

impl Machine {
    fn store_of(&self, sources: Vec<Source>) -> SettingsStore {
        let config = AgentConfig {
            sources,
            ..AgentConfig::default()
        };
        let store = SettingsStore::new(&self.vcap, &config, &Environment::default()).unwrap();
        store.with_limits(RetryLimits {
            interval: Duration::from_millis(5),
            tries: 3,
            invalid: Duration::from_millis(30),
            reminder: Duration::from_secs(60),
        })
    }

    fn store(&self) -> SettingsStore {
        self.store_of(vec![Source::File {
            path: self.file.clone(),
        }])
    }

    async fn load(&self) -> Result<LoadedSettings, LoadError> {
        self.store().load(&CancellationToken::new()).await
    }
}

fn unreachable() -> Source {
    Source::Http(HttpSource {
        uri: Secret::new("http://127.0.0.1:1"),
        path: String::new(),
        headers: std::collections::BTreeMap::new(),
        token_path: None,
    })
}

#[tokio::test]
async fn loaded_settings_are_saved_readable_only_by_root() {
    let machine = machine();
    fs::write(&machine.file, SETTINGS.as_bytes()).unwrap();
    let loaded = machine.load().await.unwrap();
    assert_eq!(loaded.settings.agent_id.as_str(), "a");
    assert_eq!(loaded.origin, machine.file.to_str().unwrap());
    assert_eq!(loaded.update, UpdateSettings::default());
    let path = machine.vcap.settings();
    let saved: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(saved, serde_json::from_str::<Value>(SETTINGS).unwrap());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(fs::list(&machine.vcap.bosh()).unwrap().len(), 1);

    fs::remove_file(&machine.file).unwrap();
    let loaded = machine.load().await.unwrap();
    assert_eq!(loaded.settings.agent_id.as_str(), "a");
    assert_eq!(loaded.origin, path.to_str().unwrap());
}

#[tokio::test]
async fn load_waits_for_a_missing_or_partial_file() {
    let machine = machine();
    let store = machine.store().with_limits(RetryLimits {
        interval: Duration::ZERO,
        ..RetryLimits::default()
    });
    let cancel = CancellationToken::new();
    let mut loading = std::pin::pin!(store.load(&cancel));
    // Each poll reads the file at least once.
    assert!((&mut loading).now_or_never().is_none());
    tokio::task::yield_now().await;
    fs::write(&machine.file, &SETTINGS.as_bytes()[..30]).unwrap();
    assert!((&mut loading).now_or_never().is_none());
    fs::write(&machine.file, SETTINGS.as_bytes()).unwrap();
    assert_eq!(loading.await.unwrap().settings.agent_id.as_str(), "a");
}

#[tokio::test]
async fn settings_that_stay_invalid_are_reported_with_their_path() {
    let machine = machine();
    fs::write(&machine.file, b"{\"agent_id\": \"a\",\n \"mbus\": 7}").unwrap();
    let error = machine.load().await.unwrap_err();
    assert_eq!(
        Chain(&error).to_string(),
        format!(
            "no settings can be loaded: `{}` cannot be used: the settings are invalid: \
             `settings.mbus` is a number; expected a string",
            machine.file.display()
        )
    );
}

#[tokio::test]
async fn saved_settings_are_used_when_a_source_fails() {
    let machine = machine();
    fs::create_dir_all(&machine.vcap.bosh()).unwrap();
    fs::write(&machine.vcap.settings(), SETTINGS.as_bytes()).unwrap();
    let store = machine.store_of(vec![unreachable()]);
    let loaded = store.load(&CancellationToken::new()).await.unwrap();
    assert_eq!(loaded.origin, machine.vcap.settings().to_str().unwrap());

    fs::write(&machine.file, b"{").unwrap();
    assert_eq!(machine.load().await.unwrap().origin, loaded.origin);
}

#[tokio::test]
async fn unsupported_source_is_an_error_without_another_source() {
    let machine = machine();
    let kind = || Source::Unsupported {
        kind: "VsphereGuestInfo".to_owned(),
    };
    let config = AgentConfig {
        sources: vec![kind()],
        ..AgentConfig::default()
    };
    let error = SettingsStore::new(&machine.vcap, &config, &Environment::default()).unwrap_err();
    assert!(matches!(error, NoSource::Unsupported { .. }), "{error}");
    fs::write(&machine.file, SETTINGS.as_bytes()).unwrap();
    let path = machine.file.clone();
    let store = machine.store_of(vec![kind(), Source::File { path }]);
    assert!(store.load(&CancellationToken::new()).await.is_ok());
}

#[tokio::test]
async fn unsupported_source_is_an_error_if_the_others_stay_empty() {
    let machine = machine();
    let kind = "VsphereGuestInfo".to_owned();
    let path = machine.file.clone();
    for other in [Source::File { path }, unreachable()] {
        let kind = kind.clone();
        let store = machine.store_of(vec![Source::Unsupported { kind }, other]);
        let error = store.load(&CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, LoadError::Unsupported(_)), "{error}");
        let start = "no settings can be loaded: this agent cannot read settings from a source of type `VsphereGuestInfo`; ";
        assert!(error.to_string().starts_with(start), "{error}");
    }
}

#[tokio::test]
async fn settings_are_found_without_changing_a_file() {
    let machine = machine();
    fs::write(&machine.file, SETTINGS.as_bytes()).unwrap();
    let cancel = CancellationToken::new();
    let (settings, origin) = machine.store().find(&cancel).await.unwrap();
    assert_eq!(settings.agent_id.as_str(), "a");
    assert_eq!(origin, machine.file.to_str().unwrap());
    assert!(!machine.vcap.base().exists());
}

#[tokio::test]
async fn cancellation_ends_the_wait_for_settings() {
    let machine = machine();
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(matches!(
        machine.store().load(&cancel).await,
        Err(LoadError::Stopped)
    ));
}

#[tokio::test]
async fn directors_changes_are_saved_and_loaded() {
    let machine = machine();
    fs::write(&machine.file, SETTINGS.as_bytes()).unwrap();
    let update = UpdateSettings::from_json(&json!({
        "mbus": {"cert": {"ca": "CA", "certificate": "C", "private_key": "K"}}, "trusted_certs": "T",
    }))
    .unwrap();
    machine.store().save_update(&update).await.unwrap();
    let loaded = machine.load().await.unwrap();
    assert_eq!(loaded.update, update);
    assert_eq!(loaded.settings.bus_certificate(&loaded.update).ca, "CA");
    let mode = fs::metadata(&machine.vcap.update_settings())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);

    fs::write(&machine.vcap.update_settings(), b"{\"mbus\": \"hunter2\"}").unwrap();
    let error = machine.load().await.unwrap_err();
    let text = Chain(&error).to_string();
    assert!(
        text.contains("update_settings.mbus") && !text.contains("hunter2"),
        "{text}"
    );
}

#[tokio::test]
async fn settings_for_memory_are_saved_only_in_the_tmpfs() {
    let machine = machine();
    let text = r#"{"agent_id":"a","env":{"bosh":{"agent":{"settings":{"tmpfs":true}}}}}"#;
    fs::write(&machine.file, text.as_bytes()).unwrap();
    machine.load().await.unwrap();
    assert!(fs::list(&machine.vcap.bosh()).unwrap().is_empty());

    let path = machine.vcap.settings_in_memory();
    fs::create_dir_all(fs::parent(&path)).unwrap();
    machine.load().await.unwrap();
    assert!(path.exists() && !machine.vcap.settings().exists());
    fs::remove_file(&machine.file).unwrap();
    assert_eq!(machine.load().await.unwrap().origin, path.to_str().unwrap());
    assert!(machine.scratch.path().exists());
}

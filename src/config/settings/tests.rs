use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::AgentConfig;
use crate::diag::Chain;

/// All members that a Director and a container CPI send. Each secret contains `hunter2`.
fn sample() -> Value {
    json!({
        "agent_id": "0f7c6f2e-2f1c-4b7e-9d0a-0c1d2e3f4a5b",
        "vm": {"name": "c-1", "id": "c-1"},
        "mbus": "nats://user:hunter2@10.0.0.6:4222",
        "ntp": ["0.pool.ntp.org"],
        "blobstore": {"provider": "local", "options": {"blobstore_path": "/hunter2"}},
        "networks": {"default": {
            "type": "manual", "ip": "10.0.0.9", "netmask": "255.255.255.0", "gateway": "10.0.0.1", "prefix": "24",
            "dns": ["10.0.0.2"], "default": ["dns", "gateway"], "mac": "", "preconfigured": true, "use_dhcp": false,
            "cloud_properties": {"password": "hunter2"}, "routes": [{"Destination": "", "Gateway": "", "Netmask": ""}],
        }},
        "disks": {"system": "", "ephemeral": null, "persistent": {}, "raw_ephemeral": []},
        "env": {"persistent_disk_fs": "", "bosh": {
            "mbus": {
                "cert": {"ca": "-----CA-----", "certificate": "-----C-----", "private_key": "-----hunter2-----"},
                "urls": ["nats://user:hunter2@10.0.0.7:4222"],
            },
            "blobstores": [{"provider": "dav", "options": {
                "endpoint": "https://10.0.0.6:25250", "user": "agent", "password": "hunter2",
                "tls": {"cert": {"ca": "-----CA-----"}},
            }}],
            "ntp": [], "password": "$6$hunter2", "keep_root_password": false, "authorized_keys": [], "swap_size": 0,
            "agent": {"settings": {"tmpfs": true}}, "tags": {"a": "b"},
            "group": "director-dep-compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4",
            "groups": ["director", "dep", "compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4", "director-dep"],
        }},
    })
}

fn parse(document: Value) -> Settings {
    Settings::from_json(document).unwrap()
}

#[test]
fn settings_of_director_and_cpi_are_parsed() {
    let settings = parse(sample());
    assert_eq!(
        settings.agent_id.as_str(),
        "0f7c6f2e-2f1c-4b7e-9d0a-0c1d2e3f4a5b"
    );
    assert_eq!(settings.vm_name, "c-1");
    assert_eq!(settings.networks["default"].gateway, "10.0.0.1");
    assert!(!settings.networks["default"].is_dhcp());
    assert!(settings.bosh.settings_in_memory);
    assert!(settings.is_for_compilation());
    assert_eq!(
        settings.bosh.mbus.certificate.private_key.expose(),
        "-----hunter2-----"
    );
    assert_eq!(*settings.document().expose(), sample());
}

#[test]
fn no_secret_is_printed() {
    let settings = parse(sample());
    for text in [format!("{settings:?}"), format!("{settings:#?}")] {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("dav") && text.contains("c-1"));
    }
}

#[test]
fn missing_or_invalid_agent_id_is_an_error() {
    let mut document = sample();
    document["agent_id"] = Value::Null;
    let error = Settings::from_json(document).unwrap_err();
    assert_eq!(
        Chain(&error).to_string(),
        "the settings have no valid agent_id: the agent_id is missing"
    );
    assert!(Settings::parse(br#"{"agent_id":"a.>"}"#).is_err());
}

#[test]
fn bus_urls_of_the_update_precede_env_and_mbus() {
    let urls = |settings: &Settings, update: &UpdateSettings| -> Vec<String> {
        let urls = settings.bus_urls(update).into_iter();
        urls.map(|url| url.expose().to_owned()).collect()
    };
    let update = UpdateSettings::parse(br#"{"mbus":{"urls":["nats://a","nats://b"]}}"#).unwrap();
    let none = UpdateSettings::default();
    let settings = parse(sample());
    assert_eq!(urls(&settings, &update), ["nats://a", "nats://b"]);
    assert_eq!(
        urls(&settings, &none),
        ["nats://user:hunter2@10.0.0.7:4222"]
    );
    let mut document = sample();
    document["env"]["bosh"]["mbus"]["urls"] = json!([null, ""]);
    assert_eq!(
        urls(&parse(document.clone()), &none),
        ["nats://user:hunter2@10.0.0.6:4222"]
    );
    document["mbus"] = Value::Null;
    assert!(urls(&parse(document), &none).is_empty());
}

#[test]
fn certificates_of_the_update_require_a_ca_certificate() {
    let settings = parse(sample());
    let with = |ca: &str| {
        let document =
            json!({"mbus": {"cert": {"ca": ca, "certificate": "new", "private_key": "k"}}});
        UpdateSettings::from_json(&document).unwrap()
    };
    let certificate =
        |update: &UpdateSettings| settings.bus_certificate(update).certificate.clone();
    assert_eq!(certificate(&with("authority")), "new");
    assert_eq!(certificate(&with("")), "-----C-----");
    assert_eq!(certificate(&UpdateSettings::default()), "-----C-----");
}

#[test]
fn blobstore_of_the_update_precedes_env_and_settings() {
    let provider = |settings: &Settings, update: &str| {
        let update = UpdateSettings::parse(update.as_bytes()).unwrap();
        let blobstore = settings.blobstore(&update);
        blobstore.map(|blobstore| blobstore.provider.clone())
    };
    let mut document = sample();
    let settings = parse(document.clone());
    let update = r#"{"blobstores":[{"provider":"s3"},{"provider":"gcs"}]}"#;
    assert_eq!(provider(&settings, update).as_deref(), Some("s3"));
    assert_eq!(provider(&settings, "{}").as_deref(), Some("dav"));
    assert_eq!(
        provider(&settings, r#"{"blobstores":[]}"#).as_deref(),
        Some("dav")
    );
    document["env"]["bosh"]["blobstores"] = Value::Null;
    assert_eq!(
        provider(&parse(document.clone()), "{}").as_deref(),
        Some("local")
    );
    document["blobstore"] = Value::Null;
    assert_eq!(provider(&parse(document), "{}"), None);
}

#[test]
fn dhcp_networks_follow_the_go_agents_rule() {
    let network = |document: Value| {
        let mut settings = sample();
        settings["networks"] = json!({"n": document});
        parse(settings).networks["n"].is_dhcp()
    };
    assert!(network(
        json!({"type": "dynamic", "ip": "10.0.0.9", "netmask": "255.0.0.0"})
    ));
    assert!(network(json!({"type": "manual"})));
    assert!(network(
        json!({"ip": "10.0.0.9", "netmask": "255.0.0.0", "use_dhcp": true})
    ));
    assert!(!network(json!({"ip": "10.0.0.9", "netmask": "255.0.0.0"})));
    assert!(!network(json!({"type": "vip"})));
}

/// Changes a document at random: removes members, changes the case of names and adds unknown names, all of which Go's decoder accepts.
/// With `kinds`, also replaces values by those of another type, which it rejects.
fn disturbed(value: Value, kinds: bool, choices: &mut impl Iterator<Item = u8>) -> Value {
    match choices.next().unwrap_or(0) {
        1..=8 => return Value::Null,
        9..=12 if kinds => return json!(["hunter2"]),
        13..=16 if kinds => return json!({"name": "hunter2", "options": "hunter2"}),
        17..=20 if kinds => return json!("hunter2"),
        21..=24 if kinds => return json!(1e300),
        _ => {}
    }
    match value {
        Value::Array(list) => list
            .into_iter()
            .map(|value| disturbed(value, kinds, choices))
            .collect(),
        Value::Object(members) => {
            let mut changed = serde_json::Map::new();
            for (name, value) in members {
                let name = match choices.next().unwrap_or(0) {
                    1..=60 => name.to_uppercase(),
                    _ => name,
                };
                changed.insert(name, disturbed(value, kinds, choices));
            }
            changed.insert("unknown".to_owned(), json!({"key": "hunter2"}));
            Value::Object(changed)
        }
        other => other,
    }
}

/// An argument of `update_settings` with all members.
fn update_sample() -> Value {
    let bosh = &sample()["env"]["bosh"];
    json!({
        "mbus": bosh["mbus"], "blobstores": bosh["blobstores"], "trusted_certs": "-----CA-----",
        "disk_associations": [{"name": "d", "cid": "c"}],
    })
}

/// An `agent.json` with a password in each member that may have one.
fn config_sample() -> Value {
    json!({"Platform": {"Linux": {"UseDefaultTmpDir": true, "ServiceManager": "systemd"}},
    "Infrastructure": {"Settings": {"Sources": [
        {"Type": "File", "SettingsPath": "/x"},
        {"Type": "HTTP", "URI": "http://u:hunter2@x", "Headers": {"Key": "hunter2"}, "TokenPath": "/t"},
    ]}}})
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_input_makes_a_secret_print(choices in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut choices = choices.into_iter();
        let mut printed = Vec::new();
        match Settings::from_json(disturbed(sample(), false, &mut choices)) {
            Ok(settings) => printed.push(format!("{settings:?}")),
            Err(error) => printed.push(Chain(&error).to_string()),
        }
        match UpdateSettings::from_json(&disturbed(update_sample(), false, &mut choices)) {
            Ok(update) => printed.push(format!("{update:?}{:?}", update.to_json())),
            Err(error) => printed.push(Chain(&error).to_string()),
        }
        let config = disturbed(config_sample(), false, &mut choices).to_string();
        match AgentConfig::parse(config.as_bytes()) {
            Ok(config) => printed.push(format!("{config:?}")),
            Err(error) => printed.push(Chain(&error).to_string()),
        }
        for text in printed {
            prop_assert!(!text.contains("hunter2"), "{}", text);
        }
    }

    #[test]
    fn wrong_types_give_errors_without_values(
        choices in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let mut choices = choices.into_iter();
        let document = disturbed(sample(), true, &mut choices);
        match Settings::from_json(document.clone()) {
            Ok(settings) => prop_assert_eq!(settings.document().expose(), &document),
            Err(error) => prop_assert!(!Chain(&error).to_string().contains("hunter2"), "{}", error),
        }
        let document = disturbed(update_sample(), true, &mut choices);
        match UpdateSettings::from_json(&document) {
            Ok(update) => {
                let again = UpdateSettings::from_json(update.to_json().expose());
                prop_assert_eq!(again.as_ref(), Ok(&update));
                let merged = update.merge(&update);
                prop_assert!(!merged.bus_changed && !merged.blobstores_changed);
                prop_assert_eq!(merged.settings, update);
            }
            Err(error) => prop_assert!(!error.to_string().contains("hunter2"), "{}", error),
        }
        let config = disturbed(config_sample(), true, &mut choices).to_string();
        if let Err(error) = AgentConfig::parse(config.as_bytes()) {
            let text = Chain(&error).to_string();
            // The message contains the type of a source, as in the Go agent.
            prop_assert!(!text.replace("Unknown source type 'hunter2'", "").contains("hunter2"), "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(Settings::parse(&bytes).is_err());
        let _ = (UpdateSettings::parse(&bytes), AgentConfig::parse(&bytes));
    }

    #[test]
    fn nulls_case_and_unknown_names_are_ignored(choices in prop::collection::vec(any::<bool>(), 100)) {
        fn recased(value: Value, choices: &mut impl Iterator<Item = bool>) -> Value {
            match value {
                Value::Object(members) => {
                    let mut changed = serde_json::Map::new();
                    for (name, value) in members {
                        // The name of a network is data.
                        let upper = choices.next().unwrap_or(false) && name != "default";
                        let value = recased(value, choices);
                        changed.insert(if upper { name.to_uppercase() } else { name }, value);
                    }
                    changed.insert("zz".to_owned(), Value::Null);
                    Value::Object(changed)
                }
                other => other,
            }
        }
        let mut changed = recased(sample(), &mut choices.into_iter());
        let (a, b) = (parse(sample()), parse(std::mem::take(&mut changed)));
        prop_assert_eq!(a.agent_id, b.agent_id);
        prop_assert_eq!(a.networks, b.networks);
        prop_assert_eq!(a.mbus, b.mbus);
        prop_assert_eq!(a.bosh.mbus, b.bosh.mbus);
        prop_assert_eq!(a.bosh.groups, b.bosh.groups);
        prop_assert_eq!(a.bosh.blobstores[0].provider.clone(), b.bosh.blobstores[0].provider.clone());
    }
}

#[test]
fn missing_parts_of_the_message_bus_are_named() {
    let none = UpdateSettings::default();
    assert_eq!(parse(sample()).check_bus(&none), Ok(()));
    for (pointer, message) in [
        (
            "/env/bosh/mbus/cert/certificate",
            "`env.bosh.mbus.cert.certificate` is empty in the settings",
        ),
        (
            "/env/bosh/mbus/cert/private_key",
            "`env.bosh.mbus.cert.private_key` is empty in the settings",
        ),
        (
            "/env/bosh/mbus/cert",
            "`env.bosh.mbus.cert.certificate` is empty in the settings",
        ),
    ] {
        let mut document = sample();
        *document.pointer_mut(pointer).unwrap() = Value::Null;
        let error = parse(document).check_bus(&none).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let mut document = sample();
    document["mbus"] = json!("");
    document["env"]["bosh"]["mbus"]["urls"] = Value::Null;
    let error = parse(document).check_bus(&none).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the settings have no mbus: neither `mbus` nor `env.bosh.mbus.urls`"
    );
    let update = json!({"mbus": {"cert": {"ca": "CA", "certificate": "C"}}});
    let update = UpdateSettings::from_json(&update).unwrap();
    let error = parse(sample()).check_bus(&update).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`mbus.cert.private_key` is empty in the updated settings"
    );
}

#[test]
fn incomplete_documents_are_rejected_without_their_text() {
    let text = sample().to_string();
    for end in 0..text.len() {
        let error = Settings::parse(&text.as_bytes()[..end]).unwrap_err();
        assert!(!Chain(&error).to_string().contains("hunter2"));
    }
}

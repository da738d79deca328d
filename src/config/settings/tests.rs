use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::AgentConfig;
use crate::diag::Chain;

/// Everything that a Director and a container CPI send. Each secret has `hunter2` in it.
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
            "group": "director-dep-compilation-1", "groups": ["director", "dep", "compilation-1"],
        }},
    })
}

fn parse(document: Value) -> Settings {
    Settings::from_json(document).unwrap()
}

#[test]
fn what_a_director_and_a_cpi_send_is_read() {
    let settings = parse(sample());
    assert_eq!(
        settings.agent_id.as_str(),
        "0f7c6f2e-2f1c-4b7e-9d0a-0c1d2e3f4a5b"
    );
    assert_eq!(settings.vm_name, "c-1");
    assert_eq!(settings.networks["default"].gateway, "10.0.0.1");
    assert!(!settings.networks["default"].is_dhcp());
    assert!(settings.ntp_servers().is_empty());
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
fn an_agent_without_a_usable_name_is_refused() {
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
fn where_the_bus_is_comes_from_the_update_then_the_environment_then_mbus() {
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
fn the_updates_certificates_count_only_with_an_authority() {
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
fn the_blobstore_is_the_first_of_the_updates_then_the_environments_then_its_own() {
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
fn which_addresses_only_the_machine_knows_is_the_go_agents_rule() {
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

/// Changes a document all over: drops, cases and unknown names, which Go's decoder does not mind, and with `kinds` also values
/// of other kinds, which it does.
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

/// What `update_settings` may be sent, with everything in it.
fn update_sample() -> Value {
    let bosh = &sample()["env"]["bosh"];
    json!({
        "mbus": bosh["mbus"], "blobstores": bosh["blobstores"], "trusted_certs": "-----CA-----",
        "disk_associations": [{"name": "d", "cid": "c"}],
    })
}

/// An `agent.json` with a password in each place that could have one.
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
    fn whatever_is_sent_no_secret_is_told(choices in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut choices = choices.into_iter();
        let mut told = Vec::new();
        match Settings::from_json(disturbed(sample(), false, &mut choices)) {
            Ok(settings) => told.push(format!("{settings:?}")),
            Err(error) => told.push(Chain(&error).to_string()),
        }
        match UpdateSettings::from_json(&disturbed(update_sample(), false, &mut choices)) {
            Ok(update) => told.push(format!("{update:?}{:?}", update.to_json())),
            Err(error) => told.push(Chain(&error).to_string()),
        }
        let config = disturbed(config_sample(), false, &mut choices).to_string();
        match AgentConfig::parse(config.as_bytes()) {
            Ok(config) => told.push(format!("{config:?}")),
            Err(error) => told.push(Chain(&error).to_string()),
        }
        for text in told {
            prop_assert!(!text.contains("hunter2"), "{}", text);
        }
    }

    #[test]
    fn what_is_of_the_wrong_kind_breaks_nothing_and_errors_hold_no_value(
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
            // The type of a source is told: that is how the Go agent says it.
            prop_assert!(!text.replace("Unknown source type 'hunter2'", "").contains("hunter2"), "{}", text);
        }
    }

    #[test]
    fn no_bytes_break_anything(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(Settings::parse(&bytes).is_err());
        let _ = (UpdateSettings::parse(&bytes), AgentConfig::parse(&bytes));
    }

    #[test]
    fn nulls_case_and_unknown_names_change_nothing(choices in prop::collection::vec(any::<bool>(), 100)) {
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
fn every_prefix_of_a_document_is_refused_without_telling_it() {
    let text = sample().to_string();
    for end in 0..text.len() {
        let error = Settings::parse(&text.as_bytes()[..end]).unwrap_err();
        assert!(!Chain(&error).to_string().contains("hunter2"));
    }
}

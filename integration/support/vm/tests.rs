use super::*;

fn machine() -> Machine {
    Machine {
        agent: "a".to_owned(),
        mbus: "https://mbus:geheim@127.0.0.1:6868".to_owned(),
        certificate: json!({
            "ca": "-----BEGIN CERTIFICATE-----\nMIIDpublicpublicpublicpublicpublicpublic\n",
            "certificate": "",
            "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEprivateprivateprivateprivateprivate\n",
        }),
        blobstore: json!({ "provider": "dav", "options": { "user": "u", "password": "word of the store" } }),
        secrets: vec!["signature".to_owned()],
    }
}

#[test]
fn secrets_of_settings_are_collected() {
    let mut secrets = machine().secrets();
    secrets.sort();
    let expected = [
        "MIIEprivateprivateprivateprivateprivate",
        "geheim",
        "signature",
        "word of the store",
    ];
    assert_eq!(secrets, expected);
}

#[test]
#[should_panic(expected = "line 2 of the log has a secret: x <the secret> y")]
fn secret_in_a_log_is_found_and_not_printed() {
    assert_no_secret("a\nx geheim y", &machine().secrets());
}

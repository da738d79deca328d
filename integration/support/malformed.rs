//! Malformed requests. Each is generated from reproducible numbers, and says whether it gets a reply.

use serde_json::{Value, json};

use super::certificates::pairs;
use super::numbers::Numbers;

/// A text in many requests that must not be in the log.
pub(crate) const CONFIDENTIAL: &str = "confidentialconfidentialconfidential";

/// A request.
pub(crate) struct Malformed {
    pub(crate) bytes: Vec<u8>,
    /// Whether the agent can parse it, so that it gets a reply.
    pub(crate) is_due: bool,
}

/// All methods, and names that are not methods.
const METHODS: [&str; 42] = [
    "add_dynamic_disk",
    "add_persistent_disk",
    "apply",
    "associate_disks",
    "bundle_logs",
    "cancel_task",
    "compile_package",
    "compile_package_with_signed_url",
    "delete_arp_entries",
    "drain",
    "fetch_logs",
    "fetch_logs_with_signed_url",
    "get_state",
    "get_task",
    "info",
    "list_disk",
    "migrate_disk",
    "mount_disk",
    "ping",
    "prepare",
    "remove_dynamic_disk",
    "remove_file",
    "remove_persistent_disk",
    "run_errand",
    "run_script",
    "shutdown",
    "ssh",
    "start",
    "stop",
    "sync_dns",
    "sync_dns_with_signed_url",
    "unmount_disk",
    "update_settings",
    "upload_blob",
    "",
    "PING",
    "pïng",
    "ping\u{0}",
    "__proto__",
    "nothing",
    "../../etc/passwd",
    "\u{1b}[2J",
];

impl Malformed {
    /// The next request. Its reply goes to `reply_to`.
    pub(crate) fn next(numbers: &mut Numbers, reply_to: &str) -> Self {
        let is_due = numbers.below(2) == 0;
        let bytes = match is_due {
            true => malformed_values(numbers, reply_to),
            false => unparsable(numbers, reply_to),
        };
        Self { bytes, is_due }
    }
}

/// Bytes that are not a request, so that they cannot be answered.
fn unparsable(numbers: &mut Numbers, reply_to: &str) -> Vec<u8> {
    let request = json!({ "protocol": 3, "method": "ping", "arguments": [], "reply_to": reply_to });
    let whole = request.to_string();
    let wrong_type = *numbers.pick(&["1", "{}", "true", "1e-7"]);
    let no_number = *numbers.pick(&["3.5", "1e999", "99999999999999999999", "-1e30", "\"3\""]);
    let key = format!("-----BEGIN RSA PRIVATE KEY-----\\nMIIE{CONFIDENTIAL}");
    let text = match numbers.below(14) {
        0 => whole[..numbers.below(whole.len() - 1) + 1].to_owned(),
        1 => {
            let count = numbers.below(2000) + 1;
            return (0..count)
                .map(|_| numbers.below(256) as u8 | 0x80)
                .collect();
        }
        2 => format!("[{whole}]"),
        3 => whole.replace("\"ping\"", wrong_type),
        4 => whole.replace("[]", wrong_type),
        5 => whole.replace(&format!("\"{reply_to}\""), wrong_type),
        6 => whole.replace('3', no_number),
        7 => format!("{whole} {key}"),
        8 => "[".repeat(numbers.below(100_000) + 1),
        9 => {
            let depth = numbers.below(5000) + 200;
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            whole.replace("[]", &nested)
        }
        10 => {
            format!(
                "{{\"method\":\"update_settings\",\"arguments\":[{{\"mbus\":{{\"cert\":{{\"private_key\":\"{key}"
            )
        }
        11 => whole.replace("ping", "\\ud800"),
        12 => whole.replace("ping", "a\nb\u{0}"),
        _ => {
            let mut bytes = whole.into_bytes();
            let at = bytes.windows(4).position(|it| it == b"ping").unwrap();
            bytes[at] = [0xff, 0xc0, 0xed, 0x80][numbers.below(4)];
            return bytes;
        }
    };
    text.into_bytes()
}

/// A request with malformed values. It gets one reply.
fn malformed_values(numbers: &mut Numbers, reply_to: &str) -> Vec<u8> {
    let mut method = (*numbers.pick(&METHODS)).to_owned();
    if numbers.below(50) == 0 {
        method = method.repeat(1000);
    }
    let arguments = match numbers.below(2) {
        0 => some_arguments(numbers),
        _ => arguments_of(&method, numbers),
    };
    let protocol = numbers
        .pick(&[json!(3), json!(0), json!(-1), json!(i64::MIN), json!(null)])
        .clone();
    let keys = *numbers.pick(&[("method", "arguments"), ("METHOD", "Arguments")]);
    let request = json!({
        "protocol": protocol,
        (keys.0): method,
        (keys.1): arguments,
        "reply_to": reply_to,
        "unknown": [{ "key": null }],
    });
    let text = request.to_string();
    // The last of equal names counts.
    let twice = format!("{{\"method\":\"shutdown\",{}", &text[1..]);
    match numbers.below(20) {
        0 if keys.0 == "method" => twice.into_bytes(),
        1 => format!(" \n\t{text}\r\n  ").into_bytes(),
        _ => text.into_bytes(),
    }
}

/// Arguments that no method expects.
fn some_arguments(numbers: &mut Numbers) -> Value {
    match numbers.below(12) {
        0 => json!([]),
        1 => Value::Null,
        2 => json!([null]),
        3 => json!([[[[[]]]]]),
        4 => json!([{ "a": { "b": 1e300 } }]),
        5 => json!(["x".repeat(numbers.below(50_000))]),
        6 => json!([
            "\u{0}\u{7f}\u{2028}\u{1f600}",
            12_345_678_901_234_567_890_u64
        ]),
        7 => json!([-1, 0.5, true, false, i64::MIN, {}, []]),
        8 => {
            let object: serde_json::Map<String, Value> =
                (0..1000).map(|at| (at.to_string(), json!(at))).collect();
            json!([object])
        }
        9 => {
            let mut nested = json!("deep");
            for _ in 0..100 {
                nested = json!([nested]);
            }
            json!([nested])
        }
        10 => json!(["a", "b", "c", "d", "e", "f", "g"]),
        _ => json!(vec![Value::Null; numbers.below(20)]),
    }
}

/// Arguments of the method with one thing that is wrong, and with secrets where they belong.
fn arguments_of(method: &str, numbers: &mut Numbers) -> Value {
    let key = &pairs()["agent"].key;
    let sha1 = "a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0";
    let long = "x".repeat(300 + numbers.below(5000));
    let url = format!("https://127.0.0.1:1/blob?sig={CONFIDENTIAL}");
    let bad_name = *numbers.pick(&["../../evil", "a/b", "", ".", "-x", "a b", long.as_str()]);
    let bad_digest = *numbers.pick(&["", "md5:ab", "sha1:", "?;?", "sha1:ab;sha1:cd"]);
    match method {
        "compile_package" => json!([bad_name, sha1, bad_name, "1", {}]),
        "compile_package_with_signed_url" => json!([{
            "package_get_signed_url": url, "upload_signed_url": url, "digest": bad_digest, "name": bad_name,
            "version": "1", "deps": { "x": { "name": bad_name } }, "blobstore_headers": { "Authorization": CONFIDENTIAL },
        }]),
        "fetch_logs" => json!(["other", [long, "**/[", ""]]),
        "fetch_logs_with_signed_url" => json!([{
            "signed_url": url, "log_type": "other", "filters": ["["], "blobstore_headers": { "k": CONFIDENTIAL },
        }]),
        "bundle_logs" => {
            json!([{ "owning_user": bad_name, "log_type": "job,other", "filters": [7] }])
        }
        "upload_blob" => json!([{ "blob_id": "a/b", "checksum": bad_digest, "payload": key }]),
        "remove_file" => {
            json!([numbers.pick(&["/etc/passwd", "/var/vcap/data/tmp/../x", "", long.as_str()])])
        }
        "sync_dns" => json!([bad_name, bad_digest, 1e300]),
        "sync_dns_with_signed_url" => json!([{
            "signed_url": url, "multi_digest": bad_digest, "version": -1, "blobstore_headers": { "k": CONFIDENTIAL },
        }]),
        "ssh" => json!(["setup", { "user": bad_name, "public_key": CONFIDENTIAL }]),
        "delete_arp_entries" => json!([{ "ips": ["x", 7, null] }]),
        "update_settings" => json!([{
            "mbus": { "cert": { "ca": "-----BEGIN", "private_key": &key[..key.len() / 2], "certificate": [] } },
            "blobstores": [{ "provider": 7, "options": { "password": CONFIDENTIAL } }],
        }]),
        "apply" | "prepare" => {
            json!([{ "job": [], "networks": 7, "packages": { "a": CONFIDENTIAL } }])
        }
        "get_task" | "cancel_task" => json!([long]),
        "run_script" => json!([{}, "options"]),
        _ => some_arguments(numbers),
    }
}

mod tests {
    use bosh_agent::agent::protocol::Request;

    use super::*;

    #[test]
    fn generated_requests_are_reproducible_and_as_declared() {
        let made = |seed| {
            let mut numbers = Numbers::new(seed);
            let next = (0..5000).map(|_| Malformed::next(&mut numbers, "director.u.a.r"));
            next.collect::<Vec<_>>()
        };
        let (first, second) = (made(7), made(7));
        let (mut due, mut kinds) = (0, std::collections::HashSet::new());
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one.bytes, other.bytes);
            let text = String::from_utf8_lossy(&one.bytes[..one.bytes.len().min(500)]).into_owned();
            let parsed = Request::parse(&one.bytes);
            assert_eq!(parsed.is_ok(), one.is_due, "{text}");
            due += usize::from(one.is_due);
            if let Ok(request) = parsed {
                assert_eq!(request.reply_to, "director.u.a.r", "{text}");
                kinds.insert(request.method);
            }
        }
        assert!((2000..3000).contains(&due) && kinds.len() > METHODS.len());
    }
}

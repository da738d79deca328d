//! Every method of the protocol with its requests and replies, which are recorded in `tests/protocol`, one file for each method.
//!
//! A file is a list of requests. `reply` is the reply; `result` is the reply to `get_task` after the end of the task that the request
//! starts. Texts may contain `{uuid}`, `{sha1}`, `{sha512}`, `{task}`, `{number}` and `{any}`. In arguments, `{sha1:BLOB}` is the digest of
//! a blob of `blobs`, and `{url}` a server with these blobs.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use bosh_agent::sandbox::Isolation;
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::support::{Member, Play, World, archive, require, require_root, sha1_of};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The recorded methods.
fn recorded() -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join("tests/protocol")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| name.strip_suffix(".json").unwrap().to_owned())
        .collect()
}

#[test]
fn every_method_is_recorded() {
    let source = std::fs::read_to_string(root().join("src/agent/method.rs")).unwrap();
    let (_, list) = source.split_once("\nmethods! {\n").unwrap();
    let (list, _) = list.split_once('}').unwrap();
    let methods = list
        .lines()
        .filter_map(|line| line.trim_end_matches(',').split_once(" = "));
    let methods: BTreeSet<String> = methods.map(|(_, name)| name.to_owned()).collect();
    assert_eq!(methods, recorded());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_requests_get_their_replies() {
    for method in recorded() {
        let path = root().join(format!("tests/protocol/{method}.json"));
        let requests: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let requests = requests.as_array().unwrap();
        let (on_stemcell, on_dummy): (Vec<&Value>, Vec<&Value>) = requests
            .iter()
            .partition(|request| request["machine"] == "stemcell");
        let play = Play::start_with(Isolation::Auto);
        check(&play, &method, &on_dummy).await;
        assert!(play.stop().await);
        if !on_stemcell.is_empty() && can_create_users() {
            let play = Play::on_a_stemcell(World::outside_tmp().with_accounts());
            check(&play, &method, &on_stemcell).await;
            assert!(play.stop().await);
        }
    }
}

fn can_create_users() -> bool {
    require_root() && require(Path::new("/usr/sbin/useradd").exists(), "useradd")
}

async fn check(play: &Play, method: &str, requests: &[&Value]) {
    let url = serve(play.world.path("store"));
    for request in requests {
        for (id, content) in request["blobs"].as_object().into_iter().flatten() {
            let bytes = match content {
                Value::String(text) => text.clone().into_bytes(),
                files => archive(&members(files)),
            };
            play.world.write(&format!("store/{id}"), bytes);
        }
        let arguments = filled(&request["arguments"], play, &url);
        let method = request["method"].as_str().unwrap_or(method);
        let protocol = request["protocol"].as_i64().unwrap_or(3);
        let reply = play.ask_as(protocol, method, arguments.clone()).await;
        let said = format!("{method} {arguments}");
        let Some(result) = request.get("result") else {
            assert_fits(&filled(&request["reply"], play, &url), &reply, "", &said);
            continue;
        };
        let task = reply["value"]["agent_task_id"].as_str();
        let task = task
            .unwrap_or_else(|| panic!("{said}: no task: {reply}"))
            .to_owned();
        let started = json!({ "value": { "agent_task_id": task, "state": "running" } });
        assert_eq!(reply, started, "{said}");
        assert_fits(
            &filled(result, play, &url),
            &play.end(&task).await,
            &task,
            &said,
        );
    }
}

fn members(files: &Value) -> Vec<Member> {
    let files = files.as_object().unwrap().iter();
    files
        .map(|(name, text)| Member::file(name, text.as_str().unwrap().as_bytes()))
        .collect()
}

/// A value with the paths and digests of this run.
fn filled(value: &Value, play: &Play, url: &str) -> Value {
    let mut text = value
        .to_string()
        .replace("{base}", play.world.base().to_str().unwrap())
        .replace("{url}", url);
    while let Some((start, rest)) = text.split_once("{sha1:") {
        let (id, end) = rest.split_once('}').unwrap();
        let digest = sha1_of(&play.world.path("store").join(id));
        text = format!("{start}{digest}{end}");
    }
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn assert_fits(expected: &Value, found: &Value, task: &str, said: &str) {
    assert!(
        fits(expected, found, task),
        "{said}\nexpected: {expected:#}\nfound: {found:#}"
    );
}

fn fits(expected: &Value, found: &Value, task: &str) -> bool {
    match (expected, found) {
        (Value::String(pattern), _) if pattern == "{any}" => true,
        (Value::String(pattern), Value::String(text)) => {
            let mut regex = regex_lite::escape(pattern);
            for (token, class) in [
                ("uuid", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
                ("sha1", "[0-9a-f]{40}"),
                ("sha512", "sha512:[0-9a-f]{128}"),
                ("number", r"[0-9]+(\.[0-9]+)?"),
                ("any", "(?s:.*)"),
                ("task", task),
            ] {
                regex = regex.replace(&regex_lite::escape(&format!("{{{token}}}")), class);
            }
            Regex::new(&format!("^{regex}$")).unwrap().is_match(text)
        }
        (Value::Array(expected), Value::Array(found)) => {
            let mut pairs = expected.iter().zip(found);
            expected.len() == found.len() && pairs.all(|(a, b)| fits(a, b, task))
        }
        (Value::Object(expected), Value::Object(found)) => {
            let mut pairs = expected.iter();
            let has = |(key, value): (&String, &Value)| {
                found.get(key).is_some_and(|found| fits(value, found, task))
            };
            expected.len() == found.len() && pairs.all(has)
        }
        (expected, found) => expected == found,
    }
}

/// Starts a server with the files of a directory, which accepts all uploads. Returns its URL.
fn serve(directory: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client may close the connection at any time.
            let _ = stream.and_then(|stream| answer(stream, &directory));
        }
    });
    url
}

fn answer(stream: TcpStream, directory: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let head = head.to_ascii_lowercase();
    if head.starts_with("put ") {
        let (_, length) = head.split_once("content-length: ").unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        reader.read_exact(&mut vec![0; length])?;
        return stream
            .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    let name = head
        .trim_start_matches("get /")
        .split(['?', ' '])
        .next()
        .unwrap();
    let blob = std::fs::read(directory.join(name)).unwrap_or_default();
    let length = blob.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    stream.write_all(&blob)
}

#[test]
fn replies_that_differ_are_found() {
    let expected = json!({"value": {"id": "{uuid}", "text": "a.{task}{any}", "list": [1]}});
    let found = |id: &str, text: &str, list: Value| json!({"value": {"id": id, "text": text, "list": list}});
    let id = "3a5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3";
    assert!(fits(
        &expected,
        &found(id, "a.7 more\nlines", json!([1])),
        "7"
    ));
    for other in [
        found("3a5e", "a.7", json!([1])),
        found(id, "ab7", json!([1])),
        found(id, "a.8", json!([1])),
        found(id, "a.7", json!([1, 2])),
        json!({"value": {}}),
    ] {
        assert!(!fits(&expected, &other, "7"), "{other}");
    }
}

//! Load tests: many compiles, malformed requests, and scripts that use all CPUs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scene::{Scene, https_machine, is_possible, small_release, source_of_script};
use crate::common::{is_soak, wait_for};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::AGENT;
use crate::support::director::Director;
use crate::support::director::bus::Bus;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::vm::{HostVm, LIMIT, Usage};

const NOTHING: CompiledPackages = CompiledPackages::new();

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn print(when: &str, usage: &Usage) {
    let Usage {
        resident,
        descriptors,
        threads,
        files,
        disk,
    } = usage;
    eprintln!(
        "{when}: {} resident, {descriptors} descriptors, {threads} threads, {files} files with {}",
        mib(*resident),
        mib(*disk)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_compiles_leave_only_installed_packages() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    print("idle", &scene.vm.usage());
    let release = small_release();
    let rounds = if is_soak() { 100 } else { 7 };
    let compile = || async {
        let compiled = scene.director.compile_release(&release, &scene.blobs).await;
        compiled.unwrap()
    };
    for _ in 0..3 {
        compile().await;
    }
    // Installed packages stay while there is room, as later compiles may need them.
    let others = || {
        let mut files = scene.vm.files("");
        files.retain(|path| !path.components().any(|part| part.as_os_str() == "store"));
        // Written with every heartbeat, so it may not exist yet.
        files.retain(|path| !path.ends_with("instance/health.json"));
        files.sort();
        files
    };
    let (before, others_before) = (scene.vm.usage(), others());
    print("after 9 compiles", &before);
    for _ in 0..rounds {
        compile().await;
    }
    let after = scene.vm.usage();
    print(&format!("after {} more", 3 * rounds), &after);
    assert!(
        after.descriptors <= before.descriptors + 2,
        "descriptors leak"
    );
    assert_eq!(others(), others_before, "files are left");
    // The three packages install six names.
    assert!(after.files <= before.files + 6 * rounds, "{after:?}");
    assert!(
        after.resident <= before.resident + (6 << 20),
        "memory leaks"
    );
    assert_eq!(scene.vm.other_processes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_answers_while_a_script_uses_every_cpu() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let gate = scene.gate("gate");
    let spin = "for i in 1 2 3 4 5 6; do (while :; do :; done) 2>/dev/null & done\nset +x\n";
    let release = source_of_script(&format!("{spin}{}kill $(jobs -p)", gate.script()));
    let package = release.package("app");
    let (_, task) = scene
        .director
        .start_compile(package, &NOTHING, &scene.blobs)
        .await;
    gate.reached();
    for (method, arguments) in [("ping", json!([])), ("get_task", json!([task]))] {
        let mut times = Vec::new();
        for _ in 0..200 {
            let start = Instant::now();
            scene
                .director
                .call(method, arguments.clone())
                .await
                .unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let [median, most] = [100, 190].map(|index| times[index]);
        eprintln!("{method} on a busy machine: median {median:.1?}, 95 % {most:.1?}");
        // The script's processes alone use some milliseconds of this.
        assert!(most < Duration::from_secs(1), "{method}: {most:?}");
    }
    gate.open();
    scene.director.wait_for_task(&task).await.unwrap();
}

/// Reproducible pseudo-random numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// Bytes that are not a request, so that they cannot be answered.
fn unparsable_request(numbers: &mut Numbers, reply_to: &str) -> Vec<u8> {
    let whole = json!({ "protocol": 3, "method": "ping", "arguments": [], "reply_to": reply_to })
        .to_string();
    let secret = "-----BEGIN RSA PRIVATE KEY-----\\nMIIEconfidentialconfidentialconfidential";
    match numbers.below(8) {
        0 => whole.as_bytes()[..numbers.below(whole.len() - 1) + 1].to_vec(),
        1 => (0..numbers.below(2000) + 1).map(|_| numbers.below(256) as u8 | 0x80).collect(),
        2 => format!("[{whole}]").into_bytes(),
        3 => whole.replace("\"ping\"", ["1", "{}", "[]", "true"][numbers.below(4)]).into_bytes(),
        4 => whole.replace("[]", ["1", "{}", "\"x\"", "true"][numbers.below(4)]).into_bytes(),
        5 => format!("{whole} {secret}").into_bytes(),
        6 => "[".repeat(numbers.below(100_000) + 1).into_bytes(),
        _ => format!("{{\"method\":\"update_settings\",\"arguments\":[{{\"mbus\":{{\"cert\":{{\"private_key\":\"{secret}")
            .into_bytes(),
    }
}

/// A request with malformed values. It gets one reply.
fn malformed_request(numbers: &mut Numbers, reply_to: &str) -> Vec<u8> {
    let methods = [
        "get_task",
        "cancel_task",
        "nothing",
        "",
        "pïng",
        "ping",
        "get_state",
        "info",
        "mount_disk",
        "__proto__",
    ];
    let arguments = [
        json!([]),
        json!(null),
        json!([null]),
        json!([[[[[]]]]]),
        json!([{ "a": { "b": 1e300 } }]),
        json!(["x".repeat(10_000)]),
        json!([
            "\u{0}\u{7f}\u{2028}\u{1f600}",
            12_345_678_901_234_567_890_u64
        ]),
    ];
    let method = methods[numbers.below(methods.len())];
    let arguments = &arguments[numbers.below(arguments.len())];
    let protocol = [3, 0, -1][numbers.below(3)];
    let request: Value = json!({
        "protocol": protocol,
        "METHOD": method,
        "arguments": arguments,
        "reply_to": reply_to,
        "unknown": [{ "key": null }],
    });
    request.to_string().into_bytes()
}

fn requests() -> usize {
    if is_soak() { 10_000 } else { 1_000 }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_over_nats_get_at_most_one_reply() {
    if !is_possible() {
        return;
    }
    let mut scene = Scene::ready().await;
    let director = &scene.director;
    let mut numbers = Numbers(0x5eed);
    let mut expected = Vec::new();
    for number in 0..requests() {
        let id = format!("malformed_request-{number}");
        let reply_to = director.bus().reply_to(AGENT, &id);
        let is_due = numbers.below(2) == 0;
        let body = match is_due {
            true => malformed_request(&mut numbers, &reply_to),
            false => unparsable_request(&mut numbers, &reply_to),
        };
        director.bus().publish(AGENT, body).await;
        if is_due {
            expected.push(id);
        }
        // An agent need not accept thousands of concurrent tasks.
        if number % 200 == 199 {
            wait_for("all replies", LIMIT, || {
                match director.bus().strays().len() {
                    count if count >= expected.len() => Ok(()),
                    count => Err(format!("{count} of {}", expected.len())),
                }
            });
        }
    }
    // The requests that would exceed the limit come before this one.
    director.wait_until_ready(LIMIT).await.unwrap();
    let replies = director.bus().strays();
    let mut answered: Vec<&str> = replies
        .iter()
        .map(|reply| {
            reply
                .split(": ")
                .next()
                .unwrap()
                .rsplit('.')
                .next()
                .unwrap()
        })
        .collect();
    answered.sort_unstable();
    expected.sort_unstable();
    assert_eq!(answered, expected);
    for reply in &replies {
        let (_, body) = reply.split_once(": ").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert!(
            body.get("value").is_some() != body.get("exception").is_some(),
            "{reply}"
        );
    }
    assert!(
        !scene.vm.log().contains("confidential"),
        "a part of a request is in the log"
    );
    scene.vm.stays_up_for(Duration::from_millis(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_over_https_get_their_status() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let (machine, bus) = https_machine(&blobs);
    let mut vm = HostVm::create(machine);
    let director = Director::new(bus, AGENT);
    director.wait_until_ready(LIMIT).await.unwrap();
    let Bus::Https(https) = director.bus() else {
        unreachable!()
    };
    let mut numbers = Numbers(0xface);
    for number in 0..requests() {
        let is_due = numbers.below(2) == 0;
        let body = match is_due {
            true => malformed_request(&mut numbers, "director"),
            false => unparsable_request(&mut numbers, "director"),
        };
        let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        let (status, answer) = https
            .post(body, LIMIT)
            .await
            .unwrap_or_else(|| panic!("no answer to request {number}: {shown}"));
        match is_due {
            true => {
                assert_eq!(status, 200, "{shown}");
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert!(answer.is_object(), "{shown}: {answer}");
            }
            false => assert_eq!((status, answer.as_slice()), (500, &b""[..]), "{shown}"),
        }
    }
    director.wait_until_ready(LIMIT).await.unwrap();
    assert!(
        !vm.log().contains("confidential"),
        "a part of a request is in the log"
    );
    vm.stays_up_for(Duration::from_millis(1));
}

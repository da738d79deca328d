//! Parses any bytes as a request from NATS or HTTPS. This must not panic or hang, names in valid requests must be safe as parts of paths,
//! and all replies must fit into the limit.
#![no_main]

use std::path::{Component, Path};

use bosh_agent::agent::arguments::{first, text};
use bosh_agent::agent::compilation::CompileRequest;
use bosh_agent::agent::logs_archive::LogSelection;
use bosh_agent::agent::logs_request::LogsRequest;
use bosh_agent::agent::protocol::{Reply, Request};
use bosh_agent::agent::short_requests::{
    DnsRequest, SshRequest, UploadedBlob, arp_addresses, check_script, removable_file,
};
use bosh_agent::config::{UpdateSettings, Vcap};
use bosh_agent::machine::instance::ApplySpec;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// The length limit of replies, in bytes. A Director allows 1 MB.
const LIMIT: usize = 500;

fuzz_target!(|data: &[u8]| {
    let reply = match Request::parse(data) {
        Err(error) => Reply::Exception(error.to_string().into()),
        Ok(request) => match read_arguments(&request.method, &request.arguments) {
            Ok(()) => Reply::Value(Value::Array(request.arguments)),
            Err(error) => {
                Reply::Exception(format!("Action Failed {}: {error}", request.method).into())
            }
        },
    };
    let bytes = reply.to_bytes(Some(LIMIT));
    assert!(bytes.len() <= LIMIT || matches!(reply, Reply::Exception(_)));
    serde_json::from_slice::<Value>(&bytes).expect("a reply is JSON");
});

/// Parses arguments like the action.
fn read_arguments(method: &str, arguments: &[Value]) -> Result<(), String> {
    let vcap = Vcap::new(Path::new(Vcap::BASE));
    match method {
        "get_task" | "cancel_task" => {
            let [id] = first(arguments).map_err(|error| error.to_string())?;
            text(id, "task_id").map_err(|error| error.to_string())?;
        }
        "compile_package" => {
            check(&CompileRequest::of_blobs(arguments).map_err(|error| error.to_string())?)
        }
        "compile_package_with_signed_url" => {
            check(&CompileRequest::of_signed_urls(arguments).map_err(|error| error.to_string())?);
        }
        "fetch_logs" | "fetch_logs_with_signed_url" | "bundle_logs" => {
            let order = match method {
                "fetch_logs" => LogsRequest::of_blobs(arguments),
                "bundle_logs" => LogsRequest::of_bundle(arguments).map(|(order, _)| order),
                _ => LogsRequest::of_signed_url(arguments).map(|(order, _)| order),
            };
            let order = order.map_err(|error| error.to_string())?;
            LogSelection::new(&vcap, &order.kinds, &order.filters)
                .map_err(|error| error.to_string())?;
        }
        "apply" | "prepare" => {
            let [spec] = first(arguments).map_err(|error| error.to_string())?;
            let spec = ApplySpec::parse(spec.clone()).map_err(|error| error.to_string())?;
            let _ = (spec.unsupported_work(), spec.index(), spec.networks());
            let again = ApplySpec::parse(spec.document().expose().clone());
            assert_eq!(again.expect("it was parsed before"), spec);
        }
        "update_settings" => {
            let [update] = first(arguments).map_err(|error| error.to_string())?;
            let update = UpdateSettings::from_json(update).map_err(|error| error.to_string())?;
            let saved = UpdateSettings::from_json(update.to_json().expose());
            assert_eq!(saved.expect("it was parsed before"), update);
            let merged = UpdateSettings::default().merge(&update);
            assert!(
                !merged.settings.merge(&update).bus_changed,
                "the same update changes nothing"
            );
        }
        _ => return read_short_arguments(method, arguments),
    }
    Ok(())
}

/// The same for methods that need neither a task nor a blobstore's answer.
fn read_short_arguments(method: &str, arguments: &[Value]) -> Result<(), String> {
    let read = match method {
        "ssh" => SshRequest::parse(arguments).map(drop),
        "upload_blob" => UploadedBlob::parse(arguments).map(|blob| {
            assert_plain(blob.id.as_str());
            assert!(!blob.digest.algorithms().is_empty());
        }),
        "remove_file" => first(arguments).and_then(|[path]| {
            let directory = Path::new("/var/vcap/data/tmp");
            if let Some(file) = removable_file(directory, text(path, "path")?) {
                assert_eq!(file.parent(), Some(directory));
                assert_plain(
                    file.file_name()
                        .and_then(|name| name.to_str())
                        .unwrap_or("/"),
                );
            }
            Ok(())
        }),
        "sync_dns" => DnsRequest::of_blob(arguments).map(drop),
        "sync_dns_with_signed_url" => DnsRequest::of_signed_url(arguments).map(drop),
        "delete_arp_entries" => arp_addresses(arguments).map(drop),
        "run_script" => check_script(arguments),
        "drain" => first(arguments).and_then(|[kind]| text(kind, "drain type").map(drop)),
        _ => Ok(()),
    };
    read.map_err(|error| error.to_string())
}

/// Names of packages must be usable as names of directories.
fn check(order: &CompileRequest) {
    let dependencies = order.dependencies.iter().map(|dependency| &dependency.name);
    for name in dependencies.chain([&order.name]) {
        assert_plain(name.as_str());
    }
}

fn assert_plain(name: &str) {
    let components: Vec<_> = Path::new(name).components().collect();
    assert!(matches!(components[..], [Component::Normal(_)]), "{name:?}");
}

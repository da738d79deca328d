//! Makes OCI layouts.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tools::run_tool;

/// Makes an OCI layout of an image with these layers, in a new directory.
pub(crate) fn oci_layout(directory: &Path, layers: &[PathBuf]) -> PathBuf {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let add = |file: &Path| {
        let digest = run_tool("sha256sum", &[file])[..64].to_owned();
        let size = std::fs::metadata(file).unwrap().len();
        let blob = blobs.join(&digest);
        if !blob.exists() {
            std::fs::hard_link(file, blob).unwrap();
        }
        (format!("sha256:{digest}"), size)
    };
    let document = |value: &Value| {
        let file = directory.join("document");
        std::fs::write(&file, value.to_string()).unwrap();
        let added = add(&file);
        std::fs::remove_file(file).unwrap();
        added
    };
    let descriptor = |kind: &str, (digest, size): &(String, u64)| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let layers: Vec<(String, u64)> = layers.iter().map(|it| add(it)).collect();
    let ids: Vec<&String> = layers.iter().map(|(digest, _)| digest).collect();
    let config = json!({
        "architecture": oci_architecture(),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let config = descriptor("config.v1+json", &document(&config));
    let layers = layers.iter().map(|it| descriptor("layer.v1.tar", it));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers.collect::<Vec<Value>>(),
    });
    let manifest = descriptor("manifest.v1+json", &document(&manifest));
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    let version = json!({"imageLayoutVersion": "1.0.0"});
    std::fs::write(directory.join("oci-layout"), version.to_string()).unwrap();
    directory.to_owned()
}

/// This machine's architecture, as images name it.
pub(crate) fn oci_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        _ => "arm64",
    }
}

//! The portable binary itself.

use super::*;

#[test]
fn published_binary_is_portable_and_has_a_checksum() {
    let Some(inputs) = inputs::require_parts() else {
        return;
    };
    let dist = inputs.dist.parent().unwrap();
    let target = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "aarch64-unknown-linux-gnu"),
        _ => ("amd64", "x86_64-unknown-linux-gnu"),
    };
    let name = format!(
        "bosh-agent-{}-linux-{}",
        env!("CARGO_PKG_VERSION"),
        target.0
    );
    if !dist.join(&name).exists() {
        skip("the portable binary was not built by `make dist`");
        return;
    }
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", &format!("{name}.sha256")]);
    run(check.current_dir(dist), SHORT).expect_code(0, "sha256sum --check");
    let mut check = Command::new(inputs::repository().join("integration/portable-binary"));
    check.arg(dist.join(&name)).arg(target.1);
    run(&mut check, SHORT).expect_code(0, "portable-binary");
}

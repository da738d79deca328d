//! Shared caches with TLS.

use super::nginx::{Nginx, USER, USER_IN_BASE64};
use super::shared::Scene;

#[test]
fn packages_go_through_https_with_a_trusted_certificate() {
    let Some(nginx) = Nginx::with_tls() else {
        return;
    };
    let scene = Scene::new();
    let url = format!("https://127.0.0.1:{}", nginx.port());
    let agent = |flag| {
        let agent = scene.agent(flag, &url);
        agent.env("SSL_CERT_FILE", nginx.ca().to_str().unwrap())
    };
    let warning = scene.one_warning(agent("--cache-to"), &url);
    assert!(warning.contains("returned 401 Unauthorized"), "{warning}");
    let agent_of_user = agent("--cache-to").env("BOSH_AGENT_CACHE_USER", USER.0);
    let (_, ran) = scene.run(agent_of_user.env("BOSH_AGENT_CACHE_PASSWORD", USER.1));
    ran.succeeds()
        .does_not_say("Warning")
        .does_not_say(USER.1)
        .does_not_say(USER_IN_BASE64);
    let (names, ran) = scene.run(agent("--cache-from"));
    ran.succeeds().does_not_say("Warning");
    assert_eq!(names, [""; 0]);
    assert_eq!(scene.cached.result(), scene.result);
    let untrusted = scene.one_warning(scene.agent("--cache-from", &url), &url);
    assert!(untrusted.contains("the TLS handshake with"), "{untrusted}");
}

//! Servers of shared caches that take no packages (`--cache-to`).

use super::faulty::{Fault, FaultyServer};
use super::shared::Scene;

#[test]
fn failed_upload_costs_one_warning_and_bounded_time() {
    let scene = Scene::new();
    let empty = scene.cached.world.path("empty");
    for (fault, reason) in [
        (Fault::Status(403), "returned 403 Forbidden"),
        (Fault::Status(429), "returned 429 Too Many Requests"),
        (Fault::Status(500), "returned 500 Internal Server Error"),
        (Fault::Status(507), "returned 507 Insufficient Storage"),
        (Fault::Killed, "no response to the request"),
        (Fault::SilentUploads, "no result after "),
    ] {
        let server = FaultyServer::start(fault, &empty);
        let agent = scene.agent("--cache-to", &server.url());
        let warning = scene.one_warning(agent, &server.url());
        assert!(warning.contains(reason), "{fault:?}: {warning}");
    }
}

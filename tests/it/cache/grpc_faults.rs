//! Servers of the Remote Execution API that fail: each costs one warning and bounded time.

use tonic::Code;

use super::grpc_server::{GrpcFault, GrpcServer};
use super::shared::{Scene, takes_everything_from};

/// A server that has all packages of a scene.
fn filled() -> (Scene, GrpcServer) {
    let (scene, server) = (Scene::new(), GrpcServer::start());
    let (_, ran) = scene.run(scene.agent("--cache-to", server.url()));
    ran.succeeds().does_not_say("Warning");
    takes_everything_from(&scene, server.url(), server.url());
    (scene, server)
}

#[track_caller]
fn assert_one_warning(scene: &Scene, server: &GrpcServer, fault: GrpcFault, reason: &str) {
    server.fail(fault);
    let agent = scene.agent("--cache-from", server.url());
    let warning = scene.one_warning(agent, server.url());
    assert!(warning.contains(reason), "{fault:?}: {warning}");
}

#[test]
fn error_of_a_remote_execution_cache_costs_one_warning() {
    let (scene, server) = filled();
    for method in ["GetActionResult", "Read"] {
        for code in [Code::ResourceExhausted, Code::Internal] {
            let fault = GrpcFault::Status(method, code);
            assert_one_warning(
                &scene,
                &server,
                fault,
                &format!("{method} failed: {code:?}"),
            );
        }
    }
}

#[test]
fn refused_upload_to_a_remote_execution_cache_costs_one_warning() {
    let (scene, server) = (Scene::new(), GrpcServer::start());
    for method in [
        "FindMissingBlobs",
        "Write",
        "BatchUpdateBlobs",
        "UpdateActionResult",
    ] {
        for code in [Code::ResourceExhausted, Code::Internal] {
            server.clear();
            server.fail(GrpcFault::Status(method, code));
            let agent = scene.agent("--cache-to", server.url());
            let warning = scene.one_warning(agent, server.url());
            let reason = format!("{method} failed: {code:?}");
            assert!(warning.contains(&reason), "{warning}");
        }
    }
}

#[test]
fn wrong_bytes_of_a_remote_execution_cache_are_not_used() {
    let (scene, server) = filled();
    for (fault, reason) in [
        (GrpcFault::WrongBytes, "its SHA-256 or size is wrong"),
        (GrpcFault::Endless, "has other bytes than its digest says"),
        (GrpcFault::WrongDigest, "the result of action "),
    ] {
        assert_one_warning(&scene, &server, fault, reason);
    }
}

#[test]
fn slow_remote_execution_cache_costs_one_warning() {
    let (scene, server) = filled();
    assert_one_warning(&scene, &server, GrpcFault::Slow, "no result after ");
}

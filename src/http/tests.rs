//! Tests of the client with a server that fails in defined ways.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::testing::{Reply, Server};
use super::*;
use crate::config::{Environment, Secret};
use crate::diag::Chain;
use crate::tls;

const SHORT: Duration = Duration::from_millis(100);

fn client_in(variables: &[(&str, String)]) -> Client {
    let environment: Environment = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let tls = tls::client(Some(CA), tls::Profile::Internal);
    Client::new(tls, &environment)
}

/// A CA that has issued no certificate in these tests.
const CA: &str = include_str!("testing-ca.pem");

fn client() -> Client {
    client_in(&[])
}

fn secret_headers() -> Headers {
    Headers::new()
        .with("X-Key", &Secret::new("hunter2"))
        .unwrap()
}

fn file(length: usize) -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("file");
    crate::fs::write(&path, &vec![b'x'; length]).unwrap();
    (scratch, path)
}

#[tokio::test]
async fn request_has_all_headers_and_response_is_read() {
    let server = Server::start(&[Reply::Answer(200, b"hello".to_vec())]);
    let url = server.url("/a%20b?sig=1");
    let response = client().get(&url, &secret_headers()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.header("content-length"), Some("5"));
    assert_eq!(response.bytes(5).await.unwrap(), b"hello");
    let head = &server.requests()[0].head;
    assert!(head.starts_with("GET /a%20b?sig=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: 127.0.0.1:{}\r\n", server.port())));
    assert!(head.contains("x-key: hunter2\r\n"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
}

#[tokio::test]
async fn too_long_response_is_an_error() {
    let server = Server::start(&[Reply::Answer(200, b"hello".to_vec())]);
    let response = client().get(&server.url("/"), &Headers::new()).await;
    let error = response.unwrap().bytes(4).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { limit: 4 }));
}

#[tokio::test]
async fn redirects_are_followed_but_headers_stay_with_the_server() {
    let other = Server::start(&[Reply::Answer(200, b"there".to_vec())]);
    let server = Server::start(&[
        Reply::Redirect("/second".to_owned()),
        Reply::Redirect(format!("http://127.0.0.1:{}/third", other.port())),
    ]);
    let response = client().get(&server.url("/first"), &secret_headers()).await;
    assert_eq!(response.unwrap().bytes(10).await.unwrap(), b"there");
    assert!(server.requests()[1].head.starts_with("GET /second "));
    assert!(server.requests()[1].head.contains("hunter2"));
    assert!(other.requests()[0].head.starts_with("GET /third "));
    assert!(!other.requests()[0].head.contains("hunter2"));
}

#[tokio::test]
async fn redirect_loops_and_redirected_uploads_are_not_followed() {
    let server = Server::start(&[Reply::Redirect("/again".to_owned())]);
    let error = client()
        .get(&server.url("/"), &Headers::new())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Redirect(_)));
    assert_eq!(server.requests().len(), 11);
    let response = client()
        .put(&server.url("/"), &Headers::new(), Body::empty())
        .await;
    assert_eq!(response.unwrap().status(), StatusCode::FOUND);
    assert_eq!(server.requests().len(), 12);
}

#[tokio::test]
async fn body_is_sent_with_its_length_even_if_empty() {
    let server = Server::start(&[Reply::Answer(201, Vec::new())]);
    let (_scratch, path) = file(1_000_000);
    for (body, length) in [
        (Body::file(&path).await.unwrap(), 1_000_000),
        (Body::empty(), 0),
    ] {
        let response = client().put(&server.url("/"), &Headers::new(), body).await;
        assert_eq!(response.unwrap().status(), StatusCode::CREATED);
        let request = server.requests().pop().unwrap();
        assert_eq!(request.body, vec![b'x'; length]);
        let expects = request.head.contains("expect: 100-continue\r\n");
        assert_eq!(expects, length > 0, "{}", request.head);
        assert!(!request.head.contains("chunked"), "{}", request.head);
    }
}

#[tokio::test]
async fn refused_upload_fails_before_the_body_is_sent() {
    let server = Server::start(&[Reply::Refuse(403)]);
    let (_scratch, path) = file(50_000_000);
    let body = Body::file(&path).await.unwrap();
    let start = Instant::now();
    let response = client()
        .with_timeouts(Timeouts {
            expect: Duration::from_secs(600),
            ..Timeouts::default()
        })
        .put(&server.url("/"), &Headers::new(), body)
        .await;
    assert_eq!(response.unwrap().status(), StatusCode::FORBIDDEN);
    assert!(start.elapsed() < Duration::from_secs(300));
}

#[tokio::test]
async fn body_is_sent_if_the_server_never_sends_continue() {
    let server = Server::start(&[Reply::AnswerLate(200)]);
    let (_scratch, path) = file(1000);
    let timeouts = Timeouts {
        expect: SHORT,
        ..Timeouts::default()
    };
    let start = Instant::now();
    let response = client()
        .with_timeouts(timeouts)
        .put(
            &server.url("/"),
            &Headers::new(),
            Body::file(&path).await.unwrap(),
        )
        .await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() >= SHORT);
    assert_eq!(server.requests()[0].body.len(), 1000);
}

#[tokio::test]
async fn caller_headers_replace_defaults_but_not_transport_headers() {
    let server = Server::start(&[Reply::Answer(200, Vec::new())]);
    let headers = serde_json::json!({
        "accept": "text/plain", "content-length": "7", "transfer-encoding": "chunked", "host": "elsewhere",
    });
    let headers = Headers::from_json(&headers).unwrap();
    client()
        .put(&server.url("/"), &headers, Body::empty())
        .await
        .unwrap();
    let head = &server.requests()[0].head;
    assert!(head.contains("accept: text/plain\r\n"), "{head}");
    assert!(head.contains("content-length: 0\r\n"), "{head}");
    assert!(
        !head.contains("chunked") && !head.contains("elsewhere"),
        "{head}"
    );
}

#[tokio::test]
async fn failed_and_interrupted_connections_are_temporary_errors() {
    let client = client();
    let unused = Url::parse(&format!("http://127.0.0.1:{}/", Server::unused_port())).unwrap();
    let error = client.get(&unused, &Headers::new()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.is_temporary());

    let server = Server::start(&[Reply::Close]);
    let error = client.get(&server.url("/"), &Headers::new()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Exchange(_)), "{error:?}");
    assert!(error.is_temporary());

    let server = Server::start(&[Reply::Cut(vec![0; 1000])]);
    let mut response = client.get(&server.url("/"), &Headers::new()).await.unwrap();
    let error = loop {
        match response.chunk().await {
            Ok(chunk) => assert!(chunk.is_some(), "the body ended without an error"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Cut(_)) && error.is_temporary());
}

#[tokio::test]
async fn silent_server_times_out() {
    let client = client().with_timeouts(Timeouts {
        stall: SHORT,
        handshake: SHORT / 2,
        ..Timeouts::default()
    });
    let server = Server::start(&[Reply::Silence]);
    let error = client.get(&server.url("/"), &Headers::new()).await;
    let error = error.unwrap_err();
    assert!(error.is_temporary());
    let text = Chain(&error).to_string();
    assert!(text.contains("no data transferred for 0.1 s"), "{text}");

    let https = Url::parse(&format!("https://127.0.0.1:{}/", server.port())).unwrap();
    let error = client.get(&https, &Headers::new()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(error.is_temporary());
}

#[tokio::test]
async fn proxy_gets_url_and_password_and_errors_hide_them() {
    let proxy = Server::start(&[Reply::Answer(200, b"by proxy".to_vec()), Reply::Close]);
    let address = format!("http://me:hunter2@127.0.0.1:{}", proxy.port());
    let client = client_in(&[("HTTP_PROXY", address.clone()), ("https_proxy", address)]);
    let url = Url::parse("http://blobs.example:8080/a?sig=1").unwrap();
    let response = client.get(&url, &Headers::new()).await.unwrap();
    assert_eq!(response.bytes(100).await.unwrap(), b"by proxy");
    let head = &proxy.requests()[0].head;
    assert!(
        head.starts_with("GET http://blobs.example:8080/a?sig=1 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("proxy-authorization: Basic "), "{head}");

    let secure = Url::parse("https://blobs.example/a?sig=hunter2").unwrap();
    let error = client.get(&secure, &Headers::new()).await.unwrap_err();
    assert!(matches!(error, Error::Proxy { .. }), "{error:?}");
    let text = format!("{error:?} {} {client:?}", Chain(&error));
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn missing_ca_certificates_are_reported_by_the_first_https_request() {
    let tls = tls::TlsError::SystemRoots("none found".to_owned());
    let client = Client::new(Err(tls), &Environment::default());
    let server = Server::start(&[Reply::Answer(200, Vec::new()), Reply::Silence]);
    client.get(&server.url("/"), &Headers::new()).await.unwrap();
    let https = Url::parse(&format!("https://127.0.0.1:{}/", server.port())).unwrap();
    let error = client.get(&https, &Headers::new()).await.unwrap_err();
    assert_eq!(
        Chain(&error).to_string(),
        "HTTPS is unavailable: failed to load the system's CA certificates: none found"
    );
    assert!(!error.is_temporary());
}

#[test]
fn request_futures_are_send() {
    fn is_send<T: Send>(_: T) {}
    let (client, url) = (client(), Url::parse("http://host/").unwrap());
    is_send(client.get(&url, &Headers::new()));
    is_send(client.put(&url, &Headers::new(), Body::empty()));
}

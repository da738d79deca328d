use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Source;
use crate::machine::sources::{SourceError, Sources};
use crate::runtime;

/// Requests as `METHOD path`, each with its headers.
type Seen = Arc<Mutex<Vec<(String, HashMap<String, String>)>>>;

/// Starts a metadata service. `answers` has method and path, status and body.
async fn service(
    answers: &'static [(&'static str, u16, &'static str)],
) -> (String, Seen, runtime::Task<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let log = Arc::clone(&seen);
    let serving = runtime::spawn("metadata service", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(|request: Request<Incoming>| {
                let name = format!("{} {}", request.method(), request.uri());
                let headers = request.headers().iter();
                let headers = headers
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                    .collect();
                let found = answers.iter().find(|(request, _, _)| *request == name);
                let (_, status, body) = found.copied().unwrap_or(("", 404, ""));
                log.lock().unwrap().push((name, headers));
                let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let connection = server::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // The client may close the connection early.
            let _ = connection.await;
        }
    });
    (url, seen, serving)
}

fn source(url: &str, token_path: Option<&str>) -> HttpSource {
    HttpSource {
        uri: Secret::new(url),
        path: "/latest/user-data".to_owned(),
        headers: [("X-Flavor".to_owned(), Secret::new("hunter2"))].into(),
        token_path: token_path.map(str::to_owned),
    }
}

fn sources(source: HttpSource) -> Sources {
    Sources::new(&[Source::Http(source)], &Environment::default()).unwrap()
}

#[tokio::test]
async fn ec2_token_is_fetched_first() {
    let (url, seen, _serving) = service(&[
        ("PUT /latest/api/token", 200, "tok\n"),
        (
            "GET /latest/user-data",
            200,
            r#"{"agent_id":"a","registry":{"endpoint":"x"}}"#,
        ),
    ])
    .await;
    let sources = sources(source(&url, Some("/latest/api/token")));
    let (settings, place) = sources.load(&CancellationToken::new()).await.unwrap();
    assert_eq!(settings.agent_id.as_str(), "a");
    assert_eq!(place, format!("{url}/latest/user-data"));
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].1["x-aws-ec2-metadata-token-ttl-seconds"], "300");
    assert_eq!(seen[1].1["x-aws-ec2-metadata-token"], "tok");
    assert_eq!(seen[1].1["x-flavor"], "hunter2");
    assert_eq!(format!("http://{}", seen[1].1["host"]), url);
}

#[tokio::test]
async fn base64_settings_are_decoded() {
    // `{"agent_id":"b-1","x":"??>>"}`, in the alphabet for URLs and without padding.
    let (url, _, _serving) = service(&[(
        "GET /latest/user-data",
        200,
        "\"eyJhZ2VudF9pZCI6ImItMSIsIngiOiI_Pz4-In0\"\n",
    )])
    .await;
    let (settings, _) = sources(source(&url, None))
        .load(&CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(settings.agent_id.as_str(), "b-1");
    assert_eq!(settings.document().expose()["x"], "??>>");
}

#[tokio::test]
async fn failures_are_reported_without_secrets() {
    let tell = async |source: HttpSource| {
        let failures = sources(source)
            .load(&CancellationToken::new())
            .await
            .unwrap_err();
        let text = crate::diag::Chain(&failures[0]).to_string();
        assert!(!text.contains("hunter2"), "{text}");
        (text, failures.into_iter().next().unwrap())
    };
    let (url, _, _serving) = service(&[("GET /latest/user-data", 200, "{\"no\": 1}")]).await;
    let (text, failure) = tell(source(&url, None)).await;
    assert!(text.ends_with("the agent_id is missing"), "{text}");
    assert!(failure.is_invalid());

    let (text, _) = tell(source(&url, Some("/token?hunter2"))).await;
    assert!(text.ends_with("it answered with status 404"), "{text}");

    let mut queried = source(&url.replace("http://", "http://user:hunter2@"), None);
    queried.path = "/none?key=hunter2".to_owned();
    let (text, failure) = tell(queried).await;
    assert_eq!(
        text,
        format!(
            "failed to get settings from the metadata service `{url}/none`: it answered with status 404"
        )
    );
    assert!(matches!(failure, SourceError::Metadata { .. }));

    let (text, _) = tell(source("https://hunter2@x", None)).await;
    assert!(text.contains("does not start with `http://`"), "{text}");
    let (text, _) = tell(source("http://127.0.0.1:1", None)).await;
    assert!(text.contains("failed to connect to 127.0.0.1:1"), "{text}");
}

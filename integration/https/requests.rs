//! Requests, blobs and TLS.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn request_gets_its_reply() {
    let Some(world) = World::start().await else {
        return;
    };
    let response = client()
        .post(world.url("/agent"))
        .basic_auth("mbus", Some("se:cret"))
        .body("{\"method\":\"ping\"}")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    assert_eq!(response.text().await.unwrap(), "{\"method\":\"ping\"}");
    world.https.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_and_method_has_its_status() {
    let Some(world) = World::start().await else {
        return;
    };
    let call = |method: &str, path: &'static str, body: &'static str| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let world = &world;
        async move { world.call(method, path, body).await }
    };
    for (method, path, body, status) in [
        ("POST", "/agent", "x", 200),
        ("POST", "/agent?query", "x", 200),
        ("POST", "/agent", "malformed", 500),
        ("POST", "/agent", "panic", 500),
        ("POST", "/agent", "", 200),
        ("GET", "/agent", "", 404),
        ("PUT", "/agent", "x", 404),
        ("HEAD", "/agent", "", 404),
        ("POST", "/agent/", "x", 404),
        ("POST", "/", "x", 404),
        ("GET", "/blobs", "", 404),
        ("GET", "/blobs/", "", 404),
        ("GET", "/blobs/missing", "", 404),
        ("GET", "/blobs/..", "", 404),
        ("GET", "/blobs/%2e%2e%2fblobs", "", 404),
        ("PUT", "/blobs/a", "first", 201),
        ("PUT", "/blobs/a", "second", 201),
        ("PUT", "/blobs/x/y/b", "b", 201),
        ("PUT", "/blobs/", "x", 500),
        ("PUT", "/blobs/x%00", "x", 500),
        ("POST", "/blobs/a", "x", 404),
        ("DELETE", "/blobs/a", "", 404),
        ("HEAD", "/blobs/a", "", 404),
    ] {
        let (got, text) = call(method, path, body).await;
        assert_eq!(got, status, "{method} {path} {body}");
        let expected = if status == 200 { body } else { "" };
        if path.starts_with("/agent") {
            assert_eq!(text, expected.as_bytes(), "{method} {path} {body}");
        }
    }
    assert_eq!(call("GET", "/blobs/a", "").await, (200, b"second".to_vec()));
    assert_eq!(call("GET", "/blobs/z/b", "").await, (200, b"b".to_vec()));
    assert_eq!(world.stored(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_gets_401_on_existing_paths_only() {
    let Some(world) = World::start().await else {
        return;
    };
    // Base64 of mbus:se:cret.
    let right = "Basic bWJ1czpzZTpjcmV0";
    for header in [
        None,
        Some(""),
        Some("Basic"),
        Some("Basic bWJ1czpzZTpjcmV"),
        Some("Basic bWJ1czpzZTpjcmV0 "),
        Some("basic bWJ1czpzZTpjcmV0"),
        Some("Basic  bWJ1czpzZTpjcmV0"),
        Some("Bearer bWJ1czpzZTpjcmV0"),
        Some("mbus:se:cret"),
    ] {
        for (method, path, status) in [
            (Method::POST, "/agent", 401),
            (Method::GET, "/agent", 401),
            (Method::PUT, "/blobs/a", 401),
            (Method::GET, "/blobs/a", 401),
            (Method::GET, "/", 404),
            (Method::POST, "/agents", 404),
        ] {
            let mut request = client().request(method, world.url(path)).body("x");
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let response = request.send().await.unwrap();
            // White space around a header's value is not part of it.
            if header.is_some_and(|header| header.trim() == right) {
                assert_ne!(response.status(), 401);
                continue;
            }
            assert_eq!(response.status(), status, "{header:?} {path}");
            if status == 401 {
                assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"\"");
            }
            assert!(response.bytes().await.unwrap().is_empty());
        }
    }
    assert_eq!(world.handled.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_is_returned_unchanged_and_partial_ones_are_hidden() {
    let Some(world) = World::start().await else {
        return;
    };
    let blob: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let stored = world.call(Method::PUT, "/blobs/big", blob.clone()).await;
    assert_eq!(stored, (201, Vec::new()));
    let path = world.blobs.path().join("data/blobs/big");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    let (status, fetched) = world.call(Method::GET, "/blobs/big", "").await;
    assert!(status == 200 && fetched == blob);

    let mut stream = world.raw().await;
    let head =
        format!("PUT /blobs/big HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 50_000]).await.unwrap();
    wait_until("the unfinished file", || world.stored().len() == 2);
    drop(stream);
    wait_until("its end", || world.stored() == ["big"]);
    assert!(std::fs::read(&path).unwrap() == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_body_is_refused_before_it_is_sent() {
    let Some(world) = World::start().await else {
        return;
    };
    let start = Instant::now();
    for (head, status) in [
        ("POST /agent HTTP/1.1", "HTTP/1.1 413 "),
        ("PUT /blobs/x HTTP/1.1", "HTTP/1.1 500 "),
    ] {
        let mut stream = world.raw().await;
        let head = format!(
            "{head}\r\nHost: x\r\n{AUTHORIZED}Content-Length: {}\r\n\r\n",
            1_u64 << 60
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(status), "{answer}");
    }
    // Not after waiting for the body, which would take 20 seconds.
    assert!(start.elapsed() < Duration::from_secs(15));
    // Without the length in the header.
    let pieces = futures_util::stream::repeat_with(|| Ok::<_, io::Error>(vec![b'x'; 1 << 20]));
    let request = client()
        .post(world.url("/agent"))
        .basic_auth("mbus", Some("se:cret"))
        .body(Body::wrap_stream(pieces.take(80)));
    match request.send().await {
        Ok(response) => assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE),
        // Closed while the client was still sending.
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
    assert_eq!(world.handled.load(Ordering::SeqCst), 0);
    assert!(world.stored().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_works_with_the_settings_of_bosh_clients() {
    let Some(world) = World::start().await else {
        return;
    };
    if !require_tools(&["openssl"]) {
        return;
    }
    let address = world.https.address().to_string();
    let try_with = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text)
    };
    for (arguments, expected) in [
        (vec!["-tls1_3"], "TLSv1.3"),
        (
            vec!["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"],
            "TLSv1.2, Cipher is ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (
            vec!["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
            "TLSv1.2, Cipher is ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (vec!["-alpn", "h2,http/1.1"], "ALPN protocol: http/1.1"),
    ] {
        let (works, text) = try_with(&arguments);
        assert!(works && text.contains(expected), "{arguments:?}: {text}");
    }
    for arguments in [
        vec!["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"],
        vec!["-tls1_2", "-cipher", "AES256-GCM-SHA384"],
        vec!["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        vec!["-alpn", "h2"],
    ] {
        let (works, text) = try_with(&arguments);
        assert!(!works, "{arguments:?}: {text}");
    }
    assert_eq!(world.post("x").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_concurrent_and_outlive_their_client() {
    let Some(world) = World::start().await else {
        return;
    };
    let head =
        format!("POST /agent HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 4\r\n\r\nwait");
    let mut lost = world.raw().await;
    lost.write_all(head.as_bytes()).await.unwrap();
    let mut kept = world.raw().await;
    kept.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..20 {
        assert_eq!(world.post("quick").await.0, 200);
    }
    drop(lost);
    // The server closes before: the handler continues only when the gate opens.
    assert_eq!(world.post("quick").await.0, 200);
    world.gate.add_permits(2);
    wait_until("both", || world.handled.load(Ordering::SeqCst) == 23);
    let mut answer = [0; 15];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_waits_for_requests_with_a_limit() {
    let Some(World { https, gate, .. }) = World::start().await else {
        return;
    };
    let address = https.address();
    let head = format!("POST /agent HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 4\r\n\r\n");
    let mut waiting = raw(address).await;
    waiting
        .write_all(format!("{head}wait").as_bytes())
        .await
        .unwrap();
    // A client that keeps its connection without a request, and was served before, so that the first request was read, too.
    let mut idle = raw(address).await;
    idle.write_all(format!("{head}done").as_bytes())
        .await
        .unwrap();
    idle.read_exact(&mut [0; 15]).await.unwrap();
    let start = Instant::now();
    let opening = async {
        rest(&mut idle).await;
        gate.add_permits(1);
        rest(&mut waiting).await
    };
    let ((), answer) = tokio::join!(https.stop(), opening);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(TcpStream::connect(address).await.is_err());

    let world = World::start().await.unwrap();
    let mut waiting = world.raw().await;
    waiting
        .write_all(format!("{head}wait").as_bytes())
        .await
        .unwrap();
    let _silent = TcpStream::connect(world.https.address()).await.unwrap();
    assert_eq!(world.post("x").await.0, 200);
    let start = Instant::now();
    world.https.stop().await;
    assert!(start.elapsed() < LONG);
}

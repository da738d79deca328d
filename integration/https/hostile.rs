//! Clients that keep connections open, send slowly, or send garbage.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_are_disconnected() {
    let Some(world) = World::start().await else {
        return;
    };
    let address = world.https.address();
    let mut slow = Vec::new();
    for text in [
        String::new(),
        "POST /agent HTTP/1.1\r\nHost:".to_owned(),
        format!("POST /agent HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 9\r\n\r\nwai"),
        format!("PUT /blobs/x HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 9\r\n\r\nwai"),
    ] {
        let mut stream = raw(address).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut silent = TcpStream::connect(address).await.unwrap();
    for mut stream in slow {
        rest(&mut stream).await;
    }
    // The end of the connection, or a reset.
    let _ = tokio::time::timeout(LONG, silent.read(&mut [0]))
        .await
        .unwrap();
    assert!(world.stored().is_empty());
}

/// Clients that connect without authenticating, until they are dropped. They are more than twice the limit of connections.
struct Crowd {
    #[expect(dead_code, reason = "ends with it")]
    clients: JoinSet<()>,
    connected: watch::Sender<usize>,
}

impl Crowd {
    const SIZE: usize = 600;

    /// A third of the clients sends nothing, a third the start of a TLS handshake, and a third the start of a request. A disconnected
    /// client connects again, once in each `pace`.
    async fn gather(address: SocketAddr, peer: fn(u8) -> Ipv4Addr, pace: Duration) -> Self {
        let connected = watch::Sender::new(0);
        let mut clients = JoinSet::new();
        for number in 0..Self::SIZE {
            let peer = peer(u8::try_from(number % 200).unwrap());
            let connected = connected.clone();
            clients.spawn(async move {
                let mut next = tokio::time::interval(pace);
                loop {
                    next.tick().await;
                    let stream = connect_from(peer, address).await.unwrap();
                    connected.send_modify(|count| *count += 1);
                    // Fails when the server closes the connection.
                    let _ = half_open(stream, number % 3).await;
                }
            });
        }
        let crowd = Self { clients, connected };
        crowd.wait_for_more(Self::SIZE).await;
        crowd
    }

    /// Waits for further connections.
    async fn wait_for_more(&self, count: usize) {
        let until = *self.connected.borrow() + count;
        let mut connected = self.connected.subscribe();
        let waiting = connected.wait_for(|count| *count >= until);
        tokio::time::timeout(LONG, waiting)
            .await
            .expect("clients to connect")
            .unwrap();
    }
}

async fn connect_from(peer: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((peer, 0).into())?;
    socket.connect(address).await
}

/// Sends the data of a client of this kind, and waits for the end of the connection.
async fn half_open(mut stream: TcpStream, kind: usize) -> io::Result<()> {
    match kind {
        0 => {}
        // The header of a TLS record, and the first bytes of a ClientHello.
        1 => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await?,
        _ => {
            let mut stream = secured(stream).await?;
            stream
                .write_all(b"POST /agent HTTP/1.1\r\nHost: x\r\n")
                .await?;
            return stream.read(&mut [0]).await.map(|_| ());
        }
    }
    stream.read(&mut [0]).await.map(|_| ())
}

fn one_peer(_: u8) -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

fn many_peers(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number + 2)
}

/// A new connection with one request. Returns the time of both.
async fn ping_on_new_connection(address: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    ping(&mut secured(TcpStream::connect(address).await?).await?).await?;
    Ok(start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_while_silent_clients_use_every_slot() {
    let Some(world) = World::start().await else {
        return;
    };
    let address = world.https.address();
    // Silent clients alone would be disconnected after ten seconds. The strict limit applies on a quiet machine.
    let (rounds, pace, limit) = if is_soak() {
        (1000, Duration::from_secs(1), Duration::from_millis(100))
    } else {
        (20, Duration::from_secs(5), Duration::from_secs(8))
    };
    for (peers, peer) in [
        ("one address", one_peer as fn(u8) -> Ipv4Addr),
        ("200 addresses", many_peers),
    ] {
        let mut kept = world.raw().await;
        ping(&mut kept).await.unwrap();
        let crowd = Crowd::gather(address, peer, pace).await;
        let (mut on_kept, mut anew, mut cut_off) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            on_kept.push(ping(&mut kept).await.unwrap());
            let start = Instant::now();
            while let Err(error) = ping_on_new_connection(address).await {
                cut_off += 1;
                assert!(start.elapsed() < limit, "{peers}: {error}");
            }
            anew.push(start.elapsed());
        }
        crowd.wait_for_more(Crowd::SIZE).await;
        ping(&mut kept).await.unwrap();
        for (what, took) in [("kept", &mut on_kept), ("new", &mut anew)] {
            took.sort();
            let [median, most, longest] =
                [50, 99, 100].map(|part| took[(rounds * part / 100).min(rounds - 1)]);
            eprintln!(
                "{} silent clients of {peers}, {what} connection: median {median:?}, 99 % {most:?}, longest {longest:?}",
                Crowd::SIZE,
            );
            assert!(most < limit, "{what} connection with {peers}: {most:?}");
        }
        eprintln!(
            "{cut_off} of {rounds} cut off; {} connections of silent clients",
            *crowd.connected.borrow()
        );
        // Each address of the crowd has more connections than the test's own address.
        assert!(cut_off == 0 || peers == "one address", "{cut_off} cut off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_with_slow_headers_is_disconnected() {
    let Some(world) = World::start().await else {
        return;
    };
    let mut stream = world.raw().await;
    stream
        .write_all(b"POST /agent HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let start = Instant::now();
    let trickle = async {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        while write.write_all(b"x").await.is_ok() && write.flush().await.is_ok() {
            tick.tick().await;
        }
    };
    let cut_off = async {
        let _ = read.read_to_end(&mut Vec::new()).await;
    };
    tokio::select! {
        () = trickle => {}
        () = cut_off => {}
        () = tokio::time::sleep(LONG) => panic!("not cut off"),
    }
    assert!(start.elapsed() > Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_not_affect_other_clients() {
    let Some(world) = World::start().await else {
        return;
    };
    let count = if is_soak() { 50_000 } else { 1000 };
    let parts = [
        "POST /agent HTTP/1.1\r\n",
        "PUT /blobs/x HTTP/1.1\r\n",
        "GET /blobs/../../x HTTP/1.0\r\n",
        "GET\r\n",
        "Host: x\r\n",
        AUTHORIZED,
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "\r\n",
        "\n",
        "\0\u{1}\u{ff}",
        "ffffffffffffffff\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        ": \r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let mut seed = 20_260_101_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for number in 0..count {
        let text: String = (0..random(9)).map(|_| parts[random(parts.len())]).collect();
        if number % 10 == 0 {
            // Not TLS.
            let mut stream = TcpStream::connect(world.https.address()).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
        } else {
            let mut stream = world.raw().await;
            // It may be disconnected before everything is written.
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            let answer = rest(&mut stream).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1."),
                "{text:?}: {answer:?}"
            );
        }
    }
    assert_eq!(world.post("x").await.0, 200);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    let mut stream = world.raw().await;
    let _ = stream.write_all(long.as_bytes()).await;
    rest(&mut stream).await;
    assert_eq!(world.post("x").await.0, 200);
    assert_eq!(world.stored().iter().filter(|name| *name != "x").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_errors_are_reported_at_once() {
    let Some(world) = World::start().await else {
        return;
    };
    let server = &pairs()["server"];
    let start = |url: &str, key: &str| {
        let bus = BusOptions {
            urls: vec![Secret::new(url)],
            ca: String::new(),
            certificate: server.certificate.clone(),
            private_key: Secret::new(key),
        };
        let handle: Handle = Arc::new(|_, _| panic!("unexpected request"));
        let data = DataDirectory::prepared(&Vcap::new(world.blobs.path()));
        async move { Https::start(&bus, data, handle).await.map(|_| ()) }
    };
    let taken = format!("https://u:p@{}", world.https.address());
    let (key, other) = (server.key.as_str(), pairs()["agent"].key.as_str());
    for (url, key, said) in [
        (taken.as_str(), key, "failed to listen on"),
        ("https://u:hidden@127.0.0.1", key, "no port"),
        ("nats://127.0.0.1:1", key, "the scheme is not https"),
        ("https://u:hidden@127.0.0.1:0", other, "certificates"),
        ("https://u:hidden@127.0.0.1:0", "x", "certificates"),
    ] {
        let error = start(url, key).await.unwrap_err();
        let text = format!("{} {error:?}", bosh_agent::diag::Chain(&error));
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("hidden"), "{text}");
    }
}

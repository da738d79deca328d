//! A real nginx, with the configuration of docs/cache.md or before another server.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{require_tools, wait_for};

/// A user who may store packages, and the password.
pub(crate) const USER: (&str, &str) = ("writer", "hunter2");

/// What a request has for that user: `printf writer:hunter2 | base64`.
pub(crate) const USER_IN_BASE64: &str = "d3JpdGVyOmh1bnRlcjI";

const LIMIT: Duration = Duration::from_secs(60);

/// The server. Dropping it kills the process.
pub(crate) struct Nginx {
    child: Child,
    prefix: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    /// Starts the documented server; `None` if nginx is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::with(documented)
    }

    /// Starts the documented server with TLS; `None` if a program is not installed.
    pub(crate) fn with_tls() -> Option<Self> {
        if !require_tools(&["openssl"]) {
            return None;
        }
        Self::with(|prefix, port| {
            make_certificates(prefix);
            let (listen, prefix) = (format!("listen 127.0.0.1:{port}"), prefix.to_owned());
            let with_tls = format!(
                "ssl_certificate {0}/server.pem;\nssl_certificate_key {0}/server.key;\n{listen} ssl",
                prefix.display()
            );
            documented(&prefix, port).replace(&listen, &with_tls)
        })
    }

    /// Starts a server with TLS and a password before a gRPC server; `None` if a program is not installed.
    pub(crate) fn before_grpc(port: u16) -> Option<Self> {
        Self::before_grpc_with(port, |prefix| {
            format!("auth_basic cache;\nauth_basic_user_file {prefix}/users;")
        })
    }

    /// Starts a server with TLS that asks for a client certificate before a gRPC server; `None` if a program is not installed.
    pub(crate) fn with_client_certificates(port: u16) -> Option<Self> {
        Self::before_grpc_with(port, |_| {
            "if ($ssl_client_verify != SUCCESS) { return 403; }".to_owned()
        })
    }

    fn before_grpc_with(port: u16, access: impl Fn(&str) -> String) -> Option<Self> {
        if !require_tools(&["openssl"]) {
            return None;
        }
        Self::with(|prefix, own| {
            make_certificates(prefix);
            let prefix = prefix.display();
            let access = access(&prefix.to_string());
            format!(
                "server {{\nlisten 127.0.0.1:{own} ssl http2;\nssl_certificate {prefix}/server.pem;\n\
                 ssl_certificate_key {prefix}/server.key;\nssl_client_certificate {prefix}/ca.pem;\n\
                 ssl_verify_client optional;\nclient_max_body_size 0;\nlocation / {{\n{access}\n\
                 grpc_pass grpc://127.0.0.1:{port};\n}}\n}}"
            )
        })
    }

    fn with(server: impl Fn(&Path, u16) -> String) -> Option<Self> {
        if !require_tools(&["nginx"]) {
            return None;
        }
        let prefix = tempfile::tempdir().unwrap();
        for directory in ["store", "uploads"] {
            std::fs::create_dir(prefix.path().join(directory)).unwrap();
        }
        let users = format!("{}:{{PLAIN}}{}\n", USER.0, USER.1);
        std::fs::write(prefix.path().join("users"), users).unwrap();
        // Another process may use a free port before nginx binds it.
        let started = (0..5).find_map(|_| launch(prefix.path(), &server));
        let (child, port) = started.unwrap_or_else(|| {
            let log = std::fs::read_to_string(prefix.path().join("error.log"));
            panic!("nginx does not start: {log:?}")
        });
        Some(Self {
            child,
            prefix,
            port,
        })
    }

    /// Starts the documented server again when it was killed, on another port.
    pub(crate) fn start_again(&mut self) {
        self.child.wait().unwrap();
        let started = (0..5).find_map(|_| launch(self.prefix.path(), documented));
        (self.child, self.port) = started.expect("nginx starts again");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of its CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.prefix.path().join("ca.pem")
    }

    /// A client certificate that its CA has signed, and the key.
    pub(crate) fn client_certificate(&self) -> [PathBuf; 2] {
        ["client.pem", "client.key"].map(|name| self.prefix.path().join(name))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The directory that it serves.
    pub(crate) fn store(&self) -> PathBuf {
        self.prefix.path().join("store")
    }

    /// How many requests begin with this text. A request is logged when its response was sent.
    pub(crate) fn requests(&self, with: &str) -> usize {
        let log = std::fs::read_to_string(self.prefix.path().join("access.log")).unwrap();
        log.lines().filter(|line| line.starts_with(with)).count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // There is only one process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(prefix: &Path, server: impl Fn(&Path, u16) -> String) -> Option<(Child, u16)> {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let file = prefix.join("nginx.conf");
    std::fs::write(&file, configuration(prefix, &server(prefix, port))).unwrap();
    let log = std::fs::File::create(prefix.join("error.log")).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new("nginx")
        .env("PATH", format!("{path}:/usr/sbin"))
        .arg("-p")
        .arg(prefix)
        .arg("-c")
        .arg(file)
        .args(["-e", "stderr"])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let is_up = wait_for("nginx", LIMIT, || {
        if child.try_wait().unwrap().is_some() {
            return Ok(false);
        }
        let connected = TcpStream::connect(("127.0.0.1", port));
        connected.map(|_| true).map_err(|error| error.to_string())
    });
    is_up.then_some((child, port))
}

/// The documented server, with the paths and the port of this test.
fn documented(prefix: &Path, port: u16) -> String {
    let documentation = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cache.md");
    let documentation = std::fs::read_to_string(documentation).unwrap();
    let (_, server) = documentation.split_once("```nginx\n").unwrap();
    let (server, _) = server.split_once("```").unwrap();
    let prefix = prefix.display();
    [
        ("/srv/cache/uploads", format!("{prefix}/uploads")),
        ("/srv/cache/store", format!("{prefix}/store")),
        ("/etc/nginx/cache-users", format!("{prefix}/users")),
        ("listen 8080;", format!("listen 127.0.0.1:{port};")),
    ]
    .into_iter()
    .fold(server.to_owned(), |text, (documented, own)| {
        assert!(text.contains(documented), "{documented}");
        text.replace(documented, &own)
    })
}

/// `ca.pem`, and `server.pem` and `client.pem` with their keys, signed by the CA.
fn make_certificates(directory: &Path) {
    std::fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=cache",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
        "req -newkey rsa:2048 -nodes -keyout client.key -out client.csr -subj /CN=client",
        "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem -days 2 -extfile names",
    ] {
        let openssl = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(directory)
            .output();
        let openssl = openssl.unwrap();
        assert!(openssl.status.success(), "openssl {arguments}: {openssl:?}");
    }
}

/// The configuration with one server.
fn configuration(prefix: &Path, server: &str) -> String {
    let prefix = prefix.display();
    let user = match nix::unistd::geteuid().is_root() {
        true => "user root;",
        false => "",
    };
    format!(
        "daemon off;\nmaster_process off;\n{user}\npid {prefix}/nginx.pid;\nevents {{}}\nhttp {{\n\
         log_format asked '$request_method $uri $status';\naccess_log {prefix}/access.log asked;\n\
         proxy_temp_path {prefix}/proxy;\nfastcgi_temp_path {prefix}/fastcgi;\n\
         uwsgi_temp_path {prefix}/uwsgi;\nscgi_temp_path {prefix}/scgi;\n{server}\n}}\n"
    )
}

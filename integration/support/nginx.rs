//! A real nginx, configured like the Director's blobstore, with its own CA.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::docker::Container;
use super::network::Network;

/// A user who may only fetch, and the password.
pub(crate) const READER: (&str, &str) = ("reader", "read-hunter2");
/// A user who may fetch and store, and the password.
pub(crate) const WRITER: (&str, &str) = ("writer", "write-hunter2");
/// Required in the query of a signed URL.
pub(crate) const SIGNATURE: &str = "st=signed-hunter2";
/// A name in the certificate that no resolver knows. `127.0.0.1` is valid, too.
pub(crate) const NAME: &str = "blobstore.example";
/// The size limit of an upload.
pub(crate) const MAX_MIB: u64 = 400;

/// The time limit of nginx's start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The server. Dropping it kills the process.
pub(crate) struct Nginx {
    process: Option<Child>,
    /// In which the server runs, if it is in a network of containers.
    _container: Option<Container>,
    prefix: TempDir,
    host: String,
    ports: Ports,
}

#[derive(Clone, Copy)]
struct Ports {
    tls: u16,
    tls_1_2: u16,
    plain: u16,
}

impl Nginx {
    /// Starts a server. `None` if that is impossible; the reason is printed. With `BOSH_AGENT_TEST_REQUIRE_ALL` in the environment that is
    /// a failure.
    #[track_caller]
    pub(crate) fn start() -> Option<Self> {
        let prefix = prepared("127.0.0.1")?;
        // Another process may use a free port before nginx binds it.
        let started = (0..5).find_map(|_| {
            let ports = Ports::free();
            let child = launch(prefix.path(), ports)?;
            Some((child, ports))
        });
        let log = prefix.path().join("logs/error.log");
        let (child, ports) = started.unwrap_or_else(|| {
            panic!("nginx does not start: {}", fs::read_to_string(log).unwrap());
        });
        Some(Self {
            process: Some(child),
            _container: None,
            prefix,
            host: "127.0.0.1".to_owned(),
            ports,
        })
    }

    /// The same in a container with this number in a network.
    #[track_caller]
    pub(crate) fn start_in(network: &Network, number: u8) -> Option<Self> {
        let host = network.address(number);
        let prefix = prepared(&host)?;
        let ports = Ports {
            tls: 8443,
            tls_1_2: 8444,
            plain: 8080,
        };
        configure(prefix.path(), &host, ports);
        let directory = prefix.path().display().to_string();
        let config = format!("{directory}/nginx.conf");
        let command = ["nginx", "-p", &directory, "-c", &config, "-e", "stderr"];
        let container = network.serve(("nginx", number), ports.plain, prefix.path(), &command);
        Some(Self {
            process: None,
            _container: Some(container),
            prefix,
            host,
            ports,
        })
    }

    /// The CA certificate.
    pub(crate) fn ca(&self) -> String {
        fs::read_to_string(self.prefix.path().join("ca.pem")).unwrap()
    }

    /// The blobstore over TLS 1.2 and 1.3.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}:{}", self.host, self.ports.tls)
    }

    /// The same over TLS 1.2 with the cipher suites of BOSH's servers.
    pub(crate) fn endpoint_tls_1_2(&self) -> String {
        format!("https://{}:{}", self.host, self.ports.tls_1_2)
    }

    /// The same without TLS.
    pub(crate) fn plain_endpoint(&self) -> String {
        format!("http://{}:{}", self.host, self.ports.plain)
    }

    /// The same with a name that only a proxy can resolve.
    pub(crate) fn named(&self, endpoint: &str) -> String {
        endpoint.replace(&self.host, NAME)
    }

    /// A URL that grants fetching and storing to its holder.
    pub(crate) fn signed_url(&self, endpoint: &str, key: &str) -> String {
        format!("{endpoint}/signed/{key}?e=0&{SIGNATURE}")
    }

    /// The directory of the blobs.
    pub(crate) fn store(&self) -> PathBuf {
        self.prefix.path().join("store")
    }

    /// The directory of the objects behind signed URLs.
    pub(crate) fn signed(&self) -> PathBuf {
        self.prefix.path().join("signed")
    }

    /// The requests that contain this text, when there are `count` of them: method, path, status and bytes of each request. nginx writes
    /// them shortly after its response.
    #[track_caller]
    pub(crate) fn requests(&self, with: &str, count: usize) -> Vec<Request> {
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(self.prefix.path().join("logs/access.log")).unwrap();
            let found: Vec<Request> = log
                .lines()
                .filter(|line| line.contains(with))
                .map(Request::of)
                .collect();
            if found.len() >= count {
                assert_eq!(found.len(), count, "{log}");
                return found;
            }
            assert!(start.elapsed() < START, "{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The file that a request stored.
    pub(crate) fn stored_by(&self, request: &Request) -> PathBuf {
        self.store().join(request.path.trim_start_matches('/'))
    }
}

/// A logged request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// The received bytes, including the header.
    pub(crate) length: u64,
}

impl Request {
    fn of(line: &str) -> Self {
        let fields: Vec<&str> = line.split(' ').collect();
        Self {
            path: fields[1].to_owned(),
            length: fields[3].parse().unwrap(),
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // There is only one process.
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Ports {
    fn free() -> Self {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [tls, tls_1_2, plain] = listeners.map(|held| held.local_addr().unwrap().port());
        Self {
            tls,
            tls_1_2,
            plain,
        }
    }
}

/// A directory with the certificates of a server at this address. `None` if that is impossible; see [`Nginx::start`].
#[track_caller]
fn prepared(host: &str) -> Option<TempDir> {
    for program in ["nginx", "openssl"] {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program} >/dev/null")])
            .status();
        if !found.unwrap().success() {
            assert!(
                std::env::var_os("BOSH_AGENT_TEST_REQUIRE_ALL").is_none(),
                "{program} is not installed; integration/setup installs it"
            );
            eprintln!("skipped: {program} is not installed; integration/setup installs it");
            return None;
        }
    }
    let prefix = tempfile::tempdir().unwrap();
    for directory in ["store", "signed", "logs", "tmp"] {
        fs::create_dir(prefix.path().join(directory)).unwrap();
    }
    make_certificates(prefix.path(), host);
    Some(prefix)
}

fn configure(prefix: &Path, host: &str, ports: Ports) {
    let configuration = configuration(prefix, host, ports);
    fs::write(prefix.join("nginx.conf"), configuration).unwrap();
    let users = |users: &[(&str, &str)]| {
        let lines = users
            .iter()
            .map(|(name, password)| format!("{name}:{{PLAIN}}{password}\n"));
        lines.collect::<String>()
    };
    fs::write(prefix.join("read_users"), users(&[READER, WRITER])).unwrap();
    fs::write(prefix.join("write_users"), users(&[WRITER])).unwrap();
}

fn launch(prefix: &Path, ports: Ports) -> Option<Child> {
    configure(prefix, "127.0.0.1", ports);
    let log = File::create(prefix.join("logs/error.log")).unwrap();
    let mut child = Command::new("nginx")
        .arg("-p")
        .arg(prefix)
        .arg("-c")
        .arg(prefix.join("nginx.conf"))
        .args(["-e", "stderr"])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let start = Instant::now();
    loop {
        if TcpStream::connect(("127.0.0.1", ports.plain)).is_ok() {
            // Another process may have got the port meanwhile.
            return child.try_wait().unwrap().is_none().then_some(child);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(start.elapsed() < START, "nginx does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Locations and users are those of the Director's blobstore job. It checks signed URLs with a module that Debian's nginx lacks; here one
/// signature is valid.
fn configuration(prefix: &Path, host: &str, ports: Ports) -> String {
    let prefix = prefix.display();
    let Ports {
        tls,
        tls_1_2,
        plain,
    } = ports;
    let signature = SIGNATURE.trim_start_matches("st=");
    let user = if nix::unistd::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let common = format!(
        r#"
    ssl_certificate {prefix}/server.pem;
    ssl_certificate_key {prefix}/server.key;
    client_max_body_size {MAX_MIB}m;
    root {prefix}/store;
    location ~* ^/(?<object_id>[a-fA-F0-9][a-fA-F0-9]/.+) {{
      auth_basic "Blobstore Read";
      auth_basic_user_file {prefix}/read_users;
      dav_methods PUT DELETE;
      create_full_put_path on;
      dav_access user:rw group:r;
      limit_except GET {{
        auth_basic "Blobstore Write";
        auth_basic_user_file {prefix}/write_users;
      }}
    }}
    location ~ ^/signed/(?<key>.+)$ {{
      if ($arg_st != "{signature}") {{ return 403; }}
      alias {prefix}/signed/$key;
      dav_methods PUT;
      create_full_put_path on;
    }}
    location / {{ return 404; }}
"#
    );
    format!(
        r#"
daemon off;
master_process off;
{user}
pid {prefix}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  log_format asked '$request_method $uri $status $request_length';
  access_log {prefix}/logs/access.log asked;
  client_body_temp_path {prefix}/tmp/body;
  proxy_temp_path {prefix}/tmp/proxy;
  fastcgi_temp_path {prefix}/tmp/fastcgi;
  uwsgi_temp_path {prefix}/tmp/uwsgi;
  scgi_temp_path {prefix}/tmp/scgi;
  server {{
    listen {host}:{tls} ssl;
    listen {host}:{plain};
    ssl_protocols TLSv1.2 TLSv1.3;
{common}
  }}
  server {{
    listen {host}:{tls_1_2} ssl;
    ssl_protocols TLSv1.2;
    ssl_ciphers ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256;
{common}
  }}
}}
"#
    )
}

/// `ca.pem`, and `server.pem` with its key, signed by the CA.
fn make_certificates(directory: &Path, host: &str) {
    let extensions = format!("subjectAltName=IP:{host},DNS:{NAME}\n");
    fs::write(directory.join("extensions"), extensions).unwrap();
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=blobstore",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile extensions",
    ] {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

//! A running fake daemon, and requests to it by hand.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use philote::admin::api::*;
use philote::admin::server::Server;
use philote::admin::socket::{Access, Socket};

use crate::fake::{Fake, LOG, status};
use crate::output;

/// A running fake daemon, on a socket in its own directory.
pub(crate) struct Daemon {
    pub(crate) fake: Arc<Fake>,
    pub(crate) path: PathBuf,
    /// The socket for observers.
    pub(crate) observe: PathBuf,
    server: Option<Server>,
    // Last, so that the server can still remove its socket.
    scratch: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::with_mode(0o660)
    }

    pub(crate) fn with_mode(mode: u32) -> Self {
        LazyLock::force(&LOG);
        let scratch = tempfile::tempdir().unwrap();
        // Other users may reach the socket; only its mode keeps them out.
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = scratch.path().join("admin.sock");
        let reloaded = Reloaded {
            at: Timestamp::from_unix(1_795_344_300),
            applied: vec!["limits.queue_bytes".into(), "log.level".into()],
            needs_restart: vec!["listen".into()],
            closing: 2,
            dry_run: false,
        };
        let inspection = Inspection {
            accepted: true,
            reason: None,
            header: Some(serde_json::json!({"alg": "HS256"})),
            claims: Some(serde_json::json!({"read": ["chat"], "sub": "alice\u{202e}\u{1b}"})),
            signed_by: Some("secret, line 1".into()),
            expires_at: None,
        };
        let fake = Arc::new(Fake {
            status: Mutex::new(status()),
            checkup: Mutex::new(Checkup {
                version: env!("CARGO_PKG_VERSION").into(),
                max_connections: 255,
                observes_only: false,
                findings: Findings::of("secret").or_ok("the secret is in /s"),
            }),
            reload: Mutex::new(Ok(reloaded)),
            ready: Mutex::new(Ok(Ready { state: State::Serving })),
            inspection: Mutex::new(inspection),
            seen: Mutex::default(),
            gate: Mutex::default(),
        });
        let socket = Socket::bind(&path, mode, Access::Administer).unwrap();
        let observe = scratch.path().join("observe.sock");
        let observer = Socket::bind(&observe, 0o666, Access::Observe).unwrap();
        let server = Some(Server::start(vec![socket, observer], Arc::clone(&fake) as _).unwrap());
        Self { fake, path, observe, server, scratch }
    }

    pub(crate) fn stop(&mut self) {
        self.server.take().unwrap().stop();
    }

    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Sends these bytes and reads until the server closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        Self::raw_to(&self.path, bytes)
    }

    fn raw_to(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        // The server may answer and close before everything is written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let request = String::from_utf8_lossy(bytes);
        if !request.contains(" /v1/token ") && !request.contains(" /v1/secret ") {
            output::keep(&answer);
        }
        answer
    }

    /// Sends one request by hand, and returns the status code and the body.
    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let (code, body) = Self::ask(&self.path, method, path, body);
        (code, serde_json::from_str(&body).unwrap())
    }

    /// Sends one request to this socket, and returns the status code and the body as text.
    pub(crate) fn ask(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: philote\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = Self::raw_to(socket, request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(body.ends_with('\n'), "the answer must end with a newline, for users of curl");
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

//! A daemon with every kind of listener, and raw connections to each.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustls::version;

use crate::support::*;
use crate::tls::Authority;

/// How much the daemon's memory may grow while the client does not read, in bytes: a few answers, and allocator overhead.
pub const FLAT: u64 = 16 * 1024 * 1024;

pub trait Stream: Read + Write + Send {
    fn set_write_timeout(&self, timeout: Duration);

    /// Closes the sending side.
    fn stop_sending(&mut self);
}

impl Stream for TcpStream {
    fn set_write_timeout(&self, timeout: Duration) {
        TcpStream::set_write_timeout(self, Some(timeout)).unwrap();
    }

    fn stop_sending(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for UnixStream {
    fn set_write_timeout(&self, timeout: Duration) {
        UnixStream::set_write_timeout(self, Some(timeout)).unwrap();
    }

    fn stop_sending(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for crate::tls::Tls {
    fn set_write_timeout(&self, timeout: Duration) {
        self.sock.set_write_timeout(Some(timeout)).unwrap();
    }

    fn stop_sending(&mut self) {
        self.conn.send_close_notify();
        self.flush().unwrap();
        self.sock.shutdown(Shutdown::Write).unwrap();
    }
}

/// A daemon with every kind of listener.
pub struct Everywhere {
    pub daemon: Daemon,
    authority: Authority,
    tls: u16,
    proxy: u16,
    metrics: u16,
}

impl Everywhere {
    pub fn start(more: &str) -> Everywhere {
        let authority = Authority::new();
        let daemon = Daemon::start_with("", |command| {
            let home =
                command.get_envs().find(|(name, _)| *name == "HOME").and_then(|(_, home)| home).unwrap();
            let home = std::path::PathBuf::from(home);
            authority.issue(&home);
            config_file(
                &home,
                &format!(
                    "listen = [{{ address = '127.0.0.1:0', tls = false }}, {{ address = '127.0.0.2:0', tls = true }}, \
                     {{ address = '127.0.0.3:0', proxy_protocol = true, tls = false }}, 'unix:{0}/philote.sock']\n\
                     {more}\n[tls]\ncertificate = '{0}/cert.pem'\nkey = '{0}/key.pem'\n\
                     [metrics]\nlisten = '127.0.0.1:0'\n",
                    home.display()
                ),
            );
            command.env_remove("PORT");
        });
        let port = |text: &str| {
            let after = text.split("127.0.0.").nth(1).unwrap()[2..].to_owned();
            after.split(|one: char| !one.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let listeners = daemon.admin("GET", "/v1/status", "")["listeners"].clone();
        let (tls, proxy) = (port(listeners[1].as_str().unwrap()), port(listeners[2].as_str().unwrap()));
        let log = daemon.log();
        let metrics = port(log.split("the metrics are at ").nth(1).unwrap().lines().next().unwrap());
        Everywhere { daemon, authority, tls, proxy, metrics }
    }

    /// The address of a kind of listener for clients; `None` for the Unix socket.
    pub fn address(&self, kind: &str) -> Option<SocketAddr> {
        match kind {
            "plain" => Some(([127, 0, 0, 1], self.daemon.port).into()),
            "TLS" => Some(([127, 0, 0, 2], self.tls).into()),
            "PROXY" => Some(([127, 0, 0, 3], self.proxy).into()),
            _ => None,
        }
    }

    /// The path of the Unix socket for clients.
    pub fn socket(&self) -> PathBuf {
        self.daemon.directory.path().join("philote.sock")
    }

    /// Connects to a kind of listener for clients.
    pub fn connect(&self, kind: &str) -> Box<dyn Stream> {
        let tcp = |last: u8, port: u16| {
            let stream = TcpStream::connect(std::net::SocketAddr::from(([127, 0, 0, last], port))).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let unix = |name: &str| {
            let stream = UnixStream::connect(self.daemon.directory.path().join(name)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        match kind {
            "plain" => Box::new(tcp(1, self.daemon.port)),
            "TLS" => Box::new(self.authority.connect_to(tcp(2, self.tls), &[&version::TLS13])),
            "PROXY" => {
                let mut stream = tcp(3, self.proxy);
                stream.write_all(b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n").unwrap();
                Box::new(stream)
            }
            "unix" => Box::new(unix("philote.sock")),
            "admin" => Box::new(unix("admin.sock")),
            "metrics" => Box::new(tcp(1, self.metrics)),
            _ => unreachable!(),
        }
    }
}

pub const KINDS: [&str; 4] = ["plain", "TLS", "PROXY", "unix"];

/// Reads to the end, which may be a reset after the last byte.
pub fn read_all(stream: &mut dyn Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Splits off the first answer; returns its status and the rest.
pub fn first_answer(bytes: &[u8]) -> (u16, &[u8]) {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return (0, &[]) };
    let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
    let length = header(&head, "Content-Length").map_or(0, |length| length.parse().unwrap());
    (status(&head), bytes.get(end + 4 + length..).unwrap_or(&[]))
}

pub fn request(method: &str, path: &str, token: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

//! A link that a test can cut: forwards TCP connections to an address, holds their bytes back, closes them, or loses a message.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::nats::free_port;

/// Decides which messages to lose; gets each with its first line.
type Lose = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// A forwarded port of 127.0.0.1.
pub struct Proxy {
    pub port: u16,
    link: Arc<Link>,
}

#[derive(Default)]
struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    mode: Mode,
    /// Both ends of each connection.
    streams: Vec<TcpStream>,
    lose: Option<Lose>,
    lost: usize,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mode {
    #[default]
    Open,
    /// Bytes wait, as behind an unplugged cable.
    Held,
    /// Connections are closed, and new ones at once.
    Refused,
    Ended,
}

impl Proxy {
    pub fn start(target: SocketAddr) -> Proxy {
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let link = Arc::new(Link::default());
        let shared = link.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                match shared.state.lock().unwrap().mode {
                    Mode::Ended => return,
                    Mode::Refused => continue,
                    Mode::Open | Mode::Held => {}
                }
                if let Ok(server) = TcpStream::connect(target) {
                    shared.clone().forward(client, server);
                }
            }
        });
        Proxy { port, link }
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Holds all bytes back in both directions, without an event at either end.
    pub fn cut(&self) {
        self.link.set(Mode::Held);
    }

    /// Lets bytes and new connections through again.
    pub fn heal(&self) {
        self.link.set(Mode::Open);
    }

    /// Closes all connections and refuses new ones.
    pub fn sever(&self) {
        self.link.set(Mode::Refused);
        self.link.close();
    }

    /// Loses messages from the server for which this returns true.
    pub fn lose(&self, choose: impl FnMut(&[u8]) -> bool + Send + 'static) {
        self.link.state.lock().unwrap().lose = Some(Box::new(choose));
    }

    /// How many messages it has lost.
    pub fn lost(&self) -> usize {
        self.link.state.lock().unwrap().lost
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.set(Mode::Ended);
        self.link.close();
        // The thread that accepts ends with its next connection.
        let _ = TcpStream::connect(self.address());
    }
}

impl Link {
    fn set(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
        self.changed.notify_all();
    }

    fn close(&self) {
        for stream in self.state.lock().unwrap().streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn forward(self: Arc<Link>, client: TcpStream, server: TcpStream) {
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            self.state.lock().unwrap().streams.push(stream.try_clone().unwrap());
        }
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let up = self.clone();
        thread::spawn(move || up.pump(from, to, false));
        thread::spawn(move || self.pump(server, client, true));
    }

    /// Copies one direction until either end closes. From the server, whole protocol messages.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, from_server: bool) {
        let mut bytes = Vec::new();
        let mut block = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut block) {
            bytes.extend_from_slice(&block[..count]);
            let whole = if from_server { self.filter(&mut bytes) } else { std::mem::take(&mut bytes) };
            if !self.open() || to.write_all(&whole).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Waits while bytes are held back; false when the connection must end.
    fn open(&self) -> bool {
        let state = self.state.lock().unwrap();
        self.changed.wait_while(state, |state| state.mode == Mode::Held).unwrap().mode == Mode::Open
    }

    /// Takes the whole protocol messages from the front of `bytes`, without those to lose.
    fn filter(&self, bytes: &mut Vec<u8>) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        let (mut whole, mut at) = (Vec::new(), 0);
        while let Some(length) = protocol_message(&bytes[at..]) {
            let message = &bytes[at..at + length];
            let is_message = message.starts_with(b"MSG ") || message.starts_with(b"HMSG ");
            if is_message && state.lose.as_mut().is_some_and(|lose| lose(message)) {
                state.lost += 1;
            } else {
                whole.extend_from_slice(message);
            }
            at += length;
        }
        bytes.drain(..at);
        whole
    }
}

/// The length of the first protocol message: a line, and for a message what the line's last number counts.
fn protocol_message(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|end| end == b"\r\n")? + 2;
    let text = std::str::from_utf8(&bytes[..line]).unwrap_or("");
    // Between two servers, messages have other names.
    let is_message = ["MSG ", "HMSG ", "RMSG ", "LMSG "].iter().any(|name| text.starts_with(name));
    let payload = if is_message { text.trim_end().rsplit(' ').next()?.parse::<usize>().ok()? + 2 } else { 0 };
    (bytes.len() >= line + payload).then_some(line + payload)
}

/// How long a test looks before it says that nothing arrives through a cut link.
pub const SILENCE: Duration = Duration::from_millis(300);

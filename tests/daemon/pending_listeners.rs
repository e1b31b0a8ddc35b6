//! Connections without a token on every kind of listener: they block no client, and addresses count where they are known.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use crate::everywhere::{Everywhere, KINDS, Stream, first_answer};
use crate::support::*;

/// How many connections may be accepted and silent, and how many of them from one address.
const MAX_PENDING: usize = 4096;
const SHARE: usize = MAX_PENDING / 4 * 3;

/// How many connections may have a request in progress.
const MAX_SPEAKING: usize = 1024;

const REFUSED: &str = "philote_requests_refused_total{reason=\"max_pending\"}";
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn health(stream: &mut dyn Stream) -> u16 {
    stream.write_all(HEALTH).unwrap();
    first_answer(&crate::everywhere::read_all(stream)).0
}

/// Opens this many connections on one kind of listener, over TCP from seven addresses in turn, and sends `first` on each.
fn silent_connections(
    everywhere: &Everywhere,
    kind: &str,
    count: usize,
    first: &[u8],
) -> Vec<Box<dyn Stream>> {
    let one = |number: usize| -> Box<dyn Stream> {
        let mut stream: Box<dyn Stream> = match everywhere.address(kind) {
            None => Box::new(UnixStream::connect(everywhere.socket()).unwrap()),
            Some(address) => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let from = SocketAddr::from(([127, 0, 1, 1 + (number % 7) as u8], 0));
                socket.bind(&from.into()).unwrap();
                socket.connect(&address.into()).unwrap();
                Box::new(TcpStream::from(socket))
            }
        };
        stream.write_all(first).unwrap();
        stream
    };
    (0..count).map(one).collect()
}

#[test]
fn connections_without_a_token_on_one_listener_block_no_client_on_another() {
    let everywhere = Everywhere::start("[websocket]\nhandshake_timeout = \"60s\"\n");
    // The beginning of a TLS record, of a header of the PROXY protocol, and of a request, none of which is completed.
    let fills: [(&str, usize, &[u8]); 7] = [
        ("plain", MAX_PENDING, b""),
        ("TLS", MAX_PENDING, b""),
        ("TLS", MAX_SPEAKING, b"\x16\x03\x01\x02\x00\x01"),
        ("PROXY", MAX_PENDING, b""),
        ("PROXY", MAX_PENDING, b"PROXY TCP4 198.51"),
        ("unix", MAX_PENDING, b""),
        ("unix", MAX_SPEAKING, b"GET / HTTP/1.1\r\nX: "),
    ];
    let mut refused = 0;
    for (kind, places, first) in fills {
        let silent = silent_connections(&everywhere, kind, places + 8, first);
        let began = Instant::now();
        for honest in KINDS {
            assert_eq!(
                health(&mut *everywhere.connect(honest)),
                200,
                "{honest} beside {kind} with {first:?}"
            );
        }
        let first = String::from_utf8_lossy(first);
        println!("{kind} with {first:?}: clients of all listeners waited {:?}", began.elapsed());
        // The connection that made room is counted when it ends, shortly after.
        let (deadline, before) = (Instant::now() + PATIENCE, refused);
        while refused == before {
            refused = everywhere.daemon.metric(REFUSED);
            assert!(Instant::now() < deadline, "{kind} with {first:?}: nobody made room");
        }
        drop(silent);
        wait_until_all_have_shown_a_token(&everywhere.daemon);
    }
}

/// Waits until no connection without a token is left, because each holds a slot and a descriptor.
fn wait_until_all_have_shown_a_token(daemon: &Daemon) {
    let deadline = Instant::now() + PATIENCE;
    while daemon.metric("philote_connections_pending") > 0 {
        assert!(Instant::now() < deadline, "connections without a token are still open");
    }
}

#[test]
fn one_ipv6_network_gets_at_most_its_share_of_the_slots() {
    let everywhere = Everywhere::start("[websocket]\nhandshake_timeout = \"60s\"\n");
    let from = |network: u16, host: usize| {
        let header = format!("PROXY TCP6 2001:db8:0:{network:x}::{host:x} 2001:db8::1 4711 80\r\n");
        silent_connections(&everywhere, "PROXY", 1, header.as_bytes()).remove(0)
    };
    let silent: Vec<_> = (1..=SHARE).map(|host| from(1, host)).collect();
    let over: Vec<_> = (1..=50).map(|host| from(1, SHARE + host)).collect();
    assert_eq!(health(&mut *from(2, 1)), 200, "another network");
    let deadline = Instant::now() + PATIENCE;
    while everywhere.daemon.metric(REFUSED) < 50 {
        assert!(Instant::now() < deadline, "{}", everywhere.daemon.metric(REFUSED));
    }
    assert_eq!(everywhere.daemon.metric(REFUSED), 50);
    drop((silent, over));
}

#[test]
fn a_trusted_proxy_does_not_count_as_one_address() {
    let daemon = Daemon::start(
        "[limits]\ntrusted_proxies = [\"127.0.0.2\"]\n[websocket]\nhandshake_timeout = \"60s\"\n",
    );
    let silent: Vec<_> = (0..SHARE + 200).map(|_| daemon.connect_from(2)).collect();
    let mut other = daemon.connect_from(2);
    assert_eq!(health(&mut other), 200);
    assert_eq!(daemon.metric(REFUSED), 0, "the share of one address does not apply to a trusted proxy");
    drop(silent);
}

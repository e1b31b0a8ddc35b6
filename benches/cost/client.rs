//! The clients, in a separate process. Each step waits until every message of the step before has arrived.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use philote::bench::{TEXT, client_frame};
use philote::token::{Keys, NewToken, issue};

use super::{SECRET, Scenario};

/// Bytes of each message's data.
const DATA: [u8; 128] = [b'x'; 128];

struct Room {
    channel: String,
    members: Vec<TcpStream>,
    /// `None` where the members publish.
    publisher: Option<TcpStream>,
    next: usize,
}

pub(super) fn run(scenario: Scenario, rounds: usize, port: u16) {
    let keys = Keys::new([SECRET.as_bytes()]);
    let enter = |read: &[String], channel: &str| {
        let subject = scenario.subject.then(|| "somebody".to_owned());
        let write = Some(vec![channel.to_owned()]);
        let token = NewToken { read: read.to_vec(), write, subject, ..NewToken::default() };
        open(port, &issue(&token, &keys).unwrap())
    };
    let connect = |channel: &str| enter(&[channel.to_owned()], channel);
    wait();
    let mut rooms: Vec<Room> = (0..scenario.rooms)
        .map(|number| {
            let channel = format!("channel-{number:04}");
            let members = (0..scenario.readers).map(|_| connect(&channel)).collect();
            let publisher = (!scenario.mutual).then(|| enter(&[], &channel));
            Room { channel, members, publisher, next: 0 }
        })
        .collect();
    // After as many rounds as there are members, every outbox has grown before anything is counted.
    let warm = if scenario.mutual { scenario.readers } else { 2 };
    let mut opened: Vec<TcpStream> = (0..scenario.connects * warm).map(|_| connect("channel-0000")).collect();
    for _ in 0..warm {
        rooms.iter_mut().for_each(|room| publish(room, scenario.batch));
    }
    go_on();
    wait();
    for _ in 0..rounds {
        rooms.iter_mut().for_each(|room| publish(room, scenario.batch));
        opened.extend((0..scenario.connects).map(|_| connect("channel-0000")));
    }
    go_on();
}

/// Waits for the server's signal.
fn wait() {
    std::io::stdin().read_exact(&mut [0]).unwrap();
}

/// Tells the server that this step is done.
fn go_on() {
    std::io::stdout().write_all(b"!").unwrap();
    std::io::stdout().flush().unwrap();
}

fn open(port: u16, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cGhpbG90ZWN0bCBiZW5jaA==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Publishes a batch with one system call and waits until every reader has all of it.
fn publish(room: &mut Room, batch: usize) {
    let parts: [&[u8]; 5] = [b"{\"channel\":\"", room.channel.as_bytes(), b"\",\"data\":\"", &DATA, b"\"}"];
    let mut frames = Vec::new();
    (0..batch).for_each(|_| client_frame(TEXT, &parts, &mut frames));
    let from = room.next % room.members.len();
    room.next += 1;
    room.publisher.as_mut().unwrap_or(&mut room.members[from]).write_all(&frames).unwrap();
    let own = room.publisher.is_none().then_some(from);
    for (_, member) in room.members.iter_mut().enumerate().filter(|(at, _)| Some(*at) != own) {
        (0..batch).for_each(|_| receive(member));
    }
}

/// Reads one frame of 126 bytes or more.
fn receive(member: &mut TcpStream) {
    let mut header = [0; 4];
    member.read_exact(&mut header).unwrap();
    assert_eq!(header[..2], [0x81, 126]);
    let payload = usize::from(u16::from_be_bytes([header[2], header[3]]));
    member.read_exact(&mut vec![0; payload]).unwrap();
}

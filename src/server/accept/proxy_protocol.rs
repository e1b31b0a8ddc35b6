//! The PROXY protocol, versions 1 and 2: a header that a proxy sends before the first byte of its client.
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest header of version 1 (section 2.1).
const LONGEST_LINE: usize = 107;
/// The longest rest of a version 2 header. Addresses take 36 bytes; the remaining bytes are for extensions such as
/// names of certificates.
const LONGEST_REST: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header and nothing after it. `None` if the proxy connects for itself, such as for a health check.
///
/// # Errors
/// The peer sent something else (`InvalidData`), or has closed the connection.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if &start == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [command, family, lengths @ ..] = rest;
        let length = usize::from(u16::from_be_bytes(lengths));
        if length > LONGEST_REST {
            return Err(malformed());
        }
        let mut addresses = vec![0; length];
        stream.read_exact(&mut addresses).await?;
        return second(command, family, &addresses).ok_or_else(malformed);
    }
    // Byte by byte, because what follows the line must stay in the socket.
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_LINE || !line.starts_with(b"PROXY ") {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    std::str::from_utf8(&line).ok().and_then(first).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Parses version 1. The outer `Option` is `None` if the line is malformed.
fn first(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.strip_suffix("\r\n")?.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let mut address = || words.next()?.parse::<IpAddr>().ok();
    let (source, destination) = (address()?, address()?);
    // A sign is not part of a number here.
    let mut port = || words.next().filter(|word| !word.starts_with('+'))?.parse::<u16>().ok();
    let (port, _) = (port()?, port()?);
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (fits && words.next().is_none()).then(|| Some(SocketAddr::new(source.to_canonical(), port)))
}

/// Parses version 2.
fn second(command: u8, family: u8, addresses: &[u8]) -> Option<Option<SocketAddr>> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    // Unspecified, stream and datagram: others must be refused (section 2.2).
    if family & 0x0f > 2 {
        return None;
    }
    match (command, family >> 4) {
        // The addresses of a health check, or of a client of another family, must be ignored (section 2.2).
        (LOCAL, _) | (PROXY, 0 | 3) => Some(None),
        (PROXY, 1) => {
            let source: [u8; 4] = *addresses.first_chunk()?;
            let port = u16::from_be_bytes(*addresses.get(8..12)?.first_chunk()?);
            Some(Some(SocketAddr::new(source.into(), port)))
        }
        (PROXY, 2) => {
            let source: [u8; 16] = *addresses.first_chunk()?;
            let port = u16::from_be_bytes(*addresses.get(32..36)?.first_chunk()?);
            Some(Some(SocketAddr::new(IpAddr::from(source).to_canonical(), port)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of these bytes, and what is left.
    async fn of(bytes: &[u8]) -> (Result<Option<String>, io::ErrorKind>, usize) {
        let mut rest = bytes;
        let result = read(&mut rest).await;
        (
            result.map(|client| client.map(|client| client.to_string())).map_err(|error| error.kind()),
            rest.len(),
        )
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest, b"GET"].concat()
    }

    #[tokio::test]
    async fn both_versions_are_read_and_nothing_behind_them() {
        let v4 = [198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x67, 0x18, 0xec];
        let v6 = ["2001:db8::7", "::1"].map(|ip| ip.parse::<std::net::Ipv6Addr>().unwrap().octets()).concat();
        let extended = [&v4[..], &[4, 0, 1, 0]].concat();
        let longest = [&v4[..], &vec![0; LONGEST_REST - v4.len()]].concat();
        for (bytes, client) in [
            (b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 6380\r\nGET".to_vec(), Some("198.51.100.7:4711")),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 6380\r\nGET".to_vec(), Some("[2001:db8::7]:4711")),
            (b"PROXY UNKNOWN\r\nGET".to_vec(), None),
            (b"PROXY UNKNOWN a b c\r\nGET".to_vec(), None),
            (version_2(0x21, 0x11, &v4), Some("198.51.100.7:4711")),
            (version_2(0x21, 0x11, &extended), Some("198.51.100.7:4711")),
            (version_2(0x21, 0x11, &longest), Some("198.51.100.7:4711")),
            (version_2(0x21, 0x21, &[&v6[..], &v4[8..]].concat()), Some("[2001:db8::7]:4711")),
            (version_2(0x20, 0x00, &[]), None),
            (version_2(0x21, 0x31, &[0; 216]), None),
        ] {
            assert_eq!(of(&bytes).await, (Ok(client.map(str::to_owned)), 3), "{client:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_malformed() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE));
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 1 2 3\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 1 65536\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 +1 2\r\n".to_vec(),
            long.into_bytes(),
            version_2(0x21, 0x11, &[0; 11]),
            version_2(0x22, 0x11, &[0; 12]),
            version_2(0x11, 0x11, &[0; 12]),
            version_2(0x21, 0x1f, &[0; 12]),
            version_2(0x21, 0x11, &[0; LONGEST_REST + 1]),
        ] {
            assert_eq!(of(&bytes).await.0, Err(io::ErrorKind::InvalidData), "{bytes:?}");
        }
        assert_eq!(of(b"PROXY TCP4 198").await.0, Err(io::ErrorKind::UnexpectedEof));
    }
}

//! TLS on the daemon's own port: versions, a certificate replaced under traffic, slow readers, and bytes that are not TLS.

mod authority;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned, version};
use serde_json::json;

pub use self::authority::{Authority, Tls};
use crate::admin::{ctl, ctl_json};
use crate::support::*;
use crate::wire::frame;

const CONFIG: &str = "[tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'\n";

/// A daemon that speaks TLS with a certificate of this authority, with more lines of configuration.
pub fn start(authority: &Authority, more: &str) -> Daemon {
    Daemon::start_with(&format!("{CONFIG}{more}"), |command| {
        let home = command.get_envs().find(|(name, _)| *name == "HOME").and_then(|(_, home)| home).unwrap();
        authority.issue(Path::new(home));
    })
}

#[test]
fn both_tls_versions_carry_messages_and_close_cleanly() {
    let authority = Authority::new();
    let mut daemon = start(&authority, "");
    for version in [&version::TLS13, &version::TLS12] {
        let mut one = authority.client_of(&daemon, authority.connect(&daemon, &[version]));
        assert_eq!(one.stream().conn.protocol_version(), Some(version.version));
        assert_eq!(one.stream().conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut two = authority.client(&daemon);
        for data in ["hello".to_owned(), "x".repeat(60_000), "é".repeat(1000)] {
            one.publish("c", &data);
            assert_eq!(two.data(), data);
            two.publish("c", &data);
            assert_eq!(one.data(), data);
        }
    }
    daemon.wait_until("all have gone", |status| status["connections"] == 0);
    let mut one = authority.client(&daemon);
    let listener = daemon.admin("GET", "/v1/status", "")["listeners"][0].clone();
    assert_eq!(listener, format!("[::]:{} (TLS)", daemon.port));
    daemon.signal(Signal::TERM);
    // Reading to the end without an error needs a close_notify.
    assert_eq!(one.closed().0, 1001);
    assert_eq!(one.stream().read(&mut [0; 16]).unwrap(), 0, "a clean end");
    assert!(daemon.wait().success());
}

#[test]
fn fault_71_a_replaced_certificate_serves_new_connections_and_keeps_open_ones() {
    let (first, second) = (Authority::new(), Authority::new());
    let daemon = start(&first, "");
    let (mut one, mut two) = (first.client(&daemon), first.client(&daemon));
    second.issue(daemon.directory.path());
    for number in 0..200 {
        if number == 100 {
            let answer = daemon.admin("POST", "/v1/reload", "");
            assert_eq!(answer["applied"], json!(["tls.certificate"]), "{answer}");
        }
        one.publish("c", &number.to_string());
        assert_eq!(two.data(), number.to_string());
    }
    let mut three = second.client(&daemon);
    three.publish("c", "new");
    assert_eq!((one.data(), two.data()), ("new".into(), "new".into()));
    let mut refused = first.connect(&daemon, &[&version::TLS13]);
    assert!(refused.write_all(b"x").is_err(), "the old certificate is gone");

    // A pair that does not match changes nothing, and the error names the key and the line.
    std::fs::write(daemon.directory.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem())
        .unwrap();
    let answer = daemon.admin("POST", "/v1/reload", "").to_string();
    assert!(answer.contains("philote.toml:3: tls.key: the key in "), "{answer}");
    second.client(&daemon).settle();
    daemon.signal(Signal::HUP);
    daemon.wait_for_line("tls.key: the key in ");
    second.client(&daemon).settle();
}

#[test]
fn a_tls_reader_that_stops_is_closed_and_one_that_pauses_misses_nothing() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    let (mut writer, mut paused) = (authority.client(&daemon), authority.client(&daemon));
    // More than socket buffers and queue limits hold would make the reader too slow; this much only waits.
    let data = "y".repeat(50_000);
    let queued =
        |least: u64| move |status: &serde_json::Value| status["queued_bytes"].as_u64().unwrap() >= least;
    let mut sent = 0;
    while !queued(100_000)(&daemon.admin("GET", "/v1/status", "")) {
        writer.publish("c", &format!("{sent} {data}"));
        writer.settle();
        sent += 1;
        assert!(sent < 10_000);
    }
    for number in 0..sent {
        assert_eq!(paused.data(), format!("{number} {data}"));
    }
    writer.publish("c", "after");
    assert_eq!(paused.data(), "after");
    // The same, but the reader does not read again.
    let mut more = 0;
    let closing = || daemon.admin("GET", "/v1/connections", "").to_string().contains("slow_consumer");
    while !closing() {
        writer.publish("c", &data);
        writer.settle();
        more += 1;
        assert!(more < 10_000);
    }
    let (code, _, messages) = paused.closed();
    assert_eq!(code, 4413, "only whole frames arrive before the Close");
    assert!(!messages.is_empty());
    writer.settle();
}

#[test]
fn a_damaged_tls_record_ends_only_its_own_connection() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    let (mut writer, mut reader) = (authority.client(&daemon), authority.client(&daemon));
    for round in 0..20 {
        let mut damaged = authority.client(&daemon);
        // Unencrypted application data, in the middle of messages for this connection.
        let record = [&[23, 3, 3, 0, 32][..], &[0x55; 32]].concat();
        writer.publish("c", &format!("{round} before"));
        damaged.stream().sock.write_all(&record).unwrap();
        for number in 0..20 {
            writer.publish("c", &format!("{round} {number}"));
        }
        let told = loop {
            if let Err(error) = damaged.socket.read() {
                break error.to_string();
            }
        };
        assert!(told.contains("BadRecordMac"), "{told}");
        assert_eq!(reader.data(), format!("{round} before"));
        for number in 0..20 {
            assert_eq!(reader.data(), format!("{round} {number}"));
        }
    }
    writer.settle();
    reader.settle();
    daemon.wait_until("the others have gone", |status| status["connections"] == 2);
    assert_eq!(daemon.metric("philote_panics_total"), 0, "{}", daemon.log());
    assert!(!daemon.log().contains("internal error"), "{}", daemon.log());
}

#[test]
fn fault_72_a_stalled_handshake_and_plain_text_are_disconnected() {
    let authority = Authority::new();
    let daemon = start(&authority, "[websocket]\nhandshake_timeout = '1s'\n");
    let answer = daemon.exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status(&answer), 400);
    assert!(answer.contains("this port speaks TLS: connect with wss://"), "{answer}");
    daemon.exchange(vec![0xff; 1000]);
    daemon.exchange([0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]);
    // A hello that never ends, and one that never begins.
    daemon.exchange([0x16, 3, 1, 1, 0, 1]);
    daemon.exchange("");
    let ended = daemon.ended(5);
    let count = |reason: &str| ended.iter().filter(|row| row["reason"] == reason).count();
    assert_eq!(
        (count("bad_request"), count("tls_handshake"), count("request_timeout")),
        (1, 2, 2),
        "{ended:?}"
    );
    authority.client(&daemon).settle();
    assert!(!daemon.log().contains("internal error"), "{}", daemon.log());
}

/// The output of `openssl s_client` with these options and this input, against a daemon.
fn s_client(daemon: &Daemon, options: &[&str], typed: &str) -> String {
    let mut command = std::process::Command::new("openssl");
    command.args(["s_client", "-connect", &daemon.address().to_string()]).args(options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl, a Debian package that cannot be missing");
    // It may have exited without reading its input.
    let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn agreed(text: &str) -> bool {
    text.contains("Cipher is ") && !text.contains("Cipher is (NONE)")
}

/// All ciphers of OpenSSL, or all suites of TLS 1.3, that the daemon accepts.
fn ciphers(daemon: &Daemon, version: &str) -> Vec<String> {
    let (option, known) = match version {
        "-tls1_3" => {
            let suites = ["AES_256_GCM_SHA384", "AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256"];
            let weaker = ["AES_128_CCM_SHA256", "AES_128_CCM_8_SHA256"];
            ("-ciphersuites", suites.iter().chain(&weaker).map(|suite| format!("TLS_{suite}")).collect())
        }
        _ => {
            let list = ["ciphers", "-s", version, "ALL:COMPLEMENTOFALL:@SECLEVEL=0"];
            let output = std::process::Command::new("openssl").args(list).output().unwrap();
            let list = String::from_utf8(output.stdout).unwrap();
            let known: Vec<_> = list.trim().split(':').map(str::to_owned).collect();
            ("-cipher", known)
        }
    };
    assert!(known.len() > 4, "{known:?}");
    let agrees = |cipher: &String| {
        let level = if version == "-tls1_3" { "" } else { ":@SECLEVEL=0" };
        agreed(&s_client(daemon, &[version, option, &format!("{cipher}{level}")], ""))
    };
    known.into_iter().filter(agrees).collect()
}

#[test]
fn fault_72_openssl_finds_no_old_version_and_no_weak_cipher() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&daemon, &[version, "-cipher", "ALL:@SECLEVEL=0"], "");
        assert!(!agreed(&said) && said.contains("alert number"), "{version}: {said}");
    }
    let suites = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];
    assert_eq!(ciphers(&daemon, "-tls1_3"), suites);
    let strong = |kind: &str| {
        let ciphers = ["AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-GCM-SHA256"];
        ciphers.map(|cipher| format!("ECDHE-{kind}-{cipher}"))
    };
    assert_eq!(ciphers(&daemon, "-tls1_2"), strong("ECDSA"));
    // The other kind of certificate allows further ciphers.
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "30"];
    let output = std::process::Command::new("openssl")
        .current_dir(daemon.directory.path())
        .args(request.iter().chain(&["-keyout", "key.pem", "-out", "cert.pem"]))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], json!(["tls.certificate"]));
    assert_eq!(ciphers(&daemon, "-tls1_2"), strong("RSA"));
}

#[test]
fn openssl_finds_no_renegotiation_no_compression_and_one_protocol() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    let said = s_client(&daemon, &["-tls1_2"], "R\n");
    assert!(agreed(&said) && said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    let said = s_client(&daemon, &["-tls1_2", "-comp"], "");
    assert!(
        said.contains("Compression: NONE") && said.contains("Secure Renegotiation IS supported"),
        "{said}"
    );
    let said = s_client(&daemon, &["-alpn", "h2,http/1.1"], "");
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    let said = s_client(&daemon, &["-alpn", "h2"], "");
    assert!(said.contains("alert no application protocol"), "{said}");
    // There is only one certificate, whatever name is requested, or none.
    for name in [&["-servername", "localhost"][..], &["-servername", "example.org"], &["-noservername"]] {
        let said = s_client(&daemon, name, "");
        assert!(agreed(&said) && said.contains("BEGIN CERTIFICATE"), "{name:?}: {said}");
    }
    // A client that reconnects can resume its session.
    let session = daemon.directory.path().join("session");
    let session = session.to_str().unwrap();
    s_client(&daemon, &["-tls1_2", "-sess_out", session], "");
    assert!(s_client(&daemon, &["-tls1_2", "-sess_in", session], "").contains("Reused, "));
    authority.client(&daemon).settle();
}

#[test]
fn fault_62_a_certificate_with_another_key_exits_78_and_fails_the_check() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    authority.issue(directory.path());
    std::fs::write(directory.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    config_file(directory.path(), CONFIG);
    for arguments in [&[][..], &["--check"]] {
        let output = philote(directory.path()).env("SECRET", SECRET).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("philote.toml:3: tls.key: the key in ") && !said.contains("PRIVATE"), "{said}");
    }
}

#[test]
fn fault_71_an_expiring_certificate_is_reported_in_log_status_and_metrics() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    assert_eq!(daemon.admin("GET", "/v1/status", "")["tls"]["warning"], false);
    // An hour less than this number of days, so that the number of whole days does not depend on a second.
    for (hours, sentence) in
        [(20 * 24 - 1, "expires in 19 days"), (5 * 24 - 1, "expires in 4 days"), (-24, "expired at ")]
    {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let left: i64 = hours * 3_600;
        let end = i64::try_from(unix_now()).unwrap() + left;
        params.not_after = (std::time::UNIX_EPOCH + Duration::from_secs(end.cast_unsigned())).into();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        std::fs::write(daemon.directory.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(daemon.directory.path().join("key.pem"), key.serialize_pem()).unwrap();
        assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], json!(["tls.certificate"]));
        daemon.wait_for_line(sentence);
        let tls = daemon.admin("GET", "/v1/status", "")["tls"].clone();
        assert_eq!(tls["warning"], true, "{tls}");
        let seconds = tls["expires_in_seconds"].as_i64().unwrap();
        assert!((left - 3_600..=left).contains(&seconds), "{tls}");
        assert_eq!(daemon.metric("philote_tls_certificate_expiry_timestamp_seconds"), end.cast_unsigned());
    }
}

#[test]
fn bench_loads_a_server_behind_tls() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    let file = |name: &str, text: &str| {
        let path = daemon.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, secret) = (file("ca.pem", &authority.pem), file("secret", SECRET));
    let url = format!("wss://localhost:{}", daemon.port);
    let pid = daemon.pid().to_string();
    let load = [
        &["bench", "fanout", "rooms", "idle", "--connections", "20", "--rooms", "2", "--in-flight", "1"][..],
        &["--duration", "200ms", "--subject", "somebody", "--secret-file", &secret, "--pid", &pid],
    ]
    .concat();
    let (code, text) = ctl(&daemon, &[&load[..], &["--url", &url, "--ca", &ca, "--json"]].concat());
    let answer: serde_json::Value = serde_json::from_str(&text[text.find("{\n").unwrap()..]).unwrap();
    let rows = answer["scenarios"].as_array().unwrap();
    assert_eq!((code, rows.len()), (0, 3), "{text}");
    for row in rows {
        assert_eq!((&row["lost"], &row["out_of_order"]), (&json!(0), &json!(0)), "{row}");
    }
    assert!(
        rows[0]["deliveries"].as_u64() > Some(0) && rows[0]["floor_time_per_delivery"].is_f64(),
        "{text}"
    );
    assert!(rows[2]["memory_per_connection"].is_u64(), "{text}");
    daemon.wait_until("its connections have gone", |status| status["connections"] == 0);
    let publishers = ctl_json(&daemon, &["connections", "--state", "closed", "--subject", "somebody"]);
    assert_eq!(publishers["matched"], 1 + 20 + 20, "publishers of fanout, rooms and idle");

    let (code, text) = ctl(&daemon, &[&load[..], &["--url", &url]].concat());
    assert!(code == 1 && text.contains("no TLS connection to ") && text.contains("--ca FILE"), "{text}");
}

#[test]
fn a_get_on_a_tls_port_gets_an_error_that_names_wss() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    let mut stream = authority.connect(&daemon, &[&version::TLS13]);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), 426);
    assert_eq!(body_of(&answer)["message"], "this is a WebSocket server: connect with wss://");
}

/// A socket that counts the records of application data which are read from it.
struct Counted {
    stream: TcpStream,
    /// The header of the record that is being read, and the bytes of its body that are still to come.
    header: Vec<u8>,
    left: usize,
    records: usize,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(buffer)?;
        for byte in &buffer[..count] {
            if self.left > 0 {
                self.left -= 1;
                continue;
            }
            self.header.push(*byte);
            if let [kind, _, _, high, low] = self.header[..] {
                self.records += usize::from(kind == 23);
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
            }
        }
        Ok(count)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

#[test]
fn a_message_is_one_record_and_a_batch_few() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    let Tls { conn, sock: stream } = authority.connect(&daemon, &[&version::TLS13]);
    let counted = Counted { stream, header: Vec::new(), left: 0, records: 0 };
    let mut reader = authority.client_of(&daemon, StreamOwned::new(conn, counted));
    let mut writer = authority.client(&daemon);
    writer.publish("c", "first");
    assert_eq!(reader.data(), "first");
    let records = |reader: &mut Client<StreamOwned<ClientConnection, Counted>>, expected: usize| {
        let before = reader.stream().sock.records;
        (0..expected).for_each(|_| drop(reader.data()));
        reader.stream().sock.records - before
    };
    writer.publish("c", "a small one");
    assert_eq!(records(&mut reader, 1), 1);
    // A record has at most 16 KiB.
    writer.publish("c", &"x".repeat(60_000));
    assert_eq!(records(&mut reader, 1), 4);
    // Frames that arrive in one record of the client are one batch.
    let message = json!({"channel": "c", "data": "one of many"}).to_string();
    let batch = frame(0x81, message.as_bytes()).repeat(16);
    writer.stream().write_all(&batch).unwrap();
    writer.stream().flush().unwrap();
    assert_eq!(records(&mut reader, 16), 1);
}

/// Connects with the sessions that `config` remembers, and returns whether one was resumed.
fn resumes(daemon: &Daemon, config: &Arc<ClientConfig>) -> bool {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config.clone(), name).unwrap();
    let mut stream = StreamOwned::new(connection, daemon.connect());
    // The ticket comes before the answer.
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stream.conn.handshake_kind().unwrap() == HandshakeKind::Resumed
}

#[test]
fn fault_71_a_session_outlives_a_reload_but_not_its_certificate() {
    let authority = Authority::new();
    let daemon = start(&authority, "");
    let reload = |applied: serde_json::Value| {
        assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], applied);
    };
    for version in [&version::TLS13, &version::TLS12] {
        let config = authority.config(&[version]);
        assert!(!resumes(&daemon, &config));
        // Each client shares the keys of the tickets, whichever connection gave it one.
        assert!(resumes(&daemon, &config));
        reload(json!([]));
        assert!(resumes(&daemon, &config), "the same certificate");
        // A certificate may be replaced because its key is known to others.
        authority.issue(daemon.directory.path());
        reload(json!(["tls.certificate"]));
        assert!(!resumes(&daemon, &config), "another certificate");
        assert!(resumes(&daemon, &config));
    }
}

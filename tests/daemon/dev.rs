//! `philote --dev`: its output, and the page that only it serves.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Daemon, header, philote, sign, sign_with, status, upgrade};
use crate::terminal::OnTerminal;

const SECRET: &str = "everybody-knows-this-secret-of-philote-dev";

fn text(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn start() -> Daemon {
    let directory = TempDir::new().unwrap();
    let mut command = philote(directory.path());
    command.env("PORT", "0").arg("--dev");
    Daemon::spawn(command, directory)
}

#[test]
fn dev_warns_in_red_and_prints_a_valid_token() {
    let directory = TempDir::new().unwrap();
    let mut command = philote(directory.path());
    let mut terminal = OnTerminal::start(command.env("PORT", "0").arg("--dev"));
    terminal.see("\x1b[31;1mfor development only: the secret of philote --dev is public");
    terminal.see(SECRET);
    let shown = terminal.see("\ntoken   ").to_owned();
    let address = shown.split("page    http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let token = loop {
        let shown = terminal.see("\ntoken   ");
        match shown.split("\ntoken   ").nth(1).and_then(|rest| rest.split_once('\r')) {
            Some((token, _)) => break token.to_owned(),
            None => {
                terminal.more();
            }
        }
    };
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = upgrade(&token, "").replace("Host: x", "Host: localhost");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
}

#[test]
fn dev_serves_the_page_and_its_client_and_changes_no_other_route() {
    let daemon = start();
    let get = |path: &str| {
        daemon.exchange(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    };
    let page = get("/");
    assert_eq!(status(&page), 200);
    assert_eq!(header(&page, "content-type"), Some("text/html; charset=utf-8"));
    let policy = header(&page, "content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self' 'sha256-"), "{policy}");
    assert!(text(&page).contains("for development only"));
    assert!(text(&page).contains(SECRET), "the page must sign with the daemon's secret");
    let client = get("/philote.js");
    assert_eq!(header(&client, "content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(text(&client), include_str!("../../packaging/npm/philote.js"));
    assert_eq!(status(&get("/other")), 426);

    let token = sign_with(&json!({"read": ["c"]}), SECRET);
    daemon.try_client(&token).unwrap().settle();
}

/// A daemon on its own terminal, which closes when the file is dropped.
fn on_own_terminal(script: &str) -> (Daemon, std::fs::File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let directory = TempDir::new().unwrap();
    let inner = philote(directory.path());
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(inner.get_program()).env_clear();
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    let slave =
        std::fs::File::options().read(true).write(true).custom_flags(O_NOCTTY).open(name.to_str().unwrap());
    command.stdin(slave.unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("PORT", "0");
    (Daemon::spawn(command, directory), master.into())
}

/// The flags of open(2): the test itself must not get the terminal.
const O_NOCTTY: i32 = 0o400;

#[test]
fn dev_ends_with_its_terminal_and_reloads_at_any_other_hangup() {
    // The program that started the tests may ignore hangups.
    let (mut daemon, terminal) = on_own_terminal("exec env --default-signal=HUP setsid --ctty \"$0\" --dev");
    daemon.signal(Signal::HUP);
    daemon.wait_for_line("reloaded");
    drop(terminal);
    daemon.wait_for_line("the terminal is gone: stopping");
    assert!(daemon.wait().success());

    for survives in ["exec setsid --ctty \"$0\"", "trap '' HUP; exec setsid --ctty \"$0\" --dev"] {
        let (daemon, terminal) = on_own_terminal(survives);
        drop(terminal);
        daemon.wait_for_line("reloaded");
        let health = daemon.exchange("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&health), 200, "{survives}");
    }
}

/// Any page that is open in the developer's browser could connect, and knows the secret.
#[test]
fn dev_refuses_other_sites_and_rebound_names_on_every_route() {
    let daemon = start();
    let token = sign_with(&json!({"read": ["c"], "write": ["c"], "api": true}), SECRET);
    let body = r#"{"channel": "c", "data": "x"}"#;
    let routes = [
        ("GET / HTTP/1.1", "", 200),
        ("GET /philote.js HTTP/1.1", "", 200),
        ("GET /health HTTP/1.1", "", 200),
        ("GET /api/openapi.json HTTP/1.1", "", 200),
        ("GET /api/channels HTTP/1.1", "", 200),
        ("POST /api/publish HTTP/1.1", body, 200),
    ];
    let ask = |(line, body, _): (&str, &str, u16), headers: &str| {
        status(&daemon.exchange(format!(
            "{line}\r\n{headers}Connection: close\r\nAuthorization: Bearer {token}\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )))
    };
    let connect = |headers: &str| {
        let host = headers.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap();
        let rest: String = headers
            .lines()
            .filter(|line| !line.starts_with("Host: "))
            .map(|line| format!("{line}\r\n"))
            .collect();
        let request = upgrade(&token, &rest).replace("Host: x", &format!("Host: {host}"));
        let mut stream = daemon.connect();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[9..]).parse::<u16>().unwrap()
    };
    let port = daemon.port;
    for good in [
        format!("Host: localhost:{port}\r\n"),
        format!("Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"),
        "Host: [::1]\r\nOrigin: http://localhost:5173\r\n".into(),
        "Host: app.localhost\r\nOrigin: https://LOCALHOST\r\n".into(),
        "Host: 127.9.9.9\r\n".into(),
    ] {
        for route in routes {
            assert_eq!(ask(route, &good), route.2, "{} {good}", route.0);
        }
        assert_eq!(connect(&good), 101, "{good}");
    }
    for bad in [
        "Host: evil.test\r\n".to_owned(),
        format!("Host: evil.test:{port}\r\nOrigin: http://evil.test:{port}\r\n"),
        "Host: localhost.evil.test\r\n".into(),
        "Host: 127.0.0.1.evil.test\r\n".into(),
        "Host: 10.0.0.1\r\n".into(),
        "Host: localhost\r\nOrigin: https://evil.test\r\n".into(),
        "Host: localhost\r\nOrigin: null\r\n".into(),
        "Host: localhost\r\nOrigin: http://localhost.evil.test\r\n".into(),
        "Host: localhost\r\nOrigin: http://localhost@evil.test\r\n".into(),
        "Host: localhost\r\nOrigin: chrome-extension://localhost\r\n".into(),
    ] {
        for route in routes {
            assert_eq!(ask(route, &bad), 403, "{} {bad}", route.0);
        }
        assert_eq!(connect(&bad), 403, "{bad}");
    }
    let two_origins = "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: https://evil.test\r\n";
    for route in routes {
        assert_eq!(ask(route, two_origins), 400, "{}", route.0);
    }
    assert_eq!(connect(two_origins), 400);
    let listed = {
        let directory = TempDir::new().unwrap();
        let mut command = philote(directory.path());
        command.env("PORT", "0").env("PHILOTE_WEBSOCKET_ALLOWED_ORIGINS", "https://app.test").arg("--dev");
        Daemon::spawn(command, directory)
    };
    let answer = |origin| {
        status(&listed.exchange(format!(
            "GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n"
        )))
    };
    assert_eq!((answer("https://app.test"), answer("https://evil.test")), (200, 403));
}

#[test]
fn without_dev_the_page_is_not_served() {
    let daemon = Daemon::start("");
    for path in ["/", "/philote.js"] {
        let answer = daemon.exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(status(&answer), 426, "{path}");
    }
    let token = sign(&json!({"read": ["c"]}));
    daemon.try_client(&token).unwrap().settle();
}

#[test]
fn dev_refuses_public_addresses_and_survives_a_closed_output() {
    let directory = TempDir::new().unwrap();
    let mut command = philote(directory.path());
    let output = command.args(["--dev", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("0.0.0.0:0 is reachable from other machines"));

    let mut command = philote(directory.path());
    command.env("PORT", "0").arg("--dev").stdout(Stdio::null());
    Daemon::spawn(command, directory);
}

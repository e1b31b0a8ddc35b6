//! Network namespaces with two links: one to NATS, which tests cut, and one to clients. Needs root.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A namespace, which ends with its links when this is dropped.
pub struct Namespace {
    name: String,
    number: u8,
}

impl Namespace {
    pub fn new() -> Namespace {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let namespace = Namespace { name: format!("ph{}-{number}", std::process::id()), number };
        namespace.ip(&["netns", "add", &namespace.name]);
        for (link, inside) in [("n", namespace.nats_address()), ("c", namespace.client_address())] {
            let outside = namespace.outside(link);
            let gateway = Ipv4Addr::from(u32::from(inside) - 1);
            let of = ["-n", &namespace.name];
            namespace.ip(&["link", "add", &outside, "type", "veth", "peer", "name", link, "netns", of[1]]);
            namespace.ip(&["address", "add", &format!("{gateway}/30"), "dev", &outside]);
            namespace.ip(&["link", "set", "dev", &outside, "up"]);
            namespace.ip(&[&of[..], &["address", "add", &format!("{inside}/30"), "dev", link]].concat());
            namespace.ip(&[&of[..], &["link", "set", "dev", link, "up"]].concat());
        }
        namespace.ip(&["-n", &namespace.name, "link", "set", "dev", "lo", "up"]);
        namespace
    }

    /// The address at which what runs inside reaches a NATS server outside.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.nats_address()) - 1)
    }

    /// The address at which clients outside reach what runs inside.
    pub fn client_address(&self) -> Ipv4Addr {
        self.address(6)
    }

    fn nats_address(&self) -> Ipv4Addr {
        self.address(2)
    }

    /// Two networks of four addresses. Test programs that run at the same time have different ones.
    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 64 + (std::process::id() % 128) as u8, self.number, last)
    }

    /// Cuts the link to NATS.
    pub fn cut(&self) {
        self.ip(&["link", "set", "dev", &self.outside("n"), "down"]);
    }

    pub fn heal(&self) {
        self.ip(&["link", "set", "dev", &self.outside("n"), "up"]);
    }

    fn outside(&self, link: &str) -> String {
        format!("{}{link}", self.name)
    }

    /// The same command, to run inside.
    pub fn enter(&self, plain: &Command) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(plain.get_program())
            .args(plain.get_args())
            .env_clear();
        for (name, value) in plain.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    }

    fn ip(&self, arguments: &[&str]) {
        let output = Command::new("ip").args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "this test needs root and iproute2: ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // With the namespace go the inner ends of its links, and with these the outer ones.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

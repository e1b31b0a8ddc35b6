//! `philotectl bench` for servers that are not Philote: the same clients, scenarios and figures, spoken in their
//! protocols. `benches/run peers` starts the servers.

#![allow(clippy::unwrap_used, reason = "a measurement that fails should say where")]

mod mqtt;
mod nats;
mod uwebsockets;

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use philote::bench::{BenchError, Dialect, Measured, Options, Philote, Rights, Target, locate, run};
use philote::token::{Keys, NewToken, issue};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Server {
    Philote,
    Nats,
    Mosquitto,
    Uwebsockets,
}

#[derive(Parser)]
struct Arguments {
    /// The server whose protocol the clients speak
    #[arg(long)]
    server: Server,
    /// The secret that signs Philote's tokens
    #[arg(long, default_value = "")]
    secret: String,
    #[command(flatten)]
    options: Options,
    /// cargo bench adds this flag
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        return println!("benches/run peers starts the servers and calls this program");
    }
    let arguments = Arguments::parse();
    let (address, _) = locate(arguments.options.url.as_deref().unwrap(), None).unwrap();
    let measured = match arguments.server {
        Server::Philote => {
            let keys = Keys::new([arguments.secret.as_bytes()]);
            load(&arguments.options, Philote, address, |rights| Ok(sign(rights, &keys)))
        }
        Server::Nats => load(&arguments.options, nats::Nats, address, |_| Ok(String::new())),
        Server::Mosquitto => load(&arguments.options, mqtt::Mqtt, address, |_| Ok(String::new())),
        Server::Uwebsockets => {
            load(&arguments.options, uwebsockets::Uwebsockets, address, |_| Ok(String::new()))
        }
    };
    println!("{}", serde_json::to_string(&measured.unwrap()).unwrap());
}

fn load<D: Dialect + Copy>(
    options: &Options,
    dialect: D,
    address: SocketAddr,
    tokens: impl FnMut(&Rights<'_>) -> Result<String, BenchError>,
) -> Result<Measured, BenchError> {
    run(options, &Target { dialect, address, tls: None, pid: options.pid, free: None }, tokens)
}

fn sign(rights: &Rights<'_>, keys: &Keys) -> String {
    let channel = |wanted: bool| if wanted { vec![rights.channel.to_owned()] } else { Vec::new() };
    let subject = rights.subject.map(str::to_owned);
    let token = NewToken {
        read: channel(rights.reads),
        write: Some(channel(rights.writes)),
        subject,
        ..NewToken::default()
    };
    issue(&token, keys).unwrap()
}

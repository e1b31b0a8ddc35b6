//! The daemon's own connection code, except that each message is returned to its sender. For tests/autobahn.
//!
//! The arguments are an address and a value of `[websocket] compression`. Prints `listening on HOST:PORT/?auth=TOKEN` and serves
//! until it is ended.

use philote::config::{Environment, Overrides, load};
use philote::server::{Server, accept_loop, listener};
use philote::token::{NewToken, issue};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let secret = "no secret at all, for an echo on loopback";
    let compression = std::env::args().nth(2).unwrap_or_else(|| "off".to_owned());
    // A text of 12.4.9 has 65,536 characters and more bytes.
    let environment = [
        ("SECRET", secret),
        ("PHILOTE_WEBSOCKET_COMPRESSION", &compression),
        ("PHILOTE_WEBSOCKET_MAX_MESSAGE_SIZE", "128KiB"),
    ];
    let settings = load(&Overrides::default(), &Environment::new(environment))?.settings;
    let server = Server::new(settings, 1024);
    let token = issue(&NewToken::default(), &server.live().keys)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener::bind(address)?)?;
        println!("listening on {}/?auth={token}", listener.local_addr()?);
        tokio::spawn(server.clone().look_after());
        accept_loop::run(server, listener).await;
        Ok(())
    })
}

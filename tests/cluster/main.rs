//! Several nodes as processes, with NATS servers that are killed, frozen, cut off and given older stores.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "shared with the other tests")]
#[path = "../daemon/body.rs"]
mod body;
#[allow(dead_code, reason = "shared with the other tests")]
#[path = "../daemon/output.rs"]
mod output;
#[allow(dead_code, reason = "shared with tests/daemon")]
#[path = "../daemon/sse/client.rs"]
mod sse_client;
#[allow(dead_code, reason = "shared with tests/daemon")]
#[path = "../daemon/support.rs"]
mod support;
#[allow(dead_code, reason = "shared with tests/daemon")]
#[path = "../daemon/wire.rs"]
mod wire;

mod clients;
mod namespace;
mod nats;
mod nats_client;
mod node;
mod proxy;
mod traffic;

mod delivery;
mod events;
mod explain;
mod fixture;
mod holes;
mod hostile;
mod joins;
mod keys;
mod links;
mod log;
mod log_links;
mod log_order;
mod log_reading;
mod login;
mod mistakes;
mod moves;
mod outages;
mod permissions;
mod presence;
mod presence_bounds;
mod presence_chance;
mod refusals;
mod reload;
mod rewritten;
mod steering;
mod steering_bounds;

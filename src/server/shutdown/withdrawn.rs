//! Connections whose token was signed with a key that is no longer in force.

use uuid::Uuid;

use crate::hub::{Connection, Hub};
use crate::token::Keys;

/// Returns the connections whose key is not among `keys`.
pub(crate) fn withdrawn(hub: &Hub, keys: &Keys) -> Vec<Uuid> {
    let mut withdrawn = Vec::new();
    hub.each_connection(|connection| {
        if is_withdrawn(connection, keys) {
            withdrawn.push(connection.id());
        }
    });
    withdrawn
}

/// Returns whether the key of a connection's token is not among `keys`.
pub(super) fn is_withdrawn(connection: &Connection, keys: &Keys) -> bool {
    connection.claims().key.as_ref().is_some_and(|key| !keys.contains(key))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::runtime::Handle;

    use super::*;
    use crate::close::CloseReason;
    use crate::config::{Environment, Overrides, Settings, load};
    use crate::server::Server;
    use crate::token::{NewToken, issue, verify};

    const HOUR: Duration = Duration::from_secs(3_600);

    fn settings(number: usize) -> Settings {
        let secret: &'static str =
            format!("secret number {number} of more than thirty-two characters").leak();
        load(&Overrides::default(), &Environment::new([("SECRET", secret)])).unwrap().settings
    }

    #[tokio::test(start_paused = true)]
    async fn many_reloads_that_withdraw_a_key_leave_one_task() {
        let server = Server::new(settings(0), 1024);
        let live = server.live_owned();
        let token = issue(&NewToken::default(), &live.keys).unwrap();
        let enter = || {
            let claims = verify(&token, &live.keys, &live.policy, 0).unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let connection =
                Connection::new(address, Arc::new(claims), server.hub.budget().clone(), server.now());
            let connection = Arc::new(connection);
            server.hub.enter(&connection);
            connection
        };
        let connections: Vec<_> = (0..1_000).map(|_| enter()).collect();
        for number in 1..=100 {
            assert!(server.reload(settings(number), HOUR) > 0);
            tokio::task::yield_now().await;
        }
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
        tokio::time::sleep(HOUR + HOUR).await;
        for connection in &connections {
            assert_eq!(connection.outbox.closing(), Some(CloseReason::KeyWithdrawn));
        }
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }
}

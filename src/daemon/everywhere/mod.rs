//! The admin socket's lists and orders for all nodes of a cluster.
//!
//! Each is done here first, then by the other nodes ([`remote`]), and [`merge`] makes one answer of all.

mod merge;
mod remote;

use std::sync::Arc;

use tokio::runtime::Handle;

use self::merge::Mergeable;
use self::remote::{CHANNELS, CLOSED, CONNECTIONS, EXPLAIN};
use super::actions::Actions;
use super::explain::Scope;
use super::{explain, lists};
use crate::admin::api::{
    ChannelQuery, Channels, ClosedConnections, ClosedQuery, ClusterNode, ClusterNodes, Code, ConnectionQuery,
    Connections, DisconnectRequest, Disconnected, ExplainQuery, Explanation, Failure, Lifted, Link,
    RefusedQuery, RefusedSubjects, Timestamp,
};
use crate::cluster::Node;
use crate::cluster::steering::Wait;
use crate::message::MessageId;
use crate::server::Server;
use crate::server::ops::everywhere::{
    Reach, add_counts_of_others, disconnect_others, exchange_bans, lift_others, resolve_everywhere,
};
use crate::server::ops::list::ChannelCounts;

/// Lists and orders of the admin socket.
pub(super) struct Everywhere {
    server: Arc<Server>,
    actions: Actions,
    /// The runtime of the connections and of the cluster.
    runtime: Handle,
}

impl Everywhere {
    /// Acts on `server`, whose tasks run on `runtime`, and on the other nodes of its cluster. Carries out what these ask.
    pub(super) fn new(server: Arc<Server>, runtime: Handle) -> Everywhere {
        remote::listen(&server, &runtime);
        Everywhere { actions: Actions::new(server.clone(), runtime.clone()), server, runtime }
    }

    pub(super) fn actions(&self) -> &Actions {
        &self.actions
    }

    /// Asks the other nodes for their parts of a list, and returns one list.
    fn list<Q: Clone + serde::Serialize, L: Mergeable<Q>>(
        &self,
        kind: &str,
        query: &Q,
        local: bool,
        here: impl FnOnce(&Q) -> L,
    ) -> L {
        let reach = Reach::of(&self.server, local);
        let Reach::All(cluster) = &reach else {
            let mut list = here(query);
            // Of this node only; `nodes` says why.
            list.set_coverage(self.runtime.block_on(reach.gather::<(), L>(kind, &())).1);
            return list;
        };
        let wide = L::widened(query);
        let mut list = here(&wide);
        list.name(&cluster.node().name);
        let (parts, coverage) = self.runtime.block_on(reach.gather::<Q, L>(kind, &wide));
        for (node, mut part) in parts {
            part.name(&node);
            list.merge(part);
        }
        list.finish(query);
        list.set_coverage(coverage);
        list
    }

    pub(super) fn connections(&self, query: &ConnectionQuery) -> Connections {
        self.list(CONNECTIONS, query, query.local, |query| lists::connections(&self.server, query))
    }

    pub(super) fn closed(&self, query: &ClosedQuery) -> ClosedConnections {
        self.list(CLOSED, query, query.local, |query| lists::closed(&self.server, query))
    }

    /// Tells what a subject has got of a channel, and what became of one message.
    pub(super) fn explain(&self, query: &ExplainQuery) -> Result<Explanation, Failure> {
        let id = match query.id.as_deref().map(MessageId::parse) {
            Some(MessageId::NONE) => {
                let message = "id must be the id of a message, such as 5f0c-41";
                return Err(Failure::new(Code::BadRequest, message));
            }
            id => id,
        };
        let mut explanation: Explanation =
            self.list(EXPLAIN, query, query.local, |query| explain::explain(&self.server, query));
        explain::count_only_own(&self.server.hub, &mut explanation);
        let scope = match &self.server.cluster {
            None => Scope::Daemon,
            Some(_) if query.local => Scope::Node,
            Some(_) => Scope::Cluster,
        };
        explanation.verdict = id.map(|id| {
            let is_of_channel = self.server.hub.floor(&query.channel, id) == id;
            explain::judge(&explanation, id, is_of_channel, scope)
        });
        Ok(explanation)
    }

    pub(super) fn channels(&self, query: &ChannelQuery) -> Channels {
        let mut channels: Channels =
            self.list(CHANNELS, query, query.local, |query| lists::channels(&self.server, query));
        let reach = Reach::of(&self.server, query.local);
        if matches!(reach, Reach::All(_)) {
            // A node does not list a channel that it has only writers of.
            let names: Vec<String> =
                channels.channels.iter().map(|channel| channel.channel.clone()).collect();
            let mut counts: Vec<ChannelCounts> = crate::server::ops::list::counts(&self.server, &names);
            let missing = self.runtime.block_on(add_counts_of_others(&reach, &names, &mut counts));
            for (channel, counts) in channels.channels.iter_mut().zip(counts) {
                channel.readers = counts.readers;
                channel.writers = counts.writers;
                channel.messages = counts.messages;
                channel.messages_per_second = counts.messages_per_second;
            }
            channels.nodes = missing.or(channels.nodes);
        }
        channels
    }

    pub(super) fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Failure> {
        if request.local && request.refuse_for.is_some() {
            let message = "local and refuse_for exclude each other: all nodes of a cluster learn of a ban";
            return Err(Failure::new(Code::BadRequest, message));
        }
        let reach = Reach::of(&self.server, request.local);
        let order = self.runtime.block_on(resolve_everywhere(&self.server, &reach, request.order()))?;
        let done = self.actions.disconnect(&order, request.dry_run)?;
        let others = disconnect_others(&reach, order, request.dry_run, done);
        let (done, nodes) = self.runtime.block_on(others);
        Ok(Disconnected {
            matched: done.matched as u64,
            dry_run: request.dry_run,
            refused_until: done.banned_until.map(Timestamp::from_unix),
            nodes,
        })
    }

    pub(super) fn refused(&self, query: &RefusedQuery) -> RefusedSubjects {
        let reach = Reach::of(&self.server, query.local);
        // Then this node knows the bans of all.
        let nodes = self.runtime.block_on(exchange_bans(&self.server, &reach, Wait::ForKnown));
        RefusedSubjects { nodes, ..self.actions.banned() }
    }

    pub(super) fn lift(&self, subject: &str) -> Result<Lifted, Failure> {
        let was_here = self.actions.lift(subject)?;
        let reach = Reach::of(&self.server, false);
        let (was_there, nodes) = self.runtime.block_on(lift_others(&reach, subject));
        Ok(Lifted { matched: u64::from(was_here || was_there), nodes })
    }

    /// Returns the nodes of the cluster.
    pub(super) fn nodes(&self) -> Result<ClusterNodes, Failure> {
        let Some(cluster) = &self.server.cluster else {
            return Err(Failure::new(Code::Conflict, "this server is in no cluster")
                .hint("set [cluster] servers; see philote-cluster(7)"));
        };
        let (status, (connections, messages_per_second)) = (cluster.status(), cluster.load());
        let own = ClusterNode {
            name: status.node.name.clone(),
            this: true,
            start: format!("{:016x}", status.node.start),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: status.mode.to_string(),
            connections,
            messages_per_second,
            link: if status.link.up { Link::Up } else { Link::Down },
            last_seen_at: Timestamp::now(),
        };
        let others = cluster.nodes().into_iter().map(other);
        Ok(ClusterNodes {
            nodes: std::iter::once(own).chain(others).collect(),
            steering: cluster.steering().is_some(),
        })
    }
}

fn other(node: Node) -> ClusterNode {
    ClusterNode {
        name: node.id.name.clone(),
        this: false,
        start: format!("{:016x}", node.id.start),
        version: node.version,
        mode: node.mode.to_string(),
        connections: node.connections,
        messages_per_second: node.messages_per_second,
        link: if node.reachable { Link::Up } else { Link::Down },
        last_seen_at: Timestamp(node.last_seen),
    }
}

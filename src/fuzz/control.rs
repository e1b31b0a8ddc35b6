//! A daemon that refuses every order, behind the admin socket of a target.

use crate::admin::api::*;
use crate::admin::{Control, EventStream};

/// Refuses everything.
pub(super) struct Nobody;

fn refused<T>() -> Result<T, Failure> {
    Err(Failure::new(Code::Refused, "nobody is here"))
}

impl Control for Nobody {
    fn status(&self) -> Result<Status, Failure> {
        refused()
    }
    fn doctor(&self) -> Result<Checkup, Failure> {
        refused()
    }
    fn metrics(&self) -> Result<String, Failure> {
        refused()
    }
    fn issue_token(&self, _: TokenRequest) -> Result<IssuedToken, Failure> {
        refused()
    }
    fn inspect(&self, _: &str) -> Result<Inspection, Failure> {
        refused()
    }
    fn secret_show(&self) -> Result<Secrets, Failure> {
        refused()
    }
    fn secret_set(&self, _: &str) -> Result<SecretChanged, Failure> {
        refused()
    }
    fn secret_rotate(&self) -> Result<SecretChanged, Failure> {
        refused()
    }
    fn reload(&self, _: bool) -> Result<Reloaded, Failure> {
        refused()
    }
    fn ready(&self) -> Result<Ready, Failure> {
        refused()
    }
    fn connections(&self, _: &ConnectionQuery) -> Result<Connections, Failure> {
        refused()
    }
    fn closed(&self, _: &ClosedQuery) -> Result<ClosedConnections, Failure> {
        refused()
    }
    fn explain(&self, _: &ExplainQuery) -> Result<Explanation, Failure> {
        refused()
    }
    fn channels(&self, _: &ChannelQuery) -> Result<Channels, Failure> {
        refused()
    }
    fn disconnect(&self, _: &DisconnectRequest) -> Result<Disconnected, Failure> {
        refused()
    }
    fn refused(&self, _: &RefusedQuery) -> Result<RefusedSubjects, Failure> {
        refused()
    }
    fn lift(&self, _: &str) -> Result<Lifted, Failure> {
        refused()
    }
    fn nodes(&self) -> Result<ClusterNodes, Failure> {
        refused()
    }
    fn publish(&self, _: &PublishRequest) -> Result<Published, Failure> {
        refused()
    }
    fn log_level(&self) -> Result<Levels, Failure> {
        refused()
    }
    fn set_log_level(&self, _: Level) -> Result<Levels, Failure> {
        refused()
    }
    fn events(&self, _: EventQuery) -> Result<EventStream, Failure> {
        refused()
    }
}

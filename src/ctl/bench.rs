//! `philotectl bench`: finds the server to load and the tokens to load it with.

use tokio::runtime::Runtime;

use super::{Complaint, Exit};
use crate::admin::api::TokenRequest;
use crate::admin::client::Client;
use crate::bench::{
    BenchError, Measured, Options, Philote, Rights, TOKEN_LIFE, Target, keys, locate, on_loopback, run, sign,
};

/// Loads the daemon on this machine, or the server that `--url` names.
pub(super) fn load(options: &Options, client: &Client, runtime: &Runtime) -> Result<Measured, Complaint> {
    let keys = options.secret_file.as_deref().map(keys).transpose()?;
    let target = match &options.url {
        Some(url) => {
            let (address, tls) = locate(url, options.ca.as_deref())?;
            Target { dialect: Philote, address, tls, pid: options.pid, free: None }
        }
        None => {
            let status = runtime.block_on(client.status())?;
            let free = status.max_connections.saturating_sub(status.connections) as usize;
            let address = on_loopback(&status.listeners)?;
            let pid = Some(options.pid.unwrap_or(status.pid));
            Target { dialect: Philote, address, tls: None, pid, free: Some(free) }
        }
    };
    run(options, &target, |rights: &Rights<'_>| match &keys {
        Some(keys) => Ok(sign(rights, keys)?),
        None => issue(rights, client, runtime),
    })
}

/// Asks the daemon on this machine for a token.
fn issue(rights: &Rights<'_>, client: &Client, runtime: &Runtime) -> Result<String, Complaint> {
    let channel = |wanted: bool| if wanted { vec![rights.channel.to_owned()] } else { Vec::new() };
    let request = TokenRequest {
        read: channel(rights.reads),
        write: Some(channel(rights.writes)),
        may: rights.may(),
        subject: rights.subject.map(str::to_owned),
        expires_in: Some(TOKEN_LIFE.as_secs()),
        ..TokenRequest::default()
    };
    Ok(runtime.block_on(client.issue_token(&request))?.token.0)
}

impl From<BenchError> for Complaint {
    fn from(error: BenchError) -> Complaint {
        let exit = if matches!(error, BenchError::Url(_)) { Exit::Usage } else { Exit::Failed };
        Complaint { message: error.to_string(), hint: error.hint().map(str::to_owned), exit }
    }
}

//! Reads the files of `[cluster]`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::super::cluster::{ClusterError, ClusterSettings, LONGEST_NAMES, SHORTEST_SECRET, SecretFile};
use super::super::error::ProblemKind;
use super::super::keys::KEYS;
use super::super::layers::Layers;
use super::super::readers::{self, OTHERS};
use super::super::secret::Secret;
use super::super::tls::{CERTIFICATE, read_authorities, read_pair};
use crate::regular_file;

const SERVERS: &str = "cluster.servers";
const CREDENTIALS: &str = "cluster.credentials_file";
const USER: &str = "cluster.user";
const PASSWORD: &str = "cluster.password_file";
const SECRET: &str = "cluster.secret_file";
const CA: &str = "cluster.tls.ca";
const TLS_CERTIFICATE: &str = "cluster.tls.certificate";
const TLS_KEY: &str = "cluster.tls.key";
const NAMES: &str = "limits.channel_name_bytes";

/// Bytes; credentials are about 1 KiB.
const LARGEST: u64 = 64 << 10;

/// Bytes; no file of certificates that is accepted is longer.
const LARGEST_HASHED: u64 = 16 << 20;

type Fault = (&'static str, ProblemKind);

/// Reads the files into the settings and turns the cluster on, if servers are set.
pub(super) fn read(layers: &mut Layers) {
    let of_cluster = |key: &String| key.starts_with("cluster");
    if layers.problems.iter().any(|problem| problem.key.as_ref().is_some_and(of_cluster)) {
        return;
    }
    if layers.unresolved.cluster.servers.is_empty() {
        return drop_unused(layers);
    }
    let mut cluster = layers.unresolved.cluster.clone();
    let faults = [
        check_login(&cluster),
        read_login(layers, &mut cluster),
        read_secret(layers, &mut cluster),
        check_tls(&mut cluster),
        check_names(layers),
    ];
    let mut found = false;
    for (key, kind) in faults.into_iter().filter_map(Result::err) {
        found = true;
        layers.add_problem(key, layers.sources.get(key).cloned(), kind);
    }
    if !found {
        layers.unresolved.settings.cluster = Some(cluster);
    }
}

/// Warns of keys that have no effect without servers.
fn drop_unused(layers: &mut Layers) {
    let of_cluster = |path: &&str| path.starts_with("cluster.");
    let unused: Vec<&str> = KEYS
        .iter()
        .map(|key| key.path())
        .filter(of_cluster)
        .filter(|path| *path != SERVERS && layers.sources.contains_key(path))
        .collect();
    // --print-config shows the values in force, which are then the defaults.
    for path in &unused {
        layers.sources.remove(path);
    }
    if !unused.is_empty() {
        layers.warnings.push(format!(
            "{SERVERS} is not set, so this server is alone and does not use {}",
            unused.join(", ")
        ));
    }
}

fn fault(key: &'static str, error: ClusterError) -> Fault {
    (key, ProblemKind::Cluster(error))
}

/// Checks which of the keys of the login are set.
fn check_login(cluster: &ClusterSettings) -> Result<(), Fault> {
    let other = if cluster.user.is_some() { USER } else { PASSWORD };
    match (&cluster.credentials_file, &cluster.user, &cluster.password_file) {
        (None, Some(_), None) => Err(fault(USER, ClusterError::Alone { missing: PASSWORD })),
        (None, None, Some(_)) => Err(fault(PASSWORD, ClusterError::Alone { missing: USER })),
        (Some(_), None, None) | (None, _, _) => Ok(()),
        (Some(_), _, _) => Err(fault(other, ClusterError::TwoLogins)),
    }
}

/// Checks that each channel's name has room in a subject.
fn check_names(layers: &Layers) -> Result<(), Fault> {
    let longest = layers.unresolved.settings.limits.channel_name_bytes;
    if longest <= LONGEST_NAMES { Ok(()) } else { Err(fault(NAMES, ClusterError::LongNames)) }
}

fn read_login(layers: &mut Layers, cluster: &mut ClusterSettings) -> Result<(), Fault> {
    if let Some(file) = &mut cluster.credentials_file {
        read_file(layers, file, "NATS credentials").map_err(|error| fault(CREDENTIALS, error))?;
        let has = |part| file.content.as_str().contains(part);
        if !has("BEGIN NATS USER JWT") || !has("BEGIN USER NKEY SEED") {
            return Err(fault(CREDENTIALS, ClusterError::NotCredentials(file.path.clone())));
        }
    }
    if let Some(file) = &mut cluster.password_file {
        read_file(layers, file, "the NATS password").map_err(|error| fault(PASSWORD, error))?;
        if file.content.as_str().contains('\n') {
            return Err(fault(PASSWORD, ClusterError::SeveralLines(file.path.clone())));
        }
    }
    Ok(())
}

fn read_secret(layers: &mut Layers, cluster: &mut ClusterSettings) -> Result<(), Fault> {
    let Some(file) = &mut cluster.secret_file else { return Ok(()) };
    read_file(layers, file, "the cluster's secret").map_err(|error| fault(SECRET, error))?;
    if file.content.as_bytes().len() < SHORTEST_SECRET {
        return Err(fault(SECRET, ClusterError::ShortSecret(file.path.clone())));
    }
    Ok(())
}

/// Reads text without the line ending at its end.
fn read_file(layers: &mut Layers, file: &mut SecretFile, what: &str) -> Result<(), ClusterError> {
    let path = &file.path;
    let content = regular_file::read(path, LARGEST)
        .map_err(|error| ClusterError::Unreadable { path: path.clone(), reason: error.to_string() })?;
    let text = String::from_utf8(content.bytes).map_err(|_| ClusterError::NotText(path.clone()))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Err(ClusterError::Empty(path.clone()));
    }
    layers.warnings.extend(readers::warning(path, what, content.mode, OTHERS));
    file.content = Secret::new(text);
    Ok(())
}

fn check_tls(cluster: &mut ClusterSettings) -> Result<(), Fault> {
    let tls = &mut cluster.tls;
    tls.hashes = [&tls.ca, &tls.certificate, &tls.key].map(|path| {
        let content =
            path.as_ref().map(|path| regular_file::read(path, LARGEST_HASHED).map(|file| file.bytes).ok());
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        if path.is_some() { hasher.finish() } else { 0 }
    });
    let tls = &cluster.tls;
    if let Some(ca) = &tls.ca {
        read_authorities(ca).map_err(|error| (CA, ProblemKind::Tls(error)))?;
    }
    let pair = |certificate: &Path, key: &Path| {
        read_pair(certificate, key).map_err(|(wrong, error)| {
            let key = if wrong == CERTIFICATE { TLS_CERTIFICATE } else { TLS_KEY };
            (key, ProblemKind::Tls(error))
        })
    };
    match (&tls.certificate, &tls.key) {
        (None, None) => Ok(()),
        (Some(_), None) => Err(fault(TLS_CERTIFICATE, ClusterError::Alone { missing: TLS_KEY })),
        (None, Some(_)) => Err(fault(TLS_KEY, ClusterError::Alone { missing: TLS_CERTIFICATE })),
        (Some(certificate), Some(key)) => pair(certificate, key).map(|_| ()),
    }
}

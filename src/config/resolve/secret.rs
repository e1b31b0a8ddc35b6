//! Finds the secret.
//!
//! The command line overrides the environment, and that the file. In one layer, `secret` overrides `secret_file`. If no
//! layer sets either, the secret is systemd's credential, else the file that the daemon generates. `--dev` uses a
//! publicly known secret instead.

use std::path::PathBuf;

use super::super::defaults::DEV_SECRET;
use super::super::error::ProblemKind;
use super::super::layers::Layers;
use super::super::layers::environment::Environment;
use super::super::secret::{self, Secret, SecretError, SecretSource, Secrets, parse, read_secret_file};
use super::super::source::Source;

const SECRET: &str = "auth.secret";
const SECRET_FILE: &str = "auth.secret_file";

/// Reads the secret into the settings. It does not generate one.
pub(super) fn read(layers: &mut Layers, environment: &Environment) {
    // If the secret or the whole file could not be read, the search would go on and find the wrong secret.
    let matters = |key: &String| key == SECRET || key == SECRET_FILE;
    if layers.problems.iter().any(|problem| problem.key.as_ref().is_none_or(matters)) {
        return;
    }
    drop_overridden(layers);
    let key = match (&layers.unresolved.secret, &layers.unresolved.secret_file) {
        (None, Some(_)) => SECRET_FILE,
        _ => SECRET,
    };
    match find(layers, environment) {
        Ok(secrets) => {
            layers.warnings.extend(secret::warnings(&secrets));
            layers.unresolved.settings.auth.secrets = secrets;
        }
        Err(error) => {
            layers.add_problem(key, layers.sources.get(key).cloned(), ProblemKind::Secret(error));
        }
    }
}

/// Drops `secret` or `secret_file` if both are set.
fn drop_overridden(layers: &mut Layers) {
    if layers.unresolved.secret.is_none() || layers.unresolved.secret_file.is_none() {
        return;
    }
    let rank = |key| layers.sources.get(key).map_or(0, layer);
    let (secret, file) = (rank(SECRET), rank(SECRET_FILE));
    if secret == file {
        layers.warnings.push(format!("{SECRET_FILE} is not used because {SECRET} is set too"));
    }
    if file > secret {
        layers.unresolved.secret = None;
        layers.sources.remove(SECRET);
    } else {
        layers.unresolved.secret_file = None;
        layers.sources.remove(SECRET_FILE);
    }
}

/// Returns the rank of the layer that a value came from.
fn layer(source: &Source) -> u8 {
    match source {
        Source::Default => 0,
        Source::File { .. } => 1,
        Source::Environment(_) => 2,
        Source::CommandLine(_) => 3,
    }
}

fn find(layers: &mut Layers, environment: &Environment) -> Result<Secrets, SecretError> {
    let unresolved = &layers.unresolved;
    let is_set = unresolved.secret.is_some() || unresolved.secret_file.is_some();
    if unresolved.settings.dev && !is_set {
        return Ok(Secrets::new(parse(DEV_SECRET)?, SecretSource::Dev));
    }
    let credential = environment
        .directory("CREDENTIALS_DIRECTORY")
        .map(|directory| directory.join("secret"))
        .filter(|path| path.exists());
    if let Some(unused) = credential.as_ref().filter(|_| is_set) {
        layers.warnings.push(format!("{} is not used because the secret is set elsewhere", unused.display()));
    }
    if let Some(text) = layers.unresolved.secret.take() {
        let source = layers.sources.get(SECRET).cloned().unwrap_or(Source::Default);
        if let Source::CommandLine(_) = source {
            layers.warnings.push(format!(
                "{SECRET} on the command line is visible to every user of this machine: use {SECRET_FILE}"
            ));
        }
        return Ok(Secrets::new(secrets(layers, &text)?, SecretSource::Setting(source)));
    }
    if let Some(path) = layers.unresolved.secret_file.clone() {
        let text = read_secret_file(&path)?;
        return Ok(Secrets::new(secrets(layers, &text)?, SecretSource::File(path)));
    }
    if let Some(path) = credential {
        let text = read_secret_file(&path)?;
        return Ok(Secrets::new(secrets(layers, &text)?, SecretSource::Credential(path)));
    }
    find_generated(layers, environment.state_directory().ok_or(SecretError::NoDirectory)?.join("secret"))
}

/// Reads the generated file, or returns that the daemon has yet to generate it.
fn find_generated(layers: &mut Layers, path: PathBuf) -> Result<Secrets, SecretError> {
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(Secrets::new(Vec::new(), SecretSource::Missing(path)));
    }
    let text = read_secret_file(&path)?;
    Ok(Secrets::new(secrets(layers, &text)?, SecretSource::Generated(path)))
}

fn secrets(layers: &Layers, text: &str) -> Result<Vec<Secret>, SecretError> {
    match parse(text) {
        Err(SecretError::Empty) if layers.unresolved.settings.auth.allow_empty_secret => {
            Ok(vec![Secret::new("")])
        }
        parsed => parsed,
    }
}

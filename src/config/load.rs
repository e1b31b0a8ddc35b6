//! Loads the settings: merges the layers, checks them, and reads the files that they name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checks;
use super::defaults;
use super::error::{ConfigError, Problem, ProblemKind};
use super::keys::Key;
use super::layers::Layers;
use super::layers::command_line::Overrides;
use super::layers::environment::Environment;
use super::resolve::resolve;
use super::secret::{SecretSource, Secrets, make_secret_file, parse, read_secret_file};
use super::settings::Settings;
use super::source::Source;
use super::unresolved::Unresolved;

/// Loaded settings, with their sources and warnings.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// A sentence for each setting that is accepted but doubtful.
    pub warnings: Vec<String>,
    /// The path of the configuration file, if one was used.
    pub file: Option<PathBuf>,
    pub(super) sources: BTreeMap<&'static str, Source>,
}

/// Loads the settings: defaults, file, environment, command line. Each overrides the ones before it. Loading writes
/// nothing. A secret that has yet to be generated is [`SecretSource::Missing`] until [`Loaded::make_secret`].
///
/// # Errors
/// Returns every problem of every layer, including those of values that a later layer overrides.
///
/// ```
/// use philote::config::{Environment, Overrides, load};
///
/// let environment = Environment::new([("SECRET", "a secret of thirty-two characters"), ("PORT", "9424")]);
/// let loaded = load(&Overrides::default(), &environment)?;
/// assert_eq!(loaded.settings.listen.addresses()[0].port(), 9424);
/// # Ok::<(), philote::config::ConfigError>(())
/// ```
pub fn load(command_line: &Overrides, environment: &Environment) -> Result<Loaded, ConfigError> {
    let mut layers =
        Layers::new(Unresolved::new(defaults::settings(command_line.dev), defaults::CLUSTER.clone()));
    let file = layers.apply_file(command_line, environment);
    layers.apply_environment(environment);
    layers.apply_command_line(command_line);
    checks::check(&mut layers);
    resolve(&mut layers, environment);
    let Layers { unresolved, warnings, sources, problems, .. } = layers;
    ConfigError::unless_empty(problems)?;
    Ok(Loaded { settings: unresolved.settings, warnings, file, sources })
}

impl Loaded {
    /// Returns the source of a key's value.
    pub fn source(&self, key: &Key) -> &Source {
        self.sources.get(key.path()).unwrap_or(&Source::Default)
    }

    /// Returns the source of `max_connections`.
    pub fn max_connections_source(&self) -> &Source {
        self.sources.get("max_connections").unwrap_or(&Source::Default)
    }

    /// Generates the secret if there is none. Two daemons that do so at the same time for one directory end with the same
    /// secret.
    ///
    /// # Errors
    /// The directory or the file cannot be created. The message says what to set instead.
    pub fn make_secret(&mut self) -> Result<(), ConfigError> {
        let SecretSource::Missing(path) = self.settings.auth.secrets.source() else {
            return Ok(());
        };
        let path = path.clone();
        let secrets = make_secret_file(&path).and_then(|made| {
            let keys = parse(&read_secret_file(&path)?)?;
            let source = if made { SecretSource::New(path) } else { SecretSource::Generated(path) };
            Ok(Secrets::new(keys, source))
        });
        self.settings.auth.secrets = secrets.map_err(|error| {
            let key = Some("auth.secret".to_owned());
            Problem { source: None, key, kind: ProblemKind::Secret(error) }
        })?;
        Ok(())
    }
}

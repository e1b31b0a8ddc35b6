//! From what was written to settings that are checked, once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::command_line::Overrides;
use super::draft::Draft;
use super::environment::Environment;
use super::error::{ConfigError, Problem, Situation};
use super::keys::Key;
use super::origin::Origin;
use super::secret::{SecretSource, Secrets, parse};
use super::settings::Settings;
use super::{public_keys, secret_choice, secret_file, tls};

/// Settings, and what there is to say about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What is doubtful and accepted all the same: a sentence each.
    pub warnings: Vec<String>,
    /// The configuration file, where one was used.
    pub file: Option<PathBuf>,
    pub(super) origins: BTreeMap<&'static str, Origin>,
}

/// Reads the settings: defaults, then the file, then the environment, then the command line, each over what
/// comes before it. Changes nothing: a secret that is still to be made is [`SecretSource::Missing`] until
/// [`Loaded::make_secret`].
///
/// # Errors
/// All that is wrong, in every layer, even where another one wins.
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
    let mut draft = Draft::new(command_line.dev);
    let file = draft.apply_file(command_line, environment);
    draft.apply_environment(environment);
    draft.apply_command_line(command_line);
    draft.check();
    public_keys::load(&mut draft);
    secret_choice::choose(&mut draft, environment);
    tls::choose(&mut draft);
    ConfigError::unless_empty(draft.problems)?;
    Ok(Loaded { settings: draft.settings, warnings: draft.warnings, file, origins: draft.origins })
}

impl Loaded {
    /// Where the value of a key came from.
    pub fn origin(&self, key: &Key) -> &Origin {
        self.origins.get(key.path()).unwrap_or(&Origin::Default)
    }

    /// Makes the secret if it is still to be made, so that there is one to sign with. Of two daemons that do
    /// so at once for the same directory, both end with the same secret.
    ///
    /// # Errors
    /// The directory cannot be made or written; the message says what to set instead.
    pub fn make_secret(&mut self) -> Result<(), ConfigError> {
        let SecretSource::Missing(path) = self.settings.auth.secrets.source() else {
            return Ok(());
        };
        let path = path.clone();
        let secrets = secret_file::make(&path).and_then(|made| {
            let keys = parse(&secret_file::read(&path)?.0)?;
            Ok(Secrets::new(keys, if made { SecretSource::Made(path) } else { SecretSource::Own(path) }))
        });
        self.settings.auth.secrets = secrets.map_err(|error| {
            let key = Some("auth.secret".to_owned());
            Problem { origin: None, key, situation: Situation::Secret(error) }
        })?;
        Ok(())
    }
}

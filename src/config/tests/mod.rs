//! Tests that load settings from files, variables and options.

mod cluster;
mod dev;
mod files;
mod histories;
mod layers;
mod listeners;
mod problems;
mod reports;
mod secrets;

use std::path::{Path, PathBuf};

use super::{ConfigError, Environment, Loaded, Overrides, load};

/// Long enough to be accepted without a warning.
const STRONG: &str = "0123456789abcdef0123456789abcdef";

/// A directory with a configuration file, and the variables and options beside it.
struct Scene {
    directory: tempfile::TempDir,
    variables: Vec<(String, String)>,
    overrides: Overrides,
}

impl Scene {
    /// A scene without file and options, with the secret [`STRONG`].
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Scene { directory, variables: vec![], overrides: Overrides::default() }.variable("SECRET", STRONG)
    }

    /// A scene without a secret, whose state directory is below the scene's directory.
    fn without_secret() -> Self {
        let mut scene = Scene::new();
        scene.variables.clear();
        let state = scene.path("state");
        scene.variable("STATE_DIRECTORY", state.to_str().unwrap())
    }

    fn file(mut self, text: &str) -> Self {
        self.overrides.config = Some(self.write("philote.toml", text));
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn set(mut self, pair: &str) -> Self {
        self.overrides.set.push(pair.to_owned());
        self
    }

    fn options(mut self, change: impl FnOnce(&mut Overrides)) -> Self {
        change(&mut self.overrides);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn environment(&self) -> Environment {
        Environment::new(self.variables.iter().cloned())
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        load(&self.overrides, &self.environment())
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the error messages, without the directory in file names.
    fn refused(&self) -> String {
        match self.load() {
            Ok(_) => panic!("these settings are accepted"),
            Err(error) => self.short(&error.to_string()),
        }
    }

    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

//! The output of `--print-config` and `--check`.

use std::fmt::Write;
use std::path::Path;

use super::error::{ConfigError, Problem, ProblemKind};
use super::keys::KEYS;
use super::load::Loaded;
use super::secret::SecretSource;
use super::service_user::{SERVICE_USER, User};
use super::tls::{CERTIFICATE, KEY, TlsError};

/// Returns the settings as a configuration file, with the source of each value in a comment. The secret, and keys that
/// are not set, are comments, so that reading the output gives the same settings.
pub fn print_config(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            let _ = write!(text, "\n[{section}]\n");
        }
        let (name, source) = (key.name(), loaded.source(key));
        let _ = match (key.show(&loaded.settings), loaded.settings.auth.secrets.source()) {
            (Some(value), _) => writeln!(text, "{name} = {value}  # {source}"),
            (None, SecretSource::Setting(_)) if key.path() == "auth.secret" => {
                writeln!(text, "# {name} = (redacted)  # {source}")
            }
            (None, source) if key.path() == "auth.secret" => {
                writeln!(text, "# {name} is not set  # {source}")
            }
            (None, _) => writeln!(text, "# {name} is not set  # {source}"),
        };
    }
    text
}

/// Returns what `--check` prints for valid settings: the warnings, the source of the secret, the end of the certificate,
/// and for root the files that the service cannot read.
pub fn check(loaded: &Loaded) -> Vec<String> {
    let source = loaded.settings.auth.secrets.source();
    let mut lines = loaded.warnings.clone();
    lines.push(source.to_string());
    if loaded.settings.cluster.as_ref().is_some_and(|cluster| cluster.secret_file.is_none()) {
        lines.push(
            "cluster.secret_file is not set, so steering across nodes is off: philotectl and the HTTP API act on one \
             node only"
                .to_owned(),
        );
    }
    if let Some(user) = User::of_service() {
        lines.extend(unreadable(&user, loaded));
    }
    if let Some(tls) = &loaded.settings.tls {
        lines.push(format!(
            "the certificate in {} is valid until {}",
            tls.certificate.display(),
            tls.expires_text()
        ));
    }
    lines
}

/// Checks for root that the service can read certificate and key, because it does not start without them.
///
/// # Errors
/// The service cannot read one of them. The message says how to change that.
pub fn check_for_service(loaded: &Loaded) -> Result<(), ConfigError> {
    ConfigError::unless_empty(User::of_service().map_or_else(Vec::new, |user| unreadable_tls(&user, loaded)))
}

fn unreadable_tls(user: &User, loaded: &Loaded) -> Vec<Problem> {
    let Some(tls) = &loaded.settings.tls else { return Vec::new() };
    let files = [(CERTIFICATE, &tls.certificate), (KEY, &tls.key)];
    let barred = |path: &Path| path.ancestors().any(|part| !user.may_use(part, part == path));
    let problem = |(key, path): (&'static str, &std::path::PathBuf)| {
        let reason = "permission denied".to_owned();
        let kind = ProblemKind::Tls(TlsError::Unreadable { path: path.clone(), reason, denied: true });
        Problem { source: loaded.sources.get(key).cloned(), key: Some(key.to_owned()), kind }
    };
    files.into_iter().filter(|(_, path)| barred(path)).map(problem).collect()
}

/// Returns a sentence for each file that the service cannot read.
fn unreadable(user: &User, loaded: &Loaded) -> Vec<String> {
    let secret_file = match loaded.settings.auth.secrets.source() {
        SecretSource::File(path) => Some(path),
        _ => None,
    };
    let auth = &loaded.settings.auth;
    let public = auth.public_keys.iter().chain(&auth.jwks_file).map(|file| &file.path);
    let cluster = loaded.settings.cluster.iter().flat_map(|cluster| {
        let secrets = [&cluster.credentials_file, &cluster.password_file, &cluster.secret_file];
        let tls = [&cluster.tls.ca, &cluster.tls.certificate, &cluster.tls.key];
        secrets.into_iter().flatten().map(|file| &file.path).chain(tls.into_iter().flatten())
    });
    let files = loaded.file.iter().chain(secret_file).chain(public).chain(cluster);
    files
        .filter_map(|path| {
            let barrier = path.ancestors().find(|part| !user.may_use(part, *part == path))?;
            let (path, barrier) = (path.display(), barrier.display());
            Some(format!(
                "the service user {SERVICE_USER} cannot read {path}: check the owner and mode of {barrier}"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Environment, Overrides, load};

    #[test]
    fn a_file_that_the_service_cannot_read_is_named_with_the_path_to_fix() {
        let directory = tempfile::tempdir().unwrap();
        let allow =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (inner, file) = (directory.path().join("inner"), directory.path().join("inner/secret"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
        let overrides = Overrides { secret_file: Some(file.clone()), ..Overrides::default() };
        let loaded = load(&overrides, &Environment::default()).unwrap();
        // A user that is neither the owner nor in the group.
        let user = User { id: u32::MAX, groups: vec![] };
        let said = |barrier: &Path| {
            let (file, barrier) = (file.display(), barrier.display());
            format!("the service user philote cannot read {file}: check the owner and mode of {barrier}")
        };

        allow(directory.path(), 0o755);
        allow(&inner, 0o711);
        allow(&file, 0o644);
        assert_eq!(unreadable(&user, &loaded), [""; 0]);
        allow(&inner, 0o700);
        assert_eq!(unreadable(&user, &loaded), [said(&inner)]);
        allow(&file, 0o600);
        assert_eq!(unreadable(&user, &loaded), [said(&file)]);
    }

    #[test]
    fn a_key_that_the_service_cannot_read_is_an_error_that_names_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let allow =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        allow(directory.path(), 0o755);
        let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, pair.cert.pem()).unwrap();
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        let set =
            vec![format!("tls.certificate={}", certificate.display()), format!("tls.key={}", key.display())];
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let loaded = load(&Overrides { set, ..Overrides::default() }, &environment).unwrap();
        // A user that is neither the owner nor in the group.
        let user = User { id: u32::MAX, groups: vec![] };
        let said =
            || ConfigError::unless_empty(unreadable_tls(&user, &loaded)).map_err(|error| error.to_string());
        allow(&certificate, 0o644);
        allow(&key, 0o644);
        assert_eq!(said(), Ok(()));
        allow(&key, 0o600);
        let sentence = said().unwrap_err();
        let key = key.display();
        let fix = format!("sudo chgrp philote {key} && sudo chmod 640 {key}");
        assert!(sentence.contains("tls.key: cannot read ") && sentence.contains(&fix), "{sentence}");
        assert!(!sentence.contains("tls.certificate"), "{sentence}");
        // Without access to the directory it can read neither.
        allow(directory.path(), 0o700);
        let sentence = said().unwrap_err();
        assert!(sentence.contains("tls.certificate: ") && sentence.contains("tls.key: "), "{sentence}");
    }
}

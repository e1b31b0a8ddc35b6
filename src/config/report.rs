//! What `--print-config` and `--check` say.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::{ConfigError, Problem, Situation};
use super::keys::KEYS;
use super::load::Loaded;
use super::secret::SecretSource;
use super::tls::{CERTIFICATE, KEY, TlsError};

/// The account that the packages make for the service.
const SERVICE_USER: &str = "philote";

/// The settings in force as a configuration file; a comment tells where each value came from. What is not
/// set, and the secret, stand in comments, so that the output means the same when it is read again.
pub fn print_config(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            let _ = write!(text, "\n[{section}]\n");
        }
        let (name, origin) = (key.name(), loaded.origin(key));
        let _ = match (key.show(&loaded.settings), loaded.settings.auth.secrets.source()) {
            (Some(value), _) => writeln!(text, "{name} = {value}  # {origin}"),
            (None, SecretSource::Setting(_)) if key.path() == "auth.secret" => {
                writeln!(text, "# {name} = (redacted)  # {origin}")
            }
            (None, source) if key.path() == "auth.secret" => {
                writeln!(text, "# {name} is not set  # {source}")
            }
            (None, _) => writeln!(text, "# {name} is not set  # {origin}"),
        };
    }
    text
}

/// What an administrator should know of settings that are good: the warnings, where the secret comes from,
/// and for root which files the service could not read.
pub fn check(loaded: &Loaded) -> Vec<String> {
    let source = loaded.settings.auth.secrets.source();
    let mut lines = loaded.warnings.clone();
    lines.push(source.to_string());
    if let Some(user) = service_user() {
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

/// The service's account, as far as root asks on its behalf.
fn service_user() -> Option<User> {
    let user = || User::named(SERVICE_USER, &read("/etc/passwd"), &read("/etc/group"));
    rustix::process::geteuid().is_root().then(user).flatten()
}

/// Whether the service could read certificate and key, where root asks: without them it would not start.
///
/// # Errors
/// The key of the settings, and how to let it.
pub fn check_for_service(loaded: &Loaded) -> Result<(), ConfigError> {
    ConfigError::unless_empty(service_user().map_or_else(Vec::new, |user| unreadable_tls(&user, loaded)))
}

fn unreadable_tls(user: &User, loaded: &Loaded) -> Vec<Problem> {
    let Some(tls) = &loaded.settings.tls else { return Vec::new() };
    let files = [(CERTIFICATE, &tls.certificate), (KEY, &tls.key)];
    let barred = |path: &Path| path.ancestors().any(|part| !user.may_use(part, part == path));
    let problem = |(key, path): (&'static str, &std::path::PathBuf)| {
        let reason = "permission denied".to_owned();
        let situation = Situation::Tls(TlsError::Unreadable { path: path.clone(), reason, denied: true });
        Problem { origin: loaded.origins.get(key).cloned(), key: Some(key.to_owned()), situation }
    };
    files.into_iter().filter(|(_, path)| barred(path)).map(problem).collect()
}

/// What the service could not read, though whoever asks could.
fn unreadable(user: &User, loaded: &Loaded) -> Vec<String> {
    let secret_file = match loaded.settings.auth.secrets.source() {
        SecretSource::File(path) => Some(path),
        _ => None,
    };
    let auth = &loaded.settings.auth;
    let public = auth.public_keys.iter().chain(&auth.jwks_file).map(|file| &file.path);
    let files = loaded.file.iter().chain(secret_file).chain(public);
    files
        .filter_map(|path| {
            let barrier = path.ancestors().find(|part| !user.may_use(part, *part == path))?;
            let (path, barrier) = (path.display(), barrier.display());
            Some(format!(
                "the service user {SERVICE_USER} cannot read {path}: see the owner and mode of {barrier}"
            ))
        })
        .collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A user as files see one.
struct User {
    id: u32,
    groups: Vec<u32>,
}

impl User {
    fn named(name: &str, passwd: &str, group: &str) -> Option<User> {
        let line =
            passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[0] == name)?;
        let mut groups = vec![line.get(3)?.parse().ok()?];
        for line in group.lines().map(|line| line.split(':').collect::<Vec<_>>()) {
            if line.get(3).is_some_and(|members| members.split(',').any(|member| member == name)) {
                groups.extend(line.get(2).and_then(|id| id.parse::<u32>().ok()));
            }
        }
        Some(User { id: line.get(2)?.parse().ok()?, groups })
    }

    /// Whether a file can be read, or a directory passed through. What cannot be looked at counts as usable:
    /// it is reported where it is read.
    fn may_use(&self, path: &Path, is_file: bool) -> bool {
        match std::fs::metadata(path) {
            Ok(metadata) => {
                self.may(metadata.uid(), metadata.gid(), metadata.mode(), if is_file { 0o4 } else { 0o1 })
            }
            Err(_) => true,
        }
    }

    /// The kernel looks at the first class that fits, even where a later one would allow more.
    fn may(&self, owner: u32, group: u32, mode: u32, bit: u32) -> bool {
        let shift = if self.id == owner {
            6
        } else if self.groups.contains(&group) {
            3
        } else {
            0
        };
        (mode >> shift) & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Environment, Overrides, load};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nphilote:x:990:980::/:/usr/sbin/nologin\n";
    const GROUP: &str = "philote:x:980:\nkeys:x:70:someone,philote\nother:x:71:philote2\n";

    #[test]
    fn the_first_class_that_fits_decides() {
        let user = User::named("philote", PASSWD, GROUP).unwrap();
        assert_eq!((user.id, user.groups.as_slice()), (990, [980, 70].as_slice()));
        assert!(User::named("nobody", PASSWD, GROUP).is_none());
        let cases = [
            (990, 0, 0o400, true),
            (990, 0, 0o044, false),
            (0, 980, 0o640, true),
            (0, 70, 0o640, true),
            (0, 70, 0o604, false),
            (0, 71, 0o640, false),
            (0, 71, 0o644, true),
        ];
        for (owner, group, mode, readable) in cases {
            assert_eq!(user.may(owner, group, mode, 0o4), readable, "{owner} {group} {mode:o}");
        }
    }

    #[test]
    fn what_the_service_cannot_read_is_told_with_what_bars_it() {
        let directory = tempfile::tempdir().unwrap();
        let allow =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (inner, file) = (directory.path().join("inner"), directory.path().join("inner/secret"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
        let overrides = Overrides { secret_file: Some(file.clone()), ..Overrides::default() };
        let loaded = load(&overrides, &Environment::default()).unwrap();
        // Neither the owner nor of the group, whoever runs the test.
        let user = User { id: u32::MAX, groups: vec![] };
        let said = |barrier: &Path| {
            let (file, barrier) = (file.display(), barrier.display());
            format!("the service user philote cannot read {file}: see the owner and mode of {barrier}")
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
        // Neither the owner nor of the group, whoever runs the test.
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
        // A directory that it may not pass bars both.
        allow(directory.path(), 0o700);
        let sentence = said().unwrap_err();
        assert!(sentence.contains("tls.certificate: ") && sentence.contains("tls.key: "), "{sentence}");
    }
}

//! The sources of the secret, invalid secrets, and how the daemon generates and replaces one.

use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use super::{STRONG, Scene, mode};
use crate::config::*;

const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn keys(loaded: &Loaded) -> Vec<&str> {
    loaded.settings.auth.secrets.iter().map(Secret::as_str).collect()
}

const EMPTY: &str = "the secret is empty, so anyone could sign tokens: set one, or leave it out and philote generates one \
                     (auth.allow_empty_secret, ALLOW_EMPTY_SECRET=true, permits an empty one)";

#[test]
fn the_secret_is_the_characters_without_the_last_newline() {
    for (text, secrets) in [
        (STRONG.to_owned(), vec![STRONG]),
        (format!("{STRONG}\n"), vec![STRONG]),
        (format!("{OTHER}\n{STRONG}\n"), vec![OTHER, STRONG]),
    ] {
        let scene = Scene::without_secret().file("auth.secret_file = 'secret'");
        scene.write("secret", &text);
        let loaded = scene.loaded();
        assert_eq!(keys(&loaded), secrets);
        assert_eq!(loaded.settings.auth.secrets.signing().unwrap().as_bytes(), secrets[0].as_bytes());
        assert_eq!(loaded.warnings, [""; 0]);
    }
}

#[test]
fn text_with_invalid_lines_is_refused() {
    let many = "0123456789abcdef0123456789abcdef\n".repeat(17);
    let cases = [
        ("", EMPTY),
        ("\n", EMPTY),
        ("one\n\n", "line 2 of the secret is blank: remove it, because each line is one secret"),
        ("one\n \ntwo\n", "line 2 of the secret is blank: remove it, because each line is one secret"),
        ("one\r\ntwo\n", "line 1 of the secret has a carriage return: save it with Unix line endings"),
        (&many, "more than 16 secrets, one per line: remove old ones"),
    ];
    for (text, sentence) in cases {
        let scene = Scene::without_secret().file("\nauth.secret_file = 'secret'");
        scene.write("secret", text);
        assert_eq!(scene.refused(), format!("philote.toml:2: auth.secret_file: {sentence}"));
        let scene = Scene::without_secret().variable("SECRET", text);
        assert_eq!(scene.refused(), format!("environment variable SECRET: auth.secret: {sentence}"));
    }
}

#[test]
fn an_empty_secret_needs_a_setting_and_a_short_one_gets_a_warning() {
    let loaded = Scene::without_secret().variable("SECRET", "").variable("ALLOW_EMPTY_SECRET", "1").loaded();
    assert_eq!(keys(&loaded), [""]);
    assert_eq!(loaded.warnings, ["the secret is empty, so anyone can sign tokens"]);
    // A secret that is not set is not empty, but generated.
    let loaded = Scene::without_secret().variable("ALLOW_EMPTY_SECRET", "1").loaded();
    assert!(matches!(loaded.settings.auth.secrets.source(), SecretSource::Missing(_)));

    let loaded = Scene::without_secret().variable("SECRET", "short\n also short").loaded();
    assert_eq!(
        loaded.warnings,
        [
            "the secret is from environment variable SECRET, line 1: it is shorter than 32 bytes, so anyone who \
             sees a token can guess it",
            "the secret is from environment variable SECRET, line 2: it is shorter than 32 bytes, so anyone who \
             sees a token can guess it",
            "the secret is from environment variable SECRET, line 2: it begins or ends with a blank, which is part of the secret",
        ]
    );
}

#[test]
fn a_file_that_cannot_hold_a_secret_is_refused() {
    let scene = Scene::without_secret().file("auth.secret_file = 'secret'");
    let at = "philote.toml:1: auth.secret_file: ";
    let missing = "cannot read the secret in secret: No such file or directory (os error 2)";
    assert_eq!(scene.refused(), format!("{at}{missing}"));
    std::fs::write(scene.path("secret"), [0xff, 0xfe]).unwrap();
    assert!(scene.refused().contains("secret is not UTF-8 text"), "{}", scene.refused());
    std::fs::write(scene.path("secret"), vec![b'x'; 65537]).unwrap();
    assert!(scene.refused().contains("secret is larger than 65536 bytes"), "{}", scene.refused());
    std::fs::remove_file(scene.path("secret")).unwrap();
    std::fs::create_dir(scene.path("secret")).unwrap();
    assert_eq!(scene.refused(), format!("{at}secret is a directory, not a regular file"));
}

#[test]
fn the_secret_of_the_highest_layer_counts() {
    let scene = Scene::without_secret();
    let credentials = scene.path("credentials");
    let state = scene.path("state/secret");
    let file = scene.write("file", STRONG);
    scene.write("state/secret", "own secret, own secret, own secret\n");
    let source = |scene: &Scene| {
        let loaded = scene.loaded();
        (
            loaded.settings.auth.secrets.source().clone(),
            loaded.warnings.iter().map(|text| scene.short(text)).collect(),
        )
    };
    let nothing: Vec<String> = vec![];

    assert_eq!(source(&scene), (SecretSource::Generated(state), nothing.clone()));

    // systemd sets the variable for any credential; this one need not be among them.
    let scene = scene.variable("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap());
    assert!(matches!(source(&scene).0, SecretSource::Generated(_)));
    scene.write("credentials/secret", OTHER);
    assert_eq!(source(&scene), (SecretSource::Credential(credentials.join("secret")), nothing));

    let unused = "credentials/secret is not used because the secret is set elsewhere".to_owned();
    let scene = scene.file("auth.secret_file = 'file'");
    assert_eq!(source(&scene), (SecretSource::File(file.clone()), vec![unused.clone()]));

    let scene = scene.file(&format!("[auth]\nsecret_file = 'file'\nsecret = '{OTHER}'"));
    let setting = SecretSource::Setting(Source::File { path: scene.path("philote.toml"), line: 3 });
    let beside = "auth.secret_file is not used because auth.secret is set too".to_owned();
    assert_eq!(source(&scene), (setting, vec![beside, unused.clone()]));

    let scene = scene.variable("PHILOTE_AUTH_SECRET_FILE", file.to_str().unwrap());
    assert_eq!(source(&scene), (SecretSource::File(file.clone()), vec![unused.clone()]));

    let scene = scene.variable("SECRET", OTHER);
    assert_eq!(source(&scene).0, SecretSource::Setting(Source::Environment("SECRET".into())));

    let scene = scene.options(|options| options.secret_file = Some(file.clone()));
    assert_eq!(source(&scene), (SecretSource::File(file), vec![unused.clone()]));

    let scene = scene.set(&format!("auth.secret={STRONG}"));
    let (source, warnings) = source(&scene);
    assert_eq!(source, SecretSource::Setting(Source::CommandLine("--set")));
    let seen =
        "auth.secret on the command line is visible to every user of this machine: use auth.secret_file";
    assert_eq!(warnings[2..], [seen]);
}

#[test]
fn a_file_that_other_users_can_read_gets_a_warning() {
    let scene = Scene::without_secret().file("auth.secret_file = 'secret'");
    let path = scene.write("secret", STRONG);
    let warnings = |mode| {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        scene.loaded().warnings
    };
    // Read access for a group is usual.
    assert_eq!(warnings(0o640), [""; 0]);
    let path = path.display();
    let warning = format!("other users can read or write {path}, which holds the secret: chmod o-rwx {path}");
    for mode in [0o644, 0o602] {
        assert_eq!(warnings(mode), [warning.as_str()], "{mode:o}");
    }

    let scene = Scene::without_secret().file(&format!("auth.secret = '{STRONG}'"));
    std::fs::set_permissions(scene.path("philote.toml"), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(scene.loaded().warnings[0].contains("philote.toml, which holds the secret"));

    let scene = Scene::without_secret();
    let path = scene.write("state/secret", STRONG);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(scene.loaded().warnings[0].contains(": chmod go-rwx "), "{:?}", scene.loaded().warnings);
}

#[test]
fn a_secret_is_generated_once_and_stored() {
    let scene = Scene::without_secret();
    let path = scene.path("state/secret");
    let mut loaded = scene.loaded();
    assert_eq!(keys(&loaded), [""; 0]);
    assert_eq!(
        loaded.settings.auth.secrets.source().to_string(),
        format!("a secret will be generated in {}", path.display())
    );
    assert!(!scene.path("state").exists(), "loading writes nothing");

    loaded.make_secret().unwrap();
    let made = keys(&loaded)[0].to_owned();
    assert_eq!(made.len(), 43);
    assert!(made.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    assert_eq!(
        loaded.settings.auth.secrets.source().to_string(),
        format!("generated a secret in {}", path.display())
    );
    assert_eq!((mode(&path), mode(&scene.path("state"))), (0o600, 0o700));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{made}\n"));

    let mut again = scene.loaded();
    again.make_secret().unwrap();
    assert_eq!(keys(&again), [made]);
    assert_eq!(*again.settings.auth.secrets.source(), SecretSource::Generated(path));
    assert_eq!(again.warnings, [""; 0]);
}

#[test]
fn daemons_that_start_at_the_same_time_get_the_same_secret() {
    const DAEMONS: usize = 8;
    for _ in 0..20 {
        let scene = Scene::without_secret();
        let barrier = Barrier::new(DAEMONS);
        let start = || {
            let mut loaded = scene.loaded();
            barrier.wait();
            loaded.make_secret().unwrap();
            loaded.settings.auth.secrets
        };
        let all: Vec<Secrets> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..DAEMONS).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|secrets| secrets.signing() == all[0].signing()));
        let made = all.iter().filter(|secrets| matches!(secrets.source(), SecretSource::New(_))).count();
        assert_eq!(made, 1);
        assert_eq!(std::fs::read_dir(scene.path("state")).unwrap().count(), 1, "nothing else is left");
    }
}

#[test]
fn a_secret_that_cannot_be_stored_is_an_error() {
    let error = load(&Overrides::default(), &Environment::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "auth.secret: no secret is set and there is no directory to store one in; set SECRET, for example to the output of: openssl rand -hex 32"
    );
    let scene = Scene::without_secret();
    let mut loaded = scene.loaded();
    scene.write("state", "in the way");
    let error = loaded.make_secret().unwrap_err();
    assert_eq!(
        scene.short(&error.to_string()),
        "auth.secret: cannot store a secret in state/secret: File exists (os error 17); set SECRET, for example to the output of: openssl rand -hex 32"
    );
    assert_eq!(error.exit_code(), 1, "the next start may succeed");
}

#[test]
fn a_generated_secret_can_be_set_and_rotated() {
    let scene = Scene::without_secret();
    let mut loaded = scene.loaded();
    loaded.make_secret().unwrap();
    let first = keys(&loaded)[0].to_owned();
    let source = loaded.settings.auth.secrets.source().clone();

    assert_eq!(source.rotate().unwrap(), scene.path("state/secret"));
    let rotated = scene.loaded();
    assert_eq!(keys(&rotated)[1..], [first]);
    assert_eq!(keys(&rotated)[0].len(), 43);
    assert_ne!(keys(&rotated)[0], keys(&rotated)[1]);
    assert_eq!(mode(&scene.path("state/secret")), 0o600);

    source.set(&format!("{OTHER}\n{STRONG}")).unwrap();
    assert_eq!(keys(&scene.loaded()), [OTHER, STRONG]);
    assert_eq!(source.set("x\n\ny").unwrap_err(), SecretError::BlankLine { line: 2 });
    assert_eq!(source.set("").unwrap_err(), SecretError::Empty);
    assert_eq!(keys(&scene.loaded()), [OTHER, STRONG], "what is refused changes nothing");
    for _ in 2..16 {
        source.rotate().unwrap();
    }
    assert_eq!(source.rotate().unwrap_err(), SecretError::Full);
    assert_eq!(keys(&scene.loaded()).len(), 16);
    assert_eq!(std::fs::read_dir(scene.path("state")).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_secret_that_was_not_generated_must_be_changed_at_its_source() {
    let scene = Scene::new();
    let source = scene.loaded().settings.auth.secrets.source().clone();
    let sentence = "the secret is from environment variable SECRET: change it there, then reload";
    assert_eq!(source.rotate().unwrap_err().to_string(), sentence);
    assert_eq!(source.set(OTHER).unwrap_err().to_string(), sentence);
    let source = SecretSource::File("/etc/philote/secret".into());
    let sentence = "the secret is in /etc/philote/secret: change it there, then reload";
    assert_eq!(source.set(OTHER).unwrap_err().to_string(), sentence);
}

#[test]
fn secrets_are_compared_in_full() {
    let secrets =
        Scene::new().variable("SECRET", &format!("{OTHER}\n{STRONG}")).loaded().settings.auth.secrets;
    let one = Scene::new().loaded().settings.auth.secrets;
    let own = one.signing().unwrap();
    assert!(secrets.contains(own) && !one.contains(secrets.signing().unwrap()));
    let shorter = Scene::new().variable("SECRET", &STRONG[..31]).loaded().settings.auth.secrets;
    assert!(!shorter.contains(own) && !one.contains(shorter.signing().unwrap()));
}

//! Files that settings name: special files, large files, byte order marks, encrypted keys.

use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, Mode, mkfifoat};

use super::layers::JWKS;
use super::{STRONG, Scene};

const MARK: &str = "\u{feff}";
const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

/// Every setting that names a file, and the name of the file in it.
const NAMES: [(&str, &str); 12] = [
    ("auth.secret_file = 'there'\n", "there"),
    ("auth.public_keys = ['there']\n", "there"),
    ("auth.jwks_file = 'there'\n", "there"),
    ("tls.certificate = 'there'\ntls.key = 'key.pem'\n", "there"),
    ("tls.certificate = 'cert.pem'\ntls.key = 'there'\n", "there"),
    ("cluster.servers = ['nats://a']\ncluster.credentials_file = 'there'\n", "there"),
    ("cluster.servers = ['nats://a']\ncluster.user = 'x'\ncluster.password_file = 'there'\n", "there"),
    ("cluster.servers = ['nats://a']\ncluster.secret_file = 'there'\n", "there"),
    ("cluster.servers = ['nats://a']\ncluster.tls.ca = 'there'\n", "there"),
    ("cluster.servers = ['nats://a']\ncluster.tls = {certificate = 'there', key = 'key.pem'}\n", "there"),
    ("cluster.servers = ['nats://a']\ncluster.tls = {certificate = 'cert.pem', key = 'there'}\n", "there"),
    ("", "philote.toml"),
];

/// A scene with a certificate and its key.
fn scene(file: &str) -> Scene {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let scene = if file.contains("secret_file") { Scene::without_secret() } else { Scene::new() };
    scene.write("cert.pem", &pair.cert.pem());
    scene.write("key.pem", &pair.signing_key.serialize_pem());
    scene.file(file)
}

#[test]
fn a_special_file_is_refused_by_name_without_waiting_for_it() {
    for (settings, name) in NAMES {
        let refused = |kind: &str, make: &dyn Fn(&std::path::Path)| {
            let scene = scene(settings);
            let path = scene.path(name);
            let _ = std::fs::remove_file(&path);
            make(&path);
            let sentence = scene.refused();
            assert!(sentence.contains(name), "{sentence}");
            assert!(sentence.contains(&format!("is {kind}, not a regular file")), "{settings}: {sentence}");
        };
        refused("a pipe", &|path| mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap());
        refused("a directory", &|path| std::fs::create_dir(path).unwrap());
        refused("a socket", &|path| drop(UnixListener::bind(path).unwrap()));
        refused("a device", &|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap());
        let scene = scene(settings);
        let _ = std::fs::remove_file(scene.path(name));
        std::fs::File::create(scene.path(name)).unwrap().set_len(1 << 40).unwrap();
        assert!(scene.refused().contains("larger than "), "{settings}: {}", scene.refused());
    }
    // systemd's credential and the generated secret.
    let scene = Scene::without_secret();
    std::fs::create_dir_all(scene.path("credentials")).unwrap();
    mkfifoat(CWD, scene.path("credentials/secret"), Mode::RUSR).unwrap();
    let credentials = scene.path("credentials");
    let scene = scene.variable("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap());
    assert!(scene.refused().contains("credentials/secret is a pipe, not a regular file"));
    let scene = Scene::without_secret();
    std::fs::create_dir_all(scene.path("state")).unwrap();
    mkfifoat(CWD, scene.path("state/secret"), Mode::RUSR).unwrap();
    assert!(scene.refused().contains("state/secret is a pipe, not a regular file"));
    // The usual way to name no settings.
    Scene::new().options(|options| options.config = Some("/dev/null".into())).loaded();
}

#[test]
fn a_symbolic_link_to_a_regular_file_is_accepted() {
    let scene = Scene::without_secret().file("auth.secret_file = 'link'\n");
    scene.write("..data/secret", STRONG);
    std::os::unix::fs::symlink("..data/secret", scene.path("link")).unwrap();
    assert_eq!(scene.loaded().settings.auth.secrets.signing().unwrap().as_str(), STRONG);
}

#[test]
fn a_byte_order_mark_is_ignored_except_in_a_secret_which_it_makes_invalid() {
    let marked = |name: &str, text: &str, settings: &str| {
        let scene = scene(settings);
        scene.write(name, &format!("{MARK}{text}"));
        scene
    };
    assert_eq!(marked("philote.toml", "max_connections = 7\n", "").loaded().settings.max_connections, 7);
    let twice = marked("philote.toml", "max_connections = 7\nx = 1", "").refused();
    assert_eq!(twice, "philote.toml:2: x: unknown key");
    marked("there", PEM, "auth.public_keys = ['there']\n").loaded();
    marked("there", JWKS, "auth.jwks_file = 'there'\n").loaded();
    let tls = scene("tls.certificate = 'cert.pem'\ntls.key = 'key.pem'\n");
    for name in ["cert.pem", "key.pem"] {
        let text = std::fs::read_to_string(tls.path(name)).unwrap();
        tls.write(name, &format!("{MARK}{text}"));
    }
    tls.loaded();

    let sentence = |line: u8| {
        format!(
            "line {line} of the secret begins with an invisible byte order mark: save it as UTF-8 without one"
        )
    };
    let by_file = marked("there", STRONG, "auth.secret_file = 'there'\n").refused();
    assert_eq!(by_file, format!("philote.toml:1: auth.secret_file: {}", sentence(1)));
    let second = marked("there", &format!("{STRONG}\n"), "auth.secret_file = 'there'\n");
    second.write("there", &format!("{STRONG}\n{MARK}{STRONG}\n"));
    assert!(second.refused().ends_with(&sentence(2)));
    let by_variable = Scene::without_secret().variable("SECRET", &format!("{MARK}{STRONG}")).refused();
    assert_eq!(by_variable, format!("environment variable SECRET: auth.secret: {}", sentence(1)));
    let credential = Scene::without_secret();
    credential.write("credentials/secret", &format!("{MARK}{STRONG}"));
    let directory = credential.path("credentials");
    let credential = credential.variable("CREDENTIALS_DIRECTORY", directory.to_str().unwrap());
    assert!(credential.refused().ends_with(&sentence(1)));
    let own = Scene::without_secret();
    own.write("state/secret", STRONG);
    let source = own.loaded().settings.auth.secrets.source().clone();
    assert_eq!(source.set(&format!("{MARK}{STRONG}")).unwrap_err().to_string(), sentence(1));
}

#[test]
fn the_error_for_an_encrypted_key_says_how_to_decrypt_it() {
    let with = |change: fn(&str) -> String| {
        let scene = scene("tls.certificate = 'cert.pem'\ntls.key = 'key.pem'\n");
        let text = std::fs::read_to_string(scene.path("key.pem")).unwrap();
        scene.write("key.pem", &change(&text));
        scene.refused()
    };
    let sentence = "philote.toml:2: tls.key: the key in key.pem is encrypted, and the daemon cannot ask for its passphrase: \
                    decrypt it into a file that only the daemon can read (umask 077; openssl pkey -in key.pem -out \
                    key.pem.decrypted), and set the key to that file";
    assert_eq!(with(|pem| pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")), sentence);
    assert_eq!(
        with(|pem| pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY").replace('\n', "\r\n")),
        sentence
    );
    for kind in ["RSA", "EC"] {
        let old = |pem: &str, kind: &str| {
            pem.replace("PRIVATE KEY", &format!("{kind} PRIVATE KEY")).replacen(
                "-----\n",
                "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0123456789ABCDEF0123456789ABCDEF\n\n",
                1,
            )
        };
        let scene = scene("tls.certificate = 'cert.pem'\ntls.key = 'key.pem'\n");
        let text = std::fs::read_to_string(scene.path("key.pem")).unwrap();
        scene.write("key.pem", &old(&text, kind));
        assert_eq!(scene.refused(), sentence, "{kind}");
    }
    assert!(with(|_| "nothing".to_owned()).ends_with("key.pem has no private key in PEM"));
}

//! The defaults of all settings, and those of `--dev`.

use std::path::PathBuf;
use std::sync::LazyLock;

use super::cluster::{ClusterSettings, ClusterStorage, ClusterTls};
use super::memory;
use super::secret::{SecretSource, Secrets};
use super::settings::{
    AdminSettings, AdminSocket, AuthSettings, HistorySettings, HttpSettings, LimitSettings, LogFormat,
    LogLevel, LogSettings, MetricsSettings, PresenceSettings, Settings, ShutdownSettings, WebSocketSettings,
};
use super::value_types::{DEFAULT_PORT, Drain, KIB, Listen, MIB, TrustedProxies, host_name, seconds};

/// The secret of `--dev` if none is set. It has no blanks, so that a backend takes it without quotes.
pub const DEV_SECRET: &str = "everybody-knows-this-secret-of-philote-dev";

/// Messages in the history of each channel with `--dev`, so that resuming can be tried.
const DEV_HISTORY: usize = 100;

/// The settings of a cluster that no layer has changed yet. Without servers there is no cluster.
pub(super) static CLUSTER: LazyLock<ClusterSettings> = LazyLock::new(|| ClusterSettings {
    servers: Vec::new(),
    subject_prefix: "philote".to_owned(),
    name: host_name(),
    credentials_file: None,
    user: None,
    password_file: None,
    secret_file: None,
    storage: ClusterStorage::File,
    replicas: 1,
    log_bytes: 64 * MIB,
    patience: seconds(2),
    required: false,
    tls: ClusterTls::default(),
});

/// Returns the settings that no layer has changed yet.
pub(super) fn settings(dev: bool) -> Settings {
    let mut settings = defaults(memory::available());
    if dev {
        settings.dev = true;
        settings.history.messages = DEV_HISTORY;
        settings.listen = Listen::tcp(([127, 0, 0, 1], DEFAULT_PORT).into());
    }
    settings
}

/// Returns the defaults where the process may use this much memory, in bytes.
fn defaults(memory: usize) -> Settings {
    Settings {
        dev: false,
        listen: Listen::default(),
        max_connections: 255,
        auth: AuthSettings {
            secrets: Secrets::new(Vec::new(), SecretSource::Missing(PathBuf::new())),
            public_keys: Vec::new(),
            jwks_file: None,
            allow_empty_secret: false,
            leeway: seconds(5),
            require_expiry: false,
            issuer: None,
            audience: None,
        },
        websocket: WebSocketSettings {
            read_buffer_size: KIB,
            write_buffer_size: KIB,
            max_message_size: 64 * KIB,
            check_origin: false,
            allowed_origins: Vec::new(),
            handshake_timeout: seconds(10),
            ping_interval: seconds(25),
            pong_timeout: seconds(10),
            show_subject: true,
            compression: None,
        },
        http: HttpSettings { keep_alive_timeout: seconds(75) },
        limits: LimitSettings {
            queue_messages: 4096,
            queue_bytes: MIB,
            total_queue_bytes: memory / 4,
            channels_per_token: 1024,
            channel_name_bytes: 255,
            connections_per_address: 0,
            connections_per_subject: 0,
            handshakes_per_second: 0,
            messages_per_second: 0,
            bytes_per_second: 0,
            trusted_proxies: TrustedProxies::default(),
        },
        history: HistorySettings { messages: 0, ttl: seconds(5 * 60), channels: Vec::new(), bytes: 64 * MIB },
        presence: PresenceSettings { grace: seconds(5), subjects: 200 },
        tls: None,
        cluster: None,
        admin: AdminSettings {
            socket: AdminSocket::Default,
            mode: 0o660,
            observe_socket: None,
            observe_mode: 0o660,
            closed_ring: 10_000,
        },
        metrics: MetricsSettings { listen: None },
        log: LogSettings { level: LogLevel::Info, format: LogFormat::Auto },
        shutdown: ShutdownSettings { drain: Drain::Auto },
    }
}

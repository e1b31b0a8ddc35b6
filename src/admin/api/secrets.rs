//! The secrets that sign and verify tokens.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A secret or a token. JSON contains it as it is; `Debug` output contains `[hidden]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// The secrets in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The first signs tokens; all verify them.
    pub secrets: Vec<Hidden>,
    /// Where they came from, as in [`Status::secret_source`](super::Status::secret_source).
    pub source: String,
}

/// A request to replace the secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSet {
    /// One secret per line; the first signs tokens, all verify them.
    pub secret: Hidden,
}

/// The result of a change of the secrets. It contains no secret, because a client may rotate secrets that it may not
/// read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretChanged {
    /// The secret file, which was written.
    pub path: PathBuf,
    /// How many secrets verify tokens now.
    pub secrets: u64,
    /// Connections that are being closed because the key that signed their token was removed.
    pub closing: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_tokens_do_not_show_in_debug() {
        let set = SecretSet { secret: Hidden("hunter2".into()) };
        assert_eq!(format!("{set:?}"), "SecretSet { secret: [hidden] }");
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"{"secret":"hunter2"}"#);
    }
}

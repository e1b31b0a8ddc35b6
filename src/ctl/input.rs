//! Standard input, from which commands read secrets and tokens.

use std::io::{self, IsTerminal, Read};

use super::{Complaint, Exit};
use crate::admin::server;

/// Reads all of standard input. A terminal is an error, because it would show what is typed.
pub(super) fn standard_input(thing: &str, example: &str) -> Result<String, Complaint> {
    let complaint =
        |message, exit| Complaint { message, hint: Some(format!("for example: {example}")), exit };
    if io::stdin().is_terminal() {
        let message = format!("the {thing} is read from standard input, which is a terminal");
        return Err(complaint(message, Exit::Usage));
    }
    let mut text = String::new();
    let limit = server::MAX_BODY as u64;
    match io::stdin().lock().take(limit + 1).read_to_string(&mut text) {
        Err(error) => {
            Err(complaint(format!("cannot read the {thing} from standard input: {error}"), Exit::Failed))
        }
        Ok(_) if text.trim().is_empty() => {
            Err(complaint(format!("there is no {thing} on standard input"), Exit::Usage))
        }
        Ok(_) if text.len() as u64 > limit => {
            Err(complaint(format!("the {thing} on standard input has more than {limit} bytes"), Exit::Usage))
        }
        Ok(_) => Ok(text),
    }
}

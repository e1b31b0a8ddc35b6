//! Checks of the admin socket, and of the versions at its ends.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Examined;
use crate::admin::api::{Finding, Findings};
use crate::admin::client::Error;
use crate::installation;

const SOCKET: &str = "socket";

/// The finding about a socket that answered.
pub(super) fn reachable(socket: Option<&Path>) -> Finding {
    let path = socket.map_or_else(String::new, |path| path.display().to_string());
    Findings::of(SOCKET).or_ok(format!("{path} answers")).remove(0)
}

/// The finding about a socket that did not.
pub(super) fn unreachable(error: &Error) -> Finding {
    let mut findings = Findings::of(SOCKET);
    findings.problem(
        error.to_string(),
        error.hint().unwrap_or_else(|| format!("see its log: {}", installation::its_log("philote"))),
    );
    findings.or_ok("").remove(0)
}

/// Anyone who may write to the socket may sign tokens; anyone who may write to its directory may replace it.
pub(super) fn permissions(examined: &Examined, mut findings: Findings) -> Vec<Finding> {
    const OTHERS: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let Some(path) = &examined.socket else { return findings.or_ok("unknown") };
    let socket = match std::fs::metadata(path) {
        Ok(socket) => socket,
        Err(error) => {
            let remedy = "start philote again, so that it makes the socket anew";
            findings.problem(format!("{} cannot be looked at: {error}", path.display()), remedy);
            return findings.or_ok("");
        }
    };
    let mode = socket.mode() & 0o7777;
    if mode & OTHERS != 0 && !examined.observes_only {
        findings.problem(
            format!(
                "every user of this machine may administer philote: {} has mode {mode:04o}",
                path.display()
            ),
            "set [admin] mode = \"0660\", and add administrators to its group",
        );
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let open = std::fs::metadata(directory).map_or(0, |directory| directory.mode());
    if open & OTHERS != 0 && open & STICKY == 0 {
        findings.problem(
            format!("every user of this machine may replace the admin socket in {}", directory.display()),
            format!("run: chmod o-w {}", directory.display()),
        );
    }
    findings.or_ok(format!("mode {mode:04o}, user id {}, group id {}", socket.uid(), socket.gid()))
}

pub(super) fn version(examined: &Examined, mut findings: Findings) -> Vec<Finding> {
    const OURS: &str = env!("CARGO_PKG_VERSION");
    let theirs = &examined.version;
    if theirs != OURS {
        findings.warn(
            format!("the running philote is version {theirs}, philotectl is version {OURS}"),
            format!("restart it after an upgrade: {}", installation::restart_it("philote")),
        );
    }
    findings.or_ok(theirs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::admin::api::Verdict;

    #[test]
    fn a_socket_or_directory_that_everyone_may_write_to_is_a_problem() {
        let scratch = tempfile::tempdir().unwrap();
        let (directory, path) = (scratch.path().join("run"), scratch.path().join("run/admin.sock"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(&path, "").unwrap();
        let mut examined = Examined {
            socket: Some(path.clone()),
            version: String::new(),
            max_connections: 0,
            observes_only: false,
            root: "/".into(),
        };
        let found = |examined: &Examined, socket, parent| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(socket)).unwrap();
            std::fs::set_permissions(&directory, PermissionsExt::from_mode(parent)).unwrap();
            let findings = permissions(examined, Findings::of("permissions"));
            findings.iter().map(|finding| finding.verdict).collect::<Vec<_>>()
        };
        assert_eq!(found(&examined, 0o660, 0o755), [Verdict::Ok]);
        assert_eq!(found(&examined, 0o662, 0o755), [Verdict::Problem]);
        assert_eq!(found(&examined, 0o660, 0o777), [Verdict::Problem]);
        assert_eq!(found(&examined, 0o660, 0o1777), [Verdict::Ok], "as /tmp");
        assert_eq!(found(&examined, 0o666, 0o777), [Verdict::Problem, Verdict::Problem]);
        examined.observes_only = true;
        assert_eq!(found(&examined, 0o666, 0o755), [Verdict::Ok], "everyone may observe");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(permissions(&examined, Findings::of("permissions"))[0].verdict, Verdict::Problem);
    }
}

//! Hands the histories over to the next process, so that clients that resume after an upgrade miss nothing.
//!
//! Under systemd the image is in memory, in the file descriptor store of the service. Without a service manager it is a file
//! beside the admin socket, whose lock keeps every other daemon from this path. An image is used once: it is removed before it
//! is read. Where there is none, as after a crash, each channel begins a new history with another epoch.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use uuid::Uuid;

use crate::admin::socket::{Access, Socket};
use crate::hub::{Boot, HandedOver};
use crate::server::Server;
use crate::systemd::Notifier;

/// The name of the image in systemd's file descriptor store.
pub(super) const STORED_NAME: &str = "philote-history";

/// The end of the name of the file beside the admin socket.
const SUFFIX: &str = ".history";

/// The kernel's name for the time since the machine was started. The unit hides it (`ProcSubset=pid`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where images come from and go to.
pub(super) struct Handover {
    notifier: Arc<Notifier>,
    /// The file beside the admin socket, if there is one.
    file: Option<PathBuf>,
}

impl Handover {
    /// Uses the manager's store, or else a file beside the admin socket, which is the first socket if there is one.
    pub(super) fn new(notifier: Arc<Notifier>, socket: Option<&Socket>) -> Handover {
        let admin = socket.filter(|socket| socket.access() == Access::Administer);
        Handover { notifier, file: admin.map(|socket| with_suffix(socket.path(), SUFFIX)) }
    }

    /// Goes on with the histories of the process before, if it has left an image that can be used. Does nothing else about one
    /// that cannot than to remove it and to say why.
    pub(super) fn take_over(&self, server: &Server, stored: Option<File>) {
        if stored.is_some() {
            self.notifier.remove_stored(STORED_NAME);
        }
        // Removed even if it is not used: it must not be there when this process has published more.
        let file = self.file.as_deref().and_then(|path| take_file(path).transpose());
        let taken = match (stored, file) {
            (Some(stored), _) => take_stored(server, stored),
            (None, Some(Ok(file))) => take(server, &file, false),
            (None, Some(Err(error))) => Err(format!("the file that it left cannot be used: {error}")),
            (None, None) => return,
        };
        match taken {
            Ok(done) => tracing::info!("{done}"),
            Err(why) => tracing::warn!(
                "the history of the process before is lost: {why}; each channel begins a new one with another epoch, and \
                 clients that resume are told that messages may be missing"
            ),
        }
    }

    /// Refuses all further messages to channels with a history, and leaves the histories to the next process.
    pub(super) fn hand_over(&self, server: &Server) {
        // The history of a cluster is in its log.
        if server.cluster.is_some() || !server.hub.has_histories() {
            return;
        }
        let (done, place) = match &self.file {
            // Nobody says whether it keeps them.
            _ if self.notifier.has_manager() => (self.store(server), "with the service manager"),
            Some(path) => (write_file(server, path), "in a file"),
            None => return,
        };
        match done {
            Ok(HandedOver { channels, messages, left_out }) => {
                tracing::info!(
                    "left {messages} messages of {channels} channels {place} for the next process"
                );
                if left_out > 0 {
                    tracing::warn!(
                        "the history of {left_out} channels is lost, because all together have more than [history] bytes"
                    );
                }
            }
            Err(error) => tracing::warn!(
                "the history ends with this process, because its image cannot be written: {error}; each channel begins a new \
                 one with another epoch"
            ),
        }
    }

    fn store(&self, server: &Server) -> io::Result<HandedOver> {
        let image = memory_file()?;
        let handed = server.hub.hand_over(&image, &boot(true))?;
        fcntl_add_seals(&image, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        self.notifier.store(STORED_NAME, &image)?;
        Ok(handed)
    }
}

/// Makes a file in memory that can be sealed, and not executed where the kernel knows that.
fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let image = memfd_create(STORED_NAME, flags | MemfdFlags::NOEXEC_SEAL);
    Ok(image.or_else(|_| memfd_create(STORED_NAME, flags))?.into())
}

fn take_stored(server: &Server, stored: File) -> Result<String, String> {
    if !fcntl_get_seals(&stored).is_ok_and(|seals| seals.contains(SealFlags::WRITE | SealFlags::SHRINK)) {
        return Err("what systemd has stored is no sealed file in memory".to_owned());
    }
    take(server, &stored, true)
}

/// Goes on with an image. One in memory cannot be of another boot.
fn take(server: &Server, image: &File, in_memory: bool) -> Result<String, String> {
    if server.cluster.is_some() {
        return Err("this daemon is in a cluster now, whose log has the history".to_owned());
    }
    if !server.hub.has_histories() {
        return Err("[history] is off now".to_owned());
    }
    let taken = server.hub.take_over(image, &boot(in_memory)).map_err(|error| error.to_string())?;
    Ok(format!(
        "went on with {} messages of {} channels of the process before, which has ended {:.1} s ago",
        taken.messages,
        taken.channels,
        taken.since.as_secs_f32()
    ))
}

/// Opens and removes the file at `path`, if there is one.
fn take_file(path: &Path) -> io::Result<Option<File>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened,
    };
    remove(path)?;
    // What a killed process has not finished.
    remove(&with_suffix(path, ".new"))?;
    let file = file?;
    let found = file.metadata()?;
    let is_own =
        found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    if !is_own {
        return Err(io::Error::other(format!("{} was not a file of this user alone", path.display())));
    }
    Ok(Some(file))
}

/// Writes the image at `path` under another name first, so that nobody finds half of it there.
fn write_file(server: &Server, path: &Path) -> io::Result<HandedOver> {
    let boot = boot(false);
    if boot.id.is_none() {
        return Err(io::Error::other(format!("{BOOT_ID} cannot be read")));
    }
    let new = with_suffix(path, ".new");
    remove(&new)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let handed =
        server.hub.hand_over(&file, &boot).and_then(|handed| fs::rename(&new, path).map(|()| handed));
    if handed.is_err() {
        remove(&new)?;
    }
    handed
}

fn boot(ends_with_it: bool) -> Boot {
    let id = fs::read_to_string(BOOT_ID).ok().and_then(|text| Uuid::parse_str(text.trim()).ok());
    Boot { id: id.map(Uuid::into_bytes), ends_with_it }
}

/// Removes a file, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

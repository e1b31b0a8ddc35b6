//! Reads the body of a request into one piece.

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError<E> {
    /// It is longer than the limit.
    TooLarge,
    /// It ended early, or its chunks are malformed.
    Broken,
    /// The caller has no memory for it.
    NoMemory(E),
}

/// Reads a body of at most `max` bytes. `hold` is called before each piece is kept, with its length.
///
/// A declared length over the limit is refused before anything is read, so that no `100 Continue` asks for a body that
/// will be refused. The bytes are copied out of what hyper read: each piece holds a read buffer of 8 KiB or more, so
/// that a body sent byte by byte would hold thousands of times its size.
pub(crate) async fn read_body<E>(
    mut body: Incoming,
    max: usize,
    hold: impl Fn(usize) -> Result<(), E>,
) -> Result<Vec<u8>, BodyError<E>> {
    let declared = usize::try_from(body.size_hint().lower()).map_err(|_| BodyError::TooLarge)?;
    if declared > max {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        // Trailers are not used.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if data.len() > max - bytes.len() {
            return Err(BodyError::TooLarge);
        }
        hold(data.len()).map_err(BodyError::NoMemory)?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

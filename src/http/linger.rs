//! Ends a connection so that the client receives what was written, even if it is still sending.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The most bytes that are read and discarded after an answer, such as the rest of a refused body.
pub(crate) const MAX_DRAIN: usize = 32 * 1024 * 1024;

/// The longest time for reading them.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The longest silence of a client in between, and the longest time for writing a short answer.
const SILENCE: Duration = Duration::from_secs(1);

/// The size of one read in bytes. Each client that is drained has a buffer of this size.
const READ_BYTES: usize = 16 * 1024;

/// Writes a short answer to a client that may have stopped reading.
pub(crate) async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    write_within(stream, bytes, SILENCE).await;
}

/// Writes within this time. Returns whether everything was written.
pub(crate) async fn write_within<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    time: Duration,
) -> bool {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    matches!(timeout(time, written).await, Ok(Ok(())))
}

/// Reads and discards until the client ends its side. A socket that is closed with unread bytes sends a reset, after which
/// the client cannot read what was written.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let drain = async {
        timeout(SILENCE, stream.shutdown()).await.ok()?.ok()?;
        let mut scratch = vec![0; READ_BYTES];
        let mut drained = 0;
        while drained < MAX_DRAIN {
            match timeout(SILENCE, stream.read(&mut scratch)).await {
                Ok(Ok(count)) if count > 0 => drained += count,
                _ => break,
            }
        }
        Some(())
    };
    let _ = timeout(DRAIN_TIME, drain).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn draining_ends_by_bytes_by_silence_and_by_time() {
        // By bytes: a client that sends without an end.
        let (mut client, mut server) = duplex(READ_BYTES);
        let sender = tokio::spawn(async move {
            let mut sent = 0;
            while client.write_all(&[0; READ_BYTES]).await.is_ok() {
                sent += READ_BYTES;
            }
            sent
        });
        linger(&mut server).await;
        drop(server);
        assert!((MAX_DRAIN..=MAX_DRAIN + 2 * READ_BYTES).contains(&sender.await.unwrap()));

        // By silence.
        let (client, mut server) = duplex(64);
        let began = tokio::time::Instant::now();
        linger(&mut server).await;
        assert_eq!(began.elapsed().as_secs(), SILENCE.as_secs());
        drop(client);

        // By time: a byte now and then.
        let (mut client, mut server) = duplex(64);
        let began = tokio::time::Instant::now();
        tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SILENCE / 2).await;
            }
        });
        linger(&mut server).await;
        assert_eq!(began.elapsed().as_secs(), DRAIN_TIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_not_waited_for() {
        let (_client, mut server) = duplex(64);
        assert!(write_within(&mut server, &[0; 64], SILENCE).await);
        assert!(!write_within(&mut server, &[0; 64], SILENCE).await);
    }
}

//! The end of a connection: what was written reaches the client, also one that is still sending.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes that are read and thrown away behind an answer, such as the rest of a body that was refused.
pub(crate) const MAX_DRAIN: usize = 32 * 1024 * 1024;

/// How long they may take to arrive.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// How long a client may say nothing in between, and may take for a short answer.
const SILENCE: Duration = Duration::from_secs(1);

/// Bytes of one read: each client that is drained holds so many.
const READ_BYTES: usize = 16 * 1024;

/// Writes something short to a client that perhaps reads no more.
pub(crate) async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    write_within(stream, bytes, SILENCE).await;
}

/// Writes to a client that takes it in this time, or not at all. Returns whether all was written.
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

/// Ends a connection so that what was written reaches its client: a socket that is closed with unread bytes sends a
/// reset, which takes back what the client has not read yet.
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

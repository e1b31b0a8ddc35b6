//! Decides whether a client is alive. Only bytes from the client count. Bytes that were sent to it do not, because the
//! client's kernel acknowledges them for a frozen program, and ours buffers them when the network is down.
//!
//! A client answers a ping when it has read the bytes before it. These may wait in our kernel, in the network, or in the
//! client's kernel, so nobody knows how many are left. A client therefore has `pong_timeout` from the moment the ping was
//! written, plus the time in which the slowest accepted reader would read those bytes.

use crate::outbox::{Progress, Seconds};

/// The slowest rate at which a client may read before it counts as dead, in bytes per second: 128 kbit/s.
const SLOWEST: u32 = 16 * 1024;

/// The most bytes that may lie before a ping: the largest send buffer of Linux (tcp_wmem in tcp(7)).
const MOST_BEFORE_PING: u32 = 4 * 1024 * 1024;

/// The state of one client's heartbeat. Positions in the stream to it are counted in bytes, modulo 2^32.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    /// A ping is not answered yet.
    pinged: bool,
    /// When the ping was written, or when its writing last advanced. Without a ping, when the client was last checked.
    at: Seconds,
    /// The end of the ping. Without a ping, the end of the stream at `at`.
    end: u32,
    /// The position up to which the stream was written at `at`, at most `end`.
    written: u32,
    /// The position up to which the client has read, if it is no slower than [`SLOWEST`].
    read: u32,
}

/// What the caller must do about a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Check it again at this time.
    Alive(Seconds),
    /// The ping still waits for the socket: try to write, and check again at this time.
    Unwritten(Seconds),
    /// It is silent: ping it, and call [`Heartbeat::pinged`].
    Silent,
    /// It did not answer.
    Dead,
}

impl Heartbeat {
    /// Checks a client whose last bytes arrived at `heard`.
    pub(crate) fn look(
        &mut self,
        now: Seconds,
        heard: Seconds,
        stream: Progress,
        interval: Seconds,
        patience: Seconds,
    ) -> Pulse {
        if self.pinged && heard < self.at {
            return self.wait(now, stream.written as u32, patience);
        }
        let queued = stream.queued as u32;
        if self.pinged {
            // The client has read up to the ping.
            self.read = self.end;
        } else {
            let seconds = now.saturating_sub(self.at);
            self.read = self.read.wrapping_add(seconds.saturating_mul(SLOWEST).min(self.before_end()));
        }
        (self.pinged, self.at, self.end) = (false, now, queued);
        self.read = queued.wrapping_sub(self.before_end().min(MOST_BEFORE_PING));
        if now < heard.saturating_add(interval) { Pulse::Alive(heard + interval) } else { Pulse::Silent }
    }

    /// Records that a ping was queued; `is_written` says whether it is written at once.
    pub(crate) fn pinged(&mut self, now: Seconds, stream: Progress, is_written: bool) {
        self.pinged = true;
        self.at = now;
        self.end = stream.queued as u32;
        self.written = if is_written { self.end } else { stream.written as u32 };
    }

    /// Returns whether a ping waits for an answer, and all of it was written.
    pub(crate) fn is_ping_written(&self, stream: Progress) -> bool {
        self.pinged && (stream.written as u32).wrapping_sub(self.end) as i32 >= 0
    }

    fn wait(&mut self, now: Seconds, written: u32, patience: Seconds) -> Pulse {
        let is_written = written.wrapping_sub(self.end) as i32 >= 0;
        let written = if is_written { self.end } else { written };
        if written != self.written {
            (self.written, self.at) = (written, now);
        }
        let deadline = self.at.saturating_add(patience + self.before_end().min(MOST_BEFORE_PING) / SLOWEST);
        match is_written {
            _ if now >= deadline => Pulse::Dead,
            true => Pulse::Alive(deadline),
            false => Pulse::Unwritten(now + 1),
        }
    }

    /// Returns the bytes that the client may still have to read before `end`.
    fn before_end(&self) -> u32 {
        self.end.wrapping_sub(self.read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Seconds = 25;
    const PATIENCE: Seconds = 10;
    const MIB: u64 = 1 << 20;

    fn look(heartbeat: &mut Heartbeat, now: Seconds, heard: Seconds, written: u64, queued: u64) -> Pulse {
        heartbeat.look(now, heard, Progress { written, queued }, INTERVAL, PATIENCE)
    }

    /// Pings at this time, after this many bytes, which are all written.
    fn pinged(now: Seconds, bytes: u64) -> Heartbeat {
        let mut heartbeat = Heartbeat::default();
        assert_eq!(look(&mut heartbeat, now, now - INTERVAL, bytes, bytes), Pulse::Silent);
        heartbeat.pinged(now, Progress { written: bytes, queued: bytes + 2 }, true);
        heartbeat
    }

    #[test]
    fn a_silent_client_is_pinged_and_is_dead_without_an_answer() {
        let mut heartbeat = Heartbeat::default();
        assert_eq!(look(&mut heartbeat, 30, 10, 0, 0), Pulse::Alive(35));
        let mut heartbeat = pinged(35, 0);
        assert_eq!(look(&mut heartbeat, 36, 10, 2, 2), Pulse::Alive(45));
        assert_eq!(look(&mut heartbeat, 45, 10, 2, 2), Pulse::Dead);
        let mut heartbeat = pinged(35, 0);
        assert_eq!(look(&mut heartbeat, 45, 36, 2, 2), Pulse::Alive(61), "any byte is an answer");
        assert_eq!(look(&mut heartbeat, 61, 36, 2, 2), Pulse::Silent);
    }

    #[test]
    fn fault_79_bytes_sent_to_a_client_do_not_prove_it_alive() {
        // 200 bytes a second, all taken.
        let mut heartbeat = Heartbeat::default();
        let sent = |now: Seconds| u64::from(now) * 200;
        for now in (25..100).step_by(25) {
            assert_eq!(look(&mut heartbeat, now, now - 5, sent(now), sent(now)), Pulse::Alive(now + 20));
        }
        assert_eq!(look(&mut heartbeat, 100, 75, sent(100), sent(100)), Pulse::Silent);
        heartbeat.pinged(100, Progress { written: sent(100), queued: sent(100) + 2 }, true);
        assert_eq!(look(&mut heartbeat, 109, 75, sent(109) + 2, sent(109) + 2), Pulse::Alive(110));
        assert_eq!(look(&mut heartbeat, 110, 75, sent(110) + 2, sent(110) + 2), Pulse::Dead);
    }

    #[test]
    fn a_slow_reader_has_time_to_read_the_bytes_before_the_ping() {
        let mut heartbeat = pinged(35, MIB);
        assert_eq!(look(&mut heartbeat, 45, 10, MIB + 2, MIB + 2), Pulse::Alive(45 + 64));
        assert_eq!(look(&mut heartbeat, 109, 10, MIB + 2, MIB + 2), Pulse::Dead);
        // It answered after it had read them, so they no longer count.
        let mut heartbeat = pinged(35, MIB);
        assert_eq!(look(&mut heartbeat, 90, 80, MIB + 2, MIB + 2), Pulse::Alive(105));
        assert_eq!(look(&mut heartbeat, 105, 80, MIB + 2, MIB + 2), Pulse::Silent);
        heartbeat.pinged(105, Progress { written: MIB + 2, queued: MIB + 4 }, true);
        assert_eq!(look(&mut heartbeat, 106, 80, MIB + 4, MIB + 4), Pulse::Alive(115));
        // Nor do bytes so old that even the slowest reader has read them.
        let mut heartbeat = Heartbeat::default();
        assert_eq!(look(&mut heartbeat, 10, 10, MIB, MIB), Pulse::Alive(35));
        assert_eq!(look(&mut heartbeat, 74, 60, MIB, MIB), Pulse::Alive(85));
        assert_eq!(look(&mut heartbeat, 85, 60, MIB, MIB), Pulse::Silent);
        heartbeat.pinged(85, Progress { written: MIB, queued: MIB + 2 }, true);
        assert_eq!(look(&mut heartbeat, 86, 60, MIB + 2, MIB + 2), Pulse::Alive(95));
        // The wait is bounded however much was sent.
        let mut heartbeat = pinged(35, 3 << 30);
        assert_eq!(look(&mut heartbeat, 45, 10, (3 << 30) + 2, (3 << 30) + 2), Pulse::Alive(45 + 256));
    }

    #[test]
    fn the_time_begins_when_the_ping_is_written() {
        let mut heartbeat = Heartbeat::default();
        assert_eq!(look(&mut heartbeat, 35, 10, 0, 100), Pulse::Silent);
        heartbeat.pinged(35, Progress { written: 0, queued: 102 }, false);
        for now in 36..100 {
            assert_eq!(look(&mut heartbeat, now, 10, u64::from(now - 35), 102), Pulse::Unwritten(now + 1));
        }
        assert_eq!(look(&mut heartbeat, 100, 10, 200, 200), Pulse::Alive(110));
        assert_eq!(look(&mut heartbeat, 110, 10, 300, 300), Pulse::Dead);
        // A socket that takes no more bytes ends it, too.
        let mut heartbeat = Heartbeat::default();
        assert_eq!(look(&mut heartbeat, 35, 10, 50, 100), Pulse::Silent);
        heartbeat.pinged(35, Progress { written: 50, queued: 102 }, false);
        assert_eq!(look(&mut heartbeat, 44, 10, 50, 102), Pulse::Unwritten(45));
        assert_eq!(look(&mut heartbeat, 45, 10, 50, 102), Pulse::Dead);
        // Reported as written, but refused.
        let mut heartbeat = pinged(35, 100);
        assert_eq!(look(&mut heartbeat, 36, 10, 50, 102), Pulse::Unwritten(37));
    }

    #[test]
    fn places_may_wrap_around() {
        let start = u64::from(u32::MAX) - 50;
        let mut heartbeat = Heartbeat::default();
        assert_eq!(look(&mut heartbeat, 20, 10, start, start), Pulse::Alive(35));
        for now in [300, 600] {
            assert_eq!(look(&mut heartbeat, now, now, start, start), Pulse::Alive(now + 25));
        }
        assert_eq!(look(&mut heartbeat, 625, 600, start, start + 100), Pulse::Silent);
        heartbeat.pinged(625, Progress { written: start, queued: start + 102 }, false);
        assert_eq!(look(&mut heartbeat, 626, 600, start + 60, start + 102), Pulse::Unwritten(627));
        assert_eq!(look(&mut heartbeat, 627, 600, start + 102, start + 102), Pulse::Alive(637));
    }
}

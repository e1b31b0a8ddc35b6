//! Measures what the same deliveries cost a bare loop, which only sends finished frames to open sockets.
//!
//! No server can cost less on the same kernel, so a server's figure is compared with this one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::BenchError;
use super::local::{Process, own_time};
use super::swarm::Swarm;
use super::wire::{Bare, Mark, Seat, server_frame};

/// How long to wait for a delivery. Over loopback only a lost one takes this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sender's CPU time for each delivery, in seconds.
///
/// One system call sends `in_flight` frames of `frame` bytes to each of `readers` sockets. The sender runs on the
/// cores that `server` may use.
pub(super) fn measure(
    readers: usize,
    frame: usize,
    in_flight: usize,
    duration: Duration,
    server: Option<Process>,
) -> Result<f64, BenchError> {
    let failed = |error| BenchError::System("measure the floor", error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut orders = TcpStream::connect(address).map_err(failed)?;
    orders.set_nodelay(true).map_err(failed)?;
    let (ordered, _) = listener.accept().map_err(failed)?;
    let mut swarm = Swarm::new(Bare, address, None)?;
    let seat = Arc::new(Seat { channel: String::new(), reads: true, token: String::new() });
    let mut sockets = Vec::with_capacity(readers);
    for _ in 0..readers {
        swarm.adopt_open(TcpStream::connect(address).map_err(failed)?, &seat)?;
        let (socket, _) = listener.accept().map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        sockets.push(socket);
    }
    let batch = server_frame(&[b'0'; Mark::LENGTH], frame).repeat(in_flight);
    let cores = server.and_then(Process::cores);
    let sender = thread::spawn(move || {
        if let Some(cores) = cores {
            // Without permission to move, it runs where it is.
            let _ = rustix::thread::sched_setaffinity(None, &cores);
        }
        send(ordered, &mut sockets, &batch)
    });

    let due = (readers * in_flight) as u64;
    let (started, mut rounds) = (Instant::now(), 0_u64);
    while started.elapsed() < duration {
        orders.write_all(&[1]).map_err(failed)?;
        let (mut arrived, asked) = (0, Instant::now());
        while arrived < due {
            swarm.turn(Some(PATIENCE), |_, data| arrived += u64::from(Mark::read(data).is_some()))?;
            if asked.elapsed() > PATIENCE {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
        }
        rounds += 1;
    }
    drop(orders);
    let time = sender.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())).map_err(failed)?;
    Ok(time.as_secs_f64() / (rounds * due) as f64)
}

/// Sends a batch to every socket for each byte that arrives, and returns the CPU time that this took.
fn send(mut orders: TcpStream, sockets: &mut [TcpStream], batch: &[u8]) -> io::Result<Duration> {
    let began = own_time();
    let mut order = [0];
    while orders.read(&mut order)? > 0 {
        for socket in &mut *sockets {
            socket.write_all(batch)?;
        }
    }
    Ok(own_time().saturating_sub(began))
}

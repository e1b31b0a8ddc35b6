//! The listener of `[metrics]`, which serves only `GET /metrics`.
//!
//! A connection without a request only occupies a place. When all places are taken, the next connection replaces the
//! one that has been without a request for the longest time.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use crate::http::linger;
use crate::places::{Place, Places, Rules};
use crate::sync::lock;

/// The most connections at once. One more replaces the oldest without a request.
pub const MAX_CONNECTIONS: usize = 64;

/// The most requests answered at once, because each iterates over all clients. Others wait.
pub const MAX_SCRAPES: usize = 8;

/// The time limit for a request and its answer together.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// The pause after an accept that failed because no file descriptor was left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the result of `text` until dropped. `text` may block, because it is called on the blocking pool.
pub async fn serve(listener: TcpListener, text: Arc<dyn Fn() -> String + Send + Sync>) {
    let places =
        Places::new(Rules { places: MAX_CONNECTIONS, share: MAX_CONNECTIONS, grace: Duration::ZERO });
    let scrapes = Arc::new(Semaphore::new(MAX_SCRAPES));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let evicted = Arc::new(Notify::new());
        let place = places.take(None::<()>, &evicted).await;
        tokio::spawn(connection(stream, text.clone(), scrapes.clone(), place, evicted));
    }
}

/// Serves one connection until it is answered, too slow, or replaced.
async fn connection(
    stream: TcpStream,
    text: Arc<dyn Fn() -> String + Send + Sync>,
    scrapes: Arc<Semaphore>,
    place: Place<()>,
    evicted: Arc<Notify>,
) {
    let place = Mutex::new(place);
    let service = service_fn(|request| {
        // A connection with a request is not replaced. One that was replaced before is closed below.
        lock(&place).begin();
        let (text, scrapes) = (text.clone(), &scrapes);
        async move {
            // The semaphore is never closed.
            let _scrape = scrapes.acquire().await;
            Ok::<_, Infallible>(answer(&request, text).await)
        }
    });
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        // A client that has shut down only its sending side receives its answer.
        .half_close(true)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let answered = tokio::select! {
        answered = tokio::time::timeout(DEADLINE, &mut connection) => answered.is_ok(),
        () = evicted.notified() => false,
    };
    // A client that is too slow is closed without waiting.
    if answered {
        let mut stream = connection.into_parts().io.into_inner();
        // It has its answer, so the next client does not wait for its end.
        lock(&place).set_idle();
        tokio::select! {
            () = linger(&mut stream) => {}
            () = evicted.notified() => {}
        }
    }
}

async fn answer(
    request: &Request<Incoming>,
    text: Arc<dyn Fn() -> String + Send + Sync>,
) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match tokio::task::spawn_blocking(move || text()).await
        {
            Ok(text) => (StatusCode::OK, text),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n".to_owned()),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "the metrics are at /metrics\n".to_owned()),
    };
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(super::CONTENT_TYPE));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Starts a listener that serves one metric, and returns how to connect to it.
    async fn serving() -> impl AsyncFn() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(|| "figure 1\n".to_owned())));
        async move || TcpStream::connect(address).await.unwrap()
    }

    async fn scrape(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Whether the server has closed the connection, so that a read returns.
    fn cut(stream: &TcpStream) -> bool {
        !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_do_not_delay_a_scrape() {
        let connect = serving().await;
        let began = tokio::time::Instant::now();
        let mut slow = Vec::new();
        for number in 0..4 * MAX_CONNECTIONS {
            let mut stream = connect().await;
            // Half of them send nothing, the others never finish their request.
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
            }
            slow.push(stream);
        }
        let answer = scrape(&mut connect().await).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("figure 1\n"), "{answer}");
        // The clock is paused, and advances only when no task can run.
        assert!(began.elapsed() < DEADLINE, "it waited for a deadline");
        assert!(slow.iter().any(cut), "all places were taken, and one more was answered");
        for mut stream in slow {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
        assert!(began.elapsed() >= DEADLINE, "the last ones had their time");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_go_on_sending_after_their_answer_do_not_delay_a_scrape() {
        let connect = serving().await;
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = connect().await;
            let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
            stream.write_all(request).await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            senders.spawn(async move {
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            });
        }
        let began = tokio::time::Instant::now();
        assert!(scrape(&mut connect().await).await.ends_with("figure 1\n"));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_place_is_used_before_a_connection_is_replaced() {
        let connect = serving().await;
        let mut slow = Vec::new();
        for _ in 1..MAX_CONNECTIONS {
            slow.push(connect().await);
        }
        let answer = scrape(&mut connect().await).await;
        assert!(answer.ends_with("figure 1\n"), "{answer}");
        assert!(!slow.iter().any(cut), "they have time yet");
    }
}

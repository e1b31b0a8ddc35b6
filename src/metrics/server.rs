//! The listener of `[metrics]`: `GET /metrics`, and nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::http::linger;

/// Scrapers at once; more wait.
pub const MAX_SCRAPERS: usize = 8;

/// For a question and its answer together.
const DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// The pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers with what `text` gives, until dropped. `text` may take its time: it is asked on a thread of its own.
pub async fn serve(listener: TcpListener, text: Arc<dyn Fn() -> String + Send + Sync>) {
    let places = Arc::new(Semaphore::new(MAX_SCRAPERS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let text = text.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let text = text.clone();
                async move { Ok::<_, Infallible>(answer(&request, text).await) }
            });
            let mut connection = http1::Builder::new()
                .keep_alive(false)
                // A client that only stopped sending gets its answer.
                .half_close(true)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // Who is too slow is cut off.
            if tokio::time::timeout(DEADLINE, &mut connection).await.is_ok() {
                linger(&mut connection.into_parts().io.into_inner()).await;
            }
            drop(place);
        });
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
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a fault of the daemon\n".to_owned()),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "the figures are at /metrics\n".to_owned()),
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

    /// A listener that gives one figure, and how to connect to it.
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

    #[tokio::test(start_paused = true)]
    async fn scrapers_that_dawdle_hold_their_places_until_the_deadline_and_no_longer() {
        let connect = serving().await;
        let mut dawdling = Vec::new();
        for number in 0..MAX_SCRAPERS {
            let mut stream = connect().await;
            // Some say nothing, the others never finish.
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
            }
            dawdling.push(stream);
        }
        let answer = scrape(&mut connect().await).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("figure 1\n"), "{answer}");
        // Nobody left of their own accord, so that this one was answered in the place of one that was cut off.
        let cut = |stream: &TcpStream| !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(dawdling.iter().any(cut), "all places were taken, and one more was answered");
        for mut stream in dawdling {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_place_is_left_beside_those_that_dawdle() {
        let connect = serving().await;
        let mut dawdling = Vec::new();
        for _ in 1..MAX_SCRAPERS {
            dawdling.push(connect().await);
        }
        let answer = scrape(&mut connect().await).await;
        assert!(answer.ends_with("figure 1\n"), "{answer}");
        for stream in &dawdling {
            let error = stream.try_read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "it has time yet");
        }
    }
}

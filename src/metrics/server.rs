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
            let connection = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // Who is too slow is cut off.
            let _ = tokio::time::timeout(DEADLINE, connection).await;
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

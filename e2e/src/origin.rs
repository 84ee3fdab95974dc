//! A backend whose answers a test controls.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

#[derive(Debug)]
struct Answers {
    body: String,
    status: AtomicU16,
    delay_ms: AtomicU64,
    served: AtomicU64,
}

/// A running backend; stops when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    answers: Arc<Answers>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Answers 200 with `body` until told otherwise.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let answers = Arc::new(Answers {
            body: body.to_owned(),
            status: AtomicU16::new(200),
            delay_ms: AtomicU64::new(0),
            served: AtomicU64::new(0),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&answers)));
        Self { address, answers, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Status of every further answer.
    pub fn answer(&self, status: u16) {
        self.answers.status.store(status, Ordering::Relaxed);
    }

    /// Delay of every further answer.
    pub fn delay(&self, delay: Duration) {
        self.answers.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Requests so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.answers.served.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, answers: Arc<Answers>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answers = Arc::clone(&answers);
        let service = service_fn(move |_request: Request<Incoming>| {
            let answers = Arc::clone(&answers);
            async move {
                answers.served.fetch_add(1, Ordering::Relaxed);
                let delay = answers.delay_ms.load(Ordering::Relaxed);
                if delay > 0 {
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                }
                let mut response = Response::new(Full::new(Bytes::from(answers.body.clone())));
                *response.status_mut() =
                    http::StatusCode::from_u16(answers.status.load(Ordering::Relaxed)).unwrap_or_default();
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

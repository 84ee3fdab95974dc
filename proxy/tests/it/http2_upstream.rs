//! HTTP/2 to endpoints: many requests on one connection, gRPC from end to end, and endpoints that refuse or leave.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::http2::{Http2, get, whole};
use crate::support::{Origin, TestProxy, nobody, noise, ok, patiently, to, until};

/// An endpoint that speaks HTTP/2 with prior knowledge.
struct Http2Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Http2Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http2Origin {
    async fn start<F: Future<Output = ()> + Send + 'static>(
        answer: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::with(h2::server::Builder::new(), answer).await
    }

    /// `answer` gets the number of the request, from 0.
    async fn with<F: Future<Output = ()> + Send + 'static>(
        builder: h2::server::Builder,
        answer: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (connection_count, request_count) = (Arc::clone(&connections), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                connection_count.fetch_add(1, Ordering::Relaxed);
                let (builder, answer, request_count) = (builder.clone(), answer.clone(), Arc::clone(&request_count));
                running.spawn(async move {
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else { return };
                    let mut streams = tokio::task::JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let number = request_count.fetch_add(1, Ordering::Relaxed);
                        streams.spawn(answer(number, request, respond));
                    }
                });
            }
        });
        Self { address, connections, requests, task }
    }

    /// Answers every request with what it was.
    async fn echo() -> Self {
        Self::start(|_, request, respond| echo(request, respond)).await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let mut answer = Response::builder()
        .header("x-method", head.method.as_str())
        .header("x-uri", head.uri.to_string())
        .header("x-te", head.headers.get("te").map_or("none", |te| te.to_str().unwrap()));
    for (name, value) in &head.headers {
        answer = answer.header(format!("seen-{name}"), value);
    }
    let ended = body.is_end_stream();
    let mut stream = respond.send_response(answer.body(()).unwrap(), ended).unwrap();
    if ended {
        return;
    }
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        send_all(&mut stream, piece).await;
    }
    let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
    trailers.insert("x-end", "yes".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

async fn send_all(stream: &mut h2::SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let piece = bytes.split_to(room.min(bytes.len()));
        if stream.send_data(piece, false).is_err() {
            return;
        }
    }
}

fn h2c(address: SocketAddr) -> String {
    format!("routes: [{{ id: all, to: 'h2c://{address}' }}]\n")
}

#[tokio::test]
async fn requests_share_one_connection_per_thread() {
    let origin = Http2Origin::echo().await;
    let proxy = TestProxy::start(&h2c(origin.address)).await;
    let mut client = proxy.client().await;
    let request =
        "GET /a?b HTTP/1.1\r\nHost: test\r\nConnection: x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nX-Kept: 2\r\n\r\n";
    let answer = client.ask(request).await;
    assert_eq!((answer.status, answer.header("x-uri")), (200, Some("http://test/a?b")));
    assert_eq!((answer.header("x-te"), answer.header("seen-x-kept")), (Some("trailers"), Some("2")));
    for absent in ["seen-host", "seen-connection", "seen-x-hop", "seen-transfer-encoding"] {
        assert_eq!(answer.header(absent), None);
    }
    assert_eq!(answer.header("seen-x-forwarded-for"), Some("127.0.0.1"));
    let clients = Http2::to(&proxy).await;
    let answers = futures_util::future::join_all((0..50).map(|_| clients.get("/"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(origin.connections() <= 2, "{}", origin.connections());
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways_between_any_two_versions() {
    let origin = Http2Origin::echo().await;
    let proxy = TestProxy::start(&h2c(origin.address)).await;
    let body = noise(2_000_000, 9);
    // HTTP/1.1, with a length and in chunks.
    let mut client = proxy.client().await;
    for chunked in [false, true] {
        let mut request = b"POST / HTTP/1.1\r\nHost: test\r\n".to_vec();
        if chunked {
            request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(100_000) {
                request.extend(format!("{:x}\r\n", piece.len()).bytes());
                request.extend(piece);
                request.extend(b"\r\n");
            }
            request.extend(b"0\r\nX-Sum: 7\r\n\r\n");
        } else {
            request.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            request.extend(&body);
        }
        let (reading, mut writing) = client.stream.into_split();
        let writer = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut writing, &request).await.unwrap();
            writing
        });
        let mut half = crate::support::Client::over(tokio::io::join(reading, tokio::io::sink()));
        let answer = half.response().await;
        assert!(answer.body == body, "{chunked}");
        let sum = answer.trailers.iter().any(|line| line == "x-sum: 7");
        assert_eq!((sum, answer.trailers.contains(&"x-end: yes".to_owned())), (chunked, true));
        let reading = half.stream.into_inner().0;
        client = crate::support::Client::over(reading.reunite(writer.await.unwrap()).unwrap());
    }
    // HTTP/2.
    let client = Http2::to(&proxy).await;
    let (response, mut stream) = client.start(Request::post("http://test/").body(()).unwrap(), false).await;
    let sent = Bytes::from(body.clone());
    let sender = tokio::spawn(async move {
        send_all(&mut stream, sent).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "8".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let answer = whole(response).await.unwrap();
    sender.await.unwrap();
    assert!(answer.body == body);
    let trailers = answer.trailers.unwrap();
    assert_eq!((&trailers["x-sum"], &trailers["x-end"]), (&"8".parse().unwrap(), &"yes".parse().unwrap()));
}

#[tokio::test]
async fn a_request_that_was_refused_is_sent_again_whatever_it_asks_for() {
    let origin = Http2Origin::start(|number, request, mut respond| async move {
        if number < 2 { respond.send_reset(Reason::REFUSED_STREAM) } else { echo(request, respond).await }
    })
    .await;
    let proxy = TestProxy::start(&h2c(origin.address)).await;
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc";
    let answer = proxy.client().await.ask(post).await;
    assert_eq!((answer.status, answer.text()), (200, "abc"));
    assert_eq!(origin.requests(), 3);
}

#[tokio::test]
async fn a_stream_that_the_endpoint_ends_is_a_502_and_no_more() {
    let origin = Http2Origin::start(|_, request, mut respond| async move {
        match request.uri().path() {
            "/refused" => respond.send_reset(Reason::REFUSED_STREAM),
            "/before" => respond.send_reset(Reason::INTERNAL_ERROR),
            "/within" => {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                tokio::task::yield_now().await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
            _ => echo(request, respond).await,
        }
    })
    .await;
    let proxy = TestProxy::start(&h2c(origin.address)).await;
    let client = Http2::to(&proxy).await;
    assert_eq!(client.get("/").await.status, 200);
    let answer = client.get("/before").await;
    assert_eq!((answer.status.as_u16(), answer.category()), (502, "upstream_reset".to_owned()));
    assert_eq!(origin.requests(), 2, "an endpoint that fails is not asked again");
    assert_eq!(client.get("/refused").await.status, 502);
    assert!(origin.requests() < 20, "{}", origin.requests());
    let (response, _) = client.start(get("/within"), true).await;
    assert!(whole(response).await.unwrap_err().is_reset());
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_endpoint_that_leaves_loses_no_request() {
    // Every connection takes five requests, says GOAWAY and finishes them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                let mut served = 0;
                while let Some(Ok((request, respond))) = connection.accept().await {
                    served += 1;
                    if served == 5 {
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(echo(request, respond));
                }
            });
        }
    });
    let proxy = TestProxy::start(&h2c(address)).await;
    let client = Http2::to(&proxy).await;
    for _ in 0..20 {
        let answers = futures_util::future::join_all((0..10).map(|_| client.get("/"))).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    }
}

#[tokio::test]
async fn no_more_streams_than_the_endpoint_allows() {
    let busy = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counter, high) = (Arc::clone(&busy), Arc::clone(&most));
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(3);
    let origin = Http2Origin::with(builder, move |_, request, respond| {
        let (counter, high) = (Arc::clone(&counter), Arc::clone(&high));
        async move {
            high.fetch_max(counter.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            // The others have their turn meanwhile.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            counter.fetch_sub(1, Ordering::Relaxed);
            echo(request, respond).await;
        }
    })
    .await;
    let proxy = TestProxy::start(&h2c(origin.address)).await;
    let client = Http2::to(&proxy).await;
    // The first tells the proxy how many there may be.
    assert_eq!(client.get("/").await.status, 200);
    let answers = futures_util::future::join_all((0..100).map(|_| client.get("/"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(most.load(Ordering::Relaxed) <= 3 * origin.connections());
}

#[tokio::test]
async fn what_a_client_gives_up_is_reset_at_the_endpoint() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&cancelled);
    let origin = Http2Origin::start(move |_, _request, mut respond| {
        let counter = Arc::clone(&counter);
        async move {
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            assert_eq!(reason, Reason::CANCEL);
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let proxy = TestProxy::start(&h2c(origin.address)).await;
    let client = Http2::to(&proxy).await;
    let (response, mut stream) = client.start(get("/"), true).await;
    until("the request", async || (origin.requests() == 1).then_some(())).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    until("the reset", async || (cancelled.load(Ordering::Relaxed) == 1).then_some(())).await;
}

#[tokio::test]
async fn plain_text_is_http1_but_for_grpc_unless_the_config_says_so() {
    let http1 = Origin::start(|_| ok("one")).await;
    let proxy = TestProxy::start(&to(&[http1.address])).await;
    assert_eq!(proxy.get("/").await.text(), "one");
    let http2 = Http2Origin::echo().await;
    proxy.serve(&to(&[http2.address])).await;
    let grpc =
        "POST /a.B/C HTTP/1.1\r\nHost: test\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0";
    assert_eq!(proxy.client().await.ask(grpc).await.header("x-method"), Some("POST"));
    let pool = |http2: &str, address| {
        format!(
            "pools: [{{ id: p, endpoints: ['http://{address}'], connections: {{ http2: {http2} }} }}]\n\
             routes: [{{ id: all, pool: p }}]\n"
        )
    };
    proxy.serve(&pool("always", http2.address)).await;
    assert_eq!(proxy.get("/").await.header("x-method"), Some("GET"));
    proxy.serve(&pool("never", http1.address)).await;
    assert_eq!(proxy.client().await.ask(grpc).await.text(), "one");
}

#[tokio::test]
async fn health_checks_speak_what_requests_do() {
    let origin = Http2Origin::echo().await;
    let yaml = format!(
        "pools: [{{ id: p, endpoints: ['h2c://{}'], health: {{ active: {{ path: /up, interval: 50ms }} }} }}]\n\
         routes: [{{ id: all, pool: p }}]\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    until("probes", async || (origin.requests() >= 5).then_some(())).await;
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn a_websocket_crosses_http2_to_the_endpoint() {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let origin = Http2Origin::with(builder, |_, request, mut respond| async move {
        let protocol = request.extensions().get::<h2::ext::Protocol>().unwrap();
        assert_eq!((protocol.as_str(), request.method().as_str()), ("websocket", "CONNECT"));
        assert!(!request.headers().contains_key("sec-websocket-key"));
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(piece)) = body.data().await {
            body.flow_control().release_capacity(piece.len()).unwrap();
            send_all(&mut stream, piece).await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let proxy = TestProxy::start(&h2c(origin.address)).await;
    let mut client = proxy.client().await;
    let upgrade = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    // The endpoint's settings may still be on their way.
    let answer = until("the endpoint's settings", async || {
        let answer = client.ask(upgrade).await;
        (answer.status == 101).then_some(answer)
    })
    .await;
    // The example of RFC 6455 §1.3.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    client.send("hello").await;
    assert_eq!(client.read_exact(5).await, b"hello");
}

/// gRPC with a real client and a real server: the health service, whose `Watch` is a stream.
#[tokio::test]
async fn grpc_works_from_end_to_end() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("known", tonic_health::ServingStatus::Serving).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    // Plain text with `auto`: prior knowledge for gRPC alone.
    let proxy = TestProxy::start(&to(&[address])).await;
    let uri = format!("http://{}", proxy.address());
    let channel = tonic::transport::Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for _ in 0..3 {
        let answer = patiently("an answer", client.check(ask("known"))).await.unwrap().into_inner();
        assert_eq!(answer.status, 1);
    }
    // An answer that is its trailers alone.
    let refused = patiently("an answer", client.check(ask("unknown"))).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    let mut watch = patiently("a stream", client.watch(ask("known"))).await.unwrap().into_inner();
    assert_eq!(patiently("a message", watch.message()).await.unwrap().unwrap().status, 1);
    reporter.set_service_status("known", tonic_health::ServingStatus::NotServing).await;
    assert_eq!(patiently("a message", watch.message()).await.unwrap().unwrap().status, 2);
    drop(watch);
    // What the proxy says itself is a status too.
    proxy.serve(&to(&[nobody().address])).await;
    let refused = patiently("an answer", client.check(ask("known"))).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unavailable, "upstream_connect_failed: bad gateway"));
}

/// Both sides send when they like: neither waits for the other to end.
#[tokio::test]
async fn a_stream_goes_both_ways_at_once() {
    let origin = Http2Origin::echo().await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let request =
        Request::post("http://test/a.B/C").header("content-type", "application/grpc").header("te", "trailers");
    let (response, mut stream) = client.start(request.body(()).unwrap(), false).await;
    let mut body = patiently("an answer before the end", response).await.unwrap().into_body();
    for number in 0..10u8 {
        stream.send_data(Bytes::from(vec![number; 10]), false).unwrap();
        let mut back = Vec::new();
        while back.len() < 10 {
            back.extend(patiently("the echo", body.data()).await.unwrap().unwrap());
        }
        assert_eq!(back, [number; 10]);
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(patiently("the end", body.data()).await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["x-end"], "yes");
}

//! Against another implementation: whatever of a mutated request leaves the proxy's codec, hyper reads exactly one request
//! out of it, with the same body, and then exactly the next one.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sealane_proxy::http1::body::{Body, Coding};
use sealane_proxy::http1::field::{Fields, Known, KnownSet};
use sealane_proxy::http1::framing::Framing;
use sealane_proxy::http1::request_head::{HeadLimits, RequestHead};
use sealane_proxy::http1::write;
use tokio::io::AsyncWriteExt as _;

use crate::support::{mutate, patiently};

/// The path and the body of a request.
type Message = (String, Vec<u8>);

const LIMITS: HeadLimits = HeadLimits { header_bytes_max: 4096, fields_max: 50, target_bytes_max: 1024 };

const SEEDS: &[&str] = &[
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST /d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    "GET /e HTTP/1.1\r\nHost: a\r\nX: GET /smuggled HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
];

/// What the codec makes of `bytes`, if it takes them as a whole request: what leaves, and the body.
fn forward(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut fields = Fields::default();
    let head = RequestHead::parse(bytes, &LIMITS, &mut fields).ok()??;
    let mut out = format!("{} {} HTTP/1.1\r\nHost: x\r\n", head.method, head.path).into_bytes();
    write::fields(&mut out, bytes, head.length, &fields, KnownSet::HOP_BY_HOP.and(KnownSet::of(&[Known::Host])));
    let coding = match head.framing {
        Framing::Length(length) => {
            write::field(&mut out, b"Content-Length", length.to_string().as_bytes());
            Coding::Identity
        }
        Framing::Chunked => {
            write::field(&mut out, b"Transfer-Encoding", b"chunked");
            Coding::Chunked
        }
        Framing::Empty | Framing::UntilClose => Coding::Identity,
    };
    out.extend(b"\r\n");
    let rest = &bytes[head.length..];
    let mut content = Vec::new();
    Body::expected(head.framing).feed(rest, Coding::Identity, &mut content).ok()?;
    let mut body = Body::expected(head.framing);
    body.feed(rest, coding, &mut out).ok()?;
    body.is_done().then_some((out, content))
}

/// Paths and bodies of the requests that hyper reads.
async fn read_by_hyper(bytes: Vec<u8>) -> Vec<Message> {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let seen: Arc<Mutex<Vec<Message>>> = Arc::default();
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let log = Arc::clone(&log);
        async move {
            let path = request.uri().path().to_owned();
            if let Ok(body) = request.into_body().collect().await {
                log.lock().unwrap().push((path, body.to_bytes().to_vec()));
            }
            Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())))
        }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    let served = tokio::spawn(connection);
    client.write_all(&bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut client, &mut answers).await.unwrap();
    // An error is how it says that what it read was malformed.
    let _ = served.await.unwrap();
    Arc::try_unwrap(seen).map(|seen| seen.into_inner().unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn what_leaves_is_one_request_for_another_implementation_too() {
    let mut forwarded = 0;
    for seed in 0..20_000u64 {
        let bytes = mutate(SEEDS[seed as usize % SEEDS.len()], seed);
        let Some((mut out, content)) = forward(&bytes) else { continue };
        // hyper knows fewer paths and methods than a proxy lets through.
        let line = out.split(|&byte| byte == b'\r').next().unwrap();
        if line.iter().any(|&byte| byte >= 0x80) || !line.starts_with(b"POST /") && !line.starts_with(b"GET /") {
            continue;
        }
        forwarded += 1;
        out.extend(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
        let seen = patiently("hyper", read_by_hyper(out.clone())).await;
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(seen.len(), 2, "{:?} became {:?}", shown(), String::from_utf8_lossy(&out));
        assert_eq!((seen[0].1.as_slice(), seen[1].0.as_str()), (content.as_slice(), "/next"), "{:?}", shown());
    }
    assert!(forwarded > 2000, "{forwarded}");
}

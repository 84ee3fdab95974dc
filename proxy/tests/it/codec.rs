//! Against another implementation: whatever of a mutated request leaves the proxy's codec, hyper reads exactly one request
//! out of it, with the same body, and then exactly the next one. And what the codec takes, hyper reads as the codec does.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sealane_model::config::Underscores;
use sealane_proxy::http1::body::{Body, Coding};
use sealane_proxy::http1::field::{Fields, Known, KnownSet};
use sealane_proxy::http1::framing::Framing;
use sealane_proxy::http1::request_head::{HeadLimits, RequestHead};
use sealane_proxy::http1::write;
use tokio::io::AsyncWriteExt as _;

use crate::support::{mutate, patiently};

/// A request as hyper reads it.
#[derive(Debug)]
struct Message {
    method: String,
    /// Path and query.
    target: String,
    /// Names in lower case, in order.
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

const LIMITS: HeadLimits =
    HeadLimits { header_bytes_max: 4096, fields_max: 50, target_bytes_max: 1024, underscores: Underscores::Keep };

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

/// The requests that hyper reads.
async fn read_by_hyper(bytes: Vec<u8>) -> Vec<Message> {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let seen: Arc<Mutex<Vec<Message>>> = Arc::default();
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let log = Arc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
            let field = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
                (name.to_string(), value.as_bytes().to_vec())
            };
            let fields = head.headers.iter().map(field).collect();
            if let Ok(body) = body.collect().await {
                let body = body.to_bytes().to_vec();
                log.lock().unwrap().push(Message { method: head.method.to_string(), target, fields, body });
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
        assert_eq!((&seen[0].body, &*seen[1].target), (&content, "/next"), "{:?}", shown());
    }
    assert!(forwarded > 2000, "{forwarded}");
}

#[tokio::test]
async fn what_is_taken_is_read_the_same_by_another_implementation() {
    let (mut compared, mut refused) = (0, 0);
    for seed in 0..20_000u64 {
        let bytes = mutate(SEEDS[seed as usize % SEEDS.len()], seed.wrapping_mul(7919));
        let mut fields = Fields::default();
        let Ok(Some(head)) = RequestHead::parse(&bytes, &LIMITS, &mut fields) else { continue };
        let mut content = Vec::new();
        let mut body = Body::expected(head.framing);
        let Ok(_) = body.feed(&bytes[head.length..], Coding::Identity, &mut content) else { continue };
        if !body.is_done() || !head.path.starts_with('/') {
            continue;
        }
        let seen = patiently("hyper", read_by_hyper(bytes.clone())).await;
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        // hyper knows fewer paths and methods than a proxy lets through.
        let Some(first) = seen.first() else {
            refused += 1;
            continue;
        };
        compared += 1;
        let target = head.query.map_or_else(|| head.path.to_owned(), |query| format!("{}?{query}", head.path));
        assert_eq!((&*first.method, &*first.target, &first.body), (head.method, &*target, &content), "{:?}", shown());
        // Lines of one name stay together in hyper's map: the order within a name is what matters.
        let mut own: Vec<_> = fields
            .lines()
            .iter()
            .map(|line| (line.name.of_bytes(&bytes).to_ascii_lowercase(), line.value.of_bytes(&bytes).to_vec()))
            .map(|(name, value)| (String::from_utf8(name).unwrap(), value))
            .collect();
        let mut other = first.fields.clone();
        own.sort_by(|a, b| a.0.cmp(&b.0));
        other.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(own, other, "{:?}", shown());
    }
    assert!(compared > 2000 && refused < compared / 10, "{compared} compared, {refused} refused");
}

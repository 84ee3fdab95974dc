//! A proxied HTTP/1.1 request allocates nothing once the proxy is warm, plain or through a chain of middleware. A binary of its own: it counts the
//! allocations of the whole process, so the client and the origin here allocate nothing either.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sealane_model::parse::{Reader, parse};
use sealane_proxy::proxy::{Proxy, RevisionTag};
use sealane_proxy::settings::Settings;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

/// Answers whatever ends in a blank line.
fn origin() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            connection.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = connection.read(&mut buffer) {
                    let answer = if buffer[..read].starts_with(b"GET /chunked") { CHUNKED } else { ANSWER };
                    if connection.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn requests(connection: &mut TcpStream, request: &[u8], end: &[u8], count: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..count {
        connection.write_all(request).unwrap();
        let mut filled = 0;
        while !buffer[..filled].ends_with(end) {
            let read = connection.read(&mut buffer[filled..]).unwrap();
            assert!(read > 0, "connection closed");
            filled += read;
        }
    }
}

/// A key set, and a token that its key has signed.
fn token() -> (String, String) {
    let key = Ed25519KeyPair::generate().unwrap();
    let public = BASE64.encode(key.public_key());
    let keys = format!("{{\"keys\":[{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"k\",\"x\":\"{public}\"}}]}}");
    let header = BASE64.encode("{\"alg\":\"EdDSA\",\"kid\":\"k\"}");
    let claims = BASE64.encode("{\"iss\":\"https://auth.test\",\"aud\":\"api\",\"sub\":\"a\",\"exp\":4000000000}");
    let message = format!("{header}.{claims}");
    let signature = BASE64.encode(key.sign(message.as_bytes()));
    (keys, format!("{message}.{signature}"))
}

#[test]
fn a_request_allocates_nothing_in_steady_state_plain_or_through_a_chain() {
    let (a, b) = (origin(), origin());
    let directory = tempfile::tempdir().unwrap();
    let (keys, token) = token();
    let jwks = directory.path().join("jwks.json");
    std::fs::write(&jwks, keys).unwrap();
    // Routing, rotation, metrics, timeouts and the access log are all on.
    let yaml = format!(
        "listen: 127.0.0.1:0
logging: {{ access: file, file: '{log}' }}
middleware:
  - id: chain
    stages:
      - {{ type: request_id }}
      - {{ type: auth, config: {{ jwt: {{ issuer: 'https://auth.test', audience: api, jwks_file: '{jwks}' }} }} }}
      - {{ type: rate_limit, config: {{ requests_per_second: 1000000, burst: 1000000 }} }}
      - {{ type: header_transform, config: {{ set: {{ X-Proxy: a }}, response: {{ set: {{ X-Served-By: a }} }} }} }}
      - {{ type: access_log }}
routes:
  - {{ host: test, path_prefix: /, to: ['http://{a}', 'http://{b}'], policy: {{ timeout: 5s }} }}
  - {{ host: test, path_prefix: /chain, to: ['http://{a}', 'http://{b}'], middleware: chain, policy: {{ timeout: 5s }} }}
  - {{ path_regex: '^/never/[0-9]+$', to: 'http://{a}' }}
",
        log = directory.path().join("access.log").display(),
        jwks = jwks.display(),
    );
    let (config, _) = parse("test.yaml", &yaml, Reader::Local).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let proxy = runtime.block_on(async {
        let proxy = Proxy::start(Settings { threads: 1, ..Settings::default() }).await.unwrap();
        let tag = RevisionTag { number: 1, digest: [0; 32], label: Arc::from("r1") };
        let prepared = proxy.prepare(tag, Arc::new(config)).await.unwrap();
        proxy.activate(prepared).await.unwrap();
        proxy
    });
    let mut connection = TcpStream::connect(proxy.bound()[0].1).unwrap();
    connection.set_nodelay(true).unwrap();
    let chain = format!("GET /chain HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let cases: [(&str, &[u8], &[u8]); 4] = [
        ("get", b"GET /a?b HTTP/1.1\r\nHost: test\r\nUser-Agent: me\r\nAccept: */*\r\nCookie: a=b\r\n\r\n", b"hello"),
        ("post", b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody", b"hello"),
        ("chunked", b"GET /chunked HTTP/1.1\r\nHost: test\r\n\r\n", b"0\r\n\r\n"),
        ("chain", chain.as_bytes(), b"hello"),
    ];
    for (name, request, end) in cases {
        requests(&mut connection, request, end, 2000);
        let windows: Vec<usize> = (0..50)
            .map(|_| {
                let region = Region::new(ALLOCATOR);
                requests(&mut connection, request, end, 100);
                let change = region.change();
                change.allocations + change.reallocations
            })
            .collect();
        // A handful for what happens beside the requests: hand-over of log lines, timers of the runtimes.
        assert!(windows.iter().sum::<usize>() < 50, "{name}: {windows:?}");
        assert!(windows.iter().filter(|&&count| count == 0).count() > 10, "{name}: {windows:?}");
    }
    runtime.block_on(proxy.stop());
}

//! A plain proxied HTTP/1.1 request allocates nothing once the proxy is warm. A binary of its own: it counts the
//! allocations of the whole process, so the client and the origin here allocate nothing either.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

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

#[test]
fn a_plain_request_allocates_nothing_in_steady_state() {
    let (a, b) = (origin(), origin());
    let directory = tempfile::tempdir().unwrap();
    // Routing, rotation, metrics, timeouts and the access log are all on.
    let yaml = format!(
        "listen: 127.0.0.1:0\nlogging: {{ access: file, file: '{}' }}\nroutes:\n  - {{ host: test, path_prefix: /, to: \
         ['http://{a}', 'http://{b}'], policy: {{ timeout: 5s }} }}\n  - {{ path_regex: '^/never/[0-9]+$', to: 'http://{a}' }}\n",
        directory.path().join("access.log").display()
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
    let cases: [(&str, &[u8], &[u8]); 3] = [
        ("get", b"GET /a?b HTTP/1.1\r\nHost: test\r\nUser-Agent: me\r\nAccept: */*\r\nCookie: a=b\r\n\r\n", b"hello"),
        ("post", b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody", b"hello"),
        ("chunked", b"GET /chunked HTTP/1.1\r\nHost: test\r\n\r\n", b"0\r\n\r\n"),
    ];
    for (name, request, end) in cases {
        requests(&mut connection, request, end, 2000);
        let region = Region::new(ALLOCATOR);
        requests(&mut connection, request, end, 5000);
        let change = region.change();
        // A handful for what happens beside the requests: hand-over of log lines, timers of the runtimes.
        assert!(change.allocations + change.reallocations < 50, "{name}: {change:?}");
    }
    runtime.block_on(proxy.stop());
}

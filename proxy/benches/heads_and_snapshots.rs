//! What a request's and an answer's head cost to judge and to write anew, and what a config costs on its way into force:
//! reading its text, compiling the snapshot, and every worker serving it. Last, one sandbox route more and one less among
//! many, as an edit over the API brings it into force.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use sealane_model::config::Config;
use sealane_model::parse::{Reader, parse};
use sealane_model::sandbox::{Places, SandboxRoute, SandboxTimes};
use sealane_proxy::http1::field::{Fields, KnownSet};
use sealane_proxy::http1::request_head::{HeadLimits, RequestHead};
use sealane_proxy::http1::response_head::{Asked, ResponseHead};
use sealane_proxy::http1::write;
use sealane_proxy::proxy::{Proxy, RevisionTag};
use sealane_proxy::settings::Settings;

const REQUEST: &[u8] =
    b"GET /v1/items/17?page=2 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
Accept: text/html,application/json;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, br\r\nAccept-Language: en-US,en;q=0.5\r\n\
Cookie: sid=abcdef0123456789; theme=dark\r\nConnection: keep-alive\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Fri, 20 Nov 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\n\
Cache-Control: no-store\r\nETag: \"abc-123\"\r\nContent-Length: 100\r\n\r\n";
const LIMITS: HeadLimits = HeadLimits {
    header_bytes_max: 64 << 10,
    fields_max: 100,
    target_bytes_max: 8 << 10,
    underscores: sealane_model::config::Underscores::Keep,
};

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    heads(&mut criterion);
    for routes in [1_000, 100_000] {
        snapshots(&mut criterion, routes);
    }
    for routes in [1_000, 10_000] {
        edits(&mut criterion, routes);
    }
    criterion.final_summary();
}

fn heads(criterion: &mut Criterion) {
    let mut fields = Fields::default();
    let mut out = Vec::with_capacity(4096);
    criterion.bench_function("judge a request head of 7 fields", |bencher| {
        bencher.iter(|| RequestHead::parse(black_box(REQUEST), &LIMITS, &mut fields).map(|head| head.is_some()));
    });
    criterion.bench_function("judge a request head of 7 fields and write its fields anew", |bencher| {
        bencher.iter(|| {
            let head = RequestHead::parse(black_box(REQUEST), &LIMITS, &mut fields).ok().flatten();
            out.clear();
            write::fields(&mut out, REQUEST, head.map_or(2, |head| head.length), &fields, KnownSet::HOP_BY_HOP);
            out.len()
        });
    });
    criterion.bench_function("judge an answer's head of 6 fields and write its fields anew", |bencher| {
        bencher.iter(|| {
            let head = ResponseHead::parse(black_box(ANSWER), Asked::Ordinary, &mut fields).ok().flatten();
            out.clear();
            write::fields(&mut out, ANSWER, head.map_or(2, |head| head.length), &fields, KnownSet::HOP_BY_HOP);
            out.len()
        });
    });
}

fn snapshots(criterion: &mut Criterion, routes: usize) {
    let text = text(routes);
    let read = || parse("bench.yaml", &text, Reader::Local).map(|(config, _)| config);
    criterion.bench_function(&format!("read the text of {routes} routes"), |bencher| bencher.iter(|| read().is_ok()));

    let config: Arc<Config> = Arc::new(read().unwrap_or_else(|problems| panic!("{problems:?}")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let proxy = runtime.block_on(Proxy::start(Settings { threads: 2, ..Settings::default() })).expect("a proxy");
    let mut number = 0;
    let mut prepare = || {
        number += 1;
        let tag = RevisionTag { number, digest: [0; 32], label: Arc::from(format!("r{number}")) };
        runtime.block_on(proxy.prepare(tag, Arc::clone(&config))).expect("it compiles")
    };
    criterion.bench_function(&format!("compile a snapshot of {routes} routes"), |bencher| {
        bencher.iter_with_large_drop(&mut prepare);
    });
    criterion.bench_function(&format!("put a snapshot of {routes} routes into force in every worker"), |bencher| {
        bencher.iter_batched(
            &mut prepare,
            |prepared| runtime.block_on(proxy.activate(prepared)).is_ok(),
            BatchSize::PerIteration,
        );
    });
    runtime.block_on(proxy.stop());
}

fn edits(criterion: &mut Criterion, routes: u64) {
    let text = "version: 1\nlisten: 127.0.0.1:0\nlogging: { access: off }\nroutes: []\n";
    let base = parse("bench.yaml", text, Reader::Local).map(|(config, _)| config).expect("a config");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let proxy = runtime.block_on(Proxy::start(Settings { threads: 2, ..Settings::default() })).expect("a proxy");
    let mut places = Places::default();
    let mut newest = 0;
    let mut edit = |count: u64| {
        for id in newest + 1..=newest + count {
            places.put(id, sandbox_route(id).compile(SandboxTimes::default()).expect("a route"));
            places.remove(id.saturating_sub(routes));
        }
        newest += count;
        let (mut config, mut next) = (base.clone(), places.clone());
        next.join(&mut config, |_| true);
        places = next;
        let tag = RevisionTag { number: newest, digest: [0; 32], label: Arc::from("r1") };
        let prepared = runtime.block_on(proxy.prepare(tag, Arc::new(config))).expect("it compiles");
        runtime.block_on(proxy.activate(prepared)).is_ok()
    };
    edit(routes);
    criterion
        .bench_function(&format!("one of {routes} sandbox routes for another"), |bencher| bencher.iter(|| edit(1)));
    runtime.block_on(proxy.stop());
}

fn sandbox_route(id: u64) -> SandboxRoute {
    SandboxRoute {
        id,
        sandbox_id: format!("sandbox-{}", id % 100),
        pattern: format!("^/api/team-{id}/(users|orders)/\\d+(/.*)?$"),
        target_url: "http://127.0.0.1:9".to_owned(),
        priority: (id % 7 * 10) as i32,
        expires_at_ms: None,
    }
}

/// Ten routes to a host.
fn text(routes: usize) -> String {
    let mut text =
        "version: 1\nlisten: 127.0.0.1:0\nlogging: { access: off }\npools: [{ id: p, endpoints: ['127.0.0.1:9'] }]\nroutes:\n".to_owned();
    for number in 0..routes {
        let (host, service) = (number / 10, number % 10);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  - {{ id: r{number}, host: api-{host}.example.com, path_prefix: /service-{service}/v1/, pool: p }}"
        );
    }
    text
}

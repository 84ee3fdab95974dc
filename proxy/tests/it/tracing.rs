//! Traces over OTLP: contexts in and out, spans of a request and its attempts, and collectors that are of no use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sealane_proto::otlp::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use sealane_proto::otlp::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use sealane_proto::otlp::common::v1::any_value::Value;
use sealane_proto::otlp::trace::v1::span::SpanKind;
use sealane_proto::otlp::trace::v1::{Span, status::StatusCode};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::{Origin, TestProxy, to, until};

/// Keeps what it is sent.
#[derive(Clone, Debug, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Never answers.
    hangs: bool,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let spans = resources.into_iter().flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.spans.lock().unwrap().extend(spans);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(hangs: bool) -> (Self, SocketAddr) {
        let collector = Self { hangs, ..Self::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    /// The spans, once there are so many.
    async fn spans(&self, count: usize) -> Vec<Span> {
        until("spans", async || {
            let spans = self.spans.lock().unwrap();
            (spans.len() >= count).then(|| spans.clone())
        })
        .await
    }
}

fn attributes(span: &Span) -> HashMap<&str, String> {
    let pairs = span.attributes.iter().map(|pair| {
        let text = match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (pair.key.as_str(), text)
    });
    pairs.collect()
}

fn traced(origins: &[SocketAddr], collector: SocketAddr, percent: u8) -> String {
    format!("tracing: {{ otlp_endpoint: 'http://{collector}', sample_percent: {percent} }}\n{}", to(origins))
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_request_of_a_trace_is_a_server_span_with_a_client_span_that_the_origin_sees_as_its_parent() {
    let (collector, address) = Collector::start(false).await;
    let origin = Origin::fixed("hello").await;
    let proxy = TestProxy::start(&traced(&[origin.address], address, 0)).await;
    let request = format!(
        "GET /users/42?token=secret HTTP/1.1\r\nHost: test:8080\r\ntraceparent: {PARENT}\r\ntracestate: a=1\r\n\
         User-Agent: me\r\n\r\n"
    );
    assert_eq!(proxy.client().await.ask(request).await.status, 200);
    let spans = collector.spans(2).await;
    let (server, client) = (&spans[0], &spans[1]);
    assert_eq!((server.kind(), client.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!((server.name.as_str(), client.name.as_str()), ("GET all", "GET"));
    for span in &spans {
        assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.trace_state, "a=1");
        assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
        assert!(!format!("{span:?}").contains("secret"));
    }
    assert_eq!(hex(&server.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(client.parent_span_id, server.span_id);
    let sent = &origin.requests()[0];
    let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", hex(&client.span_id));
    assert_eq!((sent.header("traceparent"), sent.header("tracestate")), (Some(&*expected), Some("a=1")));
    let seen = attributes(server);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
        ("url.path", "/users/42"),
        ("server.address", "test"),
        ("server.port", "8080"),
        ("client.address", "127.0.0.1"),
        ("user_agent.original", "me"),
        ("http.route", "all"),
        ("sealane.pool", "route/all"),
        ("sealane.revision", "r1"),
    ] {
        assert_eq!(seen.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(server.events[0].name, "route");
    assert!(server.status.is_none());
    proxy.until_metric("proxy_trace_spans_exported_total", 2.0).await;
}

#[tokio::test]
async fn what_is_no_context_begins_a_new_trace_without_the_state_of_another() {
    let (collector, address) = Collector::start(false).await;
    let origin = Origin::fixed("hello").await;
    let proxy = TestProxy::start(&traced(&[origin.address], address, 100)).await;
    let bad = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
    proxy
        .client()
        .await
        .ask(format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {bad}\r\ntracestate: a=1\r\n\r\n"))
        .await;
    let twice = format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {PARENT}\r\ntraceparent: {PARENT}\r\n\r\n");
    proxy.client().await.ask(twice).await;
    let spans = collector.spans(4).await;
    for (request, server) in origin.requests().iter().zip(spans.iter().filter(|span| span.kind() == SpanKind::Server)) {
        assert!(server.parent_span_id.is_empty() && request.header("tracestate").is_none());
        assert_ne!(hex(&server.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
        let parents = request.header("traceparent").unwrap();
        assert!(parents.ends_with("-01") && !parents.contains("00000000000000000000"));
    }
}

#[tokio::test]
async fn errors_are_exported_though_nothing_is_sampled_and_each_attempt_is_a_span() {
    let (collector, address) = Collector::start(false).await;
    let origin = Origin::fixed("hello").await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let yaml = format!(
        "tracing: {{ otlp_endpoint: 'http://{address}', sample_percent: 0 }}\nroutes:\n  \
         - {{ id: good, path: /good, to: 'http://{}' }}\n  \
         - {{ id: bad, path_prefix: /bad/, to: 'http://{gone}', policy: {{ retries: {{ max_attempts: 2, on: \
         [connect_failure] }} }} }}\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    assert_eq!(proxy.get("/good").await.status, 200);
    assert!(origin.requests()[0].header("traceparent").unwrap().ends_with("-00"));
    assert_eq!(proxy.get("/bad/secret").await.status, 502);
    let spans = collector.spans(3).await;
    assert_eq!(spans.len(), 3, "{spans:?}");
    assert_eq!(spans[0].name, "GET /bad/*");
    for span in &spans {
        assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Error);
        assert_eq!(attributes(span)["error.type"], "upstream_connect_failed");
    }
    assert_eq!(attributes(&spans[2])["http.request.resend_count"], "1");
    assert_ne!(spans[1].span_id, spans[2].span_id);
    assert!(spans[0].events.iter().any(|event| event.name == "retry"));
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_costs_requests_nothing() {
    let (_, hangs) = Collector::start(true).await;
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let origin = Origin::fixed("hello").await;
    for collector in [hangs, away] {
        let proxy = TestProxy::start(&traced(&[origin.address], collector, 100)).await;
        let mut client = proxy.client().await;
        // More than a queue and what is on its way hold.
        for _ in 0..5_000 {
            assert_eq!(client.get("/").await.status, 200);
        }
        until("dropped spans", async || (proxy.metric("proxy_traces_dropped_total")? > 0.0).then_some(())).await;
        assert_eq!(proxy.metric("proxy_trace_spans_exported_total"), Some(0.0));
    }
}

#[tokio::test]
async fn a_stage_passes_the_context_on_where_nothing_is_exported_and_other_routes_pass_what_they_got() {
    let origin = Origin::fixed("hello").await;
    let yaml = format!(
        "middleware: [{{ id: chain, stages: [{{ type: tracing }}] }}]\nroutes:\n  \
         - {{ id: with, path: /with, middleware: chain, to: 'http://{0}' }}\n  - {{ id: without, to: 'http://{0}' }}\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    proxy.get("/with").await;
    proxy.get("/without").await;
    let request = format!("GET /without HTTP/1.1\r\nHost: a\r\ntraceparent: {PARENT}\r\n\r\n");
    proxy.client().await.ask(request).await;
    let requests = origin.requests();
    assert_eq!(requests[0].header("traceparent").unwrap().len(), 55);
    assert_eq!(requests[1].header("traceparent"), None);
    assert_eq!(requests[2].header("traceparent"), Some(PARENT));
}

//! External plugins from outside: those that answer, refuse, hang, crash, lie and come back, in both protocols.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sealane_proto::ext_authz as v3;
use sealane_proto::ext_authz::authorization_server::{Authorization, AuthorizationServer};
use sealane_proto::plugin as v1;
use sealane_proto::plugin::filter_service_server::{FilterService, FilterServiceServer};
use sealane_proto::plugin::on_request_response::Action;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::{Origin, TestProxy, nobody, until};

#[path = "../../examples/plugin.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called")]
mod sample;

/// What a test's plugin does with each request.
#[derive(Clone, Debug)]
enum Does {
    Answers(Option<Action>),
    Hangs,
    Fails,
    Panics,
}

#[derive(Clone, Debug)]
struct Plugin {
    does: Arc<Mutex<Does>>,
    seen: Arc<Mutex<Vec<v1::OnRequestRequest>>>,
}

#[tonic::async_trait]
impl FilterService for Plugin {
    async fn on_request(
        &self,
        request: Request<v1::OnRequestRequest>,
    ) -> Result<Response<v1::OnRequestResponse>, Status> {
        self.seen.lock().unwrap().push(request.into_inner());
        let does = self.does.lock().unwrap().clone();
        match does {
            Does::Answers(action) => Ok(Response::new(v1::OnRequestResponse { action })),
            Does::Hangs => std::future::pending().await,
            Does::Fails => Err(Status::internal("no")),
            Does::Panics => panic!("a plugin that crashes"),
        }
    }
}

impl Plugin {
    fn new(does: Does) -> Self {
        Self { does: Arc::new(Mutex::new(does)), seen: Arc::default() }
    }

    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = FilterServiceServer::new(self.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        address
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn config(origin: &Origin, plugin: SocketAddr, more: &str) -> String {
    format!(
        "routes: [{{ id: all, to: 'http://{}', middleware: m }}]\nplugins: [{{ id: p, type: external_grpc, address: \
         '{plugin}', {more} }}]\nmiddleware: [{{ id: m, stages: [{{ type: plugin, plugin_ref: p }}] }}]\n",
        origin.address
    )
}

fn header(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.into(), value: value.into() }
}

fn proceed(request: v1::HeaderMutations, response: v1::HeaderMutations) -> Does {
    Does::Answers(Some(Action::Proceed(v1::Proceed { request: Some(request), response: Some(response) })))
}

fn nothing() -> Does {
    proceed(v1::HeaderMutations::default(), v1::HeaderMutations::default())
}

const PATIENT: &str = "timeout: 20s";

#[tokio::test]
async fn a_plugin_sees_the_request_and_edits_it_and_its_answer() {
    let origin = Origin::fixed("hello").await;
    let plugin = Plugin::new(proceed(
        v1::HeaderMutations {
            remove: vec!["X-Secret".into()],
            set: vec![header("X-User", "alice")],
            add: vec![header("X-Group", "a"), header("X-Group", "b")],
        },
        v1::HeaderMutations { add: vec![header("X-Checked", "yes")], ..Default::default() },
    ));
    let proxy = TestProxy::start(&config(&origin, plugin.serve().await, PATIENT)).await;
    let request = "POST /a/./b?q=1 HTTP/1.1\r\nHost: shop.test\r\nX_User: mallory\r\nX-User: mallory\r\nx-secret: 1\r\n\
                   Authorization: Bearer x\r\nCookie: a=b\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody";
    let response = proxy.client().await.ask(request).await;
    assert_eq!((response.status, response.text(), response.header("x-checked")), (200, "hello", Some("yes")));
    let sent = &origin.requests()[0];
    assert_eq!((sent.headers("x-user"), sent.header("x_user")), (vec!["alice"], None));
    assert_eq!((sent.headers("x-group"), sent.header("x-secret")), (vec!["a", "b"], None));
    assert_eq!((sent.header("authorization"), &sent.body[..]), (Some("Bearer x"), &b"body"[..]));
    let seen = plugin.seen.lock().unwrap()[0].clone();
    assert_eq!((&*seen.method, &*seen.host, &*seen.query, &*seen.route_id), ("POST", "shop.test", "q=1", "all"));
    let path = sent.line().split(' ').nth(1).unwrap();
    assert_eq!(format!("{}?{}", seen.path, seen.query), path, "the plugin judges the path that the endpoint gets");
    assert_eq!((&*seen.scheme, &*seen.client_address, &*seen.plugin_id), ("http", "127.0.0.1", "p"));
    assert_eq!((&*seen.metadata["node"], &*seen.metadata["revision"]), ("node-1", "r1"));
    let names: Vec<_> = seen.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["host", "x_user", "x-user", "x-secret"], "neither credentials nor lines of one hop");
}

#[tokio::test]
async fn credentials_are_shown_only_where_the_config_says_so() {
    let origin = Origin::fixed("").await;
    let plugin = Plugin::new(nothing());
    let more = "timeout: 20s, pass_credentials: true";
    let proxy = TestProxy::start(&config(&origin, plugin.serve().await, more)).await;
    proxy.client().await.ask("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic x\r\nCookie: c=1\r\n\r\n").await;
    let seen = plugin.seen.lock().unwrap()[0].clone();
    let value = |name: &str| seen.headers.iter().find(|header| header.name == name).map(|header| header.value.clone());
    assert_eq!((value("authorization"), value("cookie")), (Some(b"Basic x".to_vec()), Some(b"c=1".to_vec())));
}

#[tokio::test]
async fn a_plugin_answers_in_the_endpoints_place() {
    let origin = Origin::fixed("").await;
    let respond = |status, body: &str| {
        let headers = vec![header("X-Why", "because"), header("Content-Length", "1"), header("Connection", "close")];
        Does::Answers(Some(Action::Respond(v1::Respond { status, headers, body: body.into() })))
    };
    let plugin = Plugin::new(respond(402, "pay\n"));
    let proxy = TestProxy::start(&config(&origin, plugin.serve().await, PATIENT)).await;
    let mut client = proxy.client().await;
    let response = client.get("/").await;
    assert_eq!((response.status, response.text(), response.header("x-why")), (402, "pay\n", Some("because")));
    assert_eq!(client.get("/").await.status, 402, "the connection goes on");
    assert!(origin.requests().is_empty());
    proxy.until_metric("proxy_plugin_shortcircuit_total{filter=\"p\"}", 2.0).await;
    assert_eq!(proxy.metric("proxy_plugin_mutations_denied_total{filter=\"p\"}"), Some(4.0));
}

#[tokio::test]
async fn edits_that_are_not_a_plugins_to_make_are_left_out_and_counted() {
    let origin = Origin::fixed("ok").await;
    let names = ["Host", "Content-Length", "Transfer-Encoding", "X-Forwarded-For", "X-Real-IP", "Connection", ":path"];
    let set = names.iter().map(|name| header(name, "7")).collect();
    let edits = v1::HeaderMutations { set, add: vec![header("X-Split", "a\r\nX-Evil: 1")], ..Default::default() };
    let plugin = Plugin::new(proceed(edits, v1::HeaderMutations::default()));
    let proxy = TestProxy::start(&config(&origin, plugin.serve().await, PATIENT)).await;
    assert_eq!(proxy.get("/").await.text(), "ok");
    let sent = &origin.requests()[0];
    assert_eq!(
        (sent.header("x-forwarded-for"), sent.header("x-evil"), sent.header("content-length")),
        (Some("127.0.0.1"), None, None)
    );
    // What is set is removed, too: two edits.
    assert_eq!(proxy.metric("proxy_plugin_mutations_denied_total{filter=\"p\"}"), Some(15.0));
}

#[tokio::test]
async fn a_plugin_that_hangs_is_waited_for_no_longer_than_its_timeout() {
    let origin = Origin::fixed("ok").await;
    let plugin = Plugin::new(Does::Hangs);
    let address = plugin.serve().await;
    let proxy = TestProxy::start(&config(&origin, address, "fail_mode: closed")).await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.category()), (503, "plugin_timeout".to_owned()));
    assert!(origin.requests().is_empty());
    proxy.serve(&config(&origin, address, "fail_mode: open")).await;
    assert_eq!(proxy.get("/").await.text(), "ok");
    assert_eq!(proxy.metric("proxy_plugin_bypass_total{filter=\"p\",reason=\"timeout\"}"), Some(1.0));
    assert_eq!(proxy.metric("proxy_plugin_failclosed_total{filter=\"p\"}"), Some(1.0), "counts stay through a swap");
}

#[tokio::test]
async fn a_plugin_that_fails_crashes_lies_or_is_away_is_unavailable() {
    let origin = Origin::fixed("ok").await;
    let bad_status = Does::Answers(Some(Action::Respond(v1::Respond { status: 0, ..Default::default() })));
    let too_long =
        Does::Answers(Some(Action::Respond(v1::Respond { status: 200, body: vec![0; 65 << 10], headers: vec![] })));
    let flood = v1::HeaderMutations { add: vec![header("X-A", "1"); 300], ..Default::default() };
    let flood = proceed(flood, v1::HeaderMutations::default());
    for does in [Does::Fails, Does::Panics, Does::Answers(None), bad_status, too_long, flood] {
        let plugin = Plugin::new(does.clone());
        let proxy = TestProxy::start(&config(&origin, plugin.serve().await, PATIENT)).await;
        let response = proxy.get("/").await;
        assert_eq!((response.status, response.category()), (503, "plugin_unavailable".to_owned()), "{does:?}");
    }
    let away = nobody();
    let proxy = TestProxy::start(&config(&origin, away.address, PATIENT)).await;
    assert_eq!(proxy.get("/").await.category(), "plugin_unavailable");
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_failing_plugin_is_left_alone_by_its_breaker_and_asked_again_later() {
    let origin = Origin::fixed("ok").await;
    let plugin = Plugin::new(Does::Fails);
    let proxy = TestProxy::start(&config(&origin, plugin.serve().await, PATIENT)).await;
    for _ in 0..5 {
        assert_eq!(proxy.get("/").await.status, 503);
    }
    let open = "proxy_plugin_breaker_state{filter=\"p\",state=\"open\"}";
    proxy.until_metric(open, 1.0).await;
    let response = proxy.get("/").await;
    assert_eq!((response.category(), plugin.calls()), ("plugin_unavailable".to_owned(), 5));
    assert_eq!(
        proxy.metric("proxy_plugin_calls_total{filter=\"p\",phase=\"request\",result=\"breaker_open\"}"),
        Some(1.0)
    );
    plugin.does(nothing());
    until("the breaker to close", async || (proxy.get("/").await.status == 200).then_some(())).await;
    for _ in 0..5 {
        assert_eq!(proxy.get("/").await.status, 200);
    }
    assert_eq!(proxy.metric(open), Some(0.0));
}

#[tokio::test]
async fn the_sample_plugin_lets_known_keys_pass() {
    let origin = Origin::fixed("ok").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = FilterServiceServer::new(sample::Keys { key: b"k" });
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let proxy = TestProxy::start(&config(&origin, address, PATIENT)).await;
    let response = proxy.get("/x").await;
    assert_eq!((response.status, response.text()), (403, "no key for /x\n"));
    let response = proxy.client().await.ask("GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: k\r\n\r\n").await;
    assert_eq!((response.status, response.header("x-checked-by")), (200, Some("keys")));
    let sent = &origin.requests()[0];
    assert_eq!((sent.header("x-user"), sent.header("x-api-key")), (Some("alice"), None));
}

/// An authoriser as Envoy knows them.
#[derive(Clone, Debug, Default)]
struct Authoriser {
    seen: Arc<Mutex<Vec<v3::attribute_context::HttpRequest>>>,
}

#[tonic::async_trait]
impl Authorization for Authoriser {
    async fn check(&self, request: Request<v3::CheckRequest>) -> Result<Response<v3::CheckResponse>, Status> {
        let http = request.into_inner().attributes.unwrap().request.unwrap().http.unwrap();
        let option = |key: &str, value: &str, append| v3::HeaderValueOption {
            header: Some(v3::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() }),
            append,
            ..Default::default()
        };
        let (code, response) = match http.headers.get("authorization").map(String::as_str) {
            Some("Bearer good") => (
                0,
                Some(v3::check_response::HttpResponse::OkResponse(v3::OkHttpResponse {
                    headers: vec![option("x-user", "alice", None), option("x-more", "2", Some(true))],
                    headers_to_remove: vec!["authorization".into()],
                    response_headers_to_add: vec![option("x-checked", "yes", None)],
                })),
            ),
            Some("Bearer plain") => (0, None),
            Some(_) => (7, None),
            None => (
                16,
                Some(v3::check_response::HttpResponse::DeniedResponse(v3::DeniedHttpResponse {
                    status: Some(v3::HttpStatus { code: 401 }),
                    headers: vec![option("www-authenticate", "Bearer", None)],
                    body: "who are you?".into(),
                })),
            ),
        };
        self.seen.lock().unwrap().push(http);
        let status = Some(v3::Status { code, message: String::new() });
        Ok(Response::new(v3::CheckResponse { status, http_response: response }))
    }
}

#[tokio::test]
async fn an_authoriser_of_envoys_protocol_passes_and_refuses_requests() {
    let origin = Origin::fixed("ok").await;
    let authoriser = Authoriser::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = AuthorizationServer::new(authoriser.clone());
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let proxy = TestProxy::start(&config(&origin, address, "timeout: 20s, protocol: ext_authz")).await;
    let ask = async |headers: &str| {
        proxy.client().await.ask(format!("GET /x?y=1 HTTP/1.1\r\nHost: shop.test\r\n{headers}\r\n")).await
    };
    let response = ask("").await;
    assert_eq!((response.status, response.text()), (401, "who are you?"));
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    assert_eq!(ask("Authorization: Bearer bad\r\n").await.status, 403);
    assert!(origin.requests().is_empty());
    let response = ask("Authorization: Bearer good\r\nX-User: mallory\r\nX-More: 1\r\n").await;
    assert_eq!((response.status, response.header("x-checked")), (200, Some("yes")));
    assert_eq!(ask("Authorization: Bearer plain\r\n").await.status, 200);
    let sent = &origin.requests()[0];
    assert_eq!(
        (sent.headers("x-user"), sent.headers("x-more"), sent.header("authorization")),
        (vec!["alice"], vec!["1", "2"], None)
    );
    let seen = authoriser.seen.lock().unwrap()[0].clone();
    assert_eq!((&*seen.method, &*seen.path, &*seen.host, &*seen.scheme), ("GET", "/x?y=1", "shop.test", "http"));
    assert_eq!((seen.size, &*seen.headers[":path"], &*seen.headers[":method"]), (0, "/x?y=1", "GET"));
}

#[tokio::test]
async fn a_swap_keeps_the_connection_to_a_plugin_and_never_lets_a_request_past_it() {
    let origin = Origin::fixed("ok").await;
    let refusal = v1::Respond { status: 403, ..Default::default() };
    let plugin = Plugin::new(Does::Answers(Some(Action::Respond(refusal))));
    let yaml = config(&origin, plugin.serve().await, PATIENT);
    let proxy = Arc::new(TestProxy::start(&yaml).await);
    let asking = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move {
            for _ in 0..100 {
                assert_eq!(proxy.get("/").await.status, 403);
            }
        }
    });
    for _ in 0..5 {
        proxy.serve(&yaml).await;
    }
    asking.await.unwrap();
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn what_plugins_did_stands_in_the_access_log_and_the_structured_logger_writes_a_line() {
    let origin = Origin::fixed("ok").await;
    let plugin = Plugin::new(Does::Fails);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let yaml = format!(
        "routes: [{{ id: all, to: 'http://{}', middleware: m }}]\nplugins:\n  - {{ id: p, type: external_grpc, address: \
         '{}', timeout: 20s, fail_mode: open }}\n  - {{ id: l, type: builtin, name: structured_logger }}\nmiddleware: \
         [{{ id: m, stages: [{{ type: plugin, plugin_ref: l }}, {{ type: plugin, plugin_ref: p }}] }}]\nlogging: {{ \
         access: file, file: '{}' }}\n",
        origin.address,
        plugin.serve().await,
        file.display()
    );
    let proxy = TestProxy::start(&yaml).await;
    assert_eq!(proxy.get("/a?secret=1").await.status, 200);
    let lines = until("two lines", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() == 2).then_some(lines)
    })
    .await;
    assert_eq!(
        (&lines[0]["event"], &lines[0]["plugin"], &lines[0]["route"]),
        (&"request".into(), &"l".into(), &"all".into())
    );
    assert_eq!((&lines[0]["path"], &lines[0]["request_id"]), (&"/a?<redacted>".into(), &lines[1]["request_id"]));
    assert_eq!(lines[1]["plugin_filters"], serde_json::json!(["p"]));
    assert_eq!((&lines[1]["plugin_bypassed"], &lines[1]["plugin_failure_mode"]), (&true.into(), &"fail_open".into()));
    assert_eq!(lines[1]["plugin_bypass_reason"], "invalid");
    assert_eq!((&lines[1]["plugin_shortcircuit"], &lines[1]["plugin_mutation_denied"]), (&false.into(), &false.into()));
}

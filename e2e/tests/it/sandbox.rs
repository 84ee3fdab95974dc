//! Sandbox routes of one proxy: every curl of seed 000's text, and what happens when something is wrong.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use sealane_e2e::fleet::{Fleet, free_address};
use sealane_e2e::load;
use sealane_e2e::origin::Origin;
use sealane_e2e::process::{Process, finish};
use sealane_e2e::wait;
use serde_json::{Value, json};

use crate::program;

const SOON: Duration = Duration::from_secs(30);

/// A proxy with sandbox routes, and a client of its two addresses.
struct Router {
    process: Process,
    data: SocketAddr,
    admin: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Status, header fields and body, which is `null` where it is no JSON.
type Answer = (u16, HeaderMap, Value);

impl Router {
    async fn start(directory: &Path, more: &[&str]) -> Self {
        let (data, admin) = (free_address(), free_address());
        let (listen, admin_flag) = (data.to_string(), admin.to_string());
        let mut args = vec!["run", "--threads", "1", "--listen", &listen, "--admin", &admin_flag, "--data", "kept"];
        args.extend(more);
        let process = Process::start(program(), directory, &directory.join("run.log"), &args);
        let client = Client::builder(TokioExecutor::new()).build_http();
        let router = Self { process, data, admin, client };
        router.ready().await;
        router
    }

    async fn ready(&self) {
        let what = "readiness";
        wait::until(what, SOON, async || {
            self.try_call(Method::GET, self.admin, "/readyz", "").await.filter(|it| it.0 == 200)
        })
        .await;
    }

    async fn try_call(&self, method: Method, to: SocketAddr, path: &str, body: &str) -> Option<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{to}{path}"))
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a request");
        let (parts, body) = self.client.request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some((parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn admin(&self, method: Method, path: &str, body: &str) -> Answer {
        self.try_call(method, self.admin, path, body).await.expect("an answer")
    }

    async fn get(&self, path: &str) -> Answer {
        self.try_call(Method::GET, self.data, path, "").await.expect("an answer")
    }

    async fn add(&self, sandbox: &str, pattern: &str, target: &str, priority: i32) -> (u16, Value) {
        let body = json!({ "sandbox_id": sandbox, "pattern": pattern, "target_url": target, "priority": priority });
        let (status, _, body) = self.admin(Method::POST, "/routes", &body.to_string()).await;
        (status, body)
    }

    async fn ids(&self) -> Vec<u64> {
        let (_, _, list) = self.admin(Method::GET, "/routes", "").await;
        list.as_array().expect("a list").iter().filter_map(|route| route["id"].as_u64()).collect()
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_curl_of_the_seed_gives_the_answer_of_its_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("users").await;
    let target = format!("http://{}", origin.address());
    let router = Router::start(directory.path(), &[]).await;

    let (status, _, body) = router.admin(Method::GET, "/healthz", "").await;
    assert_eq!((status, body), (200, json!({ "status": "ok" })));
    let (status, _, body) = router.admin(Method::GET, "/routes", "").await;
    assert_eq!((status, body), (200, json!([])));
    assert_eq!(router.add("sandbox-1", "^/api/users(/.*)?$", &target, 10).await, (201, json!({ "id": 1 })));
    // Live on the next request after the answer.
    let (status, headers, _) = router.get("/api/users/get").await;
    assert_eq!(status, 200);
    assert_eq!((header(&headers, "x-alb-sandbox"), header(&headers, "x-alb-route-id")), ("sandbox-1", "1"));

    let (status, _, body) = router.get("/no-such-path").await;
    assert_eq!((status, &body["error"], &body["path"]), (404, &json!("no route matched"), &json!("/no-such-path")));

    // A port that refuses connections.
    let dead = free_address().to_string();
    assert_eq!(router.add("sandbox-bad", "^/dead(/.*)?$", &format!("http://{dead}"), 10).await.0, 201);
    let (status, _, body) = router.get("/dead/anything").await;
    assert_eq!((status, &body["error"], &body["target"]), (502, &json!("bad gateway"), &json!(dead)));
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");

    assert_eq!(router.add("sandbox-1", "^/orders", &target, 5).await, (201, json!({ "id": 3 })));
    let (_, _, list) = router.admin(Method::GET, "/routes", "").await;
    let first =
        json!({ "id": 3, "sandbox_id": "sandbox-1", "pattern": "^/orders", "target_url": target, "priority": 5 });
    assert_eq!(list[0], first, "in the order of matching: {list}");
    let (status, _, body) = router.admin(Method::POST, "/routes/reload", "").await;
    assert_eq!((status, body), (200, json!({ "status": "reloaded" })));
    let (status, _, body) = router.admin(Method::DELETE, "/routes/2", "").await;
    assert_eq!((status, body), (200, json!({ "status": "deleted" })));
    assert_eq!(router.get("/dead/anything").await.0, 404);
    let (status, _, body) = router.admin(Method::DELETE, "/sandboxes/sandbox-1", "").await;
    assert_eq!((status, body), (200, json!({ "deleted": 2, "sandbox_id": "sandbox-1" })));
    assert_eq!(router.get("/api/users/get").await.0, 404);
    let (status, _, body) = router.admin(Method::DELETE, "/sandboxes/sandbox-1", "").await;
    assert_eq!((status, body), (200, json!({ "deleted": 0, "sandbox_id": "sandbox-1" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let router = Router::start(directory.path(), &[]).await;
    assert_eq!(router.add("s", "^/a", "http://127.0.0.1:1", 0).await, (201, json!({ "id": 1 })));
    let huge = format!("{{\"pattern\":\"{}\"}}", "a".repeat(70_000));
    let post = async |body: &str| {
        let (status, _, answer) = router.admin(Method::POST, "/routes", body).await;
        (status, answer["error"].as_str().unwrap_or_default().to_owned())
    };
    for (body, expected, says) in [
        ("{bad", 400, "invalid JSON body"),
        ("[]", 400, "invalid JSON body"),
        (r#"{"sandbox_id":"s","pattern":"a","target_url":"http://a","prio":1}"#, 400, "invalid JSON body"),
        (r#"{"sandbox_id":"s","pattern":"a","target_url":"http://a","priority":1.5}"#, 400, "invalid JSON body"),
        (r#"{"sandbox_id":"s","pattern":"a"}"#, 400, "pattern and target_url are required"),
        (r#"{"sandbox_id":"s","target_url":"http://a"}"#, 400, "pattern and target_url are required"),
        (r#"{"pattern":"a","target_url":"http://a"}"#, 400, "sandbox_id is required"),
        (r#"{"sandbox_id":"s","pattern":"(","target_url":"http://a"}"#, 400, "invalid regex pattern: "),
        (r#"{"sandbox_id":"s","pattern":"a","target_url":"ftp://a"}"#, 400, "invalid target_url: "),
        (r#"{"sandbox_id":"s","pattern":"a","target_url":"http://a","ttl":"8"}"#, 400, "invalid ttl: "),
        (r#"{"sandbox_id":"s","pattern":"^/a","target_url":"http://b"}"#, 409, "the sandbox has this pattern already"),
        (&huge, 413, "request body too large"),
    ] {
        let (status, error) = post(body).await;
        assert!(status == expected && error.starts_with(says), "{body}: {status} {error}");
    }
    for (method, path, expected, allow) in [
        (Method::DELETE, "/routes/99", 404, ""),
        (Method::DELETE, "/routes/x", 400, ""),
        (Method::DELETE, "/routes/0", 400, ""),
        (Method::DELETE, "/routes/-1", 400, ""),
        (Method::DELETE, "/sandboxes/", 400, ""),
        (Method::PUT, "/routes", 405, "GET, HEAD, POST"),
        (Method::GET, "/routes/1", 405, "DELETE"),
        (Method::GET, "/routes/reload", 405, "POST"),
        (Method::GET, "/sandboxes/s", 405, "DELETE"),
        (Method::POST, "/healthz", 405, "GET,HEAD"),
    ] {
        let (status, headers, body) = router.admin(method.clone(), path, "").await;
        assert_eq!((status, header(&headers, "allow")), (expected, allow), "{method} {path}");
        assert!(body["error"].is_string(), "{method} {path}: {body}");
    }
    assert_eq!(router.ids().await, [1], "nothing half-written");
    // The same pattern in another sandbox is no duplicate.
    assert_eq!(router.add("t", "^/a", "http://127.0.0.1:1", 0).await.0, 201);
    // No page of another site changes routes.
    let request = Request::builder()
        .method(Method::DELETE)
        .uri(format!("http://{}/routes/1", router.admin))
        .header("origin", "https://evil.example")
        .body(Full::new(Bytes::new()))
        .expect("a request");
    assert_eq!(router.client.request(request).await.expect("an answer").status(), 403);
    assert_eq!(router.ids().await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_outlive_a_kill_in_the_same_order_and_end_with_their_ttl() {
    let directory = tempfile::tempdir().expect("a directory");
    let origins = [Origin::start("first").await, Origin::start("second").await];
    let target = |origin: usize| format!("http://{}", origins[origin].address());
    let mut router = Router::start(directory.path(), &[]).await;
    // Equal priorities: the lower id is tried first, before a restart and after.
    for (sandbox, pattern, origin) in [("a", "^/x", 0), ("b", "^/x", 1), ("c", "/x/y", 1)] {
        assert_eq!(router.add(sandbox, pattern, &target(origin), 10).await.0, 201);
    }
    let short = json!({ "sandbox_id": "d", "pattern": "^/short", "target_url": target(0), "ttl": "2s" });
    let (status, _, answer) = router.admin(Method::POST, "/routes", &short.to_string()).await;
    assert_eq!((status, answer), (201, json!({ "id": 4 })));
    assert_eq!(router.get("/short").await.0, 200);
    let (_, _, list) = router.admin(Method::GET, "/routes", "").await;
    assert!(list[3]["expires_at"].is_string() && list[0].get("expires_at").is_none(), "{list}");
    assert_eq!(header(&router.get("/x/y").await.1, "x-alb-route-id"), "1");

    let second = finish(program(), directory.path(), SOON, &["run", "--admin", "off", "--data", "kept"]).await;
    assert!(second.code != 0 && second.stderr.contains("in use by another sealane"), "{second:?}");

    router.process.kill().await;
    router.process.restart();
    router.ready().await;
    assert_eq!(header(&router.get("/x/y").await.1, "x-alb-route-id"), "1");
    wait::until("the end of the ttl", SOON, async || (router.get("/short").await.0 == 404).then_some(())).await;
    assert_eq!(router.ids().await, [1, 2, 3]);
    // An id is never given twice.
    assert_eq!(router.add("d", "^/short", &target(0), 10).await, (201, json!({ "id": 5 })));
    assert_eq!(router.process.stop(Signal::INT, SOON).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_a_file_come_first_and_stay_through_changes_of_either() {
    let directory = tempfile::tempdir().expect("a directory");
    let origins = [Origin::start("file").await, Origin::start("sandbox").await];
    let file = |path: &str, sandboxes: &str| {
        let text = format!("routes: [{{ path_prefix: {path}, to: \"http://{}\" }}]\n{sandboxes}", origins[0].address());
        std::fs::write(directory.path().join("config.yaml"), text).expect("a file");
    };
    file("/api", "");
    let router = Router::start(directory.path(), &["config.yaml"]).await;
    assert_eq!(router.add("s", "^/", &format!("http://{}", origins[1].address()), 0).await.0, 201);
    let by = async |path: &str| header(&router.get(path).await.1, "x-alb-sandbox").to_owned();
    assert_eq!((by("/api/x").await, by("/web").await), (String::new(), "s".into()), "whatever its priority");

    file("/web", "");
    wait::until("the new file", SOON, async || {
        (by("/web").await.is_empty() && by("/api/x").await == "s").then_some(())
    })
    .await;
    // On the hosts of sandboxes, priority alone decides.
    file("/web", "sandboxes: { hosts: [127.0.0.1] }\n");
    wait::until("sandbox hosts", SOON, async || (by("/web").await == "s").then_some(())).await;
    file("/web", "sandboxes: { enabled: false }\n");
    wait::until("sandboxes off", SOON, async || (router.get("/api/x").await.0 == 404).then_some(())).await;
    let (status, body) = router.add("s", "^/more", "http://127.0.0.1:1", 0).await;
    assert!(status == 409 && body["error"].as_str().is_some_and(|error| error.contains("enabled: false")), "{body}");
}

/// The authority's HTTP API, with a token or without.
async fn authority(fleet: &Fleet, token: &str, method: Method, path: &str, body: &str) -> (u16, Value) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(format!("http://{}{path}", fleet.http));
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
    let (parts, body) = client.request(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
}

/// Waits until every proxy answers `path` with `expected`: the status and, where it is 200, the body.
async fn everywhere(fleet: &Fleet, path: &str, expected: (u16, &str)) {
    let client = load::client();
    for proxy in &fleet.proxies {
        wait::until(&format!("{path} at {} to be {expected:?}", proxy.id), SOON, async || {
            let (status, body) = load::get(&client, &format!("http://{}{path}", proxy.address)).await.ok()?;
            (status == expected.0 && (status != 200 || body == expected.1)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_serves_sandbox_routes_beside_its_config_and_through_its_rollouts() {
    let [app, next, alice] = [Origin::start("app").await, Origin::start("next").await, Origin::start("alice").await];
    let mut fleet = Fleet::start(program(), &["eu"], 2).await;
    let config = |name: &str, origin: &Origin, more: &str| {
        let text = format!(
            "listen: 127.0.0.1:8080\nroutes:\n  - {{ id: app, path_prefix: /app, to: \"http://{}\" }}\n{more}",
            origin.address()
        );
        fleet.config_text(name, &text)
    };
    let (first, slow) = (
        config("first.yaml", &app, ""),
        config(
            "slow.yaml",
            &next,
            "rollout:\n  stages: [{ name: canary, fleet_percent: 50, bake_time: 30m }, { name: all, fleet_percent: 100 }]\n",
        ),
    );
    assert_eq!(fleet.publish(&first).await.code, 0);
    let target = format!("http://{}", alice.address());
    let post = json!({ "sandbox_id": "alice", "pattern": "^/", "target_url": target, "priority": 0 }).to_string();

    // Nobody without the role; the role alone is enough, and is enough for nothing else.
    let (status, _) = authority(&fleet, "", Method::POST, "/routes", &post).await;
    assert_eq!(status, 401);
    let token = async |role: &str| {
        let made = fleet.cli(&["token", "create", "--role", role]).await;
        assert_eq!(made.code, 0, "{made:?}");
        made.stdout.trim().to_owned()
    };
    let (viewer, sandbox) = (token("viewer").await, token("sandbox").await);
    assert_eq!(authority(&fleet, &viewer, Method::POST, "/routes", &post).await.0, 403);
    assert_eq!(authority(&fleet, &sandbox, Method::GET, "/api/v1/fleet", "").await.0, 403);
    let added = authority(&fleet, &sandbox, Method::POST, "/routes", &post).await;
    assert_eq!(added, (201, json!({ "id": 1 })));
    everywhere(&fleet, "/dev", (200, "alice")).await;
    everywhere(&fleet, "/app", (200, "app")).await;
    let again = authority(&fleet, &sandbox, Method::POST, "/routes", &post).await;
    assert_eq!(again.0, 409, "{again:?}");

    // In the middle of a rollout: the canary and the others get it alike, and aborting leaves it.
    let held = fleet.cli(&["publish", &slow, "-m", "slow"]).await;
    assert_eq!(held.code, 0, "{held:?}");
    let client = load::client();
    wait::until("a canary that serves the candidate", SOON, async || {
        let mut bodies = Vec::new();
        for proxy in &fleet.proxies {
            bodies.push(load::get(&client, &format!("http://{}/app", proxy.address)).await.ok()?.1);
        }
        bodies.sort();
        (bodies == ["app", "next"]).then_some(())
    })
    .await;
    let more = fleet.json(&["sandbox", "add", "bob", "^/bob", &target, "--priority", "-1", "--ttl", "1h"]).await;
    assert_eq!((&more["route"]["id"], &more["revision"]), (&json!(2), &json!(2)), "{more}");
    let gone = fleet.cli(&["sandbox", "rm", "1"]).await;
    assert_eq!(gone.code, 0, "{gone:?}");
    everywhere(&fleet, "/dev", (404, "")).await;
    everywhere(&fleet, "/bob", (200, "alice")).await;
    assert_eq!(fleet.cli(&["rollout", "abort"]).await.code, 0);
    everywhere(&fleet, "/app", (200, "app")).await;
    everywhere(&fleet, "/bob", (200, "alice")).await;

    // Proxies restart without authority and agent, and serve both lines from their own disk.
    fleet.authority.kill().await;
    fleet.agents[0].process.kill().await;
    for proxy in &mut fleet.proxies {
        proxy.process.kill().await;
        proxy.process.restart();
    }
    everywhere(&fleet, "/app", (200, "app")).await;
    everywhere(&fleet, "/bob", (200, "alice")).await;
    fleet.authority.restart();
    fleet.agents[0].process.restart();
    fleet.wait_for_authority().await;

    let short = fleet.json(&["sandbox", "add", "carol", "^/carol", &target, "--ttl", "3s"]).await;
    assert_eq!(short["route"]["id"], 3, "{short}");
    everywhere(&fleet, "/carol", (200, "alice")).await;
    everywhere(&fleet, "/carol", (404, "")).await;
    let list = fleet.json(&["sandbox", "list"]).await;
    assert_eq!(list["routes"].as_array().map(Vec::len), Some(1), "{list}");
    let all = fleet.json(&["sandbox", "rm", "--sandbox", "bob"]).await;
    assert_eq!(all["deleted"], 1, "{all}");
    everywhere(&fleet, "/bob", (404, "")).await;
    let unknown = fleet.cli(&["sandbox", "rm", "77"]).await;
    assert_eq!(unknown.code, 4, "{unknown:?}");
    let bad = fleet.cli(&["sandbox", "add", "dave", "(", &target]).await;
    assert_eq!(bad.code, 64, "{bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_route_of_a_file_ends_with_its_ttl_counted_from_when_the_file_was_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("file").await;
    let route = |pattern: &str, ttl: &str| {
        format!(
            "  - {{ sandbox_id: s, pattern: ^/{pattern}, target_url: \"http://{}\", ttl: {ttl} }}\n",
            origin.address()
        )
    };
    let text = format!("sandboxes:\n  routes:\n{}{}", route("short", "3s"), route("long", "1h"));
    std::fs::write(directory.path().join("config.yaml"), text).expect("a file");
    let router = Router::start(directory.path(), &["config.yaml"]).await;
    assert_eq!(router.get("/long").await.0, 200);
    wait::until("the end of the ttl", SOON, async || (router.get("/short").await.0 == 404).then_some(())).await;
    assert_eq!(router.get("/long").await.0, 200);
    // An edit of other routes does not bring it back.
    assert_eq!(router.add("t", "^/other", "http://127.0.0.1:1", 1).await.0, 201);
    assert_eq!((router.get("/short").await.0, router.get("/long").await.0), (404, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_and_what_follows_are_logged_as_facts_and_a_pattern_is_unique_in_its_sandbox_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut router = Router::start(directory.path(), &["--log-json"]).await;
    let dead = format!("http://{}", free_address());
    assert_eq!(router.add("one", "^/a", &dead, 10).await.0, 201);
    assert_eq!(router.add("one", "^/a", &dead, 10).await.0, 409);
    assert_eq!(router.add("two", "^/a", &dead, 10).await.0, 201);
    assert_eq!((router.get("/a").await.0, router.get("/none").await.0), (502, 404));
    assert_eq!(router.admin(Method::POST, "/routes/reload", "").await.0, 200);
    assert_eq!(router.admin(Method::DELETE, "/routes/1", "").await.0, 200);
    assert_eq!(router.process.stop(Signal::TERM, SOON).await, 0);

    let log = router.process.log_text();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
    let fact = |message: &str, name: &str| {
        let line =
            lines.iter().find(|line| line["fields"]["message"].as_str().is_some_and(|it| it.starts_with(message)));
        line.unwrap_or_else(|| panic!("`{message}` is logged: {log}"))["fields"][name].clone()
    };
    assert_eq!(fact("sandbox routes loaded", "routes_loaded"), 0);
    assert!(fact("sandbox routes loaded", "database").as_str().is_some_and(|path| path.ends_with("sealane.db")));
    assert_eq!(fact("data plane listening", "address"), router.data.to_string());
    assert_eq!(fact("admin plane listening", "address"), router.admin.to_string());
    assert_eq!((fact("sandbox route added", "id"), fact("sandbox route added", "pattern")), (json!(1), json!("^/a")));
    assert_eq!(fact("sandbox routes reloaded", "count"), 2);
    assert_eq!(fact("sandbox route removed", "id"), 1);
    assert_eq!(fact("draining", "stop"), "Terminate");
    fact("stopped", "message");
    let request =
        |path: &str| lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("{path}: {log}"));
    assert_eq!(request("/a")["reason"], "upstream_connect_failed");
    assert_eq!(request("/none")["reason"], "no_route");
}

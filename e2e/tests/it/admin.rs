//! A config over the admin address of `sealane run`: checked, compared, applied, taken back, and what the file has to say.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sealane_e2e::fleet::free_address;
use sealane_e2e::origin::Origin;
use sealane_e2e::process::Process;
use sealane_e2e::wait;
use serde_json::{Value, json};

use crate::program;

const SOON: Duration = Duration::from_secs(30);

struct Running {
    data: SocketAddr,
    admin: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    process: Process,
}

impl Running {
    async fn start(directory: &Path, text: &str) -> Self {
        let (data, admin) = (free_address(), free_address());
        std::fs::write(directory.join("config.yaml"), text).expect("the config");
        let args = [
            "run",
            "config.yaml",
            "--threads",
            "1",
            "--listen",
            &data.to_string(),
            "--admin",
            &admin.to_string(),
            "--admin-rate",
            "0",
        ];
        let process = Process::start(program(), directory, &directory.join("run.log"), &args);
        let running = Self { data, admin, client: Client::builder(TokioExecutor::new()).build_http(), process };
        wait::until("readiness", SOON, async || {
            running.try_ask(admin, Method::GET, "/readyz", "").await.filter(|it| it.0 == 200)
        })
        .await;
        running
    }

    async fn try_ask(
        &self,
        to: SocketAddr,
        method: Method,
        path: &str,
        body: &str,
    ) -> Option<(u16, HeaderMap, String)> {
        let request = Request::builder().method(method).uri(format!("http://{to}{path}"));
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
        let (parts, body) = self.client.request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some((parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.try_ask(self.admin, method, path, body).await.expect("an answer");
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.ask(Method::POST, path, body).await
    }

    async fn served(&self) -> String {
        self.try_ask(self.data, Method::GET, "/", "").await.map_or_else(String::new, |(_, _, body)| body)
    }

    async fn wait_for(&self, body: &str) {
        wait::equals("what is served", SOON, body.to_owned(), async || self.served().await).await;
    }
}

fn config(origin: &Origin) -> String {
    format!("listen: :8080\nroutes:\n  - id: all\n    to: http://{}\n", origin.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_applied_and_taken_back_over_the_admin_address_and_a_change_of_the_file_wins() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two, three) = (Origin::start("one").await, Origin::start("two").await, Origin::start("three").await);
    let running = Running::start(directory.path(), &config(&one)).await;
    running.wait_for("one").await;

    // Checking and comparing change nothing.
    let (status, valid) = running.post("/api/v2/config/validate", &config(&two)).await;
    assert_eq!((status, &valid["ok"], &valid["warnings"]), (200, &json!(true), &json!([])));
    let (status, invalid) = running.post("/api/v2/config/validate", "listen: :8080\nroutes:\n  - too: x\n").await;
    assert_eq!((status, &invalid["category"]), (422, &json!("config_invalid")));
    let problem = &invalid["problems"][0];
    assert_eq!(
        (&problem["code"], &problem["line"], &problem["suggestion"]),
        (&json!("unknown_key"), &json!(3), &json!("to")),
        "{invalid}"
    );
    let (status, diff) = running.post("/api/v2/config/diff", &config(&two)).await;
    assert_eq!((status, &diff["identical"]), (200, &json!(false)), "{diff}");
    assert!(diff["changes"].to_string().contains(&two.address().to_string()), "{diff}");
    let (_, same) = running.post("/api/v2/config/diff", &config(&one)).await;
    assert_eq!(same["identical"], true, "{same}");
    let (status, tried) = running.post("/api/v2/config/apply?dry_run=true", &config(&two)).await;
    assert_eq!((status, &tried["applied"]), (200, &json!(false)), "{tried}");
    assert_eq!(running.served().await, "one");

    // Raw, and wrapped as text and as an object.
    let (status, applied) = running.post("/api/v2/config/apply", &config(&two)).await;
    assert_eq!((status, &applied["applied"]), (200, &json!(true)), "{applied}");
    assert_eq!(running.served().await, "two", "it is served when the answer is there");
    let version_two = applied["version"].as_str().expect("a version").to_owned();
    let first = applied["previous"].as_str().expect("a version").to_owned();
    let wrapped = json!({ "config": config(&three), "expected_version": version_two });
    let (status, applied) = running.post("/admin/config", &wrapped.to_string()).await;
    assert_eq!((status, applied["previous"].as_str()), (200, Some(version_two.as_str())), "{applied}");
    assert_eq!(running.served().await, "three");
    let (status, moved) = running.post("/api/v2/config/apply", &wrapped.to_string()).await;
    assert_eq!((status, &moved["category"]), (409, &json!("version_moved")), "{moved}");
    let object = json!({ "config": { "listen": ":8080", "routes": [{ "id": "all", "to": format!("http://{}", two.address()) }] } });
    let (status, applied) = running.post("/api/v2/config/apply", &object.to_string()).await;
    assert_eq!(status, 200, "{applied}");
    assert_eq!(running.served().await, "two");

    // Back, and further back.
    for body in ["three", "two", "one"] {
        let (status, back) = running.post("/api/v2/config/rollback", "").await;
        assert_eq!((status, &back["rolled_back"]), (200, &json!(true)), "{back}");
        assert_eq!(running.served().await, body);
    }
    let (status, none) = running.post("/api/v2/config/rollback", "").await;
    assert_eq!((status, &none["category"]), (404, &json!("no_version")), "{none}");
    let (status, back) = running.post("/admin/rollback", &json!({ "version": version_two }).to_string()).await;
    assert_eq!((status, back["previous"].as_str()), (200, Some(first.as_str())), "{back}");
    assert_eq!(running.served().await, "two");
    let (_, current) = running.ask(Method::GET, "/api/v2/config/current", "").await;
    assert_eq!((current["version"].as_str(), &current["source"]), (Some(version_two.as_str()), &json!("applied")));
    assert_eq!(current["config"]["routes"][0]["id"], "all");
    assert!(current["versions"].as_array().is_some_and(|versions| versions.len() == 4), "{current}");

    // What cannot be served changes nothing, and neither does what is no config.
    for (body, status) in
        [("", 400), ("{\"config\": 1, \"x\": 2}", 400), ("listen: :8080\nroutes: nonsense\n", 422), ("\u{0}", 422)]
    {
        assert_eq!(running.post("/api/v2/config/apply", body).await.0, status, "{body:?}");
    }
    let huge = "#".repeat((10 << 20) + 1);
    assert_eq!(running.post("/api/v2/config/apply", &huge).await.0, 413);
    assert_eq!(running.post("/api/v2/config/apply?dryrun=true", &config(&one)).await.0, 400, "a slip of the pen");
    assert_eq!(running.served().await, "two");

    // The file's next change wins over what was applied.
    std::fs::write(directory.path().join("config.yaml"), config(&three)).expect("the config");
    running.wait_for("three").await;
    let (_, current) = running.ask(Method::GET, "/api/v2/config/current", "").await;
    assert_eq!(current["source"], "file");
    assert!(running.process.log_text().contains("in place of what was applied"), "{}", running.process.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_document_is_served_and_every_answer_has_an_id() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("one").await;
    let running = Running::start(directory.path(), &config(&origin)).await;
    let (status, document) = running.ask(Method::GET, "/api/v2/openapi.json", "").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 20, "{}", paths.len());
    for (path, operations) in paths {
        let path = path.replace("{id}", "none").replace("{domain}", "none");
        for method in operations.as_object().expect("operations").keys() {
            // One ends the process' life, one does not end.
            if (path.as_str(), method.as_str()) == ("/api/v2/drain", "post") || path == "/api/v2/tail" {
                continue;
            }
            let method: Method = method.to_uppercase().parse().expect("a method");
            let (status, headers, body) =
                running.try_ask(running.admin, method.clone(), &path, "").await.expect("an answer");
            let documented =
                operations[method.as_str().to_lowercase().as_str()]["responses"].as_object().expect("answers");
            assert!(documented.contains_key(&status.to_string()), "{method} {path}: {status} {body}");
            assert!(headers.get("x-request-id").is_some_and(|id| !id.is_empty()), "{method} {path}");
        }
        let (status, headers, body) =
            running.try_ask(running.admin, Method::PATCH, &path, "").await.expect("an answer");
        assert_eq!(status, 405, "{path}");
        assert!(headers.contains_key("allow"), "{path}");
        let refused: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(refused["request_id"].as_str(), headers["x-request-id"].to_str().ok(), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_followed_as_they_end_by_filters() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("one").await;
    let running = Running::start(directory.path(), &config(&origin)).await;
    let addr = running.admin.to_string();
    let args = ["tail", "--addr", &addr, "--path-prefix", "/wanted", "-n", "3", "-o", "json"];
    let tail = sealane_e2e::process::finish(program(), directory.path(), SOON, &args);
    // Until it has seen enough; how soon it begins to follow is its own affair.
    let load = async {
        loop {
            for path in ["/wanted?token=hunter2", "/other"] {
                running.try_ask(running.data, Method::GET, path, "").await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let finished = tokio::select! {
        finished = tail => finished,
        () = load => unreachable!(),
    };
    assert_eq!(finished.code, 0, "{finished:?}");
    let lines: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3, "{finished:?}");
    for line in lines {
        assert_eq!(
            (&line["path"], &line["route"], &line["status"]),
            (&json!("/wanted?<redacted>"), &json!("all"), &json!(200))
        );
    }
    assert!(!finished.stdout.contains("hunter2"));
}

//! Sandbox routes of one proxy: what an edit costs among many, and what a match costs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::figure::Figure;
use super::fleet::wait_for_health;
use crate::bench::cost;
use crate::fleet::free_address;
use crate::load;
use crate::origin::Origin;
use crate::process::Process;

/// The longest that an edit may take, in milliseconds.
const EDIT_MS_MAX: f64 = 20.0;
/// Edits that are timed, half of them additions.
const EDITS: usize = 400;
/// Requests that are timed, twice: cold and warm.
const REQUESTS: usize = 4_000;

type Poster = Client<HttpConnector, Full<Bytes>>;

/// Fills one proxy with `routes` sandbox routes through its API, edits them and sends requests through them.
///
/// # Errors
/// The proxy does not start, or gives another answer than it should.
pub async fn edits(program: &Path, routes: usize) -> anyhow::Result<Vec<Figure>> {
    let origin = Origin::start("origin").await;
    let target = format!("http://{}", origin.address());
    let few = Proxy::start(program).await?;
    few.add(0, &target).await?;
    let proxy = Proxy::start(program).await?;
    let empty_kib = proxy.resident_kib();
    let begun = Instant::now();
    for number in 0..routes {
        proxy.add(number, &target).await?;
    }
    let mut figures = vec![
        Figure::of("sandbox routes", routes as f64, ""),
        Figure::of("added one by one in", begun.elapsed().as_secs_f64(), "s"),
    ];
    let (mut added, mut deleted) = (Vec::new(), Vec::new());
    let cpu_us = proxy.cpu_us();
    for edit in 0..EDITS / 2 {
        let begun = Instant::now();
        let id = proxy.add(routes + edit, &target).await?;
        added.push(ms(begun.elapsed()));
        // Served with the answer.
        ensure!(proxy.asked(routes + edit).await? == 200, "an added route is not served");
        // Any of those that are there, not the newest.
        let doomed = if edit % 2 == 0 { id } else { id - (routes / 2) as u64 };
        let begun = Instant::now();
        proxy.delete(doomed).await?;
        deleted.push(ms(begun.elapsed()));
    }
    figures.push(Figure::of("CPU per edit", (proxy.cpu_us() - cpu_us) / 1e3 / EDITS as f64, "ms"));
    for (what, times) in [("add", &mut added), ("delete", &mut deleted)] {
        figures.push(Figure::of(format!("{what}: median"), quantile(times, 0.5), "ms").at_most(EDIT_MS_MAX));
        figures.push(Figure::of(format!("{what}: p99"), quantile(times, 0.99), "ms").at_most(EDIT_MS_MAX));
    }
    for (what, proxy, spread) in [("one route", &few, 1), ("all routes", &proxy, routes / 4)] {
        for warmth in ["cold", "warm"] {
            let cpu_us = proxy.cpu_us();
            for request in 0..REQUESTS {
                proxy.asked(request * 7919 % spread.max(1)).await?;
            }
            let each = (proxy.cpu_us() - cpu_us) / REQUESTS as f64;
            figures.push(Figure::of(format!("CPU per request, {what}, {warmth}"), each, "us"));
        }
    }
    figures.push(Figure::of("memory without routes", empty_kib / 1024.0, "MiB"));
    figures.push(Figure::of("memory", proxy.resident_kib() / 1024.0, "MiB"));
    Ok(figures)
}

/// `sealane run --data`.
struct Proxy {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    client: Poster,
    getter: load::HttpClient,
    _directory: TempDir,
}

impl Proxy {
    async fn start(program: &Path) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let (address, admin) = (free_address(), free_address());
        let (listen, admin_text) = (address.to_string(), admin.to_string());
        let arguments = ["run", "--data", "data", "--listen", &listen, "--admin", &admin_text];
        let process = Process::start(program, directory.path(), &directory.path().join("log"), &arguments);
        wait_for_health(admin).await?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { process, address, admin, client, getter: load::client(), _directory: directory })
    }

    async fn add(&self, number: usize, target: &str) -> anyhow::Result<u64> {
        let route = json!({
            "sandbox_id": format!("sandbox-{}", number % 100),
            "pattern": format!("^/api/team-{number}/(users|orders)/\\d+(/.*)?$"),
            "target_url": target,
            "priority": number % 7 * 10,
        });
        let answer = self.call("POST", "/routes", route.to_string()).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        answer["id"].as_u64().ok_or_else(|| anyhow::anyhow!("no id in {answer}"))
    }

    async fn delete(&self, id: u64) -> anyhow::Result<()> {
        self.call("DELETE", &format!("/routes/{id}"), String::new()).await.map(drop)
    }

    async fn call(&self, method: &str, path: &str, body: String) -> anyhow::Result<Bytes> {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.admin));
        let answer = self.client.request(request.body(Full::from(body))?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    async fn asked(&self, number: usize) -> anyhow::Result<u16> {
        let url = format!("http://{}/api/team-{number}/orders/42/lines", self.address);
        let (status, _) = load::get(&self.getter, &url).await.map_err(|error| anyhow::anyhow!(error))?;
        Ok(status)
    }

    fn cpu_us(&self) -> f64 {
        self.process.id().map_or(0.0, |pid| cost::of(pid).cpu_us)
    }

    fn resident_kib(&self) -> f64 {
        self.process.id().map_or(0.0, |pid| cost::of(pid).resident_kib as f64)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let at = (times.len() as f64 * share) as usize;
    times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

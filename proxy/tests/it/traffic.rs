//! Traffic plans: canary shares, cohorts, the brake, overload protection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::breakers::with_admin;
use crate::support::{Client, Origin, OriginConnection, TestProxy, ok, until};

const FAILING: &[u8] = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno";

/// Two origins, and a config that splits between them.
struct Sides {
    stable: Origin,
    canary: Origin,
    failing: Arc<AtomicBool>,
}

impl Sides {
    async fn start() -> Self {
        let failing = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&failing);
        let canary =
            Origin::start(move |_| if switch.load(Ordering::Relaxed) { FAILING.to_vec() } else { ok("canary") });
        Self { stable: Origin::fixed("stable").await, canary: canary.await, failing }
    }

    fn config(&self, plan: &str) -> String {
        format!(
            "pools: {{ v1: {{ endpoints: ['http://{}'] }}, v2: {{ endpoints: ['http://{}'] }} }}\n\
             routes: [{{ id: a, pool: v1 }}]\n\
             traffic_management: [{{ route: a, stable_pool: v1, {plan} }}]\n",
            self.stable.address, self.canary.address
        )
    }
}

async fn with_header(client: &mut Client<tokio::net::TcpStream>, header: &str) -> String {
    let response = client.ask(format!("GET / HTTP/1.1\r\nHost: test\r\n{header}\r\n\r\n")).await;
    response.text().to_owned()
}

async fn shown(proxy: &TestProxy) -> serde_json::Value {
    let mut client = Client::connect(proxy.proxy.admin().unwrap()).await;
    client.ask("GET /api/v2/traffic/canary HTTP/1.1\r\nHost: localhost\r\n\r\n").await.json()["routes"][0].clone()
}

#[tokio::test]
async fn a_canary_gets_exactly_its_share_over_all_threads_and_swaps() {
    let sides = Sides::start().await;
    let yaml = sides.config("canary_pool: v2, canary_weight: 10");
    let proxy = TestProxy::start(&yaml).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(proxy.client().await);
    }
    for round in 0..25 {
        for client in &mut clients {
            assert_eq!(client.get("/").await.status, 200);
        }
        if round == 12 {
            proxy.serve(&yaml).await;
        }
    }
    assert_eq!((sides.stable.requests().len(), sides.canary.requests().len()), (180, 20));
    proxy.until_metric("proxy_variant_requests_total{route=\"a\",variant=\"canary\"}", 20.0).await;
    assert_eq!(proxy.metric("proxy_requests_total{route=\"a\",pool=\"v2\",status=\"200\"}"), Some(20.0));
    assert_eq!(proxy.metric("proxy_canary_weight{route=\"a\"}"), Some(10.0));
}

#[tokio::test]
async fn cohorts_go_to_their_pool_and_others_stick_to_a_side() {
    let sides = Sides::start().await;
    let plan =
        |cohorts: &str| sides.config(&format!("canary_pool: v2, canary_weight: 50, cohort_routing: {{ {cohorts} }}"));
    let proxy = TestProxy::start(&plan("header: X-Cohort, mappings: { beta: v2, old: v1 }")).await;
    let mut client = proxy.client().await;
    for _ in 0..5 {
        assert_eq!(with_header(&mut client, "x-cohort: beta").await, "canary");
        assert_eq!(with_header(&mut client, "X-Cohort: old").await, "stable");
    }
    let sticky = async |client: &mut Client<_>, header: &dyn Fn(usize) -> String| {
        let mut canary = 0;
        for user in 0..40 {
            let side = with_header(client, &header(user)).await;
            for _ in 0..2 {
                assert_eq!(with_header(client, &header(user)).await, side);
            }
            canary += usize::from(side == "canary");
        }
        assert!((5..35).contains(&canary), "{canary}");
    };
    sticky(&mut client, &|user| format!("X-Cohort: other-{user}")).await;
    proxy.serve(&plan("cookie: cohort, mappings: { beta: v2 }")).await;
    assert_eq!(with_header(&mut client, "Cookie: a=b; cohort=beta").await, "canary");
    sticky(&mut client, &|user| format!("Cookie: cohort=u{user}")).await;
    proxy.serve(&plan("hash: { header: X-User }")).await;
    sticky(&mut client, &|user| format!("X-User: {user}")).await;
    proxy.serve(&plan("hash: { cookie: sid }")).await;
    sticky(&mut client, &|user| format!("Cookie: x=1; sid={user}")).await;
    proxy.serve(&plan("hash: client_ip")).await;
    let side = proxy.get("/").await.text().to_owned();
    for _ in 0..10 {
        assert_eq!(proxy.get("/").await.text(), side);
    }
}

#[tokio::test]
async fn the_brake_takes_a_bad_canary_out_time_after_time() {
    let sides = Sides::start().await;
    let brake = "auto_brake: { error_rate_multiplier: 3, min_requests: 10, cooloff: 300ms }";
    let yaml = sides.config(&format!("canary_pool: v2, canary_weight: 50, {brake}"));
    let proxy = TestProxy::with(with_admin(), &yaml).await;
    let mut client = proxy.client().await;
    for round in 1..=2 {
        sides.failing.store(true, Ordering::Relaxed);
        until("the brake", async || {
            client.get("/").await;
            (proxy.metric("proxy_canary_brakes_total{route=\"a\"}") == Some(f64::from(round))).then_some(())
        })
        .await;
        let shown = shown(&proxy).await;
        assert_eq!(shown["auto_brake"]["engaged_total"], round);
        if shown["auto_brake"]["engaged"] == json!(true) {
            assert_eq!(shown["effective_canary_weight"], 0.0);
        }
        if round == 1 {
            // Another snapshot changes nothing of it.
            proxy.serve(&yaml).await;
        }
        sides.failing.store(false, Ordering::Relaxed);
        until("the canary's return", async || (client.get("/").await.text() == "canary").then_some(())).await;
    }
    let errors = proxy.metric("proxy_variant_errors_total{route=\"a\",variant=\"canary\"}").unwrap();
    assert!(errors >= 10.0, "{errors}");
    assert_eq!(proxy.metric("proxy_variant_errors_total{route=\"a\",variant=\"stable\"}"), Some(0.0));
}

#[tokio::test]
async fn a_canary_as_good_as_stable_is_left_alone() {
    let bad = Origin::start(|_| FAILING.to_vec()).await;
    let yaml = format!(
        "pools: {{ v1: {{ endpoints: ['http://{0}'] }}, v2: {{ endpoints: ['http://{0}'] }} }}\n\
         routes: [{{ id: a, pool: v1 }}]\n\
         traffic_management: [{{ route: a, canary_pool: v2, canary_weight: 50, auto_brake: {{ min_requests: 5 }} }}]\n",
        bad.address
    );
    let proxy = TestProxy::with(with_admin(), &yaml).await;
    let mut client = proxy.client().await;
    until("looks", async || {
        client.get("/").await;
        (shown(&proxy).await["auto_brake"]["window"]["canary"]["requests"].as_u64() > Some(20)).then_some(())
    })
    .await;
    assert_eq!(proxy.metric("proxy_canary_brakes_total{route=\"a\"}"), Some(0.0));
}

/// Answers when told.
async fn held() -> (Origin, tokio::sync::watch::Sender<bool>) {
    let (release, held) = tokio::sync::watch::channel(false);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let mut held = held.clone();
        async move {
            while connection.request().await.is_some() {
                if held.wait_for(|released| *released).await.is_err() {
                    return;
                }
                connection.send(&ok("done")).await;
            }
        }
    })
    .await;
    (origin, release)
}

fn limited(origin: &Origin, overload: &str) -> String {
    format!(
        "pools: {{ p: {{ endpoints: ['http://{}'] }} }}\nroutes: [{{ id: a, pool: p }}]\n\
         traffic_management: [{{ route: a, overload_protection: {{ {overload} }} }}]\n",
        origin.address
    )
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

#[tokio::test]
async fn what_is_above_the_limit_queues_and_what_is_above_the_queue_is_turned_away() {
    let (origin, release) = held().await;
    let proxy =
        TestProxy::with(with_admin(), &limited(&origin, "max_concurrent: 2, queue_size: 2, queue_timeout: 60s")).await;
    let mut clients = Vec::new();
    for count in 1..=4 {
        let mut client = proxy.client().await;
        client.send(GET).await;
        clients.push(client);
        let series = if count <= 2 { "proxy_overload_in_flight" } else { "proxy_overload_queue_depth" };
        let value = if count <= 2 { count } else { count - 2 };
        proxy.until_metric(&format!("{series}{{route=\"a\"}}"), f64::from(value)).await;
    }
    let refused = proxy.get("/").await;
    assert_eq!((refused.status, refused.category()), (503, "overloaded".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let shown = shown(&proxy).await;
    let overload = &shown["overload_protection"];
    assert_eq!(
        (&overload["in_flight"], &overload["waiting"], &overload["rejected"]),
        (&json!(2), &json!(2), &json!(1))
    );
    // A swap keeps who is in flight and who waits.
    proxy.serve(&limited(&origin, "max_concurrent: 2, queue_size: 2, queue_timeout: 59s")).await;
    assert_eq!(proxy.get("/").await.status, 503);
    // One that waits goes away: its place in the queue is free.
    clients.remove(2).stream.set_zero_linger().unwrap();
    proxy.until_metric("proxy_overload_queue_depth{route=\"a\"}", 1.0).await;
    release.send_replace(true);
    for mut client in clients {
        assert_eq!(client.response().await.text(), "done");
    }
    proxy.until_metric("proxy_overload_in_flight{route=\"a\"}", 0.0).await;
}

#[tokio::test]
async fn who_waits_too_long_is_turned_away() {
    let (origin, release) = held().await;
    let proxy = TestProxy::start(&limited(&origin, "max_concurrent: 1, queue_size: 5, queue_timeout: 100ms")).await;
    let mut first = proxy.client().await;
    first.send(GET).await;
    proxy.until_metric("proxy_overload_in_flight{route=\"a\"}", 1.0).await;
    let mut second = proxy.client().await;
    let refused = second.ask(GET).await;
    assert_eq!((refused.status, refused.category()), (503, "overloaded".to_owned()));
    release.send_replace(true);
    assert_eq!(first.response().await.text(), "done");
    assert_eq!(second.ask(GET).await.text(), "done", "the connection goes on");
    assert_eq!(proxy.metric("proxy_overload_reject_total{route=\"a\"}"), Some(1.0));
}

#[tokio::test]
async fn an_adaptive_limit_shrinks_while_answers_take_too_long() {
    let slow = Origin::scripted(|mut connection: OriginConnection| async move {
        while connection.request().await.is_some() {
            // Time is what the limit goes by.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            connection.send(&ok("slow")).await;
        }
    })
    .await;
    let overload = "max_concurrent: 50, adaptive: aimd, latency_target: 5ms, min_concurrent: 2";
    let proxy = TestProxy::start(&limited(&slow, overload)).await;
    let clients = std::iter::repeat_with(|| async {
        let mut client = proxy.client().await;
        loop {
            client.get("/").await;
        }
    });
    let shrunk = until("a lower limit", async || {
        proxy.metric("proxy_overload_limit{route=\"a\"}").filter(|limit| *limit < 45.0)
    });
    tokio::select! {
        _ = shrunk => {}
        _ = futures_util::future::join_all(clients.take(8)) => {}
    }
}

#[tokio::test]
async fn the_log_names_the_variant_and_the_breaker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let sides = Sides::start().await;
    let yaml = sides.config("canary_pool: v2, canary_weight: 100")
        + &format!("logging: {{ access: file, file: '{}' }}\n", path.display());
    let proxy = TestProxy::start(&yaml.replace("v1: {", "v1: { circuit_breaker: {},")).await;
    assert_eq!(proxy.get("/").await.text(), "canary");
    let line: serde_json::Value = until("the line", async || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.lines().next().and_then(|line| serde_json::from_str(line).ok())
    })
    .await;
    assert_eq!((&line["pool"], &line["canary_variant"]), (&json!("v2"), &json!("canary")));
    assert_eq!(line["breaker_state"], "closed");
}

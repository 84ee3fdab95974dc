//! Swapping snapshots under load, and what stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Origin, TestProxy, ok, tag, to, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_swaps_under_load_fail_no_request() {
    let origin = Origin::start(|request| ok(request.header("x-route").unwrap_or("none"))).await;
    let yaml = |number: usize| {
        format!(
            "listen: 127.0.0.1:0\nlogging: {{ access: off }}\nroutes: [{{ id: r{number}, path_prefix: /, pool: p }}]\n\
             pools: [{{ id: p, endpoints: ['{}'] }}]\n",
            origin.address
        )
    };
    let configs: Vec<_> = (0..4).map(|number| crate::support::config(&yaml(number))).collect();
    let proxy = Arc::new(TestProxy::start(&yaml(0)).await);
    let address = proxy.address();
    let running = Arc::new(AtomicBool::new(true));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (proxy, running, served) = (Arc::clone(&proxy), Arc::clone(&running), Arc::clone(&served));
            tokio::spawn(async move {
                let mut client = proxy.client().await;
                while running.load(Ordering::Relaxed) {
                    let response =
                        client.ask(format!("GET /{number} HTTP/1.1\r\nHost: test\r\nX-Route: a\r\n\r\n")).await;
                    assert_eq!((response.status, response.text()), (200, "a"));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for number in 0..10_000u64 {
        let config = Arc::clone(&configs[number as usize % configs.len()]);
        let prepared = proxy.proxy.prepare(tag(number + 10), config).await.unwrap();
        proxy.proxy.activate(prepared).await.unwrap();
        assert_eq!(proxy.proxy.active(), Some(tag(number + 10)));
    }
    running.store(false, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) > 100);
    assert_eq!(proxy.address(), address, "the listener stays");
    let observation = proxy.proxy.observe();
    assert_eq!(observation.revisions.len(), 8);
    assert!(observation.revisions.iter().all(|revision| revision.failed == 0));
    assert_eq!(proxy.metric("proxy_snapshot_swaps_total"), Some(10_001.0));
    // Each worker opens as many as it had requests at once, whatever was swapped meanwhile.
    assert!(origin.connections() <= 8, "upstream connections stay: {}", origin.connections());
}

#[tokio::test]
async fn a_request_after_activate_sees_the_new_snapshot_on_every_thread() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let proxy = TestProxy::start(&to(&[old.address])).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = proxy.client().await;
        assert_eq!(client.get("/").await.text(), "old");
        clients.push(client);
    }
    proxy.serve(&to(&[new.address])).await;
    for client in &mut clients {
        assert_eq!(client.get("/").await.text(), "new");
    }
}

#[tokio::test]
async fn a_refused_config_changes_nothing() {
    let origin = Origin::fixed("fine").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let before = proxy.proxy.observe();
    let yaml = format!(
        "listeners: [{{ name: a, address: '127.0.0.1:0', tls: true }}]\n\
         tls: {{ certificates: [{{ cert_file: /no/such.crt, key_file: /no/such.key }}] }}\n{}",
        to(&[origin.address])
    );
    let problems = proxy.try_serve(&yaml).await.unwrap_err();
    assert_eq!((problems[0].code.as_str(), problems[0].line), ("certificate_invalid", 2));
    assert!(problems[0].message.contains("/no/such.crt"));
    assert_eq!(proxy.proxy.observe().active, before.active);
    assert_eq!(proxy.get("/").await.text(), "fine");
}

#[tokio::test]
async fn a_request_sees_one_snapshot_from_first_byte_to_last() {
    let (release, held) = tokio::sync::watch::channel(false);
    let old = Origin::scripted(move |mut connection| {
        let mut held = held.clone();
        async move {
            connection.request().await;
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nold").await;
            held.wait_for(|released| *released).await.unwrap();
            connection.send(b"end").await;
        }
    })
    .await;
    let new = Origin::fixed("new").await;
    let proxy = TestProxy::start(&to(&[old.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    client.read_until(b"old").await;
    proxy.serve(&to(&[new.address])).await;
    release.send_replace(true);
    client.read_until(b"end").await;
    assert_eq!(client.get("/").await.text(), "new");
    // Each is counted where its head came in.
    until("the counts", async || {
        let revisions = proxy.proxy.observe().revisions;
        let requests: Vec<_> = revisions.iter().map(|revision| (revision.revision.number, revision.requests)).collect();
        (requests == [(1, 1), (2, 1)]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn observations_tell_failures_from_faults_of_clients() {
    let origin = Origin::start(|request| match request.line() {
        "GET /500 HTTP/1.1" => b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "GET /404 HTTP/1.1" => b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "GET /cut HTTP/1.1" => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nx".to_vec(),
        "GET /reset HTTP/1.1" => Vec::new(),
        _ => ok(""),
    })
    .await;
    let yaml = format!("routes: [{{ path_prefix: /, to: 'http://{}', methods: [GET] }}]", origin.address);
    let proxy = TestProxy::start(&yaml).await;
    for path in ["/", "/500", "/404", "/cut", "/reset"] {
        proxy.get(path).await;
    }
    proxy.client().await.ask("POST / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    proxy.client().await.ask("GET / HTTP/1.1\r\n\r\n").await;
    // A request is counted when its answer has been sent.
    let revision = until("the counts", async || {
        let revision = proxy.proxy.observe().revisions.remove(0);
        (revision.requests == 7).then_some(revision)
    })
    .await;
    assert_eq!((revision.requests, revision.failed, revision.client_errors), (7, 3, 3));
    assert_eq!(revision.latency.iter().sum::<u64>(), 7);
    assert_eq!(revision.connect_failures, 0);
}

//! Where requests go: exact rotation, weights, and the other ways to pick.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use sealane_model::config::{Balancer, Config, HashKey};

use crate::support::{Origin, TestProxy, to};

async fn origins<const N: usize>() -> [Origin; N] {
    let mut origins = Vec::new();
    for number in 0..N {
        origins.push(Origin::fixed(["0", "1", "2", "3", "4"][number]).await);
    }
    origins.try_into().unwrap_or_else(|_| unreachable!())
}

fn addresses(origins: &[Origin]) -> Vec<SocketAddr> {
    origins.iter().map(|origin| origin.address).collect()
}

#[tokio::test]
async fn rotation_starts_at_index_0_and_is_exact() {
    let origins = origins::<3>().await;
    let proxy = TestProxy::start(&to(&addresses(&origins))).await;
    let mut order = String::new();
    for number in 0..9 {
        // Over several connections, and so over both threads.
        if number % 2 == 0 {
            order.push_str(proxy.get("/").await.text());
        } else {
            order.push_str(proxy.client().await.get("/").await.text());
        }
    }
    assert_eq!(order, "012012012");
}

#[tokio::test]
async fn rotation_is_exact_with_many_threads_at_once_and_through_swaps() {
    let origins = origins::<3>().await;
    let yaml = to(&addresses(&origins));
    let settings = sealane_proxy::settings::Settings { threads: 4, ..crate::support::settings() };
    let proxy = Arc::new(TestProxy::with(settings, &yaml).await);
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move {
                let mut client = proxy.client().await;
                for _ in 0..50 {
                    assert_eq!(client.get("/").await.status, 200);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        proxy.serve(&yaml).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    let counts = origins.each_ref().map(|origin| origin.requests().len());
    assert_eq!(counts, [200, 200, 200]);
}

#[tokio::test]
async fn each_route_has_a_rotation_of_its_own() {
    let origins = origins::<2>().await;
    let [a, b] = origins.each_ref().map(|origin| origin.address);
    let yaml = format!(
        "routes: [{{ path: /a, pool: p }}, {{ path: /b, pool: p }}]\npools: [{{ id: p, endpoints: ['{a}', '{b}'] }}]"
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    let mut order = String::new();
    for path in ["/a", "/b", "/a", "/a", "/b"] {
        order.push_str(client.get(path).await.text());
    }
    assert_eq!(order, "00101");
}

#[tokio::test]
async fn weights_are_kept() {
    let origins = origins::<3>().await;
    let [a, b, c] = origins.each_ref().map(|origin| origin.address);
    let yaml = format!(
        "routes: [{{ pool: p }}]\npools: [{{ id: p, balancer: weighted_round_robin, endpoints: [{{ address: '{a}', weight: 3 }}, \
         {{ address: '{b}', weight: 1 }}, {{ address: '{c}', weight: 0 }}] }}]"
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    for _ in 0..40 {
        client.get("/").await;
    }
    assert_eq!(origins.each_ref().map(|origin| origin.requests().len()), [30, 10, 0]);
}

async fn counts(balancer: Balancer, requests: &[&str]) -> HashMap<String, Vec<String>> {
    let origins = origins::<4>().await;
    let yaml = to(&addresses(&origins));
    let proxy = TestProxy::start(&yaml).await;
    proxy
        .serve_edited(&yaml, |config: &mut Config| Arc::make_mut(&mut config.pools[0]).balancer = balancer)
        .await
        .unwrap();
    let mut client = proxy.client().await;
    let mut picked: HashMap<String, Vec<String>> = HashMap::new();
    for request in requests {
        let response = client.ask(format!("GET / HTTP/1.1\r\nHost: test\r\n{request}\r\n")).await;
        picked.entry((*request).to_owned()).or_default().push(response.text().to_owned());
    }
    picked
}

#[tokio::test]
async fn random_picks_spread() {
    for balancer in [Balancer::Random, Balancer::PowerOfTwoChoices, Balancer::LeastConnections] {
        let picked = counts(balancer.clone(), &[""; 200]).await;
        for endpoint in ["0", "1", "2", "3"] {
            let count = picked[""].iter().filter(|picked| *picked == endpoint).count();
            assert!((20..=90).contains(&count), "{balancer:?}: {picked:?}");
        }
    }
}

#[tokio::test]
async fn hashes_stick() {
    let users: Vec<String> = (0..40).map(|user| format!("X-User: {user}\r\n")).collect();
    let requests: Vec<&str> = users.iter().chain(&users).map(String::as_str).collect();
    let picked = counts(Balancer::ConsistentHash(HashKey::Header("x-user".to_owned())), &requests).await;
    assert!(picked.values().all(|picks| picks[0] == picks[1]), "{picked:?}");
    let distinct: std::collections::HashSet<_> = picked.values().map(|picks| &picks[0]).collect();
    assert_eq!(distinct.len(), 4);

    let cookies: Vec<String> = (0..10).map(|user| format!("Cookie: a=b; sid={user}; c=d\r\n")).collect();
    let requests: Vec<&str> = cookies.iter().chain(&cookies).map(String::as_str).collect();
    let picked = counts(Balancer::ConsistentHash(HashKey::Cookie("sid".to_owned())), &requests).await;
    assert!(picked.values().all(|picks| picks[0] == picks[1]), "{picked:?}");

    let picked = counts(Balancer::IpHash, &[""; 20]).await;
    assert!(picked[""].iter().all(|pick| *pick == picked[""][0]));
}

#[tokio::test]
async fn the_least_busy_endpoint_is_picked() {
    let (release, held) = tokio::sync::watch::channel(false);
    let slow = Origin::scripted(move |mut connection| {
        let mut held = held.clone();
        async move {
            while connection.request().await.is_some() {
                held.wait_for(|released| *released).await.unwrap();
                connection.send(&crate::support::ok("slow")).await;
            }
        }
    })
    .await;
    let fast = Origin::fixed("fast").await;
    let yaml = to(&[slow.address, fast.address]);
    let proxy = TestProxy::start(&yaml).await;
    let edit = |config: &mut Config| Arc::make_mut(&mut config.pools[0]).balancer = Balancer::LeastConnections;
    proxy.serve_edited(&yaml, edit).await.unwrap();
    // Fill the slow one once.
    let mut stuck = Vec::new();
    while slow.connections() == 0 {
        let mut client = proxy.client().await;
        let connections = slow.connections();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        tokio::select! {
            response = client.response() => assert_eq!(response.text(), "fast"),
            () = crate::support::until("the slow endpoint", async || (slow.connections() > connections).then_some(())) => stuck.push(client),
        }
    }
    for _ in 0..20 {
        assert_eq!(proxy.get("/").await.text(), "fast");
    }
    release.send_replace(true);
    for mut client in stuck {
        assert_eq!(client.response().await.text(), "slow");
    }
}

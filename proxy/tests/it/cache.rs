//! The shared cache from outside: what is answered from the store, what never is, and what the origin gets to see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sealane_proxy::cache::Purge;
use tokio::sync::Semaphore;

use crate::support::{Client, Origin, OriginConnection, Response, Seen, TestProxy, patiently, to, until};

/// One route to `origin`, with a rule that says `rule` beside its path.
fn cached(origin: &Origin, rule: &str) -> String {
    let comma = if rule.is_empty() { "" } else { ", " };
    format!(
        "routes: [{{ id: r, to: 'http://{}' }}]\ncache: {{ rules: [{{ path_prefix: /{comma}{rule} }}] }}\n",
        origin.address
    )
}

fn answer(lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{lines}\r\n{body}", body.len()).into_bytes()
}

/// Numbers its answers, which carry these lines.
async fn counting(lines: &'static str) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |_| answer(lines, &format!("body {}", count.fetch_add(1, Ordering::Relaxed) + 1))).await
}

const FRESH: &str = "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n";
/// Fresh for a minute, which has passed.
const STALE: &str = "Cache-Control: max-age=60\r\nAge: 60\r\nETag: \"a\"\r\n";

async fn ask(proxy: &TestProxy, line: &str, lines: &str) -> Response {
    proxy.client().await.ask(format!("{line} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).await
}

async fn body(proxy: &TestProxy, path: &str, lines: &str) -> String {
    ask(proxy, &format!("GET {path}"), lines).await.text().to_owned()
}

/// An answer is stored when its last byte came, which a client may see first.
async fn until_stored(proxy: &TestProxy, entries: u64) {
    until("stored answers", async || (proxy.proxy.cache_stats().entries == entries).then_some(())).await;
}

#[tokio::test]
async fn a_fresh_answer_is_served_without_the_origin() {
    let origin = counting(FRESH).await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    let first = proxy.get("/a?q=1").await;
    assert_eq!((first.text(), first.header("cache-status")), ("body 1", Some("sealane; fwd=miss; stored")));
    until_stored(&proxy, 1).await;
    let second = proxy.get("/a?q=1").await;
    assert_eq!((second.text(), second.header("age"), second.header("x-cache")), ("body 1", Some("0"), Some("HIT")));
    assert!(second.header("cache-status").unwrap().starts_with("sealane; hit; ttl=3"));
    assert_eq!(second.header("date"), first.header("date"));
    let mut client = proxy.client().await;
    client.send("HEAD /a?q=1 HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let head = client.head_response().await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("6")));
    assert_eq!(client.get("/a?q=1").await.text(), "body 1", "the connection goes on");
    assert_eq!(proxy.get("/a?q=2").await.text(), "body 2");
    assert_eq!(origin.requests().len(), 2);
    proxy.until_metric("proxy_cache_requests_total{route=\"r\",result=\"hit\"}", 3.0).await;
    proxy.until_metric("proxy_cache_requests_total{route=\"r\",result=\"miss\"}", 2.0).await;
    assert_eq!(proxy.metric("proxy_cache_requests_total{route=\"r\",result=\"stale\"}"), Some(0.0));
    assert_eq!(proxy.metric("proxy_cache_entries"), Some(2.0));
}

#[tokio::test]
async fn an_endpoint_is_told_of_the_surrogate_and_may_speak_to_it() {
    let origin = counting("Cache-Control: no-store\r\nSurrogate-Control: max-age=60;sealane\r\n").await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    assert_eq!(body(&proxy, "/a", "").await, "body 1");
    until_stored(&proxy, 1).await;
    assert_eq!(body(&proxy, "/a", "").await, "body 1");
    assert_eq!(origin.requests()[0].header("surrogate-capability"), Some("sealane=\"Surrogate/1.0\""));
}

#[tokio::test]
async fn nothing_is_cached_without_a_rule_for_it() {
    let origin = counting(FRESH).await;
    let proxy = TestProxy::start(&format!(
        "routes: [{{ id: r, to: 'http://{}' }}]\ncache: [{{ path_prefix: /static/ }}]\n",
        origin.address
    ))
    .await;
    for expected in ["body 1", "body 2"] {
        let response = proxy.get("/other").await;
        assert_eq!((response.text(), response.header("cache-status")), (expected, None));
    }
    assert_eq!(proxy.get("/static/x").await.text(), "body 3");
    until_stored(&proxy, 1).await;
    assert_eq!(proxy.get("/static/x").await.text(), "body 3");
}

#[tokio::test]
async fn answers_for_one_user_are_never_shared() {
    for lines in ["Cache-Control: max-age=60, private\r\n", "Cache-Control: max-age=60\r\nSet-Cookie: sid=alice\r\n"] {
        let origin = counting(lines).await;
        let proxy = TestProxy::start(&cached(&origin, "ttl: 60s")).await;
        assert_eq!(body(&proxy, "/", "").await, "body 1");
        assert_eq!(body(&proxy, "/", "").await, "body 2", "{lines}");
    }
    let origin = counting("Cache-Control: max-age=60, public\r\n").await;
    let proxy = TestProxy::start(&cached(&origin, "ttl: 60s")).await;
    for (lines, expected) in [
        ("Cookie: sid=alice\r\n", "body 1"),
        ("", "body 2"),
        ("Cookie: sid=bob\r\n", "body 3"),
        ("Authorization: Bearer x\r\n", "body 4"),
        ("", "body 2"),
    ] {
        assert_eq!(body(&proxy, "/", lines).await, expected, "{lines}");
        until("it is stored", async || (!lines.is_empty() || proxy.proxy.cache_stats().entries == 1).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn auth_aware_rules_keep_users_apart() {
    let origin = counting("Cache-Control: private, max-age=60\r\nSet-Cookie: a=b\r\n").await;
    let proxy = TestProxy::start(&cached(&origin, "auth_aware: true")).await;
    let first = ask(&proxy, "GET /", "Authorization: alice\r\n").await;
    assert_eq!((first.text(), first.header("set-cookie")), ("body 1", Some("a=b")));
    until_stored(&proxy, 1).await;
    let again = ask(&proxy, "GET /", "Authorization: alice\r\n").await;
    assert_eq!((again.text(), again.header("set-cookie")), ("body 1", None));
    assert_eq!(body(&proxy, "/", "Authorization: bob\r\n").await, "body 2");
    assert_eq!(body(&proxy, "/", "Cookie: alice\r\n").await, "body 3");
    assert_eq!(body(&proxy, "/", "").await, "body 4");
    assert_eq!(body(&proxy, "/", "").await, "body 5", "private, and of nobody");
}

#[tokio::test]
async fn a_stale_answer_is_revalidated_and_updated() {
    let origin = Origin::start(|seen: &Seen| match seen.header("if-none-match") {
        Some("\"a\"") => {
            b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=3600\r\nX-New: yes\r\nETag: \"a\"\r\n\r\n".to_vec()
        }
        _ => answer(STALE, "content"),
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    assert_eq!(body(&proxy, "/", "").await, "content");
    until_stored(&proxy, 1).await;
    let validated = ask(&proxy, "GET /", "If-None-Match: \"other\"\r\nRange: bytes=0-2\r\n").await;
    assert_eq!((validated.status, validated.text(), validated.header("x-new")), (206, "con", Some("yes")));
    assert_eq!(validated.header("cache-status"), Some("sealane; fwd=stale; fwd-status=304"));
    let seen = origin.requests();
    assert_eq!((seen[1].header("if-none-match"), seen[1].header("range")), (Some("\"a\""), None));
    let hit = proxy.get("/").await;
    assert_eq!((hit.text(), hit.header("x-new"), hit.header("x-cache")), ("content", Some("yes"), Some("HIT")));
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn conditions_and_ranges_are_answered_from_the_store() {
    let origin = Origin::start(|_| answer(FRESH, "0123456789")).await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    proxy.get("/").await;
    until_stored(&proxy, 1).await;
    let mut client = proxy.client().await;
    let mut check = async |lines: &str, status: u16, text: &str, range: Option<&str>| {
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).await;
        let response = client.response().await;
        assert_eq!(
            (response.status, response.text(), response.header("content-range")),
            (status, text, range),
            "{lines}"
        );
        assert_eq!(response.header("etag"), Some("\"a\""));
    };
    check("If-None-Match: W/\"a\"\r\n", 304, "", None).await;
    check("If-None-Match: \"b\"\r\n", 200, "0123456789", None).await;
    check("Range: bytes=2-4\r\n", 206, "234", Some("bytes 2-4/10")).await;
    check("Range: bytes=-3\r\n", 206, "789", Some("bytes 7-9/10")).await;
    check("Range: bytes=20-\r\n", 416, "", Some("bytes */10")).await;
    check("Range: bytes=0-1,3-4\r\n", 200, "0123456789", None).await;
    check("Range: bytes=2-4\r\nIf-Range: \"a\"\r\n", 206, "234", Some("bytes 2-4/10")).await;
    check("Range: bytes=2-4\r\nIf-Range: \"b\"\r\n", 200, "0123456789", None).await;
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn what_a_cache_must_not_take_goes_by() {
    let origin = counting(FRESH).await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    assert_eq!(body(&proxy, "/", "").await, "body 1");
    until_stored(&proxy, 1).await;
    let fat = ask(&proxy, "GET /", "Content-Length: 3\r\n\r\nabc").await;
    assert_eq!((fat.text(), fat.header("cache-status")), ("body 2", Some("sealane; fwd=bypass")));
    assert_eq!(body(&proxy, "/", "Cache-Control: no-store\r\n").await, "body 3");
    assert_eq!(body(&proxy, "/", "If-Match: \"a\"\r\n").await, "body 4");
    assert_eq!(body(&proxy, "/", "").await, "body 1");
    assert_eq!(body(&proxy, "/", "X-Original-URL: /admin\r\n").await, "body 5");
    assert_eq!(body(&proxy, "/", "Cache-Control: only-if-cached\r\n").await, "body 1");
    let none = ask(&proxy, "GET /none", "Cache-Control: only-if-cached\r\n").await;
    assert_eq!((none.status, none.category()), (504, "not_cached".to_owned()));
    assert_eq!(origin.requests().len(), 5);
}

#[tokio::test]
async fn what_connection_names_takes_no_part_in_vary() {
    let origin = Origin::start(|seen: &Seen| {
        answer("Cache-Control: max-age=60\r\nVary: X-Lang\r\n", seen.header("x-lang").unwrap_or("none"))
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    assert_eq!(body(&proxy, "/", "X-Lang: de\r\nConnection: x-lang\r\n").await, "none");
    until_stored(&proxy, 1).await;
    assert_eq!(body(&proxy, "/", "X-Lang: de\r\n").await, "de");
    assert_eq!(body(&proxy, "/", "").await, "none");
}

#[tokio::test]
async fn unsafe_requests_invalidate_what_they_change() {
    let origin = Origin::start(|seen: &Seen| match seen.line().split(' ').next() {
        Some("GET") => answer(FRESH, seen.line()),
        _ if seen.line().contains("fail") => b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => answer("Location: /b\r\nContent-Location: http://elsewhere/c\r\n", ""),
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    for path in ["/a", "/b", "/c", "/fail"] {
        proxy.get(path).await;
    }
    until_stored(&proxy, 4).await;
    ask(&proxy, "POST /fail", "Content-Length: 0\r\n").await;
    assert_eq!(proxy.proxy.cache_stats().entries, 4);
    ask(&proxy, "PURGE /a", "").await;
    assert_eq!(proxy.proxy.cache_stats().entries, 2, "the target and its Location, but nothing of another origin");
    assert_eq!(proxy.get("/c").await.header("x-cache"), Some("HIT"));
    assert_eq!(proxy.get("/a").await.header("x-cache"), Some("MISS"));
}

#[tokio::test]
async fn errors_are_bridged_where_the_answer_allows_it() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let origin = Origin::start(move |seen: &Seen| {
        if is_down.load(Ordering::Relaxed) {
            return b"HTTP/1.1 503 Down\r\nContent-Length: 4\r\n\r\ndown".to_vec();
        }
        let more = if seen.line().contains("strict") { ", must-revalidate" } else { "" };
        answer(&format!("Cache-Control: max-age=60, stale-if-error=60{more}\r\nAge: 60\r\nETag: \"a\"\r\n"), "up")
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    proxy.get("/a").await;
    proxy.get("/strict").await;
    until_stored(&proxy, 2).await;
    down.store(true, Ordering::Relaxed);
    let bridged = proxy.get("/a").await;
    assert_eq!((bridged.status, bridged.text()), (200, "up"));
    assert!(bridged.header("cache-status").unwrap().contains("fwd-status=503"));
    assert_eq!(proxy.get("/strict").await.text(), "down");
    drop(origin);
    until("the origin is gone", async || (proxy.get("/strict").await.status == 502).then_some(())).await;
    assert_eq!(proxy.get("/a").await.text(), "up");
}

#[tokio::test]
async fn errors_are_bridged_where_the_config_allows_it_and_the_answer_does_not_forbid_it() {
    let origin = counting("Cache-Control: max-age=1\r\nAge: 1\r\nETag: \"a\"\r\n").await;
    let strict = counting("Cache-Control: max-age=1, must-revalidate\r\nAge: 1\r\nETag: \"a\"\r\n").await;
    let yaml = |origin: &Origin| {
        let rules =
            "cache: { store: { stale_if_error: 1h }, rules: [{ path_prefix: /, only_if_content_length: true }] }";
        format!("{}\n{rules}\n", to(&[origin.address]))
    };
    for (origin, status) in [(origin, 200), (strict, 502)] {
        let proxy = TestProxy::start(&yaml(&origin)).await;
        assert_eq!(proxy.get("/a").await.text(), "body 1");
        until_stored(&proxy, 1).await;
        drop(origin);
        let last = until("the origin is gone", async || {
            let response = proxy.get("/a").await;
            let gone =
                response.status == 502 || response.header("cache-status").is_some_and(|it| it.contains("detail"));
            gone.then_some(response)
        })
        .await;
        assert_eq!(last.status, status, "{last:?}");
    }
}

#[tokio::test]
async fn what_has_no_length_is_not_stored_where_the_rule_wants_one() {
    let origin = Origin::start(|seen: &Seen| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n";
        match seen.line().contains("chunked") {
            true => format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n").into_bytes(),
            false => format!("{head}Content-Length: 1\r\n\r\na").into_bytes(),
        }
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "only_if_content_length: true")).await;
    proxy.get("/length").await;
    until_stored(&proxy, 1).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/chunked").await.header("x-cache"), Some("MISS"));
    }
    assert_eq!(proxy.get("/length").await.header("x-cache"), Some("HIT"));
}

#[tokio::test]
async fn a_truncated_answer_is_never_stored() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        let Some(seen) = connection.request().await else { return };
        let head = if seen.line().contains("chunked") { "Transfer-Encoding: chunked" } else { "Content-Length: 100" };
        let body = if seen.line().contains("chunked") { "4\r\nhalf\r\n" } else { "half" };
        connection
            .send(format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{head}\r\n\r\n{body}").as_bytes())
            .await;
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    for path in ["/length", "/chunked"] {
        let before = origin.connections();
        for expected in 1..=2 {
            let mut client = proxy.client().await;
            client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
            client.read_until(if path == "/chunked" { b"half\r\n".as_slice() } else { b"half" }).await;
            assert!(client.is_closed().await, "the client can tell");
            assert_eq!(origin.connections(), before + expected, "asked again");
        }
    }
    assert_eq!(proxy.proxy.cache_stats().entries, 0);
}

#[tokio::test]
async fn what_is_too_large_passes_and_is_not_stored() {
    let large = "x".repeat(600 << 10);
    let body = large.clone();
    let origin = Origin::start(move |seen: &Seen| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n";
        if seen.line().contains("chunked") {
            let half = body.len() / 2;
            let (a, b) = body.split_at(half);
            return format!("{head}Transfer-Encoding: chunked\r\n\r\n{half:x}\r\n{a}\r\n{half:x}\r\n{b}\r\n0\r\n\r\n")
                .into_bytes();
        }
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "max_size: 100KB")).await;
    for path in ["/length", "/chunked"] {
        for _ in 0..2 {
            assert_eq!(proxy.get(path).await.text(), large);
        }
    }
    assert_eq!(origin.requests().len(), 4);
    assert_eq!(proxy.proxy.cache_stats().entries, 0);
    until("all is let go of", async || (proxy.proxy.cache_stats().resident_bytes == 0).then_some(())).await;
}

#[tokio::test]
async fn one_fetch_serves_all_who_wait() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&asked));
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let (gate, asked) = (Arc::clone(&opened), Arc::clone(&counted));
        async move {
            while let Some(seen) = connection.request().await {
                asked.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                let lines = if seen.line().contains("private") { "Cache-Control: private\r\n" } else { FRESH };
                connection.send(&answer(lines, "shared")).await;
            }
        }
    })
    .await;
    let proxy = Arc::new(TestProxy::start(&cached(&origin, "coalesce: true")).await);
    let start = |path: &'static str| {
        let proxy = Arc::clone(&proxy);
        (0..20).map(move |_| {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move { proxy.get(path).await })
        })
    };
    let shared: Vec<_> = start("/shared").collect();
    proxy.until_metric("proxy_cache_coalesce_waiters{route=\"r\"}", 19.0).await;
    gate.add_permits(1);
    for response in shared {
        assert_eq!(patiently("a shared answer", response).await.unwrap().text(), "shared");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let private: Vec<_> = start("/private").collect();
    proxy.until_metric("proxy_cache_coalesce_waiters{route=\"r\"}", 19.0).await;
    gate.add_permits(20);
    for response in private {
        assert_eq!(patiently("an answer of one's own", response).await.unwrap().text(), "shared");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 21, "each breaks away and asks for itself");
    proxy.until_metric("proxy_cache_coalesce_breakaway_total{route=\"r\"}", 19.0).await;
}

#[tokio::test]
async fn a_leader_that_goes_away_hands_over() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&asked));
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let (gate, asked) = (Arc::clone(&opened), Arc::clone(&counted));
        async move {
            while connection.request().await.is_some() {
                asked.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                connection.send(&answer(FRESH, "content")).await;
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "coalesce: true, coalesce_timeout: 15s")).await;
    let mut leader = proxy.client().await;
    leader.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the leader asks", async || (asked.load(Ordering::Relaxed) == 1).then_some(())).await;
    let mut follower = proxy.client().await;
    follower.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    proxy.until_metric("proxy_cache_coalesce_waiters{route=\"r\"}", 1.0).await;
    drop(leader);
    until("the follower leads", async || (asked.load(Ordering::Relaxed) == 2).then_some(())).await;
    gate.add_permits(2);
    assert_eq!(follower.response().await.text(), "content");
}

#[tokio::test]
async fn an_answer_is_taken_in_whole_though_its_client_went_away() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let gate = Arc::clone(&opened);
        async move {
            while connection.request().await.is_some() {
                connection
                    .send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n01234")
                    .await;
                gate.acquire().await.unwrap().forget();
                connection.send(b"56789").await;
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    client.read_until(b"01234").await;
    drop(client);
    gate.add_permits(1);
    until_stored(&proxy, 1).await;
    let hit = proxy.get("/").await;
    assert_eq!((hit.text(), hit.header("x-cache")), ("0123456789", Some("HIT")));
}

#[tokio::test]
async fn the_store_keeps_its_bounds_under_a_flood_of_keys() {
    let origin = Origin::start(|_| answer(FRESH, &"x".repeat(10_000))).await;
    let yaml = format!(
        "routes: [{{ id: r, to: 'http://{}' }}]\n\
         cache: {{ store: {{ max_total: 300KB, max_entries: 1000, max_entry: 100KB }}, rules: [{{ path_prefix: / }}] }}\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    client.get("/hot").await;
    for number in 0..200 {
        client.get(&format!("/?{number}")).await;
        assert_eq!(client.get("/hot").await.header("x-cache"), Some("HIT"), "after {number}");
        let stats = proxy.proxy.cache_stats();
        assert!(stats.bytes <= stats.bytes_max && stats.resident_bytes <= stats.bytes_max * 3 / 2, "{stats:?}");
    }
    let stats = proxy.proxy.cache_stats();
    assert!(stats.evictions > 150 && stats.entries > 10, "{stats:?}");
    proxy.serve(&yaml.replace("max_entries: 1000", "max_entries: 5")).await;
    assert!(proxy.proxy.cache_stats().entries <= 5);
}

#[tokio::test]
async fn purges_take_out_what_they_name_and_nothing_else() {
    let origin = counting(FRESH).await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    let mut client = proxy.client().await;
    for (host, path) in
        [("a.test", "/x"), ("a.test", "/x?q=1"), ("a.test", "/xy"), ("b.test:81", "/x"), ("b.test", "/x")]
    {
        client.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    }
    until_stored(&proxy, 5).await;
    let purge = |purge: Purge| proxy.proxy.purge_cache(&purge).unwrap();
    assert_eq!(purge(Purge::Url("https://a.test/x".to_owned())), 0);
    assert_eq!(purge(Purge::Url("http://A.test:80/x?q=1".to_owned())), 1);
    assert_eq!(purge(Purge::Host("b.test:81".to_owned())), 1);
    assert_eq!(purge(Purge::Host("B.TEST".to_owned())), 1);
    assert_eq!(purge(Purge::Prefix("a.test/x".to_owned())), 2);
    assert_eq!(proxy.proxy.cache_stats().entries, 0);
    client.get("/").await;
    until_stored(&proxy, 1).await;
    assert_eq!(purge(Purge::All), 1);
    for bad in ["ftp://a/x", "", "a b", "http:///x"] {
        assert!(proxy.proxy.purge_cache(&Purge::Url(bad.to_owned())).is_err(), "{bad}");
    }
    assert_eq!(proxy.metric("proxy_cache_purged_total"), Some(6.0));
}

#[tokio::test]
async fn what_is_stored_survives_a_swap_unless_its_rule_changed() {
    let origin = counting(FRESH).await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    proxy.get("/").await;
    until_stored(&proxy, 1).await;
    proxy.serve(&format!("{}limits: {{ max_headers: 77 }}\n", cached(&origin, ""))).await;
    assert_eq!(proxy.get("/").await.text(), "body 1");
    proxy.serve(&cached(&origin, "vary_headers: [Accept]")).await;
    assert_eq!(proxy.proxy.cache_stats().entries, 0);
    assert_eq!(proxy.get("/").await.text(), "body 2");
    until_stored(&proxy, 1).await;
    proxy.serve(&format!("routes: [{{ id: r, to: 'http://{}' }}]\n", origin.address)).await;
    assert_eq!(proxy.proxy.cache_stats().entries, 0);
}

#[tokio::test]
async fn compressed_variants_are_made_and_served() {
    let text = "compress me ".repeat(500);
    let body = text.clone();
    let origin = Origin::start(move |_| answer(&format!("{FRESH}Content-Type: text/plain\r\n"), &body)).await;
    let yaml = format!(
        "routes: [{{ id: r, to: 'http://{}' }}]\n\
         cache: {{ store: {{ pre_compress: {{ level: 6, min_length: 256 }} }}, rules: [{{ path_prefix: / }}] }}\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let plain = proxy.get("/").await;
    assert_eq!((plain.text(), plain.header("vary")), (text.as_str(), Some("Accept-Encoding")));
    let gzipped = until("a compressed variant", async || {
        let response = ask(&proxy, "GET /", "Accept-Encoding: gzip\r\n").await;
        response.header("content-encoding").is_some().then_some(response)
    })
    .await;
    assert_eq!(gzipped.header("content-encoding"), Some("gzip"));
    assert_eq!((gzipped.header("etag"), gzipped.header("vary")), (Some("W/\"a\""), Some("Accept-Encoding")));
    assert!(gzipped.body.len() < text.len() / 5);
    assert_eq!(proxy.get("/").await.text(), text);
    let revalidated = ask(&proxy, "GET /", "Accept-Encoding: gzip\r\nIf-None-Match: W/\"a\"\r\n").await;
    assert_eq!(revalidated.status, 304);
}

#[tokio::test]
async fn a_head_answer_updates_what_is_stored_for_get() {
    let origin = Origin::start(|seen: &Seen| {
        let lines = if seen.line().starts_with("HEAD") {
            "Cache-Control: max-age=3600\r\nETag: \"a\"\r\nX-New: 1\r\n"
        } else {
            STALE
        };
        let mut whole = answer(lines, "0123");
        if seen.line().starts_with("HEAD") {
            whole.truncate(whole.len() - 4);
        }
        whole
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    proxy.get("/").await;
    until_stored(&proxy, 1).await;
    let mut client: Client<_> = proxy.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head_response().await.status, 200);
    let hit = client.get("/").await;
    assert_eq!((hit.text(), hit.header("x-cache"), hit.header("x-new")), ("0123", Some("HIT"), Some("1")));
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn a_stale_answer_is_served_while_it_is_fetched_anew() {
    let gate = Arc::new(Semaphore::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&asked));
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let (gate, asked) = (Arc::clone(&opened), Arc::clone(&counted));
        async move {
            while let Some(seen) = connection.request().await {
                assert!(seen.line().starts_with("GET"));
                let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
                if number == 1 {
                    let lines = "Cache-Control: max-age=60, stale-while-revalidate=60\r\nAge: 61\r\nETag: \"1\"\r\n";
                    connection.send(&answer(lines, "old")).await;
                    continue;
                }
                assert_eq!((seen.header("if-none-match"), seen.header("range")), (Some("\"1\""), None));
                gate.acquire().await.unwrap().forget();
                connection.send(&answer("Cache-Control: max-age=60\r\nETag: \"2\"\r\n", "new")).await;
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    proxy.get("/").await;
    until_stored(&proxy, 1).await;
    for number in 0..10 {
        let line = if number == 0 { "HEAD" } else { "GET" };
        let mut client = proxy.client().await;
        client.send(format!("{line} / HTTP/1.1\r\nHost: test\r\nRange: bytes=0-1\r\n\r\n")).await;
        let stale = if number == 0 { client.head_response().await } else { client.response().await };
        assert!(stale.header("cache-status").unwrap().starts_with("sealane; hit; ttl=-"), "nobody waits");
    }
    until("one refresh", async || (asked.load(Ordering::Relaxed) == 2).then_some(())).await;
    gate.add_permits(1);
    until("the new answer", async || (proxy.get("/").await.text() == "new").then_some(())).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2, "one refresh for all");
    assert_eq!(proxy.metric("proxy_cache_refreshes_total"), Some(1.0));
    drop(origin);
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_the_stale_answer() {
    let origin =
        Origin::start(|_| answer("Cache-Control: max-age=60, stale-while-revalidate=600\r\nAge: 60\r\n", "old")).await;
    let proxy = TestProxy::start(&cached(&origin, "")).await;
    proxy.get("/").await;
    until_stored(&proxy, 1).await;
    drop(origin);
    until("refreshes that fail", async || {
        assert_eq!(proxy.get("/").await.text(), "old");
        proxy.metric("proxy_cache_refreshes_total").filter(|&refreshes| refreshes >= 3.0)
    })
    .await;
}

#[tokio::test]
async fn an_open_breaker_does_not_keep_what_is_stored_from_being_served() {
    let origin = Origin::start(|seen| match seen.line() {
        "GET /kept HTTP/1.1" => answer(FRESH, "kept"),
        _ => b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let yaml = format!(
        "pools: {{ p: {{ endpoints: ['{}'], circuit_breaker: {{ min_requests: 5, open_duration: 10m }} }} }}\n\
         routes: [{{ id: r, pool: p }}]\ncache: {{ rules: [{{ path_prefix: / }}] }}\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    assert_eq!(body(&proxy, "/kept", "").await, "kept");
    until("an open breaker", async || {
        let response = ask(&proxy, "GET /bad", "").await;
        (response.status == 503 && response.category() == "circuit_open").then_some(())
    })
    .await;
    assert_eq!(body(&proxy, "/kept", "").await, "kept");
}

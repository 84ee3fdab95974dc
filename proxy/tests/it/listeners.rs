//! Addresses: taken ones, several ones, changed ones; PROXY headers; redirects.

use sealane_model::config::{CidrBlock, ListenAddress};
use sealane_proxy::settings::{ListenFlag, Settings};

use crate::support::{Client, Origin, TestProxy, apart, settings, to};

#[tokio::test]
async fn a_taken_address_is_a_problem_that_names_it_and_nothing_changes() {
    let origin = Origin::fixed("fine").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let other = TestProxy::start(&to(&[origin.address])).await;
    let taken = other.address();
    let yaml = format!("listeners: [{{ name: data, address: '{taken}' }}]\n{}", to(&[origin.address]));
    let problems = proxy.try_serve(&yaml).await.unwrap_err();
    assert_eq!((problems.len(), problems[0].code.as_str(), problems[0].line), (1, "cannot_listen", 1));
    assert!(problems[0].message.contains(&taken.to_string()) && problems[0].message.contains("data"));
    assert_eq!(proxy.get("/").await.text(), "fine");
    let settings = Settings {
        http_listen: Some(ListenFlag {
            address: ListenAddress { ip: Some(taken.ip()), port: taken.port() },
            flag: "--http-addr",
        }),
        ..settings()
    };
    let third = sealane_proxy::proxy::Proxy::start(settings).await.unwrap();
    let config = crate::support::config(&crate::support::complete(&to(&[origin.address])));
    let problems = third.prepare(crate::support::tag(1), config).await.unwrap_err();
    assert!(problems[0].message.contains("`--http-addr`"), "{problems:?}");
}

#[tokio::test]
async fn listeners_come_and_go_and_the_others_stay() {
    let origin = Origin::fixed("fine").await;
    let yaml = |names: &[&str]| {
        let listeners: Vec<_> =
            names.iter().map(|name| format!("{{ name: {name}, address: '127.0.0.1:0' }}")).collect();
        format!("listeners: [{}]\n{}", listeners.join(", "), to(&[origin.address]))
    };
    let proxy = TestProxy::start(&yaml(&["a"])).await;
    let bound =
        |name: &str| proxy.proxy.bound().into_iter().find(|(other, _)| other == name).map(|(_, address)| address);
    let a = bound("a").unwrap();
    let mut kept = Client::connect(a).await;
    assert_eq!(kept.get("/").await.status, 200);
    // Both bind port 0; an address may be there only once.
    let edit = |config: &mut sealane_model::config::Config| {
        let mut b = config.listeners[0].clone();
        b.name = "b".to_owned();
        config.listeners.push(b);
    };
    proxy.serve_edited(&yaml(&["a"]), edit).await.unwrap();
    assert_eq!(bound("a"), Some(a));
    let b = bound("b").unwrap();
    assert_eq!(kept.get("/").await.status, 200, "a's connections live on");
    let mut second = Client::connect(b).await;
    assert_eq!(second.get("/").await.status, 200);
    assert!(proxy.proxy.observe().listeners_ok);

    proxy.serve(&yaml(&["a"])).await;
    assert_eq!(bound("b"), None);
    assert!(tokio::net::TcpStream::connect(b).await.is_err(), "b is closed");
    assert_eq!(second.get("/").await.status, 421, "its connections are told to go");
    assert!(second.is_closed().await);
    assert_eq!(kept.get("/").await.status, 200);
}

#[tokio::test]
async fn a_plain_listener_may_redirect_to_https() {
    let origin = Origin::fixed("fine").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let edit = |config: &mut sealane_model::config::Config| config.listeners[0].redirect_to_https = true;
    proxy.serve_edited(&to(&[origin.address]), edit).await.unwrap();
    let mut client = proxy.client().await;
    let response = client.ask("GET /a?b=c HTTP/1.1\r\nHost: test:8080\r\n\r\n").await;
    assert_eq!((response.status, response.header("location")), (308, Some("https://test/a?b=c")));
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 308, "the connection goes on");
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let origin = Origin::fixed("fine").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let edit = |trusted: &'static str| {
        move |config: &mut sealane_model::config::Config| {
            config.listeners[0].proxy_protocol = true;
            config.trusted_proxies = vec![CidrBlock { address: trusted.parse().unwrap(), prefix_bits: 8 }];
        }
    };
    proxy.serve_edited(&to(&[origin.address]), edit("127.0.0.0")).await.unwrap();
    let get = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let mut client = proxy.client().await;
    client.send("PROXY TCP4 192.0.2.9 192.0").await;
    client.send(format!(".2.1 1234 80\r\n{get}")).await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(origin.requests()[0].header("x-forwarded-for"), Some("192.0.2.9"));
    // Version 2, with as many extensions as it may have.
    let mut long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    long.extend([192, 0, 2, 10, 192, 0, 2, 1, 4, 210, 0, 80]);
    long.resize(16 + usize::from(u16::MAX), 0);
    let mut client = proxy.client().await;
    for piece in [&long[..20], &long[20..], get.as_bytes()] {
        client.send(piece).await;
        apart().await;
    }
    assert_eq!(client.response().await.status, 200);
    assert_eq!(origin.requests()[1].header("x-forwarded-for"), Some("192.0.2.10"));
    let mut client = proxy.client().await;
    client.send(get).await;
    assert!(client.is_closed().await, "without the header");
    proxy.serve_edited(&to(&[origin.address]), edit("10.0.0.0")).await.unwrap();
    let mut client = proxy.client().await;
    assert_eq!(client.ask(format!("PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\n{get}")).await.status, 400, "untrusted");
}

#[tokio::test]
async fn clients_that_a_proxy_names_have_a_bound_of_their_own() {
    let origin = Origin::fixed("fine").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let edit = |config: &mut sealane_model::config::Config| {
        config.listeners[0].proxy_protocol = true;
        config.trusted_proxies = vec![CidrBlock { address: "127.0.0.0".parse().unwrap(), prefix_bits: 8 }];
        config.limits.connections_per_client_max = 1;
    };
    proxy.serve_edited(&to(&[origin.address]), edit).await.unwrap();
    let request =
        |client: &str| format!("PROXY TCP4 {client} 192.0.2.1 1234 80\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut first = proxy.client().await;
    assert_eq!(first.ask(request("192.0.2.9")).await.status, 200);
    let mut other = proxy.client().await;
    assert_eq!(other.ask(request("192.0.2.10")).await.status, 200, "another client");
    let mut second = proxy.client().await;
    second.send(request("192.0.2.9")).await;
    assert_eq!(second.response().await.status, 503);
    drop(first);
    crate::support::until("its place", async || {
        let mut again = proxy.client().await;
        again.send(request("192.0.2.9")).await;
        (again.response().await.status == 200).then_some(())
    })
    .await;
}

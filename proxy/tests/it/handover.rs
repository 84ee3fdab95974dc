//! Listening sockets that another process opened, and the hand-over between two processes.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use sealane_proxy::handover::{self, HandoverError, Offer};
use sealane_proxy::proxy::Notice;
use sealane_proxy::settings::{AdminSettings, Inherited, Settings};

use crate::support::{Client, Origin, TestProxy, patiently, settings};

/// A config that listens on a free port of its own.
fn on_a_port(origin: SocketAddr) -> (String, TcpListener) {
    let reserved = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = reserved.local_addr().unwrap();
    (format!("listen: {address}\nroutes:\n  - to: http://{origin}\n"), reserved)
}

fn path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handover.sock");
    (directory, path)
}

#[tokio::test]
async fn a_listener_takes_the_socket_that_was_passed_and_all_threads_share_it() {
    let origin = Origin::fixed("hello").await;
    let (yaml, passed) = on_a_port(origin.address);
    let inherited = Inherited::new(vec![passed.try_clone().unwrap()]);
    // Somebody listens there: binding would fail.
    let proxy = TestProxy::with(Settings { threads: 3, inherited: inherited.clone(), ..settings() }, &yaml).await;
    assert_eq!(proxy.address(), passed.local_addr().unwrap());
    assert!(inherited.left().is_empty());
    for _ in 0..20 {
        assert_eq!(proxy.get("/").await.text(), "hello");
    }
    proxy.proxy.drain(Notice::Nobody).await;
    // The socket is still there, as a service manager keeps it: a connection waits instead of being refused.
    tokio::net::TcpStream::connect(passed.local_addr().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_new_process_takes_over_and_no_connection_is_refused_at_any_moment() {
    let origin = Origin::fixed("hello").await;
    let (yaml, reserved) = on_a_port(origin.address);
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let admin = || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        AdminSettings {
            address,
            flag: "--admin",
            token: None,
            tls: None,
            rate_per_second: sealane_proxy::settings::ADMIN_RATE,
            insecure: false,
            extra: None,
        }
    };
    let old = TestProxy::with(Settings { admin: Some(admin()), ..settings() }, &yaml).await;
    let admin_address = old.proxy.admin().unwrap();
    let (_directory, path) = path();
    let offer = Offer::listen(&path).unwrap();
    assert!(matches!(Offer::listen(&path), Err(HandoverError::Offer { .. })), "one process offers at a path");

    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let traffic = tokio::spawn(async move {
        let mut requests = 0;
        while !*stopped.borrow_and_update() {
            // Panics when the connection is refused.
            assert_eq!(Client::connect(address).await.get("/").await.text(), "hello");
            requests += 1;
        }
        requests
    });
    let taking = path.clone();
    let new = async {
        let taken = tokio::task::spawn_blocking(move || handover::take(&taking).unwrap().unwrap()).await.unwrap();
        // More threads than sockets, and the admin address of the old one.
        let admin = AdminSettings { address: admin_address, ..admin() };
        let inherited = taken.sockets.clone();
        let new = TestProxy::with(Settings { threads: 3, admin: Some(admin), inherited, ..settings() }, &yaml).await;
        tokio::task::spawn_blocking(move || taken.ready().unwrap()).await.unwrap();
        new
    };
    let handed_over = async { offer.asked().await.give(&old.proxy).await.unwrap() };
    let (new, ()) = patiently("the hand-over", async { tokio::join!(new, handed_over) }).await;
    assert_eq!((new.address(), new.proxy.admin().unwrap()), (address, admin_address));
    assert!(!path.exists(), "the new process can offer at the same path");
    patiently("the drain", old.proxy.drain(Notice::Nobody)).await;
    let ask = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let health = Client::connect(admin_address).await.ask(ask).await;
    assert_eq!(health.status, 200, "only the new process answers for admin");
    assert_eq!(new.get("/").await.text(), "hello");
    stop.send_replace(true);
    assert!(patiently("the traffic", traffic).await.unwrap() > 0);
}

#[tokio::test]
async fn a_new_process_that_dies_before_it_serves_leaves_everything_as_it_was() {
    let origin = Origin::fixed("hello").await;
    let (yaml, reserved) = on_a_port(origin.address);
    drop(reserved);
    let old = TestProxy::start(&yaml).await;
    let (_directory, path) = path();
    let offer = Offer::listen(&path).unwrap();
    let dying = path.clone();
    let died = tokio::task::spawn_blocking(move || {
        // One that only looks, and one that asks and dies.
        drop(UnixStream::connect(&dying).unwrap());
        UnixStream::connect(&dying).unwrap().write_all(b"t").unwrap();
    });
    let given = patiently("the attempt", async { offer.asked().await.give(&old.proxy).await }).await;
    assert!(matches!(given, Err(HandoverError::Abandoned(_))), "{given:?}");
    died.await.unwrap();
    for _ in 0..10 {
        assert_eq!(old.get("/").await.text(), "hello");
    }
    assert!(old.proxy.observe().ready);
}

#[test]
fn without_a_process_before_there_is_nothing_to_take() {
    let (_directory, path) = path();
    assert!(handover::take(&path).unwrap().is_none());
    // A socket that a process left behind when it was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(handover::take(&path).unwrap().is_none());
}

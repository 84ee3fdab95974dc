//! What can be seen over HTTP.

use sealane_agent::start;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{Authority, Fleet, settings};

pub(crate) async fn get(address: std::net::SocketAddr, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics_are_there_for_this_machine_only() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(7, "{}", |_| {});
    authority.hold(&first);
    authority.offer(fleet.desired(Some(&first), None));
    authority.report("r7", |report| report.state_version == 7).await;
    let address = agent.http_addr();
    assert!(get(address, "/healthz", "localhost").await.starts_with("HTTP/1.1 200"));
    let ready = get(address, "/readyz", "localhost").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"stable_revision\":7"), "{ready}");
    let metrics = get(address, "/metrics", "127.0.0.1:1").await;
    assert!(metrics.contains("sealane_agent_revision_floor 7"), "{metrics}");
    assert!(get(address, "/", "localhost").await.contains("/metrics"));
    assert!(get(address, "/metrics", "evil.example").await.starts_with("HTTP/1.1 403"));
    agent.stop().await;
}

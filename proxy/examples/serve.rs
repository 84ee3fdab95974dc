//! The proxy as a library: serves a config file until it is interrupted.
//!
//! `cargo run --release -p sealane-proxy --example serve -- FILE [THREADS]`

use std::sync::Arc;

use sealane_model::parse::{Reader, parse};
use sealane_proxy::proxy::{Notice, Proxy, RevisionTag};
use sealane_proxy::settings::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: serve FILE [THREADS]")?;
    let threads = arguments.next().map_or(Ok(0), |threads| threads.parse())?;
    let (config, _) =
        parse(&file, &std::fs::read_to_string(&file)?, Reader::Local).map_err(|problems| format!("{problems:#?}"))?;

    let proxy = Proxy::start(Settings { threads, ..Settings::default() }).await?;
    let tag = RevisionTag { number: 0, digest: [0; 32], label: Arc::from("example") };
    let prepared = proxy.prepare(tag, Arc::new(config)).await.map_err(|problems| format!("{problems:#?}"))?;
    proxy.activate(prepared).await?;

    tokio::signal::ctrl_c().await?;
    proxy.drain(Notice::Nobody).await;
    Ok(())
}

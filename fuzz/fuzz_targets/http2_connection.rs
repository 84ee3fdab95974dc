#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use sealane_model::parse::{Reader, parse};
use sealane_proxy::proxy::{Proxy, RevisionTag};
use sealane_proxy::settings::Settings;
use tokio::runtime::Runtime;

#[allow(dead_code, reason = "each wrapper uses one function")]
#[path = "../../proxy/tests/it/fuzz/targets.rs"]
mod targets;

/// A proxy whose one endpoint is not there.
static PROXY: LazyLock<(Runtime, Proxy, SocketAddr)> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let (proxy, address) = runtime.block_on(async {
        let text = "listen: 127.0.0.1:0\nroutes: [{ to: 'http://127.0.0.1:9' }]\nlogging: { access: off }\n";
        let (config, _) = parse("fuzz.yaml", text, Reader::Local).expect("the config is right");
        let proxy = Proxy::start(Settings { threads: 1, ..Settings::default() }).await.expect("a proxy");
        let tag = RevisionTag { number: 1, digest: [1; 32], label: Arc::from("r1") };
        let prepared = proxy.prepare(tag, Arc::new(config)).await.expect("it compiles");
        proxy.activate(prepared).await.expect("it serves");
        let address = proxy.bound()[0].1;
        (proxy, address)
    });
    (runtime, proxy, address)
});

libfuzzer_sys::fuzz_target!(|frames: &[u8]| targets::http2_connection(PROXY.2, frames));

//! Hooks in a Rust program: requests are edited or rejected, answers edited and cached, failures logged.
//!
//! `cargo run -p sealane-proxy --example hooks -- http://localhost:3000`, then `curl http://localhost:8080/`

#![expect(clippy::print_stderr, reason = "a program says what it does")]

use std::time::Duration;

use sealane_proxy::builder::Builder;
use sealane_proxy::hooks::{Answer, Keep, ProxiedRequest, ProxiedResponse, Verdict};
use sealane_proxy::proxy::{Notice, Proxy};

/// Every request goes on with a field that only we know.
pub(crate) fn authenticate(request: &mut ProxiedRequest<'_>) -> bool {
    // A request that cannot be edited is not let through: the client gets 502.
    request.set_header("X-Internal-Auth", "secret").is_ok()
}

/// Some are answered here, and some go elsewhere than the client said.
pub(crate) fn guard(request: &mut ProxiedRequest<'_>) -> Verdict {
    if request.path().starts_with("/internal/") {
        return match Answer::new(403, "text/plain", "not from outside\n") {
            Ok(answer) => Verdict::Answer(answer),
            Err(_) => Verdict::Reject,
        };
    }
    if request.path() == "/old" {
        let moved = request.set_path("/new").and_then(|()| request.set_host("new.internal"));
        return Verdict::from(moved.is_ok());
    }
    Verdict::Forward
}

/// Answers say who served them; all but personal ones are kept for five minutes or a thousand clients, compressed.
pub(crate) fn keep(response: &mut ProxiedResponse<'_>) {
    if let Err(error) = response.add_header("X-Proxy", "Sealane") {
        eprintln!("proxy: {error}");
    }
    if response.path() == "/api/user/me" {
        response.do_not_cache();
        return;
    }
    if response.status() == 200 {
        response.cache_this(
            Keep::for_time(Duration::from_secs(300)).hits_max(1000).pre_compress(true).compress_min_length(1024),
        );
    }
}

/// All of them.
pub(crate) fn proxy() -> Builder {
    Proxy::builder().on_request(authenticate).on_request(guard).on_response(keep).on_error(|error| {
        eprintln!("proxy: {} → {} attempt {}: {}", error.host(), error.backend(), error.attempt(), error.detail())
    })
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = std::env::args().nth(1).ok_or("usage: hooks URL")?;
    let proxy = proxy().serve("hooks", &format!("{{ listen: ':8080', routes: [{{ to: '{backend}' }}] }}")).await?;
    tokio::signal::ctrl_c().await?;
    proxy.drain(Notice::Nobody).await;
    Ok(())
}

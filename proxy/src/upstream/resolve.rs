//! Names of endpoints, resolved again and again in the background. A worker only reads the latest answer.
//!
//! A name that does not resolve is a state, not an error: the last good answer stays, and without one connecting fails.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use tokio::net::lookup_host;
use tokio::time;
use tracing::{info, warn};

use crate::live::Shelf;

/// Between two looks at a name.
const INTERVAL: Duration = Duration::from_secs(5);
/// Of one look.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Looks at the same time.
const CONCURRENT_MAX: usize = 32;
/// Addresses that are kept of a name.
const ADDRESSES_MAX: usize = 16;

/// A name and its latest addresses.
#[derive(Debug)]
pub(crate) struct Name {
    host: String,
    addresses: ArcSwap<Vec<IpAddr>>,
    /// A look at it has begun.
    asked: AtomicBool,
}

impl Name {
    /// The latest addresses, in the resolver's order; empty until the name has resolved.
    pub(crate) fn addresses(&self) -> Arc<Vec<IpAddr>> {
        self.addresses.load_full()
    }

    async fn resolve(&self) {
        self.asked.store(true, Ordering::Relaxed);
        let addresses = match time::timeout(TIMEOUT, lookup_host((self.host.as_str(), 0))).await {
            Ok(Ok(addresses)) => distinct(addresses),
            Ok(Err(error)) => return self.unresolved(&error),
            Err(_) => return self.unresolved(&io::ErrorKind::TimedOut.into()),
        };
        if **self.addresses.load() != addresses {
            info!(name = self.host, ?addresses, "name resolved");
            self.addresses.store(Arc::new(addresses));
        }
    }

    fn unresolved(&self, error: &io::Error) {
        if self.addresses.load().is_empty() {
            warn!(name = self.host, %error, "name does not resolve");
        }
    }
}

fn distinct(addresses: impl Iterator<Item = SocketAddr>) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for address in addresses {
        if kept.len() < ADDRESSES_MAX && !kept.contains(&address.ip()) {
            kept.push(address.ip());
        }
    }
    kept
}

/// All names of a process.
#[derive(Debug, Default)]
pub(crate) struct Names(Shelf<String, Name>);

impl Names {
    /// The name `host`, unresolved if it is new.
    pub(crate) fn name(&self, host: &str) -> Arc<Name> {
        self.0.take(host, host.to_owned(), || Name {
            host: host.to_owned(),
            addresses: ArcSwap::default(),
            asked: AtomicBool::new(false),
        })
    }

    /// Resolves the names that were never looked at. One that does not resolve is looked at again in the background, so that
    /// it does not hold up every later change of the config.
    pub(crate) async fn resolve_new(&self) {
        resolve(self.unasked().into_iter()).await;
    }

    fn unasked(&self) -> Vec<Arc<Name>> {
        self.0.held().into_iter().filter(|name| !name.asked.load(Ordering::Relaxed)).collect()
    }

    /// One round for all names, after a pause.
    pub(crate) async fn resolve_all(&self) {
        time::sleep(INTERVAL).await;
        resolve(self.0.held().into_iter()).await;
    }

    pub(crate) fn tidy(&self) {
        self.0.tidy();
    }
}

async fn resolve(names: impl Iterator<Item = Arc<Name>>) {
    futures_util::stream::iter(names)
        .for_each_concurrent(CONCURRENT_MAX, |name| async move { name.resolve().await })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_does_not_resolve_holds_up_one_change_and_no_later_one() {
        let names = Names::default();
        let (dead, here) = (names.name("no-such-host.invalid"), names.name("localhost"));
        assert_eq!(names.unasked().len(), 2);
        names.resolve_new().await;
        assert!(dead.addresses().is_empty() && !here.addresses().is_empty());
        assert!(names.unasked().is_empty(), "both were looked at");
        let later = names.name("later.invalid");
        assert!(names.unasked().iter().all(|name| Arc::ptr_eq(name, &later)));
    }
}

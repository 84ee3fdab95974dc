//! The upstream side: names, connections and who keeps them.

pub(crate) mod dial;
pub(crate) mod pool;
pub(crate) mod resolve;
pub(crate) mod tls;

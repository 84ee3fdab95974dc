//! What can go wrong with a request: whose fault it is, what the client is told, and what an attempt's failure allows.
//!
//! [`Category`] is the one table of categories and statuses; `docs/FAILURES.md` says the same in prose.

use std::fmt;

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's.
    Downstream,
    /// An endpoint's, or that of all of a pool.
    Upstream,
    /// Ours, or our limits'.
    Internal,
}

macro_rules! categories {
    ($($name:ident, $status:literal, $fault:ident, $text:literal, $error:literal;)*) => {
        /// Why the proxy answered a request itself, or gave it up. The names are an interface.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Category {
            $(#[doc = concat!("`", $text, "`, ", $status)] $name,)*
        }

        impl Category {
            /// Every category, in the order of their discriminants.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The status that the client sees. 499 is for the log only.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            /// Whose fault it is.
            #[must_use]
            pub const fn fault(self) -> Fault {
                match self { $(Self::$name => Fault::$fault),* }
            }

            /// The status that a gRPC client sees, by gRPC's mapping of HTTP statuses, but for what that would hide.
            #[must_use]
            pub const fn grpc_status(self) -> u8 {
                match self.status() {
                    400 => 13,
                    401 => 16,
                    403 => 7,
                    404 => 12,
                    408 | 504 => 4,
                    413 | 414 | 431 => 8,
                    499 => 1,
                    421 | 429 | 502 | 503 => 14,
                    500 => 13,
                    _ => 2,
                }
            }

            /// The name in error bodies, logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The `error` of the body.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self { $(Self::$name => $error),* }
            }
        }
    };
}

categories! {
    BadRequest, 400, Downstream, "bad_request", "bad request";
    Unauthorized, 401, Downstream, "unauthorized", "unauthorized";
    MtlsRequired, 403, Downstream, "mtls_required", "a client certificate is required";
    TlsRequired, 403, Downstream, "tls_required", "https is required";
    NoRoute, 404, Downstream, "no_route", "no route matched";
    ClientTimeout, 408, Downstream, "client_timeout", "the request took too long to arrive";
    RequestTooLarge, 413, Downstream, "request_too_large", "request body too large";
    UriTooLong, 414, Downstream, "uri_too_long", "request target too long";
    Misdirected, 421, Downstream, "misdirected", "this connection was opened for another host";
    RateLimited, 429, Downstream, "rate_limited", "too many requests";
    HeadersTooLarge, 431, Downstream, "headers_too_large", "request headers too large";
    ClientClosed, 499, Downstream, "client_closed", "the client went away";
    Internal, 500, Internal, "internal", "internal error";
    RequestRejected, 502, Upstream, "request_rejected", "the request was rejected";
    UpstreamConnectFailed, 502, Upstream, "upstream_connect_failed", "bad gateway";
    UpstreamReset, 502, Upstream, "upstream_reset", "bad gateway";
    Overloaded, 503, Internal, "overloaded", "overloaded";
    CircuitOpen, 503, Upstream, "circuit_open", "circuit open";
    NoHealthyUpstream, 503, Upstream, "no_healthy_upstream", "no healthy upstream";
    PluginTimeout, 503, Upstream, "plugin_timeout", "a plugin did not answer in time";
    PluginUnavailable, 503, Upstream, "plugin_unavailable", "a plugin is unavailable";
    NotCached, 504, Downstream, "not_cached", "only a stored answer was asked for, and there is none";
    UpstreamTimeout, 504, Upstream, "upstream_timeout", "the upstream did not answer in time";
    RequestTimeout, 504, Upstream, "request_timeout", "the request took too long";
}

/// Why an attempt on an endpoint, or the whole exchange, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// For the log, and for the client where the pool exposes upstream errors.
    pub(crate) detail: Detail,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No connection could be made; the endpoint saw nothing.
    Connect,
    /// The endpoint has as many connections as it may; it saw nothing.
    Exhausted,
    /// The connection ended before a response head.
    Reset,
    /// The endpoint says that it did not look at the request.
    Unprocessed,
    /// What came is no unambiguous response.
    Malformed,
    /// The answer's status is to be retried.
    Status,
    /// No response head, or no more of the body, in the pool's or the attempt's time.
    UpstreamTimeout,
    /// The policy's time for the whole request is over.
    RequestTimeout,
    /// The client went away.
    ClientGone,
    /// The client sent its body, or read the response, too slowly.
    ClientSlow,
    /// The client's body is malformed.
    ClientMalformed,
    /// The client's body is larger than allowed.
    ClientTooLarge,
}

impl FailureKind {
    /// What the client is told.
    pub(crate) const fn category(self) -> Category {
        match self {
            Self::Connect => Category::UpstreamConnectFailed,
            Self::Exhausted => Category::Overloaded,
            Self::Reset | Self::Unprocessed | Self::Malformed | Self::Status => Category::UpstreamReset,
            Self::UpstreamTimeout => Category::UpstreamTimeout,
            Self::RequestTimeout => Category::RequestTimeout,
            Self::ClientGone => Category::ClientClosed,
            Self::ClientSlow => Category::ClientTimeout,
            Self::ClientMalformed => Category::BadRequest,
            Self::ClientTooLarge => Category::RequestTooLarge,
        }
    }

    /// Whether the endpoint, not the client, is to blame.
    pub(crate) fn is_upstream(self) -> bool {
        self.category().fault() == Fault::Upstream
    }
}

/// What exactly happened.
#[derive(Debug)]
pub(crate) enum Detail {
    /// The rule that was broken.
    Rule(&'static str),
    /// What the system said.
    Io(std::io::Error),
    /// What was found out step by step.
    Text(String),
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => f.write_str(rule),
            Self::Io(error) => error.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Failure {
    pub(crate) const fn rule(kind: FailureKind, rule: &'static str) -> Self {
        Self { kind, detail: Detail::Rule(rule) }
    }

    pub(crate) const fn io(kind: FailureKind, error: std::io::Error) -> Self {
        Self { kind, detail: Detail::Io(error) }
    }
}

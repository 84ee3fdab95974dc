//! Every mapping of the config file and its keys. A table: long, and flat on purpose.

use super::Kind::{
    Any, Boolean, Duration, Integer, List, Map, Null, Number, Object as Of, OneOf, Pattern, Rate, Signed, Size, Text,
};
use super::{Key, Kind, Object};

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, about, default }
}

const fn object(
    what: &'static str,
    name: &'static str,
    required: &'static [&'static str],
    keys: &'static [Key],
) -> Object {
    Object { what, name, keys, required }
}

const U32: u64 = u32::MAX as u64;
/// Endpoints: one or a list, each an address or a mapping.
const ENDPOINT: Kind = Any(&[Text, Of("endpoint")]);
const ENDPOINTS: Kind = Any(&[Text, Of("endpoint"), List(&ENDPOINT)]);
const METHODS: Kind = List(&Text);

#[rustfmt::skip]
pub(super) const OBJECTS: &[Object] = &[
    object("a config", "config", &[], &[
        key("version", Any(&[OneOf(&["1"]), Integer(1, 1)]), "1", "Version of this format; only 1 exists"),
        key("listen", Any(&[Text, List(&Text)]), "\":8080\"", "Addresses for plain HTTP, such as `:8080` or `127.0.0.1:8080`; instead of `listeners`"),
        key("listeners", List(&Of("listener")), "", "Where requests are accepted"),
        key("limits", Of("limits"), "", "Bounds on what a client may send"),
        key("trusted_proxies", List(&Text), "[]", "Address blocks whose forwarding headers and PROXY protocol headers are believed"),
        key("routes", List(&Of("route")), "", "Which request goes where. The order of matching: priority, host, path, conditions, place in the file"),
        key("pools", Any(&[List(&Of("pool")), Map(&Any(&[Of("pool"), Text, List(&ENDPOINT)]))]), "", "Groups of equal endpoints: a list with ids, or a mapping from id"),
        key("policies", Any(&[List(&Of("policy")), Map(&Of("policy"))]), "", "What holds for the requests of a route: a list with ids, or a mapping from id"),
        key("traffic_management", List(&Of("traffic_plan")), "", "Canary, cohorts, brake and overload protection of routes"),
        key("middleware", Any(&[List(&Of("chain")), Map(&Any(&[Of("chain"), List(&Any(&[Of("middleware_stage"), OneOf(&["request_id", "access_log"])]))]))]), "", "Chains of stages: a list with ids, or a mapping from id"),
        key("cache", Any(&[Of("cache"), List(&Of("cache_rule"))]), "", "Store and rules, or just rules. Nothing is cached without a rule"),
        key("plugins", Any(&[List(&Of("plugin")), Map(&Of("plugin"))]), "", "External and builtin plugins: a list with ids, or a mapping from id"),
        key("tls", Of("tls"), "", "Certificates and client certificates"),
        key("sandboxes", Of("sandboxes"), "", "Sandbox routes"),
        key("admin", Of("admin"), "", "The proxy's own admin listener; not in a fleet revision"),
        key("logging", Of("logging"), "", "Access log"),
        key("metrics", Of("metrics"), "", "Prometheus exposition"),
        key("tracing", Of("tracing"), "", "OTLP traces"),
        key("shutdown", Of("shutdown"), "", "Times of the graceful shutdown"),
        key("rollout", Of("rollout"), "", "How a revision reaches the fleet; without it the authority's default plan"),
        key("tests", List(&Of("test")), "[]", "Requests that must be decided so; they run in validate, plan and before every publish"),
    ]),
    object("a plan", "plan", &["rollout"], &[
        key("version", Any(&[OneOf(&["1"]), Integer(1, 1)]), "1", "Version of this format; only 1 exists"),
        key("rollout", Of("rollout"), "", "The default plan of an authority"),
    ]),
    object("a file with `port` and `endpoints`", "small_endpoints", &["port", "endpoints"], &[
        key("port", Integer(1, 65_535), "", "The port to listen on"),
        key("endpoints", List(&Of("small_endpoint")), "", "Paths and the URLs that take their place"),
    ]),
    object("an endpoint", "small_endpoint", &["from", "pool"], &[
        key("from", Text, "", "Exact path; `/` is every path"),
        key("pool", List(&Text), "", "URLs, in rotation; a URL's path replaces the request's"),
    ]),
    object("a file with `port` and `backends`", "small_backends", &["port"], &[
        key("port", Integer(1, 65_535), "", "The port to listen on"),
        key("backends", List(&Text), "", "URLs, in rotation; a URL's path is its health path"),
        key("upstreams", List(&Text), "", "Another name of `backends`"),
        key("healthCheckTimeout", Integer(1, 86_400), "3", "Seconds until a check has failed"),
        key("healthCheckPeriod", Integer(1, 86_400), "5", "Seconds between checks"),
    ]),
    object("a listener", "listener", &["address"], &[
        key("name", Text, "", "Unique; the address when it is not written"),
        key("address", Text, "", "`:8080`, `127.0.0.1:8080` or `[::1]:8080`"),
        key("tls", Boolean, "false", "Terminates TLS with `tls.certificates`"),
        key("redirect_to", OneOf(&["https"]), "", "Answers every request with 308 to https"),
        key("proxy_protocol", Boolean, "false", "Expects a PROXY protocol header from trusted proxies"),
    ]),
    object("`limits`", "limits", &[], &[
        key("max_header_bytes", Size, "\"64KB\"", "Request head without the request line, 1KB to 16MB; above: 431"),
        key("max_headers", Integer(1, U32), "200", "Header fields; above: 431"),
        key("max_url_bytes", Size, "\"8KB\"", "Request target, 64B to 16MB; above: 414"),
        key("max_body_bytes", Size, "", "Request body; above: 413. Unlimited when it is not written"),
        key("read_header_timeout", Duration, "\"2s\"", "From the first byte of a head to its end; above: 408"),
        key("idle_timeout", Duration, "\"60s\"", "Between requests on a connection"),
        key("min_body_rate", Rate, "\"1KB\"", "A request body that arrives more slowly ends in 408; `0B`: off"),
        key("min_read_rate", Rate, "\"1KB\"", "A client that reads its answer more slowly is cut; `0B`: off"),
        key("max_connections", Integer(1, U32), "50000", "Client connections of the whole proxy"),
        key("max_connections_per_client", Integer(1, U32), "1000", "Client connections of one address that is not a trusted proxy"),
    ]),
    object("a route", "route", &[], &[
        key("id", Text, "", "Unique; `<host or *><path>` when it is not written"),
        key("host", Text, "", "Exact name, or `*.example.com`"),
        key("host_regex", Text, "", "Regex that must match the whole host"),
        key("path", Text, "", "Exact path"),
        key("path_prefix", Text, "", "`/api/`: below it; `/api`: it and below it, never `/apix`"),
        key("path_regex", Text, "", "Regex that matches anywhere in the path unless it is anchored"),
        key("methods", METHODS, "[]", "Methods it takes; empty: any. A method that does not match falls through"),
        key("headers", Map(&Text), "{}", "Headers that must have these values"),
        key("query", Map(&Any(&[Text, Null])), "{}", "Query parameters that must have these values"),
        key("priority", Signed, "100", "Lower is tried first"),
        key("rewrite", Of("rewrite"), "", "What happens to the path"),
        key("pool", Text, "", "Id of the pool it sends requests to"),
        key("to", ENDPOINTS, "", "One or more URLs: a pool without a name; instead of `pool`"),
        key("policy", Any(&[Text, Of("policy")]), "", "Id of a policy, or one written here"),
        key("middleware", Text, "", "Id of a chain"),
        key("require_mtls", Boolean, "false", "A client certificate is needed"),
    ]),
    object("`rewrite`", "rewrite", &[], &[
        key("path", Text, "", "Takes the place of the whole path"),
        key("prefix", Text, "", "Takes the place of the matched `path_prefix`"),
        key("regex", Text, "", "What is replaced; needs `replacement`"),
        key("replacement", Text, "", "With groups `$1` or `${name}`"),
    ]),
    object("a pool", "pool", &["endpoints"], &[
        key("id", Text, "", "Unique; the key where pools are a mapping"),
        key("endpoints", ENDPOINTS, "", "Where requests go: `host:port` or URLs"),
        key("balancer", OneOf(&["round_robin", "weighted_round_robin", "least_conn", "ip_hash", "random", "p2c", "consistent_hash"]), "\"round_robin\"", "How an endpoint is picked; weighted where weights differ"),
        key("hash", Of("hash"), "", "What `consistent_hash` is taken of"),
        key("host_header", Text, "\"preserve\"", "The `Host` that endpoints see: `preserve`, `endpoint` or a name"),
        key("connections", Of("connections"), "", "Timeouts and bounds of upstream connections"),
        key("tls", Of("upstream_tls"), "", "For https endpoints"),
        key("health", Of("health"), "", "Health checks; off unless written"),
        key("circuit_breaker", Of("circuit_breaker"), "", "Breaker of every route that uses this pool, unless its policy has one"),
        key("outlier_detection", Of("outlier_detection"), "", "Ejects endpoints that do worse than their siblings"),
        key("fail_open", Of("fail_open"), "", "What is let through when no endpoint is healthy"),
    ]),
    object("an endpoint", "endpoint", &[], &[
        key("address", Text, "", "`host:port`, or a URL without path"),
        key("url", Text, "", "Another name of `address`"),
        key("weight", Integer(0, 1_000_000), "1", "Share of the requests; 0: none"),
    ]),
    object("`hash`", "hash", &[], &[
        key("header", Text, "", "Name of a header"),
        key("cookie", Text, "", "Name of a cookie"),
    ]),
    object("`connections`", "connections", &[], &[
        key("connect_timeout", Duration, "\"10s\"", "TCP and TLS"),
        key("read_timeout", Duration, "\"30s\"", "Between two reads of an answer"),
        key("write_timeout", Duration, "\"10s\"", "Between two writes of a request"),
        key("response_header_timeout", Duration, "", "From the end of the request to the answer's head; `read_timeout` when it is not written"),
        key("max_idle", Integer(0, U32), "32", "Idle connections kept per endpoint"),
        key("idle_timeout", Duration, "\"90s\"", "How long an idle connection is kept"),
        key("max_age", Duration, "", "Age after which a connection is not used again"),
        key("http2", OneOf(&["auto", "always", "never"]), "\"auto\"", "HTTP version spoken to endpoints"),
    ]),
    object("`tls` of a pool", "upstream_tls", &[], &[
        key("ca_file", Text, "", "PEM file of CAs; the system's roots when it is not written"),
        key("sni", Text, "", "Server name to ask for and verify; the endpoint's host when it is not written"),
        key("cert_file", Text, "", "PEM file of the client certificate"),
        key("key_file", Text, "", "PEM file of its key"),
        key("insecure_skip_verify", Boolean, "false", "Accept any certificate"),
    ]),
    object("`health`", "health", &[], &[
        key("active", Of("active"), "", "Probes"),
        key("passive", Of("passive"), "", "Watching real requests"),
    ]),
    object("`active`", "active", &[], &[
        key("path", Text, "", "Path to GET; a connection is enough when it is not written"),
        key("interval", Duration, "\"5s\"", "Between two probes"),
        key("timeout", Duration, "\"1s\"", "Of one probe"),
        key("expected_status", Any(&[Integer(100, 599), Pattern("^[1-5][0-9]{2}(-[1-5][0-9]{2})?$")]), "\"200-399\"", "Statuses that count as healthy"),
        key("fail_threshold", Integer(1, U32), "3", "Failures in a row until unhealthy"),
        key("success_threshold", Integer(1, U32), "2", "Successes in a row until healthy again"),
    ]),
    object("`passive`", "passive", &[], &[
        key("consecutive_failures", Integer(1, U32), "5", "Failures in a row until ejected"),
        key("ejection_duration", Duration, "\"30s\"", "First ejection; doubles with each further one"),
    ]),
    object("`circuit_breaker`", "circuit_breaker", &[], &[
        key("error_threshold_percent", Number(0.0, 100.0), "50", "Share of failures that opens it"),
        key("min_requests", Integer(1, U32), "20", "Requests below which it stays closed"),
        key("open_duration", Duration, "\"30s\"", "How long it stays open"),
    ]),
    object("`outlier_detection`", "outlier_detection", &[], &[
        key("consecutive_failures", Integer(1, U32), "", "Failures in a row"),
        key("error_rate_threshold", Number(0.0, 100.0), "", "Share of failures in percent"),
        key("max_ejection_percent", Number(0.0, 100.0), "50", "At most this share of the pool is ejected"),
    ]),
    object("`fail_open`", "fail_open", &[], &[
        key("requests_per_second", Number(0.0, 1e6), "1", "Over the whole proxy; 0: none"),
    ]),
    object("a policy", "policy", &[], &[
        key("id", Text, "", "Unique; the key where policies are a mapping"),
        key("timeout", Duration, "\"0s\"", "Of a request from its head to the end of the answer; `0s`: none"),
        key("retries", Of("retries"), "", "Off unless written"),
        key("hedge", Of("hedge"), "", "A second try before the first has failed"),
        key("rate_limit", Of("rate_limit"), "", "Above: 429"),
        key("circuit_breaker", Of("circuit_breaker"), "", "Takes the place of the pool's"),
        key("body_size_limit", Size, "", "Request body; above: 413"),
        key("require_tls", Boolean, "false", "Plain requests get 403"),
    ]),
    object("`retries`", "retries", &[], &[
        key("max_attempts", Integer(1, U32), "2", "Attempts, the first one counted"),
        key("budget_percent", Number(0.0, 100.0), "10", "Retries in percent of successes; at least 3 a second"),
        key("idempotent_only", Boolean, "true", "Only methods that may be repeated"),
        key("per_try_timeout", Duration, "", "Of one attempt"),
        key("on", List(&Any(&[Integer(400, 599), OneOf(&["connect_failure", "reset", "timeout"]), Pattern("^[45][0-9]{2}$")])), "[\"connect_failure\", \"reset\", \"timeout\", 502, 503, 504]", "What is tried again"),
    ]),
    object("`hedge`", "hedge", &["after"], &[
        key("after", Any(&[Duration, Pattern("^p[0-9]+(\\.[0-9]+)?$")]), "", "A duration, or a quantile of the route's latencies such as `p95`"),
        key("max_extra", Integer(1, U32), "1", "Further attempts at most"),
    ]),
    object("`rate_limit`", "rate_limit", &["requests_per_second"], &[
        key("requests_per_second", Number(0.0, 1e9), "", "Above 0"),
        key("burst", Integer(1, U32), "", "Requests at once; those of one second when it is not written"),
        key("key", Text, "\"client_ip\"", "`client_ip`, `header:NAME` or `claim:NAME`"),
    ]),
    object("a traffic plan", "traffic_plan", &["route"], &[
        key("route", Text, "", "Id of a route"),
        key("stable_pool", Text, "", "Id of a pool; the route's own when it is not written"),
        key("canary_pool", Text, "", "Id of a pool"),
        key("canary_weight", Number(0.0, 100.0), "", "The canary's share in percent"),
        key("cohort_routing", Of("cohort_routing"), "", "Who goes where, before weights"),
        key("auto_brake", Of("auto_brake"), "", "Takes the canary out when it does worse"),
        key("overload_protection", Of("overload_protection"), "", "Bounds requests in flight"),
    ]),
    object("`cohort_routing`", "cohort_routing", &[], &[
        key("header", Text, "", "Name of the header that names the cohort"),
        key("cookie", Text, "", "Name of the cookie that names the cohort"),
        key("hash", Of("hash"), "", "The same user always to the same side"),
        key("mappings", Map(&Text), "", "Cohort to id of a pool"),
    ]),
    object("`auto_brake`", "auto_brake", &[], &[
        key("error_rate_multiplier", Number(1.0, 1e6), "3", "Canary errors in multiples of stable ones"),
        key("min_requests", Integer(1, U32), "50", "Requests before it judges"),
        key("cooloff", Duration, "\"5m\"", "How long the canary stays out"),
    ]),
    object("`overload_protection`", "overload_protection", &["max_concurrent"], &[
        key("max_concurrent", Integer(1, U32), "1000", "Requests in flight"),
        key("queue_size", Integer(0, U32), "100", "Requests that wait"),
        key("queue_timeout", Duration, "\"1s\"", "How long they wait"),
    ]),
    object("a chain", "chain", &["stages"], &[
        key("id", Text, "", "Unique; the key where chains are a mapping"),
        key("stages", List(&Any(&[Of("middleware_stage"), OneOf(&["request_id", "access_log"])])), "", "In order"),
    ]),
    object("a stage", "middleware_stage", &["type"], &[
        key("type", OneOf(&["request_id", "auth", "rate_limit", "header_transform", "cors", "compression", "redirect", "plugin", "tracing", "access_log"]), "", "What it does"),
        key("config", Any(&[Of("request_id"), Of("auth"), Of("rate_limit"), Of("header_transform"), Of("cors"), Of("compression"), Of("redirect"), Of("access_log")]), "", "Of each type, what is below under its name"),
        key("policy_ref", Text, "", "Of `rate_limit`: id of a policy that has one"),
        key("plugin_ref", Text, "", "Of `plugin`: id of a plugin"),
    ]),
    object("`config` of `request_id`", "request_id", &[], &[
        key("header", Text, "\"X-Request-Id\"", "The header that carries it"),
        key("accept", OneOf(&["any", "trusted", "never"]), "\"any\"", "Whose ids are taken over; others get a new one"),
        key("response", Boolean, "true", "Answers carry it"),
    ]),
    object("`config` of `access_log`", "access_log", &[], &[
        key("sample_percent", Number(0.0, 100.0), "100", "Share of the requests that get a line; answers with 5xx always do"),
    ]),
    object("`config` of `auth`", "auth", &["jwt"], &[
        key("jwt", Of("jwt"), "", "Bearer tokens that are JWTs"),
    ]),
    object("`jwt`", "jwt", &["issuer"], &[
        key("issuer", Text, "", "Expected `iss`"),
        key("audience", Any(&[Text, List(&Text)]), "", "`aud` must hold one of these; any if the key is absent"),
        key("jwks_file", Text, "", "File with the keys"),
        key("jwks_url", Text, "", "URL of the keys; the issuer's discovery document when neither is written"),
        key("ca_file", Text, "", "CAs that the server of the keys is verified with; the system's if the key is absent"),
        key("algorithms", List(&OneOf(&["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"])), "", "What a token may be signed with; whatever its key is for if the key is absent"),
        key("leeway", Duration, "\"60s\"", "How far clocks may be apart, at most `10m`"),
        key("claims_to_headers", Map(&Text), "{}", "Claims that the endpoint gets, and their headers; what a client sends under these names is removed"),
        key("forward_token", Boolean, "true", "The endpoint gets the token too"),
    ]),
    object("`config` of `header_transform`", "header_transform", &[], &[
        key("add", Map(&Text), "{}", "Appended to the request"),
        key("set", Map(&Text), "{}", "Take the place of what is there"),
        key("remove", List(&Text), "[]", "Names of headers"),
        key("request", Of("request_edits"), "", "The same, instead of the three above"),
        key("response", Of("response_edits"), "", "The same for the answer"),
    ]),
    object("`request`", "request_edits", &[], &[
        key("add", Map(&Text), "{}", "Appended to the request"),
        key("set", Map(&Text), "{}", "Take the place of what is there"),
        key("remove", List(&Text), "[]", "Names of headers"),
    ]),
    object("`response`", "response_edits", &[], &[
        key("add", Map(&Text), "{}", "Appended to the answer"),
        key("set", Map(&Text), "{}", "Take the place of what is there"),
        key("remove", List(&Text), "[]", "Names of headers"),
    ]),
    object("`config` of `cors`", "cors", &["origins"], &[
        key("origins", List(&Text), "", "Who may ask: `https://app.example.com`, `https://*.example.com`, or `*`"),
        key("methods", Any(&[Text, List(&Text)]), "[\"GET\", \"HEAD\", \"POST\"]", "What they may do; `*`: anything"),
        key("headers", Any(&[Text, List(&Text)]), "[]", "What they may send; `*`: anything"),
        key("expose", List(&Text), "[]", "Headers of answers that scripts may read"),
        key("credentials", Boolean, "false", "Cookies go along; never with `*` as origin"),
        key("max_age", Duration, "\"10m\"", "How long a browser may remember"),
    ]),
    object("`config` of `compression`", "compression", &[], &[
        key("types", List(&Text), "", "Types of content, such as `text/html` or `text/*`; the usual texts if the key is absent"),
        key("min_length", Any(&[Size, Integer(0, u64::MAX)]), "1024", "Shorter answers are left alone"),
        key("level", Integer(1, 9), "5", "1 is fast, 9 is small"),
    ]),
    object("`config` of `redirect`", "redirect", &[], &[
        key("status", Integer(301, 308), "308", "301, 302, 303, 307 or 308"),
        key("to", Text, "", "Where to; `{scheme}`, `{host}`, `{authority}`, `{path}` and `{query}` stand for those of the request"),
        key("https", Boolean, "false", "Instead of `to`: the same place under https"),
        key("host", Text, "", "Instead of `to`: another host"),
        key("path", Text, "", "Instead of `to`: another path, such as `/new{path}`"),
    ]),
    object("`cache`", "cache", &[], &[
        key("store", Of("cache_store"), "", "Bounds"),
        key("rules", List(&Of("cache_rule")), "[]", "In order; the first that is for a request counts"),
    ]),
    object("`store`", "cache_store", &[], &[
        key("max_total", Size, "\"256MB\"", "Bytes of everything"),
        key("max_entries", Integer(1, u64::MAX), "10000", "Entries"),
        key("max_entry", Size, "\"4MB\"", "Bytes of one entry"),
        key("stale_while_revalidate", Duration, "\"0s\"", "How long an old entry is served while it is fetched again"),
        key("pre_compress", Of("pre_compress"), "", "Keep a gzip copy"),
    ]),
    object("`pre_compress`", "pre_compress", &[], &[
        key("level", Integer(1, 9), "6", "Of gzip"),
        key("min_length", Any(&[Size, Integer(0, u64::MAX)]), "256", "Bytes below which nothing is compressed"),
    ]),
    object("a cache rule", "cache_rule", &[], &[
        key("route", Text, "", "Id of a route"),
        key("path", Text, "", "Exact path"),
        key("path_prefix", Text, "", "As of a route"),
        key("path_regex", Text, "", "As of a route"),
        key("enabled", Boolean, "true", "Off without being removed"),
        key("methods", METHODS, "[\"GET\", \"HEAD\"]", "Methods whose answers are kept"),
        key("status", List(&Integer(200, 599)), "[200]", "Statuses that are kept"),
        key("ttl", Duration, "", "How long an answer is fresh; as the answer says when it is not written"),
        key("vary_headers", List(&Text), "[]", "Request headers that tell entries apart"),
        key("max_size", Size, "", "Bytes of one entry; those of the store when it is not written"),
        key("auth_aware", Boolean, "false", "Answers to requests with credentials are kept, each user's apart"),
        key("coalesce", Boolean, "false", "One request fetches for all that wait"),
        key("coalesce_timeout", Duration, "\"5s\"", "How long they wait"),
    ]),
    object("a plugin", "plugin", &["type"], &[
        key("id", Text, "", "Unique; the key where plugins are a mapping"),
        key("type", OneOf(&["external_grpc", "builtin"]), "", "What it is"),
        key("address", Text, "", "Of `external_grpc`: `host:port`"),
        key("timeout", Duration, "\"50ms\"", "Of one call"),
        key("name", OneOf(&["structured_logger"]), "", "Of `builtin`"),
        key("fail_mode", OneOf(&["closed", "open"]), "\"closed\"", "Without an answer: refuse the request, or go on"),
    ]),
    object("`tls`", "tls", &[], &[
        key("min_version", Any(&[OneOf(&["1.2", "1.3"]), Number(1.2, 1.3)]), "\"1.2\"", "Least version that is spoken"),
        key("certificates", List(&Of("certificate")), "[]", "The first is for unknown names"),
        key("mtls", Of("mtls"), "", "Client certificates"),
    ]),
    object("a certificate", "certificate", &["cert_file", "key_file"], &[
        key("sni", Text, "", "Exact name or `*.name`; the names inside the certificate when it is not written"),
        key("cert_file", Text, "", "PEM file of the chain, leaf first"),
        key("key_file", Text, "", "PEM file of the private key"),
    ]),
    object("`mtls`", "mtls", &["ca_file"], &[
        key("enabled", Boolean, "true", "Off without being removed"),
        key("ca_file", Text, "", "PEM file of the client CAs"),
        key("require_client_cert", Boolean, "false", "Refuse handshakes without one; otherwise one is asked for"),
    ]),
    object("`sandboxes`", "sandboxes", &[], &[
        key("enabled", Boolean, "true", "Off without being removed"),
        key("hosts", List(&Text), "[]", "Hosts on which sandbox routes go by priority; elsewhere after every route of the file"),
        key("routes", List(&Of("sandbox_route")), "[]", "Sandbox routes of the file itself"),
    ]),
    object("a sandbox route", "sandbox_route", &["sandbox_id", "pattern", "target_url"], &[
        key("sandbox_id", Text, "", "The sandbox it belongs to"),
        key("pattern", Text, "", "Regex that matches anywhere in the path unless it is anchored"),
        key("target_url", Text, "", "Where requests go; a path comes before the request's"),
        key("priority", Signed, "100", "Lower is tried first"),
        key("ttl", Duration, "", "Gone after this"),
    ]),
    object("`admin`", "admin", &["address"], &[
        key("address", Text, "\"127.0.0.1:9090\"", "Where it binds; without a host: loopback"),
    ]),
    object("`logging`", "logging", &[], &[
        key("access", OneOf(&["stdout", "file", "off"]), "\"stdout\"", "Where lines go"),
        key("file", Text, "", "Path of the access log, with `access: file`"),
        key("format", OneOf(&["json", "text"]), "\"json\"", "How a line looks"),
        key("redact_query", Boolean, "true", "Queries are not logged"),
        key("redact_headers", List(&Text), "[\"authorization\", \"cookie\"]", "Headers whose values are never logged"),
    ]),
    object("`metrics`", "metrics", &[], &[
        key("enabled", Boolean, "true", "Serve metrics at all"),
        key("on_data_plane", Boolean, "false", "On the data-plane listeners too"),
        key("path", Text, "\"/metrics\"", "The path on either listener"),
        key("max_series", Integer(1, U32), "2000", "Label sets per family; further ones are folded and counted"),
        key("require_token", Boolean, "false", "Scrapes must carry a bearer token"),
        key("token_env", Text, "", "Environment variable that holds it"),
    ]),
    object("`tracing`", "tracing", &["otlp_endpoint"], &[
        key("otlp_endpoint", Text, "", "OTLP over gRPC, such as `http://otel-collector:4317`"),
        key("sample_percent", Number(0.0, 100.0), "1", "Share of requests that are traced"),
    ]),
    object("`shutdown`", "shutdown", &[], &[
        key("lb_convergence", Duration, "\"10s\"", "Readiness fails, connections are still accepted"),
        key("drain", Duration, "\"30s\"", "Requests in flight may finish"),
        key("force_close", Duration, "\"5s\"", "Then what is left is closed within this"),
    ]),
    object("`rollout`", "rollout", &[], &[
        key("stages", List(&Of("rollout_stage")), "", "Shares of the fleet, rising to 100"),
        key("health_gates", List(&Of("gate")), "", "What a stage is judged by"),
        key("min_requests", Integer(0, u64::MAX), "100", "Requests below which there is no evidence"),
        key("on_no_data", OneOf(&["hold", "proceed", "rollback"]), "\"hold\"", "Without evidence at the end of a bake"),
        key("progress_deadline", Duration, "\"1h\"", "A stage that takes longer fails"),
        key("final_bake", Duration, "\"5m\"", "After the last stage, before it counts as good"),
        key("waves", List(&Of("wave")), "", "Groups of regions, one after the other"),
        key("cold_start_gate", Boolean, "false", "One proxy starts from nothing with it first"),
        key("on_authority_loss", OneOf(&["hold", "continue", "rollback"]), "\"hold\"", "What agents do when they cannot reach the authority"),
        key("max_absent_percent", Number(0.0, 100.0), "10", "Proxies that may be away"),
        key("slo", Number(0.0, 100.0), "99.9", "Good requests in percent: the base of the burn rate"),
        key("compare", Of("compare"), "", "Judge against the proxies that still run the revision before"),
        key("auto_rollback", Of("auto_rollback"), "", "Roll back by the rate at which the error budget burns"),
    ]),
    object("a stage", "rollout_stage", &["name", "fleet_percent"], &[
        key("name", Text, "", "Unique"),
        key("fleet_percent", Number(0.0, 100.0), "", "Share of each wave's proxies"),
        key("bake_time", Duration, "\"0s\"", "How long it must hold; needed but for the last stage"),
    ]),
    object("a gate", "gate", &["metric", "threshold"], &[
        key("metric", OneOf(&["error_rate", "p50_latency", "p95_latency", "p99_latency", "rejected_nodes"]), "", "What is judged"),
        key("threshold", Any(&[Number(0.0, 1e18), Duration]), "", "The most that passes: a share from 0 to 1, a duration, or a number of nodes"),
    ]),
    object("a wave", "wave", &["name", "regions"], &[
        key("name", Text, "", "Unique"),
        key("regions", List(&Text), "", "Regions; `*` is the rest"),
    ]),
    object("`compare`", "compare", &[], &[
        key("alpha", Number(0.0, 0.5), "0.01", "Chance of a false alarm"),
    ]),
    object("`auto_rollback`", "auto_rollback", &["error_budget_burn_rate"], &[
        key("error_budget_burn_rate", Pattern("^[0-9]+(\\.[0-9]+)?x$"), "", "Such as `10x`"),
    ]),
    object("a test", "test", &["name", "request", "expect"], &[
        key("name", Text, "", "Shown when it fails"),
        key("request", Of("test_request"), "", "What is asked"),
        key("expect", Of("test_expect"), "", "What must be decided"),
    ]),
    object("`request`", "test_request", &["url"], &[
        key("url", Text, "", "Absolute URL"),
        key("method", Text, "\"GET\"", "Method"),
        key("headers", Map(&Text), "{}", "Request headers"),
    ]),
    object("`expect`", "test_expect", &[], &[
        key("route", Any(&[Text, Null]), "", "Id of a route; `null`: none matches"),
        key("pool", Text, "", "Id of a pool"),
    ]),
];

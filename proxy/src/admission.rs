//! Admission: what a route does with a request between matching and picking an endpoint.
//!
//! A route that has something configured carries an [`Admission`]: its stages, compiled, in the order in which they run.
//! Each looks at the request head ([`Seen`]), leaves what it wants changed in the request's [`Edits`], and says how to go
//! on ([`Step`]). A route with nothing configured carries none and pays one look at an `Option`.
//!
//! To hang a feature in: add a variant to [`Stage`], let [`Chains::admission`] put it where it belongs, and give it an `admit` that
//! returns a [`Step`]. A stage never blocks. What takes time goes into the boxed future of [`Step::Wait`], which owns all
//! that it needs; the connection's task waits for it, and the stages go on from there with the head parsed again.
//! A wait ends at the policy's timeout, at [`WAIT_MAX`], or when the client is gone; stages bound it further themselves.
//!
//! What a stage knows of answers goes the other way round, through the edits: [`Edits::response`] is applied to whatever
//! answers the request, an endpoint or the proxy itself. [`Edits::hold`] keeps a value until the request is over.
//!
//! This module does not know what the stages are for, nor how an answer reaches the client.

use std::any::Any;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use sealane_model::config::{self, Config, PluginKind, PolicyId, RateLimitKey};
use sealane_model::decide::RouteTable;
use sealane_model::problem::Problem;

use crate::answer::Local;
use crate::cache::rules;
use crate::cache::stage::CacheStage;
use crate::connection::PeerTls;
use crate::hooks::{self, Hooks};
use crate::http1::field::Fields;
use crate::jwks::Place;
use crate::live::Live;
use crate::middleware::compression::Compression;
use crate::middleware::cors::Cors;
use crate::middleware::header_transform::HeaderTransform;
use crate::middleware::jwt::Auth;
use crate::middleware::plugin::PluginStage;
use crate::middleware::rate_limit::RateLimit;
use crate::middleware::redirect::Redirect;
use crate::middleware::request_id::RequestId;
use crate::middleware::structured_logger::StructuredLogger;
use crate::plugin::PluginKey;
use crate::record::Record;
use crate::request::Request;
use crate::settings::Settings;
use crate::snapshot::problems::error;
use crate::snapshot::secrets;
use crate::traffic::stage::{self, CompiledTraffic};
use crate::worker::Worker;

pub(crate) mod edits;
pub(crate) mod guest;
pub(crate) mod wait;

pub(crate) use edits::Edits;
pub(crate) use wait::{Suspended, Then, Wait};

/// What a route does before a request may pass.
#[derive(Debug)]
pub(crate) struct Admission {
    /// In the order in which they run.
    stages: Vec<Stage>,
}

/// One of them, compiled. Those of a chain are shared by the routes that use it.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Picks the side of the route's traffic plan. The first of all.
    TrafficSide,
    /// Finds a place among the requests in flight. The last of all: who is answered otherwise needs none.
    TrafficPlace,
    /// Where the request id comes from and goes.
    RequestId(Arc<RequestId>),
    /// Who may pass, by their tokens.
    Auth(Arc<Auth>),
    /// How often one may pass.
    RateLimit(Arc<RateLimit>),
    /// Edits of fields that are the same for every request.
    HeaderTransform(Arc<HeaderTransform>),
    /// Which sites may read answers.
    Cors(Arc<Cors>),
    /// Smaller answers.
    Compression(Arc<Compression>),
    /// Somewhere else.
    Redirect(Arc<Redirect>),
    /// Passes the trace's context on, also where no trace is exported. Nothing to run: [`Admission::traces`] says it.
    Tracing,
    /// Asks an external plugin.
    Plugin(Arc<PluginStage>),
    /// A line for each request.
    Logger(Arc<StructuredLogger>),
    /// The share of requests, 0 to 100, that get a line in the access log.
    AccessLog(f64),
    /// What the program that uses this crate wants.
    Hooks(Arc<Hooks>),
    /// Looks for a stored answer. Comes last.
    Cache(Arc<CacheStage>),
}

/// How a stage wants to go on.
pub(crate) enum Step {
    /// The next stage.
    Continue,
    /// The proxy answers.
    Answer(Box<Local>),
    /// What the future says, once it is there.
    Wait(Wait),
}

/// Where the stages have come to.
pub(crate) enum Admitted {
    /// The request may pass.
    Yes,
    /// The proxy answers.
    Answered(Box<Local>),
    /// The stage with this number waits.
    Waits(usize, Wait),
}

/// The chains of a config, compiled as far as routes do not matter.
#[derive(Debug)]
pub(crate) struct Chains {
    chains: Vec<Vec<Link>>,
    /// `None`: there are none.
    hooks: Option<Arc<Hooks>>,
}

/// A stage, or what a route makes one of.
#[derive(Debug)]
enum Link {
    Ready(Stage),
    /// Each route has buckets of its own.
    RateLimit(config::RateLimit, Option<PolicyId>),
}

impl Chains {
    /// Compiles the chains. Reads files.
    ///
    /// # Errors
    /// Every problem that this machine has with them.
    pub(crate) fn compile(config: &Config, settings: &Settings, live: &Live) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut chains = Vec::with_capacity(config.middleware.len());
        for chain in &config.middleware {
            let mut links = Vec::with_capacity(chain.stages.len());
            for (number, stage) in chain.stages.iter().enumerate() {
                match link(config, stage, settings, live) {
                    Ok(link) => links.extend(link),
                    Err((code, key, message)) => {
                        let path = format!("middleware[{}].stages[{number}].config.{key}", chain.id.0);
                        problems.push(error(code, chain.at, path, message));
                    }
                }
            }
            chains.push(links);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let hooks = (!settings.hooks.is_empty()).then(|| Arc::new(settings.hooks.clone()));
        Ok(Self { chains, hooks })
    }

    /// What the route with this number does with a request: its chain, at the start of that the limit of its policy, and
    /// at the end the look into the cache; `None`: nothing.
    pub(crate) fn admission(
        &self,
        config: &Config,
        index: usize,
        table: &RouteTable,
        live: &Live,
    ) -> Option<Box<Admission>> {
        let route = &config.routes[index];
        let links = route.middleware.map(|chain| self.chains[chain].as_slice()).unwrap_or_default();
        let limit = |config: &config::RateLimit, name: &str| {
            Stage::RateLimit(Arc::new(RateLimit::compile(config, live.limiter(&route.id.0, name))))
        };
        let mut stages = Vec::new();
        for (number, link) in links.iter().enumerate() {
            stages.push(match link {
                Link::Ready(stage) => stage.clone(),
                Link::RateLimit(config, _) => limit(config, &format!("stage {number}")),
            });
        }
        let is_placed =
            |link: &Link| matches!(link, Link::RateLimit(_, Some(id)) if route.policy.id.as_ref() == Some(id));
        if let Some(config) = route.policy.rate_limit.as_ref().filter(|_| !links.iter().any(is_placed)) {
            // A claim is known only behind the last stage that verifies tokens.
            let by_claim = matches!(config.key, RateLimitKey::Claim(_));
            let auth = stages.iter().rposition(|stage| matches!(stage, Stage::Auth(_)));
            // Refusals carry the request's id, and can be read by the site that asked.
            let leading = |stage: &&Stage| matches!(stage, Stage::RequestId(_) | Stage::Cors(_));
            let first = stages.iter().take_while(leading).count();
            let place = auth.filter(|_| by_claim).map_or(first, |place| place + 1);
            stages.insert(place, limit(config, "policy"));
        }
        let plan = route.traffic.as_ref();
        if plan.is_some_and(|plan| plan.stable != route.pool || plan.canary.is_some() || plan.cohorts.is_some()) {
            stages.insert(0, Stage::TrafficSide);
        }
        stages.extend(self.hooks.as_ref().map(|hooks| Stage::Hooks(Arc::clone(hooks))));
        // What is stored is served whatever else goes on; a place is for who goes to an endpoint.
        let by_hooks = self.hooks.as_ref().filter(|hooks| hooks.may_cache());
        let by_hooks = by_hooks.map(|_| Arc::new(rules::of_hooks(config, index)));
        let cache = CacheStage::new(index, rules::compile(config, index, table), by_hooks);
        stages.extend(cache.map(|cache| Stage::Cache(Arc::new(cache))));
        if plan.is_some_and(|plan| plan.overload.is_some()) {
            stages.push(Stage::TrafficPlace);
        }
        (!stages.is_empty()).then(|| Box::new(Admission { stages }))
    }
}

/// Code, key and message of a problem.
type Fault = (&'static str, &'static str, String);

/// `None`: nothing to do for requests.
fn link(all: &Config, stage: &config::Stage, settings: &Settings, live: &Live) -> Result<Option<Link>, Fault> {
    Ok(Some(Link::Ready(match stage {
        config::Stage::RequestId(config) => Stage::RequestId(Arc::new(RequestId::compile(config))),
        config::Stage::Auth(config) => {
            let place =
                Place { source: config.jwks.clone(), issuer: config.issuer.clone(), ca_file: config.ca_file.clone() };
            let source = live.key_sources.take(place, &live.tls);
            let source = source.map_err(|message| ("keys_unreadable", "jwt", message))?;
            Stage::Auth(Arc::new(Auth::compile(config, source)))
        }
        config::Stage::RateLimit { limit, policy } => return Ok(Some(Link::RateLimit(limit.clone(), policy.clone()))),
        config::Stage::HeaderTransform(config) => {
            let reveal = |text: &str| secrets::reveal(text, settings);
            let compiled = HeaderTransform::compile(config, reveal);
            Stage::HeaderTransform(Arc::new(compiled.map_err(|message| ("secret_unreadable", "", message))?))
        }
        config::Stage::Cors(config) => Stage::Cors(Arc::new(Cors::compile(config))),
        config::Stage::Redirect(config) => Stage::Redirect(Arc::new(Redirect::compile(config))),
        config::Stage::AccessLog { sample_percent } if *sample_percent < 100.0 => Stage::AccessLog(*sample_percent),
        config::Stage::Compression(config) => Stage::Compression(Arc::new(Compression::compile(config))),
        config::Stage::Tracing => Stage::Tracing,
        config::Stage::Plugin(index) => plugin(&all.plugins[*index], live)?,
        config::Stage::AccessLog { .. } => return Ok(None),
    })))
}

fn plugin(plugin: &config::Plugin, live: &Live) -> Result<Stage, Fault> {
    let id: Arc<str> = Arc::from(&*plugin.id.0);
    Ok(match &plugin.kind {
        PluginKind::Builtin { .. } => Stage::Logger(Arc::new(StructuredLogger { id })),
        PluginKind::ExternalGrpc { origin, ca_file, timeout, protocol, pass_credentials } => {
            let key = PluginKey { id: plugin.id.0.clone(), origin: origin.clone(), ca_file: ca_file.clone() };
            let live = live.plugins.take(key, &live.tls);
            let live = live.map_err(|message| ("plugin_unusable", "plugin_ref", message))?;
            Stage::Plugin(Arc::new(PluginStage {
                id,
                live,
                protocol: *protocol,
                timeout: *timeout,
                fail_closed: plugin.fail_closed,
                pass_credentials: *pass_credentials,
            }))
        }
    })
}

impl Admission {
    /// How answers are compressed; `None`: they are not.
    pub(crate) fn compression(&self) -> Option<&Compression> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Compression(stage) => Some(&**stage),
            _ => None,
        })
    }

    /// Whether requests carry the context of a trace on.
    pub(crate) fn traces(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage, Stage::Tracing))
    }

    /// The fingerprints of its cache rules.
    pub(crate) fn fingerprints(&self) -> impl Iterator<Item = u64> {
        let stages = self.stages.iter().filter_map(|stage| match stage {
            Stage::Cache(stage) => Some(stage),
            _ => None,
        });
        stages.flat_map(|stage| stage.rules()).map(|rule| rule.fingerprint)
    }

    /// Runs the stages from number `first` on. Their edits are left in the record.
    pub(crate) fn admit(
        &self,
        first: usize,
        worker: &Rc<Worker>,
        record: &mut Record,
        request: &Request<'_>,
        fields: &Fields,
    ) -> Admitted {
        let mut edits = record.edits.take().unwrap_or_else(|| worker.take_edits());
        let mut admitted = Admitted::Yes;
        for (number, stage) in self.stages.iter().enumerate().skip(first) {
            let step = stage.admit(&Seen { worker, record, request, fields }, &mut edits);
            if let Some(id) = edits.request_id() {
                record.set_request_id(id);
            }
            match step {
                Step::Continue => {}
                Step::Answer(local) => {
                    if let Some(trace) = &mut record.trace {
                        trace.event("middleware", "stage", stage.name());
                    }
                    admitted = Admitted::Answered(local);
                    break;
                }
                Step::Wait(wait) => {
                    admitted = Admitted::Waits(number, wait);
                    break;
                }
            }
        }
        record.edits = Some(edits);
        admitted
    }
}

impl Stage {
    /// As configs call it.
    const fn name(&self) -> &'static str {
        match self {
            Self::TrafficSide => "traffic_management",
            Self::TrafficPlace => "overload_protection",
            Self::RequestId(_) => "request_id",
            Self::Auth(_) => "auth",
            Self::RateLimit(_) => "rate_limit",
            Self::HeaderTransform(_) => "header_transform",
            Self::Cors(_) => "cors",
            Self::Compression(_) => "compression",
            Self::Redirect(_) => "redirect",
            Self::Tracing => "tracing",
            Self::Plugin(_) => "plugin",
            Self::Logger(_) => "structured_logger",
            Self::AccessLog(_) => "access_log",
            Self::Hooks(_) => "hooks",
            Self::Cache(_) => "cache",
        }
    }

    fn admit(&self, seen: &Seen<'_>, edits: &mut Edits) -> Step {
        match self {
            Self::TrafficSide => {
                if let Some(traffic) = seen.traffic() {
                    stage::split(traffic, seen, edits);
                }
            }
            Self::TrafficPlace => {
                if let Some(traffic) = seen.traffic() {
                    return stage::place(traffic, seen, edits);
                }
            }
            Self::RequestId(stage) => stage.apply(seen, edits),
            Self::Auth(stage) => return stage.admit(seen, edits),
            Self::RateLimit(stage) => return stage.admit(seen, edits),
            Self::HeaderTransform(stage) => stage.apply(edits),
            Self::Cors(stage) => return stage.admit(seen, edits),
            Self::Compression(stage) => stage.look(seen, edits),
            Self::Redirect(stage) => return stage.admit(seen),
            Self::Tracing => {}
            Self::Plugin(stage) => return stage.admit(seen, edits),
            Self::Logger(stage) => stage.note(seen),
            Self::AccessLog(percent) => edits.unlogged |= !is_sampled(*percent, seen.worker.random()),
            Self::Hooks(hooks) => return hooks::admit(hooks, seen, edits),
            Self::Cache(stage) => return stage.admit(seen, edits),
        }
        Step::Continue
    }
}

/// Whether a request with this random number is among `percent` of all.
fn is_sampled(percent: f64, random: u64) -> bool {
    // 53 bits are what a fraction holds.
    ((random >> 11) as f64) < percent / 100.0 * (1u64 << 53) as f64
}

/// What a stage sees of a request.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// The thread.
    pub(crate) worker: &'a Rc<Worker>,
    /// What is known so far: view and snapshot, route, request id. Its edits are with the stage.
    pub(crate) record: &'a Record,
    pub(crate) request: &'a Request<'a>,
    pub(crate) fields: &'a Fields,
}

impl<'a> Seen<'a> {
    /// The route's traffic plan.
    pub(crate) fn traffic(&self) -> Option<&'a CompiledTraffic> {
        self.record.view.snapshot.routes[self.record.route?].traffic.as_deref()
    }

    pub(crate) fn method(&self) -> &'a str {
        self.request.head.method
    }

    /// Host and port. Empty only in HTTP/1.0.
    pub(crate) fn authority(&self) -> &'a str {
        self.request.head.authority
    }

    /// The host, without port and brackets.
    pub(crate) fn host(&self) -> &'a str {
        self.request.head.host()
    }

    /// As sent.
    pub(crate) fn path(&self) -> &'a str {
        self.request.head.path
    }

    /// As sent, without `?`.
    pub(crate) fn query(&self) -> Option<&'a str> {
        self.request.head.query
    }

    /// The nearest address that no trusted proxy stands for.
    pub(crate) fn client_ip(&self) -> IpAddr {
        self.request.client.ip
    }

    /// What the client's TLS handshake told; `None`: plain text.
    pub(crate) fn tls(&self) -> Option<&'a PeerTls> {
        self.request.peer.tls.as_deref()
    }

    pub(crate) fn request_id(&self) -> &'a [u8] {
        self.record.request_id()
    }

    /// The values that a field was sent with, one per line. The name in any case.
    pub(crate) fn sent(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.request.bytes;
        let lines = self.fields.lines().iter();
        lines
            .filter(move |line| line.name.of_bytes(bytes).eq_ignore_ascii_case(name.as_bytes()))
            .map(move |line| line.value.of_bytes(bytes))
    }

    /// The first value of a field as it will go on: what earlier stages edited counts.
    pub(crate) fn header<'e>(&self, name: &'e str, edits: &'e Edits) -> Option<&'e [u8]>
    where
        'a: 'e,
    {
        if !edits.request.removes(name.as_bytes())
            && let Some(value) = self.sent(name).next()
        {
            return Some(value);
        }
        edits.request.value(name.as_bytes())
    }
}

/// Something that is kept until a request is over.
pub(crate) type Held = Box<dyn Any>;

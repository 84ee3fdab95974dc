//! Hooks: a program that uses this crate looks at requests before they go on, at endpoints' answers before clients see
//! them, and at attempts that failed.
//!
//! They are functions of the program, given at start ([`crate::builder`]), and hold for every config and every route.
//! The order in a request's life: the route's middleware, [`Hooks::on_request`], the cache, an endpoint,
//! [`Hooks::on_response`]. What is answered from the cache was seen by `on_response` when it was stored, and what the
//! proxy answers itself is not shown to it.
//!
//! Hooks run on the worker threads, between two system calls: one that blocks holds up every request of its thread. One
//! that panics ends the request that it was called for, as any panic does.
//!
//! This module does not know how edits reach the wire ([`crate::admission::Edits`]) or what the cache makes of a wish
//! ([`crate::cache::fill`]).

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::edits::FieldEdits;
use crate::admission::guest::{Edit, apply, may};
use crate::admission::{Edits, Seen, Step};
use crate::answer::{Content, Local};
use crate::cache::entry::LinesView;
use crate::error::Category;
use crate::http1::request_head::is_authority;
use crate::http1::write;

type OnRequest = dyn Fn(&mut ProxiedRequest<'_>) -> Verdict + Send + Sync;
type OnResponse = dyn Fn(&mut ProxiedResponse<'_>) + Send + Sync;
type OnError = dyn Fn(&AttemptError<'_>) + Send + Sync;

/// The hooks of a program, each kind in the order in which they were given.
#[derive(Clone, Default)]
pub struct Hooks {
    on_request: Vec<Arc<OnRequest>>,
    on_response: Vec<Arc<OnResponse>>,
    on_error: Vec<Arc<OnError>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_request", &self.on_request.len())
            .field("on_response", &self.on_response.len())
            .field("on_error", &self.on_error.len())
            .finish()
    }
}

impl Hooks {
    /// Adds a hook that may edit or reject a request. It returns a [`Verdict`], or `bool`: `false` rejects with 502
    /// `request_rejected`. The first rejection counts.
    #[must_use]
    pub fn on_request<V: Into<Verdict>>(
        mut self,
        hook: impl Fn(&mut ProxiedRequest<'_>) -> V + Send + Sync + 'static,
    ) -> Self {
        self.on_request.push(Arc::new(move |request: &mut ProxiedRequest<'_>| hook(request).into()));
        self
    }

    /// Adds a hook that may edit an endpoint's answer and say whether it is cached.
    #[must_use]
    pub fn on_response(mut self, hook: impl Fn(&mut ProxiedResponse<'_>) + Send + Sync + 'static) -> Self {
        self.on_response.push(Arc::new(hook));
        self
    }

    /// Adds a hook that is told of each attempt on an endpoint that failed. A connection that went stale while it idled
    /// is no attempt.
    #[must_use]
    pub fn on_error(mut self, hook: impl Fn(&AttemptError<'_>) + Send + Sync + 'static) -> Self {
        self.on_error.push(Arc::new(hook));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.on_request.is_empty() && self.on_response.is_empty() && self.on_error.is_empty()
    }

    /// Whether a hook may want answers kept that no rule keeps.
    pub(crate) fn may_cache(&self) -> bool {
        !self.on_response.is_empty()
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Forward,
    /// The client gets 502 `request_rejected`.
    Reject,
    /// The client gets this.
    Answer(Answer),
}

impl From<bool> for Verdict {
    fn from(forward: bool) -> Self {
        if forward { Self::Forward } else { Self::Reject }
    }
}

/// An answer in place of an endpoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    content_type: String,
    body: Vec<u8>,
}

impl Answer {
    /// `status` is 200 to 599; `content_type` is left out where it is empty.
    ///
    /// # Errors
    /// The status is none of these, or the type cannot be written in a head.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Result<Self, EditError> {
        if !(200..600).contains(&status) {
            return Err(EditError::Status(status));
        }
        check(Edit::Set("Content-Type", content_type.as_bytes()))?;
        // There is no content in answers with these (RFC 9110 §15).
        let body = if matches!(status, 204 | 205 | 304) { Vec::new() } else { body.into() };
        Ok(Self { status, content_type: content_type.to_owned(), body })
    }
}

/// Why a hook's edit is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The name or the value cannot be written in a head, or the field belongs to framing or to one hop.
    #[error("field `{0}` cannot be edited: its name or value is invalid, or it is one of framing or of one hop")]
    Field(String),
    /// There is no answer with it, or content would be missing or be too much with it.
    #[error("status {0} cannot be set")]
    Status(u16),
    /// It is no host with an optional port.
    #[error("`{0}` is no host")]
    Host(String),
    /// It does not begin with `/`, or holds what no path holds.
    #[error("`{0}` is no path")]
    Path(String),
}

fn check(edit: Edit<'_>) -> Result<(), EditError> {
    if may(edit) { Ok(()) } else { Err(EditError::Field(edit.name().to_owned())) }
}

/// A request that is about to go on.
pub struct ProxiedRequest<'a> {
    seen: &'a Seen<'a>,
    edits: &'a mut Edits,
}

impl fmt::Debug for ProxiedRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxiedRequest").field("host", &self.host()).field("path", &self.path()).finish_non_exhaustive()
    }
}

impl ProxiedRequest<'_> {
    /// The host that the client asked for, without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.seen.host()
    }

    /// The id of the route that matched.
    #[must_use]
    pub fn route(&self) -> &str {
        self.seen.record.route.map_or("", |route| &self.seen.record.view.snapshot.routes[route].id)
    }

    /// The pool that an endpoint is picked from. Which one it is, is settled only after the hooks, since they may still
    /// reject the request and the cache may still answer it.
    #[must_use]
    pub fn pool(&self) -> &str {
        let snapshot = &self.seen.record.view.snapshot;
        let Some(route) = self.seen.record.route.map(|route| &snapshot.routes[route]) else { return "" };
        let pool = self.edits.pool.or(route.targets.first().map(|target| target.pool));
        pool.map_or("", |pool| &snapshot.pools[pool].id)
    }

    /// The nearest address that no trusted proxy stands for.
    #[must_use]
    pub fn client_addr(&self) -> IpAddr {
        self.seen.client_ip()
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.seen.method()
    }

    /// The path as the client sent it.
    #[must_use]
    pub fn path(&self) -> &str {
        self.seen.path()
    }

    /// The query as the client sent it, without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.seen.query()
    }

    /// Whether the client came over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.seen.tls().is_some()
    }

    /// Under this id the request is logged, traced and sent on.
    #[must_use]
    pub fn request_id(&self) -> &[u8] {
        self.seen.request_id()
    }

    /// The first value of a field as it will go on.
    #[must_use]
    pub fn header<'h>(&'h self, name: &'h str) -> Option<&'h [u8]> {
        self.seen.header(name, self.edits)
    }

    /// Adds a field.
    ///
    /// # Errors
    /// It cannot be written, or belongs to framing or to one hop.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        self.edit(Edit::Add(name, value.as_bytes()))
    }

    /// Replaces every field of this name.
    ///
    /// # Errors
    /// As [`Self::add_header`].
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        self.edit(Edit::Set(name, value.as_bytes()))
    }

    /// Removes every field of this name.
    ///
    /// # Errors
    /// As [`Self::add_header`].
    pub fn remove_header(&mut self, name: &str) -> Result<(), EditError> {
        self.edit(Edit::Remove(name))
    }

    /// The `Host` that the endpoint sees, whatever the pool's `host_header` is. Matching is over and does not change.
    ///
    /// # Errors
    /// It is no host with an optional port.
    pub fn set_host(&mut self, host: &str) -> Result<(), EditError> {
        if host.is_empty() || !is_authority(host) {
            return Err(EditError::Host(host.to_owned()));
        }
        self.edits.target.get_or_insert_default().host = Some(host.into());
        Ok(())
    }

    /// The path that the endpoint sees, in place of what the route's rewrite would make. The query stays.
    ///
    /// # Errors
    /// It does not begin with `/`, or holds a space, a control byte, `?`, `#` or what is not ASCII.
    pub fn set_path(&mut self, path: &str) -> Result<(), EditError> {
        let written = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
        if !path.starts_with('/') || !written {
            return Err(EditError::Path(path.to_owned()));
        }
        self.edits.target.get_or_insert_default().path = Some(path.into());
        Ok(())
    }

    fn edit(&mut self, edit: Edit<'_>) -> Result<(), EditError> {
        check(edit)?;
        apply(&mut self.edits.request, edit);
        Ok(())
    }
}

/// What hooks made of where a request goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) host: Option<Box<str>>,
    pub(crate) path: Option<Box<str>>,
}

/// What later hooks are told of the request.
pub(crate) struct Hooked {
    hooks: Arc<Hooks>,
    route: Arc<str>,
    host: Box<str>,
    method: Box<str>,
    path: Box<str>,
    client: IpAddr,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}

/// Runs the hooks for requests: the stage behind a route's middleware.
pub(crate) fn admit(hooks: &Arc<Hooks>, seen: &Seen<'_>, edits: &mut Edits) -> Step {
    for hook in &hooks.on_request {
        match hook(&mut ProxiedRequest { seen, edits }) {
            Verdict::Forward => {}
            Verdict::Reject => return Step::Answer(Box::new(Local::refusal(Category::RequestRejected, ""))),
            Verdict::Answer(Answer { status, content_type, body }) => {
                let mut lines = Vec::new();
                if !content_type.is_empty() {
                    write::field(&mut lines, b"Content-Type", content_type.as_bytes());
                }
                let content = Content::Whole(body);
                return Step::Answer(Box::new(Local::Whole { status, reason: None, lines, content }));
            }
        }
    }
    if !hooks.on_response.is_empty() || !hooks.on_error.is_empty() {
        edits.hooked = Some(Rc::new(Hooked::of(hooks, seen)));
    }
    Step::Continue
}

impl Hooked {
    fn of(hooks: &Arc<Hooks>, seen: &Seen<'_>) -> Self {
        let route = seen.record.route.map(|route| &seen.record.view.snapshot.routes[route].id);
        Self {
            hooks: Arc::clone(hooks),
            route: route.map_or_else(|| Arc::from(""), |id| Arc::from(&**id)),
            host: seen.host().into(),
            method: seen.method().into(),
            path: seen.path().into(),
            client: seen.client_ip(),
        }
    }

    /// Shows the hooks an endpoint's final head: its status and whole lines, without those of one hop.
    pub(crate) fn respond(&self, endpoint: &str, status: u16, lines: LinesView<'_>) -> Responded {
        let mut response = ProxiedResponse { request: self, endpoint, lines, responded: Responded::of(status) };
        for hook in &self.hooks.on_response {
            hook(&mut response);
        }
        response.responded
    }

    /// Tells the hooks of an attempt that failed. Attempts count from 1.
    pub(crate) fn fail(&self, endpoint: &str, attempt: u32, category: Category, detail: &dyn fmt::Display) {
        for hook in &self.hooks.on_error {
            hook(&AttemptError { request: self, endpoint, attempt, category, detail });
        }
    }
}

/// An endpoint's answer that is about to go to the client.
#[derive(Debug)]
pub struct ProxiedResponse<'a> {
    request: &'a Hooked,
    endpoint: &'a str,
    lines: LinesView<'a>,
    responded: Responded,
}

/// What the hooks made of an answer.
#[derive(Debug)]
pub(crate) struct Responded {
    pub(crate) status: u16,
    pub(crate) edits: FieldEdits,
    pub(crate) wish: Wish,
}

/// Whether an answer is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    /// As the config's rules and the answer itself have it.
    #[default]
    None,
    Never,
    Keep(Keep),
}

/// How long an answer is cached that a hook wants cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub(crate) ttl: Duration,
    pub(crate) hits_max: Option<u32>,
    pub(crate) pre_compress: Option<bool>,
    pub(crate) length_min: Option<u64>,
}

impl Keep {
    /// For this time, from now on; a year at most.
    #[must_use]
    pub const fn for_time(ttl: Duration) -> Self {
        Self { ttl, hits_max: None, pre_compress: None, length_min: None }
    }

    /// And for at most so many clients after this one, whichever ends first.
    #[must_use]
    pub const fn hits_max(self, hits: u32) -> Self {
        Self { hits_max: Some(hits), ..self }
    }

    /// With or without a gzip copy beside it, whatever the config says.
    #[must_use]
    pub const fn pre_compress(self, on: bool) -> Self {
        Self { pre_compress: Some(on), ..self }
    }

    /// The gzip copy is made of content of at least so many bytes.
    #[must_use]
    pub const fn compress_min_length(self, bytes: u64) -> Self {
        Self { length_min: Some(bytes), ..self }
    }
}

impl Responded {
    fn of(status: u16) -> Self {
        Self { status, edits: FieldEdits::default(), wish: Wish::None }
    }

    /// The lines as edited.
    pub(crate) fn lines(&self, lines: LinesView<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(lines.0.len() + self.edits.lines().len());
        for (name, _, line) in lines.lines() {
            if !self.edits.removes(name) {
                out.extend_from_slice(line);
            }
        }
        out.extend_from_slice(self.edits.lines());
        out
    }
}

impl ProxiedResponse<'_> {
    /// The host that the client asked for.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.request.host
    }

    /// The id of the route.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.request.route
    }

    /// The endpoint that answered, as configured.
    #[must_use]
    pub fn backend(&self) -> &str {
        self.endpoint
    }

    /// The request's method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.request.method
    }

    /// The request's path, as the client sent it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.request.path
    }

    /// The status, as edited.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.responded.status
    }

    /// Another status. Access log, metrics and gates go by it; retries have been decided before.
    ///
    /// # Errors
    /// It is none of 200 to 599, or one of 204, 205 and 304, which have no content; or the answer has one of these, or
    /// switches protocols.
    pub fn set_status(&mut self, status: u16) -> Result<(), EditError> {
        let fixed = |status: u16| matches!(status, 0..200 | 204 | 205 | 304 | 600..);
        if fixed(status) || fixed(self.responded.status) {
            return Err(EditError::Status(status));
        }
        self.responded.status = status;
        Ok(())
    }

    /// The first value of a field, as edited.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let edits = &self.responded.edits;
        let sent = self.lines.lines().find(|(found, ..)| found.eq_ignore_ascii_case(name.as_bytes()));
        match sent.filter(|(found, ..)| !edits.removes(found)) {
            Some((_, value, _)) => Some(value),
            None => edits.value(name.as_bytes()),
        }
    }

    /// Adds a field.
    ///
    /// # Errors
    /// It cannot be written, or belongs to framing or to one hop.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        self.edit(Edit::Add(name, value.as_bytes()))
    }

    /// Replaces every field of this name.
    ///
    /// # Errors
    /// As [`Self::add_header`].
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        self.edit(Edit::Set(name, value.as_bytes()))
    }

    /// Removes every field of this name.
    ///
    /// # Errors
    /// As [`Self::add_header`].
    pub fn remove_header(&mut self, name: &str) -> Result<(), EditError> {
        self.edit(Edit::Remove(name))
    }

    /// Keeps the answer of a GET, whatever rules and the answer's own directives say, within the cache's bounds. An
    /// answer to a request with credentials is kept for these credentials alone, and `Set-Cookie` is not kept. What
    /// cannot be stored whole is not: 206, `Vary: *`, event streams, content that ends with the connection.
    pub fn cache_this(&mut self, keep: Keep) {
        self.responded.wish = Wish::Keep(keep);
    }

    /// Keeps the answer out of the cache, whatever rules say.
    pub fn do_not_cache(&mut self) {
        self.responded.wish = Wish::Never;
    }

    fn edit(&mut self, edit: Edit<'_>) -> Result<(), EditError> {
        check(edit)?;
        apply(&mut self.responded.edits, edit);
        Ok(())
    }
}

/// An attempt on an endpoint that failed.
pub struct AttemptError<'a> {
    request: &'a Hooked,
    endpoint: &'a str,
    attempt: u32,
    category: Category,
    detail: &'a dyn fmt::Display,
}

impl fmt::Debug for AttemptError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AttemptError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, attempt, category, detail, .. } = self;
        write!(f, "{}: {endpoint}, attempt {attempt}: {}: {detail}", self.host(), category.name())
    }
}

impl AttemptError<'_> {
    /// The host that the client asked for.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.request.host
    }

    /// The id of the route.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.request.route
    }

    /// The endpoint, as configured.
    #[must_use]
    pub fn backend(&self) -> &str {
        self.endpoint
    }

    /// From 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What the client is told if this was the last attempt.
    #[must_use]
    pub fn category(&self) -> Category {
        self.category
    }

    /// What happened.
    #[must_use]
    pub fn detail(&self) -> String {
        self.detail.to_string()
    }

    /// The client.
    #[must_use]
    pub fn client_addr(&self) -> IpAddr {
        self.request.client
    }

    /// The request's method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.request.method
    }

    /// The request's path, as the client sent it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.request.path
    }
}

//! Polling: an agent's HTTP address, or a folder on any file server.
//!
//! What is fetched ends in the same channel as an attached proxy's commands, and is verified and applied by the same code.
//! Answers are bounded in size and time. A failure is told once, until it changes; all of them are counted. With nobody
//! there the proxy serves what it has.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use prost::Message as _;
use sealane_model::bundle::MANIFEST_BYTES_MAX;
use sealane_model::ids::Digest;
use sealane_node::disk;
use sealane_proto::v1;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::folder::{Folder, HEAD_BYTES_MAX};
use super::http_client::{Answer, HttpClient, PullError};
use super::refusal::Refusals;
use super::unix_ms;

/// The HTTP side of a proxy that polls.
#[derive(Debug)]
pub(crate) struct Poll {
    /// For what is small, and for content, so that a report does not wait for a download.
    pub(crate) talk: HttpClient,
    pub(crate) content: HttpClient,
    pub(crate) kind: Kind,
    pub(crate) interval: Duration,
    pub(crate) jitter: Duration,
    pub(crate) credentials: Option<Arc<Credentials>>,
    pub(crate) refusals: Refusals,
    /// Something newer is there: no need to wait for the next poll.
    pub(crate) wake: Notify,
    pub(crate) tag: Mutex<Option<String>>,
    pub(crate) counts: Arc<Counts>,
}

/// Who is polled.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An agent, with what to say of oneself.
    Agent(v1::AttachRequest),
    /// A folder that `sealane revision export --dir` wrote.
    Folder(Folder),
}

/// Polls since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) changed: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Unix time in milliseconds; 0: never.
    pub(crate) last_success_unix_ms: AtomicI64,
}

/// Where to what a poll brings goes.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) status: watch::Receiver<v1::ProxyStatus>,
    pub(crate) desired: watch::Sender<Option<Arc<v1::ProxyDesired>>>,
    pub(crate) sandbox: watch::Sender<Option<Arc<v1::SandboxOffer>>>,
    pub(crate) attached: watch::Sender<bool>,
}

impl Poll {
    /// Polls until `cancel`.
    pub(crate) async fn run(self: Arc<Self>, out: Out, cancel: CancellationToken) {
        let mut told = String::new();
        loop {
            let polled = tokio::select! {
                () = cancel.cancelled() => return,
                polled = self.once(&out) => polled,
            };
            let succeeded = polled.is_ok();
            match polled {
                Ok(changed) => {
                    let count = if changed { &self.counts.changed } else { &self.counts.unchanged };
                    count.fetch_add(1, Ordering::Relaxed);
                    self.counts.last_success_unix_ms.store(unix_ms(), Ordering::Relaxed);
                    if !told.is_empty() {
                        tracing::info!("polling works again");
                        told.clear();
                    }
                }
                Err(reason) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    if reason != told {
                        tracing::warn!(reason, "cannot poll, serving what is there");
                        told = reason;
                    }
                }
            }
            out.attached.send_if_modified(|attached| std::mem::replace(attached, succeeded) != succeeded);
            let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
            let wait = self.interval + self.jitter.mul_f64(share);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// One poll; whether it brought something new.
    async fn once(&self, out: &Out) -> Result<bool, String> {
        self.enrol().await?;
        let counted = |error: PullError| {
            if let Some(code) = error.code() {
                self.refusals.add(code);
            }
            disk::chain(&error)
        };
        match &self.kind {
            Kind::Agent(hello) => {
                let generation = out.status.borrow().generation.max(hello.generation);
                let target = format!(
                    "/v1/bundle?proxy={}&instance={}&build={}&fleet={}&generation={generation}&root_version={}",
                    hello.proxy_id, hello.instance, hello.build, hello.fleet_id, hello.root_version
                );
                let Some(answer) = self.conditional(&target, BUNDLE_BYTES_MAX).await.map_err(counted)? else {
                    return Ok(false);
                };
                if answer.status == StatusCode::NO_CONTENT {
                    return Ok(false);
                }
                let bundle = v1::PullBundle::decode(answer.body.clone())
                    .map_err(|_| counted(PullError::Malformed("bundle of an agent")))?;
                if let (Some(listed), Some(credentials)) = (&bundle.revoked, &self.credentials)
                    && credentials.take_revoked(listed)
                {
                    tracing::warn!("certificates of the fleet were revoked: who shows them is turned away");
                    self.talk.forget().await; // the next connection is judged anew
                    self.content.forget().await;
                }
                if let Some(sandbox) = bundle.sandbox {
                    let new = out.sandbox.borrow().as_deref() != Some(&sandbox);
                    if new {
                        out.sandbox.send_replace(Some(Arc::new(sandbox)));
                    }
                }
                if let Some(desired) = bundle.desired {
                    out.desired.send_replace(Some(Arc::new(desired)));
                }
                self.keep_tag(&answer);
                Ok(true)
            }
            Kind::Folder(folder) => {
                let Some(answer) = self.conditional(&folder.head(), HEAD_BYTES_MAX).await.map_err(counted)? else {
                    return Ok(false);
                };
                let status = out.status.borrow().clone();
                let desired = folder.read(&answer.body, &status).await.map_err(|error| {
                    self.refusals.add(error.code());
                    disk::chain(&error)
                })?;
                self.keep_tag(&answer);
                let Some(desired) = desired else { return Ok(false) };
                out.desired.send_replace(Some(Arc::new(desired)));
                Ok(true)
            }
        }
    }

    /// `None`: what is there is what was taken last.
    async fn conditional(&self, target: &str, bytes_max: usize) -> Result<Option<Answer>, PullError> {
        let tag = self.lock_tag().clone().and_then(|tag| HeaderValue::from_str(&tag).ok());
        let headers: Vec<(HeaderName, HeaderValue)> = tag.into_iter().map(|tag| (header::IF_NONE_MATCH, tag)).collect();
        let answer = self.talk.ask(Method::GET, target, &headers, Bytes::new(), bytes_max, POLL_TIMEOUT).await?;
        Ok(Some(answer).filter(|answer| answer.status != StatusCode::NOT_MODIFIED))
    }

    /// A manifest or a chunk.
    pub(crate) async fn blob(&self, digest: Digest) -> Result<Vec<u8>, PullError> {
        let target = match &self.kind {
            Kind::Agent(_) => format!("/v1/blobs/{digest}"),
            Kind::Folder(folder) => match folder.manifest(&digest) {
                Some(manifest) => return Ok(manifest),
                None => folder.blob(&digest),
            },
        };
        let asked =
            self.content.ask(Method::GET, &target, &[], Bytes::new(), MANIFEST_BYTES_MAX, CONTENT_TIMEOUT).await;
        let answer = asked.inspect_err(|error| {
            if let Some(code) = error.code() {
                self.refusals.add(code);
            }
        })?;
        Ok(answer.body.to_vec())
    }

    /// Tells the agent what is; a folder hears nothing.
    pub(crate) async fn report(&self, status: v1::ProxyStatus) -> bool {
        let Kind::Agent(hello) = &self.kind else { return true };
        let target = format!("/v1/report?root_version={}", hello.root_version);
        let body = Bytes::from(status.encode_to_vec());
        match self.talk.ask(Method::POST, &target, &[], body, BUNDLE_BYTES_MAX, REPORT_TIMEOUT).await {
            Ok(answer) => {
                let newest = answer.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
                if newest.is_some() && newest != self.lock_tag().as_deref() {
                    self.wake.notify_one();
                }
                true
            }
            Err(error) => {
                // It does not know this process (any more): a poll says hello again.
                if matches!(&error, PullError::Status { status, .. } if *status == StatusCode::CONFLICT) {
                    self.wake.notify_one();
                }
                false
            }
        }
    }

    async fn enrol(&self) -> Result<(), String> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let new = credentials.ensure(async |request: v1::EnrolProxyRequest| {
            let body = Bytes::from(request.encode_to_vec());
            let asked = self.talk.ask(Method::POST, "/v1/enrol", &[], body, BUNDLE_BYTES_MAX, CONTENT_TIMEOUT).await;
            let answer = asked.map_err(|error| disk::chain(&error))?;
            v1::EnrolProxyResponse::decode(answer.body).map_err(|_| "the answer is no certificate".to_owned())
        });
        if new.await.map_err(|error| disk::chain(&error))? {
            self.talk.forget().await;
            self.content.forget().await;
        }
        Ok(())
    }

    fn keep_tag(&self, answer: &Answer) {
        let tag = answer.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        *self.lock_tag() = tag;
    }

    fn lock_tag(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.tag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command carries a few releases, roots and a grant: 64 KiB each at most.
const BUNDLE_BYTES_MAX: usize = 4 << 20;
/// For one poll, all in all.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a manifest or a chunk.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(30);

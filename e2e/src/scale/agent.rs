//! A simulated agent: one connection, one subscription, real documents and real content; its proxies are numbers.
//!
//! What it does as a real agent: token, hello, verification of every document (a share of the agents by themselves, the
//! others against what one of those verified), a fetch of each chunk that it does not hold, digests of all content, reports
//! at once on a change and otherwise as often as the authority asks, full-jitter backoff. What it leaves out: files, and the
//! pause before the second proxy of a stage.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sealane_model::bundle::{MANIFEST_BYTES_MAX, transfer};
use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, ProxyId};
use sealane_model::release::{CAPABILITIES, VerifiedRelease};
use sealane_model::trust::TrustRoot;
use sealane_proto::v1;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::wire::{Meter, connect};

/// What all agents of a fleet share.
#[derive(Debug)]
pub struct World {
    /// Where the authority is.
    pub authority: SocketAddr,
    /// `Bearer …`
    pub token: MetadataValue<Ascii>,
    /// Where they all are.
    pub region: String,
    /// Whom they trust.
    pub trust: TrustRoot,
    /// Proxies of each.
    pub proxies: usize,
    /// Every so many-th verifies every signature by itself.
    pub verify_every: usize,
    /// What they have come to.
    pub progress: Progress,
    /// Releases that one of them verified, by the SHA-256 of their payload.
    verified: Mutex<HashMap<Digest, VerifiedRelease>>,
    /// Content that was fetched, for those that put it together.
    content: Mutex<HashMap<Digest, Arc<[u8]>>>,
}

/// Counts over all agents of a fleet.
#[derive(Debug, Default)]
pub struct Progress {
    /// Streams that are open and have brought a desired state.
    pub subscribed: AtomicUsize,
    /// Tries to open one.
    pub attempts: AtomicU64,
    /// Of these, turned away to come again later.
    pub turned_away: AtomicU64,
    /// Signatures that were verified.
    pub signatures: AtomicU64,
    /// Answers that did not come in time: a matter of load.
    pub late: AtomicU64,
    /// Reports that were answered.
    pub reports: AtomicU64,
    /// Chunks and manifests that were fetched.
    pub fetched: AtomicU64,
    /// Agents whose reports of a revision active on all their proxies the authority has answered.
    confirmed: Mutex<HashMap<u64, usize>>,
    /// What went wrong that is no matter of load: each is a fault of the authority or of the simulation.
    pub faults: Mutex<Vec<String>>,
}

impl Progress {
    /// Agents of which the authority knows that all their proxies run this revision.
    #[must_use]
    pub fn confirmed(&self, revision: u64) -> usize {
        lock(&self.confirmed).get(&revision).copied().unwrap_or(0)
    }

    /// The first things that went wrong.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        lock(&self.faults).iter().take(5).cloned().collect()
    }
}

impl World {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(
        authority: SocketAddr,
        token: MetadataValue<Ascii>,
        region: String,
        trust: TrustRoot,
        proxies: usize,
        verify_every: usize,
    ) -> Self {
        Self {
            authority,
            token,
            region,
            trust,
            proxies,
            verify_every: verify_every.max(1),
            progress: Progress::default(),
            verified: Mutex::default(),
            content: Mutex::default(),
        }
    }
}

impl World {
    async fn fetch(&self, digest: Digest, bytes_max: usize, mut client: Client) -> anyhow::Result<Arc<[u8]>> {
        let request = self.signed(v1::GetChunkRequest { digest: digest.to_vec(), deflate: true });
        let answer = client.get_chunk(request).await?.into_inner();
        let content = match &*answer.deflated {
            [] => answer.content.to_vec(),
            deflated => transfer::inflate(deflated, bytes_max)?,
        };
        ensure!(Digest::of(&content) == digest, "{digest} came with other bytes");
        self.progress.fetched.fetch_add(1, Ordering::Relaxed);
        let mut kept = lock(&self.content);
        Ok(Arc::clone(kept.entry(digest).or_insert_with(|| content.into())))
    }

    fn signed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }
}

/// One agent.
#[derive(Debug)]
pub struct Agent {
    world: Arc<World>,
    id: String,
    /// Verifies everything by itself.
    thorough: bool,
    /// What its connections moved.
    pub meter: Arc<Meter>,
    held: HashSet<Digest>,
    /// Whose content is held, by release digest.
    complete: HashMap<Digest, u64>,
    state_version: u64,
    floor: u64,
    proxies: Vec<Proxy>,
    counted: u64,
    told: Option<u64>,
}

#[derive(Debug)]
struct Proxy {
    id: ProxyId,
    active: Option<(Digest, u64)>,
    prepared: Option<(Digest, u64)>,
    last_good: Option<(Digest, u64)>,
}

type Client = AgentServiceClient<Channel>;

impl Agent {
    /// Agent number `number` of the world.
    #[must_use]
    pub fn new(world: Arc<World>, number: usize) -> Self {
        let proxy = |proxy| Proxy {
            id: ProxyId(format!("proxy-{number}-{proxy}")),
            active: None,
            prepared: None,
            last_good: None,
        };
        Self {
            id: format!("agent-{number}"),
            thorough: number.is_multiple_of(world.verify_every),
            meter: Arc::default(),
            held: HashSet::new(),
            complete: HashMap::new(),
            state_version: 0,
            floor: 0,
            proxies: (0..world.proxies).map(proxy).collect(),
            counted: 0,
            told: None,
            world,
        }
    }

    /// Stays subscribed for ever.
    pub async fn run(mut self) {
        let mut attempt = 0_u32;
        loop {
            self.world.progress.attempts.fetch_add(1, Ordering::Relaxed);
            let mut subscribed = false;
            let ended = self.follow(&mut subscribed).await;
            if subscribed {
                self.world.progress.subscribed.fetch_sub(1, Ordering::Relaxed);
                attempt = 0;
            }
            if let Err(error) = ended {
                match error.downcast_ref::<tonic::Status>().map(tonic::Status::code) {
                    Some(tonic::Code::ResourceExhausted) => {
                        self.world.progress.turned_away.fetch_add(1, Ordering::Relaxed);
                    }
                    code if code == Some(tonic::Code::DeadlineExceeded)
                        || error.downcast_ref::<tokio::time::error::Elapsed>().is_some() =>
                    {
                        self.world.progress.late.fetch_add(1, Ordering::Relaxed);
                    }
                    // The connection broke, or there is nobody.
                    Some(tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown) => {}
                    _ if error.downcast_ref::<tonic::transport::Error>().is_some() => {}
                    _ => lock(&self.world.progress.faults).push(format!("{}: {error:#}", self.id)),
                }
            }
            let bound = FIRST.saturating_mul(1 << attempt.min(10)).min(LAST);
            attempt += 1;
            let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
            sleep(bound.mul_f64(share)).await;
        }
    }

    /// One stream, from the hello to its end.
    async fn follow(&mut self, subscribed: &mut bool) -> anyhow::Result<()> {
        let channel = connect(self.world.authority, Arc::clone(&self.meter)).await?;
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let hello = self.world.signed(self.hello());
        let answer = timeout(STREAM_TIMEOUT, client.subscribe(hello)).await.context("no answer to the hello")??;
        let mut stream = answer.into_inner();
        let mut due = Instant::now();
        loop {
            let event = tokio::select! {
                message = timeout(STREAM_TIMEOUT, stream.message()) => {
                    message.context("the beacons stopped")??.context("the stream was closed")?.event
                }
                () = sleep_until(due) => {
                    due = Instant::now() + self.report(&mut client).await?;
                    continue;
                }
            };
            if !*subscribed {
                *subscribed = true;
                self.world.progress.subscribed.fetch_add(1, Ordering::Relaxed);
            }
            match event {
                Some(v1::subscribe_response::Event::Desired(desired)) => {
                    let is_new = self.take(desired, &mut client).await?;
                    due = if is_new { Instant::now() } else { due };
                }
                Some(v1::subscribe_response::Event::Beacon(beacon)) => {
                    let timestamp = beacon.timestamp.context("a beacon without a timestamp document")?;
                    self.verify_timestamp(&timestamp)?;
                }
                Some(v1::subscribe_response::Event::Question(_)) | None => {}
            }
        }
    }

    fn hello(&self) -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            agent_id: self.id.clone(),
            region: self.world.region.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            instance: format!("{}-instance", self.id),
            capabilities: CAPABILITIES.iter().map(|&capability| capability.to_owned()).collect(),
            epoch: 0,
            revision_floor: self.floor,
            root_version: self.world.trust.document().version,
        }
    }

    /// Takes a desired state in; whether anything is new.
    async fn take(&mut self, desired: v1::DesiredState, client: &mut Client) -> anyhow::Result<bool> {
        if let Some(timestamp) = &desired.timestamp {
            self.verify_timestamp(timestamp)?;
        }
        let is_new = self.state_version != desired.state_version;
        let stable = desired.stable.as_ref().map(|release| self.verify_release(release)).transpose()?;
        if let Some(release) = &stable {
            self.complete(release, client).await?;
        }
        if let Some(candidate) = desired.candidate {
            let envelope = candidate.release.context("a candidate without a release")?;
            let release = self.verify_release(&envelope)?;
            self.complete(&release, client).await?;
            let named = Some((release.digest(), release.release().revision.0));
            self.proxies.iter_mut().for_each(|proxy| proxy.prepared = named);
            for grant in candidate.grants {
                let grant = self.world.trust.verify_grant(&Envelope::from(grant))?;
                self.signed_once();
                let covered = |proxy: &&mut Proxy| grant.grant().covers(&proxy.id, &self.world.region);
                self.proxies.iter_mut().filter(covered).for_each(|proxy| proxy.active = named);
            }
        } else if let Some(release) = &stable {
            let named = Some((release.digest(), release.release().revision.0));
            for proxy in &mut self.proxies {
                (proxy.active, proxy.prepared, proxy.last_good) = (named, named, named);
            }
        }
        self.state_version = desired.state_version;
        Ok(is_new)
    }

    fn verify_timestamp(&self, timestamp: &v1::Envelope) -> anyhow::Result<()> {
        if self.thorough {
            self.world.trust.verify_timestamp(&Envelope::from(timestamp), None)?;
            self.signed_once();
        }
        Ok(())
    }

    fn verify_release(&mut self, envelope: &v1::Envelope) -> anyhow::Result<VerifiedRelease> {
        let name = Digest::of(&envelope.payload);
        let known = lock(&self.world.verified).get(&name).cloned();
        let release = match known.filter(|_| !self.thorough) {
            Some(release) => release,
            None => {
                let release = self.world.trust.verify_release(&Envelope::from(envelope))?;
                self.signed_once();
                lock(&self.world.verified).insert(name, release.clone());
                release
            }
        };
        self.floor = self.floor.max(release.release().revision.0);
        Ok(release)
    }

    fn signed_once(&self) {
        self.world.progress.signatures.fetch_add(1, Ordering::Relaxed);
    }

    /// Fetches what is missing of a release.
    async fn complete(&mut self, release: &VerifiedRelease, client: &mut Client) -> anyhow::Result<()> {
        if self.complete.contains_key(&release.digest()) {
            return Ok(());
        }
        let bytes = self.world.fetch(release.release().manifest_digest, MANIFEST_BYTES_MAX, client.clone()).await?;
        let manifest = release.open_manifest(&bytes)?;
        let mut missing = Vec::new();
        for digest in manifest.chunks() {
            if self.held.insert(digest) {
                missing.push((digest, manifest.chunk_bytes(&digest).unwrap_or(0) as usize));
            }
        }
        let fetch = |(digest, bytes)| {
            let (world, client) = (Arc::clone(&self.world), client.clone());
            async move { world.fetch(digest, bytes, client).await.map(drop) }
        };
        let fetched = stream::iter(missing).map(fetch).buffer_unordered(CHUNKS_AT_ONCE).try_collect::<()>().await;
        if let Err(error) = fetched {
            // What came is fetched again with the next try: simple, and rare.
            self.held.clear();
            return Err(error);
        }
        if self.thorough {
            let content = lock(&self.world.content);
            manifest.open(|digest| content.get(digest).map(|bytes| bytes.to_vec()))?;
        }
        self.complete.insert(release.digest(), release.release().revision.0);
        Ok(())
    }

    /// Says what is; how long until the next time.
    async fn report(&mut self, client: &mut Client) -> anyhow::Result<Duration> {
        self.counted += 100;
        let status = |proxy: &Proxy| {
            let name = |one: Option<(Digest, u64)>| one.map_or((Vec::new(), 0), |(digest, of)| (digest.to_vec(), of));
            let (active_digest, active_revision) = name(proxy.active);
            let (prepared_digest, prepared_revision) = name(proxy.prepared);
            let (last_good_digest, last_good_revision) = name(proxy.last_good);
            v1::ProxyStatus {
                proxy_id: proxy.id.0.clone(),
                build: env!("CARGO_PKG_VERSION").to_owned(),
                instance: "one".to_owned(),
                attached: true,
                ready: active_revision > 0,
                counts: vec![v1::RevisionCounts {
                    revision: active_revision,
                    release_digest: active_digest.clone(),
                    requests: self.counted,
                    latency_bucket: (20..30).collect(),
                    latency_count: vec![self.counted / 10; 10],
                    ..Default::default()
                }],
                active_digest,
                active_revision,
                prepared_digest,
                prepared_revision,
                last_good_digest,
                last_good_revision,
                data_address: "127.0.0.1:8080".to_owned(),
                ..Default::default()
            }
        };
        let report = v1::ReportRequest {
            agent_id: self.id.clone(),
            instance: format!("{}-instance", self.id),
            state_version: self.state_version,
            revision_floor: self.floor,
            proxies: self.proxies.iter().map(status).collect(),
            ..Default::default()
        };
        let mut request = self.world.signed(report);
        request.set_timeout(REPORT_TIMEOUT);
        let answer = timeout(REPORT_TIMEOUT, client.report(request)).await.context("no answer to a report")??;
        self.world.progress.reports.fetch_add(1, Ordering::Relaxed);
        let active: HashSet<Option<u64>> = self.proxies.iter().map(|one| one.active.map(|(_, of)| of)).collect();
        if let [Some(revision)] = *active.into_iter().collect::<Vec<_>>()
            && self.told != Some(revision)
        {
            let mut confirmed = lock(&self.world.progress.confirmed);
            if let Some(before) = self.told.and_then(|told| confirmed.get_mut(&told)) {
                *before -= 1;
            }
            *confirmed.entry(revision).or_default() += 1;
            self.told = Some(revision);
        }
        let next = Duration::from_millis(u64::from(answer.into_inner().next_report_ms));
        Ok(next.clamp(REPORT_GAP, REPORT_LAST))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// As those of a real agent.
const STREAM_TIMEOUT: Duration = Duration::from_secs(25);
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const REPORT_GAP: Duration = Duration::from_millis(200);
const REPORT_LAST: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(10);
const CHUNKS_AT_ONCE: usize = 8;
const MESSAGE_BYTES_MAX: usize = 9 << 20;

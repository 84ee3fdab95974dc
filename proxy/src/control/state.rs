//! What a proxy remembers of its fleet, verified, and as bytes on disk.
//!
//! Two files with the same format (one line with version and SHA-256, then JSON): the present one and the one before,
//! so that a damaged file does not keep a proxy from starting. What is read back is verified again. It does not know
//! the agent.

use std::collections::{BTreeMap, BTreeSet};

use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, Epoch, FleetId, Revision};
use sealane_model::release::{Floor, VerifiedRelease};
use sealane_model::timestamp::VerifiedTimestamp;
use sealane_model::trust::{TrustRoot, chain};
use sealane_model::verify::VerifyError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// A release of which every byte was verified and is on disk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) release: VerifiedRelease,
    /// Manifest and chunks.
    pub(crate) blobs: Vec<Digest>,
}

/// What a proxy remembers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) id: String,
    /// Oldest first, never empty; the last one rules.
    pub(crate) roots: Vec<TrustRoot>,
    pub(crate) floor: Option<Floor>,
    /// The newest revision of the sandbox partition, and that partition's floor.
    pub(crate) sandbox: Option<Kept>,
    pub(crate) sandbox_floor: Option<Floor>,
    /// The newest timestamp document, where no agent stands in between.
    pub(crate) timestamp: Option<VerifiedTimestamp>,
    /// The newest command that was carried out, and the digest of its bytes.
    pub(crate) generation: u64,
    pub(crate) command: Option<Digest>,
    pub(crate) kept: BTreeMap<Digest, Kept>,
    /// Last good first: what a start begins with, and what it falls back to.
    pub(crate) ring: Vec<Digest>,
}

/// Why state bytes do not open.
#[derive(Debug, Error)]
pub enum StateError {
    /// Bit rot, a cut file, or an edit.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Of a later program.
    #[error("it has format {0}, which a newer version of this program wrote")]
    TooNew(u32),
    /// A document in it does not verify.
    #[error("it holds a document that does not verify")]
    Untrusted(#[from] VerifyError),
}

impl State {
    pub(crate) fn new(id: String, pinned: TrustRoot) -> Self {
        Self {
            id,
            roots: vec![pinned],
            floor: None,
            sandbox: None,
            sandbox_floor: None,
            timestamp: None,
            generation: 0,
            command: None,
            kept: BTreeMap::new(),
            ring: Vec::new(),
        }
    }

    /// The trust root that rules.
    pub(crate) fn trust(&self) -> &TrustRoot {
        self.roots.last().expect("a state is made with a root and roots are only added")
    }

    pub(crate) fn fleet(&self) -> &FleetId {
        self.trust().fleet()
    }

    /// The kept release with the very payload of `envelope`, whatever signatures stand beside it here or there.
    pub(crate) fn release_like(&self, envelope: &Envelope) -> Option<&VerifiedRelease> {
        let like = |held: &&VerifiedRelease| {
            held.envelope().payload_type == envelope.payload_type && held.envelope().payload == envelope.payload
        };
        self.kept.values().map(|kept| &kept.release).find(like)
    }

    /// Whether `release` may be taken in, and the floor after that. What is kept (the ring and what the last command
    /// named) needs no floor: that is how a proxy goes back. Anything else must be newer, whatever the agent says.
    pub(crate) fn admit(&self, floor: Option<&Floor>, release: &VerifiedRelease) -> Result<Option<Floor>, VerifyError> {
        if floor.is_some() && self.kept.contains_key(&release.digest()) {
            return Ok(floor.copied());
        }
        Floor::admit(floor, release).map(Some)
    }

    /// The release at the floor, while it is kept.
    pub(crate) fn at_floor(&self) -> Option<&VerifiedRelease> {
        self.kept.get(&self.floor?.digest).map(|kept| &kept.release)
    }

    /// Makes `digest` what a start begins with.
    pub(crate) fn set_last_good(&mut self, digest: Digest) {
        if self.ring.first() != Some(&digest) && self.kept.contains_key(&digest) {
            self.ring.retain(|held| *held != digest);
            self.ring.insert(0, digest);
            self.ring.truncate(RING);
        }
    }

    /// Lets go of every release that is neither in the ring nor in `named`.
    pub(crate) fn keep_only(&mut self, named: &[Digest]) {
        let ring = &self.ring;
        self.kept.retain(|digest, _| ring.contains(digest) || named.contains(digest));
    }

    /// Every blob that is needed.
    pub(crate) fn referenced(&self) -> BTreeSet<Digest> {
        self.kept.values().chain(&self.sandbox).flat_map(|kept| kept.blobs.iter().copied()).collect()
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let record = Record {
            id: self.id.clone(),
            generation: self.generation,
            command: self.command.map(|digest| digest.to_string()),
            floor: self.floor.as_ref().map(floor_record),
            sandbox: self.sandbox.as_ref().map(kept_record),
            sandbox_floor: self.sandbox_floor.as_ref().map(floor_record),
            timestamp: self.timestamp.as_ref().map(|timestamp| json(timestamp.envelope())),
            ring: self.ring.iter().map(Digest::to_string).collect(),
            roots: self.roots.iter().map(|root| json(root.envelope())).collect(),
            kept: self.kept.values().map(kept_record).collect(),
        };
        let body = serde_json::to_vec_pretty(&record).expect("strings, numbers and lists always serialise");
        let mut bytes = format!("{MAGIC} {FORMAT} {}\n", Digest::of(&body)).into_bytes();
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The state in `bytes`, with every document verified again.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(StateError::Damaged("no first line"))?;
        let (head, body) = (&bytes[..end], &bytes[end + 1..]);
        let head = std::str::from_utf8(head).map_err(|_| StateError::Damaged("no first line"))?;
        let mut words = head.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(StateError::Damaged("it does not begin as a proxy's state"));
        }
        let format = words.next().and_then(|word| word.parse().ok()).ok_or(StateError::Damaged("no format"))?;
        if format != FORMAT {
            return Err(StateError::TooNew(format));
        }
        if words.next().and_then(Digest::from_hex) != Some(Digest::of(body)) {
            return Err(StateError::Damaged("its checksum does not fit"));
        }
        let record = serde_json::from_slice(body).map_err(|_| StateError::Damaged("its JSON does not parse"))?;
        restore(record)
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    generation: u64,
    command: Option<String>,
    floor: Option<FloorRecord>,
    ring: Vec<String>,
    roots: Vec<Value>,
    kept: Vec<KeptRecord>,
    #[serde(default)]
    sandbox: Option<KeptRecord>,
    #[serde(default)]
    sandbox_floor: Option<FloorRecord>,
    #[serde(default)]
    timestamp: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct FloorRecord {
    epoch: u32,
    revision: u64,
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct KeptRecord {
    envelope: Value,
    blobs: Vec<String>,
}

fn restore(record: Record) -> Result<State, StateError> {
    let mut roots: Vec<TrustRoot> = Vec::new();
    for value in &record.roots {
        let envelope = envelope(value)?;
        let root = match roots.last() {
            None => TrustRoot::pinned(&envelope)?,
            // A root that an operator pinned later follows nobody but its own threshold.
            Some(last) => last.next(&envelope).or_else(|_| TrustRoot::pinned(&envelope))?,
        };
        roots.push(root);
    }
    let Some(trust) = roots.last().cloned() else { return Err(StateError::Damaged("no trust root")) };
    let mut state = State::new(record.id, trust);
    for entry in &record.kept {
        let kept = restore_kept(&roots, entry)?;
        state.kept.insert(kept.release.digest(), kept);
    }
    state.sandbox = record.sandbox.as_ref().map(|entry| restore_kept(&roots, entry)).transpose()?;
    state.sandbox_floor = record.sandbox_floor.as_ref().map(restore_floor).transpose()?;
    if let Some(value) = &record.timestamp {
        let envelope = envelope(value)?;
        state.timestamp = Some(chain::verify_kept(&roots, |root| root.verify_timestamp(&envelope, None))?);
    }
    state.roots = roots;
    state.generation = record.generation;
    state.command = record.command.as_deref().map(digest).transpose()?;
    state.ring = record.ring.iter().map(|hex| digest(hex)).collect::<Result<_, _>>()?;
    state.floor = record.floor.as_ref().map(restore_floor).transpose()?;
    Ok(state)
}

fn floor_record(floor: &Floor) -> FloorRecord {
    FloorRecord { epoch: floor.epoch.0, revision: floor.revision.0, digest: floor.digest.to_string() }
}

fn restore_floor(record: &FloorRecord) -> Result<Floor, StateError> {
    Ok(Floor { epoch: Epoch(record.epoch), revision: Revision(record.revision), digest: digest(&record.digest)? })
}

fn kept_record(kept: &Kept) -> KeptRecord {
    KeptRecord { envelope: json(kept.release.envelope()), blobs: kept.blobs.iter().map(Digest::to_string).collect() }
}

fn restore_kept(roots: &[TrustRoot], record: &KeptRecord) -> Result<Kept, StateError> {
    let envelope = envelope(&record.envelope)?;
    let release = chain::verify_kept(roots, |root| root.verify_release(&envelope))?;
    let blobs = record.blobs.iter().map(|hex| digest(hex)).collect::<Result<_, _>>()?;
    Ok(Kept { release, blobs })
}

fn json(envelope: &Envelope) -> Value {
    serde_json::from_str(&envelope.to_json()).expect("an envelope's JSON is JSON")
}

fn envelope(value: &Value) -> Result<Envelope, VerifyError> {
    Envelope::from_json(&value.to_string())
}

fn digest(hex: &str) -> Result<Digest, StateError> {
    Digest::from_hex(hex).ok_or(StateError::Damaged("a digest is not 64 hex digits"))
}

const MAGIC: &str = "sealane-proxy-state";
const FORMAT: u32 = 1;
/// Last-good revisions that are kept with all content: the present one and five to go back to.
const RING: usize = 6;

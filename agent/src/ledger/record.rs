//! The ledger as bytes: one line with version and SHA-256, then JSON that a person can read.
//!
//! What is read back is verified again, signature by signature: a ledger that someone edited does not open.

use std::collections::BTreeMap;
use std::sync::Arc;

use sealane_model::envelope::Envelope;
use sealane_model::ids::{AgentId, Digest, Epoch, Revision};
use sealane_model::release::{Floor, Partition, VerifiedRelease};
use sealane_model::trust::{TrustRoot, chain};
use sealane_model::verify::VerifyError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::state::{Accepted, Candidate, Known, LocalRollback, State};

/// Why ledger bytes do not open.
#[derive(Debug, Error)]
pub enum RecordError {
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

#[derive(Serialize, Deserialize)]
struct Record {
    agent: String,
    generation: u64,
    stable: Option<String>,
    ring: Vec<String>,
    withdrawn: Vec<String>,
    rolled_back: Option<LocalRollback>,
    cordoned: Vec<String>,
    floors: Vec<FloorRecord>,
    known: Vec<KnownRecord>,
    candidate: Option<CandidateRecord>,
    roots: Vec<Value>,
    timestamp: Option<Value>,
    releases: Vec<ReleaseRecord>,
    #[serde(default)]
    sandbox: Option<ReleaseRecord>,
    #[serde(default)]
    audit: Option<AuditRecord>,
}

#[derive(Serialize, Deserialize)]
struct AuditRecord {
    epoch: u32,
    head: String,
}

#[derive(Serialize, Deserialize)]
struct FloorRecord {
    partition: String,
    epoch: u32,
    revision: u64,
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct KnownRecord {
    digest: String,
    base: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CandidateRecord {
    digest: String,
    paused: bool,
    grants: Vec<Value>,
}

#[derive(Serialize, Deserialize)]
struct ReleaseRecord {
    envelope: Value,
    blobs: Vec<String>,
}

/// The bytes of `state`.
pub(super) fn encode(state: &State) -> Vec<u8> {
    let record = Record {
        agent: state.agent.0.clone(),
        generation: state.generation,
        stable: state.stable.map(|digest| digest.to_string()),
        ring: hex_list(&state.ring),
        withdrawn: hex_list(&state.withdrawn),
        rolled_back: state.rolled_back.clone(),
        cordoned: state.cordoned.clone(),
        floors: state.floors.iter().map(|(partition, floor)| floor_record(*partition, floor)).collect(),
        known: state
            .known
            .iter()
            .map(|known| KnownRecord {
                digest: known.digest.to_string(),
                base: known.base.map(|base| base.to_string()),
            })
            .collect(),
        candidate: state.candidate.as_ref().map(|candidate| CandidateRecord {
            digest: candidate.digest.to_string(),
            paused: candidate.paused,
            grants: candidate.grants.iter().map(|grant| envelope_json(grant.envelope())).collect(),
        }),
        roots: state.roots.iter().map(|root| envelope_json(root.envelope())).collect(),
        timestamp: state.timestamp.as_ref().map(|timestamp| envelope_json(timestamp.envelope())),
        releases: state.releases.values().map(|accepted| release_record(accepted)).collect(),
        sandbox: state.sandbox.as_deref().map(release_record),
        audit: state.audit.map(|(epoch, head)| AuditRecord { epoch: epoch.0, head: head.to_string() }),
    };
    let body = serde_json::to_vec_pretty(&record).expect("strings, numbers and lists always serialise");
    let mut bytes = format!("{MAGIC} {FORMAT} {}\n", Digest::of(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// The state in `bytes`, with every document verified again.
pub(super) fn decode(bytes: &[u8]) -> Result<State, RecordError> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(RecordError::Damaged("no first line"))?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| RecordError::Damaged("no first line"))?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(RecordError::Damaged("it does not begin as a ledger"));
    }
    let format = words.next().and_then(|word| word.parse().ok()).ok_or(RecordError::Damaged("no format"))?;
    if format != FORMAT {
        return Err(RecordError::TooNew(format));
    }
    if words.next().and_then(Digest::from_hex) != Some(Digest::of(body)) {
        return Err(RecordError::Damaged("its checksum does not fit"));
    }
    let record = serde_json::from_slice(body).map_err(|_| RecordError::Damaged("its JSON does not parse"))?;
    restore(record)
}

fn restore(record: Record) -> Result<State, RecordError> {
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
    let Some(trust) = roots.last().cloned() else { return Err(RecordError::Damaged("no trust root")) };
    let mut releases = BTreeMap::new();
    for entry in &record.releases {
        let accepted = restore_release(&roots, entry)?;
        releases.insert(accepted.release().digest(), accepted);
    }
    let sandbox = record.sandbox.as_ref().map(|record| restore_release(&roots, record)).transpose()?;
    let timestamp = match &record.timestamp {
        Some(value) => Some(chain::verify_kept(&roots, |root| root.verify_timestamp(&envelope(value)?, None))?),
        None => None,
    };
    let mut state = State::new(AgentId(record.agent), trust);
    state.candidate = match record.candidate {
        Some(candidate) => Some(restore_candidate(&roots, candidate)?),
        None => None,
    };
    state.roots = roots;
    state.timestamp = timestamp;
    state.floors = record.floors.iter().map(floor).collect::<Result<_, _>>()?;
    state.known = record
        .known
        .iter()
        .map(|known| {
            let base = known.base.as_deref().map(digest).transpose()?;
            Ok::<_, RecordError>(Known { digest: digest(&known.digest)?, base })
        })
        .collect::<Result<_, _>>()?;
    state.stable = record.stable.as_deref().map(digest).transpose()?;
    state.ring = digests(&record.ring)?;
    state.withdrawn = digests(&record.withdrawn)?;
    state.rolled_back = record.rolled_back;
    state.cordoned = record.cordoned;
    state.generation = record.generation;
    state.audit = match &record.audit {
        Some(audit) => Some((Epoch(audit.epoch), digest(&audit.head)?)),
        None => None,
    };
    state.releases = releases;
    state.sandbox = sandbox;
    let named = state.stable.iter().chain(state.candidate.as_ref().map(|candidate| &candidate.digest));
    if named.into_iter().any(|digest| !state.releases.contains_key(digest)) {
        return Err(RecordError::Damaged("it names a release that it does not hold"));
    }
    Ok(state)
}

fn release_record(accepted: &Accepted) -> ReleaseRecord {
    ReleaseRecord { envelope: envelope_json(accepted.release().envelope()), blobs: hex_list(accepted.blobs()) }
}

fn restore_release(roots: &[TrustRoot], record: &ReleaseRecord) -> Result<Arc<Accepted>, RecordError> {
    let release = kept(roots, &envelope(&record.envelope)?)?;
    Ok(Arc::new(Accepted::restored(release, digests(&record.blobs)?)))
}

fn restore_candidate(roots: &[TrustRoot], record: CandidateRecord) -> Result<Candidate, RecordError> {
    let digest = digest(&record.digest)?;
    let mut grants = Vec::new();
    for value in &record.grants {
        let grant = chain::verify_kept(roots, |root| root.verify_grant(&envelope(value)?))?;
        if grant.grant().release_digest != digest {
            return Err(RecordError::Damaged("it holds a grant for another release"));
        }
        grants.push(grant);
    }
    Ok(Candidate { digest, grants, paused: record.paused })
}

fn kept(roots: &[TrustRoot], envelope: &Envelope) -> Result<VerifiedRelease, VerifyError> {
    chain::verify_kept(roots, |root| root.verify_release(envelope))
}

fn envelope_json(envelope: &Envelope) -> Value {
    serde_json::from_str(&envelope.to_json()).expect("an envelope's JSON is JSON")
}

fn envelope(value: &Value) -> Result<Envelope, VerifyError> {
    Envelope::from_json(&value.to_string())
}

fn hex_list(digests: &[Digest]) -> Vec<String> {
    digests.iter().map(Digest::to_string).collect()
}

fn digest(hex: &str) -> Result<Digest, RecordError> {
    Digest::from_hex(hex).ok_or(RecordError::Damaged("a digest is not 64 hex digits"))
}

fn digests(list: &[String]) -> Result<Vec<Digest>, RecordError> {
    list.iter().map(|hex| digest(hex)).collect()
}

fn floor_record(partition: Partition, floor: &Floor) -> FloorRecord {
    FloorRecord {
        partition: partition_name(partition).to_owned(),
        epoch: floor.epoch.0,
        revision: floor.revision.0,
        digest: floor.digest.to_string(),
    }
}

fn floor(record: &FloorRecord) -> Result<(Partition, Floor), RecordError> {
    let partition = [Partition::Config, Partition::Sandbox]
        .into_iter()
        .find(|partition| partition_name(*partition) == record.partition)
        .ok_or(RecordError::Damaged("an unknown partition"))?;
    let floor =
        Floor { epoch: Epoch(record.epoch), revision: Revision(record.revision), digest: digest(&record.digest)? };
    Ok((partition, floor))
}

fn partition_name(partition: Partition) -> &'static str {
    match partition {
        Partition::Config => "config",
        Partition::Sandbox => "sandbox",
    }
}

const MAGIC: &str = "sealane-agent-ledger";
const FORMAT: u32 = 1;

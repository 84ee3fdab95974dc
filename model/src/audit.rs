//! The hash chain of the audit log: what an entry is worth, and how the newest head says it of all of them.
//!
//! It does not know what an entry is about nor where entries are kept. Whoever holds two heads and the entries' hashes
//! between them can tell that nothing was edited, cut or put in: authority, agents and people with an export.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// An entry as it is exported, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 1, 2, 3, … without gaps.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub at_unix_ms: i64,
    /// Token id and role, agent id, or `authority`.
    pub actor: String,
    /// publish, approve, grant, completed, …
    pub action: String,
    /// What it was done to, such as `r42`.
    pub subject: String,
    /// Lower-case hex of a release digest, or empty.
    pub digest: String,
    /// JSON with the rest, as text: it is hashed byte for byte.
    pub detail: String,
    /// Lower-case hex of the head after this entry.
    pub hash: String,
}

impl Entry {
    /// SHA-256 over every field but `hash`, each with its length before it, so that no two entries make the same bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        let mut field = |content: &[u8]| {
            bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
            bytes.extend_from_slice(content);
        };
        field(&self.sequence.to_be_bytes());
        field(&self.at_unix_ms.to_be_bytes());
        field(self.actor.as_bytes());
        field(self.action.as_bytes());
        field(self.subject.as_bytes());
        field(self.digest.as_bytes());
        field(self.detail.as_bytes());
        Digest::of(&bytes)
    }
}

/// The head after an entry: SHA-256 of the head before (nothing, before the first) and the entry's own hash.
#[must_use]
pub fn next_head(before: Option<&Digest>, entry: &Digest) -> Digest {
    let before = before.map(|digest| digest.0.as_slice()).unwrap_or_default();
    Digest::of(&[before, &entry.0].concat())
}

/// Follows entries from `sequence` and `head` on. Gives the new head, or the sequence of the first entry that does not
/// follow.
///
/// # Errors
/// A gap, or a hash that is not the chain's.
pub fn follow<'e>(
    mut sequence: u64,
    mut head: Option<Digest>,
    entries: impl IntoIterator<Item = &'e Entry>,
) -> Result<Option<Digest>, u64> {
    for entry in entries {
        let next = next_head(head.as_ref(), &entry.digest());
        sequence += 1;
        if entry.sequence != sequence || entry.hash != next.to_string() {
            return Err(entry.sequence);
        }
        head = Some(next);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Vec<Entry> {
        let mut head = None;
        (1..=3_u64)
            .map(|sequence| {
                let mut entry = Entry {
                    sequence,
                    at_unix_ms: 7,
                    actor: "ana".into(),
                    action: "publish".into(),
                    subject: format!("r{sequence}"),
                    digest: String::new(),
                    detail: "{}".into(),
                    hash: String::new(),
                };
                head = Some(next_head(head.as_ref(), &entry.digest()));
                entry.hash = head.unwrap().to_string();
                entry
            })
            .collect()
    }

    #[test]
    fn an_edit_a_cut_and_a_swap_are_found_where_they_are() {
        let honest = chain();
        assert_eq!(follow(0, None, &honest).unwrap().unwrap().to_string(), honest[2].hash);
        let mut edited = honest.clone();
        edited[1].actor = "bob".into();
        assert_eq!(follow(0, None, &edited), Err(2));
        assert_eq!(follow(0, None, [&honest[0], &honest[2]]), Err(3));
        assert_eq!(follow(0, None, [&honest[1], &honest[0]]), Err(2));
        assert_eq!(
            follow(1, Digest::from_hex(&honest[0].hash), &honest[1..]).unwrap().unwrap().to_string(),
            honest[2].hash
        );
    }

    #[test]
    fn words_do_not_flow_from_one_field_into_the_next() {
        let mut entry = chain().remove(0);
        let before = entry.digest();
        (entry.actor, entry.action) = ("anap".into(), "ublish".into());
        assert_ne!(entry.digest(), before);
    }
}

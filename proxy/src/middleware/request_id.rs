//! The request id: whose is taken over, which field carries it, and whether the client is told.
//!
//! Every request has an id already ([`crate::record::Record`]): one that a trusted peer sent, or a new one.

use sealane_model::config::{self, AcceptId};

use crate::admission::{Edits, Seen};
use crate::forwarded::is_request_id;
use crate::http1::field::Known;
use crate::record::random_id;

/// Compiled.
#[derive(Debug)]
pub(crate) struct RequestId {
    header: Box<str>,
    /// The field is the one that every endpoint is told anyway.
    is_usual: bool,
    accept: AcceptId,
    response: bool,
}

impl RequestId {
    pub(crate) fn compile(config: &config::RequestId) -> Self {
        Self {
            is_usual: Known::of(config.header.as_bytes()) == Known::XRequestId,
            header: config.header.as_str().into(),
            accept: config.accept,
            response: config.response,
        }
    }

    pub(crate) fn apply(&self, seen: &Seen<'_>, edits: &mut Edits) {
        let trusted = seen.request.client.trusted_peer;
        let accepts = match self.accept {
            AcceptId::Any => true,
            AcceptId::Trusted => trusted,
            AcceptId::Never => false,
        };
        let new;
        let id = match self.sent(seen).filter(|_| accepts) {
            Some(id) => {
                edits.take_request_id(id);
                id
            }
            // The record took over what a trusted peer sent.
            None if trusted && self.accept == AcceptId::Never => {
                new = random_id(seen.worker);
                edits.take_request_id(&new);
                &new[..]
            }
            None => seen.request_id(),
        };
        if !self.is_usual {
            edits.request.set(self.header.as_bytes(), id);
        }
        if self.response {
            edits.response.set(self.header.as_bytes(), id);
        }
    }

    /// The one well-formed id that was sent.
    fn sent<'a>(&'a self, seen: &Seen<'a>) -> Option<&'a [u8]> {
        let mut sent = seen.sent(&self.header);
        let id = sent.next().filter(|id| is_request_id(id))?;
        sent.next().is_none().then_some(id)
    }
}

//! The protobuf form, tags as in `sealane/v1/bundle.proto`.

use prost::Message;

use crate::keys::KeyId;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    #[prost(string, tag = "1")]
    payload_type: String,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    signatures: Vec<Signature>,
}

#[derive(Clone, PartialEq, Message)]
struct Signature {
    #[prost(string, tag = "1")]
    key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
}

impl From<&super::Envelope> for Envelope {
    fn from(envelope: &super::Envelope) -> Self {
        let signatures = envelope
            .signatures
            .iter()
            .map(|one| Signature { key_id: one.key_id.0.clone(), signature: one.bytes.clone() })
            .collect();
        Self { payload_type: envelope.payload_type.clone(), payload: envelope.payload.clone(), signatures }
    }
}

impl From<Envelope> for super::Envelope {
    fn from(envelope: Envelope) -> Self {
        let signatures = envelope
            .signatures
            .into_iter()
            .map(|one| super::Signature { key_id: KeyId(one.key_id), bytes: one.signature })
            .collect();
        Self { payload_type: envelope.payload_type, payload: envelope.payload, signatures }
    }
}

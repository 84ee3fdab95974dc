//! Stands in for `grpcurl` where it is not installed, so that the command blocks that use it are run too: a call by nothing but
//! server reflection, of which it understands `-plaintext`, `-H 'name: value'`, `-d JSON`, an address and a method.
//!
//! Of JSON it takes objects of texts, numbers and booleans; that is what a person types by hand. It prints the answer as
//! prost-reflect shows it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, Value};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

#[tokio::main]
async fn main() -> Result<()> {
    let (mut headers, mut data, mut rest) = (Vec::new(), "{}".to_owned(), Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-plaintext" => {}
            "-H" => headers.push(words.next().context("-H wants a header")?),
            "-d" => data = words.next().context("-d wants a message")?,
            _ => rest.push(word),
        }
    }
    let [address, method] = rest.as_slice() else { bail!("an address and a method") };
    let (service, method) = method.rsplit_once('/').context("SERVICE/METHOD")?;
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let pool = reflect(&channel, service).await?;
    let service = pool.get_service_by_name(service).context("no such service")?;
    let method = service.methods().find(|one| one.name() == method).context("no such method")?;
    let message = message(method.input(), &serde_json::from_str(&data)?)?;
    let mut request = Request::new(message.encode_to_vec());
    for header in headers {
        let (name, value) = header.split_once(':').context("NAME: VALUE")?;
        let name = AsciiMetadataKey::from_bytes(name.trim().to_lowercase().as_bytes())?;
        request.metadata_mut().insert(name, AsciiMetadataValue::try_from(value.trim())?);
    }
    let path = format!("/{}/{}", service.full_name(), method.name()).parse()?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let answer = client.unary(request, path, Bytes).await?.into_inner();
    #[expect(clippy::print_stdout, reason = "it is what it is for")]
    {
        println!("{:#?}", DynamicMessage::decode(method.output(), answer.as_slice())?);
    }
    Ok(())
}

/// Everything that `service` is made of, as its server tells.
async fn reflect(channel: &Channel, service: &str) -> Result<DescriptorPool> {
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut files: BTreeMap<String, FileDescriptorProto> = BTreeMap::new();
    let mut wanted = vec![MessageRequest::FileContainingSymbol(service.to_owned())];
    while let Some(next) = wanted.pop() {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(next) };
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await?.into_inner();
        let answer: ServerReflectionResponse = answers.message().await?.context("no answer by reflection")?;
        let Some(MessageResponse::FileDescriptorResponse(found)) = answer.message_response else {
            bail!("reflection does not know it: {answer:?}");
        };
        for bytes in found.file_descriptor_proto {
            let file = FileDescriptorProto::decode(bytes.as_slice())?;
            let missing = file.dependency.iter().filter(|name| !files.contains_key(*name));
            wanted.extend(missing.map(|name| MessageRequest::FileByFilename(name.clone())));
            files.insert(file.name().to_owned(), file);
        }
    }
    Ok(DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file: files.into_values().collect() })?)
}

fn message(descriptor: MessageDescriptor, json: &serde_json::Value) -> Result<DynamicMessage> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, given) in json.as_object().context("an object")? {
        let field = descriptor
            .fields()
            .find(|field| field.name() == name || field.json_name() == name)
            .with_context(|| format!("{} has no field {name}", descriptor.name()))?;
        let value = match (field.kind(), given) {
            (Kind::String, serde_json::Value::String(text)) => Value::String(text.clone()),
            (Kind::Bool, serde_json::Value::Bool(is)) => Value::Bool(*is),
            (Kind::Uint32, number) => Value::U32(u32::try_from(number.as_u64().context("a number")?)?),
            (Kind::Uint64, number) => Value::U64(number.as_u64().context("a number")?),
            (kind, _) => bail!("{name}: it cannot write {kind:?}"),
        };
        message.set_field(&field, value);
    }
    Ok(message)
}

/// Messages as they are on the wire.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

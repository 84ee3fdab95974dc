//! A call in Envoy's protocol of external authorisation, `envoy.service.auth.v3`.
//!
//! As Envoy does it: pseudo-headers stand among the headers, fields of an answer that passes replace those of the request
//! unless `append` is true, and a denial without a status is 403.

use std::collections::HashMap;

use sealane_proto::ext_authz as v3;
use sealane_proto::ext_authz::authorization_client::AuthorizationClient;
use sealane_proto::ext_authz::check_response::HttpResponse;
use sealane_proto::ext_authz::header_value_option::HeaderAppendAction;
use tonic::transport::Channel;

use super::answer::{Verdict, bounded};
use super::{ANSWER_BYTES_MAX, CallResult, Subject, failed};
use crate::admission::guest::Edit;

pub(super) async fn ask(channel: Channel, subject: Subject) -> Result<Verdict, CallResult> {
    let mut client = AuthorizationClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let answer = client.check(message(subject)).await.map_err(|status| failed(&status))?;
    judge(&answer.into_inner())
}

fn message(subject: Subject) -> v3::CheckRequest {
    let path = subject.query.map_or_else(|| subject.path.clone(), |query| format!("{}?{query}", subject.path));
    let scheme = if subject.https { "https" } else { "http" };
    let mut headers: HashMap<String, String> = HashMap::from([
        (":method".to_owned(), subject.method.clone()),
        (":path".to_owned(), path.clone()),
        (":authority".to_owned(), subject.host.clone()),
        (":scheme".to_owned(), scheme.to_owned()),
    ]);
    for (name, value) in subject.headers {
        let value = String::from_utf8_lossy(&value);
        let joined = headers.entry(name).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&value);
    }
    let http = v3::attribute_context::HttpRequest {
        id: subject.request_id,
        method: subject.method,
        headers,
        path,
        host: subject.host,
        scheme: scheme.to_owned(),
        size: subject.size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
        protocol: if subject.http2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        ..Default::default()
    };
    let time = prost_types::Timestamp {
        seconds: (subject.unix_nanos / 1_000_000_000) as i64,
        nanos: (subject.unix_nanos % 1_000_000_000) as i32,
    };
    let client = v3::SocketAddress { address: subject.client.to_string(), ..Default::default() };
    let client = v3::Address { address: Some(v3::address::Address::SocketAddress(client)) };
    v3::CheckRequest {
        attributes: Some(v3::AttributeContext {
            source: Some(v3::attribute_context::Peer { address: Some(client), ..Default::default() }),
            destination: None,
            request: Some(v3::attribute_context::Request { time: Some(time), http: Some(http) }),
            context_extensions: HashMap::from([("route".to_owned(), subject.route.to_string())]),
        }),
    }
}

fn judge(answer: &v3::CheckResponse) -> Result<Verdict, CallResult> {
    let mut verdict = Verdict::default();
    let passes = answer.status.as_ref().is_none_or(|status| status.code == 0);
    match &answer.http_response {
        Some(HttpResponse::OkResponse(ok)) if passes => {
            bounded(ok.headers.len() + ok.headers_to_remove.len() + ok.response_headers_to_add.len())?;
            ok.headers_to_remove.iter().for_each(|name| verdict.edit_request(Edit::Remove(name)));
            for option in &ok.headers {
                let Some((name, value)) = header(option) else { continue };
                let append = option.append.unwrap_or(false);
                verdict.edit_request(if append { Edit::Add(name, value) } else { Edit::Set(name, value) });
            }
            for option in &ok.response_headers_to_add {
                let Some((name, value)) = header(option) else { continue };
                match option.append_action() {
                    HeaderAppendAction::AppendIfExistsOrAdd => verdict.edit_response(Edit::Add(name, value)),
                    HeaderAppendAction::OverwriteIfExistsOrAdd => verdict.edit_response(Edit::Set(name, value)),
                    // What depends on an answer that is not there yet cannot be had.
                    HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists => verdict.denied += 1,
                }
            }
        }
        None if passes && answer.status.is_some() => {}
        // Neither a status nor a response says nothing; a passing status with a denial is a contradiction.
        None if passes => return Err(CallResult::Invalid),
        Some(HttpResponse::DeniedResponse(_)) if passes && answer.status.is_some() => return Err(CallResult::Invalid),
        Some(HttpResponse::DeniedResponse(denied)) => {
            bounded(denied.headers.len())?;
            let code = denied.status.as_ref().map_or(0, |status| status.code);
            let code = if code == 0 { 403 } else { code };
            let headers = denied.headers.iter().filter_map(header);
            verdict.respond(i64::from(code), headers, denied.body.clone().into_bytes())?;
        }
        Some(HttpResponse::OkResponse(_)) | None => verdict.respond(403, std::iter::empty(), Vec::new())?,
    }
    Ok(verdict)
}

fn header(option: &v3::HeaderValueOption) -> Option<(&str, &[u8])> {
    let header = option.header.as_ref()?;
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    Some((&header.key, value))
}

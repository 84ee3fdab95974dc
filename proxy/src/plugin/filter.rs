//! A call in our own protocol, `sealane.plugin.v1`.

use std::collections::HashMap;

use sealane_proto::plugin as v1;
use sealane_proto::plugin::filter_service_client::FilterServiceClient;
use sealane_proto::plugin::on_request_response::Action;
use tonic::transport::Channel;

use super::answer::{Verdict, bounded};
use super::{ANSWER_BYTES_MAX, CallResult, Subject, failed};
use crate::admission::guest::Edit;

pub(super) async fn ask(channel: Channel, id: &str, subject: Subject) -> Result<Verdict, CallResult> {
    let mut client = FilterServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let answer = client.on_request(message(id, subject)).await.map_err(|status| failed(&status))?;
    judge(answer.into_inner())
}

fn message(id: &str, subject: Subject) -> v1::OnRequestRequest {
    let metadata =
        HashMap::from([("node".to_owned(), subject.node), ("revision".to_owned(), subject.revision.to_string())]);
    v1::OnRequestRequest {
        request_id: subject.request_id,
        route_id: subject.route.to_string(),
        plugin_id: id.to_owned(),
        method: subject.method,
        scheme: if subject.https { "https" } else { "http" }.to_owned(),
        host: subject.host,
        path: subject.path,
        query: subject.query.unwrap_or_default(),
        headers: subject.headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect(),
        client_address: subject.client.to_string(),
        metadata,
    }
}

fn judge(answer: v1::OnRequestResponse) -> Result<Verdict, CallResult> {
    let mut verdict = Verdict::default();
    match answer.action.ok_or(CallResult::Invalid)? {
        Action::Proceed(v1::Proceed { request, response }) => {
            let (request, response) = (request.unwrap_or_default(), response.unwrap_or_default());
            edits(&request)?.into_iter().for_each(|edit| verdict.edit_request(edit));
            edits(&response)?.into_iter().for_each(|edit| verdict.edit_response(edit));
        }
        Action::Respond(v1::Respond { status, headers, body }) => {
            bounded(headers.len())?;
            let headers = headers.iter().map(|header| (header.name.as_str(), header.value.as_slice()));
            verdict.respond(i64::from(status), headers, body)?;
        }
    }
    Ok(verdict)
}

fn edits(mutations: &v1::HeaderMutations) -> Result<Vec<Edit<'_>>, CallResult> {
    let v1::HeaderMutations { remove, set, add } = mutations;
    bounded(remove.len() + set.len() + add.len())?;
    // Two lines that are set under one name both stand.
    let clear = set.iter().map(|header| Edit::Remove(&header.name));
    let lines = set.iter().chain(add).map(|header| Edit::Add(&header.name, &header.value));
    Ok(remove.iter().map(|name| Edit::Remove(name)).chain(clear).chain(lines).collect())
}

//! The stage that asks an external plugin, and goes by its `fail_mode` when there is no answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sealane_model::config::{PluginProtocol, TargetPath};

use crate::admission::edits::PluginNotes;
use crate::admission::{Edits, Seen, Step, Then};
use crate::answer::{Content, Local};
use crate::error::Category;
use crate::http1::field::{FieldView, KnownSet};
use crate::http1::framing::Framing;
use crate::plugin::answer::Verdict;
use crate::plugin::{CallResult, PluginLive, Subject};
use crate::request::decide_head;

/// Compiled.
#[derive(Debug)]
pub(crate) struct PluginStage {
    pub(crate) id: Arc<str>,
    pub(crate) live: Arc<PluginLive>,
    pub(crate) protocol: PluginProtocol,
    pub(crate) timeout: Duration,
    pub(crate) fail_closed: bool,
    pub(crate) pass_credentials: bool,
}

impl PluginStage {
    pub(crate) fn admit(self: &Arc<Self>, seen: &Seen<'_>, edits: &mut Edits) -> Step {
        let names = || seen.fields.lines().iter().map(|line| line.name.of_bytes(seen.request.bytes).to_vec());
        match self.live.call(self.protocol, self.timeout, || self.subject(seen, edits)) {
            Err(result) => match self.without_answer(result, edits) {
                Some(local) => Step::Answer(Box::new(local)),
                None => Step::Continue,
            },
            Ok(call) => {
                let (stage, worker) = (Arc::clone(self), Rc::clone(seen.worker));
                let sent: Vec<Vec<u8>> = names().collect();
                Step::Wait(Box::pin(async move {
                    let outcome = call.outcome().await;
                    let mut edits = worker.take_edits();
                    let local = match outcome {
                        Ok(verdict) => stage.carry_out(verdict, &sent, &mut edits),
                        Err(result) => stage.without_answer(result, &mut edits),
                    };
                    match local {
                        Some(local) => Then::Answer(edits, Box::new(local)),
                        None => Then::Continue(edits),
                    }
                }))
            }
        }
    }

    /// What the plugin wants. The answer, if it is one.
    fn carry_out(&self, verdict: Verdict, sent: &[Vec<u8>], edits: &mut Edits) -> Option<Local> {
        let short_circuit = verdict.respond.is_some();
        edits.note_plugin(PluginNotes { short_circuit, denied: verdict.denied, ..self.notes() });
        edits.response.merge(&verdict.response);
        if let Some(respond) = verdict.respond {
            return Some(Local::Whole {
                status: respond.status,
                reason: None,
                lines: respond.lines,
                content: Content::Whole(respond.body),
            });
        }
        // Endpoints may take `_` for `-` in names: what a client sends under such a name is not what the plugin says.
        let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        for name in sent {
            let looks_like =
                |taken: &String| taken.len() == name.len() && taken.bytes().zip(name).all(|(a, b)| fold(a) == fold(*b));
            if verdict.taken.iter().any(looks_like) {
                edits.request.remove(name);
            }
        }
        edits.request.merge(&verdict.request);
        None
    }

    /// Refuses, or lets the request go on.
    fn without_answer(&self, result: CallResult, edits: &mut Edits) -> Option<Local> {
        let counts = &self.live.counts;
        if !self.fail_closed {
            counts.note_bypass(result);
            edits.note_plugin(PluginNotes { bypass: result.name(), ..self.notes() });
            return None;
        }
        counts.refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        edits.note_plugin(self.notes());
        let category =
            if result == CallResult::Timeout { Category::PluginTimeout } else { Category::PluginUnavailable };
        Some(Local::refusal(category, ""))
    }

    fn notes(&self) -> PluginNotes {
        PluginNotes { filters: vec![Arc::clone(&self.id)], fail_closed: self.fail_closed, ..PluginNotes::default() }
    }

    fn subject(&self, seen: &Seen<'_>, edits: &Edits) -> Subject {
        let snapshot = &seen.record.view.snapshot;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut path = Vec::new();
        let mut route: Arc<str> = Arc::from("");
        if let Some(index) = seen.record.route {
            let fields = FieldView { bytes: seen.request.bytes, fields: seen.fields };
            let head = decide_head(seen.request, &fields);
            let scratch = &mut seen.record.view.scratch.borrow_mut();
            snapshot.table.write_path(index, &head, &TargetPath::Keep, scratch, &mut path);
            route = Arc::from(&*snapshot.routes[index].id);
        }
        let bytes = seen.request.bytes;
        let mut headers = Vec::with_capacity(seen.fields.lines().len());
        for line in seen.fields.lines() {
            let name = line.name.of_bytes(bytes);
            if !KnownSet::HOP_BY_HOP.contains(line.known) && !edits.request.removes(name) && self.may_see(name) {
                headers.push((text(name).to_ascii_lowercase(), line.value.of_bytes(bytes).to_vec()));
            }
        }
        for line in crate::admission::edits::lines(edits.request.lines()) {
            let name = crate::admission::edits::name_of(line);
            if self.may_see(name) {
                let value = crate::admission::edits::value_of(line).to_vec();
                headers.push((text(name).to_ascii_lowercase(), value));
            }
        }
        Subject {
            request_id: text(seen.request_id()),
            route,
            method: seen.method().to_owned(),
            https: seen.tls().is_some(),
            http2: seen.request.peer.http2,
            host: seen.authority().to_owned(),
            path: text(&path),
            query: seen.query().map(str::to_owned),
            headers,
            client: seen.client_ip(),
            size: match seen.request.head.framing {
                Framing::Empty => Some(0),
                Framing::Length(length) => Some(length),
                Framing::Chunked | Framing::UntilClose => None,
            },
            unix_nanos: seen.worker.unix_nanos(seen.record.started),
            node: seen.worker.shared.settings.node.clone(),
            revision: Arc::clone(&snapshot.tag.label),
        }
    }

    fn may_see(&self, name: &[u8]) -> bool {
        const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];
        self.pass_credentials || !CREDENTIALS.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()))
    }
}

//! The builtin plugin `structured_logger`: a JSON line for each request as it comes to this stage.
//!
//! It goes where the access log goes, by its buffers: a slow sink drops lines and never holds a request up. Unlike the
//! access log it is written before the request goes on, for requests that never end too, and by no sampling.

use std::sync::Arc;

use crate::access_log::json_string;
use crate::admission::Seen;
use crate::clock::{Civil, digits};

/// Compiled.
#[derive(Debug)]
pub(crate) struct StructuredLogger {
    pub(crate) id: Arc<str>,
}

impl StructuredLogger {
    pub(crate) fn note(&self, seen: &Seen<'_>) {
        let snapshot = &seen.record.view.snapshot;
        let plan = &snapshot.log;
        if !plan.is_on() {
            return;
        }
        seen.worker.log_line(plan, |out| {
            let unix_nanos = seen.worker.unix_nanos(seen.record.started);
            out.extend_from_slice(b"{\"timestamp\":\"");
            Civil::of_unix(unix_nanos / 1_000_000_000).write_rfc3339(out);
            out.push(b'.');
            digits(out, unix_nanos / 1_000_000 % 1000, 3);
            out.extend_from_slice(b"Z\",\"event\":\"request\"");
            let route = seen.record.route.map_or("", |route| &*snapshot.routes[route].id);
            let query = seen.query().map_or(String::new(), |query| match plan.redact_query {
                true => "?<redacted>".to_owned(),
                false => format!("?{query}"),
            });
            for (name, value) in [
                ("plugin", &*self.id),
                ("request_id", &String::from_utf8_lossy(seen.request_id())),
                ("method", seen.method()),
                ("host", seen.host()),
                ("path", &format!("{}{query}", seen.path())),
                ("route", route),
                ("client", &seen.client_ip().to_string()),
            ] {
                out.push(b',');
                json_string(out, name);
                out.push(b':');
                json_string(out, value);
            }
            out.push(b'}');
        });
    }
}

//! Where an exchange meets the hooks of the program: an endpoint's final head, and an attempt that failed.

use std::rc::Rc;

use crate::cache::entry::LinesView;
use crate::error::{Failure, FailureKind};
use crate::exchange::Exchange;
use crate::hooks::Responded;
use crate::http1::field::{Fields, KnownSet};
use crate::http1::framing::Framing;
use crate::http1::response_head::{Asked, ResponseHead};
use crate::http1::write;
use crate::worker::Worker;

impl Exchange {
    /// Shows the head to the hooks; `None`: there are none.
    pub(super) fn call_hooks(
        &self,
        worker: &Worker,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        fields: &Fields,
    ) -> Option<Responded> {
        let hooked = self.record.edits.as_ref()?.hooked.as_ref().map(Rc::clone)?;
        let mut lines = worker.take_buffer();
        write::fields(&mut lines, bytes, head.length, fields, KnownSet::HOP_BY_HOP);
        let responded = hooked.respond(&self.compiled_endpoint().address, head.status, LinesView(&lines));
        worker.give_buffer(lines);
        Some(responded)
    }

    /// Takes over what the hooks want, and gives the head that the client sees.
    pub(super) fn take_response<'b>(
        &mut self,
        worker: &Worker,
        responded: Option<Responded>,
        head: &ResponseHead<'b>,
    ) -> ResponseHead<'b> {
        let mut shown = *head;
        let Some(responded) = responded else { return shown };
        self.record.edit(worker).response.merge(&responded.edits);
        if responded.status != head.status {
            shown.status = responded.status;
            let status = http::StatusCode::from_u16(responded.status).ok();
            shown.reason = status.and_then(|status| status.canonical_reason()).unwrap_or("");
        }
        // The end of an answer without content is not left to be guessed.
        if head.framing == Framing::Empty && self.asked != Asked::Head && !matches!(head.status, 101 | 204 | 304) {
            shown.content_length = Some(0);
        }
        shown
    }

    /// Tells the hooks of an attempt that failed through the endpoint's fault.
    pub(super) fn tell_hooks(&self, failure: &Failure) {
        let Some(hooked) = self.record.edits.as_ref().and_then(|edits| edits.hooked.as_ref()) else { return };
        if failure.kind.is_upstream() && failure.kind != FailureKind::Status {
            let (attempt, category) = (u32::from(self.record.attempts), failure.kind.category());
            hooked.fail(&self.compiled_endpoint().address, attempt, category, &failure.detail);
        }
    }
}

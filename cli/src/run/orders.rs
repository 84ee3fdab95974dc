//! Configs that come over the admin address of `sealane run`: served like an edit of the file, remembered for a while, taken
//! back.
//!
//! The file is never written. What was applied is served until the file changes, a SIGHUP asks for the file, or the process
//! ends; versions are remembered in memory only, and every answer says so.

use std::collections::VecDeque;

use sealane_model::parse::Reader;
use sealane_proxy::desk::{self, Applied, Apply, Order, Origin, Refused, Source, Version};
use tracing::info;

use super::source::Text;
use super::{Served, add_certificate};
use crate::clock;

/// Versions that are remembered, and the bytes of their texts.
const VERSIONS_MAX: usize = 20;
const BYTES_MAX: usize = 32 << 20;
/// How long an applied config lasts.
const LASTS: &str = "until the file changes, a SIGHUP, or the end of the process; the file is not written, and versions are \
                     remembered in memory only";

/// What was served, the newest last.
#[derive(Debug, Default)]
pub(super) struct History {
    served: VecDeque<Entry>,
    /// The version in force.
    current: Option<String>,
}

#[derive(Debug)]
struct Entry {
    version: String,
    text: Text,
    origin: Origin,
    since_unix_ms: i64,
    /// The version that was served when this one came.
    before: Option<String>,
}

impl History {
    /// This text is served now.
    pub(super) fn serve(&mut self, text: &Text, origin: Origin) {
        let version = desk::version(&text.text);
        let before = self.current.replace(version.clone());
        if let Some(known) = self.served.iter_mut().find(|entry| entry.version == version) {
            // Where it came from now; what it goes back to stays, so that going back always ends.
            known.origin = origin;
            return;
        }
        let since_unix_ms = clock::now().as_millisecond();
        self.served.push_back(Entry { version, text: text.clone(), origin, since_unix_ms, before });
        while self.served.len() > 1 && (self.served.len() > VERSIONS_MAX || self.bytes() > BYTES_MAX) {
            self.served.pop_front();
        }
    }

    /// Its text and where it came from.
    pub(super) fn current(&self) -> Option<(&Text, Origin)> {
        self.entry(self.current.as_deref()?).map(|entry| (&entry.text, entry.origin))
    }

    /// The text to go back to: a version by its name or the first digits of it, or the one before.
    fn back(&self, wanted: Option<&str>) -> Result<(Text, Origin), Refused> {
        let none = |why: String| Refused::NoVersion(why);
        let entry = match wanted {
            Some(wanted) if wanted.len() < PREFIX_MIN => {
                return Err(none(format!("give at least {PREFIX_MIN} digits of the version")));
            }
            Some(wanted) => {
                let mut found = self.served.iter().filter(|entry| entry.version.starts_with(wanted));
                match (found.next(), found.next()) {
                    (Some(entry), None) => entry,
                    (Some(_), Some(_)) => return Err(none("several versions begin so: give more digits".to_owned())),
                    (None, _) => {
                        return Err(none(
                            "no such version is remembered: /api/v2/config/current lists those that are, and a restart \
                             forgets them"
                                .to_owned(),
                        ));
                    }
                }
            }
            None => {
                let current = self.current.as_deref().and_then(|current| self.entry(current));
                let before = current.and_then(|current| self.entry(current.before.as_deref()?));
                before.ok_or_else(|| none("no version before this one is remembered".to_owned()))?
            }
        };
        Ok((entry.text.clone(), entry.origin))
    }

    fn entry(&self, version: &str) -> Option<&Entry> {
        self.served.iter().find(|entry| entry.version == version)
    }

    fn bytes(&self) -> usize {
        self.served.iter().map(|entry| entry.text.text.len()).sum()
    }

    fn source(&self) -> Option<Source> {
        let current = self.entry(self.current.as_deref()?)?;
        let versions = self.served.iter().map(|entry| Version {
            version: entry.version.clone(),
            origin: entry.origin,
            since_unix_ms: entry.since_unix_ms,
        });
        Some(Source {
            name: current.text.name.clone(),
            text: current.text.text.as_str().into(),
            origin: current.origin,
            since_unix_ms: clock::now().as_millisecond(),
            versions: versions.collect(),
        })
    }
}

/// Digits of a version that are enough to name it.
const PREFIX_MIN: usize = 8;

impl Served {
    /// This text is served now.
    pub(super) fn remember(&mut self, text: &Text, origin: Origin) {
        self.history.serve(text, origin);
        if let Some(source) = self.history.source() {
            self.front.proxy.set_source(source);
        }
    }

    /// Carries an order out and answers it.
    pub(super) async fn obey(&mut self, order: Order) {
        // Whoever asked may be gone; what was done stays done.
        match order {
            Order::Apply(Apply { text, dry_run, expected, answer, .. }) => {
                let text = Text { name: "config".to_owned(), text };
                drop(answer.send(self.apply(text, dry_run, expected).await));
            }
            Order::Rollback(version, answer) => drop(answer.send(self.go_back(version.as_deref()).await)),
        }
    }

    async fn apply(&mut self, text: Text, dry_run: bool, expected: Option<String>) -> Result<Applied, Refused> {
        let previous = self.history.current.clone();
        if expected.is_some() && expected != previous {
            return Err(Refused::Moved { current: previous });
        }
        let warnings = self.take(&text, Origin::Applied, dry_run).await?;
        Ok(Applied { version: desk::version(&text.text), previous, warnings, lasts: LASTS })
    }

    async fn go_back(&mut self, version: Option<&str>) -> Result<Applied, Refused> {
        let previous = self.history.current.clone();
        let (text, origin) = self.history.back(version)?;
        let warnings = self.take(&text, origin, false).await?;
        Ok(Applied { version: desk::version(&text.text), previous, warnings, lasts: LASTS })
    }

    /// Everything from the text to the swap. Gives the warnings.
    async fn take(
        &mut self,
        text: &Text,
        origin: Origin,
        dry_run: bool,
    ) -> Result<Vec<sealane_model::problem::Problem>, Refused> {
        if let Some(retired) = self.front.proxy.pressure() {
            return Err(Refused::Pressure { retired });
        }
        let checked = desk::check(&text.name, &text.text, Reader::Local).await;
        let (mut config, warnings) = checked.map_err(Refused::Invalid)?;
        if let Some(files) = &self.certificate {
            add_certificate(&mut config, files);
        }
        if dry_run {
            self.prepare(text, config).await.map_err(Refused::Invalid)?;
            return Ok(warnings);
        }
        self.activate(text, config, origin).await.map_err(Refused::Invalid)?;
        info!(version = text.digest().short(), from = origin.name(), "config swapped by an order of the admin address");
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str) -> Text {
        Text { name: "f".into(), text: body.into() }
    }

    fn back(history: &mut History, wanted: Option<&str>) -> Option<String> {
        let (text, origin) = history.back(wanted).ok()?;
        history.serve(&text, origin);
        Some(text.text)
    }

    #[test]
    fn going_back_again_and_again_goes_further_back_and_never_to_and_fro() {
        let mut history = History::default();
        history.serve(&text("a"), Origin::File);
        assert_eq!(back(&mut history, None), None);
        history.serve(&text("b"), Origin::Applied);
        history.serve(&text("c"), Origin::Applied);
        assert_eq!(back(&mut history, None).as_deref(), Some("b"));
        assert_eq!(back(&mut history, None).as_deref(), Some("a"));
        assert_eq!(back(&mut history, None), None);
        history.serve(&text("d"), Origin::Applied);
        assert_eq!(back(&mut history, None).as_deref(), Some("a"), "what was served before it");
        assert_eq!(history.current().map(|(text, origin)| (text.text.as_str(), origin)), Some(("a", Origin::File)));
    }

    #[test]
    fn a_version_has_a_name_and_memory_is_bounded() {
        let mut history = History::default();
        for number in 0..VERSIONS_MAX + 5 {
            history.serve(&text(&number.to_string()), Origin::Applied);
        }
        assert_eq!(history.served.len(), VERSIONS_MAX);
        let name = desk::version("10");
        assert_eq!(back(&mut history, Some(&name[..8])).as_deref(), Some("10"));
        assert_eq!(back(&mut history, Some(&name)).as_deref(), Some("10"));
        assert_eq!(back(&mut history, Some(&desk::version("0"))), None, "forgotten");
        assert_eq!(back(&mut history, Some("ab")), None);
        history.serve(&text(&"x".repeat(BYTES_MAX + 1)), Origin::Applied);
        assert_eq!(history.served.len(), 1);
    }
}

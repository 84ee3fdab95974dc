//! Why an agent or a proxy refuses what it is offered: what each code of [`crate::verify::VerifyError`] means to a person
//! on call, and what to do. State stays as it was whatever the code, and what runs goes on.

/// One code of a refused bundle.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// As in metrics, reports and `sealane fleet status`.
    pub code: &'static str,
    /// One sentence.
    pub means: &'static str,
    /// What to do.
    pub next: &'static str,
}

const fn row(code: &'static str, means: &'static str, next: &'static str) -> Refusal {
    Refusal { code, means, next }
}

/// Every code.
#[rustfmt::skip]
pub const REFUSALS: &[Refusal] = &[
    row("threshold_not_met", "Too few keys of the trust root have signed it",
        "`sealane key show` says who must sign; if `sealane fleet status` says that a revision lacks signatures, have them made \
         (`sealane revision approve REV --key FILE`); else somebody without the keys offers it: look at who can reach that node"),
    row("unsigned", "It carries no signature at all", "nothing of this fleet sends that: look at who can reach that node"),
    row("wrong_type", "A signed document of one kind was offered as another", "an attack, or a broken relay: look at who can reach that node"),
    row("wrong_fleet", "It is of another fleet",
        "look at `--trust` and `--authority` (or `--agent`) of that node: one of them is of another fleet"),
    row("revision_too_old", "It is older than what this node has seen",
        "after a restored database: `sealane authority recover --raise-epoch`; else somebody replays an old bundle"),
    row("same_revision_different_digest", "A revision that this node knows came with other content",
        "two authorities sign for one fleet, or a database was restored: stop one, then `sealane authority recover --raise-epoch`"),
    row("revision_too_high", "Its number is more than 1,000,000 above what this node has seen",
        "somebody with a release key burns numbers: `sealane key rotate`, see the runbook key-compromise"),
    row("epoch_too_high", "Its epoch is absurdly far above what this node has seen",
        "somebody with a release key burns epochs: `sealane key rotate`, see the runbook key-compromise"),
    row("epoch_not_allowed", "The trust root does not allow its epoch",
        "raise it with `sealane authority recover --raise-epoch`, which the root keys sign; if nobody did that, a release key was stolen"),
    row("missing_capability", "It needs something that this node's build does not have", "upgrade that node; `sealane fleet nodes` shows builds"),
    row("schema_out_of_range", "It needs a config schema that this node's build does not read", "upgrade that node; `sealane fleet nodes` shows builds"),
    row("plan_refused", "Its rollout plan makes no sense", "publish again with a sound `rollout:`; `sealane validate FILE` says what is wrong"),
    row("below_plan_floor", "Its plan, class or grant is less careful than the trust root asks for",
        "if nobody of you did that, the authority's key was stolen: see the runbook key-compromise; else publish with more care, or \
         `sealane key rotate --plan-floor`"),
    row("grant_refused", "A grant is void, expired, or of another revision or node",
        "it may come late after an abort, once; if it goes on, somebody replays grants: look at who can reach that node"),
    row("timestamp_rolled_back", "The authority's timestamp is older than one seen before",
        "after a restored database: `sealane authority recover --raise-epoch`; else a second authority, or somebody who holds back revisions"),
    row("root_not_next", "A trust root came that does not follow the one this node trusts",
        "give that node the authority's `trust.json` of today by a way you trust"),
    row("audit_rewritten", "The audit log does not lead from what this node saw of it to its newest entry",
        "`sealane audit verify` names the first entry that does not follow; treat the authority's machine as broken into"),
    row("wrong_digest", "Content is not what was signed", "it is fetched again; if it goes on, look at the disk, then at who can reach that node"),
    row("wrong_length", "Content is longer or shorter than what was signed", "it is fetched again; if it goes on, look at the disk, then at who can reach that node"),
    row("unsorted_manifest", "The list of contents is not in order, or names something twice", "no build of ours makes that: look at who has a release key"),
    row("too_large", "A document or content is larger than any may be", "no build of ours makes that: look at who can reach that node"),
    row("too_many", "A document lists more than any may", "no build of ours makes that: look at who can reach that node"),
    row("malformed", "A document does not read", "another version, or damage on the way: compare `sealane version`, look at the node's log"),
    row("missing", "Content that was signed is not there", "it is fetched again; if it goes on, `sealane revision export REV` at the authority says whether it has it"),
];

impl Refusal {
    /// Its page as plain text.
    #[must_use]
    pub fn page(&self) -> String {
        let Self { code, means, next } = self;
        format!("{code} (refused bundle)\n\n  {means}. Nothing changed, and what runs goes on.\n\n  next: {next}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_refused_bundle_says_what_it_means_and_what_to_do() {
        let source = include_str!("../verify.rs");
        let table = source.split_once("pub fn code(").expect("the table of codes").1;
        let codes: Vec<&str> = table.lines().filter_map(|line| line.split_once("=> \"")?.1.split('"').next()).collect();
        assert!(codes.len() > 20, "{codes:?}");
        for code in &codes {
            assert!(REFUSALS.iter().any(|row| row.code == *code), "`{code}` has no row");
        }
        for row in REFUSALS {
            assert!(codes.contains(&row.code), "`{}` is no code", row.code);
        }
    }
}

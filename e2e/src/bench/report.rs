//! Medians and ratios, as a table that can stand in a document.

use std::fmt::Write as _;

use super::case::{Budget, Described, Figure};

/// One peer's rounds of one case.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// The peer.
    pub peer: String,
    /// It is Sealane.
    pub own: bool,
    /// In order.
    pub figures: Vec<Figure>,
}

impl Rounds {
    /// The median of something of all rounds; NaN without rounds.
    #[must_use]
    pub fn median(&self, of: impl Fn(&Figure) -> f64) -> f64 {
        let mut values: Vec<f64> = self.figures.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => values[count / 2],
            count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
        }
    }
}

/// The table of a case, and whether each budget holds. Ratios are the first Sealane's figure over the peer's, of medians.
#[must_use]
pub fn table(case: &Described, rounds: &[Rounds]) -> String {
    let value = |rounds: &Rounds| rounds.median(|figure| figure.value);
    let own = rounds.iter().find(|rounds| rounds.own).map(value);
    let mut text = format!("\n### {}: {}\n\n", case.name, case.what);
    text +=
        "| proxy | median | lowest – highest | sealane / this | requests/s | p50 µs | p99 µs | memory MiB | failed |\n";
    text += "|---|---|---|---|---|---|---|---|---|\n";
    for (place, rounds) in rounds.iter().enumerate().filter(|(_, rounds)| !rounds.figures.is_empty()) {
        let values = || rounds.figures.iter().map(|figure| figure.value);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        let median = value(rounds);
        let ratio = own.filter(|_| place > 0).map_or("–".to_owned(), |own| format!("{:.2}", own / median));
        let failed: u64 = rounds.figures.iter().map(|figure| figure.failed).sum();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {median:.2} | {low:.2} – {high:.2} | {ratio} | {:.0} | {:.0} | {:.0} | {:.1} | {failed} |",
            rounds.peer,
            rounds.median(|figure| figure.per_second),
            rounds.median(|figure| f64::from(figure.p50)),
            rounds.median(|figure| f64::from(figure.p99)),
            rounds.median(|figure| figure.resident_kib as f64) / 1024.0,
        );
    }
    for budget in case.budgets {
        let (bound, of, figure) = match *budget {
            Budget::Figure(bound) => (bound, String::new(), own),
            Budget::Of(peer, bound) => {
                let other = rounds.iter().find(|rounds| rounds.peer == peer && !rounds.figures.is_empty()).map(value);
                (bound, format!(" of {peer}"), own.zip(other).map(|(own, other)| own / other))
            }
        };
        let verdict = match figure {
            None => "not measured".to_owned(),
            Some(figure) if figure <= bound => format!("{figure:.2}, holds"),
            Some(figure) => format!("{figure:.2}, over"),
        };
        let _ = writeln!(text, "\nBudget ≤ {bound}{of}: {verdict}");
    }
    text
}

//! What was measured, and what it must not exceed.

use std::fmt;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// In words.
    pub name: String,
    /// In `unit`.
    pub value: f64,
    /// Such as `ms`.
    pub unit: &'static str,
    /// The most that is allowed; `None`: for information.
    pub bound: Option<f64>,
}

impl Figure {
    /// For information.
    #[must_use]
    pub fn of(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, bound: None }
    }

    /// With a bound.
    #[must_use]
    pub fn at_most(self, bound: f64) -> Self {
        Self { bound: Some(bound), ..self }
    }

    /// Whether its bound, if it has one, holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.value <= bound)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.value.fract() == 0.0 || self.value >= 1_000.0 { 0 } else { 2 };
        write!(f, "{:<62} {:>12.digits$} {:<6}", self.name, self.value, self.unit)?;
        match self.bound {
            Some(bound) if self.holds() => write!(f, " (bound {bound} holds)"),
            Some(bound) => write!(f, " BROKEN: at most {bound}"),
            None => Ok(()),
        }
    }
}

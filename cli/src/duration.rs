//! Durations as people type and read them.
//!
//! Typed: Kubernetes GEP-2257, as in the config file (`3s`, `500ms`, `1h30m`). Shown: two units at most.

use std::time::Duration;

/// Parses `3s`, `500ms`, `1h30m`: up to four numbers of up to five digits, each with its unit.
///
/// # Errors
/// One sentence that names the form; `1d`, `1.5h` and bare numbers are refused as in the config file.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a duration such as 3s, 500ms or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return Err(refused());
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let unit_ends = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_ends);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(refused()),
        };
        total += Duration::from_millis(number * unit_ms);
        rest = after;
        if rest.is_empty() {
            return Ok(total);
        }
    }
    Err(refused())
}

/// `350ms`, `12s`, `3m20s`, `1h5m`, `3d4h`: the two largest units, rounded down.
#[must_use]
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        0 if !duration.is_zero() => format!("{}ms", duration.as_millis()),
        0..60 => format!("{seconds}s"),
        60..3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3_600..172_800 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A wire duration; a negative one counts as zero.
#[must_use]
pub fn of_wire(duration: Option<&prost_types::Duration>) -> Duration {
    duration.map_or(Duration::ZERO, |duration| {
        Duration::new(
            u64::try_from(duration.seconds).unwrap_or(0),
            u32::try_from(duration.nanos).unwrap_or(0).min(999_999_999),
        )
    })
}

/// `12s ago`; `now` below a second; `never` without a time. A time in the future counts as now.
#[must_use]
pub fn ago(at: Option<&prost_types::Timestamp>, now: jiff::Timestamp) -> String {
    let Some(at) = at else { return "never".into() };
    let seconds = u64::try_from(now.as_second().saturating_sub(at.seconds)).unwrap_or(0);
    match seconds {
        0 => "now".into(),
        _ => format!("{} ago", show(Duration::from_secs(seconds))),
    }
}

/// `2026-01-31T12:00:00Z`; empty without a time.
#[must_use]
pub fn instant(at: Option<&prost_types::Timestamp>) -> String {
    at.and_then(|at| jiff::Timestamp::new(at.seconds, 0).ok()).map_or_else(String::new, |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_the_config_file() {
        for (text, ms) in [("3s", 3_000), ("500ms", 500), ("1h30m", 5_400_000), ("0s", 0), ("1m1ms", 60_001)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "3", "1d", "1.5h", "s", "3 s", "-3s", "100000s", "1s1s1s1s1s", "３s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_show_two_units_at_most() {
        for (ms, text) in [
            (0, "0s"),
            (350, "350ms"),
            (12_900, "12s"),
            (200_000, "3m20s"),
            (3_600_000, "1h"),
            (3_905_000, "1h5m"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(show(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn an_age_is_never_negative() {
        let now = jiff::Timestamp::new(1_000, 0).unwrap();
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        assert_eq!(ago(Some(&at(940)), now), "1m ago");
        assert_eq!(ago(Some(&at(2_000)), now), "now");
        assert_eq!(ago(None, now), "never");
    }
}

//! Durations as in Kubernetes' GEP-2257: `3s`, `500ms`, `1h30m`; up to four numbers of up to five digits.

use std::time::Duration;

/// Parses a duration, or gives the correction if the text can be understood all the same.
pub(super) fn parse(text: &str) -> Result<Duration, Option<String>> {
    strict(text).ok_or_else(|| loose(text).and_then(format))
}

/// Of a text that is in no file; or what is wrong with it.
pub(crate) fn text(text: &str) -> Result<Duration, String> {
    parse(text).map_err(|correction| match correction {
        Some(correction) => format!("write `{correction}`"),
        None => "write a duration such as `8h` or `1h30m`".to_owned(),
    })
}

fn strict(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let (unit_ms, after) = if let Some(after) = after.strip_prefix("ms") {
            (1, after)
        } else if let Some(after) = after.strip_prefix('s') {
            (1_000, after)
        } else if let Some(after) = after.strip_prefix('m') {
            (60_000, after)
        } else {
            (3_600_000, after.strip_prefix('h')?)
        };
        total += Duration::from_millis(number * unit_ms);
        rest = after;
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

/// What was probably meant: other units, decimals, blanks, no unit (seconds).
fn loose(text: &str) -> Option<Duration> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
    if text.is_empty() || text.len() > 40 {
        return None;
    }
    let mut rest = text.as_str();
    let mut total_ms = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit_ms = match unit {
            "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 1.0,
            "" | "s" | "sec" | "secs" | "second" | "seconds" => 1_000.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000.0,
            "d" | "day" | "days" => 86_400_000.0,
            "w" | "week" | "weeks" => 604_800_000.0,
            _ => return None,
        };
        total_ms += number.parse::<f64>().ok()? * unit_ms;
        rest = after;
    }
    let whole = total_ms.round();
    ((whole - total_ms).abs() < 1e-6 && whole < 3.6e11).then(|| Duration::from_millis(whole as u64))
}

/// The shortest text; `None` when it takes more than five digits.
pub(super) fn format(duration: Duration) -> Option<String> {
    let ms = u64::try_from(duration.as_millis()).ok()?;
    let parts = [(ms / 3_600_000, "h"), (ms / 60_000 % 60, "m"), (ms / 1_000 % 60, "s"), (ms % 1_000, "ms")];
    if parts[0].0 > 99_999 {
        return None;
    }
    let text: String =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect();
    Some(if text.is_empty() { "0s".into() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units() {
        let check = |text: &str, ms: u64| assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        check("3s", 3_000);
        check("0s", 0);
        check("500ms", 500);
        check("1h30m", 5_400_000);
        check("1h2m3s4ms", 3_723_004);
        check("99999h", 99_999 * 3_600_000);
        check("90m", 5_400_000);
    }

    #[test]
    fn anything_else_is_refused_with_the_correction() {
        let check = |text: &str, correction: Option<&str>| {
            assert_eq!(parse(text), Err(correction.map(Into::into)), "{text}");
        };
        check("3", Some("3s"));
        check("1d", Some("24h"));
        check("1w", Some("168h"));
        check("1.5h", Some("1h30m"));
        check("0.5s", Some("500ms"));
        check("3 s", Some("3s"));
        check("3S", Some("3s"));
        check("5min", Some("5m"));
        check("100000s", Some("27h46m40s"));
        check("1m1m1m1m1m", Some("5m"));
        check("0", Some("0s"));
        check("", None);
        check("-3s", None);
        check("soon", None);
        check("3us", None);
        check("1.5ms", None);
        check("999999999h", None);
        check("1..5h", None);
        check("٣s", None);
    }
}

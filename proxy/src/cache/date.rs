//! HTTP dates as seconds since 1970 (RFC 9110 §5.6.7): the three formats that recipients must take, nothing else.
//!
//! Knows nothing of clocks; a two-digit year is put into the century that RFC 9110 asks for, seen from `now`.

/// Reads a date. `None`: not one of the three formats; a cache treats what it belongs to as expired.
pub(super) fn parse(value: &[u8], now: u64) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if let Some((weekday, rest)) = text.split_once(", ") {
        return if SHORT_DAYS.contains(&weekday) {
            fixdate(rest)
        } else if LONG_DAYS.contains(&weekday) {
            rfc850(rest, now)
        } else {
            None
        };
    }
    asctime(text)
}

const SHORT_DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const LONG_DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `06 Nov 1994 08:49:37 GMT`
fn fixdate(text: &str) -> Option<u64> {
    let mut parts = text.split(' ');
    let (day, month, year) = (number(parts.next()?, 2)?, month(parts.next()?)?, number(parts.next()?, 4)?);
    let time = time(parts.next()?)?;
    (parts.next() == Some("GMT") && parts.next().is_none()).then_some(())?;
    seconds(year, month, day, time)
}

/// `06-Nov-94 08:49:37 GMT`
fn rfc850(text: &str, now: u64) -> Option<u64> {
    let mut parts = text.split(' ');
    let mut date = parts.next()?.split('-');
    let (day, month, year) = (number(date.next()?, 2)?, month(date.next()?)?, number(date.next()?, 2)?);
    let time = time(parts.next()?)?;
    (date.next().is_none() && parts.next() == Some("GMT") && parts.next().is_none()).then_some(())?;
    let this_year = 1970 + now / 31_556_952;
    let year = this_year / 100 * 100 + year;
    // More than fifty years ahead is the past.
    let year = if year > this_year + 50 { year - 100 } else { year };
    seconds(year, month, day, time)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<u64> {
    let (weekday, rest) = text.split_at_checked(4)?;
    SHORT_DAYS.contains(&weekday.strip_suffix(' ')?).then_some(())?;
    let (name, rest) = rest.split_at_checked(4)?;
    let month = month(name.strip_suffix(' ')?)?;
    let (day, rest) = rest.split_at_checked(3)?;
    let day = day.strip_suffix(' ')?;
    let day = match day.strip_prefix(' ') {
        Some(digit) => number(digit, 1)?,
        None => number(day, 2)?,
    };
    let (clock, year) = rest.split_once(' ')?;
    seconds(number(year, 4)?, month, day, time(clock)?)
}

fn number(text: &str, width: usize) -> Option<u64> {
    (text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// From 1.
fn month(name: &str) -> Option<u64> {
    MONTHS.iter().position(|month| *month == name).map(|index| index as u64 + 1)
}

/// Seconds of the day.
fn time(text: &str) -> Option<u64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    (parts.next().is_none() && hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Days from the civil date after Howard Hinnant, "chrono-compatible low-level date algorithms". What lies before 1970
/// is 0: long ago all the same.
fn seconds(year: u64, month: u64, day: u64, time: u64) -> Option<u64> {
    const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = LENGTHS[month as usize - 1] + u64::from(leap && month == 2);
    (1..=length).contains(&day).then_some(())?;
    if year < 1970 {
        return Some(0);
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let year_of_era = shifted % 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) * 86_400 + time)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In 2026.
    const NOW: u64 = 1_780_000_000;

    #[test]
    fn the_three_formats_of_http_dates_are_read() {
        let check = |text: &str, expected| assert_eq!(parse(text.as_bytes(), NOW), expected, "{text}");
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777));
        check("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777));
        check("Sun Nov  6 08:49:37 1994", Some(784_111_777));
        check("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800));
        check("Thu, 31 Dec 2099 23:59:59 GMT", Some(4_102_444_799));
        check("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        check("Friday, 01-Jan-70 00:00:00 GMT", Some(3_155_760_000));
    }

    #[test]
    fn what_is_no_http_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 30 Feb 2023 00:00:00 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT x",
            "Sun Nov 6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
    }
}

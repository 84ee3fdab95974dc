//! The only place that reads the clocks.
//!
//! [`Moment`] is monotonic time since the process first asked; [`unix_nanos`] is wall time for logs and `Date`.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::timer::TICK;

/// Monotonic nanoseconds since the process first asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Reads the monotonic clock.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
    pub(crate) fn now() -> Self {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        Self(ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64)
    }

    /// The start of a tick of [`crate::timer`]: the time to within a tick, without asking the clock.
    pub(crate) const fn of_tick(tick: u64) -> Self {
        Self(tick * TICK.as_nanos() as u64)
    }

    /// The tick that this moment lies in.
    pub(crate) const fn tick(self) -> u64 {
        self.0 / TICK.as_nanos() as u64
    }

    /// Nanoseconds since the process first asked.
    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }

    /// Milliseconds since the process first asked.
    pub(crate) const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Microseconds since `earlier`; 0 if that is later.
    pub(crate) const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }

    /// This moment and `duration` after it.
    #[cfg(test)]
    pub(crate) const fn plus(self, duration: Duration) -> Self {
        Self(self.0 + duration.as_nanos() as u64)
    }
}

/// Wall time, nanoseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub(crate) fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos() as u64
}

/// A calendar second in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
    /// 0: Sunday.
    pub(crate) weekday: usize,
}

impl Civil {
    /// From seconds since 1970 (days to civil after Howard Hinnant, "chrono-compatible low-level date algorithms").
    pub(crate) const fn of_unix(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let in_day = seconds % 86_400;
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: year_of_era + era * 400 + (month <= 2) as u64,
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: in_day / 3600,
            minute: in_day / 60 % 60,
            second: in_day % 60,
            weekday: ((days + 4) % 7) as usize,
        }
    }

    /// `Tue, 20 Jan 2026 10:30:45 GMT` (RFC 9110 §5.6.7).
    pub(crate) fn write_http_date(self, out: &mut Vec<u8>) {
        const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        out.extend_from_slice(DAYS[self.weekday].as_bytes());
        out.extend_from_slice(b", ");
        digits(out, self.day, 2);
        out.push(b' ');
        out.extend_from_slice(MONTHS[self.month as usize - 1].as_bytes());
        out.push(b' ');
        digits(out, self.year, 4);
        out.push(b' ');
        self.write_time(out);
        out.extend_from_slice(b" GMT");
    }

    /// `20/Jan/2026:10:30:45 +0000`, as in the common log format.
    pub(crate) fn write_log_date(self, out: &mut Vec<u8>) {
        digits(out, self.day, 2);
        out.push(b'/');
        out.extend_from_slice(MONTHS[self.month as usize - 1].as_bytes());
        out.push(b'/');
        digits(out, self.year, 4);
        out.push(b':');
        self.write_time(out);
        out.extend_from_slice(b" +0000");
    }

    /// `2026-01-20T10:30:45`, without zone.
    pub(crate) fn write_rfc3339(self, out: &mut Vec<u8>) {
        digits(out, self.year, 4);
        out.push(b'-');
        digits(out, self.month, 2);
        out.push(b'-');
        digits(out, self.day, 2);
        out.push(b'T');
        self.write_time(out);
    }

    fn write_time(self, out: &mut Vec<u8>) {
        digits(out, self.hour, 2);
        out.push(b':');
        digits(out, self.minute, 2);
        out.push(b':');
        digits(out, self.second, 2);
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends the last `width` decimal digits of `number`, at most 8.
pub(crate) fn digits(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut text = [0; 8];
    let mut rest = number;
    for place in text[..width].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text[..width]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_and_rfc3339_want_them() {
        let check = |seconds, http: &str, rfc3339: &str| {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            Civil::of_unix(seconds).write_http_date(&mut a);
            Civil::of_unix(seconds).write_rfc3339(&mut b);
            assert_eq!((a, b), (http.as_bytes().to_vec(), rfc3339.as_bytes().to_vec()));
        };
        check(0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00");
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37");
        check(1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT", "2024-02-29T00:00:00");
        check(4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT", "2099-12-31T23:59:59");
    }
}

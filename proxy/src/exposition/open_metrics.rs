//! The same page as OpenMetrics 1.0: counters' families without `_total`, units, and an end.

use std::fmt::Write as _;

/// Of [`of`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a scraper that sent this `Accept` wants OpenMetrics: it names it, and gives it some weight.
pub(super) fn is_wanted(accept: &str) -> bool {
    accept.split(',').any(|member| {
        let mut parts = member.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        let mut old = false;
        let mut refused = false;
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            old |= key.eq_ignore_ascii_case("version") && !value.trim_matches('"').starts_with("1.");
            refused |= key.eq_ignore_ascii_case("q") && value.parse::<f32>().is_ok_and(|weight| weight <= 0.0);
        }
        named && !old && !refused
    })
}

/// The page in that form. `page` is Prometheus text, each family with `HELP` and `TYPE` before its samples.
pub(super) fn of(page: &str) -> String {
    let mut out = String::with_capacity(page.len() + 1024);
    let mut help = "";
    // A counter whose samples do not end in `_total` is of no known type here.
    for line in page.lines() {
        if line.starts_with("# HELP ") {
            help = line;
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (family, kind) = match (name.strip_suffix("_total"), kind) {
                (Some(family), "counter") => (family, "counter"),
                (None, "counter") => (name, "unknown"),
                (_, kind) => (name, kind),
            };
            let text = help.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')).map_or("", |(_, text)| text);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# TYPE {family} {kind}");
            if let Some(unit) = ["seconds", "bytes"].iter().find(|unit| family.ends_with(**unit)) {
                let _ = writeln!(out, "# UNIT {family} {unit}");
            }
            let _ = writeln!(out, "# HELP {family} {text}");
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out.push_str("# EOF\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_lose_their_suffix_and_units_are_named() {
        let page = "# HELP a_total As.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n\
                    # HELP b_seconds Bs.\n# TYPE b_seconds gauge\nb_seconds 0.5\n\
                    # HELP c_count Cs.\n# TYPE c_count counter\nc_count 1\n";
        let expected = "# TYPE a counter\n# HELP a As.\na_total{x=\"1\"} 2\n\
                        # TYPE b_seconds gauge\n# UNIT b_seconds seconds\n# HELP b_seconds Bs.\nb_seconds 0.5\n\
                        # TYPE c_count unknown\n# HELP c_count Cs.\nc_count 1\n# EOF\n";
        assert_eq!(of(page), expected);
    }

    #[test]
    fn it_is_given_to_those_who_ask_for_it() {
        let check = |accept: &str, expected| assert_eq!(is_wanted(accept), expected, "{accept}");
        check("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", true);
        check("application/openmetrics-text; version=0.0.1, text/plain", false);
        check("application/openmetrics-text;q=0", false);
        check("text/plain, */*", false);
    }
}

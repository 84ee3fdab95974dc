//! Sizes in bytes: `B`, and powers of 1024 written `KB MB GB` or `KiB MiB GiB`.

const UNITS: [(&str, u32); 7] = [("GiB", 30), ("GB", 30), ("MiB", 20), ("MB", 20), ("KiB", 10), ("KB", 10), ("B", 0)];

/// Parses a size, or gives the correction if the text can be understood all the same.
pub(super) fn parse(text: &str) -> Result<u64, Option<String>> {
    strict(text).ok_or_else(|| loose(text).map(format))
}

fn strict(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// What was probably meant: other spellings, decimals, blanks, no unit (bytes).
fn loose(text: &str) -> Option<u64> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
    let text = text.strip_suffix("/s").unwrap_or(&text);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "b" | "byte" | "bytes" => 0,
        "k" | "kb" | "kib" | "ki" => 10,
        "m" | "mb" | "mib" | "mi" => 20,
        "g" | "gb" | "gib" | "gi" => 30,
        "t" | "tb" | "tib" | "ti" => 40,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
    (bytes.fract() == 0.0 && bytes <= (1u64 << 53) as f64).then_some(bytes as u64)
}

/// The shortest text.
fn format(bytes: u64) -> String {
    let unit = |shift: u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    let (shift, name) = if unit(30) {
        (30, "GB")
    } else if unit(20) {
        (20, "MB")
    } else if unit(10) {
        (10, "KB")
    } else {
        (0, "B")
    };
    format!("{}{name}", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        let check = |text: &str, bytes: u64| assert_eq!(parse(text), Ok(bytes), "{text}");
        check("64KB", 65_536);
        check("64KiB", 65_536);
        check("1MB", 1 << 20);
        check("10GiB", 10 << 30);
        check("0B", 0);
        check("100B", 100);
    }

    #[test]
    fn anything_else_is_refused_with_the_correction() {
        let check = |text: &str, correction: Option<&str>| {
            assert_eq!(parse(text), Err(correction.map(Into::into)), "{text}");
        };
        check("10485760", Some("10MB"));
        check("100", Some("100B"));
        check("0", Some("0B"));
        check("64kb", Some("64KB"));
        check("64k", Some("64KB"));
        check("1.5MB", Some("1536KB"));
        check("1 MB", Some("1MB"));
        check("1TB", Some("1024GB"));
        check("1KB/s", Some("1KB"));
        check("", None);
        check("big", None);
        check("-1MB", None);
        check("99999999999999999999GB", None);
        check("1.0000001KB", None);
    }
}

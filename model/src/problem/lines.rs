//! A text's lines as YAML counts them: ended by `\n`, `\r\n` or `\r`, a leading byte-order mark left out.

/// The lines of a text.
#[derive(Debug)]
pub(crate) struct Lines<'t> {
    text: &'t str,
    /// Where each line starts; the first is 0.
    starts: Vec<usize>,
}

/// `text` without a byte-order mark.
pub(crate) fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

impl<'t> Lines<'t> {
    /// Finds the lines of `text`.
    pub(crate) fn new(text: &'t str) -> Self {
        let text = without_bom(text);
        let bytes = text.as_bytes();
        let mut starts = vec![0];
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' => starts.push(at + 1),
                b'\r' if bytes.get(at + 1) != Some(&b'\n') => starts.push(at + 1),
                _ => {}
            }
        }
        Self { text, starts }
    }

    /// A line without its end; `line` is 1-based. `None` past the end.
    pub(crate) fn line(&self, line: u32) -> Option<&'t str> {
        let index = (line as usize).checked_sub(1)?;
        let start = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).copied().unwrap_or(self.text.len());
        Some(self.text.get(start..end)?.trim_end_matches(['\n', '\r']))
    }

    /// Number of lines, at least 1.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.starts.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_any_break_and_a_bom_is_no_column() {
        let lines = Lines::new("\u{feff}a\nb\r\nc\rd");
        let all: Vec<_> = (1..=5).map(|n| lines.line(n)).collect();
        assert_eq!(all, [Some("a"), Some("b"), Some("c"), Some("d"), None]);
        assert_eq!((lines.count(), lines.line(0)), (4, None));
    }
}

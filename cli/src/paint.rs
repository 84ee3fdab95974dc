//! Colour, where a terminal wants it. Meaning never depends on it: every painted word reads the same without.

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As it is.
    Plain,
    Good,
    Bad,
    Careful,
    Quiet,
    Strong,
}

impl Paint {
    /// `text` in this colour if `on`.
    pub(crate) fn apply(self, on: bool, text: &str) -> String {
        let code = match self {
            _ if !on || text.is_empty() => return text.to_owned(),
            Self::Plain => return text.to_owned(),
            Self::Good => "32",
            Self::Bad => "31",
            Self::Careful => "33",
            Self::Quiet => "2",
            Self::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Text from elsewhere, safe for a terminal and on one line: a control character becomes `?`, a line break a blank.
pub(crate) fn clean(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|letter| match letter {
            '\n' | '\r' | '\t' => ' ',
            letter if letter.is_control() => '?',
            letter => letter,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_steer_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{7}\n"), "a?[2Jb c?");
    }

    #[test]
    fn nothing_is_painted_when_colour_is_off() {
        assert_eq!(Paint::Bad.apply(false, "x"), "x");
        assert_eq!(Paint::Bad.apply(true, "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}

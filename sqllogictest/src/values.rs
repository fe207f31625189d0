//! Rows as lines that can be compared: numbers by value, everything else by its text.
//!
//! PostgreSQL gives `numeric` where we give `double precision` (averages, for one), and its `numeric` quotients have
//! another number of digits. So `2.50` equals `2.5`, and a number with a fraction and more than 12 significant digits,
//! or with an exponent, is compared by its first 12 digits. Integers are compared by all of their digits.

/// Significant digits of a number that is compared approximately.
const DIGITS: usize = 12;

/// A line of a result as it is compared.
pub fn canonical(line: &str) -> String {
    let words: Vec<String> = line.split_ascii_whitespace().map(word).collect();
    words.join(" ")
}

/// Lines as they are compared where their order says nothing.
pub fn sorted<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Vec<String> {
    let mut out: Vec<String> = lines.into_iter().map(|l| canonical(l.as_ref())).collect();
    out.sort();
    out
}

fn word(word: &str) -> String {
    number(word).unwrap_or_else(|| word.to_owned())
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn number(text: &str) -> Option<String> {
    let plain = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match plain.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (plain, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    if !digits(whole) || !digits(fraction) || exponent.is_some_and(|e| !digits(e.trim_start_matches(['+', '-']))) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let significant = (whole.len() + fraction.len()).saturating_sub(if whole == "0" { 1 } else { 0 });
    if exponent.is_some() || (!fraction.is_empty() && significant > DIGITS) {
        let value: f64 = text.parse().ok()?;
        let rounded: f64 = format!("{value:.*e}", DIGITS - 1).parse().ok()?;
        return Some(if rounded == 0.0 { "0".into() } else { format!("{rounded}") });
    }
    let shown = if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") };
    Some(if text.starts_with('-') && shown != "0" { format!("-{shown}") } else { shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_by_value_and_text_by_its_letters() {
        assert_eq!(canonical("2.50  a"), "2.5 a");
        assert_eq!(canonical("-0.0 0.000 -3"), "0 0 -3");
        assert_eq!(canonical("1e+20"), canonical("100000000000000000000.0000e0"));
        assert_eq!(canonical("66.6666666666666667"), canonical("66.66666666666667"));
        assert_ne!(canonical("66.66666667"), canonical("66.66666666666667"));
        assert_ne!(canonical("9007199254740993"), canonical("9007199254740992"));
        assert_eq!(canonical("2026-01-01 1.2.3 -"), "2026-01-01 1.2.3 -");
        assert_eq!(sorted(["b 1.0", "a 2"]), ["a 2", "b 1"]);
    }
}

//! Patterns of times, cut into fields and what stands between them.

/// What a field shows. The case of names is that of the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Hour12,
    Hour24,
    Minute,
    Second,
    Milliseconds,
    Microseconds,
    /// So many digits of the second's fraction.
    Fraction(u8),
    SecondOfDay,
    HalfDay(Case, bool),
    /// The year with a comma.
    YearComma,
    /// So many digits of the year.
    Year(u8),
    IsoYear(u8),
    Era(Case, bool),
    MonthName(Case),
    MonthShort(Case),
    Month,
    DayName(Case),
    DayShort(Case),
    DayOfYear,
    IsoDayOfYear,
    Day,
    /// 1 is Sunday.
    DayOfWeek,
    /// 1 is Monday.
    IsoDayOfWeek,
    WeekOfMonth,
    WeekOfYear,
    IsoWeek,
    Century,
    Julian,
    Quarter,
    Roman(Case),
    Zone(Case),
    ZoneHours,
    ZoneMinutes,
    ZoneOffset,
}

/// How a word is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Upper,
    Title,
    Lower,
}

impl Case {
    pub(super) fn of(self, word: &str) -> String {
        match self {
            Self::Upper => word.to_ascii_uppercase(),
            Self::Title => word.to_owned(),
            Self::Lower => word.to_ascii_lowercase(),
        }
    }
}

impl Key {
    /// True for fields of digits, whose width counts where another one follows at once.
    pub(super) fn is_number(self) -> bool {
        !matches!(
            self,
            Self::HalfDay(..)
                | Self::Era(..)
                | Self::MonthName(_)
                | Self::MonthShort(_)
                | Self::DayName(_)
                | Self::DayShort(_)
                | Self::Roman(_)
                | Self::Zone(_)
                | Self::ZoneOffset
        )
    }
}

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Field {
        key: Key,
        /// Without blanks and zeros before the value.
        fill: bool,
        /// `th` or `TH` after the number.
        ordinal: Option<Case>,
    },
    /// A character as it is. `quoted`: it stood in quotes or behind a backslash.
    Char { c: char, quoted: bool },
}

/// A pattern.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    pub(super) nodes: Vec<Node>,
    /// `FX`: no blanks are skipped.
    pub(super) exact: bool,
}

/// Fields in the order they are looked for. Those of digits are written in capitals or in small letters throughout.
const FIELDS: &[(&str, Key)] = {
    use Case::{Lower, Title, Upper};
    &[
        ("A.D.", Key::Era(Upper, true)),
        ("a.d.", Key::Era(Lower, true)),
        ("B.C.", Key::Era(Upper, true)),
        ("b.c.", Key::Era(Lower, true)),
        ("A.M.", Key::HalfDay(Upper, true)),
        ("a.m.", Key::HalfDay(Lower, true)),
        ("P.M.", Key::HalfDay(Upper, true)),
        ("p.m.", Key::HalfDay(Lower, true)),
        ("AD", Key::Era(Upper, false)),
        ("ad", Key::Era(Lower, false)),
        ("BC", Key::Era(Upper, false)),
        ("bc", Key::Era(Lower, false)),
        ("AM", Key::HalfDay(Upper, false)),
        ("am", Key::HalfDay(Lower, false)),
        ("PM", Key::HalfDay(Upper, false)),
        ("pm", Key::HalfDay(Lower, false)),
        ("MONTH", Key::MonthName(Upper)),
        ("Month", Key::MonthName(Title)),
        ("month", Key::MonthName(Lower)),
        ("MON", Key::MonthShort(Upper)),
        ("Mon", Key::MonthShort(Title)),
        ("mon", Key::MonthShort(Lower)),
        ("DAY", Key::DayName(Upper)),
        ("Day", Key::DayName(Title)),
        ("day", Key::DayName(Lower)),
        ("DY", Key::DayShort(Upper)),
        ("Dy", Key::DayShort(Title)),
        ("dy", Key::DayShort(Lower)),
        ("RM", Key::Roman(Upper)),
        ("rm", Key::Roman(Lower)),
        ("TZH", Key::ZoneHours),
        ("TZM", Key::ZoneMinutes),
        ("TZ", Key::Zone(Upper)),
        ("tz", Key::Zone(Lower)),
        ("OF", Key::ZoneOffset),
    ]
};

/// Fields of digits.
const NUMBERS: &[(&str, Key)] = &[
    ("HH24", Key::Hour24),
    ("HH12", Key::Hour12),
    ("HH", Key::Hour12),
    ("MI", Key::Minute),
    ("SSSSS", Key::SecondOfDay),
    ("SSSS", Key::SecondOfDay),
    ("SS", Key::Second),
    ("MS", Key::Milliseconds),
    ("US", Key::Microseconds),
    ("FF1", Key::Fraction(1)),
    ("FF2", Key::Fraction(2)),
    ("FF3", Key::Fraction(3)),
    ("FF4", Key::Fraction(4)),
    ("FF5", Key::Fraction(5)),
    ("FF6", Key::Fraction(6)),
    ("Y,YYY", Key::YearComma),
    ("YYYY", Key::Year(4)),
    ("YYY", Key::Year(3)),
    ("YY", Key::Year(2)),
    ("Y", Key::Year(1)),
    ("IYYY", Key::IsoYear(4)),
    ("IYY", Key::IsoYear(3)),
    ("IY", Key::IsoYear(2)),
    ("IDDD", Key::IsoDayOfYear),
    ("ID", Key::IsoDayOfWeek),
    ("IW", Key::IsoWeek),
    ("I", Key::IsoYear(1)),
    ("MM", Key::Month),
    ("DDD", Key::DayOfYear),
    ("DD", Key::Day),
    ("D", Key::DayOfWeek),
    ("WW", Key::WeekOfYear),
    ("W", Key::WeekOfMonth),
    ("CC", Key::Century),
    ("J", Key::Julian),
    ("Q", Key::Quarter),
];

fn field(text: &str) -> Option<(usize, Key)> {
    if let Some((name, key)) = FIELDS.iter().find(|(name, _)| text.starts_with(name)) {
        return Some((name.len(), *key));
    }
    let number = |(name, _): &&(&str, Key)| {
        text.starts_with(name) || text.get(..name.len()).is_some_and(|t| t == name.to_ascii_lowercase())
    };
    NUMBERS.iter().find(number).map(|(name, key)| (name.len(), *key))
}

impl Pattern {
    /// Any text is a pattern: what is no field stands for itself.
    pub(super) fn parse(text: &str) -> Self {
        let mut out = Self::default();
        let mut rest = text;
        let mut fill = false;
        loop {
            if let Some(after) = rest.strip_prefix("FX").or_else(|| rest.strip_prefix("fx")) {
                (out.exact, rest) = (true, after);
                continue;
            }
            let prefixed = ["FM", "fm", "TM", "tm"].iter().find_map(|p| rest.strip_prefix(p).map(|after| (*p, after)));
            if let Some((prefix, after)) = prefixed {
                // TM asks for names of a locale; there is one.
                fill |= prefix.eq_ignore_ascii_case("fm");
                rest = after;
                continue;
            }
            if let Some((length, key)) = field(rest) {
                rest = &rest[length..];
                let mut ordinal = None;
                for (suffix, case) in [("TH", Case::Upper), ("th", Case::Lower)] {
                    if let (true, Some(after)) = (key.is_number(), rest.strip_prefix(suffix)) {
                        (ordinal, rest) = (Some(case), after);
                    }
                }
                out.nodes.push(Node::Field { key, fill, ordinal });
                fill = false;
                continue;
            }
            let mut chars = rest.chars();
            match chars.next() {
                None => return out,
                Some('"') => {
                    while let Some(c) = chars.next() {
                        match c {
                            '"' => break,
                            '\\' => out.nodes.extend(chars.next().map(|c| Node::Char { c, quoted: true })),
                            c => out.nodes.push(Node::Char { c, quoted: true }),
                        }
                    }
                }
                Some('\\') if chars.as_str().starts_with('"') => {
                    chars.next();
                    out.nodes.push(Node::Char { c: '"', quoted: true });
                }
                Some(c) => out.nodes.push(Node::Char { c, quoted: false }),
            }
            fill = false;
            rest = chars.as_str();
        }
    }
}

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
pub(super) const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
pub(super) const ROMAN: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

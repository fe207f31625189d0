//! Column types and literals from small domains, so that groups, joins and duplicates happen.

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ty {
    /// INT.
    Int,
    /// BIGINT.
    Big,
    /// DOUBLE PRECISION.
    Double,
    /// TEXT.
    Text,
    /// BOOLEAN.
    Bool,
    /// DECIMAL.
    Decimal,
    /// TIMESTAMP.
    Timestamp,
}

impl Ty {
    /// Every type.
    pub const ALL: [Ty; 7] = [Ty::Int, Ty::Big, Ty::Double, Ty::Text, Ty::Bool, Ty::Decimal, Ty::Timestamp];

    /// Name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Ty::Int => "INT",
            Ty::Big => "BIGINT",
            Ty::Double => "DOUBLE PRECISION",
            Ty::Text => "TEXT",
            Ty::Bool => "BOOLEAN",
            Ty::Decimal => "DECIMAL(12,2)",
            Ty::Timestamp => "TIMESTAMP",
        }
    }

    /// Whether `+` and `sum` work.
    pub fn numeric(self) -> bool {
        matches!(self, Ty::Int | Ty::Big | Ty::Double | Ty::Decimal)
    }
}

/// A column that can be referred to.
#[derive(Debug, Clone)]
pub struct Col {
    /// As written in SQL, with its qualifier if it has one.
    pub name: String,
    /// Its type.
    pub ty: Ty,
}

const TEXTS: &[&str] = &["", "a", "b", "ab", "B", "a b", "äß", "a text longer than twelve bytes", "it''s", "%"];
const DOUBLES: &[&str] = &["0.0", "1.0", "-1.5", "2.25", "0.1", "0.2", "0.3", "1e15"];
const ODD_DOUBLES: &[&str] = &[
    "'NaN'::double precision",
    "'Infinity'::double precision",
    "'-Infinity'::double precision",
    "1e300",
    "5e-324",
    "'-0'::double precision",
];

/// A literal that is not NULL. `odd`: also NaN, infinities and the ends of the range.
pub fn literal(rng: &mut SmallRng, ty: Ty, odd: bool) -> String {
    match ty {
        Ty::Int => {
            if odd && rng.random_bool(0.03) {
                return ["2147483647", "-2147483648"].choose(rng).copied().unwrap_or("0").into();
            }
            rng.random_range(-2..6).to_string()
        }
        Ty::Big => {
            if rng.random_bool(0.1) {
                return ["10000000000", "-10000000001", "4611686018427387904"]
                    .choose(rng)
                    .copied()
                    .unwrap_or("0")
                    .into();
            }
            rng.random_range(-2..6).to_string()
        }
        Ty::Double => {
            let from = if odd && rng.random_bool(0.3) { ODD_DOUBLES } else { DOUBLES };
            from.choose(rng).copied().unwrap_or("0.0").into()
        }
        Ty::Text => format!("'{}'", TEXTS.choose(rng).copied().unwrap_or("")),
        Ty::Bool => rng.random_bool(0.5).to_string(),
        Ty::Decimal => format!("{}.{:02}", rng.random_range(-2..4), [0, 25, 50, 99][rng.random_range(0..4)]),
        Ty::Timestamp => {
            let (minute, second) = (rng.random_range(0..3), rng.random_range(0..6) * 10);
            format!("'2026-01-01 00:{minute:02}:{second:02}'::timestamp")
        }
    }
}

/// A literal or, now and then, NULL of the type.
pub fn nullable(rng: &mut SmallRng, ty: Ty, odd: bool) -> String {
    if rng.random_bool(0.15) { "NULL".into() } else { literal(rng, ty, odd) }
}

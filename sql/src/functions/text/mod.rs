//! Functions of text that DataFusion lacks: quoting and `format`, lengths of text and bytes, and in [`regex`] those of
//! regular expressions.

mod format;
mod quote;
mod regex;
#[cfg(test)]
mod tests;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int32Type};
use datafusion::logical_expr::ScalarUDF;

pub(crate) use self::regex::{SIMILAR, SUBSTRING};
use super::define::{Call, Def, Kind, is_bytes, is_text, kinds, udfs};
use crate::error::SqlError;
use crate::types::list_of;

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let length =
        |name, aliases, run| Def { name, aliases, takes: text_or_bytes, gives: |_| DataType::Int32, strict: true, run };
    let mut all = udfs(&[
        length("character_length", &["length", "char_length"], |c| {
            c.primitives::<Int32Type>(|row| {
                Ok(Some(match c.args[0].data_type() {
                    DataType::Binary => c.args[0].as_binary::<i32>().value(row).len() as i32,
                    _ => characters(c.text(0).value(row)),
                }))
            })
        }),
        length("octet_length", &[], |c| c.primitives::<Int32Type>(|row| Ok(Some(bytes(c, row))))),
        length("bit_length", &[], |c| {
            c.primitives::<Int32Type>(|row| match bytes(c, row).checked_mul(8) {
                Some(bits) => Ok(Some(bits)),
                None => super::define::fail(crate::error::SqlState::NUMERIC_OUT_OF_RANGE, "integer out of range"),
            })
        }),
        Def {
            name: "quote_ident",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Text], 0),
            gives: |_| DataType::Utf8View,
            strict: true,
            run: |c| c.texts(|row| Ok(Some(quote::identifier(c.text(0).value(row))))),
        },
        Def {
            name: "quote_literal",
            aliases: &[],
            takes: |t| (t.len() == 1).then(|| vec![DataType::Utf8View]),
            gives: |_| DataType::Utf8View,
            strict: true,
            run: |c| c.texts(|row| Ok(Some(quote::literal(c.text(0).value(row))))),
        },
        Def {
            name: "quote_nullable",
            aliases: &[],
            takes: |t| (t.len() == 1).then(|| vec![DataType::Utf8View]),
            gives: |_| DataType::Utf8View,
            strict: false,
            run: |c| {
                let values = c.text(0);
                let one = |row| if values.is_null(row) { "NULL".to_owned() } else { quote::literal(values.value(row)) };
                Ok(std::sync::Arc::new(
                    (0..c.rows).map(|row| Some(one(row))).collect::<arrow::array::StringViewArray>(),
                ))
            },
        },
        format::DEF,
    ]);
    all.extend(udfs(regex::DEFS));
    all
}

fn text_or_bytes(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [t] if is_bytes(t) => Some(vec![DataType::Binary]),
        [t] if is_text(t) || t.is_null() => Some(vec![DataType::Utf8View]),
        _ => None,
    }
}

fn characters(s: &str) -> i32 {
    if s.is_ascii() { s.len() as i32 } else { s.chars().count() as i32 }
}

fn bytes(c: &Call<'_>, row: usize) -> i32 {
    match c.args[0].data_type() {
        DataType::Binary => c.args[0].as_binary::<i32>().value(row).len() as i32,
        _ => c.text(0).value(row).len() as i32,
    }
}

/// `text[]`.
fn texts() -> DataType {
    list_of(DataType::Utf8View)
}

type Text<T> = Result<T, SqlError>;

//! Failures of computing over data, with the SQLSTATE and the words of Postgres.
//!
//! Arrow says what went wrong in text alone, so its messages are read here. The classes are 21, 22 and 23: whoever
//! evaluates expressions takes an error of these for one of the row, and any other for a defect.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use super::errors::{between, convert, lower_first};
use crate::error::{SqlError, SqlState};

/// The same failure with SQLSTATE.
pub fn from_arrow(e: &ArrowError) -> SqlError {
    match e {
        ArrowError::DivideByZero => SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero"),
        ArrowError::ArithmeticOverflow(m) => out_of_range(m),
        ArrowError::CastError(m) | ArrowError::ParseError(m) => cast_error(m),
        ArrowError::NotYetImplemented(m) => SqlError::unsupported(lower_first(m)),
        ArrowError::ExternalError(inner) => match inner.downcast_ref::<SqlError>() {
            Some(ours) => ours.clone(),
            None => match inner.downcast_ref::<DataFusionError>() {
                Some(theirs) => convert(theirs, "", &[]),
                None => SqlError::new(SqlState::DATA_EXCEPTION, inner.to_string()),
            },
        },
        ArrowError::InvalidArgumentError(m) | ArrowError::ComputeError(m) => {
            let lower = m.to_lowercase();
            if lower.contains("overflow") || lower.contains("to store in a decimal") {
                out_of_range(m)
            } else if lower.contains("regular expression") || lower.contains("regex") {
                SqlError::new(SqlState::INVALID_REGULAR_EXPRESSION, lower_first(m))
            } else {
                SqlError::new(SqlState::DATA_EXCEPTION, lower_first(m))
            }
        }
        other => SqlError::internal(other.to_string()),
    }
}

/// What a function reports in words of its own.
pub(super) fn from_execution(message: &str) -> SqlError {
    let lower = message.to_lowercase();
    if lower.contains("more than one row") {
        return SqlError::new(
            SqlState::CARDINALITY_VIOLATION,
            "more than one row returned by a subquery used as an expression",
        );
    }
    if lower.contains("overflow") || lower.contains("out of range") {
        return out_of_range(message);
    }
    if lower.contains("divide by zero") || lower.contains("division by zero") {
        return SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero");
    }
    let code = if lower.contains("regular expression") || lower.contains("regex") {
        SqlState::INVALID_REGULAR_EXPRESSION
    } else if lower.contains("timestamp") && lower.contains("parsing") {
        SqlState::INVALID_DATETIME_FORMAT
    } else if lower.contains("parsing") || lower.contains("cannot cast") {
        SqlState::INVALID_TEXT_REPRESENTATION
    } else {
        SqlState::DATA_EXCEPTION
    };
    SqlError::new(code, lower_first(message))
}

fn out_of_range(message: &str) -> SqlError {
    let named = |t: &str| SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, format!("{t} out of range"));
    // abs() says which array it looked at.
    for (array, t) in [("Int16Array", "smallint"), ("Int32Array", "integer"), ("Int64Array", "bigint")] {
        if message.starts_with(array) {
            return named(t);
        }
    }
    if message.contains("to store in a Decimal") || message.contains("Decimal overflow") {
        return SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "numeric field overflow");
    }
    SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, lower_first(message))
}

fn cast_error(message: &str) -> SqlError {
    if let Some(value) =
        between(message, "string '", "' to value of ").or_else(|| between(message, "value '", "' to value of "))
        && let Some(t) = between(message, "' to value of ", " type")
    {
        return invalid_text(value, sql_name(t));
    }
    if let Some(value) = between(message, "Error parsing timestamp from '", "'") {
        return invalid_text(value, "timestamp");
    }
    if let Some(t) = message.strip_prefix("Can't cast value ").and_then(|m| m.rsplit(" to type ").next()) {
        return SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, format!("{} out of range", sql_name(t)));
    }
    if message.contains("Overflowing on") || message.contains("overflow") {
        return SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "numeric field overflow");
    }
    let code = match message.starts_with("Invalid input syntax for type interval") {
        true => SqlState::INVALID_DATETIME_FORMAT,
        false => SqlState::INVALID_TEXT_REPRESENTATION,
    };
    SqlError::new(code, lower_first(message))
}

/// Text that does not parse as a type: 22P02, or 22007 for types of time.
pub(crate) fn invalid_text(value: &str, type_name: &str) -> SqlError {
    let digits = value.trim().trim_start_matches(['-', '+']);
    let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if whole && matches!(type_name, "smallint" | "integer" | "bigint" | "tinyint") {
        let message = format!("value \"{value}\" is out of range for type {type_name}");
        return SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, message);
    }
    let code = match type_name {
        "date" | "time" | "timestamp" | "timestamp with time zone" | "interval" => SqlState::INVALID_DATETIME_FORMAT,
        _ => SqlState::INVALID_TEXT_REPRESENTATION,
    };
    SqlError::new(code, format!("invalid input syntax for type {type_name}: \"{value}\""))
}

/// The SQL name of a type as Arrow prints it.
fn sql_name(arrow: &str) -> &str {
    match arrow {
        "Int8" => "tinyint",
        "Int16" => "smallint",
        "Int32" => "integer",
        "Int64" => "bigint",
        "Float32" => "real",
        "Float64" => "double precision",
        "Boolean" => "boolean",
        "Date32" | "Date64" => "date",
        t if t.starts_with("Decimal") => "numeric",
        t if t.starts_with("Time32") || t.starts_with("Time64") => "time",
        t if t.starts_with("Timestamp") => "timestamp",
        t if t.starts_with("Interval") => "interval",
        other => other,
    }
}

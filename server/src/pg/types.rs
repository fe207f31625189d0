//! Arrow types and the Postgres types they are shown as on the wire.
//!
//! Every Arrow type has exactly one Postgres type, so that a Describe and the rows that follow always agree. Types
//! without a counterpart (structs, maps, lists of lists) are shown as `json`.

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

/// A Postgres type as RowDescription shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PgType {
    /// Object id.
    pub oid: u32,
    /// `typlen`: bytes, or -1 for variable.
    pub len: i16,
    /// `typmod`, -1 for none.
    pub modifier: i32,
}

/// Object ids of the types we use.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

/// `(element, array)` object ids.
const ARRAYS: &[(u32, u32)] = &[
    (oid::BOOL, 1000),
    (oid::BYTEA, 1001),
    (oid::INT2, 1005),
    (oid::INT4, 1007),
    (oid::TEXT, 1009),
    (oid::VARCHAR, 1015),
    (oid::INT8, 1016),
    (oid::FLOAT4, 1021),
    (oid::FLOAT8, 1022),
    (oid::TIMESTAMP, 1115),
    (oid::DATE, 1182),
    (oid::TIME, 1183),
    (oid::TIMESTAMPTZ, 1185),
    (oid::INTERVAL, 1187),
    (oid::NUMERIC, 1231),
];

/// The array type of an element type.
pub fn array_of(element: u32) -> Option<u32> {
    ARRAYS.iter().find(|(e, _)| *e == element).map(|(_, a)| *a)
}

/// The element type of an array type.
pub fn element_of(array: u32) -> Option<u32> {
    ARRAYS.iter().find(|(_, a)| *a == array).map(|(e, _)| *e)
}

/// The type a column is shown as.
pub fn of_field(field: &Field) -> PgType {
    // The catalog tables mark Int32 columns that hold object ids.
    if field.metadata().get("pg.oid_alias").is_some() && field.data_type() == &DataType::Int32 {
        return PgType { oid: oid::OID, len: 4, modifier: -1 };
    }
    of(field.data_type())
}

/// The type an Arrow type is shown as.
pub fn of(data_type: &DataType) -> PgType {
    let fixed = |oid, len| PgType { oid, len, modifier: -1 };
    match data_type {
        DataType::Boolean => fixed(oid::BOOL, 1),
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => fixed(oid::INT2, 2),
        DataType::UInt16 | DataType::Int32 => fixed(oid::INT4, 4),
        DataType::UInt32 | DataType::Int64 => fixed(oid::INT8, 8),
        DataType::UInt64 => fixed(oid::NUMERIC, -1),
        DataType::Float16 | DataType::Float32 => fixed(oid::FLOAT4, 4),
        DataType::Float64 => fixed(oid::FLOAT8, 8),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => {
            let modifier = if *s >= 0 { (i32::from(*p) << 16 | i32::from(*s)) + 4 } else { -1 };
            PgType { oid: oid::NUMERIC, len: -1, modifier }
        }
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => fixed(oid::TEXT, -1),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            fixed(oid::BYTEA, -1)
        }
        DataType::Date32 | DataType::Date64 => fixed(oid::DATE, 4),
        DataType::Time32(_) | DataType::Time64(_) => fixed(oid::TIME, 8),
        DataType::Timestamp(_, None) => fixed(oid::TIMESTAMP, 8),
        DataType::Timestamp(_, Some(_)) => fixed(oid::TIMESTAMPTZ, 8),
        DataType::Interval(_) | DataType::Duration(_) => fixed(oid::INTERVAL, 16),
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::FixedSizeList(f, _)
        | DataType::ListView(f)
        | DataType::LargeListView(f) => match array_of(of(f.data_type()).oid) {
            Some(a) => fixed(a, -1),
            None => fixed(oid::JSON, -1),
        },
        DataType::Dictionary(_, v) => of(v),
        DataType::RunEndEncoded(_, v) => of(v.data_type()),
        DataType::Struct(_) | DataType::Map(_, _) | DataType::Union(_, _) => fixed(oid::JSON, -1),
    }
}

/// The Arrow type a parameter of this Postgres type becomes. `None`: we do not know the type.
pub fn arrow_of(type_oid: u32) -> Option<DataType> {
    Some(match type_oid {
        oid::BOOL => DataType::Boolean,
        oid::INT2 => DataType::Int16,
        oid::INT4 => DataType::Int32,
        oid::OID | oid::INT8 => DataType::Int64,
        oid::FLOAT4 => DataType::Float32,
        oid::FLOAT8 => DataType::Float64,
        0
        | oid::TEXT
        | oid::VARCHAR
        | oid::BPCHAR
        | oid::NAME
        | oid::CHAR
        | oid::UNKNOWN
        | oid::UUID
        | oid::JSON
        | oid::JSONB => DataType::Utf8,
        oid::BYTEA => DataType::Binary,
        oid::DATE => DataType::Date32,
        oid::TIME => DataType::Time64(TimeUnit::Microsecond),
        oid::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        oid::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        oid::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        other => {
            let element = element_of(other)?;
            // The precision of a numeric is known per value, so numeric arrays have no Arrow type.
            if element == oid::NUMERIC {
                return None;
            }
            DataType::List(std::sync::Arc::new(Field::new_list_field(arrow_of(element)?, true)))
        }
    })
}

/// The name psql shows for a type: what `format_type` gives.
pub fn name_of(type_oid: u32) -> Option<&'static str> {
    Some(match type_oid {
        oid::BOOL => "boolean",
        oid::BYTEA => "bytea",
        oid::CHAR => "\"char\"",
        oid::NAME => "name",
        oid::INT8 => "bigint",
        oid::INT2 => "smallint",
        oid::INT4 => "integer",
        oid::TEXT => "text",
        oid::OID => "oid",
        oid::JSON => "json",
        oid::JSONB => "jsonb",
        oid::FLOAT4 => "real",
        oid::FLOAT8 => "double precision",
        oid::UNKNOWN => "unknown",
        oid::BPCHAR => "character",
        oid::VARCHAR => "character varying",
        oid::DATE => "date",
        oid::TIME => "time without time zone",
        oid::TIMESTAMP => "timestamp without time zone",
        oid::TIMESTAMPTZ => "timestamp with time zone",
        oid::INTERVAL => "interval",
        oid::NUMERIC => "numeric",
        oid::UUID => "uuid",
        _ => return None,
    })
}

/// `numeric(10,2)`, `text[]`: the full name with modifier. `???` for a type we do not have, as Postgres does.
pub fn format_type(type_oid: u32, modifier: i32) -> String {
    if let Some(element) = element_of(type_oid) {
        return format!("{}[]", format_type(element, -1));
    }
    match name_of(type_oid) {
        Some("numeric") if modifier >= 4 => {
            let m = modifier - 4;
            format!("numeric({},{})", (m >> 16) & 0xffff, m & 0x7ff)
        }
        Some(name) => name.to_owned(),
        None => "???".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_carry_precision_and_scale() {
        let t = of(&DataType::Decimal128(10, 2));
        assert_eq!(t.oid, oid::NUMERIC);
        assert_eq!(format_type(t.oid, t.modifier), "numeric(10,2)");
    }

    #[test]
    fn lists_of_scalars_are_arrays_and_lists_of_lists_are_json() {
        let list = |t| DataType::List(std::sync::Arc::new(Field::new_list_field(t, true)));
        assert_eq!(of(&list(DataType::Int32)).oid, 1007);
        assert_eq!(of(&list(DataType::Utf8View)).oid, 1009);
        assert_eq!(of(&list(list(DataType::Int32))).oid, oid::JSON);
        assert_eq!(format_type(1009, -1), "text[]");
    }
}

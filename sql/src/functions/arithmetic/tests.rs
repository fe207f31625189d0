#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Decimal128Array, Float64Array, Int16Array, Int64Array};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF};

use super::*;
use crate::session::from_datafusion;

fn call(f: &ScalarUDF, args: Vec<ColumnarValue>, rows: usize) -> std::result::Result<ColumnarValue, SqlError> {
    let types: Vec<DataType> = args.iter().map(ColumnarValue::data_type).collect();
    let to = f.inner().return_type(&types).map_err(from_datafusion)?;
    let arg_fields = types.iter().map(|t| Arc::new(Field::new("x", t.clone(), true))).collect();
    let return_field = Arc::new(Field::new("f", to, true));
    let config_options = Arc::new(ConfigOptions::default());
    let args = ScalarFunctionArgs { args, arg_fields, number_rows: rows, return_field, config_options };
    f.inner().invoke_with_args(args).map_err(from_datafusion)
}

/// Both operands as columns, and each as a constant for all rows: results and errors must be the same.
fn check(op: Arithmetic, left: ArrayRef, right: ArrayRef, expected: Result<&[&str], &str>) {
    let f = op.function();
    let rows = left.len();
    let array = |a: &ArrayRef| ColumnarValue::Array(Arc::clone(a));
    let one = |a: &ArrayRef| ColumnarValue::Scalar(ScalarValue::try_from_array(a, 0).unwrap());
    let texts = |v: ColumnarValue, n: usize| -> Vec<String> {
        let a = v.into_array(n).unwrap();
        let text = |i| if a.is_null(i) { "NULL".to_owned() } else { array_value_to_string(&a, i).unwrap() };
        (0..a.len()).map(text).collect()
    };
    let whole = call(&f, vec![array(&left), array(&right)], rows);
    match (whole, expected) {
        (Ok(v), Ok(expected)) => {
            assert_eq!(texts(v, rows), expected, "{op:?}");
            let first = (left.slice(0, 1), right.slice(0, 1));
            for args in
                [vec![one(&left), array(&first.1)], vec![array(&first.0), one(&right)], vec![one(&left), one(&right)]]
            {
                assert_eq!(texts(call(&f, args, 1).unwrap(), 1), &expected[..1], "{op:?} of constants");
            }
        }
        (Err(e), Err(expected)) => assert_eq!(format!("{} {}", e.code.0, e.message), expected, "{op:?}"),
        (got, expected) => panic!("{op:?}: {got:?} for {expected:?}"),
    }
}

fn ints(v: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(v.to_vec()))
}

fn numerics(v: &[i128], p: u8, s: i8) -> ArrayRef {
    Arc::new(Decimal128Array::from(v.to_vec()).with_precision_and_scale(p, s).unwrap())
}

fn floats(v: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(v.to_vec()))
}

#[test]
fn integers_that_do_not_fit_are_an_error_and_null_slots_are_not_looked_at() {
    use Arithmetic::*;
    let range = Err("22003 bigint out of range");
    check(Add, ints(&[Some(1), None]), ints(&[Some(2), Some(3)]), Ok(&["3", "NULL"]));
    check(Add, ints(&[Some(i64::MAX)]), ints(&[Some(1)]), range);
    check(Subtract, ints(&[Some(i64::MIN)]), ints(&[Some(1)]), range);
    check(Subtract, ints(&[Some(-2)]), ints(&[Some(i64::MAX)]), range);
    check(Multiply, ints(&[Some(i64::MIN)]), ints(&[Some(-1)]), range);
    check(Divide, ints(&[Some(i64::MIN)]), ints(&[Some(-1)]), range);
    check(Divide, ints(&[Some(-7)]), ints(&[Some(2)]), Ok(&["-3"]));
    check(Divide, ints(&[Some(7)]), ints(&[Some(0)]), Err("22012 division by zero"));
    check(Modulo, ints(&[Some(7)]), ints(&[Some(0)]), Err("22012 division by zero"));
    check(Modulo, ints(&[Some(i64::MIN)]), ints(&[Some(-1)]), Ok(&["0"]));
    // What is under a NULL is arbitrary.
    let nulls = Some(vec![true, false].into());
    let dirty: ArrayRef = Arc::new(Int64Array::new(vec![1, i64::MAX].into(), nulls));
    check(Add, dirty, ints(&[Some(1), Some(1)]), Ok(&["2", "NULL"]));
    let small = |v: i16| -> ArrayRef { Arc::new(Int16Array::from(vec![v])) };
    check(Multiply, small(300), small(300), Err("22003 smallint out of range"));
    check(Multiply, small(-128), small(256), Ok(&["-32768"]));
}

#[test]
fn floats_follow_postgres_at_the_ends_of_their_range() {
    use Arithmetic::*;
    check(Divide, floats(&[1.0, f64::NAN]), floats(&[4.0, 0.0]), Ok(&["0.25", "NaN"]));
    check(Divide, floats(&[1.0]), floats(&[0.0]), Err("22012 division by zero"));
    check(Multiply, floats(&[1e300]), floats(&[1e300]), Err("22003 value out of range: overflow"));
    check(Multiply, floats(&[1e-300]), floats(&[1e-300]), Err("22003 value out of range: underflow"));
    check(Add, floats(&[f64::INFINITY, 0.0]), floats(&[1.0, 0.0]), Ok(&["inf", "0.0"]));
    check(Multiply, floats(&[0.0]), floats(&[5.0]), Ok(&["0.0"]));
}

#[test]
fn decimals_are_exact_and_quotients_round_half_away_from_zero() {
    use Arithmetic::*;
    check(Add, numerics(&[105], 10, 2), numerics(&[5], 4, 3), Ok(&["1.055"]));
    check(Multiply, numerics(&[105], 10, 2), numerics(&[-15], 4, 1), Ok(&["-1.575"]));
    check(Divide, numerics(&[10], 2, 1), numerics(&[3], 1, 0), Ok(&["0.3333333333333333"]));
    check(Divide, numerics(&[-20], 2, 1), numerics(&[3], 1, 0), Ok(&["-0.6666666666666667"]));
    check(Divide, numerics(&[1], 1, 0), numerics(&[0], 1, 0), Err("22012 division by zero"));
    check(Modulo, numerics(&[-75], 2, 1), numerics(&[2], 1, 0), Ok(&["-1.5"]));
    let nines = 10i128.pow(38) - 1;
    check(Add, numerics(&[nines], 38, 0), numerics(&[1], 1, 0), Err("22003 numeric field overflow"));
    check(Add, numerics(&[nines - 1], 38, 0), numerics(&[1], 1, 0), Ok(&["99999999999999999999999999999999999999"]));
    check(Multiply, numerics(&[nines], 38, 10), numerics(&[nines], 38, 10), Err("22003 numeric field overflow"));
    // The dividend does not fit 128 bits on the way; the quotient does.
    check(Divide, numerics(&[nines], 38, 20), numerics(&[nines], 38, 20), Ok(&["1.00000000000000000000"]));
}

#[test]
fn types_of_results_are_those_of_postgres() {
    use Arithmetic::*;
    use DataType::*;
    let of = |op: Arithmetic, l: DataType, r: DataType| op.types(&l, &r).map(|t| t.2);
    assert_eq!(of(Add, Int16, Int32), Some(Int32));
    assert_eq!(of(Add, Int32, UInt32), Some(Int64));
    assert_eq!(of(Add, Int64, UInt64), Some(Decimal128(21, 0)));
    assert_eq!(of(Multiply, Float32, Float32), Some(Float32));
    assert_eq!(of(Multiply, Float32, Int32), Some(Float64));
    assert_eq!(of(Multiply, Decimal128(38, 10), Float64), Some(Float64));
    assert_eq!(of(Multiply, Decimal128(10, 2), Int32), Some(Decimal128(20, 2)));
    assert_eq!(of(Multiply, Decimal128(38, 10), Decimal128(38, 10)), Some(Decimal128(38, 20)));
    assert_eq!(of(Multiply, Decimal128(38, 20), Decimal128(38, 10)), Some(Decimal256(76, 30)));
    assert_eq!(of(Divide, Int64, Decimal128(10, 2)), Some(Decimal128(37, 16)));
    assert_eq!(of(Divide, Null, Int64), Some(Int64));
    assert_eq!(of(Add, Date32, Int64), None);
    assert_eq!(of(Add, Utf8, Int64), None);
    // Operands that were brought to their types stay what they are.
    for (l, r) in [(Int16, Decimal128(10, 2)), (Decimal128(38, 20), Decimal128(38, 20)), (UInt64, Int8)] {
        for op in Arithmetic::ALL {
            let (a, b, t) = op.types(&l, &r).unwrap();
            assert_eq!(op.types(&a, &b), Some((a.clone(), b.clone(), t)), "{op:?} {l} {r}");
        }
    }
}

#[test]
fn the_smallest_integer_has_no_negative() {
    let e = call(&negate(), vec![ColumnarValue::Array(ints(&[Some(1), Some(i64::MIN)]))], 2).unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (SqlState::NUMERIC_OUT_OF_RANGE, "bigint out of range"));
}

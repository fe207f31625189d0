use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Decimal256Array, DurationMicrosecondArray, Float64Array, Int64Array,
    RecordBatch, StringArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, i256};
use millstream_sql::plan::{AggCall, AggFunc};

use super::harness::{Random, Rig, float};
use millstream_sql::functions::{self, Collect::*};
use millstream_sql::plan::SortColumn;

use super::*;
use crate::zset::{Weights, ZBatch};

#[derive(Debug, Clone)]
struct Row {
    k: Option<f64>,
    t: Option<&'static str>,
    i: Option<i64>,
    d: Option<i128>,
    f: Option<f64>,
    b: Option<bool>,
    s: Option<&'static str>,
    on: Option<bool>,
}

const D: DataType = DataType::Decimal128(10, 2);

fn schema() -> SchemaRef {
    let f = |n: &str, t: DataType| Field::new(n, t, true);
    Arc::new(Schema::new(vec![
        f("k", DataType::Float64),
        f("t", DataType::Utf8),
        f("i", DataType::Int64),
        f("d", D),
        f("f", DataType::Float64),
        f("b", DataType::Boolean),
        f("s", DataType::Utf8),
        f("on", DataType::Boolean),
    ]))
}

fn batch(rows: &[(Row, i64)]) -> ZBatch {
    let d: Decimal128Array = rows.iter().map(|r| r.0.d).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.0.k).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.0.t).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.0.i).collect::<Int64Array>()),
        Arc::new(d.with_precision_and_scale(10, 2).expect("decimal")),
        Arc::new(rows.iter().map(|r| r.0.f).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.0.b).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|r| r.0.s).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.0.on).collect::<BooleanArray>()),
    ];
    let weights: Vec<i64> = rows.iter().map(|r| r.1).collect();
    let rows = RecordBatch::try_new(schema(), columns).expect("batch");
    let weights = if weights.iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(weights.into()) };
    ZBatch::new(rows, weights)
}

fn random_row(r: &mut Random) -> Row {
    let nan2 = f64::from_bits(f64::NAN.to_bits() | 1);
    Row {
        k: r.pick(&[None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(nan2), Some(1.5), Some(-2.0)]),
        t: r.pick(&[None, Some(""), Some("x"), Some("yy")]),
        i: r.pick(&[None, Some(1), Some(-7), Some(1 << 40), Some(5)]),
        d: r.pick(&[None, Some(1), Some(-250), Some(99999), Some(12345)]),
        f: r.pick(&[
            None,
            Some(0.25),
            Some(-1.75),
            Some(0.0),
            Some(-0.0),
            Some(f64::NAN),
            Some(f64::INFINITY),
            Some(3.0),
        ]),
        b: r.pick(&[None, Some(true), Some(false), Some(true)]),
        s: r.pick(&[None, Some("a"), Some("b"), Some("zz"), Some("")]),
        on: r.pick(&[None, Some(true), Some(false)]),
    }
}

fn call(func: AggFunc, arg: Option<usize>, output: DataType) -> AggCall {
    AggCall::new(func, arg, output)
}
fn distinct(c: AggCall) -> AggCall {
    AggCall { distinct: true, ..c }
}
fn filtered(c: AggCall) -> AggCall {
    AggCall { filter: Some(7), ..c }
}

const SUM_D: DataType = DataType::Decimal128(38, 2);
const AVG_D: DataType = DataType::Decimal128(38, 16);

/// Rounded half away from zero.
fn rounded(n: i128, d: i128) -> i128 {
    (2 * n.abs() + d) / (2 * d) * n.signum()
}

fn all_calls() -> Vec<AggCall> {
    use AggFunc::*;
    let (int, real, text) = (DataType::Int64, DataType::Float64, DataType::Utf8);
    vec![
        call(CountStar, None, int.clone()),
        filtered(call(CountStar, None, int.clone())),
        call(Count, Some(2), int.clone()),
        call(Sum, Some(2), int.clone()),
        filtered(call(Sum, Some(2), int.clone())),
        call(Sum, Some(3), SUM_D),
        call(Avg, Some(3), AVG_D),
        call(Sum, Some(4), real.clone()),
        call(Avg, Some(4), real.clone()),
        call(Avg, Some(2), real.clone()),
        call(Min, Some(2), int.clone()),
        filtered(call(Max, Some(2), int.clone())),
        call(Min, Some(4), real.clone()),
        call(Max, Some(4), real),
        call(Min, Some(6), text.clone()),
        call(Max, Some(6), text),
        call(Max, Some(3), D),
        call(BoolAnd, Some(5), DataType::Boolean),
        call(BoolOr, Some(5), DataType::Boolean),
        call(Min, Some(5), DataType::Boolean),
        distinct(call(Count, Some(4), int.clone())),
        filtered(distinct(call(Count, Some(6), int.clone()))),
        distinct(call(Sum, Some(2), int.clone())),
        distinct(call(Avg, Some(3), AVG_D)),
        call(BitAnd, Some(2), int.clone()),
        filtered(call(BitOr, Some(2), int.clone())),
        call(BitXor, Some(2), int.clone()),
        call(Stat(functions::Stat::VarSamp), Some(2), DataType::Float64),
        distinct(call(Stat(functions::Stat::VarPop), Some(2), DataType::Float64)),
        AggCall { order: vec![descending(6), ascending(2)], ..call(Collect(ArrayAgg), Some(2), list()) },
        distinct(AggCall { order: vec![ascending(2)], ..call(Collect(ArrayAgg), Some(2), list()) }),
        AggCall { order: vec![descending(2)], ..filtered(call(Collect(FirstValue), Some(2), int.clone())) },
        AggCall { order: vec![ascending(2)], ignore_nulls: true, ..call(Collect(LastValue), Some(2), int.clone()) },
        AggCall { order: vec![descending(2)], ..call(Collect(Mode), Some(2), int) },
        AggCall { order: vec![ascending(4)], ..call(Collect(Median), Some(4), DataType::Float64) },
        AggCall { order: vec![ascending(3)], ..call(Collect(Median), Some(3), D) },
        AggCall { order: vec![ascending(2)], more: vec![6], ..call(Collect(JsonArray), Some(6), DataType::Utf8View) },
        AggCall { order: vec![ascending(2)], more: vec![6], ..call(Collect(JsonbObject), Some(1), DataType::Utf8View) },
    ]
}

fn list() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)))
}
fn ascending(column: usize) -> SortColumn {
    SortColumn { column, descending: false, nulls_first: false }
}
fn descending(column: usize) -> SortColumn {
    SortColumn { column, descending: true, nulls_first: true }
}

/// The calls that see their values in order, and those of bits and squares.
fn model_of_more(c: &AggCall, rows: &[&&Row]) -> String {
    let mut all: Vec<(Option<&str>, Option<i64>)> = rows.iter().map(|r| (r.s, r.i)).collect();
    // Ascending with NULLs last, which is the reverse of descending with NULLs first.
    let up = |a: &Option<i64>, b: &Option<i64>| (a.is_none(), *a).cmp(&(b.is_none(), *b));
    all.sort_by(|a, b| {
        let s = (b.0.is_none(), b.0).cmp(&(a.0.is_none(), a.0));
        if c.order.first().is_some_and(|o| o.column == 6) { s.then(up(&a.1, &b.1)) } else { up(&a.1, &b.1) }
    });
    let mut values: Vec<i64> = all.iter().filter_map(|r| r.1).collect();
    let shown = |x: Option<i64>| x.map_or("NULL".to_owned(), |x| x.to_string());
    let bits = |f: fn(i64, i64) -> i64| shown(values.iter().copied().reduce(f));
    match c.func {
        AggFunc::BitAnd => bits(|a, b| a & b),
        AggFunc::BitOr => bits(|a, b| a | b),
        AggFunc::BitXor => bits(|a, b| a ^ b),
        AggFunc::Stat(stat) => {
            if c.distinct {
                values.dedup();
            }
            let n = values.len() as i128;
            let divisor = if stat == functions::Stat::VarSamp { n - 1 } else { n };
            let (sum, squares) = values.iter().fold((0i128, 0i128), |(s, q), v| {
                let v = i128::from(*v);
                (s + v, q + v * v)
            });
            if divisor <= 0 { shown(None) } else { float((n * squares - sum * sum) as f64 / n as f64 / divisor as f64) }
        }
        AggFunc::Collect(ArrayAgg) => {
            let mut all: Vec<String> = all.iter().map(|r| r.1.map_or(String::new(), |x| x.to_string())).collect();
            if c.distinct {
                all.dedup();
            }
            if all.is_empty() { shown(None) } else { format!("[{}]", all.join(", ")) }
        }
        AggFunc::Collect(FirstValue) => shown(all.last().and_then(|r| r.1)),
        AggFunc::Collect(LastValue) => shown(values.last().copied()),
        AggFunc::Collect(Median) if c.arg == Some(4) => {
            let mut all: Vec<f64> = rows.iter().filter_map(|r| r.f).collect();
            all.sort_by(f64::total_cmp);
            let Some(last) = all.len().checked_sub(1) else { return shown(None) };
            let (low, high) = (all[last / 2], all[last.div_ceil(2)]);
            float(if last % 2 == 0 || low == high { low } else { low + 0.5 * (high - low) })
        }
        AggFunc::Collect(Median) => {
            let mut all: Vec<i128> = rows.iter().filter_map(|r| r.d).collect();
            all.sort_unstable();
            let Some(last) = all.len().checked_sub(1) else { return shown(None) };
            rounded(all[last / 2] + all[last.div_ceil(2)], 2).to_string()
        }
        AggFunc::Collect(JsonArray) => {
            let mut all: Vec<(bool, Option<i64>, bool, Option<&str>)> =
                rows.iter().map(|r| (r.i.is_none(), r.i, r.s.is_none(), r.s)).collect();
            all.sort_unstable();
            let mut out = String::new();
            for (.., s) in &all {
                out.push_str(if out.is_empty() { "[" } else { s.unwrap_or(", ") });
                out.push_str(s.unwrap_or("null"));
            }
            if all.is_empty() { shown(None) } else { out + "]" }
        }
        AggFunc::Collect(JsonbObject) => {
            let mut all: Vec<_> =
                rows.iter().map(|r| ((r.i.is_none(), r.i), (r.t.is_none(), r.t), (r.s.is_none(), r.s))).collect();
            all.sort_unstable();
            let members: BTreeMap<(usize, &str), &str> = all
                .iter()
                .map(|(_, (_, t), (_, s))| (t.unwrap_or_default(), s.unwrap_or("null")))
                .map(|(key, value)| ((key.len(), key), value))
                .collect();
            let members: Vec<String> = members.iter().map(|((_, k), v)| format!("\"{k}\": {v}")).collect();
            if all.is_empty() { shown(None) } else { format!("{{{}}}", members.join(", ")) }
        }
        _ => {
            let times = |v: &i64| values.iter().filter(|x| *x == v).count();
            let most = values.iter().map(times).max().unwrap_or(0);
            shown(values.iter().rev().find(|v| times(v) == most).copied())
        }
    }
}

/// The meaning of the calls over the rows of one group, plainly.
fn model(calls: &[AggCall], rows: &[&Row]) -> Vec<String> {
    calls
        .iter()
        .map(|c| {
            let rows: Vec<&&Row> = rows.iter().filter(|r| c.filter.is_none() || r.on == Some(true)).collect();
            let dedup = |mut v: Vec<i128>| {
                if c.distinct {
                    v.sort();
                    v.dedup();
                }
                v
            };
            let ints = dedup(match c.arg {
                Some(2) => rows.iter().filter_map(|r| r.i.map(i128::from)).collect(),
                Some(3) => rows.iter().filter_map(|r| r.d).collect(),
                Some(5) => rows.iter().filter_map(|r| r.b.map(i128::from)).collect(),
                _ => vec![],
            });
            let mut floats: Vec<f64> = rows.iter().filter_map(|r| r.f).collect();
            let mut texts: Vec<&str> = rows.iter().filter_map(|r| r.s).collect();
            floats.sort_by(f64::total_cmp);
            texts.sort();
            let opt = |x: Option<String>| x.unwrap_or_else(|| "NULL".into());
            let some = |empty: bool, x: String| if empty { "NULL".to_owned() } else { x };
            let truth = |x: Option<&i128>| opt(x.map(|v| (*v == 1).to_string()));
            use AggFunc::*;
            match (c.func, c.arg) {
                (BitAnd | BitOr | BitXor | Stat(_) | Collect(_), _) => model_of_more(c, &rows),
                (CountStar, _) => rows.len().to_string(),
                (Count, Some(4)) => {
                    let mut v: Vec<String> = floats.iter().map(|x| float(*x + 0.0)).collect();
                    v.sort();
                    v.dedup();
                    v.len().to_string()
                }
                (Count, Some(6)) => {
                    texts.dedup();
                    texts.len().to_string()
                }
                (Count, _) => ints.len().to_string(),
                (Sum, Some(4)) => some(floats.is_empty(), float(floats.iter().fold(0.0, |a, x| a + x))),
                (Avg, Some(4)) => {
                    some(floats.is_empty(), float(floats.iter().fold(0.0, |a, x| a + x) / floats.len() as f64))
                }
                (Avg, Some(2)) => {
                    some(ints.is_empty(), float(ints.iter().map(|i| *i as f64).sum::<f64>() / ints.len() as f64))
                }
                (Sum, _) => some(ints.is_empty(), ints.iter().sum::<i128>().to_string()),
                (Avg, _) => some(
                    ints.is_empty(),
                    rounded(ints.iter().sum::<i128>() * 10i128.pow(14), ints.len().max(1) as i128).to_string(),
                ),
                (Min, Some(4)) => opt(floats.first().map(|x| float(*x))),
                (Max, Some(4)) => opt(floats.last().map(|x| float(*x))),
                (Min, Some(6)) => opt(texts.first().map(|x| (*x).to_owned())),
                (Max, Some(6)) => opt(texts.last().map(|x| (*x).to_owned())),
                (Min | BoolAnd, Some(5)) => truth(ints.iter().min()),
                (BoolOr, Some(5)) => truth(ints.iter().max()),
                (Min, _) => opt(ints.iter().min().map(i128::to_string)),
                (Max, _) => opt(ints.iter().max().map(i128::to_string)),
                (f, a) => panic!("no model of {f:?} {a:?}"),
            }
        })
        .collect()
}

fn expected(calls: &[AggCall], keys: &[usize], rows: &[Row]) -> BTreeMap<String, i64> {
    let mut groups: BTreeMap<Vec<String>, Vec<&Row>> = BTreeMap::new();
    if keys.is_empty() {
        groups.insert(vec![], vec![]);
    }
    for r in rows {
        let null = || "NULL".to_owned();
        let key = keys.iter().map(|k| match k {
            0 => r.k.map_or_else(null, |x| float(x + 0.0)),
            1 => r.t.map_or_else(null, str::to_owned),
            _ => r.i.map_or_else(null, |i| i.to_string()),
        });
        groups.entry(key.collect()).or_default().push(r);
    }
    groups
        .into_iter()
        .map(|(mut key, rows)| {
            key.extend(model(calls, &rows));
            (key.join("|"), 1)
        })
        .collect()
}

fn rig(calls: Vec<AggCall>, keys: Vec<usize>, append_only: bool, shards: u32) -> Rig {
    let route = keys.clone();
    Rig::new(shards, route, move |shard| {
        let out = output_schema(&schema(), &keys, &calls);
        let op = AggregateOp::new(schema(), keys.clone(), calls.clone(), out, append_only, shard);
        Box::new(op.expect("operator"))
    })
}

/// Random inserts and deletions in random ticks, with restarts; after every tick the output is the model's.
fn check(seed: u64, keys: &[usize], append_only: bool, shards: u32, ticks: usize) {
    let calls = all_calls();
    let mut r = Random(seed);
    let mut rig = rig(calls.clone(), keys.to_vec(), append_only, shards);
    rig.chunk_rows = 7;
    let mut rows: Vec<Row> = Vec::new();
    for tick in 0..ticks {
        let mut changes: Vec<(Row, i64)> = Vec::new();
        let shrink = !append_only && r.below(3) == 0;
        for _ in 0..r.below(30) {
            if !append_only && !rows.is_empty() && r.below(10) < if shrink { 9 } else { 3 } {
                let at = r.below(rows.len() as u64) as usize;
                changes.push((rows.swap_remove(at), -1));
            } else {
                let row = random_row(&mut r);
                let times = 1 + r.below(2) as i64;
                for _ in 0..times {
                    rows.push(row.clone());
                }
                changes.push((row, times));
            }
        }
        // Within a tick the order means nothing: a retraction may come before its insertion.
        for i in (1..changes.len()).rev() {
            changes.swap(i, r.below(i as u64 + 1) as usize);
        }
        let mut batches = Vec::new();
        let mut rest = &changes[..];
        while !rest.is_empty() {
            let n = 1 + r.below(rest.len() as u64) as usize;
            batches.push(batch(&rest[..n]));
            rest = &rest[n..];
        }
        rig.tick(&batches);
        assert_eq!(rig.output, expected(&calls, keys, &rows), "seed {seed}, tick {tick}");
        assert!(rig.errors.is_empty());
        if r.below(3) == 0 {
            rig.checkpoint();
            if r.below(2) == 0 {
                let shards = r.pick(&[shards, 1, 3]);
                rig.restart(shards);
            }
        }
    }
    let rest: Vec<(Row, i64)> = rows.drain(..).map(|r| (r, -1)).collect();
    if !append_only && !rest.is_empty() {
        rig.tick(&[batch(&rest)]);
        assert_eq!(rig.output, expected(&calls, keys, &[]));
        assert_eq!(rig.state_rows(), usize::from(keys.is_empty()), "nothing is left behind");
    }
}

#[test]
fn grouped_aggregates_equal_the_model_under_retraction() {
    for seed in 0..6 {
        check(seed, &[0, 1], false, 1, 40);
        check(seed + 100, &[0, 1], false, 3, 40);
    }
}

#[test]
fn a_single_key_column_equals_the_model() {
    for seed in 0..4 {
        check(seed, &[0], false, 1, 40);
        check(seed + 100, &[1], false, 3, 40);
        check(seed + 200, &[2], false, 3, 40);
    }
}

#[test]
fn append_only_aggregates_equal_the_model() {
    for seed in 0..3 {
        check(seed, &[0, 1], true, 1, 30);
        check(seed, &[1], true, 3, 30);
        check(seed, &[], true, 1, 30);
    }
}

#[test]
fn a_global_aggregate_has_one_row_always() {
    for seed in 0..3 {
        check(seed, &[], false, 1, 40);
        check(seed, &[], false, 3, 40);
    }
    let calls = vec![call(AggFunc::CountStar, None, DataType::Int64), call(AggFunc::Sum, Some(2), DataType::Int64)];
    for shards in [1, 3] {
        let mut rig = rig(calls.clone(), vec![], false, shards);
        rig.tick(&[]);
        assert_eq!(rig.output, BTreeMap::from([("0|NULL".to_owned(), 1)]));
        rig.checkpoint();
        rig.restart(3);
        rig.tick(&[]);
        assert_eq!(rig.output, BTreeMap::from([("0|NULL".to_owned(), 1)]), "emitted once, also after a restart");
    }
}

fn one_column(column: ArrayRef, weight: i64) -> ZBatch {
    let n = column.len();
    let schema = Arc::new(Schema::new(vec![Field::new("x", column.data_type().clone(), true)]));
    let rows = RecordBatch::try_new(schema, vec![column]).expect("batch");
    ZBatch::new(rows, Weights::Dense(vec![weight; n].into()))
}

fn one_column_rig(t: DataType, calls: Vec<AggCall>) -> Rig {
    let input: SchemaRef = Arc::new(Schema::new(vec![Field::new("x", t, true)]));
    Rig::new(1, vec![], move |shard| {
        let out = output_schema(&input, &[], &calls);
        Box::new(AggregateOp::new(input.clone(), vec![], calls.clone(), out, false, shard).expect("operator"))
    })
}

fn only(rig: &Rig) -> String {
    assert_eq!(rig.output.len(), 1, "{:?}", rig.output);
    rig.output.keys().next().cloned().expect("one row")
}

#[test]
fn overflow_is_an_error_that_heals() {
    let max: Vec<(ArrayRef, DataType, &str)> = vec![
        (Arc::new(Int64Array::from(vec![i64::MAX])), DataType::Int64, "sum is out of range for type bigint"),
        (Arc::new(UInt64Array::from(vec![u64::MAX])), DataType::UInt64, "sum is out of range for type bigint unsigned"),
        (
            Arc::new(Decimal128Array::from(vec![10i128.pow(38) - 1]).with_precision_and_scale(38, 0).expect("decimal")),
            DataType::Decimal128(38, 0),
            "sum is out of range for type numeric(38,0)",
        ),
        (
            Arc::new(
                Decimal256Array::from(vec![i256::from_i128(10).wrapping_pow(76).wrapping_sub(i256::ONE)])
                    .with_precision_and_scale(76, 0)
                    .expect("decimal"),
            ),
            DataType::Decimal256(76, 0),
            "sum is out of range for type numeric(76,0)",
        ),
    ];
    for (x, t, message) in max {
        let mut rig = one_column_rig(t.clone(), vec![call(AggFunc::Sum, Some(0), t)]);
        rig.tick(&[one_column(x.clone(), 1)]);
        let before = only(&rig);
        for times in [1, 9] {
            for _ in 0..times {
                rig.tick(&[one_column(x.clone(), 1)]);
                rig.checkpoint();
                rig.restart(1);
            }
            assert!(rig.output.is_empty());
            let wrong: Vec<_> = rig.errors.entries.iter().map(|((c, m, _), w)| (c.as_str(), m.as_str(), *w)).collect();
            assert_eq!(wrong, vec![("22003", message, 1)]);
            rig.tick(&[one_column(x.clone(), -times)]);
            assert_eq!(only(&rig), before);
            assert!(rig.errors.is_empty());
        }
    }
}

#[test]
fn the_average_of_huge_integers_and_durations_is_right() {
    let mut rig = one_column_rig(
        DataType::Duration(TimeUnit::Microsecond),
        vec![
            call(AggFunc::Avg, Some(0), DataType::Duration(TimeUnit::Microsecond)),
            call(AggFunc::Max, Some(0), DataType::Duration(TimeUnit::Microsecond)),
        ],
    );
    let d = |v: Vec<i64>| -> ArrayRef { Arc::new(DurationMicrosecondArray::from(v)) };
    rig.tick(&[one_column(d(vec![i64::MAX, i64::MAX, i64::MAX - 3]), 1)]);
    let cell = crate::ops::aggregate::harness::text(&one_column(d(vec![i64::MAX - 1, i64::MAX]), 1).rows, 0);
    assert!(only(&rig).starts_with(&format!("{cell}|")));
}

#[test]
fn float_sums_are_bit_equal_after_permutation_and_retraction() {
    let mut r = Random(3);
    let odd = [1e300, -1e300, 1e-300, 0.1, -0.1, 3.0e15, 1.0 / 3.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    let calls = || vec![call(AggFunc::Sum, Some(0), DataType::Float64), call(AggFunc::Avg, Some(0), DataType::Float64)];
    for _ in 0..40 {
        let mut values: Vec<f64> = (0..20).map(|_| r.pick(&odd) * (1.0 + r.below(100) as f64 / 7.0)).collect();
        let column = |v: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(v.to_vec())) };
        let survivor = 0.1 + r.below(1000) as f64 / 3.0;
        values.push(survivor);
        let mut a = one_column_rig(DataType::Float64, calls());
        let mut b = one_column_rig(DataType::Float64, calls());
        a.tick(&[one_column(column(&values), 1)]);
        for i in (1..values.len()).rev() {
            values.swap(i, r.below(i as u64 + 1) as usize);
        }
        for v in &values {
            b.tick(&[one_column(column(&[*v]), 1)]);
        }
        assert_eq!(only(&a), only(&b));
        let at = values.iter().position(|v| *v == survivor).expect("is there");
        values.remove(at);
        a.tick(&[one_column(column(&values), -1)]);
        assert_eq!(only(&a), format!("{}|{}", float(survivor), float(survivor)));
    }
}

#[test]
fn nothing_is_emitted_where_nothing_changed() {
    let mut rig = rig(vec![call(AggFunc::Max, Some(2), DataType::Int64)], vec![1], false, 1);
    let row = |i: i64| Row { k: None, t: Some("x"), i: Some(i), d: None, f: None, b: None, s: None, on: None };
    rig.tick(&[batch(&[(row(9), 1)])]);
    let before = rig.emitted;
    rig.tick(&[batch(&[(row(3), 1)]), batch(&[(row(4), 1), (row(4), -1)])]);
    rig.tick(&[batch(&[(row(9), -1)]), batch(&[(row(9), 1)])]);
    assert_eq!(rig.emitted, before);
}

#[test]
fn a_retraction_in_append_only_input_is_a_defect() {
    let calls = vec![call(AggFunc::CountStar, None, DataType::Int64)];
    let out = output_schema(&schema(), &[], &calls);
    let mut op = AggregateOp::new(schema(), vec![], calls, out, true, Shard::ONE).expect("operator");
    let mut errors = crate::ops::ErrorSet::default();
    let mut cx = TickCx {
        from: crate::time::Epoch(0),
        to: crate::time::Epoch(1),
        clock: crate::time::Timestamp(0),
        errors: &mut errors,
        chunk_rows: 10,
        time: &crate::ops::NO_TIME,
    };
    let row = random_row(&mut Random(1));
    let e = op.push(0, batch(&[(row, -1)]), &mut cx, &mut Vec::new()).expect_err("defect");
    assert_eq!(e.code, SqlState::INTERNAL_ERROR);
}

#[test]
fn damaged_state_is_refused() {
    let calls = vec![call(AggFunc::CountStar, None, DataType::Int64)];
    let out = output_schema(&schema(), &[0], &calls);
    let mut op = AggregateOp::new(schema(), vec![0], calls, out, false, Shard::ONE).expect("operator");
    let e = op.restore("groups", &batch(&[]).rows).expect_err("wrong columns");
    assert_eq!(e.code, SqlState::DATA_CORRUPTED);
}

/// The same rows through batch DataFusion: same types, same values.
#[tokio::test]
async fn types_and_values_are_those_of_batch_datafusion() {
    use datafusion::prelude::SessionContext;
    let mut r = Random(11);
    let rows: Vec<Row> = (0..200)
        .map(|_| {
            let mut row = random_row(&mut r);
            // Its grouped min/max of NaN depends on the order of rows, and it tells equal floats of different bits
            // apart, both as keys and in count(DISTINCT): -0.0 and +0.0, and NaNs.
            row.f = row.f.filter(|f| f.is_finite()).map(|f| f + 0.0);
            row.k = row.k.map(|k| if k.is_nan() { f64::NAN } else { k + 0.0 });
            row
        })
        .collect();
    let changes: Vec<(Row, i64)> = rows.iter().map(|r| (r.clone(), 1)).collect();
    let z = batch(&changes);
    let sql = "SELECT k, t, count(*), count(*) FILTER (WHERE \"on\"), count(i), sum(i), sum(i) FILTER (WHERE \"on\"),
        sum(d), avg(d), sum(f), avg(f), avg(CAST(i AS DOUBLE)), min(i), max(i) FILTER (WHERE \"on\"), min(f), max(f),
        min(s), max(s), max(d), bool_and(b), bool_or(b), min(b), count(DISTINCT f),
        count(DISTINCT s) FILTER (WHERE \"on\"), sum(DISTINCT i), avg(DISTINCT d), bit_and(i),
        bit_or(i) FILTER (WHERE \"on\"), bit_xor(i), var_samp(i), var_pop(DISTINCT i),
        array_agg(i ORDER BY s DESC NULLS FIRST, i), array_agg(DISTINCT i ORDER BY i),
        first_value(i ORDER BY i DESC NULLS FIRST) FILTER (WHERE \"on\"), last_value(i ORDER BY i) IGNORE NULLS,
        mode() WITHIN GROUP (ORDER BY i DESC), median(f), median(d), json_array_of(s, s ORDER BY i),
        jsonb_object_of(t, s ORDER BY i) FROM t GROUP BY k, t";
    let context = SessionContext::new_with_state(millstream_sql::session::session_state(1));
    context.register_batch("t", z.rows.clone()).expect("registers");
    let batches = context.sql(sql).await.expect("plans").collect().await.expect("runs");
    let theirs: Vec<DataType> = batches[0].schema().fields().iter().skip(2).map(|f| f.data_type().clone()).collect();
    let ours: Vec<DataType> = all_calls().into_iter().map(|c| c.output).collect();
    assert_eq!(ours, theirs);
    let mut want: BTreeMap<String, i64> = BTreeMap::new();
    for b in &batches {
        for i in 0..b.num_rows() {
            *want.entry(super::harness::text(b, i)).or_default() += 1;
        }
    }
    let mut rig = rig(all_calls(), vec![0, 1], false, 1);
    rig.tick(&[z]);
    assert_eq!(rig.output, want);
}

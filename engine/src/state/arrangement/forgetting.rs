//! What an arrangement forgets, against a map of rows to weights, over random histories: what may be asked for is there, and
//! most of what is there may be asked for.

use std::collections::BTreeMap;

use arrow::array::{AsArray as _, Int64Array, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::zset::Weights;

/// Key, time, text.
type Row = (i64, Option<i64>, String);
type Model = BTreeMap<Row, i64>;

const TIME: usize = 1;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("s", DataType::Utf8View, true),
    ]))
}

fn zbatch(rows: &[(Row, i64)]) -> ZBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|(r, _)| Some(r.0)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(r, _)| r.1).collect::<TimestampMicrosecondArray>()),
        Arc::new(rows.iter().map(|(r, _)| Some(r.2.as_str())).collect::<StringViewArray>()),
    ];
    let weights: Vec<i64> = rows.iter().map(|(_, w)| *w).collect();
    ZBatch::new(RecordBatch::try_new(schema(), columns).expect("batch"), Weights::Dense(weights.into()))
}

fn row(columns: &[ArrayRef], i: usize) -> Row {
    let t = columns[1].as_primitive::<TimestampMicrosecondType>();
    let s = columns[2].as_string_view().value(i).to_owned();
    (columns[0].as_primitive::<Int64Type>().value(i), t.is_valid(i).then(|| t.value(i)), s)
}

/// Adds up rows that may be asked for.
fn add(model: &mut Model, row: Row, weight: i64, floor: i64) {
    if row.1.is_none_or(|t| t >= floor) {
        let w = model.entry(row).or_default();
        *w += weight;
    }
    model.retain(|_, w| *w != 0);
}

fn check(a: &Arrangement, model: &Model, floor: i64, keys: i64) {
    let all: Vec<i64> = (0..keys).collect();
    let found = a.probe(&[Arc::new(Int64Array::from(all))]).expect("probe");
    let columns = a.gather(&found.row, &[0, 1, 2]).expect("rows");
    let mut sum = Model::new();
    for (i, weight) in found.weight.iter().enumerate() {
        add(&mut sum, row(&columns, i), *weight, floor);
    }
    assert_eq!(&sum, model);
    assert_eq!(a.len(), a.stats().rows);
}

/// Rows stored, and those of them that may be asked for.
fn sizes(a: &Arrangement, floor: i64) -> (usize, usize) {
    let blocks = a.head.blocks.iter().chain(a.runs.iter().flat_map(|r| &r.blocks));
    let needed = blocks.map(|b| b.not_before((TIME, floor)).len()).sum();
    (a.len(), needed)
}

fn history(seed: u64, ord: Option<usize>, cap: usize, mask: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let make = || {
        let mut a = Arrangement::with(Spec::new(schema(), vec![0], ord, mask), cap);
        a.set_rewrite_rows(64);
        a
    };
    let (mut a, mut model, mut stored) = (make(), Model::new(), Vec::<RecordBatch>::new());
    let (mut floor, keys) = (0, 5);
    for _ in 0..200 {
        match rng.random_range(0..100) {
            0..45 => {
                let mut rows = Vec::new();
                for _ in 0..rng.random_range(0..30) {
                    if rng.random_ratio(1, 3) && !model.is_empty() {
                        let (r, w) = model.iter().nth(rng.random_range(0..model.len())).expect("a row");
                        rows.push((r.clone(), -*w));
                        let r = r.clone();
                        model.remove(&r);
                        continue;
                    }
                    let time = (!rng.random_ratio(1, 100)).then(|| floor + rng.random_range(0..40));
                    let r = (rng.random_range(0..keys), time, format!("{}", rng.random_range(0..3)));
                    add(&mut model, r.clone(), 1, floor);
                    rows.push((r, 1));
                }
                a.append(&zbatch(&rows)).expect("append");
            }
            45..70 => {
                floor += rng.random_range(0..20);
                model.retain(|r, _| r.1.is_none_or(|t| t >= floor));
                a.forget(TIME, floor).expect("forget");
                let head: usize = a.head.blocks.iter().map(|b| b.not_before((TIME, floor)).len()).sum();
                assert!(a.head.len() <= 4 * head, "{} rows for {head} in the head", a.head.len());
            }
            70..80 => drop(a.maintain(rng.random_range(1..60)).expect("maintain")),
            80..85 => {
                while a.maintain(100).expect("maintain") {}
                let (rows, needed) = sizes(&a, floor);
                assert!(rows <= 4 * needed, "{rows} rows for {needed}");
            }
            85..92 => {
                let delta = a.freeze("rows").expect("freeze");
                if delta.replaces {
                    stored.clear();
                }
                stored.extend(delta.batches);
                if rng.random() {
                    a = make();
                    stored.iter().for_each(|b| a.restore(b, &|_| true).expect("restore"));
                    // What it forgot it may have again, until it is told again.
                    check(&a, &model, floor, keys);
                    a.forget(TIME, floor).expect("forget");
                }
            }
            _ => check(&a, &model, floor, keys),
        }
    }
    check(&a, &model, floor, keys);
}

#[test]
fn what_may_be_asked_for_is_there() {
    for seed in 0..20 {
        for cap in [8, 40, 64 * 1024] {
            for mask in [u64::MAX, 3] {
                history(seed, None, cap, mask);
                history(seed, Some(TIME), cap, mask);
            }
        }
    }
}

/// A window of ten ticks slides over thousands of rows, with a row that has no time now and then.
#[test]
fn a_sliding_window_keeps_its_size() {
    for cap in [256, 4096, HEAD_ROWS] {
        let mut a = Arrangement::with_head_rows(schema(), vec![0], cap);
        a.set_rewrite_rows(256);
        let (mut most, mut stored) = (Vec::new(), 0);
        for tick in 0..600i64 {
            let old = |i: i64| if i == 0 && tick % 50 == 0 { None } else { Some(tick * 10 + i % 10) };
            let rows: Vec<(Row, i64)> = (0..100).map(|i| ((i, old(i), "text".to_owned()), 1)).collect();
            a.append(&zbatch(&rows)).expect("append");
            a.forget(TIME, (tick - 10) * 10).expect("forget");
            a.maintain(500).expect("maintain");
            if tick % 7 == 0 {
                let delta = a.freeze("rows").expect("freeze");
                let rows: usize = delta.batches.iter().map(RecordBatch::num_rows).sum();
                stored = if delta.replaces { rows } else { stored + rows };
                assert!(stored <= 30_000, "{stored} rows in the store at {tick}");
            }
            if tick % 200 == 199 {
                most.push(0);
            }
            match most.last_mut() {
                Some(m) => *m = a.stats().bytes.max(*m),
                None => continue,
            }
            // 1100 rows are needed and twelve have no time.
            assert!(a.len() <= 4 * 1112 + cap.min(2048) / 2, "{} rows at {tick} with a head of {cap}", a.len());
        }
        assert!(most[1] <= most[0] + most[0] / 4, "bytes grow: {most:?}");
    }
}

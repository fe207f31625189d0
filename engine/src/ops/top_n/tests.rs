use std::cmp::Ordering;

use arrow::array::{Float64Array, Int64Array, StringArray};

use super::*;
use crate::ops::aggregate::harness::{Random, Rig, float};

type Row = (Option<f64>, Option<i64>, Option<&'static str>);

fn schema() -> SchemaRef {
    let f = |n: &str, t| Field::new(n, t, true);
    Arc::new(Schema::new(vec![f("p", DataType::Float64), f("o", DataType::Int64), f("s", DataType::Utf8)]))
}

fn batch(rows: &[(Row, i64)]) -> ZBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.0.0).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.0.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.0.2).collect::<StringArray>()),
    ];
    let weights: Vec<i64> = rows.iter().map(|r| r.1).collect();
    let rows = RecordBatch::try_new(schema(), columns).expect("batch");
    ZBatch::new(rows, Weights::Dense(weights.into()))
}

#[derive(Clone, Copy)]
struct Case {
    partitioned: bool,
    offset: u64,
    limit: u64,
    rank: bool,
    append_only: bool,
    shards: u32,
}

fn rig(c: Case) -> Rig {
    let partition = if c.partitioned { vec![0] } else { vec![] };
    let order = vec![SortColumn { column: 1, descending: true, nulls_first: false }];
    let rank = c.rank.then_some(DataType::UInt64);
    let mut fields: Vec<_> = schema().fields().iter().cloned().collect();
    fields.extend(rank.clone().map(|t| Arc::new(Field::new("rn", t, false))));
    let output: SchemaRef = Arc::new(Schema::new(fields));
    Rig::new(c.shards, partition.clone(), move |shard| {
        let (partition, order, rank) = (partition.clone(), order.clone(), rank.clone());
        let op = TopNOp::new(schema(), partition, order, c.offset, c.limit, rank, c.append_only, output.clone(), shard);
        Box::new(op.expect("operator"))
    })
}

fn total(a: &Option<f64>, b: &Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// ORDER BY o DESC NULLS LAST, then the whole row ascending, NULL first.
fn in_order(a: &Row, b: &Row) -> Ordering {
    let by_o = match (a.1, b.1) {
        (Some(a), Some(b)) => b.cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    by_o.then_with(|| total(&a.0, &b.0)).then_with(|| a.1.cmp(&b.1)).then_with(|| a.2.cmp(&b.2))
}

fn expected(c: Case, rows: &[Row]) -> BTreeMap<String, i64> {
    let mut parts: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for r in rows {
        let key = if c.partitioned { r.0.map_or("NULL".into(), |x| float(x + 0.0)) } else { String::new() };
        parts.entry(key).or_default().push(*r);
    }
    let mut out = BTreeMap::new();
    for (_, mut rows) in parts {
        rows.sort_by(in_order);
        for (i, r) in rows.iter().enumerate().skip(c.offset as usize).take(c.limit as usize) {
            let null = || "NULL".to_owned();
            let mut text = format!(
                "{}|{}|{}",
                r.0.map_or_else(null, float),
                r.1.map_or_else(null, |o| o.to_string()),
                r.2.unwrap_or("NULL")
            );
            if c.rank {
                text.push_str(&format!("|{}", i + 1));
            }
            *out.entry(text).or_default() += 1;
        }
    }
    out
}

fn check(seed: u64, c: Case) {
    let mut r = Random(seed);
    let mut rig = rig(c);
    rig.chunk_rows = 4;
    let mut rows: Vec<Row> = Vec::new();
    for tick in 0..50 {
        let mut changes = Vec::new();
        for _ in 0..r.below(20) {
            if !c.append_only && !rows.is_empty() && r.below(2) == 0 {
                let at = r.below(rows.len() as u64) as usize;
                changes.push((rows.swap_remove(at), -1));
            } else {
                let p = r.pick(&[None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(3.0)]);
                let o = r.pick(&[None, Some(1), Some(2), Some(3), Some(-9)]);
                let row = (p, o, r.pick(&[None, Some(""), Some("a"), Some("bb")]));
                let times = 1 + r.below(3) as i64;
                rows.extend(std::iter::repeat_n(row, times as usize));
                changes.push((row, times));
            }
        }
        for i in (1..changes.len()).rev() {
            changes.swap(i, r.below(i as u64 + 1) as usize);
        }
        let (a, b) = changes.split_at(changes.len() / 3);
        rig.tick(&[batch(a), batch(b)]);
        assert_eq!(rig.output, expected(c, &rows), "seed {seed}, tick {tick}");
        if r.below(4) == 0 {
            rig.checkpoint();
            let shards = r.pick(&[c.shards, 1, 3]);
            rig.restart(shards);
        }
    }
    if c.append_only {
        assert!(rig.state_rows() <= (c.offset + c.limit) as usize * 5, "only what can be needed is kept");
    } else if !rows.is_empty() {
        let rest: Vec<(Row, i64)> = rows.drain(..).map(|r| (r, -1)).collect();
        rig.tick(&[batch(&rest)]);
        assert!(rig.output.is_empty());
        assert_eq!(rig.state_rows(), 0, "nothing is left behind");
    }
}

#[test]
fn top_n_equals_the_model_under_retraction() {
    for (seed, (partitioned, rank, shards)) in
        [(true, false, 1), (true, true, 1), (true, false, 3), (true, true, 3), (false, false, 1), (false, true, 3)]
            .into_iter()
            .enumerate()
    {
        for (offset, limit) in [(0, 1), (0, 4), (3, 4), (2, 0), (0, u64::MAX)] {
            check(seed as u64, Case { partitioned, offset, limit, rank, append_only: false, shards });
        }
    }
}

#[test]
fn append_only_top_n_equals_the_model_and_keeps_only_its_rows() {
    for (seed, (partitioned, rank, shards)) in
        [(true, false, 1), (true, true, 3), (false, false, 1)].into_iter().enumerate()
    {
        for (offset, limit) in [(0, 1), (0, 4), (3, 2)] {
            check(seed as u64, Case { partitioned, offset, limit, rank, append_only: true, shards });
        }
    }
}

#[test]
fn a_row_below_the_window_emits_nothing() {
    let mut rig = rig(Case { partitioned: false, offset: 0, limit: 2, rank: true, append_only: false, shards: 1 });
    rig.tick(&[batch(&[((None, Some(9), None), 1), ((None, Some(8), None), 1)])]);
    rig.tick(&[batch(&[((None, Some(7), None), 5)])]);
    assert_eq!(rig.emitted, 2);
    rig.tick(&[batch(&[((None, Some(10), None), 1)])]);
    assert_eq!(rig.emitted, 6, "both places change hands");
}

#[test]
fn the_rank_has_the_type_of_the_plan() {
    let mut fields: Vec<_> = schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("rn", DataType::Int64, false)));
    let output: SchemaRef = Arc::new(Schema::new(fields));
    let mut op = TopNOp::new(schema(), vec![], vec![], 0, 1, Some(DataType::Int64), false, output.clone(), Shard::ONE)
        .expect("operator");
    let mut errors = crate::ops::ErrorSet::default();
    let mut cx = TickCx {
        from: crate::time::Epoch(0),
        to: crate::time::Epoch(1),
        clock: crate::time::Timestamp(0),
        errors: &mut errors,
        chunk_rows: 10,
        time: &crate::ops::NO_TIME,
    };
    let mut out: Vec<ZBatch> = Vec::new();
    op.push(0, batch(&[((None, Some(1), None), 1)]), &mut cx, &mut out).expect("pushes");
    op.flush(&mut cx, &mut out).expect("flushes");
    assert_eq!(out[0].schema(), output);
}

#[test]
fn rows_of_a_rank_equal_the_model_with_all_their_peers() {
    for (seed, counting, limit) in
        [(1, Counting::Rank, 1), (2, Counting::Rank, 3), (3, Counting::DenseRank, 1), (4, Counting::DenseRank, 2)]
    {
        let order = vec![SortColumn { column: 1, descending: true, nulls_first: false }];
        let mut fields: Vec<_> = schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("rk", DataType::Int64, false)));
        let output: SchemaRef = Arc::new(Schema::new(fields));
        let mut rig = Rig::new(2, vec![0], move |shard| {
            let op = TopNOp::ranked(schema(), vec![0], order.clone(), limit, counting, output.clone(), shard);
            Box::new(op.expect("operator"))
        });
        rig.chunk_rows = 4;
        let mut r = Random(seed);
        let mut rows: Vec<Row> = Vec::new();
        for tick in 0..60 {
            let mut changes = Vec::new();
            for _ in 0..r.below(8) {
                if !rows.is_empty() && r.below(2) == 0 {
                    let at = r.below(rows.len() as u64) as usize;
                    changes.push((rows.swap_remove(at), -1));
                } else {
                    let o = r.pick(&[None, Some(1), Some(2), Some(3)]);
                    let row = (r.pick(&[None, Some(1.0), Some(2.0)]), o, r.pick(&[None, Some("a"), Some("b")]));
                    rows.push(row);
                    changes.push((row, 1));
                }
            }
            rig.tick(&[batch(&changes)]);
            let mut expected: BTreeMap<String, i64> = BTreeMap::new();
            for row in &rows {
                let ahead = rows.iter().filter(|x| x.0 == row.0 && x.1 != row.1 && in_order(x, row).is_lt());
                let rank = match counting {
                    Counting::DenseRank => ahead.map(|x| x.1).collect::<std::collections::BTreeSet<_>>().len() + 1,
                    _ => ahead.count() + 1,
                };
                if rank as u64 <= limit {
                    let null = || "NULL".to_owned();
                    let o = row.1.map_or_else(null, |o| o.to_string());
                    let text = format!("{}|{o}|{}|{rank}", row.0.map_or_else(null, float), row.2.unwrap_or("NULL"));
                    *expected.entry(text).or_default() += 1;
                }
            }
            assert_eq!(rig.output, expected, "{counting:?} <= {limit}, tick {tick}");
            if r.below(4) == 0 {
                rig.checkpoint();
                let shards = r.pick(&[1, 2, 3]);
                rig.restart(shards);
            }
        }
    }
}

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_sql::plan::AsOfCompare;

use super::*;
use crate::ops::aggregate::harness::{Random, Rig, float};

/// Key, time, another column.
type Row = (Option<i64>, Option<f64>, Option<&'static str>);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("ts", DataType::Float64, true),
        Field::new("x", DataType::Utf8, true),
    ]))
}

fn both() -> SchemaRef {
    let fields: Vec<_> = schema().fields().iter().chain(schema().fields()).cloned().collect();
    Arc::new(Schema::new(fields))
}

fn batch(rows: &[(Row, i64)]) -> ZBatch {
    let k: Int64Array = rows.iter().map(|r| r.0.0).collect();
    let ts: Float64Array = rows.iter().map(|r| r.0.1).collect();
    let x: StringArray = rows.iter().map(|r| r.0.2).collect();
    let rows_batch = RecordBatch::try_new(schema(), vec![Arc::new(k), Arc::new(ts), Arc::new(x)]).expect("batch");
    ZBatch::new(rows_batch, Weights::Dense(rows.iter().map(|r| r.1).collect::<Vec<_>>().into()))
}

fn text(row: Option<&Row>) -> String {
    let Some((k, ts, x)) = row else { return "NULL|NULL|NULL".into() };
    let or_null = |s: Option<String>| s.unwrap_or_else(|| "NULL".into());
    format!("{}|{}|{}", or_null(k.map(|k| k.to_string())), or_null(ts.map(float)), or_null(x.map(str::to_owned)))
}

/// The order of rows: columns ascending, NULLs first, floats by their bits.
fn order(a: &Row, b: &Row) -> Ordering {
    let ts = match (a.1, b.1) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    a.0.cmp(&b.0).then(ts).then(a.2.cmp(&b.2))
}

fn compares(compare: AsOfCompare, left: f64, right: f64) -> bool {
    match compare {
        AsOfCompare::GtEq => left >= right,
        AsOfCompare::Gt => left > right,
        AsOfCompare::LtEq => left <= right,
        AsOfCompare::Lt => left < right,
    }
}

/// All rows ever, with their weights, and the join of them.
#[derive(Default)]
struct Model {
    sides: [Vec<(Row, i64)>; 2],
}

impl Model {
    fn change(&mut self, side: usize, row: Row, weight: i64) {
        match self.sides[side].iter_mut().find(|(r, _)| order(r, &row).is_eq()) {
            Some((_, w)) => *w += weight,
            None => self.sides[side].push((row, weight)),
        }
    }
    fn joined(&self, compare: AsOfCompare, outer: bool, keyed: bool) -> BTreeMap<String, i64> {
        let mut out = BTreeMap::new();
        for (left, weight) in self.sides[0].iter().filter(|(_, w)| *w != 0) {
            let there = self.sides[1].iter().filter(|(_, w)| *w > 0).map(|(r, _)| r);
            let fits = |r: &&Row| {
                let same = !keyed || matches!((left.0, r.0), (Some(a), Some(b)) if a == b);
                same && matches!((left.1, r.1), (Some(a), Some(b)) if compares(compare, a, b))
            };
            let nearest = |a: &Row, b: &Row| {
                let (x, y) = (a.1.unwrap_or_default(), b.1.unwrap_or_default());
                let by_time = if compare.latest() { y.partial_cmp(&x) } else { x.partial_cmp(&y) };
                by_time.unwrap_or(Ordering::Equal).then(order(a, b))
            };
            let partner = there.filter(fits).min_by(|a, b| nearest(a, b));
            if partner.is_some() || outer {
                *out.entry(format!("{}|{}", text(Some(left)), text(partner))).or_default() += weight;
            }
        }
        out.retain(|_, w| *w != 0);
        out
    }
    fn kept(&self, keyed: bool) -> usize {
        let valid = |r: &Row| r.1.is_some() && (!keyed || r.0.is_some());
        self.sides.iter().flatten().filter(|(r, w)| *w != 0 && valid(r)).count()
    }
}

fn run(seed: u64, compare: AsOfCompare, outer: bool, keyed: bool, shards: u32) {
    let mut r = Random(seed);
    let on = if keyed { vec![(0, 0)] } else { Vec::new() };
    let route = if keyed { vec![0] } else { Vec::new() };
    let mut rig = Rig::new(shards, route, move |shard| {
        let on = on.clone();
        Box::new(AsOfOp::new(schema(), schema(), on, (1, 1), compare, outer, both(), shard).expect("operator"))
    });
    rig.chunk_rows = 3;
    let mut model = Model::default();
    for tick in 0..70 {
        let mut changes = [Vec::new(), Vec::new()];
        for _ in 0..r.below(14) {
            let side = r.below(2) as usize;
            let there: Vec<(Row, i64)> = model.sides[side].iter().filter(|(_, w)| *w != 0).copied().collect();
            // Often a row that is there goes.
            let (row, weight) = match r.below(3) {
                0 if !there.is_empty() => {
                    let (row, weight) = r.pick(&there);
                    (row, if r.below(2) == 0 { -weight } else { -1 })
                }
                _ => {
                    let k = r.pick(&[None, Some(1), Some(1), Some(2)]);
                    let ts =
                        r.pick(&[None, Some(0.0), Some(-0.0), Some(1.5), Some(2.0), Some(-3.0), Some(4.0), Some(7.0)]);
                    ((k, ts, r.pick(&[None, Some("a"), Some("b")])), r.pick(&[1, 1, 1, 2]))
                }
            };
            model.change(side, row, weight);
            changes[side].push((row, weight));
        }
        let [left, right] = changes;
        let before = rig.output.clone();
        let emitted = rig.emitted;
        let half = right.len() / 2;
        let alone = left.iter().filter(|(row, _)| row.1.is_none() || keyed && row.0.is_none()).count();
        rig.tick_ports(&[(1, batch(&right[..half])), (0, batch(&left)), (1, batch(&right[half..]))]);
        let want = model.joined(compare, outer, keyed);
        assert_eq!(rig.output, want, "{compare:?}, outer {outer}, keyed {keyed}, seed {seed}, tick {tick}");
        let changed = before.keys().chain(want.keys()).collect::<std::collections::BTreeSet<_>>();
        let changed = changed.into_iter().filter(|k| before.get(*k) != want.get(*k)).count();
        // Equal rows that pass straight through may come in pieces.
        if !outer || alone == 0 {
            assert_eq!(rig.emitted - emitted, changed, "nothing but what changed, seed {seed}, tick {tick}");
        }
        assert_eq!(rig.state_rows(), model.kept(keyed));
        if r.below(4) == 0 {
            rig.checkpoint();
            let shards = if keyed { r.pick(&[shards, 1, 3]) } else { 1 };
            rig.restart(shards);
        }
    }
}

#[test]
fn each_left_row_has_its_nearest_right_row_after_every_tick() {
    use AsOfCompare::{Gt, GtEq, Lt, LtEq};
    for (i, compare) in [GtEq, Gt, LtEq, Lt].into_iter().enumerate() {
        for outer in [false, true] {
            let seed = 10 * i as u64 + u64::from(outer);
            run(seed, compare, outer, true, 1);
            run(seed + 100, compare, outer, true, 3);
            run(seed + 200, compare, outer, false, 1);
        }
    }
}

#[test]
fn a_right_row_concerns_only_the_left_rows_up_to_the_next_one() {
    let make = |shard| -> Box<dyn DeltaOp> {
        let on = vec![(0, 0)];
        Box::new(
            AsOfOp::new(schema(), schema(), on, (1, 1), AsOfCompare::GtEq, false, both(), shard).expect("operator"),
        )
    };
    let mut rig = Rig::new(1, vec![0], make);
    let left: Vec<(Row, i64)> = (0..1000).map(|i| ((Some(1), Some(f64::from(i)), None), 1)).collect();
    let right: Vec<(Row, i64)> = (0..100).map(|i| ((Some(1), Some(f64::from(i) * 10.0), Some("a")), 1)).collect();
    rig.tick_ports(&[(0, batch(&left)), (1, batch(&right))]);
    assert_eq!(rig.emitted, 1000);
    rig.tick_ports(&[(1, batch(&[((Some(1), Some(505.0), Some("b")), 1)]))]);
    assert_eq!(rig.emitted, 1010, "five rows have another partner");
    rig.tick_ports(&[(1, batch(&[((Some(1), Some(0.0), Some("a")), -1)]))]);
    assert_eq!(rig.emitted, 1020, "ten rows have none any more");
}

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_sql::plan::AsOfCompare;
use millstream_sql::plan::time::Bound as Promise;

use super::*;
use crate::ops::OpTime;
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

/// [`schema`] with times that a watermark can bound.
fn timed() -> SchemaRef {
    let ts = DataType::Timestamp(TimeUnit::Microsecond, None);
    let plain = schema();
    let fields = plain.fields().iter().map(|f| match f.name().as_str() {
        "ts" => Arc::new(Field::new("ts", ts.clone(), true)),
        _ => f.clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn timed_batch(rows: &[(Row, i64)]) -> ZBatch {
    let plain = batch(rows);
    let mut columns = plain.rows.columns().to_vec();
    let micros = rows.iter().map(|r| r.0.1.map(|ts| ts as i64));
    columns[1] = Arc::new(micros.collect::<TimestampMicrosecondArray>());
    let rows = RecordBatch::try_new(timed(), columns).expect("batch");
    plain.with_rows(rows)
}

/// A row of [`Model::joined`] as the operator's output shows it.
fn shown(line: &str) -> String {
    let time = |(i, cell): (usize, &str)| match (i % 3, cell.parse::<f64>()) {
        (1, Ok(micros)) => {
            let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![micros as i64]));
            arrow::util::display::array_value_to_string(&at, 0).expect("time")
        }
        _ => cell.to_owned(),
    };
    line.split('|').enumerate().map(time).collect::<Vec<_>>().join("|")
}

fn bound(at: i64) -> OpTime {
    // What the plan says: the bound of the left time, and of the right one.
    forgetting(at, at)
}

fn forgetting(left: i64, right: i64) -> OpTime {
    let of = |at: i64| vec![None, Some(if at == i64::MAX { Promise::Never } else { Promise::At(at) }), None];
    OpTime { forget: vec![of(left), of(right)], ..OpTime::default() }
}

/// Two watermarks that go their own ways; rows come out of order, and go again, but not behind them. `append`: left rows stay.
fn run_forgetting(seed: u64, compare: AsOfCompare, outer: bool, append: bool, shards: u32) {
    const SECOND: i64 = 1_000_000;
    let mut r = Random(seed);
    let output: SchemaRef =
        Arc::new(Schema::new(timed().fields().iter().chain(timed().fields()).cloned().collect::<Vec<_>>()));
    let mut rig = Rig::new(shards, vec![0], move |shard| {
        Box::new(
            AsOfOp::new(timed(), timed(), vec![(0, 0)], (1, 1), compare, outer, output.clone(), shard)
                .expect("operator"),
        )
    });
    rig.chunk_rows = 5;
    let mut model = Model::default();
    let mut marks = [0i64; 2];
    for tick in 0..50 {
        let mut changes = [Vec::new(), Vec::new()];
        for _ in 0..r.below(10) {
            let side = r.below(2) as usize;
            let stay = append && side == LEFT;
            let young = |(row, w): &&(Row, i64)| *w > 0 && row.1.is_none_or(|ts| ts as i64 >= marks[side]);
            let there: Vec<(Row, i64)> = model.sides[side].iter().filter(young).copied().collect();
            let (row, weight) = match r.below(3) {
                0 if !(stay || there.is_empty()) => (r.pick(&there).0, -1),
                _ => {
                    let ts = (marks[side] + r.below(12) as i64 * SECOND) as f64;
                    let ts = r.pick(&[Some(ts), Some(ts), Some(ts), Some(ts), None]);
                    (
                        (
                            r.pick(&[None, Some(1), Some(1), Some(2), Some(3)]),
                            ts,
                            r.pick(&[None, Some("a"), Some("b")]),
                        ),
                        1,
                    )
                }
            };
            model.change(side, row, weight);
            changes[side].push((row, weight));
        }
        let end = tick == 49;
        for mark in &mut marks {
            *mark = if end { i64::MAX } else { *mark + r.below(4) as i64 * SECOND };
        }
        let both = marks[0].min(marks[1]);
        rig.time = forgetting(if append { marks[1] } else { both }, both);
        let [left, right] = changes;
        rig.tick_ports(&[(0, timed_batch(&left)), (1, timed_batch(&right))]);
        let want: BTreeMap<String, i64> =
            model.joined(compare, outer, true).into_iter().map(|(line, w)| (shown(&line), w)).collect();
        assert_eq!(rig.output, want, "{compare:?}, outer {outer}, append {append}, seed {seed}, tick {tick}");
        let valid = |(row, w): &&(Row, i64)| *w != 0 && row.0.is_some() && row.1.is_some();
        let from = |side: usize, at: i64| {
            let side = model.sides[side].iter().filter(valid);
            side.filter(|(row, _)| row.1.is_some_and(|ts| ts as i64 >= at)).count()
        };
        let most = match (compare.latest(), end) {
            (_, true) => 0,
            // The last row of each of three keys stays.
            (true, _) => from(LEFT, if append { marks[1] } else { both }) + from(RIGHT, both) + 3,
            // All that have no partner may stay.
            (false, _) => from(LEFT, i64::MIN) + from(RIGHT, both),
        };
        assert!(rig.state_rows() <= most, "{compare:?}, tick {tick}: {} rows, not {most}", rig.state_rows());
        if r.below(5) == 0 {
            rig.checkpoint();
            rig.restart(r.pick(&[shards, 1, 3, 8]));
            assert!(rig.state_rows() <= most, "after a restart: {} rows, not {most}", rig.state_rows());
        }
    }
}

#[test]
fn forgetting_behind_two_watermarks_shows_nowhere() {
    use AsOfCompare::{Gt, GtEq, Lt, LtEq};
    for (i, compare) in [GtEq, Gt, LtEq, Lt].into_iter().enumerate() {
        for (j, (outer, append)) in [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
        {
            for (k, shards) in [1, 3, 8].into_iter().enumerate() {
                run_forgetting((i * 100 + j * 10 + k) as u64, compare, outer, append, shards);
            }
        }
    }
}

fn timed_rig(compare: AsOfCompare) -> Rig {
    let output: SchemaRef =
        Arc::new(Schema::new(timed().fields().iter().chain(timed().fields()).cloned().collect::<Vec<_>>()));
    Rig::new(1, vec![0], move |shard| {
        let on = vec![(0, 0)];
        Box::new(AsOfOp::new(timed(), timed(), on, (1, 1), compare, true, output.clone(), shard).expect("operator"))
    })
}

#[test]
fn the_last_version_before_the_watermark_stays() {
    let at = |ts: i64| (Some(1), Some(ts as f64), None);
    let mut rig = timed_rig(AsOfCompare::GtEq);
    let versions: Vec<(Row, i64)> = (0..10).map(|i| (at(i), 1)).collect();
    rig.tick_ports(&[(0, timed_batch(&[(at(3), 1), (at(8), 1)])), (1, timed_batch(&versions))]);
    assert_eq!(rig.state_rows(), 12);
    rig.time = bound(7);
    rig.tick_ports(&[]);
    assert_eq!(rig.state_rows(), 1 + 4, "the left row at 8; the versions 6 to 9");
    rig.checkpoint();
    rig.restart(3);
    assert_eq!(rig.state_rows(), 5);
    rig.time = bound(100);
    rig.tick_ports(&[(0, timed_batch(&[(at(7), 1)]))]);
    assert_eq!(rig.state_rows(), 1, "the version of rows to come");
    let line = |l: i64, r: i64| (shown(&format!("1|{l}|NULL|1|{r}|NULL")), 1);
    assert_eq!(rig.output, BTreeMap::from([line(3, 3), line(7, 7), line(8, 8)]));
}

#[test]
fn a_left_row_waits_for_the_earliest_partner_however_old_it_is() {
    let at = |ts: i64| (Some(1), Some(ts as f64), None);
    let mut rig = timed_rig(AsOfCompare::LtEq);
    rig.tick_ports(&[(0, timed_batch(&[(at(3), 1), (at(8), 1)])), (1, timed_batch(&[(at(1), 1), (at(5), 1)]))]);
    rig.time = bound(20);
    rig.tick_ports(&[]);
    assert_eq!(rig.state_rows(), 1, "the left row at 8");
    rig.checkpoint();
    rig.restart(1);
    rig.tick_ports(&[(1, timed_batch(&[(at(30), 1)]))]);
    rig.tick_ports(&[(1, timed_batch(&[(at(25), 1)]))]);
    let line = |l: i64, r: i64| (shown(&format!("1|{l}|NULL|1|{r}|NULL")), 1);
    assert_eq!(rig.output, BTreeMap::from([line(3, 5), line(8, 25)]));
    rig.time = bound(26);
    rig.tick_ports(&[]);
    assert_eq!(rig.state_rows(), 1, "the right row at 30");
}

#[test]
fn rows_that_come_and_go_between_two_freezes_are_not_stored() {
    let at = |ts: i64| (Some(1), Some(ts as f64), None);
    let mut rig = timed_rig(AsOfCompare::GtEq);
    rig.tick_ports(&[(0, timed_batch(&[(at(3), 1)])), (1, timed_batch(&[(at(1), 1)]))]);
    rig.time = bound(10);
    rig.tick_ports(&[(1, timed_batch(&[(at(2), 1)]))]);
    let stored =
        |rig: &mut Rig| -> usize { rig.freeze().iter().flat_map(|d| &d.batches).map(RecordBatch::num_rows).sum() };
    assert_eq!(stored(&mut rig), 1, "the version at 2");
    // It goes from the store when it is superseded.
    rig.time = bound(20);
    rig.tick_ports(&[(1, timed_batch(&[(at(12), 1)]))]);
    assert_eq!(stored(&mut rig), 2);
}

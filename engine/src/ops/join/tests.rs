use std::collections::BTreeMap;

use arrow::array::{Float64Array, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::{Field, Schema};
use datafusion::logical_expr::{Expr, Operator, binary_expr, col, lit};
use millstream_sql::plan::{PlanExpr, RangeEnd};

use super::*;
use crate::ops::ErrorSet;
use crate::ops::aggregate::harness::{Random, float, text};
use crate::time::{Epoch, Timestamp};

/// Key, key, value.
type Row = (Option<f64>, Option<&'static str>, Option<i64>);

const KINDS: [JoinKind; 6] =
    [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::LeftSemi, JoinKind::LeftAnti];
const LONG: &str = "a string that is too long to be stored in a view itself";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Condition {
    None,
    /// l.v <= r.v
    LessEqual,
    /// The same, looking at ranges.
    Range,
    /// r.v between l.v and l.v + 1, looking at ranges.
    Band,
    /// 6 / (l.v - r.v) > 0
    Divide,
}

#[derive(Debug, Clone)]
struct Case {
    kind: JoinKind,
    keys: usize,
    condition: Condition,
    null_equals_null: bool,
}

/// The sides have strings in different layouts.
fn schema(side: usize) -> SchemaRef {
    let s = if side == 0 { DataType::Utf8View } else { DataType::Utf8 };
    let fields = [("k", DataType::Float64), ("s", s), ("v", DataType::Int64)];
    Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()))
}

fn batch(side: usize, rows: &[(Row, i64)]) -> ZBatch {
    let strings = rows.iter().map(|r| r.0.1);
    let strings: ArrayRef = match side {
        0 => Arc::new(strings.collect::<StringViewArray>()),
        _ => Arc::new(strings.collect::<StringArray>()),
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.0.0).collect::<Float64Array>()),
        strings,
        Arc::new(rows.iter().map(|r| r.0.2).collect::<Int64Array>()),
    ];
    let weights: Vec<i64> = rows.iter().map(|r| r.1).collect();
    let rows = RecordBatch::try_new(schema(side), columns).unwrap();
    if weights.iter().all(|w| *w == 1) {
        return ZBatch::inserts(rows);
    }
    ZBatch::new(rows, Weights::Dense(weights.into()))
}

fn output(kind: JoinKind) -> SchemaRef {
    let semi = matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
    let right = if semi { Vec::new() } else { schema(1).fields().to_vec() };
    Arc::new(Schema::new(schema(0).fields().iter().cloned().chain(right).collect::<Vec<_>>()))
}

fn operator(c: &Case, shard: Shard) -> JoinOp {
    let (l, r) = (schema(0), schema(1));
    let joined = Schema::new(l.fields().iter().chain(r.fields()).cloned().collect::<Vec<_>>());
    let compile = |expr: Expr| PlanExpr { expr }.compile(&joined).unwrap();
    let residual = match c.condition {
        Condition::None => None,
        Condition::LessEqual | Condition::Range => Some(compile(col("c2").lt_eq(col("c5")))),
        Condition::Band => {
            let most = binary_expr(col("c2"), Operator::Plus, lit(1i64));
            Some(compile(col("c5").gt_eq(col("c2")).and(col("c5").lt_eq(most))))
        }
        Condition::Divide => {
            let difference = binary_expr(col("c2"), Operator::Minus, col("c5"));
            Some(compile(binary_expr(lit(6i64), Operator::Divide, difference).gt(lit(0i64))))
        }
    };
    let on = (0..c.keys).map(|k| (k, k)).collect();
    let end = |offset| Some(RangeEnd { column: 2, offset });
    let ranges = match c.condition {
        Condition::Range => Some([(None, end(0)), (end(0), None)]),
        Condition::Band => Some([(end(-1), end(0)), (end(0), end(1))]),
        _ => None,
    };
    let ranges = ranges.map(|r| r.map(|(from, to)| SideRange { column: 2, from, to }));
    JoinOp::new(c.kind, l, r, on, residual, c.null_equals_null, ranges, output(c.kind), shard).unwrap()
}

fn row_text(r: &Row) -> String {
    let null = || "NULL".to_owned();
    format!(
        "{}|{}|{}",
        r.0.map_or_else(null, float),
        r.1.map_or_else(null, str::to_owned),
        r.2.map_or_else(null, |v| v.to_string())
    )
}

/// Shards with checkpoints, and what they have emitted.
struct Rig {
    case: Case,
    shards: Vec<JoinOp>,
    stored: Vec<Vec<SlotDelta>>,
    output: BTreeMap<String, i64>,
    errors: ErrorSet,
    chunk_rows: usize,
    largest: usize,
    emitted: usize,
    /// Of sides that share an index: all rows, as their relation has them.
    relations: [Option<Arrangement>; 2],
    /// Give the operators the relations' rows with the next tick.
    at_hand: bool,
}

/// A relation with the columns of a side in another order, among others; the index by the join's keys in ascending order.
fn relation(side: usize, keys: usize) -> Arrangement {
    let of_side = schema(side);
    let mut fields = vec![Field::new("x", DataType::Int64, true)];
    fields.extend(of_side.fields().iter().rev().map(|f| f.as_ref().clone()));
    Arrangement::with_head_rows(Arc::new(Schema::new(fields)), (4 - keys..4).collect(), 3)
}

fn in_relation(relation: &Arrangement, b: &ZBatch) -> ZBatch {
    let x: ArrayRef = Arc::new(Int64Array::from(vec![7; b.len()]));
    let columns = std::iter::once(x).chain(b.rows.columns().iter().rev().cloned()).collect();
    b.with_rows(RecordBatch::try_new(relation.schema().clone(), columns).unwrap())
}

impl Rig {
    fn new(case: Case, shards: u32) -> Self {
        let mut rig = Self {
            case,
            shards: Vec::new(),
            stored: Vec::new(),
            output: BTreeMap::new(),
            errors: ErrorSet::default(),
            chunk_rows: 64,
            largest: 0,
            emitted: 0,
            relations: [None, None],
            at_hand: true,
        };
        rig.start(shards);
        rig
    }
    /// These sides share the index of a relation.
    fn share(&mut self, sides: [bool; 2]) {
        self.relations = [0, 1].map(|side| sides[side].then(|| relation(side, self.case.keys)));
        self.start(self.shards.len() as u32);
    }
    fn rebase(&mut self) {
        for (side, relation) in self.relations.iter().enumerate() {
            for op in self.shards.iter_mut().filter(|_| relation.is_some()) {
                op.rebase(side, &relation.as_ref().unwrap().snapshot()).unwrap();
            }
        }
    }
    fn start(&mut self, shards: u32) {
        self.shards = (0..shards).map(|index| operator(&self.case, Shard { index, count: shards })).collect();
        self.stored.resize(shards as usize, Vec::new());
        for (side, _) in self.relations.iter().enumerate().filter(|(_, r)| r.is_some()) {
            self.shards.iter_mut().for_each(|op| op.share(side, &[3, 2, 1]).unwrap());
        }
    }
    fn tick(&mut self, batches: &[(usize, ZBatch)]) {
        for (side, b) in batches {
            if let Some(relation) = &mut self.relations[*side] {
                let rows = in_relation(relation, b);
                relation.append(&rows).unwrap();
            }
        }
        if self.at_hand {
            self.rebase();
        }
        let count = self.shards.len() as u32;
        for (index, op) in self.shards.iter_mut().enumerate() {
            let shard = Shard { index: index as u32, count };
            let mut out: Vec<ZBatch> = Vec::new();
            let mut cx = TickCx {
                from: Epoch(0),
                to: Epoch(1),
                clock: Timestamp(0),
                errors: &mut self.errors,
                chunk_rows: self.chunk_rows,
                time: &crate::ops::NO_TIME,
            };
            for (side, b) in batches {
                let keys = b.rows.columns()[..self.case.keys].to_vec();
                let hashes = hash_rows(&keys, b.len());
                let own: UInt32Array = (0..b.len() as u32)
                    .filter(|i| if keys.is_empty() { index == 0 } else { shard.owns(hashes[*i as usize]) })
                    .collect();
                op.push(*side, b.take(&own).unwrap(), &mut cx, &mut out).unwrap();
            }
            op.flush(&mut cx, &mut out).unwrap();
            let mut tick: BTreeMap<String, i64> = BTreeMap::new();
            for b in out {
                assert_eq!(b.schema(), output(self.case.kind));
                assert!(!b.is_empty());
                self.largest = self.largest.max(b.len());
                self.emitted += b.len();
                for i in 0..b.len() {
                    let (row, w) = (text(&b.rows, i), b.weight(i));
                    let sum = tick.entry(row.clone()).or_default();
                    assert!(w != 0 && *sum * w >= 0, "{row} comes and goes in one tick: {:?}", self.case);
                    *sum += w;
                    *self.output.entry(row).or_default() += w;
                }
            }
        }
        self.output.retain(|_, w| *w != 0);
    }
    fn checkpoint(&mut self) {
        for (op, stored) in self.shards.iter_mut().zip(&mut self.stored) {
            for d in op.freeze().unwrap() {
                if d.replaces {
                    stored.retain(|s| s.slot != d.slot);
                }
                stored.push(d);
            }
        }
    }
    fn restart(&mut self, shards: u32) {
        if self.shards.len() != shards as usize {
            // Each new shard finds all runs, of which it keeps its rows; its later runs replace only those.
            let all: Vec<SlotDelta> = std::mem::take(&mut self.stored).into_iter().flatten().collect();
            self.stored = vec![all; shards as usize];
            self.start(shards);
            self.restore();
            for (index, stored) in self.stored.iter_mut().enumerate() {
                let shard = Shard { index: index as u32, count: shards };
                for batch in stored.iter_mut().flat_map(|d| &mut d.batches) {
                    let hashes = hash_rows(&batch.columns()[..self.case.keys], batch.num_rows());
                    let own: BooleanArray = hashes.iter().map(|h| Some(shard.owns(*h))).collect();
                    *batch = compute::filter_record_batch(batch, &own).unwrap();
                }
            }
            return;
        }
        self.start(shards);
        self.restore();
    }
    fn restore(&mut self) {
        self.rebase();
        for (op, stored) in self.shards.iter_mut().zip(&self.stored) {
            for d in stored {
                for b in &d.batches {
                    op.restore(&d.slot, b).unwrap();
                }
            }
            op.restored().unwrap();
        }
    }
}

/// Rows of a side by their text, with weights.
type Side = BTreeMap<String, (Row, i64)>;

/// The meaning of a join over all input so far, by definition.
struct Model {
    case: Case,
    /// Key to row to (row, weight), a side each.
    content: BTreeMap<String, [Side; 2]>,
}

impl Model {
    fn new(case: &Case) -> Self {
        Self { case: case.clone(), content: BTreeMap::new() }
    }
    fn add(&mut self, side: usize, rows: &[(Row, i64)]) {
        for (row, w) in rows {
            let k = row.0.map_or("NULL".into(), |k| float(k + 0.0));
            let key = match self.case.keys {
                0 => String::new(),
                1 => k,
                _ => format!("{k}|{:?}", row.1),
            };
            self.content.entry(key).or_default()[side].entry(row_text(row)).or_insert((*row, 0)).1 += w;
        }
    }
    /// Output, and the weight of all errors.
    fn evaluate(&self) -> (BTreeMap<String, i64>, i64) {
        let mut out: BTreeMap<String, i64> = BTreeMap::new();
        let mut errors = 0;
        for sides in self.content.values() {
            let rows: Vec<Vec<(&String, &Row, i64)>> =
                sides.iter().map(|s| s.iter().map(|(t, (r, w))| (t, r, *w)).filter(|r| r.2 != 0).collect()).collect();
            let mut partners = [vec![0; rows[0].len()], vec![0; rows[1].len()]];
            for (i, (lt, l, lw)) in rows[0].iter().enumerate() {
                for (j, (rt, r, rw)) in rows[1].iter().enumerate() {
                    let nulls = (self.case.keys > 0 && l.0.is_none()) || (self.case.keys > 1 && l.1.is_none());
                    let passes = (!nulls || self.case.null_equals_null)
                        && match (self.case.condition, l.2, r.2) {
                            (Condition::None, ..) => true,
                            (_, None, _) | (_, _, None) => false,
                            (Condition::LessEqual | Condition::Range, Some(l), Some(r)) => l <= r,
                            (Condition::Band, Some(l), Some(r)) => l <= r && r <= l + 1,
                            (Condition::Divide, Some(l), Some(r)) if l == r => {
                                errors += lw * rw;
                                false
                            }
                            (Condition::Divide, Some(l), Some(r)) => 6 / (l - r) > 0,
                        };
                    if passes {
                        partners[0][i] += rw;
                        partners[1][j] += lw;
                        if !matches!(self.case.kind, JoinKind::LeftSemi | JoinKind::LeftAnti) {
                            *out.entry(format!("{lt}|{rt}")).or_default() += lw * rw;
                        }
                    }
                }
            }
            const NULLS: &str = "NULL|NULL|NULL";
            for (side, rows) in rows.iter().enumerate() {
                for (i, (t, _, w)) in rows.iter().enumerate() {
                    let some = partners[side][i] > 0;
                    let row = match (self.case.kind, side, some) {
                        (JoinKind::LeftSemi, 0, true) | (JoinKind::LeftAnti, 0, false) => (*t).clone(),
                        (JoinKind::Left | JoinKind::Full, 0, false) => format!("{t}|{NULLS}"),
                        (JoinKind::Right | JoinKind::Full, 1, false) => format!("{NULLS}|{t}"),
                        _ => continue,
                    };
                    *out.entry(row).or_default() += w;
                }
            }
        }
        out.retain(|_, w| *w != 0);
        (out, errors)
    }
}

fn check(rig: &Rig, model: &Model, what: &str) {
    let (expected, errors) = model.evaluate();
    if rig.output != expected {
        let difference: Vec<_> = expected
            .keys()
            .chain(rig.output.keys())
            .filter(|k| expected.get(*k) != rig.output.get(*k))
            .take(10)
            .map(|k| (k, expected.get(k), rig.output.get(k)))
            .collect();
        panic!("{what}, {:?}: (row, expected, got) {difference:?}", rig.case);
    }
    assert_eq!(rig.errors.entries.values().sum::<i64>(), errors, "{what}, {:?}: errors", rig.case);
}

/// Runs the same ticks, `[left rows, right rows]` each, through every kind of join.
fn all_kinds(ticks: &[[Vec<(Row, i64)>; 2]]) {
    for kind in KINDS {
        for condition in [Condition::None, Condition::LessEqual, Condition::Range] {
            let case = Case { kind, keys: 1, condition, null_equals_null: false };
            let (mut rig, mut model) = (Rig::new(case.clone(), 1), Model::new(&case));
            rig.chunk_rows = 1000;
            for (n, [left, right]) in ticks.iter().enumerate() {
                model.add(0, left);
                model.add(1, right);
                rig.tick(&[(1, batch(1, right)), (0, batch(0, left))]);
                check(&rig, &model, &format!("tick {n}"));
            }
        }
    }
}

#[test]
fn every_sequence_of_three_changes_of_two_rows_is_right() {
    // A key for each sequence: weights -2..=2 of the left and the right row, in three ticks.
    let mut ticks: Vec<[Vec<(Row, i64)>; 2]> = vec![Default::default(); 3];
    for key in 0..5i64.pow(6) {
        let mut rest = key;
        for tick in &mut ticks {
            for rows in tick.iter_mut() {
                if rest % 5 != 2 {
                    rows.push(((Some(key as f64), None, Some(1)), rest % 5 - 2));
                }
                rest /= 5;
            }
        }
    }
    all_kinds(&ticks);
}

#[test]
fn every_pair_of_changes_of_four_rows_is_right() {
    // Two rows a side under each key; the residual lets all pairs pass but one.
    let mut ticks: Vec<[Vec<(Row, i64)>; 2]> = vec![Default::default(); 2];
    for key in 0..3i64.pow(8) {
        let mut rest = key;
        for tick in &mut ticks {
            for rows in tick.iter_mut() {
                for v in 0..2 {
                    if rest % 3 != 1 {
                        rows.push(((Some(key as f64), Some("s"), Some(v)), rest % 3 - 1));
                    }
                    rest /= 3;
                }
            }
        }
    }
    all_kinds(&ticks);
}

fn random_case(seed: u64, case: &Case, append_only: bool, shared: [bool; 2]) {
    let mut r = Random(seed);
    let shards = if case.keys == 0 { 1 } else { r.pick(&[1, 3]) };
    let (mut rig, mut model) = (Rig::new(case.clone(), shards), Model::new(case));
    if shared != [false, false] {
        rig.share(shared);
    }
    rig.chunk_rows = r.pick(&[1, 7, 1000]) as usize;
    for tick in 0..12 {
        let mut batches = Vec::new();
        for _ in 0..r.below(4) {
            let side = r.below(2) as usize;
            let mut rows: Vec<(Row, i64)> = Vec::new();
            for _ in 0..r.below(12) {
                let k = r.pick(&[None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(3.0)]);
                let row = (k, r.pick(&[None, Some("a"), Some(LONG)]), r.pick(&[None, Some(1), Some(2), Some(3)]));
                let w = if append_only { 1 } else { r.pick(&[1, 1, 1, 2, -1, -1, -2, 0]) };
                rows.push((row, w));
            }
            model.add(side, &rows);
            batches.push((side, batch(side, &rows)));
        }
        rig.at_hand = shared != [false, false] && r.below(3) > 0;
        rig.tick(&batches);
        check(&rig, &model, &format!("seed {seed}, tick {tick}, shared {shared:?}"));
        for (side, _) in shared.iter().enumerate().filter(|(_, shared)| **shared && rig.at_hand) {
            assert!(rig.shards.iter().all(|op| op.sides[side].content.own_rows() == 0), "the base has these rows");
        }
        if let Some(relation) = rig.relations.iter_mut().flatten().next() {
            relation.maintain(10).unwrap();
        }
        assert!(rig.largest <= rig.chunk_rows + rig.chunk_rows / 2, "{} rows at once", rig.largest);
        if r.below(4) == 0 {
            rig.checkpoint();
            let shards = if case.keys == 0 { 1 } else { r.pick(&[1, 3]) };
            rig.restart(shards);
        }
        for op in &mut rig.shards {
            op.maintain(100).unwrap();
        }
    }
}

fn random_cases(keys: usize, append_only: bool) {
    for kind in KINDS {
        for condition in [Condition::None, Condition::LessEqual, Condition::Range, Condition::Band, Condition::Divide] {
            for null_equals_null in [false, true] {
                for seed in 0..4 {
                    random_case(seed, &Case { kind, keys, condition, null_equals_null }, append_only, [false, false]);
                }
            }
        }
    }
}

#[test]
fn random_changes_with_one_key_are_right_after_every_tick() {
    random_cases(1, false);
}

#[test]
fn random_changes_with_two_keys_are_right_after_every_tick() {
    random_cases(2, false);
}

#[test]
fn random_changes_without_keys_are_right_after_every_tick() {
    random_cases(0, false);
}

#[test]
fn random_insertions_are_right_after_every_tick() {
    random_cases(1, true);
    random_cases(0, true);
}

#[test]
fn sides_that_share_an_index_are_right_whenever_its_rows_are_at_hand() {
    for kind in KINDS {
        for condition in [Condition::None, Condition::LessEqual, Condition::Divide] {
            for shared in [[true, false], [false, true], [true, true]] {
                for seed in 0..8 {
                    let (keys, append_only) = (1 + seed as usize % 2, seed % 4 == 3);
                    let case = Case { kind, keys, condition, null_equals_null: seed % 3 == 0 };
                    random_case(seed, &case, append_only, shared);
                }
            }
        }
    }
}

#[test]
fn a_key_with_many_matches_is_emitted_in_chunks() {
    let case = Case { kind: JoinKind::Inner, keys: 1, condition: Condition::None, null_equals_null: false };
    for retracting in [false, true] {
        let mut rig = Rig::new(case.clone(), 1);
        rig.chunk_rows = 100;
        let many: Vec<(Row, i64)> = (0..3000).map(|v| ((Some(1.0), None, Some(v)), 1)).collect();
        rig.tick(&[(1, batch(1, &many))]);
        let mut left: Vec<(Row, i64)> = vec![((Some(1.0), None, Some(1)), 1), ((Some(1.0), None, Some(2)), 1)];
        if retracting {
            left.push(((Some(1.0), None, Some(3)), -1));
            rig.tick(&[(1, batch(1, &[((Some(1.0), None, Some(0)), -1)]))]);
        }
        rig.tick(&[(0, batch(0, &left))]);
        assert_eq!(rig.output.len(), if retracting { 3 * 2999 } else { 2 * 3000 });
        assert!(rig.largest <= 150, "{} rows at once", rig.largest);
    }
}

#[test]
fn a_tick_that_changes_nothing_emits_nothing() {
    let row = (Some(1.0), Some("a"), Some(1));
    for kind in KINDS {
        let case = Case { kind, keys: 1, condition: Condition::LessEqual, null_equals_null: false };
        let mut rig = Rig::new(case, 1);
        rig.tick(&[(0, batch(0, &[(row, 1)])), (1, batch(1, &[(row, 2)]))]);
        let emitted = rig.emitted;
        rig.tick(&[(0, batch(0, &[(row, 1)])), (0, batch(0, &[(row, -1)]))]);
        assert_eq!(rig.emitted, emitted, "{kind:?}");
        // Another row with the same key takes the place of the partner.
        rig.tick(&[(1, batch(1, &[(row, -2), ((Some(1.0), Some("b"), Some(9)), 2)]))]);
        let semi = matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        assert_eq!(rig.emitted, emitted + if semi { 0 } else { 2 }, "{kind:?}");
    }
}

#[test]
fn keys_that_cannot_be_compared_are_refused() {
    let (l, r) = (schema(0), schema(1));
    let made = JoinOp::new(JoinKind::Inner, l, r, vec![(0, 2)], None, false, None, output(JoinKind::Inner), Shard::ONE);
    assert!(made.is_err());
}

#[test]
fn a_change_looks_only_at_the_range_that_it_can_meet() {
    for kind in KINDS {
        for keys in [0, 1] {
            let case = Case { kind, keys, condition: Condition::Band, null_equals_null: false };
            let mut rig = Rig::new(case, 1);
            let rows = |from: i64, to: i64| -> Vec<(Row, i64)> {
                (from..to).map(|v| ((Some(1.0), None, Some(v)), 1)).collect()
            };
            rig.tick(&[(0, batch(0, &rows(0, 5000))), (1, batch(1, &rows(0, 5000)))]);
            let op = &rig.shards[0];
            let plan = op.plan_ranged(1, &batch(1, &rows(3000, 3003)).rows).unwrap();
            assert_eq!(op.sides[0].content.candidates(&plan, 3), [2, 2, 2], "{kind:?}");
            let emitted = rig.emitted;
            rig.tick(&[(1, batch(1, &[((Some(1.0), None, Some(3000)), -1)]))]);
            let partners_lost = match kind {
                JoinKind::LeftSemi | JoinKind::LeftAnti => 0,
                _ => 2,
            };
            assert_eq!(rig.emitted - emitted, partners_lost, "{kind:?}");
        }
    }
}

//! The arrangement against a map of rows to weights, over random histories.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::zset::Weights;

/// Key, a float that may be -0.0 or NaN, text.
type Row = (Option<i64>, u64, String);
type Model = BTreeMap<Row, i64>;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("s", DataType::Utf8View, true),
    ]))
}

fn zbatch(rows: &[(Row, i64)]) -> ZBatch {
    let k: Int64Array = rows.iter().map(|((k, _, _), _)| *k).collect();
    let f: Float64Array = rows.iter().map(|((_, f, _), _)| Some(f64::from_bits(*f))).collect();
    let s: StringViewArray = rows.iter().map(|((_, _, s), _)| Some(s.as_str())).collect();
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(k), Arc::new(f), Arc::new(s)]).expect("batch");
    let w: Vec<i64> = rows.iter().map(|(_, w)| *w).collect();
    let weights = if w.iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(w.into()) };
    ZBatch::new(batch, weights)
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let k = batch.column(0).as_primitive::<Int64Type>();
    let f = batch.column(1).as_primitive::<Float64Type>();
    let s = batch.column(2).as_string_view();
    (0..batch.num_rows())
        .map(|i| (k.is_valid(i).then(|| k.value(i)), f.value(i).to_bits(), s.value(i).to_owned()))
        .collect()
}

fn sum(batches: &[ZBatch]) -> Model {
    let mut m = Model::new();
    for b in batches {
        for (i, r) in rows_of(&b.rows).into_iter().enumerate() {
            *m.entry(r).or_insert(0) += b.weight(i);
        }
    }
    m.retain(|_, w| *w != 0);
    m
}

const FLOATS: [f64; 5] = [0.0, -0.0, f64::NAN, 1.5, -2.0];

fn random_row(rng: &mut SmallRng, keys: i64) -> Row {
    let k = if rng.random_ratio(1, 8) { None } else { Some(rng.random_range(0..keys)) };
    let f = FLOATS[rng.random_range(0..FLOATS.len())];
    let f = if f.is_nan() && rng.random() { f64::from_bits(0xfff8_0000_0000_0001) } else { f };
    let s = ["", "short", "a text that is too long to be inlined in a view"][rng.random_range(0..3)];
    (k, f.to_bits(), format!("{s}{}", rng.random_range(0..3)))
}

/// As SQL compares: one zero, one NaN, NULL equal to NULL.
fn key_of(row: &Row, key: &[usize]) -> (Option<Option<i64>>, Option<u64>, Option<String>) {
    let f = f64::from_bits(row.1);
    let f = if f.is_nan() { f64::NAN.to_bits() } else { (f + 0.0).to_bits() };
    (key.contains(&0).then_some(row.0), key.contains(&1).then_some(f), key.contains(&2).then(|| row.2.clone()))
}

fn expected_matches(model: &Model, probes: &[Row], key: &[usize]) -> BTreeMap<(u32, Row), i64> {
    let mut m = BTreeMap::new();
    for (p, probe) in probes.iter().enumerate() {
        for (row, w) in model {
            if key_of(row, key) == key_of(probe, key) {
                m.insert((p as u32, row.clone()), *w);
            }
        }
    }
    m
}

fn found_matches(a: &Arrangement, m: &Matches) -> BTreeMap<(u32, Row), i64> {
    let columns = a.gather(&m.row, &[0, 1, 2]).expect("gather");
    let rows = rows_of(&RecordBatch::try_new(schema(), columns).expect("batch"));
    let mut found = BTreeMap::new();
    for (i, row) in rows.into_iter().enumerate() {
        *found.entry((m.probe[i], row)).or_insert(0) += m.weight[i];
    }
    found.retain(|_, w| *w != 0);
    found
}

fn check_probe(a: &Arrangement, model: &Model, key: &[usize], rng: &mut SmallRng, keys: i64) {
    let n = if key.is_empty() { 1 } else { rng.random_range(1..6) };
    let probes: Vec<Row> = (0..n).map(|_| random_row(rng, keys)).collect();
    let batch = zbatch(&probes.iter().map(|r| (r.clone(), 1)).collect::<Vec<_>>());
    let columns: Vec<ArrayRef> = key.iter().map(|k| batch.rows.column(*k).clone()).collect();
    let expected = expected_matches(model, &probes, key);
    let all = a.probe(&columns).expect("probe");
    assert!(all.probe.is_sorted());
    assert_eq!(found_matches(a, &all), expected);
    // The same in small steps.
    let mut plan = a.plan(&columns, n).expect("plan");
    let candidates = a.candidates(&plan, n);
    let mut steps = Matches::default();
    let limit = rng.random_range(1..4);
    for end in 1..=n as u32 {
        while let Some(m) = a.matches(&mut plan, end, limit).expect("step") {
            assert!(m.row.len() <= limit && m.probe.iter().all(|p| *p < end));
            steps.probe.extend(m.probe);
            steps.row.extend(m.row);
            steps.weight.extend(m.weight);
        }
    }
    assert_eq!(found_matches(a, &steps), expected);
    for p in 0..n as u32 {
        assert!(candidates[p as usize] >= steps.probe.iter().filter(|x| **x == p).count());
    }
    let found = a.snapshot().lookup(&columns);
    let distinct: Model = expected.iter().map(|((_, r), w)| (r.clone(), *w)).collect();
    if probes.iter().enumerate().any(|(i, p)| probes[..i].iter().any(|q| key_of(p, key) == key_of(q, key))) {
        return;
    }
    if distinct.values().all(|w| *w > 0) {
        assert_eq!(sum(&[found.expect("lookup")]), distinct);
    } else {
        assert_eq!(found.expect_err("negative").code, crate::error::SqlState::DATA_EXCEPTION);
    }
}

fn check_scan(s: &ArrangementSnapshot, model: &Model) {
    if model.values().any(|w| *w < 0) {
        assert_eq!(s.scan().expect_err("negative").message, "row with negative multiplicity");
        return;
    }
    let scanned = s.scan().expect("scan");
    assert!(scanned.iter().all(|b| (0..b.len()).all(|i| b.weight(i) > 0)));
    assert_eq!(&sum(&scanned), model);
    assert!(s.rows_max() as i64 >= model.values().sum());
}

#[derive(Clone, Copy)]
struct Case {
    key: &'static [usize],
    ord: Option<usize>,
    cap: usize,
    mask: u64,
    retract: bool,
    seed: u64,
}

/// Rows of a key within a range of another column.
fn check_range(a: &Arrangement, model: &Model, key: &[usize], ord: usize, rng: &mut SmallRng, keys: i64) {
    let n = rng.random_range(1..6);
    let probes: Vec<Row> = (0..n).map(|_| random_row(rng, keys)).collect();
    let batch = zbatch(&probes.iter().map(|r| (r.clone(), 1)).collect::<Vec<_>>());
    let columns: Vec<ArrayRef> = key.iter().map(|k| batch.rows.column(*k).clone()).collect();
    let ends = || order::codes(batch.rows.column(ord)).expect("codes");
    let mut within = order::CodeRanges { from: ends(), to: ends() };
    within.to.rotate_left(1);
    let mut plan = a.plan_within(&columns, n, within.clone()).expect("plan");
    let (limit, mut found) = (rng.random_range(1..4), Matches::default());
    while let Some(m) = a.matches(&mut plan, u32::MAX, limit).expect("step") {
        found.probe.extend(m.probe);
        found.row.extend(m.row);
        found.weight.extend(m.weight);
    }
    let mut expected = BTreeMap::new();
    for (p, probe) in probes.iter().enumerate() {
        for (row, w) in model.iter().filter(|(row, _)| key_of(row, key) == key_of(probe, key)) {
            let code = order::codes(zbatch(&[(row.clone(), 1)]).rows.column(ord)).expect("codes")[0];
            if within.from[p] <= code && code <= within.to[p] {
                expected.insert((p as u32, row.clone()), *w);
            }
        }
    }
    assert_eq!(found_matches(a, &found), expected);
}

fn history(case: Case) {
    let mut rng = SmallRng::seed_from_u64(case.seed);
    let make = || {
        let mut a = Arrangement::with(Spec::new(schema(), case.key.to_vec(), case.ord, case.mask), case.cap);
        a.set_rewrite_rows(32);
        a
    };
    let mut a = make();
    let mut model = Model::new();
    let mut snapshots: Vec<(ArrangementSnapshot, Model)> = Vec::new();
    let mut stored: Vec<RecordBatch> = Vec::new();
    let keys = 6;
    for _ in 0..120 {
        match rng.random_range(0..100) {
            0..55 => {
                let mut batches = Vec::new();
                for _ in 0..rng.random_range(1..3) {
                    let mut rows = Vec::new();
                    for _ in 0..rng.random_range(0..7) {
                        if case.retract && rng.random_ratio(1, 2) && !model.is_empty() {
                            let (row, w) = model.iter().nth(rng.random_range(0..model.len())).expect("row");
                            // Mostly legal, now and then one too many.
                            let most = if rng.random_ratio(1, 40) { w.abs() + 1 } else { w.abs() };
                            rows.push((row.clone(), -rng.random_range(0..=most)));
                        } else {
                            let w = if rng.random_ratio(1, 5) { rng.random_range(0..3) } else { 1 };
                            rows.push((random_row(&mut rng, keys), w));
                        }
                    }
                    batches.push(zbatch(&rows));
                }
                let before = sum(&[zbatch(&model.clone().into_iter().collect::<Vec<_>>())]);
                model = sum(&[&[zbatch(&before.into_iter().collect::<Vec<_>>())], &batches[..]].concat());
                a.append_all(&batches).expect("append");
            }
            55..65 => drop(a.maintain(rng.random_range(1..40)).expect("maintain")),
            65..75 => snapshots.push((a.snapshot(), model.clone())),
            75..85 => {
                let delta = a.freeze("rows").expect("freeze");
                if delta.replaces {
                    stored.clear();
                }
                for b in &delta.batches {
                    assert_eq!(b.schema(), crate::zset::weighted_schema(&schema()));
                }
                stored.extend(delta.batches);
            }
            85..89 => {
                let delta = a.freeze("rows").expect("freeze");
                if delta.replaces {
                    stored.clear();
                }
                stored.extend(delta.batches);
                // Three shards restore everything between them.
                let mut parts = Vec::new();
                for shard in 0..3 {
                    let mut p = make();
                    for b in &stored {
                        p.restore(b, &|h| crate::hash::shard_of(h, 3) == shard).expect("restore");
                    }
                    parts.extend(p.snapshot().content().expect("content"));
                }
                assert_eq!(sum(&parts), model);
                a = make();
                for b in &stored {
                    a.restore(b, &|_| true).expect("restore");
                }
            }
            89..95 => check_scan(&a.snapshot(), &model),
            _ if case.ord.is_some() && rng.random() => {
                check_range(&a, &model, case.key, case.ord.unwrap_or_default(), &mut rng, keys);
            }
            _ => check_probe(&a, &model, case.key, &mut rng, keys),
        }
        assert_eq!(a.len(), a.stats().rows);
        if !case.retract {
            assert!(a.append_only());
        }
    }
    while a.maintain(10).expect("maintain") {}
    check_scan(&a.snapshot(), &model);
    check_probe(&a, &model, case.key, &mut rng, keys);
    for (s, m) in snapshots {
        check_scan(&s, &m);
    }
}

fn histories(key: &'static [usize], retract: bool) {
    histories_in_order(key, None, retract);
}

fn histories_in_order(key: &'static [usize], ord: Option<usize>, retract: bool) {
    for cap in [4, 64 * 1024] {
        for mask in [u64::MAX, 3, 0xc000_0000_0000_0000] {
            for seed in 0..12 {
                history(Case { key, ord, cap, mask, retract, seed });
            }
        }
    }
}

#[test]
fn histories_by_one_integer_key_agree_with_a_map() {
    histories(&[0], true);
}

#[test]
fn histories_by_several_keys_agree_with_a_map() {
    histories(&[1, 2, 0], true);
    histories(&[1], true);
}

#[test]
fn histories_without_key_agree_with_a_map() {
    histories(&[], true);
}

#[test]
fn histories_in_order_of_a_column_agree_with_a_map() {
    histories_in_order(&[], Some(0), true);
    histories_in_order(&[0], Some(1), true);
    histories_in_order(&[1], Some(2), false);
}

#[test]
fn a_range_looks_at_the_rows_of_the_range() {
    let mut a = Arrangement::with(Spec::new(schema(), vec![], Some(0), u64::MAX), 16);
    for i in 0..100 {
        a.append(&wide(i * 100, 100, 1)).expect("append");
    }
    while a.maintain(1000).expect("maintain") {}
    let within = order::CodeRanges { from: vec![5000, 70, 9], to: vec![5009, 60, 9] };
    let plan = a.plan_within(&[], 3, within).expect("plan");
    assert_eq!(a.candidates(&plan, 3), [10, 0, 1]);
    assert!(a.runs.len() < 8, "rows of one key are merged in slices");
}

#[test]
fn histories_of_insertions_agree_with_a_map() {
    histories(&[0], false);
    histories(&[2], false);
}

fn wide(from: i64, rows: i64, w: i64) -> ZBatch {
    zbatch(
        &(from..from + rows).map(|k| ((Some(k), 0, format!("row number {k} with some text")), w)).collect::<Vec<_>>(),
    )
}

#[test]
fn merging_drops_rows_that_cancel() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 16);
    for round in 0..64 {
        a.append(&wide(round * 10, 20, 1)).expect("append");
        a.append(&wide(round * 10, 20, -1)).expect("append");
    }
    while a.maintain(1000).expect("maintain") {}
    assert!(a.len() < 8 * 40, "{} of 2560 rows are left", a.len());
    assert!(a.snapshot().scan().expect("scan").is_empty());
}

#[test]
fn maintenance_is_cut_into_pieces_of_the_fuel() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 64);
    for i in 0..16 {
        a.append(&wide(i * 100, 100, 1)).expect("append");
    }
    let mut steps = 0;
    while a.maintain(64).expect("maintain") {
        steps += 1;
    }
    assert!(steps > 10, "{steps} steps");
    assert_eq!(a.runs.iter().map(|r| r.len()).sum::<usize>(), 1600);
    assert!(a.runs.len() < 8);
}

#[test]
fn runs_do_not_pile_up_where_nobody_maintains() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 4);
    for i in 0..3000 {
        a.append(&wide(i * 4, 4, 1)).expect("append");
        assert!(a.runs.len() <= LOOSE_RUNS * 2, "{} runs", a.runs.len());
    }
    assert_eq!(a.len(), 12_000);
}

#[test]
fn small_appends_leave_few_blocks() {
    let mut a = Arrangement::new(schema(), vec![0]);
    for i in 0..3000 {
        a.append(&wide(i, 1, 1)).expect("append");
    }
    assert!(a.head.blocks.len() <= 7 * 5, "{} blocks", a.head.blocks.len());
    let key: ArrayRef = Arc::new(Int64Array::from(vec![1234]));
    assert_eq!(a.probe(&[key]).expect("probe").row.len(), 1);
}

#[test]
fn state_does_not_keep_the_buffers_of_its_sources() {
    let long = "x".repeat(10_000);
    let rows: Vec<(Row, i64)> = (0..1000).map(|k| ((Some(k), 0, format!("{long}{k}")), 1)).collect();
    let big = zbatch(&rows);
    let mut a = Arrangement::new(schema(), vec![0]);
    for i in 0..10 {
        a.append(&big.slice(i * 100, 1)).expect("append");
    }
    assert!(a.stats().bytes < 400_000, "{} bytes for 100 kB of text", a.stats().bytes);
}

#[test]
fn a_freeze_holds_what_changed_since_the_last() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 8);
    let rows = |d: &SlotDelta| d.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    a.append(&wide(0, 5, 1)).expect("append");
    assert_eq!(rows(&a.freeze("left").expect("freeze")), 5);
    a.append(&wide(5, 2, 1)).expect("append");
    a.append(&wide(7, 2, 1)).expect("append");
    a.append(&wide(9, 100, 1)).expect("append");
    a.append(&wide(109, 1, 1)).expect("append");
    while a.maintain(1).expect("maintain") {}
    let delta = a.freeze("left").expect("freeze");
    assert_eq!((rows(&delta), delta.replaces), (105, false));
    assert_eq!(rows(&a.freeze("left").expect("freeze")), 0);
}

#[test]
fn stored_runs_are_rewritten_when_most_of_them_is_dead() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 16);
    a.set_rewrite_rows(100);
    a.append(&wide(0, 10, 1)).expect("append");
    let mut stored = 10;
    a.freeze("left").expect("freeze");
    let mut replaced = false;
    for i in 0..40 {
        a.append(&wide(100 + i, 20, 1)).expect("append");
        a.append(&wide(100 + i, 20, -1)).expect("append");
        while a.maintain(1000).expect("maintain") {}
        let delta = a.freeze("left").expect("freeze");
        let rows: usize = delta.batches.iter().map(RecordBatch::num_rows).sum();
        stored = if delta.replaces { rows } else { stored + rows };
        replaced |= delta.replaces;
        assert!(stored < 1000);
    }
    assert!(replaced);
}

#[test]
fn changes_nobody_freezes_do_not_outgrow_the_content() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 16);
    a.set_rewrite_rows(100);
    a.append(&wide(0, 10, 1)).expect("append");
    for _ in 0..200 {
        a.append(&wide(100, 20, 1)).expect("append");
        a.append(&wide(100, 20, -1)).expect("append");
        while a.maintain(1000).expect("maintain") {}
        assert!(a.unfrozen_rows < 1000);
    }
    let delta = a.freeze("left").expect("freeze");
    assert!(delta.replaces);
    assert_eq!(delta.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
}

#[test]
fn a_reader_on_another_thread_sees_its_moment() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 32);
    let (send, receive) = std::sync::mpsc::channel::<(ArrangementSnapshot, usize)>();
    std::thread::scope(|scope| {
        let readers = scope.spawn(move || {
            let mut seen = 0;
            for (snapshot, rows) in receive {
                let got: i64 = sum(&snapshot.scan().expect("scan")).values().sum();
                assert_eq!(got as usize, rows);
                seen += 1;
            }
            seen
        });
        let mut rows = 0;
        for i in 0..200i64 {
            a.append(&wide(i * 10, 10, 1)).expect("append");
            rows += 10;
            if i % 3 == 2 {
                a.append(&wide(i * 10, 5, -1)).expect("append");
                rows -= 5;
            }
            a.maintain(50).expect("maintain");
            send.send((a.snapshot(), rows)).expect("reader lives");
        }
        drop(send);
        assert_eq!(readers.join().expect("reader"), 200);
    });
}

#[test]
fn a_scan_passes_blocks_without_retractions_on_as_they_are() {
    let mut a = Arrangement::with_head_rows(schema(), vec![0], 16);
    a.append(&wide(0, 1000, 1)).expect("append");
    a.append(&wide(3, 1, -1)).expect("append");
    a.append(&wide(2000, 1000, 1)).expect("append");
    let snapshot = a.snapshot();
    let scanned = snapshot.scan().expect("scan");
    assert!(scanned.iter().any(|b| Arc::ptr_eq(b.rows.column(0), snapshot.runs[1].blocks[0].rows.column(0))));
    assert_eq!(scanned.iter().map(ZBatch::len).sum::<usize>(), 1999);
}

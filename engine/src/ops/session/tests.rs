use arrow::array::StringArray;
use arrow::datatypes::TimestampMillisecondType;
use millstream_sql::plan::time::Bound;

use super::*;
use crate::ops::OpTime;
use crate::ops::aggregate::harness::{Random, Rig};

/// Key, time, name.
type Row = (Option<i64>, Option<i64>, Option<&'static str>);

const GAP: i64 = 5;

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, None)
}

fn fields(n: usize) -> SchemaRef {
    let f = |n: &str, t| Field::new(n, t, true);
    let all = [
        f("k", DataType::Int64),
        f("ts", time_type()),
        f("s", DataType::Utf8),
        f("window_start", time_type()),
        f("window_end", time_type()),
    ];
    Arc::new(Schema::new(all[..n].to_vec()))
}

fn batch(changes: &[(Row, i64)]) -> ZBatch {
    let times = changes.iter().map(|c| c.0.1).collect::<arrow::array::PrimitiveArray<TimestampMillisecondType>>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(changes.iter().map(|c| c.0.0).collect::<Int64Array>()),
        Arc::new(times),
        Arc::new(changes.iter().map(|c| c.0.2).collect::<StringArray>()),
    ];
    let weights: Vec<i64> = changes.iter().map(|c| c.1).collect();
    ZBatch::new(RecordBatch::try_new(fields(3), columns).unwrap(), Weights::Dense(weights.into()))
}

fn rig(keyed: bool, shards: u32) -> Rig {
    let partition: Vec<usize> = if keyed { vec![0] } else { Vec::new() };
    let route = partition.clone();
    Rig::new(shards, route, move |shard| {
        Box::new(SessionOp::new(fields(3), partition.clone(), 1, GAP, fields(5), shard).unwrap())
    })
}

/// What the rows are together with their sessions, each looked for among all rows.
fn naive(content: &[Row], keyed: bool) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for row in content {
        let near = |t: i64| {
            content.iter().filter(move |r| !keyed || r.0 == row.0).filter_map(move |r| r.1).any(move |u| u == t)
        };
        let ends = row.1.map(|t| {
            let (mut first, mut last) = (t, t);
            while let Some(t) = (1..GAP).map(|d| first - d).find(|t| near(*t)) {
                first = t;
            }
            while let Some(t) = (1..GAP).map(|d| last + d).find(|t| near(*t)) {
                last = t;
            }
            (first, last + GAP)
        });
        let n = |v: Option<i64>| v.map_or("NULL".to_owned(), |v| v.to_string());
        let t = |v: Option<i64>| v.map_or("NULL".to_owned(), chrono_text);
        let text = format!(
            "{}|{}|{}|{}|{}",
            n(row.0),
            t(row.1),
            row.2.unwrap_or("NULL"),
            t(ends.map(|e| e.0)),
            t(ends.map(|e| e.1))
        );
        *out.entry(text).or_default() += 1;
    }
    out
}

/// A time as the harness shows it.
fn chrono_text(ms: i64) -> String {
    let one: ArrayRef = Arc::new(arrow::array::PrimitiveArray::<TimestampMillisecondType>::from(vec![ms]));
    arrow::util::display::array_value_to_string(&one, 0).unwrap()
}

fn a_row(r: &mut Random) -> Row {
    let time = if r.below(12) == 0 { None } else { Some(r.below(60) as i64) };
    (r.pick(&[None, Some(1), Some(2)]), time, r.pick(&[None, Some("a"), Some("b")]))
}

/// Random inserts and deletes of several rows a tick, with checkpoints and restarts on other numbers of shards.
fn check(seed: u64, keyed: bool, shards: u32) {
    let mut r = Random(seed);
    let mut rig = rig(keyed, shards);
    rig.chunk_rows = 3;
    let mut content: Vec<Row> = Vec::new();
    for tick in 0..30 {
        let mut changes = Vec::new();
        for _ in 0..1 + r.below(if tick == 0 { 20 } else { 6 }) {
            if !content.is_empty() && r.below(2) == 0 {
                let at = r.below(content.len() as u64) as usize;
                changes.push((content.swap_remove(at), -1));
            } else {
                let (row, times) = (a_row(&mut r), 1 + r.below(2) as i64);
                content.extend(std::iter::repeat_n(row, times as usize));
                changes.push((row, times));
            }
        }
        let (a, b) = changes.split_at(changes.len() / 2);
        rig.tick(&[batch(a), batch(b)]);
        assert_eq!(rig.output, naive(&content, keyed), "seed {seed}, keyed {keyed}, tick {tick}");
        if r.below(3) == 0 {
            rig.checkpoint();
            let other = r.pick(&[shards, 1, 3]);
            rig.restart(if keyed { other } else { shards });
        }
    }
}

#[test]
fn sessions_merge_and_part_as_rows_come_and_go() {
    for seed in 0..40 {
        check(seed, true, 1 + (seed % 3) as u32);
        check(1000 + seed, false, 1);
    }
}

#[test]
fn only_rows_whose_session_changed_go_out() {
    let mut rig = rig(true, 1);
    let row = |t: i64| (Some(1), Some(t), None);
    let all: Vec<(Row, i64)> = (0..100).map(|i| (row(2 * i), 1)).collect();
    rig.tick(&[batch(&all)]);
    assert_eq!(rig.emitted, 100);
    rig.tick(&[batch(&[(row(51), 1)])]);
    assert_eq!(rig.emitted, 101, "in the middle");
    rig.tick(&[batch(&[(row(51), -1), (row(7), 1), (row(7), -1)])]);
    assert_eq!(rig.emitted, 102);
    rig.tick(&[batch(&[(row(198 + GAP), 1)])]);
    assert_eq!(rig.emitted, 103, "at the end: another session");
    rig.tick(&[batch(&[(row(198 + GAP), -1), (row(198 + GAP - 1), 1)])]);
    assert_eq!(rig.emitted, 103 + 1 + 1 + 200, "just before it: the session is longer");
}

#[test]
fn sessions_that_are_over_are_forgotten() {
    let closed_at = |us: i64| OpTime { forget: vec![vec![None, Some(Bound::At(us)), None]], ..OpTime::default() };
    let mut rig = rig(true, 1);
    let row = |k: i64, t: i64| (Some(k), Some(t), None);
    let all = [(row(1, 0), 1), (row(1, 3), 1), (row(1, 10), 1), (row(2, 1), 1), (row(2, 5), 1)];
    rig.tick(&[batch(&all)]);
    assert_eq!(rig.state_rows(), 5);
    rig.time = closed_at(7_999);
    rig.tick(&[batch(&[])]);
    assert_eq!(rig.state_rows(), 5, "the first session ends at 8 ms");
    rig.time = closed_at(8_000);
    rig.tick(&[batch(&[])]);
    assert_eq!(rig.state_rows(), 3);
    let before = rig.output.clone();
    rig.checkpoint();
    rig.restart(3);
    assert_eq!(rig.state_rows(), 3);
    // A row at the very end of what is forgotten begins a session of its own.
    rig.tick(&[batch(&[(row(1, 8), 1), (row(2, 9), 1)])]);
    rig.time = OpTime { forget: vec![vec![None, Some(Bound::Never), None]], ..OpTime::default() };
    rig.tick(&[batch(&[])]);
    assert_eq!(rig.state_rows(), 0);
    let kept = |k: &str| before.keys().filter(|l| l.starts_with(k)).all(|l| rig.output.contains_key(l));
    assert!(!kept("1|") && !kept("2|"), "open sessions grew");
    let line =
        |k: i64, t: i64, a: i64, b: i64| format!("{k}|{}|NULL|{}|{}", chrono_text(t), chrono_text(a), chrono_text(b));
    let want = [
        line(1, 0, 0, 8),
        line(1, 10, 8, 15),
        line(1, 3, 0, 8),
        line(1, 8, 8, 15),
        line(2, 1, 1, 14),
        line(2, 5, 1, 14),
        line(2, 9, 1, 14),
    ];
    assert_eq!(rig.output.into_keys().collect::<BTreeSet<_>>(), BTreeSet::from(want));
}

#[test]
fn a_row_whose_session_has_no_end_is_an_error_until_it_is_gone() {
    let mut rig = rig(true, 1);
    let bad: Row = (Some(1), Some(i64::MAX - 2), None);
    rig.tick(&[batch(&[(bad, 1), ((Some(1), Some(3), None), 1)])]);
    assert_eq!((rig.output.len(), rig.errors.entries.len()), (1, 1));
    rig.tick(&[batch(&[(bad, -1)])]);
    assert!(rig.errors.is_empty());
}

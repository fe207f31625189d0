//! Event time of streams, without a running engine.

use arrow::array::{AsArray, TimestampMillisecondArray};
use arrow::datatypes::Int64Type;

use super::*;
use crate::catalog::Meta;

fn schema() -> SchemaRef {
    let ts = DataType::Timestamp(TimeUnit::Millisecond, None);
    Arc::new(Schema::new(vec![Field::new("ts", ts, true), Field::new("id", DataType::Int64, true)]))
}

fn rule() -> Rule {
    let state = millstream_sql::session::session_state(1);
    let watermark = Watermark { column: 0, expr: "ts - INTERVAL '2 seconds'".into(), late: None };
    Rule::new(&state, &schema(), &watermark).expect("compiles")
}

fn batch(rows: &[(Option<i64>, i64)]) -> ZBatch {
    let ts: TimestampMillisecondArray = rows.iter().map(|r| r.0).collect();
    let id: Int64Array = rows.iter().map(|r| Some(r.1)).collect();
    ZBatch::inserts(RecordBatch::try_new(schema(), vec![Arc::new(ts), Arc::new(id)]).expect("batch"))
}

fn ids(batch: &ZBatch) -> Vec<i64> {
    batch.rows.column(1).as_primitive::<Int64Type>().values().to_vec()
}

fn time() -> EventTime {
    EventTime {
        rule: Arc::new(rule()),
        late: None,
        partitions: BTreeMap::new(),
        watermark: None,
        late_rows: 0,
        idle_timeout: 10,
    }
}

#[test]
fn lateness_depends_on_the_order_in_a_partition_and_on_no_cut() {
    let rows: Vec<(Option<i64>, i64)> =
        [Some(5_000), Some(2_999), None, Some(3_000), Some(9_000), Some(6_999), Some(1), Some(7_000), Some(8_000)]
            .into_iter()
            .zip(0..)
            .collect();
    let split: SplitId = "0".into();
    for cut in 1..=rows.len() {
        let rule = rule();
        let (mut mark, mut kept, mut late) = (None, Vec::new(), Vec::new());
        for piece in rows.chunks(cut) {
            let sorted = rule.sort(&split, batch(piece), mark, None).expect("sorts");
            mark = sorted.mark;
            kept.extend(ids(&sorted.on_time));
            if let Some(l) = &sorted.late {
                late.extend(ids(l));
                assert_eq!(l.rows.num_columns(), 4);
            }
        }
        assert_eq!(kept, [0, 2, 3, 4, 7, 8], "cut {cut}");
        assert_eq!(late, [1, 5, 6], "cut {cut}");
        assert_eq!(mark, Some(7_000_000));
    }
}

#[test]
fn the_stream_is_as_far_as_its_slowest_partition_that_is_not_idle() {
    let (a, b): (SplitId, SplitId) = ("a".into(), "b".into());
    let mut t = time();
    t.expect(&a, Timestamp(0));
    t.expect(&b, Timestamp(0));
    let deliver = |t: &mut EventTime, split: &SplitId, ms: i64, now: i64| {
        let sorted = t.deliver(split, batch(&[(Some(ms), 1)]), Timestamp(now)).expect("delivers");
        t.seal(split, sorted.mark);
        t.watermark = t.due();
        sorted.late.is_some()
    };
    deliver(&mut t, &a, 10_000, 1);
    assert_eq!(t.watermark, None, "a partition that has delivered nothing may deliver anything");
    deliver(&mut t, &b, 5_000, 2);
    assert_eq!(t.watermark, Some(3_000_000));
    assert_eq!(t.slowest().map(|(s, _)| s.clone()), Some(b.clone()));
    // Only a partition that is at its end is idle.
    t.find_idle(Timestamp(12), |split| *split == b);
    assert_eq!(t.due(), Some(3_000_000));
    deliver(&mut t, &a, 20_000, 12);
    t.find_idle(Timestamp(13), |_| false);
    assert_eq!(t.due(), Some(18_000_000));
    t.watermark = t.due();
    // Back again: behind the stream's watermark it is late, though not in its own partition.
    assert!(deliver(&mut t, &b, 6_000, 14));
    assert_eq!(t.watermark, Some(18_000_000), "never back");
    assert!(!deliver(&mut t, &b, 30_000, 15));
    assert_eq!(t.watermark, Some(18_000_000));
    // All idle: as far as the furthest.
    t.find_idle(Timestamp(100), |_| false);
    assert_eq!(t.due(), Some(28_000_000));
    t.end_all();
    assert_eq!(t.due(), Some(i64::MAX));
}

#[test]
fn a_restart_goes_on_with_what_was_sealed() {
    let a: SplitId = "a".into();
    let mut t = time();
    let sorted = t.deliver(&a, batch(&[(Some(10_000), 1)]), Timestamp(0)).expect("delivers");
    t.seal(&a, sorted.mark);
    t.watermark = t.due();
    t.deliver(&a, batch(&[(Some(90_000), 2)]), Timestamp(0)).expect("delivers");
    let stored = t.stored();
    assert_eq!(stored.watermark, Some(8_000_000));
    let mut again = time();
    again.restore(stored, Timestamp(5));
    for t in [&mut t, &mut again] {
        t.forget_unsealed();
        let sorted = t.deliver(&a, batch(&[(Some(9_000), 3), (Some(7_000), 4)]), Timestamp(6)).expect("delivers");
        assert_eq!(ids(&sorted.on_time), [3]);
        assert_eq!(sorted.late.map(|l| ids(&l)), Some(vec![4]));
    }
}

#[test]
fn a_watermark_needs_a_timestamp() {
    let state = millstream_sql::session::session_state(1);
    let expr = millstream_sql::parse::parse_expr("id").expect("parses");
    let def = millstream_sql::statement::WatermarkDef { column: "id".into(), expr };
    let e = check_watermark(&state, &schema(), &def).expect_err("no time");
    assert_eq!(e.code, SqlState::DATATYPE_MISMATCH);
    let relation = Relation {
        id: RelationId(200),
        schema_name: "public".into(),
        name: "s".into(),
        schema: schema(),
        primary_key: Vec::new(),
        definition: String::new(),
        inputs: Vec::new(),
        body: Body::Table { append_only: true, defaults: BTreeMap::new() },
        meta: Meta::default(),
    };
    assert!(EventTime::of(&state, &relation, StoredTime::default(), Timestamp(0)).expect("no rule").is_none());
}

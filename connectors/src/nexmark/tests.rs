//! The source as the engine sees it.

use super::*;
use crate::SourceEvent;
use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

fn config(options: &[(&str, &str)]) -> SourceConfig {
    SourceConfig {
        name: "s".into(),
        options: [("connector", "nexmark")]
            .iter()
            .chain(options)
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        schema: None,
        metadata: Vec::new(),
        primary_key: Vec::new(),
        base_dir: None,
    }
}

fn error(options: &[(&str, &str)]) -> ConnectorError {
    match open(config(options)) {
        Ok(_) => panic!("opened with {options:?}"),
        Err(e) => e,
    }
}

/// Reads one reader to its end; rows per split, in order.
async fn drain(reader: &mut Box<dyn SourceReader>, rows_max: usize) -> BTreeMap<SplitId, (Position, Vec<RecordBatch>)> {
    let mut out: BTreeMap<SplitId, (Position, Vec<RecordBatch>)> = BTreeMap::new();
    loop {
        match reader.poll(rows_max, Duration::from_millis(10)).await.unwrap() {
            SourceEvent::Chunk(c) => {
                let entry = out.entry(c.split).or_insert((Position(0), Vec::new()));
                assert!(c.end > entry.0);
                entry.0 = c.end;
                entry.1.push(c.rows);
            }
            SourceEvent::Idle => {}
            SourceEvent::End => return out,
        }
    }
}

#[tokio::test]
async fn every_event_comes_once_whatever_the_splits_readers_and_chunk_sizes() {
    for kind in [Kind::Person, Kind::Auction, Kind::Bid] {
        let expected = Nexmark::new(7).batch(kind, 0, 1234);
        for (splits, parallelism, rows_max) in [("1", 1, 10_000), ("1", 4, 1), ("3", 2, 100), ("7", 7, 5)] {
            let source =
                open(config(&[("type", kind.name()), ("events", "1234"), ("seed", "7"), ("splits", splits)])).unwrap();
            assert!(source.bounded());
            assert_eq!(source.end_positions().await.unwrap().values().max(), Some(&Position(1234)));
            let from = source.start_positions().await.unwrap();
            let mut batches = Vec::new();
            for mut reader in source.open(&from, None, parallelism).await.unwrap() {
                for (_, (end, rows)) in drain(&mut reader, rows_max).await {
                    assert_eq!(end, Position(1234));
                    batches.extend(rows);
                }
            }
            let got = concat_batches(&expected.schema(), &batches).unwrap();
            let time = got.schema().index_of("date_time").unwrap();
            let order = arrow::compute::sort_to_indices(got.column(time), None, None).unwrap();
            let got = arrow::compute::take_record_batch(&got, &order).unwrap();
            assert_eq!(got, expected);
        }
    }
}

#[tokio::test]
async fn a_reader_that_starts_in_the_middle_gives_the_same_rows() {
    let source = open(config(&[("type", "bid"), ("events", "1000")])).unwrap();
    for at in [0, 1, 49, 50, 777, 1000] {
        let from = Positions::from([("0".into(), Position(at))]);
        let mut reader = source.open(&from, None, 1).await.unwrap().remove(0);
        let rows: Vec<RecordBatch> = drain(&mut reader, 64).await.into_values().flat_map(|(_, rows)| rows).collect();
        let expected = Nexmark::new(0).batch(Kind::Bid, at, 1000);
        assert_eq!(concat_batches(&expected.schema(), &rows).unwrap(), expected);
    }
}

#[tokio::test]
async fn declared_columns_are_projected_and_metadata_is_appended() {
    let mut c = config(&[("type", "bid"), ("events", "100"), ("splits", "2")]);
    c.schema = Some(Arc::new(Schema::new(vec![
        Field::new("price", DataType::Int64, true),
        Field::new("auction", DataType::Int64, true),
    ])));
    c.metadata =
        vec![("n".into(), "offset".into(), DataType::Int64), ("p".into(), "partition".into(), DataType::Int32)];
    let source = open(c).unwrap();
    let mut reader = source.open(&Positions::new(), None, 1).await.unwrap().remove(0);
    let full = Nexmark::new(0).batch(Kind::Bid, 0, 100);
    for (split, (_, rows)) in drain(&mut reader, 1000).await {
        let rows = concat_batches(&source.schema(), &rows).unwrap();
        assert_eq!(rows.num_rows(), 46);
        let numbers: &Int64Array = rows.column(2).as_primitive();
        let at = if &*split == "0" { 0 } else { 46 };
        assert_eq!(numbers.value(0), if at == 0 { 4 } else { 54 });
        assert_eq!(
            rows.column(0).as_primitive::<Int64Type>(),
            &full.column(2).as_primitive::<Int64Type>().slice(at, 46)
        );
        assert_eq!(
            rows.column(1).as_primitive::<Int64Type>(),
            &full.column(0).as_primitive::<Int64Type>().slice(at, 46)
        );
        assert_eq!(rows.column(3).null_count(), 0);
    }
}

#[tokio::test]
async fn a_rate_paces_by_the_clock_and_decides_only_when() {
    let now = Arc::new(AtomicU64::new(0));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || Duration::from_millis(now.load(Ordering::Relaxed)))
    };
    let source = NexmarkSource::new(config(&[("type", "bid"), ("rate", "1000")]), clock).unwrap();
    assert!(!source.bounded());
    let from = Positions::from([("0".into(), Position(500))]);
    let mut reader = source.open(&from, None, 1).await.unwrap().remove(0);
    let wait = Duration::from_millis(2);
    assert!(matches!(reader.poll(1000, wait).await.unwrap(), SourceEvent::Idle));
    now.store(100, Ordering::Relaxed);
    let SourceEvent::Chunk(chunk) = reader.poll(1000, wait).await.unwrap() else { panic!("no chunk") };
    assert_eq!(chunk.end, Position(600));
    assert_eq!(chunk.rows, Nexmark::new(0).batch(Kind::Bid, 500, 600));
    assert!(matches!(reader.poll(1000, wait).await.unwrap(), SourceEvent::Idle));
    // What a reader delivered is an end that a SELECT can use, and so is what is due since the start.
    assert_eq!(source.end_positions().await.unwrap()["0"], Position(600));
    now.store(2000, Ordering::Relaxed);
    let end = source.end_positions().await.unwrap();
    assert_eq!(end["0"], Position(2000));
    let mut once = source.open(&Positions::new(), Some(&end), 1).await.unwrap().remove(0);
    assert_eq!(drain(&mut once, 500).await["0"].0, Position(2000));
}

#[tokio::test]
async fn an_unbounded_generator_flat_out_has_an_end_for_selects() {
    let source = open(config(&[("type", "auction")])).unwrap();
    let end = source.end_positions().await.unwrap();
    assert_eq!(end["0"], Position(0));
    let mut once = source.open(&Positions::new(), Some(&end), 1).await.unwrap().remove(0);
    assert!(matches!(once.poll(10, Duration::ZERO).await.unwrap(), SourceEvent::End));
    let mut follow = source.open(&Positions::new(), None, 1).await.unwrap().remove(0);
    assert!(matches!(follow.poll(3000, Duration::ZERO).await.unwrap(), SourceEvent::Chunk(_)));
    assert_eq!(source.end_positions().await.unwrap()["0"], Position(50_000));
}

#[test]
fn wrong_options_are_reported_with_what_is_right() {
    assert!(error(&[]).message.contains("needs option \"type\""));
    assert!(error(&[("type", "bids")]).hint.unwrap().contains("'bid'"));
    assert_eq!(error(&[("type", "bid"), ("sead", "1")]).hint.as_deref(), Some("Did you mean \"seed\"?"));
    for (key, value) in [("rate", "-1"), ("splits", "0"), ("start", "latest"), ("format", "json"), ("events", "many")] {
        let e = error(&[("type", "bid"), (key, value)]);
        assert_eq!(e.message, format!("invalid value \"{value}\" for option \"{key}\""));
    }
    let mut c = config(&[("type", "bid")]);
    c.schema = Some(Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)])));
    assert!(open(c.clone()).err().unwrap().message.contains("\"id\" is not in a nexmark bid"));
    c.schema = Some(Arc::new(Schema::new(vec![Field::new("price", DataType::Utf8View, true)])));
    assert!(open(c).err().unwrap().message.contains("is Int64"));
}

#[test]
fn json_lines_are_as_many_as_the_rows() {
    let mut out = Vec::new();
    write_json(Kind::Auction, 0..120_000, &mut out);
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 7200);
    let first: serde_json::Value = serde_json::from_slice(out.split(|b| *b == b'\n').next().unwrap()).unwrap();
    assert_eq!(first["id"], 1000);
    assert_eq!(first["seller"].as_i64().map(|s| s >= 1000), Some(true));
}

//! Tests of the file source through the public interface.

use std::fs;
use std::io::Write;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::*;
use crate::{ErrorKind, SourceChunk, SourceEvent, SplitId};

fn config(path: &Path, more: &[(&str, &str)]) -> SourceConfig {
    let mut options: BTreeMap<String, String> =
        [("connector", "file"), ("path", path.to_str().unwrap()), ("poll_interval", "20ms")]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
    for (k, v) in more {
        options.insert((*k).into(), (*v).into());
    }
    SourceConfig {
        name: "s".into(),
        options,
        schema: Some(Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))),
        metadata: vec![],
        primary_key: vec![],
        base_dir: None,
    }
}

fn lines(ids: std::ops::Range<i64>) -> String {
    ids.map(|i| format!("{{\"id\":{i}}}\n")).collect()
}

fn ids(chunk: &SourceChunk) -> Vec<i64> {
    chunk.rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Everything up to `End` or, for readers that follow, the first `Idle`.
async fn drain(reader: &mut Box<dyn SourceReader>, rows_max: usize) -> Vec<SourceChunk> {
    let mut chunks = vec![];
    while let SourceEvent::Chunk(c) = reader.poll(rows_max, Duration::from_millis(100)).await.unwrap() {
        chunks.push(c);
    }
    chunks
}

fn all(chunks: &[SourceChunk]) -> Vec<i64> {
    chunks.iter().flat_map(ids).collect()
}

fn split(path: &Path) -> SplitId {
    path.to_str().unwrap().into()
}

#[tokio::test]
async fn a_folder_is_read_in_order_of_path_and_poison_lines_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("b.ndjson"), lines(3..5)).unwrap();
    fs::write(dir.path().join("a.ndjson"), "{\"id\":0}\n\n{\"id\":\"x\"}\nnope\n{\"id\":1}\n{\"id\":2}").unwrap();
    fs::write(dir.path().join(".hidden"), "x\n").unwrap();
    let s = open(config(dir.path(), &[])).await.unwrap();
    let to = s.end_positions().await.unwrap();
    assert_eq!(to.len(), 2);
    let mut r = s.open(&Positions::new(), Some(&to), 1).await.unwrap();
    let chunks = drain(&mut r[0], 2).await;
    assert_eq!(all(&chunks), vec![0, 1, 2, 3, 4]);
    let bad: Vec<_> = chunks.iter().flat_map(|c| &c.bad).collect();
    assert_eq!(bad.iter().map(|b| b.position.0).collect::<Vec<_>>(), vec![10, 21]);
    assert_eq!(bad[0].origin, dir.path().join("a.ndjson").to_str().unwrap());
    assert!(matches!(r[0].poll(1, Duration::ZERO).await.unwrap(), SourceEvent::End));
}

#[tokio::test]
async fn a_restart_at_any_position_gives_exactly_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    fs::write(&file, lines(0..50)).unwrap();
    let s = open(config(&file, &[])).await.unwrap();
    let to = s.end_positions().await.unwrap();
    let chunks = drain(&mut s.open(&Positions::new(), Some(&to), 4).await.unwrap()[0], 7).await;
    assert_eq!(chunks.len(), 8);
    let mut seen = 0;
    for c in &chunks {
        seen += c.rows.num_rows() as i64;
        let from = Positions::from([(c.split.clone(), c.end)]);
        let rest = drain(&mut s.open(&from, Some(&to), 1).await.unwrap()[0], 1000).await;
        assert_eq!(all(&rest), (seen..50).collect::<Vec<_>>());
    }
    assert_eq!(seen, 50);
}

#[tokio::test]
async fn growth_new_files_and_a_last_line_without_newline_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    fs::write(&file, "{\"id\":0}\n{\"id\":").unwrap();
    let s = open(config(dir.path(), &[("format", "json")])).await.unwrap();
    let mut r = s.open(&Positions::new(), None, 1).await.unwrap();
    let SourceEvent::Chunk(c) = r[0].poll(100, Duration::from_millis(5)).await.unwrap() else { panic!() };
    assert_eq!(ids(&c), vec![0]);
    assert_eq!(c.end, Position(9));
    let mut f = fs::OpenOptions::new().append(true).open(&file).unwrap();
    f.write_all(b"1}\n{\"id\":2}").unwrap();
    fs::write(dir.path().join("b.json"), lines(10..12)).unwrap();
    let mut got = all(&drain(&mut r[0], 100).await);
    got.sort_unstable();
    assert_eq!(got, vec![1, 2, 10, 11]);
    f.write_all(b"\n{\"id\":3}\n").unwrap();
    assert_eq!(all(&drain(&mut r[0], 100).await), vec![3]);
    assert!(matches!(r[0].poll(100, Duration::ZERO).await.unwrap(), SourceEvent::Idle));
}

#[tokio::test]
async fn parallel_readers_cover_every_file_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        let sub = dir.path().join(format!("d{}", i % 3));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{i}.json")), lines(i * 10..i * 10 + 10)).unwrap();
        fs::write(sub.join(format!("f{i}.txt")), "not this\n").unwrap();
    }
    let s = open(config(&dir.path().join("**/*.json"), &[])).await.unwrap();
    for (to, n) in [(Some(s.end_positions().await.unwrap()), 3), (None, 4)] {
        let mut readers = s.open(&Positions::new(), to.as_ref(), n).await.unwrap();
        assert_eq!(readers.len(), n);
        let mut got = vec![];
        for r in &mut readers {
            let part = all(&drain(r, 1000).await);
            assert!(!part.is_empty());
            got.extend(part);
        }
        got.sort_unstable();
        assert_eq!(got, (0..200).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn vanished_and_shrunk_files_are_lost_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    fs::write(&file, lines(0..5)).unwrap();
    let s = open(config(dir.path(), &[])).await.unwrap();
    let mut r = s.open(&Positions::new(), None, 1).await.unwrap();
    let end = drain(&mut r[0], 100).await.pop().unwrap().end;
    fs::write(&file, lines(0..1)).unwrap();
    let e = r[0].poll(1, Duration::from_millis(200)).await.unwrap_err();
    assert!(e.kind == ErrorKind::Lost && e.message.contains("a.json\" shrank"), "{e}");
    let from = Positions::from([(split(&file), end)]);
    assert_eq!(s.open(&from, None, 1).await.err().unwrap().kind, ErrorKind::Lost);
    fs::remove_file(&file).unwrap();
    let e = s.open(&from, None, 1).await.err().unwrap();
    assert!(e.kind == ErrorKind::Lost && e.message.contains("a.json"), "{e}");
    let e = r[0].poll(1, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Lost);
}

#[tokio::test]
async fn csv_with_header_and_inferred_columns_and_metadata() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.csv", "b.csv"] {
        fs::write(dir.path().join(name), "id;name\n1;x\n2;\n").unwrap();
    }
    let mut c = config(dir.path(), &[("header", "true"), ("delimiter", ";"), ("follow", "false")]);
    c.schema = None;
    c.metadata = vec![("f".into(), "file".into(), DataType::Utf8View), ("at".into(), "offset".into(), DataType::Int64)];
    let s = open(c.clone()).await.unwrap();
    assert!(s.bounded());
    let names: Vec<_> = s.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, vec!["id", "name", "f", "at"]);
    let chunks = drain(&mut s.open(&Positions::new(), None, 1).await.unwrap()[0], 100).await;
    assert_eq!(all(&chunks), vec![1, 2, 1, 2]);
    assert!(chunks[1].rows.column(2).as_string_view().value(0).ends_with("b.csv"));
    assert_eq!(chunks[0].rows.column(3).as_primitive::<Int64Type>().values(), &[8, 12]);
    c.schema = Some(Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8View, true),
        Field::new("id", DataType::Int64, true),
    ])));
    let e = open(c).await.err().unwrap();
    assert!(e.message.contains("the header names columns id, name"), "{e}");
}

fn write_parquet(path: &Path, ids: std::ops::Range<i64>) {
    let schema =
        Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, true), Field::new("id", DataType::Int64, false)]));
    let names = arrow::array::StringArray::from_iter_values(ids.clone().map(|i| format!("n{i}")));
    let ids = Int64Array::from_iter_values(ids);
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(names), Arc::new(ids)]).unwrap();
    let mut w = ::parquet::arrow::ArrowWriter::try_new(fs::File::create(path).unwrap(), schema, None).unwrap();
    w.write(&batch).unwrap();
    w.close().unwrap();
}

#[tokio::test]
async fn parquet_positions_are_rows_and_a_broken_file_is_one_poison_record() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("a.parquet"), 0..100);
    write_parquet(&dir.path().join("b.parquet"), 100..200);
    write_parquet(&dir.path().join("c.parquet"), 200..300);
    let middle = dir.path().join("b.parquet");
    let bytes = fs::read(&middle).unwrap();
    fs::write(&middle, &bytes[..bytes.len() / 2]).unwrap();
    let s = open(config(dir.path(), &[])).await.unwrap();
    let to = s.end_positions().await.unwrap();
    assert_eq!(to.values().map(|p| p.0).collect::<Vec<_>>(), vec![100, TERMINAL.0, 100]);
    let chunks = drain(&mut s.open(&Positions::new(), Some(&to), 1).await.unwrap()[0], 30).await;
    assert_eq!(all(&chunks), (0..100).chain(200..300).collect::<Vec<_>>());
    let bad: Vec<_> = chunks.iter().flat_map(|c| &c.bad).collect();
    assert!(bad.len() == 1 && bad[0].reason.contains("Parquet"), "{bad:?}");
    let mut at = Positions::new();
    let mut seen = 0;
    for c in &chunks {
        at.insert(c.split.clone(), c.end);
        seen += c.rows.num_rows();
        let rest = drain(&mut s.open(&at, Some(&to), 1).await.unwrap()[0], 8192).await;
        assert_eq!(all(&rest).len(), 200 - seen);
    }
    let mut follow = s.open(&at, None, 1).await.unwrap();
    assert!(drain(&mut follow[0], 100).await.is_empty(), "a broken file is not read for ever");
    let mut c = config(dir.path(), &[]);
    c.schema = None;
    let inferred = open(c).await.unwrap().schema();
    assert_eq!(inferred.field(0).data_type(), &DataType::Utf8View);
}

#[tokio::test]
async fn wrong_options_are_config_errors() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.json.gz"), "x").unwrap();
    let missing = dir.path().join("nothing/here.json");
    let cases: Vec<(SourceConfig, &str)> = vec![
        (config(dir.path(), &[]), "compressed"),
        (config(&missing, &[]), "cannot read"),
        (config(dir.path(), &[("pth", "x")]), "unknown option"),
        (config(dir.path(), &[("poll_interval", "soon")]), "poll_interval"),
    ];
    for (c, text) in cases {
        let e = open(c).await.err().unwrap();
        assert!(e.kind == ErrorKind::Config && e.message.contains(text), "{e}");
    }
}

#[tokio::test]
async fn a_file_of_many_ranges_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("big.json");
    let pad = "x".repeat(1000);
    let text: String = (0..12_000).map(|i| format!("{{\"id\":{i},\"pad\":\"{pad}\"}}\n")).collect();
    fs::write(&file, &text).unwrap();
    let s = open(config(&file, &[])).await.unwrap();
    let to = s.end_positions().await.unwrap();
    let chunks = drain(&mut s.open(&Positions::new(), Some(&to), 1).await.unwrap()[0], 8192).await;
    assert_eq!(all(&chunks), (0..12_000).collect::<Vec<_>>());
    assert_eq!(chunks.iter().map(|c| c.bytes).sum::<usize>(), text.len());
}

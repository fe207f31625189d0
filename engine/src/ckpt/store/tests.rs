use std::sync::atomic::Ordering;

use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};

use super::*;
use crate::ckpt::manifest::{SlotRef, StateRef};
use crate::ckpt::testing::{Faulty, ints, local, memory, memory_with};
use crate::time::{Epoch, Timestamp};

fn with_runs(runs: &[RunRef]) -> Manifest {
    let slots = vec![SlotRef { shard: 0, node: 1, slot: "out".into(), runs: runs.to_vec() }];
    let state = StateRef { cut: Epoch(9), shards: 1, slots };
    Manifest { epoch: Epoch(9), wal_seq: 4, states: BTreeMap::from([("job/7".into(), state)]), ..Default::default() }
}

async fn overwrite(store: &Arc<dyn ObjectStore>, name: &str, object: impl Into<Bytes>) {
    store.put(&Path::from(name), PutPayload::from_bytes(object.into())).await.unwrap();
}

async fn names(store: &Arc<dyn ObjectStore>, folder: &str) -> Vec<String> {
    Objects::new(Arc::clone(store)).list(folder).await.unwrap().into_iter().map(|(n, _)| n).collect()
}

fn error<T>(r: Result<T>) -> Error {
    match r {
        Ok(_) => panic!("succeeded"),
        Err(e) => e,
    }
}

#[tokio::test]
async fn a_checkpoint_comes_back_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    for store in [memory(), local(folder.path())] {
        let (first, none) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
        assert!(none.is_none());
        assert_eq!((first.writer_epoch(), first.current().seq), (1, 1));
        let big: Vec<i64> = (0..20_000).collect();
        let run = first.put_run(&[ints(&big), ints(&[]), ints(&[-1])]).await.unwrap();
        assert_eq!(run.rows, 20_001);
        let written = first.extend(with_runs(std::slice::from_ref(&run))).await.unwrap();
        assert_eq!((written.seq, written.format_version, written.hash_version), (2, FORMAT_VERSION, HASH_VERSION));
        assert_eq!(first.current(), written);

        let (second, found) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
        assert_eq!(found.as_ref(), Some(&written));
        assert_eq!((second.writer_epoch(), second.current().seq), (2, 3));
        assert_eq!(second.current().states, written.states);
        let back = second.get_run(&run).await.unwrap();
        assert_eq!(back.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [20_000, 0, 1]);
        assert_eq!((back[0].clone(), back[2].clone()), (ints(&big), ints(&[-1])));
    }
}

#[tokio::test]
async fn each_manifest_names_the_hash_of_the_one_before() {
    let store = memory();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    for _ in 0..3 {
        let m = s.extend(Manifest::default()).await.unwrap();
        let before = store.get(&Path::from(number_name(MANIFESTS, m.seq - 1))).await.unwrap();
        assert_eq!(m.previous, object_hash(&before.bytes().await.unwrap()));
    }
}

#[tokio::test]
async fn a_process_that_was_taken_over_can_publish_nothing() {
    let store = memory();
    let (old, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let (new, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let before = names(&store, MANIFESTS).await;
    let e = error(old.extend(Manifest::default()).await);
    assert_eq!(e.code, SqlState::FENCED);
    assert_eq!(e.message, "another process took over (writer epoch 2 > 1)");
    assert_eq!(error(old.collect_garbage(1).await).code, SqlState::FENCED);
    assert_eq!(names(&store, MANIFESTS).await, before);
    new.extend(Manifest::default()).await.unwrap();
    assert_eq!(error(old.extend(Manifest::default()).await).code, SqlState::FENCED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_processes_that_open_at_once_exactly_one_goes_on() {
    for _ in 0..20 {
        let store = memory();
        let open = || tokio::spawn(CheckpointStore::open(Arc::clone(&store)));
        let mut all = Vec::new();
        for handle in [open(), open(), open()] {
            all.push(handle.await.unwrap().unwrap().0);
        }
        let mut epochs: Vec<u64> = all.iter().map(CheckpointStore::writer_epoch).collect();
        epochs.sort_unstable();
        assert_eq!(epochs, [1, 2, 3]);
        for s in &all {
            let result = s.extend(Manifest::default()).await;
            match s.writer_epoch() {
                3 => assert!(result.is_ok()),
                _ => assert_eq!(error(result).code, SqlState::FENCED),
            }
        }
    }
}

#[tokio::test]
async fn lost_replies_and_conflicts_are_not_mistaken_for_a_fence() {
    let faulty = Faulty::new(memory());
    faulty.lose_replies(1);
    let (s, _) = CheckpointStore::open(faulty.clone()).await.unwrap();
    assert_eq!(s.writer_epoch(), 1);
    faulty.lose_replies(1);
    let run = s.put_run(&[ints(&[1])]).await.unwrap();
    faulty.lose_replies(1);
    assert_eq!(s.extend(with_runs(&[run])).await.unwrap().seq, 2);
    faulty.conflicts.store(2, Ordering::SeqCst);
    assert_eq!(s.extend(Manifest::default()).await.unwrap().seq, 3);
}

#[tokio::test]
async fn a_manifest_of_unknown_outcome_is_adopted_by_the_next_call() {
    let faulty = Faulty::new(memory());
    let objects = Objects::new(faulty.clone()).impatient();
    let (s, _) = CheckpointStore::open_objects(objects).await.unwrap();
    faulty.refuse_replies(true);
    assert_eq!(error(s.extend(Manifest { wal_seq: 5, ..Default::default() }).await).code, SqlState::IO_ERROR);
    faulty.refuse_replies(false);
    assert_eq!(s.extend(Manifest { wal_seq: 6, ..Default::default() }).await.unwrap().seq, 3);
    let (_, found) = CheckpointStore::open(faulty).await.unwrap();
    assert_eq!(found.map(|m| m.wal_seq), Some(6));
}

#[tokio::test]
async fn an_unreachable_store_is_an_io_error_that_names_the_object() {
    let faulty = Faulty::new(memory());
    let (s, _) = CheckpointStore::open_objects(Objects::new(faulty.clone()).impatient()).await.unwrap();
    faulty.refuse_everything(true);
    let e = error(s.extend(Manifest::default()).await);
    assert_eq!(e.code, SqlState::IO_ERROR);
    assert!(e.message.contains("manifest/00000000000000000002"), "{e}");
}

#[tokio::test]
async fn every_flipped_byte_of_a_run_is_detected() {
    let store = memory();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let run = s.put_run(&[ints(&[1, 2, 3])]).await.unwrap();
    let good = store.get(&Path::from(run.name.as_str())).await.unwrap().bytes().await.unwrap();
    for i in 0..good.len() {
        let mut bad = good.to_vec();
        bad[i] ^= 0x10;
        overwrite(&store, &run.name, bad).await;
        let e = error(s.get_run(&run).await);
        assert_eq!(e.code, SqlState::DATA_CORRUPTED);
        assert!(e.message.contains(&run.name), "{e}");
    }
    overwrite(&store, &run.name, good.slice(..good.len() - 1)).await;
    assert_eq!(error(s.get_run(&run).await).code, SqlState::DATA_CORRUPTED);
    store.delete(&Path::from(run.name.as_str())).await.unwrap();
    assert!(error(s.get_run(&run).await).message.contains("missing"));
}

#[tokio::test]
async fn damage_of_the_newest_manifest_falls_back_to_the_one_before() {
    let store = memory();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let older = s.extend(Manifest { wal_seq: 1, ..Default::default() }).await.unwrap();
    let newest = s.extend(Manifest { wal_seq: 2, ..Default::default() }).await.unwrap();
    let name = number_name(MANIFESTS, newest.seq);
    let good = store.get(&Path::from(name.as_str())).await.unwrap().bytes().await.unwrap();
    for i in 0..good.len() {
        let mut bad = good.to_vec();
        bad[i] ^= 0x01;
        let all = [
            (number_name(MANIFESTS, older.seq), s_bytes(&store, &number_name(MANIFESTS, older.seq)).await),
            (name.clone(), Bytes::from(bad)),
        ];
        let copy = memory_with(&all.iter().map(|(n, b)| (n.as_str(), b.clone())).collect::<Vec<_>>()).await;
        let (next, found) = CheckpointStore::open(copy).await.unwrap();
        assert_eq!(found.as_ref(), Some(&older), "byte {i}");
        assert_eq!(next.current().seq, newest.seq + 1);
        assert_eq!(next.writer_epoch(), 3, "the damaged one may have been of writer epoch 2");
    }
}

async fn s_bytes(store: &Arc<dyn ObjectStore>, name: &str) -> Bytes {
    store.get(&Path::from(name)).await.unwrap().bytes().await.unwrap()
}

#[tokio::test]
async fn a_manifest_whose_run_is_missing_or_short_is_not_complete() {
    let store = memory();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let a = s.put_run(&[ints(&[1])]).await.unwrap();
    let older = s.extend(with_runs(std::slice::from_ref(&a))).await.unwrap();
    let b = s.put_run(&[ints(&[2])]).await.unwrap();
    s.extend(with_runs(&[a.clone(), b.clone()])).await.unwrap();
    let good = s_bytes(&store, &b.name).await;
    overwrite(&store, &b.name, good.slice(..40)).await;
    assert_eq!(CheckpointStore::open(Arc::clone(&store)).await.unwrap().1, Some(older.clone()));
    store.delete(&Path::from(b.name.as_str())).await.unwrap();
    let (_, found) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    assert_eq!(found.map(|m| m.states), Some(older.states));
}

#[tokio::test]
async fn nothing_starts_empty_over_data() {
    let store = memory();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    s.put_run(&[ints(&[1])]).await.unwrap();
    overwrite(&store, &number_name(MANIFESTS, 1), "garbage").await;
    let e = error(CheckpointStore::open(Arc::clone(&store)).await);
    assert_eq!(e.code, SqlState::DATA_CORRUPTED);
    assert!(e.detail.unwrap().contains(&number_name(MANIFESTS, 1)));
    store.delete(&Path::from(number_name(MANIFESTS, 1))).await.unwrap();
    let e = error(CheckpointStore::open(Arc::clone(&store)).await);
    assert!(e.message.contains("holds \"runs/1-"), "{e}");
    assert!(names(&store, MANIFESTS).await.is_empty());
}

#[tokio::test]
async fn data_of_a_newer_release_is_refused_and_left_alone() {
    let store = memory();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let m = Manifest { seq: 2, writer_epoch: 1, hash_version: HASH_VERSION + 1, ..s.current() };
    overwrite(&store, &number_name(MANIFESTS, 2), encode("other", &m).unwrap()).await;
    let e = error(CheckpointStore::open(Arc::clone(&store)).await);
    assert_eq!(e.code, SqlState::FEATURE_NOT_SUPPORTED);
    assert_eq!(names(&store, MANIFESTS).await.len(), 2);
}

#[tokio::test]
async fn garbage_collection_keeps_what_kept_manifests_name_and_uploads_in_flight() {
    let store = memory();
    let (first, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let abandoned = first.put_run(&[ints(&[0])]).await.unwrap();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let mut runs = Vec::new();
    for i in 0..4 {
        runs.push(s.put_run(&[ints(&[i])]).await.unwrap());
        // Each manifest names the last two runs.
        s.extend(with_runs(&runs[runs.len().saturating_sub(2)..])).await.unwrap();
    }
    let in_flight = s.put_run(&[ints(&[9])]).await.unwrap();
    // Manifests 1..=6 exist; 5 and 6 stay. Run 0 goes with its manifests, the abandoned one with its writer.
    assert_eq!(s.collect_garbage(2).await.unwrap(), 4 + 2);
    let mut left: Vec<String> = runs[1..].iter().chain([&in_flight]).map(|r| r.name.clone()).collect();
    left.sort();
    assert_eq!(names(&store, RUNS).await, left);
    assert!(!left.contains(&abandoned.name));
    assert_eq!(names(&store, MANIFESTS).await, [number_name(MANIFESTS, 5), number_name(MANIFESTS, 6)]);
    assert_eq!(s.collect_garbage(2).await.unwrap(), 0);
    // A successor knows nothing of that upload, and removes it.
    let (next, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    next.collect_garbage(2).await.unwrap();
    assert!(!names(&store, RUNS).await.contains(&in_flight.name));
}

#[tokio::test]
async fn garbage_collection_does_not_count_a_damaged_manifest_as_kept() {
    let store = memory();
    let (s, _) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    let run = s.put_run(&[ints(&[1])]).await.unwrap();
    s.extend(with_runs(std::slice::from_ref(&run))).await.unwrap();
    overwrite(&store, &number_name(MANIFESTS, 3), "damaged").await;
    let (s, found) = CheckpointStore::open(Arc::clone(&store)).await.unwrap();
    assert_eq!(found.map(|m| m.seq), Some(2));
    s.extend(Manifest::default()).await.unwrap();
    s.collect_garbage(3).await.unwrap();
    assert!(names(&store, RUNS).await.contains(&run.name));
}

#[test]
fn the_manifest_is_the_format_and_does_not_change() {
    let run = RunRef { name: "runs/7-A".into(), bytes: 3, hash: "ff".into(), rows: 1 };
    let m = Manifest {
        seq: 2,
        writer_epoch: 7,
        format_version: 1,
        hash_version: 1,
        previous: "00".into(),
        clock: Timestamp(5),
        catalog: serde_json::json!({"a": [1]}),
        sources: BTreeMap::from([(3, BTreeMap::new())]),
        ..with_runs(&[run])
    };
    let object = encode("W", &m).unwrap();
    let (_, body) = envelope::open("m", Kind::Manifest, &object).unwrap();
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        concat!(
            r#"{"writer":"W","manifest":{"seq":2,"writer_epoch":7,"format_version":1,"hash_version":1,"#,
            r#""previous":"00","epoch":9,"clock":5,"wal_seq":4,"catalog":{"a":[1]},"sources":{"3":{}},"#,
            r#""states":{"job/7":{"cut":9,"shards":1,"slots":[{"shard":0,"node":1,"slot":"out","#,
            r#""runs":[{"name":"runs/7-A","bytes":3,"hash":"ff","rows":1}]}]}}}}"#
        )
    );
    assert_eq!(object_hash(&object), "b49d3a585fb867055243f541e18f7d5a");
    assert_eq!(decode("m", &object).unwrap().manifest, m);
}

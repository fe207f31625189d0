use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int32Array, Int64Array, StringArray};
use arrow::datatypes::Int64Type;

use super::*;

fn bools(v: Vec<bool>) -> BooleanArray {
    v.into()
}

/// Counts keys in the state and in a map, with removals at zero, and restores from what was frozen.
fn count_against_a_map(columns: impl Fn(&[Option<i64>]) -> Vec<ArrayRef>) {
    let mut seed = 7u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed >> 33
    };
    let types: Vec<DataType> = columns(&[]).iter().map(|c| c.data_type().clone()).collect();
    let mut state = KeyedState::new(types.clone(), 1).expect("state");
    let mut model: BTreeMap<Option<i64>, i64> = BTreeMap::new();
    let mut stored: Vec<(Vec<ArrayRef>, Vec<i64>, BooleanArray)> = Vec::new();
    for tick in 0..60 {
        let keys: Vec<Option<i64>> = (0..40).map(|_| Some((next() % 50) as i64).filter(|k| *k != 13)).collect();
        let slots = state.slots_for(&columns(&keys), keys.len()).expect("slots");
        state.touch(&slots);
        for (k, s) in keys.iter().zip(&slots) {
            let w = if next() % 2 == 0 { 1 } else { -1 };
            *model.entry(*k).or_default() += w;
            state.words_mut(*s)[0] += w;
        }
        model.retain(|_, v| *v != 0);
        let dead: Vec<u32> = state.take_touched().into_iter().filter(|s| state.words(*s)[0] == 0).collect();
        state.remove(&dead).expect("removes");
        assert_eq!(state.len(), model.len());
        let all: Vec<Option<i64>> = model.keys().copied().collect();
        let found = state.find(&columns(&all), all.len()).expect("finds");
        let counts: Vec<i64> = found.iter().map(|s| state.words(*s)[0]).collect();
        assert_eq!(counts, model.values().copied().collect::<Vec<_>>());
        if tick % 3 == 0 {
            let f = state.freeze();
            if f.replaces {
                stored.clear();
            }
            for d in f.deleted {
                let n = d[0].len();
                stored.push((d, vec![0; n], bools(vec![true; n])));
            }
            let words = f.slots.iter().map(|s| state.words(*s)[0]).collect();
            stored.push((state.key_columns(&f.slots).expect("keys"), words, bools(vec![false; f.slots.len()])));
            let mut back = KeyedState::new(types.clone(), 1).expect("state");
            for (k, w, d) in &stored {
                let r = back.restore(k, d).expect("restores");
                for (row, slot) in r.rows.iter().zip(&r.slots) {
                    back.words_mut(*slot)[0] = w[*row as usize];
                }
            }
            let found = back.find(&columns(&all), all.len()).expect("finds");
            assert!(found.iter().zip(&counts).all(|(s, c)| back.words(*s)[0] == *c));
            assert_eq!(back.len(), model.len());
            state = back;
        }
    }
}

#[test]
fn inline_keys_count_like_a_map() {
    count_against_a_map(|k| vec![Arc::new(Int64Array::from(k.to_vec()))]);
}

#[test]
fn fixed_width_keys_count_like_a_map() {
    count_against_a_map(|k| {
        let odd: Int32Array = k.iter().map(|v| v.map(|v| (v % 2) as i32)).collect();
        vec![Arc::new(odd), Arc::new(Int64Array::from(k.to_vec()))]
    });
}

#[test]
fn text_keys_count_like_a_map() {
    count_against_a_map(|k| {
        let t: StringArray = k.iter().map(|v| v.map(|v| "x".repeat(v as usize))).collect();
        vec![Arc::new(t)]
    });
}

#[test]
fn without_key_columns_there_is_one_key() {
    let mut s = KeyedState::new(Vec::new(), 2).expect("state");
    assert_eq!(s.slots_for(&[], 3).expect("slots"), vec![0, 0, 0]);
    assert_eq!(s.len(), 1);
}

#[test]
fn a_null_key_is_not_zero() {
    let mut s = KeyedState::new(vec![DataType::Int64], 0).expect("state");
    let k: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(0), None, Some(0)]));
    let slots = s.slots_for(&[k], 4).expect("slots");
    assert_eq!(slots, vec![0, 1, 0, 1]);
    let back = s.key_columns(&[1, 0]).expect("keys");
    assert_eq!(back[0].as_primitive::<Int64Type>().value(0), 0);
    assert!(back[0].is_null(1));
}

#[test]
fn a_full_dump_follows_many_changes() {
    let mut s = KeyedState::new(vec![DataType::Int64], 1).expect("state");
    let k: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let mut replaced = 0;
    for _ in 0..200 {
        let slots = s.slots_for(std::slice::from_ref(&k), 1000).expect("slots");
        s.touch(&slots);
        s.take_touched();
        let f = s.freeze();
        assert_eq!(f.slots.len(), 1000);
        replaced += usize::from(f.replaces);
    }
    assert_eq!(replaced, 3);
}

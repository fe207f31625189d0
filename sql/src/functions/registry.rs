//! Our functions in the place of the default ones.
//!
//! A default function whose name is one of ours, first or further, goes as a whole; what of its further names shall stay
//! is declared by ours. So no name means two functions: a session state keeps functions by name, and makes new states
//! from them in no order, where the one that is found would be chance.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};

use super::{extremes, signed};

/// Puts our functions into a builder that has the default ones.
pub(crate) fn replace_defaults(builder: &mut SessionStateBuilder) {
    let windows = builder.window_functions().get_or_insert_default();
    for f in windows.iter_mut() {
        if let Some(ours) = signed::window(f) {
            *f = ours;
        }
    }
    let mut ours = super::windows();
    let aggregates = builder.aggregate_functions().get_or_insert_default();
    for f in aggregates.iter_mut() {
        if let Some(ours) = signed::aggregate(f).or_else(|| extremes::extreme(f)) {
            *f = ours;
        }
    }
    place(aggregates, super::aggregates());
    ours.extend(aggregates.iter().map(|f| Arc::new(super::excluding::excluding(f))));
    place(builder.window_functions().get_or_insert_default(), ours);
    let scalars = builder.scalar_functions().get_or_insert_default();
    place(scalars, super::scalars());
}

/// A function that has names.
trait Named {
    fn first(&self) -> &str;
    fn further(&self) -> &[String];
}

macro_rules! named {
    ($($t:ty),*) => {
        $(impl Named for $t {
            fn first(&self) -> &str {
                self.name()
            }
            fn further(&self) -> &[String] {
                self.aliases()
            }
        })*
    };
}

named!(ScalarUDF, AggregateUDF, WindowUDF);

fn place<F: Named>(all: &mut Vec<Arc<F>>, ours: Vec<Arc<F>>) {
    let names: HashSet<&str> =
        ours.iter().flat_map(|f| std::iter::once(f.first()).chain(f.further().iter().map(String::as_str))).collect();
    all.retain(|f| !names.contains(f.first()));
    all.extend(ours);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn doubles<F: Named>(all: &[Arc<F>]) -> Vec<String> {
        let mut count: HashMap<&str, usize> = HashMap::new();
        for f in all {
            let names: HashSet<&str> =
                std::iter::once(f.first()).chain(f.further().iter().map(String::as_str)).collect();
            for name in names {
                *count.entry(name).or_default() += 1;
            }
        }
        let mut twice: Vec<String> = count.into_iter().filter(|(_, n)| *n > 1).map(|(n, _)| n.to_owned()).collect();
        twice.sort();
        twice
    }

    #[test]
    fn no_name_means_two_functions() {
        let mut builder = SessionStateBuilder::new().with_default_features();
        replace_defaults(&mut builder);
        let none: Vec<String> = Vec::new();
        assert_eq!(doubles(builder.scalar_functions().get_or_insert_default()), none);
        assert_eq!(doubles(builder.aggregate_functions().get_or_insert_default()), none);
        assert_eq!(doubles(builder.window_functions().get_or_insert_default()), none);
    }

    #[test]
    fn a_state_made_from_another_has_the_same_functions() {
        let first = crate::session::session_state(1);
        let second = SessionStateBuilder::new_from_existing(first.clone()).build();
        for (name, f) in first.scalar_functions() {
            assert!(second.scalar_functions().get(name).is_some_and(|g| f == g), "{name}");
        }
        for (name, f) in first.aggregate_functions() {
            assert!(second.aggregate_functions().get(name).is_some_and(|g| f == g), "{name}");
        }
    }
}

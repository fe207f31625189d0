//! Sessions: `session_window_start(ts, gap) OVER (PARTITION BY ..)` and `session_window_end`.
//!
//! A session is a run of rows of which each comes less than the gap after the one before. It is the window from its
//! first row's time to its last row's time plus the gap; a row at exactly that end is in the next session, so a session is
//! over when the watermark has reached its end. The order and the frame of the window clause mean nothing: a session is
//! made of times alone. Rows without a time are in none.
//!
//! Views have an operator of their own for it, which must agree with [`sessions`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};

use super::{
    SqlError, SqlState, interval_ticks, interval_type, out_of_range, positive, ticks_per_second, time_type, user_error,
    wrong_arguments,
};

/// The first row's time.
pub const START: &str = "session_window_start";
/// The last row's time plus the gap.
pub const END: &str = "session_window_end";

/// Both.
pub fn functions() -> Vec<WindowUDF> {
    let one = |end| WindowUDF::from(Session { end, signature: Signature::user_defined(Volatility::Immutable) });
    vec![one(false), one(true)]
}

/// The gap in ticks of a time column's type.
///
/// # Errors
/// A gap that is none, and types that are no times.
pub fn gap_ticks(gap: &ScalarValue, time: &DataType) -> std::result::Result<i64, SqlError> {
    let ticks = || -> Result<i64> {
        let n = interval_ticks(gap, "gap", ticks_per_second(&time_type(time)?)?)?;
        positive(n, "gap")?;
        Ok(n)
    };
    ticks().map_err(crate::session::from_datafusion)
}

/// The sessions of times in ascending order: for each the first and the last time.
pub fn sessions(times: impl Iterator<Item = i64>, gap: i64) -> Vec<(i64, i64)> {
    let mut out: Vec<(i64, i64)> = Vec::new();
    for t in times {
        match out.last_mut() {
            Some((_, last)) if t.saturating_sub(*last) < gap => *last = t,
            _ => out.push((t, t)),
        }
    }
    out
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Session {
    end: bool,
    signature: Signature,
}

impl WindowUDFImpl for Session {
    fn name(&self) -> &str {
        if self.end { END } else { START }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, gap] = types else {
            return Err(wrong_arguments(&format!("{}(ts, gap)", self.name())));
        };
        Ok(vec![time_type(time)?, interval_type(gap)?])
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let time = args.get_input_field(0).ok_or_else(|| wrong_arguments("(ts, gap)"))?;
        Ok(Arc::new(Field::new(args.name(), time_type(time.data_type())?, true)))
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator { end: self.end }))
    }
}

#[derive(Debug)]
struct Evaluator {
    end: bool,
}

impl PartitionEvaluator for Evaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [times, gaps] = values else {
            return Err(DataFusionError::Internal("a session of other arguments".into()));
        };
        let data_type = times.data_type();
        if rows == 0 {
            return Ok(arrow::array::new_empty_array(data_type));
        }
        let gap = ScalarValue::try_from_array(gaps, 0)?;
        if gaps.len() > 1 && ScalarValue::try_from_array(gaps, gaps.len() - 1)? != gap {
            return Err(user_error(SqlState::FEATURE_NOT_SUPPORTED, "the gap of a session must be a constant"));
        }
        let gap = gap_ticks(&gap, data_type).map_err(|e| DataFusionError::External(Box::new(e)))?;
        let raw = cast(times, &DataType::Int64)?;
        let raw = raw.as_primitive::<Int64Type>();
        let mut order: Vec<u32> = (0..rows as u32).filter(|i| raw.is_valid(*i as usize)).collect();
        order.sort_unstable_by_key(|i| raw.value(*i as usize));
        let mut out: Vec<Option<i64>> = vec![None; rows];
        let found = sessions(order.iter().map(|i| raw.value(*i as usize)), gap);
        let mut found = found.into_iter().peekable();
        for i in order {
            let t = raw.value(i as usize);
            while found.next_if(|(_, last)| *last < t).is_some() {}
            let Some((first, last)) = found.peek().copied() else { break };
            let end = last.checked_add(gap).ok_or_else(out_of_range)?;
            out[i as usize] = Some(if self.end { end } else { first });
        }
        Ok(cast(&(Arc::new(Int64Array::from(out)) as ArrayRef), data_type)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_at_the_end_of_a_session_begins_the_next() {
        assert_eq!(sessions([0, 4, 4, 9, 14, 15].into_iter(), 5), [(0, 4), (9, 9), (14, 15)]);
        assert_eq!(sessions([i64::MIN, i64::MAX].into_iter(), i64::MAX), [(i64::MIN, i64::MIN), (i64::MAX, i64::MAX)]);
        assert!(sessions([].into_iter(), 1).is_empty());
    }

    #[test]
    fn gaps_that_are_none_are_refused() {
        let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
        let gap = |text: &str| gap_ticks(&ScalarValue::Utf8(Some(text.into())), &time);
        assert_eq!(gap("10 seconds").map_err(|e| e.message), Ok(10_000));
        assert!(gap("0 seconds").is_err_and(|e| e.message == "the gap of a time window must be positive"));
        assert!(gap("1 month").is_err_and(|e| e.code == SqlState::FEATURE_NOT_SUPPORTED));
        assert!(gap("1 microsecond").is_err_and(|e| e.message.contains("finer")));
    }
}

//! `var`, `stddev`, `covar`, `corr` and `regr_` in place of DataFusion's: exact and independent of order, see
//! [`Moments`].

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::{correlation, covariance, regr, stddev, variance};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, ReversedUDAF, Signature};

use super::moments::{Moments, Stat};
use crate::error::{SqlError, SqlState};

/// All of them.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let inner = [
        (Stat::VarPop, variance::var_pop_udaf()),
        (Stat::VarSamp, variance::var_samp_udaf()),
        (Stat::StddevPop, stddev::stddev_pop_udaf()),
        (Stat::StddevSamp, stddev::stddev_udaf()),
        (Stat::CovarPop, covariance::covar_pop_udaf()),
        (Stat::CovarSamp, covariance::covar_samp_udaf()),
        (Stat::Corr, correlation::corr_udaf()),
        (Stat::RegrSlope, regr::regr_slope_udaf()),
        (Stat::RegrIntercept, regr::regr_intercept_udaf()),
        (Stat::RegrCount, regr::regr_count_udaf()),
        (Stat::RegrR2, regr::regr_r2_udaf()),
        (Stat::RegrAvgX, regr::regr_avgx_udaf()),
        (Stat::RegrAvgY, regr::regr_avgy_udaf()),
        (Stat::RegrSxx, regr::regr_sxx_udaf()),
        (Stat::RegrSyy, regr::regr_syy_udaf()),
        (Stat::RegrSxy, regr::regr_sxy_udaf()),
    ];
    let one = |(stat, inner): (Stat, Arc<AggregateUDF>)| {
        let mut aliases = inner.aliases().to_vec();
        if stat == Stat::VarSamp {
            aliases.push("variance".to_owned());
        }
        AggregateUDF::from(Statistic { stat, aliases, inner })
    };
    inner.into_iter().map(one).collect()
}

/// Names and documentation come from DataFusion's function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Statistic {
    stat: Stat,
    aliases: Vec<String>,
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Statistic {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.stat == Stat::RegrCount { DataType::Int64 } else { DataType::Float64 })
    }
    fn is_nullable(&self) -> bool {
        self.stat != Stat::RegrCount
    }
    fn default_value(&self, _: &DataType) -> Result<ScalarValue> {
        Ok(if self.stat == Stat::RegrCount { ScalarValue::Int64(Some(0)) } else { ScalarValue::Float64(None) })
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let distinct = args.is_distinct.then(HashMap::new);
        Ok(Box::new(OneStatistic { stat: self.stat, moments: Moments::default(), distinct }))
    }
    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.accumulator(args)
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "moments"), DataType::Binary, true))])
    }
}

#[derive(Debug)]
struct OneStatistic {
    stat: Stat,
    moments: Moments,
    /// `DISTINCT`: how often each pair came; y of single values is 0.
    distinct: Option<HashMap<(u64, u64), i64>>,
}

fn damaged() -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(SqlState::DATA_CORRUPTED, "state of an aggregate is damaged")))
}

fn bits(x: f64) -> u64 {
    if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() }
}

impl OneStatistic {
    fn add(&mut self, y: f64, x: f64, weight: i64) {
        let weight = match &mut self.distinct {
            None => weight,
            Some(seen) => {
                let n = seen.entry((bits(y), bits(x))).or_insert(0);
                let before = i64::from(*n > 0);
                *n += weight;
                let after = i64::from(*n > 0);
                if *n == 0 {
                    seen.remove(&(bits(y), bits(x)));
                }
                after - before
            }
        };
        match self.stat.is_of_pairs() {
            _ if weight == 0 => {}
            true => self.moments.add_pair(y, x, weight),
            false => self.moments.add(x, weight),
        }
    }

    fn change(&mut self, values: &[ArrayRef], weight: i64) -> Result<()> {
        let float = |a: &ArrayRef| -> Result<Float64Array> {
            Ok(match a.data_type() {
                DataType::Float64 => a.as_primitive::<Float64Type>().clone(),
                _ => cast(a, &DataType::Float64)?.as_primitive::<Float64Type>().clone(),
            })
        };
        match values {
            [y, x, ..] if self.stat.is_of_pairs() => {
                let (y, x) = (float(y)?, float(x)?);
                for i in (0..x.len()).filter(|i| x.is_valid(*i) && y.is_valid(*i)) {
                    self.add(y.value(i), x.value(i), weight);
                }
            }
            [x, ..] => float(x)?.iter().flatten().for_each(|x| self.add(0.0, x, weight)),
            [] => return Err(damaged()),
        }
        Ok(())
    }
}

impl Accumulator for OneStatistic {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, 1)
    }
    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, -1)
    }
    fn supports_retract_batch(&self) -> bool {
        true
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(match self.stat {
            Stat::RegrCount => ScalarValue::Int64(Some(self.moments.count())),
            stat => ScalarValue::Float64(self.moments.value(stat)),
        })
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bytes = match &self.distinct {
            None => self.moments.to_bytes(),
            Some(seen) => seen.keys().flat_map(|(y, x)| [y.to_le_bytes(), x.to_le_bytes()].concat()).collect(),
        };
        Ok(vec![ScalarValue::Binary(Some(bytes))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = states.first().and_then(|s| s.as_binary_opt::<i32>()).ok_or_else(damaged)?;
        for bytes in states.iter().flatten() {
            if self.distinct.is_none() {
                self.moments.merge(&Moments::from_bytes(bytes).map_err(|e| DataFusionError::External(Box::new(e)))?);
                continue;
            }
            let (numbers, rest) = bytes.as_chunks::<8>();
            let (pairs, odd) = numbers.as_chunks::<2>();
            if !rest.is_empty() || !odd.is_empty() {
                return Err(damaged());
            }
            for [y, x] in pairs {
                let number = |b: &[u8; 8]| f64::from_bits(u64::from_le_bytes(*b));
                // Present once here and there is present once.
                if self.distinct.as_ref().is_some_and(|d| !d.contains_key(&(bits(number(y)), bits(number(x))))) {
                    self.add(number(y), number(x), 1);
                }
            }
        }
        Ok(())
    }
    fn size(&self) -> usize {
        size_of::<Self>() + self.moments.heap_size() + self.distinct.as_ref().map_or(0, |d| d.capacity() * 24)
    }
}

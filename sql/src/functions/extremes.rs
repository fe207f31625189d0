//! `min` and `max` of floats. DataFusion compares the values of a group with an order in which NaN is neither smaller nor
//! larger than anything, and begins with the largest finite number, so that what it gives of NaN depends on the order of
//! rows and `max` of nothing but `-Infinity` is finite. Value by value it does as Postgres does: NaN is the largest.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature, StatisticsArgs,
};

/// The function that compares floats one by one, if it is `min` or `max`.
pub fn extreme(inner: &Arc<AggregateUDF>) -> Option<Arc<AggregateUDF>> {
    ["min", "max"].contains(&inner.name()).then(|| Arc::new(AggregateUDF::from(Extreme { inner: Arc::clone(inner) })))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }
    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.return_field.data_type().is_floating() && self.inner.groups_accumulator_supported(args)
    }
    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }
    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }
    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }
    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        // Statistics of files leave NaN out.
        if args.return_type.is_floating() { None } else { self.inner.value_from_stats(args) }
    }
    fn default_value(&self, t: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(t)
    }
    fn set_monotonicity(&self, t: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(t)
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

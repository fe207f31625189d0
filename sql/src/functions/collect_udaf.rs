//! The functions of [`Collect`] for DataFusion.
//!
//! With ORDER BY (every plain aggregate has one: see `optimize::aggregate_order`) the values are a bag. Without, in a
//! window, they are in the order of the window.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::physical_expr::expressions::Literal;

use super::collect::{Bag, Collect, Collector, bag_from_bytes, bag_to_bytes, shares};
use super::json::json_field;
use crate::error::{SqlError, SqlState};
use crate::types as sql_types;

/// All of them.
pub(super) fn functions() -> Vec<AggregateUDF> {
    Collect::ALL.iter().map(|(kind, name)| AggregateUDF::from(CollectFunction::new(*kind, name))).collect()
}

/// The one of this kind.
pub(super) fn function(kind: Collect) -> AggregateUDF {
    let name = Collect::ALL.iter().find(|(k, _)| *k == kind).map_or("", |(_, name)| *name);
    AggregateUDF::from(CollectFunction::new(kind, name))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CollectFunction {
    kind: Collect,
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

impl CollectFunction {
    fn new(kind: Collect, name: &'static str) -> Self {
        let aliases = match kind {
            // What others estimate is exact here: a view could not take an estimate back.
            Collect::PercentileCont => ["quantile_cont", "approx_percentile_cont"].map(str::to_owned).to_vec(),
            _ => Vec::new(),
        };
        Self { kind, name, aliases, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn external(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

fn no_such(name: &str, types: &[DataType]) -> DataFusionError {
    let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
    let message = format!("function {name}({}) does not exist", shown.join(", "));
    external(SqlError::new(SqlState("42883"), message))
}

impl AggregateUDFImpl for CollectFunction {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let text =
            |t: &DataType| matches!(t, DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let number = |t: &DataType| t.is_numeric() || t.is_null();
        let share = |p: &DataType| match p {
            DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) if number(f.data_type()) => {
                Some(sql_types::list_of(DataType::Float64))
            }
            p => number(p).then_some(DataType::Float64),
        };
        Ok(match (self.kind, types) {
            (Collect::ArrayAgg | Collect::FirstValue | Collect::LastValue | Collect::Mode, [x]) => vec![x.clone()],
            (Collect::StringAgg, [x, d]) if text(x) && text(d) => vec![DataType::Utf8, DataType::Utf8],
            (Collect::NthValue, [x, n]) if number(n) => vec![x.clone(), DataType::Int64],
            (Collect::Median, [t @ (DataType::Decimal128(..) | DataType::Decimal256(..))]) => vec![t.clone()],
            (Collect::Median, [x]) if number(x) => vec![DataType::Float64],
            (Collect::PercentileCont, [x, p]) if number(x) => {
                vec![DataType::Float64, share(p).ok_or_else(|| no_such(self.name, types))?]
            }
            // The third is how fine an estimate would be.
            (Collect::PercentileCont, [x, p, n]) if number(x) && number(p) && number(n) => {
                vec![DataType::Float64, DataType::Float64, n.clone()]
            }
            (Collect::PercentileDisc, [x, p]) => {
                vec![x.clone(), share(p).ok_or_else(|| no_such(self.name, types))?]
            }
            (json, [x, y]) if json.is_json() && text(x) && text(y) => vec![DataType::Utf8View, DataType::Utf8View],
            _ => return Err(no_such(self.name, types)),
        })
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match (self.kind, types.first()) {
            (_, None) => return Err(no_such(self.name, types)),
            (Collect::ArrayAgg, Some(t)) => sql_types::list_of(t.clone()),
            (kind, Some(t)) if kind.takes_share() && matches!(types.get(1), Some(DataType::List(_))) => {
                sql_types::list_of(t.clone())
            }
            (_, Some(t)) => t.clone(),
        })
    }
    fn return_field(&self, args: &[FieldRef]) -> Result<FieldRef> {
        let name = self.name;
        Ok(match self.kind {
            Collect::JsonArray | Collect::JsonObject => json_field(name, "json"),
            Collect::JsonbArray | Collect::JsonbObject => json_field(name, "jsonb"),
            _ => {
                let types: Vec<DataType> = args.iter().map(|f| f.data_type().clone()).collect();
                Arc::new(Field::new(name, self.return_type(&types)?, true))
            }
        })
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Beneficial
    }
    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }
    fn supports_null_handling_clause(&self) -> bool {
        matches!(self.kind, Collect::ArrayAgg | Collect::FirstValue | Collect::LastValue | Collect::NthValue)
    }
    fn supports_within_group_clause(&self) -> bool {
        matches!(self.kind, Collect::PercentileCont | Collect::PercentileDisc | Collect::Mode)
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if self.kind.takes_share() {
            // A view would find out at the first row.
            match args.exprs.get(1).and_then(|e| e.downcast_ref::<Literal>()) {
                Some(p) => shares(&p.value().to_array()?).map_err(external)?,
                None => {
                    return Err(external(SqlError::unsupported(format!(
                        "{} of a share that is no constant",
                        self.name
                    ))));
                }
            };
        }
        let types: Vec<DataType> = args.expr_fields.iter().map(|f| f.data_type().clone()).collect();
        let mut order = Vec::with_capacity(args.order_bys.len());
        for by in args.order_bys {
            order.push((by.expr.data_type(args.schema)?, by.options));
        }
        let in_sequence = order.is_empty()
            && !args.is_distinct
            && matches!(
                self.kind,
                Collect::ArrayAgg
                    | Collect::StringAgg
                    | Collect::FirstValue
                    | Collect::LastValue
                    | Collect::NthValue
                    | Collect::JsonArray
                    | Collect::JsonbArray
                    | Collect::JsonObject
                    | Collect::JsonbObject
            );
        let output = args.return_field.data_type().clone();
        let collector = Collector::new(self.kind, &types, &order, args.is_distinct, args.ignore_nulls, output);
        Ok(Box::new(Collecting {
            collector: collector.map_err(external)?,
            args: types.len(),
            rows: if in_sequence { Kept::Sequence(VecDeque::new()) } else { Kept::Bag(Bag::new()) },
            bytes: 0,
        }))
    }
    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.accumulator(args)
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "values"), DataType::Binary, true))])
    }
}

#[derive(Debug)]
enum Kept {
    Bag(Bag),
    /// As they came; the oldest leave first.
    Sequence(VecDeque<Option<Box<[u8]>>>),
}

#[derive(Debug)]
struct Collecting {
    collector: Collector,
    args: usize,
    rows: Kept,
    bytes: usize,
}

fn damaged() -> DataFusionError {
    external(SqlError::new(SqlState::DATA_CORRUPTED, "state of an aggregate is damaged"))
}

impl Collecting {
    fn change(&mut self, values: &[ArrayRef], weight: i64) -> Result<()> {
        let (args, order) = values.split_at_checked(self.args).ok_or_else(damaged)?;
        let n = args.first().map_or(0, |a| a.len());
        let counted = self.collector.counted(args);
        let counts = |i: usize| counted.as_ref().is_none_or(|c| c.is_valid(i));
        if let (Kept::Sequence(rows), true) = (&mut self.rows, weight < 0) {
            rows.drain(..n.min(rows.len()));
            return Ok(());
        }
        let encoded = self.collector.encode(args, order).map_err(external)?;
        for i in 0..n {
            let row = encoded.row(i);
            match &mut self.rows {
                Kept::Sequence(rows) => rows.push_back(counts(i).then(|| Box::from(row.data()))),
                Kept::Bag(_) if !counts(i) => {}
                Kept::Bag(bag) => put(bag, row.data(), weight),
            }
            self.bytes += row.data().len();
        }
        Ok(())
    }
}

/// Adds a row `weight` times.
fn put(bag: &mut Bag, row: &[u8], weight: i64) {
    match bag.get_mut(row) {
        Some(n) => {
            *n += weight;
            if *n == 0 {
                bag.remove(row);
            }
        }
        None => {
            bag.insert(Box::from(row), weight);
        }
    }
}

impl Accumulator for Collecting {
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
        let rows = match &self.rows {
            Kept::Bag(bag) => self.collector.of_bag(bag),
            Kept::Sequence(rows) => rows.iter().flatten().map(|r| (r.as_ref(), 1)).collect(),
        };
        let one = self.collector.finish(&[rows]).map_err(external)?;
        ScalarValue::try_from_array(&one, 0)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bytes = match &self.rows {
            Kept::Bag(bag) => bag_to_bytes(bag.iter().map(|(k, n)| (k.as_ref(), *n))),
            Kept::Sequence(rows) => bag_to_bytes(rows.iter().flatten().map(|r| (r.as_ref(), 1))),
        };
        Ok(vec![ScalarValue::Binary(Some(bytes))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = states.first().and_then(|s| s.as_binary_opt::<i32>()).ok_or_else(damaged)?;
        for bytes in states.iter().flatten() {
            for (row, n) in bag_from_bytes(bytes).map_err(external)? {
                match &mut self.rows {
                    Kept::Bag(bag) => put(bag, &row, n),
                    Kept::Sequence(rows) => rows.push_back(Some(row)),
                }
            }
        }
        Ok(())
    }
    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes * 2
    }
}

//! Aggregates over window frames with EXCLUDE.
//!
//! DataFusion's frames are ranges of rows. For each aggregate `f` there is a window function `f_excluding(arguments.., kind,
//! filter, peers)`: it takes the rows of the frame one by one, without those that `kind` excludes or that `filter` leaves
//! out. Rows with equal `peers` are peers. Each row costs as much as its frame is long, as in Postgres.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    AggregateUDF, LimitEffect, PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};

use super::canonical::canonical;
use crate::error::SqlError;

/// The end of the name of the form that excludes.
pub const EXCLUDING: &str = "_excluding";

/// Arguments after those of the aggregate.
const OWN_ARGS: usize = 3;

/// The window function of an aggregate.
pub fn excluding(inner: &Arc<AggregateUDF>) -> WindowUDF {
    let aliases = inner.aliases().iter().map(|a| format!("{a}{EXCLUDING}")).collect();
    WindowUDF::from(Excluding {
        name: format!("{}{EXCLUDING}", inner.name()),
        aliases,
        inner: Arc::clone(inner),
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Excluding {
    name: String,
    aliases: Vec<String>,
    inner: Arc<AggregateUDF>,
    signature: Signature,
}

fn internal(message: &str) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::internal(message)))
}

fn field(t: &DataType) -> FieldRef {
    Arc::new(arrow::datatypes::Field::new("a", t.clone(), true))
}

impl WindowUDFImpl for Excluding {
    fn name(&self) -> &str {
        &self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let Some((args, [_, _, peers])) = types.split_last_chunk::<OWN_ARGS>() else {
            return Err(internal("a frame with EXCLUDE needs three more arguments"));
        };
        let fields: Vec<FieldRef> = args.iter().map(field).collect();
        let coerced = fields_with_udf(&fields, self.inner.as_ref())?;
        let own = [DataType::Utf8, DataType::Boolean, peers.clone()];
        Ok(coerced.iter().map(|f| f.data_type().clone()).chain(own).collect())
    }
    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let fields = args.input_fields();
        let of_inner = fields.get(..fields.len().saturating_sub(OWN_ARGS)).unwrap_or_default();
        let own = self.inner.return_field(of_inner)?;
        Ok(Arc::new(own.as_ref().clone().with_name(args.name()).with_nullable(true)))
    }
    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let n = args.input_exprs().len().saturating_sub(OWN_ARGS);
        let fields = args.input_fields().get(..n).unwrap_or_default();
        // Literals stay: some functions insist on them. Everything else is a column of the partition.
        let exprs = args.input_exprs().iter().take(n).enumerate().map(|(i, e)| -> Arc<dyn PhysicalExpr> {
            if e.downcast_ref::<Literal>().is_some() { Arc::clone(e) } else { Arc::new(Column::new("a", i)) }
        });
        let schema = Schema::new(fields.to_vec());
        let aggregate = AggregateExprBuilder::new(Arc::clone(&self.inner), exprs.collect())
            .schema(Arc::new(schema))
            .alias(&self.name)
            .build()?;
        Ok(Box::new(Evaluator { aggregate, args: n, row: 0, peers: None }))
    }
    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}

/// What is left out of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    CurrentRow,
    Group,
    Ties,
}

/// Rows of one partition, from the first on.
struct Evaluator {
    aggregate: AggregateFunctionExpr,
    args: usize,
    /// The next row.
    row: usize,
    /// For each row the bytes that its peers have as well.
    peers: Option<Rows>,
}

impl Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").field("aggregate", &self.aggregate.name()).field("row", &self.row).finish()
    }
}

impl PartitionEvaluator for Evaluator {
    fn uses_window_frame(&self) -> bool {
        true
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        let row = self.row;
        self.row += 1;
        let Some([kind, filter, peers]) = values.get(self.args..self.args + OWN_ARGS) else {
            return Err(internal("a frame with EXCLUDE lacks arguments"));
        };
        let kind = match cast(&kind.slice(row, 1), &DataType::Utf8)?.as_string::<i32>().value(0) {
            "current row" => Kind::CurrentRow,
            "group" => Kind::Group,
            "ties" => Kind::Ties,
            _ => return Err(internal("a frame excludes something unknown")),
        };
        if self.peers.is_none() {
            let converter = RowConverter::new(vec![SortField::new(peers.data_type().clone())])?;
            self.peers = Some(converter.convert_columns(&[canonical(peers)])?);
        }
        let Some(peers) = &self.peers else { return Err(internal("peers are unknown")) };
        let filter = filter.as_boolean();
        let kept = range.clone().filter(|i| {
            let excluded = match kind {
                Kind::CurrentRow => *i == row,
                Kind::Group => peers.row(*i) == peers.row(row),
                Kind::Ties => *i != row && peers.row(*i) == peers.row(row),
            };
            !excluded && filter.is_valid(*i) && filter.value(*i)
        });
        let kept: UInt32Array = kept.map(|i| i as u32).collect();
        let args = values.iter().take(self.args).map(|v| take(v, &kept, None)).collect::<Result<Vec<_>, _>>()?;
        let mut accumulator = self.aggregate.create_accumulator()?;
        accumulator.update_batch(&args)?;
        accumulator.evaluate()
    }
}

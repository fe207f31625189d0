//! The time of the statement: `now()`, `CURRENT_TIMESTAMP` and their like, and `LOCALTIMESTAMP`.
//!
//! A SELECT has one moment for all of them, which the optimizer puts in their place. A view has none: there conditions
//! with them become a filter that follows the clock, see [`crate::plan::build`], and other uses are refused.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::SqlError;
use crate::types::{timestamp, timestamptz};

/// Names of functions that give the statement's time, and whether it is one with time zone.
const NAMES: [(&str, bool, &[&str]); 2] = [
    ("now", true, &["current_timestamp", "transaction_timestamp", "statement_timestamp", "mz_now"]),
    ("localtimestamp", false, &[]),
];

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let one = |(name, zone, aliases): (&'static str, bool, &[&str])| {
        ScalarUDF::from(StatementTime {
            name,
            zone,
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            signature: Signature::nullary(Volatility::Stable),
        })
    };
    NAMES.into_iter().map(one).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct StatementTime {
    name: &'static str,
    zone: bool,
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for StatementTime {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.zone { timestamptz() } else { timestamp() })
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Some(now) = info.query_execution_start_time() else { return Ok(ExprSimplifyResult::Original(args)) };
        let zone = self.zone.then(|| "UTC".into());
        let now = ScalarValue::TimestampMicrosecond(Some(now.timestamp_micros()), zone);
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(now.cast_to(&self.return_type(&[])?)?, None)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let error = SqlError::unsupported(format!("{}() has no value here", self.name));
        Err(DataFusionError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use crate::session::session_state;

    #[tokio::test]
    async fn all_names_are_one_moment_in_microseconds() -> datafusion::error::Result<()> {
        let mut state = session_state(1);
        let at = chrono::DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap_or_default();
        let props = state.execution_props_mut();
        *props = props.clone().with_query_execution_start_time(at);
        let context = SessionContext::new_with_state(state.clone());
        let sql = "SELECT now() AS a, current_timestamp AS b, mz_now() AS c, localtimestamp AS d, \
                   arrow_typeof(now()) AS e, now()::date AS f";
        let plan = state.create_logical_plan(sql).await?;
        let physical = state.create_physical_plan(&plan).await?;
        let rows = datafusion::physical_plan::collect(physical, context.task_ctx()).await?;
        let cells: Vec<String> = rows[0]
            .columns()
            .iter()
            .map(|c| arrow::util::display::array_value_to_string(c, 0))
            .collect::<Result<_, _>>()?;
        let at = "2026-01-01T00:00:00.123456";
        let zoned = format!("{at}Z");
        assert_eq!(cells[..4], [zoned.as_str(), &zoned, &zoned, at]);
        assert!(cells[4].contains("UTC"), "{}", cells[4]);
        assert_eq!(cells[5], "2026-01-01");
        Ok(())
    }
}

//! A session over tables in memory, for tests of what queries give.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::{from_datafusion_in, plan_query, session_state};
use crate::error::{Result, SqlError};

pub(crate) fn context(partitions: usize, tables: &[(&str, Vec<(&str, ArrayRef)>)]) -> SessionContext {
    let context = SessionContext::new_with_state(session_state(partitions));
    for (name, columns) in tables {
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, a)| (*n, a.clone(), true))).unwrap();
        let rows = batch.num_rows();
        let split = (0..partitions).map(|i| {
            let (from, to) = (rows * i / partitions, rows * (i + 1) / partitions);
            vec![batch.slice(from, to - from)]
        });
        let table = MemTable::try_new(batch.schema(), split.collect()).unwrap();
        context.register_table(*name, Arc::new(table)).unwrap();
    }
    context
}

pub(crate) fn run(context: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
    let ast::Statement::Query(query) = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0) else {
        panic!("not a query: {sql}");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let plan = plan_query(&context.state(), &query, sql).await?;
        let error = |e| from_datafusion_in(e, sql, &[]);
        context.execute_logical_plan(plan).await.map_err(error)?.collect().await.map_err(error)
    })
}

pub(crate) fn failure(context: &SessionContext, sql: &str) -> SqlError {
    run(context, sql).expect_err(sql)
}

/// What an expression of constants is, as text; `ERROR` and the SQLSTATE if it fails.
pub(crate) fn value(expression: &str) -> String {
    let batches = match run(&context(1, &[]), &format!("SELECT {expression}")) {
        Ok(batches) => batches,
        Err(e) => return format!("ERROR {}", e.code.0),
    };
    let text = crate::functions::cast::cast(batches[0].column(0), &arrow::datatypes::DataType::Utf8).unwrap();
    let text = arrow::array::AsArray::as_string::<i32>(&text);
    match arrow::array::Array::is_null(text, 0) {
        true => "NULL".to_owned(),
        false => text.value(0).to_owned(),
    }
}

/// Asserts what expressions are, see [`value`].
pub(crate) fn check_values(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        assert_eq!(value(expression), *expected, "{expression}");
    }
}

//! `pg_catalog` and `information_schema`, for psql's backslash commands and tools.
//!
//! Relations come from the engine at each query; the fixed tables (types, operators, functions) and the rules that
//! turn Postgres-only syntax into what DataFusion plans come from `datafusion-pg-catalog`. Only statements that name
//! the catalogs are rewritten: everything else goes to the engine's parser untouched.

mod functions;
mod indexes;
mod rewrite;
mod tables;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::ScalarUDF;
use datafusion_pg_catalog::pg_catalog::catalog_info::CatalogInfo;
use datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_pg_catalog::pg_catalog::{PG_CATALOG_TABLES, PgCatalogSchemaProvider, PgCatalogStaticTables};
use millstream::api::{RelationInfo, Session};
use millstream::error::Result;
use millstream::statement::Parsed;

/// The relations there are now.
pub type Relations = Arc<dyn Fn() -> Vec<RelationInfo> + Send + Sync>;

/// The one database.
pub const DATABASE: &str = "millstream";

/// Catalogs of one server.
pub struct Catalog {
    pg_catalog: Arc<PgCatalog>,
    information_schema: Arc<InformationSchema>,
    functions: Vec<Arc<ScalarUDF>>,
    rewriter: rewrite::Rewriter,
}

impl Catalog {
    /// Catalogs that show `relations`.
    pub fn new(relations: Relations) -> Self {
        Self {
            functions: functions::all(&relations),
            pg_catalog: Arc::new(PgCatalog { relations: Arc::clone(&relations), fixed: OnceLock::new() }),
            information_schema: Arc::new(InformationSchema { relations }),
            rewriter: rewrite::Rewriter::new(),
        }
    }

    /// The statements of a text; those over the catalogs in a form DataFusion plans.
    pub fn parse(&self, session: &Session, sql: &str) -> Result<Vec<Parsed>> {
        match self.rewriter.parse(sql) {
            Some(statements) => Ok(statements),
            None => session.parse(sql),
        }
    }

    /// Makes the catalogs known to a session.
    pub fn attach(&self, session: &mut Session, pid: i32) {
        session.extra_schemas = self.schemas();
        session.extra_functions = self.functions.clone();
        session.extra_functions.push(functions::backend_pid(pid));
    }

    fn schemas(&self) -> Vec<(String, Arc<dyn SchemaProvider>)> {
        vec![
            ("pg_catalog".to_owned(), Arc::clone(&self.pg_catalog) as Arc<dyn SchemaProvider>),
            ("information_schema".to_owned(), Arc::clone(&self.information_schema) as _),
        ]
    }
}

type Fixed = PgCatalogSchemaProvider<NoRelations, EmptyContextProvider>;

/// The schema `pg_catalog`.
struct PgCatalog {
    relations: Relations,
    /// Decoded at first use: a server nobody asks for catalogs does not pay for them.
    fixed: OnceLock<Option<Arc<Fixed>>>,
}

impl PgCatalog {
    fn fixed(&self) -> Result<Arc<Fixed>, DataFusionError> {
        let made = self.fixed.get_or_init(|| {
            let tables = PgCatalogStaticTables::try_new();
            let provider = tables.and_then(|t| Fixed::try_new(NoRelations, Arc::new(t), EmptyContextProvider));
            provider.inspect_err(|e| tracing::error!(error = %e, "pg_catalog")).ok().map(Arc::new)
        });
        made.clone().ok_or_else(|| DataFusionError::Internal("the fixed tables of pg_catalog are unreadable".into()))
    }
}

impl std::fmt::Debug for PgCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PgCatalog")
    }
}

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        PG_CATALOG_TABLES.iter().map(|t| (*t).to_owned()).collect()
    }
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let name = name.to_ascii_lowercase();
        if let Some(t) = tables::pg_catalog(&name, &(self.relations)())? {
            return Ok(Some(t));
        }
        self.fixed()?.table(&name).await
    }
    fn table_exist(&self, name: &str) -> bool {
        PG_CATALOG_TABLES.contains(&name.to_ascii_lowercase().as_str())
    }
}

/// The schema `information_schema`.
struct InformationSchema {
    relations: Relations,
}

impl std::fmt::Debug for InformationSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InformationSchema")
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        tables::INFORMATION_SCHEMA.iter().map(|t| (*t).to_owned()).collect()
    }
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        tables::information_schema(&name.to_ascii_lowercase(), &(self.relations)())
    }
    fn table_exist(&self, name: &str) -> bool {
        tables::INFORMATION_SCHEMA.contains(&name.to_ascii_lowercase().as_str())
    }
}

/// For the fixed tables of the library, which would otherwise list relations themselves.
#[derive(Debug, Clone)]
struct NoRelations;

#[async_trait]
impl CatalogInfo for NoRelations {
    async fn catalog_names(&self) -> Result<Vec<String>, DataFusionError> {
        Ok(Vec::new())
    }
    async fn schema_names(&self, _: &str) -> Result<Option<Vec<String>>, DataFusionError> {
        Ok(None)
    }
    async fn table_names(&self, _: &str, _: &str) -> Result<Option<Vec<String>>, DataFusionError> {
        Ok(None)
    }
    async fn table_schema(&self, _: &str, _: &str, _: &str) -> Result<Option<SchemaRef>, DataFusionError> {
        Ok(None)
    }
    async fn table_type(&self, _: &str, _: &str, _: &str) -> Result<Option<TableType>, DataFusionError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;

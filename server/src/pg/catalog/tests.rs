use super::*;

use millstream::api::IndexInfo;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as DfStatement;
use millstream::statement::{ObjectKind, Statement};

fn relations() -> Vec<RelationInfo> {
    let relation = |id, name: &str, kind, fields: Vec<Field>| RelationInfo {
        id,
        schema_name: "public".into(),
        name: name.into(),
        kind,
        schema: Arc::new(Schema::new(fields)),
        primary_key: Vec::new(),
        definition: format!("SELECT * FROM {name}"),
        comment: (name == "totals").then(|| "how many".to_owned()),
        column_comments: [("auction".to_owned(), "its number".to_owned())].into(),
        indexes: match name {
            "totals" => vec![IndexInfo { id: 9, name: "totals_n_idx".into(), columns: vec![0] }],
            _ => Vec::new(),
        },
    };
    vec![
        relation(
            1,
            "bid",
            ObjectKind::Stream,
            vec![Field::new("auction", DataType::Int64, false), Field::new("price", DataType::Decimal128(10, 2), true)],
        ),
        relation(2, "account", ObjectKind::Table, vec![Field::new("name", DataType::Utf8, true)]),
        relation(3, "plain", ObjectKind::View, vec![Field::new("x", DataType::Int32, true)]),
        relation(4, "totals", ObjectKind::MaterializedView, vec![Field::new("n", DataType::Int64, true)]),
    ]
}

async fn query(sql: &str) -> String {
    let catalog = Catalog::new(Arc::new(relations));
    let config = SessionConfig::new().with_default_catalog_and_schema(DATABASE, "public");
    let ctx = SessionContext::new_with_config(config);
    let target = ctx.catalog(DATABASE).expect("catalog");
    for (name, schema) in catalog.schemas() {
        target.register_schema(&name, schema).expect("registers");
    }
    for f in &catalog.functions {
        ctx.register_udf(f.as_ref().clone());
    }
    let parsed = catalog.rewriter.parse(sql).unwrap_or_else(|| panic!("not rewritten: {sql}"));
    let Statement::Query(q) = &parsed[0].statement else { panic!("not a query") };
    let ast = datafusion::sql::sqlparser::ast::Statement::Query(q.clone());
    let shown = ast.to_string();
    let plan = ctx
        .state()
        .statement_to_plan(DfStatement::Statement(Box::new(ast)))
        .await
        .unwrap_or_else(|e| panic!("{e}\n{shown}"));
    let batches = ctx
        .execute_logical_plan(plan)
        .await
        .unwrap_or_else(|e| panic!("{e}\n{shown}"))
        .collect()
        .await
        .unwrap_or_else(|e| panic!("{e}\n{shown}"));
    arrow::util::pretty::pretty_format_batches(&batches).expect("pretty").to_string()
}

/// What psql 15 sends for `\d`.
#[tokio::test]
async fn psql_lists_relations_with_their_kinds() {
    let shown = query(
        r#"SELECT n.nspname as "Schema",
  c.relname as "Name",
  CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 't' THEN 'TOAST table' WHEN 'f' THEN 'foreign table' WHEN 'p' THEN 'partitioned table' WHEN 'I' THEN 'partitioned index' END as "Type",
  pg_catalog.pg_get_userbyid(c.relowner) as "Owner"
FROM pg_catalog.pg_class c
     LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
WHERE c.relkind IN ('r','p','v','m','S','f','')
      AND n.nspname <> 'pg_catalog'
      AND n.nspname !~ '^pg_toast'
      AND n.nspname <> 'information_schema'
  AND pg_catalog.pg_table_is_visible(c.oid)
ORDER BY 1,2;"#,
    )
    .await;
    for line in [
        "| public | account | table             | millstream |",
        "| public | bid     | foreign table     | millstream |",
        "| public | plain   | view              | millstream |",
        "| public | totals  | materialized view | millstream |",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
}

/// The three statements psql 15 sends first for `\d bid`.
#[tokio::test]
async fn psql_describes_a_relation() {
    let shown = query(
        r#"SELECT c.oid,
  n.nspname,
  c.relname
FROM pg_catalog.pg_class c
     LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname OPERATOR(pg_catalog.~) '^(bid)$' COLLATE pg_catalog.default
  AND pg_catalog.pg_table_is_visible(c.oid)
ORDER BY 2, 3;"#,
    )
    .await;
    assert!(shown.contains("| 16385 | public  | bid     |"), "{shown}");
    let shown = query(
        r#"SELECT c.relchecks, c.relkind, c.relhasindex, c.relhasrules, c.relhastriggers, c.relrowsecurity, c.relforcerowsecurity, false AS relhasoids, c.relispartition, '', c.reltablespace, CASE WHEN c.reloftype = 0 THEN '' ELSE c.reloftype::pg_catalog.regtype::pg_catalog.text END, c.relpersistence, c.relreplident, am.amname
FROM pg_catalog.pg_class c
 LEFT JOIN pg_catalog.pg_class tc ON (c.reltoastrelid = tc.oid)
LEFT JOIN pg_catalog.pg_am am ON (c.relam = am.oid)
WHERE c.oid = '16385';"#,
    )
    .await;
    assert!(shown.contains("| 0         | f "), "{shown}");
    let shown = query(
        r#"SELECT a.attname,
  pg_catalog.format_type(a.atttypid, a.atttypmod),
  (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true)
   FROM pg_catalog.pg_attrdef d
   WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef),
  a.attnotnull,
  (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t
   WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation) AS attcollation,
  a.attidentity,
  a.attgenerated,
  CASE WHEN attfdwoptions IS NULL THEN '' ELSE '(' || pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.quote_ident(option_name) || ' ' || pg_catalog.quote_literal(option_value)  FROM   pg_catalog.pg_options_to_table(attfdwoptions)), ', ') || ')' END AS attfdwoptions
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = '16385' AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;"#,
    )
    .await;
    assert!(shown.contains("| auction | bigint ") && shown.contains("numeric(10,2)"), "{shown}");
}

/// What psql 15 sends for `\di`, and for the indexes of `\d totals`.
#[tokio::test]
async fn psql_lists_indexes() {
    let shown = query(
        r#"SELECT n.nspname as "Schema",
  c.relname as "Name",
  CASE c.relkind WHEN 'r' THEN 'table' WHEN 'i' THEN 'index' WHEN 'I' THEN 'partitioned index' END as "Type",
  pg_catalog.pg_get_userbyid(c.relowner) as "Owner",
  c2.relname as "Table"
FROM pg_catalog.pg_class c
     LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
     LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
     LEFT JOIN pg_catalog.pg_class c2 ON i.indrelid = c2.oid
WHERE c.relkind IN ('i','I','')
      AND n.nspname <> 'pg_catalog'
      AND n.nspname !~ '^pg_toast'
      AND n.nspname <> 'information_schema'
  AND pg_catalog.pg_table_is_visible(c.oid)
ORDER BY 1,2;"#,
    )
    .await;
    assert!(shown.contains("| public | totals_n_idx | index | millstream | totals |"), "{shown}");
    let shown = query(
        r#"SELECT c2.relname, i.indisprimary, i.indisunique, i.indisclustered, i.indisvalid, pg_catalog.pg_get_indexdef(i.indexrelid, 0, true),
  pg_catalog.pg_get_constraintdef(con.oid, true), contype, condeferrable, condeferred, i.indisreplident, c2.reltablespace
FROM pg_catalog.pg_class c, pg_catalog.pg_class c2, pg_catalog.pg_index i
  LEFT JOIN pg_catalog.pg_constraint con ON (conrelid = i.indrelid AND conindid = i.indexrelid AND contype IN ('p','u','x'))
WHERE c.oid = '16388' AND c.oid = i.indrelid AND i.indexrelid = c2.oid
ORDER BY i.indisprimary DESC, c2.relname;"#,
    )
    .await;
    assert!(shown.contains("CREATE INDEX totals_n_idx ON public.totals USING btree (n)"), "{shown}");
}

#[tokio::test]
async fn descriptions_are_found_by_oid_and_column() {
    let shown = query(
        "SELECT pg_catalog.obj_description(c.oid, 'pg_class') AS o, pg_catalog.col_description(a.attrelid, a.attnum) AS c \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
         WHERE c.relname IN ('totals', 'bid') ORDER BY 1, 2",
    )
    .await;
    assert!(shown.contains("| how many |") && shown.contains("its number"), "{shown}");
}

#[tokio::test]
async fn psql_lists_databases_schemas_and_roles() {
    let databases = query(
        r#"SELECT d.datname as "Name",
       pg_catalog.pg_get_userbyid(d.datdba) as "Owner",
       pg_catalog.pg_encoding_to_char(d.encoding) as "Encoding",
       d.datcollate as "Collate",
       d.datctype as "Ctype",
       d.daticulocale as "ICU Locale",
       CASE d.datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' END AS "Locale Provider",
       pg_catalog.array_to_string(d.datacl, E'\n') AS "Access privileges"
FROM pg_catalog.pg_database d
ORDER BY 1;"#,
    )
    .await;
    assert!(databases.contains("| millstream | millstream | UTF8 "), "{databases}");
    let schemas = query(
        r#"SELECT n.nspname AS "Name",
  pg_catalog.pg_get_userbyid(n.nspowner) AS "Owner"
FROM pg_catalog.pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1;"#,
    )
    .await;
    assert!(schemas.contains("| public | millstream |"), "{schemas}");
    let roles = query(
        r#"SELECT r.rolname, r.rolsuper, r.rolinherit,
  r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
  r.rolconnlimit, r.rolvaliduntil,
  ARRAY(SELECT b.rolname
        FROM pg_catalog.pg_auth_members m
        JOIN pg_catalog.pg_roles b ON (m.roleid = b.oid)
        WHERE m.member = r.oid) as memberof
, r.rolreplication
, r.rolbypassrls
FROM pg_catalog.pg_roles r
WHERE r.rolname !~ '^pg_'
ORDER BY 1;"#,
    )
    .await;
    assert!(roles.contains("| millstream | true"), "{roles}");
}

#[tokio::test]
async fn information_schema_lists_columns() {
    let shown = query(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns \
         WHERE table_name = 'bid' ORDER BY ordinal_position",
    )
    .await;
    assert!(shown.contains("| auction     | bigint    | NO "), "{shown}");
}

#[tokio::test]
async fn names_and_views_are_looked_up_by_oid() {
    let shown = query("SELECT 'totals'::regclass::oid AS o, pg_catalog.pg_get_viewdef(16388, true) AS d").await;
    assert!(shown.contains("SELECT * FROM totals"), "{shown}");
    let shown = query("SELECT c.oid::pg_catalog.regclass AS n FROM pg_catalog.pg_class c ORDER BY 1").await;
    assert!(shown.contains("| bid "), "{shown}");
}

#[test]
fn statements_that_do_not_name_the_catalogs_are_left_alone() {
    let rewriter = rewrite::Rewriter::new();
    assert!(rewriter.parse("SELECT * FROM bid").is_none());
    assert!(rewriter.parse("CREATE TABLE pg_x (a int)").is_none());
    assert!(rewriter.parse("SELECT 1 FROM pg_class; SELECT 2").is_none());
}

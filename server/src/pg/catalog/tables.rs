//! The catalog tables that depend on the relations there are.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float32Array, Int16Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::error::DataFusionError;
use millstream::api::RelationInfo;
use millstream::statement::ObjectKind;

use super::super::types;
use super::DATABASE;
use super::indexes::{IndexRow, indexes};

/// The tables of information_schema.
pub const INFORMATION_SCHEMA: &[&str] = &["tables", "columns", "schemata", "views"];

/// First oid of user objects, as in Postgres.
pub const FIRST_OID: u64 = 16_384;
/// Oid of `pg_class`, for descriptions.
const CLASS_OID: i32 = 1259;
/// Oid of the access method of indexes.
const BTREE_OID: i32 = 403;
/// Oid of the only role.
const OWNER: i32 = 10;

/// The oid of a relation.
pub fn oid(r: &RelationInfo) -> i32 {
    i32::try_from(FIRST_OID + r.id).unwrap_or(i32::MAX)
}

/// `relkind`: streams are foreign tables, their rows live elsewhere.
pub fn relkind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Stream => "f",
        ObjectKind::Table => "r",
        ObjectKind::View => "v",
        ObjectKind::MaterializedView => "m",
    }
}

/// Schemas with their oids.
pub fn namespaces(relations: &[RelationInfo]) -> Vec<(String, i32)> {
    let mut all = vec![
        ("pg_catalog".to_owned(), 11),
        ("public".to_owned(), 2200),
        ("information_schema".to_owned(), 13_000),
        ("ms".to_owned(), 13_001),
    ];
    for r in relations {
        if !all.iter().any(|(n, _)| *n == r.schema_name) {
            let next = 13_002 + all.len() as i32;
            all.push((r.schema_name.clone(), next));
        }
    }
    all
}

/// A table under construction: columns of equal length.
struct Table {
    rows: usize,
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl Table {
    fn new(rows: usize) -> Self {
        Self { rows, fields: Vec::new(), columns: Vec::new() }
    }
    fn push(mut self, field: Field, column: ArrayRef) -> Self {
        self.fields.push(field);
        self.columns.push(column);
        self
    }
    fn text(self, name: &str, v: Vec<String>) -> Self {
        self.push(Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(v)))
    }
    fn maybe_text(self, name: &str, v: Vec<Option<String>>) -> Self {
        self.push(Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(v)))
    }
    fn int(self, name: &str, v: Vec<i32>) -> Self {
        self.push(Field::new(name, DataType::Int32, true), Arc::new(Int32Array::from(v)))
    }
    fn oid(self, name: &str, v: Vec<i32>) -> Self {
        let meta = [("pg.oid_alias".to_owned(), "oid".to_owned())].into();
        let field = Field::new(name, DataType::Int32, true).with_metadata(meta);
        self.push(field, Arc::new(Int32Array::from(v)))
    }
    fn small(self, name: &str, v: Vec<i16>) -> Self {
        self.push(Field::new(name, DataType::Int16, true), Arc::new(Int16Array::from(v)))
    }
    fn bool(self, name: &str, v: Vec<bool>) -> Self {
        self.push(Field::new(name, DataType::Boolean, true), Arc::new(BooleanArray::from(v)))
    }
    fn all_text(self, v: &str, names: &[&str]) -> Self {
        let n = self.rows;
        names.iter().fold(self, |t, name| t.text(name, vec![v.to_owned(); n]))
    }
    fn all_null(self, names: &[&str]) -> Self {
        let n = self.rows;
        names.iter().fold(self, |t, name| t.maybe_text(name, vec![None; n]))
    }
    /// Arrays of text that are NULL: access lists and options.
    fn all_null_lists(self, names: &[&str]) -> Self {
        let n = self.rows;
        let t = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        names.iter().fold(self, |table, name| {
            table.push(Field::new(*name, t.clone(), true), arrow::array::new_null_array(&t, n))
        })
    }
    fn all_int(self, v: i32, names: &[&str]) -> Self {
        let n = self.rows;
        names.iter().fold(self, |t, name| t.int(name, vec![v; n]))
    }
    fn all_oid(self, v: i32, names: &[&str]) -> Self {
        let n = self.rows;
        names.iter().fold(self, |t, name| t.oid(name, vec![v; n]))
    }
    fn all_bool(self, v: bool, names: &[&str]) -> Self {
        let n = self.rows;
        names.iter().fold(self, |t, name| t.bool(name, vec![v; n]))
    }
    fn finish(self) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let schema = Arc::new(Schema::new(self.fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), self.columns)?;
        Ok(Some(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?)))
    }
}

fn map<T>(relations: &[&RelationInfo], f: impl Fn(&RelationInfo) -> T) -> Vec<T> {
    relations.iter().map(|r| f(r)).collect()
}

/// A table of pg_catalog; `None` if it does not depend on relations.
pub fn pg_catalog(name: &str, relations: &[RelationInfo]) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let of_kind = |k: ObjectKind| relations.iter().filter(|r| r.kind == k).collect::<Vec<_>>();
    match name {
        "pg_class" => pg_class(relations),
        "pg_attribute" => pg_attribute(relations),
        "pg_index" => pg_index(relations),
        "pg_indexes" => {
            let all = indexes(relations);
            Table::new(all.len())
                .text("schemaname", all.iter().map(|i| i.relation.schema_name.clone()).collect())
                .text("tablename", all.iter().map(|i| i.relation.name.clone()).collect())
                .text("indexname", all.iter().map(|i| i.name.clone()).collect())
                .all_null(&["tablespace"])
                .text("indexdef", all.iter().map(IndexRow::definition).collect())
                .finish()
        }
        "pg_description" => {
            let mut rows: Vec<(i32, i32, String)> = Vec::new();
            for r in relations {
                rows.extend(r.comment.iter().map(|c| (oid(r), 0, c.clone())));
                let columns = r.schema.fields().iter().enumerate();
                rows.extend(
                    columns.filter_map(|(i, f)| {
                        r.column_comments.get(f.name()).map(|c| (oid(r), i as i32 + 1, c.clone()))
                    }),
                );
            }
            Table::new(rows.len())
                .oid("objoid", rows.iter().map(|r| r.0).collect())
                .all_oid(CLASS_OID, &["classoid"])
                .int("objsubid", rows.iter().map(|r| r.1).collect())
                .text("description", rows.into_iter().map(|r| r.2).collect())
                .finish()
        }
        "pg_namespace" => {
            let (names, oids): (Vec<_>, Vec<_>) = namespaces(relations).into_iter().unzip();
            Table::new(names.len())
                .oid("oid", oids)
                .text("nspname", names)
                .all_oid(OWNER, &["nspowner"])
                .all_null_lists(&["nspacl"])
                .finish()
        }
        "pg_database" => Table::new(1)
            .all_oid(16_383, &["oid"])
            .all_text(DATABASE, &["datname"])
            .all_oid(OWNER, &["datdba"])
            .all_int(6, &["encoding"])
            .all_text("c", &["datlocprovider"])
            .all_bool(false, &["datistemplate"])
            .all_bool(true, &["datallowconn"])
            .all_int(-1, &["datconnlimit"])
            .all_int(0, &["datfrozenxid", "datminmxid"])
            .all_oid(1663, &["dattablespace"])
            .all_text("C", &["datcollate", "datctype"])
            .all_null(&["daticulocale", "datcollversion"])
            .all_null_lists(&["datacl"])
            .finish(),
        "pg_roles" | "pg_authid" | "pg_user" => Table::new(1)
            .all_oid(OWNER, &["oid", "usesysid"])
            .all_text(DATABASE, &["rolname", "usename"])
            .all_bool(
                true,
                &[
                    "rolsuper",
                    "rolinherit",
                    "rolcreaterole",
                    "rolcreatedb",
                    "rolcanlogin",
                    "rolreplication",
                    "usesuper",
                ],
            )
            .all_bool(true, &["rolbypassrls"])
            .all_int(-1, &["rolconnlimit"])
            .all_null(&["rolpassword", "rolvaliduntil"])
            .all_null_lists(&["rolconfig"])
            .finish(),
        "pg_tables" => {
            let t = of_kind(ObjectKind::Table);
            Table::new(t.len())
                .text("schemaname", map(&t, |r| r.schema_name.clone()))
                .text("tablename", map(&t, |r| r.name.clone()))
                .all_text(DATABASE, &["tableowner"])
                .all_null(&["tablespace"])
                .all_bool(false, &["hasindexes", "hasrules", "hastriggers", "rowsecurity"])
                .finish()
        }
        "pg_views" => {
            let v = of_kind(ObjectKind::View);
            Table::new(v.len())
                .text("schemaname", map(&v, |r| r.schema_name.clone()))
                .text("viewname", map(&v, |r| r.name.clone()))
                .all_text(DATABASE, &["viewowner"])
                .text("definition", map(&v, |r| r.definition.clone()))
                .finish()
        }
        "pg_matviews" => {
            let v = of_kind(ObjectKind::MaterializedView);
            Table::new(v.len())
                .text("schemaname", map(&v, |r| r.schema_name.clone()))
                .text("matviewname", map(&v, |r| r.name.clone()))
                .all_text(DATABASE, &["matviewowner"])
                .all_null(&["tablespace"])
                .all_bool(false, &["hasindexes"])
                .all_bool(true, &["ispopulated"])
                .text("definition", map(&v, |r| r.definition.clone()))
                .finish()
        }
        _ => Ok(None),
    }
}

fn pg_class(relations: &[RelationInfo]) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let spaces = namespaces(relations);
    let space = |r: &RelationInfo| spaces.iter().find(|(n, _)| *n == r.schema_name).map_or(0, |(_, o)| *o);
    let indexes = indexes(relations);
    let all: Vec<&RelationInfo> = relations.iter().collect();
    let n = all.len() + indexes.len();
    // Relations, then their indexes.
    let both = |a: Vec<i32>, b: &dyn Fn(&IndexRow<'_>) -> i32| -> Vec<i32> {
        a.into_iter().chain(indexes.iter().map(b)).collect()
    };
    let texts = |a: Vec<String>, b: &dyn Fn(&IndexRow<'_>) -> String| -> Vec<String> {
        a.into_iter().chain(indexes.iter().map(b)).collect()
    };
    let indexed = |r: &&RelationInfo| !r.primary_key.is_empty() || !r.indexes.is_empty();
    Table::new(n)
        .oid("oid", both(map(&all, oid), &|i| i.oid))
        .text("relname", texts(map(&all, |r| r.name.clone()), &|i| i.name.clone()))
        .oid("relnamespace", both(map(&all, space), &|i| space(i.relation)))
        .all_oid(0, &["reltype", "reloftype"])
        .all_oid(OWNER, &["relowner"])
        .oid("relam", both(vec![0; all.len()], &|_| BTREE_OID))
        .all_oid(0, &["relfilenode", "reltablespace"])
        .all_int(0, &["relpages", "relallvisible"])
        .push(Field::new("reltuples", DataType::Float32, true), Arc::new(Float32Array::from(vec![-1.0; n])))
        .all_oid(0, &["reltoastrelid"])
        .bool("relhasindex", all.iter().map(indexed).chain(indexes.iter().map(|_| false)).collect())
        .all_bool(false, &["relisshared"])
        .all_text("p", &["relpersistence"])
        .text("relkind", texts(map(&all, |r| relkind(r.kind).to_owned()), &|_| "i".to_owned()))
        .small(
            "relnatts",
            all.iter()
                .map(|r| r.schema.fields().len() as i16)
                .chain(indexes.iter().map(|i| i.columns.len() as i16))
                .collect(),
        )
        .small("relchecks", vec![0; n])
        .all_bool(false, &["relhasrules", "relhastriggers", "relhassubclass", "relrowsecurity", "relforcerowsecurity"])
        .all_bool(true, &["relispopulated"])
        .all_text("n", &["relreplident"])
        .all_bool(false, &["relispartition"])
        .all_oid(0, &["relrewrite"])
        .all_int(0, &["relfrozenxid", "relminmxid"])
        .all_null(&["relpartbound"])
        .all_null_lists(&["relacl", "reloptions"])
        .finish()
}

fn pg_attribute(relations: &[RelationInfo]) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let indexes = indexes(relations);
    let of_relations =
        relations.iter().flat_map(|r| r.schema.fields().iter().enumerate().map(move |(i, f)| (oid(r), i, f.as_ref())));
    let of_indexes = indexes.iter().flat_map(|x| x.fields().enumerate().map(move |(i, f)| (x.oid, i, f)));
    let rows: Vec<(i32, usize, &Field)> = of_relations.chain(of_indexes).collect();
    let pg = |f: &Field| types::of_field(f);
    Table::new(rows.len())
        .oid("attrelid", rows.iter().map(|(r, ..)| *r).collect())
        .text("attname", rows.iter().map(|(_, _, f)| f.name().clone()).collect())
        .oid("atttypid", rows.iter().map(|(_, _, f)| pg(f).oid as i32).collect())
        .all_int(-1, &["attstattarget"])
        .small("attlen", rows.iter().map(|(_, _, f)| pg(f).len).collect())
        .small("attnum", rows.iter().map(|(_, i, _)| *i as i16 + 1).collect())
        .int("attndims", rows.iter().map(|(_, _, f)| i32::from(types::element_of(pg(f).oid).is_some())).collect())
        .all_int(-1, &["attcacheoff"])
        .int("atttypmod", rows.iter().map(|(_, _, f)| pg(f).modifier).collect())
        .bool("attbyval", rows.iter().map(|(_, _, f)| pg(f).len > 0).collect())
        .all_text("i", &["attalign"])
        .all_text("p", &["attstorage"])
        .all_text("", &["attcompression"])
        .bool("attnotnull", rows.iter().map(|(_, _, f)| !f.is_nullable()).collect())
        .all_bool(false, &["atthasdef", "atthasmissing"])
        .all_text("", &["attidentity", "attgenerated"])
        .all_bool(false, &["attisdropped"])
        .all_bool(true, &["attislocal"])
        .all_int(0, &["attinhcount"])
        .all_oid(0, &["attcollation"])
        .all_null(&["attmissingval"])
        .all_null_lists(&["attacl", "attoptions", "attfdwoptions"])
        .finish()
}

fn pg_index(relations: &[RelationInfo]) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let all = indexes(relations);
    // An int2vector prints as its numbers with spaces between.
    let key = |i: &IndexRow<'_>| i.columns.iter().map(|c| (c + 1).to_string()).collect::<Vec<_>>().join(" ");
    let zeros = |i: &IndexRow<'_>| i.columns.iter().map(|_| "0").collect::<Vec<_>>().join(" ");
    let natts = |i: &IndexRow<'_>| i.columns.len() as i16;
    Table::new(all.len())
        .oid("indexrelid", all.iter().map(|i| i.oid).collect())
        .oid("indrelid", all.iter().map(|i| oid(i.relation)).collect())
        .small("indnatts", all.iter().map(natts).collect())
        .small("indnkeyatts", all.iter().map(natts).collect())
        .bool("indisunique", all.iter().map(|i| i.primary).collect())
        .all_bool(false, &["indnullsnotdistinct"])
        .bool("indisprimary", all.iter().map(|i| i.primary).collect())
        .all_bool(false, &["indisexclusion"])
        .all_bool(true, &["indimmediate"])
        .all_bool(false, &["indisclustered"])
        .all_bool(true, &["indisvalid"])
        .all_bool(false, &["indcheckxmin"])
        .all_bool(true, &["indisready", "indislive"])
        .all_bool(false, &["indisreplident"])
        .text("indkey", all.iter().map(key).collect())
        .text("indcollation", all.iter().map(zeros).collect())
        .text("indclass", all.iter().map(zeros).collect())
        .text("indoption", all.iter().map(zeros).collect())
        .all_null(&["indexprs", "indpred"])
        .finish()
}

/// A table of information_schema.
pub fn information_schema(
    name: &str,
    relations: &[RelationInfo],
) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let all: Vec<&RelationInfo> = relations.iter().collect();
    match name {
        "tables" => Table::new(all.len())
            .all_text(DATABASE, &["table_catalog"])
            .text("table_schema", map(&all, |r| r.schema_name.clone()))
            .text("table_name", map(&all, |r| r.name.clone()))
            .text(
                "table_type",
                map(&all, |r| {
                    match r.kind {
                        ObjectKind::Table => "BASE TABLE",
                        ObjectKind::Stream => "FOREIGN",
                        ObjectKind::View => "VIEW",
                        ObjectKind::MaterializedView => "MATERIALIZED VIEW",
                    }
                    .to_owned()
                }),
            )
            .text(
                "is_insertable_into",
                map(&all, |r| if r.kind == ObjectKind::Table { "YES" } else { "NO" }.to_owned()),
            )
            .finish(),
        "schemata" => {
            let names: Vec<String> = namespaces(relations).into_iter().map(|(n, _)| n).collect();
            Table::new(names.len())
                .all_text(DATABASE, &["catalog_name"])
                .text("schema_name", names)
                .all_text(DATABASE, &["schema_owner"])
                .finish()
        }
        "views" => {
            let views: Vec<&RelationInfo> = relations
                .iter()
                .filter(|r| matches!(r.kind, ObjectKind::View | ObjectKind::MaterializedView))
                .collect();
            Table::new(views.len())
                .all_text(DATABASE, &["table_catalog"])
                .text("table_schema", map(&views, |r| r.schema_name.clone()))
                .text("table_name", map(&views, |r| r.name.clone()))
                .text("view_definition", map(&views, |r| r.definition.clone()))
                .all_text("NO", &["is_updatable", "is_insertable_into"])
                .finish()
        }
        "columns" => {
            let rows: Vec<(&RelationInfo, usize, &Field)> = relations
                .iter()
                .flat_map(|r| r.schema.fields().iter().enumerate().map(move |(i, f)| (r, i, f.as_ref())))
                .collect();
            let yes_no = |b: bool| if b { "YES" } else { "NO" }.to_owned();
            Table::new(rows.len())
                .all_text(DATABASE, &["table_catalog"])
                .text("table_schema", rows.iter().map(|(r, ..)| r.schema_name.clone()).collect())
                .text("table_name", rows.iter().map(|(r, ..)| r.name.clone()).collect())
                .text("column_name", rows.iter().map(|(_, _, f)| f.name().clone()).collect())
                .int("ordinal_position", rows.iter().map(|(_, i, _)| *i as i32 + 1).collect())
                .all_null(&["column_default"])
                .text("is_nullable", rows.iter().map(|(_, _, f)| yes_no(f.is_nullable())).collect())
                .text(
                    "data_type",
                    rows.iter()
                        .map(|(_, _, f)| {
                            let t = types::of_field(f);
                            let array = types::element_of(t.oid).is_some();
                            if array { "ARRAY".to_owned() } else { types::format_type(t.oid, -1) }
                        })
                        .collect(),
                )
                .text("udt_name", rows.iter().map(|(_, _, f)| types::format_type(types::of_field(f).oid, -1)).collect())
                .finish()
        }
        _ => Ok(None),
    }
}

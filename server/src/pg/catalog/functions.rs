//! Functions of pg_catalog. Most answer a constant: there is one role, one database, and nothing is hidden.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion_pg_catalog::pg_catalog as lib;
use millstream::api::RelationInfo;

use super::super::{conn, types};
use super::indexes::indexes;
use super::{DATABASE, Relations, tables};

/// Every function, except those of one session.
pub fn all(relations: &Relations) -> Vec<Arc<ScalarUDF>> {
    let text = |s: &str| ScalarValue::Utf8(Some(s.to_owned()));
    let null = ScalarValue::Utf8(None);
    let yes = ScalarValue::Boolean(Some(true));
    let no = ScalarValue::Boolean(Some(false));
    let zero = ScalarValue::Int64(Some(0));
    let mut all: Vec<ScalarUDF> = Vec::new();
    let mut constant = |names: &[&str], value: ScalarValue| {
        all.extend(names.iter().map(|n| ScalarUDF::from(Function::new(n, Body::Constant(value.clone())))));
    };
    constant(&["version"], text(&format!("PostgreSQL {}", conn::SERVER_VERSION)));
    constant(&["current_database", "current_catalog"], text(DATABASE));
    constant(&["current_schema"], text("public"));
    constant(&["session_user", "current_user", "current_role", "user", "pg_get_userbyid"], text(DATABASE));
    constant(&["pg_encoding_to_char", "pg_client_encoding", "getdatabaseencoding"], text("UTF8"));
    constant(
        &[
            "shobj_description",
            "pg_get_expr",
            "pg_get_ruledef",
            "pg_get_triggerdef",
            "pg_get_constraintdef",
            "pg_get_partkeydef",
            "pg_get_statisticsobjdef_columns",
            "pg_get_serial_sequence",
            "pg_tablespace_location",
            "pg_get_function_arguments",
            "pg_get_function_result",
            "pg_get_function_identity_arguments",
            "pg_get_function_sqlbody",
            "inet_server_addr",
            "inet_client_addr",
        ],
        null,
    );
    constant(
        &[
            "pg_table_is_visible",
            "pg_type_is_visible",
            "pg_function_is_visible",
            "pg_operator_is_visible",
            "pg_collation_is_visible",
            "has_table_privilege",
            "has_schema_privilege",
            "has_database_privilege",
            "has_column_privilege",
            "has_any_column_privilege",
            "has_function_privilege",
            "pg_has_role",
        ],
        yes,
    );
    constant(&["pg_is_in_recovery", "pg_is_other_temp_schema", "pg_relation_is_publishable"], no);
    constant(
        &["pg_relation_size", "pg_total_relation_size", "pg_table_size", "pg_indexes_size", "pg_database_size"],
        zero.clone(),
    );
    constant(&["pg_my_temp_schema", "pg_stat_get_numscans"], zero);
    let lookups: [(&str, Shown); 3] = [
        ("pg_get_viewdef", |r| Some(r.definition.clone())),
        ("ms_relation_name", |r| Some(qualified(r))),
        ("obj_description", |r| r.comment.clone()),
    ];
    all.push(ScalarUDF::from(Function::new("col_description", Body::ColumnComment(Arc::clone(relations)))));
    all.push(ScalarUDF::from(Function::new("pg_get_indexdef", Body::IndexDefinition(Arc::clone(relations)))));
    for (name, value) in lookups {
        all.push(ScalarUDF::from(Function::new(name, Body::Lookup(Arc::clone(relations), value))));
    }
    all.push(ScalarUDF::from(Function::new("format_type", Body::FormatType)));
    all.push(lib::create_current_schemas_udf());
    all.push(lib::quote_ident_udf::create_parse_ident_udf());
    all.into_iter().map(Arc::new).collect()
}

/// `pg_backend_pid()` of one session.
pub fn backend_pid(pid: i32) -> Arc<ScalarUDF> {
    let body = Body::Constant(ScalarValue::Int32(Some(pid)));
    Arc::new(ScalarUDF::from(Function::new("pg_backend_pid", body)))
}

/// A relation's name as `regclass` prints it.
fn qualified(r: &RelationInfo) -> String {
    if r.schema_name == "public" { r.name.clone() } else { format!("{}.{}", r.schema_name, r.name) }
}

/// Something about a relation as text.
type Shown = fn(&RelationInfo) -> Option<String>;

enum Body {
    /// The same for all arguments.
    Constant(ScalarValue),
    /// Something about the relation whose oid is the first argument.
    Lookup(Relations, Shown),
    /// `col_description(oid, number)`.
    ColumnComment(Relations),
    /// `pg_get_indexdef(oid [, column, pretty])`.
    IndexDefinition(Relations),
    /// `format_type(oid, typmod)`.
    FormatType,
}

struct Function {
    name: String,
    body: Body,
    signature: Signature,
}

impl Function {
    fn new(name: &str, body: Body) -> Self {
        let signature = Signature::one_of(
            vec![
                datafusion::logical_expr::TypeSignature::Nullary,
                datafusion::logical_expr::TypeSignature::VariadicAny,
            ],
            Volatility::Stable,
        );
        Self { name: name.to_owned(), body, signature }
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}
// A function is its name: there is one of each in a session.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Function {}
impl std::hash::Hash for Function {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

fn integers(v: &ColumnarValue, rows: usize) -> Result<Int64Array> {
    let array = cast(&v.to_array(rows)?, &DataType::Int64)?;
    Ok(array.as_primitive::<Int64Type>().clone())
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        &self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match &self.body {
            Body::Constant(v) => v.data_type(),
            Body::Lookup(..) | Body::ColumnComment(_) | Body::IndexDefinition(_) | Body::FormatType => DataType::Utf8,
        })
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let first = |args: &[ColumnarValue]| match args.first() {
            Some(v) => integers(v, rows),
            None => Err(DataFusionError::Plan(format!("{} needs an oid", self.name))),
        };
        let texts: StringArray = match &self.body {
            Body::Constant(v) => return Ok(ColumnarValue::Scalar(v.clone())),
            Body::Lookup(relations, value) => {
                let relations = relations();
                let of = |oid: i64| {
                    let r = relations.iter().find(|r| i64::from(tables::oid(r)) == oid);
                    match (r, self.name.as_str()) {
                        (Some(r), _) => value(r),
                        // What is not a relation is an index, or prints as its number.
                        (None, "ms_relation_name") => {
                            let index = indexes(&relations).into_iter().find(|i| i64::from(i.oid) == oid);
                            Some(index.map_or_else(|| if oid == 0 { "-".into() } else { oid.to_string() }, |i| i.name))
                        }
                        (None, _) => None,
                    }
                };
                first(&args.args)?.iter().map(|o| o.and_then(of)).collect()
            }
            Body::ColumnComment(relations) => {
                let (relations, oids) = (relations(), first(&args.args)?);
                let Some(numbers) = args.args.get(1) else {
                    return Err(DataFusionError::Plan(
                        "col_description needs an oid and the number of a column".into(),
                    ));
                };
                let numbers = integers(numbers, rows)?;
                let of = |i: usize| {
                    let r =
                        relations.iter().find(|r| oids.is_valid(i) && i64::from(tables::oid(r)) == oids.value(i))?;
                    let at = usize::try_from(numbers.value(i)).ok().filter(|_| numbers.is_valid(i))?.checked_sub(1)?;
                    r.column_comments.get(r.schema.fields().get(at)?.name()).cloned()
                };
                (0..oids.len()).map(of).collect()
            }
            Body::IndexDefinition(relations) => {
                let (relations, oids) = (relations(), first(&args.args)?);
                let all = indexes(&relations);
                let columns = args.args.get(1).map(|c| integers(c, rows)).transpose()?;
                let of = |i: usize| {
                    let index = all.iter().find(|x| oids.is_valid(i) && i64::from(x.oid) == oids.value(i))?;
                    // With the number of a column, that column; 0 is the whole.
                    match columns.as_ref().map_or(0, |c| c.value(i)) {
                        0 => Some(index.definition()),
                        n => index.fields().nth(usize::try_from(n).ok()?.checked_sub(1)?).map(|f| f.name().clone()),
                    }
                };
                (0..oids.len()).map(of).collect()
            }
            Body::FormatType => {
                let oids = first(&args.args)?;
                let modifiers = args.args.get(1).map(|m| integers(m, rows)).transpose()?;
                (0..oids.len())
                    .map(|i| {
                        let m = modifiers.as_ref().filter(|m| m.is_valid(i)).map_or(-1, |m| m.value(i));
                        let oid = u32::try_from(oids.value(i)).ok().filter(|_| oids.is_valid(i))?;
                        Some(types::format_type(oid, i32::try_from(m).unwrap_or(-1)))
                    })
                    .collect()
            }
        };
        Ok(ColumnarValue::Array(Arc::new(texts) as ArrayRef))
    }
}

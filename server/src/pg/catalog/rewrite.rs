//! Statements over the catalogs, as clients write them for Postgres, to statements DataFusion can plan.
//!
//! General syntax (`OPERATOR(pg_catalog.~)`, `COLLATE`, `'x'::regclass`, `= ANY(..)`) is turned by the rules of
//! `datafusion-pg-catalog`; [`Casts`] adds what they leave. [`EXACT`] lists the few statements of psql whose shape is
//! answered as a whole, each with the reason.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, Statement as Ast, VisitMut as _, VisitorMut,
};
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use millstream::statement::{Parsed, Statement};

/// Statements recognised by a part of their text, and what is run instead.
const EXACT: &[(&str, &str)] = &[
    // `\d stream`: psql asks for the server and options of a foreign table and gives up on anything but one row. The
    // options are an array of our own statement; they are shown by SHOW CREATE STREAM.
    ("pg_catalog.pg_options_to_table(ftoptions)", "SELECT 'millstream' AS srvname, '' AS ftoptions"),
    // `\d`: policies, statistics objects, publications, partitions and inheritance do not exist here, and the
    // statements correlate subqueries in the select list, which DataFusion does not plan.
    ("FROM pg_catalog.pg_policy pol", "SELECT NULL AS polname WHERE false"),
    ("FROM pg_catalog.pg_statistic_ext", "SELECT NULL AS oid WHERE false"),
    ("FROM pg_catalog.pg_publication p", "SELECT NULL AS pubname WHERE false"),
    ("FROM pg_catalog.pg_inherits i", "SELECT NULL AS oid WHERE false"),
    // `\df`: user-defined functions do not exist yet; the built-in ones are in the documentation.
    (
        "FROM pg_catalog.pg_proc p",
        "SELECT NULL AS \"Schema\", NULL AS \"Name\", NULL AS \"Result data type\", NULL AS \"Argument data types\", \
         NULL AS \"Type\" WHERE false",
    ),
];

/// Turns statements over the catalogs into ones that can be planned.
pub struct Rewriter {
    compatibility: PostgresCompatibilityParser,
}

impl Rewriter {
    /// The rules.
    pub fn new() -> Self {
        Self { compatibility: PostgresCompatibilityParser::new() }
    }

    /// The statements of a text over the catalogs; `None` if it is for the engine's own parser.
    pub fn parse(&self, sql: &str) -> Option<Vec<Parsed>> {
        let lower = sql.to_ascii_lowercase();
        if !["pg_catalog.", "information_schema", "pg_", "::reg"].iter().any(|w| lower.contains(w)) {
            return None;
        }
        if sql.len() > 64 * 1024 {
            return None;
        }
        let text = sql.trim().trim_end_matches(';').trim_end();
        let replaced = EXACT.iter().find(|(part, _)| text.contains(part)).map_or(text, |(_, instead)| instead);
        let statements = self.compatibility.parse(replaced).ok()?;
        let mut out = Vec::with_capacity(statements.len());
        for s in statements {
            let Ast::Query(mut query) = s else { return None };
            // The visitor never breaks.
            let _ = query.visit(&mut Casts);
            out.push(Parsed { text: text.to_owned(), offset: 0, statement: Statement::Query(query) });
        }
        // With several statements the text of each is not known; the engine's parser splits them.
        (out.len() == 1).then_some(out)
    }
}

/// Casts to types only Postgres has, and arrays of subqueries.
struct Casts;

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: arguments.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn null() -> Expr {
    Expr::Value(datafusion::sql::sqlparser::ast::Value::Null.into())
}

/// The Postgres-only name of a type, without `pg_catalog.`.
fn custom(t: &DataType) -> Option<String> {
    match t {
        DataType::Custom(name, _) => name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.to_ascii_lowercase()),
        DataType::Regclass => Some("regclass".to_owned()),
        _ => None,
    }
}

impl VisitorMut for Casts {
    type Break = ();

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(f) = e
            && f.name.to_string().eq_ignore_ascii_case("array")
            && matches!(f.args, FunctionArguments::Subquery(_))
        {
            // `ARRAY(SELECT ..)` over options, memberships and access lists: there are none.
            *e = call("make_array", Vec::new());
            return ControlFlow::Continue(());
        }
        let Expr::Cast { expr, data_type, kind, .. } = e else { return ControlFlow::Continue(()) };
        let inner = || expr.as_ref().clone();
        if let DataType::Array(_) = data_type {
            // `ev_enabled::int2[]` and the like, only over columns that are NULL here.
            *e = inner();
            return ControlFlow::Continue(());
        }
        match custom(data_type).as_deref() {
            Some("regclass") => *e = call("ms_relation_name", vec![inner()]),
            Some("regtype") => *e = call("format_type", vec![inner(), null()]),
            Some("text" | "char" | "name" | "regproc" | "regprocedure" | "regnamespace" | "regrole") => {
                *kind = CastKind::Cast;
                *data_type = DataType::Text;
            }
            Some("oid" | "xid" | "cid" | "int4") => {
                *kind = CastKind::Cast;
                *data_type = DataType::Int(None);
            }
            Some("int8") => *data_type = DataType::BigInt(None),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

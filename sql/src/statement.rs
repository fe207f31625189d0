//! The statements Millstream executes, as plain types. Queries and DML stay sqlparser's AST: DataFusion plans them.

use arrow::datatypes::SchemaRef;
use indexmap::IndexMap;
use sqlparser::ast;

/// A statement with the text it came from.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The statement's own text, trimmed, without the final semicolon.
    pub text: String,
    /// 0-based character offset of `text` in the string that was parsed: add it to positions in errors.
    pub offset: usize,
    /// What it says.
    pub statement: Statement,
}

/// `WITH (k = v)` and `FORMAT .. ENCODE ..` in one map: keys lower case, aliases of other systems already mapped to
/// our names, values as text.
pub type Options = IndexMap<String, String>;

/// A name, possibly qualified: `public.v`, `ms.errors`. Parts are already folded to lower case unless quoted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// `None` means the search path.
    pub schema: Option<String>,
    /// The object itself.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(s) => write!(f, "{s}.{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// A column of CREATE STREAM or CREATE TABLE.
#[derive(Debug, Clone)]
pub struct ColumnDef {
    /// Folded name.
    pub name: String,
    /// The Arrow type of the SQL type.
    pub data_type: arrow::datatypes::DataType,
    /// False for NOT NULL and primary key columns.
    pub nullable: bool,
    /// `DEFAULT e`.
    pub default: Option<ast::Expr>,
    /// `AS e`: computed from the other columns.
    pub generated: Option<ast::Expr>,
    /// `METADATA [FROM 'key']` or `INCLUDE key AS name`: key, partition, offset, timestamp, headers, file.
    pub metadata: Option<String>,
}

/// `WATERMARK FOR c AS e`.
#[derive(Debug, Clone)]
pub struct WatermarkDef {
    /// The event-time column.
    pub column: String,
    /// The watermark expression; the bare column means no delay.
    pub expr: ast::Expr,
}

/// `CREATE STREAM | SOURCE`.
#[derive(Debug, Clone)]
pub struct CreateStream {
    /// Name.
    pub name: ObjectName,
    /// IF NOT EXISTS.
    pub if_not_exists: bool,
    /// OR REPLACE.
    pub or_replace: bool,
    /// Empty, or nothing but metadata (`INCLUDE ..`), means: infer the rest from the data (`(*)` or no list).
    pub columns: Vec<ColumnDef>,
    /// PRIMARY KEY (..).
    pub primary_key: Vec<String>,
    /// WATERMARK FOR.
    pub watermark: Option<WatermarkDef>,
    /// WITH (..).
    pub options: Options,
}

/// `CREATE TABLE`.
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// Name.
    pub name: ObjectName,
    /// IF NOT EXISTS.
    pub if_not_exists: bool,
    /// Columns.
    pub columns: Vec<ColumnDef>,
    /// PRIMARY KEY (..).
    pub primary_key: Vec<String>,
    /// WITH (..).
    pub options: Options,
}

/// `EMIT ..` at the end of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmitClause {
    /// When changes go out.
    pub when: Emit,
    /// `ALLOW LATENESS INTERVAL '..'`: rows that are late by no more than this still change results. Text of the interval.
    pub lateness: Option<String>,
    /// `LATE ROWS TO name`: where rows go that are later than that.
    pub late_rows: Option<ObjectName>,
    /// 1-based position of the clause.
    pub position: usize,
}

/// When changes of a view go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emit {
    /// `EMIT ON UPDATE` and its synonyms: the default of a materialized view.
    OnUpdate,
    /// `EMIT ON WINDOW CLOSE` and its synonyms.
    OnWindowClose,
    /// `EMIT EVERY INTERVAL '..'`, text of the interval.
    Every(String),
}

/// `CREATE [MATERIALIZED] VIEW`.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// Name.
    pub name: ObjectName,
    /// MATERIALIZED.
    pub materialized: bool,
    /// OR REPLACE.
    pub or_replace: bool,
    /// IF NOT EXISTS.
    pub if_not_exists: bool,
    /// `v (a, b)`: names for the columns, or empty.
    pub columns: Vec<String>,
    /// WITH (..).
    pub options: Options,
    /// The query.
    pub query: Box<ast::Query>,
    /// The query's own text.
    pub query_text: String,
    /// EMIT clause, if written.
    pub emit: Option<EmitClause>,
}

/// Kinds of named objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// STREAM or SOURCE.
    Stream,
    /// TABLE.
    Table,
    /// VIEW.
    View,
    /// MATERIALIZED VIEW.
    MaterializedView,
}

impl ObjectKind {
    /// Lower-case noun for messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Table => "table",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
        }
    }
}

/// What `ALTER <kind> name` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterAction {
    /// `RENAME TO x`.
    RenameTo(String),
    /// `SWAP WITH y`: the two exchange their names.
    SwapWith(ObjectName),
    /// `PAUSE`, `SUSPEND`.
    Pause,
    /// `RESUME`.
    Resume,
    /// `SET (k = v, ..)`.
    Set(Options),
    /// `RESET (k, ..)`.
    Reset(Vec<String>),
    /// `OWNER TO role`.
    OwnerTo(String),
}

/// What `COMMENT ON` describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommentTarget {
    /// A relation of this kind.
    Relation(ObjectKind, ObjectName),
    /// A column of a relation.
    Column(ObjectName, String),
}

/// `CREATE INDEX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateIndex {
    /// Its name; `None`: made from the names of the relation and its columns.
    pub name: Option<String>,
    /// IF NOT EXISTS.
    pub if_not_exists: bool,
    /// The table or view.
    pub on: ObjectName,
    /// Columns, in order.
    pub columns: Vec<String>,
}

/// `SUBSCRIBE [TO] v | (select)`.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The relation or query.
    pub target: SubscribeTarget,
    /// `WITH (SNAPSHOT)`: the rows that are there first; default true.
    pub snapshot: bool,
    /// `WITH (PROGRESS)`: a row per epoch even when nothing changed; default false.
    pub progress: bool,
    /// `UP TO e`: end after this epoch.
    pub up_to: Option<u64>,
}

/// What is subscribed to.
#[derive(Debug, Clone)]
pub enum SubscribeTarget {
    /// A named relation.
    Relation(ObjectName),
    /// A query: runs as an anonymous view for the life of the subscription.
    Query(Box<ast::Query>),
}

/// `SHOW ..`.
#[derive(Debug, Clone)]
pub enum Show {
    /// `SHOW STREAMS | TABLES | VIEWS | MATERIALIZED VIEWS | ALL objects`, with LIKE.
    Objects {
        /// Empty means every kind.
        kinds: Vec<ObjectKind>,
        /// LIKE pattern.
        like: Option<String>,
    },
    /// `SHOW JOBS`.
    Jobs,
    /// `SHOW INDEXES [FROM n]`.
    Indexes(Option<ObjectName>),
    /// `SHOW CREATE <kind> n`.
    Create(ObjectName),
    /// `SHOW COLUMNS FROM n`.
    Columns(ObjectName),
    /// `SHOW setting`, e.g. `SHOW server_version`.
    Setting(String),
    /// `SHOW ALL`.
    AllSettings,
}

/// How EXPLAIN prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainMode {
    /// Incremental plan of the query as a view, with the tier of every operator. The default.
    Incremental,
    /// DataFusion's logical plan.
    Logical,
    /// DataFusion's physical plan for the one-shot SELECT.
    Physical,
    /// What each stateful operator keeps.
    State,
    /// Run the SELECT and show timings.
    Analyze,
    /// What holds back the results of a materialized view now.
    Stall,
}

/// Any statement.
// One statement exists at a time: its size does not matter, and patterns without boxes read better.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum Statement {
    /// CREATE STREAM | SOURCE.
    CreateStream(CreateStream),
    /// CREATE TABLE.
    CreateTable(CreateTable),
    /// CREATE [MATERIALIZED] VIEW.
    CreateView(CreateView),
    /// DROP.
    Drop {
        /// The kind named in the statement.
        kind: ObjectKind,
        /// IF EXISTS.
        if_exists: bool,
        /// Names.
        names: Vec<ObjectName>,
        /// CASCADE.
        cascade: bool,
    },
    /// ALTER of a relation.
    Alter {
        /// The kind named in the statement.
        kind: ObjectKind,
        /// IF EXISTS.
        if_exists: bool,
        /// The relation.
        name: ObjectName,
        /// What to do.
        action: AlterAction,
    },
    /// COMMENT ON.
    Comment {
        /// What is described.
        target: CommentTarget,
        /// `None` for NULL: no description.
        text: Option<String>,
    },
    /// CREATE INDEX.
    CreateIndex(CreateIndex),
    /// DROP INDEX.
    DropIndex {
        /// IF EXISTS.
        if_exists: bool,
        /// Names of indexes.
        names: Vec<String>,
    },
    /// INSERT, UPDATE, DELETE.
    Dml(Box<ast::Statement>),
    /// SELECT, VALUES, WITH.
    Query(Box<ast::Query>),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// COPY (SUBSCRIBE ..) TO STDOUT.
    CopySubscribe(Subscribe),
    /// COPY (query) | table TO STDOUT.
    CopyOut {
        /// The query to run.
        query: Box<ast::Query>,
        /// `WITH (FORMAT csv)`: otherwise Postgres text.
        csv: bool,
        /// `HEADER`.
        header: bool,
    },
    /// COPY table [(cols)] FROM STDIN.
    CopyIn {
        /// Target.
        table: ObjectName,
        /// Target columns, empty for all.
        columns: Vec<String>,
        /// `WITH (FORMAT csv)`.
        csv: bool,
        /// `HEADER`.
        header: bool,
    },
    /// SHOW.
    Show(Show),
    /// DESCRIBE n.
    Describe(ObjectName),
    /// EXPLAIN statement.
    Explain {
        /// What to print.
        mode: ExplainMode,
        /// The statement: a query, or CREATE MATERIALIZED VIEW (its query is explained).
        statement: Box<Statement>,
        /// Text of a named view: `EXPLAIN MATERIALIZED VIEW v` / `EXPLAIN v`.
        target: Option<ObjectName>,
    },
    /// SET name = value.
    Set {
        /// Setting.
        name: String,
        /// `None` for DEFAULT.
        value: Option<String>,
    },
    /// RESET name; `None` for ALL.
    Reset(Option<String>),
    /// BEGIN / START TRANSACTION.
    Begin,
    /// COMMIT / END.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// CHECKPOINT: returns when a checkpoint of everything sealed before it is durable.
    Checkpoint,
    /// FLUSH: returns when every view has reached the present.
    Flush,
    /// DISCARD ALL, CLOSE ALL, DEALLOCATE: accepted, ends prepared statements.
    Discard,
    /// Nothing between two semicolons.
    Empty,
}

/// The Arrow schema of a column list.
pub fn schema_of(columns: &[ColumnDef]) -> SchemaRef {
    use arrow::datatypes::{Field, Schema};
    std::sync::Arc::new(Schema::new(
        columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), c.nullable)).collect::<Vec<_>>(),
    ))
}

//! What exists, who depends on whom, and how it is stored.
//!
//! The catalog is a value: DDL makes a new one, and it becomes true when the manifest that contains it is durable. Any
//! process can build the same sessions and plans from the same catalog.

pub mod codec;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_connectors::Positions;
use millstream_sql::plan::{ChangelogKind, IncPlan, RelationId};
use millstream_sql::statement::{ObjectKind, ObjectName};

use crate::error::{Error, Result, SqlState};

/// Schema of system relations.
pub const SYSTEM_SCHEMA: &str = "ms";
/// Schema of user relations.
pub const USER_SCHEMA: &str = "public";
/// Schema of views that live as long as a subscription; never stored.
pub const TEMP_SCHEMA: &str = "ms_temp";
/// `ms.errors`, where poison records go.
pub const ERRORS_ID: RelationId = RelationId(1);
/// Ids below are reserved for system relations.
pub const FIRST_USER_ID: u64 = 100;

/// How a computed column is made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Generated {
    /// Column name.
    pub name: String,
    /// SQL expression over the other columns.
    pub expr: String,
}

/// What kind of relation, with what only that kind has.
#[derive(Debug, Clone)]
pub enum Body {
    /// A stream over a connector: nothing is stored, the origin can be read again.
    Connector {
        /// `WITH` options.
        options: BTreeMap<String, String>,
        /// Where readers start, resolved at CREATE.
        start: Positions,
        /// Columns the format decodes; others are computed.
        physical: SchemaRef,
        /// (name, key) of metadata columns.
        metadata: Vec<(String, String)>,
        /// Computed columns.
        generated: Vec<Generated>,
    },
    /// A table, or (append only) a native stream: rows live here.
    Table {
        /// INSERT only.
        append_only: bool,
        /// DEFAULT expressions, by column.
        defaults: BTreeMap<String, String>,
    },
    /// A named query.
    View {
        /// Its text.
        query: String,
        /// New names for the columns, or empty.
        columns: Vec<String>,
    },
    /// A maintained query.
    MaterializedView {
        /// Its text.
        query: String,
        /// The plan it is maintained by.
        plan: Arc<IncPlan>,
    },
}

/// Whether a relation is kept up to date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paused {
    /// It is.
    #[default]
    No,
    /// `ALTER .. PAUSE` was said of it.
    Yes,
    /// It reads a view that is paused.
    WithInput,
}

/// An index: rows of its relation in order of some columns.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Index {
    /// From the same numbers as relations.
    pub id: RelationId,
    /// Name, unique among relations and indexes.
    pub name: String,
    /// Positions of its columns in the relation.
    pub columns: Vec<usize>,
}

/// `WATERMARK FOR c AS e` of a stream.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Watermark {
    /// Position of the time column.
    pub column: usize,
    /// The expression: no later row is older than its largest value so far.
    pub expr: String,
    /// The relation that keeps the rows that are; `None`: they are counted only.
    pub late: Option<RelationId>,
}

/// When changes of a view go out.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredEmit {
    /// EMIT ON WINDOW CLOSE.
    pub on_close: bool,
    /// EMIT EVERY this interval.
    pub every: Option<String>,
    /// ALLOW LATENESS this interval.
    pub lateness: Option<String>,
}

/// What is said about a relation beside its definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Relations its query names, plain views included, whether or not the plan reads them: what DROP asks about.
    pub named: Vec<RelationId>,
    /// COMMENT ON it.
    pub comment: Option<String>,
    /// COMMENT ON its columns, by name.
    pub column_comments: BTreeMap<String, String>,
    /// PAUSE.
    pub paused: Paused,
    /// CREATE INDEX.
    pub indexes: Vec<Index>,
    /// WATERMARK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// Position of the column that is `PROCTIME()`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proctime: Option<usize>,
    /// EMIT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emit: Option<StoredEmit>,
    /// The stream whose late rows these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_of: Option<RelationId>,
}

/// A relation of the catalog.
#[derive(Debug, Clone)]
pub struct Relation {
    /// Never reused.
    pub id: RelationId,
    /// `public` or `ms`.
    pub schema_name: String,
    /// Name.
    pub name: String,
    /// Columns.
    pub schema: SchemaRef,
    /// Positions of the primary key.
    pub primary_key: Vec<usize>,
    /// Statement that made it.
    pub definition: String,
    /// Relations it reads directly.
    pub inputs: Vec<RelationId>,
    /// The rest.
    pub body: Body,
    /// What may change while it lives.
    pub meta: Meta,
}

impl Relation {
    /// Its kind in SQL.
    pub fn kind(&self) -> ObjectKind {
        match &self.body {
            Body::Connector { .. } | Body::Table { append_only: true, .. } => ObjectKind::Stream,
            Body::Table { .. } => ObjectKind::Table,
            Body::View { .. } => ObjectKind::View,
            Body::MaterializedView { .. } => ObjectKind::MaterializedView,
        }
    }
    /// What changes it may have.
    pub fn changelog(&self) -> ChangelogKind {
        match &self.body {
            Body::Connector { .. } | Body::Table { append_only: true, .. } => ChangelogKind::Append,
            Body::Table { .. } | Body::View { .. } => ChangelogKind::Retract,
            Body::MaterializedView { plan, .. } => plan.node(plan.output).kind,
        }
    }
    /// `schema.name`, or the name alone in the user schema.
    pub fn display_name(&self) -> String {
        if self.schema_name == USER_SCHEMA { self.name.clone() } else { format!("{}.{}", self.schema_name, self.name) }
    }
}

/// All relations.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Grows with every change.
    pub version: u64,
    /// Next free id.
    pub next_id: u64,
    /// By id, hence in order of creation.
    pub relations: BTreeMap<RelationId, Arc<Relation>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { version: 0, next_id: FIRST_USER_ID, relations: BTreeMap::new() }
    }
}

impl Catalog {
    /// Finds a relation; unqualified names are looked for in `public`, then `ms`.
    pub fn find(&self, schema: Option<&str>, name: &str) -> Option<&Arc<Relation>> {
        let in_schema = |s: &str| self.relations.values().find(|r| r.schema_name == s && r.name == name);
        match schema {
            Some(s) => in_schema(s),
            None => in_schema(USER_SCHEMA),
        }
    }
    /// Like [`Self::find`], with an error that suggests the nearest name.
    pub fn get(&self, name: &ObjectName) -> Result<&Arc<Relation>> {
        self.find(name.schema.as_deref(), &name.name).ok_or_else(|| {
            let e = Error::new(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
            let near = self
                .relations
                .values()
                .map(|r| (edit_distance(&r.name, &name.name), r))
                .filter(|(d, r)| *d <= 1 + r.name.len() / 4)
                .min_by_key(|(d, _)| *d);
            match near {
                Some((_, r)) => e.hint(format!("Did you mean \"{}\"?", r.display_name())),
                None => e,
            }
        })
    }
    /// Relations that read this one, or name it in their query.
    pub fn dependents(&self, id: RelationId) -> Vec<Arc<Relation>> {
        self.relations.values().filter(|r| r.inputs.contains(&id) || r.meta.named.contains(&id)).cloned().collect()
    }
    /// Dependents, their dependents and so on, in order of creation; without the relation itself.
    pub fn downstream(&self, id: RelationId) -> BTreeSet<RelationId> {
        let (mut found, mut next) = (BTreeSet::new(), vec![id]);
        while let Some(at) = next.pop() {
            next.extend(self.dependents(at).iter().map(|d| d.id).filter(|d| found.insert(*d)));
        }
        found
    }
    /// The index of this name, with its relation.
    pub fn index(&self, name: &str) -> Option<(&Arc<Relation>, &Index)> {
        self.relations.values().find_map(|r| r.meta.indexes.iter().find(|i| i.name == name).map(|i| (r, i)))
    }
    /// True if a relation or an index of the user schema has this name.
    pub fn taken(&self, name: &str) -> bool {
        self.find(Some(USER_SCHEMA), name).is_some() || self.index(name).is_some()
    }
    /// Changes a relation.
    pub fn update(&mut self, id: RelationId, change: impl FnOnce(&mut Relation)) {
        if let Some(r) = self.relations.get_mut(&id) {
            self.version += 1;
            change(Arc::make_mut(r));
        }
    }
    /// Takes the next id.
    pub fn allocate(&mut self) -> RelationId {
        let id = RelationId(self.next_id);
        self.next_id += 1;
        id
    }
    /// Adds a relation.
    pub fn insert(&mut self, relation: Relation) {
        self.version += 1;
        self.relations.insert(relation.id, Arc::new(relation));
    }
    /// Removes a relation.
    pub fn remove(&mut self, id: RelationId) {
        self.version += 1;
        self.relations.remove(&id);
    }
}

/// Levenshtein distance, for "did you mean".
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut previous = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = usize::from(ca != *cb);
            let next = (previous + cost).min(row[j] + 1).min(row[j + 1] + 1);
            previous = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

//! Indexes as the catalogs show them: those that were created, and the one behind every primary key.

use arrow::datatypes::Field;
use millstream::api::RelationInfo;

use super::tables::{FIRST_OID, oid};

/// Oids of the indexes of primary keys: that of their table and this.
const PRIMARY_KEYS: i32 = 1 << 30;

/// One index.
pub struct IndexRow<'a> {
    /// Its oid.
    pub oid: i32,
    /// Its name.
    pub name: String,
    /// What it is on.
    pub relation: &'a RelationInfo,
    /// Positions of its columns, from 0.
    pub columns: Vec<usize>,
    /// Of a primary key.
    pub primary: bool,
}

impl IndexRow<'_> {
    /// Its columns.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.columns.iter().map(|c| self.relation.schema.field(*c))
    }
    /// The statement that would make it.
    pub fn definition(&self) -> String {
        let unique = if self.primary { "UNIQUE " } else { "" };
        let columns: Vec<&str> = self.fields().map(|f| f.name().as_str()).collect();
        let (schema, on) = (&self.relation.schema_name, &self.relation.name);
        format!("CREATE {unique}INDEX {} ON {schema}.{on} USING btree ({})", self.name, columns.join(", "))
    }
}

/// All indexes of some relations.
pub fn indexes(relations: &[RelationInfo]) -> Vec<IndexRow<'_>> {
    let mut all = Vec::new();
    for relation in relations {
        if !relation.primary_key.is_empty() {
            let columns = relation.primary_key.iter().filter_map(|c| relation.schema.index_of(c).ok()).collect();
            let name = format!("{}_pkey", relation.name);
            all.push(IndexRow { oid: oid(relation) | PRIMARY_KEYS, name, relation, columns, primary: true });
        }
        all.extend(relation.indexes.iter().map(|i| IndexRow {
            oid: i32::try_from(FIRST_OID + i.id).unwrap_or(i32::MAX),
            name: i.name.clone(),
            relation,
            columns: i.columns.clone(),
            primary: false,
        }));
    }
    all
}

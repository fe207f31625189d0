//! The catalog as JSON inside a manifest. Arrow schemas travel as IPC messages, plans as `millstream_sql` encodes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use datafusion::execution::SessionState;
use millstream_connectors::Positions;
use millstream_sql::plan::{RelationId, serialize};
use serde::{Deserialize, Serialize};

use super::{Body, Catalog, Generated, Meta, Relation};
use crate::error::{Error, Result, ResultExt as _, SqlState};

#[derive(Serialize, Deserialize)]
struct StoredCatalog {
    version: u64,
    next_id: u64,
    relations: Vec<StoredRelation>,
}

#[derive(Serialize, Deserialize)]
struct StoredRelation {
    id: u64,
    schema_name: String,
    name: String,
    schema: String,
    primary_key: Vec<usize>,
    definition: String,
    inputs: Vec<u64>,
    body: StoredBody,
    #[serde(default)]
    meta: Meta,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StoredBody {
    Connector {
        options: BTreeMap<String, String>,
        start: Positions,
        physical: String,
        metadata: Vec<(String, String)>,
        generated: Vec<Generated>,
    },
    Table {
        append_only: bool,
        defaults: BTreeMap<String, String>,
    },
    View {
        query: String,
        columns: Vec<String>,
    },
    MaterializedView {
        query: String,
        plan: serde_json::Value,
    },
}

/// Encodes a catalog.
pub fn encode(catalog: &Catalog) -> Result<serde_json::Value> {
    let relations = catalog
        .relations
        .values()
        .filter(|r| r.schema_name != super::TEMP_SCHEMA)
        .map(|r| encode_relation(r))
        .collect::<Result<Vec<_>>>()?;
    let stored = StoredCatalog { version: catalog.version, next_id: catalog.next_id, relations };
    serde_json::to_value(stored).map_err(|e| Error::internal(format!("cannot encode the catalog: {e}")))
}

fn encode_relation(r: &Relation) -> Result<StoredRelation> {
    let body = match &r.body {
        Body::Connector { options, start, physical, metadata, generated } => StoredBody::Connector {
            options: options.clone(),
            start: start.clone(),
            physical: schema_to_hex(physical)?,
            metadata: metadata.clone(),
            generated: generated.clone(),
        },
        Body::Table { append_only, defaults } => {
            StoredBody::Table { append_only: *append_only, defaults: defaults.clone() }
        }
        Body::View { query, columns } => StoredBody::View { query: query.clone(), columns: columns.clone() },
        Body::MaterializedView { query, plan } => {
            StoredBody::MaterializedView { query: query.clone(), plan: serialize::to_json(plan)? }
        }
    };
    Ok(StoredRelation {
        id: r.id.0,
        schema_name: r.schema_name.clone(),
        name: r.name.clone(),
        schema: schema_to_hex(&r.schema)?,
        primary_key: r.primary_key.clone(),
        definition: r.definition.clone(),
        inputs: r.inputs.iter().map(|i| i.0).collect(),
        body,
        meta: r.meta.clone(),
    })
}

/// Decodes what [`encode`] wrote. `state` resolves function names in plans.
pub fn decode(state: &SessionState, json: &serde_json::Value) -> Result<Catalog> {
    if json.is_null() {
        return Ok(Catalog::default());
    }
    let stored = StoredCatalog::deserialize(json)
        .map_err(|e| Error::new(SqlState::DATA_CORRUPTED, format!("cannot decode the catalog: {e}")))?;
    let mut catalog = Catalog { version: stored.version, next_id: stored.next_id, relations: BTreeMap::new() };
    for r in stored.relations {
        let body = match r.body {
            StoredBody::Connector { options, start, physical, metadata, generated } => {
                Body::Connector { options, start, physical: schema_from_hex(&physical)?, metadata, generated }
            }
            StoredBody::Table { append_only, defaults } => Body::Table { append_only, defaults },
            StoredBody::View { query, columns } => Body::View { query, columns },
            StoredBody::MaterializedView { query, plan } => {
                Body::MaterializedView { query, plan: Arc::new(serialize::from_json(state, &plan)?) }
            }
        };
        let relation = Relation {
            id: RelationId(r.id),
            schema_name: r.schema_name,
            name: r.name,
            schema: schema_from_hex(&r.schema)?,
            primary_key: r.primary_key,
            definition: r.definition,
            inputs: r.inputs.into_iter().map(RelationId).collect(),
            body,
            meta: r.meta,
        };
        catalog.relations.insert(relation.id, Arc::new(relation));
    }
    Ok(catalog)
}

fn schema_to_hex(schema: &SchemaRef) -> Result<String> {
    let mut w = StreamWriter::try_new(Vec::new(), schema).e()?;
    w.finish().e()?;
    let bytes = w.into_inner().e()?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn schema_from_hex(text: &str) -> Result<SchemaRef> {
    let bad = || Error::new(SqlState::DATA_CORRUPTED, "a stored schema is not hexadecimal");
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(bad());
    }
    let bytes = (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad()))
        .collect::<Result<Vec<u8>>>()?;
    Ok(StreamReader::try_new(std::io::Cursor::new(bytes), None).e()?.schema())
}

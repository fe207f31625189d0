//! The whole payload as one text or binary column.

use arrow::array::builder::{BinaryBuilder, BinaryViewBuilder, StringBuilder, StringViewBuilder};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use std::sync::Arc;

use super::guard::Restart;
use super::{Decoded, Decoder, Record, bad_record};
use crate::{ConnectorError, Result, SplitId};

/// Format `raw`.
pub(super) struct RawDecoder {
    schema: SchemaRef,
}

impl RawDecoder {
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let fits = schema.fields().len() == 1
            && matches!(
                schema.field(0).data_type(),
                DataType::Utf8View | DataType::Utf8 | DataType::BinaryView | DataType::Binary
            );
        if fits {
            return Ok(Self { schema });
        }
        Err(ConnectorError::config("format raw needs exactly one column of type TEXT or BYTEA")
            .hint("Metadata columns (INCLUDE) may stand beside it."))
    }
}

impl Restart for RawDecoder {
    fn restart(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Decoder for RawDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&mut self, split: &SplitId, origin: &str, records: &[Record<'_>]) -> Result<Decoded> {
        let mut from = Vec::with_capacity(records.len());
        let mut bad = Vec::new();
        macro_rules! texts {
            ($builder:expr) => {{
                let mut b = $builder;
                for (i, r) in records.iter().enumerate() {
                    match std::str::from_utf8(r.payload) {
                        Ok(text) => {
                            b.append_value(text);
                            from.push(i as u32);
                        }
                        Err(e) => {
                            let column = Some(self.schema.field(0).name().clone());
                            bad.push(bad_record(split, origin, r, column, format!("not UTF-8: {e}")));
                        }
                    }
                }
                Arc::new(b.finish()) as ArrayRef
            }};
        }
        macro_rules! bytes {
            ($builder:expr) => {{
                let mut b = $builder;
                records.iter().for_each(|r| b.append_value(r.payload));
                from.extend(0..records.len() as u32);
                Arc::new(b.finish()) as ArrayRef
            }};
        }
        let array = match self.schema.field(0).data_type() {
            DataType::Utf8View => texts!(StringViewBuilder::new()),
            DataType::Utf8 => texts!(StringBuilder::new()),
            DataType::BinaryView => bytes!(BinaryViewBuilder::new()),
            _ => bytes!(BinaryBuilder::new()),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(from.len()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), vec![array], &options)
            .map_err(|e| ConnectorError::bug(format!("raw rows do not fit their schema: {e}")))?;
        Ok(Decoded { rows, from, bad })
    }
}

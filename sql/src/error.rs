//! The one error type of SQL text: SQLSTATE, message, detail, hint and the place in the statement.

use std::fmt;

/// A five-character SQLSTATE, as Postgres defines them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlState(pub &'static str);

impl SqlState {
    /// Malformed statement text.
    pub const SYNTAX_ERROR: Self = Self("42601");
    /// A construct we understand and do not support.
    pub const FEATURE_NOT_SUPPORTED: Self = Self("0A000");
    /// No such relation.
    pub const UNDEFINED_TABLE: Self = Self("42P01");
    /// No such column.
    pub const UNDEFINED_COLUMN: Self = Self("42703");
    /// No such function.
    pub const UNDEFINED_FUNCTION: Self = Self("42883");
    /// No such object of another kind.
    pub const UNDEFINED_OBJECT: Self = Self("42704");
    /// The name is taken.
    pub const DUPLICATE_TABLE: Self = Self("42P07");
    /// A column is named twice.
    pub const DUPLICATE_COLUMN: Self = Self("42701");
    /// The relation exists but is of the wrong kind for this statement.
    pub const WRONG_OBJECT_TYPE: Self = Self("42809");
    /// Types do not fit.
    pub const DATATYPE_MISMATCH: Self = Self("42804");
    /// An option or parameter has an illegal value.
    pub const INVALID_PARAMETER_VALUE: Self = Self("22023");
    /// Text does not parse as the type it was given for.
    pub const INVALID_TEXT_REPRESENTATION: Self = Self("22P02");
    /// Division by zero.
    pub const DIVISION_BY_ZERO: Self = Self("22012");
    /// A number does not fit its type.
    pub const NUMERIC_OUT_OF_RANGE: Self = Self("22003");
    /// Text that is not a date, time, timestamp or interval.
    pub const INVALID_DATETIME_FORMAT: Self = Self("22007");
    /// A time that does not exist or does not fit its type.
    pub const DATETIME_OVERFLOW: Self = Self("22008");
    /// An interval that does not fit its type.
    pub const INTERVAL_FIELD_OVERFLOW: Self = Self("22015");
    /// A subquery or set gave another number of rows than it may.
    pub const CARDINALITY_VIOLATION: Self = Self("21000");
    /// Square root of a negative number and the like.
    pub const INVALID_ARGUMENT_FOR_POWER: Self = Self("2201F");
    /// Logarithm of what has none.
    pub const INVALID_ARGUMENT_FOR_LOGARITHM: Self = Self("2201E");
    /// `width_bucket` without buckets.
    pub const INVALID_ARGUMENT_FOR_WIDTH_BUCKET: Self = Self("2201G");
    /// Bytes that are no text of their encoding.
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self("22021");
    /// Text that another encoding does not have.
    pub const UNTRANSLATABLE_CHARACTER: Self = Self("22P05");
    /// An array subscript out of range.
    pub const ARRAY_SUBSCRIPT_ERROR: Self = Self("2202E");
    /// An escape sequence of a pattern that is none.
    pub const INVALID_ESCAPE_SEQUENCE: Self = Self("22025");
    /// A position in a column list or ORDER BY that does not exist.
    pub const INVALID_COLUMN_REFERENCE: Self = Self("42P10");
    /// Not a regular expression.
    pub const INVALID_REGULAR_EXPRESSION: Self = Self("2201B");
    /// Other errors in data.
    pub const DATA_EXCEPTION: Self = Self("22000");
    /// A NULL for an argument that has to be there.
    pub const NULL_VALUE_NOT_ALLOWED: Self = Self("22004");
    /// A NULL where none may be.
    pub const NOT_NULL_VIOLATION: Self = Self("23502");
    /// A key that exists already.
    pub const UNIQUE_VIOLATION: Self = Self("23505");
    /// A column reference that could mean two things.
    pub const AMBIGUOUS_COLUMN: Self = Self("42702");
    /// A relation that is defined in a contradictory way.
    pub const INVALID_TABLE_DEFINITION: Self = Self("42P16");
    /// Ungrouped column and the like.
    pub const GROUPING_ERROR: Self = Self("42803");
    /// Other objects depend on this one.
    pub const DEPENDENT_OBJECTS: Self = Self("2BP01");
    /// The statement is longer or deeper than a limit allows.
    pub const STATEMENT_TOO_COMPLEX: Self = Self("54001");
    /// Some other program limit.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self("54000");
    /// The statement was cancelled.
    pub const QUERY_CANCELED: Self = Self("57014");
    /// The server is stopping.
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    /// Not now, try again.
    pub const OBJECT_NOT_IN_STATE: Self = Self("55000");
    /// Input or output failed outside of us.
    pub const IO_ERROR: Self = Self("58030");
    /// Another process took over this data folder.
    pub const FENCED: Self = Self("57P05");
    /// A stored object is damaged.
    pub const DATA_CORRUPTED: Self = Self("XX001");
    /// A defect of ours.
    pub const INTERNAL_ERROR: Self = Self("XX000");
}

/// What is wrong with a statement, where, and what to do about it. Lower case, no final period in `message`;
/// `detail` and `hint` are sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// SQLSTATE.
    pub code: SqlState,
    /// One line, names the object.
    pub message: String,
    /// More facts, if any.
    pub detail: Option<String>,
    /// What the user can do, if anything.
    pub hint: Option<String>,
    /// 1-based character offset into the statement text, as Postgres counts it.
    pub position: Option<usize>,
}

impl SqlError {
    /// An error without detail, hint or position.
    pub fn new(code: SqlState, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None, position: None }
    }
    /// A `0A000` error.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(SqlState::FEATURE_NOT_SUPPORTED, what)
    }
    /// A `XX000` error: a defect of ours, never the user's.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(SqlState::INTERNAL_ERROR, what)
    }
    /// Adds a detail sentence.
    pub fn detail(mut self, s: impl Into<String>) -> Self {
        self.detail = Some(s.into());
        self
    }
    /// Adds a hint sentence.
    pub fn hint(mut self, s: impl Into<String>) -> Self {
        self.hint = Some(s.into());
        self
    }
    /// Sets the 1-based character position.
    pub fn at(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(d) = &self.detail {
            write!(f, "\nDETAIL:  {d}")?;
        }
        if let Some(h) = &self.hint {
            write!(f, "\nHINT:  {h}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SqlError {}

/// Result with a [`SqlError`].
pub type Result<T, E = SqlError> = std::result::Result<T, E>;

//! The dialect handed to sqlparser: PostgreSQL's, with table versioning and MATCH_RECOGNIZE, and a budget that stops exponential
//! backtracking.

use std::any::TypeId;
use std::cell::Cell;

use sqlparser::ast::{BinaryOperator, Expr};
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};

const PG: PostgreSqlDialect = PostgreSqlDialect {};

/// PostgreSQL's grammar with our additions.
///
/// sqlparser tries alternatives by parsing the same tokens again, which doubles the work for each level of some
/// nestings. Every expression and table factor passes through a hook of the dialect, so the hooks count, and over
/// budget they answer with the one error that sqlparser does not swallow while backtracking.
#[derive(Debug)]
pub(crate) struct MillstreamDialect {
    budget: Cell<usize>,
}

impl MillstreamDialect {
    /// For a statement of so many tokens.
    pub fn new(tokens: usize) -> Self {
        Self { budget: Cell::new(100_000 + 64 * tokens) }
    }

    fn spend(&self) -> bool {
        let left = self.budget.get();
        self.budget.set(left.saturating_sub(1));
        left > 0
    }
}

macro_rules! as_postgres {
    ($($name:ident),* $(,)?) => {
        $(fn $name(&self) -> bool {
            PG.$name()
        })*
    };
}

impl Dialect for MillstreamDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }
    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        PG.identifier_quote_style(identifier)
    }
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        PG.is_delimited_identifier_start(ch)
    }
    fn is_identifier_start(&self, ch: char) -> bool {
        PG.is_identifier_start(ch)
    }
    fn is_identifier_part(&self, ch: char) -> bool {
        PG.is_identifier_part(ch)
    }
    fn is_custom_operator_part(&self, ch: char) -> bool {
        PG.is_custom_operator_part(ch)
    }
    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        PG.is_reserved_for_identifier(kw)
    }
    fn prec_value(&self, prec: Precedence) -> u8 {
        PG.prec_value(prec)
    }
    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        if !self.spend() {
            return Some(Err(ParserError::RecursionLimitExceeded));
        }
        PG.get_next_precedence(parser)
    }
    fn parse_prefix(&self, _parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if self.spend() { None } else { Some(Err(ParserError::RecursionLimitExceeded)) }
    }
    // sqlparser takes everything up to the end of the expression for the right side of IS DISTINCT FROM, so that
    // `a IS DISTINCT FROM b AND c` compared `a` with `b AND c`.
    //
    // It does not know BETWEEN SYMMETRIC.
    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _precedence: u8) -> Option<Result<Expr, ParserError>> {
        if parser.parse_keywords(&[Keyword::BETWEEN, Keyword::SYMMETRIC]) {
            return Some(between_symmetric(parser, expr, false));
        }
        if parser.parse_keywords(&[Keyword::NOT, Keyword::BETWEEN, Keyword::SYMMETRIC]) {
            return Some(between_symmetric(parser, expr, true));
        }
        if parser.parse_keywords(&[Keyword::BETWEEN, Keyword::ASYMMETRIC]) {
            return Some(parser.parse_between(expr.clone(), false));
        }
        if parser.parse_keywords(&[Keyword::NOT, Keyword::BETWEEN, Keyword::ASYMMETRIC]) {
            return Some(parser.parse_between(expr.clone(), true));
        }
        let not = if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
            false
        } else if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) {
            true
        } else {
            return None;
        };
        let left = Box::new(expr.clone());
        Some(parser.parse_subexpr(self.prec_value(Precedence::Is)).map(|right| match not {
            false => Expr::IsDistinctFrom(left, Box::new(right)),
            true => Expr::IsNotDistinctFrom(left, Box::new(right)),
        }))
    }
    fn supports_table_versioning(&self) -> bool {
        true
    }
    fn supports_match_recognize(&self) -> bool {
        true
    }
    // PostgreSQL's dialect allows any expression as the name of a named argument and tries it first, which parses
    // every nested call twice: 2^depth. Plain names are enough.
    fn supports_named_fn_args_with_expr_name(&self) -> bool {
        false
    }
    fn supports_window_clause_named_window_reference(&self) -> bool {
        true
    }
    as_postgres!(
        supports_unicode_string_literal,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_listen_notify,
        supports_factorial_operator,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_colon_operator,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_numeric_literal_underscores,
        supports_array_typedef_with_brackets,
        supports_geometric_types,
        supports_set_names,
        supports_alter_column_type_using,
        supports_notnull_operator,
        supports_interval_options,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_select_wildcard_with_alias,
        supports_comma_separated_trim,
        supports_xml_expressions,
    );
}

/// BETWEEN either way around: `x BETWEEN a AND b OR x BETWEEN b AND a`.
fn between_symmetric(parser: &mut Parser, expr: &Expr, negated: bool) -> Result<Expr, ParserError> {
    let Expr::Between { expr, low, high, .. } = parser.parse_between(expr.clone(), false)? else {
        return Err(ParserError::ParserError("BETWEEN without bounds".into()));
    };
    let one = |low: &Expr, high: &Expr| Expr::Between {
        expr: expr.clone(),
        negated,
        low: Box::new(low.clone()),
        high: Box::new(high.clone()),
    };
    let op = if negated { BinaryOperator::And } else { BinaryOperator::Or };
    let (left, right) = (Box::new(one(&low, &high)), Box::new(one(&high, &low)));
    Ok(Expr::Nested(Box::new(Expr::BinaryOp { left, op, right })))
}

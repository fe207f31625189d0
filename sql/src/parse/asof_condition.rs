//! ASOF joins in the syntax tree.
//!
//! [`super::asof`] has them read as joins with the flag `global`, which nothing else sets. The comparison of times in ON
//! goes into a call of [`crate::asof::marker`], where the planner finds it again: in the form with MATCH_CONDITION it is
//! there already, otherwise it is the one term of ON that is an inequality. The flag is taken away: the tree can be
//! printed and read again.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinConstraint, JoinOperator,
    ObjectName, Select, Spanned as _, Statement, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};

use crate::asof::MARKER;
use crate::error::{Result, SqlError, SqlState};
use crate::span::char_position;

const FORMS: &str = "Write a ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts.";

/// Marks the conditions of all ASOF joins of a query or statement.
pub(super) fn mark<T: VisitMut>(tree: &mut T, text: &str) -> Result<()> {
    match tree.visit(&mut Marking { text }) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Marking<'a> {
    text: &'a str,
}

impl VisitorMut for Marking<'_> {
    type Break = SqlError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        for from in &mut select.from {
            if let Err(e) = self.joins(from) {
                return ControlFlow::Break(e);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<SqlError> {
        let changed: &[TableWithJoins] = match statement {
            Statement::Update(u) => std::slice::from_ref(&u.table),
            Statement::Delete(d) => match &d.from {
                ast::FromTable::WithFromKeyword(t) | ast::FromTable::WithoutKeyword(t) => t,
            },
            _ => return ControlFlow::Continue(()),
        };
        if changed.iter().flat_map(|t| &t.joins).any(|j| j.global) {
            return ControlFlow::Break(SqlError::unsupported("changing the rows of an ASOF JOIN is not supported"));
        }
        ControlFlow::Continue(())
    }
}

impl Marking<'_> {
    fn joins(&self, from: &mut TableWithJoins) -> Result<()> {
        self.nested(&mut from.relation)?;
        for join in &mut from.joins {
            self.nested(&mut join.relation)?;
            if std::mem::take(&mut join.global) {
                let at = self.place(join.relation.span());
                self.join(&mut join.join_operator).map_err(|mut e| {
                    e.position = e.position.or(at);
                    e
                })?;
            }
        }
        Ok(())
    }

    fn nested(&self, factor: &mut TableFactor) -> Result<()> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => self.joins(table_with_joins),
            _ => Ok(()),
        }
    }

    fn join(&self, operator: &mut JoinOperator) -> Result<()> {
        use JoinOperator as J;
        let constraint = match operator {
            J::Join(c) | J::Inner(c) | J::Left(c) | J::LeftOuter(c) => c,
            _ => return Err(SqlError::unsupported("this form of ASOF JOIN is not supported").hint(FORMS)),
        };
        match constraint {
            JoinConstraint::On(on) => self.condition(on),
            JoinConstraint::Using(_) | JoinConstraint::Natural => {
                Err(SqlError::unsupported("ASOF JOIN with USING or NATURAL is not supported").hint(FORMS))
            }
            JoinConstraint::None => {
                Err(SqlError::new(SqlState::SYNTAX_ERROR, "an ASOF JOIN needs a condition").hint(FORMS))
            }
        }
    }

    fn condition(&self, on: &mut Expr) -> Result<()> {
        let mut terms = Vec::new();
        conjuncts(on, &mut terms);
        let marked = terms.iter().filter(|e| argument(e).is_some()).count();
        let unequal = |e: &Expr| match bare(e) {
            Expr::BinaryOp { op, .. } => {
                matches!(op, BinaryOperator::GtEq | BinaryOperator::Gt | BinaryOperator::LtEq | BinaryOperator::Lt)
            }
            _ => false,
        };
        let wrong = |e: &Expr, why: &str| {
            let mut error = SqlError::new(SqlState::SYNTAX_ERROR, why).hint(FORMS);
            error.position = self.place(e.span());
            error
        };
        if marked > 0 {
            for e in &terms {
                match argument(e) {
                    Some(inner) if !unequal(inner) => {
                        return Err(wrong(inner, "MATCH_CONDITION is a comparison with >=, >, <= or <"));
                    }
                    None if unequal(e) => return Err(wrong(e, "an ASOF JOIN has one comparison of times")),
                    _ => {}
                }
            }
            return Ok(());
        }
        let mut found: Vec<_> = terms.into_iter().filter(|e| unequal(e)).collect();
        match (found.pop(), found.pop()) {
            (Some(comparison), None) => {
                let inner = comparison.clone();
                *comparison = call(inner);
                Ok(())
            }
            (Some(second), Some(_)) => Err(wrong(second, "an ASOF JOIN has one comparison of times")),
            (None, _) => Err(wrong(on, "an ASOF JOIN needs a comparison of times with >=, >, <= or <")),
        }
    }

    fn place(&self, span: sqlparser::tokenizer::Span) -> Option<usize> {
        char_position(self.text, span.start)
    }
}

/// The terms of a conjunction.
fn conjuncts<'e>(e: &'e mut Expr, out: &mut Vec<&'e mut Expr>) {
    if !is_conjunction(e) {
        out.push(e);
        return;
    }
    match e {
        Expr::BinaryOp { left, right, .. } => {
            conjuncts(left, out);
            conjuncts(right, out);
        }
        Expr::Nested(inner) => conjuncts(inner, out),
        _ => {}
    }
}

fn is_conjunction(e: &Expr) -> bool {
    matches!(bare(e), Expr::BinaryOp { op: BinaryOperator::And, .. })
}

fn bare(e: &Expr) -> &Expr {
    match e {
        Expr::Nested(inner) => bare(inner),
        e => e,
    }
}

/// The argument of the marker.
fn argument(e: &Expr) -> Option<&Expr> {
    match bare(e) {
        Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case(MARKER) => match &f.args {
            FunctionArguments::List(list) => match list.args.as_slice() {
                [FunctionArg::Unnamed(FunctionArgExpr::Expr(e))] => Some(e),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn call(e: Expr) -> Expr {
    let args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(e))];
    Expr::Function(ast::Function {
        name: ObjectName::from(vec![Ident::new(MARKER)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

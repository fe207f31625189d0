//! How long and how deep a statement may be, checked on its tokens before anything recurses over it.
//!
//! A stack overflow ends the whole process, so the caps are not about taste: behind them sit recursive passes (the
//! parser, the planner, dropping a tree). Each cap names itself in its error.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

use crate::error::{Result, SqlError, SqlState};
use crate::parse::lexer::Tok;

/// The caps of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text of one statement.
    pub statement_bytes_max: usize,
    /// Bytes of text of one script (several statements in one string).
    pub script_bytes_max: usize,
    /// Depth of parentheses, brackets and CASE, and length of a run of prefix operators.
    pub nesting_depth_max: usize,
    /// Depth of the tree that operators without parentheses make: `a OR b OR c ..` is as deep as it has terms.
    pub operator_chain_max: usize,
    /// UNION, INTERSECT and EXCEPT of the whole statement.
    pub set_operations_max: usize,
    /// Queries in WITH, all of a statement together.
    pub ctes_max: usize,
    /// Items of one IN list.
    pub in_list_items_max: usize,
    /// Joins between parentheses: JOIN keywords and commas of a FROM.
    pub joins_max: usize,
    /// Depth of subqueries in doubled parentheses in FROM, `((SELECT ..) JOIN ..)`: the parser reads each twice.
    pub doubled_subqueries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statement_bytes_max: 1 << 20,
            script_bytes_max: 16 << 20,
            nesting_depth_max: 64,
            operator_chain_max: 2_000,
            set_operations_max: 500,
            ctes_max: 500,
            in_list_items_max: 100_000,
            joins_max: 100,
            doubled_subqueries_max: 8,
        }
    }
}

/// The error of a cap; `position` is 1-based.
pub(crate) fn exceeded(name: &str, what: &str, max: usize, position: usize) -> SqlError {
    SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, format!("statement is too complex: {what}"))
        .detail(format!("The limit {name} is {max}."))
        .hint("Split the statement, or move the values into a table and join with it.")
        .at(position)
}

/// Counters between an opening bracket and its closing one.
#[derive(Default)]
struct Group {
    /// Opened after the keyword IN.
    in_list: bool,
    /// Inside of FROM, where commas are joins.
    from: bool,
    /// Opened by CASE, closed by END.
    case: bool,
    /// Parentheses in the place of a table.
    table: bool,
    /// The same, directly inside of another parenthesis in the place of a table.
    doubled: bool,
    /// Such parentheses that begin with a query.
    doubled_query: bool,
    /// Operators of the expression at hand: OR, the longest run of AND, the longest run of others.
    ors: usize,
    ands: [usize; 2],
    others: [usize; 2],
    /// Depth of the deepest bracket in the expression at hand.
    inner: usize,
    /// Depth of the deepest expression that is complete.
    done: usize,
    commas: usize,
    joins: usize,
}

impl Group {
    /// Depth of the tree of the expression at hand, at most.
    fn depth(&self) -> usize {
        self.inner + self.ors + self.ands[1] + self.others[1]
    }

    /// The next expression begins.
    fn finish(&mut self) {
        self.done = self.done.max(self.depth());
        (self.ors, self.ands, self.others, self.inner) = (0, [0; 2], [0; 2], 0);
    }

    fn operator(&mut self, keyword: Keyword) {
        match keyword {
            Keyword::OR => {
                self.ors += 1;
                self.ands[0] = 0;
                self.others[0] = 0;
            }
            Keyword::AND => {
                self.ands[0] += 1;
                self.others[0] = 0;
            }
            _ => self.others[0] += 1,
        }
        self.ands[1] = self.ands[1].max(self.ands[0]);
        self.others[1] = self.others[1].max(self.others[0]);
    }
}

/// Closes the innermost group: it was one operand of the one around it.
fn close(groups: &mut Vec<Group>, limits: &Limits, at: usize) -> Result<()> {
    let Some(mut inner) = groups.pop() else { return Ok(()) };
    inner.finish();
    if let Some(outer) = groups.last_mut() {
        outer.inner = outer.inner.max(inner.done + 1);
        too_deep(outer, limits, at)?;
    }
    Ok(())
}

/// Checks the tokens of one statement.
pub(crate) fn check(tokens: &[Tok], limits: &Limits) -> Result<()> {
    let mut groups = vec![Group::default()];
    let mut ctes = 0usize;
    let mut set_operations = 0usize;
    let mut prefix_run = 0usize;
    // True where the next token starts an operand, so that `-` and NOT are prefixes.
    let mut operand_next = true;
    let mut before = &Token::EOF;
    for t in tokens {
        let at = t.start.chars + 1;
        let token = &t.token.token;
        let keyword = match token {
            Token::Word(w) if w.quote_style.is_none() => w.keyword,
            _ => Keyword::NoKeyword,
        };
        let top = groups.last_mut().expect("the outermost group is never popped");
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                if keyword_of(before) == Keyword::AS || keyword_of(before) == Keyword::MATERIALIZED {
                    ctes += 1;
                    if ctes > limits.ctes_max {
                        return Err(exceeded("ctes_max", "too many common table expressions", limits.ctes_max, at));
                    }
                }
                if matches!(token, Token::LBracket) {
                    // `a[1][2]` is a chain of postfix operators.
                    chain(top, keyword, limits, at)?;
                }
                let place = matches!(before, Token::LParen | Token::Comma)
                    || matches!(keyword_of(before), Keyword::FROM | Keyword::JOIN);
                let table = (top.from || top.table) && place;
                let doubled = table && top.table && matches!(before, Token::LParen);
                let in_list = keyword_of(before) == Keyword::IN;
                groups.push(Group { in_list, table, doubled, ..Group::default() });
                operand_next = true;
                prefix_run = 0;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                // A CASE without END inside of brackets is closed with them; the parser reports it.
                while groups.len() > 1 && groups.last().is_some_and(|g| g.case) {
                    close(&mut groups, limits, at)?;
                }
                if groups.len() > 1 {
                    close(&mut groups, limits, at)?;
                }
                operand_next = false;
                prefix_run = 0;
            }
            Token::Comma => {
                top.finish();
                top.commas += 1;
                if top.in_list && top.commas >= limits.in_list_items_max {
                    let max = limits.in_list_items_max;
                    return Err(exceeded("in_list_items_max", "too many items in an IN list", max, at));
                }
                if top.from {
                    join(top, limits, at)?;
                }
                operand_next = true;
                prefix_run = 0;
            }
            Token::Word(_) => match keyword {
                Keyword::CASE => {
                    groups.push(Group { case: true, ..Group::default() });
                    operand_next = true;
                    prefix_run = 0;
                }
                Keyword::END if top.case => {
                    close(&mut groups, limits, at)?;
                    operand_next = false;
                }
                Keyword::NOT if operand_next => prefix_run += 1,
                Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::NOTNULL
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::BETWEEN
                | Keyword::IN
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::OVERLAPS
                | Keyword::OPERATOR
                | Keyword::DIV => {
                    chain(top, keyword, limits, at)?;
                    operand_next = true;
                    prefix_run = 0;
                }
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::MINUS => {
                    set_operations += 1;
                    if set_operations > limits.set_operations_max {
                        let max = limits.set_operations_max;
                        return Err(exceeded("set_operations_max", "too many UNION branches", max, at));
                    }
                    top.joins = 0;
                    clause(top, &mut operand_next);
                }
                Keyword::JOIN
                | Keyword::APPLY
                | Keyword::PIVOT
                | Keyword::UNPIVOT
                | Keyword::MATCH_RECOGNIZE
                | Keyword::TABLESAMPLE => {
                    join(top, limits, at)?;
                    operand_next = true;
                }
                Keyword::FROM => {
                    // Also `extract(x from y)`: harmless, its group has no list of tables.
                    clause(top, &mut operand_next);
                    top.from = true;
                }
                Keyword::SELECT
                | Keyword::WHERE
                | Keyword::HAVING
                | Keyword::QUALIFY
                | Keyword::ON
                | Keyword::BY
                | Keyword::LIMIT
                | Keyword::VALUES
                | Keyword::SET
                | Keyword::RETURNING
                | Keyword::WHEN
                | Keyword::THEN
                | Keyword::ELSE => {
                    let from = top.from && keyword == Keyword::ON;
                    clause(top, &mut operand_next);
                    top.from = from;
                    prefix_run = 0;
                    if top.doubled && keyword == Keyword::SELECT {
                        top.doubled_query = true;
                        let max = limits.doubled_subqueries_max;
                        if groups.iter().filter(|g| g.doubled_query).count() > max {
                            let what = "too many subqueries in doubled parentheses";
                            return Err(exceeded("doubled_subqueries_max", what, max, at));
                        }
                    }
                }
                _ => {
                    operand_next = false;
                    prefix_run = 0;
                }
            },
            Token::Number(..) | Token::Placeholder(_) => {
                operand_next = false;
                prefix_run = 0;
            }
            Token::Period | Token::SemiColon | Token::Backslash => {}
            Token::Plus
            | Token::Minus
            | Token::Tilde
            | Token::AtSign
            | Token::ExclamationMark
            | Token::DoubleExclamationMark
            | Token::PGSquareRoot
            | Token::PGCubeRoot
                if operand_next =>
            {
                prefix_run += 1;
            }
            _ if is_literal(token) => {
                operand_next = false;
                prefix_run = 0;
            }
            _ => {
                chain(top, keyword, limits, at)?;
                operand_next = true;
            }
        }
        if groups.len() - 1 + prefix_run > limits.nesting_depth_max {
            let max = limits.nesting_depth_max;
            return Err(exceeded("nesting_depth_max", "it is nested too deeply", max, at));
        }
        before = token;
    }
    Ok(())
}

fn keyword_of(t: &Token) -> Keyword {
    match t {
        Token::Word(w) if w.quote_style.is_none() => w.keyword,
        _ => Keyword::NoKeyword,
    }
}

fn chain(group: &mut Group, keyword: Keyword, limits: &Limits, at: usize) -> Result<()> {
    group.operator(keyword);
    too_deep(group, limits, at)
}

fn too_deep(group: &Group, limits: &Limits, at: usize) -> Result<()> {
    if group.depth() > limits.operator_chain_max {
        let max = limits.operator_chain_max;
        return Err(exceeded("operator_chain_max", "too many operators in one chain", max, at));
    }
    Ok(())
}

fn join(group: &mut Group, limits: &Limits, at: usize) -> Result<()> {
    group.joins += 1;
    if group.joins > limits.joins_max {
        return Err(exceeded("joins_max", "too many joins", limits.joins_max, at));
    }
    Ok(())
}

fn clause(group: &mut Group, operand_next: &mut bool) {
    group.finish();
    group.from = false;
    *operand_next = true;
}

fn is_literal(t: &Token) -> bool {
    use Token as T;
    matches!(
        t,
        T::SingleQuotedString(_)
            | T::DoubleQuotedString(_)
            | T::DollarQuotedString(_)
            | T::SingleQuotedByteStringLiteral(_)
            | T::NationalStringLiteral(_)
            | T::EscapedStringLiteral(_)
            | T::UnicodeStringLiteral(_)
            | T::HexStringLiteral(_)
            | T::SingleQuotedRawStringLiteral(_)
    )
}

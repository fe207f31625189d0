//! Clauses that sqlparser does not know, rewritten in tokens into what it does.
//!
//! - `LIMIT n WITH TIES` is `FETCH FIRST n ROWS WITH TIES`.
//! - `EXCLUDE CURRENT ROW | GROUP | TIES` of a window frame becomes a first partition key, a text that starts with
//!   [`EXCLUDE_MARK`], which the planner takes off again; `EXCLUDE NO OTHERS` says nothing.
//! - A column of `JSON_TABLE` without PATH gets its own name as its path, and `ERROR ON ERROR` of the whole table goes
//!   before its path, as [`ERROR_MARK`]; the sign of a DEFAULT joins its number.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

/// Begins a partition key that stands for EXCLUDE.
pub(crate) const EXCLUDE_MARK: &str = "\u{1}exclude ";
/// Begins the path of a `JSON_TABLE` with ERROR ON ERROR.
pub(crate) const ERROR_MARK: &str = "\u{1}error ";

/// The tokens in sqlparser's words.
pub(crate) fn rewritten(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let has = |word: &str| tokens.iter().any(|t| is(Some(t), word));
    let (ties, exclude, json_table) = (has("ties"), has("exclude"), has("json_table"));
    if ties {
        limit_with_ties(&mut tokens);
    }
    if exclude {
        excluded(&mut tokens);
    }
    if json_table {
        json_tables(&mut tokens);
    }
    tokens
}

fn is(token: Option<&TokenWithSpan>, word: &str) -> bool {
    match token.map(|t| &t.token) {
        Some(Token::Word(w)) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
        _ => false,
    }
}

fn are(tokens: &[TokenWithSpan], at: usize, words: &[&str]) -> bool {
    words.iter().enumerate().all(|(i, w)| is(tokens.get(at + i), w))
}

fn keyword(word: &str, span: Span) -> TokenWithSpan {
    TokenWithSpan { token: Token::make_keyword(word), span }
}

fn text(value: String, span: Span) -> TokenWithSpan {
    TokenWithSpan { token: Token::SingleQuotedString(value), span }
}

fn limit_with_ties(tokens: &mut Vec<TokenWithSpan>) {
    let mut i = 0;
    while i < tokens.len() {
        if is(tokens.get(i), "limit") && are(tokens, i + 2, &["with", "ties"]) {
            let span = tokens[i].span;
            let n = tokens[i + 1].clone();
            let words = ["fetch", "first"].map(|w| keyword(w, span));
            let end = ["rows", "with", "ties"].map(|w| keyword(w, span));
            let fetch = words.into_iter().chain([n]).chain(end);
            // OFFSET comes first there.
            let mut offset = Vec::new();
            if is(tokens.get(i + 4), "offset") {
                let rows = is(tokens.get(i + 6), "rows") || is(tokens.get(i + 6), "row");
                offset = tokens.drain(i + 4..(i + 6 + usize::from(rows)).min(tokens.len())).collect();
            }
            let new: Vec<TokenWithSpan> = offset.into_iter().chain(fetch).collect();
            tokens.splice(i..i + 4, new);
        }
        i += 1;
    }
}

/// The place of the parenthesis that the one before `at` on this level opens.
fn opening(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for i in (0..at).rev() {
        match tokens[i].token {
            Token::RParen => depth += 1,
            Token::LParen if depth == 0 => return Some(i),
            Token::LParen => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The place of the parenthesis that closes the one at `open`, or the end.
fn closing(tokens: &[TokenWithSpan], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, t) in tokens.iter().enumerate().skip(open) {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen if depth <= 1 => return i,
            Token::RParen => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Places between two parentheses that are on their level.
fn level(tokens: &[TokenWithSpan], open: usize, close: usize) -> Vec<usize> {
    let mut depth = 0usize;
    let mut out = Vec::new();
    for (i, t) in tokens.iter().enumerate().take(close).skip(open + 1) {
        match t.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            _ if depth == 0 => out.push(i),
            _ => {}
        }
    }
    out
}

fn excluded(tokens: &mut Vec<TokenWithSpan>) {
    const FORMS: [(&[&str], Option<&str>); 4] = [
        (&["exclude", "current", "row"], Some("current row")),
        (&["exclude", "group"], Some("group")),
        (&["exclude", "ties"], Some("ties")),
        (&["exclude", "no", "others"], None),
    ];
    let mut i = 0;
    while i < tokens.len() {
        let at = i;
        i += 1;
        let form = FORMS.iter().find(|(words, _)| {
            are(tokens, at, words) && tokens.get(at + words.len()).is_some_and(|t| t.token == Token::RParen)
        });
        let (Some((words, kind)), Some(open)) = (form, opening(tokens, at)) else { continue };
        let window = open > 0 && (is(tokens.get(open - 1), "over") || is(tokens.get(open - 1), "as"));
        let inside = level(tokens, open, at);
        let units = inside.iter().copied().find(|i| ["rows", "range", "groups"].iter().any(|u| is(tokens.get(*i), u)));
        let (true, Some(units)) = (window, units) else { continue };
        let span = tokens[at].span;
        tokens.drain(at..at + words.len());
        let Some(kind) = kind else { continue };
        let mark = text(format!("{EXCLUDE_MARK}{kind}"), span);
        match inside.iter().copied().find(|i| are(tokens, *i, &["partition", "by"])) {
            Some(by) => {
                tokens.splice(by + 2..by + 2, [mark, TokenWithSpan { token: Token::Comma, span }]);
            }
            None => {
                let order = inside.iter().copied().find(|i| are(tokens, *i, &["order", "by"]));
                let before = order.unwrap_or(units).min(units);
                tokens.splice(before..before, [keyword("partition", span), keyword("by", span), mark]);
            }
        }
    }
}

fn json_tables(tokens: &mut Vec<TokenWithSpan>) {
    let mut i = 0;
    while i < tokens.len() {
        let at = i;
        i += 1;
        let opens = |i: usize| tokens.get(i).is_some_and(|t| t.token == Token::LParen);
        if !is(tokens.get(at), "json_table") || !opens(at + 1) {
            continue;
        }
        let close = closing(tokens, at + 1);
        let inside = level(tokens, at + 1, close);
        let Some(columns) = inside.iter().copied().find(|i| is(tokens.get(*i), "columns") && opens(*i + 1)) else {
            continue;
        };
        // A negative constant is one token.
        for at in (columns..close).rev() {
            let next = (tokens.get(at + 1).map(|t| &t.token), tokens.get(at + 2).map(|t| &t.token));
            if let (true, (Some(Token::Minus), Some(Token::Number(n, long)))) = (is(tokens.get(at), "default"), next) {
                let negative = Token::Number(format!("-{n}"), *long);
                let span = tokens[at + 1].span;
                tokens.splice(at + 1..at + 3, [TokenWithSpan { token: negative, span }]);
            }
        }
        let close = closing(tokens, at + 1);
        // From the end, so that places before stay what they are.
        if close >= 3 && are(tokens, close - 3, &["error", "on", "error"]) {
            tokens.drain(close - 3..close);
            mark_path(tokens, columns);
        } else if close >= 3 && are(tokens, close - 3, &["empty", "on", "error"]) {
            tokens.drain(close - 3..close);
        }
        default_paths(tokens, columns + 1);
    }
}

/// The path before COLUMNS.
fn mark_path(tokens: &mut [TokenWithSpan], columns: usize) {
    if let Some(Token::SingleQuotedString(path)) =
        columns.checked_sub(1).and_then(|i| tokens.get_mut(i)).map(|t| &mut t.token)
    {
        path.insert_str(0, ERROR_MARK);
    }
}

fn default_paths(tokens: &mut Vec<TokenWithSpan>, open: usize) {
    let close = closing(tokens, open);
    let inside = level(tokens, open, close);
    let commas = inside.iter().copied().filter(|i| tokens[*i].token == Token::Comma);
    let ends: Vec<usize> = commas.chain([close]).collect();
    let starts: Vec<usize> = std::iter::once(open + 1).chain(ends.iter().map(|e| e + 1)).collect();
    for (start, end) in starts.into_iter().zip(ends).rev() {
        let on_level = |i: &usize| inside.contains(i) && (start..end).contains(i);
        let find = |word: &str| (start..end).filter(on_level).find(|i| is(tokens.get(*i), word));
        if is(tokens.get(start), "nested") {
            if let Some(columns) = find("columns") {
                default_paths(tokens, columns + 1);
            }
            continue;
        }
        if find("path").is_some() || are(tokens, start + 1, &["for", "ordinality"]) {
            continue;
        }
        let name = match tokens.get(start).map(|t| &t.token) {
            Some(Token::Word(w)) if w.quote_style.is_some() => w.value.clone(),
            Some(Token::Word(w)) => w.value.to_lowercase(),
            _ => continue,
        };
        let span = tokens[start].span;
        // Behind the type and EXISTS, before what is said of errors.
        let behaviour = (start + 2..end)
            .filter(on_level)
            .find(|i| ["default", "null", "error"].iter().any(|w| is(tokens.get(*i), w)));
        let before = behaviour.unwrap_or(end);
        let path = format!("$.\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
        let keyword = TokenWithSpan { token: Token::make_word("path", None), span };
        debug_assert!(matches!(&keyword.token, Token::Word(w) if w.keyword == Keyword::PATH));
        tokens.splice(before..before, [keyword, text(path, span)]);
    }
}

#[cfg(test)]
mod tests {
    use sqlparser::dialect::PostgreSqlDialect;
    use sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn rewrite(sql: &str) -> String {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location().unwrap();
        let solid = tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
        let words: Vec<String> = rewritten(solid).iter().map(|t| t.token.to_string()).collect();
        words.join(" ")
    }

    #[test]
    fn limit_with_ties_is_fetch_with_ties() {
        assert_eq!(
            rewrite("SELECT a FROM t ORDER BY a LIMIT 3 WITH TIES"),
            "SELECT a FROM t ORDER BY a fetch first 3 rows with ties"
        );
        assert_eq!(
            rewrite("SELECT a FROM t ORDER BY a LIMIT 3 WITH TIES OFFSET 2"),
            "SELECT a FROM t ORDER BY a OFFSET 2 fetch first 3 rows with ties"
        );
        assert_eq!(rewrite("SELECT ties FROM t LIMIT 3"), "SELECT ties FROM t LIMIT 3");
    }

    #[test]
    fn exclude_becomes_a_partition_key() {
        assert_eq!(
            rewrite("sum(a) OVER (ORDER BY b ROWS 1 PRECEDING EXCLUDE TIES)"),
            format!("sum ( a ) OVER ( partition by '{EXCLUDE_MARK}ties' ORDER BY b ROWS 1 PRECEDING )")
        );
        assert_eq!(
            rewrite("sum(a) OVER (PARTITION BY (c) RANGE CURRENT ROW EXCLUDE CURRENT ROW)"),
            format!("sum ( a ) OVER ( PARTITION BY '{EXCLUDE_MARK}current row' , ( c ) RANGE CURRENT ROW )")
        );
        assert_eq!(rewrite("WINDOW w AS (ROWS CURRENT ROW EXCLUDE NO OTHERS)"), "WINDOW w AS ( ROWS CURRENT ROW )");
        // Not of a frame.
        assert_eq!(rewrite("SELECT (exclude ties)"), "SELECT ( exclude ties )");
    }

    #[test]
    fn columns_of_json_tables_have_paths() {
        assert_eq!(
            rewrite(
                "JSON_TABLE(j, '$[*]' COLUMNS (a INT, \"B c\" numeric(4, 2) DEFAULT 1 ON EMPTY, n FOR ORDINALITY, p TEXT PATH '$.q', e BOOLEAN EXISTS, NESTED PATH '$.x' COLUMNS (y INT)) ERROR ON ERROR)"
            ),
            format!(
                "JSON_TABLE ( j , '{ERROR_MARK}$[*]' COLUMNS ( a INT path '$.\"a\"' , \"B c\" numeric ( 4 , 2 ) path '$.\"B c\"' \
                 DEFAULT 1 ON EMPTY , n FOR ORDINALITY , p TEXT PATH '$.q' , e BOOLEAN EXISTS path '$.\"e\"' , \
                 NESTED PATH '$.x' COLUMNS ( y INT path '$.\"y\"' ) ) )"
            )
        );
    }
}

//! The matcher against a list of all matches in the order of preference.

#![allow(clippy::unwrap_used)]

use datafusion::error::Result;

use super::clauses::{Clauses, Pattern, RowsPerMatch, Skip};
use super::program::Program;
use super::search::{Boundary, Conditions, Found, Path, Resume, Search, Step};
use super::{Piece, Shape, Within};
use crate::error::SqlError;
use sqlparser::ast::{SetExpr, TableFactor};

/// A reproducible stream of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Rows that satisfy sets of variables (bits), a limit of rows for some variables, and a time limit in rows.
#[derive(Clone)]
struct World {
    rows: Vec<u32>,
    limits: Vec<Option<usize>>,
    within: Option<usize>,
    before: u64,
}

impl World {
    fn holds(&self, variable: u32, row: usize) -> bool {
        self.rows[row] & (1 << variable) != 0
    }
    fn within_limit(&self, variable: u32, steps: &[Step]) -> bool {
        let mapped = steps.iter().filter(|s| s.variable == variable).count();
        self.limits[variable as usize].is_none_or(|max| mapped <= max)
    }
}

impl Conditions for World {
    fn begin(&mut self, _: u64) {}
    fn fixed(&self, variable: u32, row: usize) -> bool {
        self.holds(variable, row)
    }
    fn is_moving(&self, variable: u32) -> bool {
        self.limits[variable as usize].is_some()
    }
    fn moving(&mut self, variable: u32, path: &Path) -> Result<bool> {
        let listed = path.list(variable as usize).rows.len();
        let mapped = path.steps.iter().filter(|s| s.variable == variable).count();
        assert_eq!(listed, mapped, "rows of a variable are listed");
        Ok(self.within_limit(variable, &path.steps))
    }
    fn in_time(&self, start: usize, row: usize) -> bool {
        self.within.is_none_or(|n| row - start <= n)
    }
    fn last_time(&self, start: usize) -> Option<i64> {
        self.within.map(|n| (start + n) as i64)
    }
}

/// All ways to go on from `path` by the pattern, preferred ones first; `None` if they are too many.
fn ways(p: &Pattern, world: &World, start: usize, path: &[Step], excluded: bool) -> Option<Vec<Vec<Step>>> {
    const TOO_MANY: usize = 3_000;
    let all = match p {
        Pattern::Empty => vec![path.to_vec()],
        Pattern::Variable(v) => {
            let row = start + path.len();
            let mut next = path.to_vec();
            next.push(Step { variable: *v, excluded });
            let takes = row < world.rows.len()
                && world.within.is_none_or(|n| row - start <= n)
                && world.holds(*v, row)
                && world.within_limit(*v, &next);
            if takes { vec![next] } else { Vec::new() }
        }
        Pattern::Start if start + path.len() == 0 && world.before == 0 => vec![path.to_vec()],
        Pattern::End if start + path.len() == world.rows.len() => vec![path.to_vec()],
        Pattern::Start | Pattern::End => Vec::new(),
        Pattern::Concat(all) => sequence(all, world, start, path, excluded)?,
        Pattern::Either(all) => {
            let mut out = Vec::new();
            for p in all {
                out.extend(ways(p, world, start, path, excluded)?);
            }
            out
        }
        Pattern::Permute(all) => {
            let mut out = Vec::new();
            for order in orders(all) {
                out.extend(sequence(&order, world, start, path, excluded)?);
            }
            out
        }
        Pattern::Exclude(inner) => ways(inner, world, start, path, true)?,
        Pattern::Repeat { inner, min, max, greedy } => {
            repeated(inner, *min, *max, *greedy, world, start, path, excluded)?
        }
    };
    (all.len() <= TOO_MANY).then_some(all)
}

fn sequence(all: &[Pattern], world: &World, start: usize, path: &[Step], excluded: bool) -> Option<Vec<Vec<Step>>> {
    let mut out = vec![path.to_vec()];
    for p in all {
        let mut next = Vec::new();
        for path in &out {
            next.extend(ways(p, world, start, path, excluded)?);
        }
        out = next;
    }
    Some(out)
}

fn orders(all: &[Pattern]) -> Vec<Vec<Pattern>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let mut out = Vec::new();
    for (i, first) in all.iter().enumerate() {
        let rest: Vec<Pattern> = all.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, p)| p.clone()).collect();
        for mut order in orders(&rest) {
            order.insert(0, first.clone());
            out.push(order);
        }
    }
    out
}

#[expect(clippy::too_many_arguments, reason = "a recursion of a test over all of its state")]
fn repeated(
    inner: &Pattern,
    min: u32,
    max: Option<u32>,
    greedy: bool,
    world: &World,
    start: usize,
    path: &[Step],
    excluded: bool,
) -> Option<Vec<Vec<Step>>> {
    let less = |m: Option<u32>| m.map(|m| m - 1);
    if min > 0 {
        let mut out = Vec::new();
        for next in ways(inner, world, start, path, excluded)? {
            out.extend(repeated(inner, min - 1, less(max), greedy, world, start, &next, excluded)?);
        }
        return Some(out);
    }
    let mut more = Vec::new();
    if max != Some(0) {
        for next in ways(inner, world, start, path, excluded)? {
            // An optional repetition has rows.
            if next.len() > path.len() {
                more.extend(repeated(inner, 0, less(max), greedy, world, start, &next, excluded)?);
            }
        }
    }
    let stop = vec![path.to_vec()];
    Some(if greedy { [more, stop].concat() } else { [stop, more].concat() })
}

const VARIABLES: u64 = 3;

fn random_pattern(r: &mut Random, depth: u64) -> Pattern {
    let some = |r: &mut Random, depth: u64| -> Vec<Pattern> {
        (0..2 + r.below(2)).map(|_| random_pattern(r, depth)).collect()
    };
    if depth == 0 {
        return match r.below(12) {
            0 => Pattern::Start,
            1 => Pattern::End,
            2 => Pattern::Empty,
            _ => Pattern::Variable(r.below(VARIABLES) as u32),
        };
    }
    match r.below(9) {
        0 | 1 => Pattern::Concat(some(r, depth - 1)),
        2 => Pattern::Either(some(r, depth - 1)),
        3..=5 => {
            let inner = Box::new(random_pattern(r, depth - 1));
            let min = r.below(3) as u32;
            let max = (r.below(2) == 0).then(|| (min + r.below(3) as u32).max(1));
            Pattern::Repeat { inner, min, max, greedy: r.below(2) == 0 }
        }
        6 => Pattern::Permute(some(r, depth - 1)),
        7 => Pattern::Exclude(Box::new(random_pattern(r, depth - 1))),
        _ => random_pattern(r, 0),
    }
}

fn shape(pattern: &Pattern, skip: Skip, rows: RowsPerMatch, within: bool) -> Shape {
    Shape {
        width: 1,
        partition: Vec::new(),
        order: Vec::new(),
        variables: ["A", "B", "C"].map(str::to_owned).to_vec(),
        pattern: pattern.clone(),
        rows,
        skip,
        within: within.then_some(Within { months: 0, days: 0, nanoseconds: 1 }),
        slots: Vec::new(),
        defined: Vec::new(),
        output: Vec::new(),
    }
}

/// Matches as (first row, steps), or the message of an error.
type Matches = std::result::Result<Vec<(usize, Vec<Step>)>, String>;

fn by_search(shape: &Shape, world: &World, piece: Piece) -> std::result::Result<(Found, Vec<Boundary>), String> {
    searched(shape, world, piece).map(|(found, boundaries, _)| (found, boundaries))
}

fn searched(shape: &Shape, world: &World, piece: Piece) -> std::result::Result<(Found, Vec<Boundary>, Resume), String> {
    let program = Program::new(&shape.pattern).unwrap();
    let memorable = program.memorable(|v| !world.is_moving(v));
    let sets = (0..VARIABLES as u32).map(|v| vec![v]).collect();
    let mut search = Search::new(&program, &memorable, shape, piece, 0, sets);
    let mut found = Found::default();
    let (boundaries, resume) = search.run(shape, 0, &mut world.clone(), &mut found).map_err(|e| e.strip_backtrace())?;
    Ok((found, boundaries, resume))
}

fn matches_of(found: &Found) -> Vec<(usize, Vec<Step>)> {
    found.matches.iter().map(|m| (m.first as usize, found.steps[m.from as usize..m.to as usize].to_vec())).collect()
}

/// `None` if there are too many ways.
fn by_list(shape: &Shape, world: &World) -> Option<Matches> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < world.rows.len() {
        let Some(first) = ways(&shape.pattern, world, at, &[], false)?.into_iter().next() else {
            at += 1;
            continue;
        };
        let place = |found: Option<usize>| match found {
            Some(0) => Err("goes to the first row"),
            None => Err("goes to a variable that has no row"),
            Some(i) => Ok(i),
        };
        let on = match &shape.skip {
            _ if first.is_empty() => Ok(1),
            Skip::PastLastRow => Ok(first.len()),
            Skip::ToNextRow => Ok(1),
            Skip::ToFirst(of) => place(first.iter().position(|s| of.contains(&s.variable))),
            Skip::ToLast(of) => place(first.iter().rposition(|s| of.contains(&s.variable))),
        };
        out.push((at, first));
        match on {
            Ok(n) => at += n,
            Err(message) => return Some(Err(message.to_owned())),
        }
    }
    Some(Ok(out))
}

fn random_world(r: &mut Random) -> World {
    let n = r.below(8);
    World {
        rows: (0..n).map(|_| r.below(1 << VARIABLES) as u32 | r.below(1 << VARIABLES) as u32).collect(),
        limits: (0..VARIABLES).map(|_| (r.below(4) == 0).then(|| r.below(3) as usize)).collect(),
        within: (r.below(4) == 0).then(|| r.below(4) as usize),
        before: 0,
    }
}

fn whole(world: &World) -> Piece {
    Piece { before: world.before, ..Piece::whole(0, world.rows.len()) }
}

fn random_skip(r: &mut Random) -> Skip {
    match r.below(5) {
        0 | 1 => Skip::PastLastRow,
        2 => Skip::ToNextRow,
        3 => Skip::ToFirst(vec![r.below(VARIABLES) as u32]),
        _ => Skip::ToLast(vec![r.below(VARIABLES) as u32, 0]),
    }
}

#[test]
fn the_first_match_is_the_preferred_one_of_all() {
    let (mut compared, mut not_empty, mut errors) = (0, 0, 0);
    for seed in 0..12_000 {
        let mut r = Random(seed);
        let depth = 1 + r.below(3);
        let pattern = random_pattern(&mut r, depth);
        let world = random_world(&mut r);
        let skip = random_skip(&mut r);
        let shape = shape(&pattern, skip, RowsPerMatch::ShowEmpty, world.within.is_some());
        let Some(want) = by_list(&shape, &world) else { continue };
        let text = pattern.text(&shape.variables);
        let got = by_search(&shape, &world, whole(&world));
        compared += 1;
        match (want, got) {
            (Ok(want), Ok((found, _))) => {
                assert_eq!(matches_of(&found), want, "seed {seed}: {text} over {:?}", world.rows);
                not_empty += usize::from(want.iter().any(|m| m.1.len() > 1));
                let numbers: Vec<i64> = found.matches.iter().map(|m| m.number).collect();
                assert_eq!(numbers, (1..=want.len() as i64).collect::<Vec<_>>());
            }
            (Err(want), Err(got)) => {
                assert!(got.contains(&want), "seed {seed}: {text}: {got} is not {want}");
                errors += 1;
            }
            (want, got) => panic!("seed {seed}: {text} over {:?}: {want:?}, but {got:?}", world.rows),
        }
    }
    assert!(compared > 8_000 && not_empty > 1_000 && errors > 100, "{compared}, {not_empty}, {errors}");
}

#[test]
fn at_a_boundary_matching_begins_again_whatever_comes() {
    let mut tried = 0;
    for seed in 0..6_000 {
        let mut r = Random(seed);
        let depth = 1 + r.below(3);
        let pattern = random_pattern(&mut r, depth);
        let world = random_world(&mut r);
        let shape = shape(&pattern, random_skip(&mut r), RowsPerMatch::WithUnmatched, world.within.is_some());
        let Ok((found, boundaries)) = by_search(&shape, &world, whole(&world)) else { continue };
        for b in boundaries {
            let at = b.row as usize;
            // Other rows from there on, more or fewer.
            let mut other = world.clone();
            other.rows.truncate(at);
            other.rows.extend((0..r.below(4)).map(|_| r.below(1 << VARIABLES) as u32));
            let Ok((all, _)) = by_search(&shape, &other, whole(&other)) else { continue };
            let before = |f: &Found| -> Vec<_> { matches_of(f).into_iter().filter(|m| m.0 < at).collect() };
            let text = pattern.text(&shape.variables);
            assert_eq!(before(&found), before(&all), "seed {seed}: {text} before {at}");
            assert_eq!(before(&all).len() as u64, b.matches);
            // And the rows from there on alone give the rest.
            let rest = Piece { first: at, matches: b.matches, covered: at, ..whole(&other) };
            let (rest, _) = by_search(&shape, &other, rest).unwrap();
            let after: Vec<_> = matches_of(&all).into_iter().filter(|m| m.0 >= at).collect();
            assert_eq!(matches_of(&rest), after, "seed {seed}: {text} from {at}");
            let rows = |f: &Found| -> Vec<_> {
                let rows = f.rows.iter().filter(|o| o.attempt as usize >= at);
                rows.map(|o| (o.attempt, o.row, o.matched.map(|m| f.matches[m as usize].number), o.upto)).collect()
            };
            assert_eq!(rows(&rest), rows(&all), "seed {seed}: {text} from {at}");
            tried += 1;
        }
    }
    assert!(tried > 3_000, "{tried}");
}

/// Rows of the result before a row, or from there on.
fn result_of(found: &Found, which: impl Fn(u64) -> bool) -> Vec<(u32, u32, Option<i64>, u32)> {
    let rows = found.rows.iter().filter(|o| which(u64::from(o.attempt)));
    rows.map(|o| (o.attempt, o.row, o.matched.map(|m| found.matches[m as usize].number), o.upto)).collect()
}

#[test]
fn what_is_decided_stays_whatever_comes_after() {
    let (mut tried, mut cut_short) = (0, 0);
    for seed in 0..8_000 {
        let mut r = Random(seed);
        let depth = 1 + r.below(3);
        let pattern = random_pattern(&mut r, depth);
        let world = random_world(&mut r);
        let shape = shape(&pattern, random_skip(&mut r), RowsPerMatch::WithUnmatched, world.within.is_some());
        let text = pattern.text(&shape.variables);
        // The time of a row is its number: rows from `open` on are not before that.
        let open = r.below(world.rows.len() as u64 + 1) as usize;
        let since = (r.below(4) > 0).then(|| open as i64 + r.below(3) as i64);
        let mut other = world.clone();
        other.rows.truncate(open);
        if since == Some(open as i64) || since.is_none() {
            other.rows.extend((0..r.below(4)).map(|_| r.below(1 << VARIABLES) as u32));
        }
        // Matched up to there alone, and with rows that may go again.
        for decided in [true, false] {
            let piece =
                Piece { to: if decided { open } else { world.rows.len() }, open, since, decided, ..whole(&world) };
            let Ok((found, _, resume)) = searched(&shape, &world, piece) else { continue };
            let Ok((all, _)) = by_search(&shape, &other, whole(&other)) else { continue };
            assert!(resume.row as usize <= open, "seed {seed}: {text}");
            let before = |row: u64| row < resume.row;
            assert_eq!(result_of(&found, before), result_of(&all, before), "seed {seed}: {text} before {resume:?}");
            if decided {
                assert_eq!(
                    result_of(&found, |_| true),
                    result_of(&found, before),
                    "seed {seed}: {text}: more than decided"
                );
                cut_short += usize::from((resume.row as usize) < open);
            }
            let matches = all.matches.iter().filter(|m| u64::from(m.first) < resume.row).count();
            assert_eq!(matches as u64, resume.matches, "seed {seed}: {text}");
            let first = resume.row as usize;
            let rest = Piece { first, matches: resume.matches, covered: resume.covered as usize, ..whole(&other) };
            let (rest, _) = by_search(&shape, &other, rest).unwrap();
            assert_eq!(result_of(&rest, |_| true), result_of(&all, |row| !before(row)), "seed {seed}: {text}");
            tried += 1;
        }
    }
    assert!(tried > 8_000 && cut_short > 1_000, "{tried}, {cut_short}");
}

#[test]
fn patterns_that_blow_up_without_memory_do_not() {
    // (A* A*)* B over rows that are never B: exponential where failures are forgotten.
    let star = |p: Pattern| Pattern::Repeat { inner: Box::new(p), min: 0, max: None, greedy: true };
    let a = || star(Pattern::Variable(0));
    let world = World { rows: vec![1; 3_000], limits: vec![None; 3], within: None, before: 0 };
    for inner in [
        Pattern::Concat(vec![a(), a(), a()]),
        Pattern::Concat(vec![star(Pattern::Either(vec![Pattern::Variable(0), Pattern::Variable(0)]))]),
    ] {
        let pattern = Pattern::Concat(vec![inner, Pattern::Variable(1)]);
        let shape = shape(&pattern, Skip::PastLastRow, RowsPerMatch::One, false);
        let (found, _) = by_search(&shape, &world, whole(&world)).unwrap();
        assert!(found.matches.is_empty());
    }
}

#[test]
fn a_row_that_decides_nothing_is_a_boundary() {
    // A B over rows that are neither: every place is one, kept about 32 rows apart, the last always.
    let pattern = Pattern::Concat(vec![Pattern::Variable(0), Pattern::Variable(1)]);
    let world = World { rows: vec![4; 1_000], limits: vec![None; 3], within: None, before: 0 };
    let shape = shape(&pattern, Skip::PastLastRow, RowsPerMatch::One, false);
    let (_, boundaries) = by_search(&shape, &world, whole(&world)).unwrap();
    assert_eq!(boundaries.last(), Some(&Boundary { row: 1_000, matches: 0 }));
    assert!((20..60).contains(&boundaries.len()), "{}", boundaries.len());
    // A at the end waits for a B.
    let mut world = world;
    world.rows.push(1);
    let (_, boundaries) = by_search(&shape, &world, whole(&world)).unwrap();
    assert_eq!(boundaries.last(), Some(&Boundary { row: 1_000, matches: 0 }));
}

/// The clauses of `SELECT * FROM t MATCH_RECOGNIZE (..)`.
fn clauses(inside: &str) -> std::result::Result<Clauses, SqlError> {
    let query = crate::parse::parse_query(&format!("SELECT * FROM t MATCH_RECOGNIZE ({inside})"))?;
    let SetExpr::Select(select) = *query.body else { panic!("not a select") };
    let TableFactor::MatchRecognize { pattern, .. } = &select.from[0].relation else { panic!("not a pattern") };
    let text = pattern.to_string();
    let text = text.trim_start_matches('"').trim_end_matches('"').replace("\"\"", "\"");
    Ok(serde_json::from_str(&text).unwrap())
}

#[test]
fn patterns_are_read_as_they_are_written() {
    for pattern in [
        "A B+ C*",
        "A | B C | D",
        "(A | B)* C?",
        "A{2} B{2,} C{2,5} D{0,5}",
        "A*? B+? C?? D{2}? E{2,}? F{1,3}?",
        "PERMUTE(A, B C, (D | E))",
        "^ A B $",
        "A {- B C+ -} D",
        "(A () B)+",
        "{- A -}{2}",
    ] {
        let read =
            clauses(&format!("PATTERN ({pattern}) DEFINE A AS true")).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        let text = read.pattern.text(&read.shown);
        let again = clauses(&format!("PATTERN ({text}) DEFINE A AS true")).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(again, read, "{pattern}");
        let plain = |s: &str| s.replace(['(', ')', ' '], "");
        assert_eq!(plain(&text), plain(pattern));
    }
    let read = clauses("PATTERN (a?|B /* b */ \"C d\"{,3}) -- c\n DEFINE A AS true").unwrap();
    assert_eq!(read.variables, ["a", "b", "C d"]);
    assert_eq!(read.shown, ["a", "B", "C d"]);
    assert_eq!(read.pattern.text(&read.shown), "a? | (B C d{0,3})");
}

#[test]
fn clauses_are_read_in_any_of_their_forms() {
    let read = |rest: &str| clauses(&format!("{rest} DEFINE A AS true")).unwrap_or_else(|e| panic!("{rest}: {e}"));
    assert_eq!(read("PATTERN (A B)").rows, RowsPerMatch::One);
    assert_eq!(read("ONE ROW PER MATCH PATTERN (A B)").rows, RowsPerMatch::One);
    assert_eq!(read("ALL ROWS PER MATCH PATTERN (A B)").rows, RowsPerMatch::ShowEmpty);
    assert_eq!(read("ALL ROWS PER MATCH SHOW EMPTY MATCHES PATTERN (A B)").rows, RowsPerMatch::ShowEmpty);
    assert_eq!(read("ALL ROWS PER MATCH OMIT EMPTY MATCHES PATTERN (A B)").rows, RowsPerMatch::OmitEmpty);
    assert_eq!(read("ALL ROWS PER MATCH WITH UNMATCHED ROWS PATTERN (A B)").rows, RowsPerMatch::WithUnmatched);
    assert_eq!(read("AFTER MATCH SKIP TO NEXT ROW PATTERN (A B)").skip, Skip::ToNextRow);
    assert_eq!(read("AFTER MATCH SKIP TO FIRST B PATTERN (A B)").skip, Skip::ToFirst(vec![1]));
    assert_eq!(read("AFTER MATCH SKIP TO B PATTERN (A B)").skip, Skip::ToLast(vec![1]));
    assert_eq!(read("AFTER MATCH SKIP TO LAST u PATTERN (A B) SUBSET u = (A, B)").skip, Skip::ToLast(vec![0, 1]));
    assert_eq!(read("PATTERN (A B) WITHIN INTERVAL '1' HOUR").within.unwrap().0, "1 hours");
    assert_eq!(read("PATTERN (A) SUBSET u = (A) WITHIN INTERVAL '10 seconds'").within.unwrap().0, "10 seconds");
}

#[test]
fn errors_of_clauses_have_their_place() {
    for (inside, code, message, near) in [
        ("PATTERN (A B DEFINE A AS true", "42601", "syntax error", None),
        ("MEASURES A.x AS x DEFINE A AS true", "42601", "syntax error at or near \"DEFINE\"", Some("DEFINE")),
        ("PATTERN (A B)", "42601", "syntax error", None),
        ("PATTERN (A B{3,2}) DEFINE A AS true", "42601", "the quantifier {3,2} has no repetitions", Some("{3,2}")),
        ("PATTERN (A B{99999}) DEFINE A AS true", "54001", "the quantifier 99999 is larger", Some("99999")),
        ("PATTERN (A ^+) DEFINE A AS true", "42601", "an anchor cannot be repeated", Some("+")),
        ("PATTERN (A |) DEFINE A AS true", "42601", "syntax error at the end of the pattern", Some(") DEFINE")),
        ("PATTERN () DEFINE A AS true", "42601", "syntax error at the end of the pattern", Some(") DEFINE")),
        (
            "AFTER MATCH SKIP TO x PATTERN (A) DEFINE A AS true",
            "42704",
            "AFTER MATCH SKIP names \"x\"",
            Some("x PATTERN"),
        ),
        ("PATTERN (A) SUBSET u = (b) DEFINE A AS true", "42704", "SUBSET names \"b\"", Some("b) DEFINE")),
        (
            "ALL ROWS PER MATCH WITH UNMATCHED ROWS PATTERN (A {- B -}) DEFINE A AS true",
            "42601",
            "WITH UNMATCHED ROWS cannot be combined",
            None,
        ),
    ] {
        let e = clauses(inside).expect_err(inside);
        assert_eq!(e.code.0, code, "{inside}: {e}");
        assert!(e.message.starts_with(message), "{inside}: {e}");
        if let Some(near) = near {
            let text = format!("SELECT * FROM t MATCH_RECOGNIZE ({inside})");
            assert_eq!(e.position, Some(text.find(near).unwrap() + 1), "{inside}: {e}");
        }
    }
}

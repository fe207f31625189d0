//! What a path finds in a value.
//!
//! In lax mode arrays are opened where something else is expected, single values stand for arrays, and what is not there
//! is nothing. In strict mode all of these are errors; inside of a condition an error makes it unknown.

use std::borrow::Cow;

use super::number::{Number, compare};
use super::parse::{Arithmetic, Comparison, Condition, Expr, Method, Path, Step, Subscript};
use crate::error::{SqlError, SqlState};
use crate::functions::json::value::{Json, Kind, parse_canonical};

/// A value that was found: a part of the document, or made.
pub(in crate::functions::json) type Item<'j> = Cow<'j, Json<'j>>;

type Result<T> = std::result::Result<T, SqlError>;

/// True, false or unknown.
type Truth = Option<bool>;

const MEMBER_NOT_FOUND: SqlState = SqlState("2203A");
const ARRAY_NOT_FOUND: SqlState = SqlState("22039");
const OBJECT_NOT_FOUND: SqlState = SqlState("2203C");
const INVALID_SUBSCRIPT: SqlState = SqlState("22033");
const NON_NUMERIC: SqlState = SqlState("22036");
const SINGLETON: SqlState = SqlState("22038");

impl Path {
    /// Everything the path finds in `root`. `variables` is an object, or nothing.
    pub(in crate::functions::json) fn find<'j>(
        &self,
        root: &'j Json<'j>,
        variables: Option<&'j Json<'j>>,
    ) -> Result<Vec<Item<'j>>> {
        let run = Run { strict: self.strict, root, variables };
        let mut out = Vec::new();
        run.eval(&self.expr, &Cow::Borrowed(root), &mut out)?;
        Ok(out)
    }
}

struct Run<'j> {
    strict: bool,
    root: &'j Json<'j>,
    variables: Option<&'j Json<'j>>,
}

fn error<T>(code: SqlState, message: impl Into<String>) -> Result<T> {
    Err(SqlError::new(code, message))
}

/// The elements of an array.
fn elements<'j>(item: &Item<'j>) -> Option<Vec<Item<'j>>> {
    match item {
        Cow::Borrowed(Json::Array(all)) => Some(all.iter().map(Cow::Borrowed).collect()),
        Cow::Owned(Json::Array(all)) => Some(all.iter().cloned().map(Cow::Owned).collect()),
        _ => None,
    }
}

/// The members of an object.
fn members<'j>(item: &Item<'j>) -> Option<Vec<(String, Item<'j>)>> {
    match item {
        Cow::Borrowed(Json::Object(all)) => {
            Some(all.iter().map(|(k, v)| (k.clone().into_owned(), Cow::Borrowed(v))).collect())
        }
        Cow::Owned(Json::Object(all)) => {
            Some(all.iter().map(|(k, v)| (k.clone().into_owned(), Cow::Owned(v.clone()))).collect())
        }
        _ => None,
    }
}

fn member<'j>(item: &Item<'j>, key: &str) -> Option<Item<'j>> {
    match item {
        Cow::Borrowed(json) => json.get(key).map(Cow::Borrowed),
        Cow::Owned(json) => json.get(key).cloned().map(Cow::Owned),
    }
}

fn owned<'j>(json: Json<'j>) -> Item<'j> {
    Cow::Owned(json)
}

fn number<'j>(n: Number) -> Item<'j> {
    owned(Json::Number(n.text().into()))
}

impl<'j> Run<'j> {
    fn eval(&self, e: &Expr, current: &Item<'j>, out: &mut Vec<Item<'j>>) -> Result<()> {
        match e {
            Expr::Root => out.push(Cow::Borrowed(self.root)),
            Expr::Current => out.push(current.clone()),
            Expr::Variable(name) => match self.variables.and_then(|v| v.get(name)) {
                Some(value) => out.push(Cow::Borrowed(value)),
                None => {
                    let message = format!("could not find jsonpath variable \"{name}\"");
                    return error(SqlState::UNDEFINED_OBJECT, message);
                }
            },
            Expr::Null => out.push(owned(Json::Null)),
            Expr::Bool(b) => out.push(owned(Json::Bool(*b))),
            Expr::Number(n) => {
                let mut plain = Json::Number(n.clone().into());
                plain.canonical();
                out.push(owned(plain));
            }
            Expr::String(s) => out.push(owned(Json::String(s.clone().into()))),
            Expr::Steps(base, steps) => {
                let mut items = Vec::new();
                self.eval(base, current, &mut items)?;
                for step in steps {
                    let mut next = Vec::new();
                    for item in &items {
                        self.step(step, item, true, &mut next)?;
                    }
                    items = next;
                }
                out.extend(items);
            }
            Expr::Sign { negative, of } => {
                let mut items = Vec::new();
                self.eval(of, current, &mut items)?;
                for item in self.opened(items) {
                    let Json::Number(n) = item.as_ref() else {
                        let sign = if *negative { '-' } else { '+' };
                        let message = format!("operand of unary jsonpath operator {sign} is not a numeric value");
                        return error(SqlState("2203B"), message);
                    };
                    let n = Number::parse(n)?;
                    out.push(number(if *negative { n.negated() } else { n }));
                }
            }
            Expr::Arithmetic(operator, a, b) => {
                let (a, b) =
                    (self.operand(a, current, *operator, "left")?, self.operand(b, current, *operator, "right")?);
                out.push(number(match operator {
                    Arithmetic::Add => a.add(b)?,
                    Arithmetic::Subtract => a.add(b.negated())?,
                    Arithmetic::Multiply => a.multiply(b)?,
                    Arithmetic::Divide => a.divide(b)?,
                    Arithmetic::Modulo => a.modulo(b)?,
                }));
            }
            Expr::Condition(c) => {
                out.push(owned(self.truth(c, current)?.map_or(Json::Null, Json::Bool)));
            }
        }
        Ok(())
    }

    fn operand(&self, e: &Expr, current: &Item<'j>, operator: Arithmetic, side: &str) -> Result<Number> {
        let mut items = Vec::new();
        self.eval(e, current, &mut items)?;
        match self.opened(items).as_slice() {
            [item] if matches!(item.as_ref(), Json::Number(_)) => match item.as_ref() {
                Json::Number(n) => Number::parse(n),
                _ => error(SINGLETON, "no number"),
            },
            _ => {
                let sign = match operator {
                    Arithmetic::Add => '+',
                    Arithmetic::Subtract => '-',
                    Arithmetic::Multiply => '*',
                    Arithmetic::Divide => '/',
                    Arithmetic::Modulo => '%',
                };
                error(SINGLETON, format!("{side} operand of jsonpath operator {sign} is not a single numeric value"))
            }
        }
    }

    /// In lax mode arrays are their elements.
    fn opened(&self, items: Vec<Item<'j>>) -> Vec<Item<'j>> {
        if self.strict || !items.iter().any(|i| i.kind() == Kind::Array) {
            return items;
        }
        items.into_iter().flat_map(|i| elements(&i).unwrap_or_else(|| vec![i])).collect()
    }

    /// `open`: an array where none is expected may be opened, in lax mode.
    fn step(&self, step: &Step, item: &Item<'j>, open: bool, out: &mut Vec<Item<'j>>) -> Result<()> {
        let opens = match step {
            Step::Key(_) | Step::AnyKey | Step::Filter(_) => true,
            Step::Method(m) => !matches!(m, Method::Type | Method::Size),
            Step::AnyElement | Step::Elements(_) | Step::Deep { .. } => false,
        };
        if open
            && opens
            && !self.strict
            && let Some(all) = elements(item)
        {
            return all.iter().try_for_each(|e| self.step(step, e, false, out));
        }
        match step {
            Step::Key(key) => match (member(item, key), item.kind()) {
                (Some(value), _) => out.push(value),
                (None, _) if !self.strict => {}
                (None, Kind::Object) => {
                    return error(MEMBER_NOT_FOUND, format!("JSON object does not contain key \"{key}\""));
                }
                (None, _) => {
                    return error(MEMBER_NOT_FOUND, "jsonpath member accessor can only be applied to an object");
                }
            },
            Step::AnyKey => match members(item) {
                Some(all) => out.extend(all.into_iter().map(|(_, v)| v)),
                None if !self.strict => {}
                None => {
                    let message = "jsonpath wildcard member accessor can only be applied to an object";
                    return error(OBJECT_NOT_FOUND, message);
                }
            },
            Step::AnyElement => match elements(item) {
                Some(all) => out.extend(all),
                None if !self.strict => out.push(item.clone()),
                None => {
                    let message = "jsonpath wildcard array accessor can only be applied to an array";
                    return error(ARRAY_NOT_FOUND, message);
                }
            },
            Step::Elements(ranges) => self.subscripts(ranges, item, out)?,
            Step::Deep { from, to } => deep(item, 0, (*from, *to), out),
            Step::Filter(condition) => {
                if self.truth(condition, item)? == Some(true) {
                    out.push(item.clone());
                }
            }
            Step::Method(method) => self.method(*method, item, out)?,
        }
        Ok(())
    }

    fn subscripts(
        &self,
        ranges: &[(Subscript, Option<Subscript>)],
        item: &Item<'j>,
        out: &mut Vec<Item<'j>>,
    ) -> Result<()> {
        let all = match elements(item) {
            Some(all) => all,
            None if !self.strict => vec![item.clone()],
            None => return error(ARRAY_NOT_FOUND, "jsonpath array accessor can only be applied to an array"),
        };
        let n = all.len() as i64;
        let place = |s: Subscript| match s {
            Subscript::At(i) => i,
            Subscript::Last(back) => n - 1 - back,
        };
        for (from, to) in ranges {
            let from = place(*from);
            let to = to.map_or(from, place);
            if self.strict && (from < 0 || from > to || to >= n) {
                return error(INVALID_SUBSCRIPT, "jsonpath array subscript is out of bounds");
            }
            let (from, to) = (from.max(0), to.min(n - 1));
            out.extend((from..=to).filter_map(|i| all.get(i as usize).cloned()));
        }
        Ok(())
    }

    fn method(&self, method: Method, item: &Item<'j>, out: &mut Vec<Item<'j>>) -> Result<()> {
        let no_number = |name: &str| {
            let message = format!("jsonpath item method .{name}() can only be applied to a numeric value");
            SqlError::new(NON_NUMERIC, message)
        };
        let numeric = |name: &str| match item.as_ref() {
            Json::Number(n) => Number::parse(n),
            _ => Err(no_number(name)),
        };
        // A number, or a string that is one.
        let read = |name: &str| match item.as_ref() {
            Json::Number(s) | Json::String(s) => match parse_canonical(s.trim()) {
                Ok(Json::Number(n)) => Ok(n.into_owned()),
                _ => {
                    let message =
                        format!("argument \"{s}\" of jsonpath item method .{name}() is invalid for type numeric");
                    error(NON_NUMERIC, message)
                }
            },
            _ => {
                let message =
                    format!("jsonpath item method .{name}() can only be applied to a string or numeric value");
                error(NON_NUMERIC, message)
            }
        };
        out.push(match method {
            Method::Type => owned(Json::String(item.kind().name().into())),
            Method::Size => match item.as_ref() {
                Json::Array(all) => number(Number::whole(all.len() as i64)),
                _ if !self.strict => number(Number::whole(1)),
                _ => return error(ARRAY_NOT_FOUND, "jsonpath item method .size() can only be applied to an array"),
            },
            Method::Double => {
                let value: f64 = read("double")?.parse().unwrap_or(f64::NAN);
                if !value.is_finite() {
                    return error(NON_NUMERIC, "NaN or Infinity is not allowed for jsonpath item method .double()");
                }
                let mut json = Json::Number(value.to_string().into());
                json.canonical();
                owned(json)
            }
            Method::Number => owned(Json::Number(read("number")?.into())),
            Method::Integer => number(Number::parse(&read("integer")?)?.rounded()?),
            Method::Ceiling => number(numeric("ceiling")?.ceiling()?),
            Method::Floor => number(numeric("floor")?.floor()?),
            Method::Abs => number(numeric("abs")?.abs()),
            Method::Boolean => owned(Json::Bool(boolean(item)?)),
            Method::String => owned(Json::String(match item.as_ref() {
                Json::String(s) => s.clone(),
                Json::Number(n) => n.clone(),
                Json::Bool(b) => b.to_string().into(),
                _ => {
                    let message = "jsonpath item method .string() can only be applied to a boolean, string, numeric, \
                                   or datetime value";
                    return error(NON_NUMERIC, message);
                }
            })),
            Method::KeyValue => match members(item) {
                Some(all) => {
                    out.extend(all.into_iter().map(|(key, value)| {
                        let id = (Cow::Borrowed("id"), Json::Number("0".into()));
                        let key = (Cow::Borrowed("key"), Json::String(key.into()));
                        let value = (Cow::Borrowed("value"), value.into_owned());
                        let mut made = Json::Object(vec![id, key, value]);
                        made.canonical();
                        owned(made)
                    }));
                    return Ok(());
                }
                None => {
                    let message = "jsonpath item method .keyvalue() can only be applied to an object";
                    return error(OBJECT_NOT_FOUND, message);
                }
            },
        });
        Ok(())
    }

    /// What a condition says. Errors of what it looks at make it unknown; missing variables stay errors.
    fn truth(&self, condition: &Condition, current: &Item<'j>) -> Result<Truth> {
        Ok(match condition {
            Condition::And(a, b) => match self.truth(a, current)? {
                Some(false) => Some(false),
                a => match (a, self.truth(b, current)?) {
                    (_, Some(false)) => Some(false),
                    (Some(true), b) => b,
                    _ => None,
                },
            },
            Condition::Or(a, b) => match self.truth(a, current)? {
                Some(true) => Some(true),
                a => match (a, self.truth(b, current)?) {
                    (_, Some(true)) => Some(true),
                    (Some(false), b) => b,
                    _ => None,
                },
            },
            Condition::Not(c) => self.truth(c, current)?.map(|t| !t),
            Condition::IsUnknown(c) => Some(self.truth(c, current)?.is_none()),
            Condition::Exists(e) => self.seen(e, current)?.map(|items| !items.is_empty()),
            Condition::Compare(comparison, a, b) => {
                let (Some(a), Some(b)) = (self.seen(a, current)?, self.seen(b, current)?) else { return Ok(None) };
                let (a, b) = (self.opened(a), self.opened(b));
                self.any(a.iter().flat_map(|x| b.iter().map(move |y| (x, y))), |(x, y)| compared(*comparison, x, y))
            }
            Condition::StartsWith(e, start) => {
                let (Some(all), Some(start)) = (self.seen(e, current)?, self.seen(start, current)?) else {
                    return Ok(None);
                };
                let [Cow::Owned(Json::String(start)) | Cow::Borrowed(Json::String(start))] = start.as_slice() else {
                    return Ok(None);
                };
                self.any(self.opened(all).iter(), |item| match item.as_ref() {
                    Json::String(s) => Some(s.starts_with(start.as_ref())),
                    _ => None,
                })
            }
            Condition::LikeRegex(e, pattern) => {
                let Some(all) = self.seen(e, current)? else { return Ok(None) };
                self.any(self.opened(all).iter(), |item| match item.as_ref() {
                    Json::String(s) => Some(pattern.0.is_match(s)),
                    _ => None,
                })
            }
        })
    }

    /// What is found; `None` if that is an error of the data.
    fn seen(&self, e: &Expr, current: &Item<'j>) -> Result<Option<Vec<Item<'j>>>> {
        let mut items = Vec::new();
        match self.eval(e, current, &mut items) {
            Ok(()) => Ok(Some(items)),
            Err(e) if e.code == SqlState::UNDEFINED_OBJECT => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// True if it is true of any; unknown if it is unknown of one, in strict mode even then.
    fn any<T>(&self, all: impl Iterator<Item = T>, f: impl Fn(T) -> Truth) -> Truth {
        let (mut found, mut unknown) = (false, false);
        for x in all {
            match f(x) {
                None if self.strict => return None,
                None => unknown = true,
                Some(true) if !self.strict => return Some(true),
                Some(true) => found = true,
                Some(false) => {}
            }
        }
        match (found, unknown) {
            (true, _) => Some(true),
            (false, true) => None,
            (false, false) => Some(false),
        }
    }
}

fn boolean(item: &Item<'_>) -> Result<bool> {
    let wrong = |shown: &str| {
        let message = format!("argument \"{shown}\" of jsonpath item method .boolean() is invalid for type boolean");
        error(NON_NUMERIC, message)
    };
    match item.as_ref() {
        Json::Bool(b) => Ok(*b),
        Json::Number(n) => match n.parse::<i64>() {
            Ok(n) => Ok(n != 0),
            Err(_) => wrong(n),
        },
        Json::String(s) => match s.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => Ok(true),
            "f" | "false" | "n" | "no" | "off" | "0" => Ok(false),
            _ => wrong(s),
        },
        _ => {
            let message = "jsonpath item method .boolean() can only be applied to a boolean, string, or numeric value";
            error(NON_NUMERIC, message)
        }
    }
}

fn deep<'j>(item: &Item<'j>, level: u32, range: (Option<u32>, Option<u32>), out: &mut Vec<Item<'j>>) {
    let below: Vec<Item<'j>> = elements(item)
        .or_else(|| members(item).map(|all| all.into_iter().map(|(_, v)| v).collect()))
        .unwrap_or_default();
    // `last` are the leaves.
    let leaf = below.is_empty();
    let from = range.0.map_or(leaf, |from| level >= from);
    let to = range.1.is_none_or(|to| level <= to);
    if from && to {
        out.push(item.clone());
    }
    if range.1.is_none_or(|to| level < to) {
        below.iter().for_each(|b| deep(b, level + 1, range, out));
    }
}

/// NULL is equal to itself and to nothing else; what cannot be compared is unknown.
fn compared(comparison: Comparison, a: &Item<'_>, b: &Item<'_>) -> Truth {
    use std::cmp::Ordering;
    let order = match (a.as_ref(), b.as_ref()) {
        (Json::Null, Json::Null) => Ordering::Equal,
        (Json::Null, _) | (_, Json::Null) => return Some(comparison == Comparison::NotEqual),
        (Json::Bool(a), Json::Bool(b)) => a.cmp(b),
        (Json::Number(a), Json::Number(b)) => compare(a, b),
        (Json::String(a), Json::String(b)) => a.cmp(b),
        _ => return None,
    };
    Some(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    })
}

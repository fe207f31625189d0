use super::*;

/// What the path finds, one value after the other; or the code of its error.
fn find(json: &str, path: &str) -> String {
    let document = parse_canonical(json).unwrap();
    let path = match Path::parse(path) {
        Ok(path) => path,
        Err(e) => return format!("{} {}", e.code.0, e.message),
    };
    let variables = parse_canonical(r#"{"low": 2, "word": "ab"}"#).unwrap();
    match path.find(&document, Some(&variables)) {
        Ok(items) => items.iter().map(|i| i.to_jsonb()).collect::<Vec<_>>().join(" "),
        Err(e) => e.code.0.to_owned(),
    }
}

fn check(json: &str, cases: &[(&str, &str)]) {
    for (path, found) in cases {
        assert_eq!(find(json, path), *found, "{path} in {json}");
    }
}

#[test]
fn keys_and_subscripts() {
    check(
        r#"{"a": {"b": [1, 2, {"c": null}]}, "k y": "v", "x": [[1], [2, 3]]}"#,
        &[
            ("$", r#"{"a": {"b": [1, 2, {"c": null}]}, "x": [[1], [2, 3]], "k y": "v"}"#),
            ("$.a.b[*]", r#"1 2 {"c": null}"#),
            ("lax $.a.b[0]", "1"),
            ("$.a.b[last]", r#"{"c": null}"#),
            ("$.a.b[last - 1, 0 to 1]", "2 1 2"),
            ("$.a.b[7]", ""),
            ("strict $.a.b[7]", "22033"),
            ("$.\"k y\"", r#""v""#),
            ("$.nothing", ""),
            ("strict $.nothing", "2203A"),
            ("$.a.*", r#"[1, 2, {"c": null}]"#),
            ("$.x[*][0]", "1 2"),
            ("$.x[0 to 1].size()", "1 2"),
            ("$.a.b.c", "null"),
            ("strict $.a.b.c", "2203A"),
            ("$.a[0].b[0]", "1"),
            ("strict $.a[0]", "22039"),
            // Once through the array, which is opened, and once itself: as in Postgres.
            ("$.**.c", "null null"),
            ("$.**{1}.b", "[1, 2, {\"c\": null}]"),
        ],
    );
}

#[test]
fn filters_and_conditions() {
    check(
        r#"{"items": [{"n": 1, "s": "abc"}, {"n": 2.0, "s": "xyz"}, {"n": "three"}, {"s": "Abd"}], "top": 5}"#,
        &[
            ("$.items[*] ? (@.n > 1).s", r#""xyz""#),
            ("$.items[*].n ? (@ == 2)", "2.0"),
            ("$.items[*] ? (@.n >= $low).n", "2.0"),
            ("$.items[*] ? (@.s starts with $word).n", "1"),
            ("$.items[*].s ? (@ like_regex \"^ab\" flag \"i\")", r#""abc" "Abd""#),
            // A text and a number cannot be compared, and what is unknown stays so.
            ("$.items[*] ? (exists(@.n) && !(@.n == 1)).n", "2.0"),
            ("$.items[*] ? ((@.n > 1) is unknown).n", r#""three""#),
            ("$.items[*] ? (!exists(@.s) || @.n == 1).n", r#"1 "three""#),
            ("$.top ? (@ > 4 && @ < 6)", "5"),
            ("$.top > 4", "true"),
            ("$.nothing > 4", "false"),
            ("$.items[*].n > 100", "null"),
            ("$.items[*].n == null", "false"),
            ("$.items[*] ? (@.n <> null).n", r#"1 2.0 "three""#),
            ("$.items ? (@.n == 1).s", r#""abc""#),
            ("$.nothing ? (@ == $missing)", ""),
            ("$.top ? (@ == $missing)", "42704"),
        ],
    );
}

#[test]
fn arithmetic_and_methods() {
    check(
        r#"{"a": 7, "b": [1.5, -2.5], "s": "12.50", "t": true}"#,
        &[
            ("$.a + 1", "8"),
            ("$.a * 0.5 - 1", "2.5"),
            ("$.a % 4", "3"),
            ("1 / 3", "0.33333333333333333333"),
            ("$.a / 0", "22012"),
            ("-$.b[*]", "-1.5 2.5"),
            ("$.b + 1", "22038"),
            ("$.b[*].floor()", "1 -3"),
            ("$.b.ceiling()", "2 -2"),
            ("$.b[1].abs()", "2.5"),
            ("$.s.double()", "12.5"),
            ("$.s.number() + 1", "13.50"),
            ("$.t.double()", "22036"),
            ("$.*.type()", r#""number" "array" "string" "boolean""#),
            ("$.a.size()", "1"),
            ("$.t.string()", r#""true""#),
            ("$.keyvalue().key", r#""a" "b" "s" "t""#),
            ("(1 + 2) * 3", "9"),
            ("$.a.string() starts with \"7\"", "true"),
        ],
    );
}

#[test]
fn what_is_no_path_is_refused_with_its_place() {
    for (path, message) in [
        ("", "42601 syntax error at end of jsonpath input"),
        ("$.", "42601 syntax error at end of jsonpath input"),
        ("$.a ? (@.b)", "42601 syntax error at or near \")\" of jsonpath input"),
        ("$.a b", "42601 syntax error at or near \"b\" of jsonpath input"),
        ("$[$.i]", "0A000 a subscript that is computed in a jsonpath is not supported"),
        ("$.d.datetime()", "0A000 the method datetime() in a jsonpath is not supported"),
        ("$ ? (@ like_regex \"(\")", "2201B invalid regular expression: ("),
    ] {
        assert_eq!(find("1", path), message, "{path}");
    }
    assert!(find("1", &format!("{}1{}", "(".repeat(500), ")".repeat(500))).starts_with("54001"));
}

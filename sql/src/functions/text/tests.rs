//! Functions of text, called by SQL.

use crate::session::testing::check_values;

#[test]
fn format_has_positions_and_widths() {
    check_values(&[
        ("format('Hello %s', 'World')", "Hello World"),
        ("format('%s, %%, %I, %L', 1, 'Ab c', 'it''s')", "1, %, \"Ab c\", 'it''s'"),
        ("format('|%10s|%-5s|', 'a', 'b')", "|         a|b    |"),
        ("format('%2$s %1$s %s', 'a', 'b')", "b a b"),
        ("format('|%*s|', 4, 'x')", "|   x|"),
        ("format('%s%L', NULL, NULL)", "NULL"),
        ("format('%s', true)", "t"),
        ("format('%s')", "ERROR 22023"),
        ("format('%x', 1)", "ERROR 22023"),
        ("format('%I', NULL::text)", "ERROR 22004"),
    ]);
}

#[test]
fn regular_expressions_give_parts_of_a_text() {
    check_values(&[
        ("regexp_substr('foobarbaz', 'b(..)', 1, 2)", "baz"),
        ("regexp_substr('foobarbaz', 'b(..)', 1, 1, 'i', 1)", "ar"),
        ("substring('foobar' FROM 'o(.)b')", "o"),
        ("substring('foobar' FROM 'o.b')", "oob"),
        ("array_to_string(regexp_split_to_array('the quick', '\\s+'), '-')", "the-quick"),
        ("array_to_string(regexp_match('foobarbequebaz', '(bar)(beque)'), '-')", "bar-beque"),
        ("regexp_substr('a', '(')", "ERROR 2201B"),
        ("regexp_substr('a', 'a', 0)", "ERROR 22023"),
    ]);
}

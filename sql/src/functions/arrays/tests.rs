//! Functions and operators of arrays, called by SQL.

use crate::session::testing::check_values;

#[test]
fn empty_arrays_have_no_dimensions_and_subscripts_do_not_count_from_the_end() {
    check_values(&[
        ("array_length(ARRAY[]::int[], 1)", "NULL"),
        ("array_ndims(ARRAY[[1,2],[3,4]])", "2"),
        ("array_dims(ARRAY[[1,2,3],[3,4,5]])", "[1:2][1:3]"),
        ("cardinality(ARRAY[[1,2],[3,4]])", "4"),
        ("array_upper(ARRAY[5,6], 2)", "NULL"),
        ("(ARRAY[1,2,3])[-1]", "NULL"),
        ("(ARRAY[1,2,3])[2]", "2"),
        ("(ARRAY[1,2,3])[2:]::text", "{2,3}"),
        ("(ARRAY[1,2,3])[:2]::text", "{1,2}"),
        ("(ARRAY[1,2,3])[-5:9]::text", "{1,2,3}"),
        ("(ARRAY[1,2,3])[3:2]::text", "{}"),
        ("trim_array(ARRAY[1,2,3], 2)::text", "{1}"),
        ("trim_array(ARRAY[1,2,3], 4)", "ERROR 2202E"),
    ]);
}

#[test]
fn elements_are_searched_removed_and_replaced_with_null_among_them() {
    check_values(&[
        ("array_position(ARRAY[1,NULL,3], NULL)", "2"),
        ("array_position(ARRAY['a','b','a'], 'a', 2)", "3"),
        ("array_positions(ARRAY[1,2,1], 1)::text", "{1,3}"),
        ("array_remove(ARRAY[1,NULL,1,2], 1)::text", "{NULL,2}"),
        ("array_remove(ARRAY[1,NULL], NULL)::text", "{1}"),
        ("array_replace(ARRAY[1,NULL,1], 1, 5)::text", "{5,NULL,5}"),
        ("array_replace(ARRAY[1,NULL], NULL, 0)::text", "{1,0}"),
    ]);
}

#[test]
fn containment_knows_no_null_and_comparisons_are_three_valued() {
    check_values(&[
        ("ARRAY[1,2] @> ARRAY[2]", "true"),
        ("ARRAY[1,NULL] @> ARRAY[NULL]::int[]", "false"),
        ("ARRAY[1] @> ARRAY[]::int[]", "true"),
        ("ARRAY[1] <@ ARRAY[1,2]", "true"),
        ("ARRAY[1,2] && ARRAY[2,3]", "true"),
        ("ARRAY[NULL]::int[] && ARRAY[NULL]::int[]", "false"),
        ("1 >= ANY (ARRAY[NULL, 3])", "NULL"),
        ("4 >= ANY (ARRAY[NULL, 3])", "true"),
        ("4 < ALL (ARRAY[5, NULL])", "NULL"),
        ("4 < ALL (ARRAY[3, NULL])", "false"),
        ("4 < ALL ('{5,6}')", "true"),
        ("NULL < ANY (ARRAY[]::int[])", "false"),
        ("2 = ANY ('{1,2}')", "true"),
    ]);
}

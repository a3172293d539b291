/* test_id_table.c - ids to ordinals and back. */
#include "scratch.h"

#include "data/id_table.h"

static void numbers_ids_in_order_of_first_appearance(void **state)
{
    csp_id_table *table = NULL;
    int64_t index = -1;
    bool is_new = false;

    assert_int_equal(csp_id_table_create(&table), CSP_OK);
    assert_int_equal(csp_id_table_find(table, "x", 1), -1);
    assert_int_equal(csp_id_table_add(table, "MED-10", 6, &index, &is_new), CSP_OK);
    assert_int_equal(index, 0);
    assert_true(is_new);
    assert_int_equal(csp_id_table_add(table, "MED-1", 5, &index, &is_new), CSP_OK);
    assert_int_equal(index, 1);
    assert_int_equal(csp_id_table_add(table, "MED-10", 6, &index, &is_new), CSP_OK);
    assert_int_equal(index, 0);
    assert_false(is_new);
    assert_int_equal(csp_id_table_count(table), 2);
    assert_string_equal(csp_id_table_id(table, 1), "MED-1");
    assert_int_equal(csp_id_table_find(table, "MED", 3), -1);
    assert_int_equal(csp_id_table_find(table, "MED-100", 7), -1);
    csp_id_table_destroy(table);
    csp_id_table_destroy(NULL);
}

static void finds_each_of_many_ids(void **state)
{
    csp_id_table *table = NULL;
    char id[32];

    assert_int_equal(csp_id_table_create(&table), CSP_OK);
    for (int64_t i = 0; i < 50000; i++) {
        int64_t index = -1;
        bool is_new = false;
        const int bytes = snprintf(id, sizeof(id), "%lld", (long long)i * 7919);

        assert_int_equal(csp_id_table_add(table, id, bytes, &index, &is_new), CSP_OK);
        assert_true(is_new);
        assert_int_equal(index, i);
    }
    for (int64_t i = 0; i < 50000; i++) {
        const int bytes = snprintf(id, sizeof(id), "%lld", (long long)i * 7919);

        assert_int_equal(csp_id_table_find(table, id, bytes), i);
        assert_string_equal(csp_id_table_id(table, i), id);
    }
    assert_int_equal(csp_id_table_find(table, "-1", 2), -1);
    csp_id_table_destroy(table);
}

static void stays_whole_when_memory_fails(void **state)
{
    csp_id_table *table = NULL;
    char id[32];
    int failures = 0;

    assert_int_equal(csp_id_table_create(&table), CSP_OK);
    for (int64_t i = 0; i < 2000; i++) {
        int64_t index = -1;
        bool is_new = false;
        const int bytes = snprintf(id, sizeof(id), "doc%lld", (long long)i);

        csp_fault_arm(1);
        if (csp_id_table_add(table, id, bytes, &index, &is_new) != CSP_OK) {
            failures++;
            csp_fault_arm(0);
            assert_int_equal(csp_id_table_count(table), i);
            assert_int_equal(csp_id_table_add(table, id, bytes, &index, &is_new), CSP_OK);
        }
        csp_fault_arm(0);
        assert_int_equal(index, i);
    }
    assert_true(failures > 3);
    assert_int_equal(csp_id_table_find(table, "doc1234", 7), 1234);
    csp_id_table_destroy(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_ids_in_order_of_first_appearance),
        cmocka_unit_test(finds_each_of_many_ids),
        cmocka_unit_test(stays_whole_when_memory_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_contract.c - the text contract as JSON, its limits, and its comparison. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "io/contract.h"

static const char good[] =
    "{\"version\": 1, \"variant\": \"echo\", \"query_prefix\": \"q: \", \"passage_prefix\": \"\","
    "\"query_max_len\": 64, \"passage_max_len\": 192, \"add_bos\": true, \"append_eos\": false,"
    "\"bos_id\": 1, \"eos_id\": -1, \"title_separator\": \" \", \"logit_scale\": 0.5,"
    "\"exclude_ids\": [7, 3, 7], \"pooling\": \"sum\", \"top_k_query\": 0, \"top_k_passage\": 256,"
    "\"quant_scale\": 100}";

static void the_defaults_are_those_of_the_method(void **state)
{
    csp_contract c;

    assert_int_equal(csp_contract_init(&c), CSP_OK);
    assert_int_equal(c.variant, CSP_VARIANT_CAUSAL);
    assert_string_equal(csp_contract_prefix(&c, CSP_SIDE_QUERY), "query: ");
    assert_string_equal(csp_contract_prefix(&c, CSP_SIDE_PASSAGE), "passage: ");
    assert_int_equal(csp_contract_max_len(&c, CSP_SIDE_QUERY), 192);
    assert_int_equal(csp_contract_max_len(&c, CSP_SIDE_PASSAGE), 192);
    assert_int_equal(csp_contract_top_k(&c, CSP_SIDE_PASSAGE), 0);
    assert_false(c.add_bos);
    assert_true(c.logit_scale == 1.0);
    assert_true(c.quant_scale == 100.0);
    assert_int_equal(csp_contract_check(&c, "defaults"), CSP_OK);
    c.title_separator[0] = '\xFF';
    assert_int_equal(csp_contract_check(&c, "defaults"), CSP_ERR_CONFIG);
    assert_string_equal(csp_error_text(), "defaults: title_separator \"?\" is not valid UTF-8");
    csp_contract_clear(&c);
    csp_contract_clear(&c);
}

static void an_echo_writes_everything_but_bos_twice(void **state)
{
    csp_contract c;

    assert_int_equal(csp_contract_init(&c), CSP_OK);
    c.query_max_len = 5;
    c.passage_max_len = 7;
    assert_int_equal(csp_contract_side_rows(&c, CSP_SIDE_QUERY), 5);
    c.add_bos = c.append_eos = true;
    assert_int_equal(csp_contract_side_rows(&c, CSP_SIDE_PASSAGE), 9);
    c.variant = CSP_VARIANT_ECHO;
    assert_int_equal(csp_contract_side_rows(&c, CSP_SIDE_PASSAGE), 17);
    assert_int_equal(csp_contract_side_rows(&c, CSP_SIDE_QUERY), 13);
    assert_int_equal(csp_contract_rows(&c), 17);
    assert_int_equal(csp_contract_text_rows(&c, 3), 5);
    assert_int_equal(csp_contract_text_rows(&c, 0), 0); /* an empty text has no BOS */
    c.add_bos = false;
    assert_int_equal(csp_contract_text_rows(&c, 3), 6);
    c.variant = CSP_VARIANT_BI;
    assert_int_equal(csp_contract_text_rows(&c, 3), 3);
    csp_contract_clear(&c);
}

static void reads_every_field_and_writes_it_back(void **state)
{
    csp_contract c, again;
    char *text = NULL;
    char why[200] = "";

    assert_int_equal(csp_contract_from_json(good, "x.json", &c), CSP_OK);
    assert_int_equal(c.variant, CSP_VARIANT_ECHO);
    assert_string_equal(c.query_prefix, "q: ");
    assert_string_equal(c.passage_prefix, "");
    assert_int_equal(c.query_max_len, 64);
    assert_true(c.add_bos);
    assert_int_equal(c.bos_id, 1);
    assert_true(c.logit_scale == 0.5);
    assert_int_equal(c.exclude_count, 2);
    assert_int_equal(c.exclude_ids[0], 3);
    assert_int_equal(c.exclude_ids[1], 7);
    assert_int_equal(c.pooling, CSP_POOLING_SUM);
    assert_int_equal(c.top_k_passage, 256);
    assert_true(c.quant_scale == 100.0);

    assert_int_equal(csp_contract_to_json(&c, &text), CSP_OK);
    assert_int_equal(csp_contract_from_json(text, "again", &again), CSP_OK);
    assert_true(csp_contract_equal(&c, &again, why, sizeof(why)));
    free(text);
    csp_contract_clear(&c);
    csp_contract_clear(&again);
}

static void a_real_number_survives_the_round_trip_exactly(void **state)
{
    csp_contract c, again;
    char *text = NULL;

    assert_int_equal(csp_contract_init(&c), CSP_OK);
    c.logit_scale = pow(192.0, -0.25);
    assert_int_equal(csp_contract_to_json(&c, &text), CSP_OK);
    assert_int_equal(csp_contract_from_json(text, "again", &again), CSP_OK);
    assert_true(c.logit_scale == again.logit_scale);
    free(text);
    csp_contract_clear(&c);
    csp_contract_clear(&again);
}

static void names_the_field_that_differs(void **state)
{
    csp_contract a, b;
    char why[200] = "";
    const int32_t ids[] = { 5 };

    assert_int_equal(csp_contract_init(&a), CSP_OK);
    assert_int_equal(csp_contract_copy(&a, &b), CSP_OK);
    assert_true(csp_contract_equal(&a, &b, why, sizeof(why)));
    assert_int_equal(csp_contract_set_text(&b.query_prefix, "Q\n"), CSP_OK);
    assert_false(csp_contract_equal(&a, &b, why, sizeof(why)));
    assert_string_equal(why, "query_prefix is \"query: \" and \"Q\\n\"");
    assert_int_equal(csp_contract_set_text(&b.query_prefix, "query: "), CSP_OK);
    assert_int_equal(csp_contract_set_exclude_ids(&b, ids, 1), CSP_OK);
    assert_false(csp_contract_equal(&a, &b, why, sizeof(why)));
    assert_string_equal(why, "exclude_ids is [] and [5]");
    assert_false(csp_contract_equal(&a, &b, NULL, 0));
    csp_contract_clear(&a);
    csp_contract_clear(&b);
}

/* good with one piece replaced. */
static void with(const char *from, const char *to, char *out, size_t size)
{
    const char *at = strstr(good, from);

    assert_non_null(at);
    assert_true((size_t)snprintf(out, size, "%.*s%s%s", (int)(at - good), good, to,
                                 at + strlen(from)) < size);
}

static void refuses_what_is_not_a_contract(void **state)
{
    static const struct {
        const char *from, *to, *message;
        csp_status status;
    } cases[] = {
        { "\"version\": 1", "\"version\": 2", "version is not 1", CSP_ERR_FORMAT },
        { "\"version\": 1, ", "", "version is not 1", CSP_ERR_FORMAT },
        { "\"variant\"", "\"varriant\"", "unknown key \"varriant\"", CSP_ERR_FORMAT },
        { "\"add_bos\": true, ", "", "lacks the key \"add_bos\"", CSP_ERR_FORMAT },
        { "\"add_bos\": true, ", "\"add_bos\": true, \"add_bos\": true, ", "not JSON",
          CSP_ERR_FORMAT },
        { "\"echo\"", "\"repeat\"", "variant is not causal, echo or bi", CSP_ERR_FORMAT },
        { "\"sum\"", "\"mean\"", "pooling is not max or sum", CSP_ERR_FORMAT },
        { "64", "64.5", "query_max_len is not an integer", CSP_ERR_FORMAT },
        { "64", "99999999999", "query_max_len is not an integer", CSP_ERR_FORMAT },
        { "64", "0", "query_max_len is 0, not in 1..262144", CSP_ERR_FORMAT },
        { "64", "262145", "query_max_len is 262145", CSP_ERR_FORMAT },
        { "0.5", "0", "logit_scale is 0", CSP_ERR_FORMAT },
        { "0.5", "\"x\"", "logit_scale is not a number", CSP_ERR_FORMAT },
        { "[7, 3, 7]", "[7, -3]", "exclude_ids is not a list of token ids", CSP_ERR_FORMAT },
        { "[7, 3, 7]", "7", "exclude_ids is not a list of token ids", CSP_ERR_FORMAT },
        { "\"bos_id\": 1", "\"bos_id\": -1", "add_bos is true but there is no bos_id",
          CSP_ERR_FORMAT },
        { "\"append_eos\": false", "\"append_eos\": true", "append_eos is true but there is no",
          CSP_ERR_FORMAT },
        { "\"append_eos\": false", "\"append_eos\": 0", "append_eos is not true or false",
          CSP_ERR_FORMAT },
        { "\"q: \"", "3", "query_prefix is not a text", CSP_ERR_FORMAT },
        { "}", "", "not JSON", CSP_ERR_FORMAT },
    };
    csp_contract c = { .query_max_len = 77 };
    char text[1000];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        with(cases[i].from, cases[i].to, text, sizeof(text));
        assert_int_equal(csp_contract_from_json(text, "x.json", &c), cases[i].status);
        assert_non_null(strstr(csp_error_text(), cases[i].message));
        assert_non_null(strstr(csp_error_text(), "x.json"));
        assert_int_equal(c.query_max_len, 77);
    }
    assert_int_equal(csp_contract_from_json("[]", "x.json", &c), CSP_ERR_FORMAT);
    assert_non_null(strstr(csp_error_text(), "not a JSON object"));
}

static void every_allocation_may_fail(void **state)
{
    csp_contract c;
    csp_status status;
    long n = 0;

    do {
        csp_fault_arm(++n);
        status = csp_contract_from_json(good, "x.json", &c);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
    } while (status != CSP_OK && n < 100);
    csp_fault_arm(0);
    assert_int_equal(status, CSP_OK);
    assert_true(n > 3);
    csp_contract_clear(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_defaults_are_those_of_the_method),
        cmocka_unit_test(an_echo_writes_everything_but_bos_twice),
        cmocka_unit_test(reads_every_field_and_writes_it_back),
        cmocka_unit_test(a_real_number_survives_the_round_trip_exactly),
        cmocka_unit_test(names_the_field_that_differs),
        cmocka_unit_test(refuses_what_is_not_a_contract),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

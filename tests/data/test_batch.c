/* test_batch.c - token lists, their cache, and packing into rows. */
#include "scratch.h"

#include "data/batch.h"

static void add(csp_token_lists *lists, int64_t count, const int32_t *ids)
{
    assert_int_equal(csp_token_lists_add(lists, ids, count), CSP_OK);
}

/* [1 5 6], [1 7], [] : BOS is 1. */
static csp_token_lists three_lists(void)
{
    csp_token_lists lists = { 0 };

    add(&lists, 3, (int32_t[]) { 1, 5, 6 });
    add(&lists, 2, (int32_t[]) { 1, 7 });
    add(&lists, 0, NULL);
    return lists;
}

static void assert_ints(const int32_t *got, int64_t count, const int32_t *wanted)
{
    assert_memory_equal(got, wanted, (size_t)count * sizeof(*got));
}

static void causal_and_bi_keep_every_token(void **state)
{
    const csp_variant variants[] = { CSP_VARIANT_CAUSAL, CSP_VARIANT_BI };
    csp_token_lists lists = three_lists();
    csp_batch batch = { 0 };

    for (int v = 0; v < 2; v++) {
        const csp_contract contract = { .variant = variants[v], .add_bos = true, .bos_id = 1 };

        assert_int_equal(csp_batch_pack(&contract, &lists, 0, 3, NULL, 10, &batch), CSP_OK);
        assert_int_equal(batch.B, 3);
        assert_int_equal(batch.N, 5);
        assert_int_equal(batch.max_len, 3);
        assert_int_equal(batch.predicted, 0);
        assert_ints(batch.tokens, 5, (int32_t[]) { 1, 5, 6, 1, 7 });
        assert_ints(batch.seq_start, 4, (int32_t[]) { 0, 3, 5, 5 });
        assert_ints(batch.order, 3, (int32_t[]) { 0, 1, 2 });
        assert_ints(batch.target, 5, (int32_t[]) { -1, -1, -1, -1, -1 });
        assert_memory_equal(batch.keep, "\1\1\1\1\1", 5);
        assert_int_equal(batch.kept, 5);
        assert_int_equal(batch.row_key[0], 10 * 1048576);
        assert_int_equal(batch.row_key[2], 10 * 1048576 + 2);
        assert_int_equal(batch.row_key[3], 11 * 1048576);
    }
    csp_batch_clear(&batch);
    csp_token_lists_clear(&lists);
}

/* docs/method.md 2: positions 0 .. b+2n-1 without a restart, pooled b+n .. b+2n-1. */
static void echo_repeats_all_but_bos_and_keeps_the_second_copy(void **state)
{
    const csp_contract bos = { .variant = CSP_VARIANT_ECHO, .add_bos = true, .bos_id = 1 };
    const csp_contract eos = { .variant = CSP_VARIANT_ECHO, .append_eos = true, .eos_id = 2 };
    csp_token_lists lists = three_lists(), ended = { 0 };
    csp_batch batch = { 0 };

    assert_int_equal(csp_batch_pack(&bos, &lists, 0, 3, NULL, 0, &batch), CSP_OK);
    assert_int_equal(batch.N, 8);
    assert_int_equal(batch.max_len, 5);
    assert_ints(batch.tokens, 8, (int32_t[]) { 1, 5, 6, 5, 6, 1, 7, 7 });
    assert_memory_equal(batch.keep, "\0\0\0\1\1\0\0\1", 8);
    assert_int_equal(batch.kept, 3);
    assert_ints(batch.seq_start, 4, (int32_t[]) { 0, 5, 8, 8 });
    for (int64_t i = 0; i < 5; i++) {
        assert_int_equal(batch.row_key[i], i);
    }
    assert_int_equal(batch.row_key[7], CSP_ROW_KEY_TEXT + 2);

    add(&ended, 3, (int32_t[]) { 8, 9, 2 });
    assert_int_equal(csp_batch_pack(&eos, &ended, 0, 1, NULL, 0, &batch), CSP_OK);
    assert_ints(batch.tokens, 6, (int32_t[]) { 8, 9, 2, 8, 9, 2 });
    assert_memory_equal(batch.keep, "\0\0\0\1\1\1", 6);
    csp_batch_clear(&batch);
    csp_token_lists_clear(&lists);
    csp_token_lists_clear(&ended);
}

static void adaptation_predicts_the_next_token_of_the_same_text(void **state)
{
    const csp_contract none = { .variant = CSP_VARIANT_ECHO };
    csp_token_lists lists = three_lists();
    csp_batch batch = { 0 };

    assert_int_equal(csp_batch_pack_adapt(&none, &lists, 0, 3, NULL, 4, &batch), CSP_OK);
    assert_int_equal(batch.N, 5);
    assert_int_equal(batch.predicted, 3);
    assert_int_equal(csp_batch_predicted(&none, &lists), 3);
    assert_ints(batch.target, 5, (int32_t[]) { 5, 6, -1, 7, -1 });
    assert_memory_equal(batch.keep, "\1\1\1\1\1", 5);
    assert_int_equal(batch.row_key[4], 5 * CSP_ROW_KEY_TEXT + 1);
    csp_batch_clear(&batch);
    csp_token_lists_clear(&lists);
}

static void excluded_terms_are_no_targets(void **state)
{
    int32_t out[] = { 1, 6, 7 };
    const csp_contract contract = { .exclude_ids = out, .exclude_count = 3 };
    csp_token_lists lists = three_lists();
    csp_batch batch = { 0 };

    add(&lists, 5, (int32_t[]) { 1, 6, 5, 7, 8 });
    assert_int_equal(csp_batch_pack_adapt(&contract, &lists, 0, 4, NULL, 0, &batch), CSP_OK);
    assert_ints(batch.tokens, 10, (int32_t[]) { 1, 5, 6, 1, 7, 1, 6, 5, 7, 8 });
    assert_ints(batch.target, 10, (int32_t[]) { 5, -1, -1, -1, -1, -1, 5, -1, 8, -1 });
    assert_int_equal(batch.predicted, 3);
    assert_int_equal(csp_batch_predicted(&contract, &lists), 3);
    csp_batch_clear(&batch);
    csp_token_lists_clear(&lists);
}

static void a_split_gives_the_same_rows_as_one_batch(void **state)
{
    const csp_contract contract = { .variant = CSP_VARIANT_ECHO, .add_bos = true, .bos_id = 1 };
    csp_token_lists lists = { 0 };
    csp_batch whole = { 0 }, part = { 0 };
    int64_t edges[40], count = 0, n = 0;
    int32_t ids[64];

    for (int64_t i = 0; i < 39; i++) {
        for (int64_t t = 0; t < 64; t++) {
            ids[t] = (int32_t)(t == 0 ? 1 : 100 * i + t);
        }
        add(&lists, (i * 7) % 23, ids);
    }
    assert_int_equal(csp_batch_pack(&contract, &lists, 0, 39, NULL, 1000, &whole), CSP_OK);
    for (int64_t limit = 1; limit < 200; limit = limit * 3 / 2 + 1) {
        csp_batch_split(&contract, &lists, limit, edges, &count);
        assert_int_equal(edges[0], 0);
        assert_int_equal(edges[count], 39);
        n = 0;
        for (int64_t i = 0; i < count; i++) {
            assert_true(edges[i + 1] > edges[i]);
            assert_int_equal(
                csp_batch_pack(&contract, &lists, edges[i], edges[i + 1], NULL, 1000, &part),
                CSP_OK);
            if (part.N > limit) { /* a single text that is longer, perhaps beside empty ones */
                assert_int_equal(part.N, part.max_len);
            }
            assert_memory_equal(part.tokens, whole.tokens + n, (size_t)part.N * 4);
            assert_memory_equal(part.keep, whole.keep + n, (size_t)part.N);
            assert_memory_equal(part.row_key, whole.row_key + n, (size_t)part.N * 8);
            n += part.N;
        }
        assert_int_equal(n, whole.N);
    }
    csp_batch_split(&contract, &lists, 0, edges, &count);
    assert_int_equal(count, 1);
    csp_token_lists_reset(&lists);
    csp_batch_split(&contract, &lists, 5, edges, &count);
    assert_int_equal(count, 0);
    csp_batch_clear(&whole);
    csp_batch_clear(&part);
    csp_token_lists_clear(&lists);
}

static void a_split_fills_micro_batches_in_order(void **state)
{
    csp_token_lists lists = { 0 };
    int64_t edges[8], count = 0;
    const int32_t ids[10] = { 0 };

    add(&lists, 4, ids);
    add(&lists, 4, ids);
    add(&lists, 10, ids);
    add(&lists, 1, ids);
    add(&lists, 8, ids);
    csp_batch_split(NULL, &lists, 9, edges, &count);
    assert_int_equal(count, 3);
    assert_int_equal(edges[1], 2);
    assert_int_equal(edges[2], 3);
    assert_int_equal(edges[3], 5);
    csp_token_lists_clear(&lists);
}

static void refuses_texts_and_ranges_beyond_limits(void **state)
{
    const csp_contract echo = { .variant = CSP_VARIANT_ECHO };
    csp_token_lists lists = three_lists();
    csp_batch batch = { 0 };
    int32_t *many = calloc(600000, sizeof(*many));

    assert_int_equal(csp_batch_pack(&echo, &lists, 0, 4, NULL, 0, &batch), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_batch_pack(&echo, &lists, 2, 1, NULL, 0, &batch), CSP_ERR_ARGUMENT);
    add(&lists, 600000, many);
    assert_int_equal(csp_batch_pack(&echo, &lists, 0, 4, NULL, 0, &batch), CSP_ERR_ARGUMENT);
    assert_says("1200000 rows, at most 1048576");
    assert_int_equal(batch.B, 0);
    assert_int_equal(batch.N, 0);
    assert_int_equal(csp_batch_pack_adapt(&echo, &lists, 0, 4, NULL, 0, &batch), CSP_OK);
    free(many);
    csp_batch_clear(&batch);
    csp_token_lists_clear(&lists);
}

static void the_longest_texts_come_first_in_order(void **state)
{
    const csp_contract contract = { .variant = CSP_VARIANT_CAUSAL };
    const int64_t length[] = { 2, 5, 0, 3, 5, 1, 3 };
    csp_token_lists lists = { 0 };
    csp_batch batch = { 0 };

    (void)state;
    for (int i = 0; i < 7; i++) {
        add(&lists, length[i], (int32_t[]) { 4, 5, 6, 7, 8 });
    }
    assert_int_equal(csp_batch_pack(&contract, &lists, 0, 7, NULL, 0, &batch), CSP_OK);
    assert_ints(batch.order, 7, (int32_t[]) { 1, 4, 3, 6, 0, 5, 2 });
    assert_int_equal(csp_batch_pack_adapt(&contract, &lists, 2, 6, NULL, 0, &batch), CSP_OK);
    assert_ints(batch.order, 4, (int32_t[]) { 2, 1, 3, 0 });
    assert_int_equal(csp_batch_pack(&contract, &lists, 2, 3, NULL, 0, &batch), CSP_OK);
    assert_ints(batch.order, 1, (int32_t[]) { 0 });
    csp_batch_clear(&batch);
    csp_token_lists_clear(&lists);
}

static void a_reserved_batch_allocates_nothing(void **state)
{
    const csp_contract contract = { .variant = CSP_VARIANT_ECHO, .add_bos = true, .bos_id = 1 };
    csp_token_lists lists = three_lists();
    csp_batch batch = { 0 };

    assert_int_equal(csp_batch_reserve(&batch, 3, 8), CSP_OK);
    csp_fault_arm(1);
    assert_int_equal(csp_batch_pack(&contract, &lists, 0, 3, NULL, 0, &batch), CSP_OK);
    assert_int_equal(csp_fault_asked(), 0);
    csp_fault_arm(1);
    csp_batch_clear(&batch);
    assert_int_equal(csp_batch_pack(&contract, &lists, 0, 3, NULL, 0, &batch), CSP_ERR_MEMORY);
    csp_fault_arm(0);
    assert_int_equal(batch.N, 0);
    csp_batch_clear(&batch);
    csp_token_lists_clear(&lists);
}

static void the_cache_gives_back_what_was_put(void **state)
{
    const int64_t vocabularies[] = { 65536, 65537 };
    int32_t ids[300];

    for (int v = 0; v < 2; v++) {
        csp_token_cache *cache = NULL;
        csp_token_lists lists = { 0 };
        bool found = true;

        assert_int_equal(csp_token_cache_create(1000, vocabularies[v], 8 << 20, &cache), CSP_OK);
        assert_int_equal(csp_token_cache_get(cache, 5, &lists, &found), CSP_OK);
        assert_false(found);
        for (int64_t i = 0; i < 1000; i += 2) {
            for (int64_t t = 0; t < i % 300; t++) {
                ids[t] = (int32_t)((i * 131 + t * 7) % vocabularies[v]);
            }
            csp_token_cache_put(cache, i, ids, i % 300);
        }
        ids[0] = (int32_t)(vocabularies[v] - 1);
        csp_token_cache_put(cache, 999, ids, 1);
        assert_int_equal(csp_token_cache_held(cache), 501);
        for (int64_t i = 0; i < 1000; i += 2) {
            int64_t count;
            const int32_t *got;

            assert_int_equal(csp_token_cache_get(cache, i, &lists, &found), CSP_OK);
            assert_true(found);
            got = csp_token_lists_get(&lists, i / 2, &count);
            assert_int_equal(count, i % 300);
            for (int64_t t = 0; t < count; t++) {
                assert_int_equal(got[t], (i * 131 + t * 7) % vocabularies[v]);
            }
        }
        csp_token_lists_reset(&lists);
        assert_int_equal(csp_token_cache_get(cache, 999, &lists, &found), CSP_OK);
        assert_int_equal(lists.ids[0], vocabularies[v] - 1);
        assert_int_equal(csp_token_cache_get(cache, 1, &lists, &found), CSP_OK);
        assert_false(found);
        csp_token_lists_clear(&lists);
        csp_token_cache_destroy(cache);
    }
}

static void a_full_cache_keeps_what_it_has(void **state)
{
    csp_token_cache *cache = NULL;
    csp_token_lists lists = { 0 };
    const int32_t ids[1000] = { 3 };
    bool found = true;

    assert_int_equal(csp_token_cache_create(2000, 100, 1500000, &cache), CSP_OK);
    for (int64_t i = 0; i < 2000; i++) {
        csp_token_cache_put(cache, i, ids, 1000);
    }
    assert_true(csp_token_cache_bytes(cache) <= 1500000);
    assert_true(csp_token_cache_held(cache) > 400 && csp_token_cache_held(cache) < 700);
    assert_int_equal(csp_token_cache_get(cache, 0, &lists, &found), CSP_OK);
    assert_true(found);
    assert_int_equal(csp_token_cache_get(cache, 1999, &lists, &found), CSP_OK);
    assert_false(found);
    csp_token_cache_destroy(cache);

    assert_int_equal(csp_token_cache_create(2000, 100, 0, &cache), CSP_OK);
    csp_token_cache_put(cache, 0, ids, 3);
    assert_int_equal(csp_token_cache_get(cache, 0, &lists, &found), CSP_OK);
    assert_false(found);
    csp_token_cache_destroy(cache);
    csp_token_lists_clear(&lists);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(causal_and_bi_keep_every_token),
        cmocka_unit_test(echo_repeats_all_but_bos_and_keeps_the_second_copy),
        cmocka_unit_test(adaptation_predicts_the_next_token_of_the_same_text),
        cmocka_unit_test(excluded_terms_are_no_targets),
        cmocka_unit_test(a_split_gives_the_same_rows_as_one_batch),
        cmocka_unit_test(a_split_fills_micro_batches_in_order),
        cmocka_unit_test(refuses_texts_and_ranges_beyond_limits),
        cmocka_unit_test(the_longest_texts_come_first_in_order),
        cmocka_unit_test(a_reserved_batch_allocates_nothing),
        cmocka_unit_test(the_cache_gives_back_what_was_put),
        cmocka_unit_test(a_full_cache_keeps_what_it_has),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_chunked.c - what stays in memory between the two passes of a step, from plenty of memory to
 * just enough of it. That no bit depends on it is shown in test_contrastive.c.
 */
#include "train/tiny.h"

#include "train/chunked.h"

enum { ROWS = 13 };

/* The plan of one step under a budget; bytes of all chunks that stay, and of the largest other. */
static void plan(tiny *t, size_t budget, csp_keep keep, csp_chunked **out, size_t *kept,
                 size_t *rest)
{
    csp_chunked *c;

    assert_ok(csp_chunked_create(t->be, t->model, &t->contract, ROWS, TINY_LONGEST, TINY_PASSAGES,
                                 budget, keep, &c));
    csp_chunked_begin(c);
    assert_ok(csp_chunked_add(c, CSP_SIDE_QUERY, &t->queries, NULL, 0));
    assert_ok(csp_chunked_add(c, CSP_SIDE_PASSAGE, &t->passages, NULL, TINY_QUERIES));
    assert_ok(csp_chunked_plan(c));
    *kept = *rest = 0;
    for (int64_t i = 0; i < c->count; i++) {
        const csp_chunk *chunk = &c->chunks[i];

        assert_true(chunk->kept == (i < c->kept));
        assert_int_equal(chunk->form, chunk->run->keep);
        if (chunk->kept) {
            *kept += chunk->bytes;
            assert_int_equal(chunk->form, keep == CSP_KEEP_INPUTS ? CSP_KEEP_INPUTS
                                          : i < c->whole          ? CSP_KEEP_ALL
                                                                  : CSP_KEEP_MOST);
        } else {
            assert_int_equal(chunk->form, keep);
            *rest = chunk->bytes > *rest ? chunk->bytes : *rest;
        }
    }
    assert_true(*kept + *rest <= c->step.capacity);
    *out = c;
}

static void less_memory_keeps_fewer_and_narrower_micro_batches(void **state)
{
    bool narrow_all = false, mixed = false, some = false;
    int64_t kept_before = 1000, whole_before = 1000;
    size_t all, kept, rest;
    csp_chunked *c;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    plan(&t, 1 << 26, CSP_KEEP_ALL, &c, &all, &rest);
    assert_true(c->count >= 5 && c->kept == c->count && c->whole == c->count);
    csp_chunked_destroy(c);
    for (size_t budget = all; budget > 5000; budget -= 5000) {
        plan(&t, budget, CSP_KEEP_ALL, &c, &kept, &rest);
        /* Where fewer stay, there is room to give others of them all. */
        assert_true(c->kept < kept_before || (c->kept == kept_before && c->whole <= whole_before));
        narrow_all = narrow_all || (c->kept == c->count && c->whole < c->count);
        mixed = mixed || (c->whole > 0 && c->whole < c->kept);
        some = some || (c->kept > 0 && c->kept < c->count);
        kept_before = c->kept;
        whole_before = c->whole;
        csp_chunked_destroy(c);
    }
    assert_true(narrow_all && mixed && some);
    assert_true(kept_before <= 1);
    tiny_close(&t);
}

static void each_form_is_smaller_than_the_one_before(void **state)
{
    static const csp_keep keeps[] = { CSP_KEEP_ALL, CSP_KEEP_MOST, CSP_KEEP_INPUTS };
    size_t bytes[3], rest;
    csp_chunked *c;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_ECHO, true);
    for (int i = 0; i < 3; i++) {
        plan(&t, 1 << 26, keeps[i], &c, &bytes[i], &rest);
        assert_int_equal(c->kept, c->count);
        assert_true(i == 0 || bytes[i] < bytes[i - 1]);
        csp_chunked_destroy(c);
    }
    tiny_close(&t);
}

static void one_micro_batch_is_reserved_whatever_the_budget(void **state)
{
    size_t kept, rest;
    csp_chunked *c;
    tiny t;

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, true);
    for (int keep = CSP_KEEP_ALL; keep <= CSP_KEEP_MOST; keep++) {
        plan(&t, 0, (csp_keep)keep, &c, &kept, &rest);
        assert_true(c->kept < c->count && rest > 0);
        csp_chunked_destroy(c);
    }
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(less_memory_keeps_fewer_and_narrower_micro_batches),
        cmocka_unit_test(each_form_is_smaller_than_the_one_before),
        cmocka_unit_test(one_micro_batch_is_reserved_whatever_the_budget),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

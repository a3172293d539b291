/* test_pairs_draw.c - which examples, positives and negatives a step takes. */
#include "pairs_check.h"

/* n queries, one positive each, and m negatives for each; d documents. */
static csp_pairs *make_pairs(int n, int d, int m)
{
    char folder[300];
    const csp_pairs_source source = { .corpus = folder };
    FILE *file;

    make_dir("many");
    make_dir("many/qrels");
    (void)snprintf(folder, sizeof(folder), "%s", at("many"));
    file = fopen(at("many/corpus.jsonl"), "wb");
    for (int i = 0; i < d; i++) {
        (void)fprintf(file, "{\"_id\":\"d%d\",\"text\":\"text %d\"}\n", i, i);
    }
    (void)fclose(file);
    file = fopen(at("many/queries.jsonl"), "wb");
    for (int i = 0; i < n; i++) {
        (void)fprintf(file, "{\"_id\":\"q%d\",\"text\":\"query %d\"}\n", i, i);
    }
    (void)fclose(file);
    file = fopen(at("many/qrels/train.tsv"), "wb");
    for (int i = 0; i < n; i++) {
        (void)fprintf(file, "q%d 0 d%d 1\nq%d 0 d%d 1\n", i, i % d, i, (i + 1) % d);
    }
    (void)fclose(file);
    file = fopen(at("many/negatives.train.tsv"), "wb");
    for (int i = 0; i < n; i++) {
        (void)fprintf(file, "q%d", i);
        for (int j = 0; j < m; j++) {
            (void)fprintf(file, "%cd%d", j == 0 ? '\t' : ' ', (i + 2 + j) % d);
        }
        (void)fputc('\n', file);
    }
    (void)fclose(file);
    return open_or_fail(&source);
}

static void an_epoch_visits_each_example_once_across_batch_edges(void **state)
{
    csp_pairs *pairs = make_pairs(37, 50, 3);
    const csp_sampling sampling = { .seed = 11, .Q = 8, .G = 2 };
    csp_draw_list drawn = { 0 };
    int order[2][37];
    int64_t p = 0;

    for (int64_t step = 0; p < 74; step++) {
        assert_int_equal(csp_pairs_draw(pairs, &sampling, step, 0, 8, &drawn), CSP_OK);
        assert_int_equal(drawn.count, 8);
        for (int64_t i = 0; i < 8 && p < 74; i++, p++) {
            order[p / 37][p % 37] = (int)drawn.example[i];
        }
    }
    for (int epoch = 0; epoch < 2; epoch++) {
        int seen[37] = { 0 };

        for (int i = 0; i < 37; i++) {
            assert_int_equal(seen[order[epoch][i]]++, 0);
        }
    }
    assert_memory_not_equal(order[0], order[1], sizeof(order[0]));
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void a_step_is_the_same_whatever_was_drawn_before_and_in_parts(void **state)
{
    csp_pairs *pairs = make_pairs(37, 50, 6);
    csp_sampling sampling = { .seed = 3, .Q = 8, .G = 4 };
    csp_draw_list whole = { 0 }, part = { 0 };

    assert_int_equal(csp_pairs_draw(pairs, &sampling, 123, 0, 8, &whole), CSP_OK);
    for (int64_t step = 120; step < 126; step++) {
        for (int64_t first = 0; first < 8; first += 2) {
            assert_int_equal(csp_pairs_draw(pairs, &sampling, step, first, 2, &part), CSP_OK);
            if (step == 123) {
                assert_memory_equal(part.example, whole.example + first, 2 * 8);
                assert_memory_equal(part.document, whole.document + first * 4, 8 * 8);
            }
        }
    }
    /* Another seed, another order. */
    sampling.seed = 4;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 123, 0, 8, &part), CSP_OK);
    assert_memory_not_equal(part.example, whole.example, 8 * 8);
    sampling.in_order = true;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 5, 0, 8, &part), CSP_OK);
    for (int64_t i = 0; i < 8; i++) {
        assert_int_equal(part.example[i], (5 * 8 + i) % 37);
    }
    csp_draw_list_clear(&whole);
    csp_draw_list_clear(&part);
    csp_pairs_close(pairs);
}

/* Over enough epochs every negative and every positive is used, negatives evenly. */
static void negatives_are_a_window_that_moves_through_the_list(void **state)
{
    csp_pairs *pairs = make_pairs(5, 50, 6);
    const csp_sampling sampling = { .seed = 9, .Q = 5, .G = 5 };
    csp_draw_list drawn = { 0 };
    int used[5][50] = { { 0 } }, positives[5][2] = { { 0 } };

    /* 4 of 6 a time: 12 epochs use each 8 times. */
    for (int64_t epoch = 0; epoch < 12; epoch++) {
        assert_int_equal(csp_pairs_draw(pairs, &sampling, epoch, 0, 5, &drawn), CSP_OK);
        for (int64_t i = 0; i < 5; i++) {
            const int64_t e = drawn.example[i];

            assert_true(csp_pairs_is_positive(pairs, e, drawn.document[i * 5]));
            positives[e][drawn.document[i * 5] - e]++;
            for (int64_t g = 1; g < 5; g++) {
                used[e][drawn.document[i * 5 + g]]++;
            }
        }
    }
    for (int64_t e = 0; e < 5; e++) {
        for (int64_t d = 0; d < 50; d++) {
            assert_int_equal(used[e][d], d >= e + 2 && d < e + 8 ? 8 : 0);
        }
        assert_true(positives[e][0] > 0 && positives[e][1] > 0);
        assert_int_equal(positives[e][0] + positives[e][1], 12);
    }
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void consecutive_epochs_take_different_negatives(void **state)
{
    csp_pairs *pairs = make_pairs(5, 50, 6);
    const csp_sampling sampling = { .seed = 9, .Q = 5, .G = 4 };
    csp_draw_list drawn = { 0 };

    for (int64_t epoch = 0; epoch < 8; epoch += 2) {
        int used[5][50] = { { 0 } };

        for (int64_t step = epoch; step < epoch + 2; step++) {
            assert_int_equal(csp_pairs_draw(pairs, &sampling, step, 0, 5, &drawn), CSP_OK);
            for (int64_t i = 0; i < 20; i++) {
                used[drawn.example[i / 4]][drawn.document[i]] += i % 4 == 0 ? 0 : 1;
            }
        }
        for (int64_t e = 0; e < 5; e++) {
            for (int64_t d = e + 2; d < e + 8; d++) {
                assert_int_equal(used[e][d], 1); /* 3 of 6, then the other 3 */
            }
        }
    }
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void short_lists_are_filled_with_random_documents_without_repetition(void **state)
{
    csp_pairs *pairs = make_pairs(20, 30, 3);
    csp_sampling sampling = { .seed = 2, .Q = 20, .G = 29 };
    csp_draw_list drawn = { 0 };

    /* 28 of the 28 documents that are no positives: the hardest fill there is. */
    for (int64_t step = 0; step < 5; step++) {
        assert_int_equal(csp_pairs_draw(pairs, &sampling, step, 0, 20, &drawn), CSP_OK);
        for (int64_t i = 0; i < 20; i++) {
            int seen[30] = { 0 };
            const int64_t *group = drawn.document + i * 29;

            for (int64_t g = 0; g < 29; g++) {
                assert_int_equal(seen[group[g]]++, 0);
                assert_int_equal(csp_pairs_is_positive(pairs, drawn.example[i], group[g]), g == 0);
            }
            for (int64_t g = 1; g < 4; g++) { /* the list comes first */
                assert_true((group[g] - drawn.example[i] + 30) % 30 >= 2 &&
                            (group[g] - drawn.example[i] + 30) % 30 < 5);
            }
        }
    }
    /* More than there are: repetitions, but never a positive. */
    sampling.G = 40;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 20, &drawn), CSP_OK);
    for (int64_t g = 1; g < 40; g++) {
        assert_false(csp_pairs_is_positive(pairs, drawn.example[0], drawn.document[g]));
    }
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

static void refuses_draws_that_cannot_be(void **state)
{
    csp_pairs *pairs = make_pairs(2, 2, 0); /* both documents are positives of both queries */
    csp_draw_list drawn = { 0 };
    csp_sampling sampling = { .Q = 2, .G = 2 };

    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 2, &drawn), CSP_ERR_DATA);
    assert_says("every document is a known positive");
    sampling.G = 1;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 2, &drawn), CSP_OK);
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 1, 2, &drawn), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_pairs_draw(pairs, &sampling, -1, 0, 2, &drawn), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_pairs_draw(pairs, &sampling, INT64_MAX - 1, 0, 2, &drawn), CSP_ERR_MEMORY);
    sampling.Q = 0;
    assert_int_equal(csp_pairs_draw(pairs, &sampling, 0, 0, 0, &drawn), CSP_ERR_ARGUMENT);
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_visits_each_example_once_across_batch_edges),
        cmocka_unit_test(a_step_is_the_same_whatever_was_drawn_before_and_in_parts),
        cmocka_unit_test(negatives_are_a_window_that_moves_through_the_list),
        cmocka_unit_test(consecutive_epochs_take_different_negatives),
        cmocka_unit_test(short_lists_are_filled_with_random_documents_without_repetition),
        cmocka_unit_test(refuses_draws_that_cannot_be),
    };

    return cmocka_run_group_tests(tests, pairs_begin, scratch_remove);
}

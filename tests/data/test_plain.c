/* test_plain.c - adaptation texts: which come in a step, and their tokens. */
#include "scratch.h"

#include "data/batch.h"
#include "data/plain.h"

typedef struct fixture {
    csp_tokenizer *tokenizer;
    csp_contract contract;
    csp_text_encoder *encoder;
    csp_plain *plain;
} fixture;

/* Seven texts in three files of three formats, one of them with an empty line. */
static int set_up(void **state)
{
    const char *paths[] = { at("p.txt"), at("p.jsonl"), at("p.tsv.gz") };
    fixture *f = calloc(1, sizeof(*f));

    put_text("p.txt", "aaa\n\nbbb\nccc ccc\n");
    put_text("p.jsonl", "{\"text\":\"dd\"}\n{\"title\":\"t\",\"text\":\"ee\"}\n");
    put_gzip("p.tsv.gz", "1\tfff\n1\tggg\n");
    f->tokenizer = letters();
    assert_int_equal(csp_contract_init(&f->contract), CSP_OK);
    f->contract.append_eos = true;
    f->contract.eos_id = TOKEN_EOS;
    assert_int_equal(csp_text_encoder_create(&f->contract, f->tokenizer, false, &f->encoder),
                     CSP_OK);
    if (csp_plain_open(paths, 3, false, NULL, NULL, &f->plain) != CSP_OK) {
        fail_msg("%s", csp_error_text());
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;

    csp_plain_close(f->plain);
    csp_text_encoder_destroy(f->encoder);
    csp_tokenizer_close(f->tokenizer);
    csp_contract_clear(&f->contract);
    free(f);
    return 0;
}

static void several_files_are_one_collection_without_empty_texts(void **state)
{
    static const char *const wanted[] = { "aaa", "bbb", "ccc ccc", "dd", "t ee", "fff", "ggg" };
    fixture *f = *state;
    csp_text_row row;

    assert_int_equal(csp_plain_count(f->plain), 7);
    assert_int_equal(csp_plain_empty(f->plain), 1);
    for (int64_t i = 6; i >= 0; i--) {
        assert_int_equal(csp_plain_read(f->plain, i, &row), CSP_OK);
        assert_int_equal(row.bytes, strlen(wanted[i]));
        assert_memory_equal(row.text, wanted[i], strlen(wanted[i]));
        assert_null(row.id);
    }
    assert_int_equal(csp_plain_read(f->plain, 7, &row), CSP_ERR_ARGUMENT);
}

static void an_epoch_visits_each_text_once(void **state)
{
    fixture *f = *state;
    csp_plain_sampling sampling = { .seed = 5, .texts = 3, .max_len = 10 };
    int64_t first_epoch[7] = { 0 };
    bool differs = false;

    for (int64_t epoch = 0; epoch < 3; epoch++) {
        int seen[7] = { 0 };

        for (int64_t p = epoch * 7; p < (epoch + 1) * 7; p++) {
            const int64_t text = csp_plain_text_of(f->plain, &sampling, p / 3, p % 3);

            assert_int_equal(seen[text]++, 0);
            differs = differs || (epoch > 0 && first_epoch[p % 7] != text);
            first_epoch[p % 7] = epoch == 0 ? text : first_epoch[p % 7];
        }
    }
    assert_true(differs);
    sampling.in_order = true;
    assert_int_equal(csp_plain_text_of(f->plain, &sampling, 2, 2), 1);
}

static void a_step_is_the_same_in_parts_and_out_of_order(void **state)
{
    fixture *f = *state;
    const csp_plain_sampling sampling = { .seed = 5, .texts = 4, .max_len = 3 };
    static const int64_t places[] = { 0, 1, 2, 3, 4 };
    csp_token_lists whole = { 0 }, part = { 0 };

    assert_int_equal(csp_plain_load(f->plain, f->encoder, &sampling, 9, places, 4, &whole), CSP_OK);
    assert_int_equal(whole.count, 4);
    for (int64_t step = 10; step >= 8; step--) {
        for (int64_t i = 0; i < 4; i++) {
            int64_t n, m;
            const int32_t *got, *wanted;

            assert_int_equal(
                csp_plain_load(f->plain, f->encoder, &sampling, step, places + i, 1, &part),
                CSP_OK);
            got = csp_token_lists_get(&part, 0, &n);
            wanted = csp_token_lists_get(&whole, i, &m);
            assert_true(n <= 4 && got[n - 1] == TOKEN_EOS);
            if (step == 9) {
                assert_int_equal(n, m);
                assert_memory_equal(got, wanted, (size_t)n * 4);
            }
        }
    }
    assert_int_equal(csp_plain_load(f->plain, f->encoder, &sampling, 0, places + 2, 3, &part),
                     CSP_ERR_ARGUMENT);
    csp_token_lists_clear(&whole);
    csp_token_lists_clear(&part);
}

static void refuses_what_holds_no_text(void **state)
{
    csp_plain *plain = NULL;
    const char *paths[] = { at("none.txt") };

    put_text("none.txt", "\n\n \n");
    assert_int_equal(csp_plain_open(paths, 1, false, NULL, NULL, &plain), CSP_ERR_DATA);
    assert_says("none.txt: holds no text");
    assert_int_equal(csp_plain_open(paths, 1, true, NULL, NULL, &plain), CSP_ERR_DATA);
    assert_says("none.txt:1: empty text, which data.strict forbids");
    assert_int_equal(csp_plain_open(paths, 0, false, NULL, NULL, &plain), CSP_ERR_ARGUMENT);
    put_text("none.txt", "fine\nb\xFFte\n");
    assert_int_equal(csp_plain_open(paths, 1, false, NULL, NULL, &plain), CSP_ERR_FORMAT);
    assert_says("none.txt:2: invalid UTF-8");
    assert_null(plain);
}

static void every_allocation_may_fail(void **state)
{
    fixture *f = *state;
    const char *paths[] = { at("p.txt"), at("p.tsv.gz") };
    const csp_plain_sampling sampling = { .texts = 3, .max_len = 10 };
    static const int64_t places[] = { 0, 1, 2 };
    csp_status status;
    long n = 0;

    do {
        csp_plain *plain = NULL;
        csp_token_lists lists = { 0 };

        csp_fault_arm(++n);
        status = csp_plain_open(paths, 2, false, NULL, NULL, &plain);
        if (status == CSP_OK) {
            status = csp_plain_load(plain, f->encoder, &sampling, 1, places, 3, &lists);
        }
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        csp_token_lists_clear(&lists);
        csp_plain_close(plain);
    } while (status != CSP_OK && n < 500);
    csp_fault_arm(0);
    assert_int_equal(status, CSP_OK);
    assert_true(n > 20);
}

static void the_digest_is_of_the_texts_and_their_order(void **state)
{
    fixture *f = *state;
    const char *orders[][3] = { { at("p.txt"), at("p.jsonl"), at("p.tsv.gz") },
                                { at("p.jsonl"), at("p.txt"), at("p.tsv.gz") } };
    char want[CSP_DIGEST_TEXT_BYTES], got[CSP_DIGEST_TEXT_BYTES];
    csp_plain *plain;

    assert_int_equal(csp_plain_digest(f->plain, want), CSP_OK);
    for (int i = 0; i < 4; i++) {
        if (i == 2) {
            put_text("p.txt", "aaa\nbbb\n\nccc ccc"); /* the same texts */
        } else if (i == 3) {
            put_text("p.txt", "aaa\nbbB\n\nccc ccc");
        }
        assert_int_equal(csp_plain_open(orders[i == 1], 3, false, NULL, NULL, &plain), CSP_OK);
        assert_int_equal(csp_plain_digest(plain, got), CSP_OK);
        assert_int_equal(strcmp(got, want) == 0, i == 0 || i == 2);
        csp_plain_close(plain);
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(several_files_are_one_collection_without_empty_texts),
        CASE(an_epoch_visits_each_text_once),
        CASE(a_step_is_the_same_in_parts_and_out_of_order),
        CASE(the_digest_is_of_the_texts_and_their_order),
        CASE(every_allocation_may_fail),
        cmocka_unit_test(refuses_what_holds_no_text),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}

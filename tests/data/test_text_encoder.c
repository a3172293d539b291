/* test_text_encoder.c - text to ids under a contract, with the tokenizer of single letters. */
#include "scratch.h"

#include "data/text_encoder.h"

typedef struct fixture {
    csp_tokenizer *tokenizer;
    csp_contract contract;
    csp_token_list ids;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));

    f->tokenizer = letters();
    assert_int_equal(csp_contract_init(&f->contract), CSP_OK);
    assert_int_equal(csp_contract_set_text(&f->contract.query_prefix, "q: "), CSP_OK);
    assert_int_equal(csp_contract_set_text(&f->contract.passage_prefix, ""), CSP_OK);
    f->contract.query_max_len = 5;
    f->contract.passage_max_len = 4;
    f->contract.bos_id = TOKEN_BOS;
    f->contract.eos_id = TOKEN_EOS;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;

    csp_tokenizer_close(f->tokenizer);
    csp_contract_clear(&f->contract);
    csp_token_list_clear(&f->ids);
    free(f);
    return 0;
}

static csp_text_encoder *encoder_of(fixture *f, bool strict)
{
    csp_text_encoder *encoder = NULL;

    assert_int_equal(csp_text_encoder_create(&f->contract, f->tokenizer, strict, &encoder), CSP_OK);
    return encoder;
}

static void assert_ids(const fixture *f, int64_t count, const int32_t *wanted)
{
    assert_int_equal(f->ids.count, count);
    assert_memory_equal(f->ids.ids, wanted, (size_t)count * sizeof(*wanted));
}

static csp_status encode(fixture *f, csp_text_encoder *encoder, csp_side side, const char *text)
{
    return csp_text_encode(encoder, side, "id7", text, (int64_t)strlen(text), &f->ids);
}

static void prefix_and_text_are_one_string_cut_at_the_end(void **state)
{
    fixture *f = *state;
    csp_text_encoder *encoder = encoder_of(f, false);
    const csp_text_counts *counts = csp_text_encoder_counts(encoder, CSP_SIDE_QUERY);

    assert_int_equal(encode(f, encoder, CSP_SIDE_QUERY, "ab"), CSP_OK);
    assert_ids(f, 5, (int32_t[]) { 16, TOKEN_COLON, TOKEN_SPACE, 0, 1 });
    assert_int_equal(counts->truncated, 0);
    assert_int_equal(encode(f, encoder, CSP_SIDE_QUERY, "abcd"), CSP_OK);
    assert_ids(f, 5, (int32_t[]) { 16, TOKEN_COLON, TOKEN_SPACE, 0, 1 });
    assert_int_equal(counts->truncated, 1);
    assert_int_equal(counts->longest, 7);
    assert_int_equal(encode(f, encoder, CSP_SIDE_PASSAGE, "abcde"), CSP_OK);
    assert_ids(f, 4, (int32_t[]) { 0, 1, 2, 3 });
    assert_int_equal(csp_text_encoder_counts(encoder, CSP_SIDE_PASSAGE)->truncated, 1);
    csp_text_encoder_destroy(encoder);
}

static void bos_and_eos_stand_around_the_cut_text_and_are_not_counted(void **state)
{
    fixture *f = *state;
    csp_text_encoder *encoder = encoder_of(f, false);

    f->contract.add_bos = true;
    f->contract.append_eos = true;
    assert_int_equal(encode(f, encoder, CSP_SIDE_PASSAGE, "abcde"), CSP_OK);
    assert_ids(f, 6, (int32_t[]) { TOKEN_BOS, 0, 1, 2, 3, TOKEN_EOS });
    assert_int_equal(csp_text_encoder_counts(encoder, CSP_SIDE_PASSAGE)->tokens, 6);
    f->contract.add_bos = false;
    assert_int_equal(encode(f, encoder, CSP_SIDE_PASSAGE, "ab"), CSP_OK);
    assert_ids(f, 3, (int32_t[]) { 0, 1, TOKEN_EOS });
    csp_text_encoder_destroy(encoder);
}

static void an_empty_text_has_no_tokens_at_all_and_is_counted(void **state)
{
    fixture *f = *state;
    csp_text_encoder *encoder = encoder_of(f, false);
    char words[200];

    f->contract.add_bos = true;
    assert_int_equal(encode(f, encoder, CSP_SIDE_QUERY, " \t"), CSP_OK);
    assert_int_equal(f->ids.count, 0);
    assert_int_equal(encode(f, encoder, CSP_SIDE_QUERY, "abcdef"), CSP_OK);
    csp_text_counts_say(csp_text_encoder_counts(encoder, CSP_SIDE_QUERY), "queries", 5, words,
                        sizeof(words));
    assert_string_equal(words, "2 queries, 6 tokens, 1 empty, 1 cut at 5 tokens (longest 9)");
    csp_text_encoder_destroy(encoder);
}

static void strict_refuses_empty_and_long_texts_by_id(void **state)
{
    fixture *f = *state;
    csp_text_encoder *encoder = encoder_of(f, true);

    assert_int_equal(encode(f, encoder, CSP_SIDE_QUERY, ""), CSP_ERR_DATA);
    assert_says("\"id7\" has an empty text");
    assert_int_equal(encode(f, encoder, CSP_SIDE_QUERY, "abc"), CSP_ERR_DATA);
    assert_says("\"id7\" has 6 tokens with its prefix, more than the 5");
    assert_int_equal(encode(f, encoder, CSP_SIDE_QUERY, "ab"), CSP_OK);
    assert_int_equal(encode(f, encoder, CSP_SIDE_PASSAGE, "a\xFF"), CSP_ERR_DATA);
    csp_text_encoder_destroy(encoder);
}

static void adaptation_texts_have_no_prefix(void **state)
{
    fixture *f = *state;
    csp_text_encoder *encoder = encoder_of(f, true);

    f->contract.append_eos = true;
    assert_int_equal(csp_text_encode_plain(encoder, 3, NULL, "abcde", 5, &f->ids), CSP_OK);
    assert_ids(f, 4, (int32_t[]) { 0, 1, 2, TOKEN_EOS });
    assert_int_equal(csp_text_encoder_plain_counts(encoder)->truncated, 1);
    csp_text_encoder_destroy(encoder);
}

static void refuses_special_tokens_that_are_not_in_the_vocabulary(void **state)
{
    fixture *f = *state;
    csp_text_encoder *encoder = NULL;

    f->contract.add_bos = true;
    f->contract.bos_id = 41;
    assert_int_equal(csp_text_encoder_create(&f->contract, f->tokenizer, false, &encoder),
                     CSP_ERR_CONFIG);
    assert_says("bos_id is 41, not in the tokenizer's ids 0..40");
    assert_null(encoder);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(prefix_and_text_are_one_string_cut_at_the_end),
        CASE(bos_and_eos_stand_around_the_cut_text_and_are_not_counted),
        CASE(an_empty_text_has_no_tokens_at_all_and_is_counted),
        CASE(strict_refuses_empty_and_long_texts_by_id),
        CASE(adaptation_texts_have_no_prefix),
        CASE(refuses_special_tokens_that_are_not_in_the_vocabulary),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

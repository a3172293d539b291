/*
 * test_tokenizer_train.c - training: the merges of Hugging Face's trainer on the same texts, from
 * scripts/make_tokenizer_fixtures.py, and what must hold on any texts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/fault.h"
#include "data/tokenizer.h"

#define CASES CSPLADE_SOURCE_DIR "/tests/fixtures/tokenizer/cases.json"

static const char *const texts[] = {
    "the cat and the dog",
    "The theory, the thing; 12345 and 678!",
    "don't can't won't",
    "caf\xC3\xA9 \xE4\xB8\xAD\xE6\x96\x87",
    "",
    "aaaaaaaa aaaa",
    "the cat",
    "the dog",
    "a \"quote\" \\",
};

enum { TEXTS = sizeof(texts) / sizeof(texts[0]) };

/* Gives the texts, in reverse order if asked, and fails at a number of them if asked. */
typedef struct source {
    int next;
    bool reversed;
    int fail_at; /* -1 = never */
} source;

static csp_status next_text(void *context, const char **text, int64_t *bytes)
{
    source *s = context;

    if (s->next == s->fail_at) {
        return CSP_FAIL(CSP_ERR_IO, "the texts broke off");
    }
    *text = NULL;
    if (s->next < TEXTS) {
        *text = texts[s->reversed ? TEXTS - 1 - s->next : s->next];
        *bytes = (int64_t)strlen(*text);
        s->next++;
    }
    return CSP_OK;
}

static csp_tokenizer *train(const csp_tokenizer_train_options *options, bool reversed)
{
    source s = { 0, reversed, -1 };
    csp_tokenizer *tokenizer = NULL;

    if (csp_tokenizer_train(options, next_text, &s, &tokenizer) != CSP_OK) {
        fail_msg("%s", csp_error_text());
    }
    return tokenizer;
}

typedef struct json_source {
    const json_t *texts;
    size_t next;
} json_source;

static csp_status next_json(void *context, const char **text, int64_t *bytes)
{
    json_source *s = context;
    const json_t *item = json_array_get(s->texts, s->next++);

    *text = json_string_value(item);
    *bytes = (int64_t)json_string_length(item);
    return CSP_OK;
}

static void merges_are_those_of_hugging_face(void **state)
{
    json_t *root = json_load_file(CASES, 0, NULL);
    const json_t *want = json_object_get(root, "training");
    const csp_tokenizer_train_options options = {
        .vocab_size = json_integer_value(json_object_get(want, "vocab_size")),
        .min_frequency = json_integer_value(json_object_get(want, "min_frequency")),
        .lowercase = json_is_true(json_object_get(want, "lowercase")),
    };
    json_source s = { json_object_get(want, "texts"), 0 };
    csp_tokenizer *tokenizer = NULL;
    const json_t *got, *merges = json_object_get(want, "merges");
    json_t *file;
    int64_t bytes;
    size_t i;
    json_t *merge;

    (void)state;
    assert_non_null(root);
    assert_int_equal(csp_tokenizer_train(&options, next_json, &s, &tokenizer), CSP_OK);
    file = json_loads(csp_tokenizer_source(tokenizer, &bytes), 0, NULL);
    got = json_object_get(json_object_get(file, "model"), "merges");
    assert_true(json_array_size(merges) > 30);
    assert_int_equal(json_array_size(got), json_array_size(merges));
    json_array_foreach(merges, i, merge)
    {
        char both[200];

        (void)snprintf(both, sizeof(both), "%s %s", json_string_value(json_array_get(merge, 0)),
                       json_string_value(json_array_get(merge, 1)));
        assert_string_equal(json_string_value(json_array_get(got, i)), both);
    }
    assert_true(json_equal(json_object_get(json_object_get(file, "model"), "vocab"),
                           json_object_get(want, "vocab")));
    json_decref(file);
    json_decref(root);
    csp_tokenizer_close(tokenizer);
}

static void the_order_of_texts_does_not_matter(void **state)
{
    const csp_tokenizer_train_options options = { .vocab_size = 290, .min_frequency = 1 };
    csp_tokenizer *a = train(&options, false), *b = train(&options, true);
    int64_t a_bytes, b_bytes;
    const char *a_text = csp_tokenizer_source(a, &a_bytes);
    const char *b_text = csp_tokenizer_source(b, &b_bytes);

    (void)state;
    assert_int_equal(csp_tokenizer_vocab_size(a), 290);
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(a_text, b_text, (size_t)a_bytes);
    csp_tokenizer_close(a);
    csp_tokenizer_close(b);
}

static void a_saved_tokenizer_opens_and_gives_the_same_ids(void **state)
{
    const csp_tokenizer_train_options options = {
        .vocab_size = 300, .min_frequency = 2, .lowercase = true, .add_bos = true
    };
    char path[] = "/tmp/csplade-trained-XXXXXX";
    const int descriptor = mkstemp(path);
    csp_tokenizer *made = train(&options, false), *opened = NULL;
    csp_token_list a = { 0 }, b = { 0 };

    (void)state;
    assert_true(descriptor >= 0);
    assert_int_equal(close(descriptor), 0);
    assert_int_equal(csp_tokenizer_save(made, path), CSP_OK);
    assert_int_equal(csp_tokenizer_open(path, &opened), CSP_OK);
    for (int i = 0; i < TEXTS; i++) {
        const int64_t bytes = (int64_t)strlen(texts[i]);
        char *text;
        int64_t text_bytes;

        assert_int_equal(csp_tokenizer_encode(made, texts[i], bytes, true, &a), CSP_OK);
        assert_int_equal(csp_tokenizer_encode(opened, texts[i], bytes, true, &b), CSP_OK);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.ids, b.ids, (size_t)a.count * sizeof(*a.ids));
        assert_int_equal(a.ids[0], csp_tokenizer_id(made, "<|begin_of_text|>"));
        assert_int_equal(csp_tokenizer_decode(opened, b.ids + 1, b.count - 1, &text, &text_bytes),
                         CSP_OK);
        assert_int_equal(text_bytes, bytes);
        for (int64_t k = 0; k < bytes; k++) {
            const char c = texts[i][k];

            assert_int_equal(text[k], c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
        free(text);
    }
    csp_token_list_clear(&a);
    csp_token_list_clear(&b);
    csp_tokenizer_close(made);
    csp_tokenizer_close(opened);
    (void)unlink(path);
}

static void rare_pairs_are_not_merged_and_digits_stay_in_threes(void **state)
{
    const csp_tokenizer_train_options all = { .vocab_size = 5000, .min_frequency = 1 };
    const csp_tokenizer_train_options frequent = { .vocab_size = 5000, .min_frequency = 3 };
    csp_tokenizer *a = train(&all, false), *b = train(&frequent, false);

    (void)state;
    assert_true(csp_tokenizer_id(a, "123") >= 0);
    assert_int_equal(csp_tokenizer_id(a, "1234"), -1);
    assert_true(csp_tokenizer_id(b, "\xC4\xA0the") >= 0); /* " the", four times */
    assert_int_equal(csp_tokenizer_id(b, "123"), -1);
    assert_true(csp_tokenizer_vocab_size(b) < csp_tokenizer_vocab_size(a));
    assert_true(csp_tokenizer_vocab_size(a) < 5000); /* the texts ran out of pairs */
    csp_tokenizer_close(a);
    csp_tokenizer_close(b);
}

static void no_text_gives_the_bytes_alone(void **state)
{
    const csp_tokenizer_train_options options = { .vocab_size = 1000, .min_frequency = 1 };
    source s = { TEXTS, false, -1 };
    csp_tokenizer *tokenizer = NULL;

    (void)state;
    assert_int_equal(csp_tokenizer_train(&options, next_text, &s, &tokenizer), CSP_OK);
    assert_int_equal(csp_tokenizer_vocab_size(tokenizer), 258);
    csp_tokenizer_close(tokenizer);
}

static csp_status next_invalid(void *context, const char **text, int64_t *bytes)
{
    int *given = context;

    *text = (*given)++ == 0 ? "fine" : "a\xC3";
    *bytes = (int64_t)strlen(*text);
    return CSP_OK;
}

static void bad_options_and_bad_texts_are_refused(void **state)
{
    const csp_tokenizer_train_options good = { .vocab_size = 300, .min_frequency = 1 };
    csp_tokenizer_train_options options = good;
    source s = { 0, false, -1 };
    csp_tokenizer *tokenizer = NULL;
    int given = 0;

    (void)state;
    options.vocab_size = 257;
    assert_int_equal(csp_tokenizer_train(&options, next_text, &s, &tokenizer), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "vocab_size 257"));
    options = good;
    options.min_frequency = 0;
    assert_int_equal(csp_tokenizer_train(&options, next_text, &s, &tokenizer), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_tokenizer_train(&good, next_invalid, &given, &tokenizer), CSP_ERR_DATA);
    assert_non_null(strstr(csp_error_text(), "training text 2 is not UTF-8 at byte 1"));
    s.fail_at = 3;
    assert_int_equal(csp_tokenizer_train(&good, next_text, &s, &tokenizer), CSP_ERR_IO);
    assert_non_null(strstr(csp_error_text(), "broke off"));
    assert_null(tokenizer);
}

static void every_allocation_may_fail(void **state)
{
    const csp_tokenizer_train_options options = { .vocab_size = 280, .min_frequency = 1 };
    csp_status status = CSP_ERR_MEMORY;
    long n = 0;

    (void)state;
    while (status != CSP_OK) {
        source s = { 0, false, -1 };
        csp_tokenizer *tokenizer = NULL;

        csp_fault_arm(++n);
        status = csp_tokenizer_train(&options, next_text, &s, &tokenizer);
        csp_fault_arm(0);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        assert_true((tokenizer != NULL) == (status == CSP_OK));
        csp_tokenizer_close(tokenizer);
        assert_true(n < 2000);
    }
    assert_true(n > 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_those_of_hugging_face),
        cmocka_unit_test(the_order_of_texts_does_not_matter),
        cmocka_unit_test(a_saved_tokenizer_opens_and_gives_the_same_ids),
        cmocka_unit_test(rare_pairs_are_not_merged_and_digits_stay_in_threes),
        cmocka_unit_test(no_text_gives_the_bytes_alone),
        cmocka_unit_test(bad_options_and_bad_texts_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_tokenizer.c - ids and texts against Hugging Face tokenizers: cases made by
 * scripts/make_tokenizer_fixtures.py, and what must hold for any text.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/rng.h"
#include "tokenizer_check.h"

#define CASES CSPLADE_SOURCE_DIR "/tests/fixtures/tokenizer/cases.json"

static json_t *load_cases(void)
{
    json_error_t error;
    json_t *root = json_load_file(CASES, 0, &error);

    if (root == NULL) {
        fail_msg("%s:%d: %s", CASES, error.line, error.text);
    }
    return root;
}

/* The tokenizer of a case: its base with members replaced. */
static csp_tokenizer *open_case(const json_t *root, const json_t *item)
{
    const char *base = json_string_value(json_object_get(item, "base"));
    json_t *file = json_deep_copy(json_object_get(json_object_get(root, "bases"), base));
    csp_tokenizer *tokenizer = NULL;
    char *text;

    assert_non_null(file);
    assert_int_equal(json_object_update(file, json_object_get(item, "members")), 0);
    assert_int_equal(
        json_object_update(json_object_get(file, "model"), json_object_get(item, "model")), 0);
    text = json_dumps(file, JSON_COMPACT);
    assert_non_null(text);
    if (csp_tokenizer_from_text(text, (int64_t)strlen(text), "case", &tokenizer) != CSP_OK) {
        fail_msg("%s: %s", json_string_value(json_object_get(item, "name")), csp_error_text());
    }
    free(text);
    json_decref(file);
    return tokenizer;
}

static void every_case_gives_what_hugging_face_gives(void **state)
{
    json_t *root = load_cases();
    csp_token_list list = { 0 };
    size_t i, j;
    json_t *item, *line;

    (void)state;
    assert_true(json_array_size(json_object_get(root, "cases")) >= 30);
    json_array_foreach(json_object_get(root, "cases"), i, item)
    {
        csp_tokenizer *tokenizer = open_case(root, item);

        json_array_foreach(json_object_get(item, "texts"), j, line)
        {
            if (!agrees(tokenizer, line, "special", &list)) {
                fail_msg("%s: text %zu differs: %s",
                         json_string_value(json_object_get(item, "name")), j,
                         json_string_value(json_object_get(line, "text")));
            }
        }
        csp_tokenizer_close(tokenizer);
    }
    csp_token_list_clear(&list);
    json_decref(root);
}

/* The case called name. */
static csp_tokenizer *open_named(const char *name)
{
    json_t *root = load_cases();
    csp_tokenizer *tokenizer = NULL;
    size_t i;
    json_t *item;

    json_array_foreach(json_object_get(root, "cases"), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "name")), name) == 0) {
            tokenizer = open_case(root, item);
        }
    }
    json_decref(root);
    assert_non_null(tokenizer);
    return tokenizer;
}

/* Valid UTF-8 of up to 60 characters from everywhere. */
static int64_t random_text(uint64_t number, char *out)
{
    static const int32_t limits[] = { 0x80, 0x80, 0x80, 0x250, 0x3000, 0x110000 };
    const csp_rng rng = { .seed = 1, .draw = CSP_DRAW_TEST, .step = number };
    const uint64_t count = csp_rng_below(rng, 0, 61);
    int64_t bytes = 0;

    for (uint64_t i = 0; i < count; i++) {
        const int32_t limit = limits[csp_rng_below(rng, 2 * i + 1, 6)];
        int32_t c = (int32_t)csp_rng_below(rng, 2 * i + 2, (uint64_t)limit);

        c = c >= 0xD800 && c < 0xE000 ? 0xFFFD : c;
        if (c < 0x80) {
            out[bytes++] = (char)c;
        } else if (c < 0x800) {
            out[bytes++] = (char)(0xC0 | c >> 6);
            out[bytes++] = (char)(0x80 | (c & 0x3F));
        } else if (c < 0x10000) {
            out[bytes++] = (char)(0xE0 | c >> 12);
            out[bytes++] = (char)(0x80 | (c >> 6 & 0x3F));
            out[bytes++] = (char)(0x80 | (c & 0x3F));
        } else {
            out[bytes++] = (char)(0xF0 | c >> 18);
            out[bytes++] = (char)(0x80 | (c >> 12 & 0x3F));
            out[bytes++] = (char)(0x80 | (c >> 6 & 0x3F));
            out[bytes++] = (char)(0x80 | (c & 0x3F));
        }
    }
    return bytes;
}

static void byte_level_text_comes_back_whole(void **state)
{
    csp_tokenizer *tokenizer = open_named("llama3");
    csp_token_list list = { 0 };
    char text[256];

    (void)state;
    for (uint64_t n = 0; n < 2000; n++) {
        const int64_t bytes = random_text(n, text);
        char *decoded = NULL;
        int64_t decoded_bytes = -1;

        assert_int_equal(csp_tokenizer_encode(tokenizer, text, bytes, false, &list), CSP_OK);
        assert_int_equal(
            csp_tokenizer_decode(tokenizer, list.ids, list.count, &decoded, &decoded_bytes),
            CSP_OK);
        assert_int_equal(decoded_bytes, bytes);
        assert_memory_equal(decoded, text, (size_t)bytes);
        assert_int_equal(decoded[bytes], 0);
        free(decoded);
    }
    csp_token_list_clear(&list);
    csp_tokenizer_close(tokenizer);
}

/* Pieces longer than the cache holds, and so many symbols that any quadratic walk would show. */
static void a_long_piece_gives_the_ids_of_its_merges(void **state)
{
    enum { REPEATS = 200000 };
    csp_tokenizer *tokenizer = open_named("llama2");
    char *text = malloc(REPEATS * 2);
    csp_token_list once = { 0 }, all = { 0 };

    (void)state;
    assert_non_null(text);
    for (int64_t i = 0; i < REPEATS; i++) {
        memcpy(text + 2 * i, "qz", 2); /* letters that nothing merges */
    }
    assert_int_equal(csp_tokenizer_encode(tokenizer, text, 2, false, &once), CSP_OK);
    assert_int_equal(csp_tokenizer_encode(tokenizer, text, 2 * REPEATS, false, &all), CSP_OK);
    assert_int_equal(once.count, 3); /* the mark, q, z */
    assert_int_equal(all.count, 1 + 2 * REPEATS);
    assert_int_equal(all.ids[2 * REPEATS], once.ids[2]);
    free(text);
    csp_token_list_clear(&once);
    csp_token_list_clear(&all);
    csp_tokenizer_close(tokenizer);
}

static void tokens_and_ids_name_each_other(void **state)
{
    csp_tokenizer *tokenizer = open_named("llama3");
    const int64_t size = csp_tokenizer_vocab_size(tokenizer);
    const int32_t begin = csp_tokenizer_id(tokenizer, "<|begin_of_text|>");

    (void)state;
    for (int64_t id = 0; id < size; id++) {
        assert_non_null(csp_tokenizer_token(tokenizer, id));
        assert_int_equal(csp_tokenizer_id(tokenizer, csp_tokenizer_token(tokenizer, id)), id);
        assert_int_equal(csp_tokenizer_is_special(tokenizer, id), id >= begin);
    }
    assert_int_equal(begin, size - 2);
    assert_null(csp_tokenizer_token(tokenizer, -1));
    assert_null(csp_tokenizer_token(tokenizer, size));
    assert_false(csp_tokenizer_is_special(tokenizer, -1));
    assert_false(csp_tokenizer_is_special(tokenizer, size));
    assert_int_equal(csp_tokenizer_id(tokenizer, "no such token"), -1);
    csp_tokenizer_close(tokenizer);
}

static void ids_without_a_token_decode_to_nothing(void **state)
{
    csp_tokenizer *tokenizer = open_named("llama3");
    const int32_t ids[] = { -1, INT32_MAX, INT32_MIN };
    char *text = NULL;
    int64_t bytes = -1;

    (void)state;
    assert_int_equal(csp_tokenizer_decode(tokenizer, ids, 3, &text, &bytes), CSP_OK);
    assert_int_equal(bytes, 0);
    assert_string_equal(text, "");
    free(text);
    csp_tokenizer_close(tokenizer);
}

typedef struct shared_run {
    const csp_tokenizer *tokenizer;
    uint64_t sum;
} shared_run;

static void *encode_many(void *context)
{
    shared_run *run = context;
    csp_token_list list = { 0 };
    char text[256];

    for (uint64_t n = 0; n < 3000; n++) {
        const int64_t bytes = random_text(n % 500, text);

        if (csp_tokenizer_encode(run->tokenizer, text, bytes, true, &list) != CSP_OK) {
            break;
        }
        for (int64_t i = 0; i < list.count; i++) {
            run->sum = run->sum * 31 + (uint64_t)list.ids[i];
        }
    }
    csp_token_list_clear(&list);
    return NULL;
}

static void threads_share_one_tokenizer(void **state)
{
    csp_tokenizer *tokenizer = open_named("qwen2");
    pthread_t threads[4];
    shared_run runs[4], alone = { tokenizer, 0 };

    (void)state;
    for (int i = 0; i < 4; i++) {
        runs[i] = (shared_run) { tokenizer, 0 };
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, &runs[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    (void)encode_many(&alone);
    assert_true(alone.sum != 0);
    for (int i = 0; i < 4; i++) {
        assert_true(runs[i].sum == alone.sum);
    }
    csp_tokenizer_close(tokenizer);
}

static void text_that_is_not_utf8_is_refused_and_the_list_left_empty(void **state)
{
    csp_tokenizer *tokenizer = open_named("llama3");
    csp_token_list list = { 0 };

    (void)state;
    assert_int_equal(csp_tokenizer_encode(tokenizer, "abc", 3, false, &list), CSP_OK);
    assert_true(list.count > 0);
    assert_int_equal(csp_tokenizer_encode(tokenizer, "abc\xFFz", 5, false, &list), CSP_ERR_DATA);
    assert_int_equal(list.count, 0);
    assert_non_null(strstr(csp_error_text(), "byte 3"));
    csp_token_list_clear(&list);
    csp_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_gives_what_hugging_face_gives),
        cmocka_unit_test(byte_level_text_comes_back_whole),
        cmocka_unit_test(a_long_piece_gives_the_ids_of_its_merges),
        cmocka_unit_test(tokens_and_ids_name_each_other),
        cmocka_unit_test(ids_without_a_token_decode_to_nothing),
        cmocka_unit_test(threads_share_one_tokenizer),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_and_the_list_left_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

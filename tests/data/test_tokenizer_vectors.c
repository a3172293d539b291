/*
 * test_tokenizer_vectors.c - the vectors of shared/data: real tokenizers, every line equal. Skipped
 * where the data is absent.
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

#include "tokenizer_check.h"

#define SHARED CSPLADE_SOURCE_DIR "/../shared/data"

static void check_vectors(const char *name)
{
    char path[400];
    csp_tokenizer *tokenizer = NULL;
    csp_token_list list = { 0 };
    FILE *file;
    int lines = 0;

    (void)snprintf(path, sizeof(path), SHARED "/tokenizers/%s/tokenizer.json.gz", name);
    if (csp_tokenizer_open(path, &tokenizer) != CSP_OK) {
        fail_msg("%s", csp_error_text());
    }
    (void)snprintf(path, sizeof(path), SHARED "/tokenizers/%s/vectors.jsonl", name);
    file = fopen(path, "r");
    assert_non_null(file);
    for (;;) {
        json_t *line = json_loadf(file, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL);

        if (line == NULL) {
            break;
        }
        lines++;
        if (!agrees(tokenizer, line, "ids_with_special", &list)) {
            fail_msg("%s line %d (%s) differs: %s", name, lines,
                     json_string_value(json_object_get(line, "category")),
                     json_string_value(json_object_get(line, "text")));
        }
        json_decref(line);
    }
    (void)fclose(file);
    assert_int_equal(lines, 278);
    csp_token_list_clear(&list);
    csp_tokenizer_close(tokenizer);
}

static void qwen2_vectors_are_equal(void **state)
{
    (void)state;
    check_vectors("qwen2");
}

static void mistral_v1_vectors_are_equal(void **state)
{
    (void)state;
    check_vectors("mistral-v1");
}

static void mistral_v3_vectors_are_equal(void **state)
{
    (void)state;
    check_vectors("mistral-v3");
}

static void llama3_style_vectors_are_equal(void **state)
{
    (void)state;
    check_vectors("llama3-style-8k");
}

static void stories260k_gives_the_ids_of_its_reference(void **state)
{
    csp_tokenizer *tokenizer = NULL;
    csp_token_list list = { 0 };
    json_t *root = json_load_file(SHARED "/models/stories260K/reference.json", 0, NULL);
    const json_t *greedy = json_object_get(root, "greedy_text");
    size_t i;
    json_t *item;

    (void)state;
    assert_non_null(root);
    assert_int_equal(csp_tokenizer_open(SHARED "/models/stories260K", &tokenizer), CSP_OK);
    assert_int_equal(csp_tokenizer_vocab_size(tokenizer), 512);
    assert_true(json_array_size(json_object_get(root, "items")) >= 6);
    json_array_foreach(json_object_get(root, "items"), i, item)
    {
        const json_t *text = json_object_get(item, "text");

        assert_int_equal(csp_tokenizer_encode(tokenizer, json_string_value(text),
                                              (int64_t)json_string_length(text), true, &list),
                         CSP_OK);
        assert_true(same_ids(&list, json_object_get(item, "ids")));
    }
    assert_int_equal(csp_tokenizer_encode(tokenizer, json_string_value(greedy),
                                          (int64_t)json_string_length(greedy), true, &list),
                     CSP_OK);
    for (int64_t k = 0; k < 20; k++) { /* the text was generated: later cuts may differ */
        const json_t *ids = json_object_get(root, "greedy_ids_from_bos");

        assert_int_equal(list.ids[k], json_integer_value(json_array_get(ids, (size_t)k)));
    }
    csp_token_list_clear(&list);
    csp_tokenizer_close(tokenizer);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen2_vectors_are_equal),
        cmocka_unit_test(mistral_v1_vectors_are_equal),
        cmocka_unit_test(mistral_v3_vectors_are_equal),
        cmocka_unit_test(llama3_style_vectors_are_equal),
        cmocka_unit_test(stories260k_gives_the_ids_of_its_reference),
    };

    if (access(SHARED "/tokenizers", R_OK) != 0) {
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

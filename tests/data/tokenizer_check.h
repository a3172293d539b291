/* tokenizer_check.h - a line of expected ids and text against a tokenizer; for the tests here. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "data/tokenizer.h"

static inline bool same_ids(const csp_token_list *got, const json_t *want)
{
    bool same = got->count == (int64_t)json_array_size(want);

    for (int64_t i = 0; i < got->count && same; i++) {
        same = got->ids[i] == json_integer_value(json_array_get(want, (size_t)i));
    }
    return same;
}

/* Whether a text gives the ids, those with the post-processor (special_key), and the text back. */
static inline bool agrees(const csp_tokenizer *tokenizer, const json_t *line,
                          const char *special_key, csp_token_list *list)
{
    const json_t *text = json_object_get(line, "text");
    const json_t *want = json_object_get(line, "decoded");
    const int64_t bytes = (int64_t)json_string_length(text);
    char *decoded = NULL;
    int64_t decoded_bytes = 0;
    bool same;

    assert_int_equal(csp_tokenizer_encode(tokenizer, json_string_value(text), bytes, true, list),
                     CSP_OK);
    same = same_ids(list, json_object_get(line, special_key));
    assert_int_equal(csp_tokenizer_encode(tokenizer, json_string_value(text), bytes, false, list),
                     CSP_OK);
    same = same && same_ids(list, json_object_get(line, "ids"));
    assert_int_equal(
        csp_tokenizer_decode(tokenizer, list->ids, list->count, &decoded, &decoded_bytes), CSP_OK);
    same = same && decoded_bytes == (int64_t)json_string_length(want) &&
           memcmp(decoded, json_string_value(want), (size_t)decoded_bytes) == 0;
    free(decoded);
    return same;
}

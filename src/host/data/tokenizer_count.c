/* tokenizer_count.c - how often each piece of the training texts occurs. */
#include <stdlib.h>

#include "data/tokenizer_internal.h"
#include "io/lines.h"

static csp_status count_piece(const char *piece, int64_t bytes, csp_word_counts *out)
{
    const int32_t known = csp_string_table_find(&out->words, piece, bytes);

    if (known >= 0) {
        out->counts[known]++;
        return CSP_OK;
    }
    if (out->words.count == INT32_MAX) {
        return CSP_FAIL(CSP_ERR_DATA, "training texts hold more than %d different words",
                        INT32_MAX);
    }
    CSP_TRY(csp_grow("training words", out->words.count + 1, sizeof(*out->counts), &out->counts,
                     &out->room));
    out->counts[out->words.count] = 1;
    return csp_string_table_add(&out->words, piece, bytes, (int32_t)out->words.count);
}

static csp_status count_text(const csp_tokenizer *splitter, csp_scratch *scratch, const char *text,
                             int64_t bytes, csp_word_counts *out)
{
    const csp_piece_list *pieces;
    bool first = true;

    CSP_TRY(csp_normalize(splitter, scratch, &text, &bytes, &first));
    if (bytes == 0) {
        return CSP_OK;
    }
    CSP_TRY(csp_presplit_text(splitter, scratch, first, &text, bytes, &pieces));
    for (int64_t i = 0; i < pieces->count; i++) {
        const csp_piece *piece = &pieces->pieces[i];

        CSP_TRY(count_piece(text + piece->begin, piece->end - piece->begin, out));
    }
    return CSP_OK;
}

csp_status csp_count_words(const csp_tokenizer *splitter, csp_text_source next, void *context,
                           csp_word_counts *out)
{
    csp_word_counts counts = { 0 };
    csp_scratch *scratch = NULL;
    csp_status status;
    const char *text;
    int64_t bytes, bad;

    CSP_TRY_GOTO(csp_scratch_create(&scratch));
    for (int64_t number = 1;; number++) {
        CSP_TRY_GOTO(next(context, &text, &bytes));
        if (text == NULL) {
            break;
        }
        if (bytes < 0 || bytes > CSP_TEXT_LIMIT) {
            status =
                CSP_FAIL(CSP_ERR_DATA, "training text %lld has %lld bytes, above the limit %lld",
                         (long long)number, (long long)bytes, (long long)CSP_TEXT_LIMIT);
            goto fail;
        }
        if (!csp_utf8_is_valid(text, bytes, &bad)) {
            status = CSP_FAIL(CSP_ERR_DATA, "training text %lld is not UTF-8 at byte %lld",
                              (long long)number, (long long)bad);
            goto fail;
        }
        CSP_TRY_GOTO(count_text(splitter, scratch, text, bytes, &counts));
    }
    csp_scratch_destroy(scratch);
    *out = counts;
    return CSP_OK;

fail:
    csp_scratch_destroy(scratch);
    csp_word_counts_clear(&counts);
    return status;
}

void csp_word_counts_clear(csp_word_counts *counts)
{
    csp_string_table_clear(&counts->words);
    free(counts->counts);
    *counts = (csp_word_counts) { 0 };
}

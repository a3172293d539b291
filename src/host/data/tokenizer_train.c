/*
 * tokenizer_train.c - training from texts to a tokenizer: cut, count, find merges, write the file,
 * and read it back, so that what is returned is what anyone gets who opens the file.
 */
#include <stdlib.h>

#include "data/tokenizer_internal.h"

enum { BYTE_TOKENS = 256, SPECIAL_TOKENS = 2, VOCAB_LIMIT = 1 << 22 };

static csp_status check_options(const csp_tokenizer_train_options *options)
{
    if (options->vocab_size < BYTE_TOKENS + SPECIAL_TOKENS || options->vocab_size > VOCAB_LIMIT) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "vocab_size %lld is not in %d..%d",
                        (long long)options->vocab_size, BYTE_TOKENS + SPECIAL_TOKENS, VOCAB_LIMIT);
    }
    if (options->min_frequency < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "min_frequency %lld is below 1",
                        (long long)options->min_frequency);
    }
    return CSP_OK;
}

/* The 256 bytes as tokens, in the order of the characters that stand for them, as GPT-2 has it. */
static csp_status add_byte_tokens(csp_trained *trained)
{
    for (int32_t c = 0; c < 0x144; c++) {
        const int byte = csp_char_to_byte(c);
        const char value = (char)byte;

        if (byte >= 0) {
            CSP_TRY(
                csp_string_table_add(&trained->tokens, &value, 1, (int32_t)trained->tokens.count));
        }
    }
    CSP_ASSERT(trained->tokens.count == BYTE_TOKENS);
    return CSP_OK;
}

static csp_status open_trained(const csp_tokenizer_train_options *options,
                               const csp_trained *trained, csp_tokenizer **out)
{
    csp_text_buffer json = { 0 };
    csp_status status = csp_write_trained(options, trained, &json);

    if (status == CSP_OK) {
        status = csp_tokenizer_from_text(json.bytes, json.count, "trained tokenizer", out);
    }
    csp_text_buffer_clear(&json);
    return status;
}

csp_status csp_tokenizer_train(const csp_tokenizer_train_options *options, csp_text_source next,
                               void *context, csp_tokenizer **out)
{
    csp_trained trained = { 0 };
    csp_word_counts words = { 0 };
    csp_tokenizer *splitter = NULL;
    csp_status status;

    CSP_TRY(check_options(options));
    CSP_TRY_GOTO(add_byte_tokens(&trained));
    CSP_TRY_GOTO(open_trained(options, &trained, &splitter));
    CSP_TRY_GOTO(csp_count_words(splitter, next, context, &words));
    CSP_TRY_GOTO(csp_find_merges(&words, options->vocab_size - SPECIAL_TOKENS,
                                 options->min_frequency, &trained));
    CSP_TRY_GOTO(open_trained(options, &trained, out));

fail:
    csp_tokenizer_close(splitter);
    csp_word_counts_clear(&words);
    csp_string_table_clear(&trained.tokens);
    free(trained.merges);
    return status;
}

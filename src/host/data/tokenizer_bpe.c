/*
 * tokenizer_bpe.c - byte-pair encoding of one piece: symbols in a linked list, candidate merges in
 * a heap by (rank, position). A candidate is not removed when its symbols change; it is dropped
 * when it comes up and no longer gives the token it was made for. Short pieces come from a cache.
 */
#include <string.h>

#include "data/tokenizer_internal.h"

static csp_status add_symbol(csp_scratch *scratch, int32_t id)
{
    const int64_t n = scratch->symbol_count;

    if (n == scratch->symbol_room) {
        CSP_TRY(csp_grow("tokenizer symbols", n + 1, sizeof(*scratch->symbols), &scratch->symbols,
                         &scratch->symbol_room));
    }
    scratch->symbols[n] = (csp_symbol) {
        .id = id, .previous = (int32_t)(n - 1), .next = (int32_t)(n + 1), .live = true
    };
    scratch->symbol_count = n + 1;
    return CSP_OK;
}

/*
 * A character without a token: its bytes where the vocabulary has all of them, else the unknown
 * token, else nothing. An unknown token waits in *unknown (-1 = none): neighbours may join it, and
 * the byte path leaves it waiting, as Hugging Face does.
 */
static csp_status add_unknown(const csp_tokenizer *tokenizer, csp_scratch *scratch,
                              const char *bytes, int length, int32_t *unknown)
{
    bool fallback = tokenizer->byte_fallback;

    for (int i = 0; i < length && fallback; i++) {
        fallback = tokenizer->fallback_ids[(unsigned char)bytes[i]] >= 0;
    }
    for (int i = 0; i < length && fallback; i++) {
        CSP_TRY(add_symbol(scratch, tokenizer->fallback_ids[(unsigned char)bytes[i]]));
    }
    if (fallback || tokenizer->unk_token == NULL) {
        return CSP_OK;
    }
    if (tokenizer->unk_id < 0) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s: a character has no token, and the unknown token \"%s\" is not in the "
                        "vocabulary",
                        tokenizer->name, tokenizer->unk_token);
    }
    if (*unknown >= 0 && !tokenizer->fuse_unk) {
        CSP_TRY(add_symbol(scratch, *unknown));
    }
    *unknown = tokenizer->unk_id;
    return CSP_OK;
}

static csp_status make_symbols(const csp_tokenizer *tokenizer, csp_scratch *scratch,
                               const char *piece, int64_t bytes)
{
    int32_t unknown = -1;
    int length = 1;

    scratch->symbol_count = 0;
    for (int64_t i = 0; i < bytes; i += length) {
        int32_t id;

        if (tokenizer->byte_level) {
            id = tokenizer->byte_ids[(unsigned char)piece[i]];
        } else {
            (void)csp_utf8_next(piece + i, &length);
            id = csp_string_table_find(&tokenizer->vocab, piece + i, length);
        }
        if (id < 0) {
            char printable[4];
            const int printable_bytes =
                csp_utf8_write(csp_byte_to_char((unsigned char)piece[i]), printable);

            CSP_TRY(tokenizer->byte_level
                        ? add_unknown(tokenizer, scratch, printable, printable_bytes, &unknown)
                        : add_unknown(tokenizer, scratch, piece + i, length, &unknown));
            continue;
        }
        if (unknown >= 0) {
            CSP_TRY(add_symbol(scratch, unknown));
            unknown = -1;
        }
        CSP_TRY(add_symbol(scratch, id));
    }
    if (unknown >= 0) {
        CSP_TRY(add_symbol(scratch, unknown));
    }
    if (scratch->symbol_count > 0) {
        scratch->symbols[scratch->symbol_count - 1].next = -1;
    }
    return CSP_OK;
}

/* Offers the merge of symbol `at` with the one behind it, if the file has one. */
static csp_status offer(const csp_tokenizer *tokenizer, csp_scratch *scratch, int32_t at)
{
    const csp_symbol *left = &scratch->symbols[at];
    const csp_merge *merge =
        csp_merge_table_find(&tokenizer->merges, left->id, scratch->symbols[left->next].id);

    if (merge == NULL) {
        return CSP_OK;
    }
    return csp_heap_push(&scratch->merges, "tokenizer merges",
                         (csp_heap_item) { .first = (uint64_t)merge->rank,
                                           .second = (uint64_t)at,
                                           .value = merge->id });
}

static csp_status merge_symbols(const csp_tokenizer *tokenizer, csp_scratch *scratch)
{
    csp_symbol *symbols = scratch->symbols;

    scratch->merges.count = 0;
    for (int64_t i = 0; i + 1 < scratch->symbol_count; i++) {
        CSP_TRY(offer(tokenizer, scratch, (int32_t)i));
    }
    while (scratch->merges.count > 0) {
        const csp_heap_item top = csp_heap_pop(&scratch->merges);
        const int32_t at = (int32_t)top.second;
        csp_symbol *left = &symbols[at];
        const csp_merge *merge;
        csp_symbol *right;

        if (!left->live || left->next < 0) {
            continue;
        }
        right = &symbols[left->next];
        merge = csp_merge_table_find(&tokenizer->merges, left->id, right->id);
        if (merge == NULL || merge->id != top.value) {
            continue;
        }
        left->id = top.value;
        left->next = right->next;
        right->live = false;
        if (left->next >= 0) {
            symbols[left->next].previous = at;
            CSP_TRY(offer(tokenizer, scratch, at));
        }
        if (left->previous >= 0) {
            CSP_TRY(offer(tokenizer, scratch, left->previous));
        }
    }
    return CSP_OK;
}

/* The id of the whole piece as one token of the vocabulary, -1 if it is none. */
static csp_status whole_piece(const csp_tokenizer *tokenizer, csp_scratch *scratch,
                              const char *piece, int64_t bytes, int32_t *id)
{
    csp_text_buffer *mapped = &scratch->mapped;

    if (tokenizer->byte_level) {
        mapped->count = 0;
        for (int64_t i = 0; i < bytes; i++) {
            CSP_TRY(csp_text_buffer_add_char(mapped, csp_byte_to_char((unsigned char)piece[i])));
        }
        piece = mapped->bytes;
        bytes = mapped->count;
    }
    *id = csp_string_table_find(&tokenizer->vocab, piece, bytes);
    return CSP_OK;
}

static csp_status encode_uncached(const csp_tokenizer *tokenizer, csp_scratch *scratch,
                                  const char *piece, int64_t bytes, csp_token_list *out)
{
    if (tokenizer->ignore_merges) {
        int32_t id;

        CSP_TRY(whole_piece(tokenizer, scratch, piece, bytes, &id));
        if (id >= 0) {
            return csp_token_list_add(out, id);
        }
    }
    CSP_TRY(make_symbols(tokenizer, scratch, piece, bytes));
    CSP_TRY(merge_symbols(tokenizer, scratch));
    for (int64_t i = scratch->symbol_count > 0 ? 0 : -1; i >= 0; i = scratch->symbols[i].next) {
        CSP_TRY(csp_token_list_add(out, scratch->symbols[i].id));
    }
    return CSP_OK;
}

csp_status csp_bpe_encode(const csp_tokenizer *tokenizer, csp_scratch *scratch, const char *piece,
                          int64_t bytes, csp_token_list *out)
{
    const int64_t before = out->count;
    csp_cached_word *word;

    if (bytes > CSP_CACHE_BYTES) {
        return encode_uncached(tokenizer, scratch, piece, bytes, out);
    }
    word = &scratch->cache[csp_string_hash(piece, bytes) & (CSP_CACHE_SLOTS - 1)];
    if (word->bytes == bytes && memcmp(word->text, piece, (size_t)bytes) == 0) {
        for (int i = 0; i < word->count; i++) {
            CSP_TRY(csp_token_list_add(out, word->ids[i]));
        }
        return CSP_OK;
    }
    CSP_TRY(encode_uncached(tokenizer, scratch, piece, bytes, out));
    if (out->count - before <= CSP_CACHE_IDS) {
        word->bytes = (uint8_t)bytes;
        word->count = (uint8_t)(out->count - before);
        memcpy(word->text, piece, (size_t)bytes);
        for (int i = 0; i < word->count; i++) {
            word->ids[i] = out->ids[before + i];
        }
    }
    return CSP_OK;
}

/* batch.c - packing token lists into rows. */
#include "data/batch.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

void csp_batch_clear(csp_batch *batch)
{
    free(batch->tokens);
    free(batch->seq_start);
    free(batch->order);
    free(batch->of_length);
    free(batch->keep);
    free(batch->row_key);
    free(batch->target);
    *batch = (csp_batch) { 0 };
}

int64_t csp_batch_text_of(const csp_batch *batch, int64_t *row)
{
    int64_t text = 0;

    while (text + 1 < batch->B && batch->seq_start[text + 1] <= *row) {
        text++;
    }
    *row -= batch->seq_start[text];
    return text;
}

csp_status csp_batch_reserve(csp_batch *batch, int64_t B, int64_t N)
{
    if (B + 1 > batch->text_room) {
        CSP_TRY(csp_realloc("batch", B + 1, sizeof(*batch->seq_start), &batch->seq_start));
        CSP_TRY(csp_realloc("batch", B + 1, sizeof(*batch->order), &batch->order));
        batch->text_room = B + 1;
    }
    if (N > batch->row_room || batch->tokens == NULL) {
        const int64_t room = N > batch->row_room ? N : batch->row_room;

        CSP_TRY(csp_realloc("batch", room, sizeof(*batch->tokens), &batch->tokens));
        CSP_TRY(csp_realloc("batch", room, sizeof(*batch->keep), &batch->keep));
        CSP_TRY(csp_realloc("batch", room, sizeof(*batch->row_key), &batch->row_key));
        CSP_TRY(csp_realloc("batch", room, sizeof(*batch->target), &batch->target));
        CSP_TRY(csp_realloc("batch", room + 1, sizeof(*batch->of_length), &batch->of_length));
        batch->row_room = room;
    }
    return CSP_OK;
}

/* Rows of a list of count ids; without a contract, one copy. */
static int64_t rows_of(const csp_contract *contract, int64_t count)
{
    return contract != NULL ? csp_contract_text_rows(contract, count) : count;
}

/* Sizes of the batch, checked, and its memory. */
static csp_status begin(const csp_contract *contract, const csp_token_lists *lists, int64_t first,
                        int64_t last, csp_batch *batch)
{
    int64_t N = 0, longest = 0;

    batch->B = batch->N = batch->max_len = batch->kept = batch->predicted = 0;
    if (first < 0 || last < first || last > lists->count) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "batch: texts %lld..%lld of %lld", (long long)first,
                        (long long)last, (long long)lists->count);
    }
    for (int64_t i = first; i < last; i++) {
        const int64_t rows = rows_of(contract, lists->start[i + 1] - lists->start[i]);

        if (rows > CSP_ROW_KEY_TEXT) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "batch: a text of %lld rows, at most %lld",
                            (long long)rows, (long long)CSP_ROW_KEY_TEXT);
        }
        longest = rows > longest ? rows : longest;
        N += rows;
    }
    if (N > INT32_MAX) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "batch: %lld rows, at most %d", (long long)N, INT32_MAX);
    }
    CSP_TRY(csp_batch_reserve(batch, last - first, N));
    batch->B = last - first;
    batch->N = N;
    batch->max_len = longest;
    return CSP_OK;
}

/* Sorts the texts by their lengths, counting how many there are of each. */
static void find_order(csp_batch *batch)
{
    const int32_t *start = batch->seq_start;
    int32_t place = 0, *at = batch->of_length;

    memset(at, 0, (size_t)(batch->max_len + 1) * sizeof(*at));
    for (int64_t b = 0; b < batch->B; b++) {
        at[start[b + 1] - start[b]]++;
    }
    for (int64_t T = batch->max_len; T >= 0; T--) {
        const int32_t count = at[T];

        at[T] = place;
        place += count;
    }
    for (int64_t b = 0; b < batch->B; b++) {
        batch->order[at[start[b + 1] - start[b]]++] = (int32_t)b;
    }
}

/* Copies count ids to rows n.., as positions t.. of a text. */
static void put(csp_batch *batch, int64_t n, const int32_t *ids, int64_t count, uint8_t keep,
                int64_t key)
{
    if (count > 0) {
        memcpy(batch->tokens + n, ids, (size_t)count * sizeof(*ids));
        memset(batch->keep + n, keep, (size_t)count);
    }
    batch->kept += keep != 0 ? count : 0;
    for (int64_t i = 0; i < count; i++) {
        batch->row_key[n + i] = key + i;
        batch->target[n + i] = -1;
    }
}

/* The first row_key of list i. */
static int64_t key_of(const int64_t *text, int64_t text_base, int64_t i)
{
    return (text_base + (text != NULL ? text[i] : i)) * CSP_ROW_KEY_TEXT;
}

csp_status csp_batch_pack(const csp_contract *contract, const csp_token_lists *lists, int64_t first,
                          int64_t last, const int64_t *text, int64_t text_base, csp_batch *batch)
{
    const bool echo = contract->variant == CSP_VARIANT_ECHO;
    int64_t n = 0;

    CSP_TRY(begin(contract, lists, first, last, batch));
    for (int64_t i = first; i < last; i++) {
        int64_t count;
        const int32_t *ids = csp_token_lists_get(lists, i, &count);
        const int64_t key = key_of(text, text_base, i);

        batch->seq_start[i - first] = (int32_t)n;
        put(batch, n, ids, count, echo ? 0 : 1, key);
        n += count;
        if (echo) {
            const int64_t second = rows_of(contract, count) - count;

            put(batch, n, ids + count - second, second, 1, key + count);
            n += second;
        }
    }
    batch->seq_start[batch->B] = (int32_t)n;
    find_order(batch);
    return CSP_OK;
}

/* Writes the targets of a text where target is not NULL; returns how many there are. */
static int64_t predict(const csp_contract *contract, const int32_t *ids, int64_t count,
                       int32_t *target)
{
    int64_t predicted = 0;

    for (int64_t t = 0; t + 1 < count; t++) {
        const bool possible = !csp_contract_excludes(contract, ids[t + 1]);

        if (target != NULL && possible) {
            target[t] = ids[t + 1];
        }
        predicted += possible;
    }
    return predicted;
}

csp_status csp_batch_pack_adapt(const csp_contract *contract, const csp_token_lists *lists,
                                int64_t first, int64_t last, const int64_t *text, int64_t text_base,
                                csp_batch *batch)
{
    int64_t n = 0;

    CSP_TRY(begin(NULL, lists, first, last, batch));
    for (int64_t i = first; i < last; i++) {
        int64_t count;
        const int32_t *ids = csp_token_lists_get(lists, i, &count);

        batch->seq_start[i - first] = (int32_t)n;
        put(batch, n, ids, count, 1, key_of(text, text_base, i));
        batch->predicted += predict(contract, ids, count, batch->target + n);
        n += count;
    }
    batch->seq_start[batch->B] = (int32_t)n;
    find_order(batch);
    return CSP_OK;
}

int64_t csp_batch_predicted(const csp_contract *contract, const csp_token_lists *lists)
{
    int64_t predicted = 0;

    for (int64_t i = 0; i < lists->count; i++) {
        int64_t count;
        const int32_t *ids = csp_token_lists_get(lists, i, &count);

        predicted += predict(contract, ids, count, NULL);
    }
    return predicted;
}

void csp_batch_split(const csp_contract *contract, const csp_token_lists *lists, int64_t max_rows,
                     int64_t *edges, int64_t *count)
{
    int64_t rows = 0, batches = 0;

    for (int64_t i = 0; i < lists->count; i++) {
        const int64_t more = rows_of(contract, lists->start[i + 1] - lists->start[i]);

        if (i == 0 || (max_rows > 0 && rows > 0 && rows + more > max_rows)) {
            edges[batches++] = i;
            rows = 0;
        }
        rows += more;
    }
    edges[batches] = lists->count;
    *count = batches;
}

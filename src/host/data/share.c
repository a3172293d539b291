/* share.c - longest first, to the rank with the least. */
#include "data/share.h"

#include <stdlib.h>

#include "core/memory.h"

void csp_share_clear(csp_share *share)
{
    free(share->cost);
    free(share->text);
    free(share->load);
    free(share->order);
    free(share->owner);
    csp_heap_clear(&share->least);
    *share = (csp_share) { 0 };
}

csp_status csp_share_reserve(csp_share *share, int64_t count, int64_t ranks)
{
    static const char what[] = "sharing out of texts";

    if (count > share->room) {
        CSP_TRY(csp_realloc(what, count, sizeof(*share->cost), &share->cost));
        CSP_TRY(csp_realloc(what, count, sizeof(*share->text), &share->text));
        CSP_TRY(csp_realloc(what, 2 * count, sizeof(*share->order), &share->order));
        CSP_TRY(csp_realloc(what, count, sizeof(*share->owner), &share->owner));
        share->room = count;
    }
    if (ranks > share->ranks) {
        CSP_TRY(csp_realloc(what, ranks, sizeof(*share->load), &share->load));
        share->ranks = ranks;
    }
    for (int64_t r = 0; r < ranks; r++) {
        share->load[r] = 0;
    }
    return CSP_OK;
}

/* Pairs (cost, text): the dearest first, the same by their number. */
static int compare(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    if (x[0] != y[0]) {
        return x[0] > y[0] ? -1 : 1;
    }
    return (x[1] > y[1]) - (x[1] < y[1]);
}

csp_status csp_share_texts(csp_share *share, int64_t count, int64_t ranks)
{
    const int64_t each = count / ranks;
    int64_t *pairs = share->order;

    for (int64_t i = 0; i < count; i++) {
        pairs[2 * i] = share->cost[i];
        pairs[2 * i + 1] = i;
    }
    qsort(pairs, (size_t)count, 2 * sizeof(*pairs), compare);
    share->least.count = 0;
    for (int64_t r = 0; r < ranks; r++) {
        CSP_TRY(csp_heap_push(&share->least, "sharing out of texts",
                              (csp_heap_item) { (uint64_t)share->load[r], (uint64_t)r, 0 }));
    }
    for (int64_t i = 0; i < count; i++) {
        csp_heap_item least = csp_heap_pop(&share->least);

        share->owner[pairs[2 * i + 1]] = (int32_t)least.second;
        share->load[least.second] += pairs[2 * i];
        least.first += (uint64_t)pairs[2 * i];
        if (++least.value < each) {
            CSP_TRY(csp_heap_push(&share->least, "sharing out of texts", least));
        }
    }
    /* Where each rank's texts go next; order has been read. */
    for (int64_t r = 0; r < ranks; r++) {
        share->order[r] = r * each;
    }
    for (int64_t i = 0; i < count; i++) {
        share->text[share->order[share->owner[i]]++] = i;
    }
    return CSP_OK;
}

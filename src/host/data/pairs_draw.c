/*
 * pairs_draw.c - which examples, positives and negatives a step takes: counter-based numbers only,
 * so that any step can be asked for and a resumed run goes on as if it had never stopped.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/rng.h"
#include "core/size.h"
#include "data/pairs_internal.h"

/* Sequences of CSP_DRAW_NEGATIVES. */
enum { KEY_ORDER = 0, KEY_FILL = 1 };

void csp_draw_list_clear(csp_draw_list *list)
{
    free(list->example);
    free(list->document);
    *list = (csp_draw_list) { 0 };
}

static csp_status reserve(csp_draw_list *list, int64_t count, int64_t G)
{
    int64_t documents;

    CSP_TRY(csp_size_mul("pairs", count, G, &documents));
    if (count > list->room_example) {
        CSP_TRY(csp_realloc("pairs", count, sizeof(*list->example), &list->example));
        list->room_example = count;
    }
    if (documents > list->room_document) {
        CSP_TRY(csp_realloc("pairs", documents, sizeof(*list->document), &list->document));
        list->room_document = documents;
    }
    return CSP_OK;
}

csp_status csp_draw_list_take(const csp_draw_list *from, int64_t G, const int64_t *which,
                              int64_t count, csp_draw_list *out)
{
    CSP_TRY(reserve(out, count, G));
    for (int64_t i = 0; i < count; i++) {
        out->example[i] = from->example[which[i]];
        memcpy(out->document + i * G, from->document + which[i] * G,
               (size_t)G * sizeof(*out->document));
    }
    out->count = count;
    return CSP_OK;
}

static bool is_in(const int64_t *group, int64_t count, int64_t document)
{
    for (int64_t i = 0; i < count; i++) {
        if (group[i] == document) {
            return true;
        }
    }
    return false;
}

/*
 * A random document that is no known positive and not among the count of the group: by trial, and
 * where that fails (nearly everything is taken) by a walk from a random place. Documents of the
 * group come again only when no other is left; -1 when every document is a positive.
 */
static int64_t random_negative(const csp_pairs *pairs, int64_t example, csp_rng rng,
                               uint64_t *counter, const int64_t *group, int64_t count)
{
    const int64_t documents = csp_pairs_documents(pairs);
    int64_t again = -1, start;

    for (int trial = 0; trial < 32; trial++) {
        const int64_t d = (int64_t)csp_rng_below(rng, (*counter)++, (uint64_t)documents);

        if (!is_in(group, count, d) && !csp_pairs_is_positive(pairs, example, d)) {
            return d;
        }
    }
    start = (int64_t)csp_rng_below(rng, (*counter)++, (uint64_t)documents);
    for (int64_t i = 0; i < documents; i++) {
        const int64_t d = start + i < documents ? start + i : start + i - documents;

        if (csp_pairs_is_positive(pairs, example, d)) {
            continue;
        }
        if (!is_in(group, count, d)) {
            return d;
        }
        again = again < 0 ? d : again;
    }
    return again;
}

/* The positive and the G - 1 negatives of one query, at position p of the whole run. */
static csp_status draw_group(const csp_pairs *pairs, const csp_sampling *sampling, int64_t example,
                             int64_t p, int64_t *group)
{
    const int64_t epoch = p / pairs->count, k = sampling->G - 1;
    int64_t positives, m, filled = 1;
    const int64_t *positive = csp_pairs_positives(pairs, example, &positives);
    const int32_t *negative = csp_pairs_negatives(pairs, example, &m);
    const csp_rng choice = { sampling->seed, CSP_DRAW_POSITIVE, 0, (uint64_t)epoch };
    const csp_rng order = { sampling->seed, CSP_DRAW_NEGATIVES, KEY_ORDER, (uint64_t)example };
    const csp_rng fill = { sampling->seed, CSP_DRAW_NEGATIVES, KEY_FILL, (uint64_t)p };
    uint64_t counter = 0;

    group[0] = positive[csp_rng_below(choice, (uint64_t)example, (uint64_t)positives)];
    for (int64_t j = 0; j < k && j < m; j++) {
        /* epoch mod m keeps the product small; the window is the same. */
        const int64_t at = ((epoch % m) * (k % m) + j) % m;

        group[filled++] = negative[csp_rng_permute(order, (uint64_t)at, (uint64_t)m)];
    }
    while (filled < sampling->G) {
        const int64_t d = random_negative(pairs, example, fill, &counter, group, filled);

        if (d < 0) {
            return CSP_FAIL(CSP_ERR_DATA,
                            "query \"%.200s\": every document is a known positive, so that no "
                            "negative can be drawn",
                            csp_pairs_query_id(pairs, example));
        }
        group[filled++] = d;
    }
    return CSP_OK;
}

csp_status csp_pairs_draw(const csp_pairs *pairs, const csp_sampling *sampling, int64_t step,
                          int64_t first, int64_t count, csp_draw_list *out)
{
    const int64_t n = pairs->count;
    int64_t base;

    if (sampling->Q < 1 || sampling->G < 1 || step < 0 || first < 0 || count < 0 ||
        first + count > sampling->Q) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "pairs: queries %lld..%lld of %lld, %lld documents each, step %lld",
                        (long long)first, (long long)(first + count), (long long)sampling->Q,
                        (long long)sampling->G, (long long)step);
    }
    CSP_TRY(csp_size_mul("step x queries", step + 1, sampling->Q, &base));
    base -= sampling->Q;
    CSP_TRY(reserve(out, count, sampling->G));
    for (int64_t i = 0; i < count; i++) {
        const int64_t p = base + first + i, at = p % n;
        const csp_rng shuffle = { sampling->seed, CSP_DRAW_SHUFFLE, 0, (uint64_t)(p / n) };

        out->example[i] =
            sampling->in_order ? at : (int64_t)csp_rng_permute(shuffle, (uint64_t)at, (uint64_t)n);
        CSP_TRY(draw_group(pairs, sampling, out->example[i], p, out->document + i * sampling->G));
    }
    out->count = count;
    return CSP_OK;
}

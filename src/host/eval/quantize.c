/*
 * quantize.c - pruning selects the k-th largest weight by quickselect on a row's own memory order.
 */
#include "eval/quantize.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = { "none", "round", "ceil", "u8-max" };

/* Whether entry a comes before b when the best are wanted first. */
static bool is_better(const int32_t *term, const float *weight, int64_t a, int64_t b)
{
    return weight[a] != weight[b] ? weight[a] > weight[b] : term[a] < term[b];
}

static void swap(int32_t *term, float *weight, int64_t a, int64_t b)
{
    const int32_t t = term[a];
    const float w = weight[a];

    term[a] = term[b];
    weight[a] = weight[b];
    term[b] = t;
    weight[b] = w;
}

/* Brings the k best entries to the front, in any order; 0 < k < nnz. */
static void select_best(int32_t *term, float *weight, int64_t nnz, int64_t k)
{
    int64_t low = 0, high = nnz - 1;

    while (low < high) {
        int64_t store = low;

        swap(term, weight, low + (high - low) / 2, high); /* the pivot waits at the end */
        for (int64_t i = low; i < high; i++) {
            if (is_better(term, weight, i, high)) {
                swap(term, weight, i, store++);
            }
        }
        swap(term, weight, store, high);
        if (store == k) {
            return;
        }
        if (store < k) {
            low = store + 1;
        } else {
            high = store - 1;
        }
    }
}

/* Ascending by term: heap sort, which needs no memory and has no bad case. */
static void sort_by_term(int32_t *term, float *weight, int64_t count)
{
    for (int64_t end = count, root = count / 2; end > 1;) {
        int64_t at;

        if (root > 0) {
            root--;
        } else {
            end--;
            swap(term, weight, 0, end);
        }
        at = root;
        for (int64_t child = 2 * at + 1; child < end; child = 2 * at + 1) {
            if (child + 1 < end && term[child] < term[child + 1]) {
                child++;
            }
            if (term[at] >= term[child]) {
                break;
            }
            swap(term, weight, at, child);
            at = child;
        }
    }
}

int64_t csp_prune_row(int32_t *term, float *weight, int64_t nnz, int64_t k)
{
    if (nnz <= k) {
        return nnz;
    }
    if (k > 0) {
        select_best(term, weight, nnz, k);
        sort_by_term(term, weight, k);
    }
    return k;
}

csp_status csp_quant_parse(const char *text, csp_quant *out)
{
    const char *colon = strchr(text, ':');
    const size_t word = colon != NULL ? (size_t)(colon - text) : strlen(text);

    for (int kind = 0; kind <= CSP_QUANT_U8_MAX; kind++) {
        const bool scaled = kind == CSP_QUANT_ROUND || kind == CSP_QUANT_CEIL;
        double scale = 0.0;
        char *end = NULL;

        if (strlen(names[kind]) != word || strncmp(names[kind], text, word) != 0 ||
            scaled != (colon != NULL)) {
            continue;
        }
        if (scaled) {
            scale = strtod(colon + 1, &end);
            if (end == colon + 1 || *end != '\0' || !(scale > 0.0 && isfinite(scale))) {
                return CSP_FAIL(CSP_ERR_ARGUMENT,
                                "quantisation '%.40s': the scale must be a number above 0", text);
            }
        }
        *out = (csp_quant) { (csp_quant_kind)kind, scale };
        return CSP_OK;
    }
    return CSP_FAIL(CSP_ERR_ARGUMENT,
                    "quantisation '%.40s': not one of none, round:SCALE, ceil:SCALE, u8-max", text);
}

const char *csp_quant_name(csp_quant_kind kind)
{
    CSP_ASSERT(kind >= CSP_QUANT_NONE && kind <= CSP_QUANT_U8_MAX);
    return names[kind];
}

void csp_quant_fit(csp_quant *quant, float largest)
{
    if (quant->kind == CSP_QUANT_U8_MAX) {
        quant->scale = largest > 0.0f ? 255.0 / (double)largest : 1.0;
    }
}

int32_t csp_quant_impact(const csp_quant *quant, float weight, int32_t limit,
                         csp_quant_counts *counts)
{
    double x = quant->scale * (double)weight;

    CSP_ASSERT(quant->kind != CSP_QUANT_NONE);
    x = quant->kind == CSP_QUANT_CEIL ? ceil(x) : round(x);
    if (!(x >= 1.0)) {
        counts->dropped++;
        return 0;
    }
    counts->kept++;
    if (x > (double)limit) {
        counts->clipped++;
        return limit;
    }
    return (int32_t)x;
}

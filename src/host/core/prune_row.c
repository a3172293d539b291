/* prune_row.c - selects the k-th largest weight by quickselect in the row's own memory. */
#include "core/prune_row.h"

/* A NaN is larger than any number, so that it is not cut off unseen. */
static bool is_larger(float a, float b)
{
    return a > b || (a != a && b == b);
}

/* Whether entry a comes before b when the best are wanted first. */
static bool is_better(const int32_t *term, const float *weight, int64_t a, int64_t b)
{
    return is_larger(weight[a], weight[b]) ||
           (!is_larger(weight[b], weight[a]) && term[a] < term[b]);
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

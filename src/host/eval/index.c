/*
 * index.c - turns rows into posting lists, one block of documents at a time, blocks in parallel.
 */
#include "eval/index.h"

#include "core/memory.h"
#include "core/size.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Where document number i comes from. */
typedef struct source {
    const char *id;
    int64_t row;
    int32_t part;
} source;

static int by_id_descending(const void *a, const void *b)
{
    return strcmp(((const source *)b)->id, ((const source *)a)->id);
}

static csp_status say_other_quant(const csp_quant *first, const csp_quant *other, int64_t p)
{
    char one[48], two[48];

    return CSP_FAIL(CSP_ERR_DATA,
                    "vectors that are quantised in different ways: %s in the first set, %s in "
                    "number %lld",
                    csp_quant_describe(first, one, sizeof(one)),
                    csp_quant_describe(other, two, sizeof(two)), (long long)p + 1);
}

/* Checks the parts against each other and counts; vocab is theirs. */
static csp_status count_rows(const csp_vectors *const *part, int64_t parts, csp_index *index)
{
    int64_t docs = 0;

    for (int64_t p = 0; p < parts; p++) {
        const csp_vectors *v = part[p];

        if (v->vocab != part[0]->vocab) {
            return CSP_FAIL(CSP_ERR_DATA,
                            "vectors of different models: %lld terms in the first set, %lld in "
                            "number %lld",
                            (long long)part[0]->vocab, (long long)v->vocab, (long long)p + 1);
        }
        if (!csp_quant_equal(&v->quant, &part[0]->quant)) {
            return say_other_quant(&part[0]->quant, &v->quant, p);
        }
        for (int64_t r = 0; r < v->rows; r++) {
            for (int64_t i = v->row_ptr[r]; i < v->row_ptr[r + 1]; i++) {
                if (v->term[i] < 0 || v->term[i] >= v->vocab ||
                    !(v->weight[i] > 0.0f && isfinite(v->weight[i]))) {
                    return CSP_FAIL(CSP_ERR_DATA,
                                    "document %.60s: term %d with weight %g, but terms are 0..%lld "
                                    "and weights positive and finite",
                                    v->ids[r], v->term[i], (double)v->weight[i],
                                    (long long)v->vocab - 1);
                }
            }
        }
        docs += v->rows;
        index->postings += v->row_ptr[v->rows] - v->row_ptr[0];
    }
    if (docs > INT32_MAX) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "an index holds at most %d documents, not %lld",
                        INT32_MAX, (long long)docs);
    }
    index->docs = (int32_t)docs;
    index->vocab = parts > 0 ? part[0]->vocab : 0;
    index->blocks = (docs + CSP_INDEX_BLOCK - 1) / CSP_INDEX_BLOCK;
    return CSP_OK;
}

/* Orders the documents by descending id and copies their ids. */
static csp_status number_documents(const csp_vectors *const *part, int64_t parts, csp_index *index,
                                   source *from)
{
    int64_t n = 0, bytes = 0;
    char *at;

    for (int64_t p = 0; p < parts; p++) {
        for (int64_t r = 0; r < part[p]->rows; r++) {
            from[n++] = (source) { part[p]->ids[r], r, (int32_t)p };
            bytes += (int64_t)strlen(part[p]->ids[r]) + 1;
        }
    }
    qsort(from, (size_t)n, sizeof(*from), by_id_descending);
    CSP_TRY(csp_alloc("index ids", n, sizeof(*index->id), &index->id));
    CSP_TRY(csp_alloc("index ids", bytes, 1, &index->id_bytes));
    at = index->id_bytes;
    for (int64_t d = 0; d < n; d++) {
        const size_t length = strlen(from[d].id) + 1;

        if (d > 0 && strcmp(from[d - 1].id, from[d].id) == 0) {
            return CSP_FAIL(CSP_ERR_DATA, "document id %.60s stands for two rows", from[d].id);
        }
        index->id[d] = memcpy(at, from[d].id, length);
        at += length;
    }
    return CSP_OK;
}

static int32_t block_docs(const csp_index *index, int64_t b)
{
    const int64_t left = index->docs - b * CSP_INDEX_BLOCK;

    return (int32_t)(left < CSP_INDEX_BLOCK ? left : CSP_INDEX_BLOCK);
}

static csp_status place_blocks(const csp_vectors *const *part, csp_index *index, const source *from)
{
    index->block_start[0] = 0;
    for (int64_t b = 0; b < index->blocks; b++) {
        const source *s = from + b * CSP_INDEX_BLOCK;
        int64_t n = 0;

        for (int32_t d = 0; d < block_docs(index, b); d++) {
            n += part[s[d].part]->row_ptr[s[d].row + 1] - part[s[d].part]->row_ptr[s[d].row];
        }
        if (n > UINT32_MAX) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                            "%d documents with %lld terms: an index holds at most %u for as many",
                            CSP_INDEX_BLOCK, (long long)n, UINT32_MAX);
        }
        index->block_start[b + 1] = index->block_start[b] + n;
    }
    return CSP_OK;
}

/* Counting sort of one block's entries by term; documents stay ascending in each list. */
static void fill_block(const csp_vectors *const *part, csp_index *index, const source *from,
                       int64_t b)
{
    const source *s = from + b * CSP_INDEX_BLOCK;
    uint32_t *start = index->term_start + b * (index->vocab + 1);
    uint16_t *doc = index->doc + index->block_start[b];
    float *weight = index->weight + index->block_start[b];
    uint32_t sum = 0;

    memset(start, 0, (size_t)(index->vocab + 1) * sizeof(*start));
    for (int32_t d = 0; d < block_docs(index, b); d++) {
        const csp_vectors *v = part[s[d].part];

        for (int64_t i = v->row_ptr[s[d].row]; i < v->row_ptr[s[d].row + 1]; i++) {
            start[v->term[i]]++;
        }
    }
    for (int64_t t = 0; t <= index->vocab; t++) {
        const uint32_t n = start[t];

        start[t] = sum;
        sum += n;
    }
    for (int32_t d = 0; d < block_docs(index, b); d++) {
        const csp_vectors *v = part[s[d].part];

        for (int64_t i = v->row_ptr[s[d].row]; i < v->row_ptr[s[d].row + 1]; i++) {
            const uint32_t at = start[v->term[i]]++;

            doc[at] = (uint16_t)d;
            weight[at] = v->weight[i];
        }
    }
    /* Each start has walked to its list's end, which is the next list's start. */
    memmove(start + 1, start, (size_t)index->vocab * sizeof(*start));
    start[0] = 0;
}

csp_status csp_index_build(const csp_vectors *const *part, int64_t parts, int threads,
                           csp_index **out)
{
    csp_index *index = NULL;
    source *from = NULL;
    csp_status status;
    int64_t starts;

    CSP_TRY(csp_alloc_zero("index", 1, sizeof(*index), &index));
    CSP_TRY_GOTO(count_rows(part, parts, index));
    CSP_TRY_GOTO(csp_alloc("index", index->docs, sizeof(*from), &from));
    CSP_TRY_GOTO(number_documents(part, parts, index, from));
    CSP_TRY_GOTO(csp_alloc("index", index->blocks + 1, sizeof(int64_t), &index->block_start));
    CSP_TRY_GOTO(place_blocks(part, index, from));
    CSP_TRY_GOTO(csp_size_mul("index", index->blocks, index->vocab + 1, &starts));
    CSP_TRY_GOTO(csp_alloc("index", starts, sizeof(*index->term_start), &index->term_start));
    CSP_TRY_GOTO(csp_alloc("index", index->postings, sizeof(*index->doc), &index->doc));
    CSP_TRY_GOTO(csp_alloc("index", index->postings, sizeof(*index->weight), &index->weight));
#pragma omp parallel for schedule(dynamic) \
    num_threads(threads > 0 ? threads : omp_get_max_threads())
    for (int64_t b = 0; b < index->blocks; b++) {
        fill_block(part, index, from, b);
    }
    free(from);
    *out = index;
    return CSP_OK;

fail:
    free(from);
    csp_index_free(index);
    return status;
}

void csp_index_free(csp_index *index)
{
    if (index == NULL) {
        return;
    }
    free(index->block_start);
    free(index->term_start);
    free(index->doc);
    free(index->weight);
    free(index->id);
    free(index->id_bytes);
    free(index);
}

int32_t csp_index_find(const csp_index *index, const char *id)
{
    int32_t low = 0, high = index->docs - 1;

    while (low <= high) {
        const int32_t middle = low + (high - low) / 2;
        const int order = strcmp(index->id[middle], id);

        if (order == 0) {
            return middle;
        }
        if (order > 0) {
            low = middle + 1;
        } else {
            high = middle - 1;
        }
    }
    return -1;
}

static int varint_bytes(uint32_t value)
{
    int n = 1;

    for (; value >= 128; value >>= 7) {
        n++;
    }
    return n;
}

csp_status csp_index_measure(const csp_index *index, csp_index_stats *out)
{
    csp_index_stats s = { .docs = index->docs, .postings = index->postings };
    int32_t *last = NULL;
    unsigned char *used = NULL;

    CSP_TRY(csp_alloc("index statistics", index->vocab, sizeof(*last), &last));
    if (csp_alloc_zero("index statistics", index->docs, 1, &used) != CSP_OK) {
        free(last);
        return CSP_ERR_MEMORY;
    }
    memset(last, 0xFF, (size_t)index->vocab * sizeof(*last)); /* -1: no posting yet */
    for (int64_t b = 0; b < index->blocks; b++) {
        const uint32_t *start = index->term_start + b * (index->vocab + 1);
        const uint16_t *doc = index->doc + index->block_start[b];

        for (int64_t t = 0; t < index->vocab; t++) {
            for (uint32_t i = start[t]; i < start[t + 1]; i++) {
                const int32_t d = (int32_t)(b * CSP_INDEX_BLOCK) + doc[i];

                if (last[t] < 0) {
                    s.terms++;
                    s.packed_bytes += 8;
                }
                s.packed_bytes += varint_bytes((uint32_t)(d - (last[t] < 0 ? 0 : last[t]))) + 1;
                last[t] = d;
                used[d] = 1;
            }
        }
    }
    for (int32_t d = 0; d < index->docs; d++) {
        s.empty_docs += used[d] == 0;
        s.memory_bytes += (int64_t)strlen(index->id[d]) + 1 + (int64_t)sizeof(char *);
    }
    s.memory_bytes += index->postings * (int64_t)(sizeof(uint16_t) + sizeof(float)) +
                      index->blocks * (index->vocab + 1) * (int64_t)sizeof(uint32_t) +
                      (index->blocks + 1) * (int64_t)sizeof(int64_t) + (int64_t)sizeof(*index);
    s.mean_terms = index->docs > 0 ? (double)index->postings / (double)index->docs : 0.0;
    free(last);
    free(used);
    *out = s;
    return CSP_OK;
}

csp_status csp_index_flops(const csp_index *index, const csp_vectors *queries, double *out)
{
    double sum = 0.0;
    int64_t *df;

    CSP_TRY(csp_alloc_zero("index statistics", index->vocab, sizeof(*df), &df));
    for (int64_t b = 0; b < index->blocks; b++) {
        const uint32_t *start = index->term_start + b * (index->vocab + 1);

        for (int64_t t = 0; t < index->vocab; t++) {
            df[t] += start[t + 1] - start[t];
        }
    }
    /* The sum over terms of (query count x document count), walked by the queries' entries. */
    for (int64_t i = queries->row_ptr[0]; i < queries->row_ptr[queries->rows]; i++) {
        if (queries->term[i] >= 0 && queries->term[i] < index->vocab) {
            sum += (double)df[queries->term[i]];
        }
    }
    free(df);
    *out = queries->rows > 0 && index->docs > 0
               ? sum / ((double)queries->rows * (double)index->docs)
               : 0.0;
    return CSP_OK;
}

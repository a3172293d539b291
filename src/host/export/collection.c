/*
 * collection.c - loads the parts, quantises once to learn which terms are left, and gives those
 * keys.
 */
#include "export/collection.h"

#include "core/memory.h"
#include "data/id_table.h"
#include "io/lines.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* BMP and SeismicIndex number terms with 16 bits, and wrap. */
enum { U16_TERMS = 65536 };
/* Lucene's white space tokenizer cuts longer tokens in two. */
enum { LUCENE_TOKEN = 255 };

/* queries: of which side the vectors must be, where their file says so. */
static csp_status load(const char *const *path, int64_t paths, bool queries, csp_collection *c)
{
    CSP_TRY(csp_alloc_zero("export", paths, sizeof(*c->part), &c->part));
    for (; c->parts < paths; c->parts++) {
        csp_vectors *v;

        CSP_TRY(csp_vectors_read(path[c->parts], &v));
        c->part[c->parts] = v;
        if (v->side != NULL && strcmp(v->side, queries ? "query" : "document") != 0) {
            c->parts++; /* it is ours to free */
            return CSP_FAIL(CSP_ERR_ARGUMENT, "%s holds vectors of side %s: --side %s exports them",
                            path[c->parts - 1], v->side, v->side);
        }
        c->rows += v->rows;
        if (c->parts == 0) {
            c->vocab = v->vocab;
        } else if (v->vocab != c->vocab) {
            c->parts++; /* it is ours to free */
            return CSP_FAIL(CSP_ERR_DATA, "%s has %lld terms, %s has %lld: not of one model",
                            path[0], (long long)c->vocab, path[c->parts - 1], (long long)v->vocab);
        }
    }
    return CSP_OK;
}

/* The scale that the text contracts of all parts name, 100 where there are none. */
static csp_status scale_of_contracts(const char *const *path, const csp_collection *c, double *out)
{
    double scale = 0.0;

    for (int64_t p = 0; p < c->parts; p++) {
        csp_contract contract = { 0 };
        double theirs = 100.0;
        bool has;

        CSP_TRY(csp_vectors_contract(c->part[p], path[p], &contract, &has));
        theirs = has ? contract.quant_scale : theirs;
        csp_contract_clear(&contract);
        if (p > 0 && theirs != scale) {
            return CSP_FAIL(CSP_ERR_DATA,
                            "%s and %s have text contracts with scales of impacts %.9g and %.9g: "
                            "name one, round:SCALE",
                            path[0], path[p], scale, theirs);
        }
        scale = theirs;
    }
    *out = scale;
    return CSP_OK;
}

/*
 * Refuses vectors that are quantised in different ways, and another quantisation than theirs that
 * was asked for: what rounding took from weights cannot be had back.
 */
static csp_status check_quantised(const char *const *path, const csp_collection *c,
                                  const csp_export_options *options)
{
    const csp_quant *theirs = &c->part[0]->quant;
    char one[48], two[48];

    for (int64_t p = 1; p < c->parts; p++) {
        if (!csp_quant_equal(&c->part[p]->quant, theirs)) {
            return CSP_FAIL(CSP_ERR_DATA, "%s is quantised by %s, %s by %s: not of one collection",
                            path[0], csp_quant_describe(theirs, one, sizeof(one)), path[p],
                            csp_quant_describe(&c->part[p]->quant, two, sizeof(two)));
        }
    }
    if (theirs->kind != CSP_QUANT_NONE && !options->quant_is_default &&
        !csp_quant_equal(&c->quant, theirs)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s holds impacts of %s, which are exported as they are and not by %s",
                        path[0], csp_quant_describe(theirs, one, sizeof(one)),
                        csp_quant_describe(&c->quant, two, sizeof(two)));
    }
    return CSP_OK;
}

csp_collection_row csp_collection_at(const csp_collection *c, int64_t r)
{
    const csp_vectors *v;
    int64_t p = 0;

    for (; r >= c->part[p]->rows; p++) {
        r -= c->part[p]->rows;
    }
    v = c->part[p];
    return (csp_collection_row) { v->ids[r], v->term + v->row_ptr[r], v->weight + v->row_ptr[r],
                                  v->row_ptr[r + 1] - v->row_ptr[r] };
}

int32_t csp_collection_impact(const csp_collection *c, float weight)
{
    csp_quant_counts ignored = { 0 };

    CSP_ASSERT(!c->is_float);
    return csp_quant_impact(&c->arithmetic, weight, c->limit, &ignored);
}

/* Code point at *text, which moves behind it; text is valid UTF-8. */
static int32_t next_character(const char **text)
{
    const unsigned char *s = (const unsigned char *)*text;
    const int more = s[0] < 0x80 ? 0 : s[0] < 0xE0 ? 1 : s[0] < 0xF0 ? 2 : 3;
    int32_t c = more == 0 ? s[0] : s[0] & (0x3F >> more);

    for (int i = 1; i <= more; i++) {
        c = (c << 6) | (s[i] & 0x3F);
    }
    *text += 1 + more;
    return c;
}

/* White space for Java, Python or Unicode: a reader that splits there has one of these. */
static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static bool has_space(const char *text)
{
    while (*text != '\0') {
        if (is_space(next_character(&text))) {
            return true;
        }
    }
    return false;
}

static bool is_utf8(const char *text)
{
    int64_t at;

    return csp_utf8_is_valid(text, (int64_t)strlen(text), &at);
}

static csp_status check_ids(const csp_collection *c, const csp_export_options *options)
{
    csp_id_table *table;
    csp_status status = CSP_OK;

    CSP_TRY(csp_id_table_create(&table));
    for (int64_t r = 0; r < c->rows; r++) {
        const char *id = csp_collection_at(c, r).id;
        int64_t index;
        bool is_new;

        CSP_TRY_GOTO(csp_id_table_add(table, id, (int64_t)strlen(id), &index, &is_new));
        if (!is_new) {
            status = CSP_FAIL(CSP_ERR_DATA, "id '%.60s' stands for rows %lld and %lld", id,
                              (long long)index + 1, (long long)r + 1);
            goto fail;
        }
        if (!is_utf8(id)) {
            status = CSP_FAIL(CSP_ERR_DATA, "the id of row %lld is not UTF-8", (long long)r + 1);
            goto fail;
        }
        if (options->format == CSP_EXPORT_ANSERINI && has_space(id)) {
            status = CSP_FAIL(
                CSP_ERR_DATA,
                "id '%.60s' holds white space, at which Anserini's run files are split", id);
            goto fail;
        }
    }

fail:
    csp_id_table_destroy(table);
    return status;
}

static csp_status check_weights(const csp_collection *c, bool must_be_whole, float *largest)
{
    float most = 0.0f;

    for (int64_t r = 0; r < c->rows; r++) {
        const csp_collection_row row = csp_collection_at(c, r);

        for (int64_t i = 0; i < row.nnz; i++) {
            const float w = row.weight[i];

            if (!(w >= 0.0f && isfinite(w))) {
                return CSP_FAIL(CSP_ERR_DATA,
                                "row '%.60s', term %d: the weight %g is not a finite number from 0",
                                row.id, row.term[i], (double)w);
            }
            if (must_be_whole && w != floorf(w)) {
                return CSP_FAIL(CSP_ERR_ARGUMENT,
                                "row '%.60s', term %d: the weight %.9g is no integer, which this "
                                "format needs: quantise with round:100, ceil:100 or u8-max",
                                row.id, row.term[i], (double)w);
            }
            most = w > most ? w : most;
        }
    }
    *largest = most;
    return CSP_OK;
}

/* Impacts go out as they are; what was counted when they were made is counted here. */
static csp_status plan_impacts(csp_collection *c)
{
    float largest;

    CSP_TRY(check_weights(c, true, &largest));
    c->quant = c->part[0]->quant;
    c->arithmetic = (csp_quant) { CSP_QUANT_ROUND, 1.0 };
    for (int64_t p = 0; p < c->parts; p++) {
        c->counts.dropped += c->part[p]->counts.dropped;
        /* With a lower limit those are above it too, and are counted when they are cut again. */
        c->counts.clipped += c->limit < CSP_IMPACT_MOST ? 0 : c->part[p]->counts.clipped;
    }
    return CSP_OK;
}

static csp_status plan_weights(csp_collection *c, const csp_export_options *options)
{
    const bool none = c->quant.kind == CSP_QUANT_NONE;
    float largest;

    CSP_TRY(check_weights(c, options->format != CSP_EXPORT_SEISMIC && none, &largest));
    csp_quant_fit(&c->quant, largest);
    if (none) {
        c->quant.scale = 1.0;
    }
    c->arithmetic = c->quant;
    if (none) {
        c->arithmetic.kind = CSP_QUANT_ROUND; /* of whole numbers: they stay what they are */
    }
    return CSP_OK;
}

static csp_status plan_quantisation(const char *const *path, csp_collection *c,
                                    const csp_export_options *options)
{
    const bool impacts = c->part[0]->quant.kind != CSP_QUANT_NONE;
    const bool none = options->quant.kind == CSP_QUANT_NONE && !impacts;
    double scale = 0.0;

    c->quant = options->quant;
    if (csp_quant_lacks_scale(&c->quant) && !(impacts && options->quant_is_default)) {
        CSP_TRY(scale_of_contracts(path, c, &scale));
        csp_quant_settle(&c->quant, scale);
    }
    CSP_TRY(check_quantised(path, c, options));
    c->is_float = none && options->format == CSP_EXPORT_SEISMIC;
    /* Whole weights that stay as they are may be as large as the format's integers. */
    c->limit = options->target == CSP_TARGET_BMP ? 255 : none ? INT32_MAX : CSP_IMPACT_MOST;
    return impacts ? plan_impacts(c) : plan_weights(c, options);
}

/* Counts what is left after quantisation; used[t] says that term t is. */
static void count_postings(csp_collection *c, unsigned char *used)
{
    c->max_term = -1;
    for (int64_t r = 0; r < c->rows; r++) {
        const csp_collection_row row = csp_collection_at(c, r);
        int64_t kept = 0;

        for (int64_t i = 0; i < row.nnz; i++) {
            int64_t impact = 1;

            if (!c->is_float) {
                impact = csp_quant_impact(&c->arithmetic, row.weight[i], c->limit, &c->counts);
                c->max_impact = impact > c->max_impact ? impact : c->max_impact;
            } else if (row.weight[i] == 0.0f) {
                c->counts.dropped++;
                impact = 0;
            }
            if (impact > 0) {
                kept++;
                c->distinct += used[row.term[i]] == 0;
                used[row.term[i]] = 1;
                c->max_term = row.term[i] > c->max_term ? row.term[i] : c->max_term;
            }
        }
        c->postings += kept;
        c->empty_rows += kept == 0;
    }
}

static csp_status check_target(const csp_collection *c, csp_export_target target)
{
    if (target != CSP_TARGET_ANY && c->distinct > U16_TERMS) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%lld terms occur, but %s numbers them with 16 bits (65,536 at most) and "
                        "would take some for others",
                        (long long)c->distinct, csp_export_target_name(target));
    }
    return CSP_OK;
}

static csp_status check_key(const char *key, int32_t term, bool is_anserini, int64_t *characters)
{
    int64_t n = 0;

    if (*key == '\0') {
        return CSP_FAIL(CSP_ERR_DATA, "term %d would be written as an empty string", term);
    }
    if (!is_utf8(key)) {
        return CSP_FAIL(
            CSP_ERR_DATA,
            "term %d stands for bytes that are no UTF-8 on their own: write terms as ids "
            "or tokens",
            term);
    }
    for (const char *at = key; *at != '\0'; n++) {
        (void)next_character(&at);
    }
    if (is_anserini && has_space(key)) {
        return CSP_FAIL(
            CSP_ERR_DATA,
            "term %d is '%.60s', with white space, at which Anserini splits: write terms "
            "as ids",
            term, key);
    }
    if (is_anserini && n > LUCENE_TOKEN) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "term %d has %lld characters, but Lucene cuts tokens after %d: write terms "
                        "as ids",
                        term, (long long)n, LUCENE_TOKEN);
    }
    *characters = n;
    return CSP_OK;
}

typedef struct keyed {
    const char *key;
    int32_t term;
} keyed;

static int by_key(const void *a, const void *b)
{
    return strcmp(((const keyed *)a)->key, ((const keyed *)b)->key);
}

static csp_status order_keys(csp_collection *c)
{
    csp_status status;
    keyed *list;
    int64_t n = 0;

    CSP_TRY(csp_alloc("export", c->distinct, sizeof(*list), &list));
    CSP_TRY_GOTO(csp_alloc("export", c->distinct, sizeof(*c->order), &c->order));
    for (int64_t t = 0; t < c->vocab; t++) {
        if (c->key[t] != NULL) {
            list[n++] = (keyed) { c->key[t], (int32_t)t };
        }
    }
    qsort(list, (size_t)n, sizeof(*list), by_key);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(list[i - 1].key, list[i].key) == 0) {
            status =
                CSP_FAIL(CSP_ERR_DATA,
                         "terms %d and %d would both be written as '%.60s': write terms as ids",
                         list[i - 1].term, list[i].term, list[i].key);
            goto fail;
        }
        c->order[i] = list[i].term;
    }

fail:
    free(list);
    return status;
}

static csp_status make_keys(csp_collection *c, const csp_export_options *options,
                            const unsigned char *used)
{
    CSP_TRY(csp_alloc_zero("export", c->vocab, sizeof(*c->key), &c->key));
    for (int64_t t = 0; t < c->vocab; t++) {
        char number[24];
        const char *key = number;
        int64_t characters;

        if (used[t] == 0) {
            continue;
        }
        (void)snprintf(number, sizeof(number), "%lld", (long long)t);
        if (options->key != NULL) {
            CSP_TRY(options->key(options->key_context, (int32_t)t, &key));
        }
        CSP_TRY(check_key(key, (int32_t)t, options->format == CSP_EXPORT_ANSERINI, &characters));
        CSP_TRY(csp_strdup("export", key, &c->key[t]));
        c->longest_key = characters > c->longest_key ? characters : c->longest_key;
    }
    return order_keys(c);
}

csp_status csp_collection_open(const char *const *path, int64_t paths,
                               const csp_export_options *options, csp_collection **out)
{
    csp_collection *c;
    unsigned char *used = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("export", 1, sizeof(*c), &c));
    CSP_TRY_GOTO(load(path, paths, options->queries, c));
    CSP_TRY_GOTO(check_ids(c, options));
    CSP_TRY_GOTO(plan_quantisation(path, c, options));
    CSP_TRY_GOTO(csp_alloc_zero("export", c->vocab, 1, &used));
    count_postings(c, used);
    CSP_TRY_GOTO(check_target(c, options->target));
    CSP_TRY_GOTO(make_keys(c, options, used));
    free(used);
    *out = c;
    return CSP_OK;

fail:
    free(used);
    csp_collection_close(c);
    return status;
}

void csp_collection_close(csp_collection *c)
{
    if (c == NULL) {
        return;
    }
    for (int64_t p = 0; c->part != NULL && p < c->parts; p++) {
        csp_vectors_free(c->part[p]);
    }
    for (int64_t t = 0; c->key != NULL && t < c->vocab; t++) {
        free(c->key[t]);
    }
    free(c->part);
    free(c->key);
    free(c->order);
    free(c);
}

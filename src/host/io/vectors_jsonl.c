/*
 * vectors_jsonl.c - reading {"id": "d1", "vector": {"17": 1.25}} lines.
 *
 * A csp_json_scanner of our own for these two keys, because a general JSON library makes an object
 * per number; it is strict about JSON's grammar all the same, also in what it skips.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/json_scan.h"
#include "io/vectors_file.h"

typedef struct reader {
    csp_lines *lines;
    csp_vectors *v;
    csp_id_set set;
    int64_t row_capacity, capacity, nnz;
    int64_t max_term;
    bool vocab_known;
} reader;

/* "17": digits only, so that a term has one spelling. */
static csp_status scan_term(csp_json_scanner *s, int32_t *out)
{
    int64_t term = 0;
    const char *p;

    CSP_TRY(csp_json_expect(s, '"', "a term id in quotes should be here"));
    p = s->at;
    while (*p >= '0' && *p <= '9' && term < CSP_VECTORS_MOST_TERMS) {
        term = term * 10 + (*p++ - '0');
    }
    if (p == s->at || *p != '"' || term >= CSP_VECTORS_MOST_TERMS ||
        (p - s->at > 1 && *s->at == '0')) {
        return csp_json_bad(s, "not a term id, which is a whole number from 0 to 16777215");
    }
    s->at = p + 1;
    *out = (int32_t)term;
    return CSP_OK;
}

static csp_status add_term(reader *r, int32_t term, float weight)
{
    if (r->nnz == r->capacity) {
        const int64_t larger = r->capacity > 0 ? 2 * r->capacity : 1 << 16;

        CSP_TRY(csp_realloc("vectors", larger, sizeof(*r->v->term), &r->v->term));
        CSP_TRY(csp_realloc("vectors", larger, sizeof(*r->v->weight), &r->v->weight));
        r->capacity = larger;
    }
    r->v->term[r->nnz] = term;
    r->v->weight[r->nnz] = weight;
    r->nnz++;
    r->max_term = term > r->max_term ? term : r->max_term;
    return CSP_OK;
}

static csp_status scan_vector(csp_json_scanner *s, reader *r)
{
    CSP_TRY(csp_json_expect(s, '{', "the vector should begin here with {"));
    csp_json_space(s);
    if (*s->at == '}') {
        s->at++;
        return CSP_OK;
    }
    for (;;) {
        const char *number;
        int32_t term;
        float weight;

        CSP_TRY(scan_term(s, &term));
        if (r->vocab_known && term >= r->v->vocab) {
            return csp_json_bad(s, "a term id that is not below the vocabulary's size");
        }
        CSP_TRY(csp_json_expect(s, ':', "a colon should be here"));
        csp_json_space(s);
        number = s->at;
        CSP_TRY(csp_json_number(s));
        weight = csp_json_float(number);
        if (!(weight > 0.0f) || !isfinite(weight)) {
            return csp_json_bad(s, "a weight that is not a finite number above 0");
        }
        if (r->v->quant.kind != CSP_QUANT_NONE && !csp_vectors_is_impact(weight)) {
            return csp_json_bad(s, "an impact that is no whole number from 1 to 16777216");
        }
        CSP_TRY(add_term(r, term, weight));
        csp_json_space(s);
        if (*s->at != ',') {
            return csp_json_expect(s, '}', "a comma or } should be here");
        }
        s->at++;
    }
}

/* A string, or a whole number taken as its text. */
static csp_status scan_id(csp_json_scanner *s, char *id)
{
    csp_json_space(s);
    if (*s->at != '"') {
        const char *number = s->at;

        CSP_TRY(csp_json_number(s));
        if (memchr(number, '.', (size_t)(s->at - number)) != NULL ||
            memchr(number, 'e', (size_t)(s->at - number)) != NULL ||
            memchr(number, 'E', (size_t)(s->at - number)) != NULL) {
            s->at = number;
            return csp_json_bad(s, "an id is a string or a whole number");
        }
        memcpy(id, number, (size_t)(s->at - number));
        id[s->at - number] = '\0';
        return CSP_OK;
    }
    CSP_TRY(csp_json_string(s, id));
    return id[0] == '\0' ? csp_json_bad(s, "an empty id") : CSP_OK;
}

typedef struct pair {
    int32_t term;
    float weight;
} pair;

static int by_term(const void *a, const void *b)
{
    const int32_t x = ((const pair *)a)->term, y = ((const pair *)b)->term;

    return (x > y) - (x < y);
}

/* Sorts the terms of the row just read, if they are not in order; one that comes twice is wrong. */
static csp_status order_row(const csp_json_scanner *s, reader *r)
{
    const int64_t begin = r->v->row_ptr[r->v->rows], count = r->nnz - begin;
    int32_t *term = r->v->term + begin;
    float *weight = r->v->weight + begin;
    bool ordered = true;
    pair *pairs;

    for (int64_t i = 1; i < count; i++) {
        ordered = ordered && term[i] > term[i - 1];
    }
    if (ordered) {
        return CSP_OK;
    }
    CSP_TRY(csp_alloc("vectors", count, sizeof(*pairs), &pairs));
    for (int64_t i = 0; i < count; i++) {
        pairs[i] = (pair) { term[i], weight[i] };
    }
    qsort(pairs, (size_t)count, sizeof(*pairs), by_term);
    ordered = true;
    for (int64_t i = 0; i < count; i++) {
        term[i] = pairs[i].term;
        weight[i] = pairs[i].weight;
        ordered = ordered && (i == 0 || term[i] > term[i - 1]);
    }
    free(pairs);
    return ordered ? CSP_OK : csp_json_bad(s, "a term that comes twice in this line");
}

/* Closes the row: its id is kept, which must be new. */
static csp_status end_row(reader *r, const char *id)
{
    csp_vectors *v = r->v;
    int64_t twice;

    if (v->rows + 1 >= r->row_capacity) {
        const int64_t larger = 2 * r->row_capacity;

        CSP_TRY(csp_realloc("vectors", larger, sizeof(*v->row_ptr), &v->row_ptr));
        CSP_TRY(csp_realloc("vectors", larger, sizeof(*v->ids), &v->ids));
        r->row_capacity = larger;
    }
    CSP_TRY(csp_strdup("vectors", id, &v->ids[v->rows]));
    v->rows++;
    v->row_ptr[v->rows] = r->nnz;
    CSP_TRY(csp_id_set_add(&r->set, v->ids, v->rows - 1, &twice));
    if (twice >= 0) {
        return CSP_FAIL(CSP_ERR_DATA, "%s:%lld: id %s comes a second time",
                        csp_lines_path(r->lines), (long long)csp_lines_number(r->lines), id);
    }
    return CSP_OK;
}

/* One object; text has room for two strings as long as the line. */
static csp_status scan_row(csp_json_scanner *s, reader *r, char *id, char *key)
{
    bool has_id = false, has_vector = false;

    CSP_TRY(csp_json_expect(s, '{', "an object should begin here with {"));
    for (;;) {
        CSP_TRY(csp_json_string(s, key));
        CSP_TRY(csp_json_expect(s, ':', "a colon should be here"));
        if (strcmp(key, "id") == 0 && !has_id) {
            CSP_TRY(scan_id(s, id));
            has_id = true;
        } else if (strcmp(key, "vector") == 0 && !has_vector) {
            CSP_TRY(scan_vector(s, r));
            has_vector = true;
        } else if (strcmp(key, "id") == 0 || strcmp(key, "vector") == 0) {
            return csp_json_bad(s, "a second id or vector in one line");
        } else {
            CSP_TRY(csp_json_skip(s));
        }
        csp_json_space(s);
        if (*s->at != ',') {
            break;
        }
        s->at++;
    }
    CSP_TRY(csp_json_expect(s, '}', "a comma or } should be here"));
    csp_json_space(s);
    if (*s->at != '\0') {
        return csp_json_bad(s, "text after the object");
    }
    if (!has_id || !has_vector) {
        return csp_json_bad(s, has_id ? "the line has no \"vector\"" : "the line has no \"id\"");
    }
    CSP_TRY(order_row(s, r));
    return end_row(r, id);
}

/* What {"scheme": .., "scale": .., "dropped": .., "clipped": ..} says. */
static csp_status take_quantisation(reader *r, const json_t *quantisation)
{
    const char *path = csp_lines_path(r->lines);
    const json_t *scheme = json_object_get(quantisation, "scheme");
    const json_t *scale = json_object_get(quantisation, "scale");
    const json_t *dropped = json_object_get(quantisation, "dropped");
    const json_t *clipped = json_object_get(quantisation, "clipped");

    if (!json_is_string(scheme) || !json_is_number(scale) || !json_is_integer(dropped) ||
        !json_is_integer(clipped)) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s:1: quantisation lacks scheme, scale, dropped or clipped", path);
    }
    r->v->counts.dropped = json_integer_value(dropped);
    r->v->counts.clipped = json_integer_value(clipped);
    return csp_vectors_take_quant(path, json_string_value(scheme), json_number_value(scale),
                                  &r->v->quant);
}

/* What {"csplade_vectors": {..}} says. */
static csp_status take_header(reader *r, const json_t *header)
{
    const json_t *version = json_object_get(header, "format_version");
    const json_t *vocab = json_object_get(header, "vocab");
    const json_t *side = json_object_get(header, "side"), *meta = json_object_get(header, "meta");
    const json_t *quantisation = json_object_get(header, "quantisation");
    const char *path = csp_lines_path(r->lines);
    char *dumped;
    csp_status status;

    if (!json_is_integer(version) || json_integer_value(version) != CSP_VECTORS_VERSION) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s:1: format_version is missing or not the %d this program "
                        "reads",
                        path, CSP_VECTORS_VERSION);
    }
    if (!json_is_integer(vocab) || json_integer_value(vocab) < 1 ||
        json_integer_value(vocab) > CSP_VECTORS_MOST_TERMS) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:1: vocab is missing or not in 1..%d", path,
                        CSP_VECTORS_MOST_TERMS);
    }
    r->v->vocab = json_integer_value(vocab);
    r->vocab_known = true;
    if (side != NULL) {
        const char *word = json_string_value(side);

        CSP_TRY(csp_strdup(path, word != NULL ? word : "no text", &r->v->side));
    }
    if (quantisation != NULL) {
        CSP_TRY(take_quantisation(r, quantisation));
    }
    if (meta == NULL) {
        return CSP_OK;
    }
    dumped = json_dumps(meta, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    if (dumped == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s:1: no memory for meta", path);
    }
    status = csp_strdup(path, dumped, &r->v->meta);
    free(dumped);
    return status;
}

/* Takes the first line, if it is ours; *ours says so. */
static csp_status scan_header(reader *r, const char *line, int64_t bytes, bool *ours)
{
    json_error_t problem;
    json_t *value;
    csp_status status = CSP_OK;

    *ours = strstr(line, "\"csplade_vectors\"") != NULL && strstr(line, "\"vector\"") == NULL;
    if (!*ours) {
        return CSP_OK;
    }
    value = json_loadb(line, (size_t)bytes, JSON_REJECT_DUPLICATES, &problem);
    if (value == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:1: byte %d: %s", csp_lines_path(r->lines),
                        problem.position, problem.text);
    }
    status = take_header(r, json_object_get(value, "csplade_vectors"));
    json_decref(value);
    return status;
}

static csp_status read_line(reader *r, const char *line, int64_t bytes, char **text,
                            int64_t *capacity)
{
    csp_json_scanner s = { .lines = r->lines, .start = line, .at = line };
    int64_t at;
    bool ours = false;

    if (!csp_utf8_is_valid(line, bytes, &at) || (int64_t)strlen(line) != bytes) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: invalid UTF-8 or a NUL byte in the line",
                        csp_lines_path(r->lines), (long long)csp_lines_number(r->lines));
    }
    csp_json_space(&s);
    if (*s.at == '\0') {
        return CSP_OK;
    }
    if (csp_lines_number(r->lines) == 1) {
        CSP_TRY(scan_header(r, line, bytes, &ours));
        if (ours) {
            return CSP_OK;
        }
    }
    if (2 * (bytes + 1) > *capacity) {
        CSP_TRY(csp_realloc("vectors", 4 * (bytes + 1), 1, text));
        *capacity = 4 * (bytes + 1);
    }
    return scan_row(&s, r, *text, *text + *capacity / 2);
}

csp_status csp_vectors_read_jsonl(const char *path, csp_vectors *out)
{
    enum { FIRST_ROWS = 1024 };
    reader r = { .v = out, .row_capacity = FIRST_ROWS, .max_term = -1 };
    char *line, *text = NULL;
    int64_t bytes, capacity = 0;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc(path, FIRST_ROWS, sizeof(*out->row_ptr), &out->row_ptr));
    CSP_TRY_GOTO(csp_alloc_zero(path, FIRST_ROWS, sizeof(*out->ids), &out->ids));
    CSP_TRY_GOTO(csp_alloc(path, 1, sizeof(*out->term), &out->term));
    CSP_TRY_GOTO(csp_alloc(path, 1, sizeof(*out->weight), &out->weight));
    r.capacity = 1;
    out->row_ptr[0] = 0;
    CSP_TRY_GOTO(csp_lines_open(path, &r.lines));
    for (;;) {
        CSP_TRY_GOTO(csp_lines_next(r.lines, &line, &bytes));
        if (line == NULL) {
            break;
        }
        CSP_TRY_GOTO(read_line(&r, line, bytes, &text, &capacity));
    }
    if (!r.vocab_known) {
        out->vocab = r.max_term >= 0 ? r.max_term + 1 : 1;
    }
fail:
    free(text);
    free(r.set.table);
    csp_lines_close(r.lines);
    return status;
}

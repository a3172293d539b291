/*
 * vectors_write.c - vectors written row by row.
 *
 * HDF5: rows are collected in pieces of a whole number of chunks, so that no chunk is written twice
 * and memory stays the same however many rows come. JSONL: one line at a time.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/file.h"
#include "io/hdf5.h"
#include "io/lines.h"
#include "io/vectors_file.h"

/* Elements of a piece: four chunks of io/hdf5_write.c; ids: one. */
enum { PIECE = 1 << 16, ID_PIECE = 1 << 12 };

typedef struct piece {
    int32_t term[PIECE];
    float weight[PIECE];
    int32_t impact[PIECE]; /* of quantised vectors, in place of weight */
    int64_t end[PIECE];    /* of rows, the first 0 included */
    char *ids[ID_PIECE];
    int64_t nnz, ends, id_count;
} piece;

struct csp_vectors_writer {
    char *path;
    int64_t vocab, rows, nnz;
    csp_quant quant;
    csp_quant_counts counts;
    csp_hdf5 *hdf5; /* one of these two */
    csp_file *jsonl;
    piece *piece; /* HDF5 */
    char *side;
    char *meta; /* JSONL: as it is written, or "" */
    bool begun; /* JSONL: the first line is written */
    char *line;
    int64_t line_capacity;
};

static bool is_quantised(const csp_vectors_writer *w)
{
    return w->quant.kind != CSP_QUANT_NONE;
}

static csp_status check_create(const char *path, const csp_vectors_head *head)
{
    const csp_vectors_format format = csp_vectors_format_of(path);
    const char *side = head->side, *meta = head->meta;
    const int64_t vocab = head->vocab;
    json_error_t problem;
    json_t *value;

    if (format != CSP_VECTORS_HDF5 && format != CSP_VECTORS_JSONL) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: vectors are written to files named .h5, .hdf5 or .jsonl", path);
    }
    if (vocab < 1 || vocab > CSP_VECTORS_MOST_TERMS) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: a vocabulary of %lld terms is not in 1..%d", path,
                        (long long)vocab, CSP_VECTORS_MOST_TERMS);
    }
    if (strcmp(side, "document") != 0 && strcmp(side, "query") != 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: side \"%s\" is neither document nor query", path,
                        side);
    }
    if (!csp_vectors_quant_is_known(&head->quant)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: vectors are not written as %s with a scale of %g",
                        path, csp_quant_name(head->quant.kind), head->quant.scale);
    }
    if (meta == NULL) {
        return CSP_OK;
    }
    value = json_loads(meta, JSON_REJECT_DUPLICATES, &problem);
    if (!json_is_object(value)) {
        json_decref(value);
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: meta is not the text of a JSON object", path);
    }
    json_decref(value);
    return CSP_OK;
}

static csp_status begin_hdf5(csp_vectors_writer *w, const csp_vectors_head *head)
{
    CSP_TRY(csp_alloc_zero(w->path, 1, sizeof(*w->piece), &w->piece));
    w->piece->ends = 1;
    CSP_TRY(csp_hdf5_create(w->path, &w->hdf5));
    CSP_TRY(csp_hdf5_set_text(w->hdf5, "/", "format", "csplade-vectors"));
    CSP_TRY(csp_hdf5_set_i64(w->hdf5, "/", "format_version", CSP_VECTORS_VERSION));
    CSP_TRY(csp_hdf5_set_text(w->hdf5, "/", "side", head->side));
    if (head->meta != NULL) {
        CSP_TRY(csp_hdf5_set_text(w->hdf5, "/", "meta", head->meta));
    }
    CSP_TRY(csp_hdf5_set_text(w->hdf5, "/X", "encoding-type", "csr_matrix"));
    return csp_hdf5_set_text(w->hdf5, "/X", "encoding-version", "0.1.0");
}

static csp_status begin_jsonl(csp_vectors_writer *w, const csp_vectors_head *head)
{
    json_t *value = head->meta != NULL ? json_loads(head->meta, 0, NULL) : NULL;
    char *compact =
        value != NULL ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    csp_status status;

    json_decref(value);
    if (head->meta != NULL && compact == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for meta", w->path);
    }
    status = csp_strdup(w->path, compact != NULL ? compact : "", &w->meta);
    free(compact);
    CSP_TRY(status);
    return csp_file_create(w->path, &w->jsonl);
}

csp_status csp_vectors_create(const char *path, const csp_vectors_head *head,
                              csp_vectors_writer **out)
{
    csp_vectors_writer *w = NULL;
    csp_status status;

    CSP_TRY(check_create(path, head));
    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*w), &w));
    w->vocab = head->vocab;
    w->quant = head->quant;
    CSP_TRY_GOTO(csp_strdup(path, path, &w->path));
    CSP_TRY_GOTO(csp_strdup(path, head->side, &w->side));
    if (csp_vectors_format_of(path) == CSP_VECTORS_HDF5) {
        CSP_TRY_GOTO(begin_hdf5(w, head));
    } else {
        CSP_TRY_GOTO(begin_jsonl(w, head));
    }
    *out = w;
    return CSP_OK;

fail:
    csp_vectors_abandon(w);
    return status;
}

void csp_vectors_count(csp_vectors_writer *w, const csp_quant_counts *counts)
{
    CSP_ASSERT(w->hdf5 != NULL || !w->begun);
    w->counts.dropped += counts->dropped;
    w->counts.clipped += counts->clipped;
}

/* The first line, if it is not written. */
static csp_status write_first_line(csp_vectors_writer *w)
{
    char quantised[160] = "";

    if (w->begun) {
        return CSP_OK;
    }
    w->begun = true;
    if (is_quantised(w)) {
        (void)snprintf(quantised, sizeof(quantised),
                       ", \"quantisation\": {\"scheme\": \"%s\", \"scale\": %.17g, \"dropped\": "
                       "%lld, \"clipped\": %lld}",
                       csp_quant_name(w->quant.kind), w->quant.scale, (long long)w->counts.dropped,
                       (long long)w->counts.clipped);
    }
    return csp_file_print(w->jsonl,
                          "{\"csplade_vectors\": {\"format_version\": %d, \"vocab\": %lld, "
                          "\"side\": \"%s\"%s%s%s}}\n",
                          CSP_VECTORS_VERSION, (long long)w->vocab, w->side, quantised,
                          w->meta[0] != '\0' ? ", \"meta\": " : "", w->meta);
}

/* What is known when all rows are there. */
static csp_status finish_hdf5(csp_vectors_writer *w)
{
    CSP_TRY(csp_hdf5_set_i64s(w->hdf5, "/X", "shape", (int64_t[]) { w->rows, w->vocab }, 2));
    if (!is_quantised(w)) {
        return CSP_OK;
    }
    CSP_TRY(csp_hdf5_set_text(w->hdf5, "/", "quant_scheme", csp_quant_name(w->quant.kind)));
    CSP_TRY(csp_hdf5_set_f64(w->hdf5, "/", "quant_scale", w->quant.scale));
    CSP_TRY(csp_hdf5_set_i64(w->hdf5, "/", "quant_dropped", w->counts.dropped));
    return csp_hdf5_set_i64(w->hdf5, "/", "quant_clipped", w->counts.clipped);
}

static csp_status flush_terms(csp_vectors_writer *w)
{
    piece *p = w->piece;

    if (is_quantised(w)) {
        CSP_TRY(csp_hdf5_append(w->hdf5, "/X/data", CSP_I32, p->impact, p->nnz));
    } else {
        CSP_TRY(csp_hdf5_append(w->hdf5, "/X/data", CSP_F32, p->weight, p->nnz));
    }
    CSP_TRY(csp_hdf5_append(w->hdf5, "/X/indices", CSP_I32, p->term, p->nnz));
    p->nnz = 0;
    return CSP_OK;
}

static csp_status flush_ends(csp_vectors_writer *w)
{
    CSP_TRY(csp_hdf5_append(w->hdf5, "/X/indptr", CSP_I64, w->piece->end, w->piece->ends));
    w->piece->ends = 0;
    return CSP_OK;
}

static csp_status flush_ids(csp_vectors_writer *w)
{
    piece *p = w->piece;

    CSP_TRY(csp_hdf5_append_strings(w->hdf5, "/ids", (const char *const *)p->ids, p->id_count));
    for (int64_t i = 0; i < p->id_count; i++) {
        free(p->ids[i]);
    }
    p->id_count = 0;
    return CSP_OK;
}

static csp_status append_hdf5(csp_vectors_writer *w, const char *id, int64_t nnz,
                              const int32_t *term, const float *weight)
{
    piece *p = w->piece;

    for (int64_t done = 0; done < nnz;) {
        const int64_t room = PIECE - p->nnz;
        const int64_t part = nnz - done < room ? nnz - done : room;

        memcpy(p->term + p->nnz, term + done, (size_t)part * sizeof(*term));
        if (is_quantised(w)) {
            for (int64_t i = 0; i < part; i++) {
                p->impact[p->nnz + i] = (int32_t)weight[done + i];
            }
        } else {
            memcpy(p->weight + p->nnz, weight + done, (size_t)part * sizeof(*weight));
        }
        p->nnz += part;
        done += part;
        if (p->nnz == PIECE) {
            CSP_TRY(flush_terms(w));
        }
    }
    p->end[p->ends++] = w->nnz + nnz;
    if (p->ends == PIECE) {
        CSP_TRY(flush_ends(w));
    }
    CSP_TRY(csp_strdup(w->path, id, &p->ids[p->id_count]));
    p->id_count++;
    return p->id_count == ID_PIECE ? flush_ids(w) : CSP_OK;
}

static char *put_text(char *to, const char *text)
{
    const size_t length = strlen(text);

    memcpy(to, text, length);
    return to + length;
}

static char *put_whole(char *to, int32_t value)
{
    char digits[12];
    int count = 0;

    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (count > 0) {
        *to++ = digits[--count];
    }
    return to;
}

/* A JSON string; at most 6 bytes for each of text. */
static char *put_json(char *to, const char *text)
{
    static const char hex[] = "0123456789abcdef";

    *to++ = '"';
    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\') {
            *to++ = '\\';
            *to++ = *text;
        } else if (c < 0x20) {
            to = put_text(to, "\\u00");
            *to++ = hex[c >> 4];
            *to++ = hex[c & 15];
        } else {
            *to++ = *text;
        }
    }
    *to++ = '"';
    return to;
}

static csp_status append_jsonl(csp_vectors_writer *w, const char *id, int64_t nnz,
                               const int32_t *term, const float *weight)
{
    /* A member is at most `, "2147483647": ` and 24 bytes of number. */
    const int64_t needed = 6 * (int64_t)strlen(id) + 64 + nnz * 48;
    char *to;

    CSP_TRY(write_first_line(w));
    if (needed > w->line_capacity) {
        CSP_TRY(csp_realloc(w->path, 2 * needed, 1, &w->line));
        w->line_capacity = 2 * needed;
    }
    to = put_json(put_text(w->line, "{\"id\": "), id);
    to = put_text(to, ", \"vector\": {");
    for (int64_t i = 0; i < nnz; i++) {
        to = put_text(to, i > 0 ? ", \"" : "\"");
        to = put_text(put_whole(to, term[i]), "\": ");
        to = csp_vectors_put_float(to, weight[i]);
    }
    to = put_text(to, "}}\n");
    return csp_file_put(w->jsonl, w->line, to - w->line);
}

csp_status csp_vectors_append(csp_vectors_writer *w, const char *id, int64_t nnz,
                              const int32_t *term, const float *weight)
{
    if (id[0] == '\0' || !csp_utf8_is_valid(id, (int64_t)strlen(id), NULL)) {
        return CSP_FAIL(CSP_ERR_DATA, "%s: the id of row %lld is empty or not UTF-8", w->path,
                        (long long)w->rows);
    }
    for (int64_t i = 0; i < nnz; i++) {
        if (term[i] < 0 || term[i] >= w->vocab || (i > 0 && term[i] <= term[i - 1])) {
            return CSP_FAIL(CSP_ERR_ARGUMENT,
                            "%s: %s: term %d is not in 0..%lld or not above the "
                            "one before",
                            w->path, id, (int)term[i], (long long)w->vocab - 1);
        }
        if (!(weight[i] > 0.0f) || !isfinite(weight[i])) {
            return CSP_FAIL(isfinite(weight[i]) ? CSP_ERR_ARGUMENT : CSP_ERR_NUMERIC,
                            "%s: %s: weight %g of term %d is not a finite number above 0", w->path,
                            id, (double)weight[i], (int)term[i]);
        }
        if (is_quantised(w) && !csp_vectors_is_impact(weight[i])) {
            return CSP_FAIL(CSP_ERR_ARGUMENT,
                            "%s: %s: impact %.9g of term %d is no whole number up to %d", w->path,
                            id, (double)weight[i], (int)term[i], CSP_IMPACT_MOST);
        }
    }
    CSP_TRY(w->hdf5 != NULL ? append_hdf5(w, id, nnz, term, weight)
                            : append_jsonl(w, id, nnz, term, weight));
    w->rows++;
    w->nnz += nnz;
    return CSP_OK;
}

csp_status csp_vectors_commit(csp_vectors_writer *w)
{
    csp_file *jsonl = w->jsonl;
    csp_hdf5 *hdf5 = w->hdf5;
    csp_status status = CSP_OK;

    if (hdf5 != NULL) {
        CSP_TRY_GOTO(flush_terms(w));
        CSP_TRY_GOTO(flush_ends(w));
        CSP_TRY_GOTO(flush_ids(w));
        CSP_TRY_GOTO(finish_hdf5(w));
    } else {
        CSP_TRY_GOTO(write_first_line(w));
    }
    w->jsonl = NULL;
    w->hdf5 = NULL;
    status = hdf5 != NULL ? csp_hdf5_commit(hdf5) : csp_file_commit(jsonl);
fail:
    csp_vectors_abandon(w);
    return status;
}

void csp_vectors_abandon(csp_vectors_writer *w)
{
    if (w == NULL) {
        return;
    }
    csp_hdf5_close(w->hdf5);
    csp_file_abandon(w->jsonl);
    for (int64_t i = 0; w->piece != NULL && i < w->piece->id_count; i++) {
        free(w->piece->ids[i]);
    }
    free(w->piece);
    free(w->line);
    free(w->side);
    free(w->meta);
    free(w->path);
    free(w);
}

/* merge.c - shards of vectors, checked to be all of one collection, row after row into one file. */
#include "eval/merge.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/memory.h"
#include "io/vectors.h"

/* What a shard says of itself. */
typedef struct shard {
    csp_vectors *vectors;
    json_t *meta; /* without part */
    char *texts;
    csp_quant quant;
    int64_t first, last, of;
} shard;

typedef struct merging {
    const char *const *path;
    int64_t paths;
    shard begin;  /* of the first file, without vectors: what the others must be shards of too */
    int64_t next; /* row that the next file begins with */
    csp_vectors_writer *writer;
} merging;

static void shard_clear(shard *s)
{
    csp_vectors_free(s->vectors);
    json_decref(s->meta);
    free(s->texts);
    memset(s, 0, sizeof(*s));
}

static csp_status shard_read(const char *path, shard *out)
{
    shard s = { 0 };
    const json_t *part;
    const char *texts;
    csp_status status;

    CSP_TRY_GOTO(csp_vectors_read(path, &s.vectors));
    s.meta = s.vectors->meta != NULL ? json_loads(s.vectors->meta, 0, NULL) : NULL;
    part = json_object_get(s.meta, "part");
    s.first = json_integer_value(json_object_get(part, "first"));
    s.last = json_integer_value(json_object_get(part, "last"));
    s.of = json_integer_value(json_object_get(part, "of"));
    texts = json_string_value(json_object_get(part, "texts"));
    if (texts == NULL || s.vectors->side == NULL) {
        status = CSP_FAIL(CSP_ERR_DATA,
                          "%s does not say which rows of a collection it has: what csplade encode "
                          "--shard writes does",
                          path);
        goto fail;
    }
    if (s.first < 0 || s.last < s.first || s.of < s.last || s.last - s.first != s.vectors->rows) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: rows %lld to %lld of %lld are not its %lld rows",
                          path, (long long)s.first, (long long)s.last - 1, (long long)s.of,
                          (long long)s.vectors->rows);
        goto fail;
    }
    CSP_TRY_GOTO(csp_strdup(path, texts, &s.texts));
    (void)json_object_del(s.meta, "part");
    *out = s;
    return CSP_OK;

fail:
    shard_clear(&s);
    return status;
}

/* What quantising dropped and clipped in all shards, which the output says before its rows. */
static csp_status count_quantised(merging *m)
{
    for (int64_t i = 0; i < m->paths; i++) {
        csp_vectors *v;

        CSP_TRY(csp_vectors_read(m->path[i], &v));
        csp_vectors_count(m->writer, &v->counts);
        csp_vectors_free(v);
    }
    return CSP_OK;
}

/* The first file says what the output is. */
static csp_status begin_output(merging *m, shard *s, const char *output)
{
    const csp_vectors *v = s->vectors;
    char *meta = json_dumps(s->meta, JSON_COMPACT);
    csp_status status;

    if (meta == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for meta", output);
    }
    status = csp_vectors_create(output, &(csp_vectors_head) { v->vocab, v->side, meta, v->quant },
                                &m->writer);
    free(meta);
    CSP_TRY(status);
    m->begin =
        (shard) { .meta = json_incref(s->meta), .texts = s->texts, .quant = v->quant, .of = s->of };
    s->texts = NULL;
    return v->quant.kind != CSP_QUANT_NONE ? count_quantised(m) : CSP_OK;
}

/* side and size of the vocabulary are in meta. */
static csp_status check_alike(const merging *m, int64_t file, const shard *s)
{
    const char *what = NULL;

    if (s->of != m->begin.of || strcmp(s->texts, m->begin.texts) != 0) {
        what = "texts";
    } else if (!json_equal(s->meta, m->begin.meta)) {
        what = "model, precision or text contract";
    } else if (s->vectors->quant.kind != m->begin.quant.kind ||
               s->vectors->quant.scale != m->begin.quant.scale) {
        what = "quantisation";
    }
    return what == NULL ? CSP_OK
                        : CSP_FAIL(CSP_ERR_DATA, "%s is of other %s than %s: %s", m->path[file],
                                   what, m->path[0], "both are shards, but not of one encoding");
}

/* Says which rows no file has, or that one has rows that an earlier one has. */
static csp_status check_place(const merging *m, int64_t file, int64_t files, int64_t first)
{
    const char *after = file > 0 ? m->path[file - 1] : "the beginning";
    const char *before = file < files ? m->path[file] : "the end";

    if (first == m->next) {
        return CSP_OK;
    }
    if (first < m->next) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s begins with row %lld, but %s ends with row %lld: give each shard once, "
                        "in the order of rows",
                        before, (long long)first, after, (long long)m->next - 1);
    }
    return CSP_FAIL(CSP_ERR_DATA,
                    "rows %lld to %lld of %lld are missing between %s and %s: a shard is not "
                    "there, or not in its place",
                    (long long)m->next, (long long)first - 1, (long long)m->begin.of, after,
                    before);
}

static csp_status append_rows(merging *m, const csp_vectors *v)
{
    for (int64_t i = 0; i < v->rows; i++) {
        const int64_t at = v->row_ptr[i];

        CSP_TRY(csp_vectors_append(m->writer, v->ids[i], v->row_ptr[i + 1] - at, v->term + at,
                                   v->weight + at));
    }
    return CSP_OK;
}

csp_status csp_vectors_merge(const char *const *path, int64_t paths, const char *output,
                             int64_t *rows)
{
    merging m = { .path = path, .paths = paths };
    csp_vectors_writer *writer;
    shard s = { 0 };
    csp_status status;

    for (int64_t i = 0; i < paths; i++) {
        CSP_TRY_GOTO(shard_read(path[i], &s));
        CSP_TRY_GOTO(i == 0 ? begin_output(&m, &s, output) : check_alike(&m, i, &s));
        CSP_TRY_GOTO(check_place(&m, i, paths, s.first));
        CSP_TRY_GOTO(append_rows(&m, s.vectors));
        m.next = s.last;
        shard_clear(&s);
    }
    CSP_TRY_GOTO(check_place(&m, paths, paths, m.begin.of));
    writer = m.writer;
    m.writer = NULL;
    CSP_TRY_GOTO(csp_vectors_commit(writer));
    *rows = m.next;

fail:
    csp_vectors_abandon(m.writer);
    shard_clear(&m.begin);
    shard_clear(&s);
    return status;
}

/*
 * ciff.c - transposes the rows by counting, then writes each list with its length computed first.
 */
#include "export/ciff.h"

#include "core/memory.h"
#include "io/file.h"

#include <stdlib.h>
#include <string.h>

/* Posting lists of all terms, one after another. */
typedef struct lists {
    int64_t *start;  /* [vocab+1] */
    int32_t *doc;    /* [postings] ascending in a list */
    int32_t *impact; /* [postings] */
    int32_t *length; /* [rows] sum of a document's impacts */
    int64_t total;   /* sum of all impacts */
} lists;

static void lists_clear(lists *x)
{
    free(x->start);
    free(x->doc);
    free(x->impact);
    free(x->length);
}

static csp_status transpose(const csp_collection *c, lists *x)
{
    CSP_TRY(csp_alloc_zero("CIFF lists", c->vocab + 2, sizeof(*x->start), &x->start));
    CSP_TRY(csp_alloc("CIFF lists", c->postings, sizeof(*x->doc), &x->doc));
    CSP_TRY(csp_alloc("CIFF lists", c->postings, sizeof(*x->impact), &x->impact));
    CSP_TRY(csp_alloc("CIFF lists", c->rows, sizeof(*x->length), &x->length));
    for (int64_t r = 0; r < c->rows; r++) {
        const csp_collection_row row = csp_collection_at(c, r);
        int64_t length = 0;

        for (int64_t i = 0; i < row.nnz; i++) {
            const int32_t impact = csp_collection_impact(c, row.weight[i]);

            length += impact;
            x->start[row.term[i] + 2] += impact > 0;
        }
        if (length > INT32_MAX) {
            return CSP_FAIL(
                CSP_ERR_DATA,
                "the impacts of document '%.60s' add up to %lld, but a CIFF document is "
                "at most %d long: use a smaller scale",
                row.id, (long long)length, INT32_MAX);
        }
        x->length[r] = (int32_t)length;
        x->total += length;
    }
    for (int64_t t = 1; t <= c->vocab; t++) {
        x->start[t + 1] += x->start[t];
    }
    /* start[t + 1] is now where list t begins, and walks to its end while the list is filled. */
    for (int64_t r = 0; r < c->rows; r++) {
        const csp_collection_row row = csp_collection_at(c, r);

        for (int64_t i = 0; i < row.nnz; i++) {
            const int32_t impact = csp_collection_impact(c, row.weight[i]);

            if (impact > 0) {
                const int64_t at = x->start[row.term[i] + 1]++;

                x->doc[at] = (int32_t)r;
                x->impact[at] = impact;
            }
        }
    }
    return CSP_OK;
}

static int64_t varint_bytes(uint64_t value)
{
    int64_t n = 1;

    for (; value >= 128; value >>= 7) {
        n++;
    }
    return n;
}

static void put_varint(FILE *stream, uint64_t value)
{
    for (; value >= 128; value >>= 7) {
        (void)fputc((int)(value & 127) | 128, stream);
    }
    (void)fputc((int)value, stream);
}

/* Bytes of an integer field, its one-byte tag included; 0 is left out as proto3 does. */
static int64_t integer_bytes(int64_t value)
{
    return value == 0 ? 0 : 1 + varint_bytes((uint64_t)value);
}

static void put_integer(FILE *stream, int field, int64_t value)
{
    if (value != 0) {
        (void)fputc(field << 3, stream);
        put_varint(stream, (uint64_t)value);
    }
}

static int64_t string_bytes(const char *text)
{
    const size_t length = strlen(text);

    return length == 0 ? 0 : 1 + varint_bytes(length) + (int64_t)length;
}

static void put_string(FILE *stream, int field, const char *text)
{
    if (*text != '\0') {
        (void)fputc(field << 3 | 2, stream);
        put_varint(stream, strlen(text));
        (void)fputs(text, stream);
    }
}

static void put_header(FILE *stream, const csp_collection *c, const lists *x)
{
    static const char description[] = "csplade impacts";
    const double mean = c->rows > 0 ? (double)x->total / (double)c->rows : 0.0;
    uint64_t bits;

    memcpy(&bits, &mean, sizeof(bits));
    put_varint(stream, (uint64_t)(integer_bytes(1) + 2 * integer_bytes(c->distinct) +
                                  2 * integer_bytes(c->rows) + integer_bytes(x->total) + 9 +
                                  string_bytes(description)));
    put_integer(stream, 1, 1);
    put_integer(stream, 2, c->distinct);
    put_integer(stream, 3, c->rows);
    put_integer(stream, 4, c->distinct);
    put_integer(stream, 5, c->rows);
    put_integer(stream, 6, x->total);
    (void)fputc(7 << 3 | 1, stream);
    for (int i = 0; i < 64; i += 8) {
        (void)fputc((int)(bits >> i & 255), stream);
    }
    put_string(stream, 8, description);
}

static void put_list(FILE *stream, const char *term, const int32_t *doc, const int32_t *impact,
                     int64_t df)
{
    int64_t cf = 0, bytes = 0;

    for (int64_t i = 0; i < df; i++) {
        /* At most 12 bytes, so its own length is one. */
        bytes += 2 + integer_bytes(doc[i] - (i > 0 ? doc[i - 1] : 0)) + integer_bytes(impact[i]);
        cf += impact[i];
    }
    bytes += string_bytes(term) + integer_bytes(df) + integer_bytes(cf);
    put_varint(stream, (uint64_t)bytes);
    put_string(stream, 1, term);
    put_integer(stream, 2, df);
    put_integer(stream, 3, cf);
    for (int64_t i = 0; i < df; i++) {
        const int64_t gap = doc[i] - (i > 0 ? doc[i - 1] : 0);

        (void)fputc(4 << 3 | 2, stream);
        put_varint(stream, (uint64_t)(integer_bytes(gap) + integer_bytes(impact[i])));
        put_integer(stream, 1, gap);
        put_integer(stream, 2, impact[i]);
    }
}

static void put_document(FILE *stream, int64_t number, const char *id, int32_t length)
{
    put_varint(stream,
               (uint64_t)(integer_bytes(number) + string_bytes(id) + integer_bytes(length)));
    put_integer(stream, 1, number);
    put_string(stream, 2, id);
    put_integer(stream, 3, length);
}

csp_status csp_export_ciff(const csp_collection *c, const char *path)
{
    lists x = { 0 };
    csp_file *file;
    FILE *stream;
    csp_status status;

    if (c->rows > INT32_MAX) {
        return CSP_FAIL(CSP_ERR_DATA, "%lld documents, but CIFF numbers at most %d",
                        (long long)c->rows, INT32_MAX);
    }
    CSP_TRY_GOTO(transpose(c, &x));
    CSP_TRY_GOTO(csp_file_create(path, &file));
    stream = csp_file_stream(file);
    put_header(stream, c, &x);
    for (int64_t i = 0; i < c->distinct; i++) {
        const int32_t t = c->order[i];

        put_list(stream, c->key[t], x.doc + x.start[t], x.impact + x.start[t],
                 x.start[t + 1] - x.start[t]);
    }
    for (int64_t r = 0; r < c->rows; r++) {
        put_document(stream, r, csp_collection_at(c, r).id, x.length[r]);
    }
    status = csp_file_commit(file);

fail:
    lists_clear(&x);
    return status;
}

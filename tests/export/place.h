/*
 * place.h - what the tests of exports share: a folder of their own, rows written as vectors, and
 * the call with the usual options.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "export/vectors.h"
#include "io/file.h"

/* One folder for a test, removed afterwards. */
typedef struct place {
    char dir[64];
    char out[128];
    char path[192];
} place;

static inline int enter(void **state)
{
    place *p = calloc(1, sizeof(*p));

    strcpy(p->dir, "/tmp/csplade-export-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    (void)snprintf(p->out, sizeof(p->out), "%s/out", p->dir);
    csp_log_set_level(CSP_LOG_NONE);
    *state = p;
    return 0;
}

static inline int leave(void **state)
{
    place *p = *state;
    char command[256];

    (void)snprintf(command, sizeof(command), "rm -rf '%s'", p->dir);
    assert_int_equal(system(command), 0);
    free(p);
    return 0;
}

/* The whole of a file in the export's folder; the caller frees it. */
static inline char *slurp(place *p, const char *name, int64_t *bytes)
{
    char *text = NULL;
    int64_t n;

    (void)snprintf(p->path, sizeof(p->path), "%s/%s", p->out, name);
    assert_int_equal(csp_file_read(p->path, 1 << 28, &text, &n), CSP_OK);
    if (bytes != NULL) {
        *bytes = n;
    }
    return text;
}

typedef struct row {
    const char *id;
    int64_t nnz;
    int32_t term[4];
    float weight[4];
} row;

static const row sample[] = {
    { "d1", 3, { 2, 5, 7 }, { 1.2345678f, 0.004f, 3.1f } },
    { "d\"2\\\x01\xc3\xa9", 1, { 5 }, { 0.5f } },
    { "empty", 0, { 0 }, { 0.0f } },
    { "d4", 2, { 0, 7 }, { 2.0f, 0.25f } },
};

/* Of queries where the name begins with a q. */
static inline const char *write_rows(place *p, const char *name, const row *rows, int64_t count,
                                     int64_t vocab)
{
    static char path[128];
    csp_vectors_writer *writer;

    (void)snprintf(path, sizeof(path), "%s/%s", p->dir, name);
    assert_int_equal(
        csp_vectors_create(path,
                           &(csp_vectors_head) { .vocab = vocab,
                                                 .side = name[0] == 'q' ? "query" : "document",
                                                 .meta = "{\"model_hash\": \"abc\"}" },
                           &writer),
        CSP_OK);
    for (int64_t r = 0; r < count; r++) {
        assert_int_equal(
            csp_vectors_append(writer, rows[r].id, rows[r].nnz, rows[r].term, rows[r].weight),
            CSP_OK);
    }
    assert_int_equal(csp_vectors_commit(writer), CSP_OK);
    return path;
}

static inline csp_export_options options_for(csp_export_format format)
{
    return (csp_export_options) { .format = format,
                                  .quant = csp_export_default_quant(format, CSP_TARGET_ANY),
                                  .key_kind = "id" };
}

static inline csp_status export_sample(place *p, const csp_export_options *options,
                                       csp_export_report *report)
{
    const char *path = write_rows(p, "sample.jsonl", sample, 4, 10);

    return csp_export_vectors(&path, 1, options, p->out, report);
}

/* Keys: term 2 is given by the context, the others are harmless. */
static inline csp_status key_of(void *context, int32_t term, const char **key)
{
    static char text[24];

    (void)snprintf(text, sizeof(text), "t%d", term);
    *key = term == 2 ? context : text;
    return *key != NULL ? CSP_OK : CSP_FAIL(CSP_ERR_DATA, "term %d has no token", term);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, enter, leave)

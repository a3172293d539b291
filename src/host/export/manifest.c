/* manifest.c - see manifest.h. */
#include "export/manifest.h"

#include "core/memory.h"
#include "export/json_string.h"
#include "io/file.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { CHUNK = 1 << 20 };

/* Size and XXH3-128 (canonical, as xxh128sum prints it) of a file; hex has room for 33 bytes. */
static csp_status hash_file(const char *path, int64_t *bytes, char *hex)
{
    XXH3_state_t *state = XXH3_createState();
    FILE *stream = fopen(path, "rb");
    XXH128_canonical_t digest;
    csp_status status = CSP_OK;
    char *chunk = NULL;
    int64_t total = 0;

    if (stream == NULL) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: %s", path, strerror(errno));
        goto fail;
    }
    if (state == NULL) {
        status = CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory to hash it", path);
        goto fail;
    }
    CSP_TRY_GOTO(csp_alloc("hash", CHUNK, 1, &chunk));
    (void)XXH3_128bits_reset(state);
    for (size_t n = fread(chunk, 1, CHUNK, stream); n > 0; n = fread(chunk, 1, CHUNK, stream)) {
        (void)XXH3_128bits_update(state, chunk, n);
        total += (int64_t)n;
    }
    if (ferror(stream)) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: %s", path, strerror(errno));
        goto fail;
    }
    XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(state));
    for (size_t i = 0; i < sizeof(digest.digest); i++) {
        (void)snprintf(hex + 2 * i, 3, "%02x", digest.digest[i]);
    }
    *bytes = total;

fail:
    free(chunk);
    (void)XXH3_freeState(state);
    if (stream != NULL) {
        (void)fclose(stream);
    }
    return status;
}

csp_status csp_export_mapping(const csp_collection *c, const char *path)
{
    csp_file *file;
    FILE *stream;

    CSP_TRY(csp_file_create(path, &file));
    stream = csp_file_stream(file);
    (void)fputc('{', stream);
    for (int64_t i = 0; i < c->distinct; i++) {
        (void)fputs(i > 0 ? ",\n" : "\n", stream);
        csp_json_put_string(stream, c->key[c->order[i]]);
        (void)fprintf(stream, ": %d", c->order[i]);
    }
    (void)fputs("\n}\n", stream);
    return csp_file_commit(file);
}

static json_t *quantisation(const csp_collection *c)
{
    return c->is_float
               ? json_null()
               : json_pack("{s:s, s:f, s:i, s:I, s:I, s:I}", "scheme",
                           csp_quant_name(c->quant.kind), "scale", c->quant.scale, "limit",
                           c->limit, "max_impact", (json_int_t)c->max_impact, "dropped",
                           (json_int_t)c->counts.dropped, "clipped", (json_int_t)c->counts.clipped);
}

static csp_status list_files(const char *dir, const char *const *file, int64_t files, json_t *list)
{
    for (int64_t i = 0; i < files; i++) {
        char hex[33];
        char *path;
        int64_t bytes;
        csp_status status;

        CSP_TRY(csp_file_join(dir, file[i], &path));
        status = hash_file(path, &bytes, hex);
        free(path);
        CSP_TRY(status);
        if (json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", file[i], "bytes",
                                                  (json_int_t)bytes, "xxh3_128", hex)) != 0) {
            return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for the manifest", dir);
        }
    }
    return CSP_OK;
}

/* meta is null where it is absent or no JSON: the manifest describes, it does not judge. */
static json_t *list_sources(const csp_collection *c, const char *const *source)
{
    json_t *list = json_array();

    for (int64_t p = 0; p < c->parts; p++) {
        const char *text = c->part[p]->meta;
        json_t *meta = text != NULL ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

        /* A path need not be UTF-8, which a JSON string must be. */
        json_t *name = json_string(source[p]);

        (void)json_array_append_new(list, json_pack("{s:o, s:o}", "path",
                                                    name != NULL ? name : json_null(), "meta",
                                                    meta != NULL ? meta : json_null()));
    }
    return list;
}

csp_status csp_export_manifest(const csp_collection *c, const csp_export_options *options,
                               const char *dir, const char *const *file, int64_t files,
                               const char *const *source)
{
    json_t *list = json_array(), *root = NULL;
    char *path = NULL, *text = NULL;
    csp_status status;

    CSP_TRY_GOTO(list_files(dir, file, files, list));
    root = json_pack("{s:s, s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:O, s:o}",
                     "format", csp_export_format_name(options->format), "format_version", 1, "side",
                     options->queries ? "query" : "document", "target",
                     csp_export_target_name(options->target), "keys", options->key_kind, "rows",
                     (json_int_t)c->rows, "empty_rows", (json_int_t)c->empty_rows, "postings",
                     (json_int_t)c->postings, "vocab_size", (json_int_t)c->vocab, "max_term",
                     (json_int_t)c->max_term, "distinct_terms", (json_int_t)c->distinct,
                     "longest_key", (json_int_t)c->longest_key, "quantisation", quantisation(c),
                     "files", list, "source", list_sources(c, source));
    text = root != NULL ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    if (text == NULL) {
        status = CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for the manifest", dir);
        goto fail;
    }
    CSP_TRY_GOTO(csp_file_join(dir, "manifest.json", &path));
    status = csp_file_write(path, text, (int64_t)strlen(text));

fail:
    json_decref(list);
    json_decref(root);
    free(text);
    free(path);
    return status;
}

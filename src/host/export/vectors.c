/*
 * vectors.c - checks what was asked for, opens the collection, calls the format's writer.
 */
#include "export/vectors.h"

#include "core/log.h"
#include "core/memory.h"
#include "export/anserini.h"
#include "export/ciff.h"
#include "export/manifest.h"
#include "export/seismic.h"
#include "io/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const formats[] = { "seismic", "anserini", "ciff" };
static const char *const targets[] = { "any", "bmp", "seismic-u16" };

/* File names are of one length: docs-00000-of-99999. */
enum { MOST_SHARDS = 99999, NAME_BYTES = 64 };

csp_status csp_export_format_parse(const char *text, csp_export_format *out)
{
    for (int i = 0; i <= CSP_EXPORT_CIFF; i++) {
        if (strcmp(text, formats[i]) == 0) {
            *out = (csp_export_format)i;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_ARGUMENT, "format '%.40s': not one of seismic, anserini, ciff", text);
}

const char *csp_export_format_name(csp_export_format format)
{
    CSP_ASSERT(format >= CSP_EXPORT_SEISMIC && format <= CSP_EXPORT_CIFF);
    return formats[format];
}

csp_status csp_export_target_parse(const char *text, csp_export_target *out)
{
    for (int i = 0; i <= CSP_TARGET_SEISMIC_U16; i++) {
        if (strcmp(text, targets[i]) == 0) {
            *out = (csp_export_target)i;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_ARGUMENT, "target '%.40s': not one of any, bmp, seismic-u16", text);
}

const char *csp_export_target_name(csp_export_target target)
{
    CSP_ASSERT(target >= CSP_TARGET_ANY && target <= CSP_TARGET_SEISMIC_U16);
    return targets[target];
}

csp_quant csp_export_default_quant(csp_export_format format, csp_export_target target)
{
    if (target == CSP_TARGET_BMP) {
        return (csp_quant) { CSP_QUANT_U8_MAX, 0.0 };
    }
    return format == CSP_EXPORT_SEISMIC ? (csp_quant) { CSP_QUANT_NONE, 0.0 }
                                        : (csp_quant) { CSP_QUANT_ROUND, 0.0 };
}

static csp_status check_options(const csp_export_options *options, int64_t paths)
{
    if (paths < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "export: no file of vectors given");
    }
    if (options->format == CSP_EXPORT_CIFF && options->queries) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "CIFF holds documents, not queries");
    }
    if (options->target == CSP_TARGET_BMP && options->format != CSP_EXPORT_CIFF) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "target bmp reads CIFF, not %s",
                        formats[options->format]);
    }
    if (options->target == CSP_TARGET_SEISMIC_U16 && options->format != CSP_EXPORT_SEISMIC) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "target seismic-u16 reads seismic, not %s",
                        formats[options->format]);
    }
    if (options->shards < 0 || options->shards > MOST_SHARDS ||
        (options->shards > 1 && (options->format != CSP_EXPORT_ANSERINI || options->queries))) {
        return CSP_FAIL(
            CSP_ERR_ARGUMENT,
            "%lld shards: only anserini documents are written in several files, at most "
            "%d",
            (long long)options->shards, MOST_SHARDS);
    }
    return CSP_OK;
}

/* A reader would take files of an earlier export for ours. */
static csp_status refuse_used_folder(const char *dir)
{
    static const char *const traces[] = { "manifest.json", "docs",        "documents.jsonl",
                                          "queries.jsonl", "queries.tsv", "index.ciff" };

    for (size_t i = 0; i < sizeof(traces) / sizeof(traces[0]); i++) {
        char *path;
        bool exists;

        CSP_TRY(csp_file_join(dir, traces[i], &path));
        exists = csp_file_exists(path) || csp_file_is_dir(path);
        free(path);
        if (exists) {
            return CSP_FAIL(CSP_ERR_ARGUMENT,
                            "%s holds %s of an earlier export: choose another folder or remove it",
                            dir, traces[i]);
        }
    }
    return CSP_OK;
}

/* The n-th file of this export; the last ones are shared by all formats. */
static void name_file(const csp_export_options *options, int64_t n, char *name)
{
    const int64_t shards = options->shards > 1 ? options->shards : 1;

    if (options->format == CSP_EXPORT_CIFF) {
        (void)snprintf(name, NAME_BYTES, "index.ciff");
    } else if (options->format == CSP_EXPORT_SEISMIC) {
        (void)snprintf(name, NAME_BYTES, options->queries ? "queries.jsonl" : "documents.jsonl");
    } else if (options->queries) {
        (void)snprintf(name, NAME_BYTES, "queries.tsv");
    } else {
        (void)snprintf(name, NAME_BYTES, "docs/docs-%05lld-of-%05lld.jsonl", (long long)n,
                       (long long)shards);
    }
}

static csp_status write_file(const csp_collection *c, const csp_export_options *options, int64_t n,
                             const char *path)
{
    switch (options->format) {
    case CSP_EXPORT_SEISMIC:
        return csp_export_seismic(c, path);
    case CSP_EXPORT_ANSERINI:
        return options->queries ? csp_export_anserini_queries(c, path)
                                : csp_export_anserini_documents(
                                      c, n, options->shards > 1 ? options->shards : 1, path);
    default:
        return csp_export_ciff(c, path);
    }
}

static csp_status make_folders(const csp_export_options *options, const char *dir)
{
    csp_status status;
    char *docs;

    CSP_TRY(csp_file_make_dirs(dir));
    if (options->format != CSP_EXPORT_ANSERINI || options->queries) {
        return CSP_OK;
    }
    CSP_TRY(csp_file_join(dir, "docs", &docs));
    status = csp_file_make_dirs(docs);
    free(docs);
    return status;
}

/* Writes everything but the manifest; name is [shards + 1] file names. */
static csp_status write_files(const csp_collection *c, const csp_export_options *options,
                              const char *dir, char (*name)[NAME_BYTES], int64_t files)
{
    for (int64_t n = 0; n < files; n++) {
        const bool is_mapping = n == files - 1;
        csp_status status;
        char *path;

        if (is_mapping) {
            (void)snprintf(name[n], NAME_BYTES, "token_to_id_mapping.json");
        } else {
            name_file(options, n, name[n]);
        }
        CSP_TRY(csp_file_join(dir, name[n], &path));
        status = is_mapping ? csp_export_mapping(c, path) : write_file(c, options, n, path);
        free(path);
        CSP_TRY(status);
    }
    return CSP_OK;
}

static void warn_about_left_out(const csp_collection *c, const csp_export_options *options)
{
    if (c->empty_rows > 0 && options->format == CSP_EXPORT_ANSERINI && options->queries) {
        csp_log(CSP_LOG_WARN, "export", "%lld of %lld queries have no term and are left out",
                (long long)c->empty_rows, (long long)c->rows);
    }
}

csp_status csp_export_vectors(const char *const *path, int64_t paths,
                              const csp_export_options *options, const char *dir,
                              csp_export_report *out)
{
    const int64_t files = (options->shards > 1 ? options->shards : 1) + 1;
    csp_collection *c = NULL;
    char(*name)[NAME_BYTES] = NULL;
    const char **names = NULL;
    csp_status status;

    CSP_TRY(check_options(options, paths));
    CSP_TRY(refuse_used_folder(dir));
    CSP_TRY(csp_collection_open(path, paths, options, &c));
    CSP_TRY_GOTO(csp_alloc("export", files, sizeof(*name), &name));
    CSP_TRY_GOTO(csp_alloc("export", files, sizeof(*names), &names));
    CSP_TRY_GOTO(make_folders(options, dir));
    CSP_TRY_GOTO(write_files(c, options, dir, name, files));
    for (int64_t i = 0; i < files; i++) {
        names[i] = name[i];
    }
    CSP_TRY_GOTO(csp_export_manifest(c, options, dir, names, files, path));
    warn_about_left_out(c, options);
    *out = (csp_export_report) { c->rows,           c->empty_rows,     c->postings,   c->distinct,
                                 c->counts.dropped, c->counts.clipped, c->quant.scale };

fail:
    free(name);
    free(names);
    csp_collection_close(c);
    return status;
}

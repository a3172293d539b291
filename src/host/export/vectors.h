/*
 * vectors.h - encoded vectors as the files that other programs build their indexes from.
 *
 * Every export is one folder:
 *
 *     seismic   documents.jsonl or queries.jsonl     pyseismic-lsr, DuckDB, anything with JSON
 *     anserini  docs/docs-00000-of-00001.jsonl, ...  Anserini's JsonVectorCollection: folder docs
 *               or queries.tsv
 *     ciff      index.ciff                           PISA, BMP, Terrier, ... (documents only)
 *     always    token_to_id_mapping.json             key of a term in these files -> its id
 *               manifest.json                        counts, quantisation, checksums (manifest.h)
 *
 * What a format or its reader would silently turn into something else is refused.
 */
#pragma once

#include "core/quantize.h"
#include "io/vectors.h"

typedef enum csp_export_format {
    CSP_EXPORT_SEISMIC,
    CSP_EXPORT_ANSERINI,
    CSP_EXPORT_CIFF
} csp_export_format;

/* Readers with narrower types than their format has. */
typedef enum csp_export_target {
    CSP_TARGET_ANY,
    CSP_TARGET_BMP,        /* CIFF: impacts of 8 bits, at most 65,536 terms              */
    CSP_TARGET_SEISMIC_U16 /* seismic: SeismicIndex instead of SeismicIndexLV: 65,536 terms */
} csp_export_target;

/*
 * The string that stands for a term, valid until the next call. A failure ends the export with the
 * callback's own text ("term 151999 is beyond the tokenizer's 151665").
 */
typedef csp_status (*csp_export_key)(void *context, int32_t term, const char **key);

typedef struct csp_export_options {
    csp_export_format format;
    csp_export_target target;
    bool queries;          /* the vectors are queries                                     */
    csp_quant quant;       /* see csp_export_default_quant; a scale of 0: the contract's   */
    bool quant_is_default; /* nobody asked for it: vectors that hold impacts keep theirs  */
    const char *key_kind;  /* "id", "token" or "text": recorded                           */
    csp_export_key key;    /* NULL: terms are written as decimal ids                      */
    void *key_context;
    int64_t shards; /* files of an anserini collection; 0 and 1 elsewhere          */
} csp_export_options;

/* "seismic", "anserini", "ciff"; "any", "bmp", "seismic-u16". Errors: CSP_ERR_ARGUMENT. */
CSP_CHECKED csp_status csp_export_format_parse(const char *text, csp_export_format *out);
const char *csp_export_format_name(csp_export_format format);
CSP_CHECKED csp_status csp_export_target_parse(const char *text, csp_export_target *out);
const char *csp_export_target_name(csp_export_target target);

/* none for seismic, round for anserini and ciff, u8-max for bmp: what their users do. */
csp_quant csp_export_default_quant(csp_export_format format, csp_export_target target);

/* What was written; the manifest has the same numbers. */
typedef struct csp_export_report {
    int64_t rows;
    int64_t empty_rows; /* without a posting after quantisation; left out of queries.tsv */
    int64_t postings;
    int64_t distinct; /* terms with a posting */
    int64_t dropped;  /* weights that became 0 */
    int64_t clipped;  /* impacts above what the target holds, cut to it */
    double scale;     /* weights were multiplied by this; 1 for none */
} csp_export_report;

/*
 * Exports the rows of one or several files (the shards of one collection, in this order). Impacts
 * of quantised vectors are taken as they are. The scale of weights, where none is named, is that of
 * the text contract in the files, 100 without one.
 *
 *   path  in   files as csp_vectors_read takes them
 *   dir   in   made if missing; must not hold an export already
 *
 * All vectors are in memory meanwhile; CIFF needs 8 bytes a posting more. Files appear under their
 * names when complete, the manifest last: a folder without one is not a whole export.
 *
 * Errors: CSP_ERR_ARGUMENT: options that do not fit together, float weights for an integer format,
 *         a quantisation other than that of quantised vectors;
 *         CSP_ERR_DATA: an id twice, keys that two terms share, that are empty, no UTF-8 or
 * (anserini) hold white space or more than 255 characters, more terms than the target has numbers
 * for, a document longer than the format's integers; CSP_ERR_FORMAT, CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_export_vectors(const char *const *path, int64_t paths,
                                          const csp_export_options *options, const char *dir,
                                          csp_export_report *out);

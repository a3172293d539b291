/*
 * manifest.h - manifest.json, written last: what an export holds and how its numbers were made.
 *
 *     {"format": "ciff", "format_version": 1, "side": "document", "target": "any", "keys": "id",
 *      "rows": 2, "empty_rows": 0, "postings": 9, "vocab_size": 32768, "max_term": 31999,
 *      "distinct_terms": 8, "longest_key": 5,
 *      "quantisation": {"scheme": "round", "scale": 100.0, "limit": 16777216, "max_impact": 312,
 *                       "dropped": 1, "clipped": 0},
 *      "files": [{"name": "index.ciff", "bytes": 123, "xxh3_128": "..."}, ...],
 *      "source": [{"path": "d.h5", "meta": {...}}]}
 *
 * meta is what the vectors' file says about the model and its text contract, null if nothing.
 * quantisation is null for float weights.
 */
#pragma once

#include "export/collection.h"

/* Writes DIR/token_to_id_mapping.json: {"key": id, ...} in the byte order of the keys. */
CSP_CHECKED csp_status csp_export_mapping(const csp_collection *collection, const char *path);

/*
 * Writes DIR/manifest.json.
 *
 *   file     in   [files] names in dir, hashed here
 *   source   in   [collection->parts] paths as the user gave them
 *
 * Errors: CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_export_manifest(const csp_collection *collection,
                                           const csp_export_options *options, const char *dir,
                                           const char *const *file, int64_t files,
                                           const char *const *source);

/*
 * merge.h - the shards of one encoding, joined to one file.
 *
 * A shard's meta says which rows of which texts it has, beside what a whole file's meta says:
 *
 *     "part": {"first": 25, "last": 50, "of": 100, "texts": "9f3c5b1e00d2a784"}
 *
 * is rows 25 to 49 of 100; texts is a hash of all ids and texts of the input.
 */
#pragma once

#include "core/status.h"

/*
 * Joins shards in the order of their rows. Each of them is in memory for itself only. The output is
 * a whole file's, and appears when it is complete.
 *
 *   path    in   (paths) of files that csp_encode_file wrote, in the order of their rows, 1 or more
 *   rows    out  of the output
 *
 * Errors: CSP_ERR_DATA where rows are missing or in two files (which, and between which files),
 *         where a file is no shard, or where two are of other texts, models or contracts;
 *         those of csp_vectors_read and csp_vectors_create.
 */
CSP_CHECKED csp_status csp_vectors_merge(const char *const *path, int64_t paths, const char *output,
                                         int64_t *rows);

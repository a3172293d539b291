/*
 * text_files.h - which files a collection consists of.
 *
 *     FILE                                  itself
 *     FOLDER/corpus.jsonl, or .jsonl.gz     a BEIR folder; queries.jsonl for the side of queries
 *     FOLDER/corpus-00000-of-00003.jsonl    the same in shards, named as Hugging Face names them,
 *     FOLDER/corpus-00001-of-00003.jsonl    each .jsonl or .jsonl.gz. They are read one after the
 *     FOLDER/corpus-00002-of-00003.jsonl    other, in the order of their numbers, as one file.
 */
#pragma once

#include "core/status.h"
#include "io/contract.h"

/*
 * Finds them, in the order in which they are read.
 *
 * Owner:  csp_text_files_free(*out, *count).
 * Errors: CSP_ERR_IO if the folder has no such file, or lacks a shard, which is named; CSP_ERR_DATA
 *         for shards of several sets, or a shard that is there twice; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_text_files(const char *path, csp_side side, char ***out, int64_t *count);
void csp_text_files_free(char **files, int64_t count);

/*
 * anserini.h - Anserini's JsonVectorCollection and the queries that go with it.
 *
 * Documents, in a folder of their own (Anserini reads every JSON file that it finds there):
 *
 *     {"id": "d17", "contents": "", "vector": {"1043": 125, "2001": 50}}
 *
 * with integer impacts: Anserini turns 0.9 into 0 without a word. Queries, one a line, a term as
 * often as its impact says:
 *
 *     q3 <tab> 1043 1043 1043 2001
 *
 * Index with  -collection JsonVectorCollection -generator DefaultLuceneDocumentGenerator -impact
 * -pretokenized, search with  -topicReader TsvString -impact -pretokenized.
 */
#pragma once

#include "export/collection.h"

/* Writes rows [shard, shard+1) / shards of the collection. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_export_anserini_documents(const csp_collection *collection,
                                                     int64_t shard, int64_t shards,
                                                     const char *path);

/* Queries without a term are left out: Anserini's reader fails at their line. Errors: CSP_ERR_IO.
 */
CSP_CHECKED csp_status csp_export_anserini_queries(const csp_collection *collection,
                                                   const char *path);

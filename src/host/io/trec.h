/*
 * trec.h - judgements (qrels) and runs.
 *
 * Qrels are read in TREC form (qid 0 docid rel), BEIR form (header line, qid docid score) or three
 * columns without a header; runs in TREC form (qid Q0 docid rank score tag) or three columns
 * (qid docid score) or MS MARCO's (qid docid rank). Any white space separates columns; the first
 * row says how many there are. A line whose tabs alone give that many, and its spaces more, is
 * refused. Rows are kept in file order, grouped by query in order of first appearance. A
 * three-column run in which every query's third column counts 1, 2, 3, ... from top to bottom holds
 * ranks; its rows get the score 1/rank.
 */
#pragma once

#include "core/status.h"

typedef struct csp_trec_row {
    const char *doc_id;
    double value; /* relevance of a judgement, score of a run */
} csp_trec_row;

typedef struct csp_trec_query {
    const char *query_id;
    csp_trec_row *rows;
    int64_t count;
} csp_trec_query;

typedef struct csp_trec {
    csp_trec_query *queries;
    int64_t count;
    void *memory; /* private: ids and the hash table */
} csp_trec;

/*
 * Plain or gzip. A file without rows gives a count of 0.
 *
 * Errors: CSP_ERR_IO; CSP_ERR_FORMAT for a malformed line and CSP_ERR_DATA for a pair of query and
 * document that comes twice, both as "path:line: ..."; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_qrels_read(const char *path, csp_trec **out);
/* The same; still(context) is called after every line, and its failure ends the reading. */
CSP_CHECKED csp_status csp_qrels_read_while(const char *path, csp_status (*still)(void *context),
                                            void *context, csp_trec **out);
CSP_CHECKED csp_status csp_run_read(const char *path, csp_trec **out);
void csp_trec_free(csp_trec *trec);

/*
 * Keeps the queries that have a mark, in their order.
 *
 *   marks   in   (count of trec) not 0: it stays
 */
void csp_trec_keep(csp_trec *trec, const uint8_t *marks);

/* Query by id (hashed), NULL if absent. */
const csp_trec_query *csp_trec_find(const csp_trec *trec, const char *query_id);

/*
 * Writes TREC form, ranks from 1, scores with the 9 digits that bring a float back exactly. The
 * file appears under its name at the commit (file.h).
 */
typedef struct csp_run_writer csp_run_writer;
CSP_CHECKED csp_status csp_run_writer_create(const char *path, const char *tag,
                                             csp_run_writer **out);
/*
 * rows best first, scores finite (else CSP_ERR_ARGUMENT). Ids that are empty or hold white space
 * are CSP_ERR_DATA: no reader of runs could split them.
 */
CSP_CHECKED csp_status csp_run_writer_append(csp_run_writer *writer, const char *query_id,
                                             const csp_trec_row *rows, int64_t count);
/* Frees the writer, also on failure. */
CSP_CHECKED csp_status csp_run_writer_commit(csp_run_writer *writer);
void csp_run_writer_abandon(csp_run_writer *writer);

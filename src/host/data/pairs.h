/*
 * pairs.h - training examples: a query, its known positives, its negatives; and which of them each
 * optimizer step takes.
 *
 * Sources
 *     BEIR folder    corpus.jsonl, queries.jsonl, qrels/<split>.tsv, and negatives.<split>.tsv if
 *                    there is one: query id, then document ids, separated by white space, best
 *                    negative first
 *     files          the same, each named
 *     MS MARCO       collection.tsv as corpus, queries.tsv, and qrels, or id triples (query id,
 *                    positive id, negative id) as train, or both
 *     Tevatron       train is JSONL; passages inside: {"query_id", "query", "positive_passages":
 *                    [{"docid", "title", "text"}], "negative_passages": [...]} (no corpus needed),
 *                    or ids: {"query_id", "query_text", "positive_document_ids": [...],
 *                    "negative_document_ids": [...]} with a corpus
 *
 * Memory holds ids, offsets and the lists of ordinals, never texts (gzip sources excepted). A
 * document's key is its ordinal in the corpus, from 0. Passages inside training lines are numbered
 * in order of first appearance; the same docid is the same document.
 */
#pragma once

#include "data/join_report.h"
#include "data/text_row.h"
#include "io/digest.h"

typedef struct csp_pairs_source {
    const char *corpus;    /* documents, or a BEIR folder that gives what is NULL below; not
                              read where training lines hold the passages                       */
    const char *queries;   /* queries; not read where training lines hold them                  */
    const char *qrels;     /* judgements: more than 0 is a positive                             */
    const char *negatives; /* "query-id doc-id doc-id ..." lines                                */
    const char *train;     /* Tevatron JSONL or id triples in place of (triples: beside) qrels  */
    const char *split;     /* of a BEIR folder, NULL = "train"                                  */
    const char *separator; /* between title and text, NULL = one space                          */
    bool strict;           /* ids that do not join and empty texts are errors                   */
} csp_pairs_source;

typedef struct csp_pairs csp_pairs;

/*
 * Reads and joins the sources. What does not join is counted (csp_pairs_report) and warned about.
 *
 * Owner:  the caller calls csp_pairs_close.
 * Errors: CSP_ERR_FORMAT "path:line: ..." for a malformed line; CSP_ERR_DATA for duplicate ids, for
 *         anything that does not join where strict, and always if no example is left;
 *         CSP_ERR_ARGUMENT for a source that is missing; CSP_ERR_IO; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_pairs_open(const csp_pairs_source *source, csp_pairs **out);
void csp_pairs_close(csp_pairs *pairs);

const csp_join_report *csp_pairs_report(const csp_pairs *pairs);

/* Examples and documents. */
int64_t csp_pairs_count(const csp_pairs *pairs);
int64_t csp_pairs_documents(const csp_pairs *pairs);

/* What was read, each part by the digest of its content. */
typedef struct csp_pairs_digests {
    char documents[CSP_DIGEST_TEXT_BYTES]; /* "" where training lines hold the passages     */
    char queries[CSP_DIGEST_TEXT_BYTES];   /* of the training lines where these hold them   */
    char examples[CSP_DIGEST_TEXT_BYTES];  /* which query has which positives and negatives */
} csp_pairs_digests;

/* Texts were digested as they were read; the examples' lists are gone through. CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_pairs_digest(const csp_pairs *pairs, csp_pairs_digests *out);

/* The known positives of an example: ascending document keys, at least one. Owner: pairs. */
const int64_t *csp_pairs_positives(const csp_pairs *pairs, int64_t example, int64_t *count);

/* Its negatives in the source's order, none of them a known positive. Owner: pairs. */
const int32_t *csp_pairs_negatives(const csp_pairs *pairs, int64_t example, int64_t *count);

/* Whether a document is a known positive of an example: the mask of false negatives. */
bool csp_pairs_is_positive(const csp_pairs *pairs, int64_t example, int64_t document);

/* Ids, for messages and reports; valid as long as pairs is. */
const char *csp_pairs_query_id(const csp_pairs *pairs, int64_t example);
const char *csp_pairs_document_id(const csp_pairs *pairs, int64_t document);

/*
 * The text of a query or document; valid until the next read of either. One thread at a time.
 * Errors: CSP_ERR_DATA if a file changed since; CSP_ERR_IO, CSP_ERR_MEMORY, CSP_ERR_FORMAT.
 */
CSP_CHECKED csp_status csp_pairs_read_query(csp_pairs *pairs, int64_t example, csp_text_row *row);
CSP_CHECKED csp_status csp_pairs_read_document(csp_pairs *pairs, int64_t document,
                                               csp_text_row *row);

/*
 * About how long the text of a query or document is, in bytes, without reading it; the same in
 * every process. 0: not known.
 */
int64_t csp_pairs_query_bytes(const csp_pairs *pairs, int64_t example);
int64_t csp_pairs_document_bytes(const csp_pairs *pairs, int64_t document);

/* How batches are drawn. */
typedef struct csp_sampling {
    uint64_t seed;
    int64_t Q;     /* queries of a whole step, over all ranks             */
    int64_t G;     /* documents of a query: 1 positive, G - 1 negatives   */
    bool in_order; /* no shuffle: examples in the order they were read in */
} csp_sampling;

/* The examples and documents of a step, or of a rank's part of it. Start from { 0 }. */
typedef struct csp_draw_list {
    int64_t count;     /* queries in this part                                          */
    int64_t *example;  /* (count)                                                       */
    int64_t *document; /* (count, G)  keys; column 0 is the positive                    */
    int64_t room_example, room_document;
} csp_draw_list;

void csp_draw_list_clear(csp_draw_list *list);

/*
 * Some queries of a list with their documents, in any order.
 *
 *   G       in    documents of a query
 *   which   in    (count) of from's queries
 *   out     out   overwritten; not from
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_draw_list_take(const csp_draw_list *from, int64_t G,
                                          const int64_t *which, int64_t count, csp_draw_list *out);

/*
 * Draws queries first .. first + count - 1 of the Q of an optimizer step.
 *
 *     p = step * Q + i;  epoch = p / n;  example = permutation_epoch(p mod n)
 *
 * so every epoch visits each of the n examples once and the last batch of an epoch goes on into the
 * next. The positive is uniform over the known ones. Negatives: with k = G - 1 and a list of m >=
 * k, entries (epoch * k + j) mod m, j < k, of the list in an order shuffled once per example: a
 * window that moves on with each epoch until all were seen. A list shorter than k is taken whole
 * and filled with random documents that are no known positives. A group never holds a document
 * twice while the corpus has enough others; then it does.
 *
 * A pure function of pairs, sampling, step, first and count: nothing depends on earlier calls.
 *
 * Errors: CSP_ERR_ARGUMENT (sizes below 1, step * Q beyond 63 bits); CSP_ERR_DATA if every document
 *         is a known positive of a query that needs a negative; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_pairs_draw(const csp_pairs *pairs, const csp_sampling *sampling,
                                      int64_t step, int64_t first, int64_t count,
                                      csp_draw_list *out);

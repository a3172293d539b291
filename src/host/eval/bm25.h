/*
 * bm25.h - BM25 over English text, the baseline that a learned model is held against.
 *
 *     score(q,d) = sum over words t of q of
 *                      n_t(q) idf_t tf_t(d) / (tf_t(d) + k1 (1 - b + b |d| / avg))
 *     idf_t      = ln(1 + (N - df_t + 0.5) / (df_t + 0.5))
 *
 * which is Lucene's, with exact document lengths (the "lucene" method of bm25s). Words are runs of
 * at least two letters, digits and underscores of any script, in lower case; Lucene's 33 English
 * stop words are left out, the rest is stemmed by Snowball's English stemmer. A document's length
 * |d| counts its words without stop words.
 *
 * Source: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009;
 *         Kamphuis et al., "Which BM25 do you mean?", ECIR 2020 (the variants).
 */
#pragma once

#include "eval/search.h"

typedef struct csp_bm25_options {
    double k1;   /* at least 0 */
    double b;    /* 0..1       */
    int threads; /* 0 = all that OpenMP offers; the result does not depend on it */
} csp_bm25_options;

/* k1 0.9, b 0.4: what the field's tables use. */
csp_bm25_options csp_bm25_defaults(void);

/*
 * The next document; *id NULL at the end. Strings stay valid until the next call. text need not be
 * valid UTF-8: a bad byte separates words.
 */
typedef csp_status (*csp_bm25_next)(void *context, const char **id, const char **text,
                                    int64_t *bytes);

typedef struct csp_bm25 csp_bm25;

/*
 * Reads a collection once and indexes it.
 *
 * Owner:  csp_bm25_destroy.
 * Errors: CSP_ERR_ARGUMENT (k1, b), CSP_ERR_DATA (an id twice), CSP_ERR_MEMORY, or next's own.
 */
CSP_CHECKED csp_status csp_bm25_create(csp_bm25_next next, void *context,
                                       const csp_bm25_options *options, csp_bm25 **out);
void csp_bm25_destroy(csp_bm25 *bm25);

/* The index of BM25 weights: for ids (csp_ranking_from_hits) and sizes. Owner: bm25. */
const csp_index *csp_bm25_index(const csp_bm25 *bm25);

/*
 * Searches for texts. A word that the collection does not have is ignored.
 *
 *   query_id    in   [queries]; used by options->remove_query only
 *   text        in   [queries] NUL-terminated
 *   mean_terms  out  known distinct words per query; may be NULL
 *
 * Owner and errors: as csp_index_search.
 */
CSP_CHECKED csp_status csp_bm25_search(const csp_bm25 *bm25, char *const *query_id,
                                       char *const *text, int64_t queries,
                                       const csp_search_options *options, csp_hits **out,
                                       double *mean_terms);

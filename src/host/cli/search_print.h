/*
 * search_print.h - the answer to a text query, for people: its strongest terms and the hits.
 *
 *     query  a person who studies the stars
 *     terms  astronomer 2.31  star* 2.10  ...            (* = a token of the query itself)
 *        1   18.2341  n09818022  astronomer, uranologist; ...
 */
#pragma once

#include "data/tokenizer.h"
#include "eval/search.h"

typedef struct csp_answer {
    const char *text;               /* the query                                    */
    const csp_vectors *vectors;     /* of all queries                               */
    int64_t row;                    /* of this one in vectors                       */
    const csp_trec_query *hits;     /* its ranking                                  */
    const csp_tokenizer *tokenizer; /* names the terms                              */
    int64_t terms;                  /* how many of the strongest are printed        */
} csp_answer;

/* Texts of documents by id, for some ids. */
typedef struct csp_snippets csp_snippets;

/*
 * Reads the texts of the documents that the ranking holds: one pass over the collection.
 *
 *   path  in   as csp_texts_open takes it
 *
 * Owner:  csp_snippets_free. Errors: those of csp_texts_open and csp_texts_next; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_snippets_read(const char *path, const csp_ranking *ranking,
                                         csp_snippets **out);
void csp_snippets_free(csp_snippets *snippets);

/* Prints one answer on stdout. snippets may be NULL. */
CSP_CHECKED csp_status csp_answer_print(const csp_answer *answer, const csp_snippets *snippets);

/*
 * join_report.h - what did not fit together when queries, documents, judgements and negatives were
 * joined by id: how often, and the first few by name.
 */
#pragma once

#include <stddef.h>

#include "core/status.h"

#define CSP_MISSING_NAMED 3

/* Ids that were named somewhere and are nowhere. */
typedef struct csp_missing {
    int64_t count;                     /* times such an id was named                */
    int64_t named;                     /* of first                                  */
    char first[CSP_MISSING_NAMED][48]; /* the first different ones, cut to 47 bytes */
} csp_missing;

void csp_missing_add(csp_missing *missing, const char *id);

typedef struct csp_join_report {
    int64_t examples;  /* queries to train on: with at least one positive that joined */
    int64_t documents; /* that negatives are drawn from                               */
    int64_t positives; /* query-document pairs                                        */
    int64_t negatives;
    csp_missing unknown_queries;   /* named by judgements, triples, negatives; not in the queries */
    csp_missing unknown_positives; /* named as positive, not in the corpus                        */
    csp_missing unknown_negatives;
    csp_missing without_positive; /* queries left out: no positive of theirs joined  */
    csp_missing differing;        /* passages that came again with another text      */
    int64_t negatives_positive;   /* negatives dropped: known positives of the query */
    int64_t negatives_repeated;   /* negatives dropped: listed twice                 */
    int64_t not_relevant;         /* judgements of 0 or less, which make no positive */
    int64_t empty_queries;        /* texts of files of texts that are empty          */
    int64_t empty_documents;
} csp_join_report;

/* Whether everything joined: none of the five kinds of missing occurred. */
bool csp_join_is_clean(const csp_join_report *report);

/*
 * The report in words on one line, "queries to train on: 809, documents: 5183, positives: 919,
 * negatives: 13000; positives not in the corpus: 2 (p9, p12)", cut to size bytes.
 */
void csp_join_say(const csp_join_report *report, char *text, size_t size);

/*
 * dev_eval_internal.h - what an evaluation during training keeps, for dev_eval.c (its texts) and
 * dev_eval_run.c (one evaluation).
 */
#pragma once

#include "data/text_store.h"
#include "io/trec.h"
#include "train/dev_eval.h"

/* A query that waits to be encoded at every evaluation. */
typedef struct csp_held_text {
    char *id;
    char *text;
    int64_t bytes;
} csp_held_text;

typedef struct csp_held_texts {
    csp_held_text *list;
    int64_t count, room;
} csp_held_texts;

struct csp_dev {
    csp_image *image; /* what the ranks of this machine share of the rest; NULL: nothing */
    csp_trec *qrels;  /* of the queries that are evaluated only; of the rank that reads  */
    csp_held_texts queries;
    const csp_text_store *corpus; /* whose ids and places store has; NULL: its own */
    csp_text_store *store;        /* the corpus: ids and places, not texts         */
    int64_t *document;            /* [documents] the pool: ordinals, ascending */
    int64_t documents;
    bool is_given; /* document is an image's */
    int64_t depth;
    int64_t top_k_terms; /* -1: as the contract says */
    int threads;
};

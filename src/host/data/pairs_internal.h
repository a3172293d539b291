/* pairs_internal.h - private to pairs*.c: how the parts of a joined training set lie in memory. */
#pragma once

#include "data/pairs.h"
#include "data/row_file.h"
#include "data/text_store.h"

/* Query ordinal and document key, in the order they were read. */
typedef struct pair_edge {
    int32_t query, document;
} pair_edge;

typedef struct pair_edges {
    pair_edge *items;
    int64_t count, room;
} pair_edges;

/* Where a passage inside the training lines stands. */
typedef struct passage_place {
    int64_t row;
    int32_t index; /* in its list                          */
    bool negative; /* negative_passages, else the positive */
} passage_place;

/* Training lines that hold their queries, and perhaps their passages. */
typedef struct train_lines {
    csp_row_file *file;
    csp_id_table *query_ids;
    csp_row_parser *query_parser; /* its object is that of line held */
    csp_row_parser *passage_parser;
    int64_t held; /* -1 = none */
    bool embedded;
    csp_id_table *passage_ids; /* the three below: only where embedded */
    passage_place *places;     /* by document key                      */
    uint64_t *text_hashes;     /* by document key; freed after reading */
    int64_t place_room;
    bool is_given; /* places are an image's */
} train_lines;

struct csp_pairs {
    csp_text_store *documents; /* NULL where embedded             */
    csp_text_store *queries;   /* NULL where training lines are it */
    train_lines *lines;        /* NULL without Tevatron JSONL     */

    int64_t count;
    int32_t *query;          /* by example: its ordinal among the queries */
    int64_t *positive_start; /* by example, count + 1                     */
    int64_t *positive;       /* ascending in each example                 */
    int64_t *negative_start;
    int32_t *negative;
    csp_join_report report;
    bool is_given; /* the five lists are an image's */
};

CSP_CHECKED csp_status pair_edges_add(pair_edges *edges, int64_t query, int64_t document);

/*
 * Each reads one source to its end. named has a byte for each query, set to 1 where a source names
 * a positive for it; only_named passes over judgements of queries not marked before. For image
 * ranks wait, unless it is NULL (csp_image_waits).
 */
CSP_CHECKED csp_status pairs_read_qrels(csp_pairs *pairs, const char *path, csp_image *image,
                                        bool only_named, uint8_t *named, pair_edges *positives);
CSP_CHECKED csp_status pairs_read_negatives(csp_pairs *pairs, const char *path, csp_image *image,
                                            pair_edges *negatives);
CSP_CHECKED csp_status pairs_read_triples(csp_pairs *pairs, const char *path, csp_image *image,
                                          uint8_t *named, pair_edges *positives,
                                          pair_edges *negatives);

/* Reads Tevatron JSONL into pairs->lines and edges. The corpus is opened when ids ask for it. */
CSP_CHECKED csp_status pairs_read_lines(csp_pairs *pairs, const csp_pairs_source *source,
                                        pair_edges *positives, pair_edges *negatives);
void train_lines_destroy(train_lines *lines);

/* As csp_pairs_share. */
CSP_CHECKED csp_status train_lines_share(csp_image *image, const char *separator,
                                         train_lines **lines);
CSP_CHECKED csp_status train_lines_read_query(train_lines *lines, int64_t query, csp_text_row *row);
CSP_CHECKED csp_status train_lines_read_passage(train_lines *lines, int64_t document,
                                                csp_text_row *row);

/*
 * Groups the edges by query: fills count, query, positive*, negative* and the rest of the report.
 * Only queries with a mark in named and at least one positive become examples.
 */
CSP_CHECKED csp_status pairs_join(csp_pairs *pairs, const uint8_t *named,
                                  const pair_edges *positives, const pair_edges *negatives);

/* How the texts of a side are read. */
csp_texts_options pairs_texts(const csp_pairs_source *source, csp_side side);

int64_t pairs_query_ordinals(const csp_pairs *pairs);
int64_t pairs_find_query(const csp_pairs *pairs, const char *id);

/* pairs_read.c - judgements, lists of negatives and id triples, joined by id as they are read. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/pairs_internal.h"
#include "io/lines.h"
#include "io/trec.h"

csp_status pair_edges_add(pair_edges *edges, int64_t query, int64_t document)
{
    if (edges->count == edges->room) {
        const int64_t room = edges->room * 3 / 2 + 256;

        CSP_TRY(csp_realloc("pairs", room, sizeof(*edges->items), &edges->items));
        edges->room = room;
    }
    /* Both are ordinals of id tables, which hold at most 2^31 - 1 ids. */
    edges->items[edges->count++] = (pair_edge) { (int32_t)query, (int32_t)document };
    return CSP_OK;
}

static csp_status still_there(void *image)
{
    return csp_image_waits(image);
}

csp_status pairs_read_qrels(csp_pairs *pairs, const char *path, csp_image *image, bool only_named,
                            uint8_t *named, pair_edges *positives)
{
    csp_status status;
    csp_trec *qrels = NULL;

    CSP_TRY(csp_qrels_read_while(path, still_there, image, &qrels));
    for (int64_t q = 0; q < qrels->count; q++) {
        const csp_trec_query *judged = &qrels->queries[q];
        const int64_t query = pairs_find_query(pairs, judged->query_id);

        if (query < 0) {
            csp_missing_add(&pairs->report.unknown_queries, judged->query_id);
        }
        if (query < 0 || (only_named && named[query] == 0)) {
            continue;
        }
        for (int64_t i = 0; i < judged->count; i++) {
            const char *id = judged->rows[i].doc_id;
            const int64_t document = csp_text_store_find(pairs->documents, id);

            if (!(judged->rows[i].value > 0.0)) {
                pairs->report.not_relevant++;
                continue;
            }
            named[query] = 1;
            if (document < 0) {
                csp_missing_add(&pairs->report.unknown_positives, id);
            } else {
                CSP_TRY_GOTO(pair_edges_add(positives, query, document));
            }
        }
    }
    status = CSP_OK;

fail:
    csp_trec_free(qrels);
    return status;
}

/*
 * The next run of bytes without white space, from *at on; "" at the end of the line. Cuts the line,
 * which a NUL ends, with another NUL.
 */
static char *next_field(char **at)
{
    char *begin = *at + strspn(*at, " \t\r\v\f"), *end = begin + strcspn(begin, " \t\r\v\f");

    *at = *end != '\0' ? end + 1 : end;
    *end = '\0';
    return begin;
}

/* What id files share: lines of valid UTF-8 without NUL. *line is NULL at the end. */
static csp_status next_line(csp_lines *lines, char **line)
{
    const char *path = csp_lines_path(lines);
    int64_t bytes, bad;

    CSP_TRY(csp_lines_next(lines, line, &bytes));
    if (*line == NULL) {
        return CSP_OK;
    }
    if (!csp_utf8_is_valid(*line, bytes, &bad)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: invalid UTF-8 at column %lld", path,
                        (long long)csp_lines_number(lines), (long long)bad + 1);
    }
    if (memchr(*line, '\0', (size_t)bytes) != NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: a NUL character", path,
                        (long long)csp_lines_number(lines));
    }
    return CSP_OK;
}

static bool is_header(const csp_lines *lines, const char *field)
{
    return csp_lines_number(lines) == 1 &&
           (strcmp(field, "query-id") == 0 || strcmp(field, "query_id") == 0 ||
            strcmp(field, "qid") == 0);
}

/* One line of negatives. once has a byte for each query: a second line for one is an error. */
static csp_status read_negative_line(csp_pairs *pairs, const csp_lines *lines, char *line,
                                     uint8_t *once, pair_edges *negatives)
{
    const char *id = next_field(&line);
    int64_t query;

    if (id[0] == '\0' || is_header(lines, id)) {
        return CSP_OK;
    }
    query = pairs_find_query(pairs, id);
    if (query < 0) {
        csp_missing_add(&pairs->report.unknown_queries, id);
        return CSP_OK;
    }
    if (once[query] != 0) {
        return CSP_FAIL(CSP_ERR_DATA, "%s:%lld: a second line for query \"%.200s\"",
                        csp_lines_path(lines), (long long)csp_lines_number(lines), id);
    }
    once[query] = 1;
    for (id = next_field(&line); id[0] != '\0'; id = next_field(&line)) {
        const int64_t document = csp_text_store_find(pairs->documents, id);

        if (document < 0) {
            csp_missing_add(&pairs->report.unknown_negatives, id);
        } else {
            CSP_TRY(pair_edges_add(negatives, query, document));
        }
    }
    return CSP_OK;
}

csp_status pairs_read_negatives(csp_pairs *pairs, const char *path, csp_image *image,
                                pair_edges *negatives)
{
    csp_status status;
    csp_lines *lines = NULL;
    uint8_t *once = NULL;
    char *line;

    CSP_TRY(csp_alloc_zero(path, pairs_query_ordinals(pairs), 1, &once));
    CSP_TRY_GOTO(csp_lines_open(path, &lines));
    for (;;) {
        CSP_TRY_GOTO(next_line(lines, &line));
        if (line == NULL) {
            break;
        }
        CSP_TRY_GOTO(read_negative_line(pairs, lines, line, once, negatives));
        CSP_TRY_GOTO(csp_image_waits(image));
    }
    status = CSP_OK;

fail:
    csp_lines_close(lines);
    free(once);
    return status;
}

static csp_status read_triple(csp_pairs *pairs, const csp_lines *lines, char *line, uint8_t *named,
                              pair_edges *positives, pair_edges *negatives)
{
    const char *field[4];
    int64_t query, document;

    for (int i = 0; i < 4; i++) {
        field[i] = next_field(&line);
    }
    if (field[0][0] == '\0') {
        return CSP_OK;
    }
    if (field[2][0] == '\0' || field[3][0] != '\0') {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s:%lld: not three columns: query id, positive id, negative id",
                        csp_lines_path(lines), (long long)csp_lines_number(lines));
    }
    query = pairs_find_query(pairs, field[0]);
    if (query < 0) {
        csp_missing_add(&pairs->report.unknown_queries, field[0]);
        return CSP_OK;
    }
    named[query] = 1;
    document = csp_text_store_find(pairs->documents, field[1]);
    if (document < 0) {
        csp_missing_add(&pairs->report.unknown_positives, field[1]);
    } else {
        CSP_TRY(pair_edges_add(positives, query, document));
    }
    document = csp_text_store_find(pairs->documents, field[2]);
    if (document < 0) {
        csp_missing_add(&pairs->report.unknown_negatives, field[2]);
    } else {
        CSP_TRY(pair_edges_add(negatives, query, document));
    }
    return CSP_OK;
}

csp_status pairs_read_triples(csp_pairs *pairs, const char *path, csp_image *image, uint8_t *named,
                              pair_edges *positives, pair_edges *negatives)
{
    csp_status status;
    csp_lines *lines = NULL;
    char *line;

    CSP_TRY(csp_lines_open(path, &lines));
    for (;;) {
        CSP_TRY_GOTO(next_line(lines, &line));
        if (line == NULL) {
            break;
        }
        CSP_TRY_GOTO(read_triple(pairs, lines, line, named, positives, negatives));
        CSP_TRY_GOTO(csp_image_waits(image));
    }
    status = CSP_OK;

fail:
    csp_lines_close(lines);
    return status;
}

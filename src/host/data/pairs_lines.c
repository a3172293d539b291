/*
 * pairs_lines.c - Tevatron training lines: a query with its passages, or with the ids of its
 * documents. Passages are found again by line and place in the line.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/memory.h"
#include "data/pairs_internal.h"
#include "io/lines.h"

void train_lines_destroy(train_lines *lines)
{
    if (lines == NULL) {
        return;
    }
    csp_row_file_close(lines->file);
    csp_id_table_destroy(lines->query_ids);
    csp_id_table_destroy(lines->passage_ids);
    csp_row_parser_destroy(lines->query_parser);
    csp_row_parser_destroy(lines->passage_parser);
    if (!lines->is_given) {
        free(lines->places);
    }
    free(lines->text_hashes);
    free(lines);
}

/* What reads lines, and nothing that is read. */
static csp_status create(const char *separator, train_lines **out)
{
    csp_status status;
    train_lines *lines = NULL;

    CSP_TRY(csp_alloc_zero("pairs", 1, sizeof(*lines), &lines));
    lines->held = -1;
    CSP_TRY_GOTO(csp_row_parser_create(CSP_TEXT_JSONL, CSP_SIDE_QUERY, separator, true,
                                       &lines->query_parser));
    CSP_TRY_GOTO(csp_row_parser_create(CSP_TEXT_JSONL, CSP_SIDE_PASSAGE, separator, true,
                                       &lines->passage_parser));
    *out = lines;
    return CSP_OK;

fail:
    train_lines_destroy(lines);
    return status;
}

/* Where the reader is, for messages and edges. */
typedef struct line_reader {
    csp_pairs *pairs;
    const csp_pairs_source *source;
    const char *path;
    int64_t number; /* of the line */
    int64_t query;  /* ordinal of its query = its row */
} line_reader;

/* Remembers a passage that was not seen before; counts one whose text is another one. */
static csp_status place_passage(line_reader *r, const csp_text_row *row, int32_t index,
                                bool negative, int64_t *document)
{
    train_lines *lines = r->pairs->lines;
    const uint64_t hash = csp_hash_bytes(row->text, row->bytes);
    bool is_new = false;

    CSP_TRY(
        csp_id_table_add(lines->passage_ids, row->id, (int64_t)strlen(row->id), document, &is_new));
    if (!is_new) {
        if (lines->text_hashes[*document] != hash) {
            csp_missing_add(&r->pairs->report.differing, row->id);
        }
        return CSP_OK;
    }
    if (*document >= lines->place_room) {
        const int64_t room = *document * 3 / 2 + 64;

        CSP_TRY(csp_realloc(r->path, room, sizeof(*lines->places), &lines->places));
        CSP_TRY(csp_realloc(r->path, room, sizeof(*lines->text_hashes), &lines->text_hashes));
        lines->place_room = room;
    }
    lines->places[*document] = (passage_place) { r->query, index, negative };
    lines->text_hashes[*document] = hash;
    return CSP_OK;
}

static csp_status read_passages(line_reader *r, const json_t *list, const char *key, bool negative,
                                pair_edges *edges)
{
    const size_t count = json_array_size(list);

    if (!json_is_array(list)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %s is not a list", r->path, (long long)r->number,
                        key);
    }
    for (size_t i = 0; i < count; i++) {
        csp_text_row row;
        int64_t document;

        CSP_TRY(csp_row_of_object(r->pairs->lines->passage_parser, json_array_get(list, i), r->path,
                                  r->number, &row));
        if (r->source->strict && csp_text_is_empty(row.text, row.bytes)) {
            return CSP_FAIL(CSP_ERR_DATA,
                            "%s:%lld: passage \"%.200s\" is empty, which data.strict forbids",
                            r->path, (long long)r->number, row.id);
        }
        CSP_TRY(place_passage(r, &row, (int32_t)i, negative, &document));
        CSP_TRY(pair_edges_add(edges, r->query, document));
    }
    return CSP_OK;
}

static csp_status read_ids(line_reader *r, const json_t *list, const char *key,
                           csp_missing *unknown, pair_edges *edges)
{
    const size_t count = json_array_size(list);

    if (!json_is_array(list)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %s is not a list", r->path, (long long)r->number,
                        key);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        char number[32];
        const char *id = json_string_value(item);
        int64_t document;

        if (json_is_integer(item)) {
            (void)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
                           json_integer_value(item));
            id = number;
        }
        if (id == NULL) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %s holds something that is no id", r->path,
                            (long long)r->number, key);
        }
        document = csp_text_store_find(r->pairs->documents, id);
        if (document < 0) {
            csp_missing_add(unknown, id);
        } else {
            CSP_TRY(pair_edges_add(edges, r->query, document));
        }
    }
    return CSP_OK;
}

/* The first line decides which of the two schemas the file has. */
static csp_status choose_schema(line_reader *r, const json_t *object)
{
    const csp_texts_options options = pairs_texts(r->source, CSP_SIDE_PASSAGE);

    r->pairs->lines->embedded = json_object_get(object, "positive_passages") != NULL;
    if (r->pairs->lines->embedded) {
        return CSP_OK;
    }
    if (json_object_get(object, "positive_document_ids") == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s:%lld: neither positive_passages nor positive_document_ids", r->path,
                        (long long)r->number);
    }
    if (r->source->corpus == NULL) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: names documents by id, but no corpus is given",
                        r->path);
    }
    return csp_text_store_open(r->source->corpus, &options, &r->pairs->documents);
}

static csp_status read_line(line_reader *r, const char *line, int64_t bytes, pair_edges *positives,
                            pair_edges *negatives)
{
    train_lines *lines = r->pairs->lines;
    const char *keys[2];
    const json_t *object, *list[2];
    csp_text_row row;
    bool is_new = false;
    int64_t ordinal;

    CSP_TRY(csp_row_parse(lines->query_parser, line, bytes, r->path, r->number, &row));
    CSP_TRY(csp_id_table_add(lines->query_ids, row.id, (int64_t)strlen(row.id), &ordinal, &is_new));
    if (!is_new) {
        return CSP_FAIL(CSP_ERR_DATA, "%s:%lld: duplicate query id \"%.200s\"", r->path,
                        (long long)r->number, row.id);
    }
    if (r->source->strict && csp_text_is_empty(row.text, row.bytes)) {
        return CSP_FAIL(CSP_ERR_DATA, "%s:%lld: empty query, which data.strict forbids", r->path,
                        (long long)r->number);
    }
    object = csp_row_object(lines->query_parser);
    if (r->query == 0) {
        CSP_TRY(choose_schema(r, object));
    }
    keys[0] = lines->embedded ? "positive_passages" : "positive_document_ids";
    keys[1] = lines->embedded ? "negative_passages" : "negative_document_ids";
    for (int i = 0; i < 2; i++) {
        list[i] = json_object_get(object, keys[i]);
    }
    if (list[0] == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: no %s, which the first line has", r->path,
                        (long long)r->number, keys[0]);
    }
    for (int i = 0; i < 2; i++) {
        pair_edges *edges = i == 0 ? positives : negatives;
        csp_missing *unknown =
            i == 0 ? &r->pairs->report.unknown_positives : &r->pairs->report.unknown_negatives;

        if (list[i] == NULL || (i == 1 && json_is_null(list[i]))) {
            continue; /* negatives are optional */
        }
        CSP_TRY(lines->embedded ? read_passages(r, list[i], keys[i], i == 1, edges)
                                : read_ids(r, list[i], keys[i], unknown, edges));
    }
    return CSP_OK;
}

csp_status pairs_read_lines(csp_pairs *pairs, const csp_pairs_source *source, pair_edges *positives,
                            pair_edges *negatives)
{
    line_reader r = { .pairs = pairs, .source = source, .path = source->train };
    csp_status status;
    csp_lines *stream = NULL;

    CSP_TRY(create(source->separator, &pairs->lines));
    CSP_TRY(csp_row_file_open(source->train, &pairs->lines->file));
    CSP_TRY(csp_id_table_create(&pairs->lines->query_ids));
    CSP_TRY(csp_id_table_create(&pairs->lines->passage_ids));
    CSP_TRY_GOTO(csp_lines_open(source->train, &stream));
    for (;;) {
        const int64_t offset = csp_lines_tell(stream);
        char *line;
        int64_t bytes;

        CSP_TRY_GOTO(csp_lines_next(stream, &line, &bytes));
        if (line == NULL) {
            break;
        }
        if (csp_text_is_empty(line, bytes)) {
            continue;
        }
        r.number = csp_lines_number(stream);
        CSP_TRY_GOTO(read_line(&r, line, bytes, positives, negatives));
        CSP_TRY_GOTO(csp_row_file_add(pairs->lines->file, offset, line, bytes));
        CSP_TRY_GOTO(csp_image_waits(source->image));
        r.query++;
    }
    csp_lines_close(stream);
    free(pairs->lines->text_hashes);
    pairs->lines->text_hashes = NULL;
    return CSP_OK;

fail:
    csp_lines_close(stream);
    return status;
}

csp_status train_lines_share(csp_image *image, const char *separator, train_lines **out)
{
    train_lines *lines = *out;
    int64_t places = 0;

    if (lines == NULL) {
        CSP_TRY(create(separator, &lines));
        *out = lines;
    }
    CSP_TRY(csp_row_file_share(image, &lines->file));
    CSP_TRY(csp_id_table_share(image, &lines->query_ids));
    if (!csp_image_gives(image)) {
        places = lines->embedded ? csp_id_table_count(lines->passage_ids) : 0;
    }
    CSP_TRY(csp_id_table_share(image, &lines->passage_ids));
    CSP_TRY(csp_image_value(image, &lines->embedded, sizeof(lines->embedded)));
    lines->is_given = csp_image_gives(image);
    return csp_image_array(image, &places, sizeof(*lines->places), &lines->places);
}

static csp_status has_changed(const train_lines *lines, int64_t row)
{
    return CSP_FAIL(CSP_ERR_DATA,
                    "%s: training line %lld is no longer where it was: the file has changed since "
                    "it was opened",
                    csp_row_file_path(lines->file, 0), (long long)row + 1);
}

/* Parses line row, unless it is the one at hand. */
static csp_status hold(train_lines *lines, int64_t row, csp_text_row *query)
{
    const char *line;
    csp_status status;
    int64_t bytes;

    if (lines->held == row) {
        return csp_row_of_object(lines->query_parser, csp_row_object(lines->query_parser),
                                 csp_row_file_path(lines->file, 0), row + 1, query);
    }
    lines->held = -1;
    CSP_TRY(csp_row_file_read(lines->file, row, &line, &bytes));
    status = csp_row_parse(lines->query_parser, line, bytes, csp_row_file_path(lines->file, 0),
                           row + 1, query);
    if (status == CSP_ERR_MEMORY) {
        return status;
    }
    if (status != CSP_OK || strcmp(query->id, csp_id_table_id(lines->query_ids, row)) != 0) {
        return has_changed(lines, row);
    }
    lines->held = row;
    return CSP_OK;
}

csp_status train_lines_read_query(train_lines *lines, int64_t query, csp_text_row *row)
{
    return hold(lines, query, row);
}

csp_status train_lines_read_passage(train_lines *lines, int64_t document, csp_text_row *row)
{
    const passage_place *place = &lines->places[document];
    const json_t *list;
    csp_status status;
    csp_text_row query, passage;

    CSP_TRY(hold(lines, place->row, &query));
    list = json_object_get(csp_row_object(lines->query_parser),
                           place->negative ? "negative_passages" : "positive_passages");
    status = csp_row_of_object(lines->passage_parser, json_array_get(list, (size_t)place->index),
                               csp_row_file_path(lines->file, 0), place->row + 1, &passage);
    if (status == CSP_ERR_MEMORY) {
        return status;
    }
    if (status != CSP_OK ||
        strcmp(passage.id, csp_id_table_id(lines->passage_ids, document)) != 0) {
        return has_changed(lines, place->row);
    }
    *row = passage;
    return CSP_OK;
}

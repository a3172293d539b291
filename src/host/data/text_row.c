/* text_row.c - lines of JSONL (by jansson), TSV and plain text to id and text. */
#include "data/text_row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/memory.h"
#include "io/lines.h"

struct csp_row_parser {
    csp_text_format format;
    csp_side side;
    bool want_ids;
    char *separator;
    json_t *object; /* of the last line: row points into it     */
    char *joined;   /* title, separator, text; or the id of TSV */
    int64_t room;
    char number[32]; /* an id that is a number */
};

csp_status csp_row_parser_create(csp_text_format format, csp_side side, const char *separator,
                                 bool want_ids, csp_row_parser **out)
{
    csp_status status;
    csp_row_parser *parser = NULL;

    CSP_TRY(csp_alloc_zero("row parser", 1, sizeof(*parser), &parser));
    parser->format = format;
    parser->side = side;
    parser->want_ids = want_ids;
    CSP_TRY_GOTO(csp_strdup("row parser", separator != NULL ? separator : " ", &parser->separator));
    *out = parser;
    return CSP_OK;

fail:
    csp_row_parser_destroy(parser);
    return status;
}

void csp_row_parser_destroy(csp_row_parser *parser)
{
    if (parser == NULL) {
        return;
    }
    json_decref(parser->object);
    free(parser->separator);
    free(parser->joined);
    free(parser);
}

static csp_status reserve(csp_row_parser *parser, int64_t bytes)
{
    if (bytes > parser->room) {
        CSP_TRY(csp_realloc("row parser", bytes + bytes / 2, 1, &parser->joined));
        parser->room = bytes + bytes / 2;
    }
    return CSP_OK;
}

/* The first of names (NULL ends them) that the object has, or NULL; *name says which. */
static const json_t *first_of(const json_t *object, const char *const *names, const char **name)
{
    for (; *names != NULL; names++) {
        const json_t *value = json_object_get(object, *names);

        if (value != NULL) {
            *name = *names;
            return value;
        }
    }
    return NULL;
}

static csp_status json_id(csp_row_parser *parser, const json_t *object, const char *path,
                          int64_t line, const char **id)
{
    static const char *const document_keys[] = { "_id", "id", "docid", NULL };
    static const char *const query_keys[] = { "_id", "id", "query_id", "qid", "docid", NULL };
    const bool query = parser->side == CSP_SIDE_QUERY;
    const char *name = NULL;
    const json_t *value = first_of(object, query ? query_keys : document_keys, &name);

    if (value == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: no id (%s)", path, (long long)line,
                        query ? "_id, id, query_id or qid" : "_id, id or docid");
    }
    if (json_is_integer(value)) {
        (void)snprintf(parser->number, sizeof(parser->number), "%" JSON_INTEGER_FORMAT,
                       json_integer_value(value));
        *id = parser->number;
        return CSP_OK;
    }
    if (!json_is_string(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %s is neither a text nor an integer", path,
                        (long long)line, name);
    }
    if (json_string_length(value) == 0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %s is empty", path, (long long)line, name);
    }
    if (memchr(json_string_value(value), '\0', json_string_length(value)) != NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %s holds a NUL character", path, (long long)line,
                        name);
    }
    *id = json_string_value(value);
    return CSP_OK;
}

/* title + separator + text; either alone where the other is empty. */
static csp_status join(csp_row_parser *parser, const json_t *title, const json_t *text,
                       csp_text_row *row)
{
    const int64_t title_bytes = (int64_t)json_string_length(title); /* 0 if it is no string */
    const int64_t text_bytes = (int64_t)json_string_length(text);
    const int64_t gap = (int64_t)strlen(parser->separator);

    if (title_bytes == 0 || text_bytes == 0) {
        const json_t *only = text_bytes == 0 && title_bytes > 0 ? title : text;

        row->text = json_string_value(only);
        row->bytes = (int64_t)json_string_length(only);
        return CSP_OK;
    }
    CSP_TRY(reserve(parser, title_bytes + gap + text_bytes));
    memcpy(parser->joined, json_string_value(title), (size_t)title_bytes);
    memcpy(parser->joined + title_bytes, parser->separator, (size_t)gap);
    memcpy(parser->joined + title_bytes + gap, json_string_value(text), (size_t)text_bytes);
    row->text = parser->joined;
    row->bytes = title_bytes + gap + text_bytes;
    return CSP_OK;
}

csp_status csp_row_of_object(csp_row_parser *parser, const json_t *object, const char *path,
                             int64_t number, csp_text_row *row)
{
    static const char *const document_keys[] = { "text", "contents", NULL };
    static const char *const query_keys[] = { "query", "query_text", "text", "contents", NULL };
    const bool query = parser->side == CSP_SIDE_QUERY;
    const char *name = NULL;
    const json_t *text, *title;
    csp_text_row r = { NULL, NULL, 0 };

    if (!json_is_object(object)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: not a JSON object", path, (long long)number);
    }
    if (parser->want_ids) {
        CSP_TRY(json_id(parser, object, path, number, &r.id));
    }
    text = first_of(object, query ? query_keys : document_keys, &name);
    if (text == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: no text (%s)", path, (long long)number,
                        query ? "query, query_text, text or contents" : "text or contents");
    }
    if (!json_is_string(text)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %s is not a text", path, (long long)number, name);
    }
    title = json_object_get(object, "title");
    if (title != NULL && !json_is_string(title) && !json_is_null(title)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: title is not a text", path, (long long)number);
    }
    CSP_TRY(join(parser, title, text, &r));
    *row = r;
    return CSP_OK;
}

const json_t *csp_row_object(const csp_row_parser *parser)
{
    return parser->object;
}

static csp_status parse_json(csp_row_parser *parser, const char *line, int64_t bytes,
                             const char *path, int64_t number, csp_text_row *row)
{
    json_error_t error;

    json_decref(parser->object);
    parser->object =
        json_loadb(line, (size_t)bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (parser->object == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: not JSON: %s (column %d)", path,
                        (long long)number, error.text, error.column);
    }
    return csp_row_of_object(parser, parser->object, path, number, row);
}

static csp_status parse_tsv(csp_row_parser *parser, const char *line, int64_t bytes,
                            const char *path, int64_t number, csp_text_row *row)
{
    const char *tab = bytes > 0 ? memchr(line, '\t', (size_t)bytes) : NULL;
    const int64_t id_bytes = tab != NULL ? tab - line : 0;

    if (tab == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: no tab: a line must be id <tab> text", path,
                        (long long)number);
    }
    if (id_bytes == 0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: the id before the tab is empty", path,
                        (long long)number);
    }
    if (memchr(line, '\0', (size_t)id_bytes) != NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: the id holds a NUL character", path,
                        (long long)number);
    }
    if (parser->want_ids) {
        CSP_TRY(reserve(parser, id_bytes + 1));
        memcpy(parser->joined, line, (size_t)id_bytes);
        parser->joined[id_bytes] = '\0';
        row->id = parser->joined;
    }
    row->text = tab + 1;
    row->bytes = bytes - id_bytes - 1;
    return CSP_OK;
}

csp_status csp_row_parse(csp_row_parser *parser, const char *line, int64_t bytes, const char *path,
                         int64_t number, csp_text_row *row)
{
    int64_t bad = 0;
    csp_text_row r = { NULL, line, bytes };

    if (!csp_utf8_is_valid(line, bytes, &bad)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: invalid UTF-8: byte 0x%02X at column %lld", path,
                        (long long)number, (unsigned)(unsigned char)line[bad], (long long)bad + 1);
    }
    switch (parser->format) {
    case CSP_TEXT_JSONL:
        CSP_TRY(parse_json(parser, line, bytes, path, number, &r));
        break;
    case CSP_TEXT_TSV:
        CSP_TRY(parse_tsv(parser, line, bytes, path, number, &r));
        break;
    case CSP_TEXT_PLAIN:
        (void)snprintf(parser->number, sizeof(parser->number), "%lld", (long long)number);
        r.id = parser->want_ids ? parser->number : NULL;
        break;
    case CSP_TEXT_AUTO:
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: the text format was not decided", path);
    }
    *row = r;
    return CSP_OK;
}

bool csp_text_is_empty(const char *text, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++) {
        if (text[i] != ' ' && (text[i] < '\t' || text[i] > '\r')) {
            return false;
        }
    }
    return true;
}

static bool ends_with(const char *path, int64_t bytes, const char *end)
{
    const int64_t n = (int64_t)strlen(end);

    return bytes >= n && memcmp(path + bytes - n, end, (size_t)n) == 0;
}

bool csp_text_format_of_name(const char *path, csp_text_format *out)
{
    static const struct {
        const char *end;
        csp_text_format format;
    } names[] = { { ".jsonl", CSP_TEXT_JSONL },
                  { ".ndjson", CSP_TEXT_JSONL },
                  { ".json", CSP_TEXT_JSONL },
                  { ".tsv", CSP_TEXT_TSV },
                  { ".txt", CSP_TEXT_PLAIN } };
    int64_t n = (int64_t)strlen(path);

    n -= ends_with(path, n, ".gz") ? 3 : 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (ends_with(path, n, names[i].end)) {
            *out = names[i].format;
            return true;
        }
    }
    return false;
}

const char *csp_text_format_name(csp_text_format format)
{
    static const char *const names[] = { "auto", "jsonl", "tsv", "txt" };

    return names[format];
}

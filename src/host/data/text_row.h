/*
 * text_row.h - one line of a text collection taken apart: its id and its text.
 *
 *     JSONL   {"_id": "p0", "title": "Nobel Prize", "text": "The first ..."}
 *             id:    _id, id, docid, and for queries also query_id, qid (the first there is);
 *                    a text or an integer
 *             text:  text, contents, and for queries before them query, query_text
 *             title: joined in front of the text; absent, null or "" = no title
 *             other keys are ignored: collections carry metadata
 *     TSV     p0 <TAB> The first ...       (further tabs belong to the text)
 *     plain   The first ...                (the id is the line's number)
 */
#pragma once

#include "core/status.h"
#include "io/contract.h"

struct json_t; /* of jansson */

typedef enum csp_text_format {
    CSP_TEXT_AUTO = 0, /* by the file's name, else JSONL if it begins with '{' */
    CSP_TEXT_JSONL = 1,
    CSP_TEXT_TSV = 2,
    CSP_TEXT_PLAIN = 3
} csp_text_format;

typedef struct csp_text_row {
    const char *id;   /* NUL-terminated, never ""; NULL where ids are not wanted or at the end */
    const char *text; /* valid UTF-8 of bytes bytes, perhaps with NUL bytes; NULL at the end     */
    int64_t bytes;
} csp_text_row;

typedef struct csp_row_parser csp_row_parser;

/*
 *   format     in   not CSP_TEXT_AUTO
 *   side       in   which keys of JSONL count
 *   separator  in   between title and text, NULL = one space
 *   want_ids   in   false: ids are neither needed nor looked at
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_row_parser_create(csp_text_format format, csp_side side,
                                             const char *separator, bool want_ids,
                                             csp_row_parser **out);
void csp_row_parser_destroy(csp_row_parser *parser);

/*
 * Takes one line apart.
 *
 *   line    in   bytes bytes, without its end
 *   path    in   for messages, with number: "path:number: ..."
 *   row     out  valid until the next call and as long as line is
 *
 * Errors: CSP_ERR_FORMAT "path:number: ..." for invalid UTF-8, what is not a JSON object, a missing
 *         tab, a missing or empty id, a missing text, a value of the wrong type; CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_row_parse(csp_row_parser *parser, const char *line, int64_t bytes,
                                     const char *path, int64_t number, csp_text_row *row);

/*
 * The same for a JSON object at hand (a jansson json_t), such as a passage inside a training line:
 * the keys of one JSONL line. row is valid as long as object is, until the parser's next call.
 */
CSP_CHECKED csp_status csp_row_of_object(csp_row_parser *parser, const struct json_t *object,
                                         const char *path, int64_t number, csp_text_row *row);

/* The JSON object of the line last parsed (JSONL only), for keys that rows do not have. */
const struct json_t *csp_row_object(const csp_row_parser *parser);

/* Whether a text has nothing in it but ASCII white space: an empty document or query. */
bool csp_text_is_empty(const char *text, int64_t bytes);

/* The format that a file's name says: .jsonl, .ndjson, .json; .tsv; .txt; each with or without .gz.
 */
bool csp_text_format_of_name(const char *path, csp_text_format *out);

/* "jsonl", "tsv", "txt". */
const char *csp_text_format_name(csp_text_format format);

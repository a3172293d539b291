/* corpus.c - a stream of texts: lines, taken apart by format, with ids checked as they pass. */
#include "data/corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/text_files.h"
#include "io/lines.h"

struct csp_texts {
    csp_texts_options options;
    csp_text_format format;
    char **files;
    int64_t file_count, file; /* the one that lines are of */
    csp_lines *lines;
    csp_row_parser *parser;
    csp_id_table *ids; /* NULL without ids */
    char *line;        /* the line last read, NULL at the end */
    int64_t bytes;
    int64_t offset;
    bool held; /* line was read ahead, to find the format, and not handed out yet */
    int64_t count, empty;
};

static csp_status open_file(csp_texts *texts, int64_t file)
{
    csp_lines_close(texts->lines);
    texts->lines = NULL;
    texts->file = file;
    return csp_lines_open(texts->files[file], &texts->lines);
}

/* Reads the next line that counts, of this file or the next; texts->line is NULL at the end. */
static csp_status read_line(csp_texts *texts)
{
    for (;;) {
        texts->offset = csp_lines_tell(texts->lines);
        CSP_TRY(csp_lines_next(texts->lines, &texts->line, &texts->bytes));
        if (texts->line == NULL && texts->file + 1 < texts->file_count) {
            CSP_TRY(open_file(texts, texts->file + 1));
        } else if (texts->line == NULL || texts->format == CSP_TEXT_PLAIN ||
                   !csp_text_is_empty(texts->line, texts->bytes)) {
            return CSP_OK;
        }
    }
}

static csp_status find_format(csp_texts *texts)
{
    texts->format = texts->options.format;
    if (texts->format != CSP_TEXT_AUTO ||
        csp_text_format_of_name(csp_texts_path(texts), &texts->format)) {
        return CSP_OK;
    }
    texts->format = CSP_TEXT_JSONL;
    CSP_TRY(read_line(texts));
    texts->held = true;
    if (texts->line != NULL && texts->line[0] != '{') {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: cannot tell its format: name it .jsonl, .tsv or .txt, or these with "
                        ".gz (under another name it must be JSONL)",
                        csp_texts_path(texts));
    }
    return CSP_OK;
}

csp_status csp_texts_open(const char *path, const csp_texts_options *options, csp_texts **out)
{
    csp_status status;
    csp_texts *texts = NULL;

    CSP_TRY(csp_alloc_zero("texts", 1, sizeof(*texts), &texts));
    texts->options = options != NULL ? *options : (csp_texts_options) { .side = CSP_SIDE_PASSAGE };
    if (texts->options.skip_empty && !texts->options.without_ids) {
        status = CSP_FAIL(CSP_ERR_ARGUMENT,
                          "%s: texts with ids keep their empty rows: ordinals count them", path);
        goto fail;
    }
    CSP_TRY_GOTO(csp_text_files(path, texts->options.side, &texts->files, &texts->file_count));
    CSP_TRY_GOTO(open_file(texts, 0));
    CSP_TRY_GOTO(find_format(texts));
    CSP_TRY_GOTO(csp_row_parser_create(texts->format, texts->options.side, texts->options.separator,
                                       !texts->options.without_ids, &texts->parser));
    if (!texts->options.without_ids) {
        CSP_TRY_GOTO(csp_id_table_create(&texts->ids));
    }
    texts->options.separator = NULL; /* the parser has its own copy */
    *out = texts;
    return CSP_OK;

fail:
    csp_texts_close(texts);
    return status;
}

void csp_texts_close(csp_texts *texts)
{
    if (texts == NULL) {
        return;
    }
    csp_lines_close(texts->lines);
    csp_row_parser_destroy(texts->parser);
    csp_id_table_destroy(texts->ids);
    csp_text_files_free(texts->files, texts->file_count);
    free(texts);
}

/* Takes the line apart and looks at its id and whether it is empty. */
static csp_status take_row(csp_texts *texts, csp_text_row *row, bool *is_empty)
{
    const long long line = (long long)csp_texts_line(texts);

    CSP_TRY(
        csp_row_parse(texts->parser, texts->line, texts->bytes, csp_texts_path(texts), line, row));
    if (texts->ids != NULL) {
        bool is_new = false;
        int64_t index;

        CSP_TRY(csp_id_table_add(texts->ids, row->id, (int64_t)strlen(row->id), &index, &is_new));
        if (!is_new) {
            return CSP_FAIL(CSP_ERR_DATA, "%s:%lld: duplicate id \"%.200s\" (first in text %lld)",
                            csp_texts_path(texts), line, row->id, (long long)index + 1);
        }
    }
    *is_empty = csp_text_is_empty(row->text, row->bytes);
    if (*is_empty && texts->options.strict) {
        return CSP_FAIL(CSP_ERR_DATA, "%s:%lld: empty text, which data.strict forbids",
                        csp_texts_path(texts), line);
    }
    return CSP_OK;
}

csp_status csp_texts_next(csp_texts *texts, csp_text_row *row)
{
    csp_text_row r = { NULL, NULL, 0 };
    bool is_empty = false;

    do {
        r = (csp_text_row) { NULL, NULL, 0 };
        if (!texts->held) {
            CSP_TRY(read_line(texts));
        }
        texts->held = false;
        if (texts->line == NULL) {
            break;
        }
        CSP_TRY(take_row(texts, &r, &is_empty));
        texts->empty += is_empty ? 1 : 0;
    } while (is_empty && texts->options.skip_empty);
    texts->count += texts->line != NULL ? 1 : 0;
    *row = r;
    return CSP_OK;
}

int64_t csp_texts_offset(const csp_texts *texts)
{
    return texts->offset;
}

int64_t csp_texts_line(const csp_texts *texts)
{
    return csp_lines_number(texts->lines);
}

const char *csp_texts_path(const csp_texts *texts)
{
    return texts->files[texts->file];
}

int64_t csp_texts_file(const csp_texts *texts)
{
    return texts->file;
}

const char *csp_texts_raw(const csp_texts *texts, int64_t *bytes)
{
    *bytes = texts->bytes;
    return texts->line;
}

csp_text_format csp_texts_format(const csp_texts *texts)
{
    return texts->format;
}

int64_t csp_texts_count(const csp_texts *texts)
{
    return texts->count;
}

int64_t csp_texts_empty(const csp_texts *texts)
{
    return texts->empty;
}

csp_id_table *csp_texts_take_ids(csp_texts *texts)
{
    csp_id_table *ids = texts->ids;

    texts->ids = NULL;
    return ids;
}

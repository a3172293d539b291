/* text_store.c - a row file, a parser for its rows, and a table of ids. */
#include "data/text_store.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/row_file.h"

struct csp_text_store {
    csp_row_file *file;
    csp_row_parser *parser;
    csp_id_table *ids; /* NULL without ids */
    bool is_again;     /* ids are another store's */
    csp_text_format format;
    int64_t empty;
};

static csp_status read_through(csp_text_store *store, csp_texts *texts, csp_image *image)
{
    int64_t file = 0;

    for (;;) {
        csp_text_row row;
        const char *line;
        int64_t bytes;

        CSP_TRY(csp_texts_next(texts, &row));
        if (row.text == NULL) {
            return CSP_OK;
        }
        if (csp_texts_file(texts) != file) {
            CSP_TRY(csp_row_file_go_on(store->file, csp_texts_path(texts)));
            file = csp_texts_file(texts);
        }
        line = csp_texts_raw(texts, &bytes);
        CSP_TRY(csp_row_file_add(store->file, csp_texts_offset(texts), line, bytes));
        CSP_TRY(csp_image_waits(image));
    }
}

static csp_status create_parser(csp_text_store *store, const csp_texts_options *o)
{
    return csp_row_parser_create(store->format, o->side, o->separator, !o->without_ids,
                                 &store->parser);
}

csp_status csp_text_store_open(const char *path, const csp_texts_options *options,
                               csp_text_store **out)
{
    static const csp_texts_options none = { .side = CSP_SIDE_PASSAGE };
    const csp_texts_options *o = options != NULL ? options : &none;
    csp_status status;
    csp_texts *texts = NULL;
    csp_text_store *store = NULL;

    CSP_TRY(csp_alloc_zero("text store", 1, sizeof(*store), &store));
    CSP_TRY_GOTO(csp_texts_open(path, o, &texts));
    CSP_TRY_GOTO(csp_row_file_open(csp_texts_path(texts), &store->file));
    CSP_TRY_GOTO(read_through(store, texts, o->image));
    store->format = csp_texts_format(texts);
    CSP_TRY_GOTO(create_parser(store, o));
    store->empty = csp_texts_empty(texts);
    store->ids = csp_texts_take_ids(texts);
    csp_texts_close(texts);
    *out = store;
    return CSP_OK;

fail:
    csp_texts_close(texts);
    csp_text_store_close(store);
    return status;
}

void csp_text_store_close(csp_text_store *store)
{
    if (store == NULL) {
        return;
    }
    csp_row_file_close(store->file);
    csp_row_parser_destroy(store->parser);
    if (!store->is_again) {
        csp_id_table_destroy(store->ids);
    }
    free(store);
}

csp_status csp_text_store_share(csp_image *image, const csp_texts_options *options,
                                csp_text_store **out)
{
    csp_text_store *store = *out;

    if (store == NULL) {
        CSP_TRY(csp_alloc_zero("text store", 1, sizeof(*store), &store));
        *out = store;
    }
    CSP_TRY(csp_image_value(image, &store->format, sizeof(store->format)));
    CSP_TRY(csp_image_value(image, &store->empty, sizeof(store->empty)));
    CSP_TRY(csp_row_file_share(image, &store->file));
    if (!options->without_ids) {
        CSP_TRY(csp_id_table_share(image, &store->ids));
    }
    return store->parser != NULL ? CSP_OK : create_parser(store, options);
}

csp_status csp_text_store_again(const csp_text_store *of, const csp_texts_options *options,
                                csp_text_store **out)
{
    csp_status status;
    csp_text_store *store = NULL;

    CSP_TRY(csp_alloc_zero("text store", 1, sizeof(*store), &store));
    store->is_again = true;
    store->ids = of->ids;
    store->format = of->format;
    store->empty = of->empty;
    CSP_TRY_GOTO(csp_row_file_again(of->file, &store->file));
    CSP_TRY_GOTO(create_parser(store, options));
    *out = store;
    return CSP_OK;

fail:
    csp_text_store_close(store);
    return status;
}

void csp_text_store_digest(const csp_text_store *store, char text[CSP_DIGEST_TEXT_BYTES])
{
    csp_row_file_digest(store->file, text);
}

int64_t csp_text_store_count(const csp_text_store *store)
{
    return csp_row_file_count(store->file);
}

int64_t csp_text_store_empty(const csp_text_store *store)
{
    return store->empty;
}

int64_t csp_text_store_find(const csp_text_store *store, const char *id)
{
    return store->ids != NULL ? csp_id_table_find(store->ids, id, (int64_t)strlen(id)) : -1;
}

const char *csp_text_store_id(const csp_text_store *store, int64_t index)
{
    return store->ids != NULL ? csp_id_table_id(store->ids, index) : NULL;
}

csp_status csp_text_store_read(csp_text_store *store, int64_t index, csp_text_row *row)
{
    const char *path = csp_row_file_path(store->file, index), *line;
    const int64_t number = csp_row_file_row_in_file(store->file, index) + 1;
    csp_status status;
    csp_text_row r;
    int64_t bytes;

    CSP_TRY(csp_row_file_read(store->file, index, &line, &bytes));
    /* For plain text, whose ids are line numbers, row and line agree: blank lines count there. */
    status = csp_row_parse(store->parser, line, bytes, path, number, &r);
    if (status == CSP_ERR_MEMORY) {
        return status;
    }
    /* Every line was good when the store was opened. */
    if (status != CSP_OK ||
        (store->ids != NULL && strcmp(r.id, csp_id_table_id(store->ids, index)) != 0)) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s: text %lld is no longer where it was: the file has changed since it "
                        "was opened",
                        path, (long long)number);
    }
    *row = r;
    return CSP_OK;
}

int64_t csp_text_store_bytes(const csp_text_store *store, int64_t index)
{
    return csp_row_file_row_bytes(store->file, index);
}

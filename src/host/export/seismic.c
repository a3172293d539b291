/* seismic.c - one line a row. */
#include "export/seismic.h"

#include "export/json_string.h"
#include "io/file.h"

static void put_row(FILE *stream, const csp_collection *c, const csp_collection_row *row)
{
    const char *between = "";

    (void)fputs("{\"id\": ", stream);
    csp_json_put_string(stream, row->id);
    (void)fputs(", \"content\": \"\", \"vector\": {", stream);
    for (int64_t i = 0; i < row->nnz; i++) {
        const int32_t impact =
            c->is_float ? row->weight[i] > 0.0f : csp_collection_impact(c, row->weight[i]);

        if (impact == 0) {
            continue;
        }
        (void)fputs(between, stream);
        csp_json_put_string(stream, c->key[row->term[i]]);
        if (c->is_float) {
            (void)fprintf(stream, ": %.9g", (double)row->weight[i]);
        } else {
            (void)fprintf(stream, ": %d", impact);
        }
        between = ", ";
    }
    (void)fputs("}}\n", stream);
}

csp_status csp_export_seismic(const csp_collection *collection, const char *path)
{
    csp_file *file;

    CSP_TRY(csp_file_create(path, &file));
    for (int64_t r = 0; r < collection->rows; r++) {
        const csp_collection_row row = csp_collection_at(collection, r);

        put_row(csp_file_stream(file), collection, &row);
    }
    return csp_file_commit(file);
}

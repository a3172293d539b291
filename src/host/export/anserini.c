/* anserini.c - see anserini.h. */
#include "export/anserini.h"

#include "export/json_string.h"
#include "io/file.h"

static void put_document(FILE *stream, const csp_collection *c, const csp_collection_row *row)
{
    const char *between = "";

    (void)fputs("{\"id\": ", stream);
    csp_json_put_string(stream, row->id);
    (void)fputs(", \"contents\": \"\", \"vector\": {", stream);
    for (int64_t i = 0; i < row->nnz; i++) {
        const int32_t impact = csp_collection_impact(c, row->weight[i]);

        if (impact > 0) {
            (void)fputs(between, stream);
            csp_json_put_string(stream, c->key[row->term[i]]);
            (void)fprintf(stream, ": %d", impact);
            between = ", ";
        }
    }
    (void)fputs("}}\n", stream);
}

csp_status csp_export_anserini_documents(const csp_collection *collection, int64_t shard,
                                         int64_t shards, const char *path)
{
    const int64_t first =
        collection->rows / shards * shard + collection->rows % shards * shard / shards;
    const int64_t end =
        collection->rows / shards * (shard + 1) + collection->rows % shards * (shard + 1) / shards;
    csp_file *file;

    CSP_TRY(csp_file_create(path, &file));
    for (int64_t r = first; r < end; r++) {
        const csp_collection_row row = csp_collection_at(collection, r);

        put_document(csp_file_stream(file), collection, &row);
    }
    return csp_file_commit(file);
}

static void put_query(FILE *stream, const csp_collection *c, const csp_collection_row *row)
{
    char between = '\t';

    for (int64_t i = 0; i < row->nnz; i++) {
        const int32_t impact = csp_collection_impact(c, row->weight[i]);

        if (impact > 0 && between == '\t') {
            (void)fputs(row->id, stream);
        }
        for (int32_t k = 0; k < impact && !ferror(stream); k++) {
            (void)fputc(between, stream);
            (void)fputs(c->key[row->term[i]], stream);
            between = ' ';
        }
    }
    if (between == ' ') {
        (void)fputc('\n', stream);
    }
}

csp_status csp_export_anserini_queries(const csp_collection *collection, const char *path)
{
    csp_file *file;

    CSP_TRY(csp_file_create(path, &file));
    for (int64_t r = 0; r < collection->rows; r++) {
        const csp_collection_row row = csp_collection_at(collection, r);

        put_query(csp_file_stream(file), collection, &row);
    }
    return csp_file_commit(file);
}

/* run_writer.c - TREC runs, written under a temporary name until committed. Declared in io/trec.h.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/file.h"
#include "io/lines.h"
#include "io/trec.h"

struct csp_run_writer {
    csp_file *file;
    char *path;
    char *tag;
};

static bool is_column(const char *text)
{
    return text[0] != '\0' && strpbrk(text, " \t\n\v\f\r") == NULL;
}

csp_status csp_run_writer_create(const char *path, const char *tag, csp_run_writer **out)
{
    csp_run_writer *writer = NULL;
    csp_status status;

    if (!is_column(tag) || !csp_utf8_is_valid(tag, (int64_t)strlen(tag), NULL)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: the run's tag \"%s\" is empty, has white space or is not UTF-8", path,
                        tag);
    }
    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*writer), &writer));
    CSP_TRY_GOTO(csp_strdup(path, path, &writer->path));
    CSP_TRY_GOTO(csp_strdup(path, tag, &writer->tag));
    CSP_TRY_GOTO(csp_file_create(path, &writer->file));
    *out = writer;
    return CSP_OK;

fail:
    csp_run_writer_abandon(writer);
    return status;
}

csp_status csp_run_writer_append(csp_run_writer *writer, const char *query_id,
                                 const csp_trec_row *rows, int64_t count)
{
    if (!is_column(query_id)) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s: query id \"%s\" is empty or has white space, which a run "
                        "cannot hold",
                        writer->path, query_id);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!is_column(rows[i].doc_id)) {
            return CSP_FAIL(CSP_ERR_DATA,
                            "%s: document id \"%s\" is empty or has white space, which "
                            "a run cannot hold",
                            writer->path, rows[i].doc_id);
        }
        if (!isfinite(rows[i].value) || (i > 0 && !(rows[i].value <= rows[i - 1].value))) {
            return CSP_FAIL(CSP_ERR_ARGUMENT,
                            "%s: query %s: score %g at rank %lld is not finite or "
                            "above the one before",
                            writer->path, query_id, rows[i].value, (long long)i + 1);
        }
        CSP_TRY(csp_file_print(writer->file, "%s Q0 %s %lld %.9g %s\n", query_id, rows[i].doc_id,
                               (long long)i + 1, rows[i].value, writer->tag));
    }
    return CSP_OK;
}

csp_status csp_run_writer_commit(csp_run_writer *writer)
{
    csp_file *file = writer->file;

    writer->file = NULL;
    csp_run_writer_abandon(writer);
    return csp_file_commit(file);
}

void csp_run_writer_abandon(csp_run_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    csp_file_abandon(writer->file);
    free(writer->path);
    free(writer->tag);
    free(writer);
}

/* data_identity.c - storing what the data was, and comparing it part by part. */
#include "train/data_identity.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The digests, by the names of their attributes. */
static const struct {
    const char *key;
    size_t offset;
} digests[] = {
    { "document_digest", offsetof(csp_data_identity, document_digest) },
    { "query_digest", offsetof(csp_data_identity, query_digest) },
    { "example_digest", offsetof(csp_data_identity, example_digest) },
    { "text_digest", offsetof(csp_data_identity, text_digest) },
};

enum { DIGESTS = sizeof(digests) / sizeof(digests[0]) };

csp_status csp_data_identity_write(csp_hdf5 *file, const char *path,
                                   const csp_data_identity *identity)
{
    CSP_TRY(csp_hdf5_set_i64(file, path, "examples", identity->examples));
    CSP_TRY(csp_hdf5_set_i64(file, path, "documents", identity->documents));
    CSP_TRY(csp_hdf5_set_i64(file, path, "texts", identity->texts));
    for (int i = 0; i < DIGESTS; i++) {
        CSP_TRY(csp_hdf5_set_text(file, path, digests[i].key,
                                  (const char *)identity + digests[i].offset));
    }
    return CSP_OK;
}

csp_status csp_data_identity_read(const csp_hdf5 *file, const char *path,
                                  csp_data_identity *identity)
{
    csp_data_identity found = { 0 };

    CSP_TRY(csp_hdf5_get_i64(file, path, "examples", &found.examples));
    CSP_TRY(csp_hdf5_get_i64(file, path, "documents", &found.documents));
    CSP_TRY(csp_hdf5_get_i64(file, path, "texts", &found.texts));
    for (int i = 0; i < DIGESTS; i++) {
        char *text = NULL;

        if (csp_hdf5_has_attribute(file, path, digests[i].key)) {
            CSP_TRY(csp_hdf5_get_text(file, path, digests[i].key, &text));
            snprintf((char *)&found + digests[i].offset, CSP_DIGEST_TEXT_BYTES, "%s", text);
            free(text);
        }
    }
    *identity = found;
    return CSP_OK;
}

static bool differ(const char *there, const char *here)
{
    return there[0] != '\0' && strcmp(there, here) != 0;
}

/* One part whose content is another one. */
static csp_status content_differs(const char *checkpoint, const char *part, const char *setting,
                                  const char *path)
{
    return CSP_FAIL(CSP_ERR_DATA, "%s was made with other data: the content of %s (%s: %s) changed",
                    checkpoint, part, setting, path != NULL ? path : "of the corpus");
}

csp_status csp_data_identity_check(const char *checkpoint, const csp_config *config,
                                   const csp_data_identity *there, const csp_data_identity *here)
{
    const csp_data_settings *s = &config->data;

    if (there->examples != here->examples || there->documents != here->documents ||
        there->texts != here->texts) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s was made with other data: %lld examples, %lld documents and %lld texts "
                        "to adapt on there, %lld, %lld and %lld here",
                        checkpoint, (long long)there->examples, (long long)there->documents,
                        (long long)there->texts, (long long)here->examples,
                        (long long)here->documents, (long long)here->texts);
    }
    if (differ(there->document_digest, here->document_digest)) {
        return content_differs(checkpoint, "the documents", "data.corpus", s->corpus);
    }
    if (differ(there->query_digest, here->query_digest)) {
        return s->train != NULL && s->queries == NULL
                   ? content_differs(checkpoint, "the training lines", "data.train", s->train)
                   : content_differs(checkpoint, "the queries", "data.queries", s->queries);
    }
    if (differ(there->example_digest, here->example_digest)) {
        return s->train != NULL && s->qrels == NULL
                   ? content_differs(checkpoint, "the examples", "data.train", s->train)
                   : content_differs(checkpoint, "the judgements or negatives", "data.qrels",
                                     s->qrels);
    }
    if (differ(there->text_digest, here->text_digest)) {
        const bool own = s->text.count > 0;

        return content_differs(checkpoint, "the texts to adapt on",
                               own ? "data.text" : "data.corpus",
                               !own                 ? s->corpus
                               : s->text.count == 1 ? s->text.values[0]
                                                    : "one of its files");
    }
    return CSP_OK;
}

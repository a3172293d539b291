/* pairs.c - opening a training set: which sources there are, what they give, what can be read. */
#include "data/pairs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "data/pairs_internal.h"
#include "io/file.h"

/* What the caller named, completed from the BEIR folder. */
typedef struct resolved {
    char *qrels, *negatives; /* NULL = none */
    bool lines;              /* train is Tevatron JSONL  */
    bool triples;            /* train is id triples      */
} resolved;

void csp_pairs_close(csp_pairs *pairs)
{
    if (pairs == NULL) {
        return;
    }
    csp_text_store_close(pairs->documents);
    csp_text_store_close(pairs->queries);
    train_lines_destroy(pairs->lines);
    if (!pairs->is_given) {
        free(pairs->query);
        free(pairs->positive_start);
        free(pairs->positive);
        free(pairs->negative_start);
        free(pairs->negative);
    }
    free(pairs);
}

/* dir/name where that exists, NULL otherwise. */
static csp_status find_beside(const char *dir, const char *format, const char *split, char **out)
{
    char name[128];
    char *path = NULL;

    if ((size_t)snprintf(name, sizeof(name), "%s%s.tsv", format, split) >= sizeof(name)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: the name of the split is too long", dir);
    }
    CSP_TRY(csp_file_join(dir, name, &path));
    if (!csp_file_exists(path)) {
        free(path);
        path = NULL;
    }
    *out = path;
    return CSP_OK;
}

/* Whether a training file is JSONL, else a TSV of triples: by its name. */
static csp_status is_jsonl(const char *path, bool *out)
{
    csp_text_format format = CSP_TEXT_AUTO;

    if (!csp_text_format_of_name(path, &format) || format == CSP_TEXT_PLAIN) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: name training lines .jsonl and id triples .tsv (or these with .gz)",
                        path);
    }
    *out = format == CSP_TEXT_JSONL;
    return CSP_OK;
}

static csp_status resolve(const csp_pairs_source *source, resolved *r)
{
    const char *split = source->split != NULL ? source->split : "train";
    const bool folder = source->corpus != NULL && csp_file_is_dir(source->corpus);

    if (source->train != NULL) {
        CSP_TRY(is_jsonl(source->train, &r->lines));
        r->triples = !r->lines;
    }
    if (r->lines && (source->qrels != NULL || source->negatives != NULL)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: holds positives and negatives, so that %s has no place beside it",
                        source->train, source->qrels != NULL ? source->qrels : source->negatives);
    }
    if (!r->lines && source->corpus == NULL) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "training pairs: no corpus is given");
    }
    if (source->corpus != NULL && !csp_file_exists(source->corpus)) {
        return CSP_FAIL(CSP_ERR_IO, "%s: there is no such file or folder", source->corpus);
    }
    if (!r->lines && source->queries == NULL && !folder) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "training pairs: no queries are given for %s",
                        source->corpus);
    }
    if (source->qrels != NULL) {
        CSP_TRY(csp_strdup("pairs", source->qrels, &r->qrels));
    } else if (folder && source->train == NULL) {
        CSP_TRY(find_beside(source->corpus, "qrels/", split, &r->qrels));
        if (r->qrels == NULL) {
            return CSP_FAIL(CSP_ERR_IO, "%s: this folder has no qrels/%s.tsv", source->corpus,
                            split);
        }
    }
    if (source->negatives != NULL) {
        CSP_TRY(csp_strdup("pairs", source->negatives, &r->negatives));
    } else if (folder && source->train == NULL) {
        CSP_TRY(find_beside(source->corpus, "negatives.", split, &r->negatives));
    }
    if (source->train == NULL && r->qrels == NULL) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "training pairs: %s comes without judgements (qrels) or training lines",
                        source->corpus);
    }
    return CSP_OK;
}

csp_texts_options pairs_texts(const csp_pairs_source *source, csp_side side)
{
    return (csp_texts_options) { .side = side,
                                 .strict = source->strict,
                                 .separator = source->separator,
                                 .image = source->image };
}

static csp_status open_stores(csp_pairs *pairs, const csp_pairs_source *source)
{
    const csp_texts_options documents = pairs_texts(source, CSP_SIDE_PASSAGE);
    const csp_texts_options queries = pairs_texts(source, CSP_SIDE_QUERY);

    CSP_TRY(csp_text_store_open(source->corpus, &documents, &pairs->documents));
    return csp_text_store_open(source->queries != NULL ? source->queries : source->corpus, &queries,
                               &pairs->queries);
}

static csp_status read_sources(csp_pairs *pairs, const csp_pairs_source *source, const resolved *r)
{
    csp_status status;
    uint8_t *named = NULL; /* by query: a source gives it a positive */
    pair_edges positives = { 0 }, negatives = { 0 };

    if (r->lines) {
        CSP_TRY_GOTO(pairs_read_lines(pairs, source, &positives, &negatives));
    } else {
        CSP_TRY_GOTO(open_stores(pairs, source));
    }
    CSP_TRY_GOTO(csp_alloc_zero("pairs", pairs_query_ordinals(pairs), 1, &named));
    if (r->lines) {
        memset(named, 1, (size_t)pairs_query_ordinals(pairs));
    }
    if (r->triples) {
        CSP_TRY_GOTO(
            pairs_read_triples(pairs, source->train, source->image, named, &positives, &negatives));
    }
    if (r->qrels != NULL) {
        CSP_TRY_GOTO(
            pairs_read_qrels(pairs, r->qrels, source->image, r->triples, named, &positives));
    }
    if (r->negatives != NULL) {
        CSP_TRY_GOTO(pairs_read_negatives(pairs, r->negatives, source->image, &negatives));
    }
    CSP_TRY_GOTO(pairs_join(pairs, named, &positives, &negatives));
    if (pairs->queries != NULL) {
        pairs->report.empty_queries = csp_text_store_empty(pairs->queries);
    }
    if (pairs->documents != NULL) {
        pairs->report.empty_documents = csp_text_store_empty(pairs->documents);
    }

fail:
    free(named);
    free(positives.items);
    free(negatives.items);
    return status;
}

/* Refuses, warns or passes, by the report. */
static csp_status judge(const csp_pairs *pairs, const csp_pairs_source *source)
{
    const char *name = source->train != NULL ? source->train : source->corpus;
    char text[700];

    csp_join_say(&pairs->report, text, sizeof(text));
    if (pairs->count == 0) {
        return CSP_FAIL(CSP_ERR_DATA, "%s: no query joins a positive document: %s", name, text);
    }
    if (csp_join_is_clean(&pairs->report)) {
        return CSP_OK;
    }
    if (source->strict) {
        return CSP_FAIL(CSP_ERR_DATA, "%s: data.strict forbids what does not join: %s", name, text);
    }
    csp_log(CSP_LOG_WARN, "data", "%s  %s", name, text);
    return CSP_OK;
}

csp_status csp_pairs_open(const csp_pairs_source *source, csp_pairs **out)
{
    csp_status status;
    resolved r = { 0 };
    csp_pairs *pairs = NULL;

    CSP_TRY(csp_alloc_zero("pairs", 1, sizeof(*pairs), &pairs));
    CSP_TRY_GOTO(resolve(source, &r));
    CSP_TRY_GOTO(read_sources(pairs, source, &r));
    CSP_TRY_GOTO(judge(pairs, source));
    *out = pairs;
    pairs = NULL;

fail:
    free(r.qrels);
    free(r.negatives);
    csp_pairs_close(pairs);
    return status;
}

static csp_status share_lists(csp_image *image, csp_pairs *p)
{
    int64_t starts[2] = { p->count + 1, p->count + 1 }, entries[2] = { 0 };

    if (!csp_image_gives(image)) {
        entries[0] = p->positive_start[p->count];
        entries[1] = p->negative_start[p->count];
    }
    p->is_given = csp_image_gives(image);
    CSP_TRY(csp_image_array(image, &p->count, sizeof(*p->query), &p->query));
    CSP_TRY(csp_image_array(image, &starts[0], sizeof(int64_t), &p->positive_start));
    CSP_TRY(csp_image_array(image, &entries[0], sizeof(*p->positive), &p->positive));
    CSP_TRY(csp_image_array(image, &starts[1], sizeof(int64_t), &p->negative_start));
    return csp_image_array(image, &entries[1], sizeof(*p->negative), &p->negative);
}

csp_status csp_pairs_share(csp_image *image, const csp_pairs_source *source, csp_pairs **out)
{
    const csp_texts_options documents = pairs_texts(source, CSP_SIDE_PASSAGE);
    const csp_texts_options queries = pairs_texts(source, CSP_SIDE_QUERY);
    csp_pairs *pairs = *out;
    bool has[2];

    if (pairs == NULL) {
        CSP_TRY(csp_alloc_zero("pairs", 1, sizeof(*pairs), &pairs));
        *out = pairs;
    }
    has[0] = pairs->documents != NULL;
    has[1] = pairs->lines != NULL;
    CSP_TRY(csp_image_value(image, has, sizeof(has)));
    if (has[0]) {
        CSP_TRY(csp_text_store_share(image, &documents, &pairs->documents));
    }
    if (has[1]) {
        CSP_TRY(train_lines_share(image, source->separator, &pairs->lines));
    } else {
        CSP_TRY(csp_text_store_share(image, &queries, &pairs->queries));
    }
    CSP_TRY(csp_image_value(image, &pairs->report, sizeof(pairs->report)));
    return share_lists(image, pairs);
}

int64_t pairs_query_ordinals(const csp_pairs *pairs)
{
    return pairs->lines != NULL ? csp_row_file_count(pairs->lines->file)
                                : csp_text_store_count(pairs->queries);
}

int64_t pairs_find_query(const csp_pairs *pairs, const char *id)
{
    return pairs->lines != NULL
               ? csp_id_table_find(pairs->lines->query_ids, id, (int64_t)strlen(id))
               : csp_text_store_find(pairs->queries, id);
}

const csp_join_report *csp_pairs_report(const csp_pairs *pairs)
{
    return &pairs->report;
}

int64_t csp_pairs_count(const csp_pairs *pairs)
{
    return pairs->count;
}

int64_t csp_pairs_documents(const csp_pairs *pairs)
{
    return pairs->documents != NULL ? csp_text_store_count(pairs->documents)
                                    : csp_id_table_count(pairs->lines->passage_ids);
}

const csp_text_store *csp_pairs_corpus(const csp_pairs *pairs)
{
    return pairs->documents;
}

csp_status csp_pairs_digest(const csp_pairs *pairs, csp_pairs_digests *out)
{
    const int64_t n = pairs->count, word = (int64_t)sizeof(int64_t);
    csp_digest *digest = NULL;

    CSP_TRY(csp_digest_create(&digest));
    csp_digest_add(digest, pairs->query, n * (int64_t)sizeof(*pairs->query));
    csp_digest_add(digest, pairs->positive_start, (n + 1) * word);
    csp_digest_add(digest, pairs->positive, pairs->positive_start[n] * word);
    csp_digest_add(digest, pairs->negative_start, (n + 1) * word);
    csp_digest_add(digest, pairs->negative,
                   pairs->negative_start[n] * (int64_t)sizeof(*pairs->negative));
    csp_digest_say(digest, out->examples);
    csp_digest_destroy(digest);
    out->documents[0] = '\0';
    if (pairs->documents != NULL) {
        csp_text_store_digest(pairs->documents, out->documents);
    }
    if (pairs->lines != NULL) {
        csp_row_file_digest(pairs->lines->file, out->queries);
    } else {
        csp_text_store_digest(pairs->queries, out->queries);
    }
    return CSP_OK;
}

const int64_t *csp_pairs_positives(const csp_pairs *pairs, int64_t example, int64_t *count)
{
    *count = pairs->positive_start[example + 1] - pairs->positive_start[example];
    return pairs->positive + pairs->positive_start[example];
}

const int32_t *csp_pairs_negatives(const csp_pairs *pairs, int64_t example, int64_t *count)
{
    *count = pairs->negative_start[example + 1] - pairs->negative_start[example];
    return pairs->negative + pairs->negative_start[example];
}

bool csp_pairs_is_positive(const csp_pairs *pairs, int64_t example, int64_t document)
{
    int64_t low = pairs->positive_start[example], high = pairs->positive_start[example + 1];

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;

        if (pairs->positive[middle] < document) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < pairs->positive_start[example + 1] && pairs->positive[low] == document;
}

const char *csp_pairs_query_id(const csp_pairs *pairs, int64_t example)
{
    const int64_t query = pairs->query[example];

    return pairs->lines != NULL ? csp_id_table_id(pairs->lines->query_ids, query)
                                : csp_text_store_id(pairs->queries, query);
}

const char *csp_pairs_document_id(const csp_pairs *pairs, int64_t document)
{
    return pairs->documents != NULL ? csp_text_store_id(pairs->documents, document)
                                    : csp_id_table_id(pairs->lines->passage_ids, document);
}

csp_status csp_pairs_read_query(csp_pairs *pairs, int64_t example, csp_text_row *row)
{
    if (example < 0 || example >= pairs->count) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "pairs: example %lld of %lld", (long long)example,
                        (long long)pairs->count);
    }
    return pairs->lines != NULL ? train_lines_read_query(pairs->lines, pairs->query[example], row)
                                : csp_text_store_read(pairs->queries, pairs->query[example], row);
}

csp_status csp_pairs_read_document(csp_pairs *pairs, int64_t document, csp_text_row *row)
{
    if (document < 0 || document >= csp_pairs_documents(pairs)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "pairs: document %lld of %lld", (long long)document,
                        (long long)csp_pairs_documents(pairs));
    }
    return pairs->documents != NULL ? csp_text_store_read(pairs->documents, document, row)
                                    : train_lines_read_passage(pairs->lines, document, row);
}

int64_t csp_pairs_query_bytes(const csp_pairs *pairs, int64_t example)
{
    /* A training line holds passages too. */
    return pairs->lines != NULL ? 0 : csp_text_store_bytes(pairs->queries, pairs->query[example]);
}

int64_t csp_pairs_document_bytes(const csp_pairs *pairs, int64_t document)
{
    return pairs->documents != NULL ? csp_text_store_bytes(pairs->documents, document) : 0;
}

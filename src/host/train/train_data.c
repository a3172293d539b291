/* train_data.c - drawing, reading and tokenising the texts of a step. */
#include "train/train_data.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "core/rng.h"

/* Token lists of texts already seen; results never depend on it. */
static const int64_t CACHE_BYTES = (int64_t)512 << 20;

/* Bytes of a token, about; and what a text costs beside its tokens, in bytes. */
enum { TOKEN_BYTES = 4, TEXT_COST = 16 };

struct csp_train_data {
    const csp_config *config;
    csp_text_encoder *encoder;
    csp_pairs *pairs;
    csp_plain *plain;
    csp_token_cache *query_cache;
    csp_token_cache *document_cache;
    csp_draw_list draw;
    csp_token_list ids; /* of one text */
    csp_token_lists queries;
    csp_token_lists passages;
    csp_token_lists plain_lists;
    int32_t *positive;
    uint8_t *mask;
    int rank, ranks;
    int group;                  /* ranks that share the span of queries which is drawn here */
    csp_share share_q, share_d; /* of a span: which rank of the group has which texts       */
    int64_t *column;            /* (documents of a span) among this rank's, -1: others'     */
};

/* Queries of the blocks that this rank's group has. */
static int64_t span_of(const csp_train_data *d)
{
    return d->config->contrastive.batch.queries / d->ranks * d->group;
}

static csp_status open_pairs(csp_train_data *d, const csp_tokenizer *tokenizer)
{
    const csp_data_settings *s = &d->config->data;
    const csp_pairs_source source = { .corpus = s->corpus,
                                      .queries = s->queries,
                                      .qrels = s->qrels,
                                      .negatives = s->negatives,
                                      .train = s->train,
                                      .separator = d->config->model.title_separator,
                                      .strict = s->strict };
    const int64_t Q = span_of(d), G = s->train_group_size;
    const int64_t vocab = csp_tokenizer_vocab_size(tokenizer);
    char text[512];

    CSP_TRY(csp_pairs_open(&source, &d->pairs));
    csp_join_say(csp_pairs_report(d->pairs), text, sizeof(text));
    csp_log(CSP_LOG_INFO, "data", "%s", text);
    CSP_TRY(csp_token_cache_create(csp_pairs_count(d->pairs), vocab, CACHE_BYTES, &d->query_cache));
    CSP_TRY(csp_token_cache_create(csp_pairs_documents(d->pairs), vocab, CACHE_BYTES,
                                   &d->document_cache));
    CSP_TRY(csp_alloc("training data", Q, sizeof(*d->positive), &d->positive));
    CSP_TRY(csp_alloc("training data", Q * G, sizeof(*d->column), &d->column));
    return csp_alloc("training data", Q * (Q * G / d->group), 1, &d->mask);
}

static csp_status open_plain(csp_train_data *d)
{
    const csp_data_settings *s = &d->config->data;
    const char *corpus[] = { s->corpus };

    if (s->text.count > 0) {
        CSP_TRY(csp_plain_open((const char *const *)s->text.values, s->text.count, s->strict,
                               d->config->model.title_separator, &d->plain));
    } else {
        CSP_TRY(csp_plain_open(corpus, 1, s->strict, d->config->model.title_separator, &d->plain));
    }
    csp_log(CSP_LOG_INFO, "data", "%lld texts to adapt on, %lld empty ones left out",
            (long long)csp_plain_count(d->plain), (long long)csp_plain_empty(d->plain));
    return CSP_OK;
}

csp_status csp_train_data_open(const csp_config *config, const csp_contract *contract,
                               const csp_tokenizer *tokenizer, int rank, int ranks,
                               csp_train_data **out)
{
    csp_train_data *d;
    csp_status status;

    CSP_TRY(csp_alloc_zero("training data", 1, sizeof(*d), &d));
    d->config = config;
    d->rank = rank;
    d->ranks = ranks;
    d->group = csp_negative_group(config->contrastive.negative_blocks, ranks);
    CSP_TRY_GOTO(csp_text_encoder_create(contract, tokenizer, config->data.strict, &d->encoder));
    if (csp_config_has_phase(config, "adapt")) {
        CSP_TRY_GOTO(open_plain(d));
    }
    if (csp_config_has_phase(config, "contrastive")) {
        CSP_TRY_GOTO(open_pairs(d, tokenizer));
    }
    *out = d;
    return CSP_OK;

fail:
    csp_train_data_close(d);
    return status;
}

void csp_train_data_close(csp_train_data *d)
{
    if (d == NULL) {
        return;
    }
    csp_text_encoder_destroy(d->encoder);
    csp_pairs_close(d->pairs);
    csp_plain_close(d->plain);
    csp_token_cache_destroy(d->query_cache);
    csp_token_cache_destroy(d->document_cache);
    csp_draw_list_clear(&d->draw);
    csp_token_list_clear(&d->ids);
    csp_token_lists_clear(&d->queries);
    csp_token_lists_clear(&d->passages);
    csp_token_lists_clear(&d->plain_lists);
    csp_share_clear(&d->share_q);
    csp_share_clear(&d->share_d);
    free(d->positive);
    free(d->mask);
    free(d->column);
    free(d);
}

/* Appends the tokens of one query or document, from the cache where it has them. */
static csp_status add_text(csp_train_data *d, csp_side side, int64_t ordinal)
{
    const bool query = side == CSP_SIDE_QUERY;
    csp_token_cache *cache = query ? d->query_cache : d->document_cache;
    csp_token_lists *lists = query ? &d->queries : &d->passages;
    csp_text_row row;
    bool found;

    CSP_TRY(csp_token_cache_get(cache, ordinal, lists, &found));
    if (found) {
        return CSP_OK;
    }
    if (query) {
        CSP_TRY(csp_pairs_read_query(d->pairs, ordinal, &row));
    } else {
        CSP_TRY(csp_pairs_read_document(d->pairs, ordinal, &row));
    }
    CSP_TRY(csp_text_encode(d->encoder, side, row.id, row.text, row.bytes, &d->ids));
    csp_token_cache_put(cache, ordinal, d->ids.ids, d->ids.count);
    return csp_token_lists_add(lists, d->ids.ids, d->ids.count);
}

/* What a text of so many bytes, of which at most max_len tokens count, costs. 0: not known. */
static int64_t cost_of(int64_t bytes, int64_t max_len)
{
    const int64_t most = TOKEN_BYTES * max_len;

    return TEXT_COST + (bytes > 0 && bytes < most ? bytes : most);
}

/* Shares out the texts that were drawn, documents so that they make up for queries. */
static csp_status share_pairs(csp_train_data *d, int64_t Q, int64_t P)
{
    const csp_contract *contract = csp_text_encoder_contract(d->encoder);

    CSP_TRY(csp_share_reserve(&d->share_q, Q, d->group));
    CSP_TRY(csp_share_reserve(&d->share_d, P, d->group));
    for (int64_t q = 0; q < Q; q++) {
        d->share_q.cost[q] =
            cost_of(csp_pairs_query_bytes(d->pairs, d->draw.example[q]), contract->query_max_len);
    }
    for (int64_t p = 0; p < P; p++) {
        d->share_d.cost[p] = cost_of(csp_pairs_document_bytes(d->pairs, d->draw.document[p]),
                                     contract->passage_max_len);
    }
    CSP_TRY(csp_share_texts(&d->share_q, Q, d->group));
    memcpy(d->share_d.load, d->share_q.load, sizeof(int64_t) * (size_t)d->group);
    return csp_share_texts(&d->share_d, P, d->group);
}

/*
 * mask[q,p] says where this rank's document p is of another block than query q, or a known positive
 * of it but not its own positive's column. Queries are those of the group, rank by rank.
 */
static bool fill_mask(csp_train_data *d, int64_t Q, const int64_t *own, int64_t P)
{
    const csp_contrastive_settings *s = &d->config->contrastive;
    const int64_t block = s->batch.queries / s->negative_blocks;
    const int64_t G = d->config->data.train_group_size;
    bool any = false;

    for (int64_t q = 0; q < Q; q++) {
        const int64_t number = d->share_q.text[q], example = d->draw.example[number];

        for (int64_t p = 0; p < P; p++) {
            uint8_t why = 0;

            if (number / block != own[p] / G / block) {
                why = CSP_LEFT_OUT_BLOCK;
            } else if (s->mask_known_positives && p != d->positive[q] &&
                       csp_pairs_is_positive(d->pairs, example, d->draw.document[own[p]])) {
                why = CSP_LEFT_OUT_POSITIVE;
            }
            d->mask[q * P + p] = why;
            any = any || why != 0;
        }
    }
    return any;
}

/* Numbers within the span of a group become those within the step. */
static void renumber(int64_t *text, int64_t count, int64_t first)
{
    for (int64_t i = 0; i < count; i++) {
        text[i] += first;
    }
}

/* Where each document of the step is among this rank's. */
static void find_columns(csp_train_data *d, const int64_t *own, int64_t count, int64_t all)
{
    for (int64_t p = 0; p < all; p++) {
        d->column[p] = -1;
    }
    for (int64_t p = 0; p < count; p++) {
        d->column[own[p]] = p;
    }
}

csp_status csp_train_data_pairs(csp_train_data *d, int64_t k, csp_contrastive_texts *out)
{
    const int64_t Q = span_of(d), G = d->config->data.train_group_size;
    const csp_sampling sampling = { .seed = (uint64_t)d->config->run.seed,
                                    .Q = d->config->contrastive.batch.queries,
                                    .G = G,
                                    .in_order = !d->config->data.shuffle };
    const int64_t queries = Q / d->group, passages = Q * G / d->group;
    const int64_t first = d->rank / d->group * Q; /* query of the span in the step */
    int64_t *own_q, *own_d;
    bool masked = false;

    CSP_TRY(csp_pairs_draw(d->pairs, &sampling, k, first, Q, &d->draw));
    CSP_TRY(share_pairs(d, Q, Q * G));
    own_q = d->share_q.text + d->rank % d->group * queries;
    own_d = d->share_d.text + d->rank % d->group * passages;
    csp_token_lists_reset(&d->queries);
    csp_token_lists_reset(&d->passages);
    for (int64_t q = 0; q < queries; q++) {
        CSP_TRY(add_text(d, CSP_SIDE_QUERY, d->draw.example[own_q[q]]));
    }
    for (int64_t p = 0; p < passages; p++) {
        CSP_TRY(add_text(d, CSP_SIDE_PASSAGE, d->draw.document[own_d[p]]));
    }
    find_columns(d, own_d, passages, Q * G);
    for (int64_t q = 0; q < Q; q++) {
        d->positive[q] = (int32_t)d->column[d->share_q.text[q] * G];
    }
    if (d->config->contrastive.mask_known_positives || d->config->contrastive.negative_blocks > 1) {
        masked = fill_mask(d, Q, own_d, passages);
    }
    renumber(own_q, queries, first);
    renumber(own_d, passages, first * G);
    *out = (csp_contrastive_texts) { .queries = &d->queries,
                                     .passages = &d->passages,
                                     .query_text = own_q,
                                     .passage_text = own_d,
                                     .positive = d->positive,
                                     .mask = masked ? d->mask : NULL };
    return CSP_OK;
}

csp_status csp_train_data_plain(csp_train_data *d, int64_t k, const csp_token_lists **out,
                                const int64_t **text)
{
    const int64_t texts = d->config->adapt.batch.texts, own = texts / d->ranks;
    const csp_plain_sampling sampling = { .seed = (uint64_t)d->config->run.seed,
                                          .texts = texts,
                                          .max_len = (int32_t)d->config->adapt.max_len,
                                          .in_order = !d->config->data.shuffle };

    CSP_TRY(csp_share_reserve(&d->share_d, texts, d->ranks));
    for (int64_t i = 0; i < texts; i++) {
        d->share_d.cost[i] =
            cost_of(csp_plain_bytes(d->plain, csp_plain_text_of(d->plain, &sampling, k, i)),
                    sampling.max_len);
    }
    CSP_TRY(csp_share_texts(&d->share_d, texts, d->ranks));
    *text = d->share_d.text + d->rank * own;
    CSP_TRY(csp_plain_load(d->plain, d->encoder, &sampling, k, *text, own, &d->plain_lists));
    *out = &d->plain_lists;
    return CSP_OK;
}

csp_status csp_train_data_identity(const csp_train_data *d, csp_data_identity *out)
{
    csp_data_identity found = { 0 };

    if (d->pairs != NULL) {
        csp_pairs_digests digests;

        CSP_TRY(csp_pairs_digest(d->pairs, &digests));
        found.examples = csp_pairs_count(d->pairs);
        found.documents = csp_pairs_documents(d->pairs);
        memcpy(found.document_digest, digests.documents, sizeof(found.document_digest));
        memcpy(found.query_digest, digests.queries, sizeof(found.query_digest));
        memcpy(found.example_digest, digests.examples, sizeof(found.example_digest));
    }
    if (d->plain != NULL) {
        CSP_TRY(csp_plain_digest(d->plain, found.text_digest));
        found.texts = csp_plain_count(d->plain);
    }
    *out = found;
    return CSP_OK;
}

void csp_train_data_say(const csp_train_data *d)
{
    const csp_contract *contract = csp_text_encoder_contract(d->encoder);
    const csp_text_counts *queries = csp_text_encoder_counts(d->encoder, CSP_SIDE_QUERY);
    const csp_text_counts *passages = csp_text_encoder_counts(d->encoder, CSP_SIDE_PASSAGE);
    const csp_text_counts *plain = csp_text_encoder_plain_counts(d->encoder);
    char text[512];

    if (plain->texts > 0) {
        csp_text_counts_say(plain, "texts adapted on", (int32_t)d->config->adapt.max_len, text,
                            sizeof(text));
        csp_log(CSP_LOG_INFO, "data", "%s", text);
    }
    if (queries->texts > 0) {
        csp_text_counts_say(queries, "queries read", contract->query_max_len, text, sizeof(text));
        csp_log(CSP_LOG_INFO, "data", "%s", text);
        csp_text_counts_say(passages, "documents read", contract->passage_max_len, text,
                            sizeof(text));
        csp_log(CSP_LOG_INFO, "data", "%s", text);
    }
}

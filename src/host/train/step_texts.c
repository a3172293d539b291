/* step_texts.c - drawing, sharing, reading and tokenising the texts of a step. */
#include "train/step_texts.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "train/contrastive.h"

/* Bytes of a token, about; and what a text costs beside its tokens, in bytes. */
enum { TOKEN_BYTES = 4, TEXT_COST = 16 };

void csp_step_source_clear(csp_step_source *d)
{
    csp_text_encoder_destroy(d->encoder);
    csp_pairs_close(d->pairs);
    csp_plain_close(d->plain);
    csp_token_cache_destroy(d->query_cache);
    csp_token_cache_destroy(d->document_cache);
    csp_draw_list_clear(&d->draw);
    csp_draw_list_clear(&d->whole);
    csp_share_clear(&d->share_b);
    csp_token_list_clear(&d->ids);
    csp_share_clear(&d->share_q);
    csp_share_clear(&d->share_d);
    free(d->column);
    free(d->number);
    *d = (csp_step_source) { 0 };
}

csp_status csp_step_texts_init(const csp_step_source *d, bool adapt, csp_step_texts *out)
{
    const int64_t Q = csp_step_source_span(d), own = Q / d->group;
    const int64_t P =
        adapt ? d->config->adapt.batch.texts / d->ranks : own * d->config->data.train_group_size;
    csp_step_texts t = { .step = -1 };
    csp_status status;

    CSP_TRY_GOTO(csp_alloc("training data", P, sizeof(*t.passage_text), &t.passage_text));
    if (!adapt) {
        CSP_TRY_GOTO(csp_alloc("training data", own, sizeof(*t.query_text), &t.query_text));
        CSP_TRY_GOTO(csp_alloc("training data", Q, sizeof(*t.positive), &t.positive));
        CSP_TRY_GOTO(csp_alloc("training data", Q * P, 1, &t.mask));
    }
    *out = t;
    return CSP_OK;

fail:
    csp_step_texts_clear(&t);
    return status;
}

void csp_step_texts_clear(csp_step_texts *texts)
{
    csp_token_lists_clear(&texts->queries);
    csp_token_lists_clear(&texts->passages);
    csp_token_lists_clear(&texts->plain);
    free(texts->query_text);
    free(texts->passage_text);
    free(texts->positive);
    free(texts->mask);
    *texts = (csp_step_texts) { .step = -1 };
}

/* Appends the tokens of one query or document, from the cache where it has them. */
static csp_status add_text(csp_step_source *d, csp_side side, int64_t ordinal,
                           csp_token_lists *lists)
{
    const bool query = side == CSP_SIDE_QUERY;
    csp_token_cache *cache = query ? d->query_cache : d->document_cache;
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

static int64_t cost_of_query(const csp_step_source *d, int64_t example)
{
    return cost_of(csp_pairs_query_bytes(d->pairs, example),
                   csp_text_encoder_contract(d->encoder)->query_max_len);
}

static int64_t cost_of_document(const csp_step_source *d, int64_t document)
{
    return cost_of(csp_pairs_document_bytes(d->pairs, document),
                   csp_text_encoder_contract(d->encoder)->passage_max_len);
}

/* The block of query q of a span. */
static int32_t block_of(const csp_step_source *d, int64_t q)
{
    return d->config->contrastive.negative_blocks > 1 ? d->share_b.owner[d->number[q]] : 0;
}

/*
 * Deals the queries of a step out into blocks, which get as many each and, with their documents,
 * about as much work: a step lasts as long as the ranks of the slowest block take. Every rank deals
 * out the whole step, and finds the same.
 */
static csp_status deal_blocks(csp_step_source *d, const csp_sampling *sampling, int64_t k)
{
    const int64_t G = sampling->G, blocks = d->config->contrastive.negative_blocks;
    const csp_draw_list *whole = &d->whole;

    CSP_TRY(csp_pairs_draw(d->pairs, sampling, k, 0, sampling->Q, &d->whole));
    CSP_TRY(csp_share_reserve(&d->share_b, sampling->Q, blocks));
    for (int64_t q = 0; q < sampling->Q; q++) {
        d->share_b.cost[q] = cost_of_query(d, whole->example[q]);
        for (int64_t p = q * G; p < (q + 1) * G; p++) {
            d->share_b.cost[q] += cost_of_document(d, whole->document[p]);
        }
    }
    return csp_share_texts(&d->share_b, sampling->Q, blocks);
}

/* Draws the Q queries of step k that are in the blocks of this rank's group. */
static csp_status draw_span(csp_step_source *d, const csp_sampling *sampling, int64_t k, int64_t Q)
{
    const int64_t blocks = d->config->contrastive.negative_blocks;
    const int64_t own = Q * blocks / sampling->Q, first = d->rank / d->group * own;
    int64_t count = 0;

    if (blocks > 1) {
        CSP_TRY(deal_blocks(d, sampling, k));
    }
    for (int64_t q = 0; q < sampling->Q; q++) {
        const int64_t block = blocks > 1 ? d->share_b.owner[q] : 0;

        if (block >= first && block < first + own) {
            d->number[count++] = q;
        }
    }
    return blocks > 1 ? csp_draw_list_take(&d->whole, sampling->G, d->number, Q, &d->draw)
                      : csp_pairs_draw(d->pairs, sampling, k, 0, Q, &d->draw);
}

/* Shares out the texts that were drawn, documents so that they make up for queries. */
static csp_status share_pairs(csp_step_source *d, int64_t Q, int64_t P)
{
    CSP_TRY(csp_share_reserve(&d->share_q, Q, d->group));
    CSP_TRY(csp_share_reserve(&d->share_d, P, d->group));
    for (int64_t q = 0; q < Q; q++) {
        d->share_q.cost[q] = cost_of_query(d, d->draw.example[q]);
    }
    for (int64_t p = 0; p < P; p++) {
        d->share_d.cost[p] = cost_of_document(d, d->draw.document[p]);
    }
    CSP_TRY(csp_share_texts(&d->share_q, Q, d->group));
    memcpy(d->share_d.load, d->share_q.load, sizeof(int64_t) * (size_t)d->group);
    return csp_share_texts(&d->share_d, P, d->group);
}

/*
 * mask[q,p] says where this rank's document p is of another block than query q, or a known positive
 * of it but not its own positive's column. Queries are those of the group, rank by rank.
 */
static bool fill_mask(const csp_step_source *d, int64_t Q, int64_t P, csp_step_texts *t)
{
    const csp_contrastive_settings *s = &d->config->contrastive;
    const int64_t G = d->config->data.train_group_size;
    bool any = false;

    for (int64_t q = 0; q < Q; q++) {
        const int64_t number = d->share_q.text[q], example = d->draw.example[number];

        for (int64_t p = 0; p < P; p++) {
            const int64_t own = t->passage_text[p];
            uint8_t why = 0;

            if (block_of(d, number) != block_of(d, own / G)) {
                why = CSP_LEFT_OUT_BLOCK;
            } else if (s->mask_known_positives && p != t->positive[q] &&
                       csp_pairs_is_positive(d->pairs, example, d->draw.document[own])) {
                why = CSP_LEFT_OUT_POSITIVE;
            }
            t->mask[q * P + p] = why;
            any = any || why != 0;
        }
    }
    return any;
}

/* Numbers within the span of a group become those within the step; G texts are of each query. */
static void renumber(const csp_step_source *d, int64_t *text, int64_t count, int64_t G)
{
    for (int64_t i = 0; i < count; i++) {
        text[i] = d->number[text[i] / G] * G + text[i] % G;
    }
}

/* Where each document of the step is among this rank's. */
static void find_columns(csp_step_source *d, const int64_t *own, int64_t count, int64_t all)
{
    for (int64_t p = 0; p < all; p++) {
        d->column[p] = -1;
    }
    for (int64_t p = 0; p < count; p++) {
        d->column[own[p]] = p;
    }
}

static csp_status load_pairs(csp_step_source *d, int64_t k, csp_step_texts *t)
{
    const csp_contrastive_settings *c = &d->config->contrastive;
    const int64_t Q = csp_step_source_span(d), G = d->config->data.train_group_size;
    const csp_sampling sampling = { .seed = (uint64_t)d->config->run.seed,
                                    .Q = c->batch.queries,
                                    .G = G,
                                    .in_order = !d->config->data.shuffle };
    const int64_t queries = Q / d->group, passages = Q * G / d->group;
    const int place = d->rank % d->group;

    CSP_TRY(draw_span(d, &sampling, k, Q));
    CSP_TRY(share_pairs(d, Q, Q * G));
    memcpy(t->query_text, d->share_q.text + place * queries, sizeof(int64_t) * (size_t)queries);
    memcpy(t->passage_text, d->share_d.text + place * passages, sizeof(int64_t) * (size_t)passages);
    csp_token_lists_reset(&t->queries);
    csp_token_lists_reset(&t->passages);
    for (int64_t q = 0; q < queries; q++) {
        CSP_TRY(add_text(d, CSP_SIDE_QUERY, d->draw.example[t->query_text[q]], &t->queries));
    }
    for (int64_t p = 0; p < passages; p++) {
        CSP_TRY(add_text(d, CSP_SIDE_PASSAGE, d->draw.document[t->passage_text[p]], &t->passages));
    }
    find_columns(d, t->passage_text, passages, Q * G);
    for (int64_t q = 0; q < Q; q++) {
        t->positive[q] = (int32_t)d->column[d->share_q.text[q] * G];
    }
    t->masked = (c->mask_known_positives || c->negative_blocks > 1) && fill_mask(d, Q, passages, t);
    renumber(d, t->query_text, queries, 1);
    renumber(d, t->passage_text, passages, G);
    return CSP_OK;
}

static csp_status load_plain(csp_step_source *d, int64_t k, csp_step_texts *t)
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
    memcpy(t->passage_text, d->share_d.text + d->rank * own, sizeof(int64_t) * (size_t)own);
    return csp_plain_load(d->plain, d->encoder, &sampling, k, t->passage_text, own, &t->plain);
}

csp_status csp_step_texts_load(csp_step_source *d, bool adapt, int64_t k, csp_step_texts *t)
{
    t->step = -1;
    CSP_TRY(adapt ? load_plain(d, k, t) : load_pairs(d, k, t));
    t->counts.query = *csp_text_encoder_counts(d->encoder, CSP_SIDE_QUERY);
    t->counts.passage = *csp_text_encoder_counts(d->encoder, CSP_SIDE_PASSAGE);
    t->counts.plain = *csp_text_encoder_plain_counts(d->encoder);
    t->step = k;
    return CSP_OK;
}

/* train_data.c - what is opened for training, and its steps, made ready ahead or when asked for. */
#include "train/train_data.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "train/prefetch.h"

/* Token lists of texts already seen; results never depend on it. */
static const int64_t CACHE_BYTES = (int64_t)512 << 20;

struct csp_train_data {
    const csp_config *config;
    csp_image *image;       /* what the ranks of this machine share of the source; NULL: nothing */
    csp_step_source source; /* the thread's while there is one          */
    csp_prefetch *prefetch; /* NULL: steps are made ready when asked for */
    csp_step_texts own[2];  /* then here: adapt, contrastive            */
    csp_step_counts used;   /* by the steps handed out                  */
};

static csp_pairs_source pairs_source(const csp_config *config, csp_image *image)
{
    const csp_data_settings *s = &config->data;

    return (csp_pairs_source) { .corpus = s->corpus,
                                .queries = s->queries,
                                .qrels = s->qrels,
                                .negatives = s->negatives,
                                .train = s->train,
                                .separator = config->model.title_separator,
                                .strict = s->strict,
                                .image = image };
}

/* Reads the files of the phases. */
static csp_status read_files(csp_step_source *d, csp_image *image)
{
    const csp_pairs_source source = pairs_source(d->config, image);
    const csp_data_settings *s = &d->config->data;
    const char *const *own = (const char *const *)s->text.values;
    const char *corpus[] = { s->corpus };
    const bool is_own = s->text.count > 0;

    if (csp_config_has_phase(d->config, "adapt")) {
        CSP_TRY(csp_plain_open(is_own ? own : corpus, is_own ? s->text.count : 1, s->strict,
                               d->config->model.title_separator, image, &d->plain));
    }
    return csp_config_has_phase(d->config, "contrastive") ? csp_pairs_open(&source, &d->pairs)
                                                          : CSP_OK;
}

/* What was read becomes that of all ranks of this machine. */
static csp_status visit(void *context, csp_image *image)
{
    csp_step_source *d = context;
    const csp_pairs_source source = pairs_source(d->config, image);

    if (csp_config_has_phase(d->config, "adapt")) {
        CSP_TRY(csp_plain_share(image, d->config->model.title_separator, &d->plain));
    }
    return csp_config_has_phase(d->config, "contrastive")
               ? csp_pairs_share(image, &source, &d->pairs)
               : CSP_OK;
}

/* Of what a step has by the settings, what the data does not give. */
static void say_what_is_filled(const csp_step_source *d, int64_t G)
{
    const int64_t queries = d->config->contrastive.batch.queries, count = csp_pairs_count(d->pairs);
    int64_t fewer = 0;

    for (int64_t i = 0; i < count; i++) {
        int64_t negatives;

        (void)csp_pairs_negatives(d->pairs, i, &negatives);
        fewer += negatives < G - 1;
    }
    if (fewer > 0) {
        csp_log(CSP_LOG_INFO, "data",
                "%lld of %lld queries have fewer negatives than the %lld that "
                "data.train_group_size asks for: the rest are documents drawn at random",
                (long long)fewer, (long long)count, (long long)G - 1);
    }
    if (queries > count) {
        csp_log(CSP_LOG_WARN, "data",
                "contrastive.batch.queries is %lld, but there are %lld queries to train on: some "
                "stand more than once in a step",
                (long long)queries, (long long)count);
    }
}

static csp_status prepare_pairs(csp_step_source *d, const csp_tokenizer *tokenizer)
{
    const int64_t Q = csp_step_source_span(d), G = d->config->data.train_group_size;
    const int64_t vocab = csp_tokenizer_vocab_size(tokenizer);
    char text[512];

    if (csp_join_is_clean(csp_pairs_report(d->pairs))) { /* else it has been warned of */
        csp_join_say(csp_pairs_report(d->pairs), text, sizeof(text));
        csp_log(CSP_LOG_INFO, "data", "%s", text);
    }
    say_what_is_filled(d, G);
    if (G > csp_pairs_documents(d->pairs)) {
        csp_log(CSP_LOG_WARN, "data",
                "data.train_group_size is %lld, but there are %lld documents: some stand more than "
                "once beside a query",
                (long long)G, (long long)csp_pairs_documents(d->pairs));
    }
    CSP_TRY(csp_token_cache_create(csp_pairs_count(d->pairs), vocab, CACHE_BYTES, &d->query_cache));
    CSP_TRY(csp_token_cache_create(csp_pairs_documents(d->pairs), vocab, CACHE_BYTES,
                                   &d->document_cache));
    CSP_TRY(csp_alloc("training data", Q, sizeof(*d->number), &d->number));
    return csp_alloc("training data", Q * G, sizeof(*d->column), &d->column);
}

/*
 * Under data.strict no text may lose its end, which only its tokens tell: all are counted before
 * the first step, about 5 MB of text a second, so that a run does not end on one in its last epoch.
 * The ranks share them out. An encoder of its own: what a run has read is counted elsewhere.
 */
static csp_status check_lengths(const csp_step_source *d, const csp_tokenizer *tokenizer)
{
    const csp_contract *contract = csp_text_encoder_contract(d->encoder);
    csp_text_encoder *encoder = NULL;
    csp_token_list ids = { 0 };
    csp_text_row row;
    csp_status status;

    CSP_TRY_GOTO(csp_text_encoder_create(contract, tokenizer, true, &encoder));
    for (int64_t i = d->rank; i < csp_pairs_count(d->pairs); i += d->ranks) {
        CSP_TRY_GOTO(csp_pairs_read_query(d->pairs, i, &row));
        CSP_TRY_GOTO(csp_text_encode(encoder, CSP_SIDE_QUERY, row.id, row.text, row.bytes, &ids));
    }
    for (int64_t i = d->rank; i < csp_pairs_documents(d->pairs); i += d->ranks) {
        CSP_TRY_GOTO(csp_pairs_read_document(d->pairs, i, &row));
        CSP_TRY_GOTO(csp_text_encode(encoder, CSP_SIDE_PASSAGE, row.id, row.text, row.bytes, &ids));
    }
    status = CSP_OK;

fail:
    csp_token_list_clear(&ids);
    csp_text_encoder_destroy(encoder);
    return status;
}

csp_status csp_train_data_open(const csp_config *config, const csp_contract *contract,
                               const csp_tokenizer *tokenizer, int rank, int ranks,
                               csp_comm *machine, csp_train_data **out)
{
    csp_train_data *d;
    csp_status status;

    CSP_TRY(csp_alloc_zero("training data", 1, sizeof(*d), &d));
    d->config = config;
    d->source = (csp_step_source) { .config = config,
                                    .rank = rank,
                                    .ranks = ranks,
                                    .group = csp_negative_group(config->contrastive.negative_blocks,
                                                                ranks) };
    CSP_TRY_GOTO(
        csp_text_encoder_create(contract, tokenizer, config->data.strict, &d->source.encoder));
    CSP_TRY_GOTO(csp_image_create(machine, &d->image));
    if (csp_image_reads(d->image)) {
        CSP_TRY_GOTO(read_files(&d->source, d->image));
    }
    CSP_TRY_GOTO(csp_image_share(d->image, visit, &d->source));
    if (d->source.plain != NULL) {
        csp_log(CSP_LOG_INFO, "data", "%lld texts to adapt on, %lld empty ones left out",
                (long long)csp_plain_count(d->source.plain),
                (long long)csp_plain_empty(d->source.plain));
    }
    if (d->source.pairs != NULL) {
        CSP_TRY_GOTO(prepare_pairs(&d->source, tokenizer));
        CSP_TRY_GOTO(config->data.strict ? check_lengths(&d->source, tokenizer) : CSP_OK);
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
    csp_train_data_end(d);
    csp_step_source_clear(&d->source);
    csp_image_destroy(d->image);
    csp_step_texts_clear(&d->own[0]);
    csp_step_texts_clear(&d->own[1]);
    free(d);
}

csp_status csp_train_data_begin(csp_train_data *d, const char *phase, int64_t first, int64_t end)
{
    const int64_t ahead = d->config->data.prefetch_factor;
    const bool adapt = strcmp(phase, "adapt") == 0;

    csp_train_data_end(d);
    return ahead > 0 && first < end
               ? csp_prefetch_create(&d->source, adapt, first, end, ahead, &d->prefetch)
               : CSP_OK;
}

void csp_train_data_end(csp_train_data *d)
{
    csp_prefetch_destroy(d->prefetch);
    d->prefetch = NULL;
}

/* Step k, from the thread where one runs. */
static csp_status take(csp_train_data *d, bool adapt, int64_t k, const csp_step_texts **out)
{
    csp_step_texts *own = &d->own[adapt ? 0 : 1];

    if (d->prefetch != NULL) {
        CSP_TRY(csp_prefetch_next(d->prefetch, k, out));
    } else {
        if (own->passage_text == NULL) {
            CSP_TRY(csp_step_texts_init(&d->source, adapt, own));
        }
        CSP_TRY(csp_step_texts_load(&d->source, adapt, k, own));
        *out = own;
    }
    d->used = (*out)->counts;
    return CSP_OK;
}

csp_status csp_train_data_pairs(csp_train_data *d, int64_t k, csp_contrastive_texts *out)
{
    const csp_step_texts *t;

    CSP_TRY(take(d, false, k, &t));
    *out = (csp_contrastive_texts) { .queries = &t->queries,
                                     .passages = &t->passages,
                                     .query_text = t->query_text,
                                     .passage_text = t->passage_text,
                                     .positive = t->positive,
                                     .mask = t->masked ? t->mask : NULL };
    return CSP_OK;
}

csp_status csp_train_data_plain(csp_train_data *d, int64_t k, const csp_token_lists **out,
                                const int64_t **text)
{
    const csp_step_texts *t;

    CSP_TRY(take(d, true, k, &t));
    *out = &t->plain;
    *text = t->passage_text;
    return CSP_OK;
}

const csp_text_store *csp_train_data_corpus(const csp_train_data *d)
{
    return d->source.pairs != NULL ? csp_pairs_corpus(d->source.pairs) : NULL;
}

csp_status csp_train_data_identity(const csp_train_data *d, csp_data_identity *out)
{
    csp_data_identity found = { 0 };

    if (d->source.pairs != NULL) {
        csp_pairs_digests digests;

        CSP_TRY(csp_pairs_digest(d->source.pairs, &digests));
        found.examples = csp_pairs_count(d->source.pairs);
        found.documents = csp_pairs_documents(d->source.pairs);
        memcpy(found.document_digest, digests.documents, sizeof(found.document_digest));
        memcpy(found.query_digest, digests.queries, sizeof(found.query_digest));
        memcpy(found.example_digest, digests.examples, sizeof(found.example_digest));
    }
    if (d->source.plain != NULL) {
        CSP_TRY(csp_plain_digest(d->source.plain, found.text_digest));
        found.texts = csp_plain_count(d->source.plain);
    }
    *out = found;
    return CSP_OK;
}

void csp_train_data_say(const csp_train_data *d, const char *phase)
{
    const csp_contract *contract = csp_text_encoder_contract(d->source.encoder);
    const csp_text_counts *queries = &d->used.query, *passages = &d->used.passage;
    const csp_text_counts *plain = &d->used.plain;
    const bool adapt = strcmp(phase, "adapt") == 0;
    char text[512];

    if (adapt && plain->texts > 0) {
        csp_text_counts_say(plain, "texts adapted on", (int32_t)d->config->adapt.max_len, text,
                            sizeof(text));
        csp_log(CSP_LOG_INFO, "data", "%s", text);
    }
    if (!adapt && queries->texts > 0) {
        csp_text_counts_say(queries, "queries read", contract->query_max_len, text, sizeof(text));
        csp_log(CSP_LOG_INFO, "data", "%s", text);
        csp_text_counts_say(passages, "documents read", contract->passage_max_len, text,
                            sizeof(text));
        csp_log(CSP_LOG_INFO, "data", "%s", text);
    }
}

/* pair_loader.c - draw, then for each text: from the cache, or read and encode. */
#include "data/pair_loader.h"

#include <stdlib.h>

#include "core/memory.h"

struct csp_pair_loader {
    csp_pairs *pairs;
    csp_text_encoder *encoder;
    csp_token_cache *cache[2]; /* by csp_side */
    csp_token_list ids;
};

csp_status csp_pair_loader_create(csp_pairs *pairs, csp_text_encoder *encoder, int64_t cache_bytes,
                                  csp_pair_loader **out)
{
    const int64_t vocabulary = csp_tokenizer_vocab_size(csp_text_encoder_tokenizer(encoder));
    csp_status status;
    csp_pair_loader *loader = NULL;

    CSP_TRY(csp_alloc_zero("pair loader", 1, sizeof(*loader), &loader));
    loader->pairs = pairs;
    loader->encoder = encoder;
    /* Queries are short and all come back once an epoch: a quarter is plenty for them. */
    CSP_TRY_GOTO(csp_token_cache_create(csp_pairs_count(pairs), vocabulary, cache_bytes / 4,
                                        &loader->cache[CSP_SIDE_QUERY]));
    CSP_TRY_GOTO(csp_token_cache_create(csp_pairs_documents(pairs), vocabulary,
                                        cache_bytes - cache_bytes / 4,
                                        &loader->cache[CSP_SIDE_PASSAGE]));
    *out = loader;
    return CSP_OK;

fail:
    csp_pair_loader_destroy(loader);
    return status;
}

void csp_pair_loader_destroy(csp_pair_loader *loader)
{
    if (loader == NULL) {
        return;
    }
    csp_token_cache_destroy(loader->cache[CSP_SIDE_QUERY]);
    csp_token_cache_destroy(loader->cache[CSP_SIDE_PASSAGE]);
    csp_token_list_clear(&loader->ids);
    free(loader);
}

void csp_pair_step_clear(csp_pair_step *step)
{
    csp_draw_list_clear(&step->drawn);
    csp_token_lists_clear(&step->queries);
    csp_token_lists_clear(&step->documents);
    *step = (csp_pair_step) { 0 };
}

/* Appends the tokens of a query (by example) or document (by key). */
static csp_status load_text(csp_pair_loader *loader, csp_side side, int64_t index,
                            csp_token_lists *lists)
{
    bool found = false;
    csp_text_row row;

    CSP_TRY(csp_token_cache_get(loader->cache[side], index, lists, &found));
    if (found) {
        return CSP_OK;
    }
    CSP_TRY(side == CSP_SIDE_QUERY ? csp_pairs_read_query(loader->pairs, index, &row)
                                   : csp_pairs_read_document(loader->pairs, index, &row));
    CSP_TRY(csp_text_encode(loader->encoder, side, row.id, row.text, row.bytes, &loader->ids));
    CSP_TRY(csp_token_lists_add(lists, loader->ids.ids, loader->ids.count));
    csp_token_cache_put(loader->cache[side], index, loader->ids.ids, loader->ids.count);
    return CSP_OK;
}

csp_status csp_pair_loader_load(csp_pair_loader *loader, const csp_sampling *sampling, int64_t step,
                                int64_t first, int64_t count, csp_pair_step *out)
{
    CSP_TRY(csp_pairs_draw(loader->pairs, sampling, step, first, count, &out->drawn));
    csp_token_lists_reset(&out->queries);
    csp_token_lists_reset(&out->documents);
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY(load_text(loader, CSP_SIDE_QUERY, out->drawn.example[i], &out->queries));
        for (int64_t g = 0; g < sampling->G; g++) {
            CSP_TRY(load_text(loader, CSP_SIDE_PASSAGE, out->drawn.document[i * sampling->G + g],
                              &out->documents));
        }
    }
    out->query_base = first;
    out->document_base = sampling->Q + first * sampling->G;
    return CSP_OK;
}

void csp_pair_loader_cached(const csp_pair_loader *loader, int64_t *bytes, int64_t *texts)
{
    *bytes = 0;
    *texts = 0;
    for (int side = 0; side < 2; side++) {
        *bytes += csp_token_cache_bytes(loader->cache[side]);
        *texts += csp_token_cache_held(loader->cache[side]);
    }
}

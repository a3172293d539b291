/* plain.c - several text stores read as one, visited in a counter-based order. */
#include "data/plain.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/rng.h"
#include "core/size.h"
#include "data/text_store.h"

#define SHUFFLE_KEY 1 /* CSP_DRAW_SHUFFLE with key 0 is the order of training pairs */

struct csp_plain {
    csp_text_store **stores;
    int64_t *first; /* ordinal of each store's first text; store_count + 1 */
    int64_t store_count;
    int64_t empty;
};

/* As all stores here are opened. */
static csp_texts_options options_of(const char *separator)
{
    return (csp_texts_options) {
        .side = CSP_SIDE_PASSAGE, .skip_empty = true, .without_ids = true, .separator = separator
    };
}

/* Without stores yet, for count of them. */
static csp_status create(int64_t count, csp_plain **out)
{
    csp_plain *plain = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("texts", 1, sizeof(*plain), &plain));
    CSP_TRY_GOTO(csp_alloc_zero("texts", count, sizeof(*plain->stores), &plain->stores));
    CSP_TRY_GOTO(csp_alloc_zero("texts", count + 1, sizeof(*plain->first), &plain->first));
    *out = plain;
    return CSP_OK;

fail:
    csp_plain_close(plain);
    return status;
}

csp_status csp_plain_open(const char *const *paths, int64_t count, bool strict,
                          const char *separator, csp_image *image, csp_plain **out)
{
    csp_texts_options options = options_of(separator);
    csp_status status;
    csp_plain *plain = NULL;

    if (count < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adaptation texts: no file is given");
    }
    options.strict = strict;
    options.image = image;
    CSP_TRY(create(count, &plain));
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY_GOTO(csp_text_store_open(paths[i], &options, &plain->stores[i]));
        plain->store_count = i + 1;
        plain->first[i + 1] = plain->first[i] + csp_text_store_count(plain->stores[i]);
        plain->empty += csp_text_store_empty(plain->stores[i]);
    }
    if (csp_plain_count(plain) == 0) {
        status = CSP_FAIL(CSP_ERR_DATA, "%s: holds no text", paths[0]);
        goto fail;
    }
    *out = plain;
    return CSP_OK;

fail:
    csp_plain_close(plain);
    return status;
}

void csp_plain_close(csp_plain *plain)
{
    if (plain == NULL) {
        return;
    }
    for (int64_t i = 0; i < plain->store_count; i++) {
        csp_text_store_close(plain->stores[i]);
    }
    free(plain->stores);
    free(plain->first);
    free(plain);
}

csp_status csp_plain_share(csp_image *image, const char *separator, csp_plain **out)
{
    const csp_texts_options options = options_of(separator);
    csp_plain *plain = *out;
    int64_t count = plain != NULL ? plain->store_count : 0;

    CSP_TRY(csp_image_value(image, &count, sizeof(count)));
    if (plain == NULL) {
        CSP_TRY(create(count, &plain));
        *out = plain;
        plain->store_count = count;
    }
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY(csp_text_store_share(image, &options, &plain->stores[i]));
        plain->first[i + 1] = plain->first[i] + csp_text_store_count(plain->stores[i]);
    }
    return csp_image_value(image, &plain->empty, sizeof(plain->empty));
}

int64_t csp_plain_count(const csp_plain *plain)
{
    return plain->first[plain->store_count];
}

int64_t csp_plain_empty(const csp_plain *plain)
{
    return plain->empty;
}

csp_status csp_plain_digest(const csp_plain *plain, char text[CSP_DIGEST_TEXT_BYTES])
{
    csp_digest *all = NULL;
    char one[CSP_DIGEST_TEXT_BYTES];

    CSP_TRY(csp_digest_create(&all));
    for (int64_t i = 0; i < plain->store_count; i++) {
        csp_text_store_digest(plain->stores[i], one);
        csp_digest_add(all, one, sizeof(one));
    }
    csp_digest_say(all, text);
    csp_digest_destroy(all);
    return CSP_OK;
}

csp_status csp_plain_read(csp_plain *plain, int64_t text, csp_text_row *row)
{
    int64_t store = 0;

    if (text < 0 || text >= csp_plain_count(plain)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adaptation texts: text %lld of %lld", (long long)text,
                        (long long)csp_plain_count(plain));
    }
    while (text >= plain->first[store + 1]) {
        store++; /* a handful of files: a walk is as good as a search */
    }
    return csp_text_store_read(plain->stores[store], text - plain->first[store], row);
}

int64_t csp_plain_text_of(const csp_plain *plain, const csp_plain_sampling *sampling, int64_t step,
                          int64_t i)
{
    const int64_t n = csp_plain_count(plain), p = step * sampling->texts + i;
    const csp_rng shuffle = { sampling->seed, CSP_DRAW_SHUFFLE, SHUFFLE_KEY, (uint64_t)(p / n) };

    if (sampling->in_order) {
        return p % n;
    }
    return (int64_t)csp_rng_permute(shuffle, (uint64_t)(p % n), (uint64_t)n);
}

int64_t csp_plain_bytes(const csp_plain *plain, int64_t text)
{
    int64_t store = 0;

    while (text >= plain->first[store + 1]) {
        store++;
    }
    return csp_text_store_bytes(plain->stores[store], text - plain->first[store]);
}

csp_status csp_plain_load(csp_plain *plain, csp_text_encoder *encoder,
                          const csp_plain_sampling *sampling, int64_t step, const int64_t *place,
                          int64_t count, csp_token_lists *lists)
{
    csp_status status = CSP_OK;
    csp_token_list ids = { 0 };
    int64_t last;

    if (sampling->texts < 1 || step < 0 || count < 0) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "adaptation texts: %lld of %lld, step %lld",
                        (long long)count, (long long)sampling->texts, (long long)step);
    }
    CSP_TRY(csp_size_mul("step x texts", step + 1, sampling->texts, &last));
    csp_token_lists_reset(lists);
    for (int64_t i = 0; i < count; i++) {
        csp_text_row row;

        if (place[i] < 0 || place[i] >= sampling->texts) {
            status = CSP_FAIL(CSP_ERR_ARGUMENT, "adaptation texts: place %lld of %lld",
                              (long long)place[i], (long long)sampling->texts);
            goto fail;
        }
        CSP_TRY_GOTO(
            csp_plain_read(plain, csp_plain_text_of(plain, sampling, step, place[i]), &row));
        CSP_TRY_GOTO(
            csp_text_encode_plain(encoder, sampling->max_len, NULL, row.text, row.bytes, &ids));
        CSP_TRY_GOTO(csp_token_lists_add(lists, ids.ids, ids.count));
    }

fail:
    csp_token_list_clear(&ids);
    return status;
}

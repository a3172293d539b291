/* text_encoder.c - prefix, tokenise, cut, BOS and EOS, count. */
#include "data/text_encoder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/text_row.h"

struct csp_text_encoder {
    const csp_contract *contract;
    const csp_tokenizer *tokenizer;
    bool strict;
    char *joined; /* prefix + text */
    int64_t room;
    csp_text_counts counts[2]; /* by csp_side */
    csp_text_counts plain;
};

void csp_text_counts_add(csp_text_counts *to, const csp_text_counts *from)
{
    to->texts += from->texts;
    to->empty += from->empty;
    to->truncated += from->truncated;
    to->longest = from->longest > to->longest ? from->longest : to->longest;
    to->tokens += from->tokens;
}

void csp_text_counts_say(const csp_text_counts *counts, const char *what, int32_t max_len,
                         char *text, size_t size)
{
    char empty[64] = "", cut[120] = "";

    if (counts->empty > 0) {
        (void)snprintf(empty, sizeof(empty), ", %lld empty", (long long)counts->empty);
    }
    if (counts->truncated > 0) {
        (void)snprintf(cut, sizeof(cut), ", %lld cut at %" PRId32 " tokens (longest %lld)",
                       (long long)counts->truncated, max_len, (long long)counts->longest);
    }
    (void)snprintf(text, size, "%lld %s, %lld tokens%s%s", (long long)counts->texts, what,
                   (long long)counts->tokens, empty, cut);
}

static csp_status check_special(const csp_tokenizer *tokenizer, bool used, int32_t id,
                                const char *name)
{
    const int64_t size = csp_tokenizer_vocab_size(tokenizer);

    if (used && (id < 0 || id >= size)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "the contract's %s is %" PRId32 ", not in the tokenizer's ids 0..%lld",
                        name, id, (long long)size - 1);
    }
    return CSP_OK;
}

csp_status csp_text_encoder_create(const csp_contract *contract, const csp_tokenizer *tokenizer,
                                   bool strict, csp_text_encoder **out)
{
    csp_text_encoder *encoder = NULL;

    CSP_TRY(check_special(tokenizer, contract->add_bos, contract->bos_id, "bos_id"));
    CSP_TRY(check_special(tokenizer, contract->append_eos, contract->eos_id, "eos_id"));
    CSP_TRY(csp_alloc_zero("text encoder", 1, sizeof(*encoder), &encoder));
    encoder->contract = contract;
    encoder->tokenizer = tokenizer;
    encoder->strict = strict;
    *out = encoder;
    return CSP_OK;
}

void csp_text_encoder_destroy(csp_text_encoder *encoder)
{
    if (encoder != NULL) {
        free(encoder->joined);
        free(encoder);
    }
}

/* prefix + text as one string; text itself where there is no prefix. */
static csp_status prepend(csp_text_encoder *encoder, const char *prefix, const char **text,
                          int64_t *bytes)
{
    const int64_t prefix_bytes = (int64_t)strlen(prefix), all = prefix_bytes + *bytes;

    if (prefix_bytes == 0) {
        return CSP_OK;
    }
    if (all > encoder->room) {
        CSP_TRY(csp_realloc("text encoder", all + all / 2, 1, &encoder->joined));
        encoder->room = all + all / 2;
    }
    memcpy(encoder->joined, prefix, (size_t)prefix_bytes);
    memcpy(encoder->joined + prefix_bytes, *text, (size_t)*bytes);
    *text = encoder->joined;
    *bytes = all;
    return CSP_OK;
}

/* BOS in front and EOS behind, as the contract says. */
static csp_status add_specials(const csp_contract *contract, csp_token_list *list)
{
    const int64_t bos = contract->add_bos ? 1 : 0, eos = contract->append_eos ? 1 : 0;
    const int64_t wanted = list->count + bos + eos;

    if (wanted > list->room) {
        CSP_TRY(csp_realloc("text encoder", wanted, sizeof(*list->ids), &list->ids));
        list->room = wanted;
    }
    if (bos != 0) {
        memmove(list->ids + 1, list->ids, (size_t)list->count * sizeof(*list->ids));
        list->ids[0] = contract->bos_id;
    }
    if (eos != 0) {
        list->ids[wanted - 1] = contract->eos_id;
    }
    list->count = wanted;
    return CSP_OK;
}

/* id in quotes, or "a text" where it has none. */
static const char *name_text(const char *id, char *name, size_t size)
{
    if (id == NULL) {
        return "a text";
    }
    (void)snprintf(name, size, "\"%.200s\"", id);
    return name;
}

static csp_status encode(csp_text_encoder *encoder, const char *prefix, int32_t max_len,
                         bool refuse_long, const char *id, const char *text, int64_t bytes,
                         csp_text_counts *counts, csp_token_list *out)
{
    char name[256];

    if (csp_text_is_empty(text, bytes)) {
        if (encoder->strict) {
            return CSP_FAIL(CSP_ERR_DATA, "%s has an empty text, which data.strict forbids",
                            name_text(id, name, sizeof(name)));
        }
        counts->texts++;
        counts->empty++;
        out->count = 0;
        return CSP_OK;
    }
    CSP_TRY(prepend(encoder, prefix, &text, &bytes));
    CSP_TRY(csp_tokenizer_encode(encoder->tokenizer, text, bytes, false, out));
    if (out->count > max_len && refuse_long) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s has %lld tokens with its prefix, more than the %" PRId32
                        " of the contract, which data.strict forbids",
                        name_text(id, name, sizeof(name)), (long long)out->count, max_len);
    }
    counts->texts++;
    counts->longest = out->count > counts->longest ? out->count : counts->longest;
    if (out->count > max_len) {
        counts->truncated++;
        out->count = max_len;
    }
    CSP_TRY(add_specials(encoder->contract, out));
    counts->tokens += out->count;
    return CSP_OK;
}

csp_status csp_text_encode(csp_text_encoder *encoder, csp_side side, const char *id,
                           const char *text, int64_t bytes, csp_token_list *out)
{
    return encode(encoder, csp_contract_prefix(encoder->contract, side),
                  csp_contract_max_len(encoder->contract, side), encoder->strict, id, text, bytes,
                  &encoder->counts[side], out);
}

csp_status csp_text_encode_plain(csp_text_encoder *encoder, int32_t max_len, const char *id,
                                 const char *text, int64_t bytes, csp_token_list *out)
{
    return encode(encoder, "", max_len, false, id, text, bytes, &encoder->plain, out);
}

const csp_text_counts *csp_text_encoder_counts(const csp_text_encoder *encoder, csp_side side)
{
    return &encoder->counts[side];
}

const csp_text_counts *csp_text_encoder_plain_counts(const csp_text_encoder *encoder)
{
    return &encoder->plain;
}

const csp_contract *csp_text_encoder_contract(const csp_text_encoder *encoder)
{
    return encoder->contract;
}

const csp_tokenizer *csp_text_encoder_tokenizer(const csp_text_encoder *encoder)
{
    return encoder->tokenizer;
}

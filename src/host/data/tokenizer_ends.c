/*
 * tokenizer_ends.c - reads "post_processor" (ids in front of and behind a text) and "decoder" of a
 * tokenizer.json.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"

enum { STRIP_LIMIT = 1 << 20 };

/* Appends the ids that a template's special token stands for. */
static csp_status add_template_ids(const csp_tokenizer *t, const char *where, const json_t *tokens,
                                   const json_t *special, csp_token_list *out)
{
    const json_t *token, *ids;
    const char *name;

    CSP_TRY(csp_json_text(where, special, "id", &name));
    token = json_object_get(tokens, name);
    if (token == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: the template uses \"%.100s\", which is not among its "
                        "special_tokens",
                        where, name);
    }
    CSP_TRY(csp_json_array(where, token, "ids", &ids));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *value = json_array_get(ids, i);
        const int64_t id = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;

        if (id < 0 || id >= t->size) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%.100s\" stands for an id outside 0..%lld",
                            where, name, (long long)t->size - 1);
        }
        CSP_TRY(csp_token_list_add(out, (int32_t)id));
    }
    return CSP_OK;
}

/* The two halves of a template around its one Sequence A. */
static csp_status read_template(const csp_tokenizer *t, const char *where, const json_t *object,
                                csp_token_list *front, csp_token_list *back)
{
    static const char *const keys[] = { "single", "pair", "special_tokens", NULL };
    const json_t *tokens = json_object_get(object, "special_tokens");
    const json_t *single;
    int sequences = 0;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(csp_json_array(where, object, "single", &single));
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        const json_t *sequence = json_object_get(item, "Sequence");

        if (special != NULL) {
            CSP_TRY(add_template_ids(t, where, tokens, special, sequences == 0 ? front : back));
        } else if (sequence != NULL) {
            const char *which;

            CSP_TRY(csp_json_text(where, sequence, "id", &which));
            if (strcmp(which, "A") != 0) {
                return CSP_FAIL(CSP_ERR_FORMAT,
                                "%s: the template of a single text has sequence \"%.20s\", not A",
                                where, which);
            }
            sequences++;
        } else {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: member %zu of \"single\" is neither a SpecialToken "
                            "nor a Sequence",
                            where, i);
        }
    }
    if (sequences != 1) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s: a template with %d sequences for a single text is "
                        "not supported",
                        where, sequences);
    }
    return CSP_OK;
}

/* A later template goes around what earlier ones made. */
static csp_status load_template(csp_tokenizer *t, const char *where, const json_t *object)
{
    csp_token_list front = { 0 }, back = { 0 };
    csp_status status = read_template(t, where, object, &front, &back);

    for (int64_t i = 0; status == CSP_OK && i < t->prefix.count; i++) {
        status = csp_token_list_add(&front, t->prefix.ids[i]);
    }
    for (int64_t i = 0; status == CSP_OK && i < back.count; i++) {
        status = csp_token_list_add(&t->suffix, back.ids[i]);
    }
    if (status == CSP_OK) {
        const csp_token_list old = t->prefix;

        t->prefix = front;
        front = old;
    }
    csp_token_list_clear(&front);
    csp_token_list_clear(&back);
    return status;
}

static csp_status load_processor(csp_tokenizer *t, const char *where, const json_t *object,
                                 const char *type)
{
    static const char *const byte_keys[] = { "add_prefix_space", "trim_offsets", "use_regex",
                                             NULL };

    if (strcmp(type, "TemplateProcessing") == 0) {
        return load_template(t, where, object);
    }
    if (strcmp(type, "ByteLevel") == 0) { /* it moves offsets only, and there are none here */
        return csp_json_only_keys(where, object, byte_keys);
    }
    return csp_unknown_type(where, type);
}

csp_status csp_load_post_processor(csp_tokenizer *tokenizer, const json_t *root)
{
    const json_t *object = json_object_get(root, "post_processor");
    char where[300];

    (void)snprintf(where, sizeof(where), "%.200s: post_processor", tokenizer->name);
    return object == NULL || json_is_null(object)
               ? CSP_OK
               : csp_load_steps(tokenizer, where, object, "processors", load_processor);
}

/* Members of one decoder step whose kind is set. */
static csp_status load_decode_members(const char *where, const json_t *object,
                                      csp_decode_step *step)
{
    static const char *const keys_of[][6] = {
        [CSP_DECODE_BYTE_LEVEL] = { "add_prefix_space", "trim_offsets", "use_regex", NULL },
        [CSP_DECODE_METASPACE] = { "replacement", "add_prefix_space", "prepend_scheme", "split",
                                   "str_rep", NULL },
        [CSP_DECODE_REPLACE] = { "pattern", "content", NULL },
        [CSP_DECODE_BYTE_FALLBACK] = { NULL },
        [CSP_DECODE_FUSE] = { NULL },
        [CSP_DECODE_STRIP] = { "content", "start", "stop", NULL },
    };
    const json_t *scheme = json_object_get(object, "prepend_scheme");
    const char *text;
    bool add;

    CSP_TRY(csp_json_only_keys(where, object, keys_of[step->kind]));
    switch (step->kind) {
    case CSP_DECODE_METASPACE:
        CSP_TRY(csp_json_char(where, object, "replacement", step->mark));
        CSP_TRY(csp_json_bool(where, object, "add_prefix_space", true, &add));
        step->drop_first = scheme == NULL ? add
                                          : !json_is_string(scheme) ||
                                                strcmp(json_string_value(scheme), "never") != 0;
        return CSP_OK;
    case CSP_DECODE_REPLACE:
        CSP_TRY(csp_json_text(where, object, "content", &text));
        CSP_TRY(csp_strdup(where, text, &step->content));
        return csp_json_pattern(where, object, "pattern", &step->pattern);
    case CSP_DECODE_STRIP:
        CSP_TRY(csp_json_char(where, object, "content", step->mark));
        CSP_TRY(csp_json_int(where, object, "start", 0, STRIP_LIMIT, &step->start));
        return csp_json_int(where, object, "stop", 0, STRIP_LIMIT, &step->stop);
    default:
        return CSP_OK;
    }
}

static csp_status load_decode(csp_tokenizer *t, const char *where, const json_t *object,
                              const char *type)
{
    static const char *const types[] = {
        [CSP_DECODE_BYTE_LEVEL] = "ByteLevel",
        [CSP_DECODE_METASPACE] = "Metaspace",
        [CSP_DECODE_REPLACE] = "Replace",
        [CSP_DECODE_BYTE_FALLBACK] = "ByteFallback",
        [CSP_DECODE_FUSE] = "Fuse",
        [CSP_DECODE_STRIP] = "Strip",
    };

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(type, types[i]) == 0) {
            CSP_TRY(csp_realloc(where, t->decode_count + 1, sizeof(*t->decodes), &t->decodes));
            t->decodes[t->decode_count] = (csp_decode_step) { .kind = (csp_decode_kind)i };
            t->decode_count++;
            return load_decode_members(where, object, &t->decodes[t->decode_count - 1]);
        }
    }
    return csp_unknown_type(where, type);
}

csp_status csp_load_decoder(csp_tokenizer *tokenizer, const json_t *root)
{
    const json_t *object = json_object_get(root, "decoder");
    char where[300];

    (void)snprintf(where, sizeof(where), "%.200s: decoder", tokenizer->name);
    tokenizer->joined_by_spaces = object == NULL || json_is_null(object);
    return tokenizer->joined_by_spaces
               ? CSP_OK
               : csp_load_steps(tokenizer, where, object, "decoders", load_decode);
}

/*
 * tokenizer_model.c - reads the "model" of a tokenizer.json (BPE: vocabulary and merges) and its
 * "added_tokens".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"

/* Ids at and above this are refused: no published vocabulary has a sixteenth of it. */
enum { ID_LIMIT = 1 << 22 };

static csp_status load_vocab(csp_tokenizer *t, const char *where, const json_t *vocab)
{
    const char *token;
    json_t *value;

    if (!json_is_object(vocab) || json_object_size(vocab) == 0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"vocab\" is missing, empty or not an object", where);
    }
    json_object_foreach((json_t *)vocab, token, value)
    {
        const int64_t id = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;

        if (id < 0 || id >= ID_LIMIT) {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: the id of token \"%.100s\" is not an integer in "
                            "0..%d",
                            where, token, ID_LIMIT - 1);
        }
        CSP_TRY(csp_string_table_add(&t->vocab, token, (int64_t)strlen(token), (int32_t)id));
        t->size = id >= t->size ? id + 1 : t->size;
    }
    return CSP_OK;
}

static int32_t find_token(const csp_tokenizer *t, const char *token)
{
    return csp_string_table_find(&t->vocab, token, (int64_t)strlen(token));
}

/* Both sides of a merge: ["a","b"] or "a b", joined in *out with the length of the left side. */
static csp_status read_merge(const char *where, int64_t index, const json_t *merge,
                             csp_text_buffer *out, int64_t *left_bytes)
{
    const char *left = json_string_value(json_array_get(merge, 0));
    const char *right = json_string_value(json_array_get(merge, 1));
    const char *both = json_string_value(merge);

    out->count = 0;
    if (both != NULL) {
        const char *space = strchr(both, ' ');

        if (space != NULL && strchr(space + 1, ' ') == NULL) {
            *left_bytes = space - both;
            CSP_TRY(csp_text_buffer_add(out, both, *left_bytes));
            return csp_text_buffer_add(out, space + 1, (int64_t)strlen(space + 1));
        }
    } else if (json_array_size(merge) == 2 && left != NULL && right != NULL) {
        *left_bytes = (int64_t)strlen(left);
        CSP_TRY(csp_text_buffer_add(out, left, *left_bytes));
        return csp_text_buffer_add(out, right, (int64_t)strlen(right));
    }
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: merge %lld is neither \"a b\" nor [\"a\", \"b\"]", where,
                    (long long)index);
}

static csp_status load_merge(csp_tokenizer *t, const char *where, int64_t index, int64_t rank,
                             const json_t *merge, csp_text_buffer *text)
{
    int64_t left_bytes, right_bytes;
    int32_t left, right, whole;

    CSP_TRY(read_merge(where, index, merge, text, &left_bytes));
    right_bytes = text->count - left_bytes;
    left = csp_string_table_find(&t->vocab, text->bytes, left_bytes);
    right = csp_string_table_find(&t->vocab, text->bytes + left_bytes, right_bytes);
    whole = csp_string_table_find(&t->vocab, text->bytes, text->count);
    if (left < 0 || right < 0 || whole < 0) {
        const char *missing = left < 0 ? text->bytes : text->bytes + left_bytes;
        const int64_t bytes = left < 0 ? left_bytes : right_bytes;
        const bool parts = left < 0 || right < 0;

        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: merge %lld names \"%.*s\", which is not in the "
                        "vocabulary",
                        where, (long long)index,
                        (int)((parts ? bytes : text->count) > 100 ? 100
                              : parts                             ? bytes
                                                                  : text->count),
                        parts ? missing : text->bytes);
    }
    csp_merge_table_set(&t->merges, left, right, (int32_t)rank, whole);
    return CSP_OK;
}

static csp_status load_merges(csp_tokenizer *t, const char *where, const json_t *model)
{
    csp_text_buffer text = { 0 };
    const json_t *merges;
    csp_status status;
    int64_t rank = 0, count;

    CSP_TRY(csp_json_array(where, model, "merges", &merges));
    count = (int64_t)json_array_size(merges);
    if (count > ID_LIMIT) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %lld merges, above the limit %d", where,
                        (long long)count, ID_LIMIT);
    }
    CSP_TRY(csp_text_buffer_reserve(&text, 64));
    CSP_TRY_GOTO(csp_merge_table_create(count, &t->merges));
    for (int64_t i = 0; i < count; i++) {
        const json_t *merge = json_array_get(merges, (size_t)i);

        if (json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0) {
            continue; /* the first line of a merges.txt */
        }
        CSP_TRY_GOTO(load_merge(t, where, i, rank, merge, &text));
        rank++;
    }
    status = CSP_OK;

fail:
    csp_text_buffer_clear(&text);
    return status;
}

/* Ids of the byte symbols and of "<0xHH>". */
static void find_byte_ids(csp_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char text[8];
        const int bytes = csp_utf8_write(csp_byte_to_char((unsigned char)b), text);

        t->byte_ids[b] = csp_string_table_find(&t->vocab, text, bytes);
        (void)snprintf(text, sizeof(text), "<0x%02X>", (unsigned)b);
        t->fallback_ids[b] = find_token(t, text);
    }
}

/* Members that must be absent, null, or what they are when switched off. */
static csp_status refuse_model_options(const char *where, const json_t *model)
{
    static const char *const texts[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const json_t *dropout = json_object_get(model, "dropout");

    if (dropout != NULL && !json_is_null(dropout) &&
        !(json_is_number(dropout) && json_number_value(dropout) == 0.0)) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: \"dropout\" is not supported", where);
    }
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const json_t *value = json_object_get(model, texts[i]);

        if (value != NULL && !json_is_null(value) &&
            !(json_is_string(value) && json_string_length(value) == 0)) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: \"%s\" is not supported", where, texts[i]);
        }
    }
    return CSP_OK;
}

static csp_status load_bpe(csp_tokenizer *t, const char *where, const json_t *model)
{
    static const char *const keys[] = { "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL };
    const json_t *type = json_object_get(model, "type");
    const json_t *unk = json_object_get(model, "unk_token");

    if (!json_is_object(model)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s is missing or not an object", where);
    }
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0)) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s is of type %.40s, csplade reads BPE", where,
                        json_is_string(type) ? json_string_value(type) : "?");
    }
    CSP_TRY(csp_json_only_keys(where, model, keys));
    CSP_TRY(refuse_model_options(where, model));
    CSP_TRY(csp_json_bool(where, model, "fuse_unk", false, &t->fuse_unk));
    CSP_TRY(csp_json_bool(where, model, "byte_fallback", false, &t->byte_fallback));
    CSP_TRY(csp_json_bool(where, model, "ignore_merges", false, &t->ignore_merges));
    CSP_TRY(load_vocab(t, where, json_object_get(model, "vocab")));
    CSP_TRY(load_merges(t, where, model));
    find_byte_ids(t);
    if (unk != NULL && !json_is_null(unk)) {
        const char *text;

        CSP_TRY(csp_json_text(where, model, "unk_token", &text));
        CSP_TRY(csp_strdup(where, text, &t->unk_token));
        t->unk_id = find_token(t, text);
    }
    return CSP_OK;
}

/*
 * The id of an added token is in the file, but Hugging Face numbers by its own rule: the
 * vocabulary's id if it has one, else one more than what there is. A file where the two differ is
 * refused.
 */
static csp_status check_added_id(const csp_tokenizer *t, const char *where,
                                 const csp_added_token *added, int64_t expected)
{
    const int32_t known = find_token(t, added->content);
    const int64_t right = known >= 0 ? known : expected;

    if (csp_string_table_find(&t->added_vocab, added->content, (int64_t)strlen(added->content)) >=
        0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%.100s\" is there twice", where, added->content);
    }
    if (added->id != right) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%.100s\" has id %d, but %s %lld", where,
                        added->content, added->id,
                        known >= 0 ? "the vocabulary says" : "the next free id is",
                        (long long)right);
    }
    return CSP_OK;
}

static csp_status load_added_token(csp_tokenizer *t, const char *where, const json_t *object,
                                   int64_t *highest)
{
    static const char *const keys[] = { "id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL };
    csp_added_token *added = &t->added[t->added_count];
    const int64_t entries = t->vocab.count;
    const char *content;
    int64_t id;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(csp_json_text(where, object, "content", &content));
    CSP_TRY(csp_json_int(where, object, "id", 0, ID_LIMIT - 1, &id));
    CSP_TRY(csp_json_bool(where, object, "special", false, &added->special));
    CSP_TRY(csp_json_bool(where, object, "single_word", false, &added->single_word));
    CSP_TRY(csp_json_bool(where, object, "lstrip", false, &added->lstrip));
    CSP_TRY(csp_json_bool(where, object, "rstrip", false, &added->rstrip));
    CSP_TRY(csp_json_bool(where, object, "normalized", !added->special, &added->normalized));
    if (content[0] == '\0') {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: id %lld is an empty token", where, (long long)id);
    }
    CSP_TRY(csp_strdup(where, content, &added->content));
    added->id = (int32_t)id;
    t->added_count++;
    CSP_TRY(check_added_id(t, where, added, *highest >= entries ? *highest + 1 : entries));
    *highest = id > *highest ? id : *highest;
    t->size = id >= t->size ? id + 1 : t->size;
    return csp_string_table_add(&t->added_vocab, content, (int64_t)strlen(content), (int32_t)id);
}

static csp_status load_added(csp_tokenizer *t, const char *where, const json_t *root)
{
    const json_t *list = json_object_get(root, "added_tokens");
    const int64_t count = (int64_t)json_array_size(list);
    int64_t highest = -1;

    if (list == NULL || json_is_null(list)) {
        return CSP_OK;
    }
    if (!json_is_array(list) || count > ID_LIMIT) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s is not an array of at most %d tokens", where, ID_LIMIT);
    }
    CSP_TRY(csp_alloc_zero(where, count, sizeof(*t->added), &t->added));
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY(load_added_token(t, where, json_array_get(list, (size_t)i), &highest));
    }
    return CSP_OK;
}

static csp_status name_ids(csp_tokenizer *t, const char *where)
{
    CSP_TRY(csp_alloc_zero(where, t->size, sizeof(*t->tokens), &t->tokens));
    CSP_TRY(csp_alloc_zero(where, t->size, sizeof(*t->special), &t->special));
    for (int64_t i = 0; i < t->vocab.count; i++) {
        const csp_string_entry *entry = &t->vocab.entries[i];

        if (t->tokens[entry->id] != NULL) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: id %d belongs to both \"%.80s\" and \"%.80s\"",
                            where, entry->id, t->tokens[entry->id],
                            t->vocab.text.bytes + entry->at);
        }
        t->tokens[entry->id] = t->vocab.text.bytes + entry->at;
    }
    for (int64_t i = 0; i < t->added_count; i++) {
        const csp_added_token *added = &t->added[i];
        const char *token = t->tokens[added->id];

        if (token != NULL && strcmp(token, added->content) != 0) {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: id %d belongs to both \"%.80s\" and the added "
                            "token \"%.80s\"",
                            where, added->id, token, added->content);
        }
        t->tokens[added->id] = added->content;
        t->special[added->id] = added->special;
    }
    return CSP_OK;
}

csp_status csp_load_model(csp_tokenizer *tokenizer, const json_t *root)
{
    char where[300];

    (void)snprintf(where, sizeof(where), "%.200s: model", tokenizer->name);
    CSP_TRY(load_bpe(tokenizer, where, json_object_get(root, "model")));
    (void)snprintf(where, sizeof(where), "%.200s: added_tokens", tokenizer->name);
    CSP_TRY(load_added(tokenizer, where, root));
    (void)snprintf(where, sizeof(where), "%.200s: model", tokenizer->name);
    return name_ids(tokenizer, where);
}

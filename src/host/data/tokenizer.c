/* tokenizer.c - opening, closing and asking a tokenizer; a text's way through the stages. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"
#include "io/file.h"
#include "io/lines.h"

/* Of a tokenizer.json, uncompressed; the largest published ones have about 40 MB. */
#define FILE_LIMIT ((int64_t)1 << 28)

csp_status csp_scratch_create(csp_scratch **out)
{
    csp_scratch *scratch;
    csp_status status;

    CSP_TRY(csp_alloc_zero("tokenizer", 1, sizeof(*scratch), &scratch));
    CSP_TRY_GOTO(csp_alloc_zero("tokenizer cache", CSP_CACHE_SLOTS, sizeof(*scratch->cache),
                                &scratch->cache));
    CSP_TRY_GOTO(csp_matcher_init(&scratch->matcher));
    *out = scratch;
    return CSP_OK;

fail:
    csp_scratch_destroy(scratch);
    return status;
}

void csp_scratch_destroy(csp_scratch *scratch)
{
    if (scratch == NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        csp_text_buffer_clear(&scratch->normal[i]);
        csp_text_buffer_clear(&scratch->pretext[i]);
        free(scratch->pieces[i].pieces);
    }
    free(scratch->matches.pieces);
    csp_text_buffer_clear(&scratch->mapped);
    free(scratch->chars);
    free(scratch->marks);
    free(scratch->symbols);
    csp_heap_clear(&scratch->merges);
    free(scratch->cache);
    csp_matcher_clear(&scratch->matcher);
    free(scratch);
}

/* A scratch of its own for the calling thread: from those given back, or a new one. */
static csp_status take_scratch(const csp_tokenizer *tokenizer, csp_scratch **out)
{
    csp_scratch_pool *pool = tokenizer->pool;
    csp_scratch *scratch;

    (void)pthread_mutex_lock(&pool->lock);
    scratch = pool->free;
    if (scratch != NULL) {
        pool->free = scratch->next;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    if (scratch == NULL) {
        return csp_scratch_create(out);
    }
    *out = scratch;
    return CSP_OK;
}

static void give_scratch(const csp_tokenizer *tokenizer, csp_scratch *scratch)
{
    csp_scratch_pool *pool = tokenizer->pool;

    (void)pthread_mutex_lock(&pool->lock);
    scratch->next = pool->free;
    pool->free = scratch;
    (void)pthread_mutex_unlock(&pool->lock);
}

static csp_status create_pool(csp_scratch_pool **out)
{
    csp_scratch_pool *pool;

    CSP_TRY(csp_alloc_zero("tokenizer", 1, sizeof(*pool), &pool));
    if (pthread_mutex_init(&pool->lock, NULL) != 0) {
        free(pool);
        return CSP_FAIL(CSP_ERR_MEMORY, "tokenizer: no memory for a lock");
    }
    *out = pool;
    return CSP_OK;
}

static void destroy_pool(csp_scratch_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    while (pool->free != NULL) {
        csp_scratch *scratch = pool->free;

        pool->free = scratch->next;
        csp_scratch_destroy(scratch);
    }
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void csp_tokenizer_close(csp_tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    for (int64_t i = 0; i < tokenizer->added_count; i++) {
        free(tokenizer->added[i].content);
        free(tokenizer->added[i].normal);
    }
    for (int64_t i = 0; i < tokenizer->normal_count; i++) {
        csp_pattern_clear(&tokenizer->normals[i].pattern);
        free(tokenizer->normals[i].content);
    }
    for (int64_t i = 0; i < tokenizer->presplit_count; i++) {
        csp_pattern_clear(&tokenizer->presplits[i].pattern);
    }
    for (int64_t i = 0; i < tokenizer->decode_count; i++) {
        csp_pattern_clear(&tokenizer->decodes[i].pattern);
        free(tokenizer->decodes[i].content);
    }
    csp_string_table_clear(&tokenizer->vocab);
    csp_string_table_clear(&tokenizer->added_vocab);
    csp_trie_clear(&tokenizer->raw_trie);
    csp_trie_clear(&tokenizer->normal_trie);
    csp_token_list_clear(&tokenizer->prefix);
    csp_token_list_clear(&tokenizer->suffix);
    destroy_pool(tokenizer->pool);
    free(tokenizer->merges.slots);
    free(tokenizer->added);
    free(tokenizer->normals);
    free(tokenizer->presplits);
    free(tokenizer->decodes);
    free(tokenizer->tokens);
    free(tokenizer->decoded);
    free(tokenizer->special);
    free(tokenizer->unk_token);
    free(tokenizer->source);
    free(tokenizer->name);
    free(tokenizer);
}

/* Puts an added token into the trie of the text it is looked for in. */
static csp_status place_added(csp_tokenizer *t, csp_scratch *scratch, int32_t index)
{
    csp_added_token *added = &t->added[index];
    const char *text = added->content;
    int64_t bytes = (int64_t)strlen(text);
    bool first = true;

    if (!added->normalized) {
        return csp_trie_add(&t->raw_trie, text, bytes, index);
    }
    CSP_TRY(csp_normalize(t, scratch, &text, &bytes, &first));
    CSP_TRY(csp_alloc(t->name, bytes + 1, 1, &added->normal));
    if (bytes > 0) {
        memcpy(added->normal, text, (size_t)bytes);
    }
    added->normal[bytes] = '\0';
    t->decoded[added->id] = added->normal;
    return csp_trie_add(&t->normal_trie, added->normal, bytes, index);
}

/* Of two added tokens that normalizing makes equal, a special one comes first. */
static csp_status place_all_added(csp_tokenizer *t)
{
    csp_scratch *scratch;
    csp_status status = CSP_OK;

    CSP_TRY(csp_alloc("tokenizer", t->size, sizeof(*t->decoded), &t->decoded));
    memcpy(t->decoded, t->tokens, (size_t)t->size * sizeof(*t->decoded));
    CSP_TRY(take_scratch(t, &scratch));
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < t->added_count && status == CSP_OK; i++) {
            if (t->added[i].special == (pass == 0)) {
                status = place_added(t, scratch, (int32_t)i);
            }
        }
    }
    give_scratch(t, scratch);
    return status;
}

static csp_status load_root(csp_tokenizer *t, const json_t *root)
{
    static const char *const keys[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL
    };
    static const char *const unwanted[] = { "truncation", "padding" };
    const json_t *version = json_object_get(root, "version");

    CSP_TRY(csp_json_only_keys(t->name, root, keys));
    if (version != NULL &&
        (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0)) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: \"version\" is not \"1.0\"", t->name);
    }
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(root, unwanted[i]);

        if (value != NULL && !json_is_null(value)) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                            "%s: \"%s\" must be null: lengths are settings of "
                            "the model, not of its tokenizer",
                            t->name, unwanted[i]);
        }
    }
    CSP_TRY(csp_load_model(t, root));
    CSP_TRY(csp_load_normalizer(t, root));
    CSP_TRY(csp_load_pre_tokenizer(t, root));
    CSP_TRY(csp_load_post_processor(t, root));
    CSP_TRY(csp_load_decoder(t, root));
    return place_all_added(t);
}

/* Takes over source, also on failure. */
static csp_status load(char *source, int64_t bytes, const char *name, csp_tokenizer **out)
{
    csp_tokenizer *t = NULL;
    json_t *root = NULL;
    json_error_t error;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc_zero("tokenizer", 1, sizeof(*t), &t));
    t->unk_id = -1;
    t->source = source;
    t->source_bytes = bytes;
    source = NULL;
    CSP_TRY_GOTO(csp_strdup("tokenizer", name, &t->name));
    CSP_TRY_GOTO(create_pool(&t->pool));
    root = json_loadb(t->source, (size_t)bytes, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s:%d: not a JSON file that can be read: %s", name,
                          error.line, error.text);
        goto fail;
    }
    CSP_TRY_GOTO(load_root(t, root));
    json_decref(root);
    *out = t;
    return CSP_OK;

fail:
    json_decref(root);
    csp_tokenizer_close(t);
    free(source);
    return status;
}

csp_status csp_tokenizer_from_text(const char *json, int64_t bytes, const char *name,
                                   csp_tokenizer **out)
{
    char *copy;

    if (bytes < 0 || bytes > FILE_LIMIT) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: %lld bytes are more than a tokenizer.json may have (%lld)", name,
                        (long long)bytes, (long long)FILE_LIMIT);
    }
    CSP_TRY(csp_alloc("tokenizer", bytes + 1, 1, &copy));
    memcpy(copy, json, (size_t)bytes);
    copy[bytes] = '\0';
    return load(copy, bytes, name, out);
}

/* The text of a gzip file, line by line: JSON strings hold no line ends. */
static csp_status read_compressed(const char *path, csp_text_buffer *text)
{
    csp_lines *lines;
    csp_status status;
    char *line;
    int64_t bytes;

    CSP_TRY(csp_lines_open(path, &lines));
    for (;;) {
        CSP_TRY_GOTO(csp_lines_next(lines, &line, &bytes));
        if (line == NULL) {
            break;
        }
        if (text->count + bytes > FILE_LIMIT) {
            status =
                CSP_FAIL(CSP_ERR_FORMAT, "%s: larger than a tokenizer.json may be (%lld bytes)",
                         path, (long long)FILE_LIMIT);
            goto fail;
        }
        CSP_TRY_GOTO(csp_text_buffer_add(text, line, bytes));
        CSP_TRY_GOTO(csp_text_buffer_add(text, "\n", 1));
    }
fail:
    csp_lines_close(lines);
    return status;
}

static csp_status open_file(const char *path, csp_tokenizer **out)
{
    csp_text_buffer text = { 0 };
    csp_status status;

    CSP_TRY(csp_file_read(path, FILE_LIMIT, &text.bytes, &text.count));
    if (text.count >= 2 && memcmp(text.bytes, "\x1F\x8B", 2) == 0) {
        csp_text_buffer_clear(&text);
        status = read_compressed(path, &text);
        if (status != CSP_OK) {
            csp_text_buffer_clear(&text);
            return status;
        }
    }
    return load(text.bytes, text.count, path, out);
}

csp_status csp_tokenizer_open(const char *path, csp_tokenizer **out)
{
    char *inside;
    csp_status status;

    if (!csp_file_is_dir(path)) {
        return open_file(path, out);
    }
    CSP_TRY(csp_file_join(path, "tokenizer.json", &inside));
    status = open_file(inside, out);
    free(inside);
    return status;
}

csp_status csp_tokenizer_save(const csp_tokenizer *tokenizer, const char *path)
{
    return csp_file_write(path, tokenizer->source, tokenizer->source_bytes);
}

int64_t csp_tokenizer_vocab_size(const csp_tokenizer *tokenizer)
{
    return tokenizer->size;
}

const char *csp_tokenizer_token(const csp_tokenizer *tokenizer, int64_t id)
{
    return id >= 0 && id < tokenizer->size ? tokenizer->tokens[id] : NULL;
}

bool csp_tokenizer_is_special(const csp_tokenizer *tokenizer, int64_t id)
{
    return id >= 0 && id < tokenizer->size && tokenizer->special[id];
}

int32_t csp_tokenizer_id(const csp_tokenizer *tokenizer, const char *token)
{
    const int64_t bytes = (int64_t)strlen(token);
    const int32_t added = csp_string_table_find(&tokenizer->added_vocab, token, bytes);

    return added >= 0 ? added : csp_string_table_find(&tokenizer->vocab, token, bytes);
}

const char *csp_tokenizer_source(const csp_tokenizer *tokenizer, int64_t *bytes)
{
    *bytes = tokenizer->source_bytes;
    return tokenizer->source;
}

/* Text between added tokens that is already normalized. */
static csp_status encode_normalized(const csp_tokenizer *t, csp_scratch *scratch, bool first,
                                    const char *text, int64_t bytes, csp_token_list *out)
{
    const csp_piece_list *pieces;

    CSP_TRY(csp_presplit_text(t, scratch, first, &text, bytes, &pieces));
    for (int64_t i = 0; i < pieces->count; i++) {
        const csp_piece *piece = &pieces->pieces[i];

        CSP_TRY(csp_bpe_encode(t, scratch, text + piece->begin, piece->end - piece->begin, out));
    }
    return CSP_OK;
}

/* Text as given, between added tokens that are looked for before normalizing. */
static csp_status encode_raw(const csp_tokenizer *t, csp_scratch *scratch, bool first,
                             const char *text, int64_t bytes, csp_token_list *out)
{
    csp_added_walk walk = { 0 };

    CSP_TRY(csp_normalize(t, scratch, &text, &bytes, &first));
    while (csp_added_next(t, &t->normal_trie, text, bytes, &walk)) {
        if (walk.token >= 0) {
            CSP_TRY(csp_token_list_add(out, t->added[walk.token].id));
        } else {
            CSP_TRY(encode_normalized(t, scratch, first && walk.begin == 0, text + walk.begin,
                                      walk.end - walk.begin, out));
        }
    }
    return CSP_OK;
}

static csp_status encode_text(const csp_tokenizer *t, csp_scratch *scratch, const char *text,
                              int64_t bytes, bool special, csp_token_list *out)
{
    csp_added_walk walk = { 0 };

    for (int64_t i = 0; special && i < t->prefix.count; i++) {
        CSP_TRY(csp_token_list_add(out, t->prefix.ids[i]));
    }
    while (csp_added_next(t, &t->raw_trie, text, bytes, &walk)) {
        if (walk.token >= 0) {
            CSP_TRY(csp_token_list_add(out, t->added[walk.token].id));
        } else {
            CSP_TRY(encode_raw(t, scratch, walk.begin == 0, text + walk.begin,
                               walk.end - walk.begin, out));
        }
    }
    for (int64_t i = 0; special && i < t->suffix.count; i++) {
        CSP_TRY(csp_token_list_add(out, t->suffix.ids[i]));
    }
    return CSP_OK;
}

csp_status csp_tokenizer_encode(const csp_tokenizer *tokenizer, const char *text, int64_t bytes,
                                bool special, csp_token_list *out)
{
    csp_scratch *scratch;
    csp_status status;
    int64_t bad;

    out->count = 0;
    if (bytes < 0 || bytes > CSP_TEXT_LIMIT) {
        return CSP_FAIL(CSP_ERR_DATA, "a text of %lld bytes is above the limit of %lld",
                        (long long)bytes, (long long)CSP_TEXT_LIMIT);
    }
    if (!csp_utf8_is_valid(text, bytes, &bad)) {
        return CSP_FAIL(CSP_ERR_DATA, "the text is not UTF-8 at byte %lld", (long long)bad);
    }
    CSP_TRY(take_scratch(tokenizer, &scratch));
    status = encode_text(tokenizer, scratch, text, bytes, special, out);
    give_scratch(tokenizer, scratch);
    if (status != CSP_OK) {
        out->count = 0;
    }
    return status;
}

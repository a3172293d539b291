/*
 * tokenizer_stages.c - reads "normalizer" and "pre_tokenizer" of a tokenizer.json into flat lists
 * of steps: a Sequence is its members one after another.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"

/* The pattern of ByteLevel with use_regex: GPT-2's. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Makes room for one more step and hands it out cleared; it counts from now on. */
static csp_status new_normal(csp_tokenizer *t, csp_normal_kind kind, csp_normal **out)
{
    CSP_TRY(csp_realloc("normalizers", t->normal_count + 1, sizeof(**out), &t->normals));
    *out = &t->normals[t->normal_count++];
    **out = (csp_normal) { .kind = kind };
    return CSP_OK;
}

static csp_status new_presplit(csp_tokenizer *t, csp_presplit_kind kind, csp_presplit **out)
{
    CSP_TRY(csp_realloc("pre-tokenizers", t->presplit_count + 1, sizeof(**out), &t->presplits));
    *out = &t->presplits[t->presplit_count++];
    **out = (csp_presplit) { .kind = kind, .behavior = CSP_SPLIT_ISOLATED };
    return CSP_OK;
}

static csp_status load_replace(csp_tokenizer *t, const char *where, const json_t *object)
{
    static const char *const keys[] = { "pattern", "content", NULL };
    csp_normal *step;
    const char *content;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(csp_json_text(where, object, "content", &content));
    CSP_TRY(new_normal(t, CSP_NORMAL_REPLACE, &step));
    CSP_TRY(csp_strdup(where, content, &step->content));
    return csp_json_pattern(where, object, "pattern", &step->pattern);
}

static csp_status load_strip(csp_tokenizer *t, const char *where, const json_t *object)
{
    static const char *const keys[] = { "strip_left", "strip_right", NULL };
    csp_normal *step;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(new_normal(t, CSP_NORMAL_STRIP, &step));
    CSP_TRY(csp_json_bool(where, object, "strip_left", true, &step->left));
    return csp_json_bool(where, object, "strip_right", true, &step->right);
}

static csp_status load_prepend(csp_tokenizer *t, const char *where, const json_t *object)
{
    static const char *const keys[] = { "prepend", NULL };
    csp_normal *step;
    const char *content;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(csp_json_text(where, object, "prepend", &content));
    CSP_TRY(new_normal(t, CSP_NORMAL_PREPEND, &step));
    return csp_strdup(where, content, &step->content);
}

static csp_status load_normal(csp_tokenizer *t, const char *where, const json_t *object,
                              const char *type)
{
    static const struct {
        const char *type;
        int options;
    } forms[] = {
        { "NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE },
        { "NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE },
        { "NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT },
        { "NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT },
    };
    static const char *const no_keys[] = { NULL };
    csp_normal *step;

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (strcmp(type, forms[i].type) == 0) {
            CSP_TRY(csp_json_only_keys(where, object, no_keys));
            CSP_TRY(new_normal(t, CSP_NORMAL_FORM, &step));
            step->form = forms[i].options;
            return CSP_OK;
        }
    }
    if (strcmp(type, "Lowercase") == 0) {
        CSP_TRY(csp_json_only_keys(where, object, no_keys));
        return new_normal(t, CSP_NORMAL_LOWERCASE, &step);
    }
    if (strcmp(type, "Prepend") == 0) {
        return load_prepend(t, where, object);
    }
    if (strcmp(type, "Replace") == 0) {
        return load_replace(t, where, object);
    }
    return strcmp(type, "Strip") == 0 ? load_strip(t, where, object)
                                      : csp_unknown_type(where, type);
}

csp_status csp_load_normalizer(csp_tokenizer *tokenizer, const json_t *root)
{
    const json_t *object = json_object_get(root, "normalizer");
    char where[300];

    (void)snprintf(where, sizeof(where), "%.200s: normalizer", tokenizer->name);
    return object == NULL || json_is_null(object)
               ? CSP_OK
               : csp_load_steps(tokenizer, where, object, "normalizers", load_normal);
}

static csp_status load_behavior(const char *where, const json_t *object, csp_split_behavior *out)
{
    static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious",
                                         "MergedWithNext", "Contiguous" };
    const char *text;

    CSP_TRY(csp_json_text(where, object, "behavior", &text));
    for (int i = 0; i < 5; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (csp_split_behavior)i;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: there is no behavior \"%.60s\"", where, text);
}

static csp_status load_split(csp_tokenizer *t, const char *where, const json_t *object)
{
    static const char *const keys[] = { "pattern", "behavior", "invert", NULL };
    csp_presplit *step;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(new_presplit(t, CSP_PRESPLIT_PATTERN, &step));
    CSP_TRY(load_behavior(where, object, &step->behavior));
    CSP_TRY(csp_json_bool(where, object, "invert", false, &step->invert));
    return csp_json_pattern(where, object, "pattern", &step->pattern);
}

static csp_status load_byte_level(csp_tokenizer *t, const char *where, const json_t *object)
{
    static const char *const keys[] = { "add_prefix_space", "trim_offsets", "use_regex", NULL };
    csp_presplit *step;
    bool prefix, regex;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(csp_json_bool(where, object, "add_prefix_space", false, &prefix));
    CSP_TRY(csp_json_bool(where, object, "use_regex", true, &regex));
    t->byte_level = true;
    if (prefix) {
        CSP_TRY(new_presplit(t, CSP_PRESPLIT_PREFIX_SPACE, &step));
    }
    if (regex) {
        CSP_TRY(new_presplit(t, CSP_PRESPLIT_PATTERN, &step));
        CSP_TRY(csp_pattern_regex(where, gpt2_pattern, &step->pattern));
    }
    return CSP_OK;
}

static csp_status load_prepend_scheme(const char *where, const json_t *object,
                                      csp_prepend_scheme *out)
{
    static const char *const names[] = { "always", "first", "never" };
    bool add;
    const char *text;

    /* Older files say add_prefix_space, newer ones prepend_scheme, some both. */
    CSP_TRY(csp_json_bool(where, object, "add_prefix_space", true, &add));
    if (json_object_get(object, "prepend_scheme") == NULL) {
        *out = add ? CSP_PREPEND_ALWAYS : CSP_PREPEND_NEVER;
        return CSP_OK;
    }
    CSP_TRY(csp_json_text(where, object, "prepend_scheme", &text));
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            if (!add && i != CSP_PREPEND_NEVER) {
                return CSP_FAIL(CSP_ERR_FORMAT,
                                "%s: add_prefix_space false contradicts "
                                "prepend_scheme \"%s\"",
                                where, text);
            }
            *out = (csp_prepend_scheme)i;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: there is no prepend_scheme \"%.60s\"", where, text);
}

/* "First" asks where a piece began in the original text; some normalizers make that unknowable. */
static csp_status check_first(const csp_tokenizer *t, const char *where)
{
    bool blurred = t->presplit_count > 1 && t->normal_count > 0;

    for (int64_t i = 0; i < t->normal_count; i++) {
        blurred = blurred || t->normals[i].kind == CSP_NORMAL_PREPEND;
    }
    if (blurred) {
        return CSP_FAIL(
            CSP_ERR_UNSUPPORTED,
            "%s: Metaspace with prepend_scheme \"first\" is not "
            "supported behind Prepend, or behind a normalizer and another pre-tokenizer",
            where);
    }
    return CSP_OK;
}

static csp_status load_metaspace(csp_tokenizer *t, const char *where, const json_t *object)
{
    static const char *const keys[] = { "replacement", "add_prefix_space", "prepend_scheme",
                                        "split",       "str_rep",          NULL };
    csp_presplit *step;

    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(new_presplit(t, CSP_PRESPLIT_METASPACE, &step));
    CSP_TRY(csp_json_char(where, object, "replacement", step->mark));
    CSP_TRY(load_prepend_scheme(where, object, &step->prepend));
    CSP_TRY(csp_json_bool(where, object, "split", true, &step->split));
    return step->prepend == CSP_PREPEND_FIRST ? check_first(t, where) : CSP_OK;
}

/*
 * The word characters of Whitespace, as in csp_char_is_word: less than Oniguruma's \w by the
 * numbers that are no digits (superscripts, fractions), more by the joiners.
 */
#define WORD                                                                                      \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}" \
    "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

/* The pre-tokenizers that are a fixed pattern. */
static csp_status load_fixed(csp_tokenizer *t, const char *where, const json_t *object,
                             const char *type)
{
    static const struct {
        const char *type;
        const char *pattern;
        csp_split_behavior behavior;
        bool invert;
    } fixed[] = {
        { "Whitespace", "[" WORD "]+|[^" WORD "\\s]+", CSP_SPLIT_REMOVED, true },
        { "WhitespaceSplit", "\\s", CSP_SPLIT_REMOVED, false },
        { "Digits", "\\p{N}", CSP_SPLIT_CONTIGUOUS, false },
    };
    static const char *const no_keys[] = { NULL };
    static const char *const digit_keys[] = { "individual_digits", NULL };
    csp_presplit *step;
    size_t i = 0;
    bool single;

    while (i < 3 && strcmp(type, fixed[i].type) != 0) {
        i++;
    }
    if (i == 3) {
        return csp_unknown_type(where, type);
    }
    CSP_TRY(csp_json_only_keys(where, object, i == 2 ? digit_keys : no_keys));
    CSP_TRY(csp_json_bool(where, object, "individual_digits", false, &single));
    CSP_TRY(new_presplit(t, CSP_PRESPLIT_PATTERN, &step));
    step->behavior = single ? CSP_SPLIT_ISOLATED : fixed[i].behavior;
    step->invert = fixed[i].invert;
    return csp_pattern_regex(where, fixed[i].pattern, &step->pattern);
}

static csp_status load_presplit(csp_tokenizer *t, const char *where, const json_t *object,
                                const char *type)
{
    if (t->byte_level) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: %.60s behind ByteLevel is not supported", where,
                        type);
    }
    if (strcmp(type, "Split") == 0) {
        return load_split(t, where, object);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return load_byte_level(t, where, object);
    }
    if (strcmp(type, "Metaspace") == 0) {
        return load_metaspace(t, where, object);
    }
    return load_fixed(t, where, object, type);
}

/* Whether "▁" occurs in the token behind another character. */
static bool has_inner_mark(const char *token, const char *mark)
{
    const size_t bytes = strlen(mark);

    while (strncmp(token, mark, bytes) == 0) {
        token += bytes;
    }
    return strstr(token, mark) != NULL;
}

/* Whether a character without a token leaves nothing behind, so that its neighbours meet. */
static bool characters_can_vanish(const csp_tokenizer *t)
{
    bool vanish = !t->byte_fallback;

    for (int b = 0; b < 256 && !vanish; b++) {
        vanish = t->fallback_ids[b] < 0;
    }
    return vanish && t->unk_token == NULL;
}

/*
 * SentencePiece-type files give BPE a whole text as one piece. Where no token of the vocabulary
 * holds "▁" behind another character, no merge reaches across such a place, and cutting there
 * changes nothing but the speed: the pieces become words, and words are found in the cache.
 */
static csp_status add_word_split(csp_tokenizer *t)
{
    static const char mark[] = "\xE2\x96\x81";
    csp_presplit *step;

    if (t->byte_level || t->ignore_merges || characters_can_vanish(t) ||
        csp_string_table_find(&t->vocab, mark, (int64_t)strlen(mark)) < 0) {
        return CSP_OK;
    }
    for (int64_t i = 0; i < t->vocab.count; i++) {
        if (has_inner_mark(t->vocab.text.bytes + t->vocab.entries[i].at, mark)) {
            return CSP_OK;
        }
    }
    CSP_TRY(new_presplit(t, CSP_PRESPLIT_WORDS, &step));
    memcpy(step->mark, mark, sizeof(mark));
    return CSP_OK;
}

csp_status csp_load_pre_tokenizer(csp_tokenizer *tokenizer, const json_t *root)
{
    const json_t *object = json_object_get(root, "pre_tokenizer");
    char where[300];

    (void)snprintf(where, sizeof(where), "%.200s: pre_tokenizer", tokenizer->name);
    if (object != NULL && !json_is_null(object)) {
        CSP_TRY(csp_load_steps(tokenizer, where, object, "pretokenizers", load_presplit));
    }
    return add_word_split(tokenizer);
}

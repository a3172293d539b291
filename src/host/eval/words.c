/*
 * words.c - cuts text at everything that is no letter, digit or underscore (Unicode categories),
 * and remembers for each word form the term it stands for, so that each form is stemmed once.
 */
#include "eval/words.h"

#include "core/memory.h"
#include "data/id_table.h"

#include <libstemmer.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Lucene's English stop words, sorted. */
static const char *const stop_words[] = {
    "a",   "an",    "and",  "are",   "as",    "at",   "be",   "but", "by",  "for",  "if",
    "in",  "into",  "is",   "it",    "no",    "not",  "of",   "on",  "or",  "such", "that",
    "the", "their", "then", "there", "these", "they", "this", "to",  "was", "will", "with",
};

/* A longer run of letters is no word of a language: it is taken as it is, unstemmed. */
enum { LONGEST_STEMMED = 255 };

struct csp_words {
    struct sb_stemmer *stemmer;
    csp_id_table *form; /* word forms as they occur, in lower case          */
    int32_t *form_term; /* [forms] term of a form, -1 for a stop word       */
    int64_t form_capacity;
    csp_id_table *term;
};

/* One word form, in lower case, growing. */
typedef struct form_text {
    char *bytes;
    int64_t count;
    int64_t capacity;
    int64_t letters;
} form_text;

csp_status csp_words_create(csp_words **out)
{
    csp_words *words;
    csp_status status;

    CSP_TRY(csp_alloc_zero("words", 1, sizeof(*words), &words));
    words->stemmer = sb_stemmer_new("english", "UTF_8");
    if (words->stemmer == NULL) {
        status = CSP_FAIL(CSP_ERR_MEMORY, "words: no memory for the English stemmer");
        goto fail;
    }
    CSP_TRY_GOTO(csp_id_table_create(&words->form));
    CSP_TRY_GOTO(csp_id_table_create(&words->term));
    *out = words;
    return CSP_OK;

fail:
    csp_words_destroy(words);
    return status;
}

void csp_words_destroy(csp_words *words)
{
    if (words == NULL) {
        return;
    }
    sb_stemmer_delete(words->stemmer);
    csp_id_table_destroy(words->form);
    csp_id_table_destroy(words->term);
    free(words->form_term);
    free(words);
}

int64_t csp_words_count(const csp_words *words)
{
    return csp_id_table_count(words->term);
}

/* What \w matches in Python: letters, numbers of every kind, underscore; marks are none. */
static bool is_word_character(int32_t c)
{
    if (c < 128) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
               (c >= 'A' && c <= 'Z');
    }
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return false;
    }
}

static csp_status grow(const char *what, int64_t needed, size_t size, int64_t *capacity,
                       void *block)
{
    const int64_t wanted = needed < 64 ? 64 : needed + needed / 2;

    if (needed > *capacity) {
        CSP_TRY(csp_realloc(what, wanted, size, block));
        *capacity = wanted;
    }
    return CSP_OK;
}

/* Reads the next word form of text from *at on, in lower case; letters 0 at the end of the text. */
static csp_status next_form(const char *text, int64_t bytes, int64_t *at, form_text *form)
{
    form->count = 0;
    form->letters = 0;
    while (*at < bytes) {
        int32_t c = (unsigned char)text[*at];
        int64_t length = 1;

        if (c >= 128) {
            length = utf8proc_iterate((const utf8proc_uint8_t *)text + *at, bytes - *at, &c);
            if (length < 1) {
                length = 1; /* a bad byte separates */
                c = ' ';
            }
        }
        *at += length;
        if (!is_word_character(c)) {
            if (form->letters >= 2) {
                return CSP_OK;
            }
            form->count = 0;
            form->letters = 0;
            continue;
        }
        c = c >= 128 ? utf8proc_tolower(c) : c >= 'A' && c <= 'Z' ? c + 32 : c;
        CSP_TRY(grow("a word", form->count + 4, 1, &form->capacity, &form->bytes));
        form->count += utf8proc_encode_char(c, (utf8proc_uint8_t *)form->bytes + form->count);
        form->letters++;
    }
    if (form->letters < 2) {
        form->letters = 0;
    }
    return CSP_OK;
}

static int compare_stop_word(const void *key, const void *entry)
{
    const form_text *form = key;
    const char *word = *(const char *const *)entry;
    const int order = strncmp(form->bytes, word, (size_t)form->count);

    return order != 0 ? order : word[form->count] == '\0' ? 0 : -1;
}

static bool is_stop_word(const form_text *form)
{
    return bsearch(form, stop_words, sizeof(stop_words) / sizeof(stop_words[0]),
                   sizeof(stop_words[0]), compare_stop_word) != NULL;
}

/* The term of a form that was not met before, -1 for a stop word. */
static csp_status term_of_new_form(csp_words *words, const form_text *form, int32_t *out)
{
    const char *stem = form->bytes;
    int64_t bytes = form->count, index;
    bool is_new;

    if (is_stop_word(form)) {
        *out = -1;
        return CSP_OK;
    }
    if (form->count <= LONGEST_STEMMED) {
        stem = (const char *)sb_stemmer_stem(words->stemmer, (const sb_symbol *)form->bytes,
                                             (int)form->count);
        if (stem == NULL) {
            return CSP_FAIL(CSP_ERR_MEMORY, "words: no memory to stem a word");
        }
        bytes = sb_stemmer_length(words->stemmer);
    }
    CSP_TRY(csp_id_table_add(words->term, stem, bytes, &index, &is_new));
    *out = (int32_t)index; /* an id table refuses more than 2^31-1 */
    return CSP_OK;
}

static csp_status learn_form(csp_words *words, const form_text *form, int32_t *out)
{
    int64_t index = csp_id_table_find(words->form, form->bytes, form->count);
    bool is_new;

    if (index < 0) {
        int32_t term;

        CSP_TRY(term_of_new_form(words, form, &term));
        CSP_TRY(grow("words", csp_id_table_count(words->form) + 1, sizeof(*words->form_term),
                     &words->form_capacity, &words->form_term));
        CSP_TRY(csp_id_table_add(words->form, form->bytes, form->count, &index, &is_new));
        words->form_term[index] = term;
    }
    *out = words->form_term[index];
    return CSP_OK;
}

/*
 * A form that the collection does not have may still have a known stem. A stemmer keeps a buffer,
 * so a query has its own: words stays const, and several threads may look words up.
 */
static int32_t find_form(const csp_words *words, struct sb_stemmer *stemmer, const form_text *form)
{
    const int64_t index = csp_id_table_find(words->form, form->bytes, form->count);
    const sb_symbol *stem;

    if (index >= 0) {
        return words->form_term[index];
    }
    if (is_stop_word(form) || form->count > LONGEST_STEMMED) {
        return -1;
    }
    stem = sb_stemmer_stem(stemmer, (const sb_symbol *)form->bytes, (int)form->count);
    return stem == NULL ? -1
                        : (int32_t)csp_id_table_find(words->term, (const char *)stem,
                                                     sb_stemmer_length(stemmer));
}

static csp_status append(csp_word_list *list, int32_t term)
{
    if (term >= 0) {
        CSP_TRY(grow("words", list->count + 1, sizeof(*list->term), &list->capacity, &list->term));
        list->term[list->count++] = term;
    }
    return CSP_OK;
}

csp_status csp_words_learn(csp_words *words, const char *text, int64_t bytes, csp_word_list *list)
{
    form_text form = { 0 };
    csp_status status = CSP_OK;
    int64_t at = 0;

    list->count = 0;
    do {
        int32_t term = -1;

        CSP_TRY_GOTO(next_form(text, bytes, &at, &form));
        if (form.letters > 0) {
            CSP_TRY_GOTO(learn_form(words, &form, &term));
            CSP_TRY_GOTO(append(list, term));
        }
    } while (form.letters > 0);

fail:
    free(form.bytes);
    return status;
}

csp_status csp_words_look_up(const csp_words *words, const char *text, int64_t bytes,
                             csp_word_list *list)
{
    struct sb_stemmer *stemmer = sb_stemmer_new("english", "UTF_8");
    form_text form = { 0 };
    csp_status status = CSP_OK;
    int64_t at = 0;

    if (stemmer == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "words: no memory for the English stemmer");
    }
    list->count = 0;
    do {
        CSP_TRY_GOTO(next_form(text, bytes, &at, &form));
        if (form.letters > 0) {
            CSP_TRY_GOTO(append(list, find_form(words, stemmer, &form)));
        }
    } while (form.letters > 0);

fail:
    sb_stemmer_delete(stemmer);
    free(form.bytes);
    return status;
}

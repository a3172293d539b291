/*
 * words.h - the words of a text as BM25 sees them: lower case, no stop words, stemmed, numbered.
 */
#pragma once

#include "core/status.h"

/* Word forms met so far, each stemmed once, and the terms they stand for. */
typedef struct csp_words csp_words;

/* Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_words_create(csp_words **out);
void csp_words_destroy(csp_words *words);

/* Terms so far; they are numbered from 0 in order of first appearance. */
int64_t csp_words_count(const csp_words *words);

/* A growing list of term numbers. Starts as { 0 }; the owner frees term. */
typedef struct csp_word_list {
    int32_t *term;
    int64_t count;
    int64_t capacity;
} csp_word_list;

/*
 * Replaces the content of list by the terms of a text, in its order, repetitions included; new
 * terms are added. Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_words_learn(csp_words *words, const char *text, int64_t bytes,
                                       csp_word_list *list);

/* As csp_words_learn, but words is left alone and unknown terms are left out. */
CSP_CHECKED csp_status csp_words_look_up(const csp_words *words, const char *text, int64_t bytes,
                                         csp_word_list *list);

/* search_print.c - strongest terms and hits on stdout, with what is known of the documents. */
#include "cli/search_print.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/corpus.h"

enum { SNIPPET_BYTES = 160 };

struct csp_snippets {
    const char **id; /* [count] sorted, borrowed from the ranking */
    char **text;     /* [count] NULL: not in the collection       */
    int64_t count;
};

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int64_t find_id(const csp_snippets *s, const char *id)
{
    const char **found = bsearch(&id, s->id, (size_t)s->count, sizeof(*s->id), compare_ids);

    return found != NULL ? found - s->id : -1;
}

/* The start of a text on one line: at most SNIPPET_BYTES, cut between characters. */
static csp_status make_snippet(const csp_text_row *row, char **out)
{
    int64_t bytes = row->bytes < SNIPPET_BYTES ? row->bytes : SNIPPET_BYTES;
    const bool cut = bytes < row->bytes;
    char *text = NULL;

    while (cut && bytes > 0 && ((unsigned char)row->text[bytes] & 0xC0) == 0x80) {
        bytes--;
    }
    CSP_TRY(csp_alloc("search", bytes + 4, 1, &text));
    for (int64_t i = 0; i < bytes; i++) {
        /* Control characters of a stranger's text must not reach the terminal. */
        text[i] = iscntrl((unsigned char)row->text[i]) ? ' ' : row->text[i];
    }
    memcpy(text + bytes, cut ? "..." : "", cut ? 4 : 1);
    *out = text;
    return CSP_OK;
}

static csp_status collect_ids(const csp_trec *trec, csp_snippets *s)
{
    int64_t total = 0;

    for (int64_t q = 0; q < trec->count; q++) {
        total += trec->queries[q].count;
    }
    CSP_TRY(csp_alloc("search", total, sizeof(*s->id), &s->id));
    CSP_TRY(csp_alloc_zero("search", total, sizeof(*s->text), &s->text));
    for (int64_t q = 0; q < trec->count; q++) {
        for (int64_t i = 0; i < trec->queries[q].count; i++) {
            s->id[s->count++] = trec->queries[q].rows[i].doc_id;
        }
    }
    if (total > 1) {
        qsort((void *)s->id, (size_t)total, sizeof(*s->id), compare_ids);
    }
    return CSP_OK;
}

csp_status csp_snippets_read(const char *path, const csp_ranking *ranking, csp_snippets **out)
{
    const csp_texts_options how = { .side = CSP_SIDE_PASSAGE };
    csp_snippets *s = NULL;
    csp_texts *texts = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("search", 1, sizeof(*s), &s));
    CSP_TRY_GOTO(collect_ids(&ranking->trec, s));
    CSP_TRY_GOTO(csp_texts_open(path, &how, &texts));
    for (;;) {
        csp_text_row row = { NULL, NULL, 0 };
        int64_t at;

        CSP_TRY_GOTO(csp_texts_next(texts, &row));
        if (row.text == NULL) {
            break;
        }
        at = s->count > 0 ? find_id(s, row.id) : -1;
        if (at >= 0 && s->text[at] == NULL) {
            CSP_TRY_GOTO(make_snippet(&row, &s->text[at]));
        }
    }
    csp_texts_close(texts);
    *out = s;
    return CSP_OK;

fail:
    csp_texts_close(texts);
    csp_snippets_free(s);
    return status;
}

void csp_snippets_free(csp_snippets *snippets)
{
    if (snippets == NULL) {
        return;
    }
    for (int64_t i = 0; snippets->text != NULL && i < snippets->count; i++) {
        free(snippets->text[i]);
    }
    free(snippets->text);
    free((void *)snippets->id);
    free(snippets);
}

/* One term and its weight, for sorting. */
typedef struct weighted_term {
    int32_t term;
    float weight;
} weighted_term;

static int compare_weights(const void *a, const void *b)
{
    const weighted_term *x = a, *y = b;

    if (x->weight != y->weight) {
        return x->weight > y->weight ? -1 : 1;
    }
    return x->term - y->term;
}

static bool is_in_text(const csp_token_list *own, int32_t term)
{
    for (int64_t i = 0; i < own->count; i++) {
        if (own->ids[i] == term) {
            return true;
        }
    }
    return false;
}

/* The token as a reader sees it: without blanks around it, quoted if nothing would be left. */
static csp_status print_term(const csp_answer *a, const weighted_term *t, const csp_token_list *own)
{
    char *text = NULL;
    int64_t bytes = 0, first = 0;

    CSP_TRY(csp_tokenizer_decode(a->tokenizer, &t->term, 1, &text, &bytes));
    while (first < bytes && text[first] == ' ') {
        first++;
    }
    for (int64_t i = first; i < bytes; i++) {
        text[i] = iscntrl((unsigned char)text[i]) ? '?' : text[i];
    }
    if (first == bytes) {
        printf("  [%d]", t->term);
    } else {
        printf("  %.*s", (int)(bytes - first), text + first);
    }
    printf("%s %.2f", is_in_text(own, t->term) ? "*" : "", (double)t->weight);
    free(text);
    return CSP_OK;
}

static csp_status print_terms(const csp_answer *a)
{
    const csp_vectors *v = a->vectors;
    const int64_t begin = v->row_ptr[a->row], count = v->row_ptr[a->row + 1] - begin;
    csp_token_list own = { NULL, 0, 0 };
    weighted_term *terms = NULL;
    csp_status status;

    CSP_TRY(csp_alloc("search", count, sizeof(*terms), &terms));
    CSP_TRY_GOTO(
        csp_tokenizer_encode(a->tokenizer, a->text, (int64_t)strlen(a->text), false, &own));
    for (int64_t i = 0; i < count; i++) {
        terms[i] = (weighted_term) { v->term[begin + i], v->weight[begin + i] };
    }
    qsort(terms, (size_t)count, sizeof(*terms), compare_weights);
    printf("terms");
    for (int64_t i = 0; i < count && i < a->terms; i++) {
        CSP_TRY_GOTO(print_term(a, &terms[i], &own));
    }
    printf("%s\n", count > a->terms ? "  ..." : count == 0 ? "  none" : "");

fail:
    csp_token_list_clear(&own);
    free(terms);
    return status;
}

csp_status csp_answer_print(const csp_answer *answer, const csp_snippets *snippets)
{
    printf("query  %s\n", answer->text);
    if (answer->terms > 0) {
        CSP_TRY(print_terms(answer));
    }
    for (int64_t i = 0; i < answer->hits->count; i++) {
        const csp_trec_row *hit = &answer->hits->rows[i];
        const int64_t at = snippets != NULL ? find_id(snippets, hit->doc_id) : -1;

        printf("%4lld  %9.4f  %s%s%s\n", (long long)i + 1, hit->value, hit->doc_id,
               at >= 0 ? "  " : "",
               at >= 0 && snippets->text[at] != NULL ? snippets->text[at] : "");
    }
    if (answer->hits->count == 0) {
        printf("      no document shares a term with the query\n");
    }
    return CSP_OK;
}

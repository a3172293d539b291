/* join_report.c - counting and wording of what did not join. */
#include "data/join_report.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void csp_missing_add(csp_missing *missing, const char *id)
{
    if (missing->named < CSP_MISSING_NAMED) {
        char *name = missing->first[missing->named];
        const size_t size = sizeof(missing->first[0]);
        bool is_new = true;
        size_t bytes = strlen(id);

        if (bytes >= size) {
            bytes = size - 1;
            while (bytes > 0 && ((unsigned char)id[bytes] & 0xC0) == 0x80) {
                bytes--; /* never cut inside a UTF-8 character */
            }
        }
        memcpy(name, id, bytes);
        name[bytes] = '\0';
        for (int64_t i = 0; i < missing->named; i++) {
            is_new = is_new && strcmp(missing->first[i], name) != 0;
        }
        missing->named += is_new ? 1 : 0;
    }
    missing->count++;
}

bool csp_join_is_clean(const csp_join_report *r)
{
    return r->unknown_queries.count == 0 && r->unknown_positives.count == 0 &&
           r->unknown_negatives.count == 0 && r->without_positive.count == 0 &&
           r->differing.count == 0;
}

/* Text that fills up and then stays as it is. */
typedef struct writer {
    char *text;
    size_t size, used;
} writer;

static void CSP_PRINTF(2, 3) add(writer *w, const char *format, ...)
{
    va_list list;
    int wanted;

    if (w->used + 1 >= w->size) {
        return;
    }
    va_start(list, format);
    wanted = vsnprintf(w->text + w->used, w->size - w->used, format, list);
    va_end(list);
    w->used =
        wanted < 0 || w->used + (size_t)wanted >= w->size ? w->size - 1 : w->used + (size_t)wanted;
}

static void say_missing(writer *w, const csp_missing *missing, const char *what)
{
    if (missing->count == 0) {
        return;
    }
    add(w, "; %s: %lld (", what, (long long)missing->count);
    for (int64_t i = 0; i < missing->named; i++) {
        add(w, "%s%s", i > 0 ? ", " : "", missing->first[i]);
    }
    add(w, "%s)", missing->count > missing->named ? ", ..." : "");
}

void csp_join_say(const csp_join_report *r, char *text, size_t size)
{
    writer w = { text, size, 0 };

    if (size == 0) {
        return;
    }
    text[0] = '\0';
    add(&w, "queries to train on: %lld, documents: %lld, positives: %lld, negatives: %lld",
        (long long)r->examples, (long long)r->documents, (long long)r->positives,
        (long long)r->negatives);
    say_missing(&w, &r->unknown_queries, "query ids not among the queries");
    say_missing(&w, &r->unknown_positives, "positives not in the corpus");
    say_missing(&w, &r->unknown_negatives, "negatives not in the corpus");
    say_missing(&w, &r->without_positive, "queries left out for want of a positive");
    say_missing(&w, &r->differing, "passages that came again with another text");
    if (r->not_relevant > 0) {
        add(&w, "; judgements of 0 or less, no positives: %lld", (long long)r->not_relevant);
    }
    if (r->empty_queries > 0) {
        add(&w, "; empty queries: %lld", (long long)r->empty_queries);
    }
    if (r->empty_documents > 0) {
        add(&w, "; empty documents: %lld", (long long)r->empty_documents);
    }
    if (r->negatives_positive > 0) {
        add(&w, "; negatives dropped as known positives: %lld", (long long)r->negatives_positive);
    }
    if (r->negatives_repeated > 0) {
        add(&w, "; negatives dropped as repetitions: %lld", (long long)r->negatives_repeated);
    }
}

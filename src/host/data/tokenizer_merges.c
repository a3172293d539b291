/*
 * tokenizer_merges.c - finds the merges of a byte-pair encoding: again and again the most frequent
 * pair of neighbours becomes one token.
 *
 * Words are counted once, so a merge touches each distinct word once. Every pair knows its count,
 * kept exact, and the words it has been seen in (some may have lost it since). A heap holds a bound
 * on every pair's count: what comes up with a bound above the count goes back with the count.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"

/* No count exceeds it; it makes a high count a small key of the heap. */
static const int64_t COUNT_LIMIT = INT64_MAX;

typedef struct pair {
    uint64_t key; /* left << 32 | right */
    int64_t count;
    int32_t seen; /* index + 1 of a node in trainer.seen, 0 = none */
    int32_t id;   /* of the token it was merged to, -1 = not yet */
    bool touched; /* is in trainer.touched */
} pair;

/* A word that has, or had, a pair. */
typedef struct seen_node {
    int32_t word;
    int32_t next;
} seen_node;

typedef struct trainer {
    const int64_t *counts; /* by word */
    int32_t *symbols;      /* of all words, back to back */
    int64_t *start;        /* [words + 1] */
    int32_t *length;       /* symbols left of each word */
    int64_t words;
    pair *pairs;
    int64_t pair_count, pair_room;
    int32_t *slots; /* pair index + 1, 0 = free */
    int64_t slot_count;
    seen_node *seen;
    int64_t seen_count, seen_room;
    csp_heap bounds; /* (COUNT_LIMIT - bound, key), pair: higher bounds first, then smaller pairs */
    int32_t *touched; /* pairs whose count rose in this step */
    int64_t touched_count, touched_room;
    csp_text_buffer text;
    csp_trained *trained;
} trainer;

static int64_t slot_of(const trainer *t, uint64_t key)
{
    const int64_t mask = t->slot_count - 1;
    int64_t slot = (int64_t)((key * 0x9E3779B97F4A7C15u) >> 32) & mask;

    while (t->slots[slot] != 0 && t->pairs[t->slots[slot] - 1].key != key) {
        slot = (slot + 1) & mask;
    }
    return slot;
}

static csp_status grow_slots(trainer *t)
{
    int32_t *slots;
    const int64_t count = t->slot_count > 0 ? t->slot_count * 2 : 1 << 16;

    CSP_TRY(csp_alloc_zero("training pairs", count, sizeof(*slots), &slots));
    free(t->slots);
    t->slots = slots;
    t->slot_count = count;
    for (int64_t i = 0; i < t->pair_count; i++) {
        t->slots[slot_of(t, t->pairs[i].key)] = (int32_t)(i + 1);
    }
    return CSP_OK;
}

/* Index of a pair, made if it is new. */
static csp_status find_pair(trainer *t, int32_t left, int32_t right, int32_t *out)
{
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    int64_t slot;

    if ((t->pair_count + 1) * 2 > t->slot_count) {
        CSP_TRY(grow_slots(t));
    }
    slot = slot_of(t, key);
    if (t->slots[slot] == 0) {
        if (t->pair_count == INT32_MAX) {
            return CSP_FAIL(CSP_ERR_DATA, "training texts hold more than %d different pairs",
                            INT32_MAX);
        }
        CSP_TRY(csp_grow("training pairs", t->pair_count + 1, sizeof(*t->pairs), &t->pairs,
                         &t->pair_room));
        t->pairs[t->pair_count++] = (pair) { .key = key, .id = -1 };
        t->slots[slot] = (int32_t)t->pair_count;
    }
    *out = t->slots[slot] - 1;
    return CSP_OK;
}

/* One more neighbourhood (left, right) in a word. */
static csp_status add_pair(trainer *t, int32_t left, int32_t right, int32_t word)
{
    int32_t index;
    pair *p;

    CSP_TRY(find_pair(t, left, right, &index));
    p = &t->pairs[index];
    p->count += t->counts[word];
    if (!p->touched) {
        CSP_TRY(csp_grow("training pairs", t->touched_count + 1, sizeof(*t->touched), &t->touched,
                         &t->touched_room));
        t->touched[t->touched_count++] = index;
        p->touched = true;
    }
    if (p->seen != 0 && t->seen[p->seen - 1].word == word) {
        return CSP_OK;
    }
    if (t->seen_count == INT32_MAX) {
        return CSP_FAIL(CSP_ERR_DATA, "training texts are too varied: more than %d pairs in words",
                        INT32_MAX);
    }
    CSP_TRY(
        csp_grow("training pairs", t->seen_count + 1, sizeof(*t->seen), &t->seen, &t->seen_room));
    t->seen[t->seen_count++] = (seen_node) { .word = word, .next = p->seen };
    p->seen = (int32_t)t->seen_count;
    return CSP_OK;
}

static csp_status remove_pair(trainer *t, int32_t left, int32_t right, int32_t word)
{
    int32_t index;

    CSP_TRY(find_pair(t, left, right, &index));
    t->pairs[index].count -= t->counts[word];
    return CSP_OK;
}

static csp_status push_bound(trainer *t, int32_t index)
{
    const pair *p = &t->pairs[index];

    return csp_heap_push(&t->bounds, "training pairs",
                         (csp_heap_item) { .first = (uint64_t)(COUNT_LIMIT - p->count),
                                           .second = p->key,
                                           .value = index });
}

static csp_status push_touched(trainer *t)
{
    for (int64_t i = 0; i < t->touched_count; i++) {
        t->pairs[t->touched[i]].touched = false;
        CSP_TRY(push_bound(t, t->touched[i]));
    }
    t->touched_count = 0;
    return CSP_OK;
}

/* Words as symbols of one byte, and their pairs. */
static csp_status begin_training(trainer *t, const csp_word_counts *words)
{
    const csp_string_entry *entries = words->words.entries;
    int32_t id_of[256];

    for (int64_t i = 0; i < 256; i++) {
        const csp_string_entry *entry = &t->trained->tokens.entries[i];

        id_of[(unsigned char)t->trained->tokens.text.bytes[entry->at]] = entry->id;
    }
    t->words = words->words.count;
    t->counts = words->counts;
    CSP_TRY(csp_alloc("training words", words->words.text.count, sizeof(*t->symbols), &t->symbols));
    CSP_TRY(csp_alloc("training words", t->words + 1, sizeof(*t->start), &t->start));
    CSP_TRY(csp_alloc("training words", t->words + 1, sizeof(*t->length), &t->length));
    for (int64_t w = 0, at = 0; w < t->words; w++) {
        const char *bytes = words->words.text.bytes + entries[w].at;

        t->start[w] = at;
        t->length[w] = entries[w].length;
        for (int32_t i = 0; i < entries[w].length; i++) {
            t->symbols[at++] = id_of[(unsigned char)bytes[i]];
            if (i > 0) {
                CSP_TRY(add_pair(t, t->symbols[at - 2], t->symbols[at - 1], (int32_t)w));
            }
        }
    }
    return push_touched(t);
}

/* The token of a pair: one that merges have given before, or a new one. */
static csp_status token_of(trainer *t, int32_t left, int32_t right, int32_t *out)
{
    csp_string_table *tokens = &t->trained->tokens;
    const csp_string_entry *a = &tokens->entries[left], *b = &tokens->entries[right];

    t->text.count = 0;
    CSP_TRY(csp_text_buffer_add(&t->text, tokens->text.bytes + a->at, a->length));
    CSP_TRY(csp_text_buffer_add(&t->text, tokens->text.bytes + b->at, b->length));
    *out = csp_string_table_find(tokens, t->text.bytes, t->text.count);
    if (*out < 0) {
        *out = (int32_t)tokens->count;
        CSP_TRY(csp_string_table_add(tokens, t->text.bytes, t->text.count, *out));
    }
    return CSP_OK;
}

/* Merges every (left, right) of a word, from its beginning, and moves the counts of neighbours. */
static csp_status merge_word(trainer *t, int32_t word, int32_t left, int32_t right, int32_t id)
{
    int32_t *s = t->symbols + t->start[word];
    const int32_t n = t->length[word];
    int32_t kept = 0;

    for (int32_t i = 0; i < n; i++) {
        if (i + 1 == n || s[i] != left || s[i + 1] != right) {
            s[kept++] = s[i];
            continue;
        }
        if (kept > 0) {
            CSP_TRY(remove_pair(t, s[kept - 1], left, word));
            CSP_TRY(add_pair(t, s[kept - 1], id, word));
        }
        if (i + 2 < n) {
            CSP_TRY(remove_pair(t, right, s[i + 2], word));
            CSP_TRY(add_pair(t, id, s[i + 2], word));
        }
        CSP_TRY(remove_pair(t, left, right, word));
        s[kept++] = id;
        i++;
    }
    t->length[word] = kept;
    return CSP_OK;
}

/* Merges a pair everywhere. A pair that comes back after its merge is merged again, unrecorded. */
static csp_status merge_pair(trainer *t, int32_t index)
{
    const int32_t left = (int32_t)(t->pairs[index].key >> 32);
    const int32_t right = (int32_t)(uint32_t)t->pairs[index].key;
    int32_t node = t->pairs[index].seen;
    int32_t id = t->pairs[index].id;

    if (id < 0) {
        csp_trained *trained = t->trained;

        CSP_TRY(token_of(t, left, right, &id));
        CSP_TRY(csp_grow("training merges", trained->merge_count + 1, sizeof(*trained->merges),
                         &trained->merges, &trained->merge_room));
        trained->merges[trained->merge_count++] = (csp_trained_merge) { left, right, id };
        t->pairs[index].id = id;
    }
    t->pairs[index].seen = 0;
    while (node != 0) {
        const seen_node here = t->seen[node - 1];

        CSP_TRY(merge_word(t, here.word, left, right, id));
        node = here.next;
    }
    return push_touched(t);
}

static csp_status run_training(trainer *t, int64_t token_limit, int64_t min_frequency)
{
    while (t->bounds.count > 0 && t->trained->tokens.count < token_limit) {
        const csp_heap_item top = csp_heap_pop(&t->bounds);
        const int64_t count = t->pairs[top.value].count;

        if (top.first != (uint64_t)(COUNT_LIMIT - count)) {
            if (count >= min_frequency) {
                CSP_TRY(push_bound(t, top.value));
            }
            continue;
        }
        if (count < min_frequency) {
            break;
        }
        CSP_TRY(merge_pair(t, top.value));
    }
    return CSP_OK;
}

csp_status csp_find_merges(const csp_word_counts *words, int64_t token_limit, int64_t min_frequency,
                           csp_trained *trained)
{
    trainer t = { .trained = trained };
    csp_status status = begin_training(&t, words);

    if (status == CSP_OK) {
        status = run_training(&t, token_limit, min_frequency);
    }
    free(t.symbols);
    free(t.start);
    free(t.length);
    free(t.pairs);
    free(t.slots);
    free(t.seen);
    csp_heap_clear(&t.bounds);
    free(t.touched);
    csp_text_buffer_clear(&t.text);
    return status;
}

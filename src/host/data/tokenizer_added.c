/*
 * tokenizer_added.c - finds added tokens in a text: the longest that begins leftmost, then on
 * behind it. A hit that a flag rejects (single_word) is passed over whole, as Hugging Face does.
 */
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer_internal.h"

static csp_status new_node(csp_trie *trie, unsigned char byte, int32_t sibling, int32_t *out)
{
    CSP_TRY(
        csp_grow("added tokens", trie->count + 2, sizeof(*trie->nodes), &trie->nodes, &trie->room));
    trie->count += trie->count == 0 ? 1 : 0; /* node 0 means none */
    trie->nodes[trie->count] = (csp_trie_node) { .byte = byte, .sibling = sibling, .token = -1 };
    *out = (int32_t)trie->count++;
    return CSP_OK;
}

static int32_t child_of(const csp_trie *trie, int32_t node, unsigned char byte)
{
    int32_t child = trie->nodes[node].child;

    while (child != 0 && trie->nodes[child].byte != byte) {
        child = trie->nodes[child].sibling;
    }
    return child;
}

csp_status csp_trie_add(csp_trie *trie, const char *bytes, int64_t count, int32_t token)
{
    int32_t node = 0;

    for (int64_t i = 0; i < count; i++) {
        const unsigned char byte = (unsigned char)bytes[i];
        int32_t next = i == 0 ? trie->first[byte] : child_of(trie, node, byte);

        if (next == 0) {
            CSP_TRY(new_node(trie, byte, i == 0 ? 0 : trie->nodes[node].child, &next));
            if (i == 0) {
                trie->first[byte] = next;
            } else {
                trie->nodes[node].child = next;
            }
        }
        node = next;
    }
    if (node != 0 && trie->nodes[node].token < 0) { /* of two equal strings the first counts */
        trie->nodes[node].token = token;
    }
    return CSP_OK;
}

void csp_trie_clear(csp_trie *trie)
{
    free(trie->nodes);
    *trie = (csp_trie) { 0 };
}

/* The longest token that begins at text[at], -1 if none. */
static int32_t longest_at(const csp_trie *trie, const char *text, int64_t bytes, int64_t at,
                          int64_t *end)
{
    int32_t node = trie->first[(unsigned char)text[at]];
    int32_t best = -1;

    while (node != 0) {
        at++;
        if (trie->nodes[node].token >= 0) {
            best = trie->nodes[node].token;
            *end = at;
        }
        if (at == bytes) {
            break;
        }
        node = child_of(trie, node, (unsigned char)text[at]);
    }
    return best;
}

static bool is_word_at(const char *text, int64_t at)
{
    int length;

    return csp_char_is_word(csp_utf8_next(text + at, &length));
}

/* The next hit that its flags allow; its range includes the spaces that lstrip and rstrip take. */
static int32_t next_hit(const csp_tokenizer *tokenizer, const csp_trie *trie, const char *text,
                        int64_t bytes, csp_added_walk *walk, int64_t *begin, int64_t *end)
{
    while (walk->search < bytes) {
        const int64_t at = walk->search;
        int64_t stop = at;
        const int32_t token = longest_at(trie, text, bytes, at, &stop);
        const csp_added_token *added;

        if (token < 0) {
            walk->search++;
            continue;
        }
        walk->search = stop;
        added = &tokenizer->added[token];
        if (added->single_word && ((at > 0 && is_word_at(text, csp_utf8_before(text, at))) ||
                                   (stop < bytes && is_word_at(text, stop)))) {
            continue;
        }
        *begin = at;
        while (added->lstrip && *begin > walk->end) {
            const int64_t before = csp_utf8_before(text, *begin);
            int length;

            if (!csp_char_is_space(csp_utf8_next(text + before, &length))) {
                break;
            }
            *begin = before;
        }
        while (added->rstrip && stop < bytes) {
            int length;

            if (!csp_char_is_space(csp_utf8_next(text + stop, &length))) {
                break;
            }
            stop += length;
        }
        *end = stop;
        return token;
    }
    return -1;
}

bool csp_added_next(const csp_tokenizer *tokenizer, const csp_trie *trie, const char *text,
                    int64_t bytes, csp_added_walk *walk)
{
    int64_t begin = bytes, end = bytes;
    int32_t token;

    if (walk->pending != 0) {
        walk->token = walk->pending - 1;
        walk->begin = walk->pending_begin;
        walk->end = walk->pending_end;
        walk->pending = 0;
        return true;
    }
    token = trie->count > 0 ? next_hit(tokenizer, trie, text, bytes, walk, &begin, &end) : -1;
    if (walk->end < begin) { /* text in front of the hit, or to the end */
        walk->begin = walk->end;
        walk->end = begin;
        walk->token = -1;
        walk->pending = token + 1;
        walk->pending_begin = begin;
        walk->pending_end = end;
        return true;
    }
    walk->token = token;
    walk->begin = begin;
    walk->end = end;
    return token >= 0;
}

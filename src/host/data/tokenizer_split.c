/*
 * tokenizer_split.c - the pre-tokenizers: a list of pieces of the normalized text, cut finer by
 * each step. Pieces are ranges of one text; a step that writes (Metaspace, ByteLevel's prefix
 * space) makes a new text and new ranges.
 */
#include <string.h>

#include "data/tokenizer_internal.h"

static csp_status add_piece(csp_piece_list *list, int64_t begin, int64_t end, bool first)
{
    if (list->count == list->room) {
        CSP_TRY(csp_grow("text pieces", list->count + 1, sizeof(*list->pieces), &list->pieces,
                         &list->room));
    }
    list->pieces[list->count++] = (csp_piece) { .begin = begin, .end = end, .first = first };
    return CSP_OK;
}

/* Matches of the pattern and what lies between, in order, covering piece; first = is a match. */
static csp_status find_matches(const csp_presplit *step, csp_scratch *scratch, const char *text,
                               const csp_piece *piece, csp_piece_list *out)
{
    const char *start = text + piece->begin;
    const int64_t bytes = piece->end - piece->begin;
    csp_match match = { 0, 0, -1 };
    int64_t covered = 0;
    bool found;

    out->count = 0;
    for (;;) {
        CSP_TRY(csp_pattern_next(&step->pattern, &scratch->matcher, start, bytes, &match, &found));
        if (!found) {
            break;
        }
        if (covered != match.begin) {
            CSP_TRY(add_piece(out, covered, match.begin, step->invert));
        }
        CSP_TRY(add_piece(out, match.begin, match.end, !step->invert));
        covered = match.end;
    }
    return covered == bytes ? CSP_OK : add_piece(out, covered, bytes, step->invert);
}

/* Joins neighbours in place as the behaviour says; afterwards first = is to be removed. */
static void join_matches(csp_split_behavior behavior, csp_piece_list *list)
{
    csp_piece *p = list->pieces;
    bool previous = false;
    int64_t kept = 0;

    if (behavior == CSP_SPLIT_REMOVED) {
        return;
    }
    if (behavior == CSP_SPLIT_MERGED_WITH_NEXT) { /* the same from the other end */
        kept = list->count;
        for (int64_t i = list->count - 1; i >= 0; i--) {
            const bool is_match = p[i].first;

            if (is_match && !previous && kept < list->count) {
                p[kept].begin = p[i].begin;
            } else {
                p[--kept] = (csp_piece) { .begin = p[i].begin, .end = p[i].end };
            }
            previous = is_match;
        }
        list->count -= kept;
        memmove(p, p + kept, (size_t)list->count * sizeof(*p));
        return;
    }
    for (int64_t i = 0; i < list->count; i++) {
        const bool is_match = p[i].first;
        const bool joins =
            behavior == CSP_SPLIT_CONTIGUOUS
                ? is_match == previous
                : behavior == CSP_SPLIT_MERGED_WITH_PREVIOUS && is_match && !previous;

        if (joins && kept > 0) {
            p[kept - 1].end = p[i].end;
        } else {
            p[kept++] = (csp_piece) { .begin = p[i].begin, .end = p[i].end };
        }
        previous = is_match;
    }
    list->count = kept;
}

static csp_status split_piece(const csp_presplit *step, csp_scratch *scratch, const char *text,
                              const csp_piece *piece, csp_piece_list *out)
{
    csp_piece_list *matches = &scratch->matches;

    CSP_TRY(find_matches(step, scratch, text, piece, matches));
    join_matches(step->behavior, matches);
    for (int64_t i = 0; i < matches->count; i++) {
        const csp_piece *m = &matches->pieces[i];

        if (!m->first && m->begin < m->end) {
            CSP_TRY(add_piece(out, piece->begin + m->begin, piece->begin + m->end,
                              piece->first && m->begin == 0));
        }
    }
    return CSP_OK;
}

static bool starts_with(const char *text, int64_t at, int64_t end, const char *mark)
{
    const int64_t bytes = (int64_t)strlen(mark);

    return text[at] == mark[0] && end - at >= bytes && memcmp(text + at, mark, (size_t)bytes) == 0;
}

/* Cuts in front of every mark that follows something else: "▁a▁▁b" gives "▁a", "▁▁b". */
static csp_status split_words(const csp_presplit *step, const char *text, const csp_piece *piece,
                              csp_piece_list *out)
{
    const int64_t mark_bytes = (int64_t)strlen(step->mark);
    int64_t begin = piece->begin, at = piece->begin;
    bool after_mark = true;

    while (at < piece->end) {
        const bool is_mark = starts_with(text, at, piece->end, step->mark);

        if (is_mark && !after_mark) {
            CSP_TRY(add_piece(out, begin, at, false));
            begin = at;
        }
        after_mark = is_mark;
        at += is_mark ? mark_bytes : 1;
    }
    return add_piece(out, begin, piece->end, false);
}

/* Cuts in front of every mark: "a▁▁b" gives "a", "▁", "▁b". */
static csp_status split_marks(const csp_presplit *step, const char *text, const csp_piece *piece,
                              csp_piece_list *out)
{
    const int64_t mark_bytes = (int64_t)strlen(step->mark);
    int64_t begin = piece->begin, at = piece->begin;

    while (at < piece->end) {
        if (!starts_with(text, at, piece->end, step->mark)) {
            at++;
            continue;
        }
        if (at > begin) {
            CSP_TRY(add_piece(out, begin, at, piece->first && begin == piece->begin));
        }
        begin = at;
        at += mark_bytes;
    }
    return add_piece(out, begin, piece->end, piece->first && begin == piece->begin);
}

/* Metaspace: writes the piece with marks for spaces, with a mark in front if due, and cuts it. */
static csp_status metaspace_piece(const csp_presplit *step, const char *text,
                                  const csp_piece *piece, csp_text_buffer *written,
                                  csp_piece_list *out)
{
    const int64_t mark_bytes = (int64_t)strlen(step->mark);
    const bool due =
        step->prepend == CSP_PREPEND_ALWAYS || (step->prepend == CSP_PREPEND_FIRST && piece->first);
    csp_piece made = { .begin = written->count, .first = piece->first };

    if (due && text[piece->begin] != ' ' &&
        !starts_with(text, piece->begin, piece->end, step->mark)) {
        CSP_TRY(csp_text_buffer_add(written, step->mark, mark_bytes));
    }
    for (int64_t i = piece->begin; i < piece->end; i++) {
        const bool space = text[i] == ' ';

        CSP_TRY(
            csp_text_buffer_add(written, space ? step->mark : text + i, space ? mark_bytes : 1));
    }
    made.end = written->count;
    return step->split ? split_marks(step, written->bytes, &made, out)
                       : add_piece(out, made.begin, made.end, made.first);
}

/* ByteLevel's add_prefix_space. */
static csp_status prefix_space_piece(const char *text, const csp_piece *piece,
                                     csp_text_buffer *written, csp_piece_list *out)
{
    const int64_t begin = written->count;

    if (text[piece->begin] != ' ') {
        CSP_TRY(csp_text_buffer_add(written, " ", 1));
    }
    CSP_TRY(csp_text_buffer_add(written, text + piece->begin, piece->end - piece->begin));
    return add_piece(out, begin, written->count, piece->first);
}

static csp_status presplit_piece(const csp_presplit *step, csp_scratch *scratch, const char *text,
                                 const csp_piece *piece, csp_text_buffer *written,
                                 csp_piece_list *out)
{
    switch (step->kind) {
    case CSP_PRESPLIT_METASPACE:
        return metaspace_piece(step, text, piece, written, out);
    case CSP_PRESPLIT_PREFIX_SPACE:
        return prefix_space_piece(text, piece, written, out);
    case CSP_PRESPLIT_WORDS:
        return split_words(step, text, piece, out);
    default:
        return split_piece(step, scratch, text, piece, out);
    }
}

csp_status csp_presplit_text(const csp_tokenizer *tokenizer, csp_scratch *scratch, bool first,
                             const char **text, int64_t bytes, const csp_piece_list **out)
{
    int turn = 0, text_turn = 0;

    scratch->pieces[turn].count = 0;
    CSP_TRY(add_piece(&scratch->pieces[turn], 0, bytes, first));
    for (int64_t i = 0; i < tokenizer->presplit_count; i++) {
        const csp_presplit *step = &tokenizer->presplits[i];
        const bool writes =
            step->kind == CSP_PRESPLIT_METASPACE || step->kind == CSP_PRESPLIT_PREFIX_SPACE;
        const csp_piece_list *from = &scratch->pieces[turn];
        csp_piece_list *to = &scratch->pieces[1 - turn];
        csp_text_buffer *written = &scratch->pretext[text_turn];

        to->count = 0;
        written->count = 0;
        for (int64_t j = 0; j < from->count; j++) {
            CSP_TRY(presplit_piece(step, scratch, *text, &from->pieces[j], written, to));
        }
        if (writes) {
            *text = written->bytes;
            text_turn = 1 - text_turn;
        }
        turn = 1 - turn;
    }
    *out = &scratch->pieces[turn];
    return CSP_OK;
}

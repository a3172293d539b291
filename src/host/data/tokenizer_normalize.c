/*
 * tokenizer_normalize.c - the normalizers, one after another over two buffers in turn. A step that
 * leaves the text alone copies nothing: most texts pass NFC without a byte moved.
 */
#include <string.h>
#include <utf8proc.h>

#include "data/tokenizer_internal.h"

/* Of one character: U+FDFA has 18 in the compatibility forms. */
enum { LONGEST_DECOMPOSITION = 32 };

/* Whether no character of the text can change: all below U+0300 for NFC, ASCII for the others. */
static bool is_in_form(int form, const char *text, int64_t bytes)
{
    const bool composed = (form & (UTF8PROC_COMPOSE | UTF8PROC_COMPAT)) == UTF8PROC_COMPOSE;
    const unsigned char limit = composed ? 0xCC : 0x80; /* U+0300 is CC 80 */

    for (int64_t i = 0; i < bytes; i++) {
        if ((unsigned char)text[i] >= limit) {
            return false;
        }
    }
    return true;
}

/* Puts a run of combining marks into canonical order: by class, equal ones as they stand. */
static csp_status order_marks(csp_scratch *scratch, int64_t begin, int64_t end)
{
    int32_t *marks = scratch->chars + begin;
    int64_t at[257] = { 0 };

    CSP_TRY(csp_grow("tokenizer text", end - begin, sizeof(*scratch->marks), &scratch->marks,
                     &scratch->mark_room));
    for (int64_t i = 0; i < end - begin; i++) {
        scratch->marks[i] = marks[i];
        at[(utf8proc_get_property(marks[i])->combining_class & 255) + 1]++;
    }
    for (int c = 1; c < 257; c++) {
        at[c] += at[c - 1];
    }
    for (int64_t i = 0; i < end - begin; i++) {
        const int32_t mark = scratch->marks[i];

        marks[at[utf8proc_get_property(mark)->combining_class & 255]++] = mark;
    }
    return CSP_OK;
}

/* utf8proc_decompose sorts marks in quadratic time: a hostile text of 1 MB would take hours. */
static csp_status decompose(csp_scratch *scratch, utf8proc_option_t options, const char *text,
                            int64_t bytes, int64_t *count)
{
    int64_t n = 0, marks = 0; /* marks: where the current run of combining marks begins */
    int length;

    for (int64_t i = 0; i < bytes; i += length) {
        const int32_t c = csp_utf8_next(text + i, &length);
        int ignored = 0;
        utf8proc_ssize_t made;

        CSP_TRY(csp_grow("tokenizer text", n + LONGEST_DECOMPOSITION, sizeof(*scratch->chars),
                         &scratch->chars, &scratch->char_room));
        made = utf8proc_decompose_char(c, scratch->chars + n, LONGEST_DECOMPOSITION, options,
                                       &ignored);
        if (made < 0 || made > LONGEST_DECOMPOSITION) {
            return CSP_FAIL(CSP_ERR_DATA, "tokenizer: Unicode normalization failed at U+%04X",
                            (unsigned)c);
        }
        for (; made > 0; made--, n++) {
            if (utf8proc_get_property(scratch->chars[n])->combining_class == 0) {
                CSP_TRY(n - marks > 1 ? order_marks(scratch, marks, n) : CSP_OK);
                marks = n + 1;
            }
        }
    }
    *count = n;
    return n - marks > 1 ? order_marks(scratch, marks, n) : CSP_OK;
}

static csp_status to_form(csp_scratch *scratch, int form, const char *text, int64_t bytes,
                          csp_text_buffer *out)
{
    const utf8proc_option_t options = (utf8proc_option_t)form;
    int64_t count;

    CSP_TRY(decompose(scratch, options, text, bytes, &count));
    count = utf8proc_normalize_utf32(scratch->chars, count, options);
    if (count < 0) {
        return CSP_FAIL(CSP_ERR_DATA, "tokenizer: Unicode normalization failed: %s",
                        utf8proc_errmsg(count));
    }
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY(csp_text_buffer_add_char(out, scratch->chars[i]));
    }
    return CSP_OK;
}

static csp_status to_lower(const char *text, int64_t bytes, csp_text_buffer *out)
{
    int length;

    CSP_TRY(csp_text_buffer_reserve(out, bytes));
    for (int64_t i = 0; i < bytes; i += length) {
        const int32_t c = csp_utf8_next(text + i, &length);

        if (c < 0x80) {
            const char small = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);

            CSP_TRY(csp_text_buffer_add(out, &small, 1));
        } else if (c == 0x130) { /* the one letter whose full mapping is two characters */
            CSP_TRY(csp_text_buffer_add(out, "i\xCC\x87", 3));
        } else {
            CSP_TRY(csp_text_buffer_add_char(out, utf8proc_tolower(c)));
        }
    }
    return CSP_OK;
}

static bool is_one_character(const char *text, int64_t bytes)
{
    int length;

    (void)csp_utf8_next(text, &length);
    return length == bytes;
}

/*
 * As Hugging Face keeps count of origins, a text whose beginning was replaced still begins where it
 * began if one character made way for something.
 */
static csp_status replace(const csp_normal *step, csp_scratch *scratch, const char *text,
                          int64_t bytes, int64_t original, bool *first, csp_text_buffer *out)
{
    const int64_t content_bytes = (int64_t)strlen(step->content);
    csp_match match = { 0, 0, -1 };
    int64_t kept = 0;
    bool found;

    for (;;) {
        CSP_TRY(csp_pattern_next(&step->pattern, &scratch->matcher, text, bytes, &match, &found));
        if (!found) {
            break;
        }
        CSP_TRY(csp_text_buffer_add(out, text + kept, match.begin - kept));
        CSP_TRY(csp_text_buffer_add(out, step->content, content_bytes));
        CSP_TRY(csp_check_growth(out->count, original));
        if (match.begin == 0 && match.end > 0) {
            *first = *first && content_bytes > 0 && is_one_character(text, match.end);
        }
        kept = match.end;
    }
    return csp_text_buffer_add(out, text + kept, bytes - kept);
}

static void strip(const csp_normal *step, const char **text, int64_t *bytes)
{
    int length;

    while (step->left && *bytes > 0 && csp_char_is_space(csp_utf8_next(*text, &length))) {
        *text += length;
        *bytes -= length;
    }
    while (step->right && *bytes > 0) {
        const int64_t at = csp_utf8_before(*text, *bytes);

        if (!csp_char_is_space(csp_utf8_next(*text + at, &length))) {
            break;
        }
        *bytes = at;
    }
}

csp_status csp_normalize(const csp_tokenizer *tokenizer, csp_scratch *scratch, const char **text,
                         int64_t *bytes, bool *first)
{
    const int64_t original = *bytes;
    int turn = 0;

    for (int64_t i = 0; i<tokenizer->normal_count && * bytes> 0; i++) {
        const csp_normal *step = &tokenizer->normals[i];
        csp_text_buffer *out = &scratch->normal[turn];

        if (step->kind == CSP_NORMAL_STRIP) {
            const char *before = *text;

            strip(step, text, bytes);
            *first = *first && *text == before;
            continue;
        }
        if (step->kind == CSP_NORMAL_FORM && is_in_form(step->form, *text, *bytes)) {
            continue;
        }
        out->count = 0;
        switch (step->kind) {
        case CSP_NORMAL_FORM:
            CSP_TRY(to_form(scratch, step->form, *text, *bytes, out));
            break;
        case CSP_NORMAL_LOWERCASE:
            CSP_TRY(to_lower(*text, *bytes, out));
            break;
        case CSP_NORMAL_PREPEND:
            CSP_TRY(csp_text_buffer_add(out, step->content, (int64_t)strlen(step->content)));
            CSP_TRY(csp_text_buffer_add(out, *text, *bytes));
            break;
        default:
            CSP_TRY(replace(step, scratch, *text, *bytes, original, first, out));
            break;
        }
        CSP_TRY(csp_check_growth(out->count, original));
        *text = out->bytes;
        *bytes = out->count;
        turn = 1 - turn;
    }
    return CSP_OK;
}

/*
 * tokenizer_decode.c - ids to text: a list of strings, one a token, changed by each decoder of the
 * file and joined at the end.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"

/* Strings back to back; string i ends at ends[i]. */
typedef struct string_list {
    csp_text_buffer text;
    int64_t *ends;
    int64_t count;
    int64_t room;
} string_list;

static csp_status end_string(string_list *list)
{
    CSP_TRY(
        csp_grow("decoded text", list->count + 1, sizeof(*list->ends), &list->ends, &list->room));
    list->ends[list->count++] = list->text.count;
    return CSP_OK;
}

static void list_clear(string_list *list)
{
    csp_text_buffer_clear(&list->text);
    free(list->ends);
}

/* Number of bytes of the character at s, 0 if it is not valid UTF-8; *skip: how many to replace. */
static int valid_char(const unsigned char *s, int64_t left, int *skip)
{
    /* Lowest and highest second byte by lead byte: no overlong forms, no surrogates. */
    const unsigned char lead = s[0];
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    const int length = lead < 0x80                    ? 1
                       : lead >= 0xC2 && lead <= 0xDF ? 2
                       : (lead & 0xF0) == 0xE0        ? 3
                       : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                      : 0;

    *skip = 1;
    for (int i = 1; i < length; i++) {
        if (i >= left || s[i] < (i == 1 ? low : 0x80) || s[i] > (i == 1 ? high : 0xBF)) {
            return 0;
        }
        *skip = i + 1;
    }
    return length;
}

/* Appends bytes as UTF-8, every ill-formed part replaced by U+FFFD. */
static csp_status add_lossy(const char *bytes, int64_t count, csp_text_buffer *out)
{
    int skip;

    for (int64_t i = 0; i < count; i += skip) {
        if (valid_char((const unsigned char *)bytes + i, count - i, &skip) > 0) {
            CSP_TRY(csp_text_buffer_add(out, bytes + i, skip));
        } else {
            CSP_TRY(csp_text_buffer_add(out, "\xEF\xBF\xBD", 3));
        }
    }
    return CSP_OK;
}

/* The bytes a token stands for; a token with a character that stands for none is taken as it is. */
static csp_status add_token_bytes(const char *token, int64_t bytes, csp_text_buffer *out)
{
    const int64_t before = out->count;
    int length;

    for (int64_t i = 0; i < bytes; i += length) {
        const int byte = csp_char_to_byte(csp_utf8_next(token + i, &length));
        const char value = (char)byte;

        if (byte < 0) {
            out->count = before;
            return csp_text_buffer_add(out, token, bytes);
        }
        CSP_TRY(csp_text_buffer_add(out, &value, 1));
    }
    return CSP_OK;
}

static csp_status decode_byte_level(const string_list *from, string_list *to)
{
    csp_text_buffer bytes = { 0 };
    csp_status status = CSP_OK;
    int64_t begin = 0;

    for (int64_t i = 0; i < from->count && status == CSP_OK; i++) {
        status = add_token_bytes(from->text.bytes + begin, from->ends[i] - begin, &bytes);
        begin = from->ends[i];
    }
    if (status == CSP_OK) {
        status = add_lossy(bytes.bytes, bytes.count, &to->text);
    }
    csp_text_buffer_clear(&bytes);
    return status == CSP_OK ? end_string(to) : status;
}

static csp_status decode_metaspace(const csp_decode_step *step, const char *text, int64_t bytes,
                                   bool first, csp_text_buffer *out)
{
    int length;

    for (int64_t i = 0; i < bytes; i += length) {
        (void)csp_utf8_next(text + i, &length);
        if (strncmp(text + i, step->mark, (size_t)length) == 0 && step->mark[length] == '\0') {
            CSP_TRY(csp_text_buffer_add(out, " ", first && step->drop_first ? 0 : 1));
        } else {
            CSP_TRY(csp_text_buffer_add(out, text + i, length));
        }
    }
    return CSP_OK;
}

static csp_status decode_replace(const csp_decode_step *step, csp_matcher *matcher,
                                 const char *text, int64_t bytes, int64_t original,
                                 csp_text_buffer *out)
{
    csp_match match = { 0, 0, -1 };
    int64_t kept = 0;
    bool found = bytes > 0;

    while (found) {
        CSP_TRY(csp_pattern_next(&step->pattern, matcher, text, bytes, &match, &found));
        if (found) {
            CSP_TRY(csp_text_buffer_add(out, text + kept, match.begin - kept));
            CSP_TRY(csp_text_buffer_add(out, step->content, (int64_t)strlen(step->content)));
            CSP_TRY(csp_check_growth(out->count, original));
            kept = match.end;
        }
    }
    return csp_text_buffer_add(out, text + kept, bytes - kept);
}

static csp_status decode_strip(const csp_decode_step *step, const char *text, int64_t bytes,
                               csp_text_buffer *out)
{
    const int64_t mark = (int64_t)strlen(step->mark);

    for (int64_t i = 0; i < step->start && bytes >= mark; i++) {
        if (memcmp(text, step->mark, (size_t)mark) != 0) {
            break;
        }
        text += mark;
        bytes -= mark;
    }
    for (int64_t i = 0; i < step->stop && bytes >= mark; i++) {
        if (memcmp(text + bytes - mark, step->mark, (size_t)mark) != 0) {
            break;
        }
        bytes -= mark;
    }
    return csp_text_buffer_add(out, text, bytes);
}

/* The byte that "<0xHH>" stands for, -1 if it is another token. */
static int fallback_byte(const char *token, int64_t bytes)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    int value = 0;

    if (bytes != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') {
        return -1;
    }
    for (int i = 3; i < 5; i++) {
        const char *digit = token[i] == '\0' ? NULL : strchr(digits, token[i]);

        if (digit == NULL) {
            return -1;
        }
        value = value * 16 + (int)((digit - digits) & 15);
    }
    return value;
}

/* Ends a run of bytes: its text if it is UTF-8 as a whole, else one U+FFFD a byte. */
static csp_status flush_bytes(csp_text_buffer *run, string_list *to)
{
    bool valid = true;
    int skip;

    for (int64_t i = 0; i < run->count && valid; i += skip) {
        valid = valid_char((const unsigned char *)run->bytes + i, run->count - i, &skip) > 0;
    }
    if (valid && run->count > 0) {
        CSP_TRY(csp_text_buffer_add(&to->text, run->bytes, run->count));
        CSP_TRY(end_string(to));
    }
    for (int64_t i = 0; i < run->count && !valid; i++) {
        CSP_TRY(csp_text_buffer_add(&to->text, "\xEF\xBF\xBD", 3));
        CSP_TRY(end_string(to));
    }
    run->count = 0;
    return CSP_OK;
}

static csp_status decode_fallback(const string_list *from, string_list *to)
{
    csp_text_buffer run = { 0 };
    csp_status status = CSP_OK;
    int64_t begin = 0;

    for (int64_t i = 0; i < from->count && status == CSP_OK; i++) {
        const char *token = from->text.bytes + begin;
        const int64_t bytes = from->ends[i] - begin;
        const int byte = fallback_byte(token, bytes);
        const char value = (char)byte;

        if (byte >= 0) {
            status = csp_text_buffer_add(&run, &value, 1);
        } else {
            CSP_TRY_GOTO(flush_bytes(&run, to));
            CSP_TRY_GOTO(csp_text_buffer_add(&to->text, token, bytes));
            status = end_string(to);
        }
        begin = from->ends[i];
    }
    if (status == CSP_OK) {
        status = flush_bytes(&run, to);
    }
fail:
    csp_text_buffer_clear(&run);
    return status;
}

/* original: bytes of the tokens before the first step. */
static csp_status decode_step(const csp_decode_step *step, csp_matcher *matcher, int64_t original,
                              const string_list *from, string_list *to)
{
    int64_t begin = 0;

    if (step->kind == CSP_DECODE_BYTE_LEVEL) {
        return decode_byte_level(from, to);
    }
    if (step->kind == CSP_DECODE_BYTE_FALLBACK) {
        return decode_fallback(from, to);
    }
    if (step->kind == CSP_DECODE_FUSE) {
        CSP_TRY(csp_text_buffer_add(&to->text, from->text.bytes, from->text.count));
        return end_string(to);
    }
    for (int64_t i = 0; i < from->count; i++) {
        const char *text = from->text.bytes + begin;
        const int64_t bytes = from->ends[i] - begin;

        if (step->kind == CSP_DECODE_METASPACE) {
            CSP_TRY(decode_metaspace(step, text, bytes, i == 0, &to->text));
        } else if (step->kind == CSP_DECODE_REPLACE) {
            CSP_TRY(decode_replace(step, matcher, text, bytes, original, &to->text));
        } else {
            CSP_TRY(decode_strip(step, text, bytes, &to->text));
        }
        CSP_TRY(end_string(to));
        begin = from->ends[i];
    }
    return CSP_OK;
}

static csp_status list_tokens(const csp_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                              string_list *out)
{
    for (int64_t i = 0; i < count; i++) {
        const bool known = ids[i] >= 0 && ids[i] < tokenizer->size;
        const char *token = known ? tokenizer->decoded[ids[i]] : NULL;

        if (token == NULL) {
            continue;
        }
        if (tokenizer->joined_by_spaces && out->count > 0) {
            CSP_TRY(csp_text_buffer_add(&out->text, " ", 1));
        }
        CSP_TRY(csp_text_buffer_add(&out->text, token, (int64_t)strlen(token)));
        CSP_TRY(end_string(out));
    }
    return csp_text_buffer_reserve(&out->text, 1);
}

csp_status csp_tokenizer_decode(const csp_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                                char **text, int64_t *bytes)
{
    string_list lists[2] = { { { 0 }, NULL, 0, 0 }, { { 0 }, NULL, 0, 0 } };
    csp_matcher matcher = { 0 };
    csp_status status;
    int64_t original;
    int turn = 0;

    CSP_TRY_GOTO(csp_matcher_init(&matcher));
    CSP_TRY_GOTO(list_tokens(tokenizer, ids, count, &lists[0]));
    original = lists[0].text.count;
    for (int64_t i = 0; i < tokenizer->decode_count; i++) {
        string_list *to = &lists[1 - turn];

        to->count = 0;
        to->text.count = 0;
        CSP_TRY_GOTO(csp_text_buffer_reserve(&to->text, 1));
        CSP_TRY_GOTO(decode_step(&tokenizer->decodes[i], &matcher, original, &lists[turn], to));
        turn = 1 - turn;
    }
    CSP_TRY_GOTO(csp_text_buffer_add(&lists[turn].text, "", 1));
    *bytes = lists[turn].text.count - 1;
    *text = lists[turn].text.bytes;
    lists[turn].text = (csp_text_buffer) { 0 };

fail:
    csp_matcher_clear(&matcher);
    list_clear(&lists[0]);
    list_clear(&lists[1]);
    return status;
}

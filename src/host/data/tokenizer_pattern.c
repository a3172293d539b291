/*
 * tokenizer_pattern.c - the patterns of tokenizer.json (Oniguruma, Ruby syntax) run by PCRE2.
 *
 * The two languages agree on what published tokenizers use, with exceptions that are rewritten here
 * or refused by name: \s is Unicode's White_Space, \w and \h differ, scripts are the Script
 * property and not Script_Extensions, ^ and $ match at lines, options in the middle reach
 * differently.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"

/* White_Space and its complement, written so that they also stand inside a class. */
static const char space_ranges[] =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"
    "\\x{205F}\\x{3000}";
static const char not_space_ranges[] =
    "\\x{00}-\\x{08}\\x{0E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}"
    "\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}"
    "\\x{2060}-\\x{2FFF}\\x{3001}-\\x{D7FF}\\x{E000}-\\x{10FFFF}";
/*
 * Oniguruma's word characters: as csp_char_is_word without the joiners and with the superscripts
 * and fractions of Latin-1, found by asking it for every character.
 */
static const char word_ranges[] =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-\\x{24E9}"
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";

typedef struct rewriter {
    const char *where;
    const char *regex;
    int64_t at;
    bool in_class;
    csp_text_buffer out;
} rewriter;

static csp_status refuse(const rewriter *r, const char *what)
{
    return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: the pattern \"%.200s\" uses %s at offset %lld",
                    r->where, r->regex, what, (long long)r->at);
}

static csp_status put(rewriter *r, const char *text)
{
    return csp_text_buffer_add(&r->out, text, (int64_t)strlen(text));
}

/* A list of ranges as a class, or as part of the class it stands in. */
static csp_status put_ranges(rewriter *r, const char *ranges, bool negated)
{
    if (r->in_class) {
        return put(r, ranges);
    }
    CSP_TRY(put(r, negated ? "[^" : "["));
    CSP_TRY(put(r, ranges));
    return put(r, "]");
}

/* \p{Name} and \P{Name}, also \p{^Name}: categories as they are, anything else as a script. */
static csp_status put_property(rewriter *r)
{
    const char *name = r->regex + r->at + 3;
    const char *close = r->regex[r->at + 2] == '{' ? strchr(name, '}') : NULL;
    bool negated = r->regex[r->at + 1] == 'P';
    int64_t length;

    if (close == NULL) {
        return refuse(r, "a property without braces");
    }
    if (*name == '^') {
        negated = !negated;
        name++;
    }
    length = close - name;
    if (length < 1 || length > 40) {
        return refuse(r, "an unknown property");
    }
    CSP_TRY(put(r, negated ? "\\P{" : "\\p{"));
    if (length > 2) {
        CSP_TRY(put(r, "sc:"));
    }
    CSP_TRY(csp_text_buffer_add(&r->out, name, length));
    CSP_TRY(put(r, "}"));
    r->at = close + 1 - r->regex;
    return CSP_OK;
}

static csp_status put_escape(rewriter *r)
{
    const char c = r->regex[r->at + 1];

    switch (c) {
    case 's':
    case 'S':
        r->at += 2;
        /* Outside a class [^..] is shorter; inside, the complement must be spelled out. */
        return r->in_class ? put(r, c == 's' ? space_ranges : not_space_ranges)
                           : put_ranges(r, space_ranges, c == 'S');
    case 'w':
    case 'W':
        if (c == 'W' && r->in_class) {
            return refuse(r, "\\W in a class");
        }
        r->at += 2;
        return put_ranges(r, word_ranges, c == 'W');
    case 'p':
    case 'P':
        return put_property(r);
    case 'v': /* one character in Oniguruma, a class in PCRE2 */
        r->at += 2;
        return put(r, "\\x{0B}");
    case 'u':
        if (strspn(r->regex + r->at + 2, "0123456789abcdefABCDEF") < 4) {
            return refuse(r, "\\u without four digits");
        }
        CSP_TRY(put(r, "\\x{"));
        CSP_TRY(csp_text_buffer_add(&r->out, r->regex + r->at + 2, 4));
        r->at += 6;
        return put(r, "}");
    case 'd':
    case 'D':
    case 'r':
    case 'n':
    case 't':
    case 'f':
    case 'e':
    case 'x':
        break;
    default:
        if ((unsigned char)c < 0x80 && (c < '!' || (c >= '0' && c <= '9') ||
                                        (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))) {
            char what[] = "the escape \\?";

            what[sizeof(what) - 2] = c > ' ' ? c : '?';
            return refuse(r, what);
        }
        break;
    }
    CSP_TRY(csp_text_buffer_add(&r->out, r->regex + r->at, 2));
    r->at += 2;
    return CSP_OK;
}

/* What follows a parenthesis: only groups that both languages read alike. */
static csp_status check_group(const rewriter *r)
{
    static const char *const known[] = { "?:", "?i:", "?=", "?!", "?<=", "?<!", "?>" };
    const char *rest = r->regex + r->at + 1;

    if (rest[0] == '*') {
        return refuse(r, "a verb");
    }
    if (rest[0] != '?' || (r->at == 0 && strncmp(rest, "?i)", 3) == 0)) {
        return CSP_OK;
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strncmp(rest, known[i], strlen(known[i])) == 0) {
            return CSP_OK;
        }
    }
    return refuse(r, "a group of a kind that csplade does not know");
}

static csp_status rewrite_one(rewriter *r)
{
    const char c = r->regex[r->at];

    if (c == '\\') {
        return r->regex[r->at + 1] == '\0' ? refuse(r, "a backslash at its end") : put_escape(r);
    }
    if (r->in_class) {
        if (c == '[') {
            return refuse(r, "a class in a class");
        }
        if (c == '&' && r->regex[r->at + 1] == '&') {
            return refuse(r, "an intersection of classes");
        }
        r->in_class = c != ']';
    } else if (c == '(') {
        CSP_TRY(check_group(r));
    } else if (c == '}' && r->regex[r->at + 1] == '+') {
        return refuse(r, "a possessive interval");
    } else if (c == '[') {
        int64_t first = r->at + 1;

        r->in_class = true;
        first += r->regex[first] == '^' ? 1 : 0;
        if (r->regex[first] == ']') {
            return refuse(r, "a class that begins with ]");
        }
    }
    r->at++;
    return csp_text_buffer_add(&r->out, &c, 1);
}

static csp_status compile(const char *where, const char *regex, const csp_text_buffer *text,
                          csp_pattern *out)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    pcre2_code *code = NULL;
    int error = 0;
    PCRE2_SIZE at = 0;
    PCRE2_UCHAR message[120] = "";

    if (context != NULL) {
        (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        code = pcre2_compile((PCRE2_SPTR)text->bytes, (PCRE2_SIZE)text->count,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                             &error, &at, context);
        pcre2_compile_context_free(context);
    }
    if (context == NULL || (code == NULL && error == PCRE2_ERROR_HEAP_FAILED)) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory to compile a pattern", where);
    }
    if (code == NULL) {
        (void)pcre2_get_error_message(error, message, sizeof(message));
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: the pattern \"%.200s\" cannot be used: %s", where,
                        regex, (const char *)message);
    }
    out->jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    out->code = code;
    return CSP_OK;
}

csp_status csp_pattern_regex(const char *where, const char *regex, csp_pattern *out)
{
    rewriter r = { .where = where, .regex = regex };
    csp_pattern made = { 0 };
    csp_status status = CSP_OK;

    if (regex[0] == '\0') {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: an empty pattern", where);
    }
    while (status == CSP_OK && regex[r.at] != '\0') {
        status = rewrite_one(&r);
    }
    if (status == CSP_OK) {
        status = compile(where, regex, &r.out, &made);
    }
    csp_text_buffer_clear(&r.out);
    if (status == CSP_OK) {
        *out = made;
    }
    return status;
}

csp_status csp_pattern_literal(const char *where, const char *text, csp_pattern *out)
{
    char *copy;

    if (text[0] == '\0') {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s: an empty pattern", where);
    }
    CSP_TRY(csp_strdup(where, text, &copy));
    *out = (csp_pattern) { .literal = copy, .literal_bytes = (int64_t)strlen(copy) };
    return CSP_OK;
}

void csp_pattern_clear(csp_pattern *pattern)
{
    pcre2_code_free(pattern->code);
    free(pattern->literal);
    *pattern = (csp_pattern) { 0 };
}

csp_status csp_matcher_init(csp_matcher *matcher)
{
    csp_matcher made = { 0 };

    made.data = pcre2_match_data_create(1, NULL);
    made.context = pcre2_match_context_create(NULL);
    made.stack = pcre2_jit_stack_create(32 * 1024, 1024 * 1024, NULL);
    if (made.data == NULL || made.context == NULL || made.stack == NULL) {
        csp_matcher_clear(&made);
        return CSP_FAIL(CSP_ERR_MEMORY, "tokenizer: no memory for pattern matching");
    }
    pcre2_jit_stack_assign(made.context, NULL, made.stack);
    *matcher = made;
    return CSP_OK;
}

void csp_matcher_clear(csp_matcher *matcher)
{
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    *matcher = (csp_matcher) { 0 };
}

static csp_status search(const csp_pattern *pattern, csp_matcher *matcher, const char *text,
                         int64_t bytes, int64_t from, int64_t *begin, int64_t *end, bool *found)
{
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(matcher->data);
    int result;

    if (pattern->code == NULL) {
        const char *hit = memmem(text + from, (size_t)(bytes - from), pattern->literal,
                                 (size_t)pattern->literal_bytes);

        *found = hit != NULL;
        if (hit != NULL) {
            *begin = hit - text;
            *end = *begin + pattern->literal_bytes;
        }
        return CSP_OK;
    }
    if (pattern->jit) {
        result = pcre2_jit_match(pattern->code, (PCRE2_SPTR)text, (PCRE2_SIZE)bytes,
                                 (PCRE2_SIZE)from, 0, matcher->data, matcher->context);
    } else {
        result = pcre2_match(pattern->code, (PCRE2_SPTR)text, (PCRE2_SIZE)bytes, (PCRE2_SIZE)from,
                             PCRE2_NO_UTF_CHECK, matcher->data, matcher->context);
    }
    if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR message[120] = "";

        (void)pcre2_get_error_message(result, message, sizeof(message));
        return CSP_FAIL(CSP_ERR_DATA,
                        "tokenizer: a split pattern gave up on a text of %lld bytes: %s",
                        (long long)bytes, (const char *)message);
    }
    *found = result >= 0;
    if (result >= 0) {
        *begin = (int64_t)ends[0];
        *end = (int64_t)ends[1];
    }
    return CSP_OK;
}

csp_status csp_pattern_next(const csp_pattern *pattern, csp_matcher *matcher, const char *text,
                            int64_t bytes, csp_match *match, bool *found)
{
    int64_t from = match->end;
    int64_t begin = 0, end = 0;

    *found = false;
    while (from <= bytes) {
        CSP_TRY(search(pattern, matcher, text, bytes, from, &begin, &end, found));
        if (!*found || begin != end || end != match->last) {
            break;
        }
        /* An empty match where the last one ended counts as none: go on one character later. */
        *found = false;
        if (from < bytes) {
            int length;

            (void)csp_utf8_next(text + from, &length);
            from += length;
        } else {
            from++;
        }
    }
    if (*found) {
        *match = (csp_match) { .begin = begin, .end = end, .last = end };
    }
    return CSP_OK;
}

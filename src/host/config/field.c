/* field.c - texts to members and back, by the rows of field.h. */
#include "config/field.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/number.h"

/* More would be a mistake, and keeps products far from overflow. */
enum { LIST_LIMIT = 1000000 };

bool csp_field_is_list(const csp_field *field)
{
    return field->kind == CSP_FIELD_I64S || field->kind == CSP_FIELD_TEXTS;
}

/* Index of text among the words of "a|b|c", -1 if it is none of them. */
static int choice_index(const char *choices, const char *text)
{
    const size_t bytes = strlen(text);
    int index = 0;

    for (const char *at = choices;; at++, index++) {
        const size_t word = strcspn(at, "|");

        if (word == bytes && memcmp(at, text, bytes) == 0) {
            return index;
        }
        at += word;
        if (*at == '\0') {
            return -1;
        }
    }
}

static csp_status check_range(const csp_field *field, const char *text, double value,
                              const char *where)
{
    const char *gap = field->unit[0] != '\0' ? " " : "";

    if (!(value >= field->min)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: %s is below the minimum %.15g%s%s", where, text,
                        field->min, gap, field->unit);
    }
    if (!(value <= field->max)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: %s is above the maximum %.15g%s%s", where, text,
                        field->max, gap, field->unit);
    }
    return CSP_OK;
}

static csp_status parse_i64(const csp_field *field, const char *text, const char *where,
                            int64_t *out)
{
    int64_t value;

    if (!csp_parse_i64(text, &value)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: \"%.64s\" is not a whole number", where, text);
    }
    /* Beyond 64 bits it is the nearest limit, which every row's range refuses. */
    CSP_TRY(check_range(field, text, (double)value, where));
    *out = value;
    return CSP_OK;
}

static csp_status parse_f64(const csp_field *field, const char *text, const char *where,
                            double *out)
{
    double value;

    if (!csp_parse_f64(text, &value)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: \"%.64s\" is not a number", where, text);
    }
    CSP_TRY(check_range(field, text, value, where));
    *out = value;
    return CSP_OK;
}

static csp_status check_choice(const csp_field *field, const char *text, const char *where)
{
    if (field->choices != NULL && choice_index(field->choices, text) < 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: \"%.64s\" is not one of %s", where, text,
                        field->choices);
    }
    return CSP_OK;
}

static void free_texts(csp_text_list *list)
{
    for (int64_t i = 0; list->values != NULL && i < list->count; i++) {
        free(list->values[i]);
    }
    free(list->values);
    *list = (csp_text_list) { NULL, 0 };
}

static csp_status parse_i64s(const csp_field *field, const char *const *values, int64_t count,
                             const char *where, csp_i64_list *out)
{
    csp_i64_list list = { NULL, count };
    csp_status status;

    CSP_TRY(csp_alloc(where, count, sizeof(*list.values), &list.values));
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY_GOTO(parse_i64(field, values[i], where, &list.values[i]));
    }
    *out = list;
    return CSP_OK;

fail:
    free(list.values);
    return status;
}

static csp_status parse_texts(const csp_field *field, const char *const *values, int64_t count,
                              const char *where, csp_text_list *out)
{
    csp_text_list list = { NULL, count };
    csp_status status;

    CSP_TRY(csp_alloc_zero(where, count, sizeof(*list.values), &list.values));
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY_GOTO(check_choice(field, values[i], where));
        for (int64_t k = 0; k < i && field->choices != NULL; k++) {
            if (strcmp(values[i], values[k]) == 0) {
                status = CSP_FAIL(CSP_ERR_CONFIG, "%s: \"%s\" is named twice", where, values[i]);
                goto fail;
            }
        }
        CSP_TRY_GOTO(csp_strdup(where, values[i], &list.values[i]));
    }
    *out = list;
    return CSP_OK;

fail:
    free_texts(&list);
    return status;
}

/* One value of a kind that is not a list, into value, which is as large as the member. */
static csp_status parse_single(const csp_field *field, const char *text, const char *where,
                               void *value)
{
    switch (field->kind) {
    case CSP_FIELD_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: \"%.64s\" is neither true nor false", where, text);
        }
        *(bool *)value = text[0] == 't';
        return CSP_OK;
    case CSP_FIELD_I64:
        return parse_i64(field, text, where, value);
    case CSP_FIELD_F64:
        return parse_f64(field, text, where, value);
    case CSP_FIELD_ENUM:
        CSP_TRY(check_choice(field, text, where));
        *(int *)value = choice_index(field->choices, text);
        return CSP_OK;
    case CSP_FIELD_TEXT:
        CSP_TRY(check_choice(field, text, where));
        return csp_strdup(where, text, value);
    case CSP_FIELD_I64S:
    case CSP_FIELD_TEXTS:
        break;
    }
    CSP_ASSERT(!"a list is no single value");
    return CSP_ERR_ARGUMENT;
}

static size_t member_bytes(const csp_field *field)
{
    switch (field->kind) {
    case CSP_FIELD_BOOL:
        return sizeof(bool);
    case CSP_FIELD_I64:
        return sizeof(int64_t);
    case CSP_FIELD_F64:
        return sizeof(double);
    case CSP_FIELD_TEXT:
        return sizeof(char *);
    case CSP_FIELD_ENUM:
        return sizeof(int);
    case CSP_FIELD_I64S:
        return sizeof(csp_i64_list);
    case CSP_FIELD_TEXTS:
        return sizeof(csp_text_list);
    }
    return 0;
}

static void *member_of(const csp_field *field, const void *object)
{
    return (char *)object + field->offset;
}

/* Large enough and aligned for every kind of member. */
typedef union member_value {
    bool boolean;
    int64_t i64;
    double f64;
    char *text;
    int word;
    csp_i64_list i64s;
    csp_text_list texts;
} member_value;

static void put_member(const csp_field *field, void *object, const member_value *value)
{
    csp_field_clear(field, object);
    memcpy(member_of(field, object), value, member_bytes(field));
}

csp_status csp_field_set(const csp_field *field, void *object, const char *const *values,
                         int64_t count, const char *where)
{
    member_value value = { 0 };

    if (count > LIST_LIMIT) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: more than %d values", where, LIST_LIMIT);
    }
    if (field->kind == CSP_FIELD_I64S) {
        CSP_TRY(parse_i64s(field, values, count, where, &value.i64s));
    } else if (field->kind == CSP_FIELD_TEXTS) {
        CSP_TRY(parse_texts(field, values, count, where, &value.texts));
    } else if (count != 1) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: one value is expected, not a list", where);
    } else {
        CSP_TRY(parse_single(field, values[0], where, &value));
    }
    put_member(field, object, &value);
    return CSP_OK;
}

csp_status csp_field_set_standard(const csp_field *field, void *object)
{
    const char *words[16];
    char *copy = NULL;
    int64_t count = 0;
    csp_status status;

    if (field->standard == NULL) {
        csp_field_clear(field, object);
        return CSP_OK;
    }
    if (!csp_field_is_list(field)) {
        return csp_field_set(field, object, &field->standard, 1, field->key);
    }
    CSP_TRY(csp_strdup(field->key, field->standard, &copy));
    for (char *at = copy; *at != '\0';) {
        const size_t bytes = strcspn(at, ",");
        const bool last = at[bytes] == '\0';

        CSP_ASSERT(count < (int64_t)(sizeof(words) / sizeof(words[0])));
        at[bytes] = '\0';
        words[count++] = at;
        at += last ? bytes : bytes + 1;
    }
    status = csp_field_set(field, object, words, count, field->key);
    free(copy);
    return status;
}

csp_status csp_field_copy(const csp_field *field, const void *from, void *to)
{
    member_value value = { 0 };

    if (from == to) {
        return CSP_OK;
    }
    memcpy(&value, member_of(field, from), member_bytes(field));
    if (field->kind == CSP_FIELD_TEXT && value.text != NULL) {
        CSP_TRY(csp_strdup(field->key, value.text, &value.text));
    } else if (field->kind == CSP_FIELD_I64S) {
        const csp_i64_list list = value.i64s;

        CSP_TRY(csp_alloc(field->key, list.count, sizeof(int64_t), &value.i64s.values));
        if (list.count > 0) {
            memcpy(value.i64s.values, list.values, (size_t)list.count * sizeof(int64_t));
        }
    } else if (field->kind == CSP_FIELD_TEXTS) {
        const csp_text_list list = value.texts;

        /* The texts are known to be good, so this is only their copy. */
        CSP_TRY(parse_texts(field, (const char *const *)list.values, list.count, field->key,
                            &value.texts));
    }
    put_member(field, to, &value);
    return CSP_OK;
}

void csp_field_clear(const csp_field *field, void *object)
{
    void *member = member_of(field, object);

    if (field->kind == CSP_FIELD_TEXT) {
        free(*(char **)member);
    } else if (field->kind == CSP_FIELD_I64S) {
        free(((csp_i64_list *)member)->values);
    } else if (field->kind == CSP_FIELD_TEXTS) {
        free_texts(member);
    }
    memset(member, 0, member_bytes(field));
}

void csp_field_write_quoted(const char *text, FILE *stream)
{
    fputc('"', stream);
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
        if (*at == '"' || *at == '\\') {
            fprintf(stream, "\\%c", *at);
        } else if (*at == '\n') {
            fputs("\\n", stream);
        } else if (*at < 0x20 || *at == 0x7f) {
            fprintf(stream, "\\x%02x", *at);
        } else {
            fputc(*at, stream);
        }
    }
    fputc('"', stream);
}

/* The shortest decimal that reads back to the same double; whole numbers in full. */
static void write_f64(double value, FILE *stream)
{
    char text[40];

    if (fabs(value) < 1e15 && value == floor(value)) {
        fprintf(stream, "%.0f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    fputs(text, stream);
}

static void write_choice(const char *choices, int index, FILE *stream)
{
    const char *at = choices;

    while (index-- > 0) {
        at += strcspn(at, "|") + 1;
    }
    fprintf(stream, "%.*s", (int)strcspn(at, "|"), at);
}

void csp_field_write(const csp_field *field, const void *object, FILE *stream)
{
    const void *member = member_of(field, object);

    switch (field->kind) {
    case CSP_FIELD_BOOL:
        fputs(*(const bool *)member ? "true" : "false", stream);
        break;
    case CSP_FIELD_I64:
        fprintf(stream, "%lld", (long long)*(const int64_t *)member);
        break;
    case CSP_FIELD_F64:
        write_f64(*(const double *)member, stream);
        break;
    case CSP_FIELD_ENUM:
        write_choice(field->choices, *(const int *)member, stream);
        break;
    case CSP_FIELD_TEXT:
        if (*(char *const *)member == NULL) {
            fputs("null", stream);
        } else {
            csp_field_write_quoted(*(char *const *)member, stream);
        }
        break;
    case CSP_FIELD_I64S: {
        const csp_i64_list *list = member;

        fputc('[', stream);
        for (int64_t i = 0; i < list->count; i++) {
            fprintf(stream, "%s%lld", i > 0 ? ", " : "", (long long)list->values[i]);
        }
        fputc(']', stream);
        break;
    }
    case CSP_FIELD_TEXTS: {
        const csp_text_list *list = member;

        fputc('[', stream);
        for (int64_t i = 0; i < list->count; i++) {
            fputs(i > 0 ? ", " : "", stream);
            if (field->choices != NULL) {
                fputs(list->values[i], stream);
            } else {
                csp_field_write_quoted(list->values[i], stream);
            }
        }
        fputc(']', stream);
        break;
    }
    }
}

void csp_field_write_limits(const csp_field *field, FILE *stream)
{
    const char *gap = field->unit[0] != '\0' ? " " : "";

    if (field->choices != NULL) {
        for (const char *at = field->choices; *at != '\0'; at++) {
            fputs(*at == '|' ? ", " : (char[]) { *at, '\0' }, stream);
        }
    } else if (field->kind == CSP_FIELD_I64 || field->kind == CSP_FIELD_F64 ||
               field->kind == CSP_FIELD_I64S) {
        fprintf(stream, "%.15g..%.15g%s%s", field->min, field->max, gap, field->unit);
    }
}

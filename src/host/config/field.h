/*
 * field.h - one setting = one row: key, place, standard value, limits and help.
 *
 * The row is all there is to know about a setting: applying a value, checking it, printing it and
 * explaining it read the same row, and its key is the name of the struct's member.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "core/status.h"

/* What the member of the settings struct is. */
typedef enum csp_field_kind {
    CSP_FIELD_BOOL, /* bool                                                        */
    CSP_FIELD_I64,  /* int64_t in min..max                                         */
    CSP_FIELD_F64,  /* double in min..max, finite                                  */
    CSP_FIELD_TEXT, /* char *, owned; NULL when not set                            */
    CSP_FIELD_ENUM, /* int: index of the word in choices                           */
    CSP_FIELD_I64S, /* csp_i64_list, every value in min..max                       */
    CSP_FIELD_TEXTS /* csp_text_list; with choices every value is one of them,
                       and none occurs twice                                       */
} csp_field_kind;

typedef struct csp_i64_list {
    int64_t *values;
    int64_t count;
} csp_i64_list;

typedef struct csp_text_list {
    char **values;
    int64_t count;
} csp_text_list;

typedef struct csp_field {
    const char *key;
    csp_field_kind kind;
    size_t offset;
    const char *standard; /* text of the value when not set; lists "a,b"; NULL: unset (texts) */
    double min, max;      /* of numbers, both inclusive                                       */
    const char *choices;  /* "causal|echo|bi", or NULL                                        */
    const char *unit;     /* "" or "optimizer steps"                                          */
    bool free;            /* may differ between a checkpoint and the run that resumes it      */
    const char *help;     /* one sentence, lower case, no full stop                           */
} csp_field;

/* The key is #member and the place its offset, so that a row and its member cannot drift apart. */
#define CSP_FIELD(type, member, kind, standard, min, max, unit, help)                      \
    {                                                                                      \
#member, kind, offsetof(type, member), standard, min, max, NULL, unit, false, help \
    }
#define CSP_FIELD_WORD(type, member, kind, standard, choices, help)                     \
    {                                                                                   \
#member, kind, offsetof(type, member), standard, 0, 0, choices, "", false, help \
    }
/* The same for settings that change nothing of the result, such as where files go. */
#define CSP_FIELD_FREE(type, member, kind, standard, min, max, unit, help)                \
    {                                                                                     \
#member, kind, offsetof(type, member), standard, min, max, NULL, unit, true, help \
    }
#define CSP_FIELD_FREE_WORD(type, member, kind, standard, choices, help)               \
    {                                                                                  \
#member, kind, offsetof(type, member), standard, 0, 0, choices, "", true, help \
    }

/*
 * Sets the member from texts; what it held is freed.
 *
 *   object   in,out   the settings struct
 *   values   in       count texts: one unless the kind is a list; count 0 is the empty list
 *   where    in       begins the error text: "base.yaml:14: contrastive.temperature"
 *
 * Errors: CSP_ERR_CONFIG with where, value and limit; CSP_ERR_MEMORY. The member is unchanged then.
 */
CSP_CHECKED csp_status csp_field_set(const csp_field *field, void *object,
                                     const char *const *values, int64_t count, const char *where);

/* Sets the member to the row's standard. Errors: CSP_ERR_MEMORY (standards are known to be good).
 */
CSP_CHECKED csp_status csp_field_set_standard(const csp_field *field, void *object);

/* Copies the member of from into to. Errors: CSP_ERR_MEMORY; to is unchanged then. */
CSP_CHECKED csp_status csp_field_copy(const csp_field *field, const void *from, void *to);

/* Frees what the member owns and zeroes it. */
void csp_field_clear(const csp_field *field, void *object);

/* Writes the member as YAML that reads back to the same value: 0.001, "query: ", [1, 2], null. */
void csp_field_write(const csp_field *field, const void *object, FILE *stream);

/* Writes "0..1000 optimizer steps", "causal, echo or bi" or nothing. For help and comments. */
void csp_field_write_limits(const csp_field *field, FILE *stream);

/* Whether the kind takes a list of values. */
bool csp_field_is_list(const csp_field *field);

/* A YAML double-quoted scalar. */
void csp_field_write_quoted(const char *text, FILE *stream);

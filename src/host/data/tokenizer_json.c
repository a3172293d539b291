/* tokenizer_json.c - typed members of the objects in a tokenizer.json, and lists of steps, with
 * messages that say where. */
#include <string.h>

#include "data/tokenizer_internal.h"

/* Sequences may hold sequences; a file that nests deeper than this is not one. */
enum { NESTING_LIMIT = 8 };

csp_status csp_json_only_keys(const char *where, const json_t *object, const char *const *keys)
{
    const char *key;
    json_t *value;

    if (!json_is_object(object)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s is not an object", where);
    }
    json_object_foreach((json_t *)object, key, value)
    {
        bool known = strcmp(key, "type") == 0;

        for (int i = 0; keys[i] != NULL && !known; i++) {
            known = strcmp(key, keys[i]) == 0;
        }
        if (!known) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                            "%s has the member \"%.100s\", which csplade does "
                            "not know",
                            where, key);
        }
    }
    return CSP_OK;
}

csp_status csp_json_text(const char *where, const json_t *object, const char *key, const char **out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_string(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%s\" is missing or not a string", where, key);
    }
    *out = json_string_value(value);
    return CSP_OK;
}

csp_status csp_json_bool(const char *where, const json_t *object, const char *key, bool fallback,
                         bool *out)
{
    const json_t *value = json_object_get(object, key);

    if (value == NULL || json_is_null(value)) {
        *out = fallback;
        return CSP_OK;
    }
    if (!json_is_boolean(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%s\" is neither true nor false", where, key);
    }
    *out = json_is_true(value);
    return CSP_OK;
}

csp_status csp_json_int(const char *where, const json_t *object, const char *key, int64_t min,
                        int64_t max, int64_t *out)
{
    const json_t *value = json_object_get(object, key);
    int64_t number;

    if (!json_is_integer(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%s\" is missing or not an integer", where, key);
    }
    number = (int64_t)json_integer_value(value);
    if (number < min || number > max) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%s\" is %lld, outside %lld..%lld", where, key,
                        (long long)number, (long long)min, (long long)max);
    }
    *out = number;
    return CSP_OK;
}

csp_status csp_json_array(const char *where, const json_t *object, const char *key,
                          const json_t **out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_array(value)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%s\" is missing or not an array", where, key);
    }
    *out = value;
    return CSP_OK;
}

csp_status csp_json_pattern(const char *where, const json_t *object, const char *key,
                            csp_pattern *out)
{
    const json_t *value = json_object_get(object, key);
    const json_t *regex = json_object_get(value, "Regex");
    const json_t *literal = json_object_get(value, "String");

    if (json_object_size(value) == 1 && json_is_string(regex)) {
        return csp_pattern_regex(where, json_string_value(regex), out);
    }
    if (json_object_size(value) == 1 && json_is_string(literal)) {
        return csp_pattern_literal(where, json_string_value(literal), out);
    }
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%s\" is neither {\"String\": ..} nor {\"Regex\": ..}",
                    where, key);
}

csp_status csp_json_char(const char *where, const json_t *object, const char *key, char out[5])
{
    const char *text;
    int length = 0;

    CSP_TRY(csp_json_text(where, object, key, &text));
    if (text[0] != '\0') {
        (void)csp_utf8_next(text, &length);
    }
    if (length == 0 || text[length] != '\0') {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%s\" is not one character", where, key);
    }
    memcpy(out, text, (size_t)length + 1);
    return CSP_OK;
}

csp_status csp_unknown_type(const char *where, const char *type)
{
    return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s is of type %.60s, which csplade does not support",
                    where, type);
}

static csp_status load_steps(csp_tokenizer *tokenizer, const char *where, const json_t *object,
                             const char *list, csp_load_step load, int depth)
{
    const char *const keys[] = { list, NULL };
    const json_t *members;
    const char *type;

    if (!json_is_object(object)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s is not an object", where);
    }
    CSP_TRY(csp_json_text(where, object, "type", &type));
    if (strcmp(type, "Sequence") != 0) {
        return load(tokenizer, where, object, type);
    }
    if (depth == NESTING_LIMIT) {
        return csp_unknown_type(where, type);
    }
    CSP_TRY(csp_json_only_keys(where, object, keys));
    CSP_TRY(csp_json_array(where, object, list, &members));
    for (size_t i = 0; i < json_array_size(members); i++) {
        CSP_TRY(load_steps(tokenizer, where, json_array_get(members, i), list, load, depth + 1));
    }
    return CSP_OK;
}

csp_status csp_load_steps(csp_tokenizer *tokenizer, const char *where, const json_t *object,
                          const char *list, csp_load_step load)
{
    return load_steps(tokenizer, where, object, list, load, 0);
}

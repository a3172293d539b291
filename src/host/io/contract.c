/*
 * contract.c - the text contract as a struct, as JSON, and compared. One table lists its fields;
 * everything here walks that table.
 */
#include "io/contract.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/memory.h"
#include "io/lines.h"

#define CONTRACT_VERSION 1

typedef enum field_kind {
    KIND_VARIANT,
    KIND_POOLING,
    KIND_TEXT,
    KIND_I32,
    KIND_BOOL,
    KIND_F64,
    KIND_IDS
} field_kind;

typedef struct contract_field {
    const char *name;
    field_kind kind;
    size_t offset;
    double min, max; /* of KIND_I32 and KIND_F64 */
} contract_field;

#define FIELD(member, kind, min, max)                           \
    {                                                           \
#member, kind, offsetof(csp_contract, member), min, max \
    }

static const contract_field fields[] = {
    FIELD(variant, KIND_VARIANT, 0, 0),
    FIELD(query_prefix, KIND_TEXT, 0, 0),
    FIELD(passage_prefix, KIND_TEXT, 0, 0),
    FIELD(query_max_len, KIND_I32, 1, CSP_CONTRACT_MAX_LEN),
    FIELD(passage_max_len, KIND_I32, 1, CSP_CONTRACT_MAX_LEN),
    FIELD(add_bos, KIND_BOOL, 0, 0),
    FIELD(append_eos, KIND_BOOL, 0, 0),
    FIELD(bos_id, KIND_I32, -1, INT32_MAX),
    FIELD(eos_id, KIND_I32, -1, INT32_MAX),
    FIELD(title_separator, KIND_TEXT, 0, 0),
    FIELD(logit_scale, KIND_F64, 1e-6, 1e6),
    FIELD(exclude_ids, KIND_IDS, 0, 0),
    FIELD(pooling, KIND_POOLING, 0, 0),
    FIELD(top_k_query, KIND_I32, 0, INT32_MAX),
    FIELD(top_k_passage, KIND_I32, 0, INT32_MAX),
    FIELD(quant_scale, KIND_F64, 1e-6, 1e6),
};

#define FIELD_COUNT (sizeof(fields) / sizeof(fields[0]))

static const char *const variant_names[] = { "causal", "echo", "bi" };
static const char *const pooling_names[] = { "max", "sum" };

/* The place of a field in a contract; the cast is to the type its kind names. */
static void *place(csp_contract *contract, const contract_field *field)
{
    return (char *)contract + field->offset;
}

static const void *place_of(const csp_contract *contract, const contract_field *field)
{
    return (const char *)contract + field->offset;
}

const char *csp_variant_name(csp_variant variant)
{
    return variant_names[variant];
}

const char *csp_pooling_name(csp_pooling pooling)
{
    return pooling_names[pooling];
}

csp_status csp_variant_parse(const char *name, csp_variant *out)
{
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, variant_names[i]) == 0) {
            *out = (csp_variant)i;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_CONFIG, "variant is \"%s\", not causal, echo or bi", name);
}

csp_status csp_pooling_parse(const char *name, csp_pooling *out)
{
    for (int i = 0; i < 2; i++) {
        if (strcmp(name, pooling_names[i]) == 0) {
            *out = (csp_pooling)i;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_CONFIG, "pooling is \"%s\", not max or sum", name);
}

csp_status csp_contract_set_text(char **field, const char *text)
{
    char *copy = NULL;

    CSP_TRY(csp_strdup("contract", text, &copy));
    free(*field);
    *field = copy;
    return CSP_OK;
}

static int compare_ids(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

csp_status csp_contract_set_exclude_ids(csp_contract *contract, const int32_t *ids, int64_t count)
{
    int32_t *copy = NULL;
    int64_t distinct = 0;

    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0) {
            return CSP_FAIL(CSP_ERR_ARGUMENT, "exclude_ids holds %" PRId32 ", which is negative",
                            ids[i]);
        }
    }
    CSP_TRY(csp_alloc("contract", count, sizeof(*copy), &copy));
    if (count > 0) {
        memcpy(copy, ids, (size_t)count * sizeof(*copy));
        qsort(copy, (size_t)count, sizeof(*copy), compare_ids);
    }
    for (int64_t i = 0; i < count; i++) {
        if (distinct == 0 || copy[distinct - 1] != copy[i]) {
            copy[distinct++] = copy[i];
        }
    }
    free(contract->exclude_ids);
    contract->exclude_ids = copy;
    contract->exclude_count = distinct;
    return CSP_OK;
}

bool csp_contract_excludes(const csp_contract *contract, int32_t id)
{
    return contract->exclude_count > 0 &&
           bsearch(&id, contract->exclude_ids, (size_t)contract->exclude_count, sizeof(id),
                   compare_ids) != NULL;
}

csp_status csp_contract_init(csp_contract *contract)
{
    csp_status status;
    csp_contract c = { .variant = CSP_VARIANT_CAUSAL,
                       .query_max_len = 192,
                       .passage_max_len = 192,
                       .bos_id = -1,
                       .eos_id = -1,
                       .logit_scale = 1.0,
                       .pooling = CSP_POOLING_MAX,
                       .quant_scale = 100.0 };

    CSP_TRY_GOTO(csp_contract_set_text(&c.query_prefix, "query: "));
    CSP_TRY_GOTO(csp_contract_set_text(&c.passage_prefix, "passage: "));
    CSP_TRY_GOTO(csp_contract_set_text(&c.title_separator, " "));
    CSP_TRY_GOTO(csp_contract_set_exclude_ids(&c, NULL, 0));
    *contract = c;
    return CSP_OK;

fail:
    csp_contract_clear(&c);
    return status;
}

void csp_contract_clear(csp_contract *contract)
{
    if (contract == NULL) {
        return;
    }
    free(contract->query_prefix);
    free(contract->passage_prefix);
    free(contract->title_separator);
    free(contract->exclude_ids);
    *contract = (csp_contract) { 0 };
}

csp_status csp_contract_copy(const csp_contract *contract, csp_contract *out)
{
    csp_status status;
    csp_contract c = *contract;

    c.query_prefix = c.passage_prefix = c.title_separator = NULL;
    c.exclude_ids = NULL;
    CSP_TRY_GOTO(csp_contract_set_text(&c.query_prefix, contract->query_prefix));
    CSP_TRY_GOTO(csp_contract_set_text(&c.passage_prefix, contract->passage_prefix));
    CSP_TRY_GOTO(csp_contract_set_text(&c.title_separator, contract->title_separator));
    CSP_TRY_GOTO(csp_contract_set_exclude_ids(&c, contract->exclude_ids, contract->exclude_count));
    *out = c;
    return CSP_OK;

fail:
    csp_contract_clear(&c);
    return status;
}

csp_status csp_contract_check(const csp_contract *contract, const char *where)
{
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const contract_field *f = &fields[i];
        double value;

        if (f->kind == KIND_I32) {
            value = *(const int32_t *)place_of(contract, f);
        } else if (f->kind == KIND_F64) {
            value = *(const double *)place_of(contract, f);
        } else {
            continue;
        }
        if (!(value >= f->min && value <= f->max)) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: %s is %g, not in %g..%g", where, f->name, value,
                            f->min, f->max);
        }
    }
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const char *text =
            fields[i].kind == KIND_TEXT ? *(char *const *)place_of(contract, &fields[i]) : "";

        if (!csp_utf8_is_valid(text, (int64_t)strlen(text), NULL)) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: %s \"%.60s\" is not valid UTF-8", where,
                            fields[i].name, text);
        }
    }
    if (contract->add_bos && contract->bos_id < 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: add_bos is true but there is no bos_id", where);
    }
    if (contract->append_eos && contract->eos_id < 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: append_eos is true but there is no eos_id", where);
    }
    return CSP_OK;
}

static json_t *ids_to_json(const csp_contract *contract)
{
    json_t *array = json_array();

    for (int64_t i = 0; i < contract->exclude_count; i++) {
        if (json_array_append_new(array, json_integer(contract->exclude_ids[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* A new reference, NULL without memory. */
static json_t *field_to_json(const csp_contract *contract, const contract_field *f)
{
    const void *at = place_of(contract, f);

    switch (f->kind) {
    case KIND_VARIANT:
        return json_string(csp_variant_name(*(const csp_variant *)at));
    case KIND_POOLING:
        return json_string(csp_pooling_name(*(const csp_pooling *)at));
    case KIND_TEXT:
        return json_string(*(char *const *)at);
    case KIND_I32:
        return json_integer(*(const int32_t *)at);
    case KIND_BOOL:
        return json_boolean(*(const bool *)at);
    case KIND_F64:
        return json_real(*(const double *)at);
    case KIND_IDS:
        return ids_to_json(contract);
    }
    return NULL;
}

csp_status csp_contract_to_json(const csp_contract *contract, char **text)
{
    json_t *object = json_object();
    char *dump = NULL;
    bool good = object != NULL &&
                json_object_set_new(object, "version", json_integer(CONTRACT_VERSION)) == 0;

    for (size_t i = 0; good && i < FIELD_COUNT; i++) {
        good =
            json_object_set_new(object, fields[i].name, field_to_json(contract, &fields[i])) == 0;
    }
    if (good) {
        dump = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    }
    json_decref(object);
    if (dump == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "contract: no memory for its JSON");
    }
    *text = dump;
    return CSP_OK;
}

static csp_status wrong_type(const char *where, const contract_field *f, const char *wanted)
{
    return CSP_FAIL(CSP_ERR_FORMAT, "%s: the contract's %s is not %s", where, f->name, wanted);
}

static csp_status ids_from_json(const json_t *value, const char *where, const contract_field *f,
                                csp_contract *contract)
{
    const size_t count = json_array_size(value);
    csp_status status;
    int32_t *ids = NULL;

    if (!json_is_array(value)) {
        return wrong_type(where, f, "a list of token ids");
    }
    CSP_TRY(csp_alloc("contract", (int64_t)count, sizeof(*ids), &ids));
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        const json_int_t id = json_integer_value(item);

        if (!json_is_integer(item) || id < 0 || id > INT32_MAX) {
            free(ids);
            return wrong_type(where, f, "a list of token ids");
        }
        ids[i] = (int32_t)id;
    }
    status = csp_contract_set_exclude_ids(contract, ids, (int64_t)count);
    free(ids);
    return status;
}

static csp_status field_from_json(const json_t *value, const char *where, const contract_field *f,
                                  csp_contract *contract)
{
    void *at = place(contract, f);

    switch (f->kind) {
    case KIND_VARIANT:
        if (!json_is_string(value) || csp_variant_parse(json_string_value(value), at) != CSP_OK) {
            return wrong_type(where, f, "causal, echo or bi");
        }
        return CSP_OK;
    case KIND_POOLING:
        if (!json_is_string(value) || csp_pooling_parse(json_string_value(value), at) != CSP_OK) {
            return wrong_type(where, f, "max or sum");
        }
        return CSP_OK;
    case KIND_TEXT:
        return json_is_string(value) ? csp_contract_set_text(at, json_string_value(value))
                                     : wrong_type(where, f, "a text");
    case KIND_I32:
        if (!json_is_integer(value) || json_integer_value(value) < INT32_MIN ||
            json_integer_value(value) > INT32_MAX) {
            return wrong_type(where, f, "an integer of 32 bits");
        }
        *(int32_t *)at = (int32_t)json_integer_value(value);
        return CSP_OK;
    case KIND_BOOL:
        if (!json_is_boolean(value)) {
            return wrong_type(where, f, "true or false");
        }
        *(bool *)at = json_is_true(value);
        return CSP_OK;
    case KIND_F64:
        if (!json_is_number(value)) {
            return wrong_type(where, f, "a number");
        }
        *(double *)at = json_number_value(value);
        return CSP_OK;
    case KIND_IDS:
        return ids_from_json(value, where, f, contract);
    }
    return CSP_OK;
}

/* Every key known, the version ours. */
static csp_status check_keys(json_t *object, const char *where)
{
    const json_t *version = json_object_get(object, "version");
    const char *key;
    json_t *value;

    if (!json_is_object(object)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: the contract is not a JSON object", where);
    }
    if (!json_is_integer(version) || json_integer_value(version) != CONTRACT_VERSION) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: the contract's version is not %d", where,
                        CONTRACT_VERSION);
    }
    json_object_foreach(object, key, value)
    {
        bool known = strcmp(key, "version") == 0;

        for (size_t i = 0; !known && i < FIELD_COUNT; i++) {
            known = strcmp(key, fields[i].name) == 0;
        }
        if (!known) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: the contract has an unknown key \"%.100s\"", where,
                            key);
        }
    }
    return CSP_OK;
}

csp_status csp_contract_from_json(const char *text, const char *where, csp_contract *out)
{
    csp_status status;
    csp_contract c = { 0 };
    json_error_t error;
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &error);

    if (object == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: the contract is not JSON: line %d: %s", where,
                        error.line, error.text);
    }
    CSP_TRY_GOTO(check_keys(object, where));
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const json_t *value = json_object_get(object, fields[i].name);

        if (value == NULL) {
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s: the contract lacks the key \"%s\"", where,
                              fields[i].name);
            goto fail;
        }
        CSP_TRY_GOTO(field_from_json(value, where, &fields[i], &c));
    }
    if (csp_contract_check(&c, where) != CSP_OK) {
        status = CSP_ERR_FORMAT; /* the text stands; a file is at fault, not a setting */
        goto fail;
    }
    json_decref(object);
    *out = c;
    return CSP_OK;

fail:
    json_decref(object);
    csp_contract_clear(&c);
    return status;
}

static bool same_field(const csp_contract *a, const csp_contract *b, const contract_field *f)
{
    const void *x = place_of(a, f), *y = place_of(b, f);

    switch (f->kind) {
    case KIND_VARIANT:
        return *(const csp_variant *)x == *(const csp_variant *)y;
    case KIND_POOLING:
        return *(const csp_pooling *)x == *(const csp_pooling *)y;
    case KIND_TEXT:
        return strcmp(*(char *const *)x, *(char *const *)y) == 0;
    case KIND_I32:
        return *(const int32_t *)x == *(const int32_t *)y;
    case KIND_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case KIND_F64:
        return *(const double *)x == *(const double *)y;
    case KIND_IDS:
        return a->exclude_count == b->exclude_count &&
               (a->exclude_count == 0 || memcmp(a->exclude_ids, b->exclude_ids,
                                                (size_t)a->exclude_count * sizeof(int32_t)) == 0);
    }
    return false;
}

/* The value as JSON writes it, cut to fit: what the user sees in the file. */
static void describe_field(const csp_contract *contract, const contract_field *f, char *text,
                           size_t size)
{
    json_t *value = field_to_json(contract, f);
    char *dump = value != NULL
                     ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6))
                     : NULL;

    (void)snprintf(text, size, "%s", dump != NULL ? dump : "?");
    free(dump);
    json_decref(value);
}

bool csp_contract_equal(const csp_contract *a, const csp_contract *b, char *difference, size_t size)
{
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        if (!same_field(a, b, &fields[i])) {
            char x[80], y[80];

            if (size > 0) {
                describe_field(a, &fields[i], x, sizeof(x));
                describe_field(b, &fields[i], y, sizeof(y));
                (void)snprintf(difference, size, "%s is %s and %s", fields[i].name, x, y);
            }
            return false;
        }
    }
    return true;
}

const char *csp_contract_prefix(const csp_contract *contract, csp_side side)
{
    return side == CSP_SIDE_QUERY ? contract->query_prefix : contract->passage_prefix;
}

int32_t csp_contract_max_len(const csp_contract *contract, csp_side side)
{
    return side == CSP_SIDE_QUERY ? contract->query_max_len : contract->passage_max_len;
}

int64_t csp_contract_text_rows(const csp_contract *contract, int64_t count)
{
    const int64_t bos = contract->add_bos && count > 0 ? 1 : 0;

    return contract->variant == CSP_VARIANT_ECHO ? 2 * count - bos : count;
}

int64_t csp_contract_side_rows(const csp_contract *contract, csp_side side)
{
    return csp_contract_text_rows(contract, (int64_t)csp_contract_max_len(contract, side) +
                                                (contract->add_bos ? 1 : 0) +
                                                (contract->append_eos ? 1 : 0));
}

int64_t csp_contract_rows(const csp_contract *contract)
{
    const int64_t query = csp_contract_side_rows(contract, CSP_SIDE_QUERY);
    const int64_t passage = csp_contract_side_rows(contract, CSP_SIDE_PASSAGE);

    return query > passage ? query : passage;
}

int32_t csp_contract_top_k(const csp_contract *contract, csp_side side)
{
    return side == CSP_SIDE_QUERY ? contract->top_k_query : contract->top_k_passage;
}

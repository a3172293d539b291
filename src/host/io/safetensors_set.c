/*
 * safetensors_set.c - the tensors of a model folder, whether one file or shards with an index.
 *
 * Index: {"metadata": {..}, "weight_map": {"<tensor>": "model-00001-of-00002.safetensors", ..}}
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "io/safetensors_header.h"

enum { INDEX_LIMIT = 100000000 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

typedef struct shard {
    char *name;
    csp_safetensors *file;
} shard;

struct csp_safetensors_set {
    char *dir;
    shard *shards; /* by name */
    int64_t shard_count;
    csp_safetensors_entry *entries; /* names and data belong to the shards */
    int64_t count;
    int64_t *by_name;
};

static int by_shard_name(const void *a, const void *b)
{
    return strcmp(((const shard *)a)->name, ((const shard *)b)->name);
}

static csp_status open_shard(csp_safetensors_set *set, shard *s)
{
    char *path;
    csp_status status;

    CSP_TRY(csp_file_join(set->dir, s->name, &path));
    status = csp_safetensors_open(path, &s->file);
    free(path);
    return status;
}

static csp_status load_index(const char *path, json_t **out)
{
    json_error_t problem;
    char *text;
    int64_t bytes;
    json_t *index;

    CSP_TRY(csp_file_read(path, INDEX_LIMIT, &text, &bytes));
    index = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &problem);
    free(text);
    if (index == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%d: %s", path, problem.line, problem.text);
    }
    *out = index;
    return CSP_OK;
}

/* A shard is a file beside the index: an index from elsewhere must not reach other folders. */
static csp_status check_map(const char *path, const json_t *map)
{
    const char *tensor;
    json_t *value;

    if (!json_is_object(map)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: weight_map is missing or not an object", path);
    }
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);

        if (name == NULL || name[0] == '\0' || strchr(name, '/') != NULL) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: tensor %s: its shard is not the name of a file",
                            path, tensor);
        }
    }
    return CSP_OK;
}

/* One shard for each different file name of the map. */
static csp_status list_shards(csp_safetensors_set *set, const json_t *map)
{
    const char *tensor, *last = "";
    json_t *value;
    int64_t n = 0;

    CSP_TRY(csp_alloc_zero(set->dir, (int64_t)json_object_size(map), sizeof(*set->shards),
                           &set->shards));
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);
        bool known = strcmp(last, name) == 0; /* mostly, tensors of a shard come together */

        for (int64_t i = 0; i < n && !known; i++) {
            known = strcmp(set->shards[i].name, name) == 0;
        }
        if (!known) {
            CSP_TRY(csp_strdup(set->dir, name, &set->shards[n].name));
            set->shard_count = ++n;
        }
        last = name;
    }
    qsort(set->shards, (size_t)n, sizeof(*set->shards), by_shard_name);
    return CSP_OK;
}

/* Every tensor of the map must be in its shard; only those of the map are taken. */
static csp_status take_mapped(csp_safetensors_set *set, const char *path, const json_t *map)
{
    const char *tensor;
    json_t *value;
    int64_t left_out = 0;

    json_object_foreach((json_t *)map, tensor, value)
    {
        const shard wanted = { .name = (char *)json_string_value(value) };
        const shard *s =
            bsearch(&wanted, set->shards, (size_t)set->shard_count, sizeof(*s), by_shard_name);

        if (!csp_safetensors_has(s->file, tensor)) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: tensor %s is not in %s", path, tensor, s->name);
        }
    }
    CSP_TRY(
        csp_alloc(set->dir, (int64_t)json_object_size(map), sizeof(*set->entries), &set->entries));
    for (int64_t i = 0; i < set->shard_count; i++) {
        const shard *s = &set->shards[i];

        for (int64_t j = 0; j < csp_safetensors_count(s->file); j++) {
            const csp_safetensors_entry *entry = csp_safetensors_at(s->file, j);
            const char *home = json_string_value(json_object_get(map, entry->name));

            if (home == NULL || strcmp(home, s->name) != 0) {
                left_out++;
                continue;
            }
            CSP_TRY(csp_safetensors_find(s->file, entry->name, &entry));
            set->entries[set->count++] = *entry;
        }
    }
    if (left_out > 0) {
        csp_log(CSP_LOG_WARN, "io", "%s does not name %lld tensors of its shards: left out", path,
                (long long)left_out);
    }
    return CSP_OK;
}

static csp_status take_sharded(csp_safetensors_set *set, const char *path)
{
    json_t *index = NULL, *map;
    csp_status status;

    CSP_TRY(load_index(path, &index));
    map = json_object_get(index, "weight_map");
    CSP_TRY_GOTO(check_map(path, map));
    CSP_TRY_GOTO(list_shards(set, map));
    for (int64_t i = 0; i < set->shard_count; i++) {
        CSP_TRY_GOTO(open_shard(set, &set->shards[i]));
    }
    CSP_TRY_GOTO(take_mapped(set, path, map));
fail:
    json_decref(index);
    return status;
}

static csp_status take_single(csp_safetensors_set *set)
{
    const csp_safetensors *file;

    CSP_TRY(csp_alloc_zero(set->dir, 1, sizeof(*set->shards), &set->shards));
    set->shard_count = 1;
    CSP_TRY(csp_strdup(set->dir, single_name, &set->shards[0].name));
    CSP_TRY(open_shard(set, &set->shards[0]));
    file = set->shards[0].file;
    CSP_TRY(csp_alloc(set->dir, csp_safetensors_count(file), sizeof(*set->entries), &set->entries));
    for (int64_t i = 0; i < csp_safetensors_count(file); i++) {
        const csp_safetensors_entry *entry = csp_safetensors_at(file, i);

        CSP_TRY(csp_safetensors_find(file, entry->name, &entry));
        set->entries[set->count++] = *entry;
    }
    return CSP_OK;
}

csp_status csp_safetensors_set_open(const char *dir, csp_safetensors_set **out)
{
    csp_safetensors_set *set = NULL;
    char *single = NULL, *index = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero(dir, 1, sizeof(*set), &set));
    CSP_TRY_GOTO(csp_strdup(dir, dir, &set->dir));
    CSP_TRY_GOTO(csp_file_join(dir, single_name, &single));
    CSP_TRY_GOTO(csp_file_join(dir, index_name, &index));
    if (csp_file_exists(single)) {
        CSP_TRY_GOTO(take_single(set));
    } else if (csp_file_exists(index)) {
        CSP_TRY_GOTO(take_sharded(set, index));
    } else {
        status =
            CSP_FAIL(CSP_ERR_IO, "%s: neither %s nor %s is there", dir, single_name, index_name);
        goto fail;
    }
    CSP_TRY_GOTO(csp_safetensors_sort_names(dir, set->entries, set->count, &set->by_name));
    *out = set;
    set = NULL;
fail:
    free(single);
    free(index);
    csp_safetensors_set_close(set);
    return status;
}

void csp_safetensors_set_close(csp_safetensors_set *set)
{
    if (set == NULL) {
        return;
    }
    for (int64_t i = 0; i < set->shard_count; i++) {
        csp_safetensors_close(set->shards[i].file);
        free(set->shards[i].name);
    }
    free(set->shards);
    free(set->entries);
    free(set->by_name);
    free(set->dir);
    free(set);
}

int64_t csp_safetensors_set_count(const csp_safetensors_set *set)
{
    return set->count;
}

const csp_safetensors_entry *csp_safetensors_set_at(const csp_safetensors_set *set, int64_t index)
{
    CSP_ASSERT(index >= 0 && index < set->count);
    return &set->entries[index];
}

const csp_safetensors_entry *csp_safetensors_set_find(const csp_safetensors_set *set,
                                                      const char *name)
{
    return csp_safetensors_search(set->entries, set->by_name, set->count, name);
}

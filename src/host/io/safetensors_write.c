/*
 * safetensors_write.c - one file, or a model folder of shards with their index.
 *
 * The header is built as text: its order is the order of the data, and the file is padded with
 * spaces so that the data begins at a multiple of 8.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/memory.h"
#include "io/file.h"
#include "io/lines.h"
#include "io/safetensors.h"
#include "io/safetensors_header.h"

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static csp_status check_entries(const char *path, const csp_safetensors_entry *entries,
                                int64_t count, bool has_data)
{
    const char **names;
    const char *twice = NULL;

    CSP_TRY(csp_alloc(path, count, sizeof(*names), &names));
    for (int64_t i = 0; i < count; i++) {
        const csp_tensor *t = &entries[i].tensor;

        names[i] = entries[i].name;
        if (names[i][0] == '\0' || strcmp(names[i], "__metadata__") == 0 ||
            !csp_utf8_is_valid(names[i], (int64_t)strlen(names[i]), NULL) || t->ndim < 1 ||
            (has_data && t->data == NULL && csp_tensor_count(t) > 0)) {
            free(names);
            return CSP_FAIL(CSP_ERR_ARGUMENT, "%s: tensor %lld \"%s\": an unusable name or no data",
                            path, (long long)i, entries[i].name);
        }
    }
    qsort(names, (size_t)count, sizeof(*names), by_text);
    for (int64_t i = 1; i < count && twice == NULL; i++) {
        twice = strcmp(names[i - 1], names[i]) == 0 ? names[i] : NULL;
    }
    free(names);
    return twice == NULL ? CSP_OK
                         : CSP_FAIL(CSP_ERR_ARGUMENT, "%s: tensor %s comes twice", path, twice);
}

static csp_status quote(const char *text, char **out)
{
    json_t *value = json_string(text);
    char *quoted = value != NULL ? json_dumps(value, JSON_ENCODE_ANY) : NULL;

    json_decref(value);
    if (quoted == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "no memory for the JSON text of %s", text);
    }
    *out = quoted;
    return CSP_OK;
}

static void write_header_entry(FILE *stream, const char *quoted, const csp_tensor *t, size_t begin)
{
    fprintf(stream, ",%s:{\"dtype\":\"%s\",\"shape\":[", quoted,
            csp_safetensors_dtype_name(t->dtype));
    for (int i = 0; i < t->ndim; i++) {
        fprintf(stream, i > 0 ? ",%lld" : "%lld", (long long)t->dim[i]);
    }
    fprintf(stream, "],\"data_offsets\":[%zu,%zu]}", begin, begin + csp_tensor_bytes(t));
}

/* The padded header, malloc'ed. */
static csp_status make_header(const char *path, const csp_safetensors_entry *entries, int64_t count,
                              char **out, size_t *out_bytes)
{
    char *text = NULL, *quoted;
    size_t bytes = 0, begin = 0;
    FILE *stream = open_memstream(&text, &bytes);
    csp_status status = CSP_OK;
    bool fine;

    if (stream == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for the header", path);
    }
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", stream);
    for (int64_t i = 0; i < count && status == CSP_OK; i++) {
        status = quote(entries[i].name, &quoted);
        if (status == CSP_OK) {
            write_header_entry(stream, quoted, &entries[i].tensor, begin);
            begin += csp_tensor_bytes(&entries[i].tensor);
            free(quoted);
        }
    }
    fputc('}', stream);
    fflush(stream);
    fprintf(stream, "%*s", (int)((8 - bytes % 8) % 8), "");
    fine = ferror(stream) == 0;
    fine = fclose(stream) == 0 && fine;
    if (status == CSP_OK && !fine) {
        status = CSP_FAIL(CSP_ERR_MEMORY, "%s: no memory for the header", path);
    }
    if (status != CSP_OK) {
        free(text);
        return status;
    }
    *out = text;
    *out_bytes = bytes;
    return CSP_OK;
}

/* The data of one tensor. */
static csp_status put_tensor(csp_file *file, const csp_safetensors_entry *entry,
                             const csp_safetensors_source *source)
{
    const void *data = entry->tensor.data;

    if (source != NULL) {
        CSP_TRY(source->read(source->context, entry, &data));
    }
    return csp_file_put(file, data, (int64_t)csp_tensor_bytes(&entry->tensor));
}

csp_status csp_safetensors_write(const char *path, const csp_safetensors_entry *entries,
                                 int64_t count, const csp_safetensors_source *source)
{
    csp_file *file = NULL;
    char *header = NULL;
    unsigned char prefix[8];
    size_t bytes;
    csp_status status;

    CSP_TRY(check_entries(path, entries, count, source == NULL));
    CSP_TRY(make_header(path, entries, count, &header, &bytes));
    for (int i = 0; i < 8; i++) {
        prefix[i] = (unsigned char)((uint64_t)bytes >> (8 * i));
    }
    CSP_TRY_GOTO(csp_file_create(path, &file));
    CSP_TRY_GOTO(csp_file_put(file, prefix, sizeof(prefix)));
    CSP_TRY_GOTO(csp_file_put(file, header, (int64_t)bytes));
    for (int64_t i = 0; i < count; i++) {
        CSP_TRY_GOTO(put_tensor(file, &entries[i], source));
    }
    free(header);
    return csp_file_commit(file);

fail:
    free(header);
    csp_file_abandon(file);
    return status;
}

/* How many of the entries from first on go into one shard: at least one. */
static int64_t shard_length(const csp_safetensors_entry *entries, int64_t first, int64_t count,
                            int64_t shard_bytes)
{
    int64_t bytes = 0, i = first;

    while (i < count) {
        bytes += (int64_t)csp_tensor_bytes(&entries[i].tensor);
        if (i > first && bytes > shard_bytes) {
            break;
        }
        i++;
    }
    return i - first;
}

static void shard_name(int64_t number, int64_t shards, char *name, size_t bytes)
{
    snprintf(name, bytes, "model-%05lld-of-%05lld.safetensors", (long long)number,
             (long long)shards);
}

static csp_status write_index(const char *path, const csp_safetensors_entry *entries, int64_t count,
                              int64_t shard_bytes, int64_t shards)
{
    int64_t total = 0, elements = 0, number = 0, left = 0;
    csp_file *file = NULL;
    char *quoted, name[64] = "";
    csp_status status;

    for (int64_t i = 0; i < count; i++) {
        total += (int64_t)csp_tensor_bytes(&entries[i].tensor);
        elements += csp_tensor_count(&entries[i].tensor);
    }
    CSP_TRY(csp_file_create(path, &file));
    CSP_TRY_GOTO(csp_file_print(file,
                                "{\n  \"metadata\": {\n    \"total_parameters\": %lld,\n"
                                "    \"total_size\": %lld\n  },\n  \"weight_map\": {",
                                (long long)elements, (long long)total));
    for (int64_t i = 0; i < count; i++) {
        if (left == 0) {
            left = shard_length(entries, i, count, shard_bytes);
            shard_name(++number, shards, name, sizeof(name));
        }
        left--;
        CSP_TRY_GOTO(quote(entries[i].name, &quoted));
        status = csp_file_print(file, "%s\n    %s: \"%s\"", i > 0 ? "," : "", quoted, name);
        free(quoted);
        CSP_TRY_GOTO(status);
    }
    CSP_TRY_GOTO(csp_file_print(file, "\n  }\n}\n"));
    return csp_file_commit(file);

fail:
    csp_file_abandon(file);
    return status;
}

static csp_status remove_stale(const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot remove it: %s", path, strerror(errno));
    }
    return CSP_OK;
}

static csp_status write_shards(const char *dir, const char *index,
                               const csp_safetensors_entry *entries, int64_t count,
                               int64_t shard_bytes, int64_t shards,
                               const csp_safetensors_source *source)
{
    int64_t number = 0;
    char name[64], *path;

    for (int64_t i = 0, length; i < count; i += length) {
        csp_status status;

        length = shard_length(entries, i, count, shard_bytes);
        shard_name(++number, shards, name, sizeof(name));
        CSP_TRY(csp_file_join(dir, name, &path));
        status = csp_safetensors_write(path, entries + i, length, source);
        free(path);
        CSP_TRY(status);
    }
    return write_index(index, entries, count, shard_bytes, shards);
}

csp_status csp_safetensors_write_dir(const char *dir, const csp_safetensors_entry *entries,
                                     int64_t count, int64_t shard_bytes,
                                     const csp_safetensors_source *source)
{
    char *single = NULL, *index = NULL;
    int64_t shards = 0;
    csp_status status;

    CSP_TRY(check_entries(dir, entries, count, source == NULL));
    CSP_TRY(csp_file_join(dir, "model.safetensors", &single));
    CSP_TRY_GOTO(csp_file_join(dir, "model.safetensors.index.json", &index));
    for (int64_t i = 0; shard_bytes > 0 && i < count; shards++) {
        i += shard_length(entries, i, count, shard_bytes);
    }
    if (shards > 1) {
        CSP_TRY_GOTO(write_shards(dir, index, entries, count, shard_bytes, shards, source));
        CSP_TRY_GOTO(remove_stale(single));
    } else {
        CSP_TRY_GOTO(csp_safetensors_write(single, entries, count, source));
        CSP_TRY_GOTO(remove_stale(index));
    }
fail:
    free(single);
    free(index);
    return status;
}

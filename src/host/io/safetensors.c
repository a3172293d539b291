/*
 * safetensors.c - one file: map, check, look up.
 *
 *     0         8                     8+H                 file size
 *     | u64 H   | JSON header, H bytes | data: tensors in header's offsets, no hole, no overlap |
 *
 * Worked example, one float32 scalar-like tensor "w" of shape [1] holding 1.0 (H = 56 = 0x38):
 *     38 00 00 00 00 00 00 00
 *     {"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   and spaces up to 56 bytes
 *     00 00 80 3F
 */
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/memory.h"
#include "io/safetensors_header.h"

/* What the original library accepts. */
#define HEADER_LIMIT ((uint64_t)100000000)

/* One tensor while the header is read. */
typedef struct span {
    const char *name; /* inside the JSON value until kept */
    const char *dtype;
    uint64_t begin, end; /* in the data */
    csp_tensor tensor;   /* data NULL; none if unusable */
    char problem[64];    /* why it is */
} span;

struct csp_safetensors {
    char *path;
    unsigned char *map;
    size_t map_bytes;
    int64_t count;
    csp_safetensors_entry *entries; /* by offset; names are owned */
    int64_t *by_name;               /* entry numbers in strcmp order */
    void **copies;                  /* of misaligned data, NULL elsewhere */
    char **problems;                /* why an entry is of no use, NULL where it is */
};

static csp_status map_file(csp_safetensors *file)
{
    struct stat info;
    int fd;
    void *map;

    errno = EIO;
    fd = csp_fault_here() ? -1 : open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot open: %s", file->path, strerror(errno));
    }
    if (fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
        const int reason = S_ISDIR(info.st_mode) ? EISDIR : errno;

        close(fd);
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot read: %s", file->path, strerror(reason));
    }
    if (info.st_size < 8) {
        close(fd);
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %lld bytes, shorter than the 8-byte length prefix",
                        file->path, (long long)info.st_size);
    }
    map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot map: %s", file->path, strerror(errno));
    }
    file->map = map;
    file->map_bytes = (size_t)info.st_size;
    return CSP_OK;
}

/* A whole number >= 0; jansson keeps integers as int64 and refuses larger ones. */
static bool whole(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static csp_status parse_shape(const char *path, const json_t *shape, csp_dtype ours, span *s,
                              uint64_t *count)
{
    int64_t dims[CSP_MAX_DIMS] = { 1 };
    const size_t ndim = json_array_size(shape);
    bool nothing = false;

    if (!json_is_array(shape)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: tensor %s: shape is not an array", path, s->name);
    }
    *count = 1;
    for (size_t i = 0; i < ndim; i++) {
        uint64_t size;

        if (!whole(json_array_get(shape, i), &size)) {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: tensor %s: dimension %zu of its shape is not a whole number >= 0",
                            path, s->name, i);
        }
        if (i < CSP_MAX_DIMS) {
            dims[i] = (int64_t)size;
        }
        nothing = nothing || size == 0;
        if (size != 0 && __builtin_mul_overflow(*count, size, count)) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: tensor %s: its shape overflows 64 bits", path,
                            s->name);
        }
    }
    if (*count > INT64_MAX / 8) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: tensor %s: its shape overflows 60 bits", path,
                        s->name);
    }
    s->tensor = csp_tensor_none();
    if (ours == CSP_DTYPE_COUNT) {
        snprintf(s->problem, sizeof(s->problem), "dtype %.32s", s->dtype);
    } else if (ndim > CSP_MAX_DIMS) {
        snprintf(s->problem, sizeof(s->problem), "%zu dimensions", ndim);
    } else {
        s->tensor = csp_tensor_view(NULL, ours, ndim > 0 ? (int)ndim : 1, dims);
    }
    *count = nothing ? 0 : *count;
    return CSP_OK;
}

/* {"dtype": .., "shape": .., "data_offsets": ..}: each right in itself; no other key. */
static csp_status parse_tensor(const char *path, const json_t *value, uint64_t data_bytes, span *s)
{
    const json_t *dtype = json_object_get(value, "dtype");
    const json_t *offsets = json_object_get(value, "data_offsets");
    uint64_t count, bytes;
    csp_dtype ours;
    int bits;

    if (!json_is_object(value) || json_object_size(value) != 3 || !json_is_string(dtype) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !whole(json_array_get(offsets, 0), &s->begin) ||
        !whole(json_array_get(offsets, 1), &s->end)) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: tensor %s: not just a dtype, a shape and two data_offsets", path,
                        s->name);
    }
    s->dtype = json_string_value(dtype);
    bits = csp_safetensors_dtype_bits(s->dtype, &ours);
    CSP_TRY(parse_shape(path, json_object_get(value, "shape"), ours, s, &count));
    if (s->begin > s->end || s->end > data_bytes) {
        return CSP_FAIL(
            CSP_ERR_FORMAT,
            "%s: tensor %s: data_offsets [%llu, %llu] do not lie in the %llu bytes of data", path,
            s->name, (unsigned long long)s->begin, (unsigned long long)s->end,
            (unsigned long long)data_bytes);
    }
    if (bits == 0) {
        return CSP_OK; /* a dtype of the future: its size cannot be checked */
    }
    if (__builtin_mul_overflow(count, (uint64_t)bits, &bytes) || bytes % 8 != 0 ||
        bytes / 8 != s->end - s->begin) {
        return CSP_FAIL(
            CSP_ERR_FORMAT, "%s: tensor %s: %llu elements of %s do not fill its %llu bytes", path,
            s->name, (unsigned long long)count, s->dtype, (unsigned long long)(s->end - s->begin));
    }
    return CSP_OK;
}

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;

    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    if (x->end != y->end) { /* the empty ones first */
        return x->end < y->end ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static csp_status check_metadata(const char *path, const json_t *metadata)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: __metadata__ is not an object", path);
    }
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (!json_is_string(value)) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: __metadata__ \"%s\" is not a string", path, key);
        }
    }
    return CSP_OK;
}

/* All spans, checked and sorted: no hole, no overlap, none left over. */
static csp_status parse_spans(const char *path, const json_t *header, uint64_t data_bytes,
                              span **out, int64_t *count)
{
    const char *name;
    json_t *value;
    span *spans = NULL;
    uint64_t end = 0;
    int64_t n = 0;
    csp_status status;

    CSP_TRY(csp_alloc_zero(path, (int64_t)json_object_size(header), sizeof(*spans), &spans));
    json_object_foreach((json_t *)header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) {
            CSP_TRY_GOTO(check_metadata(path, value));
            continue;
        }
        spans[n].name = name;
        CSP_TRY_GOTO(parse_tensor(path, value, data_bytes, &spans[n]));
        n++;
    }
    qsort(spans, (size_t)n, sizeof(*spans), by_begin);
    for (int64_t i = 0; i < n; i++) {
        if (spans[i].begin != end) {
            status = CSP_FAIL(CSP_ERR_FORMAT,
                              "%s: tensor %s begins at byte %llu of the data, where "
                              "the one before ends at %llu",
                              path, spans[i].name, (unsigned long long)spans[i].begin,
                              (unsigned long long)end);
            goto fail;
        }
        end = spans[i].end;
    }
    if (end != data_bytes) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: %llu bytes of data, but its tensors end at %llu",
                          path, (unsigned long long)data_bytes, (unsigned long long)end);
        goto fail;
    }
    *out = spans;
    *count = n;
    return CSP_OK;

fail:
    free(spans);
    return status;
}

static csp_status keep_entries(csp_safetensors *file, const span *spans, int64_t count,
                               unsigned char *data)
{
    CSP_TRY(csp_alloc_zero(file->path, count, sizeof(*file->entries), &file->entries));
    file->count = count;
    CSP_TRY(csp_alloc_zero(file->path, count, sizeof(*file->copies), &file->copies));
    CSP_TRY(csp_alloc_zero(file->path, count, sizeof(*file->problems), &file->problems));
    for (int64_t i = 0; i < count; i++) {
        csp_safetensors_entry *entry = &file->entries[i];
        unsigned char *bytes = data + spans[i].begin;
        char *name;

        CSP_TRY(csp_strdup(file->path, spans[i].name, &name));
        entry->name = name;
        entry->tensor = spans[i].tensor;
        if (entry->tensor.ndim == 0) {
            CSP_TRY(csp_strdup(file->path, spans[i].problem, &file->problems[i]));
            continue;
        }
        if ((uintptr_t)bytes % csp_dtype_bytes(entry->tensor.dtype) != 0) {
            const size_t size = spans[i].end - spans[i].begin;

            CSP_TRY(csp_alloc(file->path, (int64_t)size, 1, &file->copies[i]));
            memcpy(file->copies[i], bytes, size);
            bytes = file->copies[i];
        }
        entry->tensor.data = bytes;
    }
    return CSP_OK;
}

static csp_status parse_file(csp_safetensors *file)
{
    uint64_t bytes = 0, data_bytes;
    json_error_t problem;
    json_t *header;
    span *spans = NULL;
    int64_t count = 0;
    csp_status status;

    for (int i = 7; i >= 0; i--) {
        bytes = bytes << 8 | file->map[i];
    }
    if (bytes < 2 || bytes > HEADER_LIMIT || bytes > file->map_bytes - 8) {
        return CSP_FAIL(
            CSP_ERR_FORMAT,
            "%s: header length %llu is not in 2..%llu: cut short, or no safetensors file",
            file->path, (unsigned long long)bytes,
            (unsigned long long)(file->map_bytes - 8 < HEADER_LIMIT ? file->map_bytes - 8
                                                                    : HEADER_LIMIT));
    }
    if (file->map[8] != '{') {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: the header does not begin with {", file->path);
    }
    data_bytes = file->map_bytes - 8 - bytes;
    header =
        json_loadb((const char *)file->map + 8, (size_t)bytes, JSON_REJECT_DUPLICATES, &problem);
    if (header == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: header byte %d: %s", file->path, problem.position,
                        problem.text);
    }
    CSP_TRY_GOTO(parse_spans(file->path, header, data_bytes, &spans, &count));
    CSP_TRY_GOTO(keep_entries(file, spans, count, file->map + 8 + bytes));
    CSP_TRY_GOTO(csp_safetensors_sort_names(file->path, file->entries, count, &file->by_name));
fail:
    free(spans);
    json_decref(header);
    return status;
}

csp_status csp_safetensors_open(const char *path, csp_safetensors **out)
{
    csp_safetensors *file = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*file), &file));
    CSP_TRY_GOTO(csp_strdup(path, path, &file->path));
    CSP_TRY_GOTO(map_file(file));
    CSP_TRY_GOTO(parse_file(file));
    *out = file;
    return CSP_OK;

fail:
    csp_safetensors_close(file);
    return status;
}

void csp_safetensors_close(csp_safetensors *file)
{
    if (file == NULL) {
        return;
    }
    for (int64_t i = 0; i < file->count; i++) {
        free((char *)file->entries[i].name);
        free(file->copies != NULL ? file->copies[i] : NULL);
        free(file->problems != NULL ? file->problems[i] : NULL);
    }
    if (file->map != NULL) {
        munmap(file->map, file->map_bytes);
    }
    free(file->entries);
    free(file->copies);
    free(file->problems);
    free(file->by_name);
    free(file->path);
    free(file);
}

int64_t csp_safetensors_count(const csp_safetensors *file)
{
    return file->count;
}

const csp_safetensors_entry *csp_safetensors_at(const csp_safetensors *file, int64_t index)
{
    CSP_ASSERT(index >= 0 && index < file->count);
    return &file->entries[index];
}

static const csp_safetensors_entry *lookup(const csp_safetensors *file, const char *name)
{
    return csp_safetensors_search(file->entries, file->by_name, file->count, name);
}

csp_status csp_safetensors_find(const csp_safetensors *file, const char *name,
                                const csp_safetensors_entry **out)
{
    const csp_safetensors_entry *entry = lookup(file, name);

    if (entry == NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: no tensor named %s", file->path, name);
    }
    if (entry->tensor.ndim == 0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: tensor %s: csplade does not read %s", file->path, name,
                        file->problems[entry - file->entries]);
    }
    *out = entry;
    return CSP_OK;
}

bool csp_safetensors_has(const csp_safetensors *file, const char *name)
{
    return lookup(file, name) != NULL;
}

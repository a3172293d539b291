/* vectors.c - sparse vectors in memory: reading by extension, the HDF5 form, unique ids. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/memory.h"
#include "io/hdf5.h"
#include "io/vectors_file.h"

csp_vectors_format csp_vectors_format_of(const char *path)
{
    static const struct {
        const char *end;
        csp_vectors_format format;
    } known[] = {
        { ".h5", CSP_VECTORS_HDF5 },
        { ".hdf5", CSP_VECTORS_HDF5 },
        { ".jsonl", CSP_VECTORS_JSONL },
        { ".jsonl.gz", CSP_VECTORS_JSONL_GZ },
    };
    const size_t length = strlen(path);

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        const size_t end = strlen(known[i].end);

        if (length > end && strcmp(path + length - end, known[i].end) == 0) {
            return known[i].format;
        }
    }
    return CSP_VECTORS_UNKNOWN;
}

bool csp_vectors_quant_is_known(const csp_quant *quant)
{
    return quant->kind == CSP_QUANT_NONE ||
           ((quant->kind == CSP_QUANT_ROUND || quant->kind == CSP_QUANT_CEIL) &&
            quant->scale > 0.0 && isfinite(quant->scale));
}

csp_status csp_vectors_take_quant(const char *path, const char *scheme, double scale,
                                  csp_quant *out)
{
    for (csp_quant_kind kind = CSP_QUANT_ROUND; kind <= CSP_QUANT_CEIL; kind++) {
        const csp_quant quant = { kind, scale };

        if (strcmp(scheme, csp_quant_name(kind)) == 0 && csp_vectors_quant_is_known(&quant)) {
            *out = quant;
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_FORMAT,
                    "%s: quantised by \"%.40s\" with a scale of %g, not by round or ceil with one "
                    "above 0",
                    path, scheme, scale);
}

bool csp_vectors_is_impact(float weight)
{
    return weight >= 1.0f && weight <= (float)CSP_IMPACT_MOST && weight == floorf(weight);
}

static uint64_t place_of(const csp_id_set *set, char *const *ids, const char *id)
{
    const uint64_t mask = (uint64_t)set->size - 1;
    uint64_t at = XXH3_64bits(id, strlen(id)) & mask;

    while (set->table[at] != 0 && strcmp(ids[set->table[at] - 1], id) != 0) {
        at = (at + 1) & mask;
    }
    return at;
}

csp_status csp_id_set_add(csp_id_set *set, char *const *ids, int64_t row, int64_t *twice)
{
    uint64_t at;

    if (2 * (set->used + 1) > set->size) {
        csp_id_set larger = { .size = set->size > 0 ? 4 * set->size : 1024, .used = set->used };

        CSP_TRY(csp_alloc_zero("ids", larger.size, sizeof(*larger.table), &larger.table));
        for (int64_t i = 0; i < set->size; i++) {
            if (set->table[i] != 0) {
                larger.table[place_of(&larger, ids, ids[set->table[i] - 1])] = set->table[i];
            }
        }
        free(set->table);
        *set = larger;
    }
    at = place_of(set, ids, ids[row]);
    *twice = set->table[at] - 1;
    if (set->table[at] == 0) {
        set->table[at] = row + 1;
        set->used++;
    }
    return CSP_OK;
}

static csp_status check_row(const char *path, const csp_vectors *v, int64_t row)
{
    const int64_t begin = v->row_ptr[row], end = v->row_ptr[row + 1];

    for (int64_t i = begin; i < end; i++) {
        if (v->term[i] < 0 || v->term[i] >= v->vocab ||
            (i > begin && v->term[i] <= v->term[i - 1])) {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: row %lld (%s): term %d is not in 0..%lld or not "
                            "above the one before",
                            path, (long long)row, v->ids[row], (int)v->term[i],
                            (long long)v->vocab - 1);
        }
        if (!(v->weight[i] > 0.0f) || !isfinite(v->weight[i])) {
            return CSP_FAIL(CSP_ERR_FORMAT,
                            "%s: row %lld (%s): weight %g of term %d is not a "
                            "finite number above 0",
                            path, (long long)row, v->ids[row], (double)v->weight[i],
                            (int)v->term[i]);
        }
    }
    return CSP_OK;
}

/* What a file from anywhere might break. */
static csp_status check(const char *path, const csp_vectors *v, int64_t nnz)
{
    csp_id_set set = { 0 };
    int64_t twice;
    csp_status status = CSP_OK;

    if (v->row_ptr[0] != 0 || v->row_ptr[v->rows] != nnz) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: /X/indptr does not run from 0 to the %lld weights",
                        path, (long long)nnz);
    }
    for (int64_t row = 0; row < v->rows; row++) {
        if (v->row_ptr[row + 1] < v->row_ptr[row] || v->row_ptr[row + 1] > nnz) {
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s: /X/indptr falls or overruns after row %lld",
                              path, (long long)row);
            goto fail;
        }
        if (v->ids[row][0] == '\0') {
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s: row %lld has an empty id", path, (long long)row);
            goto fail;
        }
        CSP_TRY_GOTO(check_row(path, v, row));
        CSP_TRY_GOTO(csp_id_set_add(&set, v->ids, row, &twice));
        if (twice >= 0) {
            status = CSP_FAIL(CSP_ERR_DATA, "%s: rows %lld and %lld have the same id %s", path,
                              (long long)twice, (long long)row, v->ids[row]);
            goto fail;
        }
    }
fail:
    free(set.table);
    return status;
}

/* A one-dimensional dataset of count elements (-1: any), into new memory. */
static csp_status read_array(const csp_hdf5 *file, const char *path, const char *name,
                             csp_dtype dtype, int64_t *count, void *out)
{
    csp_tensor t;
    csp_status status;

    CSP_TRY(csp_hdf5_describe(file, name, &t));
    if (t.ndim != 1 || t.dtype != dtype || (*count >= 0 && t.dim[0] != *count)) {
        char text[96];

        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %s is %s, where one dimension of %s%s is needed", path,
                        name, csp_tensor_describe(&t, text, sizeof(text)), csp_dtype_name(dtype),
                        *count >= 0 ? " of another length" : "");
    }
    CSP_TRY(csp_alloc(name, t.dim[0], csp_dtype_bytes(dtype), &t.data));
    status = csp_hdf5_read(file, name, &t);
    if (status != CSP_OK) {
        free(t.data);
        return status;
    }
    *count = t.dim[0];
    memcpy(out, &t.data, sizeof(t.data));
    return CSP_OK;
}

static csp_status check_text(const csp_hdf5 *file, const char *path, const char *object,
                             const char *key, const char *want)
{
    char *text;
    bool same;

    CSP_TRY(csp_hdf5_get_text(file, object, key, &text));
    same = strcmp(text, want) == 0;
    if (!same) {
        (void)CSP_FAIL(CSP_ERR_FORMAT, "%s: attribute %s of %s is \"%s\", not \"%s\"", path, key,
                       object, text, want);
    }
    free(text);
    return same ? CSP_OK : CSP_ERR_FORMAT;
}

static csp_status read_quantisation(const csp_hdf5 *file, const char *path, csp_vectors *v)
{
    csp_quant_counts *counts = &v->counts;
    double scale;
    char *scheme;
    csp_status status;

    CSP_TRY(csp_hdf5_get_f64(file, "/", "quant_scale", &scale));
    CSP_TRY(csp_hdf5_get_i64(file, "/", "quant_dropped", &counts->dropped));
    CSP_TRY(csp_hdf5_get_i64(file, "/", "quant_clipped", &counts->clipped));
    CSP_TRY(csp_hdf5_get_text(file, "/", "quant_scheme", &scheme));
    status = csp_vectors_take_quant(path, scheme, scale, &v->quant);
    free(scheme);
    return status;
}

/* The impacts of /X/data become weights, in the memory they are read into. */
static csp_status read_impacts(const csp_hdf5 *file, const char *path, int64_t *nnz, csp_vectors *v)
{
    char *at;

    CSP_TRY(read_array(file, path, "/X/data", CSP_I32, nnz, &at));
    v->weight = (float *)(void *)at;
    for (int64_t i = 0; i < *nnz; i++, at += sizeof(float)) {
        int32_t impact;
        float weight;

        memcpy(&impact, at, sizeof(impact));
        if (impact < 1 || impact > CSP_IMPACT_MOST) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: impact %lld is %d, not in 1..%d", path,
                            (long long)i, (int)impact, CSP_IMPACT_MOST);
        }
        weight = (float)impact;
        memcpy(at, &weight, sizeof(weight));
    }
    return CSP_OK;
}

static csp_status read_header(const csp_hdf5 *file, const char *path, csp_vectors *v)
{
    int64_t version, shape[2];

    CSP_TRY(check_text(file, path, "/", "format", "csplade-vectors"));
    CSP_TRY(csp_hdf5_get_i64(file, "/", "format_version", &version));
    if (version != CSP_VECTORS_VERSION) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: format version %lld of vectors, of which this program "
                        "reads %d",
                        path, (long long)version, CSP_VECTORS_VERSION);
    }
    CSP_TRY(check_text(file, path, "/X", "encoding-type", "csr_matrix"));
    CSP_TRY(csp_hdf5_get_i64s(file, "/X", "shape", shape, 2));
    if (shape[0] < 0 || shape[0] >= INT64_MAX / 16 || shape[1] < 1 ||
        shape[1] > CSP_VECTORS_MOST_TERMS) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: a shape of (%lld,%lld) is out of range", path,
                        (long long)shape[0], (long long)shape[1]);
    }
    v->vocab = shape[1];
    if (csp_hdf5_has_attribute(file, "/", "side")) {
        CSP_TRY(csp_hdf5_get_text(file, "/", "side", &v->side));
    }
    if (csp_hdf5_has_attribute(file, "/", "meta")) {
        CSP_TRY(csp_hdf5_get_text(file, "/", "meta", &v->meta));
    }
    if (csp_hdf5_has_attribute(file, "/", "quant_scheme")) {
        CSP_TRY(read_quantisation(file, path, v));
    }
    /* The ids come first: rows counts what csp_vectors_free gives back. */
    CSP_TRY(csp_hdf5_read_strings(file, "/ids", &v->ids, &v->rows));
    if (v->rows != shape[0]) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: %lld ids for %lld rows", path, (long long)v->rows,
                        (long long)shape[0]);
    }
    return CSP_OK;
}

csp_status csp_vectors_read_hdf5(const char *path, csp_vectors *out)
{
    csp_hdf5 *file = NULL;
    int64_t nnz = -1, pointers;
    csp_status status;

    CSP_TRY(csp_hdf5_open(path, &file));
    CSP_TRY_GOTO(read_header(file, path, out));
    pointers = out->rows + 1;
    CSP_TRY_GOTO(read_array(file, path, "/X/indptr", CSP_I64, &pointers, &out->row_ptr));
    CSP_TRY_GOTO(read_array(file, path, "/X/indices", CSP_I32, &nnz, &out->term));
    if (out->quant.kind != CSP_QUANT_NONE) {
        CSP_TRY_GOTO(read_impacts(file, path, &nnz, out));
    } else {
        CSP_TRY_GOTO(read_array(file, path, "/X/data", CSP_F32, &nnz, &out->weight));
    }
    CSP_TRY_GOTO(check(path, out, nnz));
fail:
    csp_hdf5_close(file);
    return status;
}

/* What decides later on which contract is obeyed, and whether two files fit each other. */
static csp_status check_labels(const char *path, const csp_vectors *v)
{
    json_error_t problem = { 0 };
    json_t *meta = v->meta != NULL ? json_loads(v->meta, JSON_REJECT_DUPLICATES, &problem) : NULL;
    const bool good = v->meta == NULL || json_is_object(meta);

    json_decref(meta);
    if (!good) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: meta is not the text of a JSON object%s%s", path,
                        problem.text[0] != '\0' ? ": " : "", problem.text);
    }
    if (v->side != NULL && strcmp(v->side, "document") != 0 && strcmp(v->side, "query") != 0) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: side is \"%.40s\", neither document nor query", path,
                        v->side);
    }
    return CSP_OK;
}

csp_status csp_vectors_read(const char *path, csp_vectors **out)
{
    const csp_vectors_format format = csp_vectors_format_of(path);
    csp_vectors *v;
    csp_status status;

    if (format == CSP_VECTORS_UNKNOWN) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "%s: vectors are in files named .h5, .hdf5, .jsonl or .jsonl.gz", path);
    }
    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*v), &v));
    status = format == CSP_VECTORS_HDF5 ? csp_vectors_read_hdf5(path, v)
                                        : csp_vectors_read_jsonl(path, v);
    if (status == CSP_OK) {
        status = check_labels(path, v);
    }
    if (status != CSP_OK) {
        csp_vectors_free(v);
        return status;
    }
    *out = v;
    return CSP_OK;
}

void csp_vectors_free(csp_vectors *vectors)
{
    if (vectors == NULL) {
        return;
    }
    for (int64_t i = 0; vectors->ids != NULL && i < vectors->rows; i++) {
        free(vectors->ids[i]);
    }
    free(vectors->ids);
    free(vectors->row_ptr);
    free(vectors->term);
    free(vectors->weight);
    free(vectors->meta);
    free(vectors->side);
    free(vectors);
}

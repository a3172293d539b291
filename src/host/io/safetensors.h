/*
 * safetensors.h - Hugging Face safetensors files, mapped into memory.
 *
 * File: u64 little-endian header length, JSON header
 *     {"name": {"dtype": "F32", "shape": [2,3], "data_offsets": [begin, end]}, "__metadata__":
 * {..}} padded with spaces to 8 bytes, then the data, contiguous and without holes.
 */
#pragma once

#include "core/tensor.h"

typedef struct csp_safetensors csp_safetensors;

/* One tensor of an open file. Views stay valid until the file is closed. */
typedef struct csp_safetensors_entry {
    const char *name;
    csp_tensor tensor; /* data points into the map: read only, aligned to the element */
} csp_safetensors_entry;

/*
 * Maps a file and checks its header completely: lengths, offsets, shapes, dtypes, holes, overlaps,
 * names that come twice. A tensor of more than CSP_MAX_DIMS dimensions or of a dtype csplade has no
 * use for is refused only when asked for by name (csp_safetensors_find); its entry has
 * csp_tensor_none(). A scalar (shape []) has the shape (1). Data that does not lie at a multiple of
 * its element (older writers) is copied to where it does.
 *
 * The map shows later changes of the file: replace such files by rename, as csp_safetensors_write
 * does, never in place.
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT (path, tensor, value and limit), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_safetensors_open(const char *path, csp_safetensors **out);
void csp_safetensors_close(csp_safetensors *file);

int64_t csp_safetensors_count(const csp_safetensors *file);
/* Entry index in the order of the data. Asserts the range. */
const csp_safetensors_entry *csp_safetensors_at(const csp_safetensors *file, int64_t index);
/* By name; CSP_ERR_FORMAT if absent or of an unusable dtype or shape. */
CSP_CHECKED csp_status csp_safetensors_find(const csp_safetensors *file, const char *name,
                                            const csp_safetensors_entry **out);
bool csp_safetensors_has(const csp_safetensors *file, const char *name);

/*
 * A model folder: model.safetensors, or, where it is absent, the shards named by
 * model.safetensors.index.json (always its weight_map). Every tensor the index names must be in the
 * shard it names; tensors it does not name are left out, with a warning. Entries are in the order
 * of the shards' names, then of the data.
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT (also for an unusable dtype or shape), CSP_ERR_MEMORY.
 */
typedef struct csp_safetensors_set csp_safetensors_set;
CSP_CHECKED csp_status csp_safetensors_set_open(const char *dir, csp_safetensors_set **out);
void csp_safetensors_set_close(csp_safetensors_set *set);
int64_t csp_safetensors_set_count(const csp_safetensors_set *set);
const csp_safetensors_entry *csp_safetensors_set_at(const csp_safetensors_set *set, int64_t index);
/* NULL if absent. */
const csp_safetensors_entry *csp_safetensors_set_find(const csp_safetensors_set *set,
                                                      const char *name);

/*
 * Where tensors come from that need not all be in memory: read is called for each entry when it is
 * its turn to be written, in their order. *data is valid until the next call.
 */
typedef struct csp_safetensors_source {
    csp_status (*read)(void *context, const csp_safetensors_entry *entry, const void **data);
    void *context;
} csp_safetensors_source;

/*
 * Writes one file atomically (see file.h), with "__metadata__": {"format": "pt"}, offsets in the
 * order given.
 *
 *   entries  in   names, dtypes and shapes; with source NULL also the data, in host memory
 *   source   in   gives the data; may be NULL
 *
 * Errors: CSP_ERR_IO, CSP_ERR_ARGUMENT (a name twice, empty or not UTF-8; no tensor),
 *         CSP_ERR_MEMORY, those of source->read. An earlier file of that name stays then.
 */
CSP_CHECKED csp_status csp_safetensors_write(const char *path, const csp_safetensors_entry *entries,
                                             int64_t count, const csp_safetensors_source *source);

/*
 * Writes DIR/model.safetensors, or shards of at most shard_bytes (a larger tensor gets its own)
 * with their index. shard_bytes 0 = one file.
 */
CSP_CHECKED csp_status csp_safetensors_write_dir(const char *dir,
                                                 const csp_safetensors_entry *entries,
                                                 int64_t count, int64_t shard_bytes,
                                                 const csp_safetensors_source *source);

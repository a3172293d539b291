/*
 * state_case.h - state of known numbers in a tiny model, shared out among ranks that are models of
 * one process, written and read back by others; for tests on a CPU and on a device.
 */
#pragma once

#include "train/state_shards.h"
#include "train/tiny.h"

enum { STATE_KINDS = 3, STATE_MOST = 1 << 12 };

static const char state_stem[] = "contrastive-00000001";

/* The first n numbers of array kind (m, v, master) of a row. */
static inline const float *state_truth(int64_t row, int kind, int64_t n)
{
    static float values[STATE_MOST];
    const csp_rng rng = { 8, CSP_DRAW_TEST, (uint32_t)(STATE_KINDS * row + kind), 0 };

    assert_true(n <= STATE_MOST);
    for (int64_t j = 0; j < n; j++) {
        values[j] = csp_rng_normal(rng, (uint64_t)j);
    }
    return values;
}

/* A rank of so many, whose state is 0; ranks 1: all of it. */
static inline void state_open(tiny *t, const char *device, csp_storage storage, int ranks, int rank)
{
    storage.sharing = (csp_sharing) { ranks, rank, 1, 0 };
    tiny_open_stored(t, device, CSP_VARIANT_CAUSAL, false, storage);
}

static inline void state_fill(const tiny *t)
{
    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];
        const int64_t n = csp_tensor_count(&row->value);

        assert_ok(csp_param_upload(t->be, row, 0, n, state_truth(i, 2, n)));
        assert_ok(csp_state_upload(t->be, row, &row->m, 0, n, state_truth(i, 0, n)));
        assert_ok(csp_state_upload(t->be, row, &row->v, 0, n, state_truth(i, 1, n)));
    }
}

static inline void state_same(const tiny *t, const csp_tensor *own, const float *want)
{
    float *got = tiny_download(t, own);

    assert_memory_equal(got, want, csp_tensor_bytes(own));
    free(got);
}

/* Every array that a model has of its own, to the bit; f32 values where masters were written. */
static inline void state_check(const tiny *t, bool masters)
{
    for (int64_t i = 0; i < t->model->params->count; i++) {
        const csp_param *row = &t->model->params->rows[i];
        const int64_t n = csp_tensor_count(&row->value);

        state_same(t, &row->m, state_truth(i, 0, n) + row->own_first);
        state_same(t, &row->v, state_truth(i, 1, n) + row->own_first);
        if (masters && row->master.ndim > 0) {
            state_same(t, &row->master, state_truth(i, 2, n) + row->own_first);
        } else if (masters && row->value.dtype == CSP_F32) {
            state_same(t, &row->value, state_truth(i, 2, n));
        }
    }
}

/* Files of so many ranks in the scratch folder. Owner: csp_state_files_clear. */
static inline void state_write(const char *device, csp_storage storage, int ranks,
                               csp_state_files *files)
{
    *files = (csp_state_files) { .names = calloc((size_t)ranks, sizeof(char *)) };
    for (int rank = 0; rank < ranks; rank++) {
        char name[CSP_STATE_NAME_BYTES];
        csp_state_copy copy;
        tiny t;

        state_open(&t, device, storage, ranks, rank);
        state_fill(&t);
        assert_ok(csp_state_copy_take(t.model, &copy));
        assert_ok(csp_state_name(state_stem, rank, ranks, &copy, name));
        assert_ok(csp_state_write(scratch_dir, name, &copy));
        csp_state_copy_clear(&copy);
        tiny_close(&t);
        files->names[files->count++] = strdup(name);
    }
}

/* Reads what a model wants of files beside "x.h5". */
static inline csp_status state_read(csp_state_files *files, tiny *t)
{
    csp_keepalive alone;

    csp_keepalive_begin(&alone, NULL, "test");
    return csp_state_files_read(scratch_path("x.h5"), files, &alone, t->model);
}

/* Reads them as each of so many ranks. */
static inline void state_read_as(const char *device, csp_storage storage, int ranks,
                                 csp_state_files *files, bool masters)
{
    for (int rank = 0; rank < ranks; rank++) {
        tiny t;

        state_open(&t, device, storage, ranks, rank);
        assert_ok(state_read(files, &t));
        state_check(&t, masters);
        tiny_close(&t);
    }
}

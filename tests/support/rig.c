/*
 * rig.c - seeded tensors between guards on any backend.
 *
 * A tensor takes guard + data + guard bytes of one arena. The bytes after the data up to the next
 * multiple of 64 belong to the rear guard, so that even one element too far is seen.
 */
#include "support/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "core/size.h"
#include "support/devices.h"

enum { GUARD = 256, GUARD_BYTE = 0xA5, FILL_BYTE = 0xFF };
static const size_t ARENA_BYTES = (size_t)1 << 30; /* address space: pages come when touched */

typedef struct rig_piece {
    csp_tensor block; /* u8: guard, data, guard on the device */
    csp_tensor tensor;
    unsigned char *was; /* the block as the rig filled it       */
    bool input;
} rig_piece;

/* Fails the running test with the program's own words. */
static void must(csp_status status)
{
    if (status != CSP_OK) {
        fail_msg("rig: %s", csp_error_text());
    }
}

static void *keep_block(rig *r, size_t bytes)
{
    void *block = calloc(1, bytes > 0 ? bytes : 1);

    if (r->block_count == r->block_capacity) {
        r->block_capacity = r->block_capacity * 2 + 64;
        r->blocks = realloc(r->blocks, (size_t)r->block_capacity * sizeof(void *));
    }
    assert_non_null(block);
    assert_non_null(r->blocks);
    r->blocks[r->block_count++] = block;
    return block;
}

static void forget(rig *r)
{
    for (int64_t i = 0; i < r->block_count; i++) {
        free(r->blocks[i]);
    }
    r->block_count = 0;
    r->piece_count = 0;
}

void rig_begin(rig *r, uint64_t seed)
{
    forget(r);
    csp_arena_release(&r->arena, 0);
    r->seed = seed;
    r->drawn = 0;
}

static csp_tensor place(rig *r, csp_dtype dtype, int ndim, const int64_t *dims, const void *host,
                        bool input)
{
    csp_tensor t = csp_tensor_view(NULL, dtype, ndim, dims);
    const size_t bytes = csp_tensor_bytes(&t);
    const size_t total = GUARD + csp_size_round_up(bytes, CSP_ARENA_ALIGN) + GUARD;
    unsigned char *was = keep_block(r, total);
    rig_piece *piece;
    void *at;

    if (r->piece_count == r->piece_capacity) {
        r->piece_capacity = r->piece_capacity * 2 + 64;
        r->pieces = realloc(r->pieces, (size_t)r->piece_capacity * sizeof(*r->pieces));
        assert_non_null(r->pieces);
    }
    memset(was, GUARD_BYTE, total);
    if (host != NULL) {
        memcpy(was + GUARD, host, bytes);
    } else {
        memset(was + GUARD, FILL_BYTE, bytes);
    }
    must(csp_arena_take(&r->arena, total, &at));
    piece = &r->pieces[r->piece_count++];
    piece->block = csp_tensor_view(at, CSP_U8, 1, (int64_t[]) { (int64_t)total });
    piece->was = was;
    piece->input = input;
    must(csp_backend_upload(r->be, was, &piece->block));
    t.data = (char *)at + GUARD;
    piece->tensor = t;
    return t;
}

csp_tensor rig_input(rig *r, csp_dtype dtype, int ndim, const int64_t *dims, const void *host)
{
    return place(r, dtype, ndim, dims, host, true);
}

csp_tensor rig_output(rig *r, csp_dtype dtype, int ndim, const int64_t *dims)
{
    return place(r, dtype, ndim, dims, NULL, false);
}

static csp_rng next_rng(rig *r)
{
    return (csp_rng) { .seed = r->seed, .draw = CSP_DRAW_TEST, .key = r->drawn++, .step = 0 };
}

static float *draw_normal(rig *r, int ndim, const int64_t *dims)
{
    const csp_tensor t = csp_tensor_view(NULL, CSP_F32, ndim, dims);
    const int64_t n = csp_tensor_count(&t);
    const csp_rng rng = next_rng(r);
    float *x = keep_block(r, (size_t)n * sizeof(float));

    for (int64_t i = 0; i < n; i++) {
        x[i] = csp_rng_normal(rng, (uint64_t)i);
    }
    return x;
}

/* n numbers as a tensor of this dtype holds them. */
static const void *stored(rig *r, csp_dtype dtype, const float *x, int64_t n)
{
    uint16_t *half;

    if (dtype == CSP_F32) {
        return x;
    }
    assert_int_equal(dtype, CSP_BF16);
    half = keep_block(r, (size_t)n * sizeof(*half));
    for (int64_t i = 0; i < n; i++) {
        half[i] = csp_f32_to_bf16(x[i]);
    }
    return half;
}

csp_tensor rig_normal(rig *r, csp_dtype dtype, int ndim, const int64_t *dims)
{
    const csp_tensor t = csp_tensor_view(NULL, dtype, ndim, dims);
    const float *x = draw_normal(r, ndim, dims);

    return place(r, dtype, ndim, dims, stored(r, dtype, x, csp_tensor_count(&t)), true);
}

csp_tensor rig_accumulated(rig *r, int ndim, const int64_t *dims)
{
    return place(r, CSP_F32, ndim, dims, draw_normal(r, ndim, dims), false);
}

csp_tensor rig_uniform(rig *r, double low, double high, int ndim, const int64_t *dims)
{
    const csp_tensor t = csp_tensor_view(NULL, CSP_F32, ndim, dims);
    const int64_t n = csp_tensor_count(&t);
    const csp_rng rng = next_rng(r);
    float *x = keep_block(r, (size_t)n * sizeof(float));

    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(low + (high - low) * (double)csp_rng_uniform(rng, (uint64_t)i));
    }
    return place(r, CSP_F32, ndim, dims, x, true);
}

csp_tensor rig_indices(rig *r, int64_t below, int64_t n)
{
    const csp_rng rng = next_rng(r);
    int32_t *x = rig_ints(r, n);

    for (int64_t i = 0; i < n; i++) {
        x[i] = (int32_t)csp_rng_below(rng, (uint64_t)i, (uint64_t)below);
    }
    return place(r, CSP_I32, 1, &n, x, true);
}

static int ascending(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

csp_tensor rig_cuts(rig *r, int64_t B, int64_t N)
{
    const csp_rng rng = next_rng(r);
    const int64_t n = B + 1;
    int32_t *cut = rig_ints(r, n);

    for (int64_t b = 1; b < B; b++) {
        cut[b] = (int32_t)csp_rng_below(rng, (uint64_t)b, (uint64_t)N + 1);
    }
    cut[B] = (int32_t)N;
    cut[0] = 0;
    qsort(cut, (size_t)n, sizeof(*cut), ascending);
    return place(r, CSP_I32, 1, &n, cut, true);
}

csp_tensor rig_lengths(rig *r, int64_t B, const int64_t *length)
{
    const int64_t n = B + 1;
    int32_t *cut = rig_ints(r, n);

    for (int64_t b = 0; b < B; b++) {
        cut[b + 1] = cut[b] + (int32_t)length[b];
    }
    return place(r, CSP_I32, 1, &n, cut, true);
}

csp_tensor rig_mask(rig *r, int64_t N)
{
    const csp_rng rng = next_rng(r);
    uint8_t *x = keep_block(r, (size_t)N);

    for (int64_t i = 0; i < N; i++) {
        x[i] = csp_rng_below(rng, (uint64_t)i, 4) != 0;
    }
    return place(r, CSP_U8, 1, &N, x, true);
}

csp_tensor rig_stored(rig *r, csp_dtype S, const csp_tensor *t)
{
    const int64_t n = csp_tensor_count(t);

    return place(r, S, t->ndim, t->dim, stored(r, S, rig_floats(r, t), n), true);
}

csp_tensor rig_copy(rig *r, const csp_tensor *t)
{
    return place(r, t->dtype, t->ndim, t->dim, rig_host(r, t), false);
}

csp_tensor rig_apart(rig *r, const csp_tensor *t, int64_t first, int64_t width)
{
    const csp_tensor whole = rig_output(r, t->dtype, 2, (int64_t[]) { t->dim[0], width });
    csp_tensor columns = csp_tensor_columns(&whole, first, t->dim[1]);

    must(csp_backend_upload(r->be, rig_host(r, t), &columns));
    return columns;
}

void rig_check_between(rig *r, const csp_tensor *t, int64_t first)
{
    const size_t size = csp_dtype_bytes(t->dtype);
    const csp_tensor whole = csp_tensor_view((char *)t->data - (size_t)first * size, t->dtype, 2,
                                             (int64_t[]) { t->dim[0], csp_tensor_row(t) });
    const unsigned char *bytes = rig_host(r, &whole);
    const size_t row = (size_t)csp_tensor_row(t) * size, begin = (size_t)first * size;
    const size_t end = begin + (size_t)t->dim[1] * size;

    for (size_t i = 0; i < csp_tensor_bytes(&whole); i++) {
        assert_true((i % row >= begin && i % row < end) || bytes[i] == FILL_BYTE);
    }
}

double *rig_doubles(rig *r, int64_t n)
{
    return keep_block(r, (size_t)n * sizeof(double));
}

int32_t *rig_ints(rig *r, int64_t n)
{
    return keep_block(r, (size_t)n * sizeof(int32_t));
}

void *rig_host(rig *r, const csp_tensor *t)
{
    void *host = keep_block(r, csp_tensor_bytes(t));

    must(csp_backend_download(r->be, t, host));
    return host;
}

const float *rig_floats(rig *r, const csp_tensor *t)
{
    const int64_t n = csp_tensor_count(t);
    const void *host = rig_host(r, t);
    float *wide;

    if (t->dtype == CSP_F32) {
        return host;
    }
    assert_int_equal(t->dtype, CSP_BF16);
    wide = keep_block(r, (size_t)n * sizeof(*wide));
    for (int64_t i = 0; i < n; i++) {
        wide[i] = csp_bf16_to_f32(((const uint16_t *)host)[i]);
    }
    return wide;
}

double *rig_as_doubles(rig *r, const csp_tensor *t)
{
    const int64_t n = csp_tensor_count(t);
    const float *x = rig_floats(r, t);
    double *wide = rig_doubles(r, n);

    for (int64_t i = 0; i < n; i++) {
        wide[i] = (double)x[i];
    }
    return wide;
}

void rig_each_storage(rig *r, void (*run)(rig *r, csp_dtype S))
{
    run(r, CSP_F32);
    if (r->be->bf16) {
        run(r, CSP_BF16);
    }
}

void rig_check_guards(rig *r)
{
    for (int64_t i = 0; i < r->piece_count; i++) {
        const rig_piece *piece = &r->pieces[i];
        const unsigned char *now = rig_host(r, &piece->block);
        const size_t bytes = csp_tensor_bytes(&piece->tensor);
        const size_t total = csp_tensor_bytes(&piece->block);

        if (memcmp(now, piece->was, GUARD) != 0 ||
            memcmp(now + GUARD + bytes, piece->was + GUARD + bytes, total - GUARD - bytes) != 0) {
            fail_msg("rig: something was written beside tensor %lld", (long long)i);
        }
        if (piece->input && memcmp(now, piece->was, total) != 0) {
            fail_msg("rig: input tensor %lld was written", (long long)i);
        }
    }
}

void rig_check_untouched(rig *r, const csp_tensor *t)
{
    for (int64_t i = 0; i < r->piece_count; i++) {
        const rig_piece *piece = &r->pieces[i];

        if (piece->tensor.data == t->data) {
            assert_memory_equal(rig_host(r, &piece->block), piece->was,
                                csp_tensor_bytes(&piece->block));
            return;
        }
    }
    fail_msg("rig: not a tensor of this rig");
}

void rig_check_same(rig *r, const csp_tensor *a, const csp_tensor *b)
{
    assert_int_equal(csp_tensor_bytes(a), csp_tensor_bytes(b));
    if (csp_tensor_bytes(a) > 0) {
        assert_memory_equal(rig_host(r, a), rig_host(r, b), csp_tensor_bytes(a));
    }
}

static rig the_rig;

static int set_up(void **state)
{
    *state = &the_rig;
    return csp_backend_reserve(the_rig.be, ARENA_BYTES, &the_rig.arena) == CSP_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    rig *r = *state;

    forget(r);
    free(r->blocks);
    free(r->pieces);
    csp_backend_release(r->be, &r->arena);
    csp_backend_destroy(r->be);
    return 0;
}

int rig_main(int argc, char **argv, const struct CMUnitTest *tests, int64_t count)
{
    const char *name = argc > 1 ? argv[1] : "cpu";
    const int threads = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 2;
    csp_status status;

    devices_register();
    status = csp_backend_create(name, threads, &the_rig.be);
    if (status != CSP_OK) {
        fprintf(stderr, "skipped: %s\n", csp_error_text());
        return 77;
    }
    the_rig.emulated = devices_emulated() && strcmp(name, "cpu") != 0;
    return _cmocka_run_group_tests(argv[0], tests, (size_t)count, set_up, tear_down);
}

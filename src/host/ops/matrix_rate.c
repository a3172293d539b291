/* matrix_rate.c - times one large product. */
#include "ops/matrix_rate.h"

#include <stdlib.h>

#include "core/machine.h"
#include "core/memory.h"
#include "core/rng.h"
#include "core/scalar.h"
#include "ops/linear.h"

/* A product that takes less is mostly beginning and end; all sizes are doubled, so it takes 8 times
   as long. */
#define LEAST_SECONDS 2e-3
#define LARGEST_N 16384
/* Not even what a library does at its first call takes this long: no second look is needed. */
#define SURELY_LARGE_SECONDS 2.0
/* Elements are random in blocks of this length, a prime, so that no rows are alike. */
#define BLOCK 262139

typedef struct product {
    csp_dtype dtype;
    csp_matrix_product size;
    csp_linear l;
    csp_tensor x, y;
    csp_arena arena;
} product;

/* On a ruler this measures. */
static csp_status place(csp_arena *arena, product *p)
{
    const int64_t N = p->size.N, I = p->size.I, O = p->size.O;

    CSP_TRY(csp_arena_tensor(arena, p->dtype, 2, (int64_t[]) { N, I }, &p->x));
    CSP_TRY(csp_arena_tensor(arena, p->dtype, 2, (int64_t[]) { O, I }, &p->l.w));
    return csp_arena_tensor(arena, p->dtype, 2, (int64_t[]) { N, O }, &p->y);
}

/* Random numbers: pages that were never written share one page of zeros, which costs no memory
   traffic, and a GPU that multiplies zeros runs at a higher clock. */
static csp_status fill(csp_backend *be, uint32_t key, const csp_tensor *t)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, key, 0 };
    const int64_t count = csp_tensor_count(t), block = count < BLOCK ? count : BLOCK;
    const size_t bytes = csp_dtype_bytes(t->dtype);
    char *values;
    csp_status status = CSP_OK;

    CSP_TRY(csp_alloc("matrix rate", block, bytes, &values));
    for (int64_t i = 0; i < block; i++) {
        const float value = 2.0f * csp_rng_uniform(rng, (uint64_t)i) - 1.0f;

        if (t->dtype == CSP_BF16) {
            ((uint16_t *)(void *)values)[i] = csp_f32_to_bf16(value);
        } else {
            ((float *)(void *)values)[i] = value;
        }
    }
    for (int64_t first = 0; first < count && status == CSP_OK; first += block) {
        const int64_t n = count - first < block ? count - first : block;
        csp_tensor part = csp_tensor_view((char *)t->data + (size_t)first * bytes, t->dtype, 1, &n);

        status = csp_backend_upload(be, values, &part);
    }
    free(values);
    return status;
}

static void close_product(csp_backend *be, product *p)
{
    csp_backend_release(be, &p->arena);
}

static csp_status open_product(csp_backend *be, csp_dtype dtype, int64_t factor, product *p)
{
    csp_status status;

    *p = (product) { .dtype = dtype, .size = { 2048 * factor, 1024 * factor, 1024 * factor, 0.0 } };
    p->size.flop = 2.0 * (double)p->size.N * (double)p->size.I * (double)p->size.O;
    CSP_TRY(place(&p->arena, p));
    CSP_TRY(csp_backend_reserve(be, p->arena.peak, &p->arena));
    CSP_TRY_GOTO(place(&p->arena, p));
    CSP_TRY_GOTO(fill(be, 0, &p->x));
    CSP_TRY_GOTO(fill(be, 1, &p->l.w));
    return CSP_OK;

fail:
    close_product(be, p);
    return status;
}

/* The first one also waits for uploads and for what a library does once. */
static csp_status run_once(csp_backend *be, product *p, double *seconds)
{
    csp_tensor none = csp_tensor_none();
    const double start = csp_machine_seconds();

    CSP_TRY(csp_linear_fwd(be, &p->l, &p->x, &none, &p->y));
    CSP_TRY(csp_backend_sync(be));
    *seconds = csp_machine_seconds() - start;
    return CSP_OK;
}

/* Whether a product of twice the sizes takes no more than an eighth of what is free. */
static csp_status has_room(csp_backend *be, const product *p, bool *room)
{
    csp_memory memory;

    CSP_TRY(csp_backend_memory(be, &memory));
    *room = (int64_t)(p->arena.peak * 4) <= memory.free / 8;
    return CSP_OK;
}

/* Opens the product that is large enough for be. */
static csp_status choose(csp_backend *be, csp_dtype dtype, product *p)
{
    csp_status status;
    double seconds;
    bool room;

    CSP_TRY(open_product(be, dtype, 1, p));
    for (int64_t factor = 2; p->size.N < LARGEST_N; factor *= 2) {
        CSP_TRY_GOTO(run_once(be, p, &seconds));
        if (seconds >= SURELY_LARGE_SECONDS) {
            break;
        }
        CSP_TRY_GOTO(run_once(be, p, &seconds));
        CSP_TRY_GOTO(has_room(be, p, &room));
        if (seconds >= LEAST_SECONDS || !room) {
            break;
        }
        close_product(be, p);
        CSP_TRY(open_product(be, dtype, factor, p));
    }
    return CSP_OK;

fail:
    close_product(be, p);
    return status;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

csp_status csp_matrix_rate(csp_backend *be, csp_dtype dtype, int64_t warmup, int64_t repeats,
                           double *seconds, csp_matrix_product *timed)
{
    product p;
    csp_status status;

    if (warmup < 0 || repeats < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "matrix rate: %lld repeats after %lld",
                        (long long)repeats, (long long)warmup);
    }
    CSP_TRY(choose(be, dtype, &p));
    for (int64_t i = -warmup; i < repeats; i++) {
        double once;

        CSP_TRY_GOTO(run_once(be, &p, &once));
        if (i >= 0) {
            seconds[i] = once;
        }
    }
    qsort(seconds, (size_t)repeats, sizeof(*seconds), by_value);
    *timed = p.size;

fail:
    close_product(be, &p);
    return status;
}

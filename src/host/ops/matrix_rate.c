/* matrix_rate.c - times one large product. */
#include "ops/matrix_rate.h"

#include <stdlib.h>

#include "core/machine.h"
#include "core/memory.h"
#include "core/rng.h"
#include "ops/linear.h"

typedef struct product {
    csp_linear l;
    csp_tensor x, y;
} product;

/* On a ruler this measures. */
static csp_status place(csp_arena *arena, product *p)
{
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 2, (int64_t[]) { 2048, 1024 }, &p->x));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 2, (int64_t[]) { 1024, 1024 }, &p->l.w));
    return csp_arena_tensor(arena, CSP_F32, 2, (int64_t[]) { 2048, 1024 }, &p->y);
}

/* Random numbers: pages that were never written share one page of zeros, which costs no memory
   traffic, and a GPU that multiplies zeros runs at a higher clock. */
static csp_status fill(csp_backend *be, uint32_t key, csp_tensor *t)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, key, 0 };
    const int64_t n = csp_tensor_count(t);
    float *values;
    csp_status status;

    CSP_TRY(csp_alloc("matrix rate", n, sizeof(*values), &values));
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t word[4];

        csp_rng_u32x4(rng, (uint64_t)(i / 4), word);
        for (int64_t j = 0; j < 4; j++) {
            values[i + j] = (float)(word[j] >> 8) * 0x1p-23f - 1.0f;
        }
    }
    status = csp_backend_upload(be, values, t);
    free(values);
    return status;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

csp_status csp_matrix_rate(csp_backend *be, int64_t warmup, int64_t repeats, double *seconds)
{
    csp_tensor none = csp_tensor_none();
    csp_arena arena = { 0 };
    product p = { .l.lora_a = { .ndim = 0 } };
    csp_status status;

    if (warmup < 0 || repeats < 1) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "matrix rate: %lld repeats after %lld",
                        (long long)repeats, (long long)warmup);
    }
    CSP_TRY(place(&arena, &p));
    CSP_TRY(csp_backend_reserve(be, arena.peak, &arena));
    CSP_TRY_GOTO(place(&arena, &p));
    CSP_TRY_GOTO(fill(be, 0, &p.x));
    CSP_TRY_GOTO(fill(be, 1, &p.l.w));
    for (int64_t i = -warmup; i < repeats; i++) {
        const double start = csp_machine_seconds();

        CSP_TRY_GOTO(csp_linear_fwd(be, &p.l, &p.x, &none, &p.y));
        CSP_TRY_GOTO(csp_backend_sync(be));
        if (i >= 0) {
            seconds[i] = csp_machine_seconds() - start;
        }
    }
    qsort(seconds, (size_t)repeats, sizeof(*seconds), by_value);

fail:
    csp_backend_release(be, &arena);
    return status;
}

/*
 * linear_fp8.c - linear maps whose matrix is in e4m3, on a processor without such products: rounded
 * rows and matrix are widened to float32 in scratch and multiplied as any other. It gives what a
 * device gives, for tests and comparisons; it is slower than a matrix in float32.
 */
#include "cpu/linear_fp8.h"

#include "core/scalar.h"
#include "core/size.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/panel_product.h"
#include "cpu/quantize.h"

/* Scratch of one product of rows (N,K) with a matrix of M numbers. */
typedef struct fp8_scratch {
    uint8_t *q;    /* (N,K) */
    float *scale;  /* (N)   */
    float *rows;   /* (N,K) */
    float *matrix; /* M     */
    void *panels;
} fp8_scratch;

static csp_status take(csp_backend *be, const cpu_map *map, int64_t M, fp8_scratch *out)
{
    const size_t bytes[] = { (size_t)(map->N * map->K), (size_t)map->N * sizeof(float),
                             (size_t)(map->N * map->K) * sizeof(float), (size_t)M * sizeof(float),
                             cpu_map_bytes(map) };
    size_t at[5], total = 0;
    char *block;

    for (int i = 0; i < 5; i++) {
        at[i] = total;
        total += csp_size_round_up(bytes[i], CSP_ARENA_ALIGN);
    }
    CSP_TRY(cpu_shared(be, total, (void **)&block));
    *out = (fp8_scratch) { (uint8_t *)block, (float *)(void *)(block + at[1]),
                           (float *)(void *)(block + at[2]), (float *)(void *)(block + at[3]),
                           block + at[4] };
    return CSP_OK;
}

CPU_CLONES static void widen(const uint8_t *q, float scale, float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        values[i] = scale * csp_e4m3_to_f32(q[i]);
    }
}

/* values = scale q of each row (rows,columns); scale NULL: 1. */
static void widen_rows(const csp_backend *be, const uint8_t *q, const float *scale, int64_t rows,
                       int64_t columns, float *values)
{
    const int parts = cpu_parts(be, rows * columns * 4);

#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        for (int64_t r = cpu_cut(rows, 1, parts, part); r < cpu_cut(rows, 1, parts, part + 1);
             r++) {
            widen(q + r * columns, scale != NULL ? scale[r] : 1.0f, values + r * columns, columns);
        }
    }
}

/* What is rounded: [x[0] | x[1] | ...] c, unless somebody did. */
typedef struct fp8_input {
    const csp_tensor *x;
    int count;
    csp_tensor c;
    csp_fp8_rows rounded; /* or none */
} fp8_input;

/* map->y = q(x) M with the scales of q(x); M holds w times scale. */
static csp_status rounded_product(csp_backend *be, const fp8_input *in, const uint8_t *w,
                                  const float *scale, cpu_map *map)
{
    const bool forward = map->form == CPU_OUTPUT_ROWS;
    const int64_t rows = forward ? map->O : map->K, columns = forward ? map->K : map->O;
    csp_fp8_rows q = in->rounded;
    fp8_scratch s;

    CSP_TRY(take(be, map, rows * columns, &s));
    if (q.q.ndim == 0) {
        q.q = csp_tensor_view(s.q, CSP_E4M3, 2, (int64_t[]) { map->N, map->K });
        q.scale = csp_tensor_view(s.scale, CSP_F32, 1, &map->N);
        cpu_quantize(be, in->x, in->count, &in->c, &q.q, &q.scale);
    }
    widen_rows(be, q.q.data, q.scale.data, map->N, map->K, s.rows);
    widen_rows(be, w, scale, rows, columns, s.matrix);
    map->x = s.rows;
    map->m = s.matrix;
    return cpu_map_rows(be, map, s.panels);
}

csp_status cpu_linear_fp8_fwd(csp_backend *be, const csp_linear *l, const csp_linear_rows *rows,
                              int i)
{
    const csp_tensor *x = &rows->x, *u = &rows->u[i], *y = &rows->y[i];
    const int64_t N = x->dim[0], O = l->w.dim[0], I = l->w.dim[1];
    const fp8_input in = { x, 1, csp_tensor_none(), rows->x8 };
    cpu_map map = { .N = N,
                    .K = I,
                    .O = O,
                    .form = CPU_OUTPUT_ROWS,
                    .bias = l->bias.ndim > 0 ? l->bias.data : NULL,
                    .y = y->data };

    CSP_TRY(rounded_product(be, &in, l->w.data, l->w_scale.data, &map));
    if (l->lora_a.ndim > 0 && l->dropout.p == 0.0f) {
        const int64_t R = l->lora_a.dim[0];

        CSP_TRY(cpu_gemm(be, false, true, N, R, I, 1.0f, x->data, I, l->lora_a.data, I, 0.0f,
                         u->data, R));
        CSP_TRY(cpu_gemm(be, false, true, N, O, R, l->lora_scale, u->data, R, l->lora_b.data, R,
                         1.0f, y->data, O));
    }
    return CSP_OK;
}

csp_status cpu_linear_fp8_bwd(csp_backend *be, const csp_linear_group *group,
                              const csp_linear_group_grad *g)
{
    const csp_linear *first = &group->part[0];
    cpu_map map = {
        .N = g->dx.dim[0], .O = first->w.dim[1], .form = CPU_INPUT_ROWS, .y = g->dx.data
    };
    fp8_input in = { .x = g->dy, .count = group->count };

    for (int i = 0; i < group->count; i++) {
        map.K += group->part[i].w.dim[0];
    }
    in.c = csp_tensor_view(first->w_scale.data, CSP_F32, 1, &map.K);
    return rounded_product(be, &in, first->w.data, NULL, &map);
}

csp_status cpu_linear_fp8_branch_bwd(csp_backend *be, const csp_linear *l, const float *x,
                                     const float *dy, int64_t N, float *da, float *dx)
{
    const int64_t O = l->w.dim[0], I = l->w.dim[1], R = l->lora_a.dim[0];
    float *du;

    CSP_TRY(cpu_shared(be, (size_t)(N * R) * sizeof(float), (void **)&du));
    CSP_TRY(
        cpu_gemm(be, false, false, N, R, O, l->lora_scale, dy, O, l->lora_b.data, R, 0.0f, du, R));
    if (da != NULL) {
        CSP_TRY(cpu_gemm(be, true, false, R, I, N, 1.0f, du, R, x, I, 1.0f, da, I));
    }
    return dx == NULL
               ? CSP_OK
               : cpu_gemm(be, false, false, N, I, R, 1.0f, du, R, l->lora_a.data, I, 1.0f, dx, I);
}

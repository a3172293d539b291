/*
 * bench_ops.c - K8 to K11: attention, norm, swiglu and AdamW beside the copy bandwidth, and what
 * adapters cost. Shapes of Llama-3.2-1B.
 *
 * Bytes are counted once for each tensor that is read and for each that is written.
 */
#include <string.h>

#include "cli/bench.h"
#include "model/params.h"
#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/optim.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

static double width(const csp_bench *b)
{
    return (double)csp_dtype_bytes(b->dtype);
}

/* A row of a case that is bound by memory. */
static void print_bytes(const csp_bench *b, const char *name, const char *what,
                        const csp_bench_time *time, double bytes)
{
    csp_bench_print(b, name, what, time,
                    (csp_bench_figure[]) { { "share_of_copy", bytes / time->median / b->copy },
                                           { "gb", bytes * 1e-9 },
                                           { "gb_per_s", bytes / time->median * 1e-9 },
                                           { NULL, 0.0 } });
}

typedef struct attention_bench {
    int64_t B, T;
    csp_attention a;
    csp_attention_grad g;
} attention_bench;

static csp_status place_attention(const csp_bench *b, csp_arena *arena, attention_bench *c)
{
    const int64_t N = c->B * c->T, starts = c->B + 1;
    const int64_t wide[] = { N, c->a.H * c->a.E }, narrow[] = { N, c->a.G * c->a.E };
    const int64_t angles[] = { c->T, c->a.E / 2 }, heads[] = { N, c->a.H };

    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &starts, &c->a.seq_start));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 2, angles, &c->a.cos));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 2, angles, &c->a.sin));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->g.q));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, narrow, &c->g.k));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, narrow, &c->g.v));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->g.o));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 2, heads, &c->g.lse));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->g.d_o));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->g.dq));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, narrow, &c->g.dk));
    return csp_arena_tensor(arena, b->dtype, 2, narrow, &c->g.dv);
}

static csp_status run_attention(csp_bench *b, void *context)
{
    attention_bench *c = context;

    return csp_attention_fwd(b->be, &c->a, &c->g.q, &c->g.k, &c->g.v, &c->g.o, &c->g.lse);
}

static csp_status run_attention_back(csp_bench *b, void *context)
{
    attention_bench *c = context;

    return csp_attention_bwd(b->be, &c->a, &c->g);
}

static csp_status open_attention(csp_bench *b, csp_arena *arena, attention_bench *c)
{
    const csp_rope rope = { .theta = 500000.0 };

    CSP_TRY(place_attention(b, arena, c));
    CSP_TRY(csp_backend_reserve(b->be, arena->peak, arena));
    CSP_TRY(place_attention(b, arena, c));
    CSP_TRY(csp_bench_starts(b, c->B, c->T, &c->a.seq_start));
    CSP_TRY(csp_rope_table(b->be, &rope, &c->a.cos, &c->a.sin));
    CSP_TRY(csp_bench_fill(b, &c->g.q, 1, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->g.k, 2, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->g.v, 3, 1.0f));
    return csp_bench_fill(b, &c->g.d_o, 4, 1.0f);
}

/* Forward and backward of B texts of T tokens. */
static csp_status bench_attention(csp_bench *b, const char *name, attention_bench c)
{
    const double N = (double)c.B * (double)c.T, H = (double)c.a.H, G = (double)c.a.G;
    const double E = (double)c.a.E, pairs = N * (double)c.T, heads = 4.0 * N * H;
    const double qo = N * H * E * width(b), kv = N * G * E * width(b);
    const double bytes[] = { 2.0 * qo + 2.0 * kv + heads, 4.0 * qo + 4.0 * kv + heads };
    const double flop[] = { 4.0 * H * E * pairs, 10.0 * H * E * pairs };
    static const char *const what[] = { "attention fwd", "attention bwd" };
    const csp_bench_work work[] = { run_attention, run_attention_back };
    csp_arena arena = { 0 };
    csp_status status;

    c.a.longest = c.T;
    CSP_TRY_GOTO(open_attention(b, &arena, &c));
    for (int i = 0; i < 2; i++) {
        csp_bench_time time;

        CSP_TRY_GOTO(csp_bench_measure(b, work[i], &c, &time));
        csp_bench_print(
            b, name, what[i], &time,
            (csp_bench_figure[]) { { "share_of_copy", bytes[i] / time.median / b->copy },
                                   { "tflop_per_s", flop[i] / time.median * 1e-12 },
                                   { "share_of_product", flop[i] / time.median / b->product },
                                   { NULL, 0.0 } });
    }
    status = CSP_OK;

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

static csp_status case_k8(csp_bench *b)
{
    return bench_attention(
        b, "K8",
        b->tiny
            ? (attention_bench) { 3, 5, { .H = 4, .G = 2, .E = 8 }, { .q = { .ndim = 0 } } }
            : (attention_bench) { 512, 128, { .H = 32, .G = 8, .E = 64 }, { .q = { .ndim = 0 } } });
}

static csp_status case_k9(csp_bench *b)
{
    return bench_attention(
        b, "K9",
        b->tiny
            ? (attention_bench) { 2, 9, { .H = 4, .G = 1, .E = 16 }, { .q = { .ndim = 0 } } }
            : (attention_bench) { 64, 512, { .H = 32, .G = 8, .E = 128 }, { .q = { .ndim = 0 } } });
}

/* One of a kind of tensors for all of K10. */
typedef struct elementwise_bench {
    int64_t N, D, F, parameters;
    csp_tensor x, delta, y, g, rstd;
    csp_tensor gate, up, m, dgate, dup;
    csp_optim_tensor tensor;
    int64_t step;
} elementwise_bench;

static csp_status place_elementwise(const csp_bench *b, csp_arena *arena, elementwise_bench *c)
{
    const int64_t narrow[] = { c->N, c->D }, wide[] = { c->N, c->F };

    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, narrow, &c->x));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, narrow, &c->delta));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, narrow, &c->y));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 1, &c->D, &c->g));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &c->N, &c->rstd));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->gate));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->up));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->m));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->dgate));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, wide, &c->dup));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 1, &c->parameters, &c->tensor.value));
    if (b->dtype != CSP_F32) {
        CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &c->parameters, &c->tensor.master));
    }
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &c->parameters, &c->tensor.grad));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &c->parameters, &c->tensor.m));
    return csp_arena_tensor(arena, CSP_F32, 1, &c->parameters, &c->tensor.v);
}

/* The sum takes the place of delta, so that the inputs of all calls differ. */
static csp_status run_norm(csp_bench *b, void *context)
{
    elementwise_bench *c = context;

    return csp_norm_fwd(b->be, &c->x, &c->delta, &c->g, 1e-5f, &c->delta, &c->rstd, &c->y);
}

static csp_status run_norm_back(csp_bench *b, void *context)
{
    elementwise_bench *c = context;
    csp_tensor none = csp_tensor_none();

    return csp_norm_bwd(b->be, &c->x, &c->g, &c->rstd, &c->y, &c->delta, &c->y, &none);
}

static csp_status run_swiglu(csp_bench *b, void *context)
{
    elementwise_bench *c = context;

    return csp_swiglu_fwd(b->be, &c->gate, &c->up, &c->m);
}

static csp_status run_swiglu_back(csp_bench *b, void *context)
{
    elementwise_bench *c = context;

    return csp_swiglu_bwd(b->be, &c->gate, &c->up, &c->m, &c->dgate, &c->dup);
}

/* It clears the gradient, so that from the second call on the gradient is 0; nothing else is. */
static csp_status run_adamw(csp_bench *b, void *context)
{
    elementwise_bench *c = context;
    const csp_adamw_args args = {
        .t = ++c->step, .lr = 1e-6, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01
    };

    return csp_adamw(b->be, &c->tensor, 1, &args);
}

static csp_status open_elementwise(csp_bench *b, csp_arena *arena, elementwise_bench *c)
{
    CSP_TRY(place_elementwise(b, arena, c));
    CSP_TRY(csp_backend_reserve(b->be, arena->peak, arena));
    CSP_TRY(place_elementwise(b, arena, c));
    CSP_TRY(csp_bench_fill(b, &c->x, 1, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->delta, 2, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->g, 3, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->gate, 4, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->up, 5, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->tensor.value, 6, 0.02f));
    if (c->tensor.master.ndim > 0) {
        CSP_TRY(csp_bench_fill(b, &c->tensor.master, 6, 0.02f));
    }
    CSP_TRY(csp_bench_fill(b, &c->tensor.grad, 7, 0.01f));
    CSP_TRY(csp_backend_zero(b->be, &c->tensor.m));
    return csp_backend_zero(b->be, &c->tensor.v);
}

static csp_status case_k10(csp_bench *b)
{
    elementwise_bench c = { .N = b->tiny ? 7 : 65536,
                            .D = b->tiny ? 32 : 2048,
                            .F = b->tiny ? 64 : 8192,
                            .parameters = b->tiny ? 1000 : (int64_t)1 << 28 };
    const double narrow = (double)c.N * (double)c.D * width(b);
    const double wide = (double)c.N * (double)c.F * width(b);
    const struct {
        const char *what;
        csp_bench_work work;
        double bytes;
    } ops[] = {
        { "residual add + norm fwd", run_norm, 4.0 * narrow },
        { "residual add + norm bwd", run_norm_back, 4.0 * narrow },
        { "swiglu fwd", run_swiglu, 3.0 * wide },
        { "swiglu bwd", run_swiglu_back, 5.0 * wide },
        /* gradient, moments, value or master: read and written; a bf16 value is only written */
        { "adamw", run_adamw, (b->dtype == CSP_F32 ? 32.0 : 34.0) * (double)c.parameters },
    };
    csp_arena arena = { 0 };
    csp_status status;

    CSP_TRY_GOTO(open_elementwise(b, &arena, &c));
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
        csp_bench_time time;

        CSP_TRY_GOTO(csp_bench_measure(b, ops[i].work, &c, &time));
        print_bytes(b, "K10", ops[i].what, &time, ops[i].bytes);
    }
    status = CSP_OK;

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

/* The seven matrices of a block, with adapters or without, placed as in a model of one block. */
typedef struct lora_bench {
    int64_t N;
    csp_params *params;
    csp_arena keep, step;
    bool adapters;
    csp_tensor x, y, dx; /* as wide as the widest group, with its tail: operands are columns */
    csp_tensor u[CSP_LINEAR_PARTS];
} lora_bench;

static csp_status create_lora(const csp_bench *b, lora_bench *c)
{
    csp_model_config config = csp_model_config_standard(CSP_FAMILY_LLAMA);
    const csp_storage storage = { .dtype = b->dtype, .apart = b->be->apart };
    csp_lora lora = { .R = CSP_BENCH_RANK, .alpha = 2 * CSP_BENCH_RANK };

    config.V = 1;
    config.L = 1;
    config.D = b->tiny ? 32 : 2048;
    config.F = b->tiny ? 64 : 8192;
    config.H = b->tiny ? 4 : 32;
    config.G = b->tiny ? 2 : 8;
    config.E = b->tiny ? 8 : 64;
    config.tied = true;
    CSP_TRY(csp_lora_target(&lora, "all-linear"));
    return csp_params_create(&config, &lora, CSP_TRAIN_LORA, storage, &c->params);
}

/* (N,columns) with room for a tail T wide, where there are tails. */
static csp_status place_rows(const csp_bench *b, csp_arena *arena, int64_t N, int64_t columns,
                             int64_t T, csp_tensor *out)
{
    return csp_arena_tensor(arena, b->dtype, 2, (int64_t[]) { N, columns + T }, out);
}

static csp_status place_lora(const csp_bench *b, lora_bench *c)
{
    const int64_t F = c->params->config.F, N = c->N;

    CSP_TRY(csp_params_place(c->params, &c->keep));
    CSP_TRY(place_rows(b, &c->step, N, F, csp_params_tail(c->params, CSP_GROUP_QKV), &c->x));
    CSP_TRY(
        place_rows(b, &c->step, N, 2 * F, csp_params_tail(c->params, CSP_GROUP_GATE_UP), &c->y));
    CSP_TRY(place_rows(b, &c->step, N, F, 0, &c->dx));
    for (int i = 0; i < CSP_LINEAR_PARTS; i++) {
        CSP_TRY(place_rows(b, &c->step, N, CSP_BENCH_RANK, 0, &c->u[i]));
    }
    return CSP_OK;
}

/* The memory of wide as a matrix of (N,columns) of its own, from an element on; moves it on. */
static csp_tensor take_columns(const csp_tensor *wide, int64_t columns, int64_t *at)
{
    char *data = (char *)wide->data + (size_t)*at * csp_dtype_bytes(wide->dtype);

    *at += wide->dim[0] * columns;
    return csp_tensor_view(data, wide->dtype, 2, (int64_t[]) { wide->dim[0], columns });
}

/* Columns from `first` on as a tail of the group; none where it has none. */
static csp_tensor tail_at(const lora_bench *c, csp_matrix_group group, const csp_tensor *wide,
                          int64_t first)
{
    const int64_t T = c->adapters ? csp_params_tail(c->params, group) : 0;

    return T > 0 ? csp_tensor_columns(wide, first, T) : csp_tensor_none();
}

/* As a block has it: x of o has no room for a tail. */
static void lay_out(const lora_bench *c, csp_matrix_group group, const csp_linear_group *g,
                    csp_linear_rows *rows, csp_linear_group_grad *grad)
{
    const bool alone = !c->params->storage.apart;
    const int64_t I = g->part[0].w.dim[1];
    int64_t at = 0, columns = 0, whole = 0;

    rows->x = alone || group == CSP_GROUP_O ? take_columns(&c->x, I, &whole)
                                            : csp_tensor_columns(&c->x, 0, I);
    rows->x_tail = group == CSP_GROUP_O ? csp_tensor_none() : tail_at(c, group, &c->x, I);
    for (int i = 0; i < g->count; i++) {
        const int64_t O = g->part[i].w.dim[0];

        rows->y[i] = alone ? take_columns(&c->y, O, &at) : csp_tensor_columns(&c->y, columns, O);
        columns += O;
        grad->dy[i] = rows->y[i];
        if (c->adapters) {
            rows->u[i] = grad->u[i] = c->u[i];
        }
    }
    grad->dy_tail = alone ? csp_tensor_none() : tail_at(c, group, &c->y, columns);
    grad->x = c->adapters ? rows->x : csp_tensor_none();
    whole = 0;
    grad->dx = take_columns(&c->dx, I, &whole);
}

/* Forward, and backward to inputs and adapters, of all seven. */
static csp_status run_linears(csp_bench *b, void *context)
{
    lora_bench *c = context;
    const csp_layer *layer = &c->params->layers[0];

    for (int group = 0; group < CSP_GROUP_COUNT; group++) {
        const int first = (int)csp_group_first((csp_matrix_group)group);
        csp_linear_group g = { .count = csp_group_size((csp_matrix_group)group),
                               .w_tail = layer->w_tail[group],
                               .a_tail = layer->a_tail[group] };
        csp_linear_rows rows = { 0 };
        csp_linear_group_grad grad = { 0 };

        for (int i = 0; i < g.count; i++) {
            g.part[i].w = layer->weight[first + i]->value;
            if (c->adapters) {
                g.part[i].lora_a = layer->lora_a[first + i]->value;
                g.part[i].lora_b = layer->lora_b[first + i]->value;
                g.part[i].lora_scale = csp_lora_scale(&c->params->lora);
                grad.part[i].dlora_a = layer->lora_a[first + i]->grad;
                grad.part[i].dlora_b = layer->lora_b[first + i]->grad;
            }
        }
        lay_out(c, (csp_matrix_group)group, &g, &rows, &grad);
        CSP_TRY(csp_linear_group_fwd(b->be, &g, &rows));
        CSP_TRY(csp_linear_group_bwd(b->be, &g, &grad));
    }
    return CSP_OK;
}

static csp_status fill_lora(csp_bench *b, lora_bench *c)
{
    CSP_TRY(csp_bench_fill(b, &c->x, 1, 1.0f));
    for (int64_t i = 0; i < c->params->count; i++) {
        csp_param *row = &c->params->rows[i];

        CSP_TRY(csp_bench_fill(b, &row->value, 2 + (uint32_t)i, 0.02f));
        if (row->trained) {
            CSP_TRY(csp_backend_zero(b->be, &row->grad));
        }
    }
    return CSP_OK;
}

static csp_status case_k11(csp_bench *b)
{
    lora_bench c = { .N = b->tiny ? 9 : 32768 };
    csp_bench_time frozen, adapted;
    csp_status status;

    CSP_TRY(create_lora(b, &c));
    CSP_TRY_GOTO(place_lora(b, &c));
    CSP_TRY_GOTO(csp_backend_reserve(b->be, c.keep.peak, &c.keep));
    CSP_TRY_GOTO(csp_backend_reserve(b->be, c.step.peak, &c.step));
    CSP_TRY_GOTO(place_lora(b, &c));
    CSP_TRY_GOTO(fill_lora(b, &c));
    CSP_TRY_GOTO(csp_bench_measure(b, run_linears, &c, &frozen));
    c.adapters = true;
    CSP_TRY_GOTO(csp_bench_measure(b, run_linears, &c, &adapted));
    csp_bench_print(b, "K11", "adapters on seven matrices, r = 16", &adapted,
                    (csp_bench_figure[]) {
                        { "overhead_percent", 100.0 * (adapted.median / frozen.median - 1.0) },
                        { "frozen_ms", 1e3 * frozen.median },
                        { "tokens", (double)c.N },
                        { NULL, 0.0 } });

fail:
    csp_backend_release(b->be, &c.step);
    csp_backend_release(b->be, &c.keep);
    csp_params_destroy(c.params);
    return status;
}

const csp_bench_case csp_bench_op_cases[] = {
    { "K8", case_k8, "attention of 512 texts of 128 tokens, heads of 64" },
    { "K9", case_k9, "attention of 64 texts of 512 tokens, heads of 128" },
    { "K10", case_k10, "norm, swiglu and AdamW beside the copy bandwidth" },
    { "K11", case_k11, "what adapters add to seven frozen matrices" },
    { NULL, NULL, NULL },
};

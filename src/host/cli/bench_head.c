/*
 * bench_head.c - K1, K3 to K7: the head and the adaptation losses beside bare matrix products of
 * the same shapes, and the head's backward pass beside cuSPARSE.
 *
 * The bare product is csp_linear on blocks of rows whose logits are kept nowhere else, which is one
 * cuBLAS product each: the least that anything with these logits can take.
 */
#include <stdlib.h>

#include "cli/bench.h"
#include "core/memory.h"
#include "core/rng.h"
#include "ops/linear.h"
#include "ops/loss.h"

/* Documents of a step of Llama-3.2-1B: 512 of 128 tokens. The losses take 16,384 tokens. */
typedef struct head_bench {
    int64_t B, T, N, D, V, block;
    csp_head head;
    csp_tensor h, dh, target, logits, dw;
    csp_tensor loss, bad; /* of csp_token_loss */
    csp_tensor de;        /* (V,D) f32, or none: the head is frozen */
    csp_pool_texts texts;
    csp_sparse rows;
    csp_linear product;
    int64_t entries;
} head_bench;

static head_bench head_shape(const csp_bench *b)
{
    head_bench c = { .B = b->tiny ? 3 : 512, .T = b->tiny ? 5 : 128 };

    c.D = b->tiny ? 32 : 2048;
    c.V = b->tiny ? 97 : 128256;
    c.N = c.B * c.T;
    c.block = b->tiny ? 8 : 8192;
    return c;
}

static csp_status place_head(const csp_bench *b, csp_arena *arena, head_bench *c)
{
    const int64_t cap = c->B * c->V, starts = c->B + 1, two = 2;

    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, (int64_t[]) { c->N, c->D }, &c->h));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, (int64_t[]) { c->N, c->D }, &c->dh));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, (int64_t[]) { c->V, c->D }, &c->head.e));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, (int64_t[]) { c->block, c->V }, &c->logits));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &starts, &c->texts.seq_start));
    CSP_TRY(csp_arena_tensor(arena, CSP_U8, 1, &c->N, &c->texts.keep));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &c->N, &c->target));
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &c->rows.row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &cap, &c->rows.term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &cap, &c->rows.weight));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &cap, &c->rows.argmax));
    CSP_TRY(csp_arena_tensor(arena, CSP_F64, 1, &two, &c->loss));
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &two, &c->bad));
    return csp_arena_tensor(arena, CSP_F32, 1, &cap, &c->dw);
}

/* Every row is kept; targets are random. */
static csp_status fill_rows(csp_bench *b, head_bench *c)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, 9, 0 };
    int32_t *target = NULL;
    uint8_t *keep = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc("bench", c->N, sizeof(*target), &target));
    CSP_TRY_GOTO(csp_alloc("bench", c->N, 1, &keep));
    for (int64_t n = 0; n < c->N; n++) {
        target[n] = (int32_t)csp_rng_below(rng, (uint64_t)n, (uint64_t)c->V);
        keep[n] = 1;
    }
    CSP_TRY_GOTO(csp_backend_upload(b->be, target, &c->target));
    CSP_TRY_GOTO(csp_backend_upload(b->be, keep, &c->texts.keep));
    c->texts.kept = c->N;
    c->texts.longest = c->T;
    status = csp_bench_starts(b, c->B, c->T, &c->texts.seq_start);

fail:
    free(target);
    free(keep);
    return status;
}

static csp_status open_head(csp_bench *b, csp_arena *arena, head_bench *c)
{
    *c = head_shape(b);
    CSP_TRY(place_head(b, arena, c));
    CSP_TRY(csp_backend_reserve(b->be, arena->peak, arena));
    CSP_TRY(place_head(b, arena, c));
    c->head.exclude = csp_tensor_none();
    c->head.scale = 1.0f;
    c->rows.vocab = c->V;
    c->product.w = c->head.e;
    CSP_TRY(csp_bench_fill(b, &c->h, 1, 1.0f));
    CSP_TRY(csp_bench_fill(b, &c->head.e, 2, 0.02f));
    CSP_TRY(csp_bench_fill(b, &c->logits, 3, 0.01f));
    CSP_TRY(csp_bench_fill(b, &c->dw, 4, 0.01f));
    return fill_rows(b, c);
}

static csp_status run_forward(csp_bench *b, void *context)
{
    head_bench *c = context;

    return csp_sparse_pool_fwd(b->be, &c->head, &c->h, &c->texts, 0, &c->rows);
}

static csp_status run_backward(csp_bench *b, void *context)
{
    head_bench *c = context;
    csp_sparse_pool_grad g = { .rows = &c->rows,
                               .dw = c->dw,
                               .h = c->de.ndim > 0 ? c->h : csp_tensor_none(),
                               .texts = c->texts,
                               .dh = c->dh,
                               .de = c->de,
                               .entries = c->entries };

    return csp_sparse_pool_bwd(b->be, &c->head, &g);
}

/* h e^T, block after block of rows. */
static csp_status run_product(csp_bench *b, void *context)
{
    head_bench *c = context;
    csp_tensor none = csp_tensor_none();

    for (int64_t n = 0; n < c->N; n += c->block) {
        const int64_t rows = c->N - n < c->block ? c->N - n : c->block;
        const csp_tensor x = csp_tensor_rows(&c->h, n, rows);
        csp_tensor y = csp_tensor_rows(&c->logits, 0, rows);

        CSP_TRY(csp_linear_fwd(b->be, &c->product, &x, &none, &y));
    }
    return CSP_OK;
}

/* dlogits e, block after block of rows: what a dense backward pass would multiply. */
static csp_status run_product_back(csp_bench *b, void *context)
{
    head_bench *c = context;
    const csp_tensor none = csp_tensor_none();
    const csp_linear_grad unwanted = { none, none, none, none };

    for (int64_t n = 0; n < c->N; n += c->block) {
        const int64_t rows = c->N - n < c->block ? c->N - n : c->block;
        const csp_tensor dy = csp_tensor_rows(&c->logits, 0, rows);
        csp_tensor dx = csp_tensor_rows(&c->dh, n, rows);

        CSP_TRY(csp_linear_bwd(b->be, &c->product, &none, &none, &dy, &unwanted, &dx));
    }
    return CSP_OK;
}

/* How many entries rows holds. */
static csp_status count_entries(csp_bench *b, head_bench *c)
{
    const csp_tensor last = csp_tensor_rows(&c->rows.row_ptr, c->B, 1);

    return csp_backend_download(b->be, &last, &c->entries);
}

/* The forward pass by a way beside the bare product of the same logits. */
static csp_status print_forward(csp_bench *b, head_bench *c, csp_pool_forward way, const char *what,
                                const csp_bench_time *bare)
{
    const double operations = 2.0 * (double)c->N * (double)c->D * (double)c->V;
    csp_bench_time head;

    CSP_TRY(csp_sparse_pool_choose_forward(b->be, way));
    CSP_TRY(csp_bench_measure(b, run_forward, c, &head));
    CSP_TRY(count_entries(b, c));
    csp_bench_print(
        b, "K1", what, &head,
        (csp_bench_figure[]) { { "ratio_to_product", head.median / bare->median },
                               { "product_ms", 1e3 * bare->median },
                               { "density", (double)c->entries / ((double)c->B * (double)c->V) },
                               { "share_of_ceiling", operations / head.median / b->product },
                               { NULL, 0.0 } });
    return CSP_OK;
}

/* What a run takes, and on a device that has it the one kernel. */
static csp_status case_k1(csp_bench *b)
{
    csp_arena arena = { 0 };
    head_bench c;
    csp_bench_time bare;
    csp_status status;

    CSP_TRY_GOTO(open_head(b, &arena, &c));
    CSP_TRY_GOTO(csp_bench_measure(b, run_product, &c, &bare));
    CSP_TRY_GOTO(print_forward(b, &c, CSP_POOL_FORWARD_AUTO, "head fwd", &bare));
    if (b->dtype == CSP_BF16 &&
        csp_sparse_pool_choose_forward(b->be, CSP_POOL_FORWARD_FUSED) == CSP_OK) {
        CSP_TRY_GOTO(print_forward(b, &c, CSP_POOL_FORWARD_FUSED, "head fwd, fused", &bare));
    }
    status = csp_sparse_pool_choose_forward(b->be, CSP_POOL_FORWARD_AUTO);

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

/* Entries of a given density: each term of each text by its own coin, a random row for each. */
static csp_status draw_entries(csp_bench *b, head_bench *c, double density)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, 11, 0 };
    const int64_t cap = c->B * c->V;
    int64_t *row_ptr = NULL, n = 0;
    int32_t *term = NULL, *argmax = NULL;
    csp_tensor view;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc("bench", c->B + 1, sizeof(*row_ptr), &row_ptr));
    CSP_TRY_GOTO(csp_alloc("bench", cap, sizeof(*term), &term));
    CSP_TRY_GOTO(csp_alloc("bench", cap, sizeof(*argmax), &argmax));
    for (int64_t i = 0; i < c->B; i++) {
        row_ptr[i] = n;
        for (int64_t v = 0; v < c->V; v++) {
            const uint32_t word = csp_rng_u32(rng, (uint64_t)(i * c->V + v));

            if ((double)(word >> 8) < density * 0x1p24) {
                term[n] = (int32_t)v;
                argmax[n++] = (int32_t)((uint64_t)(word & 0xFFFF) * (uint64_t)c->T >> 16);
            }
        }
    }
    row_ptr[c->B] = n;
    c->entries = n;
    CSP_TRY_GOTO(csp_backend_upload(b->be, row_ptr, &c->rows.row_ptr));
    view = csp_tensor_view(c->rows.term.data, CSP_I32, 1, &n);
    CSP_TRY_GOTO(csp_backend_upload(b->be, term, &view));
    view = csp_tensor_view(c->rows.argmax.data, CSP_I32, 1, &n);
    CSP_TRY_GOTO(csp_backend_upload(b->be, argmax, &view));
    status = csp_bench_fill(b, &c->rows.weight, 5, 0.5f);

fail:
    free(row_ptr);
    free(term);
    free(argmax);
    return status;
}

static csp_status case_k3(csp_bench *b)
{
    static const struct {
        double density;
        const char *what;
    } regimes[] = { { 1.0, "head bwd, density 1" },
                    { 0.1, "head bwd, density 0.1" },
                    { 0.01, "head bwd, density 0.01" } };
    csp_arena arena = { 0 };
    head_bench c;
    csp_bench_time back, bare;
    csp_status status;

    CSP_TRY_GOTO(open_head(b, &arena, &c));
    CSP_TRY_GOTO(csp_bench_measure(b, run_product_back, &c, &bare));
    for (size_t i = 0; i < sizeof(regimes) / sizeof(regimes[0]); i++) {
        CSP_TRY_GOTO(draw_entries(b, &c, regimes[i].density));
        CSP_TRY_GOTO(csp_bench_measure(b, run_backward, &c, &back));
        csp_bench_print(
            b, "K3", regimes[i].what, &back,
            (csp_bench_figure[]) { { "ratio_to_product", back.median / bare.median },
                                   { "product_ms", 1e3 * bare.median },
                                   { "entries", (double)c.entries },
                                   { "gathered_gb_per_s", (double)c.entries * (double)c.D *
                                                              (double)csp_dtype_bytes(b->dtype) /
                                                              back.median * 1e-9 },
                                   { NULL, 0.0 } });
    }
    status = CSP_OK;

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

/* The backward pass by a way; later ones go as the device likes. */
static csp_status measure_way(csp_bench *b, head_bench *c, csp_pool_way way, csp_bench_time *out)
{
    CSP_TRY(csp_sparse_pool_choose(b->be, way));
    CSP_TRY(csp_bench_measure(b, run_backward, c, out));
    return csp_sparse_pool_choose(b->be, CSP_POOL_AUTO);
}

/* dh alone, the head being frozen: cuSPARSE and ours in turn, on the same entries. */
static csp_status case_k6(csp_bench *b)
{
    static const struct {
        double density;
        const char *what;
    } regimes[] = { { 0.5, "head bwd, density 0.5" },
                    { 0.1, "head bwd, density 0.1" },
                    { 0.01, "head bwd, density 0.01" } };
    csp_arena arena = { 0 };
    head_bench c;
    csp_status status;

    CSP_TRY_GOTO(csp_sparse_pool_choose(b->be, CSP_POOL_CUSPARSE));
    CSP_TRY_GOTO(open_head(b, &arena, &c));
    for (size_t i = 0; i < sizeof(regimes) / sizeof(regimes[0]); i++) {
        csp_bench_time own, library, lists, stream;

        CSP_TRY_GOTO(draw_entries(b, &c, regimes[i].density));
        CSP_TRY_GOTO(measure_way(b, &c, CSP_POOL_CUSPARSE, &library));
        CSP_TRY_GOTO(measure_way(b, &c, CSP_POOL_AUTO, &own));
        CSP_TRY_GOTO(measure_way(b, &c, CSP_POOL_LISTS, &lists));
        CSP_TRY_GOTO(measure_way(b, &c, CSP_POOL_STREAM, &stream));
        csp_bench_print(b, "K6", regimes[i].what, &own,
                        (csp_bench_figure[]) { { "cusparse_over_own", library.median / own.median },
                                               { "cusparse_ms", 1e3 * library.median },
                                               { "lists_ms", 1e3 * lists.median },
                                               { "stream_ms", 1e3 * stream.median },
                                               { "entries", (double)c.entries },
                                               { NULL, 0.0 } });
    }
    status = CSP_OK;

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

/*
 * Forward and backward of a trained head. The density of random weights is near 1, where training
 * ends up near 0.1: forward is timed with the one, which costs it most, backward with the other.
 */
static csp_status case_k4(csp_bench *b)
{
    csp_arena arena = { 0 }, gradient = { 0 };
    head_bench c;
    csp_bench_time head, back, both;
    csp_status status;

    CSP_TRY_GOTO(open_head(b, &arena, &c));
    CSP_TRY_GOTO(csp_backend_reserve(b->be, (size_t)(c.V * c.D) * sizeof(float) + CSP_ARENA_ALIGN,
                                     &gradient));
    CSP_TRY_GOTO(csp_bench_measure(b, run_forward, &c, &head));
    CSP_TRY_GOTO(csp_arena_tensor(&gradient, CSP_F32, 2, (int64_t[]) { c.V, c.D }, &c.de));
    CSP_TRY_GOTO(csp_backend_zero(b->be, &c.de));
    CSP_TRY_GOTO(draw_entries(b, &c, 0.1));
    CSP_TRY_GOTO(csp_bench_measure(b, run_backward, &c, &back));
    both =
        (csp_bench_time) { head.median + back.median, head.low + back.low, head.high + back.high };
    csp_bench_print(b, "K4", "head fwd + bwd with dW, density 0.1", &both,
                    (csp_bench_figure[]) { { "fwd_ms", 1e3 * head.median },
                                           { "bwd_ms", 1e3 * back.median },
                                           { "tokens", (double)c.N },
                                           { NULL, 0.0 } });

fail:
    csp_backend_release(b->be, &gradient);
    csp_backend_release(b->be, &arena);
    return status;
}

/* Device memory that one call of work takes beyond what is there before, and keeps as scratch. */
static csp_status memory_of(csp_bench *b, csp_bench_work work, head_bench *c, double *bytes)
{
    csp_memory before, after;

    CSP_TRY(csp_backend_memory(b->be, &before));
    CSP_TRY(work(b, c));
    CSP_TRY(csp_backend_sync(b->be));
    CSP_TRY(csp_backend_memory(b->be, &after));
    *bytes = (double)(before.free - after.free);
    return CSP_OK;
}

static csp_status run_both(csp_bench *b, void *context)
{
    CSP_TRY(run_forward(b, context));
    return run_backward(b, context);
}

static csp_status case_k5(csp_bench *b)
{
    csp_arena arena = { 0 };
    head_bench c;
    double scratch, rows;
    csp_status status;

    CSP_TRY_GOTO(open_head(b, &arena, &c));
    CSP_TRY_GOTO(memory_of(b, run_both, &c, &scratch));
    CSP_TRY_GOTO(count_entries(b, &c));
    /* term, weight, argmax and gradient of every entry. */
    rows = (double)c.entries * 16.0 + (double)(c.B + 1) * 8.0;
    csp_bench_print(
        b, "K5", "head fwd + bwd, memory", NULL,
        (csp_bench_figure[]) { { "transient_mb", (scratch + rows) * 1e-6 },
                               { "scratch_mb", scratch * 1e-6 },
                               { "rows_mb", rows * 1e-6 },
                               { "density", (double)c.entries / ((double)c.B * (double)c.V) },
                               { NULL, 0.0 } });

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

static csp_status run_losses(csp_bench *b, void *context)
{
    head_bench *c = context;
    csp_token_loss_args args = { .head = c->head,
                                 .h = c->h,
                                 .target = c->target,
                                 .predicted = c->N,
                                 .lambda_relu = 1.0f,
                                 .coefficient = 1.0f / (float)c->N,
                                 .dh = c->dh,
                                 .de = csp_tensor_none(),
                                 .loss = c->loss,
                                 .bad = c->bad };

    return csp_token_loss(b->be, &args);
}

static csp_status run_two_products(csp_bench *b, void *context)
{
    CSP_TRY(run_product(b, context));
    return run_product_back(b, context);
}

static csp_status case_k7(csp_bench *b)
{
    csp_arena arena = { 0 };
    head_bench c;
    csp_bench_time losses, bare;
    double scratch;
    csp_status status;

    CSP_TRY_GOTO(open_head(b, &arena, &c));
    c.N = b->tiny ? c.N : 16384;
    c.h = csp_tensor_rows(&c.h, 0, c.N);
    c.dh = csp_tensor_rows(&c.dh, 0, c.N);
    c.target = csp_tensor_rows(&c.target, 0, c.N);
    CSP_TRY_GOTO(memory_of(b, run_losses, &c, &scratch));
    CSP_TRY_GOTO(csp_bench_measure(b, run_two_products, &c, &bare));
    CSP_TRY_GOTO(csp_bench_measure(b, run_losses, &c, &losses));
    csp_bench_print(b, "K7", "both adaptation losses", &losses,
                    (csp_bench_figure[]) { { "ratio_to_products", losses.median / bare.median },
                                           { "products_ms", 1e3 * bare.median },
                                           { "transient_mb", scratch * 1e-6 },
                                           { "tokens", (double)c.N },
                                           { NULL, 0.0 } });

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

const csp_bench_case csp_bench_head_cases[] = {
    { "K1", case_k1, "head forward beside the bare product, by tiles and in one kernel" },
    { "K3", case_k3, "head backward at three densities beside the dense product" },
    { "K4", case_k4, "head forward and backward, the head trained" },
    { "K5", case_k5, "memory of the head" },
    { "K6", case_k6, "head backward at three densities beside cuSPARSE, and by each way of ours" },
    { "K7", case_k7, "both adaptation losses beside two bare products" },
    { NULL, NULL, NULL },
};

/* bench_measure.c - times, rows of the result, random tensors and the ceilings of a device. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/rng.h"
#include "model/param_values.h"
#include "ops/linear.h"

/* A sample takes at least this long, where that is no more than SAMPLE_CALLS calls. */
#define SAMPLE_SECONDS 0.02
#define SAMPLE_CALLS 1000
/* A prime, so that no two rows of a tensor are alike. */
#define BLOCK 262139

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Seconds of one of `calls` calls in a row. */
static csp_status take_sample(csp_bench *b, csp_bench_work work, void *context, int64_t calls,
                              double *seconds)
{
    const double start = csp_machine_seconds();

    for (int64_t i = 0; i < calls; i++) {
        CSP_TRY(work(b, context));
    }
    CSP_TRY(csp_backend_sync(b->be));
    *seconds = (csp_machine_seconds() - start) / (double)calls;
    return CSP_OK;
}

csp_status csp_bench_measure(csp_bench *b, csp_bench_work work, void *context, csp_bench_time *out)
{
    double *seconds = NULL, once = 0.0;
    int64_t calls = 1;
    csp_status status;

    CSP_TRY(csp_alloc("bench", b->repeats, sizeof(*seconds), &seconds));
    for (int64_t i = 0; i < b->warmup; i++) {
        CSP_TRY_GOTO(take_sample(b, work, context, 1, &once));
    }
    CSP_TRY_GOTO(take_sample(b, work, context, 1, &once));
    if (!b->tiny && once < SAMPLE_SECONDS) {
        calls = 1 + (int64_t)(SAMPLE_SECONDS / (once + SAMPLE_SECONDS / SAMPLE_CALLS));
    }
    for (int64_t i = 0; i < b->repeats; i++) {
        CSP_TRY_GOTO(take_sample(b, work, context, calls, &seconds[i]));
    }
    qsort(seconds, (size_t)b->repeats, sizeof(*seconds), by_value);
    out->median = seconds[b->repeats / 2];
    out->low = seconds[b->repeats / 4];
    out->high = seconds[b->repeats - 1 - b->repeats / 4];

fail:
    free(seconds);
    return status;
}

void csp_bench_print(const csp_bench *b, const char *name, const char *what,
                     const csp_bench_time *time, const csp_bench_figure *figures)
{
    const bool json = strcmp(csp_args_text(b->args, "format"), "json") == 0;
    const char *dtype = b->dtype == CSP_BF16 ? "bf16" : "fp32";

    if (json) {
        printf("{\"case\":\"%s\",\"what\":\"%s\",\"side\":\"csplade\",\"device\":\"%s\","
               "\"dtype\":\"%s\",\"tiny\":%s",
               name, what, b->be->name, dtype, b->tiny ? "true" : "false");
    } else {
        printf("%-8s %-34s %s", name, what, dtype);
    }
    if (time != NULL && json) {
        printf(",\"seconds\":%.6g,\"low\":%.6g,\"high\":%.6g,\"samples\":%lld", time->median,
               time->low, time->high, (long long)b->repeats);
    } else if (time != NULL) {
        printf("  %10.4f ms (%.4f .. %.4f)", 1e3 * time->median, 1e3 * time->low, 1e3 * time->high);
    }
    for (; figures->name != NULL; figures++) {
        printf(json ? ",\"%s\":%.6g" : "  %s %.4g", figures->name, figures->value);
    }
    printf(json ? "}\n" : "\n");
    (void)fflush(stdout);
}

csp_status csp_bench_fill(csp_bench *b, csp_tensor *t, uint32_t key, float scale)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, key, 0 };
    const int64_t count = csp_tensor_count(t), block = count < BLOCK ? count : BLOCK;
    float *values;
    csp_status status = CSP_OK;

    CSP_TRY(csp_alloc("bench", block, sizeof(*values), &values));
    for (int64_t i = 0; i < block; i++) {
        values[i] = scale * csp_rng_normal(rng, (uint64_t)i);
    }
    for (int64_t first = 0; first < count && status == CSP_OK; first += block) {
        const int64_t n = count - first < block ? count - first : block;

        status = csp_tensor_upload(b->be, t, first, n, values);
    }
    free(values);
    return status;
}

csp_status csp_bench_starts(csp_bench *b, int64_t B, int64_t T, csp_tensor *t)
{
    int32_t *start;
    csp_status status;

    CSP_TRY(csp_alloc("bench", B + 1, sizeof(*start), &start));
    for (int64_t i = 0; i <= B; i++) {
        start[i] = (int32_t)(i * T);
    }
    status = csp_backend_upload(b->be, start, t);
    free(start);
    return status;
}

/* The product (n,n) by (n,n), and a copy from one tensor to another. */
typedef struct ceilings {
    csp_linear l;
    csp_tensor x, y, from, to;
} ceilings;

static csp_status place_ceilings(const csp_bench *b, csp_arena *arena, ceilings *c)
{
    const int64_t n = b->tiny ? 64 : 8192, words = b->tiny ? 1024 : (int64_t)1 << 28;
    const int64_t dims[] = { n, n };

    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, dims, &c->x));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, dims, &c->l.w));
    CSP_TRY(csp_arena_tensor(arena, b->dtype, 2, dims, &c->y));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &words, &c->from));
    return csp_arena_tensor(arena, CSP_F32, 1, &words, &c->to);
}

static csp_status run_product(csp_bench *b, void *context)
{
    ceilings *c = context;
    csp_tensor none = csp_tensor_none();

    return csp_linear_fwd(b->be, &c->l, &c->x, &none, &c->y);
}

static csp_status run_copy(csp_bench *b, void *context)
{
    ceilings *c = context;

    return csp_backend_copy(b->be, &c->from, &c->to);
}

csp_status csp_bench_ceilings(csp_bench *b)
{
    ceilings c = { .l = { .lora_scale = 1.0f } };
    csp_arena arena = { 0 };
    csp_bench_time product, copy;
    double flop, bytes;
    csp_status status;

    CSP_TRY(place_ceilings(b, &arena, &c));
    CSP_TRY(csp_backend_reserve(b->be, arena.peak, &arena));
    CSP_TRY_GOTO(place_ceilings(b, &arena, &c));
    CSP_TRY_GOTO(csp_bench_fill(b, &c.x, 1, 1.0f));
    CSP_TRY_GOTO(csp_bench_fill(b, &c.l.w, 2, 1.0f));
    CSP_TRY_GOTO(csp_bench_fill(b, &c.from, 3, 1.0f));
    CSP_TRY_GOTO(csp_bench_measure(b, run_product, &c, &product));
    CSP_TRY_GOTO(csp_bench_measure(b, run_copy, &c, &copy));
    flop = 2.0 * (double)c.x.dim[0] * (double)c.x.dim[0] * (double)c.x.dim[0];
    bytes = 2.0 * (double)csp_tensor_bytes(&c.from);
    b->product = flop / product.median;
    b->copy = bytes / copy.median;
    csp_bench_print(b, "ceilings", "product", &product,
                    (csp_bench_figure[]) { { "tflop_per_s", b->product * 1e-12 },
                                           { "rows", (double)c.x.dim[0] },
                                           { NULL, 0.0 } });
    csp_bench_print(b, "ceilings", "copy", &copy,
                    (csp_bench_figure[]) {
                        { "gb_per_s", b->copy * 1e-9 }, { "mb", bytes * 5e-7 }, { NULL, 0.0 } });

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

/* Kinds of cases, by the options they look at. */
enum { PRODUCT = 1, DESCRIBED = 2, OWN = 4, COMM = 8 };

static int kind_of(const char *name, bool own)
{
    if (own || (name != NULL && strcmp(name, "ceilings") == 0)) {
        return OWN;
    }
    if (name != NULL && strcmp(name, "comm") == 0) {
        return COMM;
    }
    return name != NULL && strcmp(name, "sgemm") == 0 ? PRODUCT : DESCRIBED;
}

csp_status csp_bench_check_options(const csp_arguments *args, const char *name, bool own)
{
    static const struct {
        const char *option;
        int kinds;
    } rows[] = {
        { "vocab", DESCRIBED },
        { "hidden", DESCRIBED },
        { "layers", DESCRIBED },
        { "queries", DESCRIBED },
        { "query-tokens", DESCRIBED },
        { "documents", DESCRIBED },
        { "document-tokens", DESCRIBED },
        { "lora", DESCRIBED },
        { "micro-batch-tokens", DESCRIBED },
        { "min-bytes", COMM },
        { "max-bytes", COMM },
        { "factor", COMM },
        { "tiny", OWN | COMM },
        { "precision", PRODUCT | DESCRIBED | OWN },
        { "tune-products", PRODUCT | DESCRIBED | OWN },
    };
    const int kind = kind_of(name, own);

    for (int i = 0; i < CSP_COUNT(rows); i++) {
        if ((rows[i].kinds & kind) == 0 && csp_args_given(args, rows[i].option)) {
            return CSP_FAIL(CSP_ERR_CONFIG, "bench: %s does not look at --%s",
                            name != NULL ? name : "all", rows[i].option);
        }
    }
    return CSP_OK;
}

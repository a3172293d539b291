/*
 * bench_profile.c - csplade bench --profile: where the time of a step goes, and what of it is lost.
 *
 * Each op has a formula for what a step needs of it: multiplications and additions of matrix
 * products (docs/method.md 12), and bytes that a kernel reads and writes which touches each operand
 * once. Its ceiling is the larger of the products at the measured rate and the bytes at the
 * measured bandwidth; what a row takes beyond is lost. Work that is done twice is needed once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "core/memory.h"
#include "ops/profile.h"

enum { LABEL_BYTES = 96 };

/* What a step needs of an op. */
typedef struct need {
    double flop, bytes;
} need;

/* Counts that formulas are made of: letters of docs/method.md, S bytes of an element. */
typedef struct amounts {
    const csp_bench_shape *shape;
    double N, L, D, F, HE, KV, V, S, R;
    double W;       /* bytes of a weight of a block                      */
    double Q;       /* bytes of an input in e4m3 beside S, or 0          */
    double pairs;   /* of tokens that attend to one another, all texts   */
    double scores;  /* queries times documents                           */
    double entries; /* stored ones of all representations                */
    double trained; /* parameters                                        */
    double steps;   /* that were recorded                                */
    bool bf16, full;
} amounts;

typedef need (*formula)(const amounts *a, const csp_profile_row *r);

static need of_bytes(double bytes)
{
    return (need) { 0.0, bytes };
}

/* What a block applies to one input, together. */
typedef struct map_group {
    const char *name;
    int64_t inputs, outputs;
    double parts; /* matrices, each with an adapter of its own */
} map_group;

enum { GROUPS = 4 };

static void groups_of(const csp_bench_shape *s, map_group group[GROUPS])
{
    const int64_t HE = s->H * s->E, KV = s->G * s->E;

    group[0] = (map_group) { "q k v", s->D, HE + 2 * KV, 3.0 };
    group[1] = (map_group) { "o", HE, s->D, 1.0 };
    group[2] = (map_group) { "gate up", s->D, 2 * s->F, 2.0 };
    group[3] = (map_group) { "down", s->F, s->D, 1.0 };
}

static bool is_of(const map_group *group, const csp_profile_row *r)
{
    return group->inputs == r->inputs && group->outputs == r->outputs;
}

/*
 * Products that a step needs for the groups of a row's shape: each is applied to all rows of the
 * step in each layer. Elements of W, and inputs and outputs of its adapters.
 */
typedef struct map_need {
    double maps, weights, adapted;
} map_need;

static map_need maps_of(const amounts *a, const csp_profile_row *r)
{
    const double I = (double)r->inputs, O = (double)r->outputs;
    map_group group[GROUPS];
    map_need n = { 0.0, 0.0, 0.0 };

    groups_of(a->shape, group);
    for (int i = 0; i < GROUPS; i++) {
        if (is_of(&group[i], r)) {
            n.maps += a->L;
            n.weights += a->L * I * O;
            n.adapted += a->L * (group[i].parts * I + O);
        }
    }
    return n;
}

/* An adapter's two products have R columns between them. */
static need linear_fwd(const amounts *a, const csp_profile_row *r)
{
    const double width = (double)(r->inputs + r->outputs);
    const map_need n = maps_of(a, r);

    return (need) { 2.0 * a->N * (n.weights + a->R * n.adapted),
                    a->N * n.maps * (a->S * width + a->Q * (double)r->inputs) + a->W * n.weights };
}

/* dx, and dW or what an adapter needs: dB, dA, and the way of dx through both. */
static need linear_bwd(const amounts *a, const csp_profile_row *r)
{
    const double I = (double)r->inputs, width = I + (double)r->outputs;
    const map_need n = maps_of(a, r);
    const double trained = a->full ? 8.0 * n.weights + a->S * a->N * n.maps * I : 0.0;

    return (need) { a->N * ((a->full ? 4.0 : 2.0) * n.weights + 4.0 * a->R * n.adapted),
                    a->S * a->N * n.maps * width + a->W * n.weights + trained };
}

/* Two norms a layer and the last: x and what is added to it are read, sum and y written. */
static need norm(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(a->S * a->N * a->D * 4.0 * (2.0 * a->L + 1.0));
}

/* All norms but the last write inputs of products. */
static need norm_fwd(const amounts *a, const csp_profile_row *r)
{
    return of_bytes(norm(a, r).bytes + a->Q * a->N * a->D * 2.0 * a->L);
}

/* Looks at rstd of all rows and at the first row of y, for the hidden states of a step. */
static need norm_bad_row(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(4.0 * a->N + a->S * a->D);
}

static need attention_fwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return (need) { 4.0 * a->HE * a->pairs * a->L, a->S * a->N * a->L * 2.0 * (a->HE + a->KV) };
}

static need attention_bwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return (need) { 8.0 * a->HE * a->pairs * a->L, a->S * a->N * a->L * 4.0 * (a->HE + a->KV) };
}

static need swiglu_fwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes((3.0 * a->S + a->Q) * a->N * a->F * a->L);
}

static need swiglu_bwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(5.0 * a->S * a->N * a->F * a->L);
}

static need embed_fwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(2.0 * a->S * a->N * a->D);
}

static need embed_bwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes((a->S + 8.0) * a->N * a->D);
}

/* An entry is a term, a weight and a position. */
static need sparse_pool_fwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return (need) { 2.0 * a->D * a->V * a->N, a->S * a->D * (a->V + a->N) + 12.0 * a->entries };
}

static need sparse_pool_bwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return (need) { (a->full ? 4.0 : 2.0) * a->D * a->entries,
                    a->S * a->D * (a->V + a->N) + 12.0 * a->entries +
                        (a->full ? 8.0 * a->D * a->V + a->S * a->D * a->N : 0.0) };
}

static need scores_fwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(8.0 * a->entries + 4.0 * a->scores);
}

static need scores_bwd(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(12.0 * a->entries + 4.0 * a->scores);
}

static need nce_read(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(4.0 * a->scores);
}

static need nce_grad(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(8.0 * a->scores);
}

static need column_sums(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(8.0 * a->entries + 2.0 * 8.0 * a->V);
}

/* The position of each entry; counts are few. */
static need position_counts(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(4.0 * a->entries);
}

static need regularize(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(12.0 * a->entries + 2.0 * 4.0 * a->V);
}

static need grad_squares(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes(4.0 * a->trained);
}

/* Gradient (read and cleared), moments, and value, or in bf16 the value and its master. */
static need adamw(const amounts *a, const csp_profile_row *r)
{
    (void)r;
    return of_bytes((24.0 + (a->bf16 ? 10.0 : 8.0)) * a->trained);
}

static need copy(const amounts *a, const csp_profile_row *r)
{
    return of_bytes(2.0 * r->amount / a->steps);
}

static need zero(const amounts *a, const csp_profile_row *r)
{
    return of_bytes(r->amount / a->steps);
}

/* Over the bus, whose rate is not measured: all of it counts as lost. */
static need transfer(const amounts *a, const csp_profile_row *r)
{
    (void)a;
    (void)r;
    return of_bytes(0.0);
}

static const struct {
    const char *op;
    formula need;
} formulas[] = {
    { "linear_fwd", linear_fwd },
    { "linear_bwd", linear_bwd },
    { "norm_fwd", norm_fwd },
    { "norm_bwd", norm },
    { "norm_bad_row", norm_bad_row },
    { "attention_fwd", attention_fwd },
    { "attention_bwd", attention_bwd },
    { "swiglu_fwd", swiglu_fwd },
    { "swiglu_bwd", swiglu_bwd },
    { "embed_fwd", embed_fwd },
    { "embed_bwd", embed_bwd },
    { "sparse_pool_fwd", sparse_pool_fwd },
    { "sparse_pool_bwd", sparse_pool_bwd },
    { "scores_fwd", scores_fwd },
    { "scores_bwd", scores_bwd },
    { "nce_scores", nce_read },
    { "nce_sum", nce_read },
    { "nce_grad", nce_grad },
    { "column_sums", column_sums },
    { "position_counts", position_counts },
    { "regularize", regularize },
    { "grad_squares", grad_squares },
    { "adamw", adamw },
    { "copy", copy },
    { "zero", zero },
    { "upload", transfer },
    { "download", transfer },
    { "fetch", transfer },
};

static formula formula_of(const char *op)
{
    for (size_t i = 0; i < CSP_COUNT(formulas); i++) {
        if (strcmp(formulas[i].op, op) == 0) {
            return formulas[i].need;
        }
    }
    return NULL;
}

/* A row of the table that is printed; times of a step. */
typedef struct line {
    char label[LABEL_BYTES];
    double calls, seconds, ceiling, lost;
    need need;
    bool known; /* there is a formula */
} line;

static int by_loss(const void *a, const void *b)
{
    const double x = ((const line *)a)->lost, y = ((const line *)b)->lost;

    return (x < y) - (x > y);
}

/* "linear_fwd gate up"; the shape where a map is none of a block's. */
static void label_of(const csp_bench_shape *s, const csp_profile_row *r, char *label)
{
    map_group group[GROUPS];
    int used = snprintf(label, LABEL_BYTES, "%s", r->op);

    groups_of(s, group);
    for (int i = 0; i < GROUPS; i++) {
        if (is_of(&group[i], r)) {
            (void)snprintf(label + used, (size_t)(LABEL_BYTES - used), " %s", group[i].name);
            return;
        }
    }
    if (r->inputs > 0) {
        (void)snprintf(label + used, (size_t)(LABEL_BYTES - used), " %lld to %lld",
                       (long long)r->inputs, (long long)r->outputs);
    }
}

static line line_of(const csp_bench *b, const amounts *a, const csp_profile_row *r)
{
    const formula f = formula_of(r->op);
    line l = { .calls = (double)r->calls / a->steps, .seconds = r->seconds / a->steps };

    label_of(a->shape, r, l.label);
    l.need = f != NULL ? f(a, r) : of_bytes(0.0);
    l.known = f != NULL && (r->inputs == 0 || l.need.flop > 0.0);
    l.ceiling = l.need.flop / b->product;
    if (l.need.bytes / b->copy > l.ceiling) {
        l.ceiling = l.need.bytes / b->copy;
    }
    l.lost = l.seconds - l.ceiling;
    return l;
}

static void print_line(const csp_bench *b, const char *name, double step, const line *l)
{
    csp_bench_print(b, name, l->label, NULL,
                    (csp_bench_figure[]) { { "calls", l->calls },
                                           { "ms", 1e3 * l->seconds },
                                           { "share", l->seconds / step },
                                           { "ceiling_ms", 1e3 * l->ceiling },
                                           { "share_of_ceiling", l->ceiling / l->seconds },
                                           { "lost_ms", 1e3 * l->lost },
                                           { "gflop", 1e-9 * l->need.flop },
                                           { "mb", 1e-6 * l->need.bytes },
                                           { "formula", l->known ? 1.0 : 0.0 },
                                           { NULL, 0.0 } });
}

/* What is to be looked at next, in words. */
static void print_next(const csp_bench *b, const char *name, double step, const line *l)
{
    const bool products = l->need.flop / b->product >= l->need.bytes / b->copy;
    const char *bound = l->ceiling <= 0.0 ? "nothing that a step needs of the device"
                        : products        ? "what its products take at the measured rate"
                                          : "what its bytes take at the measured bandwidth";
    char said[320];

    (void)snprintf(said, sizeof(said),
                   "%s loses most: %.4g of its %.4g ms a step are beyond %s, %.3g %% of the step",
                   l->label, 1e3 * l->lost, 1e3 * l->seconds, bound, 100.0 * l->lost / step);
    if (strcmp(csp_args_text(b->args, "format"), "json") == 0) {
        printf("{\"case\":\"%s\",\"what\":\"next to fix\",\"side\":\"csplade\",\"op\":\"%s\","
               "\"lost_ms\":%.6g,\"said\":\"%s\"}\n",
               name, l->label, 1e3 * l->lost, said);
    } else {
        printf("%s: next to fix: %s\n", name, said);
    }
    (void)fflush(stdout);
}

/* Lines of all rows and of what lies between them, the largest loss first. */
static csp_status print_profile(const csp_bench *b, const char *name, const amounts *a,
                                const csp_profile *p)
{
    const double step = csp_profile_seconds(p) / a->steps;
    const csp_profile_row *rows;
    int64_t count;
    double ops = 0.0, ceilings = 0.0;
    line *lines;

    rows = csp_profile_rows(p, &count);
    CSP_TRY(csp_alloc("bench", count + 1, sizeof(*lines), &lines));
    for (int64_t i = 0; i < count; i++) {
        lines[i] = line_of(b, a, &rows[i]);
        ops += lines[i].seconds;
        ceilings += lines[i].ceiling;
    }
    lines[count] = (line) { .label = "between ops", .seconds = step - ops, .known = true };
    lines[count].lost = lines[count].seconds;
    qsort(lines, (size_t)count + 1, sizeof(*lines), by_loss);
    csp_bench_print(b, name, a->shape->what, NULL,
                    (csp_bench_figure[]) { { "step_ms", 1e3 * step },
                                           { "ceilings_ms", 1e3 * ceilings },
                                           { "share_of_ceilings", ceilings / step },
                                           { NULL, 0.0 } });
    for (int64_t i = 0; i <= count; i++) {
        print_line(b, name, step, &lines[i]);
    }
    print_next(b, name, step, &lines[0]);
    free(lines);
    return CSP_OK;
}

static amounts amounts_of(const csp_bench *b, const csp_bench_shape *s, double entries,
                          int64_t trained)
{
    const double q = (double)s->query_tokens, d = (double)s->document_tokens;

    return (amounts) { .shape = s,
                       .N = (double)s->queries * q + (double)s->documents * d,
                       .L = (double)s->L,
                       .D = (double)s->D,
                       .F = (double)s->F,
                       .HE = (double)(s->H * s->E),
                       .KV = (double)(s->G * s->E),
                       .V = (double)s->V,
                       .S = (double)csp_dtype_bytes(b->dtype),
                       .W = s->fp8 ? 1.0 : (double)csp_dtype_bytes(b->dtype),
                       .Q = s->fp8 ? 1.0 : 0.0,
                       .R = s->lora ? (double)CSP_BENCH_RANK : 0.0,
                       .pairs = 0.5 * ((double)s->queries * q * (q + 1.0) +
                                       (double)s->documents * d * (d + 1.0)),
                       .scores = (double)(s->queries * s->documents),
                       .entries = entries,
                       .trained = (double)trained,
                       .steps = (double)b->repeats,
                       .bf16 = b->dtype == CSP_BF16,
                       .full = !s->lora };
}

csp_status csp_bench_profile(csp_bench *b, const char *name, const csp_bench_shape *shape,
                             double entries, int64_t trained, csp_bench_work work, void *context)
{
    const amounts a = amounts_of(b, shape, entries, trained);
    csp_profile *p = NULL, *rehearsal = NULL;
    char title[32];
    csp_status status;

    (void)snprintf(title, sizeof(title), "%s profile", name);
    CSP_TRY_GOTO(csp_profile_create(b->be, &rehearsal)); /* marks are made once */
    CSP_TRY_GOTO(csp_profile_start(rehearsal));
    CSP_TRY_GOTO(work(b, context));
    CSP_TRY_GOTO(csp_profile_stop(rehearsal));
    CSP_TRY_GOTO(csp_profile_create(b->be, &p));
    for (int64_t i = 0; i < b->repeats; i++) {
        CSP_TRY_GOTO(csp_profile_start(p));
        CSP_TRY_GOTO(work(b, context));
        CSP_TRY_GOTO(csp_profile_stop(p));
    }
    status = print_profile(b, title, &a, p);

fail:
    csp_profile_destroy(rehearsal);
    csp_profile_destroy(p);
    return status;
}

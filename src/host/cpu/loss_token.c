/*
 * loss_token.c - CPU side of csp_token_loss.
 *
 * The rows that predict something are taken in chunks whose logits, all V of them, fit in
 * TILE_BYTES: the upstream gradient is a known number, so a row's losses and gradients follow from
 * one tile of logits, which is overwritten by its gradient and then multiplied with e (dh) and with
 * h (de). Three products, no second forming of the logits. A row is read three times, from the
 * cache:
 *
 *   1  maximum, S = sum of ReLU(z), whether all is finite
 *   2  z <- exp(z - maximum), and their sum; the sign bit now remembers z <= 0
 *   3  z <- coefficient · (|z| / sum + lambda [z > 0] / (V' + S)), then the target's own part
 */
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "core/size.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/vexp.h"

static const int64_t TILE_BYTES = (int64_t)64 << 20; /* or MIN_ROWS rows, if they are more */
enum { MIN_ROWS = 16, SUM_BLOCK = 1024 };

typedef struct token_pass {
    csp_token_loss_args *args;
    int64_t V, D;
    int64_t terms;  /* V', not excluded                                */
    int64_t count;  /* rows with a target                              */
    int64_t chunk;  /* rows of a tile                                  */
    bool gradient;  /* dh or de wanted                                 */
    int32_t *row;   /* (count)                                         */
    double *losses; /* (chunk,2); the first NaN where logits are not finite */
    float *h;       /* (chunk,D)                                       */
    float *tile;    /* (chunk,V)                                       */
} token_pass;

typedef struct row_range {
    float highest;
    double S;
    bool finite;
} row_range;

CPU_CLONES
static void exclude_terms(const uint8_t *exclude, int64_t V, float *z)
{
#pragma omp simd
    for (int64_t v = 0; v < V; v++) {
        z[v] = exclude[v] != 0 ? -FLT_MAX : z[v];
    }
}

CPU_CLONES
static row_range find_range(const float *z, int64_t V)
{
    row_range r = { -FLT_MAX, 0.0, true };
    float highest = -FLT_MAX;

    for (int64_t first = 0; first < V; first += SUM_BLOCK) {
        const int64_t end = V - first < SUM_BLOCK ? V : first + SUM_BLOCK;
        float S = 0.0f, nothing = 0.0f;

#pragma omp simd reduction(max : highest) reduction(+ : S, nothing)
        for (int64_t v = first; v < end; v++) {
            highest = z[v] > highest ? z[v] : highest;
            S += z[v] > 0.0f ? z[v] : 0.0f;
            nothing += z[v] * 0.0f; /* a NaN as soon as one z is not finite */
        }
        r.S += (double)S;
        r.finite = r.finite && nothing == 0.0f;
    }
    r.highest = highest;
    return r;
}

/*
 * exp of x <= 0 as cpu_expf computes it, within the same two units, without what only other x need:
 * half the instructions. Below -87 it gives 0.
 */
static inline float exp_of_negative(float x)
{
    const float shift = 12582912.0f; /* 1.5·2^23: the integer stands in the low bits */
    const float shifted = x * 1.44269504088896341f + shift;
    const float n = shifted - shift;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    const uint32_t exponent = cpu_bits_of_float(shifted) << 23;
    /* The same polynomial as there, added up in pairs: a shorter chain, which is what bounds it. */
    const float r2 = r * r;
    const float high = 1.9875691500e-4f * r + 1.3981999507e-3f;
    const float middle = 8.3334519073e-3f * r + 4.1665795894e-2f;
    const float low = 1.6666665459e-1f * r + 5.0000001201e-1f;
    const float p = ((high * r2 + middle) * r2 + low) * r2 + (r + 1.0f);

    return x < -87.0f ? 0.0f : cpu_float_of_bits(cpu_bits_of_float(p) + exponent);
}

CPU_CLONES
static double exponentials(float highest, int64_t V, float *z)
{
    double total = 0.0;

    for (int64_t first = 0; first < V; first += SUM_BLOCK) {
        const int64_t end = V - first < SUM_BLOCK ? V : first + SUM_BLOCK;
        float sum = 0.0f;

#pragma omp simd reduction(+ : sum)
        for (int64_t v = first; v < end; v++) {
            const float e = exp_of_negative(z[v] - highest);

            sum += e;
            z[v] = z[v] > 0.0f ? e : -e;
        }
        total += (double)sum;
    }
    return total;
}

CPU_CLONES
static void gradients(float plain, float saturated, int64_t V, float *z)
{
#pragma omp simd
    for (int64_t v = 0; v < V; v++) {
        const uint32_t bits = cpu_bits_of_float(z[v]);
        const float e = cpu_float_of_bits(bits & 0x7FFFFFFFu);

        z[v] = e * plain + (bits >> 31 != 0 ? 0.0f : saturated);
    }
}

/* Losses of one row of logits, which become their gradient. */
static void token_row(const token_pass *p, int32_t target, float *z, double losses[2])
{
    const csp_token_loss_args *a = p->args;
    const float label = z[target];
    const double active = label > 0.0f ? (double)label : 0.0;
    row_range r;
    double sum;

    if (p->terms < p->V) {
        exclude_terms(a->head.exclude.data, p->V, z);
    }
    r = find_range(z, p->V);
    if (!r.finite) {
        losses[0] = NAN;
        return;
    }
    sum = exponentials(r.highest, p->V, z);
    losses[0] = log(sum) + (double)r.highest - (double)label;
    losses[1] = log((double)p->terms + r.S) - log1p(active);
    if (p->gradient) {
        const double c = (double)a->coefficient, lambda = (double)a->lambda_relu;

        gradients((float)(c / sum), (float)(c * lambda / ((double)p->terms + r.S)), p->V, z);
        z[target] -= (float)(c * (1.0 + (label > 0.0f ? lambda / (1.0 + active) : 0.0)));
    }
}

/* Lists the rows with a target; true, and *bad: that row's target is an excluded term. */
static bool list_rows(token_pass *p, int64_t *bad)
{
    const uint8_t *exclude = p->args->head.exclude.ndim > 0 ? p->args->head.exclude.data : NULL;
    const int32_t *target = p->args->target.data;
    const int64_t N = p->args->h.dim[0];

    p->count = 0;
    for (int64_t n = 0; n < N; n++) {
        if (target[n] >= 0) {
            if (exclude != NULL && exclude[target[n]] != 0) {
                *bad = n;
                return true;
            }
            p->row[p->count++] = (int32_t)n;
        }
    }
    return false;
}

/*
 * Rows first .. first+n-1 of the list: hidden states, logits, losses, gradients of logits. *bad is
 * the first row whose logits are not finite, where there is one.
 */
static csp_status form_chunk(csp_backend *be, token_pass *p, int64_t first, int64_t n,
                             double loss[2], int64_t *bad)
{
    const float *h = p->args->h.data;
    const int32_t *target = p->args->target.data, *row = p->row + first;

    for (int64_t i = 0; i < n; i++) {
        memcpy(p->h + i * p->D, h + (int64_t)row[i] * p->D, (size_t)p->D * sizeof(float));
    }
    CSP_TRY(cpu_gemm(be, false, true, n, p->V, p->D, p->args->head.scale, p->h, p->D,
                     p->args->head.e.data, p->D, 0.0f, p->tile, p->V));
#pragma omp parallel for num_threads(cpu_parts(be, n * p->V)) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        token_row(p, target[row[i]], p->tile + i * p->V, p->losses + 2 * i);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(p->losses[2 * i])) {
            *bad = row[i];
            return CSP_OK;
        }
        loss[0] += p->losses[2 * i];
        loss[1] += p->losses[2 * i + 1];
    }
    return CSP_OK;
}

/* dh = k dz e (in the place of the chunk's h, which is not needed after de += k dz^T h). */
static csp_status back_chunk(csp_backend *be, token_pass *p, int64_t first, int64_t n)
{
    csp_token_loss_args *a = p->args;
    const float k = a->head.scale;

    if (a->de.ndim > 0) {
        CSP_TRY(cpu_gemm(be, true, false, p->V, p->D, n, k, p->tile, p->V, p->h, p->D, 1.0f,
                         a->de.data, p->D));
    }
    if (a->dh.ndim > 0) {
        float *dh = a->dh.data;

        CSP_TRY(cpu_gemm(be, false, false, n, p->D, p->V, k, p->tile, p->V, a->head.e.data, p->D,
                         0.0f, p->h, p->D));
        for (int64_t i = 0; i < n; i++) {
            memcpy(dh + (int64_t)p->row[first + i] * p->D, p->h + i * p->D,
                   (size_t)p->D * sizeof(float));
        }
    }
    return CSP_OK;
}

/* Sizes and memory of a call: everything but the list of rows. */
static csp_status token_begin(csp_backend *be, token_pass *p)
{
    const int64_t N = p->args->h.dim[0];
    const int64_t fit = TILE_BYTES / (p->V * (int64_t)sizeof(float));
    const int64_t most = fit < MIN_ROWS ? MIN_ROWS : fit;
    const int64_t chunks = (N + most - 1) / most;
    char *block;
    size_t list;

    p->chunk = (N + chunks - 1) / chunks;
    list = csp_size_round_up((size_t)N * sizeof(int32_t), CSP_ARENA_ALIGN) +
           csp_size_round_up((size_t)p->chunk * 2 * sizeof(double), CSP_ARENA_ALIGN);
    CSP_TRY(
        cpu_shared(be, list + (size_t)(p->chunk * (p->D + p->V)) * sizeof(float), (void **)&block));
    p->losses = (double *)block;
    p->row = (int32_t *)(p->losses + 2 * p->chunk);
    p->h = (float *)(block + list);
    p->tile = p->h + p->chunk * p->D;
    return CSP_OK;
}

/* All rows of the list. Nothing is said of dh and de where *bad names a row. */
static csp_status add_chunks(csp_backend *be, token_pass *p, double loss[2], int64_t *bad)
{
    csp_tensor *dh = &p->args->dh;

    if (p->count != p->args->predicted) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "token_loss: %lld rows have a target, %lld are said to have one",
                        (long long)p->count, (long long)p->args->predicted);
    }
    if (dh->ndim > 0) {
        memset(dh->data, 0, csp_tensor_bytes(dh));
    }
    for (int64_t first = 0; first < p->count && *bad < 0; first += p->chunk) {
        const int64_t n = p->count - first < p->chunk ? p->count - first : p->chunk;

        CSP_TRY(form_chunk(be, p, first, n, loss, bad));
        if (p->gradient) {
            CSP_TRY(back_chunk(be, p, first, n));
        }
    }
    return CSP_OK;
}

csp_status cpu_token_loss(csp_backend *be, csp_token_loss_args *args)
{
    token_pass p = { .args = args, .V = args->head.e.dim[0], .D = args->head.e.dim[1] };
    double loss[2] = { 0.0, 0.0 };
    int64_t bad[2] = { -1, -1 };

    p.gradient = args->dh.ndim > 0 || args->de.ndim > 0;
    p.terms = p.V;
    if (args->head.exclude.ndim > 0) {
        const uint8_t *exclude = args->head.exclude.data;

        for (int64_t v = 0; v < p.V; v++) {
            p.terms -= exclude[v] != 0;
        }
    }
    if (args->h.dim[0] > 0) {
        CSP_TRY(token_begin(be, &p));
    }
    if (!list_rows(&p, &bad[0])) {
        CSP_TRY(add_chunks(be, &p, loss, &bad[1]));
    }
    memcpy(args->loss.data, loss, sizeof(loss));
    memcpy(args->bad.data, bad, sizeof(bad));
    return CSP_OK;
}

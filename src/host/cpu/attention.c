/*
 * attention.c - CPU side of ops/attention.h.
 *
 * One piece of work is a text and a key-value head with all its query heads: its keys are rotated
 * once into scratch, then queries go by in blocks of QUERY_BLOCK rows, whose scores stay in cache.
 * Under the causal mask a block sees only the keys up to its last row. Pieces write disjoint
 * outputs and add in an order of their own, so it does not matter which thread takes which piece;
 * threads take them in the order of csp_attention.order.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/vexp.h"

enum { QUERY_BLOCK = 32 };

/* One text and key-value head. */
typedef struct piece {
    const csp_attention *a;
    int64_t first, T; /* rows first .. first+T-1                          */
    int64_t g;        /* key-value head                                   */
    float *k;         /* (T,E) rotated keys                               */
    float *q;         /* (QUERY_BLOCK,E) rotated queries times E^(-1/2)   */
    float *p;         /* (QUERY_BLOCK,T) scores, then probabilities       */
    float *dp;        /* (QUERY_BLOCK,T) backward only, as the rest       */
    float *dq;        /* (QUERY_BLOCK,E)                                  */
    float *dk, *dv;   /* (T,E)                                            */
} piece;

/* y = x rotated by its position's angles, times scale; sign -1 rotates back. */
CPU_CLONES static void rotate_row(const float *x, const float *c, const float *s, float sign,
                                  float scale, float *y, int64_t half)
{
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float low = x[i], high = x[i + half], sine = sign * s[i];

        y[i] = (low * c[i] - high * sine) * scale;
        y[i + half] = (high * c[i] + low * sine) * scale;
    }
}

/* Rotates rows of one head, the first at position t; x and y step by their strides. */
static void rotate_rows(const csp_attention *a, int64_t t, int64_t rows, const float *x,
                        int64_t x_stride, float sign, float scale, float *y, int64_t y_stride)
{
    const int64_t half = a->E / 2;
    const float *c = (const float *)a->cos.data + t * half;
    const float *s = (const float *)a->sin.data + t * half;

    for (int64_t i = 0; i < rows; i++) {
        rotate_row(x + i * x_stride, c + i * half, s + i * half, sign, scale, y + i * y_stride,
                   half);
    }
}

/* p[0..n) = exp(p - max), the rest up to width 0; the sum and the maximum are given back. */
CPU_CLONES static float softmax_row(float *p, int64_t n, int64_t width, float *max_out)
{
    float max = p[0], sum = 0.0f;

#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < n; i++) {
        max = p[i] > max ? p[i] : max;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const float e = cpu_expf(p[i] - max);

        p[i] = e;
        sum += e;
    }
    for (int64_t i = n; i < width; i++) {
        p[i] = 0.0f;
    }
    *max_out = max;
    return sum;
}

CPU_CLONES static void scale_row(float *x, float scale, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        x[i] *= scale;
    }
}

/* p = exp(p - lse), ds = p ⊙ (ds - delta) on 0..n); 0 up to width. */
CPU_CLONES static void score_grad_row(float *p, float *ds, float lse, float delta, int64_t n,
                                      int64_t width)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float e = cpu_expf(p[i] - lse);

        p[i] = e;
        ds[i] = e * (ds[i] - delta);
    }
    for (int64_t i = n; i < width; i++) {
        p[i] = 0.0f;
        ds[i] = 0.0f;
    }
}

CPU_CLONES static float dot_row(const float *x, const float *y, int64_t n)
{
    float sum = 0.0f;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

/* Keys that query row t of the text sees, and those its block of rows up to end sees. */
static int64_t keys_of(const piece *w, int64_t t)
{
    return w->a->causal ? t + 1 : w->T;
}

/* p = rotated scaled queries t .. t+rows-1 of head h against the keys they may see. */
static void score_block(piece *w, const float *q, int64_t h, int64_t t, int64_t rows, int64_t keys)
{
    const int64_t E = w->a->E, stride = w->a->H * E;

    rotate_rows(w->a, t, rows, q + (w->first + t) * stride + h * E, stride, 1.0f,
                1.0f / sqrtf((float)E), w->q, E);
    cpu_gemm_serial(false, true, rows, keys, E, 1.0f, w->q, E, w->k, E, 0.0f, w->p, w->T);
}

static void rotate_keys(piece *w, const float *k)
{
    const int64_t E = w->a->E, stride = w->a->G * E;

    rotate_rows(w->a, 0, w->T, k + w->first * stride + w->g * E, stride, 1.0f, 1.0f, w->k, E);
}

static void forward_head(piece *w, int64_t h, const float *q, const float *v, float *o, float *lse)
{
    const int64_t E = w->a->E, H = w->a->H, T = w->T, v_stride = w->a->G * E;

    for (int64_t t = 0; t < T; t += QUERY_BLOCK) {
        const int64_t rows = T - t < QUERY_BLOCK ? T - t : QUERY_BLOCK;
        const int64_t keys = keys_of(w, t + rows - 1);
        float *out = o + (w->first + t) * H * E + h * E;
        float scale[QUERY_BLOCK];

        score_block(w, q, h, t, rows, keys);
        for (int64_t i = 0; i < rows; i++) {
            float max;
            const float sum = softmax_row(w->p + i * T, keys_of(w, t + i), keys, &max);

            lse[(w->first + t + i) * H + h] = max + logf(sum);
            scale[i] = 1.0f / sum;
        }
        cpu_gemm_serial(false, false, rows, E, keys, 1.0f, w->p, T,
                        v + w->first * v_stride + w->g * E, v_stride, 0.0f, out, H * E);
        for (int64_t i = 0; i < rows; i++) {
            scale_row(out + i * H * E, scale[i], E);
        }
    }
}

/* What backward reads and writes, as plain pointers. */
typedef struct backward_args {
    const float *q, *k, *v, *o, *lse, *d_o;
    float *dq, *dk, *dv;
} backward_args;

static void backward_block(piece *w, int64_t h, int64_t t, int64_t rows, const backward_args *x)
{
    const int64_t E = w->a->E, H = w->a->H, T = w->T, stride = H * E, v_stride = w->a->G * E;
    const int64_t keys = keys_of(w, t + rows - 1), at = (w->first + t) * stride + h * E;

    score_block(w, x->q, h, t, rows, keys);
    cpu_gemm_serial(false, true, rows, keys, E, 1.0f, x->d_o + at, stride,
                    x->v + w->first * v_stride + w->g * E, v_stride, 0.0f, w->dp, T);
    for (int64_t i = 0; i < rows; i++) {
        const float delta = dot_row(x->d_o + at + i * stride, x->o + at + i * stride, E);

        score_grad_row(w->p + i * T, w->dp + i * T, x->lse[(w->first + t + i) * H + h], delta,
                       keys_of(w, t + i), keys);
    }
    cpu_gemm_serial(true, false, keys, E, rows, 1.0f, w->p, T, x->d_o + at, stride, 1.0f, w->dv, E);
    cpu_gemm_serial(true, false, keys, E, rows, 1.0f, w->dp, T, w->q, E, 1.0f, w->dk, E);
    cpu_gemm_serial(false, false, rows, E, keys, 1.0f, w->dp, T, w->k, E, 0.0f, w->dq, E);
    rotate_rows(w->a, t, rows, w->dq, E, -1.0f, 1.0f / sqrtf((float)E), x->dq + at, stride);
}

static void backward_piece(piece *w, const backward_args *x)
{
    const int64_t E = w->a->E, T = w->T, group = w->a->H / w->a->G, stride = w->a->G * E;
    float *dk = x->dk + w->first * stride + w->g * E, *dv = x->dv + w->first * stride + w->g * E;

    rotate_keys(w, x->k);
    memset(w->dk, 0, (size_t)(T * E) * sizeof(float));
    memset(w->dv, 0, (size_t)(T * E) * sizeof(float));
    for (int64_t h = w->g * group; h < (w->g + 1) * group; h++) {
        for (int64_t t = 0; t < T; t += QUERY_BLOCK) {
            backward_block(w, h, t, T - t < QUERY_BLOCK ? T - t : QUERY_BLOCK, x);
        }
    }
    rotate_rows(w->a, 0, T, w->dk, E, -1.0f, 1.0f, dk, stride);
    for (int64_t t = 0; t < T; t++) {
        memcpy(dv + t * stride, w->dv + t * E, (size_t)E * sizeof(float));
    }
}

/* The longest text, from the batch itself: scratch must fit whatever the caller says. */
static int64_t longest_text(const csp_attention *a)
{
    const int32_t *start = a->seq_start.data;
    int64_t longest = 0;

    for (int64_t b = 0; b + 1 < a->seq_start.dim[0]; b++) {
        const int64_t T = start[b + 1] - start[b];

        longest = T > longest ? T : longest;
    }
    return longest;
}

/* Floats of a piece's scratch; places it at `at` unless that is NULL. */
static int64_t place_piece(piece *w, int64_t T, int64_t E, bool backward, float *at)
{
    float **const place[] = { &w->k, &w->q, &w->p, &w->dp, &w->dq, &w->dk, &w->dv };
    const int64_t count[] = {
        T * E, QUERY_BLOCK * E, QUERY_BLOCK * T, QUERY_BLOCK * T, QUERY_BLOCK * E, T * E, T * E
    };
    int64_t used = 0;

    for (int i = 0; i < (backward ? 7 : 3); i++) {
        if (at != NULL) {
            *place[i] = at + used;
        }
        used += (count[i] + 15) / 16 * 16;
    }
    return used;
}

/* Piece number index of the batch, in the scratch of the thread that asks. */
static piece open_piece(csp_backend *be, const csp_attention *a, int64_t index, int64_t longest,
                        bool backward)
{
    const int32_t *start = a->seq_start.data, *order = a->order.data;
    const int64_t b = order != NULL ? order[index / a->G] : index / a->G;
    piece w = { .a = a, .first = start[b], .T = start[b + 1] - start[b], .g = index % a->G };

    place_piece(&w, longest, a->E, backward, cpu_scratch_of(be, omp_get_thread_num()));
    return w;
}

/* Threads for a batch: none but the caller for a handful of rows. */
static int attention_parts(const csp_backend *be, const csp_attention *a, int64_t N)
{
    return cpu_parts(be, N * a->H * a->E * 8);
}

csp_status cpu_attention_fwd(csp_backend *be, const csp_attention *a, const csp_tensor *q,
                             const csp_tensor *k, const csp_tensor *v, csp_tensor *o,
                             csp_tensor *lse)
{
    const int64_t pieces = (a->seq_start.dim[0] - 1) * a->G, longest = longest_text(a);
    const int64_t group = a->H / a->G;
    piece ruler;

    CSP_TRY(cpu_scratch_each(be, (size_t)place_piece(&ruler, longest, a->E, false, NULL) *
                                     sizeof(float)));
#pragma omp parallel for num_threads(attention_parts(be, a, q->dim[0])) schedule(dynamic, 1)
    for (int64_t i = 0; i < pieces; i++) {
        piece w = open_piece(be, a, i, longest, false);

        rotate_keys(&w, k->data);
        for (int64_t h = w.g * group; h < (w.g + 1) * group; h++) {
            forward_head(&w, h, q->data, v->data, o->data, lse->data);
        }
    }
    return CSP_OK;
}

csp_status cpu_attention_bwd(csp_backend *be, const csp_attention *a, csp_attention_grad *g)
{
    const int64_t pieces = (a->seq_start.dim[0] - 1) * a->G, longest = longest_text(a);
    const backward_args x = { g->q.data,   g->k.data,  g->v.data,  g->o.data, g->lse.data,
                              g->d_o.data, g->dq.data, g->dk.data, g->dv.data };
    piece ruler;

    CSP_TRY(cpu_scratch_each(be, (size_t)place_piece(&ruler, longest, a->E, true, NULL) *
                                     sizeof(float)));
#pragma omp parallel for num_threads(attention_parts(be, a, g->q.dim[0])) schedule(dynamic, 1)
    for (int64_t i = 0; i < pieces; i++) {
        piece w = open_piece(be, a, i, longest, true);

        backward_piece(&w, &x);
    }
    return CSP_OK;
}

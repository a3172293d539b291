/*
 * sparse_pool_sum.cu - CUDA side of ops/sparse_pool.h, backward of sum pooling.
 *
 * Every kept token with a positive logit has a gradient, so nothing is sparse: tiles of logits are
 * formed again, as in the forward pass, overwritten by dz = dw / (1 + z), and multiplied with e
 * (dh) and with the tile's rows of h (de). Three products; dz costs one pass over the tile, which
 * is in the second-level cache. dh adds up the blocks of the vocabulary in their order, de the
 * tiles of rows in theirs.
 *
 * Scratch: 32 MiB (the tile), 4 bytes for each (text, term) of a tile, 4 bytes for each token.
 */
#include "sparse_pool.cuh"
#include "vec.cuh"

#define SUM_THREADS 128
#define SUM_TERMS 4 /* a thread owns as many neighbouring terms: 16 bytes */

typedef struct sum_pass {
    const int64_t *row_ptr;   // (B+1)
    const int32_t *seq_start; // (B+1)
    const int32_t *term;      // (cap)
    const float *dw;          // (cap)
    const uint8_t *keep;      // (N)
    int64_t B, N;
    pool_tile tile;
    float *logits;  // the tile
    float *wide_dw; // (B,stride) dw of the tile's terms
    int32_t *text;  // (N) the text of each row
} sum_pass;

/* Any grid works: threads stride over rows. */
static __global__ void __launch_bounds__(SUM_THREADS) pool_sum_text_kernel(sum_pass p)
{
    for (int64_t n = grid_thread(); n < p.N; n += grid_threads()) {
        p.text[n] = (int32_t)text_of_row(p.seq_start, p.B, n);
    }
}

/* Spreads dw of terms v .. v+width-1 over wide_dw, all zero before. Any grid: a warp a text. */
static __global__ void __launch_bounds__(SUM_THREADS)
    pool_sum_spread_kernel(sum_pass p, int64_t v, int64_t width)
{
    for (int64_t b = grid_thread() / 32; b < p.B; b += grid_threads() / 32) {
        const int64_t first = entry_of_term(p.term, p.row_ptr[b], p.row_ptr[b + 1], v);
        const int64_t end = entry_of_term(p.term, first, p.row_ptr[b + 1], v + width);

        for (int64_t i = first + threadIdx.x % 32; i < end; i += 32) {
            p.wide_dw[b * p.tile.stride + p.term[i] - v] = p.dw[i];
        }
    }
}

/* z becomes dz, in the rows from .. from+count-1. Any grid: threads stride over vectors. */
static __global__ void __launch_bounds__(SUM_THREADS)
    pool_sum_gradient_kernel(sum_pass p, int64_t from, int64_t count)
{
    const int64_t vectors = p.tile.stride / SUM_TERMS;

    for (int64_t i = grid_thread(); i < count * vectors; i += grid_threads()) {
        const int64_t n = from + i / vectors, column = i % vectors * SUM_TERMS;
        float *place = p.logits + (n - from) * p.tile.stride + column;
        float dz[SUM_TERMS] = {}, z[SUM_TERMS], dw[SUM_TERMS];

        if (p.keep[n] != 0) {
            load_vec(place, z);
            load_vec(p.wide_dw + p.text[n] * p.tile.stride + column, dw);
#pragma unroll
            for (int j = 0; j < SUM_TERMS; j++) {
                dz[j] = z[j] > 0.0f ? dw[j] / (1.0f + z[j]) : 0.0f;
            }
        }
        store_vec(place, dz);
    }
}

/* The tile of rows i.., terms v..: gradients of its logits, and what they add to dh and de. */
static csp_status add_tile(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g,
                           const sum_pass *p, int64_t i, int64_t v)
{
    const int64_t V = head->e.dim[0], D = head->e.dim[1], stride = p->tile.stride;
    const int64_t count = p->N - i < p->tile.rows ? p->N - i : p->tile.rows;
    const int64_t width = V - v < p->tile.terms ? V - v : p->tile.terms;
    const float *h = (const float *)g->h.data + i * D, *e = (const float *)head->e.data + v * D;
    const float k = head->scale;

    CSP_TRY(cuda_gemm(be, false, true, count, width, D, k, h, D, e, D, 0.0f, p->logits, stride));
    CUDA_TRY(cu::launch(pool_sum_gradient_kernel,
                        pool_grid(be, count * (stride / SUM_TERMS), SUM_THREADS), SUM_THREADS, 0,
                        cuda_stream(be, "sparse_pool_bwd"), *p, i, count));
    CSP_TRY(cuda_gemm(be, false, false, count, D, width, k, p->logits, stride, e, D,
                      v > 0 ? 1.0f : 0.0f, (float *)g->dh.data + i * D, D));
    if (g->de.ndim == 0) {
        return CSP_OK;
    }
    return cuda_gemm(be, true, false, width, D, count, k, p->logits, stride, h, D, 1.0f,
                     (float *)g->de.data + v * D, D);
}

static csp_status sum_place(csp_arena *arena, sum_pass *p)
{
    CSP_TRY(pool_take(arena, tile_elements(&p->tile), &p->logits));
    CSP_TRY(pool_take(arena, p->B * p->tile.stride, &p->wide_dw));
    return pool_take(arena, p->N, &p->text);
}

csp_status cuda_sparse_pool_sum_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const int64_t V = head->e.dim[0];
    cudaStream_t stream = cuda_stream(be, "sparse_pool_bwd");
    sum_pass p = {};
    csp_arena scratch = {};
    void *memory;

    p.row_ptr = (const int64_t *)g->rows->row_ptr.data + g->first_row;
    p.seq_start = (const int32_t *)g->seq_start.data;
    p.term = (const int32_t *)g->rows->term.data;
    p.dw = (const float *)g->dw.data;
    p.keep = (const uint8_t *)g->keep.data;
    p.B = g->seq_start.dim[0] - 1;
    p.N = g->dh.dim[0];
    if (p.B == 0) {
        CUDA_TRY(cudaMemsetAsync(g->dh.data, 0, csp_tensor_bytes(&g->dh), stream));
        return CSP_OK;
    }
    p.tile = pick_pool_tile(p.N, V);
    CSP_TRY(sum_place(&scratch, &p));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(sum_place(&scratch, &p));
    CUDA_TRY(cu::launch(pool_sum_text_kernel, pool_grid(be, p.N, SUM_THREADS), SUM_THREADS, 0,
                        stream, p));
    for (int64_t v = 0; v < V; v += p.tile.terms) {
        const int64_t width = V - v < p.tile.terms ? V - v : p.tile.terms;

        CUDA_TRY(
            cudaMemsetAsync(p.wide_dw, 0, (size_t)(p.B * p.tile.stride) * sizeof(float), stream));
        CUDA_TRY(cu::launch(pool_sum_spread_kernel, pool_grid(be, p.B * 32, SUM_THREADS),
                            SUM_THREADS, 0, stream, p, v, width));
        for (int64_t i = 0; i < p.N; i += p.tile.rows) {
            CSP_TRY(add_tile(be, head, g, &p, i, v));
        }
    }
    return CSP_OK;
}

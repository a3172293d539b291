/*
 * sparse_pool_tiles.cu - CUDA side of ops/sparse_pool.h, backward by dense tiles of logit
 * gradients: sum pooling, and max pooling where many terms are active (sparse_pool_pick.h).
 *
 * A tile of dz, rows by terms, is multiplied with e (dh) and, transposed, with the rows' h (de).
 *
 *   sum   every kept token with a positive logit has a gradient: the logits are formed again, as in
 *         the forward pass, and overwritten by dz = dw / (1 + z)
 *   max   a tile of zeros, in which each (text, term) puts dz = dw exp(-w) at the token that won;
 *         there are two tiles, and while one is multiplied the next is formed on another stream
 *
 * dz is stored as S. dh adds up the blocks of the vocabulary in their order in float32 and is
 * rounded once, de the tiles of rows in theirs. Rows that are not kept are left out (their dh is
 * 0). Bound by two products, three for sum, of 2·kept·V·D operations each; a tile is in the
 * second-level cache.
 *
 * Scratch: 32 MiB (one tile or two); for each row of a tile (4,096, bf16: 8,192, half as many where
 * there are two) D numbers in f32, and D more as S where not all rows are kept: 64 + 64 MiB at
 * D = 4,096, in bf16 128 + 64. Sum: 4 bytes
 * for each (text, term) of a tile. 12 bytes for each token.
 */
#include "gemm.cuh"
#include "row_list.cuh"
#include "sparse_pool.cuh"
#include "vec.cuh"

#define TILE_THREADS 128
#define TILE_SLICES 16 /* warps that share the entries of a text */

typedef struct tiles_pass {
    const int64_t *row_ptr;   // (B+1)
    const int32_t *seq_start; // (B+1)
    const int32_t *term;      // (cap)
    const int32_t *argmax;    // (cap) max
    const float *weight;      // (cap)
    const float *dw;          // (cap)
    int64_t B, V, D;
    pool_kept kept;
    pool_tile tile;
    int tiles; // 1 or 2
    float k;
    void *z;        // the tiles, S
    void *together; // (tile.rows,D) S where not all rows are kept
    float *dh;      // (tile.rows,D)
    float *wide_dw; // (B,stride) sum: dw of the tile's terms
    int32_t *text;  // (kept) sum: the text of each row
} tiles_pass;

/* A tile: kept rows from .. from+count-1, terms v .. v+width-1. */
typedef struct tile_place {
    int64_t from, count, v, width;
} tile_place;

/* Any grid works: threads stride over kept rows. */
static __global__ void __launch_bounds__(TILE_THREADS) pool_tile_text_kernel(tiles_pass p)
{
    for (int64_t i = grid_thread(); i < p.kept.count; i += grid_threads()) {
        p.text[i] = (int32_t)text_of_row(p.kept.start, p.B, i);
    }
}

/* Entries of text b with a term of the tile, none where the text has no row in it. */
static __device__ __forceinline__ void entries_of_tile(const tiles_pass &p, const tile_place &t,
                                                       int64_t b, int64_t *first, int64_t *end)
{
    const bool inside = p.kept.start[b] < t.from + t.count && p.kept.start[b + 1] > t.from;
    const int64_t stop = p.row_ptr[b + 1];

    *first = inside ? entry_of_term(p.term, p.row_ptr[b], stop, t.v) : stop;
    *end = inside ? entry_of_term(p.term, *first, stop, t.v + t.width) : stop;
}

/* Spreads dw over wide_dw, all zero before. Any grid: warps stride over texts and slices. */
static __global__ void __launch_bounds__(TILE_THREADS)
    pool_tile_spread_kernel(tiles_pass p, tile_place t)
{
    for (int64_t i = grid_thread() / 32; i < p.B * TILE_SLICES; i += grid_threads() / 32) {
        const int64_t b = i / TILE_SLICES;
        int64_t first, end;

        entries_of_tile(p, t, b, &first, &end);
        for (int64_t j = first + i % TILE_SLICES * 32 + threadIdx.x % 32; j < end;
             j += 32 * TILE_SLICES) {
            p.wide_dw[b * p.tile.stride + p.term[j] - t.v] = p.dw[j];
        }
    }
}

/* Sum: products become dz. Any grid: threads stride over 16 bytes. */
template <typename S>
static __global__ void __launch_bounds__(TILE_THREADS)
    pool_tile_sum_kernel(tiles_pass p, tile_place t)
{
    const int terms = vec_width<S>::value;
    const int64_t vectors = p.tile.stride / terms;

    for (int64_t i = grid_thread(); i < t.count * vectors; i += grid_threads()) {
        const int64_t row = i / vectors, column = i % vectors * terms;
        const float *dw = p.wide_dw + p.text[t.from + row] * p.tile.stride + column;
        S *place = (S *)p.z + row * p.tile.stride + column;
        float x[vec_width<S>::value];

        load_vec(place, x);
#pragma unroll
        for (int j = 0; j < terms; j++) {
            x[j] = x[j] > 0.0f ? dw[j] / (1.0f + p.k * x[j]) : 0.0f;
        }
        store_vec(place, x);
    }
}

/*
 * Max: dz of the tile's entries, all zero before. Any grid: warps stride over texts and slices.
 * 12 blocks: 40 registers a thread; left to itself nvcc spills to reach 32.
 */
template <typename S>
static __global__ void __launch_bounds__(TILE_THREADS, 12)
    pool_tile_max_kernel(tiles_pass p, tile_place t)
{
    for (int64_t i = grid_thread() / 32; i < p.B * TILE_SLICES; i += grid_threads() / 32) {
        const int64_t b = i / TILE_SLICES;
        int64_t first, end;

        entries_of_tile(p, t, b, &first, &end);
        for (int64_t j = first + i % TILE_SLICES * 32 + threadIdx.x % 32; j < end;
             j += 32 * TILE_SLICES) {
            const int64_t n = p.seq_start[b] + p.argmax[j];
            const int64_t row = (p.kept.place != NULL ? p.kept.place[n] : n) - t.from;

            if (row >= 0 && row < t.count) {
                ((S *)p.z)[row * p.tile.stride + p.term[j] - t.v] =
                    from_f32<S>(p.dw[j] * expf(-p.weight[j]));
            }
        }
    }
}

/* Rows from .. from+count-1 of dh, rounded to S. Any grid: blocks stride over rows. */
template <typename S, int WIDTH>
static __global__ void __launch_bounds__(TILE_THREADS)
    pool_tile_dh_kernel(tiles_pass p, int64_t from, int64_t count, S *__restrict__ dh) // (N,D)
{
    for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
        const int64_t n = p.kept.row != NULL ? p.kept.row[from + i] : from + i;

        for (int64_t d = threadIdx.x * WIDTH; d < p.D; d += TILE_THREADS * WIDTH) {
            float x[WIDTH];

            load_vec(p.dh + i * p.D + d, x);
            store_vec(dh + n * p.D + d, x);
        }
    }
}

/* Fills the tile p->z with dz on a stream; h: its rows. */
template <typename S>
static csp_status form_tile(csp_backend *be, const tiles_pass *p, const tile_place *t,
                            csp_pool_kind pooling, const S *h, const S *e, cudaStream_t stream)
{
    const int64_t stride = p->tile.stride;
    const dim3 entries = pool_grid(be, p->B * TILE_SLICES * 32, TILE_THREADS);
    S *z = (S *)p->z;

    if (pooling == CSP_POOL_MAX) {
        CUDA_TRY(cudaMemsetAsync(z, 0, (size_t)(t->count * stride) * sizeof(S), stream));
        CUDA_TRY(cu::launch(pool_tile_max_kernel<S>, entries, TILE_THREADS, 0, stream, *p, *t));
        return CSP_OK;
    }
    CSP_TRY(cuda_gemm(be, false, true, t->count, t->width, p->D, 1.0f, h, p->D, e, p->D, 0.0f, z,
                      stride));
    CUDA_TRY(cudaMemsetAsync(p->wide_dw, 0, (size_t)(p->B * stride) * sizeof(float), stream));
    CUDA_TRY(cu::launch(pool_tile_spread_kernel, entries, TILE_THREADS, 0, stream, *p, *t));
    CUDA_TRY(cu::launch(pool_tile_sum_kernel<S>,
                        pool_grid(be, t->count * (stride / vec_width<S>::value), TILE_THREADS),
                        TILE_THREADS, 0, stream, *p, *t));
    return CSP_OK;
}

/* Tile which of two is formed beside the stream, as soon as it is no longer read. */
template <typename S>
static csp_status form_beside(csp_backend *be, const tiles_pass *p, const tile_place *t,
                              csp_pool_kind pooling, const S *h, const S *e, int which)
{
    const cuda_beside *beside = &cuda_state_of(be)->beside;
    cudaStream_t stream = cuda_stream(be, "sparse_pool_bwd");

    if (p->tiles == 1) {
        return form_tile(be, p, t, pooling, h, e, stream);
    }
    CUDA_TRY(cudaStreamWaitEvent(beside->stream, beside->done[which], 0));
    CSP_TRY(form_tile(be, p, t, pooling, h, e, beside->stream));
    CUDA_TRY(cudaEventRecord(beside->ready[which], beside->stream));
    CUDA_TRY(cudaStreamWaitEvent(stream, beside->ready[which], 0));
    return CSP_OK;
}

/* What is formed beside from now on is behind what was enqueued, and so are both tiles. */
static csp_status begin_beside(csp_backend *be, const tiles_pass *p)
{
    for (int i = 0; i < p->tiles && p->tiles > 1; i++) {
        CUDA_TRY(
            cudaEventRecord(cuda_state_of(be)->beside.done[i], cuda_stream(be, "sparse_pool_bwd")));
    }
    return CSP_OK;
}

/* All terms of kept rows from .. from+count-1: their dh, and what they add to de. */
template <typename S>
static csp_status add_rows(csp_backend *be, const csp_head *head, const csp_sparse_pool_grad *g,
                           const tiles_pass *p, int64_t from, int64_t count)
{
    const int64_t D = p->D, stride = p->tile.stride;
    const bool trained = g->de.ndim > 0;
    const void *h = NULL;
    int which = 0;

    if (trained || head->pooling == CSP_POOL_SUM) {
        CSP_TRY(pool_kept_rows(be, &p->kept, g->h.data, from, count, D * (int64_t)sizeof(S),
                               p->together, &h));
    }
    CSP_TRY(begin_beside(be, p));
    for (int64_t v = 0; v < p->V; v += p->tile.terms, which = (which + 1) % p->tiles) {
        const tile_place t = { from, count, v,
                               p->V - v < p->tile.terms ? p->V - v : p->tile.terms };
        const S *e = (const S *)head->e.data + v * D;
        S *z = (S *)p->z + which * tile_elements(&p->tile);
        tiles_pass one = *p;

        one.z = z;
        CSP_TRY(form_beside(be, &one, &t, head->pooling, (const S *)h, e, which));
        CSP_TRY(cuda_gemm(be, false, false, count, D, t.width, p->k, z, stride, e, D,
                          v > 0 ? 1.0f : 0.0f, p->dh, D));
        if (trained) {
            CSP_TRY(cuda_gemm(be, true, false, t.width, D, count, p->k, z, stride, (const S *)h, D,
                              1.0f, (float *)g->de.data + v * D, D));
        }
        if (p->tiles > 1) {
            CUDA_TRY(cudaEventRecord(cuda_state_of(be)->beside.done[which],
                                     cuda_stream(be, "sparse_pool_bwd")));
        }
    }
    const bool wide = is_vec_row((S *)g->dh.data, D);
    CUDA_TRY(cu::launch(wide ? pool_tile_dh_kernel<S, 4> : pool_tile_dh_kernel<S, 1>,
                        pool_grid(be, count * TILE_THREADS, TILE_THREADS), TILE_THREADS, 0,
                        cuda_stream(be, "sparse_pool_bwd"), *p, from, count, (S *)g->dh.data));
    return CSP_OK;
}

static csp_status tiles_place(csp_arena *arena, const csp_pool_texts *texts, csp_pool_kind pooling,
                              csp_dtype S, tiles_pass *p)
{
    const size_t bytes = csp_dtype_bytes(S);
    const int64_t width = p->tile.rows * p->D;

    CSP_TRY(pool_kept_place(arena, texts, &p->kept));
    CSP_TRY(csp_arena_take(arena, (size_t)(p->tiles * tile_elements(&p->tile)) * bytes, &p->z));
    CSP_TRY(pool_take(arena, width, &p->dh));
    if (texts->kept < texts->keep.dim[0]) {
        CSP_TRY(csp_arena_take(arena, (size_t)width * bytes, &p->together));
    }
    if (pooling == CSP_POOL_SUM) {
        CSP_TRY(pool_take(arena, p->B * p->tile.stride, &p->wide_dw));
        CSP_TRY(pool_take(arena, texts->kept, &p->text));
    }
    return CSP_OK;
}

csp_status pool_bwd_tiles(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const csp_dtype S = head->e.dtype;
    cudaStream_t stream = cuda_stream(be, "sparse_pool_bwd");
    tiles_pass p = {};
    csp_arena scratch = {};
    void *memory;

    p.row_ptr = (const int64_t *)g->rows->row_ptr.data + g->first_row;
    p.seq_start = (const int32_t *)g->texts.seq_start.data;
    p.term = (const int32_t *)g->rows->term.data;
    p.argmax = (const int32_t *)g->rows->argmax.data;
    p.weight = (const float *)g->rows->weight.data;
    p.dw = (const float *)g->dw.data;
    p.B = g->texts.seq_start.dim[0] - 1;
    p.V = head->e.dim[0];
    p.D = head->e.dim[1];
    p.k = head->scale;
    if (head->pooling == CSP_POOL_MAX) {
        p.tile = pick_pool_tiles(g->texts.kept, p.V, S, &p.tiles);
    } else {
        p.tile = pick_pool_tile(g->texts.kept, p.V, S, POOL_TILE_BYTES);
        p.tiles = 1;
    }
    CSP_TRY(tiles_place(&scratch, &g->texts, head->pooling, S, &p));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(tiles_place(&scratch, &g->texts, head->pooling, S, &p));
    if (g->texts.kept < g->texts.keep.dim[0] || p.B == 0) {
        CUDA_TRY(cudaMemsetAsync(g->dh.data, 0, csp_tensor_bytes(&g->dh), stream));
    }
    CSP_TRY(pool_kept_list(be, &g->texts, &p.kept));
    if (head->pooling == CSP_POOL_SUM && p.kept.count > 0) {
        CUDA_TRY(cu::launch(pool_tile_text_kernel, pool_grid(be, p.kept.count, TILE_THREADS),
                            TILE_THREADS, 0, stream, p));
    }
    for (int64_t i = 0; p.B > 0 && i < p.kept.count; i += p.tile.rows) {
        const int64_t left = p.kept.count - i, count = left < p.tile.rows ? left : p.tile.rows;

        CSP_TRY(S == CSP_BF16 ? add_rows<__nv_bfloat16>(be, head, g, &p, i, count)
                              : add_rows<float>(be, head, g, &p, i, count));
    }
    return CSP_OK;
}

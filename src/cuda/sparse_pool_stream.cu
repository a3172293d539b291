/*
 * sparse_pool_stream.cu - CUDA side of ops/sparse_pool.h, dh of max pooling by streaming e.
 *
 * A block owns some hundred kept rows of dh, of one text or of several, and 64 columns of them, as
 * float32 in shared memory. It goes through the vocabulary in order, a part of e at a time, which
 * is copied to shared memory while the part before is used. A warp takes a text: it lists 32 of
 * its entries with terms of the part, then adds each, dz times 64 columns of e, to the row that
 * won, two columns a lane. Blocks of the same columns, which are neighbours in the grid, read the
 * same part of e at about the same time, so that memory delivers it once.
 *
 * A text is one warp's alone, and so are its rows: no atomics, and each row adds its entries in
 * order of terms, as by lists, to the same bits. A text that the edge of a block's rows cuts is
 * gone through by both blocks, each adding the entries of its own rows. Entries whose dw is 0 are
 * left out.
 *
 * Is that less than gathering a row of e for each entry (sparse_pool_bwd.cu)? Of the second-level
 * cache it takes less where several texts of a block share a term: e once for each block, and 16
 * bytes of each entry for each 64 columns, in place of 2 D bytes an entry. But an entry passes
 * through shared memory three times, 10 bytes a column in bf16, which at 128 bytes a clock and
 * multiprocessor takes as long as the cache takes for the 2 bytes of a gathered row. So nothing is
 * gained while the cache holds e. Where it does not, lists soon are at places of the vocabulary far
 * from each other, and most of their rows come from memory, at half the speed or less: then
 * streaming is faster as soon as its reading of e is paid for, until products are faster still
 * (sparse_pool_pick.h has the numbers). Besides, a token that wins most terms is no long list here:
 * a warp's work is a text's.
 *
 * Four entries are on their way at once: their rows of dh are read together, and where two are the
 * same row the later takes what the earlier made of it.
 *
 * Scratch: 12 bytes for each row where not all are kept.
 */
#include "reduce.cuh"
#include "sparse_pool.cuh"
#include "sparse_pool_pick.h"
#include "vec.cuh"

#define STREAM_THREADS (32 * STREAM_WARPS)
#define STREAM_AHEAD 4 /* entries on their way at once, a power of two */
#define LANE_COLUMNS (STREAM_COLUMNS / 32)

/* An entry as its text's warp lists it. */
typedef struct stream_entry {
    uint32_t place; /* its row of the block, its term of the part: 16 bits each */
    float dz;
} stream_entry;

/* Terms of a part of e. */
template <typename S> struct stream_terms {
    static const int value = (int)(STREAM_E_BYTES / (STREAM_COLUMNS * sizeof(S)));
};

template <typename S, int ROWS> struct stream_tile {
    S e[2][stream_terms<S>::value][STREAM_COLUMNS];
    stream_entry entry[STREAM_WARPS][STREAM_BATCH];
    float dh[ROWS][STREAM_COLUMNS];
    uint32_t cursor[ROWS]; /* of each text: entries before the part */
};

typedef struct stream_pass {
    pool_entries p;
    pool_kept kept;
    int64_t rows; /* of a block, at most ROWS */
    int64_t V, D;
} stream_pass;

/* A block's share: kept rows from .. from+count-1, columns column .. column+63 as far as there are.
 */
typedef struct stream_share {
    int64_t from, count, column;
} stream_share;

/* Starts copies of terms v .. of e, as many as there are; what is beyond V or D becomes 0. */
template <typename S, int ROWS>
static __device__ __forceinline__ void load_part(stream_tile<S, ROWS> &tile, int buffer, const S *e,
                                                 const stream_pass &a, const stream_share &share,
                                                 int64_t v, bool aligned)
{
    const int wide = vec_width<S>::value, vectors = STREAM_COLUMNS / wide;

    if (!aligned) {
#pragma unroll 1
        for (int i = (int)threadIdx.x; i < stream_terms<S>::value * STREAM_COLUMNS;
             i += STREAM_THREADS) {
            const int64_t term = v + i / STREAM_COLUMNS, column = share.column + i % STREAM_COLUMNS;

            tile.e[buffer][i / STREAM_COLUMNS][i % STREAM_COLUMNS] =
                term < a.V && column < a.D ? e[term * a.D + column] : from_f32<S>(0.0f);
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < stream_terms<S>::value * vectors; i += STREAM_THREADS) {
        const int64_t term = v + i / vectors, column = share.column + i % vectors * wide;
        const bool inside = term < a.V && column < a.D;

        cu::cp_async16(&tile.e[buffer][i / vectors][i % vectors * wide],
                       inside ? e + term * a.D + column : e, inside ? 16 : 0);
    }
}

/* An entry's row of dh and of e, two columns a lane. */
template <typename S, int ROWS>
static __device__ __forceinline__ void load_entry(const stream_tile<S, ROWS> &tile, int buffer,
                                                  uint32_t place, int column,
                                                  float (&sum)[LANE_COLUMNS],
                                                  float (&x)[LANE_COLUMNS])
{
    load_vec(&tile.dh[place >> 16][column], sum);
    load_vec(&tile.e[buffer][place & 0xFFFF][column], x);
}

/* Adds the first count entries of the warp's list to their rows, in their order. */
template <typename S, int ROWS>
static __device__ __forceinline__ void add_entries(stream_tile<S, ROWS> &tile, int buffer,
                                                   const stream_entry (&list)[STREAM_BATCH],
                                                   int count)
{
    const int column = (int)(threadIdx.x % 32) * LANE_COLUMNS;
    int i = 0;

    for (; i + STREAM_AHEAD <= count; i += STREAM_AHEAD) {
        float sum[STREAM_AHEAD][LANE_COLUMNS], x[STREAM_AHEAD][LANE_COLUMNS];
        stream_entry entry[STREAM_AHEAD];

#pragma unroll
        for (int j = 0; j < STREAM_AHEAD; j++) {
            entry[j] = list[i + j];
            load_entry(tile, buffer, entry[j].place, column, sum[j], x[j]);
        }
#pragma unroll
        for (int j = 0; j < STREAM_AHEAD; j++) {
#pragma unroll
            for (int c = 0; c < LANE_COLUMNS; c++) {
#pragma unroll
                for (int before = 0; before < j; before++) {
                    const bool same = entry[before].place >> 16 == entry[j].place >> 16;

                    sum[j][c] = same ? sum[before][c] : sum[j][c];
                }
                sum[j][c] = fmaf(entry[j].dz, x[j][c], sum[j][c]);
            }
        }
#pragma unroll
        for (int j = 0; j < STREAM_AHEAD; j++) {
            store_vec(&tile.dh[entry[j].place >> 16][column], sum[j]);
        }
    }
    for (; i < count; i++) {
        float sum[LANE_COLUMNS], x[LANE_COLUMNS];

        load_entry(tile, buffer, list[i].place, column, sum, x);
#pragma unroll
        for (int c = 0; c < LANE_COLUMNS; c++) {
            sum[c] = fmaf(list[i].dz, x[c], sum[c]);
        }
        store_vec(&tile.dh[list[i].place >> 16][column], sum);
    }
}

/* Entries of text b with terms v .. v+terms-1, from the cursor on, which moves behind them. */
template <typename S, int ROWS>
static __device__ __forceinline__ void add_text(stream_tile<S, ROWS> &tile, int buffer,
                                                const stream_pass &a, const stream_share &share,
                                                int64_t b, int64_t v, uint32_t &cursor)
{
    const int lane = (int)(threadIdx.x % 32);
    const int64_t row = a.p.row_ptr[b], end = a.p.row_ptr[b + 1];
    stream_entry(&list)[STREAM_BATCH] = tile.entry[threadIdx.x / 32];
    int64_t at = row + cursor;
    int taken = 32;

    while (taken == 32) {
        const int64_t i = at + lane;
        const int64_t term = i < end ? a.p.term[i] - v : stream_terms<S>::value;
        const float dw = i < end ? a.p.dw[i] : 0.0f;
        const int64_t n = a.p.seq_start[b] + (i < end ? a.p.argmax[i] : 0);
        const int64_t place = dw == 0.0f ? -1 : a.kept.place != NULL ? a.kept.place[n] : n;
        const bool inside = term < stream_terms<S>::value;
        const bool mine = inside && place >= share.from && place < share.from + share.count;
        const uint32_t listed = __ballot_sync(FULL_WARP, mine);

        taken = __popc(__ballot_sync(FULL_WARP, inside));
        if (mine) {
            list[__popc(listed & ((1u << lane) - 1))] = {
                (uint32_t)(place - share.from) << 16 | (uint32_t)term, gradient_of(a.p, i)
            };
        }
        __syncwarp();
        add_entries(tile, buffer, list, __popc(listed));
        __syncwarp(); /* all have read the list before it is filled again */
        at += taken;
    }
    __syncwarp(); /* all have read the cursor before one moves it */
    if (lane == 0) {
        cursor = (uint32_t)(at - row);
    }
}

/* All terms of texts first .. end-1, at most ROWS of them. */
template <typename S, int ROWS>
static __device__ __forceinline__ void add_texts(stream_tile<S, ROWS> &tile, const S *e,
                                                 const stream_pass &a, const stream_share &share,
                                                 int64_t first, int64_t end, bool aligned)
{
    const int terms = stream_terms<S>::value, warp = (int)(threadIdx.x / 32);
    int buffer = 0;

    for (int i = (int)threadIdx.x; i < end - first; i += STREAM_THREADS) {
        tile.cursor[i] = 0;
    }
    load_part(tile, buffer, e, a, share, 0, aligned);
    cu::cp_commit();
    for (int64_t v = 0; v < a.V; v += terms, buffer = 1 - buffer) {
        if (v + terms < a.V) {
            load_part(tile, 1 - buffer, e, a, share, v + terms, aligned);
        }
        cu::cp_commit(); /* an empty group at the end: the wait below is the same */
        cu::cp_wait<1>();
        __syncthreads();
        for (int64_t b = first + warp; b < end; b += STREAM_WARPS) {
            add_text(tile, buffer, a, share, b, v, tile.cursor[b - first]);
        }
        __syncthreads(); /* all have used the part before it is overwritten */
    }
    cu::cp_wait<0>();
}

/* Grid: a block for each run of rows, neighbours in x, and in y for each 64 columns, strided. */
template <typename S, int ROWS>
static __global__ void __launch_bounds__(STREAM_THREADS, 2)
    pool_stream_kernel(stream_pass a,
                       const S *__restrict__ e, // (V,D)
                       S *__restrict__ dh,      // (N,D)
                       bool aligned)
{
    typedef stream_tile<S, ROWS> shared_tile;
    DYN_SHARED(shared_tile, tile);
    stream_share share;

    share.from = (int64_t)blockIdx.x * a.rows;
    share.count = a.kept.count - share.from < a.rows ? a.kept.count - share.from : a.rows;
    const int64_t last = text_of_row_by_warp(a.kept.start, a.p.texts, share.from + share.count - 1);
    const int64_t first = text_of_row_by_warp(a.kept.start, a.p.texts, share.from);
    for (share.column = (int64_t)blockIdx.y * STREAM_COLUMNS; share.column < a.D;
         share.column += (int64_t)gridDim.y * STREAM_COLUMNS) {
        for (int i = (int)threadIdx.x; i < share.count * STREAM_COLUMNS; i += STREAM_THREADS) {
            tile.dh[i / STREAM_COLUMNS][i % STREAM_COLUMNS] = 0.0f;
        }
        for (int64_t b = first; b <= last; b += ROWS) {
            add_texts(tile, e, a, share, b, last + 1 < b + ROWS ? last + 1 : b + ROWS, aligned);
        }
        for (int i = (int)threadIdx.x; i < share.count * STREAM_COLUMNS; i += STREAM_THREADS) {
            const int64_t row = share.from + i / STREAM_COLUMNS;
            const int64_t n = a.kept.row != NULL ? a.kept.row[row] : row;
            const int64_t column = share.column + i % STREAM_COLUMNS;

            if (column < a.D) {
                dh[n * a.D + column] = from_f32<S>(tile.dh[i / STREAM_COLUMNS][i % STREAM_COLUMNS]);
            }
        }
        __syncthreads(); /* all have read dh and cursors before they begin again */
    }
}

template <typename S, int ROWS>
static csp_status launch_stream(csp_backend *be, const stream_pass *a, const S *e, S *dh)
{
    static_assert(sizeof(stream_tile<S, ROWS>) <= STREAM_OTHER_BYTES + ROWS * 260,
                  "stream_bytes says what a block takes");
    void (*const kernel)(stream_pass, const S *, S *, bool) = pool_stream_kernel<S, ROWS>;
    const size_t bytes = sizeof(stream_tile<S, ROWS>);
    const int64_t slices = ceil_div(a->D, STREAM_COLUMNS);
    const dim3 grid((unsigned)ceil_div(a->kept.count, a->rows),
                    (unsigned)(slices < CUDA_GRID_YZ ? slices : CUDA_GRID_YZ));

    CUDA_TRY(cu::allow_shared(kernel, bytes));
    CUDA_TRY(cu::launch(kernel, grid, STREAM_THREADS, bytes, cuda_stream(be, "sparse_pool_bwd"), *a,
                        e, dh, is_vec_row(e, a->D)));
    return CSP_OK;
}

template <typename S>
static csp_status form_dh(csp_backend *be, const stream_pass *a, const csp_tensor *e,
                          csp_tensor *dh)
{
    const S *from = (const S *)e->data;
    S *to = (S *)dh->data;

    if (a->rows <= stream_rooms[0]) {
        return launch_stream<S, 256>(be, a, from, to);
    }
    return a->rows <= stream_rooms[1] ? launch_stream<S, 512>(be, a, from, to)
                                      : launch_stream<S, 768>(be, a, from, to);
}

csp_status pool_dh_stream(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const cuda_state *state = cuda_state_of(be);
    stream_pass a = {};
    csp_arena scratch = {};
    void *memory;

    a.p = pool_entries_of(head, g);
    a.V = head->e.dim[0];
    a.D = head->e.dim[1];
    a.rows = pick_stream_rows(g->texts.kept, a.D, state->processors, state->shared_limit);
    if (a.rows == 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "sparse_pool: %s lets a block have %zu bytes of shared memory, streaming "
                        "needs %zu",
                        state->name, state->shared_limit, stream_bytes(stream_rooms[0]));
    }
    CSP_TRY(pool_kept_place(&scratch, &g->texts, &a.kept));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(pool_kept_place(&scratch, &g->texts, &a.kept));
    CSP_TRY(pool_kept_list(be, &g->texts, &a.kept));
    if (g->texts.kept < g->texts.keep.dim[0] || a.p.texts == 0) {
        CUDA_TRY(cudaMemsetAsync(g->dh.data, 0, csp_tensor_bytes(&g->dh),
                                 cuda_stream(be, "sparse_pool_bwd")));
    }
    if (a.kept.count == 0 || a.p.texts == 0) {
        return CSP_OK;
    }
    return head->e.dtype == CSP_BF16 ? form_dh<__nv_bfloat16>(be, &a, &head->e, &g->dh)
                                     : form_dh<float>(be, &a, &head->e, &g->dh);
}

/*
 * sparse_pool_sm90.cu - the head's products and their fold into keys in one kernel, for bf16 and
 * the maximum on a Hopper: no logit leaves the registers.
 *
 * A block forms tiles of 128 terms and 256 kept rows, e h^T: terms are the product's rows, so that
 * a thread holds the products of 64 of the rows with each of two terms, and most of the maximum
 * over a text's rows is taken in it; two shuffles finish it. One thread copies parts of e and h,
 * 64 columns of D at a time, into four stages of shared memory (TMA, mbarrier); two warpgroups
 * multiply them (wgmma), each 64 of the terms. Blocks stay and take one tile after another, 16
 * tiles of terms beside one another, so that what they read at once is in the second-level cache;
 * the copies of the next tile go on while one is folded.
 *
 * A product is rounded to bf16 and compared as the key of sparse_pool_fold.cu: (bits << 16) | low,
 * low being larger for a row that comes before. Within a tile that is 255 - column, a constant but
 * for the lane; a text's maximum becomes a key of the table by one subtraction, its position being
 * counted among the kept rows of the text, and is joined with those of other tiles by a signed
 * maximum in memory, whose order does not matter: the same bits on every run. Rows of a tile that
 * no text boundary cuts take no comparison with one.
 *
 * Bound by the product. Compiled for compute capability 9.0 alone; the host asks before.
 */
#include "portable_sm90.cuh"
#include "reduce.cuh"
#include "sparse_pool.cuh"

#define FUSED_TERMS 128
#define FUSED_ROWS 256
#define FUSED_STAGES 4
#define FUSED_CONSUMERS 2 /* warpgroups that multiply, 64 terms each       */
#define FUSED_THREADS (128 * (1 + FUSED_CONSUMERS))
#define FUSED_BAND 16       /* tiles of terms beside one another             */
#define FUSED_FAR (1 << 30) /* columns: behind every tile                   */

/* Registers of a thread that copies and of one that multiplies; 64 Ki in all. */
#define FUSED_COPY_REGISTERS 40
#define FUSED_PRODUCT_REGISTERS 232

typedef struct fused_stages {
    __nv_bfloat16 e[FUSED_STAGES][FUSED_TERMS][TILE_COLUMNS];
    __nv_bfloat16 h[FUSED_STAGES][FUSED_ROWS][TILE_COLUMNS];
    cu::mbarrier full[FUSED_STAGES];  /* one arrival, and the bytes of a stage */
    cu::mbarrier empty[FUSED_STAGES]; /* an arrival of each warp that has read */
} fused_stages;

/* What the kernel is told besides the maps. */
typedef struct fused_work {
    const int32_t *start;     // (texts+1) kept rows before each text
    const int32_t *tile_text; // (row_tiles) the text of each tile's first row
    int32_t *key;             // (texts,V)
    int64_t from;             // the first tile's first kept row
    int64_t texts, V;
    int64_t term_tiles;
    uint32_t row_tiles;
    int steps; // parts of D
} fused_work;

/* Where a block is among the tiles: in a band of FUSED_BAND tiles of terms, terms first. */
typedef struct fused_walk {
    int64_t band;
    uint32_t at, wide; // tile of the band; tiles of terms in it
} fused_walk;

/* The stage that is next, and the parity of its barriers' phase. */
typedef struct fused_turn {
    int stage;
    uint32_t parity;
} fused_turn;

static __device__ __forceinline__ void next_turn(fused_turn &turn)
{
    turn.stage++;
    if (turn.stage == FUSED_STAGES) {
        turn.stage = 0;
        turn.parity ^= 1u;
    }
}

/* The walk's tile, by which at may lie behind its band; false: there are no more. */
static __device__ __forceinline__ bool find_tile(const fused_work &w, fused_walk &walk)
{
    for (;; walk.band++) {
        const int64_t left = w.term_tiles - walk.band * FUSED_BAND;

        if (left <= 0) {
            return false;
        }
        walk.wide = left < FUSED_BAND ? (uint32_t)left : FUSED_BAND;
        if (walk.at < walk.wide * w.row_tiles) {
            return true;
        }
        walk.at -= walk.wide * w.row_tiles;
    }
}

/* First term and, counted from w.from, first row of the tile. */
static __device__ __forceinline__ int32_t tile_term(const fused_walk &walk)
{
    return (int32_t)((walk.band * FUSED_BAND + walk.at % walk.wide) * FUSED_TERMS);
}

static __device__ __forceinline__ int32_t tile_row(const fused_walk &walk)
{
    return (int32_t)(walk.at / walk.wide * FUSED_ROWS);
}

/* One thread: copies the stages of all tiles of the block, each when it is empty. */
static __device__ __forceinline__ void copy_tiles(fused_stages &s, const CUtensorMap *e,
                                                  const CUtensorMap *h, const fused_work &w)
{
    fused_walk walk = { 0, blockIdx.x, 1 };
    fused_turn turn = { 0, 0 };

    for (; find_tile(w, walk); walk.at += gridDim.x) {
        const int32_t term = tile_term(walk), row = tile_row(walk);

        for (int step = 0; step < w.steps; step++) {
            cu::mbarrier_wait(&s.empty[turn.stage], turn.parity ^ 1u);
            cu::mbarrier_arrive_expect(&s.full[turn.stage], sizeof(s.e[0]) + sizeof(s.h[0]));
            cu::tile_load(&s.e[turn.stage][0][0], e, step * TILE_COLUMNS, term,
                          &s.full[turn.stage]);
            cu::tile_load(&s.h[turn.stage][0][0], h, step * TILE_COLUMNS, row, &s.full[turn.stage]);
            next_turn(turn);
        }
    }
}

/* d := 64 terms of the tile times its rows. A stage is left when the next one's products are on. */
static __device__ __forceinline__ void multiply(fused_stages &s, int steps, int first_term,
                                                fused_turn &turn, float (&d)[128])
{
    const bool speaks = threadIdx.x % 32 == 0;
    int before = 0;

    for (int step = 0; step < steps; step++) {
        cu::mbarrier_wait(&s.full[turn.stage], turn.parity);
        cu::wgmma_fence();
#pragma unroll
        for (int k = 0; k < TILE_COLUMNS; k += 16) {
            cu::wgmma_64x256(d, &s.e[turn.stage][first_term][k], &s.h[turn.stage][0][k],
                             step > 0 || k > 0);
        }
        cu::wgmma_commit();
        cu::wgmma_wait<1>();
        if (step > 0 && speaks) {
            cu::mbarrier_arrive(&s.empty[before]);
        }
        before = turn.stage;
        next_turn(turn);
    }
    cu::wgmma_finish(d);
    if (speaks) {
        cu::mbarrier_arrive(&s.empty[before]);
    }
}

/*
 * The texts of a tile, in the columns of its rows: a lane holds the end of one of 32 texts, so that
 * the next is a shuffle away. The same in all lanes but ends.
 */
typedef struct fused_texts {
    int64_t text;
    int32_t begin, end; // columns of the text; begin may be negative
    int32_t ends;       // of text number (text - which + lane)
    int which;
} fused_texts;

/* Where text ends, in columns of the tile of rows from `first` on; far behind for none. */
static __device__ __forceinline__ int32_t text_end(const fused_work &w, int64_t text, int64_t first)
{
    return text < w.texts ? (int32_t)(w.start[text + 1] - first) : FUSED_FAR;
}

static __device__ __forceinline__ fused_texts first_text(const fused_work &w, int32_t row)
{
    const int64_t first = w.from + row, text = w.tile_text[row / FUSED_ROWS];
    fused_texts t = { text, (int32_t)(w.start[text] - first), 0, 0, 0 };

    t.ends = text_end(w, text + threadIdx.x % 32, first);
    return t;
}

static __device__ __forceinline__ void next_text(const fused_work &w, int32_t row, fused_texts &t)
{
    t.text++;
    t.which++;
    if (t.which == 32) {
        t.ends = text_end(w, t.text + threadIdx.x % 32, w.from + row);
        t.which = 0;
    }
    t.begin = t.end;
    t.end = __shfl_sync(FULL_WARP, t.ends, t.which);
}

/*
 * The keys best of the text's rows in this tile, one for each of the thread's two terms, go into
 * the table: of the four lanes that share these terms the first has the one, the second the other.
 */
static __device__ __forceinline__ void join_keys(const fused_work &w, int64_t term,
                                                 const fused_texts &t, int32_t (&best)[2])
{
    const int share = (int)(threadIdx.x % 4);

#pragma unroll
    for (int i = 0; i < 2; i++) {
        best[i] = max(best[i], __shfl_xor_sync(FULL_WARP, best[i], 1));
        best[i] = max(best[i], __shfl_xor_sync(FULL_WARP, best[i], 2));
    }
    const int32_t key = share == 0 ? best[0] : best[1];
    const int64_t v = term + 8 * share;
    if (share < 2 && key > 0xFFFF && v < w.V && t.text < w.texts) {
        const int32_t column = FUSED_ROWS - 1 - (key & 0xFFFF);

        atomicMax(&w.key[t.text * w.V + v],
                  (int32_t)((uint32_t)key & 0xFFFF0000u) | (65535 - (column - t.begin)));
    }
    best[0] = best[1] = 0;
}

/* Four keys, two of each term, of columns c and c + 1: of which those in from .. until-1 count. */
static __device__ __forceinline__ void offer_some(const int32_t (&key)[2][2], int c, int32_t from,
                                                  int32_t until, int32_t (&best)[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            best[i] = c + j >= from && c + j < until ? max(best[i], key[i][j]) : best[i];
        }
    }
}

/* Two numbers rounded to bf16, the first in the lower half. */
static __device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);

    return *reinterpret_cast<const uint32_t *>(&both);
}

/* Folds a warp's 16 terms of the tile; the thread's first is term. */
static __device__ __forceinline__ void fold(const fused_work &w, const float (&d)[128],
                                            int64_t term, int32_t row, fused_texts &t)
{
    const int lane_column = (int)(threadIdx.x % 4) * 2;
    const uint32_t low = (uint32_t)(FUSED_ROWS - 1 - lane_column);
    int32_t best[2] = { 0, 0 };

    t.end = __shfl_sync(FULL_WARP, t.ends, 0);
#pragma unroll
    for (int j = 0; j < FUSED_ROWS / 8; j++) {
        int32_t key[2][2];

#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t pair = bf16_pair(d[4 * j + 2 * i], d[4 * j + 2 * i + 1]);

            key[i][0] = (int32_t)((pair << 16) + (low - 8 * j));
            key[i][1] = (int32_t)((pair & 0xFFFF0000u) | (low - 8 * j - 1));
        }
        if (t.end >= 8 * (j + 1)) {
            best[0] = max(best[0], max(key[0][0], key[0][1]));
            best[1] = max(best[1], max(key[1][0], key[1][1]));
        } else {
            while (t.end < 8 * (j + 1)) {
                offer_some(key, 8 * j + lane_column, t.begin, t.end, best);
                join_keys(w, term, t, best);
                next_text(w, row, t);
            }
            offer_some(key, 8 * j + lane_column, t.begin, FUSED_FAR, best);
        }
    }
    join_keys(w, term, t, best);
}

/* One warpgroup: multiplies and folds its terms of all tiles of the block. */
static __device__ __forceinline__ void fold_tiles(fused_stages &s, const fused_work &w)
{
    const int thread = (int)threadIdx.x - 128, lane = thread % 32;
    const int first_term = thread / 128 * 64;
    const int own_term = first_term + thread % 128 / 32 * 16 + lane / 4;
    fused_walk walk = { 0, blockIdx.x, 1 };
    fused_turn turn = { 0, 0 };
    float d[128] = {};

    for (; find_tile(w, walk); walk.at += gridDim.x) {
        const int32_t row = tile_row(walk);
        fused_texts texts = first_text(w, row);

        multiply(s, w.steps, first_term, turn, d);
        fold(w, d, (int64_t)tile_term(walk) + own_term, row, texts);
    }
}

/*
 * Keys of the table become the larger of themselves and those of e (V,D) h (count,D). Any grid of
 * one dimension works.
 */
static __global__ void __launch_bounds__(FUSED_THREADS, 1)
    pool_fused_kernel(const __grid_constant__ CUtensorMap e, const __grid_constant__ CUtensorMap h,
                      const __grid_constant__ fused_work w)
{
    DYN_SHARED_TILES(fused_stages, s);

    if (threadIdx.x == 0) {
        for (int i = 0; i < FUSED_STAGES; i++) {
            cu::mbarrier_init(&s.full[i], 1);
            cu::mbarrier_init(&s.empty[i], 4 * FUSED_CONSUMERS);
        }
        cu::fence_barrier_init();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        cu::registers_give<FUSED_COPY_REGISTERS>();
        if (threadIdx.x == 0) {
            copy_tiles(s, &e, &h, w);
        }
    } else {
        cu::registers_take<FUSED_PRODUCT_REGISTERS>();
        fold_tiles(s, w);
    }
}

/* tile_text[i] := the text of kept row from + i FUSED_ROWS. Any grid works. */
static __global__ void __launch_bounds__(128)
    pool_tile_text_kernel(const int32_t *__restrict__ start, // (texts+1)
                          int32_t *__restrict__ tile_text,   // (tiles)
                          int64_t texts, int64_t from, int64_t tiles)
{
    for (int64_t i = grid_thread(); i < tiles; i += grid_threads()) {
        tile_text[i] = (int32_t)text_of_row(start, texts, from + i * FUSED_ROWS);
    }
}

int64_t pool_fused_tiles(int64_t rows)
{
    return ceil_div(rows, FUSED_ROWS);
}

csp_status pool_fold_fused(csp_backend *be, const pool_fused *f)
{
    const cuda_state *state = cuda_state_of(be);
    cudaStream_t stream = cuda_stream(be, "sparse_pool");
    fused_work w = {};
    CUtensorMap e, h;

    w.start = f->start;
    w.tile_text = f->tile_text;
    w.key = f->key;
    w.from = f->from;
    w.texts = f->texts;
    w.V = f->V;
    w.term_tiles = ceil_div(f->V, FUSED_TERMS);
    w.row_tiles = (uint32_t)pool_fused_tiles(f->count);
    w.steps = (int)ceil_div(f->D, TILE_COLUMNS);
    const int64_t tiles = w.term_tiles * w.row_tiles;
    const unsigned blocks = (unsigned)(tiles < state->processors ? tiles : state->processors);
    CUDA_TRY(cu::tile_map_make(&e, f->e, f->V, f->D, FUSED_TERMS));
    CUDA_TRY(cu::tile_map_make(&h, f->h, f->count, f->D, FUSED_ROWS));
    CUDA_TRY(cu::launch(pool_tile_text_kernel, pool_grid(be, w.row_tiles, 128), 128, 0, stream,
                        f->start, f->tile_text, f->texts, f->from, (int64_t)w.row_tiles));
    CUDA_TRY(cu::allow_shared(pool_fused_kernel, sizeof(fused_stages)));
    CUDA_TRY(cu::launch(pool_fused_kernel, blocks, FUSED_THREADS, sizeof(fused_stages), stream, e,
                        h, w));
    return CSP_OK;
}

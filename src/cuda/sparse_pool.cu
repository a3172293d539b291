/*
 * sparse_pool.cu - CUDA side of ops/sparse_pool.h, forward.
 *
 * A tile of logits, up to 4,096 rows of as many terms as make 32 MiB, is formed by cuBLAS and
 * folded at once, while it is in the second-level cache, into a table of the best logit and its
 * position for each (text, term). Folding reads the tile once, neighbouring threads owning
 * neighbouring terms and walking down the rows of one text, so that the first row wins a tie and no
 * two threads write the same entry. A text cut by a tile's edge goes on from what the table holds.
 * Then the table becomes sparse rows (sparse_pool_rows.cu). Bound by the product, 2·N·V·D
 * operations: rows that are not kept are multiplied too, because their number is not known on the
 * host.
 *
 * The table, 8 bytes for each (text, term):
 *
 *   capacity for first_row + B full rows   it is the unused part of out itself, whose rows it
 *              becomes in groups copied to scratch: the entries of rows up to b never reach the
 *              table's row b + 1. Nothing is waited for.
 *   less       it is scratch, for a group of texts at a time; the host waits for the places of the
 *              group's rows and of its entries, because they may not fit.
 *
 * Scratch: 32 MiB (the tile), 64 MiB or one row of the table, which in the second case is the
 * table, and 4 bytes for each text and 512 terms.
 */
#include "sparse_pool.cuh"
#include "vec.cuh"

#define FOLD_THREADS 128
#define FOLD_TERMS 4 /* a thread owns as many neighbouring terms: 16 bytes        */
#define FOLD_ROWS 8  /* loads on their way at once                                 */
/* Table elements in scratch: 64 MiB of best and arg together, or one row. */
#define TABLE_ELEMENTS ((int64_t)8 << 20)

/* One call, or one group of its texts. */
typedef struct pool_pass {
    const csp_head *head;
    const float *h;
    const uint8_t *keep;
    const int32_t *seq_start; /* (texts+1) of the group's texts                     */
    int64_t texts, V, D;
    pool_tile tile;
    float *logits; /* the tile                                                     */
    int64_t group; /* rows of the table in scratch                                 */
    float *best;   /* (group,V) in scratch; arg NULL for sum                       */
    int32_t *arg;
    pool_counts counts;
} pool_pass;

/* What the kernels below are given of one tile. */
typedef struct fold_args {
    const float *z;           // (count,stride) logits of rows from.., terms v..
    const int32_t *seq_start; // (texts+1)
    const uint8_t *keep;      // (N)
    float *best;              // (texts,V) from column v on
    int32_t *arg;             // (texts,V) from column v on; max only
    int64_t stride, from, count, width, texts, V;
    float scale; // sum only
} fold_args;

/* The rows of text b in the tile: n .. stop-1. */
static __device__ __forceinline__ void rows_of_text(const fold_args &a, int64_t b, int64_t *n,
                                                    int64_t *stop)
{
    const int64_t first = a.seq_start[b], end = a.seq_start[b + 1];

    *n = first > a.from ? first : a.from;
    *stop = end < a.from + a.count ? end : a.from + a.count;
}

/* Row n offers its logits: they are taken where larger than all before; never a NaN. */
static __device__ __forceinline__ void offer(const float (&x)[FOLD_TERMS], int32_t position,
                                             float (&best)[FOLD_TERMS], int32_t (&arg)[FOLD_TERMS])
{
#pragma unroll
    for (int j = 0; j < FOLD_TERMS; j++) {
        arg[j] = x[j] > best[j] ? position : arg[j];
        best[j] = x[j] > best[j] ? x[j] : best[j];
    }
}

/*
 * table = max(table, z) over the kept rows of each text. Grid: x covers the tile's terms, any y
 * works, its blocks stride over the texts that have rows in the tile.
 */
static __global__ void __launch_bounds__(FOLD_THREADS) pool_fold_max_kernel(fold_args a)
{
    const int64_t column = grid_thread() * FOLD_TERMS;
    const int left = (int)(a.width - column < FOLD_TERMS ? a.width - column : FOLD_TERMS);

    for (int64_t b = text_of_row(a.seq_start, a.texts, a.from) + blockIdx.y;
         left > 0 && b < a.texts && a.seq_start[b] < a.from + a.count; b += gridDim.y) {
        float best[FOLD_TERMS] = {};
        int32_t arg[FOLD_TERMS] = {};
        int64_t n, stop;

        rows_of_text(a, b, &n, &stop);
        const float *z = a.z + (n - a.from) * a.stride + column;
        const int64_t at = b * a.V + column, first = a.seq_start[b];
        for (int j = 0; j < left && n < stop; j++) {
            best[j] = a.best[at + j];
            arg[j] = best[j] > 0.0f ? a.arg[at + j] : 0;
        }
        for (; n + FOLD_ROWS <= stop; n += FOLD_ROWS, z += FOLD_ROWS * a.stride) {
            float x[FOLD_ROWS][FOLD_TERMS];

#pragma unroll
            for (int i = 0; i < FOLD_ROWS; i++) {
                load_vec(z + i * a.stride, x[i]);
            }
#pragma unroll
            for (int i = 0; i < FOLD_ROWS; i++) {
                if (a.keep[n + i] != 0) {
                    offer(x[i], (int32_t)(n + i - first), best, arg);
                }
            }
        }
        for (; n < stop; n++, z += a.stride) {
            float x[FOLD_TERMS];

            load_vec(z, x);
            if (a.keep[n] != 0) {
                offer(x, (int32_t)(n - first), best, arg);
            }
        }
        for (int j = 0; j < left; j++) {
            if (best[j] > 0.0f) {
                a.best[at + j] = best[j];
                a.arg[at + j] = arg[j];
            }
        }
    }
}

/* table += log(1 + ReLU(scale z)) over the kept rows of each text, in order. Grid as above. */
static __global__ void __launch_bounds__(FOLD_THREADS) pool_fold_sum_kernel(fold_args a)
{
    const int64_t column = grid_thread() * FOLD_TERMS;
    const int left = (int)(a.width - column < FOLD_TERMS ? a.width - column : FOLD_TERMS);

    for (int64_t b = text_of_row(a.seq_start, a.texts, a.from) + blockIdx.y;
         left > 0 && b < a.texts && a.seq_start[b] < a.from + a.count; b += gridDim.y) {
        float sum[FOLD_TERMS] = {};
        int64_t n, stop;

        rows_of_text(a, b, &n, &stop);
        const int64_t at = b * a.V + column;
        for (int j = 0; j < left && n < stop; j++) {
            sum[j] = a.best[at + j];
        }
        for (; n < stop; n++) {
            float x[FOLD_TERMS];

            load_vec(a.z + (n - a.from) * a.stride + column, x);
            if (a.keep[n] != 0) {
#pragma unroll
                for (int j = 0; j < FOLD_TERMS; j++) {
                    sum[j] += x[j] > 0.0f ? log1pf(a.scale * x[j]) : 0.0f;
                }
            }
        }
        for (int j = 0; j < left; j++) {
            if (sum[j] > 0.0f) {
                a.best[at + j] = sum[j];
            }
        }
    }
}

/* Fills the table best, arg (texts,V) from rows from .. end-1, which are those of the texts. */
static csp_status fold_rows(csp_backend *be, const pool_pass *p, int64_t from, int64_t end,
                            float *best, int32_t *arg)
{
    cudaStream_t stream = cuda_stream(be, "sparse_pool");
    const float *e = (const float *)p->head->e.data;

    CUDA_TRY(cudaMemsetAsync(best, 0, (size_t)(p->texts * p->V) * sizeof(float), stream));
    for (int64_t v = 0; v < p->V; v += p->tile.terms) {
        for (int64_t i = from; i < end; i += p->tile.rows) {
            fold_args a = { p->logits,
                            p->seq_start,
                            p->keep,
                            best + v,
                            arg + (arg ? v : 0),
                            p->tile.stride,
                            i,
                            0,
                            0,
                            p->texts,
                            p->V,
                            p->head->scale };

            a.count = end - i < p->tile.rows ? end - i : p->tile.rows;
            a.width = p->V - v < p->tile.terms ? p->V - v : p->tile.terms;
            CSP_TRY(cuda_gemm(be, false, true, a.count, a.width, p->D, 1.0f, p->h + i * p->D, p->D,
                              e + v * p->D, p->D, 0.0f, p->logits, p->tile.stride));

            const int64_t most = a.count < p->texts ? a.count : p->texts;
            const dim3 grid((unsigned)ceil_div(a.width, FOLD_TERMS * FOLD_THREADS),
                            (unsigned)(most < CUDA_GRID_YZ ? most : CUDA_GRID_YZ));
            CUDA_TRY(cu::launch(arg != NULL ? pool_fold_max_kernel : pool_fold_sum_kernel, grid,
                                FOLD_THREADS, 0, stream, a));
        }
    }
    return CSP_OK;
}

static pool_table table_of(const pool_pass *p, const float *best, const int32_t *arg, int64_t texts)
{
    const uint8_t *exclude = (const uint8_t *)p->head->exclude.data;
    pool_table t = { best, arg, p->head->exclude.ndim > 0 ? exclude : NULL, 1.0f, texts, p->V };

    /* Where the maximum is taken the logits are without their scale still. */
    t.scale = arg != NULL ? p->head->scale : 1.0f;
    return t;
}

/* Writes the places of p->texts rows from row on, which have been counted, into out. */
static csp_status append_places(csp_backend *be, const pool_pass *p, int64_t row, csp_sparse *out)
{
    CUDA_TRY(cudaMemcpyAsync((int64_t *)out->row_ptr.data + row, p->counts.row_start,
                             (size_t)(p->texts + 1) * sizeof(int64_t), cudaMemcpyDeviceToDevice,
                             cuda_stream(be, "sparse_pool")));
    return CSP_OK;
}

/* The end of the rows before row, on the device; NULL where there are none. */
static const int64_t *end_before(const csp_sparse *out, int64_t row)
{
    return row > 0 ? (const int64_t *)out->row_ptr.data + row : NULL;
}

/* All texts at once, the table being out's own memory from the place of first_row full rows on. */
static csp_status pool_in_place(csp_backend *be, pool_pass *p, int64_t N, int64_t first_row,
                                csp_sparse *out)
{
    cudaStream_t stream = cuda_stream(be, "sparse_pool");
    float *best = (float *)out->weight.data + first_row * p->V;
    int32_t *arg = p->arg != NULL ? (int32_t *)out->argmax.data + first_row * p->V : NULL;
    const pool_table all = table_of(p, best, arg, p->texts);

    CSP_TRY(fold_rows(be, p, 0, N, best, arg));
    CSP_TRY(pool_rows_count(be, &all, end_before(out, first_row), &p->counts));
    CSP_TRY(append_places(be, p, first_row, out));
    for (int64_t b = 0; b < p->texts; b += p->group) {
        const int64_t texts = p->texts - b < p->group ? p->texts - b : p->group;
        const pool_table part = table_of(p, p->best, p->arg, texts);
        const size_t bytes = (size_t)(texts * p->V) * sizeof(float);

        CUDA_TRY(
            cudaMemcpyAsync(p->best, best + b * p->V, bytes, cudaMemcpyDeviceToDevice, stream));
        if (arg != NULL) {
            CUDA_TRY(
                cudaMemcpyAsync(p->arg, arg + b * p->V, bytes, cudaMemcpyDeviceToDevice, stream));
        }
        CSP_TRY(pool_rows_write(be, &part, b, &p->counts, out));
    }
    return CSP_OK;
}

/* A group of texts that begins with row of out, the table being scratch. */
static csp_status pool_group(csp_backend *be, pool_pass *p, int64_t row, csp_sparse *out)
{
    const pool_table table = table_of(p, p->best, p->arg, p->texts);
    void *fetched;
    int64_t from, end, need;

    CSP_TRY(cuda_fetch(be, p->seq_start, (size_t)(p->texts + 1) * sizeof(int32_t), &fetched));
    from = ((const int32_t *)fetched)[0];
    end = ((const int32_t *)fetched)[p->texts];
    CSP_TRY(fold_rows(be, p, from, end, p->best, p->arg));
    CSP_TRY(pool_rows_count(be, &table, end_before(out, row), &p->counts));
    CSP_TRY(cuda_fetch(be, p->counts.row_start + p->texts, sizeof(need), &fetched));
    need = *(const int64_t *)fetched;
    if (need > out->term.dim[0]) {
        return CSP_FAIL(
            CSP_ERR_MEMORY, "sparse_pool: rows 0 to %lld need %lld entries, there is room for %lld",
            (long long)(row + p->texts - 1), (long long)need, (long long)out->term.dim[0]);
    }
    CSP_TRY(append_places(be, p, row, out));
    return pool_rows_write(be, &table, 0, &p->counts, out);
}

/* Places the scratch of a call: once to measure, once with memory. */
static csp_status pass_place(csp_arena *arena, pool_pass *p, int64_t counted)
{
    CSP_TRY(pool_take(arena, tile_elements(&p->tile), &p->logits));
    CSP_TRY(pool_take(arena, p->group * p->V, &p->best));
    if (p->head->pooling == CSP_POOL_MAX) {
        CSP_TRY(pool_take(arena, p->group * p->V, &p->arg));
    }
    return pool_counts_place(arena, counted, p->V, &p->counts);
}

csp_status cuda_sparse_pool_fwd(csp_backend *be, const csp_head *head, const csp_tensor *h,
                                const csp_tensor *seq_start, const csp_tensor *keep,
                                int64_t first_row, csp_sparse *out)
{
    const int64_t N = h->dim[0], B = seq_start->dim[0] - 1;
    const int32_t *starts = (const int32_t *)seq_start->data;
    pool_pass p = {};
    csp_arena scratch = {};
    void *memory;

    p.head = head;
    p.h = (const float *)h->data;
    p.keep = (const uint8_t *)keep->data;
    p.V = head->e.dim[0];
    p.D = head->e.dim[1];
    p.tile = pick_pool_tile(N, p.V);
    p.group = TABLE_ELEMENTS / p.V;
    p.group = p.group < 1 ? 1 : p.group < B ? p.group : B;

    const bool enough = out->term.dim[0] / p.V >= first_row + B;
    const int64_t counted = enough ? B : p.group;
    CSP_TRY(pass_place(&scratch, &p, counted));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(pass_place(&scratch, &p, counted));
    if (enough) {
        p.texts = B;
        p.seq_start = starts;
        return pool_in_place(be, &p, N, first_row, out);
    }
    for (int64_t b = 0; b < B; b += p.group) {
        p.texts = B - b < p.group ? B - b : p.group;
        p.seq_start = starts + b;
        CSP_TRY(pool_group(be, &p, first_row + b, out));
    }
    return CSP_OK;
}

csp_status cuda_sparse_pool_bwd(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    return head->pooling == CSP_POOL_MAX ? cuda_sparse_pool_max_bwd(be, head, g)
                                         : cuda_sparse_pool_sum_bwd(be, head, g);
}

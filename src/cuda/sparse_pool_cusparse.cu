/*
 * sparse_pool_cusparse.cu - CUDA side of ops/sparse_pool.h, backward of max pooling by cuSPARSE: a
 * fallback, and the yardstick that `csplade bench K6` holds our kernels to. Only where it is asked
 * for (csp_sparse_pool_choose).
 *
 *   dh   dz as CSR by token, (tokens,V), times e: the lists of sparse_pool_bwd.cu are one, once
 *        entries whose dw is 0 are listed too (0 times a row of e that is not finite is not 0)
 *   de   dz^T as CSR by term, (terms,N), times h: for a block of the vocabulary the table of
 *        sparse_pool_bwd.cu is counted and put together, a warp for each term
 *
 * The library wants values stored as e and h are, so dz is rounded to S, and the number of entries
 * on the host, so the device is waited for, twice for each group of texts or block of terms.
 *
 * Scratch: as by lists, and for each entry that is listed 2 or 4 bytes more (dh), or 6 or 8 (de).
 * The library takes its own besides, at most CSP_POOL_CUSPARSE_BYTES.
 */
#include "cusparse.cuh"
#include "reduce.cuh"
#include "sparse_pool.cuh"
#include "vec.cuh"

#define CSR_THREADS 128

/* Any grid works: threads stride over entries. */
template <typename S>
static __global__ void __launch_bounds__(CSR_THREADS)
    pool_store_kernel(const float *__restrict__ dz, // (entries)
                      S *__restrict__ value,        // (entries)
                      int64_t entries)
{
    for (int64_t i = grid_thread(); i < entries; i += grid_threads()) {
        value[i] = from_f32<S>(dz[i]);
    }
}

/* The elements from .. of an array of the device, read by the host. */
template <typename T>
static csp_status fetch_one(csp_backend *be, const T *array, int64_t at, T *out)
{
    void *host;

    CSP_TRY(cuda_fetch(be, array + at, sizeof(T), &host));
    *out = *(const T *)host;
    return CSP_OK;
}

/* dh of the tokens of p, group texts. */
template <typename S>
static csp_status group_dh(csp_backend *be, const pool_entries *p, const token_lists *lists,
                           S *value, const csp_head *head, csp_tensor *dh)
{
    cusparse_product m = {};
    int32_t first, end, entries;

    CSP_TRY(pool_lists_fill(be, p, dh->dim[0], lists));
    CSP_TRY(fetch_one(be, p->seq_start, 0, &first));
    CSP_TRY(fetch_one(be, p->seq_start, p->texts, &end));
    if (end == first) {
        return CSP_OK;
    }
    CSP_TRY(fetch_one(be, lists->start, end, &entries));
    if (entries == 0) {
        return CSP_OK;
    }
    CUDA_TRY(cu::launch(pool_store_kernel<S>, pool_grid(be, entries, CSR_THREADS), CSR_THREADS, 0,
                        cuda_stream(be, "sparse_pool_bwd"), lists->dz, value, (int64_t)entries));
    m.rows = end - first;
    m.columns = head->e.dim[0];
    m.D = head->e.dim[1];
    m.entries = entries;
    m.start = lists->start + first;
    m.column = lists->term;
    m.value = value;
    m.b = head->e.data;
    m.c = (S *)dh->data + first * m.D;
    m.in = head->e.dtype;
    m.out = head->e.dtype;
    return cuda_cusparse_product(be, &m);
}

template <typename S>
static csp_status dh_place(csp_arena *arena, int64_t N, int64_t entries, token_lists *lists,
                           S **value)
{
    CSP_TRY(pool_lists_place(arena, N, entries, lists));
    return pool_take(arena, entries, value);
}

template <typename S>
static csp_status form_dh(csp_backend *be, const pool_entries *all, const csp_head *head,
                          csp_tensor *dh)
{
    const int64_t V = head->e.dim[0], N = dh->dim[0], group = pool_at_once(all->texts, V);
    csp_arena scratch = {};
    token_lists lists;
    void *memory;
    S *value;

    CSP_TRY(dh_place(&scratch, N, group * V, &lists, &value));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(dh_place(&scratch, N, group * V, &lists, &value));
    for (int64_t b = 0; b < all->texts; b += group) {
        pool_entries p = *all;

        p.zeros = true;
        p.texts = all->texts - b < group ? all->texts - b : group;
        p.row_ptr += b;
        p.seq_start += b;
        CSP_TRY(group_dh(be, &p, &lists, value, head, dh));
    }
    return CSP_OK;
}

csp_status pool_dh_cusparse(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const pool_entries all = pool_entries_of(head, g);

    CUDA_TRY(cudaMemsetAsync(g->dh.data, 0, csp_tensor_bytes(&g->dh),
                             cuda_stream(be, "sparse_pool_bwd")));
    return head->e.dtype == CSP_BF16 ? form_dh<__nv_bfloat16>(be, &all, head, &g->dh)
                                     : form_dh<float>(be, &all, head, &g->dh);
}

/* A block of terms as CSR. */
template <typename S> struct term_lists {
    int32_t *start; // (width+1)
    int32_t *row;   // (width·texts) tokens, as far as there are entries
    S *value;       // (width·texts)
};

/* Entries of each term, at start[term + 1]. Any grid: warps stride over terms. */
static __global__ void __launch_bounds__(CSR_THREADS)
    pool_term_count_kernel(term_table table,
                           int32_t *__restrict__ start, // (width+1)
                           int64_t texts)
{
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t j = grid_thread() / 32; j < table.width; j += grid_threads() / 32) {
        int count = 0;

        for (int64_t b = lane; b < texts; b += 32) {
            count += table.dz[j * texts + b] != 0.0f;
        }
        count = __reduce_add_sync(FULL_WARP, count);
        if (lane == 0) {
            start[j + 1] = count;
        }
    }
}

/* Counts become places. One warp. */
static __global__ void __launch_bounds__(32)
    pool_term_start_kernel(int32_t *__restrict__ start, // (width+1)
                           int64_t width)
{
    const int lane = (int)threadIdx.x;
    int32_t at = 0;

    if (lane == 0) {
        start[0] = 0;
    }
    for (int64_t j = 0; j < width; j += 32) {
        const bool mine = j + lane < width;
        const int32_t sum = warp_running_sum(mine ? start[j + lane + 1] : 0);

        if (mine) {
            start[j + lane + 1] = at + sum;
        }
        at += __shfl_sync(FULL_WARP, sum, 31);
    }
}

/* Any grid: warps stride over terms, in order of texts. */
template <typename S>
static __global__ void __launch_bounds__(CSR_THREADS)
    pool_term_fill_kernel(term_table table, term_lists<S> lists, int64_t texts)
{
    const int lane = (int)(threadIdx.x % 32);

    for (int64_t j = grid_thread() / 32; j < table.width; j += grid_threads() / 32) {
        int32_t at = lists.start[j];

        for (int64_t b = 0; b < texts; b += 32) {
            const bool mine = b + lane < texts;
            const float dz = mine ? table.dz[j * texts + b + lane] : 0.0f;
            const uint32_t votes = __ballot_sync(FULL_WARP, dz != 0.0f);

            if (dz != 0.0f) {
                const int32_t place = at + __popc(votes & ((1u << lane) - 1));

                lists.row[place] = table.row[j * texts + b + lane];
                lists.value[place] = from_f32<S>(dz);
            }
            at += __popc(votes);
        }
    }
}

/* de of the table's terms. */
template <typename S>
static csp_status block_de(csp_backend *be, const pool_entries *p, const term_table *table,
                           const term_lists<S> *lists, const csp_tensor *h, csp_tensor *de)
{
    const dim3 warps = pool_grid(be, table->width * 32, CSR_THREADS);
    cudaStream_t stream = cuda_stream(be, "sparse_pool_bwd");
    cusparse_product m = {};
    int32_t entries;

    CSP_TRY(pool_table_fill(be, p, table));
    CUDA_TRY(cu::launch(pool_term_count_kernel, warps, CSR_THREADS, 0, stream, *table, lists->start,
                        p->texts));
    CUDA_TRY(cu::launch(pool_term_start_kernel, 1, 32, 0, stream, lists->start, table->width));
    CUDA_TRY(cu::launch(pool_term_fill_kernel<S>, warps, CSR_THREADS, 0, stream, *table, *lists,
                        p->texts));
    CSP_TRY(fetch_one(be, lists->start, table->width, &entries));
    m.rows = table->width;
    m.columns = h->dim[0];
    m.D = h->dim[1];
    m.entries = entries;
    m.start = lists->start;
    m.column = lists->row;
    m.value = lists->value;
    m.b = h->data;
    m.c = (float *)de->data + table->v * m.D;
    m.in = h->dtype;
    m.out = CSP_F32;
    m.beta = 1.0f;
    return entries > 0 ? cuda_cusparse_product(be, &m) : CSP_OK;
}

template <typename S>
static csp_status de_place(csp_arena *arena, int64_t width, int64_t texts, term_table *table,
                           term_lists<S> *lists)
{
    CSP_TRY(pool_table_place(arena, width * texts, table));
    CSP_TRY(pool_take(arena, width + 1, &lists->start));
    CSP_TRY(pool_take(arena, width * texts, &lists->row));
    return pool_take(arena, width * texts, &lists->value);
}

template <typename S>
static csp_status add_de(csp_backend *be, const pool_entries *p, const csp_tensor *h,
                         csp_tensor *de)
{
    const int64_t V = de->dim[0], block = pool_at_once(V, p->texts);
    csp_arena scratch = {};
    term_table table;
    term_lists<S> lists;
    void *memory;

    CSP_TRY(de_place(&scratch, block, p->texts, &table, &lists));
    CSP_TRY(cuda_scratch(be, scratch.peak, &memory));
    scratch = { (char *)memory, scratch.peak, 0, 0 };
    CSP_TRY(de_place(&scratch, block, p->texts, &table, &lists));
    for (table.v = 0; table.v < V; table.v += block) {
        table.width = V - table.v < block ? V - table.v : block;
        CSP_TRY(block_de(be, p, &table, &lists, h, de));
    }
    return CSP_OK;
}

csp_status pool_de_cusparse(csp_backend *be, const csp_head *head, csp_sparse_pool_grad *g)
{
    const pool_entries all = pool_entries_of(head, g);

    if (all.texts == 0) {
        return CSP_OK;
    }
    return head->e.dtype == CSP_BF16 ? add_de<__nv_bfloat16>(be, &all, &g->h, &g->de)
                                     : add_de<float>(be, &all, &g->h, &g->de);
}

/*
 * optim.cu - CUDA side of ops/optim.h. Bound by memory: an update reads and writes each of its
 * arrays once, the gradient's clearing included; bf16 values with masters are only written.
 *
 * All tensors are cut into items of ITEM elements that are counted through; one launch takes the
 * items of all of them, and a table in device memory tells a block whose item it has. The order of
 * sums depends on items alone, not on the device or on how memory is aligned.
 *
 * How gradients are clipped, and whether an update is made at all, is decided on the device by one
 * block, so that the host need not wait for their norm.
 *
 * Scratch: the table (72 bytes a tensor); for the norm also a double for each item.
 */
#include <math.h>

#include "core/rng.h"
#include "core/size.h"
#include "device.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

#define OPTIM_THREADS 256
#define ITEM 8192     /* elements; a multiple of 4, so that items begin as aligned as tensors do */
#define BLOCKS_EACH 8 /* blocks for a processor                                                  */
#define SQUARES_AHEAD 4 /* loads of 16 bytes on their way; ITEM is a multiple of as many a thread */
#define STAGE_PART 64 /* rows of the table uploaded at a time, from the stack                    */

/* One tensor in the table. */
typedef struct optim_row {
    float *value;        /* f32 numbers that are updated, or none: then those of half */
    __nv_bfloat16 *half; /* bf16 numbers that are stored, or none                     */
    float *grad, *m, *v;
    int64_t n;     /* elements                                      */
    int64_t first; /* number of its first item, counted through all */
    int64_t begin; /* csp_optim_tensor.first                        */
    float keep;    /* 1 - η wd, or 1 where nothing decays           */
} optim_row;

/* The scalars of one update, computed in double and rounded once. */
typedef struct adamw_factors {
    float beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step, rsqrt_correction, eps; /* η/(1-β1^t), 1/sqrt(1-β2^t)              */
    csp_rng rounding;                  /* without masters; its key is still to be set */
} adamw_factors;

/* What the device decides before an update. */
typedef struct adamw_gate {
    float grad_scale; /* κ                                          */
    int32_t made;     /* 0: the gradients are cleared, and no more  */
} adamw_gate;

static inline __host__ __device__ int64_t items_of(int64_t n)
{
    return ceil_div(n, ITEM);
}

/* The last row that begins at item or before: rows without elements begin where the next does. */
static __device__ __forceinline__ const optim_row *row_of_item(const optim_row *table,
                                                               int64_t count, int64_t item)
{
    int64_t low = 0, high = count;

    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;

        if (table[middle].first <= item) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return table + low;
}

/* Whether n elements of an array, from an item's first on, may be read four at a time. */
static __device__ __forceinline__ bool is_of_fours(const float *array, int64_t n)
{
    return n % 4 == 0 && (uintptr_t)array % 16 == 0;
}

/* The squares of elements i .. i+3, in their order. */
static __device__ __forceinline__ void add_squares(const float (&g)[4], double &sum)
{
#pragma unroll
    for (int k = 0; k < 4; k++) {
        sum += (double)g[k] * (double)g[k];
    }
}

/* A block takes an item: partial[item] = sum of its squares. */
static __global__ void __launch_bounds__(OPTIM_THREADS)
    grad_squares_kernel(const optim_row *__restrict__ table, // (count)
                        int64_t count, int64_t items,
                        double *__restrict__ partial) // (items)
{
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        const optim_row *row = row_of_item(table, count, item);
        const int64_t start = (item - row->first) * ITEM;
        const int64_t n = row->n - start < ITEM ? row->n - start : ITEM;
        const float *grad = row->grad + start;
        double sum = 0.0;

        if (n == ITEM && is_of_fours(row->grad, n)) {
            float g[SQUARES_AHEAD][4];

            for (int i = 4 * (int)threadIdx.x; i < ITEM; i += SQUARES_AHEAD * 4 * OPTIM_THREADS) {
#pragma unroll
                for (int a = 0; a < SQUARES_AHEAD; a++) {
                    load_vec(grad + i + a * 4 * OPTIM_THREADS, g[a]);
                }
#pragma unroll
                for (int a = 0; a < SQUARES_AHEAD; a++) {
                    add_squares(g[a], sum);
                }
            }
        } else {
            for (int64_t i = 4 * (int64_t)threadIdx.x; i < n; i += 4 * OPTIM_THREADS) {
                float g[4];

#pragma unroll
                for (int k = 0; k < 4; k++) {
                    g[k] = i + k < n ? grad[i + k] : 0.0f;
                }
                add_squares(g, sum);
            }
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            partial[item] = sum;
        }
    }
}

/* A block takes a tensor and adds up its items. */
static __global__ void __launch_bounds__(OPTIM_THREADS)
    grad_squares_total_kernel(const optim_row *__restrict__ table, // (count)
                              int64_t count,
                              const double *__restrict__ partial, // (items)
                              double *__restrict__ squares)       // (count)
{
    for (int64_t t = blockIdx.x; t < count; t += gridDim.x) {
        const int64_t first = table[t].first, items = items_of(table[t].n);
        double sum = 0.0;

        for (int64_t i = threadIdx.x; i < items; i += OPTIM_THREADS) {
            sum += partial[first + i];
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            squares[t] = sum;
        }
    }
}

/* One block. The sum has the order of the contract: one thread adds what all have fetched. */
static __global__ void __launch_bounds__(OPTIM_THREADS)
    adamw_gate_kernel(const double *__restrict__ squares, // (count)
                      int64_t count,
                      const int64_t *__restrict__ faults, // (checks)
                      int64_t checks, double max_norm, adamw_gate *__restrict__ gate)
{
    SHARED(part, double[OPTIM_THREADS]);
    SHARED(bad, int);
    double total = 0.0;
    int mine = 0;

    if (threadIdx.x == 0) {
        bad = 0;
    }
    for (int64_t first = 0; first < count; first += OPTIM_THREADS) {
        const int64_t n = count - first < OPTIM_THREADS ? count - first : OPTIM_THREADS;

        if (threadIdx.x < n) {
            part[threadIdx.x] = squares[first + threadIdx.x];
            mine += !csp_squares_fit(part[threadIdx.x], max_norm);
        }
        __syncthreads();
        for (int64_t i = 0; threadIdx.x == 0 && i < n; i++) {
            total += part[i];
        }
        __syncthreads();
    }
    for (int64_t i = threadIdx.x; i < checks; i += OPTIM_THREADS) {
        mine += faults[i] != -1;
    }
    __syncthreads();
    if (mine > 0) {
        atomicAdd(&bad, mine);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        gate->grad_scale = (float)csp_clip_factor(total, max_norm);
        gate->made = bad == 0;
    }
}

/* The same of all arrays of a row; that is so of those it has not. */
static __device__ __forceinline__ bool is_row_of_fours(const optim_row &row, int64_t n)
{
    return is_of_fours(row.grad, n) && is_of_fours(row.m, n) && is_of_fours(row.v, n) &&
           is_of_fours(row.value, n) && (uintptr_t)row.half % 8 == 0;
}

/* W elements from at on as they are updated, whose random words are those of four from begin. */
template <int W>
static __device__ __forceinline__ void round_half(const csp_rng &rounding, int64_t begin,
                                                  float (&value)[W])
{
    uint32_t word[4];

    csp_rng_u32x4(rounding, (uint64_t)begin / 4, word);
#pragma unroll
    for (int k = 0; k < W; k++) {
        const uint32_t mine = W == 4           ? word[k]
                              : begin % 4 == 0 ? word[0]
                              : begin % 4 == 1 ? word[1]
                              : begin % 4 == 2 ? word[2]
                                               : word[3];

        value[k] = csp_bf16_to_f32(csp_f32_to_bf16_random(value[k], mine >> 16));
    }
}

/*
 * Updates W elements of a row from at on, a multiple of W. half holds them rounded to nearest, or
 * at random where it is all there is. All loads are on their way before any number is used.
 */
template <int W>
static __device__ __forceinline__ void update(const optim_row &row, const adamw_factors &f,
                                              const csp_rng &rounding, float grad_scale, int64_t at)
{
    const float zeros[W] = {};
    float value[W], grad[W], m[W], v[W];

    load_vec(row.grad + at, grad);
    load_vec(row.m + at, m);
    load_vec(row.v + at, v);
    if (row.value != nullptr) {
        load_vec(row.value + at, value);
    } else {
        load_vec(row.half + at, value);
    }
#pragma unroll
    for (int k = 0; k < W; k++) {
        const float g = grad_scale * grad[k];

        m[k] = f.beta1 * m[k] + f.one_minus_beta1 * g;
        v[k] = f.beta2 * v[k] + f.one_minus_beta2 * (g * g);
        value[k] =
            value[k] * row.keep - f.step * (m[k] / (sqrtf(v[k]) * f.rsqrt_correction + f.eps));
    }
    store_vec(row.m + at, m);
    store_vec(row.v + at, v);
    store_vec(row.grad + at, zeros);
    if (row.value != nullptr) {
        store_vec(row.value + at, value);
    } else {
        round_half(rounding, row.begin + at, value);
    }
    if (row.half != nullptr) {
        store_vec(row.half + at, value);
    }
}

/*
 * A block takes an item, a thread four elements of each array at a time where memory allows. 4
 * blocks: 64 registers a thread, and 64 KB of loads on their way.
 */
static __global__ void __launch_bounds__(OPTIM_THREADS, 4)
    adamw_kernel(const optim_row *__restrict__ table, // (count)
                 int64_t count, int64_t items, const adamw_gate *__restrict__ gate,
                 const adamw_factors f)
{
    const float grad_scale = gate->grad_scale;
    const bool made = gate->made != 0;

    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        const optim_row *found = row_of_item(table, count, item);
        const optim_row row = *found;
        const int64_t start = (item - row.first) * ITEM;
        const int64_t end = row.n - start < ITEM ? row.n : start + ITEM;
        csp_rng rounding = f.rounding;

        rounding.key += (uint32_t)(found - table);
        if (!made) {
            for (int64_t i = start + threadIdx.x; i < end; i += OPTIM_THREADS) {
                row.grad[i] = 0.0f;
            }
        } else if (is_row_of_fours(row, end - start)) {
            for (int64_t i = start + 4 * threadIdx.x; i < end; i += 4 * OPTIM_THREADS) {
                update<4>(row, f, rounding, grad_scale, i);
            }
        } else {
            for (int64_t i = start + threadIdx.x; i < end; i += OPTIM_THREADS) {
                update<1>(row, f, rounding, grad_scale, i);
            }
        }
    }
}

/* Writes the table of count tensors into device memory, a part at a time. */
static csp_status upload_table(csp_backend *be, const csp_optim_tensor *tensors, int64_t count,
                               float keep, optim_row *table)
{
    optim_row part[STAGE_PART];
    int64_t first = 0;

    for (int64_t i = 0; i < count; i++) {
        const csp_optim_tensor *t = &tensors[i];
        optim_row *row = &part[i % STAGE_PART];

        row->half = t->value.dtype == CSP_BF16 ? (__nv_bfloat16 *)t->value.data : NULL;
        row->value = (float *)(row->half != NULL ? t->master.data : t->value.data);
        row->grad = (float *)t->grad.data;
        row->m = (float *)t->m.data;
        row->v = (float *)t->v.data;
        row->n = csp_tensor_count(&t->grad);
        row->first = first;
        row->begin = t->first;
        row->keep = t->decay ? keep : 1.0f;
        first += items_of(row->n);
        if (i % STAGE_PART == STAGE_PART - 1 || i == count - 1) {
            CSP_TRY(cuda_stage(be, part, (size_t)(i % STAGE_PART + 1) * sizeof(*part),
                               table + i / STAGE_PART * STAGE_PART));
        }
    }
    return CSP_OK;
}

static int64_t count_items(const csp_optim_tensor *tensors, int64_t count)
{
    int64_t items = 0;

    for (int64_t i = 0; i < count; i++) {
        items += items_of(csp_tensor_count(&tensors[i].grad));
    }
    return items;
}

csp_status cuda_grad_squares(csp_backend *be, const csp_optim_tensor *tensors, int64_t count,
                             csp_tensor *squares)
{
    const int64_t items = count_items(tensors, count);
    const int64_t most = (int64_t)cuda_state_of(be)->processors * BLOCKS_EACH;
    const size_t table_bytes = csp_size_round_up((size_t)count * sizeof(optim_row), 256);
    cudaStream_t stream = cuda_stream(be, "grad_squares");
    optim_row *table;
    double *partial;

    CSP_TRY(cuda_scratch(be, table_bytes + (size_t)items * sizeof(double), (void **)&table));
    partial = (double *)((char *)table + table_bytes);
    CSP_TRY(upload_table(be, tensors, count, 1.0f, table));
    CUDA_TRY(cu::launch(grad_squares_kernel, stride_grid(items, 1, most), OPTIM_THREADS, 0, stream,
                        table, count, items, partial));
    CUDA_TRY(cu::launch(grad_squares_total_kernel, stride_grid(count, 1, most), OPTIM_THREADS, 0,
                        stream, table, count, (const double *)partial, (double *)squares->data));
    return CSP_OK;
}

/* The number of elements of an optional tensor, 0 without one. */
static int64_t given(const csp_tensor *t)
{
    return t->ndim > 0 ? t->dim[0] : 0;
}

csp_status cuda_adamw(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                      const csp_adamw_args *a)
{
    const double t = (double)a->t;
    const int64_t items = count_items(tensors, count);
    const int64_t most = (int64_t)cuda_state_of(be)->processors * BLOCKS_EACH;
    const size_t table_bytes = csp_size_round_up((size_t)count * sizeof(optim_row), 256);
    cudaStream_t stream = cuda_stream(be, "adamw");
    adamw_factors f;
    optim_row *table;
    adamw_gate *gate;

    f.beta1 = (float)a->beta1;
    f.one_minus_beta1 = (float)(1.0 - a->beta1);
    f.beta2 = (float)a->beta2;
    f.one_minus_beta2 = (float)(1.0 - a->beta2);
    f.step = (float)(a->lr / (1.0 - pow(a->beta1, t)));
    f.rsqrt_correction = (float)(1.0 / sqrt(1.0 - pow(a->beta2, t)));
    f.eps = (float)a->eps;
    f.rounding = { a->seed, CSP_DRAW_ROUNDING, (uint32_t)a->tensor, (uint64_t)a->t };
    if (items == 0) {
        return CSP_OK;
    }
    CSP_TRY(cuda_scratch(be, table_bytes + sizeof(*gate), (void **)&table));
    gate = (adamw_gate *)((char *)table + table_bytes);
    CSP_TRY(upload_table(be, tensors, count, (float)(1.0 - a->lr * a->weight_decay), table));
    CUDA_TRY(cu::launch(adamw_gate_kernel, 1, OPTIM_THREADS, 0, stream,
                        (const double *)a->squares.data, given(&a->squares),
                        (const int64_t *)a->faults.data, given(&a->faults), a->max_norm, gate));
    CUDA_TRY(cu::launch(adamw_kernel, stride_grid(items, 1, most), OPTIM_THREADS, 0, stream,
                        (const optim_row *)table, count, items, (const adamw_gate *)gate, f));
    return CSP_OK;
}

/*
 * tiles_sm90.cu - conformance of portable_sm90.cuh, on devices of compute capability 9.0: where a
 * copied tile's elements lie in shared memory, inside the matrix and across its edges; which thread
 * holds which sum of a warpgroup's product of tiles, and how far the sums are from those of f32.
 *
 * Inputs are words of floats, which become matrices of bf16 in memory of their own first: maps of
 * those are what the kernels are given.
 */
#include "cases.h"
#include "portable_sm90.cuh"

enum { A_ROWS = 64, B_ROWS = 256, K = 128, STAGES = K / TILE_COLUMNS };
enum { BOX_ROWS = 16, RAW_ROWS = 20, RAW_COLUMNS = 72, RAW_WORDS = BOX_ROWS * TILE_COLUMNS / 2 };

struct product_tiles {
    __nv_bfloat16 a[STAGES][A_ROWS][TILE_COLUMNS], b[STAGES][B_ROWS][TILE_COLUMNS];
    cu::mbarrier full;
};

struct raw_tile {
    alignas(1024) uint32_t words[RAW_WORDS];
    cu::mbarrier full;
};

static __global__ void to_bfloat_kernel(const uint32_t *in, __nv_bfloat16 *out, int n)
{
    for (int i = conform_thread(); i < n; i += (int)(gridDim.x * blockDim.x)) {
        out[i] = __float2bfloat16_rn(__uint_as_float(in[i]));
    }
}

/* One thread makes a barrier of one arrival, which it makes itself when it expects bytes. */
static __device__ __forceinline__ void make_barrier(cu::mbarrier *full)
{
    if (threadIdx.x == 0) {
        cu::mbarrier_init(full, 1);
        cu::fence_barrier_init();
    }
    __syncthreads();
}

/* Boxes that begin inside, across each edge and outside, as they lie in shared memory. */
static __global__ void copy_kernel(const __grid_constant__ CUtensorMap map, uint32_t *out)
{
    DYN_SHARED_TILES(raw_tile, tile);
    const int x[] = { 0, 8, 40, -8, 0, 80 }, y[] = { 0, 2, 8, 12, -4, 4 };

    make_barrier(&tile.full);
    for (int box = 0; box < 6; box++) {
        if (threadIdx.x == 0) {
            cu::mbarrier_arrive_expect(&tile.full, sizeof(tile.words));
            cu::tile_load(tile.words, &map, x[box], y[box], &tile.full);
        }
        cu::mbarrier_wait(&tile.full, (uint32_t)box % 2);
        for (int i = (int)threadIdx.x; i < RAW_WORDS; i += (int)blockDim.x) {
            out[box * RAW_WORDS + i] = tile.words[i];
        }
        __syncthreads();
    }
}

static __device__ __forceinline__ void multiply(const CUtensorMap *a, const CUtensorMap *b,
                                                product_tiles &s, float (&d)[128])
{
    make_barrier(&s.full);
    if (threadIdx.x == 0) {
        cu::mbarrier_arrive_expect(&s.full, sizeof(s.a) + sizeof(s.b));
        for (int stage = 0; stage < STAGES; stage++) {
            cu::tile_load(&s.a[stage][0][0], a, stage * TILE_COLUMNS, 0, &s.full);
            cu::tile_load(&s.b[stage][0][0], b, stage * TILE_COLUMNS, 0, &s.full);
        }
    }
    cu::mbarrier_wait(&s.full, 0);
    cu::wgmma_fence();
    for (int k = 0; k < K; k += 16) {
        cu::wgmma_64x256(d, &s.a[k / TILE_COLUMNS][0][k % TILE_COLUMNS],
                         &s.b[k / TILE_COLUMNS][0][k % TILE_COLUMNS], k > 0);
        cu::wgmma_commit();
    }
    cu::wgmma_wait<1>();
    cu::wgmma_finish(d);
}

/* Of each thread eight weighted sums of its whole numbers: any other order gives others. */
static __global__ void __launch_bounds__(128)
    exact_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                 uint32_t *out)
{
    DYN_SHARED_TILES(product_tiles, s);
    float d[128] = {};

    multiply(&a, &b, s, d);
#pragma unroll
    for (int part = 0; part < 8; part++) {
        int sum = 0;

#pragma unroll
        for (int i = 0; i < 16; i++) {
            sum += (i + 1) * (int)d[16 * part + i];
        }
        out[8 * threadIdx.x + part] = (uint32_t)sum;
    }
}

/* Of each thread one sum, and the size of its terms. */
static __global__ void __launch_bounds__(128)
    rounded_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                   const __nv_bfloat16 *left, const __nv_bfloat16 *right, uint32_t *out)
{
    DYN_SHARED_TILES(product_tiles, s);
    const int t = (int)threadIdx.x, i = t * 5 % 128;
    const int m = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, n = i / 4 * 8 + t % 4 * 2 + i % 2;
    float d[128] = {}, value = 0.0f, magnitude = 0.0f;

    multiply(&a, &b, s, d);
#pragma unroll
    for (int j = 0; j < 128; j++) {
        value = j == i ? d[j] : value;
    }
    for (int k = 0; k < K; k++) {
        magnitude += fabsf(__bfloat162float(left[m * K + k]) * __bfloat162float(right[n * K + k]));
    }
    out[2 * t] = __float_as_uint(value);
    out[2 * t + 1] = __float_as_uint(magnitude);
}

/* Matrices of bf16 from the input's words. */
static cudaError_t make_matrix(const uint32_t *in, int n, cudaStream_t stream, __nv_bfloat16 **out)
{
    const cudaError_t error = cudaMalloc((void **)out, (size_t)n * sizeof(**out));

    return error == cudaSuccess ? cu::launch(to_bfloat_kernel, 4, 128, 0, stream, in, *out, n)
                                : error;
}

static cudaError_t run_copies(const conform_case *c, const uint32_t *in, uint32_t *out,
                              cudaStream_t stream)
{
    __nv_bfloat16 *x = NULL;
    CUtensorMap map;
    cudaError_t error = make_matrix(in, RAW_ROWS * RAW_COLUMNS, stream, &x);

    error =
        error == cudaSuccess ? cu::tile_map_make(&map, x, RAW_ROWS, RAW_COLUMNS, BOX_ROWS) : error;
    error = error == cudaSuccess ? cu::launch(copy_kernel, 1, 64, c->shared_bytes, stream, map, out)
                                 : error;
    error = error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
    (void)cudaFree(x);
    return error;
}

static cudaError_t run_product(const conform_case *c, const uint32_t *in, uint32_t *out,
                               cudaStream_t stream)
{
    const bool exact = c->rule == RULE_BITS;
    __nv_bfloat16 *x = NULL;
    CUtensorMap a, b;
    cudaError_t error = make_matrix(in, (A_ROWS + B_ROWS) * K, stream, &x);
    const __nv_bfloat16 *right = x + A_ROWS * K;

    error = error == cudaSuccess ? cu::tile_map_make(&a, x, A_ROWS, K, A_ROWS) : error;
    error = error == cudaSuccess ? cu::tile_map_make(&b, right, B_ROWS, K, B_ROWS) : error;
    error = error != cudaSuccess ? error
            : exact              ? cu::allow_shared(exact_kernel, c->shared_bytes)
                                 : cu::allow_shared(rounded_kernel, c->shared_bytes);
    error = error != cudaSuccess ? error
            : exact
                ? cu::launch(exact_kernel, 1, 128, c->shared_bytes, stream, a, b, out)
                : cu::launch(rounded_kernel, 1, 128, c->shared_bytes, stream, a, b, x, right, out);
    error = error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
    (void)cudaFree(x);
    return error;
}

enum { IN_PRODUCT = (A_ROWS + B_ROWS) * K };

static const conform_case cases[] = {
    { "copies of tiles", NULL, 1, 64, sizeof(raw_tile), RAW_ROWS *RAW_COLUMNS, 6 * RAW_WORDS,
      INPUT_NORMALS, RULE_BITS, 0 },
    { "wgmma of bf16 integers", NULL, 1, 128, sizeof(product_tiles), IN_PRODUCT, 8 * 128,
      INPUT_INTEGERS, RULE_BITS, 0 },
    { "wgmma of bf16", NULL, 1, 128, sizeof(product_tiles), IN_PRODUCT, 2 * 128, INPUT_NORMALS,
      RULE_MAGNITUDE, (K + 1) * 0x1p-22 },
};

static cudaError_t run(const conform_case *c, const uint32_t *in, uint32_t *out,
                       cudaStream_t stream)
{
    return c == &cases[0] ? run_copies(c, in, out, stream) : run_product(c, in, out, stream);
}

conform_group conform_tile_cases(void)
{
    conform_group group = CONFORM_GROUP(cases);

    group.run = run;
    return group;
}

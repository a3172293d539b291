/*
 * sample_kernels.cu - small kernels, each right, and wrong in several ways, one at a time.
 *
 *   emulator_sample_kernels_<build> CASE MISTAKE
 *
 * Exit status 0: the numbers are right (MISTAKE 0); 1: they are wrong; 2: a call failed or there is
 * no such case. Others come from the emulator and the sanitizers. test_detection.py says what each
 * build must say of each.
 */
#include "emulator/sample.h"
#include "reduce.cuh"
#include "vec.cuh"

/* Rows of a matrix divided by their root mean square: mistakes 1 and 2 leave a barrier out. */
static __global__ void norm_kernel(const float *x, float *y, int64_t N, int64_t D, int mistake)
{
    SHARED(sums, float[8]);
    const int warps = (int)blockDim.x / 32;

    for (int64_t n = blockIdx.x; n < N; n += gridDim.x) {
        float sum = 0.0f;

        for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
            sum += x[n * D + d] * x[n * D + d];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) {
            sums[threadIdx.x / 32] = sum;
        }
        if (mistake != 1) {
            __syncthreads();
        }
        sum = 0.0f;
        for (int w = 0; w < warps; w++) {
            sum += sums[w];
        }
        if (mistake != 2) {
            __syncthreads();
        }
        for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
            y[n * D + d] = x[n * D + d] * rsqrtf(sum / (float)D);
        }
    }
}

static int norm(cudaStream_t stream, int mistake)
{
    enum { N = 11, D = 200 };
    static float x[N * D], want[N * D], got[N * D];

    for (int i = 0; i < N * D; i++) {
        x[i] = sample_number((uint32_t)i);
    }
    for (int n = 0; n < N; n++) {
        double sum = 0.0;

        for (int d = 0; d < D; d++) {
            sum += (double)x[n * D + d] * x[n * D + d];
        }
        for (int d = 0; d < D; d++) {
            want[n * D + d] = (float)(x[n * D + d] / sqrt(sum / D));
        }
    }
    float *dx = sample_upload(x, N * D, stream), *dy = sample_device<float>(N * D);
    SAMPLE_TRY(cu::launch(norm_kernel, 3, 128, 0, stream, dx, dy, N, D, mistake));
    sample_download(got, dy, N * D, stream);
    return sample_compare(got, want, N * D, 1e-5f);
}

/*
 * The largest of each row. 1: no barrier; 2: a shared index one too far; 3: a row of a shared
 * matrix passed; 4: an element of shared memory never written; 5: one vector of the row too many.
 */
static __global__ void max_kernel(const float *x, float *y, int64_t D, int mistake)
{
    SHARED(best, float[2][4]);
    SHARED(extra, float);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float *row = x + blockIdx.x * D;
    float top = -INFINITY, v[4];

    for (int64_t d = 4 * threadIdx.x; d < D + (mistake == 5 ? 4 : 0); d += 4 * blockDim.x) {
        load_vec(row + d, v);
        for (int i = 0; i < 4; i++) {
            top = v[i] > top ? v[i] : top;
        }
    }
    top = warp_max(top);
    if (lane == 0 && (mistake != 4 || warp != 2)) {
        best[1][mistake == 2 ? warp + 1 : warp] = top;
        best[0][mistake == 3 ? warp + 1 : warp] = 0.0f;
    }
    if (threadIdx.x == 0) {
        extra = 0.0f;
    }
    if (mistake != 1) {
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        top = best[1][0];
        for (int w = 1; w < 4; w++) {
            top = best[1][w] > top ? best[1][w] : top;
            top += best[0][w];
        }
        y[blockIdx.x] = top + extra;
    }
}

static int row_max(cudaStream_t stream, int mistake)
{
    enum { N = 5, D = 260 };
    static float x[N * D];
    float want[N], got[N];

    for (int n = 0; n < N; n++) {
        want[n] = -INFINITY;
        for (int d = 0; d < D; d++) {
            x[n * D + d] = sample_number((uint32_t)(n * D + d)) + 0.01f * (float)n;
            want[n] = fmaxf(want[n], x[n * D + d]);
        }
    }
    float *dx = sample_upload(x, N * D, stream), *dy = sample_device<float>(N);
    SAMPLE_TRY(cu::launch(max_kernel, N, 128, 0, stream, dx, dy, D, mistake));
    sample_download(got, dy, N, stream);
    return sample_compare(got, want, N, 1e-5f);
}

/* A product of bf16 matrices: double-buffered copies, ldmatrix, mma. */
struct Tiles {
    __nv_bfloat16 a[2][32][40],
        b[2][32][40]; /* 32 x 32 each; rows of 80 bytes spread over the banks */
};

static __device__ void load_tiles(Tiles &tiles, int buffer, const __nv_bfloat16 *a,
                                  const __nv_bfloat16 *b, int M, int N, int K, int k0, int mistake)
{
    const int r = (int)threadIdx.x / 4, c = (int)threadIdx.x % 4 * 8;
    const int m = (int)blockIdx.x * 32 + r, n = (int)blockIdx.y * 32 + r;
    const bool in_k = k0 + c < K, guard = mistake != 5;

    cu::cp_async16(&tiles.a[buffer][r][c], a + (int64_t)m * K + k0 + c,
                   in_k && (m < M || !guard) ? 16 : 0);
    cu::cp_async16(&tiles.b[buffer][r][c], b + (int64_t)n * K + k0 + c, in_k && n < N ? 16 : 0);
}

/*
 * c = a b^T. 1: no barrier behind the wait; 2: none before a buffer is filled again; 3: no wait;
 * 4: the wait leaves one group too many; 5: rows past the end of a are loaded; 6: and stored;
 * 7: the last copies are not waited for; 8: b is loaded transposed; 9: the halves of a matrix of b
 * are in the wrong order.
 */
static __global__ void product_kernel(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c,
                                      int M, int N, int K, int mistake)
{
    DYN_SHARED(Tiles, tiles);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int row = warp / 2 * 16, column = warp % 2 * 16, steps = (K + 31) / 32;
    float sum[2][4] = {};

    load_tiles(tiles, 0, a, b, M, N, K, 0, mistake);
    cu::cp_commit();
    for (int step = 0; step < steps; step++) {
        const int now = step % 2;

        if (step + 1 < steps || mistake == 7) {
            load_tiles(tiles, 1 - now, a, b, M, N, K, 32 * (step + 1), mistake);
        }
        cu::cp_commit();
        if (mistake == 4) {
            cu::cp_wait<2>();
        } else if (mistake != 3) {
            cu::cp_wait<1>();
        }
        if (mistake != 1) {
            __syncthreads();
        }
        for (int k = 0; k < 32; k += 16) {
            uint32_t left[4], right[4];

            const __nv_bfloat16 *const own =
                mistake == 9
                    ? &tiles.b[now][column + lane % 16][k + lane / 16 * 8]
                    : &tiles.b[now][column + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8];

            cu::ldmatrix_x4(left, &tiles.a[now][row + lane % 16][k + lane / 16 * 8]);
            if (mistake == 8) {
                cu::ldmatrix_x4_trans(right, own);
            } else {
                cu::ldmatrix_x4(right, own);
            }
            const uint32_t first[2] = { right[0], right[1] }, second[2] = { right[2], right[3] };
            cu::mma_bf16(sum[0], left, first);
            cu::mma_bf16(sum[1], left, second);
        }
        if (mistake != 2) {
            __syncthreads();
        }
    }
    if (mistake != 7) {
        cu::cp_wait<0>();
    }
    for (int i = 0; i < 8; i++) {
        const int m = (int)blockIdx.x * 32 + row + lane / 4 + i / 2 % 2 * 8;
        const int n = (int)blockIdx.y * 32 + column + i / 4 * 8 + lane % 4 * 2 + i % 2;

        if ((m < M || mistake == 6) && n < N) {
            c[(int64_t)m * N + n] = sum[i / 4][i % 4];
        }
    }
}

static int product(cudaStream_t stream, int mistake)
{
    enum { M = 45, N = 33, K = 104 };
    static __nv_bfloat16 a[M * K], b[N * K];
    static float want[M * N], got[M * N];

    for (int i = 0; i < M * K; i++) {
        a[i] = __float2bfloat16(sample_number((uint32_t)i));
    }
    for (int i = 0; i < N * K; i++) {
        b[i] = __float2bfloat16(sample_number((uint32_t)i + 77777));
    }
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < N; n++) {
            double sum = 0.0;

            for (int k = 0; k < K; k++) {
                sum += (double)to_f32(a[m * K + k]) * to_f32(b[n * K + k]);
            }
            want[m * N + n] = (float)sum;
        }
    }
    __nv_bfloat16 *da = sample_upload(a, M * K, stream), *db = sample_upload(b, N * K, stream);
    float *dc = sample_device<float>(M * N);
    SAMPLE_TRY(cu::launch(product_kernel, dim3(2, 2), 128, sizeof(Tiles), stream, da, db, dc, M, N,
                          K, mistake));
    sample_download(got, dc, M * N, stream);
    const int status = sample_compare(got, want, M * N, 1e-4f);
    SAMPLE_TRY(cudaFree(dc)); /* looks at the red zones around it */
    return status;
}

/*
 * Lanes pass values through shared memory. 1: without __syncwarp; 2: overwritten without a second.
 */
static __global__ void exchange_kernel(float *y, int mistake)
{
    SHARED(box, float[2][32]);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float value = (float)threadIdx.x;

    for (int round = 0; round < 5; round++) {
        box[warp][lane] = value;
        if (mistake != 1) {
            __syncwarp();
        }
        value = box[warp][(lane + 1) % 32];
        if (mistake != 2) {
            __syncwarp();
        }
    }
    y[threadIdx.x] = value;
}

static int exchange(cudaStream_t stream, int mistake)
{
    float want[64], got[64], *y = sample_device<float>(64);

    for (int i = 0; i < 64; i++) {
        want[i] = (float)(i / 32 * 32 + (i + 5) % 32);
    }
    SAMPLE_TRY(cu::launch(exchange_kernel, 1, 64, 0, stream, y, mistake));
    sample_download(got, y, 64, stream);
    return sample_compare(got, want, 64, 0.0f);
}

/*
 * Sums over blocks by atomics, and by the last block done. 1: += on shared memory; 2: += on global
 * memory; 3: two blocks write one element; 4: no fence before the counter; 5: sum not zeroed.
 */
static __global__ void count_kernel(float *total, float *partial, unsigned *counter, int mistake)
{
    SHARED(local, int);
    SHARED(last, bool);

    if (threadIdx.x == 0) {
        local = 0;
    }
    __syncthreads();
    if (mistake == 1) {
        local += 1;
    } else {
        atomicAdd(&local, 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        if (mistake == 2) {
            total[0] += (float)local;
        } else {
            atomicAdd(&total[0], (float)local);
        }
        partial[mistake == 3 ? 0 : blockIdx.x] = (float)local;
        if (mistake != 4) {
            __threadfence();
        }
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
        if (last) {
            float sum = 0.0f;

            __threadfence();
            for (unsigned b = 0; b < gridDim.x; b++) {
                sum += partial[mistake == 3 ? 0 : b];
            }
            total[1] = sum;
        }
    }
}

static int count(cudaStream_t stream, int mistake)
{
    const float want[2] = { 4 * 64, 4 * 64 };
    float got[2], *total = sample_device<float>(2), *partial = sample_device<float>(4);
    unsigned *counter = sample_device<unsigned>(1);

    if (mistake != 5) {
        SAMPLE_TRY(cudaMemsetAsync(total, 0, 2 * sizeof(float), stream));
    }
    SAMPLE_TRY(cudaMemsetAsync(counter, 0, sizeof(unsigned), stream));
    SAMPLE_TRY(cu::launch(count_kernel, 4, 64, 0, stream, total, partial, counter, mistake));
    sample_download(got, total, 2, stream);
    return sample_compare(got, want, 2, 0.0f);
}

/*
 * 1: reads one past the end; 2: writes one past; 3: a misaligned vector; 4: before the beginning.
 */
static __global__ void bounds_kernel(const float *x, float *y, int64_t n, int mistake)
{
    const int64_t i = threadIdx.x;
    float v[4];

    if (mistake == 3) {
        load_vec(x + 4 * i + 1, v);
    } else {
        load_vec(x + 4 * i, v);
    }
    y[i] = v[0] + v[1] + v[2] + v[3] + (mistake == 1 && i == 0 ? x[n] : 0.0f);
    if (i == 0 && mistake == 2) {
        y[n / 4] = 1.0f;
    }
    if (i == 0 && mistake == 4) {
        y[-1] = 1.0f;
    }
}

static int bounds(cudaStream_t stream, int mistake)
{
    float x[4 * 31], want[31], got[31];

    for (int i = 0; i < 4 * 31; i++) {
        x[i] = sample_number((uint32_t)i);
    }
    for (int i = 0; i < 31; i++) {
        want[i] = x[4 * i] + x[4 * i + 1] + x[4 * i + 2] + x[4 * i + 3];
    }
    float *dx = sample_upload(x, 4 * 31, stream), *dy = sample_device<float>(31);
    SAMPLE_TRY(cu::launch(bounds_kernel, 1, 31, 0, stream, dx, dy, 4 * 31, mistake));
    sample_download(got, dy, 31, stream);
    const int status = sample_compare(got, want, 31, 1e-5f);
    SAMPLE_TRY(cudaFree(dy));
    return status;
}

/*
 * What only the emulator can say. 1: two textual barriers meet; 2: a barrier meets a shuffle; 3: a
 * shuffle reads a lane outside the mask; 4: a lane returns while its warp waits; 5: a mask names
 * lanes that do not exist; 6: lanes at different operations; 7: shared memory that was not asked
 * for; 8: a lane outside its own mask; 9: a loop waits for what nobody does; 10: mma of half a
 * warp.
 */
static __global__ void rules_kernel(uint32_t *y, uint32_t *flag, int mistake)
{
    const unsigned i = threadIdx.x, lane = i % 32;
    const uint32_t all = 0xFFFFFFFFu, half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    uint32_t value = i;

    if (mistake == 4 && lane == 3) {
        return;
    }
    if (mistake == 1 && i < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (mistake == 2 && i >= 32) {
        __syncthreads();
    } else {
        value = __shfl_xor_sync(all, value, 1);
    }
    value += __shfl_sync(half, value, (int)(mistake == 3 ? (lane + 16) % 32 : lane ^ 2));
    if (mistake == 6 && lane == 5) {
        value += __ballot_sync(half, 1);
    } else {
        value += __shfl_sync(half, 0u, (int)lane);
    }
    if (mistake == 8 && lane == 7) {
        __syncwarp(1u);
    }
    if (mistake == 10 && lane < 16) {
        float c[4] = {};
        const uint32_t a[4] = {}, b[2] = {};

        cu::mma_bf16(c, a, b);
    }
    if (mistake == 5) {
        __syncwarp(i < 32 ? all : 0x1FFFFu);
    }
    if (mistake == 7) {
        DYN_SHARED(Tiles, tiles);
        tiles.a[0][0][0] = __float2bfloat16(0.0f);
    }
    __syncthreads();
    if (i == 0) {
        cu::store_release(flag, 1);
    }
    cu::wait_at_least(flag, mistake == 9 ? 2 : 1);
    y[i] = value;
}

static int rules(cudaStream_t stream, int mistake)
{
    uint32_t got[64], *y = sample_device<uint32_t>(64), *flag = sample_device<uint32_t>(1);

    SAMPLE_TRY(cudaMemsetAsync(flag, 0, sizeof(*flag), stream));
    SAMPLE_TRY(cu::launch(rules_kernel, 1, mistake == 5 ? 48 : 64, 64, stream, y, flag, mistake));
    sample_download(got, y, 64, stream);
    for (unsigned i = 0; i < 64; i++) {
        if (got[i] != (i ^ 1u) + (i ^ 3u)) {
            fprintf(stderr, "wrong numbers: lane %u has %u\n", i, got[i]);
            return 1;
        }
    }
    return 0;
}

/*
 * Four matrices of 8 x 8 copied and loaded. 1: a row's address is not a multiple of 16; 2: half a
 * warp loads; 3: rows are in global memory; 4: a copy goes to global memory.
 */
static __global__ void matrices_kernel(const __nv_bfloat16 *x, uint32_t *y, __nv_bfloat16 *other,
                                       int mistake)
{
    SHARED(rows, __nv_bfloat16[32][24]);
    const int lane = (int)threadIdx.x;
    uint32_t r[4] = {};

    cu::cp_async16(mistake == 4 ? &other[8 * lane] : &rows[lane][8], x + 8 * lane);
    cu::cp_commit();
    cu::cp_wait<0>();
    __syncwarp();
    if (mistake != 2 || lane < 16) {
        cu::ldmatrix_x4(r, mistake == 3   ? x + 8 * lane
                           : mistake == 1 ? &rows[lane][9]
                                          : &rows[lane][8]);
    }
    for (int m = 0; m < 4; m++) {
        y[32 * m + lane] = r[m];
    }
}

static int matrices(cudaStream_t stream, int mistake)
{
    enum { N = 256 };
    static __nv_bfloat16 x[N];
    uint32_t got[N / 2];

    for (int i = 0; i < N; i++) {
        x[i] = __float2bfloat16(sample_number((uint32_t)i));
    }
    __nv_bfloat16 *dx = sample_upload(x, N, stream), *other = sample_device<__nv_bfloat16>(N);
    uint32_t *y = sample_device<uint32_t>(N / 2);
    SAMPLE_TRY(cu::launch(matrices_kernel, 1, 32, 0, stream, dx, y, other, mistake));
    sample_download(got, y, N / 2, stream);
    if (memcmp(got, x, sizeof(got)) != 0) {
        fprintf(stderr, "wrong numbers: the matrices are not those copied\n");
        return 1;
    }
    return 0;
}

/* In this order by "all", without mistakes. */
static const sample_case cases[] = { { "norm", norm },         { "row_max", row_max },
                                     { "product", product },   { "exchange", exchange },
                                     { "count", count },       { "bounds", bounds },
                                     { "matrices", matrices }, { "rules", rules } };

int main(int argc, char **argv)
{
    return sample_main(argc, argv, cases, (int)(sizeof(cases) / sizeof(cases[0])));
}

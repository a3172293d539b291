/*
 * sample_tiles.cu - a product by tiles that are copied (TMA) and multiplied by a warpgroup (wgmma),
 * right, and wrong in several ways, one at a time. Usage and exit status: sample_kernels.cu.
 */
#include "emulator/sample.h"
#include "portable_sm90.cuh"
#include "vec.cuh"

enum {
    BLOCKS = 2,
    M = 50,
    N = 203,
    K = 456,
    STAGES = 2,
    STEPS = (K + TILE_COLUMNS - 1) / TILE_COLUMNS
};

struct Stages {
    __nv_bfloat16 a[STAGES][64][TILE_COLUMNS], b[STAGES][256][TILE_COLUMNS];
    cu::mbarrier full[STAGES], empty[STAGES];
};

/* Thread 0 copies, in order of steps, each stage when the other side has left it. */
static __device__ void produce(Stages &s, const CUtensorMap *a, const CUtensorMap *b, int mistake)
{
    const uint32_t bytes = sizeof(s.a[0]) + sizeof(s.b[0]);

    for (int step = 0; step < STEPS; step++) {
        const int stage = step % STAGES, round = step / STAGES;

        if (mistake != 3) {
            cu::mbarrier_wait(&s.empty[stage], (uint32_t)(round + 1) % 2);
        }
        if (mistake == 1) {
            cu::mbarrier_arrive(&s.full[stage]);
        } else {
            cu::mbarrier_arrive_expect(&s.full[stage], mistake == 11 ? bytes + 16 : bytes);
        }
        if (mistake == 12) {
            cu::mbarrier_arrive(&s.full[stage]);
        }
        cu::tile_load(mistake == 7 ? &s.a[stage][0][32] : &s.a[stage][0][0], a, step * TILE_COLUMNS,
                      mistake == 15 ? 1 : 0, &s.full[stage]);
        cu::tile_load(&s.b[stage][0][0], b, step * TILE_COLUMNS, 0, &s.full[stage]);
    }
    if (mistake == 13) {
        cu::mbarrier_wait(&s.empty[STEPS % STAGES], (uint32_t)(STEPS / STAGES + 1) % 2);
        cu::tile_load(&s.a[STEPS % STAGES][0][0], a, 0, 0, &s.full[STEPS % STAGES]);
    }
}

static __device__ void multiply(Stages &s, float (&d)[128], int mistake)
{
    const bool first = threadIdx.x % 32 == 0;

    for (int step = 0; step < STEPS; step++) {
        const int stage = step % STAGES, before = (step + 1) % STAGES;
        const uint32_t parity = (uint32_t)(step / STAGES) % 2;

        if (mistake != 10) {
            cu::mbarrier_wait(&s.full[stage], mistake == 2 ? 1 - parity : parity);
        }
        if (mistake != 8) {
            cu::wgmma_fence();
        }
        for (int k = 0; k < TILE_COLUMNS; k += 16) {
            cu::wgmma_64x256(d, mistake == 14 ? &s.a[stage][4][k] : &s.a[stage][0][k],
                             &s.b[stage][0][k], step > 0 || k > 0);
        }
        if (mistake != 16) {
            cu::wgmma_commit();
        }
        if (mistake == 9 && first) {
            cu::mbarrier_arrive(&s.empty[stage]);
        }
        cu::wgmma_wait<1>();
        if (mistake != 9 && step > 0 && first) {
            cu::mbarrier_arrive(&s.empty[before]);
        }
    }
    if (mistake != 4) {
        cu::wgmma_finish(d);
    }
}

/* tile_map_make's map, but for the swizzle. */
static cudaError_t sample_plain_map(CUtensorMap *out, const void *base, int rows, int columns)
{
    const cuuint64_t size[2] = { (cuuint64_t)columns, (cuuint64_t)rows };
    const cuuint64_t stride[1] = { (cuuint64_t)columns * 2 };
    const cuuint32_t box[2] = { TILE_COLUMNS, 256 }, step[2] = { 1, 1 };
    enum cudaDriverEntryPointQueryResult found;
    void *encode = nullptr;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode,
                                                               12000, cudaEnableDefault, &found);

    if (error != cudaSuccess) {
        return error;
    }
    return ((decltype(&cuTensorMapEncodeTiled))encode)(
               out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, size, stride, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
               CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

/*
 * c = a b^T, by each block. 1: the bytes of a tile are not expected; 2: the wrong parity; 3: a
 * stage is filled again though nobody has left it; 4: sums are read before the last wait; 5: the
 * map is not swizzled; 6: no fence behind the barriers' initialisation; 7: a tile begins in the
 * middle of a row; 8: no fence before the products; 9: a stage is left before its products are
 * done; 10: a tile is not waited for; 11: more bytes are expected than come; 12: more arrivals
 * than planned; 13: a copy is under way at the end; 14: a matrix that begins within the pattern;
 * 15: the wrong row; 16: products are not committed; 17: a thread leaves its warpgroup alone; 18:
 * a barrier that was not initialised.
 */
static __global__ void __launch_bounds__(256)
    tiles_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                 float *c, int mistake)
{
    DYN_SHARED_TILES(Stages, s);
    const int lane = (int)threadIdx.x % 128;

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES && mistake != 18; stage++) {
            cu::mbarrier_init(&s.full[stage], 1);
            cu::mbarrier_init(&s.empty[stage], 4);
        }
        if (mistake != 6) {
            cu::fence_barrier_init();
        }
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        if (threadIdx.x == 0) {
            produce(s, &a, &b, mistake);
        }
    } else if (mistake != 17 || lane != 77) {
        float d[128] = {};

        multiply(s, d, mistake);
        for (int i = 0; i < 128; i++) {
            const int m = lane / 32 * 16 + lane % 32 / 4 + i / 2 % 2 * 8;
            const int n = i / 4 * 8 + lane % 4 * 2 + i % 2;

            if (m < M && n < N) {
                c[((int)blockIdx.x * M + m) * N + n] = d[i];
            }
        }
        if (mistake == 4) {
            cu::wgmma_finish(d);
        }
    }
}

static int tiles(cudaStream_t stream, int mistake)
{
    static __nv_bfloat16 a[M * K], b[N * K];
    static float want[M * N], got[BLOCKS * M * N];
    CUtensorMap a_map, b_map;

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
    float *dc = sample_device<float>(BLOCKS * M * N);
    SAMPLE_TRY(cu::tile_map_make(&a_map, da, M, K, 64));
    SAMPLE_TRY(cu::tile_map_make(&b_map, db, N, K, 256));
    if (mistake == 5) {
        SAMPLE_TRY(sample_plain_map(&b_map, db, N, K));
    }
    SAMPLE_TRY(cu::allow_shared(tiles_kernel, sizeof(Stages)));
    SAMPLE_TRY(
        cu::launch(tiles_kernel, BLOCKS, 256, sizeof(Stages), stream, a_map, b_map, dc, mistake));
    sample_download(got, dc, BLOCKS * M * N, stream);
    for (int block = 0; block < BLOCKS; block++) {
        if (sample_compare(got + block * M * N, want, M * N, 1e-3f) != 0) {
            return 1;
        }
    }
    return 0;
}

/* What a map may not be: 0 if the driver refuses all of it. */
static int maps(cudaStream_t, int)
{
    static const struct {
        int64_t rows, columns;
        int box, shift;
    } wrong[] = { { 10, 63, 64, 0 }, { 10, 64, 0, 0 },  { 10, 64, 257, 0 },
                  { 0, 64, 64, 0 },  { 10, 64, 64, 4 }, { ((int64_t)1 << 32) + 1, 64, 64, 0 } };
    __nv_bfloat16 *x = sample_device<__nv_bfloat16>(1024);
    CUtensorMap map;

    for (int i = 0; i < (int)(sizeof(wrong) / sizeof(wrong[0])); i++) {
        if (cu::tile_map_make(&map, x + wrong[i].shift, wrong[i].rows, wrong[i].columns,
                              wrong[i].box) != cudaErrorInvalidValue) {
            fprintf(stderr, "wrong numbers: map %d is taken\n", i);
            return 1;
        }
    }
    return 0;
}

static const sample_case cases[] = { { "tiles", tiles }, { "maps", maps } };

int main(int argc, char **argv)
{
    return sample_main(argc, argv, cases, (int)(sizeof(cases) / sizeof(cases[0])));
}

/*
 * matrix.cu - conformance of ldmatrix and mma: which lane holds which element, and how far the sums
 * of the tensor cores are from those of f32.
 *
 * With small integers every sum is exact, so a wrong layout shows in bits. With normal numbers the
 * tensor cores add in an order and with a rounding of their own (towards zero, in blocks that are
 * aligned to the largest term): within 2^-22 of the sum of magnitudes for each of the terms.
 */
#include "cases.h"

enum { ROWS = 16, COLUMNS = 8, WARPS = 4 };

/* One warp's matrices, all as floats in in: a (16,K), b (K,8), c (16,8). */
template <int K> struct operands {
    const uint32_t *a, *b, *c;
};

template <int K> static __device__ __forceinline__ operands<K> operands_of(const uint32_t *in)
{
    const uint32_t *own = in + (int)(threadIdx.x / 32) * (ROWS * K + K * COLUMNS + ROWS * COLUMNS);
    const operands<K> o = { own, own + ROWS * K, own + ROWS * K + K * COLUMNS };

    return o;
}

static __device__ __forceinline__ uint32_t bfloat_bits(uint32_t word)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(__uint_as_float(word)));
}

/* Two neighbours, the first in the lower half. */
static __device__ __forceinline__ uint32_t bfloat_pair(uint32_t first, uint32_t second)
{
    return bfloat_bits(first) | bfloat_bits(second) << 16;
}

static __device__ __forceinline__ float as_bfloat(uint32_t word)
{
    return __uint_as_float(bfloat_bits(word) << 16);
}

/* Element (i, j) of the result, or with magnitudes that and the size of its terms beside it. */
static __device__ __forceinline__ void put(uint32_t *out, int i, int j, float value,
                                           float magnitude, bool with_magnitude)
{
    uint32_t *own = out + (int)(threadIdx.x / 32) * ROWS * COLUMNS * (with_magnitude ? 2 : 1);
    const int at = i * COLUMNS + j;

    if (with_magnitude) {
        own[2 * at] = __float_as_uint(value);
        own[2 * at + 1] = __float_as_uint(magnitude);
    } else {
        own[at] = __float_as_uint(value);
    }
}

static __device__ __forceinline__ void mma_bf16_case(const uint32_t *in, uint32_t *out,
                                                     bool with_magnitude)
{
    const operands<16> o = operands_of<16>(in);
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t a[4], b[2];
    float c[4];

    for (int r = 0; r < 4; r++) {
        const int i = g + r % 2 * 8, k = 2 * t + r / 2 * 8;

        a[r] = bfloat_pair(o.a[i * 16 + k], o.a[i * 16 + k + 1]);
        c[r] = __uint_as_float(o.c[(g + r / 2 * 8) * COLUMNS + 2 * t + r % 2]);
    }
    for (int r = 0; r < 2; r++) {
        const int k = 2 * t + 8 * r;

        b[r] = bfloat_pair(o.b[k * COLUMNS + g], o.b[(k + 1) * COLUMNS + g]);
    }
    cu::mma_bf16(c, a, b);
    for (int r = 0; r < 4; r++) {
        const int i = g + r / 2 * 8, j = 2 * t + r % 2;
        float magnitude = fabsf(__uint_as_float(o.c[i * COLUMNS + j]));

        for (int k = 0; k < 16; k++) {
            magnitude += fabsf(as_bfloat(o.a[i * 16 + k]) * as_bfloat(o.b[k * COLUMNS + j]));
        }
        put(out, i, j, c[r], magnitude, with_magnitude);
    }
}

static __global__ void mma_bf16_exact_kernel(const uint32_t *in, uint32_t *out)
{
    mma_bf16_case(in, out, false);
}

static __global__ void mma_bf16_kernel(const uint32_t *in, uint32_t *out)
{
    mma_bf16_case(in, out, true);
}

static __device__ __forceinline__ void mma_tf32_case(const uint32_t *in, uint32_t *out,
                                                     bool with_magnitude)
{
    const operands<8> o = operands_of<8>(in);
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t a[4], b[2];
    float c[4];

    for (int r = 0; r < 4; r++) {
        const int i = g + r % 2 * 8, k = t + r / 2 * 4;

        a[r] = cu::to_tf32(__uint_as_float(o.a[i * 8 + k]));
        c[r] = __uint_as_float(o.c[(g + r / 2 * 8) * COLUMNS + 2 * t + r % 2]);
    }
    for (int r = 0; r < 2; r++) {
        b[r] = cu::to_tf32(__uint_as_float(o.b[(t + 4 * r) * COLUMNS + g]));
    }
    cu::mma_tf32(c, a, b);
    for (int r = 0; r < 4; r++) {
        const int i = g + r / 2 * 8, j = 2 * t + r % 2;
        float magnitude = fabsf(__uint_as_float(o.c[i * COLUMNS + j]));

        for (int k = 0; k < 8; k++) {
            magnitude +=
                fabsf(__uint_as_float(o.a[i * 8 + k]) * __uint_as_float(o.b[k * COLUMNS + j]));
        }
        put(out, i, j, c[r], magnitude, with_magnitude);
    }
}

static __global__ void mma_tf32_exact_kernel(const uint32_t *in, uint32_t *out)
{
    mma_tf32_case(in, out, false);
}

static __global__ void mma_tf32_kernel(const uint32_t *in, uint32_t *out)
{
    mma_tf32_case(in, out, true);
}

/* Sixteen matrices of 8 x 8 of 16 bits, side by side; lanes take rows from all over them. */
struct matrix_rows {
    alignas(16) uint16_t at[32][32];
};

static __global__ void ldmatrix_kernel(const uint32_t *in, uint32_t *out)
{
    DYN_SHARED(matrix_rows, m);
    const int lane = (int)threadIdx.x;
    uint32_t *to = out + 14 * lane, one[1], two[2], four[4];
    const uint16_t *row = m.at[(lane * 5) % 32] + lane % 4 * 8;

    for (int j = 0; j < 32; j++) {
        m.at[lane][j] = (uint16_t)(in[lane * 16 + j / 2] >> j % 2 * 16);
    }
    __syncthreads();
    cu::ldmatrix_x1(one, row);
    to[0] = one[0];
    cu::ldmatrix_x2(two, row);
    to[1] = two[0];
    to[2] = two[1];
    cu::ldmatrix_x4(four, row);
    for (int j = 0; j < 4; j++) {
        to[3 + j] = four[j];
    }
    cu::ldmatrix_x1_trans(one, row);
    to[7] = one[0];
    cu::ldmatrix_x2_trans(two, row);
    to[8] = two[0];
    to[9] = two[1];
    cu::ldmatrix_x4_trans(four, row);
    for (int j = 0; j < 4; j++) {
        to[10 + j] = four[j];
    }
}

enum {
    IN_BF16 = WARPS * (ROWS * 16 + 16 * COLUMNS + ROWS * COLUMNS),
    IN_TF32 = WARPS * (ROWS * 8 + 8 * COLUMNS + ROWS * COLUMNS),
    OUT = WARPS * ROWS * COLUMNS,
};

static const conform_case cases[] = {
    { "ldmatrix", ldmatrix_kernel, 1, 32, sizeof(matrix_rows), 32 * 16, 32 * 14, INPUT_BITS,
      RULE_BITS, 0 },
    { "mma of bf16 integers", mma_bf16_exact_kernel, 1, WARPS * 32, 0, IN_BF16, OUT, INPUT_INTEGERS,
      RULE_FLOATS, 0 },
    { "mma of bf16", mma_bf16_kernel, 1, WARPS * 32, 0, IN_BF16, 2 * OUT, INPUT_NORMALS,
      RULE_MAGNITUDE, 17 * 0x1p-22 },
    { "mma of tf32 integers", mma_tf32_exact_kernel, 1, WARPS * 32, 0, IN_TF32, OUT, INPUT_INTEGERS,
      RULE_FLOATS, 0 },
    { "mma of tf32", mma_tf32_kernel, 1, WARPS * 32, 0, IN_TF32, 2 * OUT, INPUT_NORMALS,
      RULE_MAGNITUDE, 9 * 0x1p-22 },
};

conform_group conform_matrix_cases(void)
{
    return CONFORM_GROUP(cases);
}

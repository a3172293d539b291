/*
 * product.cc - matrix products of the fake libraries: operands are widened to f32, multiplied by
 * OpenBLAS in one thread, and rounded once when they are stored.
 */
#include "emulator/product.h"

#include <math.h>
#include <string.h>

#include <vector>

#include <cblas.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/scalar.h"
#include "emulator/sanitizer.h"

namespace emu
{

/* What of a workspace is overwritten: its beginning, which is what somebody else would hold there. */
static const size_t SPOILED = (size_t)64 << 10;

size_t element_bytes(cudaDataType type)
{
    switch (type) {
    case CUDA_R_32F:
        return 4;
    case CUDA_R_16BF:
    case CUDA_R_16F:
        return 2;
    case CUDA_R_8F_E4M3:
        return 1;
    default:
        return 0;
    }
}

float load_element(const void *p, cudaDataType type, int64_t i)
{
    switch (type) {
    case CUDA_R_32F:
        return ((const float *)p)[i];
    case CUDA_R_16BF:
        return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    case CUDA_R_8F_E4M3:
        return csp_e4m3_to_f32(((const uint8_t *)p)[i]);
    default:
        return __half2float(((const __half *)p)[i]);
    }
}

void store_element(void *p, cudaDataType type, int64_t i, float value)
{
    switch (type) {
    case CUDA_R_32F:
        ((float *)p)[i] = value;
        break;
    case CUDA_R_16BF:
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(value);
        break;
    default:
        ((__half *)p)[i] = __float2half_rn(value);
        break;
    }
}

bool is_matrix(const Matrix &m)
{
    return element_bytes(m.type) > 0 && m.rows >= 0 && m.cols >= 0 &&
           m.ld >= (m.row_order ? m.cols : m.rows) && m.ld >= 1;
}

void check_matrix(const Matrix &m, bool writes, const char *who)
{
    const int64_t lines = m.row_order ? m.rows : m.cols, length = m.row_order ? m.cols : m.rows;
    const size_t size = element_bytes(m.type);

    for (int64_t i = 0; i < lines; i++) {
        const char *p = (const char *)m.p + (size_t)(i * m.ld) * size;

        if (writes) {
            check_write(p, (size_t)length * size, who);
        } else {
            check_read(p, (size_t)length * size, who);
        }
    }
}

void spoil(void *workspace, size_t bytes, const char *who)
{
    if (workspace != nullptr && bytes > 0) {
        check_write(workspace, bytes, who);
        memset(workspace, settings().fill, bytes < SPOILED ? bytes : SPOILED);
    }
}

namespace
{

float rounded(float value, Rounding rounding)
{
    uint32_t bits;

    if (rounding == ROUND_BF16) {
        return __bfloat162float(__float2bfloat16_rn(value));
    }
    if (rounding == ROUND_TF32 && isfinite(value)) {
        memcpy(&bits, &value, sizeof(bits));
        bits = (bits + 0x1000u) & 0xFFFFE000u;
        memcpy(&value, &bits, sizeof(bits));
    }
    return value;
}

/* value as an element of this type would hold it. */
float stored(float value, cudaDataType type)
{
    float place;

    store_element(&place, type, 0, value);
    return load_element(&place, type, 0);
}

/* op(m) as dense columns of f32. */
std::vector<float> packed(const Matrix &m, bool transpose, Rounding rounding)
{
    std::vector<float> out((size_t)(m.rows * m.cols));

    for (int64_t i = 0; i < m.rows; i++) {
        for (int64_t j = 0; j < m.cols; j++) {
            const int64_t from = m.row_order ? i * m.ld + j : j * m.ld + i;
            const int64_t to = transpose ? i * m.cols + j : j * m.rows + i;

            out[(size_t)to] = rounded(load_element(m.p, m.type, from), rounding);
        }
    }
    return out;
}

Matrix of_batch(Matrix m, int64_t batch)
{
    if (m.p != nullptr) {
        m.p = (char *)m.p + batch * m.batch_stride * (int64_t)element_bytes(m.type);
    }
    return m;
}

float activated(const Product &product, float value)
{
    if (product.relu) {
        return value > 0.0f ? value : 0.0f;
    }
    if (product.gelu) {
        /* The tanh form, which cuBLASLt has. */
        return 0.5f * value *
               (1.0f + tanhf(0.7978845608f * (value + 0.044715f * value * value * value)));
    }
    return value;
}

/* What has been checked and reported is computed; how is nobody's business. */
void compute(const Product &product, const Matrix &a, const Matrix &b, const Matrix &c,
             const Matrix &d)
{
    const int64_t m = d.rows, n = d.cols, k = product.transpose_a ? a.rows : a.cols;
    std::vector<float> sum((size_t)(m * n), 0.0f);

    if (k > 0) {
        const std::vector<float> left = packed(a, product.transpose_a, product.rounding);
        const std::vector<float> right = packed(b, product.transpose_b, product.rounding);

        const int64_t parts = product.parts < 1 ? 1 : product.parts;

        for (int64_t part = 0; part < parts; part++) {
            const int64_t first = part * k / parts, end = (part + 1) * k / parts;

            if (end > first) {
                cblas_sgemm(CblasColMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n,
                            (int)(end - first), 1.0f, left.data() + first * m, (int)m,
                            right.data() + first, (int)k, 1.0f, sum.data(), (int)m);
            }
            for (float &value : sum) {
                if (product.rounds_partial_sums && part < parts - 1) {
                    value = stored(value, d.type);
                }
            }
        }
    }
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < m; i++) {
            const int64_t at = d.row_order ? i * d.ld + j : j * d.ld + i;
            float value = product.alpha * sum[(size_t)(j * m + i)];

            value *= product.scale_a != nullptr ? product.scale_a[i] * product.scale_b[j] : 1.0f;
            if (product.beta != 0.0f) {
                const int64_t from = c.row_order ? i * c.ld + j : j * c.ld + i;

                value += product.beta * load_element(c.p, c.type, from);
            }
            if (product.bias != nullptr) {
                value += load_element(product.bias, product.bias_type, i);
            }
            store_element(d.p, d.type, at, activated(product, value));
        }
    }
}

void multiply_one(const Product &product, int64_t batch)
{
    const Matrix a = of_batch(product.a, batch), b = of_batch(product.b, batch);
    const Matrix c = of_batch(product.c, batch), d = of_batch(product.d, batch);

    if (d.rows == 0 || d.cols == 0) {
        return;
    }
    check_matrix(a, false, product.who);
    check_matrix(b, false, product.who);
    if (product.beta != 0.0f) {
        check_matrix(c, false, product.who);
    }
    check_matrix(d, true, product.who);
    tsan_ignore_begin();
    compute(product, a, b, c, d);
    tsan_ignore_end();
}

} // namespace

void multiply(const Product &product)
{
    tsan_ignore_begin();
    openblas_set_num_threads(1); /* which thread adds what must not change from run to run */
    tsan_ignore_end();
    spoil(product.workspace, product.workspace_bytes, product.who);
    if (product.bias != nullptr) {
        check_read(product.bias, (size_t)product.d.rows * element_bytes(product.bias_type),
                   product.who);
    }
    if (product.scale_a != nullptr) {
        check_read(product.scale_a, (size_t)product.d.rows * sizeof(float), product.who);
        check_read(product.scale_b, (size_t)product.d.cols * sizeof(float), product.who);
    }
    for (int64_t batch = 0; batch < product.batches; batch++) {
        multiply_one(product, batch);
    }
}

} // namespace emu

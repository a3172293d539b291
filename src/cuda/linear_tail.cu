/*
 * linear_tail.cu - the tails of ops/linear.h: u, s B and A of all parts of a group, moved beside
 * and below the operands that they are multiplied with. A tail is some dozen columns wide: what is
 * moved here is little beside what the products read, and one kernel for each tail. What no adapter
 * fills is set to 0 on both sides of a product, since what memory happens to hold may be no number.
 */
#include "launch.cuh"
#include "linear.cuh"
#include "vec.cuh"

#define TAIL_THREADS 256
/* Blocks for each multiprocessor: enough to hide memory latency. */
#define TAIL_BLOCKS 8

/* Which part a column of a tail belongs to. */
template <typename T> struct tail_parts {
    const T *a[CSP_LINEAR_PARTS], *b[CSP_LINEAR_PARTS];
    T *u[CSP_LINEAR_PARTS];
    float scale[CSP_LINEAR_PARTS];
    int64_t O[CSP_LINEAR_PARTS], R[CSP_LINEAR_PARTS];
    int count;
};

template <typename T> static tail_parts<T> parts_of(const linear_call<T> *c)
{
    tail_parts<T> p = {};

    p.count = c->count;
    for (int i = 0; i < c->count; i++) {
        p.a[i] = c->part[i].a;
        p.b[i] = c->part[i].b;
        p.scale[i] = c->part[i].scale;
        p.O[i] = c->part[i].O;
        p.R[i] = c->part[i].R;
    }
    return p;
}

static dim3 tail_grid(csp_backend *be, int64_t elements)
{
    return stride_grid(elements, TAIL_THREADS,
                       (int64_t)cuda_state_of(be)->processors * TAIL_BLOCKS);
}

/* Any grid works: threads stride over the elements of the tail. */
template <typename T>
static __global__ void __launch_bounds__(TAIL_THREADS)
    linear_close_tail_kernel(tail_parts<T> parts, linear_matrix<T> tail /* (N,W) */, int64_t N,
                             int64_t W)
{
    for (int64_t i = grid_thread(); i < N * W; i += grid_threads()) {
        const int64_t n = i / W;
        int64_t r = i % W;
        T *at = tail.at + n * tail.row + r;
        bool filled = false;

#pragma unroll
        for (int p = 0; p < CSP_LINEAR_PARTS; p++) {
            if (p < parts.count && !filled) {
                filled = r < parts.R[p];
                if (filled && parts.u[p] != nullptr) {
                    parts.u[p][n * parts.R[p] + r] = *at;
                }
                r -= parts.R[p];
            }
        }
        if (!filled) {
            *at = from_f32<T>(0.0f);
        }
    }
}

template <typename T>
csp_status cuda_linear_close_tail(const linear_call<T> *c, linear_matrix<T> tail, int64_t W,
                                  T *const u[CSP_LINEAR_PARTS])
{
    tail_parts<T> parts = parts_of(c);

    for (int i = 0; i < c->count; i++) {
        parts.u[i] = u[i];
    }
    CUDA_TRY(cu::launch(linear_close_tail_kernel<T>, tail_grid(c->be, c->N * W), TAIL_THREADS, 0,
                        cuda_state_of(c->be)->stream, parts, tail, c->N, W));
    return CSP_OK;
}

/* Any grid works: threads stride over the elements of the tail. */
template <typename T>
static __global__ void __launch_bounds__(TAIL_THREADS)
    linear_w_tail_kernel(tail_parts<T> parts, linear_matrix<T> tail /* (O,W) */, int64_t O,
                         int64_t W)
{
    for (int64_t i = grid_thread(); i < O * W; i += grid_threads()) {
        int64_t o = i / W, r = i % W;
        T *at = tail.at + o * tail.row + r;
        float value = 0.0f;

#pragma unroll
        for (int p = 0; p < CSP_LINEAR_PARTS; p++) {
            if (p < parts.count) {
                if (o >= 0 && o < parts.O[p] && r >= 0 && r < parts.R[p]) {
                    value = parts.scale[p] * to_f32(parts.b[p][o * parts.R[p] + r]);
                }
                o -= parts.O[p];
                r -= parts.R[p];
            }
        }
        *at = from_f32<T>(value);
    }
}

template <typename T>
csp_status cuda_linear_w_tail(const linear_call<T> *c, linear_matrix<T> tail, int64_t W)
{
    int64_t O = 0;

    for (int i = 0; i < c->count; i++) {
        O += c->part[i].O;
    }
    CUDA_TRY(cu::launch(linear_w_tail_kernel<T>, tail_grid(c->be, O * W), TAIL_THREADS, 0,
                        cuda_state_of(c->be)->stream, parts_of(c), tail, O, W));
    return CSP_OK;
}

/* Any grid works: threads stride over the elements of the tail. */
template <typename T>
static __global__ void __launch_bounds__(TAIL_THREADS)
    linear_a_tail_kernel(tail_parts<T> parts, linear_matrix<T> tail /* (W,I) */, int64_t W,
                         int64_t I)
{
    for (int64_t i = grid_thread(); i < W * I; i += grid_threads()) {
        int64_t r = i / I;
        const int64_t c = i % I;
        T *at = tail.at + r * tail.row + c;
        T value = from_f32<T>(0.0f);

#pragma unroll
        for (int p = 0; p < CSP_LINEAR_PARTS; p++) {
            if (p < parts.count) {
                if (r >= 0 && r < parts.R[p]) {
                    value = parts.a[p][r * I + c];
                }
                r -= parts.R[p];
            }
        }
        *at = value;
    }
}

template <typename T>
csp_status cuda_linear_a_tail(const linear_call<T> *c, linear_matrix<T> tail, int64_t W)
{
    CUDA_TRY(cu::launch(linear_a_tail_kernel<T>, tail_grid(c->be, W * c->I), TAIL_THREADS, 0,
                        cuda_state_of(c->be)->stream, parts_of(c), tail, W, c->I));
    return CSP_OK;
}

#define TAILS_OF(T)                                                                               \
    template csp_status cuda_linear_close_tail<T>(const linear_call<T> *, linear_matrix<T>,       \
                                                  int64_t, T *const[CSP_LINEAR_PARTS]);           \
    template csp_status cuda_linear_w_tail<T>(const linear_call<T> *, linear_matrix<T>, int64_t); \
    template csp_status cuda_linear_a_tail<T>(const linear_call<T> *, linear_matrix<T>, int64_t)

TAILS_OF(float);
TAILS_OF(__nv_bfloat16);

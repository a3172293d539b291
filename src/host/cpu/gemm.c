/*
 * gemm.c - cuts C into a grid of one rectangle per thread and calls sgemm on each.
 *
 * Every rectangle packs its own rows of op(A) and columns of op(B) again, so the grid is the one
 * with the least work on the busiest thread, packing included. Cuts are at multiples of what the
 * micro-kernels of OpenBLAS take at once (8 or 16 columns, 4 rows), so none runs its slow edges in
 * the middle of C.
 */
#include "cpu/gemm.h"

#include <cblas.h>
#include <omp.h>

#include "core/size.h"
#include "cpu/cpu.h"

enum { ROW_UNIT = 8, COLUMN_UNIT = 16 };

/* An element packed costs about as much as this many multiplications. */
enum { PACK_COST = 8 };

/* Products below this are done by one thread: waking the others costs more (about 5 µs). */
static const int64_t SMALL_PRODUCT = 128 * 1024;

typedef struct grid {
    int rows, columns; /* rectangles down and across */
} grid;

/* Outside a region this build of OpenBLAS would use as many threads as OpenMP allows: allow one. */
void cpu_gemm_serial(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc)
{
    const int allowed = omp_get_max_threads();

    if (M < 1 || N < 1) {
        return;
    }
    if (allowed != 1) {
        omp_set_num_threads(1);
    }
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, (int)M, (int)N, (int)K, alpha, a, (int)lda, b,
                (int)ldb, beta, c, (int)ldc);
    if (allowed != 1) {
        omp_set_num_threads(allowed);
    }
}

/* Largest share of n cut into parts at multiples of unit. */
static int64_t largest_share(int64_t n, int64_t unit, int parts)
{
    const int64_t units = (n + unit - 1) / unit;
    const int64_t share = (units + parts - 1) / parts * unit;

    return share < n ? share : n;
}

static grid pick_grid(int64_t M, int64_t N, int64_t K, int threads)
{
    grid best = { 1, 1 };
    double least = -1.0;

    if (M * N < SMALL_PRODUCT / (K > 0 ? K : 1)) {
        return best;
    }
    for (int rows = 1; rows <= threads; rows++) {
        const int columns = threads / rows;
        const double down = (double)largest_share(M, ROW_UNIT, rows);
        const double across = (double)largest_share(N, COLUMN_UNIT, columns);
        const double cost = down * across + PACK_COST * (down + across);

        if (least < 0.0 || cost < least) {
            least = cost;
            best.rows = rows;
            best.columns = columns;
        }
    }
    return best;
}

csp_status cpu_gemm(csp_backend *be, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K,
                    float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc)
{
    const int64_t sizes[] = { M, N, K, lda, ldb, ldc };
    const grid g = pick_grid(M, N, K, be->threads);
    const int parts = g.rows * g.columns;
    int32_t fits;

    for (int i = 0; i < 6; i++) {
        CSP_TRY(csp_size_i32("matrix product", sizes[i], &fits));
    }
    if (parts == 1) {
        cpu_gemm_serial(trans_a, trans_b, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc);
        return CSP_OK;
    }
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        const int row = part / g.columns, column = part % g.columns;
        const int64_t m = cpu_cut(M, ROW_UNIT, g.rows, row);
        const int64_t m_end = cpu_cut(M, ROW_UNIT, g.rows, row + 1);
        const int64_t n = cpu_cut(N, COLUMN_UNIT, g.columns, column);
        const int64_t n_end = cpu_cut(N, COLUMN_UNIT, g.columns, column + 1);

        cpu_gemm_serial(trans_a, trans_b, m_end - m, n_end - n, K, alpha,
                        trans_a ? a + m : a + m * lda, lda, trans_b ? b + n * ldb : b + n, ldb,
                        beta, c + m * ldc + n, ldc);
    }
    return CSP_OK;
}

csp_status cpu_gemm_warm(csp_backend *be)
{
    /* More columns than OpenBLAS packs at once, so that it fills the second buffer too. */
    enum { M = 64, N = 1024, K = 384, ROUNDS = 4, COUNT = M * K + N * K + M * N };

    CSP_TRY(cpu_scratch_each(be, COUNT * sizeof(float)));
#pragma omp parallel num_threads(be->threads)
    {
        float *a = cpu_scratch_of(be, omp_get_thread_num());

        /* Together: a buffer goes to whoever asks first, and is free again after the product. */
        for (int round = 0; round < ROUNDS; round++) {
#pragma omp barrier
            cpu_gemm_serial(false, true, M, N, K, 1.0f, a, K, a + M * K, K, 0.0f, a + M * K + N * K,
                            N);
        }
    }
    return CSP_OK;
}

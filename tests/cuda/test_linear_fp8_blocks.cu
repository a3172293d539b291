/*
 * test_linear_fp8_blocks.cu - products with matrices in e4m3 whose rows are taken in several
 * blocks: they give what all rows at once give.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern "C" {
#include <cmocka.h>

#include "ops/quantize.h"
#include "support/compare.h"
#include "support/rig.h"
}

#include "linear_fp8.cuh"

enum { N = 53, I = 32, O = 48, BLOCK_ROWS = 16 };

static csp_tensor matrix(rig *r, bool drawn, int64_t rows, int64_t columns)
{
    const int64_t dims[] = { rows, columns };

    return drawn ? rig_normal(r, CSP_F32, 2, dims) : rig_output(r, CSP_F32, 2, dims);
}

/* Both are sums of the same rounded numbers, `terms` of them; blocks may add in another order. */
static void check_alike(rig *r, const csp_tensor *a, const csp_tensor *b, int terms)
{
    const float *got = (const float *)rig_host(r, a), *want = (const float *)rig_host(r, b);
    float most = 0.0f;

    for (int64_t i = 0; i < csp_tensor_count(a); i++) {
        most = fmaxf(most, fabsf(want[i]));
    }
    for (int64_t i = 0; i < csp_tensor_count(a); i++) {
        assert_true(fabsf(got[i] - want[i]) <= (float)(2 * terms) * (float)UNIT_F32 * most);
    }
}

static void blocks_of_rows_give_what_all_rows_give(void **state)
{
    rig *r = (rig *)*state;
    const bool begun[CSP_LINEAR_PARTS] = {};
    const int64_t dims[] = { O, I };
    csp_tensor none = csp_tensor_none();

    rig_begin(r, 1);
    csp_tensor values = matrix(r, true, O, I), x = matrix(r, true, N, I);
    csp_tensor dy = matrix(r, true, N, O), y[2], dx[2];
    csp_linear_group g = {};

    g.count = 1;
    g.part[0].w = rig_output(r, CSP_E4M3, 2, dims);
    g.part[0].w_scale = rig_output(r, CSP_F32, 1, dims);
    assert_int_equal(csp_quantize_rows(r->be, &values, &none, &g.part[0].w, &g.part[0].w_scale),
                     CSP_OK);
    for (int i = 0; i < 2; i++) {
        csp_linear_rows rows = {};
        csp_linear_group_grad grad = {};

        y[i] = matrix(r, false, N, O);
        dx[i] = matrix(r, false, N, I);
        rows.x = x;
        rows.y[0] = y[i];
        grad.dy[0] = dy;
        grad.dx = dx[i];
        assert_int_equal(cuda_linear_fp8_fwd(r->be, &g, &rows, begun,
                                             i == 0 ? BLOCK_ROWS * I : CUDA_FP8_BLOCK_BYTES),
                         CSP_OK);
        assert_int_equal(cuda_linear_fp8_bwd(r->be, &g, &grad, false,
                                             i == 0 ? BLOCK_ROWS * O : CUDA_FP8_BLOCK_BYTES),
                         CSP_OK);
    }
    check_alike(r, &y[0], &y[1], I);
    check_alike(r, &dx[0], &dx[1], O);
    rig_check_guards(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_rows_give_what_all_rows_give),
    };
    char name[] = "test", device[] = "cuda:0";
    char *arguments[] = { name, device };

    return rig_main(2, arguments, tests, sizeof(tests) / sizeof(tests[0]));
}

/* test_e4m3.cu - e4m3 of core/scalar.h against NVIDIA's own conversions, cuda_fp8.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cuda_fp8.h>

extern "C" {
#include <cmocka.h>
}

#include "core/scalar.h"

static void check(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    const int want = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
    const int got = csp_f32_to_e4m3(value);

    if ((want & 0x7F) == 0x7F ? (got & 0x7F) != 0x7F : got != want) {
        fail_msg("%a is rounded to %02x, not %02x", (double)value, (unsigned)got, (unsigned)want);
    }
}

/* All upper halves of a float with lower ones beside what decides, and one number in 997. */
static void numbers_are_rounded_as_by_cuda(void **state)
{
    const uint32_t low[] = { 0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF };

    (void)state;
    for (uint32_t high = 0; high < 65536; high++) {
        for (uint32_t half : low) {
            check(high << 16 | half);
        }
    }
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += 997) {
        check((uint32_t)bits);
    }
}

static void patterns_are_the_numbers_of_cuda(void **state)
{
    (void)state;
    for (int bits = 0; bits < 256; bits++) {
        __nv_fp8_e4m3 theirs;
        float want;

        theirs.__x = (__nv_fp8_storage_t)bits;
        want = (float)theirs;
        const float got = csp_e4m3_to_f32((uint8_t)bits);
        assert_true(want == got || (want != want && got != got));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_rounded_as_by_cuda),
        cmocka_unit_test(patterns_are_the_numbers_of_cuda),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_vectors_float.c - weights in JSONL: written to come back, read as the nearest float. */
#include "io/scratch.h"

#include "core/rng.h"
#include "io/vectors_file.h"

static void check_float(float value)
{
    char text[32], again[32], *end = csp_vectors_put_float(text, value);
    float back;

    assert_true(end - text <= 24);
    *end = '\0';
    back = strtof(text, &end);
    if (back != value || *end != '\0') {
        print_error("%.9g is written as %s\n", (double)value, text);
    }
    assert_true(back == value && *end == '\0');
    /* Never longer than nine digits are. */
    assert_true(strlen(text) <= (size_t)snprintf(again, sizeof(again), "%.9g", (double)value) + 5);
}

static void floats_are_written_so_that_they_come_back(void **state)
{
    static const struct {
        float value;
        const char *text;
    } known[] = { { 1.0f, "1" },
                  { 0.1f, "0.1" },
                  { 1.25f, "1.25" },
                  { 100.0f, "100" },
                  { 0.00012f, "0.00012" },
                  { 3.1415927f, "3.1415927" },
                  { 16777216.0f, "16777216" },
                  { 999999936.0f, "999999936" } };
    const csp_rng rng = { 5, CSP_DRAW_TEST, 0, 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        char text[32];

        *csp_vectors_put_float(text, known[i].value) = '\0';
        assert_string_equal(text, known[i].text);
    }
    for (uint32_t i = 0; i < 300000; i++) {
        uint32_t bits = csp_rng_u32(rng, i) & 0x7FFFFFFFu;
        float value;

        if (bits == 0 || bits >= 0x7F800000u) {
            continue;
        }
        memcpy(&value, &bits, 4);
        check_float(value);
        check_float(1e-5f + 20.0f * csp_rng_uniform(rng, i));
    }
    for (int e = -149; e < 128; e++) { /* powers of two, where the gap below is half */
        check_float(ldexpf(1.0f, e));
        check_float(nextafterf(ldexpf(1.0f, e), 0.0f) > 0.0f ? nextafterf(ldexpf(1.0f, e), 0.0f)
                                                             : 1.0f);
    }
    for (float p = 1e-5f; p < 1e9f; p *= 10.0f) { /* powers of ten, where the digits carry */
        check_float(p);
        check_float(nextafterf(p, 0.0f));
        check_float(nextafterf(p, INFINITY));
    }
}

/* Numbers as files have them must become the nearest float, ties as strtof breaks them. */
static void decimals_are_read_as_the_nearest_float(void **state)
{
    static const char *const hard[] = {
        "1.00000005960464477539", /* just half way between 1 and the next float */
        /* rounded to a double they lie half way, the decimals themselves do not */
        "3.48768413066864", "6.00359845161438", "0.0688084028661251", "0.699852854013443",
        "1.000000059604644775390625", "1.000000059604645", "0.99999997019767761", "16777217",
        "16777219", "8388608.5", "1e-45", "1.17549435e-38", "3.4028235e38", "0.1", "123456789",
        "1234567890123456789", "0.000000000000000001", "4.5", "1e0", "1E+1"
    };
    const csp_rng rng = { 6, CSP_DRAW_TEST, 0, 0 };
    char line[4096], path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("decimals.jsonl"));
    for (int round = 0; round < 300; round++) {
        float want[40];
        int used = snprintf(line, sizeof(line), "{\"id\": 1, \"vector\": {"), count = 0;
        csp_vectors *v;

        for (int i = 0; i < 40; i++) {
            char number[64];

            if (round == 0) {
                if (i >= (int)(sizeof(hard) / sizeof(hard[0]))) {
                    break;
                }
                snprintf(number, sizeof(number), "%s", hard[i]);
            } else {
                const double x =
                    ldexp(1.0 + (double)csp_rng_u32(rng, (uint64_t)(round * 64 + i)) * 0x1p-32,
                          (int)(csp_rng_u32(rng, (uint64_t)(round * 64 + i) << 32) % 20) - 10);

                snprintf(number, sizeof(number), "%.*g", i % 20 + 1, x);
                if (strchr(number, '+') != NULL && i % 20 == 0) {
                    snprintf(number, sizeof(number), "1");
                }
            }
            want[count++] = strtof(number, NULL);
            used += snprintf(line + used, sizeof(line) - (size_t)used, "%s\"%d\": %s",
                             i > 0 ? ", " : "", i, number);
        }
        snprintf(line + used, sizeof(line) - (size_t)used, "}}\n");
        scratch_text(path, line);
        assert_ok(csp_vectors_read(path, &v));
        assert_int_equal(v->row_ptr[1], count);
        assert_memory_equal(v->weight, want, (size_t)count * sizeof(float));
        csp_vectors_free(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_are_written_so_that_they_come_back),
        cmocka_unit_test(decimals_are_read_as_the_nearest_float),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}

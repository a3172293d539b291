/*
 * test_sum_order.c - what a run that goes on otherwise is told: each line that differs, with both
 * values, and nothing of what an earlier csplade did not write down.
 */
#include <fcntl.h>

#include "train/tiny.h"

#include "train/sum_order.h"

/* What a comparison says, in memory that the next one uses again. */
static const char *said(const char *there, const char *here, bool in_phase)
{
    static char text[1 << 14];
    char path[400];
    char *lines;
    size_t bytes;
    int before, file;

    snprintf(path, sizeof(path), "%s", scratch_path("said"));
    fflush(stderr);
    before = dup(STDERR_FILENO);
    file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(before >= 0 && file >= 0 && dup2(file, STDERR_FILENO) >= 0);
    csp_sum_order_compare(there, here, in_phase);
    fflush(stderr);
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    close(before);
    close(file);
    lines = scratch_read(path, &bytes);
    assert_true(bytes < sizeof(text));
    memcpy(text, lines, bytes);
    text[bytes] = '\0';
    free(lines);
    return text;
}

/* One line, with these words. */
static void expect_line(const char *got, const char *words)
{
    if (strstr(got, words) == NULL) {
        print_error("%s\nsays not: %s\n", got, words);
    }
    assert_non_null(strstr(got, words));
    assert_ptr_equal(strchr(got, '\n'), got + strlen(got) - 1);
}

static void libraries_and_drivers_are_compared(void **state)
{
    static const char now[] = "device cuda\ndriver CUDA 13.0\ncublas 13.1.0\nranks 2\n";

    (void)state;
    assert_string_equal(said(now, now, true), "");
    expect_line(said("device cuda\ndriver CUDA 12.9\ncublas 13.1.0\nranks 2\n", now, true),
                "driver was CUDA 12.9 before and is CUDA 13.0 now: ");
    expect_line(said("device cuda\ndriver CUDA 13.0\ncublas 13.0.2\nranks 2\n", now, true),
                "cublas was 13.0.2 before and is 13.1.0 now: ");
    expect_line(said("device cpu\nblas OpenBLAS 0.3.21 Haswell\nranks 2\n",
                     "device cpu\nblas OpenBLAS 0.3.21 SkylakeX\nranks 2\n", true),
                "blas was OpenBLAS 0.3.21 Haswell before and is OpenBLAS 0.3.21 SkylakeX now: ");
    expect_line(said("device cpu\nblas OpenBLAS 0.3.21 Haswell\nranks 2\n", now, true),
                "device was cpu before and is cuda now: ");
    /* Of an earlier csplade: these lines were not written down. */
    assert_string_equal(said("device cuda\nranks 2\n", now, true), "");
    assert_string_equal(said("", now, true), "");
    assert_string_equal(said("device cuda\nranks 2\ncollectives NCCL 2.28.9\n",
                             "device cuda\ndriver CUDA 13.0\nranks 2\ncollectives NCCL 2.28.9\n",
                             true),
                        "");
}

static void what_is_set_for_collectives_in_one_of_them_is_compared(void **state)
{
    static const char with[] = "device cuda\nranks 2\ncollectives NCCL 2.28.9\nNCCL_ALGO Ring\n";
    static const char without[] = "device cuda\nranks 2\ncollectives NCCL 2.28.9\n";

    (void)state;
    expect_line(said(with, without, true), "NCCL_ALGO was Ring before and is not set now: ");
    expect_line(said(without, with, true), "NCCL_ALGO is Ring now and was not set before: ");
    expect_line(said(with, "device cuda\nranks 1\n", true), "ranks was 2 before and is 1 now: ");
}

static void other_blocks_are_named(void **state)
{
    static const char now[] = "block_layout 2\ndevice cpu\nranks 2\n";
    static const char words[] = "block_layout was 1 before and is 2 now: "
                                "contrastive.negative_blocks deals queries out into other blocks";

    (void)state;
    expect_line(said("device cpu\nranks 2\n", now, true), words);
    expect_line(said("", now, true), words);
    expect_line(said("block_layout 1\ndevice cpu\nranks 2\n", now, true), words);
    assert_string_equal(said(now, now, true), "");
    /* The phase that has blocks has not begun, or has none. */
    assert_string_equal(said("device cpu\nranks 2\n", now, false), "");
    assert_string_equal(said("device cpu\nranks 2\n", "device cpu\nranks 2\n", true), "");
}

static void a_run_says_what_it_depends_on(void **state)
{
    char text[CSP_SUM_ORDER_BYTES];
    csp_backend *be;

    (void)state;
    devices_register();
    assert_ok(csp_backend_create("cpu", 1, &be));
    assert_ok(csp_sum_order_describe(1, NULL, be, "NCCL_ALGO Ring\n", text));
    assert_int_equal(strncmp(text, "device cpu\nblas OpenBLAS ", 25), 0);
    assert_non_null(strstr(text, "\nranks 1\n"));
    assert_null(strstr(text, "NCCL"));
    assert_ok(csp_sum_order_describe(2, NULL, be, "", text));
    assert_int_equal(strncmp(text, "block_layout 2\ndevice cpu\n", 26), 0);
    csp_backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(libraries_and_drivers_are_compared),
        cmocka_unit_test(what_is_set_for_collectives_in_one_of_them_is_compared),
        cmocka_unit_test(other_blocks_are_named),
        cmocka_unit_test(a_run_says_what_it_depends_on),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}

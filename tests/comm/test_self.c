/* test_self.c - one rank: the same calls, without a thread or a network. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "core/fault.h"

static csp_comm *make(csp_launch_kind kind)
{
    const csp_launch launch = { .kind = kind, .size = 1 };
    const csp_comm_options options = { .timeout_s = 5.0 };
    csp_comm *comm = NULL;

    assert_int_equal(csp_comm_create(&launch, &options, &comm), CSP_OK);
    return comm;
}

static void has_one_rank(void **state)
{
    csp_comm *comm = make(CSP_LAUNCH_MPI); // of one rank: needs no library either
    int rank = 5, code = 5;

    assert_int_equal(csp_comm_rank(comm), 0);
    assert_int_equal(csp_comm_size(comm), 1);
    assert_int_equal(csp_comm_local_rank(comm), 0);
    assert_int_equal(csp_comm_local_size(comm), 1);
    csp_comm_failure(comm, &rank, &code);
    assert_int_equal(rank, -1);
    csp_comm_destroy(comm);
    csp_comm_destroy(NULL);
}

static void gives_back_what_it_got(void **state)
{
    csp_comm *comm = make(CSP_LAUNCH_ALONE);
    const int64_t three = 3, two = 2;
    float x[3] = { 1.5f, NAN, -0.0f }, before[3];
    double part[2] = { 1e300, 2.0 }, sum[2] = { 0 };
    char own[3] = "ab", all[4] = "zzz";
    int64_t ticket;

    memcpy(before, x, sizeof(x));
    assert_int_equal(csp_comm_reduce(comm, x, CSP_F32, 3, CSP_COMM_SUM, "x"), CSP_OK);
    assert_memory_equal(x, before, sizeof(x));
    assert_int_equal(csp_comm_gather(comm, own, all, &three, "letters"), CSP_OK);
    assert_string_equal(all, "ab");
    assert_int_equal(csp_comm_gather(comm, all, all, &three, "in place"), CSP_OK);
    assert_int_equal(csp_comm_scatter_sum_start(comm, part, sum, CSP_F64, &two, "sum", &ticket),
                     CSP_OK);
    assert_int_equal(csp_comm_wait(comm, ticket), CSP_OK);
    assert_true(sum[0] == 1e300 && sum[1] == 2.0);
    assert_int_equal(csp_comm_broadcast(comm, own, 3, 0, "letters"), CSP_OK);
    assert_int_equal(csp_comm_barrier(comm, "here"), CSP_OK);
    assert_int_equal(csp_comm_agree(comm, "text", "the config"), CSP_OK);
    assert_int_equal(csp_comm_traffic_of(comm).sent, 0);
    assert_int_equal(csp_comm_traffic_of(comm).received, 0);
    assert_int_equal(csp_comm_traffic_of(comm).calls, 6);
    csp_comm_destroy(comm);
}

static void refuses_wrong_calls(void **state)
{
    csp_comm *comm = make(CSP_LAUNCH_ALONE);
    const csp_launch launch = { .size = 1 };
    const csp_comm_options options = { .timeout_s = 0.0 };
    const int64_t minus = -1;
    int64_t ticket = 77, first, second;
    csp_comm *none = NULL;
    char data[8] = { 0 };

    assert_int_equal(csp_comm_create(&launch, &options, &none), CSP_ERR_ARGUMENT);
    assert_null(none);
    assert_int_equal(csp_comm_reduce_start(comm, data, CSP_BF16, 1, CSP_COMM_SUM, "x", &ticket),
                     CSP_ERR_ARGUMENT);
    assert_string_equal(csp_error_text(), "x: ranks combine f32, f64, i32 and i64, not bf16");
    assert_int_equal(csp_comm_gather_start(comm, data, data, &minus, "x", &ticket),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_comm_broadcast_start(comm, data, 1, 1, "x", &ticket), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_comm_reduce_start(comm, data, CSP_F32, -1, CSP_COMM_SUM, "x", &ticket),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(ticket, 77);
    assert_int_equal(csp_comm_barrier_start(comm, "one", &first), CSP_OK);
    assert_int_equal(csp_comm_barrier_start(comm, "two", &second), CSP_OK);
    assert_int_equal(csp_comm_wait(comm, second), CSP_OK);
    assert_int_equal(csp_comm_wait(comm, second), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_comm_wait(comm, first), CSP_OK);
    assert_int_equal(csp_comm_barrier_start(comm, "not waited for", &first), CSP_OK);
    csp_comm_report(comm, 4, "nobody hears this");
    csp_comm_destroy(comm);
}

/* Several ranks by mpirun need the plugin: a sentence with what brings it. */
static void names_a_missing_plugin(void **state)
{
    csp_launch launch = { .kind = CSP_LAUNCH_MPI, .size = 2, .by = "mpirun" };
    const csp_comm_options options = { .timeout_s = 5.0 };
    csp_comm *comm = NULL;

    assert_int_equal(csp_comm_create(&launch, &options, &comm), CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "built without Open MPI (Debian's libopenmpi-dev)"));
    (void)snprintf(launch.mpi_plugin, sizeof(launch.mpi_plugin), "/nowhere/libcsplade_mpi.so");
    assert_int_equal(csp_comm_create(&launch, &options, &comm), CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "/nowhere/libcsplade_mpi.so cannot be opened: "));
    (void)snprintf(launch.mpi_plugin, sizeof(launch.mpi_plugin), "libm.so.6");
    assert_int_equal(csp_comm_create(&launch, &options, &comm), CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "belongs to another csplade"));
    assert_null(comm);
}

/* Every allocation fails once: a message, nothing lost, nothing written. */
static void survives_missing_memory(void **state)
{
    const csp_launch launch = { .size = 1 };
    const csp_comm_options options = { .timeout_s = 5.0 };

    for (long n = 1;; n++) {
        csp_comm *comm = NULL;
        csp_comm *group = NULL;
        csp_status status;
        int64_t ticket = 0;

        csp_fault_arm(n);
        status = csp_comm_create(&launch, &options, &comm);
        if (status == CSP_OK) {
            status = csp_comm_group(comm, 0, 1, &group);
            assert_true((group != NULL) == (status == CSP_OK));
        }
        if (status == CSP_OK) {
            status = csp_comm_barrier_start(comm, "x", &ticket);
        }
        if (csp_fault_asked() < n) {
            csp_fault_arm(0);
            assert_int_equal(status, CSP_OK);
            csp_comm_destroy(comm);
            break;
        }
        csp_fault_arm(0);
        assert_int_equal(status, CSP_ERR_MEMORY);
        assert_int_equal(ticket, 0);
        csp_comm_destroy(comm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_one_rank),
        cmocka_unit_test(gives_back_what_it_got),
        cmocka_unit_test(refuses_wrong_calls),
        cmocka_unit_test(names_a_missing_plugin),
        cmocka_unit_test(survives_missing_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

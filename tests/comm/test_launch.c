/* test_launch.c - ranks from the variables of each launcher, and the traps among them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/launch.h"

static const char *const known[] = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "CUDA_VISIBLE_DEVICES",
    "NCCL_DEBUG",
    "NCCL_SOCKET_IFNAME",
    "OMPI_MCA_btl",
    "PMIX_RANK",
    "PMIX_NAMESPACE",
    "PMI_RANK",
    "PMI_SIZE",
    "CSPLADE_MPI_PLUGIN",
};

/* Sets "A=1 B=2" and nothing else of what launchers set, and asks. */
static csp_status find(const char *variables, csp_launch *out)
{
    char text[512], *rest = text, *word;

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        unsetenv(known[i]);
    }
    (void)snprintf(text, sizeof(text), "%s", variables);
    while ((word = strsep(&rest, " ")) != NULL) {
        char *equals = strchr(word, '=');

        if (equals != NULL) {
            *equals = '\0';
            setenv(word, equals + 1, 1);
        }
    }
    return csp_launch_find(out);
}

static void finds_each_launcher(void **state)
{
    static const struct {
        const char *variables;
        csp_launch_kind kind;
        int rank, size;
        const char *by;
    } cases[] = {
        { "", CSP_LAUNCH_ALONE, 0, 1, "alone" },
        { "MASTER_ADDR=node1 MASTER_PORT=1234", CSP_LAUNCH_ALONE, 0, 1, "alone" },
        { "RANK= WORLD_SIZE=", CSP_LAUNCH_ALONE, 0, 1, "alone" },
        { "RANK=3 WORLD_SIZE=4 MASTER_ADDR=node1 MASTER_PORT=1234 LOCAL_RANK=1", CSP_LAUNCH_TCP, 3,
          4, "torchrun variables" },
        { "RANK=0 WORLD_SIZE=1", CSP_LAUNCH_TCP, 0, 1, "torchrun variables" },
        { "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3", CSP_LAUNCH_MPI, 2, 3, "mpirun" },
        /* mpirun in a batch job: SLURM's variables say rank 0 of everybody. */
        { "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3 SLURM_PROCID=0 SLURM_LOCALID=0 "
          "SLURM_NTASKS=3 SLURM_STEP_NUM_TASKS=1",
          CSP_LAUNCH_MPI, 2, 3, "mpirun" },
        { "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 PMIX_RANK=1 PMIX_NAMESPACE=s.1",
          CSP_LAUNCH_MPI, 1, 2, "srun" },
        { "SLURM_PROCID=1 SLURM_NTASKS=2 PMIX_RANK=1", CSP_LAUNCH_MPI, 1, 2, "srun" },
        /* A step of fewer tasks than the job has. */
        { "SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=1 PMIX_RANK=0", CSP_LAUNCH_ALONE, 0,
          1, "alone" },
        { "SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=1", CSP_LAUNCH_ALONE, 0, 1, "alone" },
        /* The shell of a batch script of several tasks. */
        { "SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=4 SLURM_JOB_ID=7", CSP_LAUNCH_ALONE, 0, 1,
          "alone" },
        /* srun that starts a script which sets torchrun's variables. */
        { "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=99",
          CSP_LAUNCH_TCP, 1, 2, "torchrun variables" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        csp_launch launch;

        if (find(cases[i].variables, &launch) != CSP_OK) {
            fail_msg("%s: %s", cases[i].variables, csp_error_text());
        }
        assert_int_equal(launch.kind, cases[i].kind);
        assert_int_equal(launch.rank, cases[i].rank);
        assert_int_equal(launch.size, cases[i].size);
        assert_string_equal(launch.by, cases[i].by);
    }
}

static void keeps_where_and_what(void **state)
{
    csp_launch launch;

    assert_int_equal(find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=::1 MASTER_PORT=65535 "
                          "CSPLADE_MPI_PLUGIN=/a/b.so",
                          &launch),
                     CSP_OK);
    assert_string_equal(launch.master, "::1");
    assert_int_equal(launch.port, 65535);
    assert_string_equal(launch.mpi_plugin, "/a/b.so");
}

static void refuses_in_a_sentence(void **state)
{
    static const struct {
        const char *variables, *words;
    } cases[] = {
        { "RANK=0", "RANK is set and WORLD_SIZE is not" },
        { "WORLD_SIZE=2", "WORLD_SIZE is set and RANK is not" },
        { "RANK=2 WORLD_SIZE=2", "RANK is 2 and WORLD_SIZE is 2: ranks are 0 to 1" },
        { "RANK=x WORLD_SIZE=2", "RANK is x: not a number" },
        { "RANK=-1 WORLD_SIZE=2", "RANK is -1: not a number" },
        { "RANK=1x WORLD_SIZE=2", "RANK is 1x: not a number" },
        { "RANK=0 WORLD_SIZE=0", "WORLD_SIZE is 0: not a number" },
        { "RANK=0 WORLD_SIZE=99999999999999999999", "WORLD_SIZE is 99999999999999999999: not" },
        { "RANK=0 WORLD_SIZE=2", "MASTER_ADDR is not set" },
        { "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a", "MASTER_PORT is not set" },
        { "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=0", "MASTER_PORT is 0" },
        { "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=65536", "MASTER_PORT is 65536" },
        { "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK is not" },
        { "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 RANK=0 WORLD_SIZE=1",
          "two launchers at once" },
        { "SLURM_PROCID=1 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4", "use srun --mpi=pmix" },
        { "PMIX_RANK=4 SLURM_NTASKS=4", "PMIX_RANK is 4 and srun has started 4" },
        { "PMI_RANK=1 PMI_SIZE=4 SLURM_STEP_NUM_TASKS=4", "srun --mpi=pmi2" },
        { "PMI_RANK=1 PMI_SIZE=4", "another MPI's mpirun" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        csp_launch launch = { .size = 99 };

        if (find(cases[i].variables, &launch) != CSP_ERR_CONFIG) {
            fail_msg("%s is taken", cases[i].variables);
        }
        if (strstr(csp_error_text(), cases[i].words) == NULL) {
            fail_msg("%s: %s", cases[i].variables, csp_error_text());
        }
        assert_int_equal(launch.size, 99);
    }
}

static void refuses_long_texts(void **state)
{
    char variables[400];
    csp_launch launch;
    const int start = snprintf(variables, sizeof(variables), "RANK=0 WORLD_SIZE=2 MASTER_ADDR=");

    memset(variables + start, 'a', 300);
    variables[start + 300] = '\0';
    assert_int_equal(find(variables, &launch), CSP_ERR_CONFIG);
    assert_non_null(strstr(csp_error_text(), "MASTER_ADDR is longer than 255 bytes"));
}

static void describes_where_it_runs(void **state)
{
    static const struct {
        const char *variables, *text;
    } cases[] = {
        { "", "" },
        { "SLURM_JOB_ID=17 SLURM_JOB_NODELIST=n[1-2]", "SLURM job 17 on n[1-2]" },
        { "SLURM_JOB_ID=18 SLURM_ARRAY_JOB_ID=17 SLURM_ARRAY_TASK_ID=3 SLURM_JOB_NODELIST=n1 "
          "SLURM_RESTART_COUNT=2",
          "SLURM job 17_3, restart 2 on n1" },
        { "OMPI_MCA_orte_launch=1 OMPI_MCA_ess=^singleton OMPI_MCA_initial_wdir=/tmp", "" },
        { "OMPI_MCA_btl=self,tcp NCCL_SOCKET_IFNAME=ib0 NCCL_DEBUG=INFO CUDA_VISIBLE_DEVICES=0,1",
          "CUDA_VISIBLE_DEVICES 0,1, NCCL_DEBUG INFO, NCCL_SOCKET_IFNAME ib0, OMPI_MCA_btl "
          "self,tcp" },
    };
    csp_launch launch;
    char text[256];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(find(cases[i].variables, &launch), CSP_OK);
        csp_launch_describe(text, sizeof(text));
        assert_string_equal(text, cases[i].text);
    }
    /* No room: what comes first stays, nothing is cut in its middle. */
    csp_launch_describe(text, 28);
    assert_string_equal(text, "CUDA_VISIBLE_DEVICES 0,1");
}

static void says_what_may_change_sums(void **state)
{
    static const struct {
        const char *variables, *text;
    } cases[] = {
        { "CUDA_VISIBLE_DEVICES=0 NCCL_DEBUG=INFO NCCL_DEBUG_FILE=x NCCL_SOCKET_IFNAME=ib0", "" },
        { "NCCL_PROTO=Simple NCCL_ALGO=Ring NCCL_IB_TIMEOUT=22 OMPI_MCA_btl=self",
          "NCCL_ALGO Ring\nNCCL_PROTO Simple\n" },
    };
    csp_launch launch;
    char text[64];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(find(cases[i].variables, &launch), CSP_OK);
        csp_launch_collectives(text, sizeof(text));
        assert_string_equal(text, cases[i].text);
    }
    csp_launch_collectives(text, 18);
    assert_string_equal(text, "NCCL_ALGO Ring\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_each_launcher),     cmocka_unit_test(keeps_where_and_what),
        cmocka_unit_test(refuses_in_a_sentence),   cmocka_unit_test(refuses_long_texts),
        cmocka_unit_test(describes_where_it_runs), cmocka_unit_test(says_what_may_change_sums),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

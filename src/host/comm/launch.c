/* launch.c - which rank of how many this process is, from the variables of whoever started it. */
#include "comm/launch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A variable that is set and not empty; NULL otherwise. */
static const char *variable(const char *name)
{
    const char *text = getenv(name);

    return text != NULL && text[0] != '\0' ? text : NULL;
}

/* A whole number; -1 where the variable is not set. */
static csp_status read_number(const char *name, long min, long max, int *out)
{
    const char *text = variable(name);
    char *end;
    long value;

    if (text == NULL) {
        *out = -1;
        return CSP_OK;
    }
    errno = 0;
    value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "the environment variable %s is %s: not a number in %ld..%ld", name, text,
                        min, max);
    }
    *out = (int)value;
    return CSP_OK;
}

static csp_status read_text(const char *name, char *out, size_t bytes)
{
    const char *text = variable(name);

    if (text != NULL && strlen(text) >= bytes) {
        return CSP_FAIL(CSP_ERR_CONFIG, "the environment variable %s is longer than %zu bytes",
                        name, bytes - 1);
    }
    (void)snprintf(out, bytes, "%s", text != NULL ? text : "");
    return CSP_OK;
}

/* Rank and size of one launcher. *there is false where it has set neither. */
static csp_status read_pair(const char *rank_name, const char *size_name, int *rank, int *size,
                            bool *there)
{
    CSP_TRY(read_number(rank_name, 0, INT_MAX - 1, rank));
    CSP_TRY(read_number(size_name, 1, INT_MAX, size));
    if ((*rank < 0) != (*size < 0)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "the environment variable %s is set and %s is not: a rank needs both",
                        *rank >= 0 ? rank_name : size_name, *rank >= 0 ? size_name : rank_name);
    }
    if (*rank >= 0 && *rank >= *size) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s is %d and %s is %d: ranks are 0 to %d", rank_name,
                        *rank, size_name, *size, *size - 1);
    }
    *there = *rank >= 0;
    return CSP_OK;
}

/* torchrun's variables. *there is false where neither RANK nor WORLD_SIZE is set. */
static csp_status find_tcp(csp_launch *out, bool *there)
{
    csp_launch found = { .kind = CSP_LAUNCH_TCP, .by = "torchrun variables" };

    CSP_TRY(read_pair("RANK", "WORLD_SIZE", &found.rank, &found.size, there));
    if (!*there) {
        return CSP_OK;
    }
    if (found.size > 1) {
        CSP_TRY(read_text("MASTER_ADDR", found.master, sizeof(found.master)));
        CSP_TRY(read_number("MASTER_PORT", 1, 65535, &found.port));
        if (found.master[0] == '\0' || found.port < 0) {
            return CSP_FAIL(CSP_ERR_CONFIG,
                            "WORLD_SIZE is %d and %s is not set: MASTER_ADDR and MASTER_PORT say "
                            "where rank 0 listens",
                            found.size, found.master[0] == '\0' ? "MASTER_ADDR" : "MASTER_PORT");
        }
    }
    *out = found;
    return CSP_OK;
}

/* mpirun of Open MPI, which outranks the variables of the job that it runs in. */
static csp_status find_mpirun(csp_launch *out, bool *there)
{
    csp_launch found = { .kind = CSP_LAUNCH_MPI, .by = "mpirun" };

    CSP_TRY(
        read_pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", &found.rank, &found.size, there));
    if (*there) {
        *out = found;
    }
    return CSP_OK;
}

/*
 * A step of srun. Only a step has SLURM_STEP_NUM_TASKS; SLURM_NTASKS and SLURM_PROCID are also
 * those of the batch script's own shell, in which one process is one process.
 */
static csp_status find_srun(csp_launch *out, bool *there)
{
    csp_launch found = { .kind = CSP_LAUNCH_MPI, .by = "srun" };
    int tasks, all, pmix;

    CSP_TRY(read_number("SLURM_STEP_NUM_TASKS", 1, INT_MAX, &tasks));
    CSP_TRY(read_number("SLURM_NTASKS", 1, INT_MAX, &all));
    CSP_TRY(read_number("PMIX_RANK", 0, INT_MAX - 1, &pmix));
    *there = false;
    if (pmix >= 0 && tasks < 0) {
        tasks = all;
    }
    if (tasks <= 1) {
        return CSP_OK;
    }
    if (pmix < 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "srun has started %d tasks without PMIx (SLURM_STEP_NUM_TASKS is set, "
                        "PMIX_RANK is not), each of which would be a run of its own in the same "
                        "folder: use srun --mpi=pmix, or mpirun, or -n 1",
                        tasks);
    }
    if (pmix >= tasks) {
        return CSP_FAIL(CSP_ERR_CONFIG, "PMIX_RANK is %d and srun has started %d tasks", pmix,
                        tasks);
    }
    found.rank = pmix;
    found.size = tasks;
    *out = found;
    *there = true;
    return CSP_OK;
}

/* PMI, the older way of MPICH's mpirun and of srun --mpi=pmi2, which Open MPI 4 does not speak. */
static csp_status refuse_pmi(void)
{
    int rank, size;

    CSP_TRY(read_number("PMI_RANK", 0, INT_MAX - 1, &rank));
    CSP_TRY(read_number("PMI_SIZE", 1, INT_MAX, &size));
    if (rank >= 0 && size > 1) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "PMI_SIZE is %d: these %d processes were started by another MPI's mpirun or "
            "by srun --mpi=pmi2, which Open MPI does not understand: use Open MPI's "
            "mpirun or srun --mpi=pmix",
            size, size);
    }
    return CSP_OK;
}

csp_status csp_launch_find(csp_launch *out)
{
    csp_launch found = { .kind = CSP_LAUNCH_ALONE, .size = 1, .by = "alone" };
    bool is_tcp, is_mpirun, is_srun = false;

    CSP_TRY(find_tcp(&found, &is_tcp));
    CSP_TRY(find_mpirun(&found, &is_mpirun));
    if (is_tcp && is_mpirun) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "two launchers at once: OMPI_COMM_WORLD_SIZE is set by mpirun, and RANK and "
            "WORLD_SIZE as torchrun sets them: unset those of one");
    }
    if (!is_tcp && !is_mpirun) {
        CSP_TRY(refuse_pmi());
        CSP_TRY(find_srun(&found, &is_srun));
    }
    CSP_TRY(read_text("CSPLADE_MPI_PLUGIN", found.mpi_plugin, sizeof(found.mpi_plugin)));
    if (variable("CUDA_VISIBLE_DEVICES") != NULL) {
        (void)snprintf(found.devices, sizeof(found.devices), "%s",
                       variable("CUDA_VISIBLE_DEVICES"));
    }
    *out = found;
    return CSP_OK;
}

/* Adds to a list with commas; whole, or not at all. */
static void add(char *text, size_t bytes, const char *what)
{
    const size_t used = strlen(text), gap = used > 0 ? 2 : 0;

    if (used + gap + strlen(what) < bytes) {
        (void)snprintf(text + used, bytes - used, "%s%s", gap > 0 ? ", " : "", what);
    }
}

static void add_slurm_job(char *text, size_t bytes)
{
    const char *job = variable("SLURM_JOB_ID"), *array = variable("SLURM_ARRAY_JOB_ID");
    const char *task = variable("SLURM_ARRAY_TASK_ID"), *nodes = variable("SLURM_JOB_NODELIST");
    const char *restart = variable("SLURM_RESTART_COUNT"); /* not set on the first run */
    char what[1024];

    if (job == NULL) {
        return;
    }
    (void)snprintf(what, sizeof(what), "SLURM job %s%s%s%s%s%s%s", array != NULL ? array : job,
                   array != NULL && task != NULL ? "_" : "",
                   array != NULL && task != NULL ? task : "", restart != NULL ? ", restart " : "",
                   restart != NULL ? restart : "", nodes != NULL ? " on " : "",
                   nodes != NULL ? nodes : "");
    add(text, bytes, what);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool begins_with_one(const char *setting, const char *const *begins, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strncmp(setting, begins[i], strlen(begins[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* What mpirun tells its ranks of itself, which nobody has set. */
static bool is_of_mpirun(const char *setting)
{
    static const char *const begins[] = { "OMPI_MCA_orte_",
                                          "OMPI_MCA_ess",
                                          "OMPI_MCA_pmix",
                                          "OMPI_MCA_initial_wdir",
                                          "OMPI_MCA_mpi_oversubscribe",
                                          "OMPI_MCA_rmaps_base_oversubscribe",
                                          "OMPI_MCA_shmem_RUNTIME_QUERY_hint" };

    return begins_with_one(setting, begins, sizeof(begins) / sizeof(begins[0]));
}

enum { MOST_SETTINGS = 64 };

/* What is set and begins so, in order of names. Returns how many. */
static int find_settings(const char *begin, const char *found[MOST_SETTINGS])
{
    int count = 0;

    for (char **at = environ; at != NULL && *at != NULL && count < MOST_SETTINGS; at++) {
        if (strncmp(*at, begin, strlen(begin)) == 0 && strchr(*at, '=') != NULL) {
            found[count++] = *at;
        }
    }
    qsort(found, (size_t)count, sizeof(*found), by_text);
    return count;
}

/* "NAME VALUE" of "NAME=VALUE". */
static void say_setting(const char *setting, char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "%.*s %s", (int)strcspn(setting, "="), setting,
                   strchr(setting, '=') + 1);
}

/* Of NCCL and Open MPI. */
static void add_settings(char *text, size_t bytes)
{
    static const char *const begins[] = { "CUDA_VISIBLE_DEVICES=", "NCCL_", "OMPI_MCA_" };
    const char *found[MOST_SETTINGS];
    char what[1024];

    for (size_t b = 0; b < sizeof(begins) / sizeof(begins[0]); b++) {
        const int count = find_settings(begins[b], found);

        for (int i = 0; i < count; i++) {
            if (!is_of_mpirun(found[i])) {
                say_setting(found[i], what, sizeof(what));
                add(text, bytes, what);
            }
        }
    }
}

void csp_launch_describe(char *text, size_t bytes)
{
    text[0] = '\0';
    add_slurm_job(text, bytes);
    add_settings(text, bytes);
}

void csp_launch_collectives(char *text, size_t bytes)
{
    /* What messages are written, whom to meet and by which address, how long to try. */
    static const char *const others[] = { "NCCL_DEBUG",         "NCCL_COMM_ID",
                                          "NCCL_SOCKET_IFNAME", "NCCL_SOCKET_FAMILY",
                                          "NCCL_IB_TIMEOUT",    "NCCL_IB_RETRY_CNT" };
    const char *found[MOST_SETTINGS];
    const int count = find_settings("NCCL_", found);
    size_t used = 0;

    text[0] = '\0';
    for (int i = 0; i < count; i++) {
        char what[512];

        say_setting(found[i], what, sizeof(what));
        what[strcspn(what, "\n")] = '\0';
        if (!begins_with_one(found[i], others, sizeof(others) / sizeof(others[0])) &&
            used + strlen(what) + 2 < bytes) {
            used += (size_t)snprintf(text + used, bytes - used, "%s\n", what);
        }
    }
}

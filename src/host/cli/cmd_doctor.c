/*
 * cmd_doctor.c - csplade doctor: what this machine and this build have, as a report to paste.
 *
 * Libraries are asked for their version only; using them is the business of other folders.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <cblas.h>
#include <hdf5.h>
#include <jansson.h>
#include <omp.h>
#include <pcre2.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>

#include "cli/commands.h"
#include "cli/cuda_plugin.h"
#include "comm/mpi_plugin.h"
#include "core/machine.h"
#include "io/file.h"
#include "ops/backend.h"

static const csp_option options[] = {
    { .name = "output-dir",
      .kind = CSP_OPTION_TEXT,
      .value = "DIR",
      .standard = ".",
      .help = "folder whose free space is reported" },
};

static void print_program(void)
{
    struct utsname system;

    printf("csplade    %s\n", CSPLADE_DESCRIBE);
    printf("compiler   %s\n", __VERSION__);
    if (uname(&system) == 0) {
        printf("system     %s %s %s\n", system.sysname, system.release, system.machine);
    }
}

/* The value of the first line of /proc/cpuinfo that begins with key; "" if there is none. */
static void read_cpuinfo(const char *key, char *value, size_t bytes)
{
    FILE *stream = fopen("/proc/cpuinfo", "r");
    char line[4096];

    value[0] = '\0';
    while (stream != NULL && value[0] == '\0' && fgets(line, sizeof(line), stream) != NULL) {
        const char *colon = strchr(line, ':');

        if (colon != NULL && strncmp(line, key, strlen(key)) == 0) {
            snprintf(value, bytes, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        }
    }
    if (stream != NULL) {
        fclose(stream);
    }
}

static void print_cpu(void)
{
    char model[256];
    cpu_set_t set;

    read_cpuinfo("model name", model, sizeof(model));
    printf("cpu        %s\n", model[0] != '\0' ? model : "unknown");
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        printf("cores      %d of %ld may be used\n", CPU_COUNT(&set),
               sysconf(_SC_NPROCESSORS_ONLN));
    }
#if defined(__x86_64__)
    printf("vectors    avx2 %s, fma %s, avx512f %s, avx512bw %s\n",
           __builtin_cpu_supports("avx2") ? "yes" : "no",
           __builtin_cpu_supports("fma") ? "yes" : "no",
           __builtin_cpu_supports("avx512f") ? "yes" : "no",
           __builtin_cpu_supports("avx512bw") ? "yes" : "no");
#else
    printf("vectors    no x86: plain C paths\n");
#endif
}

static csp_status print_space(const char *dir)
{
    const int64_t available = csp_machine_available_bytes();
    const double GiB = 1024.0 * 1024.0 * 1024.0;
    int64_t free_bytes = 0;

    if (available == INT64_MAX) {
        printf("memory     unknown\n");
    } else {
        printf("memory     %.1f GiB available of %.1f GiB\n", (double)available / GiB,
               (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / GiB);
    }
    CSP_TRY(csp_file_free_bytes(dir, &free_bytes));
    printf("disk       %.1f GiB free in %s\n", (double)free_bytes / GiB, dir);
    return CSP_OK;
}

static void print_libraries(void)
{
    unsigned major = 0, minor = 0, release = 0;
    char pcre2[64] = "unknown";

    if (H5get_libversion(&major, &minor, &release) >= 0) {
        printf("HDF5       %u.%u.%u\n", major, minor, release);
    }
    printf("OpenBLAS   core %s, %s\n", openblas_get_corename(), openblas_get_config());
    printf("OpenMP     %d, up to %d threads\n", _OPENMP, omp_get_max_threads());
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) < (int)sizeof(pcre2)) {
        pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    }
    printf("PCRE2      %s\n", pcre2);
    printf("utf8proc   %s\n", utf8proc_version());
    printf("jansson    %s\n", JANSSON_VERSION);
    printf("libyaml    %s\n", yaml_get_version_string());
    printf("zlib       %s\n", zlibVersion());
    printf("xxhash     %u\n", XXH_versionNumber());
}

/* What the CUDA plugin says: one line of itself, then one for each device, or why there is none. */
static void print_cuda(void)
{
    const csp_plugin *plugin;
    const char *path;
    char text[8192];
    csp_status status;

    if (csp_cuda_plugin_get(&plugin, &path) != CSP_OK) {
        printf("backend    cuda: %s\n", csp_error_text());
        return;
    }
    status = plugin->describe(text, sizeof(text));
    for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
        const int length = (int)strcspn(line, "\n");

        if (line == text) {
            printf("backend    cuda: %.*s, %s\n", length, line, path);
        } else {
            printf("device     %.*s\n", length, line);
        }
    }
    if (status != CSP_OK) {
        printf("backend    %s\n", csp_error_text());
    }
}

static void print_backends(void)
{
    csp_backend *be = NULL;

    if (csp_backend_create("cpu", 0, &be) == CSP_OK) {
        printf("backend    cpu: works, %d threads\n", be->threads);
        csp_backend_destroy(be);
    } else {
        printf("backend    cpu: %s\n", csp_error_text());
    }
    print_cuda();
    if (csp_backend_create("auto", 0, &be) == CSP_OK) {
        printf("auto       takes %s\n", be->name);
        printf("graphs     %s\n", be->replays
                                      ? "small passes that repeat are replayed (device.graphs)"
                                      : "none: this device has no launches to save");
        csp_backend_destroy(be);
    }
}

/* How ranks can be started, and how this process was. */
static void print_ranks(void)
{
    const csp_mpi_plugin *plugin;
    const char *path;
    csp_launch launch;
    char version[256];
    csp_status status = csp_launch_find(&launch);

    if (status == CSP_OK) {
        printf("launch     %s, rank %d of %d\n", launch.by, launch.rank, launch.size);
    } else {
        printf("launch     %s\n", csp_error_text());
    }
    printf("ranks      over TCP: works\n");
    status = csp_mpi_plugin_get(status == CSP_OK ? launch.mpi_plugin : "", &plugin, &path);
    if (status == CSP_OK) {
        plugin->describe(version, sizeof(version));
        printf("ranks      over MPI: %s, %s\n", version, path);
    } else {
        printf("ranks      over MPI: %s\n", csp_error_text());
    }
}

static csp_status run(const csp_arguments *args)
{
    print_program();
    print_cpu();
    CSP_TRY(print_space(csp_args_text(args, "output-dir")));
    print_libraries();
    print_backends();
    print_ranks();
    return CSP_OK;
}

const csp_command csp_cmd_doctor = {
    .name = "doctor",
    .summary = "what this machine and this build have, to paste into a report",
    .options = options,
    .option_count = CSP_COUNT(options),
    .run = run,
};

/* mpi_plugin.c - finds and opens libcsplade_mpi.so, once. */
#include "comm/mpi_plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/machine.h"

static const char file_name[] = "libcsplade_mpi.so";

static struct {
    const csp_mpi_plugin *plugin;
    char path[PATH_MAX];
} mpi;

/* The loader's words, and how to get what it misses. */
static csp_status explain(const char *path)
{
    char words[512];

    (void)snprintf(words, sizeof(words), "%s", dlerror());
    if (strstr(words, "libmpi.so") != NULL) {
        return CSP_FAIL(
            CSP_ERR_UNSUPPORTED,
            "%s needs Open MPI, and the loader finds no libmpi.so: install Debian's "
            "libopenmpi3, or name the folder of Open MPI's libraries in LD_LIBRARY_PATH",
            path);
    }
    return CSP_FAIL(CSP_ERR_UNSUPPORTED, "%s cannot be opened: %s", path, words);
}

static csp_status open_at(const char *path)
{
    /* Open MPI's own plugins look for its functions among those that all see. */
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    const csp_mpi_plugin *plugin;

    if (library == NULL) {
        return explain(path);
    }
    plugin = dlsym(library, "csp_mpi_transport");
    if (plugin == NULL || plugin->interface != CSP_MPI_INTERFACE ||
        plugin->exchange_bytes != sizeof(csp_exchange)) {
        (void)dlclose(library);
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "%s belongs to another csplade: install both from one build", path);
    }
    (void)snprintf(mpi.path, sizeof(mpi.path), "%s", path);
    mpi.plugin = plugin;
    return CSP_OK;
}

static csp_status find(const char *asked)
{
    char path[PATH_MAX];

    if (asked[0] != '\0') {
        return open_at(asked);
    }
    if (csp_machine_beside_program("libcsplade_mpi.so", path, sizeof(path)) ||
        csp_machine_beside_program("../lib/libcsplade_mpi.so", path, sizeof(path))) {
        return open_at(path);
    }
    if (open_at(file_name) == CSP_OK) {
        return CSP_OK;
    }
    /* Of an absent dependency the loader says the same, but for the name. */
    if (strstr(csp_error_text(), ": libcsplade_mpi.so: cannot open") == NULL) {
        return CSP_ERR_UNSUPPORTED;
    }
    return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                    "%s is neither beside the program nor in the library path: this csplade was "
                    "built without Open MPI (Debian's libopenmpi-dev); ranks can also be started "
                    "with torchrun's variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT",
                    file_name);
}

csp_status csp_mpi_plugin_get(const char *path, const csp_mpi_plugin **out, const char **from)
{
    if (mpi.plugin == NULL) {
        CSP_TRY(find(path));
    }
    *out = mpi.plugin;
    if (from != NULL) {
        *from = mpi.path;
    }
    return CSP_OK;
}

/* cuda_plugin.c - finds and opens libcsplade_cuda.so, once. */
#include "cli/cuda_plugin.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/machine.h"

static const char file_name[] = "libcsplade_cuda.so";

static struct {
    const char *asked; /* NULL: look for it */
    const csp_plugin *plugin;
    char path[PATH_MAX];
} cuda;

/* What the plugin needs of CUDA to open: how a file and its functions begin, and who brings it. */
static const struct {
    const char *file, *functions, *name, *wheel;
} libraries[] = {
    { "libcublasLt.so", "cublasLt", "cuBLASLt", "nvidia-cublas" },
    { "libcublas.so", "cublas", "cuBLAS", "nvidia-cublas" },
};

/* Says how to get a library of CUDA that the loader finds missing or too old. */
static csp_status explain(const char *path, csp_status status)
{
    static const char absent[] = "cannot open shared object", symbol[] = "undefined symbol: ";
    char words[1024];
    const char *missing;

    (void)snprintf(words, sizeof(words), "%s", csp_error_text());
    missing = strstr(words, symbol);
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        const char *file = libraries[i].file, *functions = libraries[i].functions;
        const char *named = strstr(words, file);
        const bool old =
            missing != NULL && strncmp(missing + strlen(symbol), functions, strlen(functions)) == 0;

        if (old || (named != NULL && strstr(words, ": version `") != NULL)) {
            return CSP_FAIL(status,
                            "%s; the %s there is too old: install a later CUDA toolkit, or pip's "
                            "%s, and name its folder in LD_LIBRARY_PATH",
                            words, libraries[i].name, libraries[i].wheel);
        }
        if (named != NULL && strstr(named, absent) != NULL) {
            return CSP_FAIL(status,
                            "%s needs %s, and the loader finds no %.*s: install the CUDA toolkit, "
                            "or pip's %s, and name its folder in LD_LIBRARY_PATH",
                            path, libraries[i].name, (int)strcspn(named, ": "), named,
                            libraries[i].wheel);
        }
    }
    return status;
}

static csp_status open_at(const char *path)
{
    const csp_plugin *plugin;
    const csp_status status = csp_plugin_open(path, "csp_cuda_plugin", &plugin);

    if (status != CSP_OK) {
        return explain(path, status);
    }
    (void)snprintf(cuda.path, sizeof(cuda.path), "%s", path);
    cuda.plugin = plugin;
    return CSP_OK;
}

/* Whether the plugin came with this program; path then names it. */
static bool is_installed(char *path, size_t bytes)
{
    return csp_machine_beside_program("libcsplade_cuda.so", path, bytes) ||
           csp_machine_beside_program("../lib/libcsplade_cuda.so", path, bytes);
}

static csp_status find(void)
{
    char path[PATH_MAX];

    if (cuda.asked != NULL) {
        return open_at(cuda.asked);
    }
    if (is_installed(path, sizeof(path))) {
        return open_at(path);
    }
    if (open_at(file_name) == CSP_OK) {
        return CSP_OK;
    }
    /* Of an absent dependency the loader says the same, but for the name. */
    if (strstr(csp_error_text(), ": libcsplade_cuda.so: ") == NULL) {
        return CSP_ERR_DEVICE;
    }
    return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                    "%s is neither beside the program nor in the library path: this csplade was "
                    "built without the CUDA toolkit",
                    file_name);
}

csp_status csp_cuda_plugin_get(const csp_plugin **out, const char **from)
{
    if (cuda.plugin == NULL) {
        CSP_TRY(find());
    }
    *out = cuda.plugin;
    *from = cuda.path;
    return CSP_OK;
}

static csp_status open_cuda(const char *name, int threads, csp_backend **out)
{
    const csp_plugin *plugin;
    const char *from;
    char path[PATH_MAX];

    /* The plugin brings cuBLAS, 150 MB of memory: not for a machine that cannot use it. */
    if (cuda.plugin == NULL && cuda.asked == NULL && is_installed(path, sizeof(path)) &&
        !csp_library_opens("libcuda.so.1")) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: this machine has no NVIDIA driver (libcuda.so.1)",
                        name);
    }
    CSP_TRY(csp_cuda_plugin_get(&plugin, &from));
    return plugin->open(name, threads, out);
}

void csp_cuda_plugin_register(const char *path)
{
    cuda.asked = path != NULL && path[0] != '\0' ? path : NULL;
    csp_backend_register("cuda", open_cuda);
}

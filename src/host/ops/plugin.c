/* plugin.c - opens shared libraries that carry a backend. */
#include "ops/plugin.h"

#include <dlfcn.h>

#include "ops/table.h"

csp_status csp_plugin_open(const char *path, const char *symbol, const csp_plugin **out)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const csp_plugin *plugin;

    if (library == NULL) {
        /* The loader names the file that fails: this one, or a library that it needs. */
        return CSP_FAIL(CSP_ERR_DEVICE, "%s cannot be opened: %s", path, dlerror());
    }
    plugin = dlsym(library, symbol);
    if (plugin == NULL) {
        (void)dlclose(library);
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: no plugin of csplade: it has no %s", path, symbol);
    }
    if (plugin->interface != CSP_PLUGIN_INTERFACE || plugin->table_bytes != sizeof(csp_ops)) {
        const unsigned theirs = plugin->interface;

        (void)dlclose(library);
        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: belongs to another csplade (interface %u, this program has %u): "
                        "install both from one build",
                        path, theirs, CSP_PLUGIN_INTERFACE);
    }
    *out = plugin;
    return CSP_OK;
}

bool csp_library_opens(const char *path)
{
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);

    if (library != NULL) {
        (void)dlclose(library);
    }
    return library != NULL;
}

/*
 * plugin.h - a backend in a shared library, which the program opens while it runs.
 *
 * The library takes the functions of core/ and ops/ from the program. It exports one csp_plugin;
 * libcsplade_cuda.so calls it csp_cuda_plugin.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of csp_ops, csp_backend, csp_plugin or a structure of an entry. */
#define CSP_PLUGIN_INTERFACE 13

typedef struct csp_plugin {
    uint32_t interface;   /* CSP_PLUGIN_INTERFACE the library was compiled with           */
    uint32_t table_bytes; /* sizeof(struct csp_ops), in case nobody raised it             */
    const char *prefix;   /* what its devices' names begin with: "cuda"                   */
    csp_backend_opener open;
    /*
     * Writes what the library is, one line, and then one line for each device it can use.
     * CSP_ERR_DEVICE says in words why there is none; text holds the first line even then.
     */
    csp_status (*describe)(char *text, size_t bytes);
} csp_plugin;

/*
 * Opens a library and checks that it fits this program. It stays open.
 *
 *   path     in    as dlopen takes it
 *   symbol   in    name of its csp_plugin
 *
 * Errors: CSP_ERR_DEVICE (the loader's words: a library it needs is missing; no such symbol;
 *         another interface).
 */
CSP_CHECKED csp_status csp_plugin_open(const char *path, const char *symbol,
                                       const csp_plugin **out);

/* Whether the loader finds and opens a library; it does not stay open. */
bool csp_library_opens(const char *path);

#ifdef __cplusplus
}
#endif

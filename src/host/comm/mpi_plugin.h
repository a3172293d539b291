/*
 * mpi_plugin.h - libcsplade_mpi.so, the transport over Open MPI, which is opened only where ranks
 * were started by mpirun or srun.
 *
 * The library takes the functions of core/ from the program. It exports one csp_mpi_plugin by the
 * name csp_mpi_transport.
 */
#pragma once

#include <stddef.h>

#include "comm/transport.h"

/* Raised with every change of transport.h, csp_launch or csp_mpi_plugin. */
#define CSP_MPI_INTERFACE 1

typedef struct csp_mpi_plugin {
    uint32_t interface;      /* CSP_MPI_INTERFACE the library was compiled with           */
    uint32_t exchange_bytes; /* sizeof(csp_exchange), in case nobody raised it            */
    /* "Open MPI v4.1.4 ..." */
    void (*describe)(char *text, size_t bytes);
    /*
     * Initialises MPI in this thread, which must be the one that uses the transport. No deadline
     * holds here.
     *
     * Errors: CSP_ERR_COMM, CSP_ERR_CONFIG (MPI's number of ranks is not launch->size).
     */
    csp_status (*open)(const csp_launch *launch, const csp_stop *stop, csp_transport **out);
} csp_mpi_plugin;

/*
 * The plugin, opened if it was not; it stays open.
 *
 *   path   in    the library, "" to look beside the program, in ../lib, in the library path
 *   from   out   its path; valid as long as the program runs. May be NULL
 *
 * Errors: CSP_ERR_UNSUPPORTED (there is none, or a library it needs is missing: what brings it).
 */
CSP_CHECKED csp_status csp_mpi_plugin_get(const char *path, const csp_mpi_plugin **out,
                                          const char **from);

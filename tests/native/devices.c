/*
 * devices.c - support/devices.h of programs that run on a GPU through the genuine plugin, opened as
 * csplade does: $CSPLADE_CUDA_PLUGIN, or libcsplade_cuda.so beside the program or in ../lib.
 *
 * CSPLADE_SMALL_SHAPES in the environment asks for the shapes of an emulated device: a program is
 * nearly as slow under compute-sanitizer.
 */
#include "support/devices.h"

#include <stdlib.h>

#include "cli/cuda_plugin.h"
#ifdef CSPLADE_TEST_CPU
#include "cpu/backend.h"
#endif

void devices_register(void)
{
#ifdef CSPLADE_TEST_CPU
    csp_backend_register("cpu", csp_cpu_open);
#endif
    csp_cuda_plugin_register(getenv("CSPLADE_CUDA_PLUGIN"));
}

bool devices_emulated(void)
{
    return getenv("CSPLADE_SMALL_SHAPES") != NULL;
}

/*
 * devices.c - support/devices.h of programs on the emulator: the CPU, and the CUDA backend.
 */
#include "support/devices.h"

#include "backend.h"
#include "cpu/backend.h"

void devices_register(void)
{
    csp_backend_register("cpu", csp_cpu_open);
    csp_backend_register("cuda", csp_cuda_open);
}

bool devices_emulated(void)
{
    return true;
}

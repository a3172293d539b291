/*
 * devices.c - the CPU alone.
 */
#include "support/devices.h"

#include "cpu/backend.h"

void devices_register(void)
{
    csp_backend_register("cpu", csp_cpu_open);
}

bool devices_emulated(void)
{
    return false;
}

/*
 * devices.h - the backends a test program has: the CPU (devices.c), the CUDA backend on emulated
 * devices in the programs of tests/emulator, on a GPU in those of tests/native.
 */
#pragma once

#include <stdbool.h>

/* Registers them all, for csp_backend_create. */
void devices_register(void);

/*
 * Whether "cuda" is emulated here, or runs under a checker that slows it as much: shapes should be
 * small.
 */
bool devices_emulated(void);

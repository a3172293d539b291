/*
 * devices.h - the backends a test program has: the CPU always (devices.c), and the CUDA backend on
 * emulated devices in the programs of tests/emulator (its own devices.c).
 */
#pragma once

#include <stdbool.h>

/* Registers them all, for csp_backend_create. */
void devices_register(void);

/* Whether "cuda" is emulated here: some thousand times slower, so that shapes should be small. */
bool devices_emulated(void);

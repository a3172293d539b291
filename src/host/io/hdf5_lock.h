/*
 * hdf5_lock.h - one thread at a time in HDF5 (CSP_HDF5_ONE_THREAD in hdf5_file.h): a thread may
 * enter again what it is in, and leaves as often.
 */
#pragma once

#include <stdbool.h>

bool csp_hdf5_enter(void);
void csp_hdf5_leave(const bool *inside);

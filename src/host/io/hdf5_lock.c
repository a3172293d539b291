/* hdf5_lock.c - one thread in HDF5 at a time. */
#include <pthread.h>

#include "io/hdf5_file.h"

/* Recursive: public functions call one another, and csp_hdf5_visit calls its caller back. */
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

bool csp_hdf5_enter(void)
{
    (void)pthread_mutex_lock(&lock);
    return true;
}

void csp_hdf5_leave(const bool *inside)
{
    (void)inside;
    (void)pthread_mutex_unlock(&lock);
}

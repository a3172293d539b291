/*
 * ranks_on_devices.h - what tests of ranks on devices share: a rank with a backend of its own. A
 * process that is to be forked does not open a device: what it knows of them it asks another.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "support/devices.h"
#include "support/ranks.h"
#include "train/ranks.h"

enum { NO_DEVICE = 77 };

/* A rank of a test. */
typedef struct device_rank {
    csp_comm *comm;
    csp_backend *be;
    csp_ranks ranks;
} device_rank;

/* Joins the ranks of the job, with a limit for waiting for one another, and opens cuda:N. */
static inline csp_status device_rank_begin(device_rank *d, double timeout_s, int device)
{
    const csp_comm_options options = { .timeout_s = timeout_s };
    csp_launch launch;
    char name[24];

    *d = (device_rank) { 0 };
    devices_register();
    CSP_TRY(csp_launch_find(&launch));
    CSP_TRY(csp_comm_create(&launch, &options, &d->comm));
    (void)snprintf(name, sizeof(name), "cuda:%d", device >= 0 ? device : csp_comm_rank(d->comm));
    return csp_backend_create(name, 1, &d->be);
}

static inline csp_status device_rank_open(device_rank *d, double timeout_s)
{
    CSP_TRY(device_rank_begin(d, timeout_s, -1));
    return csp_ranks_open(d->comm, d->be, &d->ranks);
}

static inline void device_rank_close(device_rank *d)
{
    csp_ranks_close(&d->ranks);
    csp_backend_destroy(d->be);
    csp_comm_destroy(d->comm);
}

/* The watch of a group without a communicator: no rank fails, and what is to be said is. */
static inline bool never(void *context)
{
    (void)context;
    return false;
}

static inline csp_status say_words(void *context, csp_watch_reason reason, const char *what,
                                   const char *words)
{
    (void)context, (void)reason;
    return CSP_FAIL(CSP_ERR_COMM, "%s: %s", what, words);
}

/* The body of a process that looks for devices cuda:0 to cuda:count-1, and for what joins them. */
static inline int device_probe(int count)
{
    const char *library;
    char name[24];
    csp_backend *be;

    devices_register();
    (void)snprintf(name, sizeof(name), "cuda:%d", count - 1);
    if (csp_backend_create(name, 1, &be) != CSP_OK ||
        csp_collective_library(be, &library) != CSP_OK) {
        fprintf(stderr, "%s\n", csp_error_text());
        return NO_DEVICE;
    }
    csp_backend_destroy(be);
    return 0;
}

/* How many devices there are, up to most. Emulated ones are as many as are wanted. */
static inline int device_count(int most)
{
    char text[16];
    int at;

    (void)snprintf(text, sizeof(text), "%d", most);
    setenv("CSP_EMU_DEVICES", text, 1);
    for (int count = 1; count <= most; count++) {
        if (!ranks_run(device_probe, count, 1, 60.0, &at) || at != 0) {
            return count - 1;
        }
    }
    return most;
}

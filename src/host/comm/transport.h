/*
 * transport.h - what a communicator needs of whatever carries bytes between ranks: one operation,
 * in which each rank sends a piece to each other rank and receives one from each.
 *
 * All collectives are formed above it (collectives.c), so every transport gives the same bits. All
 * functions of a transport are called by one thread, the communicator's worker, which opened it.
 */
#pragma once

#include <stdatomic.h>

#include "comm/launch.h"

/* Memory that is sent (and then only read) or received into. */
typedef struct csp_piece {
    void *data;
    int64_t bytes; /* 0: nothing is sent, and the other side knows it */
} csp_piece;

/* Set once, by the thread that learns of a failure; ends what the worker waits for. */
typedef struct csp_stop {
    atomic_bool set;
    int fd; /* readable once it is set */
} csp_stop;

/* How an exchange ended. Whatever is not CSP_EXCHANGE_DONE ends the communicator. */
typedef enum csp_exchange_end {
    CSP_EXCHANGE_DONE,
    CSP_EXCHANGE_STOPPED,   /* csp_stop was set                                              */
    CSP_EXCHANGE_LATE,      /* nothing moved for timeout_s; late tells of which ranks        */
    CSP_EXCHANGE_LOST,      /* the connection to `rank` is gone: text has the system's words */
    CSP_EXCHANGE_DIFFERENT, /* `rank` sent what belongs to another collective                */
    CSP_EXCHANGE_BROKEN     /* the transport failed in itself: text has its words            */
} csp_exchange_end;

typedef struct csp_exchange {
    const csp_piece *send; /* (size) to each rank; this rank's own entry is not looked at */
    const csp_piece *recv; /* (size) from each rank                                       */
    uint32_t tag;          /* the same on all ranks in the same exchange, else likely not  */
    double timeout_s;
    /* Results where it did not end well: */
    bool *late; /* (size) */
    int rank;
    char text[256];
} csp_exchange;

typedef struct csp_transport csp_transport;
struct csp_transport {
    int rank, size;
    int local_rank, local_size; /* among the ranks of this machine; -1: it does not know */
    csp_exchange_end (*exchange)(csp_transport *transport, csp_exchange *exchange);
    /* orderly: all ranks have come to their end; else nothing may wait for another rank. */
    void (*close)(csp_transport *transport, bool orderly);
};

/*
 * Joins the ranks at launch->master. Waits for all of them.
 *
 *   stop   in   kept
 *
 * Errors: CSP_ERR_COMM, CSP_ERR_CONFIG (another protocol, size or an equal rank), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_tcp_open(const csp_launch *launch, double timeout_s,
                                    const csp_stop *stop, csp_transport **out);

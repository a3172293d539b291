/*
 * hello.h - how two ranks that have connected make sure of each other.
 *
 * Who connects sends a csp_hello; who listens answers it with a csp_answer, which is a refusal in
 * words or agrees. Whatever is not a hello of this protocol is closed without an answer. Both are
 * sent as they lie in memory: ranks of one job have one byte order, or the protocol's number
 * differs.
 */
#pragma once

#include "comm/socket.h"

enum { CSP_PROTOCOL = 1, CSP_TOKEN_BYTES = 16 };

typedef enum csp_hello_kind {
    CSP_HELLO_RENDEZVOUS, /* to rank 0, at the port of the job */
    CSP_HELLO_DATA,       /* between any two ranks             */
    CSP_HELLO_CONTROL     /* to rank 0: control.h              */
} csp_hello_kind;

typedef struct csp_hello {
    char magic[8];
    uint32_t protocol;
    int32_t kind, rank, size;
    uint8_t token[CSP_TOKEN_BYTES]; /* of the job, once it has one; a port may be another job's */
    int32_t port;                   /* where this rank listens */
    csp_address addresses[CSP_ADDRESSES];
} csp_hello;

typedef struct csp_answer {
    char magic[8];
    int32_t status; /* a csp_status */
    char text[500];
} csp_answer;

void csp_hello_fill(csp_hello *hello, csp_hello_kind kind, int rank, int size,
                    const uint8_t *token);

/*
 * Accepts a connection of each of the ranks first .. size-1. One of CSP_HELLO_DATA is answered at
 * once; of the other kinds nobody is before all are there, by the caller, or all have been refused.
 *
 *   own      in    kind, size and token that are expected
 *   fds      out   (size) those accepted; -1 elsewhere, and everywhere after a failure
 *   hellos   out   (size) may be NULL; the address that the rank was seen at comes first
 *
 * Errors: CSP_ERR_COMM (in time they did not come: which), CSP_ERR_CONFIG (another protocol or
 *         size, a rank that comes twice).
 */
CSP_CHECKED csp_status csp_hello_accept(int listener, const csp_hello *own, int first,
                                        double deadline, int *fds, csp_hello *hellos);

/* Answers a hello; failure to send is left for the next use of the connection to find. */
void csp_hello_answer(int fd, csp_status status, const char *text);

/*
 * Sends the hello and takes the answer.
 *
 *   answered   out   whether there was one, of a rank of this job
 *
 * Errors: that of the answer, with its text; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_hello_send(int fd, const csp_hello *own, double deadline,
                                      bool *answered);

/* Connects to a rank at the first of its addresses that answers to this job. Errors: as above. */
CSP_CHECKED csp_status csp_hello_connect(const csp_hello *to, const csp_hello *own, double deadline,
                                         int *fd);

/* "rank 3", "ranks 1, 2 and 7": those of which absent says true. Returns text. */
const char *csp_hello_list(const bool *absent, int size, char *text, size_t bytes);

/*
 * shared_values.h - values of parameters that one rank of a machine reads from a file, for all of
 * them: the file is opened and read once, and each rank gets every tensor by pieces as it lies
 * there.
 *
 * machine, everywhere: the ranks that share what its rank 0 reads, each of which makes the same
 * calls for the same rows; NULL or one rank: this process reads for itself. Where the reader fails
 * it does not send, and the others fail by machine (CSP_ERR_COMM) once it has reported that.
 */
#pragma once

#include "comm/comm.h"
#include "io/digest.h"
#include "model/params.h"

/* Whether this rank is the one that opens files. */
bool csp_shared_reads(const csp_comm *machine);

/*
 * What the reader has found out. Errors: CSP_ERR_COMM, CSP_ERR_MEMORY.
 *
 *   data   in,out   (bytes) in on the reader, out elsewhere
 */
CSP_CHECKED csp_status csp_shared_bytes(csp_comm *machine, void *data, int64_t bytes,
                                        const char *what);

/* Where rows come from and what becomes of them beside; what is NULL or 0 in { 0 } is not. */
typedef struct csp_shared_values {
    csp_backend *be;
    csp_comm *machine;
    const char *where;  /* the file, in messages                                    */
    csp_digest *digest; /* gets names and values, as f32 before they are rounded    */
    bool finite;        /* NaN and infinity are refused                             */
    float *buffer;      /* of a piece; private, as what follows                     */
    void *received;     /* of a piece, as it lies in the file; of a rank that does not read */
} csp_shared_values;

/* Memory for pieces. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_shared_values_open(csp_shared_values *v);
void csp_shared_values_close(csp_shared_values *v);

/*
 * Fills a row.
 *
 *   stored   in   the reader's: f32, f16 or bf16 values of the row on the host; not looked at
 *                 elsewhere
 *
 * Stream: as csp_param_upload.
 * Errors: CSP_ERR_NUMERIC naming the tensor, before any of the piece is sent; CSP_ERR_COMM;
 *         CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_shared_row(csp_shared_values *v, csp_param *row,
                                      const csp_tensor *stored);

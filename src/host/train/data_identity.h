/*
 * data_identity.h - which data a run trains on: sizes, and a digest of each part's content, so that
 * a run goes on only with what it began with.
 */
#pragma once

#include "config/config.h"
#include "io/digest.h"
#include "io/hdf5.h"

/* Sizes are 0, digests "" for what no phase of the run reads. */
typedef struct csp_data_identity {
    int64_t examples;
    int64_t documents;
    int64_t texts;                               /* to adapt on                           */
    char document_digest[CSP_DIGEST_TEXT_BYTES]; /* lines of data.corpus                  */
    char query_digest[CSP_DIGEST_TEXT_BYTES];    /* lines of the queries, or of data.train */
    char example_digest[CSP_DIGEST_TEXT_BYTES];  /* positives and negatives as joined      */
    char text_digest[CSP_DIGEST_TEXT_BYTES];     /* lines of the files to adapt on         */
} csp_data_identity;

/* As attributes of the object at path of a checkpoint. */
CSP_CHECKED csp_status csp_data_identity_write(csp_hdf5 *file, const char *path,
                                               const csp_data_identity *identity);

/* A checkpoint that was written before there were digests gives empty ones. */
CSP_CHECKED csp_status csp_data_identity_read(const csp_hdf5 *file, const char *path,
                                              csp_data_identity *identity);

/*
 * Whether the data that a checkpoint was made with is what the config names now. Digests that the
 * checkpoint does not have are not compared.
 *
 *   checkpoint   in   its path, for messages
 *
 * Errors: CSP_ERR_DATA saying what differs, and the setting that names it.
 */
CSP_CHECKED csp_status csp_data_identity_check(const char *checkpoint, const csp_config *config,
                                               const csp_data_identity *there,
                                               const csp_data_identity *here);

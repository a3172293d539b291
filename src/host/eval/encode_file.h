/*
 * encode_file.h - a collection's texts to a file of vectors, in parts, so that a run that was
 * killed goes on where it was.
 *
 * While it runs, finished parts are OUTPUT.parts/part-00000.h5, ... beside OUTPUT.parts/plan.json,
 * which says what they are parts of (model, contract, texts, shard, threads, quantisation): parts
 * of another plan are thrown away. At the end they become OUTPUT and the folder goes. One process
 * at a time works in it.
 */
#pragma once

#include "eval/encode.h"

typedef struct csp_encode_file_options {
    const char *input;  /* file or BEIR folder (see csp_texts_open), read twice           */
    const char *output; /* .h5 or .jsonl                                                  */
    csp_side side;
    const char *separator; /* between title and text                                         */
    const char *meta; /* text of a JSON object that is not empty, stored with the vectors and, in a
                         shard, beside which rows it has (eval/merge.h); also identifies the plan */
    int64_t vocab;
    csp_quant quant;       /* as the encoder has it                                        */
    int64_t shard, shards; /* this process encodes rows total·shard/shards .. of the input   */
    bool strict;
} csp_encode_file_options;

/* What was done. */
typedef struct csp_encode_file_report {
    int64_t rows;               /* of the output                               */
    int64_t reused;             /* of these, found in parts of an earlier run  */
    int64_t empty;              /* rows without any term                       */
    csp_quant_counts quantised; /* of quantisation, all rows              */
    double mean_terms;
    double seconds; /* of encoding, not of reuse                   */
    int64_t token_rows;
} csp_encode_file_report;

/*
 * Errors: those of csp_texts_open, csp_encoder_add, csp_vectors_create; CSP_ERR_IO, also where
 *         another process works on the same output; CSP_ERR_CONFIG for standard input, which
 *         cannot be read twice.
 */
CSP_CHECKED csp_status csp_encode_file(csp_encoder *encoder, const csp_encode_file_options *options,
                                       csp_encode_file_report *report);

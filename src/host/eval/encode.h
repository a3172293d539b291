/*
 * encode.h - texts to sparse vectors under the model's contract: one encoder for the program's
 * encode and search and for the evaluations during training.
 */
#pragma once

#include "core/quantize.h"
#include "data/text_encoder.h"
#include "io/vectors.h"
#include "model/transformer.h"

typedef struct csp_encoder csp_encoder;

typedef struct csp_encoder_options {
    int64_t max_rows; /* token rows computed at once; 0 = 4,096                        */
    int64_t top_k;    /* strongest terms kept; 0 = all, -1 = as the contract says      */
    bool strict;      /* empty and over-long texts are errors                          */
    csp_quant quant;  /* none: weights; round or ceil with their scale: their impacts  */
} csp_encoder_options;

/*
 * Gets one row of the result, in the order of the texts; quantised, weights are whole numbers.
 * Pointers are valid during the call. A failure stops the encoding and is passed on.
 */
typedef csp_status (*csp_encoded_row)(void *context, const char *id, int64_t nnz,
                                      const int32_t *term, const float *weight);

/*
 * be, model, contract and tokenizer must outlive the encoder.
 *
 * Errors: CSP_ERR_MEMORY, CSP_ERR_CONFIG (see csp_text_encoder_create).
 */
CSP_CHECKED csp_status csp_encoder_create(csp_backend *be, const csp_model *model,
                                          const csp_contract *contract,
                                          const csp_tokenizer *tokenizer,
                                          const csp_encoder_options *options, csp_encoder **out);
void csp_encoder_destroy(csp_encoder *e);

/*
 * Device memory that an encoder of weights takes; max_rows as in the options. Needs a table only.
 *
 *   longest   in   rows of the longest text
 *   top_k     in   the larger cut of the two sides, 0: none
 */
CSP_CHECKED csp_status csp_encoder_bytes(const csp_params *params, int64_t max_rows,
                                         int64_t longest, int64_t top_k, size_t *out);

/* Where rows go from now on; texts that wait for another target must have been flushed. */
void csp_encoder_target(csp_encoder *e, csp_side side, csp_encoded_row emit, void *context);

/*
 * Adds a text. Rows come out when enough texts wait behind them, the rest at csp_encoder_flush;
 * once anything has failed, only csp_encoder_destroy remains.
 *
 * Errors: CSP_ERR_DATA (invalid UTF-8; where strict, an empty or over-long text), CSP_ERR_MEMORY,
 *         CSP_ERR_NUMERIC (hidden states or a weight not finite: names the text), and those of
 *         emit.
 */
CSP_CHECKED csp_status csp_encoder_add(csp_encoder *e, const char *id, const char *text,
                                       int64_t bytes);
CSP_CHECKED csp_status csp_encoder_flush(csp_encoder *e);

/* Texts seen, empty, cut. */
const csp_text_counts *csp_encoder_counts(const csp_encoder *e, csp_side side);

/* What quantisation made of the weights of all rows that came out. */
const csp_quant_counts *csp_encoder_quant_counts(const csp_encoder *e);

/* Token rows computed so far. */
int64_t csp_encoder_rows(const csp_encoder *e);

/* What decides the last bits of weights beside the model: the same of both, the same bits. */
void csp_encoder_bits(const csp_encoder *e, int *threads, int64_t *max_rows);

/* Rows collected in memory: pass csp_vectors_build_row as emit and the build as context. */
typedef struct csp_vectors_build {
    csp_vectors v; /* meta stays NULL */
    int64_t row_room;
    int64_t entry_room;
} csp_vectors_build;
CSP_CHECKED csp_status csp_vectors_build_row(void *context, const char *id, int64_t nnz,
                                             const int32_t *term, const float *weight);
void csp_vectors_build_clear(csp_vectors_build *build);

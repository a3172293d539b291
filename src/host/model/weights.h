/*
 * weights.h - values of parameters: from files, from random numbers, to files.
 *
 * Source: names as transformers and PEFT write them; initial values as those two draw them
 * (normal(0, initializer_range), norms 1, biases 0; A uniform in +-1/sqrt(I), B 0).
 */
#pragma once

#include "comm/comm.h"
#include "io/digest.h"
#include "io/safetensors.h"
#include "model/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * machine, in what follows: the ranks for which its rank 0 reads the files, which all call this
 * (model/shared_values.h); NULL: this process reads for itself.
 */

/*
 * Whether the head of the model in dir is tied: config says so and its files do not hold an
 * lm_head.weight that differs from the embedding. Where they do, the files win (as transformers 5
 * decides), config->tied is set to false and a warning is logged.
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT, CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_weights_settle_tie(const char *dir, csp_comm *machine,
                                              csp_model_config *config);

/*
 * Reads every row that is not an adapter from DIR/model.safetensors or its shards; F32, F16 and
 * BF16 become what params store. The values must be finite.
 *
 *   digest   in,out   not NULL: names and values are added in table order, as f32 before they are
 *                     rounded, so that it does not depend on the storage
 *
 * Errors: CSP_ERR_IO; CSP_ERR_FORMAT naming the tensors that are missing, unexpected, or of a wrong
 *         shape or dtype, before any value is written; CSP_ERR_NUMERIC (NaN or infinity) naming the
 * tensor.
 */
CSP_CHECKED csp_status csp_weights_load(csp_backend *be, csp_params *params, const char *dir,
                                        csp_comm *machine, csp_digest *digest);

/* Random values for every row that is not an adapter. */
CSP_CHECKED csp_status csp_weights_init(csp_backend *be, csp_params *params, uint64_t seed);

/* Random A and zero B for every adapter. */
CSP_CHECKED csp_status csp_weights_init_lora(csp_backend *be, csp_params *params, uint64_t seed);

/* Reads the adapters from DIR/adapter_model.safetensors. Errors as csp_weights_load. */
CSP_CHECKED csp_status csp_weights_load_lora(csp_backend *be, csp_params *params, const char *dir,
                                             csp_comm *machine);

/* Adds s B A to each adapted matrix, and gives the adapter new random values (B = 0). */
CSP_CHECKED csp_status csp_weights_merge_lora(csp_backend *be, csp_params *params, uint64_t seed);

/* A row's value on the host, with its adapter added where merge is set. values: its elements. */
CSP_CHECKED csp_status csp_weights_download(csp_backend *be, const csp_params *params,
                                            const csp_param *row, bool merge, float *values);

typedef struct csp_weights_write_options {
    csp_dtype dtype;     /* CSP_F32, CSP_BF16 or CSP_F16 in the file    */
    bool merge;          /* adapters are added to their matrices        */
    int64_t shard_bytes; /* 0 = one file                                */
} csp_weights_write_options;

/*
 * Writes the rows that are not adapters to DIR/model.safetensors, or shards and their index.
 * Errors: CSP_ERR_IO, CSP_ERR_MEMORY; CSP_ERR_NUMERIC naming the tensor with a value that dtype
 * cannot hold.
 */
CSP_CHECKED csp_status csp_weights_write(csp_backend *be, const csp_params *params, const char *dir,
                                         const csp_weights_write_options *options);

/*
 * Writes DIR/adapter_model.safetensors and DIR/adapter_config.json.
 *
 *   base   in   base_model_name_or_path: a hub name or a relative path
 */
CSP_CHECKED csp_status csp_weights_write_lora(csp_backend *be, const csp_params *params,
                                              const char *dir, const char *base);

#ifdef __cplusplus
}
#endif

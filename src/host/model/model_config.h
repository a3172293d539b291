/*
 * model_config.h - the architecture of a model, as config.json of its Hugging Face folder says it.
 *
 * Both spellings of rotary settings are read (rope_parameters of transformers 5, rope_theta and
 * rope_scaling of transformers 4) and both are written, because each reader silently ignores the
 * other. What the network here cannot do is refused by the name of its key, never ignored.
 */
#pragma once

#include "core/status.h"
#include "ops/rope.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Never renumber: checkpoints store the name, fixtures the number. */
typedef enum csp_family {
    CSP_FAMILY_LLAMA = 0,
    CSP_FAMILY_MISTRAL = 1,
    CSP_FAMILY_QWEN2 = 2,
    CSP_FAMILY_QWEN3 = 3,
    CSP_FAMILY_COUNT
} csp_family;

enum { CSP_MAX_EOS = 8 };

typedef struct csp_model_config {
    csp_family family; /* model_type                                                       */
    int64_t D;         /* hidden_size                                                      */
    int64_t F;         /* intermediate_size                                                */
    int64_t L;         /* num_hidden_layers                                                */
    int64_t H;         /* num_attention_heads                                              */
    int64_t G;         /* num_key_value_heads                                              */
    int64_t E;         /* head_dim, even                                                   */
    int64_t V;         /* vocab_size                                                       */
    double rms_eps;    /* rms_norm_eps                                                     */
    csp_rope rope;
    int64_t max_position;     /* max_position_embeddings                                          */
    int64_t sliding_window;   /* 0 = none; texts longer than it are refused (csp_model_create)    */
    double initializer_range; /* standard deviation of random weights                             */
    bool tied;                /* the vocabulary matrix of the head is the embedding               */
    bool qkv_bias;            /* q, k, v projections have biases                                  */
    bool o_bias;              /* so has the output projection                                     */
    bool qk_norm;             /* RMSNorm over head_dim on q and k, before the rotation            */
    bool causal;              /* is_causal; false: a model that was trained as variant bi         */
    int64_t bos_id;           /* -1 = none                                                        */
    int64_t pad_id;           /* -1 = none                                                        */
    int64_t eos_id[CSP_MAX_EOS];
    int64_t eos_count;
} csp_model_config;

/* "llama" for CSP_FAMILY_LLAMA. Never NULL. */
const char *csp_family_name(csp_family family);

/* Errors: CSP_ERR_ARGUMENT listing the known names. */
CSP_CHECKED csp_status csp_family_from_name(const char *name, csp_family *out);

/* What transformers assumes for a family where config.json is silent; sizes are 0. */
csp_model_config csp_model_config_standard(csp_family family);

/*
 * Checks every range and relation (H a multiple of G, E even, ids below V, ...).
 *
 *   where   in   what the message begins with: a path, "init"
 *
 * Errors: CSP_ERR_FORMAT naming where, the key as config.json spells it, the value and the limit.
 */
CSP_CHECKED csp_status csp_model_config_check(const csp_model_config *config, const char *where);

/*
 * Reads a config.json.
 *
 * Errors: CSP_ERR_IO; CSP_ERR_FORMAT (not JSON, a key of the wrong type or out of range);
 *         CSP_ERR_UNSUPPORTED (model_type, hidden_act, mlp_bias, rope_type, quantization_config,
 *         ... that this program cannot run). Each names the file and the key.
 */
CSP_CHECKED csp_status csp_model_config_read(const char *path, csp_model_config *out);

/* The same from text in memory (a checkpoint's attribute); where begins messages. */
CSP_CHECKED csp_status csp_model_config_parse(const char *text, int64_t bytes, const char *where,
                                              csp_model_config *out);

/*
 * config.json of a model, both spellings, keys in a fixed order, "\n" at the end.
 *
 *   dtype   in   of the weights beside it: CSP_F32, CSP_BF16 or CSP_F16
 *
 * Owner:  the caller frees *out.
 */
CSP_CHECKED csp_status csp_model_config_text(const csp_model_config *config, csp_dtype dtype,
                                             char **out);

#ifdef __cplusplus
}
#endif

/*
 * lora.h - low-rank adapters: which matrices get one, PEFT's two files, merging.
 *
 *     W' = W + s B A,   s = alpha/R, or alpha/sqrt(R) with rslora
 *
 * Source: LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732); file names and keys as PEFT 0.21 has
 * them: adapter_config.json and adapter_model.safetensors with
 *     base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight   (R,I)
 *     base_model.model.model.layers.N.self_attn.q_proj.lora_B.weight   (O,R)
 */
#pragma once

#include "config/settings.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The linear maps of a block. Never renumber: dropout masks are keyed by layer * 8 + matrix. */
typedef enum csp_matrix {
    CSP_MATRIX_Q = 0,
    CSP_MATRIX_K = 1,
    CSP_MATRIX_V = 2,
    CSP_MATRIX_O = 3,
    CSP_MATRIX_GATE = 4,
    CSP_MATRIX_UP = 5,
    CSP_MATRIX_DOWN = 6,
    CSP_MATRIX_COUNT = 7
} csp_matrix;

typedef struct csp_lora {
    int64_t R; /* rank; 0 = no adapter, the rest is not read          */
    double alpha;
    double dropout; /* of the adapter's input, 0 <= p < 1                  */
    bool rslora;
    uint32_t targets; /* bit 1 << csp_matrix for each matrix with an adapter */
} csp_lora;

/* "q_proj" for CSP_MATRIX_Q. */
const char *csp_matrix_name(csp_matrix matrix);

/* s of the equation above. */
float csp_lora_scale(const csp_lora *lora);

/*
 * Adds the matrix called name ("q_proj" or "q"; "all-linear" = every one) to targets.
 * Errors: CSP_ERR_CONFIG listing the known names.
 */
CSP_CHECKED csp_status csp_lora_target(csp_lora *lora, const char *name);

/* Ranges. where begins the message. Errors: CSP_ERR_CONFIG. */
CSP_CHECKED csp_status csp_lora_check(const csp_lora *lora, const char *where);

/*
 * The adapters that a config asks for; R = 0 where its lora section is not enabled.
 * Errors: CSP_ERR_CONFIG.
 */
CSP_CHECKED csp_status csp_lora_from_settings(const csp_lora_settings *settings, csp_lora *out);

/*
 * Reads DIR/adapter_config.json.
 *
 *   base   out   base_model_name_or_path, "" if the file has none; NULL: not wanted
 *
 * Owner:  the caller frees *base.
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT, CSP_ERR_UNSUPPORTED (DoRA, biases, modules_to_save, patterns
 *         of ranks, selected layers, ...) naming the key.
 */
CSP_CHECKED csp_status csp_lora_config_read(const char *dir, csp_lora *lora, char **base);

/* Text of an adapter_config.json. Owner: the caller frees *out. */
CSP_CHECKED csp_status csp_lora_config_text(const csp_lora *lora, const char *base, char **out);

#ifdef __cplusplus
}
#endif
